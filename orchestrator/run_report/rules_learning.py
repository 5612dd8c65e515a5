"""Has the policy learnt what it should: how the run ended, reward, win rate, and whether the reward was hacked."""

from orchestrator.evaluation.verdict import FEW_WORDS, MEANINGFUL, STRONG
from orchestrator.run_report.figures import KL_ALARM, LEAST_STEPS
from orchestrator.run_report.grades import BEYOND_NOISE, Figures, Reasons, bad, doubtful, good, note, ratio, risen, wins

KL_HEALTHY = (3.0, 10.0)
"""Nats a response."""
KL_PATIENCE_STEPS = 50
"""Above KL_ALARM before it counts for more than a spike."""
KL_JUMP = 5.0
"""Nats from one step to the next."""
KEPT = 0.5
"""Of what the reward had gained at its height, that the end must have kept: single windows stand out by less."""
LONGER, SHORTER = 1.5, 0.5
"""Length at the end over that at the beginning, beyond which it needs a reason; the evaluation's gates have the same."""
GROWING, REWARDED = 1.2, 0.2
"""Length at the end over that at the beginning, and its correlation with the reward, that are too much together."""
FEW_DISTINCT, FEW_UNIQUE = 0.6, 0.5
"""Distinct 4-grams over a prompt's answers, and unique answers of a group, below which a policy repeats itself."""
COLLAPSED = 0.3
"""distinct_3_ratio below which a policy has little but one answer, whoever likes it."""
FELL = 0.8
"""Of what diversity was at the beginning; above it, low diversity is how the task is."""
ENTROPY_LEFT = 0.1
"""Of what it was at the beginning."""
ALIKE = 0.5
"""Share of groups whose answers all have one reward."""


def ending(figures: Figures, *, state: str, cause: str) -> Reasons:
    planned = figures.get("steps_planned", 0.0)
    done = f"{figures['steps']:.0f} of {planned:.0f} steps" if planned else f"{figures['steps']:.0f} steps"
    why = f": {cause.rstrip('.')}" if cause else ""
    if state == "failed":
        yield bad("end", f"The run failed after {done}{why}.", "Mend the cause and resume it.")
    elif state == "dead":
        yield bad("end", f"Its driver was killed after {done}.", "headrace resume goes on with it.")
    elif state == "stopped" and figures["steps"] < planned:
        yield doubtful("end", f"It was stopped after {done}{why}.", "headrace resume goes on with it.")


def trained(figures: Figures) -> Reasons:
    if figures["steps"] < LEAST_STEPS:
        count = f"{figures['steps']:.0f} step{' was' if figures['steps'] == 1 else 's were'}"
        yield doubtful("reward", f"{count} trained: too few to tell a trend.")
    if broken := figures.get("broken_steps"):
        yield bad(
            "loss",
            f"In {broken:.0f} step{'s' * (broken > 1)} loss, reward or gradient was no finite number.",
            "Lower training.optimizer.learning_rate; headrace run --replay trains those batches again.",
        )


def reward(figures: Figures) -> Reasons:
    moved = risen(figures)
    if moved == "unknown":
        return
    span = f"from {figures['reward_first']:.3g} to {figures['reward_last']:.3g}"
    measure = f"by {abs(figures['reward_rise']):.3g}, with a standard error of {figures['reward_noise']:.2g}"
    if moved == "rose":
        yield from _risen(figures, f"{span} ({measure})")
    elif moved == "fell":
        yield bad(
            "reward",
            f"The reward fell, {span} ({measure}).",
            "Lower training.optimizer.learning_rate first; then ask whether the updates follow this reward.",
        )
    else:
        yield doubtful(
            "reward",
            f"The reward did not move beyond its noise, {span} ({measure}).",
            "Lower the learning rate: KL says that single steps are large."
            if figures.get("kl_jump", 0.0) > KL_JUMP
            else "Take more steps, a higher learning rate, or prompts on which answers differ in reward.",
        )


def _risen(figures: Figures, told: str) -> Reasons:
    highest, last = figures.get("reward_highest", 0.0), figures["reward_last"]
    gain, lost = highest - figures["reward_first"], highest - last
    if lost > KEPT * gain and lost > BEYOND_NOISE * figures["reward_noise"]:
        yield doubtful(
            "reward",
            f"The reward rose, {told}, but it had been at {highest:.3g}: {lost / gain:.0%} of the gain is lost again.",
            "Lower training.optimizer.learning_rate, or take a version from before the fall.",
        )
    else:
        yield good("reward", f"The reward rose beyond its noise, {told}.")


def judged(figures: Figures) -> Reasons:
    if "win_rate" not in figures:
        return
    rate, low, high = figures["win_rate"], figures.get("win_rate_low", 0.0), figures.get("win_rate_high", 1.0)
    measured = (
        f"it wins {rate:.1%} of comparisons with the model that it began as (95 % interval {low:.1%} to {high:.1%})"
    )
    measured += ", judged by the reward that it was trained on" * bool(figures.get("own_judge"))
    if low > 0.5:
        size = "Strong" if rate > STRONG else "Meaningful" if rate > MEANINGFUL else "Slight"
        yield good("win rate", f"{size} gain on held-out prompts: {measured}.")
    elif high < 0.5:
        yield bad("win rate", f"It got worse on held-out prompts: {measured}.")
    else:
        yield doubtful("win rate", f"No gain is shown on held-out prompts: {measured}.")
    best, at = figures.get("win_rate_best"), figures.get("win_rate_best_step")
    if best is not None and at is not None and best > high:
        yield doubtful(
            "win rate",
            f"It was better before: step {at:.0f} won {best:.1%}.",
            "headrace export RUN OUT --version best takes that one.",
        )


def hacked(figures: Figures) -> Reasons:
    """The reward rose: is it earned? By what an independent judge says, or by what else has changed."""
    if risen(figures) != "rose":
        return
    signs = _signs(figures)
    told = " and ".join(signs) if len(signs) < 3 else f"{', '.join(signs[:-1])} and {signs[-1]}"
    remedy = (
        "Hold the policy nearer (training.kl.coefficient, training.kl.target_nats), stop earlier, or mend the reward."
    )
    if figures.get("win_rate_low", 1.0) <= 0.5:
        beside = f", and {told}" if signs else ""
        yield bad(
            "hacking",
            f"The reward rose, and the judge on held-out prompts does not agree{beside}: the policy is likely to exploit an error of the reward.",
            remedy,
        )
    elif len(signs) >= 2 or (signs and figures.get("kl_last", 0.0) > KL_ALARM):
        if wins(figures):
            yield doubtful(
                "hacking",
                f"Signs of reward hacking, though the judge still prefers it: the reward rose while {told}.",
                remedy,
            )
        else:
            yield bad(
                "hacking",
                f"Signs of reward hacking: the reward rose while {told}, and no independent judge was asked.",
                f"{remedy} evaluation.interval_steps asks a judge meanwhile.",
            )


def kl(figures: Figures) -> Reasons:
    last = figures.get("kl_last")
    if last is None:
        return
    low, high = KL_HEALTHY
    told = f"KL to the reference is {last:.2f} nats a response at the end"
    if figures.get("kl_alarm_steps", 0.0) >= KL_PATIENCE_STEPS or last > KL_ALARM:
        reason = doubtful if wins(figures) else bad
        yield reason(
            "KL",
            f"{told}, and was {figures['kl_highest']:.1f} at most, where {KL_ALARM:g} is the alarm: the policy has left what its reward can judge.",
            "Raise training.kl.coefficient, or lower the learning rate.",
        )
    elif last > high:
        yield doubtful("KL", f"{told}, above the healthy {low:g} to {high:g}.", "See below what the answers read like.")
    elif last < low and risen(figures) in ("flat", "unknown"):
        yield doubtful("KL", f"{told}: the policy has hardly moved.")
    else:
        where = f"inside the healthy {low:g} to {high:g}" if last >= low else f"below {low:g}, near the reference"
        yield good("KL", f"{told}, {where}.")
    if figures.get("kl_jump", 0.0) > KL_JUMP:
        told = f"KL jumped by {figures['kl_jump']:.1f} nats in one step"
        if last < high:
            yield note("KL", f"{told}, and came back.")
        else:
            yield doubtful("KL", f"{told}: single steps are large.")


def length(figures: Figures) -> Reasons:
    grown = ratio(figures, "length")
    if grown is None:
        return
    span = f"from {figures['length_first']:.0f} to {figures['length_last']:.0f} tokens"
    correlation = figures.get("length_reward_last", 0.0)
    if GROWING < grown <= LONGER and correlation > REWARDED:
        yield doubtful(
            "length",
            f"Answers grew {span}, and longer ones earn more (correlation {correlation:.2f}).",
            "A length penalty among scoring.rewards holds them.",
        )
    elif grown > LONGER:
        yield doubtful(
            "length",
            f"Answers grew {span}; a reward that likes length is easily hacked.",
            "A length penalty among scoring.rewards holds it.",
        )
    elif grown < SHORTER:
        yield doubtful("length", f"Answers shrank {span}.")
    elif grown > GROWING:
        yield note("length", f"Answers grew {span}, and the reward does not ask for it.")
    else:
        yield good("length", f"The length of answers held, {span}.")


def diversity(figures: Figures) -> Reasons:
    lost = _lost_variety(figures)
    if lost:
        reason = bad if figures.get("distinct_3_ratio", 1.0) < COLLAPSED else doubtful
        yield reason(
            "diversity",
            f"Answers became alike: {', '.join(lost)}.",
            "Raise training.kl.coefficient, the upper clip or the temperature, or stop earlier.",
        )
    elif "distinct_4_last" in figures:
        first, last = figures["distinct_4_first"], figures["distinct_4_last"]
        yield good(
            "diversity", f"Variety held: {last:.0%} distinct 4-grams over a prompt's answers, {first:.0%} at first."
        )
    if figures.get("equal_groups_last", 0.0) > ALIKE:
        share = figures["equal_groups_last"]
        yield note(
            "diversity",
            f"In {share:.0%} of the groups all answers have the same reward: these prompts have little left to teach.",
        )
    left = ratio(figures, "entropy")
    if left is not None and left < ENTROPY_LEFT:
        span = f"from {figures['entropy_first']:.2f} to {figures['entropy_last']:.2f} nats a token"
        yield note(
            "entropy",
            f"Entropy fell {span}: as it should where each prompt has one right answer; elsewhere exploration is over.",
        )


def _signs(figures: Figures) -> list[str]:
    """What a hacked reward looks like, apart from the reward."""
    found = []
    if figures.get("kl_last", 0.0) > KL_HEALTHY[1]:
        found.append(f"KL went to {figures['kl_last']:.1f} nats a response")
    if (longer := ratio(figures, "length")) is not None and longer > LONGER:
        found.append(f"answers became {longer:.1f} times as long")
    return [*found, *_lost_variety(figures)]


def _lost_variety(figures: Figures) -> list[str]:
    found = []
    for name, least, label in (
        ("distinct_4", FEW_DISTINCT, "distinct 4-grams"),
        ("unique", FEW_UNIQUE, "unique answers of a group"),
    ):
        left = ratio(figures, name)
        if left is not None and figures[f"{name}_last"] < least and left < FELL:
            found.append(f"{label} fell from {figures[f'{name}_first']:.0%} to {figures[f'{name}_last']:.0%}")
    if figures.get("distinct_3_ratio", 1.0) < FEW_WORDS:
        found.append(f"held-out answers have {figures['distinct_3_ratio']:.0%} of the first model's distinct 3-grams")
    return found
