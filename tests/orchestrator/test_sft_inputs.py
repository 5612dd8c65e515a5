"""Fine-tuning before any rank starts: what is read, held out and refused, and what a dry run shows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from orchestrator_folders import CHAT_TEMPLATE, sections, write_model, write_rows

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError
from orchestrator.stages import sft_card, sft_inputs, sft_preview
from orchestrator.stages.work import StageWork, begun
from train_cluster.supervised.sft_rows import Tokens

ENDING = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
PAIRS = [{"prompt": f"{a}{b}.", "completion": f"{b}{a}"} for a in "abcdef" for b in "abcd"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Model folders and rows that no test changes."""
    root = tmp_path_factory.mktemp("sft")
    write_model(root / "base", chat_template=ENDING)
    write_model(root / "mute", chat_template=None)
    write_model(root / "endless", chat_template=CHAT_TEMPLATE)
    write_model(root / "empty", weights=False)
    write_rows(root / "pairs.jsonl", PAIRS)
    return root


@pytest.fixture
def recipe(made, tmp_path):
    def recipe(model: str = "base", *, rows: Any = None, **changes) -> Recipe:
        """`rows`: of a file of their own; other changes are `section__key`, without a section of sft."""
        path = made / "pairs.jsonl" if rows is None else write_rows(tmp_path / "rows.jsonl", rows)
        own = {key if "__" in key else f"sft__{key}": value for key, value in changes.items()}
        standard = {"model__path": str(tmp_path / "out"), "run__root": str(tmp_path / "runs")}
        sft = {"sft__base": str(made / model), "sft__path": str(path), "sft__batch_examples": 5}
        return Recipe.model_validate(sections(**(standard | sft | own)))

    return recipe


def lines_of(recipe: Recipe) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as refusal:
        sft_inputs.examine(recipe)
    assert not any("\n" in line for line in refusal.value.lines)
    return refusal.value.lines


def text(tokens: Tokens, inputs: sft_inputs.SftInputs) -> str:
    parts = sft_preview.spans(tokens, inputs.tokenizer)
    return "".join(f"[{p['text']}]" if p["trained"] else p["text"] for p in parts).replace(" ", "")


def test_rows_become_examples_that_a_dry_run_shows(recipe) -> None:
    asked = recipe(epochs=3)
    inputs = sft_inputs.examine(asked)
    assert len(inputs.trained) == 24
    assert inputs.steps == 15  # 5, 5, 5, 5 and 4 of 24, three times
    assert text(inputs.trained[0], inputs) == "<bos>aa.[aa<eos>]"
    content = sft_preview.summary(asked, inputs)
    assert (content["tokens"], content["trained_tokens"], content["longest_tokens"]) == (24 * 7, 24 * 3, 7)
    assert json.loads(json.dumps(content)) == content
    shown = list(sft_preview.lines(content))
    assert "trained: 24 examples, 168 tokens, of which 72 count; the longest has 7" in shown
    assert shown[-1].replace(" ", "") == "<bos>aa.⟦aa<eos>⟧"
    assert inputs.warnings == ()


def test_chats_and_texts_are_read_as_well(recipe) -> None:
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}] * 2
    inputs = sft_inputs.examine(recipe(rows=[{"m": chat}], messages_column="m", train_on="all"))
    assert text(inputs.trained[0], inputs).count("[cd<eos>]") == 2
    inputs = sft_inputs.examine(recipe(rows=[{"t": "ab.cd"}], text_column="t", response_template="."))
    assert text(inputs.trained[0], inputs) == "<bos>ab[.cd<eos>]"


def test_parquet_and_a_split_of_a_folder_are_read_as_well(recipe, tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, rows in (("train", PAIRS[:20]), ("test", PAIRS[20:])):
        pq.write_table(pa.Table.from_pylist(rows), data / f"{name}.parquet")
    named = {"path": str(data), "split": "train", "held_out_path": str(data), "held_out_split": "test"}
    inputs = sft_inputs.examine(recipe(**named))
    assert (len(inputs.trained), len(inputs.held_out)) == (20, 4)
    assert [one.as_dict()["rows"] for one in inputs.files] == [20, 4]
    (line,) = lines_of(recipe(**named | {"held_out_split": "dev"}))
    assert line.startswith("sft.held_out_split = dev: ")


def test_a_share_is_held_out_by_the_seed(recipe) -> None:
    inputs, same, other = (
        sft_inputs.examine(recipe(held_out_share=0.25, run__seed=seed, rows=PAIRS + PAIRS[:2])) for seed in (1, 1, 2)
    )
    assert 18 <= len(inputs.trained) <= 20
    assert len(inputs.trained) + len(inputs.held_out) == 26
    prompts = [{tokens.ids[:4].tobytes() for tokens in side} for side in (inputs.trained, inputs.held_out)]
    assert len(prompts[1]) == 6
    assert prompts[0].isdisjoint(prompts[1])
    assert inputs.made_from == same.made_from
    assert inputs.made_from != other.made_from


LONG = {"prompt": "abcdefgh.", "completion": "hgfedcba"}


def test_too_long_rows_are_refused_cut_short_or_left_out(recipe) -> None:
    rows = [*PAIRS, LONG, {"prompt": "a" * 20, "completion": "b"}]
    first, second = lines_of(recipe(rows=rows, max_tokens=12))
    assert "line 25 has 19 tokens, and 12 fit (sft.max_tokens); shorten it, or set sft.too_long to" in first
    assert "line 26 has 23 tokens" in second
    cut = sft_inputs.examine(recipe(rows=rows, max_tokens=12, too_long="truncate"))
    assert text(cut.trained[-1], cut) == "<bos>abcdefgh.[hg]"
    assert "of 26 rows 1 were cut short and 1 left out" in cut.warnings[0]
    less = sft_inputs.examine(recipe(rows=rows, max_tokens=12, too_long="skip"))
    assert len(less.trained) == 24
    assert "0 were cut short and 2 left out" in less.warnings[0]
    (line,) = lines_of(recipe(rows=[LONG], max_tokens=4, too_long="skip"))
    assert "of 1 rows none is left to use" in line


@pytest.mark.parametrize(
    ("changes", "rows", "beginning", "remedy"),
    [
        ({}, [], "sft.path = ", "the file is empty"),
        ({}, ['{"prompt": "a"'], "sft.path = ", "line 1 is not JSON"),
        ({}, ["3"], "sft.path = ", "line 1 is not a JSON object"),
        ({}, [{"prompt": "a", "completion": ""}], "sft.path = ", "line 1 has an empty completion; give it text"),
        ({}, [{"prompt": 3, "completion": "b"}], "sft.prompt_column = prompt", "holds 3 there, not text"),
        ({}, [{"prompt": "a"}], "sft.completion_column = completion", "no such column, only prompt; set sft.completion_column="),
        ({"text_column": "t", "response_template": "."}, [{"x": "a"}], "sft.text_column = t", "set sft.text_column=x"),
        ({"text_column": "t", "response_template": "."}, [{"t": "ab"}], "sft.path = ", "line 1 holds no '.' in t"),
        ({"messages_column": "m"}, [{"m": "hi"}], "sft.messages_column = m", "not a list of {role, content}"),
        ({"messages_column": "m"}, [{"m": [{"role": "user", "content": "a"}]}], "sft.path = ", "no turn of the assistant"),
        ({"held_out_share": 0.01}, PAIRS, "sft.held_out_share = 0.01", "none would be held out; set another share"),
        ({"held_out_share": 0.99}, PAIRS, "sft.held_out_share = 0.99", "none would be left to train on"),
        ({"held_out_path": "/none"}, PAIRS, "sft.held_out_path = /none", "cannot be read"),
        ({"max_tokens": 65}, PAIRS, "sft.max_tokens = 65", "set sft.max_tokens=64 or less"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_one_line(recipe, changes, rows, beginning, remedy) -> None:
    (line,) = lines_of(recipe(rows=rows, **changes))
    assert line.startswith(beginning)
    assert remedy in line


def test_bytes_that_are_no_text_are_named(recipe, tmp_path) -> None:
    (tmp_path / "raw.jsonl").write_bytes(b'{"prompt": "a", "completion": "\xff"}\n')
    (line,) = lines_of(recipe(path=str(tmp_path / "raw.jsonl")))
    assert "line 1 is not UTF-8 (byte 31)" in line


def test_the_model_is_checked_likewise(recipe, made, tmp_path) -> None:
    sft_inputs.examine(recipe("empty", random_init=True))
    (line,) = lines_of(recipe("empty"))
    assert line.startswith(f"sft.base = {made / 'empty'}: holds no model.safetensors")
    assert "sft.random_init=true" in line
    (line,) = lines_of(recipe("mute", data__chat_template=True))
    assert line.startswith("data.chat_template = True: the tokenizer of sft.base has no chat template")
    (line,) = lines_of(recipe("mute", rows=[{"m": [{"role": "user", "content": "a"}]}], messages_column="m"))
    assert line.startswith("sft.messages_column = m: the tokenizer of sft.base has no chat template")
    (line,) = lines_of(recipe(model__path=str(made / "base")))
    assert line.startswith(f"model.path = {made / 'base'}: exists, and fine-tuning writes its result there; remove it")
    (tmp_path / "file").touch()
    (line,) = lines_of(recipe(model__path=str(tmp_path / "file" / "out")))
    assert "file is no folder that can be written to; set another model.path" in line
    with pytest.raises(RecipeError, match="sft = null: this recipe describes no fine-tuning; add an sft section"):
        sft_inputs.examine(Recipe.model_validate(sections()))


def test_a_template_that_writes_no_end_is_told(recipe) -> None:
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    inputs = sft_inputs.examine(recipe("endless", rows=[{"m": chat}], messages_column="m"))
    assert "ends the answer of 1 examples without one of its stop tokens" in inputs.warnings[0]


def test_prompts_on_both_sides_are_told(recipe, made) -> None:
    inputs = sft_inputs.examine(recipe(held_out_path=str(made / "pairs.jsonl")))
    assert "24 of its 24 prompts are trained as well" in inputs.warnings[0]


@pytest.mark.parametrize(
    ("changes", "beginning"),
    [
        ({"text_column": "t"}, "sft.text_column = t: nothing says where"),
        ({"response_template": "."}, "sft.response_template = '.': only one text"),
        (
            {"messages_column": "m", "text_column": "t", "response_template": "."},
            "sft.text_column = t: a row is a chat",
        ),
        ({"train_on": "all"}, "sft.train_on = all: only chats"),
        ({"held_out_path": "h", "held_out_share": 0.1}, "sft.held_out_share = 0.1: rows of their own"),
        ({"held_out_split": "test"}, "sft.held_out_split = test: is a split of sft.held_out_path"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(recipe, changes, beginning) -> None:
    with pytest.raises(ValueError, match="sft") as refusal:
        recipe(**changes)
    assert beginning in str(refusal.value)


def a_stage(recipe: Recipe) -> StageWork:
    inputs = sft_inputs.examine(recipe)
    return StageWork(recipe, "sft", out=Path(recipe.model.path), made_from=inputs.made_from)


def test_an_unfinished_stage_goes_on_with_what_it_began_with_or_is_discarded(recipe) -> None:
    first = a_stage(recipe())
    with first.opened(restart=False):
        (first.folder.path / "checkpoints").mkdir()
    assert begun(recipe(), "sft")
    for same in (recipe(eval_steps=7, checkpoint_steps=9), recipe(training__ranks=2, training__micro_batch_tokens=99)):
        with a_stage(same).opened(restart=False):
            assert a_stage(same).identity == first.identity
    lines = []
    for changed in (recipe(learning_rate=0.5), recipe(rows=PAIRS[:9]), recipe("mute")):
        with pytest.raises(RecipeError) as refusal, a_stage(changed).opened(restart=False):
            pass
        lines += refusal.value.lines
    assert [line.split(" = ")[0] for line in lines] == ["sft.learning_rate", "sft.path", "sft.base"]
    assert "began with 1e-05; set it back, or discard what there is with --restart" in lines[0]
    with a_stage(recipe(learning_rate=0.5)).opened(restart=True):
        assert not (first.folder.path / "checkpoints").exists()


def test_a_finished_stage_leaves_its_result_and_no_more(recipe) -> None:
    asked = recipe()
    stage, inputs = a_stage(asked), sft_inputs.examine(asked)
    with stage.opened(restart=False):
        for name in ("checkpoints", "epochs", ".scratch"):
            (stage.folder.path / name).mkdir()
        (stage.folder.path / "sft.jsonl").touch()
        stage.draft.mkdir()
        answer = {"step": 5, "loss": 1.5, "held_out": {}, "held_out_before": {}}
        card = sft_card.card_of(asked, inputs, stage, answer)
        (stage.draft / sft_card.CARD).write_text(json.dumps(card))
        stage.finish()
    assert not begun(asked, "sft")
    left = {path.name for path in stage.folder.path.iterdir()}
    assert left == {"driver.lock", "logs", "reserve", "sft.jsonl"}
    assert (card["examples"], card["steps"], card["data"][0]["rows"]) == (24, 5, 24)
    sft_card.refuse_other_result(asked)
    sft_card.refuse_other_result(recipe(run__seed=4, training__optimizer={"beta2": 0.95}))
    with pytest.raises(RecipeError, match=r"sft\.epochs = 2: .* was fine-tuned with 1; set it back, remove the folder"):
        sft_card.refuse_other_result(recipe(epochs=2))
