"""A reward model on vLLM's pooling runner: the very scores of the Hugging Face model. One engine for all (some 15 s)."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from score_cluster.pooling import VllmRewardModel
from score_cluster.reward_model import HfRewardModel

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("vllm")]

FIELD = "reward 'r': path"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, policy_folder: str) -> str:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("reward") / "model"
    shutil.copytree(policy_folder, folder)
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(folder, num_labels=1, initializer_range=0.15, architectures=None)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(folder: str) -> Iterator[VllmRewardModel]:
    model = VllmRewardModel(folder, precision="float32", tensor_parallel=1, threads=1, field=FIELD)
    yield model
    model.close()


def test_scores_are_those_of_the_hugging_face_model(folder: str, model: VllmRewardModel) -> None:
    generator = np.random.default_rng(0)
    sequences = [generator.integers(3, 25, generator.integers(1, 30), dtype=np.int32) for _ in range(100)]
    plain = HfRewardModel(folder, precision="float32", micro_batch_tokens=4096, threads=1, field=FIELD)
    expected = plain.scores(sequences)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(model.scores(sequences), expected, atol=1e-4)
    np.testing.assert_allclose(model.scores(sequences[:3]), expected[:3], atol=1e-4)
    assert model.scores([]) == []
    assert (model.vocabulary, model.context_tokens) == (plain.vocabulary, plain.context_tokens)


def test_a_request_that_is_refused_leaves_an_engine_that_works(model: VllmRewardModel) -> None:
    good = np.array([5, 6, 7], dtype=np.int32)
    (expected,) = model.scores([good])
    with pytest.raises(ValueError, match="longer than the maximum"):
        model.scores([good, np.full(model.context_tokens + 1, 5, dtype=np.int32)])
    assert model.scores([good, good]) == pytest.approx([expected] * 2, abs=1e-5)


def test_a_language_model_is_refused_before_vllm_is_asked(folder: str, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"is no reward model \(LlamaForCausalLM"):
        VllmRewardModel(str(copy), precision="float32", tensor_parallel=1, threads=1, field=FIELD)
