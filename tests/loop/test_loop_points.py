"""A run killed at every named point of the protocol in turn trains the same policy and the same critic as one that was
never killed: PPO with dropout, epochs and mini-batches, the first step the critic's alone.

By the functions and on the stores of the real command (an embedded server, files), but in one process a life, which costs
half a second where a start of the loop costs half a minute. Two processes import the libraries: 12 s in all.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from loop_commands import TIMEOUT_S
from one_process_life import RECIPE, STEPS
from transformers import LlamaConfig

from experience.server import EmbeddedServer
from orchestrator.audit import audit
from orchestrator.folder import RunFolder
from train_cluster.checkpoint import cuts
from weightstore.blobs import FileBlobStore

POINTS = (
    "epoch.claimed@1",
    "cut.manifest.before@0",
    "cut.manifest.after@0",
    "version.manifest.before@0",
    "version.manifest.after@0",
    "newest.before@0",
    "newest.after@0",
    "issue.before@0",
    "issue.after@0",
    "batch.commit.before@1",
    "batch.commit.after@1",
    "batch.acknowledged@1",
    "version.manifest.before@1",
    "newest.before@1",
    "issue.before@4",
    "batch.commit.after@2",
    "cut.manifest.before@2",
    "cut.manifest.after@2",
    "batch.commit.before@3",
    "newest.after@3",
    "issue.after@8",
    "batch.acknowledged@4",
    "cut.manifest.before@4",
    "version.manifest.after@5",
    "batch.commit.after@6",
    "cut.manifest.after@6",
)
"""Each in a life of its own, in the order in which a life comes by them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ).save_pretrained(folder)
    return folder


def lives(run: Path, model: Path, *points: str) -> str:
    """What the last of them prints: the digest of its weights."""
    script = Path(__file__).with_name("one_process_life.py")
    try:
        done = subprocess.run(
            [sys.executable, script, run, model, *points], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    finally:
        EmbeddedServer(run / "redis").stop()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def last_cut(run: Path) -> tuple[list[str], str]:
    """The models of the newest checkpoint, and the hash of all their weights and moments."""
    cut = cuts(FileBlobStore(run), 0)[0]
    assert cut.step == STEPS
    return sorted(cut.models), cut.blobs[0].sha256


def test_a_death_at_any_point_changes_neither_books_nor_weights(model: Path, tmp_path: Path) -> None:
    killed = lives(tmp_path / "killed", model, *POINTS)
    markers = {path.name for path in (tmp_path / "killed" / "faults").iterdir()}
    assert markers == set(POINTS)
    assert killed == lives(tmp_path / "whole", model)
    assert last_cut(tmp_path / "killed") == last_cut(tmp_path / "whole")
    for name in ("killed", "whole"):
        report = audit(RECIPE, RunFolder(tmp_path / name))
        assert report.problems == []
        assert report.outcomes == {"trained": 2 * STEPS}  # nothing lost, though a server was adopted each time
        assert report.unsettled == 0
