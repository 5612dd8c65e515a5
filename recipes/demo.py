"""A recipe from nothing to a judged policy, by the same commands that a user types; each is shown before it runs.

    python -m recipes.demo      python -m recipes.demo reverse      python -m recipes.demo smollm2

What is there already is kept, and what was interrupted is gone on with. `rm -r runs/demo* runs/.demo*` starts afresh.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


class Demo(StrEnum):
    remarks = "remarks"
    reverse = "reverse"
    smollm2 = "smollm2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One command."""

    command: str
    makes: Path | None = None
    """Skipped when this is there; None = always done."""


def remarks() -> Iterator[Stage]:
    """From random weights to remarks that people would prefer: docs/demo.md."""
    data = RUNS / "demo-data"
    yield Stage(command=f"python -m recipes.sentiment prepare {data}", makes=data / "sft.jsonl")  # written last
    yield Stage(command="headrace pipeline recipes/demo.yaml")


def reverse() -> Iterator[Stage]:
    """Supervised fine-tuning on noisy examples, then reinforcement; exact match on words that neither has seen."""
    from orchestrator.recipe import load

    data, policy = RUNS / "reverse-data", RUNS / "reverse-policy"
    base = Path(load("recipes/reverse.yaml").model.path)
    yield Stage(command=f"python -m recipes.reverse prepare {data}", makes=data / "sft.jsonl")  # written last
    yield Stage(command="headrace sft recipes/reverse.yaml", makes=base)
    yield from train("reverse")
    yield Stage(command=f"headrace export reverse {policy}", makes=policy)
    for folder in (base, policy):
        yield Stage(command=f"python -m recipes.reverse evaluate {folder} {data / 'heldout.jsonl'}")


def smollm2() -> Iterator[Stage]:
    """A real language model from a wheel; the paired difference of reward on held-out prompts."""
    model, policy = RUNS / "smollm2-model", RUNS / "smollm2-policy"
    yield Stage(command=f"python -m recipes.smollm2 prepare {model}", makes=model)
    yield from train("smollm2")
    yield Stage(command=f"headrace export smollm2 {policy}", makes=policy)
    held_out = RUNS / "smollm2-held-out"
    files = f"--out {held_out}.json --html {held_out}.html"
    yield Stage(command=f"headrace eval {model} {policy} --recipe recipes/smollm2.yaml {files}")


def train(name: str) -> Iterator[Stage]:
    """Start the run, or go on with it; nothing when it is complete. Looks at the run's folder when it is reached."""
    from orchestrator.folder import RunFolder

    folder = RunFolder(RUNS / name)
    if not folder.recipe.exists():
        yield Stage(command=f"headrace run recipes/{name}.yaml")
    elif folder.read_status().get("state") != "completed":
        yield Stage(command=f"headrace resume {RUNS / name}")


STAGES = {Demo.remarks: remarks, Demo.reverse: reverse, Demo.smollm2: smollm2}


def main(demo: Annotated[Demo, typer.Argument()] = Demo.remarks) -> None:
    """Do every stage in order; the first that fails ends the demo with its exit code."""
    for stage in STAGES[demo]():
        if stage.makes is not None and stage.makes.exists():
            typer.echo(f"# {stage.makes} is there already")
            continue
        typer.echo(f"$ {stage.command}")
        program, *arguments = shlex.split(stage.command)
        done = subprocess.run([str(Path(sys.executable).with_name(program)), *arguments])
        if done.returncode:
            raise typer.Exit(done.returncode)


if __name__ == "__main__":
    typer.run(main)
