"""The order of prompts, their records, and what is said of a bad file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_folders import CHAT_TEMPLATE, sections, write_rows, write_tokenizer

from experience.schema import Issue
from orchestrator.config import Recipe
from orchestrator.data.config import DataConfig
from orchestrator.data.order import permutation
from orchestrator.data.rows import MAX_PROBLEMS
from orchestrator.modelfolder import load_tokenizer
from orchestrator.prompts import PromptIssuer, PromptSource, sampling_seed
from orchestrator.recipe import RecipeError

WORDS = ["abc", "de", "fghi", "j", "klmno"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(str(folder), field="model.path")


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, letters="<>abcdefghijklmnopqrstuvwxyz .", chat_template=CHAT_TEMPLATE)
    return load_tokenizer(str(folder), field="model.path")


@pytest.fixture
def source(tmp_path, tokenizer):
    def source(rows=None, *, seed=0, limit_tokens=100, use=None, **data) -> PromptSource:
        rows = [{"prompt": word, "answer": word[::-1]} for word in WORDS] if rows is None else rows
        file = write_rows(tmp_path / "words.jsonl", rows)
        config = DataConfig(path=str(file), **data)
        return PromptSource(config, tokenizer=use or tokenizer, seed=seed, limit_tokens=limit_tokens)

    return source


def at(prompts, cursor):
    """What stands at a place where no place is passed over."""
    prompt, after = prompts.draw(cursor)
    assert after == cursor + 1
    return prompt


def lines_of(action):
    with pytest.raises(RecipeError) as caught:
        action()
    assert not any("\n" in line for line in caught.value.lines)
    return caught.value.lines


# -- order


def test_each_pass_holds_every_prompt_once_and_orders_differ(source):
    prompts = source()
    passes = [[at(prompts, cursor).prompt_id for cursor in range(5 * k, 5 * k + 5)] for k in range(4)]
    for number, ids in enumerate(passes):
        assert sorted(ids) == [f"words:{number}:{index}" for index in range(5)]
    assert len({tuple(id.rsplit(":")[-1] for id in ids) for ids in passes}) > 1


def test_the_order_is_a_function_of_seed_and_pass_alone(source):
    one, again, other = source(seed=3), source(seed=3), source(seed=4)
    there_and_back = [at(again, cursor).prompt_id for cursor in reversed(range(15))][::-1]
    assert [at(one, cursor).prompt_id for cursor in range(15)] == there_and_back
    assert [at(other, cursor).prompt_id for cursor in range(15)] != there_and_back


def test_the_order_is_the_same_on_every_machine():
    # Frozen: raw Philox4x64-10 output under the key (seed, pass), ranked. A change would break every resume.
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(7, 3, 8).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]


@settings(deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 1000), st.integers(1, 200))
def test_a_permutation_is_one(seed, number, size):
    assert sorted(permutation(seed, number, size)) == list(range(size))


def test_without_shuffling_the_file_s_order_holds(source):
    prompts = source(shuffle=False)
    assert [at(prompts, cursor).metadata["prompt"] for cursor in range(7)] == [*WORDS, "abc", "de"]


def test_by_id_finds_what_at_gave(source):
    prompts = source(name="my:set")
    for cursor in range(12):
        given_out = at(prompts, cursor)
        found = prompts.by_id(given_out.prompt_id)
        assert found.prompt_id == given_out.prompt_id
        assert found.metadata == given_out.metadata
        np.testing.assert_array_equal(found.tokens, given_out.tokens)


@pytest.mark.parametrize("prompt_id", ["other:0:0", "words:0:5"])
def test_by_id_refuses_what_is_not_there(source, prompt_id):
    prompts = source()
    with pytest.raises(ValueError, match="none of data set words"):
        prompts.by_id(prompt_id)


# -- tokens and rows


def test_tokens_and_metadata(source):
    prompt = at(source(shuffle=False), 0)
    assert prompt.tokens.tolist() == [2, 3, 4, 5]  # <bos> a b c
    assert prompt.tokens.dtype == np.int32
    assert not prompt.tokens.flags.writeable
    assert prompt.metadata == {"prompt": "abc", "answer": "cba"}


def test_metadata_always_holds_the_text_as_prompt(source):
    prompt = at(source([{"question": "de", "id": 7}], prompt_column="question"), 0)
    assert prompt.metadata == {"question": "de", "id": 7, "prompt": "de"}


def test_the_chat_template_is_applied_once_with_the_assistant_s_turn_open(source, chat_tokenizer):
    prompts = source([{"prompt": "hi"}], chat_template=True, system_prompt="be kind", use=chat_tokenizer)
    text = chat_tokenizer.decode(at(prompts, 0).tokens).replace(" ", "").replace("<pad>", "")
    assert text == "<system>bekind<user>hi<assistant>"
    assert at(prompts, 0).tokens[0] != 2  # the template alone writes special tokens
    assert at(prompts, 0).metadata["prompt"] == "hi"


def test_blank_lines_a_byte_order_mark_and_odd_separators_are_no_rows(source):
    rows = ['\ufeff{"prompt": "abc"}', "", '  {"prompt": "d\u2028e"}\r', "   "]
    assert len(source(rows)) == 2


def test_the_digest_names_the_file_s_bytes(source):
    one = source([{"prompt": "a"}]).digests["data.path"]
    assert one != source([{"prompt": "b"}]).digests["data.path"]
    assert one == source([{"prompt": "a"}]).digests["data.path"]


# -- bad files


BAD = [
    ('{"prompt": "a"', "data.path", "line 2 is not JSON (Expecting ',' delimiter at column 15)", "correct the line"),
    ('["a"]', "data.path", "line 2 is not a JSON object", "correct the line"),
    ('{"prompt": "a", "x": NaN}', "data.path", "line 2 holds NaN", "correct the line"),
    ('{"prompt": "a", "x": 99999999999999999999}', "data.path", "line 2 cannot travel", "correct the line"),
    ('{"prompt": "a", "x": "\\ud800"}', "data.path", "line 2 cannot travel", "correct the line"),
    ('{"prompts": "a"}', "data.prompt_column", "has no such column, only prompts", "data.prompt_column=prompts"),
    ("{}", "data.prompt_column", "has no such column, only none", "add the column"),
    ('{"prompt": 7}', "data.prompt_column", "holds 7 there, not text", "correct the line"),
    ('{"prompt": "aaaaaaaaaa"}', "data.path", "line 2 has a prompt of 11 tokens, and 10 fit", "shorten it"),
]


@pytest.mark.parametrize(("row", "field", "reason", "remedy"), BAD)
def test_a_bad_row_is_one_line_with_file_line_and_remedy(source, tmp_path, row, field, reason, remedy):
    (line,) = lines_of(lambda: source([{"prompt": "ok"}, row], limit_tokens=10))
    assert line.startswith(f"{field} = ")
    assert str(tmp_path / "words.jsonl") in line
    assert "line 2" in line
    explained, _, advice = line.partition("; ")
    assert reason in explained
    assert remedy in advice


def test_a_file_that_is_empty_missing_or_not_text(source, tmp_path, tokenizer):
    assert "the file is empty; put one JSON object" in lines_of(lambda: source([]))[0]
    file = tmp_path / "bytes.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n\xff\n')

    def opened(path):
        return lambda: PromptSource(DataConfig(path=str(path)), tokenizer=tokenizer, seed=0, limit_tokens=9)

    assert "line 2 is not UTF-8 (byte 0)" in lines_of(opened(file))[0]
    assert "cannot be read (No such file or directory); give a file" in lines_of(opened(tmp_path / "no"))[0]


def test_all_bad_rows_are_reported_up_to_a_limit(source):
    assert len(lines_of(lambda: source(["x", {"prompt": "a"}, "y"]))) == 2
    lines = lines_of(lambda: source(["x"] * (MAX_PROBLEMS + 5)))
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == "… and 5 more lines like these"


def test_a_chat_template_that_is_not_there(source):
    (line,) = lines_of(lambda: source(chat_template=True))
    assert line.startswith("data.chat_template = true: ")
    assert "; set data.chat_template=false" in line


def test_a_prompt_of_no_tokens(source, chat_tokenizer):
    chat_tokenizer.chat_template = "{{ messages[0].content }}"
    assert (
        "a prompt of no tokens" in lines_of(lambda: source([{"prompt": ""}], chat_template=True, use=chat_tokenizer))[0]
    )


# -- records


@pytest.fixture
def issuer(source):
    recipe = Recipe.model_validate(sections(generation={"max_tokens": 8, "temperature": 0.7, "group_size": 4}))
    return PromptIssuer(recipe, source=source(), stop_token_ids=(1, 5), lineage=2)


def test_a_record_says_everything_a_worker_needs(issuer, source):
    prompt, _ = issuer.next(6, sequence=11, min_version=3)
    assert (prompt.run_id, prompt.lineage, prompt.sequence, prompt.attempt) == ("trial", 2, 11, 0)
    assert prompt.group_id == "trial/2/11"
    assert prompt.prompt_id == at(source(), 6).prompt_id
    assert (prompt.group_size, prompt.min_version) == (4, 3)
    assert (prompt.sampling.temperature, prompt.sampling.max_tokens) == (0.7, 8)
    assert prompt.sampling.stop_token_ids == (1, 5)
    assert prompt.sampling.seed == sampling_seed(0, 2, 11)
    assert prompt.deadline_s == 64.0  # 60 + 0.5 x 8
    json.dumps(dict(prompt.metadata))


def test_issued_anew_it_is_the_same_prompt_under_the_next_attempt_with_fresh_draws(issuer):
    first, _ = issuer.next(6, sequence=11, min_version=3)
    again = issuer.anew(Issue(sequence=11, prompt_id=first.prompt_id, attempt=1), sequence=40, min_version=5)
    assert (again.prompt_id, again.attempt, again.sequence, again.min_version) == (first.prompt_id, 2, 40, 5)
    np.testing.assert_array_equal(again.tokens, first.tokens)
    assert again.sampling.seed != first.sampling.seed


def test_seeds_are_frozen_distinct_and_leave_room_for_the_sample_s_index():
    assert sampling_seed(0, 0, 0) == 364267326147784021  # sha256("0/0/0"), first 8 bytes little-endian, >> 2
    seeds = {sampling_seed(a, b, c) for a in range(3) for b in range(3) for c in range(100)}
    assert len(seeds) == 900
    assert max(seeds) < 2**62
