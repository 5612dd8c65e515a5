"""What must stay light: a client of the records or of the settings needs none of the heavy libraries."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "deepspeed", "ray", "transformers", "redis", "boto3", "torchao", "pyarrow")
LIGHT = (
    "experience.schema",
    "experience.wire",
    "experience.pacing",
    "experience.buffer",
    "experience.config",
    "gen_cluster.config",
    "score_cluster.config",
    "train_cluster.config",
    "train_cluster.packing",
    "train_cluster.reward.pair_data",
    "train_cluster.reward.figures",
    "train_cluster.reward.config",
    "train_cluster.reward.scoring",
    "weightstore.address",
    "weightstore.config",
    "weightstore.manifest",
    "weightstore.s3",
    "orchestrator.config",
    "orchestrator.recipe",
    "orchestrator.data.order",
    "orchestrator.evaluation.config",
    "orchestrator.evaluation.statistics",
    "orchestrator.evaluation.figures",
    "orchestrator.evaluation.page",
    "orchestrator.data.source",
    "orchestrator.prompts",
    "orchestrator.preflight",
    "orchestrator.stages.sft_inputs",
    "orchestrator.stages.sft_preview",
    "orchestrator.log_reader.command",
    "orchestrator.top.command",
    "orchestrator.trace.assemble",
    "orchestrator.cli",
)

PROGRAM = """
import importlib, sys
for module in {light}:
    importlib.import_module(module)
    heavy = sorted(set(sys.modules) & set({heavy}))
    assert not heavy, f"{{module}} imports {{heavy}}"
"""


def imported(*light: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(light=light, heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_light_modules_import_nothing_heavy() -> None:
    result = imported(*LIGHT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["redis"])
def test_the_test_would_notice(module: str) -> None:
    result = imported(module)
    assert f"{module} imports [" in result.stderr
