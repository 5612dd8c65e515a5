"""An evaluation with nothing left open: prompts read, every setting resolved; what the evaluator and samplers work from."""

from dataclasses import dataclass
from typing import Any

from experience.schema import Int32Array
from gen_cluster.config import EngineConfig, GenerationConfig
from orchestrator.config import Recipe
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.evaluation.questions import read_questions
from orchestrator.evaluation.records import Question
from orchestrator.evaluation.sampling import Drawing, engine_config
from orchestrator.modelfolder import ModelFolder, read_model, stop_tokens
from orchestrator.recipe import RecipeError
from score_cluster.config import ScoringConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    config: EvaluationConfig
    questions: tuple[Question, ...]
    drawing: Drawing
    engine: EngineConfig
    """With a context that fits the prompts."""
    model_path: str
    """Folder with the architecture and the tokenizer of the policies."""
    tokenizer: Any
    scoring: ScoringConfig | None
    """Of the recipe; None: answers have no reward, and only the judge's score."""
    reference: str | None
    """Model folder that the KL is measured against; None: it cannot be."""
    threads: int
    """Of the reference and of reward models."""

    def text(self, tokens: Int32Array) -> str:
        """Of a response, special tokens left out."""
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True))


def plan_of(recipe: Recipe, *, config: EvaluationConfig | None = None, model_path: str | None = None) -> Plan:
    """By a recipe and its evaluation section, or `config` in its place. RecipeError: all that is wrong, a line each."""
    settings = config or recipe.evaluation
    if settings is None:
        raise RecipeError(
            [
                "evaluation = null: the recipe names no held-out prompts; add an evaluation section with path, or name them with --prompts"
            ]
        )
    reference = settings.reference
    if reference is None and recipe.scoring.reference is not None:
        reference = recipe.scoring.reference.path
    if reference is None and not recipe.model.random_init:
        reference = recipe.model.path
    data = recipe.data
    return make_plan(
        settings,
        model=read_model(model_path or recipe.model.path, field="model.path", random_init=True),
        generation=recipe.generation,
        chat_template=data.chat_template if settings.chat_template is None else settings.chat_template,
        system_prompt=data.system_prompt if settings.system_prompt is None else settings.system_prompt,
        scoring=recipe.scoring,
        reference=reference,
    )


def make_plan(
    config: EvaluationConfig,
    *,
    model: ModelFolder,
    generation: GenerationConfig,
    chat_template: bool,
    system_prompt: str | None,
    scoring: ScoringConfig | None,
    reference: str | None,
) -> Plan:
    """RecipeError: all that is wrong with the prompts, or with what stops a response."""
    drawing = Drawing(
        samples=config.samples,
        temperature=config.temperature or generation.temperature,
        max_tokens=config.max_tokens or generation.max_tokens,
        stop_token_ids=stop_tokens(model, generation.stop_tokens, field="generation.stop_tokens"),
        seed=config.seed,
    )
    room = (generation.engine.max_model_tokens or model.context_tokens) - drawing.max_tokens
    if room < 1:
        raise RecipeError(
            [
                f"evaluation.max_tokens = {drawing.max_tokens}: leaves no room for a prompt in a context of "
                f"{room + drawing.max_tokens} tokens; set it, or generation.max_tokens, below that"
            ]
        )
    questions = read_questions(
        config,
        tokenizer=model.tokenizer,
        chat_template=chat_template,
        system_prompt=system_prompt,
        limit_tokens=room,
    )
    return Plan(
        config=config,
        questions=questions,
        drawing=drawing,
        engine=engine_config(generation.engine, questions, drawing),
        model_path=str(model.path),
        tokenizer=model.tokenizer,
        scoring=scoring,
        reference=reference,
        threads=scoring.threads if scoring is not None else generation.engine.threads,
    )
