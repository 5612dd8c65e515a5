"""What preflight refuses, on real folders; nothing of it may touch the disk."""

import json
import os
import shutil
import socket
import struct
from collections import namedtuple
from pathlib import Path

import pytest
from orchestrator_folders import sections, write_model, write_rows

from orchestrator import preflight, room
from orchestrator.config import Recipe
from orchestrator.disk import LOW_BYTES
from orchestrator.modelfolder import count_parameters, read_model
from orchestrator.recipe import RecipeError

PARAMETERS = 31 * 8 + 8 * 8 + 2 * (4 * 8) + 8 * 8 + 3 * (8 * 16) + 3 * 8
"""Tied embedding; query, key and value of one head, output; gate, up, down; three norms."""

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Model folders that no test changes."""
    root = tmp_path_factory.mktemp("folders")
    write_model(root / "policy")
    write_model(root / "untied", tied=False)
    write_model(root / "empty", weights=False)
    write_model(root / "wide", vocabulary=40)
    write_model(root / "shuffled", letters="zyxwvutsrqponmlkjihgfedcba .")
    write_model(root / "short", context=32)
    write_model(root / "narrow", vocabulary=20)
    write_rows(root / "words.jsonl", [{"prompt": "abc", "completion": "cba"}, {"prompt": "hello", "completion": "x"}])
    return root


@pytest.fixture
def recipe(made, tmp_path):
    def recipe(model: Path | str = made / "policy", **changes) -> Recipe:
        standard = {
            "model__path": str(model),
            "data__path": str(made / "words.jsonl"),
            "run__root": str(tmp_path / "runs"),
        }
        return Recipe.model_validate(sections(**{**standard, **changes}))

    return recipe


@pytest.fixture
def copy(made, tmp_path):
    def copy(name="policy") -> Path:
        return Path(shutil.copytree(made / name, tmp_path / "copy"))

    return copy


def lines_of(recipe, check=preflight.check):
    with pytest.raises(RecipeError) as caught:
        check(recipe)
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def assert_line(line, start, reason, remedy):
    assert line.startswith(start + ": ")
    explained, _, advice = line.removeprefix(start + ": ").partition("; ")
    assert reason in explained
    assert remedy in advice


def test_a_good_recipe_gives_what_issues_its_prompts_and_leaves_no_trace(recipe, tmp_path):
    issuer = preflight.check(recipe())
    prompt, _ = issuer.next(0, sequence=0, min_version=0)
    assert prompt.prompt_id.startswith("words:0:")
    assert prompt.sampling.stop_token_ids == (1,)
    assert list(tmp_path.iterdir()) == []


def test_a_port_for_metrics_that_is_taken(recipe):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (line,) = lines_of(recipe(metrics__port=port))
    assert_line(line, f"metrics.port = {port}", "another process listens", "0 for any free one")


# -- the model folder


def test_a_folder_that_is_not_there(recipe, tmp_path):
    gone = tmp_path / "gone"
    (line,) = lines_of(recipe(gone))
    assert_line(line, f"model.path = {gone}", "no such folder", "Hugging Face")
    (line,) = lines_of(recipe(gone, sft={"base": "b", "path": "s.jsonl"}))
    assert_line(line, f"model.path = {gone}", "no such folder yet", "`headrace sft`")


@pytest.mark.parametrize(
    ("names", "reason", "remedy"),
    [
        (["config.json"], "holds no config.json", "Hugging Face"),
        (["model.safetensors"], "holds no model.safetensors", "model.random_init=true"),
        (["tokenizer.json", "tokenizer_config.json"], "tokenizer cannot be read", "tokenizer files"),
    ],
)
def test_a_folder_that_lacks_a_file(recipe, copy, names, reason, remedy):
    folder = copy()
    for name in names:
        (folder / name).unlink()
    (line,) = lines_of(recipe(folder))
    assert_line(line, f"model.path = {folder}", reason, remedy)


def test_pickled_weights_are_not_read(recipe, copy):
    folder = copy("empty")
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickles" in lines_of(recipe(folder))[0]


def test_a_config_that_is_damaged_or_of_an_unknown_kind(recipe, copy):
    folder = copy()
    for content in ("{", json.dumps({"model_type": "no such kind"})):
        (folder / "config.json").write_text(content)
        (line,) = lines_of(recipe(folder))
        assert_line(line, f"model.path = {folder}", "its config.json cannot be read", "repair it")


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM is no causal language model", "give a decoder"),
        ({"architectures": None, "model_type": "bert"}, "bert is no causal language model", "give a decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification is no causal", "give a decoder"),
        ({"architectures": ["BartForConditionalGeneration"], "model_type": "bart"}, "is no causal", "give a decoder"),
        ({"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": None}, "not a multiple of", "repair it"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "4 attention heads do not share 3", "correct"),
        ({"hidden_size": 0, "head_dim": 4}, "hidden_size = 0 is no size", "correct"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1 is no size", "correct"),
        ({"vocab_size": 10**9}, "by its config.json the embedding alone has 8,000,000,000", "same place"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_trained_or_served(recipe, copy, changes, reason, remedy):
    folder = copy()
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    (line,) = lines_of(recipe(folder))
    assert_line(line, f"model.path = {folder}", reason, remedy)


def test_a_model_that_no_process_has_the_memory_for(recipe, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**6}[name])
    assert "all processes need about 5." in preflight.plan(recipe()).warnings[0]
    (line,) = lines_of(recipe(generation__engine={"kv_cache_gib": 4}))
    assert_line(
        line,
        f"model.path = {recipe().model.path}",
        "the generation process alone needs about 6.19 GB",
        "generation.engine.kv_cache_gib",
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1], "bytes where its header says"),
        (lambda data: data[:5], "no safetensors file"),
        (lambda data: struct.pack("<Q", 2**60) + data[8:], "no safetensors file"),
        (lambda data: data[:8] + b"x" + data[9:], "model.safetensors cannot be read"),
    ],
)
def test_damaged_weights(recipe, copy, damage, reason):
    folder = copy()
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    (line,) = lines_of(recipe(folder))
    assert_line(line, f"model.path = {folder}", reason, "copy it again")


def test_a_shard_that_is_missing(recipe, copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    assert count_parameters(read_model(str(folder), field="model.path")) == PARAMETERS
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert "b.safetensors cannot be read" in lines_of(recipe(folder))[0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "not one of safetensors"),
        ("model.safetensors", struct.pack("<Q", 7) + b'{"a":1}', "not one of safetensors"),
        ("model.safetensors.index.json", b"{", "model.safetensors.index.json cannot be read"),
        ("model.safetensors.index.json", b"{}", "model.safetensors.index.json cannot be read"),
        ("model.safetensors.index.json", b"[]", "model.safetensors.index.json cannot be read"),
        ("generation_config.json", b"{", "generation_config.json cannot be read"),
        ("generation_config.json", b"[]", "generation_config.json cannot be read"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "eos_token_id is no token's number"),
        ("config.json", b'{"model_type": "t5"}', "names no max_position_embeddings"),
    ],
)
def test_a_file_that_holds_something_else(recipe, copy, name, content, reason):
    folder = copy()
    (folder / name).write_bytes(content)
    (line,) = lines_of(recipe(folder))
    assert_line(line, f"model.path = {folder}", reason, "")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_brings_code_is_refused_without_a_question(recipe, copy, monkeypatch, name):
    """transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked"))
    folder = copy()
    kind = {"model_type": "theirs"} if name == "config.json" else {"tokenizer_class": "Theirs"}
    reference = {"AutoConfig": "theirs.Theirs", "AutoTokenizer": ["theirs.Theirs", None]}
    (folder / name).write_text(json.dumps(kind | {"auto_map": reference}))
    (folder / "theirs.py").write_text("raise AssertionError('it ran')\n")
    (line,) = lines_of(recipe(folder))
    assert_line(line, f"model.path = {folder}", "cannot be read", "")
    assert "it ran" not in line


def test_a_tokenizer_with_more_tokens_than_the_model(recipe, made):
    (line,) = lines_of(recipe(made / "narrow"))
    assert_line(line, f"model.path = {made / 'narrow'}", "31 tokens and its model only 20", "same place")


def test_parameters_are_counted_from_headers_or_from_a_model_without_memory(made):
    def count(name, **options):
        return count_parameters(read_model(str(made / name), field="model.path", **options))

    assert count("policy") == PARAMETERS
    assert count("untied") == PARAMETERS + 31 * 8
    assert count("empty", random_init=True) == PARAMETERS


def test_stop_tokens_come_from_the_generation_settings_too(copy):
    folder = copy()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 4]}))
    assert read_model(str(folder), field="model.path").stop_token_ids == (1, 4, 7)


# -- the reference


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("wide", "its vocabulary has 40 tokens", "same model family"),
        ("shuffled", "numbers tokens otherwise", "same model family"),
        ("short", "its context has 32 tokens", "generation.engine.max_model_tokens=32"),
    ],
)
def test_a_reference_that_does_not_fit(recipe, made, name, reason, remedy):
    (line,) = lines_of(recipe(scoring__reference={"path": str(made / name)}))
    assert_line(line, f"scoring.reference.path = {made / name}", reason, remedy)


def test_a_reference_without_weights_and_one_that_fits(recipe, made):
    (line,) = lines_of(recipe(scoring__reference={"path": str(made / "empty")}))
    assert "holds no model.safetensors" in line
    assert "random_init" not in line
    preflight.check(recipe(scoring__reference={"path": str(made / "untied")}))
    preflight.check(
        recipe(scoring__reference={"path": str(made / "short")}, generation__engine={"max_model_tokens": 32})
    )


# -- prompts, context, rewards


def test_bad_prompts_are_found_with_and_without_a_model(recipe, tmp_path):
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "a"}, "x"])
    for model in ({}, {"model": tmp_path / "gone"}):
        assert any("line 2 is not JSON" in line for line in lines_of(recipe(data__path=str(bad), **model)))


@pytest.mark.parametrize(
    ("changes", "start", "reason", "remedy"),
    [
        (
            {"generation__engine": {"max_model_tokens": 65}},
            "generation.engine.max_model_tokens = 65",
            "has 64 tokens",
            "max_model_tokens=64",
        ),
        ({"generation__max_tokens": 64}, "generation.max_tokens = 64", "no room for a prompt", "generation.max_tokens"),
    ],
)
def test_a_context_that_is_too_small(recipe, changes, start, reason, remedy):
    (line,) = lines_of(recipe(**changes))
    assert_line(line, start, reason, remedy)


@pytest.mark.parametrize(
    ("changes", "room"),
    [({"generation__max_tokens": 59}, 5), ({"data__max_prompt_tokens": 5}, 5)],
)
def test_a_prompt_longer_than_the_room_for_it(recipe, made, changes, room):
    (line,) = lines_of(recipe(**changes))  # <bos> h e l l o: six tokens
    assert_line(line, f"data.path = {made / 'words.jsonl'}", f"prompt of 6 tokens, and {room} fit", "shorten it")


def test_a_prompt_that_just_fits(recipe):
    preflight.check(recipe(generation__max_tokens=58))


@pytest.mark.parametrize("function", ["no.such.module:f", "score_cluster.functions:no_such", "nonsense"])
def test_a_reward_function_that_cannot_be_found(recipe, function):
    (line,) = lines_of(recipe(scoring__rewards=[{"name": "r", "function": function}]))
    assert line.startswith(f"scoring.rewards.0.function = {function}: ")


def test_a_buffer_that_processes_cannot_share(recipe):
    (line,) = lines_of(recipe(experience__url="memory"))
    assert_line(line, "experience.url = memory", "cannot share", "experience.url=embedded")


def test_all_problems_come_at_once(recipe, tmp_path):
    lines = lines_of(
        recipe(
            model=tmp_path / "gone",
            data__path=str(tmp_path / "no.jsonl"),
            scoring__rewards=[{"name": "r", "function": "nonsense"}],
        )
    )
    assert [line.split(" = ")[0] for line in lines] == ["scoring.rewards.0.function", "model.path", "data.path"]


# -- disk, plan, fine-tuning


def test_a_disk_that_is_too_small_refuses_and_a_tight_one_warns(recipe, tmp_path, monkeypatch):
    need = preflight.plan(recipe()).max_disk_bytes + LOW_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, need - 1))
    (line,) = lines_of(recipe())
    assert_line(line, f"run.root = {tmp_path / 'runs'}", "are free", "training.checkpoint.keep")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, need))
    assert any("are free" in line for line in preflight.plan(recipe()).warnings)
    # What an earlier life of the run wrote is room that it has already.
    (tmp_path / "runs" / "trial").mkdir(parents=True)
    with (tmp_path / "runs" / "trial" / "old").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, need)
    assert preflight.plan(recipe()).warnings == ()


def test_a_place_that_cannot_be_a_folder(recipe, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for key, place, reason in (
        ("run.root", file / "runs", f"{file} is no folder"),
        ("store.url", file, f"{file} is no folder"),
        ("store.scratch", file, f"{file} is no folder"),
        ("run.root", "s3://bucket/x", "only folders"),
    ):
        (line,) = lines_of(recipe(**{key.replace(".", "__"): str(place)}))
        assert_line(line, f"{key} = {place}", reason, "name a")


def test_a_bucket_is_planned_for_and_its_disk_is_none_of_ours(recipe, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**9))
    bucket = recipe(store__url="s3://bucket/deep/place", pacing__max_staleness=4)
    plan = preflight.plan(bucket)
    assert plan.folder == f"s3://bucket/deep/place/{bucket.run.name}"
    assert plan.writes().startswith("bucket: at most")
    assert plan.max_disk_bytes == preflight.plan(recipe(pacing__max_staleness=4)).max_disk_bytes
    monkeypatch.setattr(room, "store_folder", None)
    assert preflight.plan(bucket).warnings == ()


def test_a_fault_that_cannot_be_read(recipe, monkeypatch):
    monkeypatch.setenv("HEADRACE_FAULTS", "nonsense")
    (line,) = lines_of(recipe())
    assert_line(line, "HEADRACE_FAULTS = nonsense", "expected point@step", "unset it")


def test_warnings_name_what_may_surprise(recipe, copy):
    folder = copy()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    plan = preflight.plan(recipe(folder, training__micro_batch_tokens=13))
    assert [line.split(" = ")[0] for line in plan.warnings] == ["model.path", "training.micro_batch_tokens"]


def test_the_plan_adds_up(recipe):
    plan = preflight.plan(
        recipe(
            run__steps=3,
            pacing={"batch_groups": 4, "max_staleness": 1},
            generation={"max_tokens": 8, "group_size": 2, "workers": 2},
            training={"epochs": 2, "mini_batches": 2, "ranks": 2, "dtype": "float32"},
        )
    )
    assert (plan.parameters, plan.prompts, plan.longest_prompt_tokens) == (PARAMETERS, 2, 6)
    assert (plan.groups_per_step, plan.completions_per_step, plan.updates_per_step) == (4, 8, 4)
    assert (plan.max_response_tokens_per_step, plan.max_response_tokens) == (64, 192)
    assert (plan.groups_in_flight, plan.passes) == (8, (6.0,))
    assert plan.processes == {"driver": 1, "experience server": 1, "generation": 2, "scoring": 1, "trainer": 2}
    assert (plan.version_bytes, plan.checkpoint_bytes) == (PARAMETERS * 4, 2 * PARAMETERS * 12)  # a critic as well
    assert json.loads(json.dumps(plan.as_dict()))["run"] == "trial"
    assert len(plan.lines()) == 9
    assert f"the policy and a critic of {PARAMETERS} parameters, by PPO" in plan.lines()[2]
    assert not any("\n" in line for line in plan.lines())
