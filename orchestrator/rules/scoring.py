"""Rules about the reward: its components, their combination and constraints; see orchestrator.rules.every."""

from collections.abc import Callable, Iterator

from gen_cluster.config import GenerationConfig
from orchestrator.ray_config import RayConfig
from score_cluster.config import ScoringConfig
from score_cluster.http_address import shown, url_problem
from score_cluster.reward_config import (
    HttpRewardConfig,
    LexicographicConfig,
    ModelRewardConfig,
    OverlongRewardConfig,
    SumConfig,
)


def _names_differ(scoring: ScoringConfig) -> Iterator[str]:
    names = [reward.name for reward in scoring.rewards]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield (
            f"scoring.rewards = {names}: {name!r} stands there more than once, and components are kept by name; "
            "give each reward a name of its own"
        )


def _names_make_measures(scoring: ScoringConfig) -> Iterator[str]:
    for index, reward in enumerate(scoring.rewards):
        if not reward.name or "." in reward.name:
            yield (
                f"scoring.rewards.{index}.name = {reward.name}: a name is not empty and has no dot, which sets off what a "
                f"component measures (name.disagreement); set scoring.rewards.{index}.name to another"
            )


def _named_components_exist(scoring: ScoringConfig) -> Iterator[str]:
    names = [reward.name for reward in scoring.rewards]
    asked = {f"scoring.constraints.{i}.component": one.component for i, one in enumerate(scoring.constraints)}
    if isinstance(scoring.combine, LexicographicConfig):
        asked |= {f"scoring.combine.order.{i}": name for i, name in enumerate(scoring.combine.order)}
        asked |= {f"scoring.combine.tolerance.{name}": name for name in scoring.combine.tolerance}
    for key, name in asked.items():
        if name not in names:
            yield f"{key} = {name}: no component has this name; name one of {', '.join(names)}"
    if isinstance(scoring.combine, LexicographicConfig):
        for name, value in scoring.combine.tolerance.items():
            if value < 0:
                yield f"scoring.combine.tolerance.{name} = {value:g}: out of range; set it to at least 0"


def _groups_can_be_compared(scoring: ScoringConfig, generation: GenerationConfig) -> Iterator[str]:
    if not isinstance(scoring.combine, SumConfig) and generation.group_size < 2:
        yield (
            f"generation.group_size = {generation.group_size}: scoring.combine.kind={scoring.combine.kind} compares the "
            "completions of a prompt, and every total would be 0; set generation.group_size=2 or more, or "
            "scoring.combine.kind=sum"
        )


def _reward_models_are_named(scoring: ScoringConfig) -> Iterator[str]:
    for index, reward in enumerate(scoring.rewards):
        if not isinstance(reward, ModelRewardConfig):
            continue
        where = f"scoring.rewards.{index}"
        if reward.path is not None and reward.paths:
            yield f"{where}.paths = {list(reward.paths)}: {where}.path is given as well; leave out one of them"
        elif reward.path is None and len(reward.paths) < 2:
            yield (
                f"{where}.path = null: no reward model is named; set {where}.path to a folder, or {where}.paths to two or more"
            )
        for path in sorted({path for path in reward.paths if reward.paths.count(path) > 1}):
            yield (
                f"{where}.paths = {list(reward.paths)}: {path} stands there more than once, and a member that agrees with "
                "itself makes the ensemble look surer than it is; name each member once"
            )
        if reward.engine == "vllm" and reward.precision in ("int8", "int8_weights"):
            yield (
                f"{where}.precision = {reward.precision}: vLLM's pooling engine has no INT8 form here; "
                f"set {where}.precision=bfloat16, or {where}.engine=hf"
            )
        if reward.engine == "vllm" and len(reward.folders) > 1:
            yield (
                f"{where}.engine = vllm: a process holds one engine, and an ensemble needs {len(reward.folders)}; "
                f"set {where}.engine=hf, or name one model in {where}.path"
            )
        if reward.engine == "hf" and reward.tensor_parallel > 1:
            yield (
                f"{where}.tensor_parallel = {reward.tensor_parallel}: only vLLM shares a model between GPUs; "
                f"set {where}.engine=vllm, or {where}.tensor_parallel=1"
            )


def _a_scorer_holds_one_engine(scoring: ScoringConfig) -> Iterator[str]:
    engines = [
        i for i, one in enumerate(scoring.rewards) if isinstance(one, ModelRewardConfig) and one.engine == "vllm"
    ]
    for index in engines[1:]:
        yield (
            f"scoring.rewards.{index}.engine = vllm: scoring.rewards.{engines[0]} has one already, and a process holds one; "
            f"set scoring.rewards.{index}.engine=hf"
        )


def _scorers_have_the_gpus(scoring: ScoringConfig, ray: RayConfig) -> Iterator[str]:
    gpus = ray.resources.scoring.gpus
    for index, reward in enumerate(scoring.rewards):
        if isinstance(reward, ModelRewardConfig) and gpus and reward.tensor_parallel > max(gpus, 1):
            yield (
                f"scoring.rewards.{index}.tensor_parallel = {reward.tensor_parallel}: a scorer has "
                f"ray.resources.scoring.gpus = {gpus:g}; set ray.resources.scoring.gpus={reward.tensor_parallel}"
            )
    spread = scoring.reference.gpus if scoring.reference else 1
    held = 1.0 if gpus is None else gpus
    if spread > 1 and spread > held:
        yield (
            f"scoring.reference.gpus = {spread}: a scorer has ray.resources.scoring.gpus = {held:g}; "
            f"set ray.resources.scoring.gpus={spread}"
        )


def _penalty_begins_below_its_end(scoring: ScoringConfig, generation: GenerationConfig) -> Iterator[str]:
    for index, reward in enumerate(scoring.rewards):
        if isinstance(reward, OverlongRewardConfig) and reward.buffer_tokens is not None:
            maximum = reward.max_tokens or generation.max_tokens
            if reward.buffer_tokens > maximum:
                yield (
                    f"scoring.rewards.{index}.buffer_tokens = {reward.buffer_tokens}: longer than the {maximum} tokens that the "
                    f"penalty ends at; set scoring.rewards.{index}.buffer_tokens={max(1, maximum // 5)}"
                )


def _urls_are_addresses(scoring: ScoringConfig) -> Iterator[str]:
    for index, reward in enumerate(scoring.rewards):
        if not isinstance(reward, HttpRewardConfig):
            continue
        where = f"scoring.rewards.{index}"
        if problem := url_problem(reward.url):
            yield f"{where}.url = {shown(reward.url)}: {problem}"
        if reward.token_variable is not None and reward.token_file is not None:
            yield f"{where}.token_file = {reward.token_file}: {where}.token_variable is given as well; leave out one of them"
        if reward.ca_file is not None and not reward.url.startswith("https://"):
            yield f"{where}.ca_file = {reward.ca_file}: {shown(reward.url)} is not encrypted; write https://, or leave it out"
        if reward.timeout_s > reward.budget_s:
            yield (
                f"{where}.timeout_s = {reward.timeout_s:g}: a group has {where}.budget_s = {reward.budget_s:g} s in all; "
                f"set {where}.budget_s={2 * reward.timeout_s:g}"
            )


SCORING_RULES: tuple[Callable[..., Iterator[str]], ...] = (
    _names_differ,
    _names_make_measures,
    _named_components_exist,
    _groups_can_be_compared,
    _reward_models_are_named,
    _a_scorer_holds_one_engine,
    _scorers_have_the_gpus,
    _penalty_begins_below_its_end,
    _urls_are_addresses,
)
