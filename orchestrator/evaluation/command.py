"""`headrace eval`, from the words of the command line to the report and the exit code."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator import recipe as recipes
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.evaluation import report
from orchestrator.evaluation.check import refuse
from orchestrator.evaluation.config import EvaluationConfig, gate_problem
from orchestrator.evaluation.evaluator import Comparison, Evaluator
from orchestrator.evaluation.outcome import Outcome, conclude
from orchestrator.evaluation.page import render
from orchestrator.evaluation.plan import Plan, make_plan, plan_of
from orchestrator.evaluation.policies import Policy, by_architecture, find_policies, read_models
from orchestrator.evaluation.sampling import BASELINE, CHALLENGER

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+=")
"""What tells a setting from a policy."""


def run(
    arguments: Sequence[str],
    *,
    recipe_path: Path | None,
    settings: Mapping[str, Any],
    gates: Sequence[str],
    out: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """`settings`: of the section evaluation, by key. SystemExit(1): a gate fails."""
    overrides = [text for text in arguments if _OVERRIDE.match(text)]
    policies = find_policies([text for text in arguments if text not in overrides])
    overrides += [f"evaluation.{key}={json.dumps(value)}" for key, value in settings.items()]
    _check_gates(gates)
    _check_writable({"--out": out, "--html": page})
    recipe = _recipe(policies, recipe_path, overrides)
    plan = plan_for(policies, recipe, overrides)
    with Console(quiet=as_json) as console:
        comparison = evaluate(plan, policies, console=console)
    outcome = conclude(comparison, plan, recipe=recipe, gates=gates)
    if out is not None:
        write_json(outcome, out)
    if page is not None:
        page.write_text(render(outcome), encoding="utf-8")
    if as_json:
        print(json.dumps(report.content(outcome, answers=False), indent=1))
    else:
        print("\n".join(report.lines(outcome)))
    if not outcome.passed:
        raise SystemExit(1)


def write_json(outcome: Outcome, path: Path) -> None:
    """All figures, and all answers side by side."""
    path.write_text(json.dumps(report.content(outcome, answers=True), indent=1, ensure_ascii=False), encoding="utf-8")


def plan_for(policies: Sequence[Policy], recipe: Recipe | None, overrides: Sequence[str] = ()) -> Plan:
    """What is to be done with these policies. ValueError: what is wrong with them, or with the prompts."""
    if not policies:
        raise ValueError("POLICY = (missing): nothing to evaluate; name model folders or runs, the baseline first")
    logs.hush_libraries()
    model = read_models(policies)
    if recipe is not None:
        return plan_of(recipe, model_path=policies[0].model_path)
    sections = recipes.load_sections(overrides, names=("evaluation", "generation"))
    config: EvaluationConfig | None = sections["evaluation"]
    assert config is not None
    generation = sections["generation"]
    if not any(text.startswith("generation.engine.dtype=") for text in overrides):
        generation = generation.model_copy(
            update={"engine": generation.engine.model_copy(update={"dtype": _dtype(policies[0])})}
        )
    return make_plan(
        config,
        model=model,
        generation=generation,
        chat_template=bool(config.chat_template),
        system_prompt=config.system_prompt,
        scoring=None,
        reference=config.reference or policies[0].model_path,
    )


def evaluate(plan: Plan, policies: Sequence[Policy], *, console: Console) -> Comparison:
    """Sample every policy and compare the others with the first; an engine for each architecture, one after another.

    ValueError: what a user named does not fit. EvaluationFailed: an engine, a judge or a reward failed.
    """
    from orchestrator.evaluation.engine_process import EngineProcess

    refuse(plan, policies=len(policies))
    streams = {one: BASELINE if one is policies[0] else CHALLENGER for one in policies}

    def drawn(name: str, done: int, total: int) -> None:
        console.progress(f"answers of {name}", completed=done, total=total, note="", unit="answer")

    found: dict[str, Any] = {}
    evaluator: Evaluator | None = None
    for group in by_architecture(policies):
        console.say(f"starting an engine for {', '.join(one.name for one in group)}")
        with EngineProcess(plan, {one: streams[one] for one in group}) as engine:
            if evaluator is None:
                evaluator = Evaluator(plan)  # while the engine loads
            found |= engine.answers(drawn)
    assert evaluator is not None

    def judged(done: int, total: int) -> None:
        console.progress("judging", completed=done, total=total, note="", unit="prompt")

    baseline, *others = [evaluator.score(one.name, found[one.name], progress=judged) for one in policies]
    return evaluator.compare(baseline, others, progress=judged)


def judge_of(text: str) -> dict[str, Any]:
    """evaluation.judge by what --judge says: a URL, module:function, or a folder."""
    if text.startswith(("http://", "https://")):
        return {"url": text}
    if os.path.isdir(text) or ":" not in text:
        return {"model": text}
    return {"function": text}


def _recipe(policies: Sequence[Policy], path: Path | None, overrides: Sequence[str]) -> Recipe | None:
    if path is not None:
        return recipes.load(path, overrides)
    run = next((policy.run for policy in policies if policy.run is not None), None)
    return None if run is None else recipes.load_dumped(run.recipe, overrides)


def _dtype(policy: Policy) -> str:
    """The engine's, where nobody says: that of the folder, of the two that there are."""
    config = json.loads((Path(policy.model_path) / "config.json").read_text())
    return "bfloat16" if config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16") else "float32"


def _check_gates(gates: Sequence[str]) -> None:
    for gate in gates:
        if problem := gate_problem(gate):
            raise ValueError(f"--gate: {problem}")


def _check_writable(paths: Mapping[str, Path | None]) -> None:
    """{option: file}, before minutes of sampling."""
    for option, path in paths.items():
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK) and not path.is_dir()):
            raise ValueError(f"{option} {path}: cannot be written; name a file in a folder that is there")
