"""`headrace sft` as users run it, a rank killed in the middle: against the same training on plain torch, which nobody killed.

One start of Ray and two of the ranks: some 15 s on two idle cores.
"""

import json
from pathlib import Path

import pytest
import yaml
from conftest import RECIPE
from loop_commands import events, headrace
from safetensors.torch import load_file

from orchestrator import recipe as recipes
from orchestrator.stages.sft_inputs import examine
from train_cluster.config import OptimizerConfig
from train_cluster.model import load_policy
from train_cluster.plain import PlainEngine
from train_cluster.supervised import loop, sft, sft_data

STEPS, KILLED_AFTER, NEWEST_CUT = 12, 8, 6
SFT = {
    "base": "data/model",
    "random_init": True,
    "path": "some.jsonl",
    "held_out_share": 0.1,
    "batch_examples": 16,
    "epochs": 2,
    "learning_rate": 3e-3,
    "warmup_steps": 4,
    "eval_steps": 4,
    "checkpoint_steps": 3,
}


@pytest.fixture(scope="module")
def recipe(workplace: Path) -> Path:
    """Twelve steps on the first hundred examples, without dropout, which no two engines draw alike."""
    rows = (workplace / "data/sft.jsonl").read_text().splitlines(keepends=True)[:100]
    (workplace / "some.jsonl").write_text("".join(rows))
    training = {**RECIPE["training"], "attention_dropout": 0.0}
    changed = {"run": {**RECIPE["run"], "name": "tuned"}, "model": {"path": "tuned"}, "training": training, "sft": SFT}
    (workplace / "sft.yaml").write_text(yaml.safe_dump(RECIPE | changed))
    return workplace / "sft.yaml"


@pytest.mark.faults
def test_fine_tuning_survives_the_death_of_a_rank(recipe: Path, tmp_path: Path) -> None:
    loaded = recipes.load(recipe)
    inputs = examine(loaded)  # before the result is there
    done = headrace("sft", recipe.name, "--json", faults=f"stage.step@{KILLED_AFTER}:self", cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    folder, out = recipe.parent / "runs/.tuned.sft", recipe.parent / "tuned"
    assert [line["step"] for line in events(folder, "rank-0", "checkpoint loaded")] == [NEWEST_CUT]
    assert not [name for name in ("checkpoints", "epochs", "stage.json") if (folder / name).exists()]
    assert (answer["steps"], answer["total"], answer["finished"]) == (STEPS, STEPS, True)
    assert json.loads((out / "training_card.json").read_text())["held_out"] == answer["held_out"]

    sft_data.save(tmp_path / "e", inputs.trained, inputs.held_out)
    trained, held_out = sft_data.load(tmp_path / "e")
    config = loaded.sft
    assert config is not None
    engine = PlainEngine(
        load_policy(config.base, random_init=True, seed=loaded.run.seed),
        optimizer=OptimizerConfig(weight_decay=config.weight_decay),
    )
    reports: list[loop.StageReport] = []
    loop.train(
        engine,
        sft.CompletionLoss(),
        trained,
        held_out=held_out,
        config=config,
        batch_units=config.batch_examples,
        micro_batch_tokens=loaded.training.micro_batch_tokens,
        seed=loaded.run.seed,
        progress=reports.append,
    )
    told = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == list(range(STEPS + 1))
    assert [line["loss"] for line in told[1:]] == pytest.approx([report.loss for report in reports[1:]], rel=1e-4)
    assert [line["held_out"].get("loss", 0) for line in told] == pytest.approx(
        [report.held_out.get("loss", 0) for report in reports], rel=1e-4
    )
    weights = load_file(out / "model.safetensors")
    for name, parameter in engine.export_partition().items():
        if name in weights:
            assert (weights[name].flatten() - parameter).abs().max() < 1e-4  # of steps of 3e-3
