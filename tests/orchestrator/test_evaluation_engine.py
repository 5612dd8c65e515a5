"""`headrace eval` with its real engine, once: folders and versions of a run side by side, the better one known. 15 s idle,
nearly all of it the start of vLLM in its own process."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from orchestrator_folders import sections, write_rows, write_tokenizer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from gen_cluster import vllm_engine
from gen_cluster.config import EngineConfig
from gen_cluster.engine import Finished
from orchestrator import recipe as recipes
from orchestrator import yamlfile
from orchestrator.evaluation import command, engine_process
from orchestrator.evaluation.command import plan_for
from orchestrator.evaluation.policies import find_policies
from orchestrator.folder import RunFolder
from orchestrator.stores import open_store
from weightstore import publish
from weightstore.fetch import FetchedVersion
from weightstore.manifest import WeightVersion

LETTER_A = 3
"""Token of the letter that the better policy writes."""
MAX_TOKENS = 6


def build(folder: Path) -> LlamaForCausalLM:
    """Tied embeddings; heads of 32, the least that vLLM's CPU attention knows."""
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def fond_of_a(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Weights that write `a` four times of five: the last norm gives a constant, and only that letter points its way."""
    with torch.no_grad():
        hidden = torch.ones(64)
        model.model.norm.weight.fill_(0.1)
        for layer in model.model.layers:  # what is left of the embedding alone reaches the norm
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.model.embed_tokens.weight
        embedding.copy_(0.02 * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)) + 0.7 * hidden)
        embedding[LETTER_A] += 0.8 * hidden
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `plain` and `fond`, and `runs/trial`, which published plain as version 0 and fond as version 3."""
    root = tmp_path_factory.mktemp("evaluation")
    model = build(root / "plain")
    plain = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fond = fond_of_a(model)
    shutil.copytree(root / "plain", root / "fond")
    # As some tools save them: the tied head under its own name as well.
    both = {**fond, "lm_head.weight": fond["model.embed_tokens.weight"].clone()}
    save_file(both, root / "fond" / "model.safetensors", metadata={"format": "pt"})
    write_rows(root / "held.jsonl", [{"prompt": f"say {a}{b}", "answer": "aaaaaa"} for a in "bcdefg" for b in "hijk"])
    write_rows(root / "d.jsonl", [{"prompt": "say bh"}])
    content = sections(
        model={"path": "plain"},
        generation={"max_tokens": MAX_TOKENS, "engine": {"dtype": "float32", "kv_cache_gib": 0.125, "threads": 1}},
        scoring={"rewards": [{"name": "letters", "function": "score_cluster.functions:character_accuracy"}]},
        evaluation={"path": "held.jsonl", "samples": 2, "gates": ["win_rate>=0.9"]},
    )
    (root / "trial.yaml").write_text(yamlfile.render(content))
    recipe = recipes.load(root / "trial.yaml", [f"run.root={root / 'runs'}"])
    run = RunFolder(root / "runs" / "trial")
    run.create()
    run.write(run.recipe, recipes.dump(recipe))
    store = open_store(recipe, run)
    for number, tensors in ((0, plain), (3, fond)):
        version = WeightVersion(0, 1, number)
        publish.write_shard(store, version, 0, tensors)
        publish.commit(
            store,
            version,
            shards=1,
            step=number,
            aliases={},
            model_hash="",
            tokenizer_hash="",
            deadline_s=10,
            cancelled=lambda: False,
        )
        publish.record_newest(store, version, run_epoch=1)
    return root


@pytest.fixture(scope="module")
def told(place: Path) -> dict[str, Any]:
    """What `headrace eval … --out FILE` leaves in FILE."""
    out = place / "out.json"
    named = [str(place / one) for one in ("plain", "fond", "runs/trial", "runs/trial@0")]
    with pytest.raises(SystemExit) as ended:  # version 0 is no better than itself: the recipe's gate
        command.run(named, recipe_path=None, settings={}, gates=["kl<=100"], out=out, page=None, as_json=True)
    assert ended.value.code == 1
    content: dict[str, Any] = json.loads(out.read_text())
    return content


class RecordingEngine:
    """Answers each request with one token at once, and keeps what it was to serve."""

    updates: ClassVar[list[FetchedVersion]] = []

    def __init__(self, config: EngineConfig, *, model_path: str) -> None:
        self._asked: list[str] = []

    def update(self, fetched: FetchedVersion) -> None:
        self.updates.append(fetched)

    def add(self, request_id: str, *, tokens: Any, sampling: Any, seed: int) -> None:
        self._asked.append(request_id)

    def step(self) -> list[Finished]:
        asked, self._asked = self._asked, []
        one = {
            "tokens": np.ones(1, np.int32),
            "logprobs": np.zeros(1, np.float32),
            "spans": (),
            "finish_reason": "stop",
        }
        return [Finished(request_id=request_id, **one) for request_id in asked]

    def running(self) -> int:
        return len(self._asked)

    def free_slots(self) -> int:
        return 3

    def close(self) -> None: ...


@pytest.fixture
def served(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """served(policy, …): what the engine's process replies, by an engine that only keeps what it is given."""
    monkeypatch.setattr(vllm_engine, "VllmEngine", RecordingEngine)
    monkeypatch.setattr(RecordingEngine, "updates", [])

    def serve(*names: str) -> list[dict[str, Any]]:
        policies = find_policies([str(place / name) for name in names])
        recipe = recipes.load(place / "trial.yaml")
        reply = io.StringIO()
        request = engine_process.request_of(plan_for(policies, recipe), dict.fromkeys(policies, 0))
        engine_process.serve(json.loads(json.dumps(request)), reply)
        return [json.loads(line) for line in reply.getvalue().splitlines()]

    return serve


def test_equally_named_versions_of_two_runs_are_kept_apart(
    place: Path, served: Callable[..., list[dict[str, Any]]]
) -> None:
    """The engine knows what it has in its cache by the version's name."""
    shutil.copytree(place / "runs" / "trial", place / "twin" / "trial")
    told = served("runs/trial", "twin/trial", "fond")
    assert len({str(one.manifest.version) for one in RecordingEngine.updates}) == 3
    assert len({one.manifest.digest() for one in RecordingEngine.updates}) == 1
    rows = [one["policy"].rpartition("/")[2] for one in told if "row" in one]
    assert rows == ["trial"] * 48 + ["fond"] * 24
    assert all(len(one["row"]) == 2 for one in told if "row" in one)


def test_damaged_weights_are_refused_and_named(place: Path, served: Callable[..., list[dict[str, Any]]]) -> None:
    shutil.copytree(place / "runs" / "trial", place / "hurt" / "trial")
    (shard,) = (place / "hurt" / "trial").rglob("v3/*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    (told,) = served("hurt/trial")
    assert told["error"].startswith(f"POLICY = {place / 'hurt' / 'trial'}: weights/0/e1/v3/shard-00000.safetensors")
    assert "expected sha256" in told["error"]
    assert RecordingEngine.updates == []


def figures(told: dict[str, Any], name: str) -> dict[str, float]:
    (found,) = (figures for policy, figures in told["figures"].items() if policy.endswith(f"/{name}"))
    return found


def texts(told: dict[str, Any], name: str) -> list[list[str]]:
    return [
        [sample["text"] for sample in samples]
        for one in told["answers"]
        for policy, samples in one["answers"].items()
        if policy.endswith(f"/{name}")
    ]


def test_the_better_policy_wins(told: dict[str, Any]) -> None:
    fond = figures(told, "fond")
    assert fond["win_rate"] > 0.95
    assert fond["win_rate_low"] > 0.9
    assert fond["reward"] == pytest.approx(fond["reward.letters"])
    assert fond["reward"] > 0.15 > 0.1 > figures(told, "plain")["reward"]
    assert told["judge"] == "the recipe's reward"
    assert [one["passed"] for one in told["gates"] if one["policy"].endswith("/fond")] == [True, True]


def test_a_version_is_read_from_the_runs_store(told: dict[str, Any]) -> None:
    """The newest has the weights of `fond`, and every challenger the same seeds."""
    assert texts(told, "trial") == texts(told, "fond") != texts(told, "plain")


def test_the_two_sides_draw_independently(told: dict[str, Any]) -> None:
    """Equal weights, other answers: else every comparison of a policy with itself would be a tie."""
    same = figures(told, "trial@0")
    assert texts(told, "trial@0") != texts(told, "plain")
    assert 0.3 < same["win_rate"] < 0.7
    assert same["win_rate_low"] < 0.5 < same["win_rate_high"]
    assert [one["passed"] for one in told["gates"] if one["policy"].endswith("@0")] == [False, True]


def test_kl_is_that_of_exact_logprobs(told: dict[str, Any]) -> None:
    """The reference is the model that the run began with, which is `plain`: engine and reference differ by rounding."""
    assert told["reference"].endswith("/plain")
    assert abs(figures(told, "plain")["kl"]) < 1e-4
    assert figures(told, "fond")["kl"] > 3


def test_answers_stop_at_the_limit_and_are_counted(told: dict[str, Any]) -> None:
    fond = figures(told, "fond")
    assert fond["prompts"] == 24
    assert 1 <= fond["length"] <= MAX_TOKENS
    assert fond["truncated"] > 0.5
