"""The demo from three seeds, whole: does reinforcement from a reward model win by a judge that it never saw?

    python -m benchmarks.demo_seeds                       seeds 0, 1 and 2, one after another, 20 minutes, tables
    python -m benchmarks.demo_seeds --write docs/demo.md --svg docs/demo.svg

Each seed has a folder of its own, in which data, models and run are made as by `make demo`, with the recipe as it ships.
What is whole there is kept, and an interrupted run goes on: remove the folder for figures from the beginning. The exit
code is 1 where a gate of the recipe fails for a seed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import section

RECIPE = Path("recipes/demo.yaml")
RUN = "demo"
UNBOUND_STEPS = 60
"""Of the run without a penalty: long enough to see what becomes of it."""
SEEDS = (0, 1, 2)
BASELINE = "start"
"""What the pipeline calls the policy that the run began with."""
SIDE_BY_SIDE = 4
"""Prompts whose answers are shown: the first ones, not picked."""
STAGES = ("sft", "reward", "run", "export", "eval")

GATE_FAILED = 1
"""Exit code of a pipeline that says so, once all its stages are done."""

Figures = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedFolder:
    """Where one seed's demo lies: a copy of the recipe, beside the folder that its paths name."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipes" / RECIPE.name

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def run(self) -> Path:
        return self.runs / RUN

    def settings(self, seed: int) -> list[str]:
        """What differs from the recipe as it ships."""
        return [f"run.seed={seed}", f"evaluation.seed={seed}", f"run.root={self.runs}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    before: Figures
    after: Figures
    gates: Sequence[Mapping[str, Any]]
    held_out: Mapping[str, Any]
    """The reward model's, from its card."""
    seconds: Mapping[str, float]
    """By stage."""
    by_step: Mapping[str, Figures]
    """Of the versions that checkpoints kept, by step."""
    answers: Sequence[Mapping[str, Any]]
    """Side by side."""

    @property
    def passed(self) -> bool:
        return all(gate["passed"] for gate in self.gates)


def carry_out(seed: int, folder: SeedFolder) -> Outcome:
    """Make what is missing of a seed's demo, and read what came of it. CalledProcessError: a command failed."""
    folder.recipe.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RECIPE, folder.recipe)
    data = folder.runs / "demo-data"
    if not (data / "sft.jsonl").exists():  # written last
        call("python", "-m", "recipes.sentiment", "prepare", str(data), "--seed", str(seed))
    arguments = [str(folder.recipe), *folder.settings(seed), "--json"]
    stages = json.loads(call("headrace", "pipeline", *arguments, codes=(0, GATE_FAILED)))["stages"]
    judged = json.loads((folder.run / "evaluation.json").read_text())
    return Outcome(
        seed=seed,
        before=judged["figures"][BASELINE],
        after=judged["figures"][RUN],
        gates=judged["gates"],
        held_out=json.loads((folder.runs / "demo-reward" / "reward_card.json").read_text())["held_out"],
        seconds={stage["stage"]: stage["seconds"] for stage in stages},
        by_step=judge_steps(folder, seed, run=folder.run, last=load_steps(folder.recipe)),
        answers=judged["answers"][:SIDE_BY_SIDE],
    )


def run_unbound(folder: SeedFolder, seed: int) -> dict[str, Figures]:
    """The same from the same start without a penalty of KL, and for longer: figures by step."""
    from orchestrator.folder import RunFolder

    run = folder.runs / "unbound"
    if not RunFolder(run).recipe.exists():
        settings = [*folder.settings(seed), f"run.name={run.name}", f"run.steps={UNBOUND_STEPS}"]
        call("headrace", "run", str(folder.recipe), *settings, "training.kl.where=none")
    elif RunFolder(run).read_status().get("state") != "completed":
        call("headrace", "resume", str(run))
    return judge_steps(folder, seed, run=run, last=UNBOUND_STEPS)


def judge_steps(folder: SeedFolder, seed: int, *, run: Path, last: int) -> dict[str, Figures]:
    """The gold judge's figures of each version that a checkpoint kept, the initial policy first as step 0."""
    out = folder.path / f"by-step-{run.name}.json"
    if not out.exists():
        policies = [str(folder.runs / "demo-sft"), *(f"{run}@{step}" for step in cut_steps(folder.recipe, last))]
        settings = [*folder.settings(seed), "evaluation.gates=[]"]  # gates are about the demo's last version alone
        call("headrace", "eval", *policies, *settings, "--recipe", str(folder.recipe), "--out", str(out))
    judged = json.loads(out.read_text())
    return {
        "0" if name == judged["baseline"] else name.rpartition("@")[2]: found
        for name, found in judged["figures"].items()
    }


def load_steps(recipe: Path) -> int:
    from orchestrator.recipe import load

    return load(recipe).run.steps


def cut_steps(recipe: Path, last: int) -> list[int]:
    """Steps of the checkpoints that a run of the recipe keeps when it has ended after step `last`."""
    from orchestrator.recipe import load

    checkpoint = load(recipe).training.checkpoint
    return list(range(last, 0, -checkpoint.interval_steps))[: checkpoint.keep][::-1]


def call(program: str, *arguments: str, codes: Sequence[int] = (0,)) -> str:
    """Its standard output; what it says of its progress goes to ours. CalledProcessError: another code, or no output."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    print("$", program, *arguments, file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in codes or (done.returncode and not done.stdout):
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


def results(outcomes: Sequence[Outcome]) -> str:
    """One row a figure, one column a seed."""
    rows = [
        ("win rate by gold", *(percent(one.after["win_rate"]) for one in outcomes)),
        ("95 % interval", *(interval(one.after["win_rate_low"], one.after["win_rate_high"]) for one in outcomes)),
        ("gold value, before", *(f"{one.before['score']:.2f}" for one in outcomes)),
        ("gold value, after", *(f"{one.after['score']:.2f}" for one in outcomes)),
        ("distinct 3-grams, of SFT's", *(f"{one.after['distinct_3_ratio']:.2f}" for one in outcomes)),
        ("mean length, of SFT's", *(f"{one.after['length_ratio']:.2f}" for one in outcomes)),
        ("KL to the SFT policy, nats", *(f"{one.after['kl']:.1f}" for one in outcomes)),
        ("reward model, held-out accuracy", *(percent(one.held_out["accuracy"]) for one in outcomes)),
        ("  95 % interval", *(interval(*one.held_out["accuracy_95"]) for one in outcomes)),
        ("  score against length", *(f"{one.held_out['length']['pearson']:+.2f}" for one in outcomes)),
        *((f"{stage}, s", *(f"{one.seconds[stage]:.0f}" for one in outcomes)) for stage in STAGES),
        ("all, s", *(f"{sum(one.seconds.values()):.0f}" for one in outcomes)),
        ("gate", *("passed" if one.passed else "**failed**" for one in outcomes)),
    ]
    return section.table(["", *(f"seed {one.seed}" for one in outcomes)], rows)


def steps_table(by_seed: Mapping[str, Mapping[str, Figures]]) -> str:
    """Gold beside the reward model's opinion, by step: where they part, the reward model is being fooled."""
    rows = [
        (name, step, *at_step(found, by_step["0"]))
        for name, by_step in by_seed.items()
        for step, found in sorted(by_step.items(), key=lambda one: int(one[0]))
    ]
    head = (
        "",
        "step",
        "win rate by gold",
        "gold value",
        "reward model's score",
        "KL, nats",
        "distinct 3-grams, of SFT's",
    )
    return section.table(head, rows)


def at_step(found: Figures, start: Figures) -> list[str]:
    win = percent(found["win_rate"]) if "win_rate" in found else "–"
    variety = found["distinct_3"] / start["distinct_3"]
    return [win, *(f"{value:.2f}" for value in (found["score"], found["reward"], found["kl"], variety))]


def samples(outcome: Outcome) -> str:
    """The first held-out prompts and both answers."""
    blocks = []
    for row in outcome.answers:
        before, after = (row["answers"][name][0] for name in (BASELINE, RUN))
        blocks.append(
            f"> **{row['prompt']}**\n> before ({before['score']:+.2f}): {before['text']}\n"
            f">\n> after ({after['score']:+.2f}): {after['text']}"
        )
    return "\n\n".join(blocks)


def percent(share: float) -> str:
    return f"{share:.1%}"


def interval(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--root", type=Path, default=Path("runs/demo-seeds"), help="folder of the seeds' folders")
    parser.add_argument("--write", type=Path, help="document whose sections to rewrite")
    parser.add_argument("--svg", type=Path, help="where to draw reward and KL by step of the first seed")
    arguments = parser.parse_args()
    folders = {seed: SeedFolder(path=arguments.root / f"seed-{seed}") for seed in arguments.seeds}
    outcomes = [carry_out(seed, folder) for seed, folder in folders.items()]
    first = arguments.seeds[0]
    texts = {
        "seeds": results(outcomes),
        "steps": steps_table({f"seed {one.seed}": one.by_step for one in outcomes}),
        "unbound": steps_table({f"seed {first}": run_unbound(folders[first], first)}),
        "samples": samples(outcomes[0]),
    }
    if arguments.svg:
        call("python", "-m", "recipes.curve", str(folders[first].run / "metrics.jsonl"), str(arguments.svg))
        texts["steps"] += f"\n\n![reward and KL by step, seed {first}]({arguments.svg.name})"
    print("\n\n".join(texts.values()))
    if arguments.write:
        for name, text in texts.items():
            section.replace(arguments.write, name, text)
    sys.exit(0 if all(one.passed for one in outcomes) else 1)


if __name__ == "__main__":
    main()
