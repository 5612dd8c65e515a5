"""Reference log-probs: against a naive loop, in any batching, in the order asked for, and how far INT8 is off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.reverse import write_model
from score_cluster.batching import micro_batches
from score_cluster.config import ReferenceConfig
from score_cluster.int8 import weight_bytes
from score_cluster.reference import HfReference, Response

VOCABULARY = 53


def save_llama(folder: Path, *, width: int = 64, vocabulary: int = VOCABULARY, seed: int = 1) -> str:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=128,
        initializer_range=0.15,  # sharper than a fresh model, so that log-probs differ as those of a trained one
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"))


def reference(folder: str, **settings: object) -> HfReference:
    return HfReference(ReferenceConfig.model_validate(settings), model_path=folder, threads=1)


def draw(count: int, *, seed: int = 0, temperature: float = 0.7) -> list[Response]:
    """Prompts of 1..9 and responses of 0..19 tokens."""
    generator = np.random.default_rng(seed)
    return [
        Response(
            prompt=generator.integers(0, VOCABULARY, generator.integers(1, 10), dtype=np.int32),
            tokens=generator.integers(0, VOCABULARY, generator.integers(0, 20), dtype=np.int32),
            temperature=temperature,
        )
        for _ in range(count)
    ]


def naive(folder: str, response: Response) -> list[float]:
    """One token at a time, float32, the whole prefix anew each time."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prefix, values = [int(t) for t in response.prompt], []
    for token in response.tokens.tolist():
        with torch.no_grad():
            logits = model(torch.tensor([prefix])).logits[0, -1]
        values.append(float(torch.log_softmax(logits / response.temperature, -1)[token]))
        prefix.append(token)
    return values


def test_float32_agrees_with_a_naive_loop(folder: str) -> None:
    responses = draw(12)
    for response, values in zip(responses, reference(folder, precision="float32").logprobs(responses), strict=True):
        assert values.dtype == np.float32
        assert not values.flags.writeable
        np.testing.assert_allclose(values, naive(folder, response), atol=1e-5)


def test_neither_batching_nor_order_changes_a_value(folder: str) -> None:
    responses = draw(30, seed=1)
    together = reference(folder, precision="float32", micro_batch_tokens=4096).logprobs(responses)
    apart = reference(folder, precision="float32", micro_batch_tokens=1).logprobs(responses)
    backwards = reference(folder, precision="float32", micro_batch_tokens=64).logprobs(responses[::-1])[::-1]
    for one, two, three in zip(together, apart, backwards, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
        np.testing.assert_allclose(one, three, atol=1e-5)


def test_each_response_has_its_own_temperature(folder: str) -> None:
    hot, cold = draw(1, temperature=2.0), draw(1, temperature=0.5)
    values = reference(folder, precision="float32").logprobs(hot + cold)
    for response, found in zip(hot + cold, values, strict=True):
        np.testing.assert_allclose(found, naive(folder, response), atol=1e-5)
    assert np.abs(values[0] - values[1]).max() > 0.1


@pytest.mark.parametrize(("precision", "mean_limit"), [("int8", 0.06), ("int8_weights", 0.04), ("bfloat16", 0.03)])
def test_low_precision_stays_near_float32(folder: str, precision: str, mean_limit: float) -> None:
    responses = draw(40, seed=2, temperature=1.0)
    exact = np.concatenate(reference(folder, precision="float32").logprobs(responses))
    near = np.concatenate(reference(folder, precision=precision).logprobs(responses))
    error = np.abs(near - exact)
    assert 0 < error.mean() < mean_limit
    assert error.max() < 10 * mean_limit
    assert np.corrcoef(near, exact)[0, 1] > 0.999


def test_batching_moves_int8_by_far_less_than_its_error(folder: str) -> None:
    """Activations are scaled token by token: of a neighbour no more is felt than a rounding that tips over."""
    responses = draw(30, seed=3)
    exact, together, apart = (
        np.concatenate(reference(folder, precision=precision, micro_batch_tokens=tokens).logprobs(responses))
        for precision, tokens in (("float32", 4096), ("int8", 4096), ("int8", 1))
    )
    assert np.abs(together - apart).mean() < 0.2 * np.abs(together - exact).mean()


@pytest.mark.parametrize("precision", ["int8", "int8_weights"])
def test_int8_shrinks_all_but_embeddings_and_norms(folder: str, precision: str) -> None:
    exact, small = reference(folder, precision="float32")._model, reference(folder, precision=precision)._model
    embedding = VOCABULARY * 64 * 4
    assert weight_bytes(small) - embedding < 0.3 * (weight_bytes(exact) - embedding)
    assert small.lm_head.weight is small.model.embed_tokens.weight


def test_int8_of_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=VOCABULARY)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"scoring.reference.path: its precision is INT8, and GPT2LMHeadModel has matrices outside linear layers .*use float32 or bfl",
    ):
        reference(str(tmp_path), precision="int8")


def test_outlier_activations_cost_int8_far_more_than_int8_weights(folder: str, tmp_path: Path) -> None:
    """One channel 30 times as large before the linear layers, as trained models have it, and undone in their weights."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[3] *= 30
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.weight[:, 3] /= 30
    model.save_pretrained(tmp_path)
    responses = draw(40, seed=4, temperature=1.0)
    exact, both, weights = (
        np.concatenate(reference(str(tmp_path), precision=precision).logprobs(responses))
        for precision in ("float32", "int8", "int8_weights")
    )
    assert np.abs(both - exact).mean() > 2 * np.abs(weights - exact).mean()


def test_a_missing_folder_missing_weights_and_another_vocabulary_are_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no model folder"):
        reference(folder, path=str(tmp_path / "absent"))
    write_model(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare: has no weights"):
        reference(str(tmp_path / "bare"))
    other = save_llama(tmp_path / "other", vocabulary=VOCABULARY + 1)
    with pytest.raises(ValueError, match=r"has a vocabulary of 54, the policy .* one of 53"):
        reference(folder, path=other)


def test_impossible_responses_are_refused(folder: str) -> None:
    def ask(prompt: list[int], tokens: list[int], temperature: float = 1.0) -> None:
        arrays = [np.array(values, dtype=np.int32) for values in (prompt, tokens)]
        response = Response(prompt=arrays[0], tokens=arrays[1], temperature=temperature)
        reference(folder, precision="float32").logprobs([response])

    with pytest.raises(ValueError, match="an empty prompt"):
        ask([], [1])
    with pytest.raises(ValueError, match="token 53 is outside the reference's vocabulary of 53"):
        ask([1], [53])
    with pytest.raises(ValueError, match=r"temperature 0\.0 must be above 0"):
        ask([1], [1], temperature=0.0)


@settings(deadline=None)  # a busy machine is no failure
@given(lengths=st.lists(st.integers(1, 50), max_size=40), limit=st.integers(1, 120))
def test_micro_batches_take_every_sequence_once_and_keep_the_limit(lengths: list[int], limit: int) -> None:
    batches = micro_batches(lengths, limit=limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= limit


def test_micro_batches_by_hand() -> None:
    # longest first: 9 alone (9 <= 10 < 18), then 4 + 3 (2 x 4 <= 10), then 1
    assert micro_batches([3, 9, 1, 4], limit=10) == [[1], [3, 0], [2]]
