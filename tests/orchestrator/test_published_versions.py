"""What newest, best and a step mean among the versions that a run keeps. Half a second."""

import pytest
import torch
from orchestrator_folders import a_run

from orchestrator.evaluation.policies import find_policy
from orchestrator.folder import RunFolder
from orchestrator.published import find_version
from weightstore.blobs import FileBlobStore
from weightstore.manifest import WeightVersion
from weightstore.pins import pin
from weightstore.publish import commit, record_newest, write_shard


def test_a_version_is_named_by_newest_best_or_its_step(tmp_path):
    store, folder = FileBlobStore(tmp_path / "r"), RunFolder(tmp_path / "r")
    with pytest.raises(ValueError, match="published no weights yet; remedy: let it train a step"):
        find_version(store, folder, "newest")
    with pytest.raises(ValueError, match=r"version = 4: .* keeps no such version \(kept: none\)"):
        find_version(store, folder, "4")
    for epoch, number in ((1, 2), (1, 4), (3, 4), (3, 6)):
        publish(store, WeightVersion(0, epoch, number))
    record_newest(store, WeightVersion(0, 3, 6), run_epoch=2)
    with pytest.raises(ValueError, match=r"none is best; remedy: set evaluation\.interval_steps and resume"):
        find_version(store, folder, "best")
    pin(store, "best", WeightVersion(0, 1, 2), run_epoch=2)
    named = {which: str(find_version(store, folder, which)) for which in ("newest", "best", "4")}
    assert named == {"newest": "0/3/6", "best": "0/1/2", "4": "0/3/4"}
    with pytest.raises(ValueError, match=r"version = 5: .* \(kept: 2, 4, 6\); name one of these, best or newest"):
        find_version(store, folder, "5")


def test_an_evaluation_finds_the_best_of_a_run_by_its_pin(tmp_path):
    run = a_run(tmp_path, "trial")
    store = FileBlobStore(run.path)
    with pytest.raises(ValueError, match=r"^POLICY = \S+trial@best: \S+: no version was evaluated yet"):
        find_policy(f"{run.path}@best")
    publish(store, WeightVersion(0, 1, 2))
    publish(store, WeightVersion(0, 1, 4))
    record_newest(store, WeightVersion(0, 1, 4), run_epoch=1)
    pin(store, "best", WeightVersion(0, 1, 2), run_epoch=1)
    versions = [find_policy(f"{run.path}{which}").version for which in ("", "@best", "@4", "@2")]
    assert [version.number for version in versions] == [4, 2, 4, 2]


def publish(store, version):
    write_shard(store, version, 0, {"a": torch.zeros(1)})
    facts = {"aliases": {}, "model_hash": "m", "tokenizer_hash": "t", "deadline_s": 5.0, "cancelled": lambda: False}
    commit(store, version, shards=1, step=version.number, **facts)
