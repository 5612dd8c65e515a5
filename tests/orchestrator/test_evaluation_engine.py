"""`headrace eval` with its real engine, once: folders and versions of a run side by side, the better one known. 15 s idle,
nearly all of it the start of vLLM in its own process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from orchestrator_folders import sections, write_rows, write_tokenizer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator import recipe as recipes
from orchestrator import yamlfile
from orchestrator.evaluation import command
from orchestrator.folder import RunFolder
from orchestrator.stores import open_store
from weightstore import publish
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
