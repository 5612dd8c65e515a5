"""headrace's GRPO and TRL's GRPOTrainer side by side: same model, task, batch, updates and cores.

    requirements/install trl
    python -m benchmarks.vs_trl                         throughput, then time to a reward: some 8 minutes on two idle cores
    python -m benchmarks.vs_trl --json FILE --write docs/benchmarks.md
    python -m benchmarks.vs_trl --sweep                 TRL's settings alone: threads, processes, generators, dtypes

Throughput is completion tokens a second in the steady state, at learning rate 0 on answers of uneven length
(benchmarks/uneven.py), the two in turn (A B A B), so that a change of the machine strikes both. Both make one update a
batch, with the ratio to the sampling policy and a KL term against a reference in float32: one forward pass of the
reference and one forward and backward pass of the policy a token.

Time to reward is on the task of recipes/reverse.yaml, from one fine-tuned model, with a learning rate. Each prompt is
used once, so the mean reward of a batch is that of words not seen before.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import loop, section, uneven
from benchmarks.loop import say
from benchmarks.measured_run import measure
from benchmarks.reward_race import race
from benchmarks.trl_peer import GENERATORS, Peer, run_trl

WARM_STEPS = 2
STEP_LIMIT_S = 180.0
START_LIMIT_S = 300.0


PEERS = (Peer(processes=2, threads=1), Peer(processes=1, threads=2))
"""Timed against headrace: the two ways to use both cores."""

SWEEP = (
    *PEERS,
    Peer(processes=1, threads=1),
    Peer(processes=2, threads=1, dtype="bfloat16"),
    *(Peer(processes=2, threads=1, generator=generator) for generator in list(GENERATORS)[1:]),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="measured steps a turn (default 6)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--no-race", action="store_true", help="throughput only")
    parser.add_argument("--sweep", action="store_true", help="TRL's settings alone")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", type=Path, help="page whose section to replace")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="headrace-trl-") as scratch:
        folder = Path(scratch)
        uneven.write_model(folder / "model")
        uneven.write_rows(folder / "prompts.jsonl", 4096)
        if given.sweep:
            print(sweep(folder, steps=given.steps))
            return
        turns = alternate(folder, rounds=given.rounds, steps=given.steps)
        show(given, turns, None)  # at once: a race that fails takes no figures with it
        if not given.no_race:
            show(given, turns, race(folder / "race", peer=best_of(turns), say=say))


def show(given: argparse.Namespace, turns: list[dict[str, Any]], raced: dict[str, Any] | None) -> None:
    """On standard output, and where the arguments say."""
    text = written(turns, raced, steps=given.steps)
    print(text, flush=True)
    if given.json:
        given.json.write_text(json.dumps({"turns": turns, "race": raced}, indent=1))
    if given.write:
        section.replace(given.write, "vs_trl", text)


# -- the two sides -----------------------------------------------------------------------------------------------------
def headrace_turn(folder: Path, *, name: str, steps: int) -> dict[str, Any]:
    """One run at staleness 1; tokens a second and CPU seconds."""
    setting = loop.SETTINGS[loop.BEST[1]]
    recipe = loop.recipe(folder, name=name, staleness=1, setting=setting)
    recipe["scoring"]["reference"] |= {"precision": "float32"}  # as TRL's
    measured = measure(recipe, folder, warm=loop.WARM_STEPS + 1, steps=steps)
    cpu_s = sum(worker.cpu_s for worker in measured.workers)
    parts = {worker.name: worker.work_cpu_s / measured.tokens * 1e6 for worker in measured.workers if worker.work_cpu_s}
    return {
        "who": "headrace",
        "tokens_per_s": measured.tokens_per_s,
        "cpu_us_per_token": cpu_s / measured.tokens * 1e6,
        "mean_length": measured.mean_length,
        "parts_us_per_token": parts,
        "how": str(setting),
    }


def trl_turn(folder: Path, peer: Peer, *, steps: int) -> dict[str, Any]:
    """One process, or several, of benchmarks/trl_run.py."""
    spec = {
        "threads": peer.threads,
        "dtype": peer.dtype,
        "micro_batch": peer.micro_batch,
        "save": None,
        "model": str(folder / "model"),
        "prompts": str(folder / "prompts.jsonl"),
        "output": str(folder / "trl"),
        "batch": loop.BATCH_GROUPS * loop.GROUP_SIZE,
        "group_size": loop.GROUP_SIZE,
        "max_tokens": uneven.MAX_TOKENS,
        "learning_rate": 0.0,
        "warmup_steps": 0,
        "kl_coefficient": 0.02,
        "steps": WARM_STEPS + steps,
        "rewards": ["characters"],
        "options": GENERATORS[peer.generator],
    }
    by_rank = run_trl(
        spec, folder, processes=peer.processes, limit_s=START_LIMIT_S + STEP_LIMIT_S * (WARM_STEPS + steps)
    )
    lead = by_rank[0]
    wall_s = lead[-1]["at"] - lead[WARM_STEPS - 1]["at"]
    tokens = sum(line["tokens"] for lines in by_rank for line in lines[WARM_STEPS:])
    cpu_s = sum(lines[-1]["cpu_s"] - lines[WARM_STEPS - 1]["cpu_s"] for lines in by_rank)
    phases = {
        phase: sum(line["seconds"].get(phase, 0.0) for line in lead[WARM_STEPS:]) for phase in lead[-1]["seconds"]
    }
    return {
        "who": "TRL",
        "tokens_per_s": tokens / wall_s,
        "cpu_us_per_token": cpu_s / tokens * 1e6,
        "mean_length": tokens / steps / spec["batch"],
        "parts_of_wall": {phase: seconds / wall_s for phase, seconds in phases.items()},
        "how": f"{peer.processes}×{peer.threads}, {peer.dtype}, {peer.generator}",
        "processes": peer.processes,
        "threads": peer.threads,
    }


# -- the comparison ----------------------------------------------------------------------------------------------------
def alternate(folder: Path, *, rounds: int, steps: int) -> list[dict[str, Any]]:
    turns = []
    for number in range(1, rounds + 1):
        say(f"[{number}/{rounds}] headrace")
        turns.append(headrace_turn(folder, name=f"turn-{number}", steps=steps))
        say(f"    {turns[-1]['tokens_per_s']:.0f} tokens/s")
        for peer in PEERS:
            say(f"[{number}/{rounds}] TRL, {peer.processes} processes × {peer.threads} threads")
            turns.append(trl_turn(folder, peer, steps=steps))
            say(f"    {turns[-1]['tokens_per_s']:.0f} tokens/s")
    return turns


def best_of(turns: Sequence[Mapping[str, Any]]) -> Peer:
    """TRL's faster way."""
    best = max((turn for turn in turns if turn["who"] == "TRL"), key=lambda turn: turn["tokens_per_s"])
    return next(peer for peer in PEERS if (peer.processes, peer.threads) == (best["processes"], best["threads"]))


def sweep(folder: Path, *, steps: int) -> str:
    """What each of TRL's settings reaches, or how it fails."""
    rows = []
    for peer in SWEEP:
        say(f"TRL: {peer}")
        try:
            turn = trl_turn(folder, peer, steps=steps)
            rows.append([turn["how"], f"{turn['tokens_per_s']:,.0f}", f"{turn['cpu_us_per_token']:.0f}"])
        except RuntimeError as error:
            rows.append([f"{peer.processes}×{peer.threads}, {peer.generator}", "failed", str(error).splitlines()[-1]])
        say(f"    {rows[-1][1:]}")
    return section.table(["TRL: processes × threads", "tokens/s", "CPU µs a token"], rows)


def written(turns: Sequence[Mapping[str, Any]], raced: Mapping[str, Any] | None, *, steps: int) -> str:
    ours = [turn for turn in turns if turn["who"] == "headrace"]
    parts = [
        f"TRL {version('trl')}. {loop.BATCH_GROUPS} prompts × {loop.GROUP_SIZE} "
        f"samples a step, answers of up to {uneven.MAX_TOKENS} tokens (mean {statistics.mean(t['mean_length'] for t in turns):.0f}), "
        f"one update a batch, reference in float32, learning rate 0; {len(ours)} turns of {steps} steps each, in turn.",
        comparison(turns, ours),
        "Where the time goes. headrace, CPU µs a token inside the work of each worker: "
        f"{_spelt(ours[-1]['parts_us_per_token'], '{:.0f}')}. "
        + " ".join(
            f"TRL at {peer.processes}×{peer.threads}, share of its wall time: {_spelt(turn['parts_of_wall'], '{:.0%}')}."
            for peer in PEERS
            for turn in [of(turns, peer)[-1]]
        )
        + " TRL's phases follow one another, and it computes on batches padded to the longest answer.",
    ]
    if raced is not None:
        parts.append(raced["text"])
    return "\n\n".join(parts)


def comparison(turns: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> str:
    rows = [[f"headrace, η = 1, {ours[0]['how']}", *_figures(ours), "1"]]
    for peer in PEERS:
        theirs = of(turns, peer)
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(ours, theirs, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        rows.append([f"TRL, {theirs[0]['how']}", *_figures(theirs), ratio])
    return section.table(["processes × threads", "tokens/s", "CPU µs a token", "headrace is faster by (range)"], rows)


def of(turns: Sequence[Mapping[str, Any]], peer: Peer) -> list[Mapping[str, Any]]:
    return [t for t in turns if t["who"] == "TRL" and (t["processes"], t["threads"]) == (peer.processes, peer.threads)]


def _figures(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    medians = [statistics.median(turn[name] for turn in turns) for name in ("tokens_per_s", "cpu_us_per_token")]
    return [f"{medians[0]:,.0f}", f"{medians[1]:.0f}"]


def _spelt(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


def version(package: str) -> str:
    from importlib.metadata import version as installed

    return installed(package)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
