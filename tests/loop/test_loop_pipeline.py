"""From random weights to a judged policy by one command, which is killed in the midst of the run and given again.

All stages are real and as short as they can be: fine-tuning, a reward model, PPO whose critic starts from it, export,
evaluation. Two lives of the command and the ranks of the replay: some 85 s on two idle cores, of which the starts are nine
tenths.
"""

import json
import random
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RECIPE
from loop_commands import as_json, events, headrace

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

STEPS = 4
SIGKILLED = -signal.SIGKILL
WHOLE: dict[str, Any] = RECIPE | {
    "run": {"name": "whole", "steps": STEPS, "root": "runs"},
    "model": {"path": "data/taught"},
    "sft": {
        "base": "data/model",
        "random_init": True,
        "path": "data/few.jsonl",
        "batch_examples": 64,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
    },
    "reward": {
        "path": "data/pairs.jsonl",
        "out": "data/judge",
        "batch_pairs": 32,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
    },
    "scoring": RECIPE["scoring"] | {"rewards": [{"name": "liked", "kind": "model", "path": "data/judge"}]},
    "evaluation": {
        "path": "data/heldout.jsonl",
        "limit": 32,
        "judge": {"function": "score_cluster.functions:character_accuracy"},
        "gates": ["win_rate>=0", "length_ratio>0"],
    },
}


@pytest.fixture
def recipe(workplace: Path) -> Path:
    """512 examples of the task, 128 pairs of a right answer and a random one, and the recipe beside `small.yaml`."""
    examples = islice((workplace / "data" / "sft.jsonl").read_text().splitlines(), 512)
    (workplace / "data" / "few.jsonl").write_text("".join(f"{line}\n" for line in examples))
    draw = random.Random(0)
    with (workplace / "data" / "pairs.jsonl").open("w") as pairs:
        for line in islice((workplace / "data" / "train.jsonl").read_text().splitlines(), 128):
            prompt = json.loads(line)["prompt"]
            right = prompt.rstrip(">")[::-1]
            wrong = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=len(right)))
            pairs.write(json.dumps({"prompt": prompt, "chosen": right, "rejected": wrong}) + "\n")
    path = workplace / "whole.yaml"
    path.write_text(yaml.safe_dump(WHOLE))
    return path


def test_a_pipeline_that_is_killed_in_its_run_is_completed_by_the_same_command(workplace: Path, recipe: Path) -> None:
    run, stages = workplace / "runs" / "whole", ["sft", "reward"]
    killed = headrace("pipeline", recipe.name, faults="batch.commit.after@3:driver", cwd=workplace)
    assert killed.returncode == SIGKILLED, killed.stderr
    assert (run / "faults" / "batch.commit.after@3").exists()
    one_set_of_processes_served_all_stages(run, stages)
    made = {stage: (workplace / "runs" / f".whole.{stage}").stat().st_mtime_ns for stage in stages}

    done = as_json("pipeline", recipe.name, cwd=workplace)["stages"]
    assert {one["stage"]: one["here"] for one in done} == {**dict.fromkeys(stages, False), "run": True, "export": True, "eval": True}  # fmt: skip
    assert made == {stage: (workplace / "runs" / f".whole.{stage}").stat().st_mtime_ns for stage in stages}

    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"], status["epoch"]) == ("completed", STEPS, STEPS, 2)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert balance["outcomes"] == {"trained": STEPS * 4}
    again = as_json("run", "--replay", run, cwd=workplace)
    assert again["identical"]
    assert (again["from_step"], again["to_step"]) == (0, STEPS), "the steps of shared and of fresh processes"

    assert json.loads((workplace / "data" / "judge" / "reward_card.json").read_text())["held_out"]["pairs"] > 0
    assert (run / "policy" / "model.safetensors").exists()
    judged = json.loads((run / "evaluation.json").read_text())
    assert list(judged["figures"]) == ["start", "whole"]
    assert all(gate["passed"] for gate in judged["gates"])
    assert len(judged["answers"]) == 32
    assert (run / "evaluation.html").exists()


def one_set_of_processes_served_all_stages(run: Path, stages: list[str]) -> None:
    """The ranks came up in the first stage and were taken over by the others; the engine loaded its libraries meanwhile."""
    folders = [run.with_name(f".{run.name}.{stage}") for stage in stages]
    for rank in ("rank-0", "rank-1"):
        up = [line["pid"] for folder in (*folders, run) for line in events(folder, rank, "process up")]
        over = [line["pid"] for folder in (*folders, run) for line in events(folder, rank, "process taken over")]
        assert len(up) == 1
        assert over == up * len(stages)
    for worker in ("gen-0", "score-0"):
        assert len(events(folders[0], worker, "process up")) == 1
        assert events(run, worker, "process up") == []
        assert len(events(run, worker, "process taken over")) == 1
