"""What can be said of an evaluation before an engine starts: its judge, rewards and reference, without loading a weight."""

import os
from collections.abc import Iterator

from orchestrator.evaluation.judges import PairJudge, open_judge
from orchestrator.evaluation.plan import Plan
from orchestrator.recipe import RecipeError
from orchestrator.reward_checks import function_problems, reward_models
from score_cluster.frozen import load_tokenizer, tokenizer_difference
from score_cluster.reward_model import check_reward_folder


def refuse(plan: Plan, *, policies: int) -> None:
    """RecipeError with all problems, a line each."""
    lines = [*judge_problems(plan, policies=policies), *_reward_problems(plan)]
    if plan.reference is not None and not os.path.isdir(plan.reference):
        lines.append(f"evaluation.reference = {plan.reference}: there is no such folder; name a model's folder")
    if lines:
        raise RecipeError(lines)


def judge_problems(plan: Plan, *, policies: int) -> Iterator[str]:
    """policies: how many are judged; a judge of pairs has nothing to say of one."""
    config = plan.config.judge
    if config is None:
        if plan.scoring is None:
            yield "evaluation.judge = null: without a recipe there is no reward to judge by; name a judge with --judge"
        elif plan.scoring.combine.kind != "sum":
            yield (
                f"evaluation.judge = null: totals of scoring.combine = {plan.scoring.combine.kind} compare the samples of one "
                "policy only; name a judge"
            )
        return
    try:
        if config.model is not None:
            _check_model(config.model, plan)
            return
        judge = open_judge(config, model_path=plan.model_path, threads=1, max_tokens=1)
    except ValueError as error:
        problem = " ".join(str(error).split())
        yield problem if problem.startswith("evaluation.judge") else f"evaluation.judge.function: {problem}"
        return
    if policies < 2 and isinstance(judge, PairJudge):
        yield (
            f"POLICY = (one only): judge {judge.name} compares two answers; name a second policy, or a judge that scores "
            "answers (a reward model or a reward function): of one policy it gives score, reward, KL, length, diversity and "
            "pass@k"
        )


def _check_model(path: str, plan: Plan) -> None:
    """ValueError: it is no reward model, or reads other tokens than the policies write."""
    field = "evaluation.judge.model"
    if not os.path.isdir(path):
        raise ValueError(f"{field} = {path}: there is no such folder; name a reward model's, module:function, or a URL")
    check_reward_folder(path, field=field)
    if difference := tokenizer_difference(load_tokenizer(path, field=field), plan.tokenizer):
        raise ValueError(
            f"{field} = {path}: its tokenizer is not that of the policies ({difference}); name one of their family"
        )


def _reward_problems(plan: Plan) -> Iterator[str]:
    if plan.scoring is None:
        return
    yield from function_problems(plan.scoring)
    for key, path in reward_models(plan.scoring).items():
        if not os.path.isdir(path):
            yield f"{key} = {path}: there is no such folder; make it with `headrace reward train`, or name another"
