"""What speaks for a run and what against it: a rule each, pure functions of its figures, with the number they go by."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.evaluation.verdict import CUT_OFF, FEW_WORDS, MEANINGFUL, STRONG
from orchestrator.run_report.figures import KL_ALARM, LEAST_STEPS

Grade = Literal["good", "note", "doubtful", "bad"]
"""A note is neither: good to know."""
Figures = Mapping[str, float]

BEYOND_NOISE = 3.0
"""Standard errors: a reward that moves by less may not have moved."""
KL_HEALTHY = (3.0, 10.0)
"""Nats a response."""
KL_PATIENCE_STEPS = 50
"""Above KL_ALARM before it counts for more than a spike."""
KL_JUMP = 5.0
"""Nats from one step to the next."""
LONGER, SHORTER = 1.5, 0.5
"""Length at the end over that at the beginning, beyond which it needs a reason; the evaluation's gates have the same."""
FEW_DISTINCT, FEW_UNIQUE = 0.6, 0.5
"""Distinct 4-grams over a prompt's answers, and unique answers of a group, below which a policy repeats itself."""
FELL = 0.8
"""Of what diversity was at the beginning; above it, low diversity is how the task is."""
GAP_NATS = 0.1
"""Between engine and trainer at equal weights; a broken weight transfer was seen at 0.2, a sound one at 0.015."""
CLIPPED = 0.2
"""Share of updates whose gradient is clipped."""
FEW_EFFECTIVE = 0.5
"""Effective share of samples under importance weights."""
LOST, MANY_LOST = 0.05, 0.2
"""Share of groups that were not trained."""
ENTROPY_LEFT = 0.1
"""Of what it was at the beginning."""
MANY_RESTARTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    grade: Grade
    subject: str
    text: str


def risen(figures: Figures) -> Literal["rose", "fell", "flat", "unknown"]:
    """What the reward did, as far as its noise lets us tell."""
    if "reward_rise" not in figures:
        return "unknown"
    rise, noise = figures["reward_rise"], figures["reward_noise"]
    if abs(rise) <= BEYOND_NOISE * noise or rise == 0:
        return "flat"
    return "rose" if rise > 0 else "fell"


def ending(figures: Figures, *, state: str, cause: str) -> Iterator[Reason]:
    done = (
        f"{figures['steps']:.0f} of {figures['steps_planned']:.0f} steps"
        if figures.get("steps_planned")
        else f"{figures['steps']:.0f} steps"
    )
    why = f": {cause.rstrip('.')}" if cause else ""
    if state == "failed":
        yield Reason(grade="bad", subject="end", text=f"The run failed after {done}{why}.")
    elif state == "dead":
        yield Reason(grade="bad", subject="end", text=f"Its driver was killed after {done} and nobody has resumed it.")
    elif state == "stopped" and figures["steps"] < figures.get("steps_planned", 0):
        yield Reason(
            grade="doubtful", subject="end", text=f"It was stopped after {done}{why}; what follows is of those."
        )


def _steps(figures: Figures) -> Iterator[Reason]:
    if figures["steps"] < LEAST_STEPS:
        yield Reason(
            grade="doubtful",
            subject="reward",
            text=f"Only {figures['steps']:.0f} steps were trained: too few to tell a trend.",
        )
    if broken := figures.get("broken_steps"):
        yield Reason(
            grade="bad",
            subject="loss",
            text=f"In {broken:.0f} steps loss, reward or gradient was no finite number: lower the learning rate, and look at those batches with --replay.",
        )


def _reward(figures: Figures) -> Iterator[Reason]:
    moved = risen(figures)
    if moved == "unknown":
        return
    span = f"from {_n(figures['reward_first'])} to {_n(figures['reward_last'])}"
    measure = f"{_n(abs(figures['reward_rise']))} with a standard error of {_n(figures['reward_noise'])}"
    if moved == "rose":
        yield Reason(grade="good", subject="reward", text=f"The reward rose beyond its noise, {span} ({measure}).")
    elif moved == "fell":
        yield Reason(
            grade="bad",
            subject="reward",
            text=f"The reward fell, {span} ({measure}): the steps are too large, or the reward is not what the updates follow; lower training.optimizer.learning_rate first.",
        )
    else:
        yield Reason(
            grade="doubtful",
            subject="reward",
            text=f"The reward did not rise beyond its noise: {span} ({measure}). More steps, a higher learning rate, or prompts on which answers differ in reward.",
        )


def _judged(figures: Figures) -> Iterator[Reason]:
    if "win_rate" not in figures:
        return
    rate, low, high = figures["win_rate"], figures.get("win_rate_low", 0.0), figures.get("win_rate_high", 1.0)
    measured = (
        f"{rate:.1%} of comparisons with the model that the run began with (95 % interval {low:.1%} to {high:.1%})"
    )
    if low > 0.5:
        size = "Strong" if rate > STRONG else "Meaningful" if rate > MEANINGFUL else "Slight"
        yield Reason(grade="good", subject="win rate", text=f"{size} gain on held-out prompts: it wins {measured}.")
    elif high < 0.5:
        yield Reason(grade="bad", subject="win rate", text=f"It got worse on held-out prompts: it wins {measured}.")
    else:
        yield Reason(
            grade="doubtful", subject="win rate", text=f"No gain is shown on held-out prompts: it wins {measured}."
        )
    best, at = figures.get("win_rate_best"), figures.get("win_rate_best_step")
    if best is not None and at is not None and best > high:
        yield Reason(
            grade="doubtful",
            subject="win rate",
            text=f"It was better before: step {at:.0f} won {best:.1%}; `headrace export RUN OUT --version best` takes that one.",
        )


def _signs(figures: Figures) -> list[str]:
    """What a hacked reward looks like, apart from the reward."""
    found = []
    if figures.get("kl_last", 0.0) > KL_HEALTHY[1]:
        found.append(f"KL is {figures['kl_last']:.1f} nats a response")
    if (longer := _ratio(figures, "length")) is not None and longer > LONGER:
        found.append(f"answers are {longer:.1f} times as long")
    found += _lost_variety(figures)
    return found


def _hacked(figures: Figures) -> Iterator[Reason]:
    if risen(figures) != "rose":
        return
    signs = _signs(figures)
    told = " and ".join(signs) if len(signs) < 3 else f"{', '.join(signs[:-1])} and {signs[-1]}"
    remedy = "hold it nearer (training.kl.coefficient, training.kl.target_nats), stop earlier, or mend the reward"
    if figures.get("win_rate_low", 1.0) <= 0.5:
        beside = f", and {told}" if signs else ""
        yield Reason(
            grade="bad",
            subject="hacking",
            text=f"The reward rose and the judge on held-out prompts does not agree{beside}: the policy is likely to have found an error of the reward; {remedy}.",
        )
    elif len(signs) >= 2 or (len(signs) == 1 and figures.get("kl_last", 0.0) > KL_ALARM):
        judged = figures.get("win_rate_low", 0.0) > 0.5
        yield Reason(
            grade="doubtful" if judged else "bad",
            subject="hacking",
            text=f"Signs of reward hacking: the reward rose while {told}{'' if judged else '; no judge that the policy was not trained on has been asked (evaluation.interval_steps)'}; {remedy}.",
        )


def _kl(figures: Figures) -> Iterator[Reason]:
    last = figures.get("kl_last")
    if last is None:
        return
    low, high = KL_HEALTHY
    told = f"KL to the reference is {last:.2f} nats a response at the end"
    if figures.get("kl_alarm_steps", 0.0) >= KL_PATIENCE_STEPS or last > KL_ALARM:
        judged = figures.get("win_rate_low", 0.0) > 0.5
        yield Reason(
            grade="doubtful" if judged else "bad",
            subject="KL",
            text=f"{told}, above the alarm of {KL_ALARM:g} (highest {figures['kl_highest']:.1f}): the policy has left what its reward can judge; raise training.kl.coefficient or lower the learning rate.",
        )
    elif last > high:
        yield Reason(
            grade="doubtful",
            subject="KL",
            text=f"{told}, above the healthy {low:g} to {high:g}; watch what the samples read like.",
        )
    elif last < low and risen(figures) in ("flat", "unknown"):
        yield Reason(grade="doubtful", subject="KL", text=f"{told}: the policy has hardly moved.")
    else:
        where = f"inside the healthy {low:g} to {high:g}" if last >= low else f"below {low:g}: near the reference"
        yield Reason(grade="good", subject="KL", text=f"{told}, {where}.")
    if figures.get("kl_jump", 0.0) > KL_JUMP:
        came_back = last < high
        yield Reason(
            grade="note" if came_back else "doubtful",
            subject="KL",
            text=f"KL jumped by {figures['kl_jump']:.1f} nats in one step{', and came back' if came_back else ''}: single steps are large.",
        )


def _length(figures: Figures) -> Iterator[Reason]:
    ratio = _ratio(figures, "length")
    if ratio is None:
        return
    span = f"from {figures['length_first']:.0f} to {figures['length_last']:.0f} tokens"
    if ratio > LONGER:
        yield Reason(
            grade="doubtful",
            subject="length",
            text=f"Answers grew {span}: a reward that likes length is easily hacked; a length penalty (scoring.length) holds it.",
        )
    elif ratio < SHORTER:
        yield Reason(grade="doubtful", subject="length", text=f"Answers shrank {span}.")
    else:
        yield Reason(grade="good", subject="length", text=f"The length of answers held, {span}.")


def _lost_variety(figures: Figures) -> list[str]:
    found = []
    for name, least, label in (
        ("distinct_4", FEW_DISTINCT, "distinct 4-grams"),
        ("unique", FEW_UNIQUE, "unique answers of a group"),
    ):
        ratio = _ratio(figures, name)
        if ratio is not None and figures[f"{name}_last"] < least and ratio < FELL:
            found.append(f"{label} fell from {figures[f'{name}_first']:.0%} to {figures[f'{name}_last']:.0%}")
    if figures.get("distinct_3_ratio", 1.0) < FEW_WORDS:
        found.append(f"held-out answers have {figures['distinct_3_ratio']:.0%} of the first model's distinct 3-grams")
    return found


def _diversity(figures: Figures) -> Iterator[Reason]:
    lost = _lost_variety(figures)
    if lost:
        yield Reason(
            grade="doubtful",
            subject="diversity",
            text=f"Answers became alike: {', '.join(lost)}; raise the KL coefficient, clip_high or the temperature, or stop earlier.",
        )
    elif "distinct_4_last" in figures:
        yield Reason(
            grade="good",
            subject="diversity",
            text=f"Variety held: {figures['distinct_4_last']:.0%} distinct 4-grams over a prompt's answers at the end, {figures['distinct_4_first']:.0%} at the beginning.",
        )
    if figures.get("equal_groups_last", 0.0) > 0.5:
        yield Reason(
            grade="doubtful",
            subject="diversity",
            text=f"In {figures['equal_groups_last']:.0%} of the groups all answers have the same reward: there is little left to learn from these prompts; take harder ones.",
        )


def _entropy(figures: Figures) -> Iterator[Reason]:
    ratio = _ratio(figures, "entropy")
    if ratio is not None and ratio < ENTROPY_LEFT:
        yield Reason(
            grade="note",
            subject="entropy",
            text=f"Entropy fell from {figures['entropy_first']:.2f} to {figures['entropy_last']:.2f} nats a token: as it should "
            "where each prompt has one right answer; elsewhere exploration has ended.",
        )


def _truncation(figures: Figures) -> Iterator[Reason]:
    last = figures.get("truncated_last")
    if last is not None and last > CUT_OFF:
        yield Reason(
            grade="doubtful",
            subject="truncation",
            text=f"{last:.0%} of the answers are cut off at generation.max_tokens, {figures['truncated_first']:.0%} at the beginning: raise it, or check the tokens that end an answer.",
        )


def _gap(figures: Figures) -> Iterator[Reason]:
    gap = figures.get("logprob_gap")
    if gap is None:
        return
    if gap > GAP_NATS:
        yield Reason(
            grade="bad",
            subject="log-prob gap",
            text=f"Engine and trainer differ by {gap:.3f} nats a token at equal weights: the engine serves other weights than it says, or computes otherwise.",
        )
    else:
        yield Reason(grade="good", subject="log-prob gap", text=f"Engine and trainer agree to {gap:.1g} nats a token.")


def _staleness(figures: Figures) -> Iterator[Reason]:
    effective = figures.get("effective_samples_last")
    if effective is not None and effective < FEW_EFFECTIVE:
        yield Reason(
            grade="doubtful",
            subject="staleness",
            text=f"Samples are {figures.get('staleness_last', 0.0):.1f} steps old and their weights leave {effective:.0%} of them effective: lower pacing.max_staleness or the learning rate.",
        )


def _critic(figures: Figures) -> Iterator[Reason]:
    variance = figures.get("explained_variance_last")
    if variance is not None and variance < 0:
        yield Reason(
            grade="doubtful",
            subject="critic",
            text=f"The critic explains {variance:.2f} of the returns' variance, worse than a constant: give it more warmup_steps or a higher rate.",
        )
    elif variance is not None:
        yield Reason(
            grade="good", subject="critic", text=f"The critic explains {variance:.0%} of the returns' variance."
        )


def _gradient(figures: Figures) -> Iterator[Reason]:
    if figures.get("grad_clipped", 0.0) > CLIPPED:
        yield Reason(
            grade="doubtful",
            subject="gradient",
            text=f"{figures['grad_clipped']:.0%} of the updates had their gradient clipped, above {CLIPPED:.0%}: the learning rate is high for it.",
        )


def _groups(figures: Figures) -> Iterator[Reason]:
    share = figures.get("untrained_share", 0.0)
    if share > LOST:
        grade: Grade = "bad" if share > MANY_LOST else "doubtful"
        yield Reason(
            grade=grade,
            subject="groups",
            text=f"{share:.0%} of {figures['settled']:.0f} groups were not trained: dropped, filtered, quarantined or lost; the table of settlements says why.",
        )


def _restarts(figures: Figures) -> Iterator[Reason]:
    trainer, workers = figures.get("trainer_restarts", 0.0), figures.get("worker_restarts", 0.0)
    if trainer + workers == 0:
        return
    told = f"The ranks restarted {trainer:.0f} times, workers {workers:.0f} times"
    if trainer + workers >= MANY_RESTARTS:
        yield Reason(
            grade="doubtful",
            subject="restarts",
            text=f"{told}; nothing was lost by it but time. Their causes are among the events.",
        )
    else:
        yield Reason(grade="note", subject="restarts", text=f"{told}, and the run went on.")


def _ratio(figures: Figures, name: str) -> float | None:
    first, last = figures.get(f"{name}_first"), figures.get(f"{name}_last")
    return last / first if first and last is not None and first > 0 else None


def _n(value: float) -> str:
    return f"{value:.3g}"


RULES: tuple[Callable[[Figures], Iterator[Reason]], ...] = (
    _steps,
    _reward,
    _judged,
    _hacked,
    _kl,
    _length,
    _diversity,
    _entropy,
    _truncation,
    _gap,
    _staleness,
    _critic,
    _gradient,
    _groups,
    _restarts,
)
"""In the order in which reasons of one grade are read."""
