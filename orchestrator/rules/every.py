"""Rules that no section of a recipe can check by itself; each gives lines `field = value: reason; remedy`.

A rule names the sections it reads as its parameters, so that it can run as soon as these are valid, whatever is wrong
elsewhere: a user sees all problems of a recipe at once.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experience.config import ExperienceConfig, PacingConfig
from gen_cluster.config import GenerationConfig
from orchestrator.data.config import DataConfig, OneSource
from orchestrator.data.order import LONGEST_BLOCK, whole_weights
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.metrics_config import MetricsConfig
from orchestrator.ray_config import RayConfig
from orchestrator.rules import sft
from orchestrator.rules.reward import REWARD_RULES
from orchestrator.rules.scoring import SCORING_RULES
from orchestrator.rules.training import TRAINING_RULES
from orchestrator.sections import ModelConfig, SuperviseConfig
from train_cluster.supervised.sft_config import SftConfig
from weightstore.config import StoreConfig


def violations(sections: Mapping[str, Any]) -> list[str]:
    """The lines of all rules whose sections are there."""
    lines: list[str] = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if all(name in sections for name in names):
            lines += rule(**{name: sections[name] for name in names})
    return lines


def _publishing_keeps_up(pacing: PacingConfig) -> Iterator[str]:
    limit = pacing.max_staleness + 1
    if pacing.publish_interval_batches > limit:
        yield (
            f"pacing.publish_interval_batches = {pacing.publish_interval_batches}: admission would wait for a version "
            f"that is never published, since at most max_staleness + 1 = {limit} batches may follow one; "
            f"set pacing.publish_interval_batches={limit} or less, or raise pacing.max_staleness"
        )


def _capacity_holds_the_window(pacing: PacingConfig, experience: ExperienceConfig) -> Iterator[str]:
    window = (pacing.max_staleness + 1) * pacing.batch_groups
    if experience.capacity_groups is not None and experience.capacity_groups < window:
        yield (
            f"experience.capacity_groups = {experience.capacity_groups}: the loop keeps (max_staleness + 1) * batch_groups "
            f"= {window} groups in flight and would starve; set experience.capacity_groups={window} or more, or null"
        )


def _connection_fits_the_server(experience: ExperienceConfig) -> Iterator[str]:
    """Settings that the kind of server would pass over in silence."""
    url = experience.url
    of_its_own = {name: getattr(experience, name) for name in ("username", "password_file")}
    of_tls = {name: getattr(experience, name) for name in ("ca_file", "certificate_file", "key_file")}
    if not experience.external:
        for name, value in (of_its_own | of_tls).items():
            if value is not None:
                yield f"experience.{name} = {value}: a server of the run's own ({url}) has none; set experience.{name}=null"
        return
    if not url.startswith("rediss://"):
        for name, value in of_tls.items():
            if value is not None:
                yield f"experience.{name} = {value}: {url} is not encrypted; write rediss:// or set experience.{name}=null"
    for one, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if of_tls[one] is not None and of_tls[other] is None:
            yield f"experience.{one} = {of_tls[one]}: of no use without its counterpart; set experience.{other} as well"
    if experience.memory_mib is not None:
        yield (
            f"experience.memory_mib = {experience.memory_mib}: limits the embedded server alone; "
            "set experience.memory_mib=null, and maxmemory on the server"
        )
    if experience.fsync != "always":
        yield (
            f"experience.fsync = {experience.fsync}: is a setting of the embedded server; "
            "set experience.fsync=always, and appendfsync on the server"
        )


def _fine_tuned_weights_are_used(model: "ModelConfig", sft: SftConfig | None) -> Iterator[str]:
    if model.random_init and sft is not None:
        yield (
            "model.random_init = True: fine-tuning leaves its weights in model.path, and fresh ones would replace them; "
            "set model.random_init=false (sft.random_init is the one for the base)"
        )


def _the_best_can_be_told(model: "ModelConfig", evaluation: EvaluationConfig | None) -> Iterator[str]:
    during = evaluation is not None and evaluation.interval_steps is not None
    if evaluation is not None and during and evaluation.metric == "win_rate" and model.random_init:
        yield (
            "evaluation.metric = win_rate: model.random_init is true, so that model.path has no weights to win against; "
            "set evaluation.metric=reward, or evaluation.interval_steps=null"
        )


def _response_fits(data: DataConfig, generation: GenerationConfig) -> Iterator[str]:
    context, longest = generation.engine.max_model_tokens, data.max_prompt_tokens or 1
    if context is not None and generation.max_tokens + longest > context:
        yield (
            f"generation.max_tokens = {generation.max_tokens}: with a prompt of {longest} tokens it exceeds "
            f"generation.engine.max_model_tokens = {context}; "
            f"set generation.max_tokens={max(context - longest, 1)} or less, or raise generation.engine.max_model_tokens"
        )


def _system_prompt_is_used(data: DataConfig) -> Iterator[str]:
    if data.system_prompt is not None and not data.chat_template:
        yield (
            f"data.system_prompt = {data.system_prompt!r}: only a chat template has a place for it; "
            "set data.chat_template=true or data.system_prompt=null"
        )


def _prompts_are_named_once(data: DataConfig) -> Iterator[str]:
    if data.path is None and not data.sources:
        yield "data.path = null: there are no prompts; set data.path to a file or folder, or data.sources to several"
    if not data.sources:
        return
    for name, field in (("path", None), *OneSource.model_fields.items()):
        value = getattr(data, name)
        if value != (None if field is None else field.default):
            yield (
                f"data.{name} = {value}: with data.sources, each of these says it for itself; "
                f"set data.sources.0.{name} and so on, and leave data.{name} out"
            )


def _chats_are_rendered(data: DataConfig) -> Iterator[str]:
    for key, source in data.each().items() if data.sources or data.path is not None else ():
        if source.messages_column is not None and not data.chat_template:
            yield (
                f"{key}.messages_column = {source.messages_column}: only a chat template makes a prompt of chat turns; "
                f"set data.chat_template=true, or {key}.messages_column=null"
            )


def _data_sets_differ_in_name(data: DataConfig) -> Iterator[str]:
    names = [source.dataset for source in data.sources]
    for name in sorted({name for name in names if names.count(name) > 1}):
        index = len(names) - 1 - names[::-1].index(name)
        yield (
            f"data.sources = {names}: {name!r} stands there more than once, and prompts are known by it; "
            f"set data.sources.{index}.name to another"
        )


def _weights_make_a_block(data: DataConfig) -> Iterator[str]:
    weights = [source.weight for source in data.sources]
    if weights and sum(whole_weights(weights)) > LONGEST_BLOCK:
        yield (
            f"data.sources = {weights}: as whole numbers these weights add up to more than {LONGEST_BLOCK}, the longest "
            "round that a mixture may have; round them, as in 0.7 and 0.3"
        )


def _watchdog_outlasts_a_group(generation: GenerationConfig, supervise: "SuperviseConfig") -> Iterator[str]:
    deadline = generation.deadline_s
    if supervise.stall_s <= deadline:
        yield (
            f"supervise.stall_s = {supervise.stall_s}: a group may take deadline_base_s + deadline_per_token_s * max_tokens "
            f"= {deadline} s, so the watchdog would end a healthy run; set supervise.stall_s={2 * deadline:g}"
        )


def _watchdog_outlasts_the_store(store: StoreConfig, supervise: "SuperviseConfig") -> Iterator[str]:
    if store.in_bucket and supervise.stall_s <= store.retry_s:
        yield (
            f"store.retry_s = {store.retry_s}: the watchdog ends the run after supervise.stall_s = {supervise.stall_s} s "
            f"without progress, before the store counts as gone; set store.retry_s={supervise.stall_s / 2:g} or less"
        )


def _gpus_fit_the_process(ray: RayConfig, generation: GenerationConfig) -> Iterator[str]:
    engine, split = ray.resources.generation.gpus, generation.engine.tensor_parallel
    if engine and max(engine, 1) != split:
        yield (
            f"ray.resources.generation.gpus = {engine:g}: generation.engine.tensor_parallel is {split}, and an engine uses as "
            "many GPUs as that; set ray.resources.generation.gpus=null"
        )
    rank = ray.resources.training.gpus
    if rank and rank != 1:
        yield f"ray.resources.training.gpus = {rank:g}: a rank uses one GPU; set ray.resources.training.gpus=null, or 0"


def _metrics_are_served_on_each_node(ray: RayConfig, metrics: MetricsConfig) -> Iterator[str]:
    if ray.existing and metrics.bind is not None and not metrics.everywhere:
        yield (
            f"metrics.bind = {metrics.bind}: workers on other nodes of the cluster at ray.address have no such address; "
            "set metrics.bind=null, each node's own address, or metrics.bind=0.0.0.0"
        )


RULES: tuple[Callable[..., Iterator[str]], ...] = (
    *TRAINING_RULES,
    _publishing_keeps_up,
    _capacity_holds_the_window,
    _connection_fits_the_server,
    _fine_tuned_weights_are_used,
    _the_best_can_be_told,
    _response_fits,
    _system_prompt_is_used,
    _prompts_are_named_once,
    _chats_are_rendered,
    _data_sets_differ_in_name,
    _weights_make_a_block,
    *SCORING_RULES,
    *REWARD_RULES,
    _watchdog_outlasts_a_group,
    _watchdog_outlasts_the_store,
    _gpus_fit_the_process,
    _metrics_are_served_on_each_node,
    *sft.RULES,
)
