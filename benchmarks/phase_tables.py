"""The account of a step of PPO in words and tables: the trainer's phases, what others did beside them, the critic's price."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import section
from benchmarks.measured_run import Measured
from benchmarks.step_account import Account

SCORER = {
    "headrace_score_rewards_seconds_sum": "reward model",
    "headrace_score_reference_seconds_sum": "reference",
}
PHASES = {
    "headrace_gen_step_seconds_sum": "generation",
    "headrace_gen_update_seconds_sum": "loading weights",
    "headrace_score_pass_seconds_sum": "whole passes",
    **SCORER,
}
"""Histograms whose sums are wall seconds of the workers beside the trainer."""
WORDS = {
    "unpack": "unpack",
    "proximal": "proximal (log-probs of the policy)",
    "values": "values (critic)",
    "actor": "actor updates",
    "critic": "critic updates",
}
BESIDE = ("generation", "loading weights", "reward model", "reference", "records of the scorer")
"""The trainer's phases, and those of the workers beside it, as the page calls them."""
WORKERS = {"gen-0": "generation", "score-0": "scoring"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    kind: str
    max_staleness: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.max_staleness}"

    def __str__(self) -> str:
        return f"{self.kind.upper()}, η = {self.max_staleness}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    case: Case
    account: Account
    measured: Measured
    while_training: Mapping[str, float]
    """By worker, the share of its CPU seconds that it used while the ranks were inside a step."""

    def beside(self) -> dict[str, float]:
        """Wall seconds a step of what the workers beside the trainer did, by phase."""
        sums: dict[str, float] = {}
        for worker in self.measured.workers:
            for phase, seconds in worker.phases.items():
                sums[phase] = sums.get(phase, 0.0) + seconds / self.measured.steps
        if "whole passes" in sums:
            scored = sum(sums.get(phase, 0.0) for phase in SCORER.values())
            sums["records of the scorer"] = sums.pop("whole passes") - scored
        return sums

    def cpu_s(self, *names: str) -> float:
        """A step, of the workers whose names begin so; of all processes without names."""
        used = [worker.cpu_s for worker in self.measured.workers if worker.name.startswith(names or "")]
        return sum(used) / self.measured.steps


def tables(ppo: Result, overlapped: Result, grpo: Result) -> str:
    """All of it, in Markdown."""
    results = (ppo, overlapped, grpo)
    parts = [phase_table(results), beside_note(results), cpu_table(results), conclusion(ppo, overlapped, grpo)]
    return "\n\n".join(parts)


def trainer_lines(account: Account) -> list[tuple[str, str, str]]:
    """(phase, seconds, share of a step); they add up to the last line, the step."""
    seconds = {
        "wait for the batch": account.wait_s,
        **{WORDS[name]: value for name, value in account.learner.items()},
        "between the phases: sums over ranks, report": account.between_s,
        "publish: copy": account.publish_s,
        "checkpoint: copy": account.checkpoint_s,
        "calls from the driver, reading the batch": account.calls_s,
        "**step**": account.step_s,
    }
    return [(phase, f"{value:.3f}", f"{value / account.step_s:.1%}") for phase, value in seconds.items()]


def phase_table(results: Sequence[Result]) -> str:
    """The trainer's phases, which add up to the step, then what others do beside it."""
    trainer = [{phase: cells for phase, *cells in trainer_lines(one.account)} for one in results]
    names = list(dict.fromkeys(phase for lines in trainer for phase in lines))
    rows = [[phase, *(cell for lines in trainer for cell in lines.get(phase, ["–", ""]))] for phase in ordered(names)]
    for phase in BESIDE:
        rows.append([f"*{phase}*", *(cell for one in results for cell in cells_of(one.beside().get(phase), one))])
    for kind in ("version", "checkpoint"):
        rows.append([f"*{kind}: writing, each*", *alone(f"{one.account.written_s[kind]:.3f}" for one in results)])
    rows.append(["*version served after*", *alone(f"{one.account.served_after_s:.3f}" for one in results)])
    rows.append(["tokens/s", *alone(f"{one.measured.tokens_per_s:,.0f}" for one in results)])
    return section.table(["s a step", *(c for one in results for c in (str(one.case), "share"))], rows)


def alone(cells: Iterable[str]) -> list[str]:
    """Each with nothing in the column of shares."""
    return [one for cell in cells for one in ("–" if cell == "nan" else cell, "")]


def ordered(names: Sequence[str]) -> list[str]:
    """The step last, whichever run has the most phases."""
    return sorted(names, key=lambda name: name.startswith("**"))


def cells_of(seconds: float | None, result: Result) -> tuple[str, str]:
    return ("–", "") if seconds is None else (f"{seconds:.3f}", f"{seconds / result.account.step_s:.1%}")


def beside_note(results: Sequence[Result]) -> str:
    outside = ", ".join(f"{(one.account.between_s + one.account.calls_s) / one.account.step_s:.1%}" for one in results)
    return (
        "Upright: rank 0, in its order, adding up to the step; what is outside the learner's own phases, copies and the "
        f"wait is {outside} of it. Phases of the learner hold its waits for the other rank. *Slanted: other processes, and "
        "threads in the background, beside one another and beside the trainer;* in line they happen within its wait."
    )


def cpu_table(results: Sequence[Result]) -> str:
    """CPU seconds a step by process, and which share of them fell into the trainer's work."""
    names = dict.fromkeys(worker.name for one in results for worker in one.measured.workers)
    rows = []
    for name in names:
        row = [name]
        for one in results:
            share = one.while_training.get(name)
            row += [f"{one.cpu_s(name):.3f}", "" if share is None else f"{share:.0%}"]
        rows.append(row)
    rows.append(["**all**", *alone(f"{one.cpu_s():.3f}" for one in results)])
    return section.table(["CPU s a step", *(c for one in results for c in (str(one.case), "while ranks train"))], rows)


def conclusion(ppo: Result, overlapped: Result, grpo: Result) -> str:
    """Where the time goes, what overlaps what, and what the critic costs."""
    learner, step_s = ppo.account.learner, ppo.account.step_s
    critic_s = learner["values"] + learner["critic"]
    shares = {phase: overlapped.while_training.get(name, 0.0) for name, phase in WORKERS.items()}
    beside = ", ".join(f"{share:.0%} of {phase}" for phase, share in shares.items())
    busy = [sum(one.account.learner.values()) for one in (ppo, overlapped)]
    cpu_s = ppo.cpu_s("rank-") / trained(ppo), grpo.cpu_s("rank-") / trained(grpo)
    return (
        f"**In line a step takes {step_s:.2f} s**: {learner['actor'] / step_s:.0%} are the policy's updates, "
        f"{learner['critic'] / step_s:.0%} the critic's, {(learner['proximal'] + learner['values']) / step_s:.0%} the passes "
        f"before them, {ppo.account.wait_s / step_s:.0%} the wait for generation and scoring. **Overlapped it takes "
        f"{overlapped.account.step_s:.2f} s ({step_s / overlapped.account.step_s:.2f}× as fast)** and waits "
        f"{overlapped.account.wait_s / overlapped.account.step_s:.0%}: {beside} (CPU seconds) happens while the ranks train, "
        f"whose own phases take {busy[1]:.2f} s then and took {busy[0]:.2f} s, on the same cores. **The critic costs** {critic_s:.2f} s a step, {critic_s / step_s:.0%} "
        f"of it: PPO takes {step_s / grpo.account.step_s:.2f}× as long a step as GRPO on as many answers, and "
        f"{cpu_s[0] / cpu_s[1]:.2f}× the ranks' CPU a token."
    )


def trained(result: Result) -> float:
    """Tokens a step."""
    return result.measured.tokens / result.measured.steps
