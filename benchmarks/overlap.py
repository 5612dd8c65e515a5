"""Does the loop keep its slower stage busy? The real loop, its generation and training replaced by recorded waits.

    python -m benchmarks.overlap                        every case, 6 minutes, a table
    python -m benchmarks.overlap --write docs/benchmarks.md
    python -m benchmarks.overlap --record RUN           take the lengths of a run's answers from its ledger

Real are the driver, Ray's actors, Redis, the records and their wire form, leases, scoring, the ledger's commits and the
publication of (small) versions. The waits cost no core, so two cores do not fight over them. A step of the engine takes
as long whatever runs, and samples a token for each request; training takes a time proportional to a batch's tokens.

The bound is the slower of the two stages, each with all its slots filled: T_gen = tokens · decode / slots.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import records, section, task
from benchmarks.stand_ins import VARIABLE, Waits

RECORDED = Path(__file__).with_name("overlap_lengths.json")
BATCH_GROUPS, GROUP_SIZE = 8, 8
SLOTS = BATCH_GROUPS * GROUP_SIZE
"""A whole batch in flight."""
STAGE_S = 1.4
"""A batch of the slower stage: 68 steps of some 20 ms, which is how long one takes on a large model."""
STEPS, WARM_UP = 24, 6
"""Of a case; those until the pipeline is full are not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    gen_s: float
    train_s: float
    max_staleness: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Seconds a step, means over the counted steps."""

    case: Case
    step_s: float
    trainer_s: float
    """Inside the learner."""
    commit_s: float
    """The trainer waited for a batch to be committed."""
    publish_s: float
    """It copied weights for a version."""
    driver_s: float
    """All else between two steps: calls from the driver and back."""
    filled: float
    """Share of the engine's time in which a slot worked, mean over slots."""
    empty: float
    """Share without any request: no prompt was admitted, or none for the version served."""
    between: float
    """Share in the worker, between two steps of the engine."""
    publish_to_serve_s: float
    """From the end of a step to the engine's first token of its weights, median."""
    stalest: float

    @property
    def share(self) -> float:
        return max(self.case.gen_s, self.case.train_s) / self.step_s


def cases() -> list[Case]:
    half = STAGE_S / 2
    balanced = [Case(name="balanced", gen_s=STAGE_S, train_s=STAGE_S, max_staleness=eta) for eta in (0, 1, 2, 4)]
    gen = [Case(name="generation 2:1", gen_s=STAGE_S, train_s=half, max_staleness=eta) for eta in (0, 4)]
    train = [Case(name="training 2:1", gen_s=half, train_s=STAGE_S, max_staleness=eta) for eta in (0, 4)]
    return balanced + gen + train


def waits(case: Case, lengths: list[list[int]]) -> Waits:
    """Those that make a mean batch take gen_s on filled slots and train_s in training."""
    tokens = statistics.fmean(sum(group) for group in lengths) * BATCH_GROUPS
    return Waits(
        lengths=lengths,
        decode_s=case.gen_s * SLOTS / tokens,
        train_s_per_token=case.train_s / tokens,
    )


def recipe(case: Case, name: str) -> dict[str, Any]:
    """Nothing that would need a core: no reference, one rank, the smallest model."""
    return {
        "run": {"name": name, "steps": STEPS},
        "model": {"path": "policy"},
        "data": {"path": "prompts.jsonl"},
        "generation": {
            "group_size": GROUP_SIZE,
            "max_tokens": 40,  # of the prompt's record; the recorded lengths decide
            "engine": {"max_sequences": SLOTS, "dtype": "float32"},
        },
        "scoring": {
            "rewards": [{"name": "characters", "function": "score_cluster.functions:character_accuracy"}],
            "reference": None,
        },
        "training": {"dtype": "float32", "algorithm": {"kind": "grpo"}, "kl": {"where": "none"}},
        "pacing": {"batch_groups": BATCH_GROUPS, "max_staleness": case.max_staleness},
    }


def run_case(folder: Path, case: Case, lengths: list[list[int]]) -> Result:
    """In a process of its own, since a driver is one."""
    name = f"{case.name.split()[0]}-{case.max_staleness}"
    waits(case, lengths).write(folder / f"{name}.waits.json")
    (folder / f"{name}.yaml").write_text(json.dumps(recipe(case, name)))  # JSON is YAML
    environment = os.environ | {VARIABLE: str(folder / f"{name}.waits.json")}
    command = [sys.executable, "-m", "benchmarks.overlap", "--drive", str(folder / f"{name}.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return analyse(case, folder / "runs" / name)


def drive(path: Path) -> None:
    """The command's own steps, with stand-ins built."""
    from orchestrator import commands

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    commands.run(path, [f"run.root={path.parent / 'runs'}"], as_json=True, builder="benchmarks.stand_ins:build")


def analyse(case: Case, run: Path) -> Result:
    """From the run's own log."""
    log = records.read(run)
    trained = {line["step"]: line for line in records.events(log, "step trained")}
    committed = {line["step"]: line["at"] for line in records.events(log, "batch committed")}
    copied = {line["step"]: line["gather_s"] for line in records.events(log, "published", worker="driver")}
    ends = {step: line["at"] for step, line in trained.items()}
    begins = {step: line["at"] - line["seconds"] for step, line in trained.items()}
    counted = range(WARM_UP + 1, STEPS + 1)
    gaps = {step: begins[step] - ends[step - 1] for step in counted}
    commit = {step: min(gaps[step], max(0.0, committed[step] - ends[step - 1])) for step in counted}
    publish = {step: min(gaps[step] - commit[step], copied.get(step - 1, 0.0)) for step in counted}
    served = {line["version"].rpartition("/")[2]: line["at"] for line in records.events(log, "version served")}
    adopted = [served[str(step)] - ends[step] for step in counted if str(step) in served]
    account = between_accounts(records.events(log, "engine account"), begin=ends[WARM_UP], end=ends[STEPS])
    return Result(
        case=case,
        step_s=(ends[STEPS] - ends[WARM_UP]) / len(counted),
        trainer_s=statistics.fmean(trained[step]["seconds"] for step in counted),
        commit_s=statistics.fmean(commit.values()),
        publish_s=statistics.fmean(publish.values()),
        driver_s=statistics.fmean(gaps[step] - commit[step] - publish[step] for step in counted),
        publish_to_serve_s=statistics.median(adopted) if adopted else float("nan"),
        stalest=records.stalest(run),
        **account,
    )


def between_accounts(lines: Sequence[Mapping[str, Any]], *, begin: float, end: float) -> dict[str, float]:
    """Shares of the engine's time among the lines from begin to end."""
    inside = [line for line in lines if begin <= line["at"] <= end]
    if len(inside) < 2:
        return {"filled": float("nan"), "empty": float("nan"), "between": float("nan")}
    first, last = inside[0], inside[-1]
    span = last["since"] - first["since"]
    busy, filled, empty = ((last[key] - first[key]) / span for key in ("busy", "filled", "empty"))
    return {"filled": filled, "empty": empty, "between": 1 - busy - empty}


def table(results: Sequence[Result]) -> str:
    synchronous = {result.case.name: result.step_s for result in results if result.case.max_staleness == 0}
    lines = [
        "| case | η | T_gen, T_train | s a step | of the bound | against η = 0 | trainer busy | engine filled | empty "
        "| lost a step: batch, copy, calls | weights in use after | stalest |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        case = one.case
        ratio = f"{synchronous[case.name] / one.step_s:.2f}×" if case.name in synchronous else "–"
        lost = ", ".join(f"{1000 * value:.0f}" for value in (one.commit_s, one.publish_s, one.driver_s))
        lines.append(
            f"| {case.name} | {case.max_staleness} | {case.gen_s:.2f}, {case.train_s:.2f} s | {one.step_s:.3f} "
            f"| {one.share:.3f} | {ratio} | {one.trainer_s / one.step_s:.1%} "
            f"| {one.filled:.1%} | {one.empty:.1%} | {lost} ms | {1000 * one.publish_to_serve_s:.0f} ms "
            f"| {one.stalest:.0f} |"
        )
    return "\n".join(lines)


def record(run: Path) -> str:
    """Lengths of a run's ledger, as they are kept in overlap_lengths.json: the speeds are set by each case."""
    lengths = records.lengths(run)
    mean = statistics.fmean(length for group in lengths for length in group)
    made_by = "python -m benchmarks.overlap --record RUN, on a run of benchmarks/uneven.py's task"
    rows = ",\n  ".join(json.dumps(group) for group in lengths)
    return f'{{\n "made_by": {json.dumps(made_by)},\n "mean_tokens": {mean:.1f},\n "lengths": [\n  {rows}\n ]\n}}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="document whose section is replaced by the table")
    parser.add_argument("--only", help="cases whose name and η, as `balanced-4`, begin so")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--record", type=Path, metavar="RUN")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        return drive(given.drive)
    if given.record:
        return print(record(given.record))
    lengths = json.loads(RECORDED.read_text())["lengths"]
    results = []
    with tempfile.TemporaryDirectory(prefix="overlap-") as folder:
        task.prepare(Path(folder))
        for case in cases():
            if not f"{case.name.split()[0]}-{case.max_staleness}".startswith(given.only or ""):
                continue
            results.append(run_case(Path(folder), case, lengths))
            print(f"{case.name}, η = {case.max_staleness}: {results[-1].share:.3f} of the bound", file=sys.stderr)
    text = table(results)
    print(text)
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    if given.write:
        section.replace(given.write, "overlap", text)
    return None


if __name__ == "__main__":
    main()
