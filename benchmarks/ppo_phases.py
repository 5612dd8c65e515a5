"""PPO with four models: where the time of a step goes, what runs beside what, and what the critic costs beside GRPO.

    python -m benchmarks.ppo_phases                        some 4 minutes on two idle cores; tables
    python -m benchmarks.ppo_phases --write docs/benchmarks.md
    python -m benchmarks.ppo_phases --models runs          with models of `make demo`, which are made anew otherwise
    python -m benchmarks.ppo_phases --run RUN              the trainer's account of a run that is there, nothing else

recipes/demo.yaml on a policy and a reward model of its own stages, made of a part of its data, at learning rate 0 so that
answers keep their lengths: PPO with its phases in line (max_staleness 0) and overlapped (1), and GRPO in line on as many
answers. Each run is measured between the ends of two of its steps, by its own log, its metrics and the kernel's clocks.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cpu_clocks, section, step_account, uneven
from benchmarks.demo_seeds import RECIPE, call
from benchmarks.loop import MORE_THAN_MEASURED, say
from benchmarks.measured_run import measure
from benchmarks.phase_tables import PHASES, Case, Result, tables, trainer_lines

ANSWERS, GROUP_SIZE = 128, 8
"""Of a batch, and of a group of GRPO's; PPO has as many prompts as answers."""
ROWS: Mapping[str, int] = {"sft": 8192, "pairs": 2048}
"""Of the demo's files that the models are trained on: answers of the demo's lengths, a quarter of its time."""
CHECKPOINT_STEPS = 5
"""Some within the measured steps."""
WARM_STEPS = 3
"""Left out: the first versions, and a pipeline that fills."""

PPO, OVERLAPPED, GRPO = (Case(kind=kind, max_staleness=eta) for kind, eta in (("ppo", 0), ("ppo", 1), ("grpo", 0)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="measured steps a run (default 12)")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="holds demo-data, demo-sft and demo-reward")
    parser.add_argument("--run", type=Path, help="print the account of this run's steps, from the fourth on")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", type=Path, help="page whose section to replace")
    given = parser.parse_args(arguments)
    if given.run:
        try:
            last = len((given.run / "metrics.jsonl").read_text().splitlines())
            found = step_account.read(given.run, first=WARM_STEPS + 1, last=last)
        except (OSError, ValueError) as error:
            parser.error(f"--run {given.run}: {error}")
        return print(section.table(["phase", "s a step", "share"], trainer_lines(found)))
    with tempfile.TemporaryDirectory(prefix="ppo-phases-") as scratch:
        models = given.models.resolve() if given.models else make_models(Path(scratch))
        results = [carry_out(case, models, Path(scratch), steps=given.steps) for case in (PPO, OVERLAPPED, GRPO)]
    text = written(*results)
    print(text)
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    if given.write:
        section.replace(given.write, "ppo_phases", text)
    return None


# -- runs --------------------------------------------------------------------------------------------------------------
def make_models(folder: Path) -> Path:
    """The demo's data, then a policy and a reward model by the demo's own stages, on ROWS of it; the folder of all."""
    runs, recipe_file = folder / "runs", folder / "recipes" / RECIPE.name  # the recipe's paths begin at ../runs
    recipe_file.parent.mkdir()
    recipe_file.write_text(RECIPE.read_text())
    call("python", "-m", "recipes.sentiment", "prepare", str(runs / "demo-data"))
    for name, count in ROWS.items():
        path = runs / "demo-data" / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    call("headrace", "sft", str(recipe_file), f"run.root={runs}", "--json")
    call("headrace", "reward", "train", str(recipe_file), f"run.root={runs}", "--json")
    return runs


def recipe(case: Case, models: Path, folder: Path) -> dict[str, Any]:
    """The demo's run, until it is stopped."""
    from orchestrator.yamlfile import parse

    made: dict[str, Any] = {
        name: value for name, value in parse(RECIPE.read_text()).items() if name not in NOT_OF_THE_RUN
    }
    groups = ANSWERS if case.kind == "ppo" else ANSWERS // GROUP_SIZE
    algorithm: dict[str, Any] = {"kind": case.kind}
    if case.kind == "ppo":
        algorithm["critic"] = {"learning_rate": uneven.NO_LEARNING, "warmup_steps": 0}
    reward = made["scoring"]["rewards"][0] | {"path": str(models / "demo-reward")}
    return made | {
        "run": {"name": case.name, "steps": MORE_THAN_MEASURED, "root": str(folder)},
        "model": {"path": str(models / "demo-sft")},
        "data": {"path": str(models / "demo-data" / "train.jsonl")},
        "generation": made["generation"] | {"group_size": ANSWERS // groups},
        "scoring": {"groups_per_pass": groups // 2, "rewards": [reward]},
        "training": made["training"]
        | {
            "algorithm": algorithm,
            "optimizer": {"learning_rate": uneven.NO_LEARNING, "warmup_steps": 0},
            "checkpoint": {"interval_steps": CHECKPOINT_STEPS, "interval_s": None},
        },
        "pacing": {"batch_groups": groups, "max_staleness": case.max_staleness},
    }


NOT_OF_THE_RUN = ("sft", "reward", "evaluation")
"""Sections of the demo's other stages."""


def carry_out(case: Case, models: Path, folder: Path, *, steps: int) -> Result:
    run = folder / case.name
    clocks = cpu_clocks.CpuClocks(run=run)
    say(f"{case}: starting, then {steps} steps")
    warm = WARM_STEPS + case.max_staleness
    made = recipe(case, models, folder)
    measured = measure(made, folder, warm=warm, steps=steps, phases=PHASES, look=clocks.look)
    account = step_account.read(run, first=warm + 1, last=warm + steps)
    say(f"    {account.step_s:.2f} s a step, of which the trainer waited {account.wait_s:.2f} s")
    shares = cpu_clocks.inside(clocks.looks, account.training, span=account.span)
    return Result(case=case, account=account, measured=measured, while_training=shares)


def written(ppo: Result, overlapped: Result, grpo: Result) -> str:
    """The page's section in Markdown."""
    lengths = ", ".join(f"{one.measured.mean_length:.1f}" for one in (ppo, overlapped, grpo))
    settings = recipe(PPO, Path(), Path())["training"]
    return (
        f"The policy, critic, reward model and reference of `{RECIPE}`, 0.5 M parameters each, {ANSWERS} answers a step "
        f"(mean length {lengths} tokens); one engine, one scorer (both frozen models in INT8), {settings['ranks']} ranks, one "
        f"thread each; {settings['epochs']} epochs of {settings['mini_batches']} updates, a checkpoint every "
        f"{CHECKPOINT_STEPS} steps; learning rate 0. {ppo.measured.steps} steps of each run, after the first ones.\n\n"
        f"{tables(ppo, overlapped, grpo)}"
    )


if __name__ == "__main__":
    main()
