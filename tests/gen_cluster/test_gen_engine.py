"""The contract of VllmEngine, on a real vLLM: what it returns is what transformers says of the published weights."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gen_tiny_policy
import numpy as np
import pytest
import torch
from gen_tiny_policy import FIRST, SECOND, Published, logprobs_of, prompt_tokens, sampling
from prometheus_client import REGISTRY

from experience.schema import VersionSpan
from gen_cluster.engine import Finished, WeightsRefused
from gen_cluster.vllm_engine import VllmEngine
from weightstore.blobs import FileBlobStore
from weightstore.fetch import FetchedVersion, StoreWeightSource
from weightstore.manifest import WeightVersion

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("vllm")]

TOLERANCE = 1e-5
"""Nats; vLLM's kernels and transformers' differ by about 5e-7."""


def drain(engine: VllmEngine) -> dict[str, Finished]:
    finished = []
    for _ in range(1000):
        if not engine.running():
            break
        finished += engine.step()
    return {one.request_id: one for one in finished}


def span(version: WeightVersion, start: int, end: int) -> VersionSpan:
    return VersionSpan(lineage=version.lineage, epoch=version.epoch, number=version.number, start=start, end=end)


def test_logprobs_are_those_of_the_published_weights_at_the_sampling_temperature(
    engine: VllmEngine, published: Published
) -> None:
    prompts = {f"r{i}": prompt_tokens(3 + 7 * i, seed=i) for i in range(6)}
    for i, (request_id, tokens) in enumerate(prompts.items()):
        engine.add(request_id, tokens=tokens, sampling=sampling(24), seed=i)
    finished = drain(engine)
    assert finished.keys() == prompts.keys()
    for request_id, one in finished.items():
        assert one.finish_reason == "length"
        assert one.tokens.shape == one.logprobs.shape == (24,)
        assert one.tokens.dtype == np.int32
        assert one.logprobs.dtype == np.float32
        assert one.spans == (span(FIRST, 0, 24),)
        expected = logprobs_of(published.policies[0], prompts[request_id], one.tokens)
        np.testing.assert_allclose(one.logprobs, expected, atol=TOLERANCE, rtol=0)


def test_samples_follow_their_own_seed_alone(engine: VllmEngine) -> None:
    tokens = prompt_tokens(9)
    for request_id, seed in {"a": 5, "b": 6, "c": 5}.items():
        engine.add(request_id, tokens=tokens, sampling=sampling(16), seed=seed)
    finished = drain(engine)
    np.testing.assert_array_equal(finished["a"].tokens, finished["c"].tokens)
    assert not np.array_equal(finished["a"].tokens, finished["b"].tokens)


def test_a_stop_token_ends_the_response_and_stays_its_last_token(engine: VllmEngine, published: Published) -> None:
    tokens = prompt_tokens(9)
    engine.add("free", tokens=tokens, sampling=sampling(16), seed=5)
    free = drain(engine)["free"]
    stop = int(free.tokens[6])
    length = int(np.flatnonzero(free.tokens == stop)[0]) + 1
    engine.add("stopped", tokens=tokens, sampling=sampling(16, stop=(stop,)), seed=5)
    stopped = drain(engine)["stopped"]
    assert stopped.finish_reason == "stop"
    np.testing.assert_array_equal(stopped.tokens, free.tokens[:length])
    expected = logprobs_of(published.policies[0], tokens, stopped.tokens)
    np.testing.assert_allclose(stopped.logprobs, expected, atol=TOLERANCE, rtol=0)


def test_the_model_folders_own_end_token_does_not_stop(engine: VllmEngine, published: Published) -> None:
    for i in range(16):
        engine.add(f"r{i}", tokens=prompt_tokens(9), sampling=sampling(64), seed=i)
    finished = drain(engine).values()
    assert any(gen_tiny_policy.EOS in one.tokens for one in finished)
    assert all(len(one.tokens) == 64 for one in finished)


def test_a_short_request_added_while_long_ones_run_ends_first(engine: VllmEngine) -> None:
    for i in range(4):
        engine.add(f"long{i}", tokens=prompt_tokens(5, seed=i), sampling=sampling(60), seed=i)
    for _ in range(10):
        assert engine.step() == []
    assert (engine.running(), engine.free_slots()) == (4, 12)
    engine.add("short", tokens=prompt_tokens(5, seed=9), sampling=sampling(5), seed=9)
    order = []
    while engine.running():
        order += [one.request_id for one in engine.step()]
    assert order[0] == "short"
    assert set(order[1:]) == {f"long{i}" for i in range(4)}


def test_another_thread_than_the_one_that_started_the_engine_may_drive_it(engine: VllmEngine) -> None:
    engine.add("r", tokens=prompt_tokens(5), sampling=sampling(8), seed=1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(drain, engine).result().keys() == {"r"}


def test_aborted_requests_vanish(engine: VllmEngine) -> None:
    for request_id in ("keep", "drop"):
        engine.add(request_id, tokens=prompt_tokens(5), sampling=sampling(8), seed=1)
    engine.step()
    engine.abort(["drop", "never added"])
    assert engine.running() == 1
    assert drain(engine).keys() == {"keep"}


def seen(name: str) -> float:
    return REGISTRY.get_sample_value(f"headrace_gen_{name}") or 0.0


def test_an_engine_tells_of_its_tokens_its_cache_and_what_is_given_up(engine: VllmEngine) -> None:
    timed = ("time_to_first_token_seconds", "time_per_output_token_seconds")
    before = {name: (seen(f"{name}_count"), seen(f"{name}_sum")) for name in timed}
    began = time.monotonic()
    for index in range(3):
        engine.add(f"told-{index}", tokens=prompt_tokens(9), sampling=sampling(8), seed=index)
    for _ in range(3):
        engine.step()
    assert 0 < seen("kv_cache_ratio") < 1
    assert engine.abort(["told-2", "unknown"]) == 3
    drain(engine)
    elapsed = time.monotonic() - began
    (firsts, first_s), (between, between_s) = (
        (seen(f"{name}_count") - before[name][0], seen(f"{name}_sum") - before[name][1]) for name in timed
    )
    assert (firsts, between) == (3, 2)  # the aborted one had begun, and did not end
    assert 0 < first_s < 3 * elapsed
    assert 0 < 7 * between_s < 2 * elapsed  # seven steps between the eight tokens of each
    assert engine.abort(["told-0"]) == 0
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("vllm")]


def test_preemptions_are_counted(engine: VllmEngine) -> None:
    from gen_cluster.engine_stats import EngineStats

    before = seen("preemptions_total")
    step = SimpleNamespace(time_to_first_tokens_iter=[], finished_requests=[], num_preempted_reqs=2)
    EngineStats(None).record(SimpleNamespace(kv_cache_usage=0.5), step)
    EngineStats(None).record(None, None)
    assert seen("preemptions_total") == before + 2
    assert seen("kv_cache_ratio") == 0.5


def test_weights_change_between_two_tokens_of_running_requests(engine: VllmEngine, published: Published) -> None:
    tokens = prompt_tokens(9)
    engine.add("across", tokens=tokens, sampling=sampling(30), seed=3)
    for _ in range(12):
        engine.step()
    engine.update(published.source.fetch(SECOND))
    engine.add("after", tokens=prompt_tokens(11), sampling=sampling(10), seed=4)
    finished = drain(engine)

    after = finished["after"]
    assert after.spans == (span(SECOND, 0, 10),)
    expected = logprobs_of(published.policies[1], prompt_tokens(11), after.tokens)
    np.testing.assert_allclose(after.logprobs, expected, atol=TOLERANCE, rtol=0)

    across = finished["across"]
    assert across.spans == (span(FIRST, 0, 12), span(SECOND, 12, 30))
    old = logprobs_of(published.policies[0], tokens, across.tokens)
    np.testing.assert_allclose(across.logprobs[:12], old[:12], atol=TOLERANCE, rtol=0)
    mixed = _logprobs_across(published, tokens, across.tokens, switch=12)
    np.testing.assert_allclose(across.logprobs[12:], mixed[12:], atol=TOLERANCE, rtol=0)
    assert np.abs(across.logprobs[12:] - old[12:]).max() > 0.1, "the two versions must differ visibly"


@torch.no_grad()
def _logprobs_across(published: Published, prompt: np.ndarray, response: np.ndarray, *, switch: int) -> np.ndarray:
    """[L] what a policy gives that keeps the KV entries of the old weights: all inputs before response token switch-1.

    The input at which the new weights first run is the last token that the old ones sampled.
    """
    tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
    boundary = len(prompt) + switch - 1
    past = published.policies[0](tokens[None, :boundary], use_cache=True)
    new = published.policies[1](tokens[None, boundary:], past_key_values=past.past_key_values)
    logits = torch.cat([past.logits[0], new.logits[0]])
    logprobs = torch.log_softmax(logits / gen_tiny_policy.TEMPERATURE, dim=-1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, tokens[len(prompt) :, None])[:, 0].numpy()


def test_the_prefix_cache_of_older_weights_is_not_reused(engine: VllmEngine, published: Published) -> None:
    shared = prompt_tokens(300)  # two whole blocks of 128
    engine.add("running", tokens=prompt_tokens(5), sampling=sampling(40), seed=1)
    engine.add("old", tokens=shared, sampling=sampling(4), seed=2)
    for _ in range(6):
        engine.step()
    engine.update(published.source.fetch(SECOND))
    engine.add("new", tokens=shared, sampling=sampling(16), seed=2)
    new = drain(engine)["new"]
    expected = logprobs_of(published.policies[1], shared, new.tokens)
    np.testing.assert_allclose(new.logprobs, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        (prompt_tokens(0), "empty"),
        (prompt_tokens(gen_tiny_policy.CONTEXT), "longer than the maximum model length of 512"),
        (np.array([5, 98], dtype=np.int32), r"must be in 0 \.\. 97"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(engine: VllmEngine, tokens: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        engine.add("bad", tokens=tokens, sampling=sampling(4), seed=0)
    assert engine.running() == 0


def test_expected_names_have_the_tied_head_once(engine: VllmEngine, published: Published) -> None:
    shapes = engine.expected_shapes()
    assert shapes == {
        name: tuple(tensor.shape) for name, tensor in gen_tiny_policy.tensors_of(published.policies[0]).items()
    }
    assert "model.embed_tokens.weight" in shapes
    assert "lm_head.weight" not in shapes


def _fetched(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> FetchedVersion:
    version = WeightVersion(0, 1, 5)
    gen_tiny_policy.publish_tensors(FileBlobStore(tmp_path), version, tensors)
    return StoreWeightSource(FileBlobStore(tmp_path), lineage=0, run_epoch=0, threads=1).fetch(version)


def _missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.1.self_attn.k_proj.weight"]


def _extra(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]


def _misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(65)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_missing, r"model.layers.1.self_attn.k_proj.weight is missing"),
        (_extra, r"lm_head.weight is not in the model"),
        (_misshapen, r"model.norm.weight has shape \(65,\), the model \(64,\)"),
    ],
)
def test_a_version_that_does_not_fit_is_refused_and_the_old_one_serves_whole(
    engine: VllmEngine, published: Published, tmp_path: Path, spoil, match: str
) -> None:
    tensors = gen_tiny_policy.tensors_of(published.policies[1])
    spoil(tensors)
    engine.add("running", tokens=prompt_tokens(7), sampling=sampling(12), seed=1)
    engine.step()
    with pytest.raises(WeightsRefused, match=match):
        engine.update(_fetched(tmp_path, tensors))
    _serves_first(engine, published)


def test_a_tensor_damaged_after_the_fetch_is_refused(engine: VllmEngine, published: Published, tmp_path: Path) -> None:
    fetched = _fetched(tmp_path, gen_tiny_policy.tensors_of(published.policies[1]))
    entry = fetched.manifest.tensors[3]
    with (tmp_path / fetched.manifest.version.folder / entry.blob).open("r+b") as blob:
        blob.seek(entry.offset + 1)
        byte = blob.read(1)[0]
        blob.seek(entry.offset + 1)
        blob.write(bytes([byte ^ 1]))
    engine.add("running", tokens=prompt_tokens(7), sampling=sampling(12), seed=1)
    with pytest.raises(WeightsRefused, match=f"tensor {entry.name}: expected sha256 {entry.sha256}"):
        engine.update(fetched)
    _serves_first(engine, published)


def test_a_file_that_cannot_be_read_is_no_refusal_and_the_old_version_serves(
    engine: VllmEngine, published: Published, tmp_path: Path
) -> None:
    """As a stale file handle would show: with the file back, the same version loads."""
    fetched = _fetched(tmp_path, gen_tiny_policy.tensors_of(published.policies[1]))
    shard = tmp_path / fetched.manifest.version.folder / fetched.manifest.blobs[0].name
    away = shard.rename(tmp_path / "away")
    engine.add("running", tokens=prompt_tokens(7), sampling=sampling(12), seed=1)
    with pytest.raises(OSError, match="No such file"):
        engine.update(fetched)
    _serves_first(engine, published)
    away.rename(shard)
    engine.update(fetched)
    assert engine.served == fetched.manifest.version


def test_a_delta_is_refused(engine: VllmEngine, published: Published) -> None:
    fetched = published.source.fetch(SECOND)
    changes = {"kind": "delta", "base": str(FIRST)}
    manifest = type(fetched.manifest)(
        **{name: getattr(fetched.manifest, name) for name in fetched.manifest.__struct_fields__} | changes
    )
    with pytest.raises(WeightsRefused, match="kind 'delta' must be decoded"):
        engine.update(replace(fetched, manifest=manifest))
    assert engine.served == FIRST


def _serves_first(engine: VllmEngine, published: Published) -> None:
    assert engine.served == FIRST
    running = drain(engine)["running"]
    assert running.spans == (span(FIRST, 0, 12),)
    expected = logprobs_of(published.policies[0], prompt_tokens(7), running.tokens)
    np.testing.assert_allclose(running.logprobs, expected, atol=TOLERANCE, rtol=0)
