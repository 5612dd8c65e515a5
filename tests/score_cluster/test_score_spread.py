"""A reference on several devices: the same log-probs, and every tensor follows its layer. Seconds: 3."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from score_cluster.config import ReferenceConfig
from score_cluster.reference import HfReference, Response
from score_cluster.spread import homes, spread

META = torch.device("meta")
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "llama"
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request.param,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return str(path)


def responses() -> list[Response]:
    draws = np.random.default_rng(0)
    return [
        Response(
            prompt=draws.integers(0, 40, size=prompt, dtype=np.int32),
            tokens=draws.integers(0, 40, size=length, dtype=np.int32),
            temperature=0.7,
        )
        for prompt, length in ((3, 5), (1, 9), (6, 1))
    ]


def test_shares_differ_by_one_at_most() -> None:
    assert homes(7, 3) == [0, 0, 0, 1, 1, 2, 2]
    assert homes(4, 4) == [0, 1, 2, 3]
    assert [homes(126, 4).count(device) for device in range(4)] == [32, 32, 31, 31]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8_weights", "int8"])
def test_a_spread_reference_says_the_same_to_the_bit(folder: str, precision: str) -> None:
    def reference(gpus: int) -> HfReference:
        config = ReferenceConfig.model_validate({"precision": precision, "gpus": gpus})
        return HfReference(config, model_path=folder, threads=1)

    whole, parts = reference(1).logprobs(responses()), reference(3).logprobs(responses())
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_hidden_states_follow_the_layers(folder: str) -> None:
    """Real tensors on the CPU meet weights of another device behind the first layers, where they would fail unless moved."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tied = model.config.tie_word_embeddings
    spread(model, [CPU, META], prepare=lambda part: None, field="scoring.reference")
    places = [next(layer.parameters()).device for layer in model.model.layers]
    assert places == [CPU, CPU, META]
    assert model.model.embed_tokens.weight.device == CPU
    assert model.model.rotary_emb.inv_freq.device == CPU
    assert model.model.norm.weight.device == META
    assert model.lm_head.weight.device == (CPU if tied else META)
    if not tied:  # nothing comes back from this device
        logits = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False, logits_to_keep=torch.tensor([1, 2])).logits
        assert (logits.device, tuple(logits.shape)) == (META, (1, 2, 40))


def test_fewer_layers_than_gpus_are_refused(folder: str) -> None:
    with pytest.raises(ValueError, match=r"scoring\.reference\.gpus = 9: LlamaForCausalLM has 3 layers in a row"):
        HfReference(ReferenceConfig(gpus=9), model_path=folder, threads=1)
