"""Rules about training: its algorithm, the distance to the reference, and the samples it learns from; see orchestrator.rules.every."""

from collections.abc import Callable, Iterator

from experience.config import PacingConfig
from gen_cluster.config import GenerationConfig
from orchestrator.sections import ModelConfig
from score_cluster.config import ScoringConfig
from train_cluster.config import TrainingConfig


def _staleness_needs_a_correction(pacing: PacingConfig, training: TrainingConfig) -> Iterator[str]:
    if pacing.max_staleness > 0 and training.correction.kind == "none":
        yield (
            f"pacing.max_staleness = {pacing.max_staleness}: samples of older policies are wrong without an off-policy "
            "correction, and training.correction.kind is none; set training.correction.kind=tis or pacing.max_staleness=0"
        )


def _unequal_dtypes_need_a_correction(generation: GenerationConfig, training: TrainingConfig) -> Iterator[str]:
    if training.correction.kind == "none" and generation.engine.dtype != training.dtype:
        yield (
            f"generation.engine.dtype = {generation.engine.dtype}: the engine rounds otherwise than the trainer "
            f"({training.dtype}), and without a correction the importance ratios are taken for 1; "
            f"set generation.engine.dtype={training.dtype} or training.correction.kind=tis"
        )


def _training_samples_untruncated(generation: GenerationConfig) -> Iterator[str]:
    reason = "truncated sampling gives the log-probs of another policy than the one trained"
    if generation.top_p != 1:
        yield f"generation.top_p = {generation.top_p}: {reason}; set generation.top_p=1"
    if generation.top_k != 0:
        yield f"generation.top_k = {generation.top_k}: {reason}; set generation.top_k=0"


def _grpo_compares_samples(generation: GenerationConfig, training: TrainingConfig) -> Iterator[str]:
    if training.algorithm.kind == "grpo" and generation.group_size < 2:
        yield (
            f"generation.group_size = {generation.group_size}: GRPO compares the samples of one prompt, and the advantage "
            "of a single one is always 0; set generation.group_size=2 or more"
        )


def _kl_is_measurable(scoring: ScoringConfig, training: TrainingConfig) -> Iterator[str]:
    kl = training.kl_in_force
    if kl.where != "none" and scoring.reference is None:
        yield (
            f"training.kl.where = {kl.where}: there is no reference model to measure the KL against "
            "(scoring.reference is null); set training.kl.where=none or give scoring.reference"
        )
    if kl.adaptive and (kl.where == "none" or kl.coefficient == 0):
        yield (
            "training.kl.adaptive = True: there is no KL penalty to adapt "
            f"(where is {kl.where}, coefficient is {kl.coefficient}); "
            "set training.kl.adaptive=false, or training.kl.where=null and a coefficient above 0"
        )


def _reference_has_weights(model: ModelConfig, scoring: ScoringConfig) -> Iterator[str]:
    if model.random_init and scoring.reference is not None and scoring.reference.path is None:
        yield (
            "model.random_init = True: the reference is the policy's initial model, and its folder needs no weights; "
            "set scoring.reference=null (and training.kl.where=none), or scoring.reference.path to a model with weights"
        )


def _mini_batches_are_equal(pacing: PacingConfig, training: TrainingConfig) -> Iterator[str]:
    groups, parts = pacing.batch_groups, training.mini_batches_in_force(pacing.batch_groups)
    if groups % parts:
        nearest = max(n for n in range(1, parts) if groups % n == 0)
        yield (
            f"training.mini_batches = {parts}: the {groups} groups of a batch (pacing.batch_groups) do not divide into "
            f"{parts} equal parts, so that some updates would weigh more; set training.mini_batches={nearest}"
        )


TRAINING_RULES: tuple[Callable[..., Iterator[str]], ...] = (
    _staleness_needs_a_correction,
    _unequal_dtypes_need_a_correction,
    _training_samples_untruncated,
    _grpo_compares_samples,
    _kl_is_measurable,
    _reference_has_weights,
    _mini_batches_are_equal,
)
