"""Time to the same reward on recipes/reverse.yaml's task, headrace and TRL from one fine-tuned model."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import section
from benchmarks.measured_run import REPOSITORY, environment
from benchmarks.trl_peer import GENERATORS, run_trl

STEPS = 50
GOAL = 0.6
"""Share of words reversed exactly; both begin at some 0.1 and end above 0.8."""
SMOOTHED_STEPS = 3
COMMAND = Path(sys.executable).with_name("headrace")


def race(folder: Path, *, peer: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """Fine-tune once, then train with each; seconds from the command and from the end of the first step to GOAL."""
    say("race: fine-tuning the model that both start from")
    _run([sys.executable, "-m", "recipes.reverse", "prepare", str(folder)])
    recipe = _recipe(folder)
    path = folder / "reverse.yaml"
    path.write_text(json.dumps(recipe))
    _run([str(COMMAND), "sft", str(path), "--json"])
    say(f"race: headrace, {STEPS} steps")
    _run([str(COMMAND), "run", str(path), "--json"])
    lines = [json.loads(line) for line in (folder / "reverse" / "metrics.jsonl").read_text().splitlines()]
    ours = [(line["elapsed_s"], line["reward_components"]["exact"]) for line in lines]
    say(f"race: TRL, {STEPS} steps")
    by_rank = run_trl(_trl_spec(recipe, folder, peer), folder, processes=peer.processes, limit_s=1200)
    began = min(lines[0]["at"] - sum(lines[0]["seconds"].values()) for lines in by_rank)
    theirs = [
        (lines[0]["at"] - began, sum(line["rewards"]["exact"] for line in lines) / len(lines))
        for lines in zip(*by_rank, strict=True)
    ]
    rows = [_row("headrace", ours), _row("TRL", theirs)]
    head = ["", f"s to {GOAL:.0%}, from the first step", "steps to it", "s a step", "last steps"]
    text = (
        f"Time to {GOAL:.0%} of the words reversed exactly (mean of {SMOOTHED_STEPS} steps, words not seen before), the task, "
        f"batch and learning rate of `recipes/reverse.yaml`, one update a batch; start-up apart.\n\n{section.table(head, rows)}"
    )
    return {"text": text, "headrace": ours, "trl": theirs}


def _recipe(folder: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((REPOSITORY / "recipes" / "reverse.yaml").read_text())
    recipe["run"] |= {"steps": STEPS, "root": str(folder)}
    recipe["model"]["path"] = str(folder / "policy")
    recipe["data"]["path"] = str(folder / "train.jsonl")
    recipe["sft"] |= {"base": str(folder / "model"), "path": str(folder / "sft.jsonl")}
    recipe["training"] |= {"mini_batches": 1}
    recipe["scoring"]["reference"] = {"precision": "float32"}
    return recipe


def _trl_spec(recipe: Mapping[str, Any], folder: Path, peer: Any) -> dict[str, Any]:
    generation, training = recipe["generation"], recipe["training"]
    return {
        "threads": peer.threads,
        "dtype": peer.dtype,
        "micro_batch": 128,
        "save": None,
        "steps": STEPS,
        "model": str(folder / "policy"),
        "prompts": str(folder / "train.jsonl"),
        "output": str(folder / "trl"),
        "batch": recipe["pacing"]["batch_groups"] * generation["group_size"],
        "group_size": generation["group_size"],
        "max_tokens": generation["max_tokens"],
        "learning_rate": training["optimizer"]["learning_rate"],
        "warmup_steps": training["optimizer"]["warmup_steps"],
        "kl_coefficient": training["kl"]["coefficient"],
        "rewards": ["exact", "characters"],
        "options": GENERATORS[peer.generator],
    }


def _row(name: str, curve: Sequence[tuple[float, float]]) -> list[str]:
    """`curve`: (seconds, exact match) by step."""
    smooth = [
        sum(exact for _, exact in curve[max(0, i + 1 - SMOOTHED_STEPS) : i + 1]) / min(i + 1, SMOOTHED_STEPS)
        for i in range(len(curve))
    ]
    reached = next((i for i, value in enumerate(smooth) if value >= GOAL), None)
    first, last = curve[0][0], curve[-1][0]
    to_goal = ["not reached", ""] if reached is None else [f"{curve[reached][0] - first:.0f}", str(reached + 1)]
    return [name, *to_goal, f"{(last - first) / (len(curve) - 1):.2f}", f"{smooth[-1]:.0%}"]


def _run(command: Sequence[str]) -> None:
    """RuntimeError with the end of what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-2000:]}")
