"""How fast is the whole loop, and what do the cores do meanwhile?

    python -m benchmarks.loop                          some 5 minutes on two idle cores; a table on standard output
    python -m benchmarks.loop --json FILE --write docs/benchmarks.md
    python -m benchmarks.loop --sweep                  every setting of SETTINGS at staleness 0 and 1, 6 minutes more

Each line is one run of the real command at learning rate 0 on answers of uneven length (benchmarks/uneven.py), measured
between two of its steps. Useful work are the CPU seconds inside vLLM's engine steps, inside decoding, rewards and reference, and
inside the learner's steps; (de)serialisation, polling, weights, Redis, Ray and the driver are not, nor is start-up.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import section, uneven
from benchmarks.measured_run import Measured, measure

BATCH_GROUPS, GROUP_SIZE = 32, 8
MORE_THAN_MEASURED = 1000
"""Steps of a run, which is stopped once it is measured: near its end, generation would have nothing left to do."""
WARM_STEPS = 3
"""Left out: the first versions, and engines that fill up."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Processes and threads of each phase."""

    engines: int
    engine_threads: int = 1
    scorers: int
    ranks: int
    rank_threads: int = 1

    def __str__(self) -> str:
        engines, ranks = f"{self.engines}×{self.engine_threads}", f"{self.ranks}×{self.rank_threads}"
        return f"engines {engines}, scorers {self.scorers}×1, ranks {ranks}"


SETTINGS = {
    "one each": Setting(engines=1, scorers=1, ranks=1),
    "two each": Setting(engines=2, scorers=2, ranks=2),
    "two engines": Setting(engines=2, scorers=1, ranks=1),
    "two threads": Setting(engines=1, engine_threads=2, scorers=1, ranks=1, rank_threads=2),
}
BEST = {0: "two each", 1: "one each", 4: "one each"}
"""By staleness. Without overlap each phase needs both cores to itself; with it, one a phase will do."""


def recipe(folder: Path, *, name: str, staleness: int, setting: Setting) -> dict[str, Any]:
    """The loop on the uneven task; `folder` holds its model and prompts. It runs until it is stopped."""
    return {
        "run": {"name": name, "steps": MORE_THAN_MEASURED, "root": str(folder)},
        "model": {"path": str(folder / "model")},
        "data": {"path": str(folder / "prompts.jsonl")},
        "generation": {
            "group_size": GROUP_SIZE,
            "max_tokens": uneven.MAX_TOKENS,
            "workers": setting.engines,
            "engine": {
                "dtype": "float32",
                "max_sequences": BATCH_GROUPS * GROUP_SIZE // setting.engines,
                "max_model_tokens": 192,
                "kv_cache_gib": 0.5,
                "threads": setting.engine_threads,
            },
        },
        "scoring": {
            "workers": setting.scorers,
            "groups_per_pass": BATCH_GROUPS // 2,  # two scorers share a batch that arrives at once
            "rewards": [{"name": "characters", "function": "score_cluster.functions:character_accuracy"}],
            "reference": {"micro_batch_tokens": 1024},
        },
        "training": {
            "ranks": setting.ranks,
            "threads": setting.rank_threads,
            "dtype": "float32",
            "micro_batch_tokens": 4096,
            "algorithm": {"kind": "grpo"},
            "optimizer": {"learning_rate": uneven.NO_LEARNING},
            "checkpoint": {"interval_steps": MORE_THAN_MEASURED, "interval_s": None},
        },
        "pacing": {"batch_groups": BATCH_GROUPS, "max_staleness": staleness},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps a run (default 10)")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4], help="max_staleness (default 0 1 4)")
    parser.add_argument("--sweep", action="store_true", help="every setting of threads, at staleness 0 and 1")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", type=Path, help="page whose section to replace")
    given = parser.parse_args(arguments)
    if given.sweep:
        plan = [(staleness, name) for staleness in (0, 1) for name in SETTINGS]
    else:
        plan = [(staleness, BEST.get(staleness, BEST[1])) for staleness in given.staleness]
    results = run_all(plan, steps=given.steps)
    text = written(results, steps=given.steps)
    print(text)
    if given.json:
        given.json.write_text(json.dumps([{**key, **measured.as_dict()} for key, measured in results], indent=1))
    if given.write:
        section.replace(given.write, "loop", text)


def run_all(plan: Sequence[tuple[int, str]], *, steps: int) -> list[tuple[dict[str, Any], Measured]]:
    results = []
    with tempfile.TemporaryDirectory(prefix="headrace-loop-") as scratch:
        folder = Path(scratch)
        uneven.write_model(folder / "model")
        uneven.write_rows(folder / "prompts.jsonl", 4096)
        for index, (staleness, setting) in enumerate(plan, start=1):
            say(f"[{index}/{len(plan)}] max_staleness {staleness}, {SETTINGS[setting]}: starting, then {steps} steps")
            made = recipe(folder, name=f"loop-{index}", staleness=staleness, setting=SETTINGS[setting])
            measured = measure(made, folder, warm=WARM_STEPS + staleness, steps=steps)
            say(f"    {measured.tokens_per_s:.0f} tokens/s, useful {measured.useful:.2f} of the cores")
            results.append(({"max_staleness": staleness, "setting": str(SETTINGS[setting])}, measured))
    return results


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def written(results: Sequence[tuple[Mapping[str, Any], Measured]], *, steps: int) -> str:
    """The page's section in Markdown."""
    lengths = sum(measured.mean_length for _, measured in results) / len(results)
    parts = [
        f"A Llama of 0.86 M parameters in float32, {BATCH_GROUPS} prompts × {GROUP_SIZE} "
        f"samples a step, learning rate 0, answers of up to {uneven.MAX_TOKENS} tokens (mean {lengths:.0f}), INT8 reference; "
        f"{steps} steps after the first ones.",
        throughput(results),
        "Where the core-seconds went, as shares of cores × wall time. *Useful* is the work of the three clusters (engine "
        "steps; decoding, rewards and reference; the learner's steps), *own overhead* everything else that the run's "
        "processes did, *others* other programs and the kernel.",
        core_seconds(results),
        "What each worker did with the wall time of a step, in seconds; a line adds up to the step.",
        wall_seconds(results),
    ]
    return "\n\n".join(parts)


def throughput(results: Sequence[tuple[Mapping[str, Any], Measured]]) -> str:
    base = next((m.tokens_per_s for key, m in results if key["max_staleness"] == 0), None)
    rows = [
        [
            f"η = {key['max_staleness']}, {key['setting']}",
            f"{m.tokens_per_s:,.0f}",
            f"{m.wall_s / m.steps:.2f}",
            f"{m.tokens_per_s / base:.2f}" if base else "",
            f"{sum(w.work_cpu_s for w in m.workers) / m.tokens * 1e6:.0f}",
        ]
        for key, m in results
    ]
    return section.table(
        ["max_staleness, processes × threads", "tokens/s", "s a step", "× η = 0", "useful CPU µs a token"], rows
    )


def core_seconds(results: Sequence[tuple[Mapping[str, Any], Measured]]) -> str:
    rows = []
    for key, m in results:
        whole = m.cores * m.wall_s
        ours = sum(worker.cpu_s for worker in m.workers)
        work = {
            kind: sum(w.work_cpu_s for w in m.workers if w.name.startswith(kind)) for kind in ("gen", "score", "rank")
        }
        shares = [m.useful, *(work[kind] / whole for kind in work), ours / whole - m.useful]
        shares += [(m.machine_busy_s - ours) / whole, 1 - m.machine_busy_s / whole]
        rows.append([f"η = {key['max_staleness']}, {key['setting']}", *(f"{share:.1%}" for share in shares)])
    return section.table(["", "useful", "generation", "scoring", "training", "own overhead", "others", "idle"], rows)


def wall_seconds(results: Sequence[tuple[Mapping[str, Any], Measured]]) -> str:
    rows = []
    for key, m in results:
        for worker in (w for w in m.workers if w.phases):
            done = ", ".join(f"{phase} {seconds / m.steps:.2f}" for phase, seconds in worker.phases.items())
            waiting = (m.wall_s - sum(worker.phases.values())) / m.steps
            rows.append(
                [f"η = {key['max_staleness']}, {worker.name}", done, f"{waiting:.2f}", f"{m.wall_s / m.steps:.2f}"]
            )
    return section.table(["", "working", "waiting and handing over", "step"], rows)


if __name__ == "__main__":
    main()
