"""The recipes for GPUs: a dry-run resolves them, their memory fits their cards, their processes fit their nodes. Seconds: 6."""

import json
from pathlib import Path

import pytest
from llama_shapes import PARAMETERS, VOCABULARY, write_llama
from typer.testing import CliRunner

from orchestrator import preflight
from orchestrator import recipe as recipes
from orchestrator.cli import app
from orchestrator.gpu_account import read_shape
from orchestrator.placement import impossible, rank_ask, worker_asks
from orchestrator.recipe import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = {"llama-8b-1node": "8b", "llama-70b-72gpu": "70b", "llama-405b-512gpu": "405b"}
NODE = {"GPU": 8.0, "CPU": 192.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("llama")
    for size in PARAMETERS:
        write_llama(root / size, size)
    write_llama(root / "reward", "8b", reward=True)
    (root / "prompts.jsonl").write_text('{"prompt": "abc"}\n' * 600)
    return root


@pytest.fixture
def overrides(folders, tmp_path):
    def overrides(name: str) -> list[str]:
        return [
            f"model.path={folders / NAMES[name]}",
            f"data.path={folders / 'prompts.jsonl'}",
            f"scoring.rewards.0.path={folders / 'reward'}",
            f"run.root={tmp_path / 'runs'}",
            "store.url=s3://bucket/headrace",
            "experience.url=embedded",
        ]

    return overrides


@pytest.mark.parametrize(("name", "gpus"), [("llama-8b-1node", 8), ("llama-70b-72gpu", 72), ("llama-405b-512gpu", 512)])
def test_a_recipe_is_sized_for_its_gpus_and_none_is_nearly_full(name, gpus, overrides):
    plan = preflight.plan(recipes.load(RECIPES / f"{name}.yaml", overrides(name)))
    assert plan.gpu is not None
    assert plan.gpu.gpus == pytest.approx(gpus)
    shares = {role: memory.total / memory.limit_bytes for role, memory in plan.gpu.roles.items()}
    assert all(0.5 < share <= 0.92 for share in shares.values()), shares
    assert plan.warnings == ()


def test_what_int8_leaves_in_float32_is_one_table_of_a_reward_model_and_of_tied_ones(folders, tmp_path):
    def tables(folder: Path) -> float:
        shape = read_shape(folder, field="model.path", parameters=PARAMETERS["8b"])
        return shape.embedding_parameters / (VOCABULARY * 4096)

    assert (tables(folders / "8b"), tables(folders / "reward")) == (2, 1)
    config = json.loads((folders / "8b" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert tables(tmp_path) == 1


def test_the_command_shows_what_each_process_takes(overrides):
    arguments = ["run", str(RECIPES / "llama-70b-72gpu.yaml"), *overrides("llama-70b-72gpu"), "--dry-run"]
    text = CliRunner().invoke(app, arguments).stdout
    assert "gpus       72 of 79.0 GiB; worked out, not measured" in text
    assert "generation (8 × 4 GPU): 71.6 GiB, 91% of what it has (weights 32.9 GiB" in text
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert content["gpu"]["roles"]["training"]["parts"]["master, moments"] == 12 * 78_058_635_264 // 32


@pytest.mark.parametrize(
    ("change", "role"),
    [
        ("training.ranks=8", "training"),
        ("scoring.reference.gpus=1", "scoring"),
        ("training.gradient_checkpointing=false", "training"),
        ("generation.engine.memory_share=1.0", "generation"),
    ],
)
def test_what_cannot_fit_a_card_is_refused_with_the_role_and_a_remedy(change, role, overrides):
    with pytest.raises(RecipeError) as refused:
        preflight.plan(recipes.load(RECIPES / "llama-70b-72gpu.yaml", [*overrides("llama-70b-72gpu"), change]))
    (line,) = refused.value.lines
    assert line.startswith(f"ray.gpu_memory_gib = 79: a GPU of {role} would need about ")
    assert "; " in line


def test_405b_is_refused_on_cards_of_80_gb(overrides):
    name = "llama-405b-512gpu"
    recipe = recipes.load(RECIPES / f"{name}.yaml", [*overrides(name), "ray.gpu_memory_gib=79"])
    with pytest.raises(RecipeError) as refused:
        preflight.plan(recipe)
    assert any("it leaves no room for a KV cache beside the weights" in line for line in refused.value.lines)


def test_a_card_that_is_nearly_full_is_warned_of(overrides):
    name = "llama-8b-1node"
    plan = preflight.plan(
        recipes.load(RECIPES / f"{name}.yaml", [*overrides(name), "generation.engine.memory_share=0.56"])
    )
    assert any(line.startswith("ray.gpu_memory_gib = 79: a GPU of generation would need") for line in plan.warnings)


def test_a_reference_is_spread_over_no_more_gpus_than_its_scorer_has(overrides):
    name = "llama-70b-72gpu"
    with pytest.raises(RecipeError) as refused:
        recipes.load(RECIPES / f"{name}.yaml", [*overrides(name), "scoring.reference.gpus=4"])
    assert list(refused.value.lines) == [
        "scoring.reference.gpus = 4: a scorer has ray.resources.scoring.gpus = 2; set ray.resources.scoring.gpus=4"
    ]


@pytest.mark.parametrize(("name", "nodes"), [("llama-8b-1node", 1), ("llama-70b-72gpu", 9), ("llama-405b-512gpu", 64)])
def test_a_recipe_fills_so_many_nodes_of_eight_gpus_and_no_process_straddles_two(name, nodes, overrides):
    recipe = recipes.load(RECIPES / f"{name}.yaml", overrides(name))
    asks = [*worker_asks(recipe, gpus=True), rank_ask(recipe, gpus=True)]
    assert impossible(asks, {f"10.0.{i}.1": NODE for i in range(nodes)}) == []
    assert impossible(asks, {f"10.0.{i}.1": NODE for i in range(nodes - 1)}) != []
    # Ray takes what comes first to the fullest node that has room: engines, scorers, ranks, as they are asked for.
    free = [dict(NODE) for _ in range(nodes)]
    for ask in asks:
        for bundle in ask.bundles:
            home = min((node for node in free if _fits(bundle, node)), key=lambda node: node["GPU"])
            for resource, amount in bundle.items():
                home[resource] -= amount
    assert all(abs(node["GPU"]) < 1e-6 for node in free)


def _fits(bundle, node) -> bool:
    return all(amount <= node[resource] + 1e-6 for resource, amount in bundle.items())
