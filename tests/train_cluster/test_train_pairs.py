"""Pairs: what becomes of a row, what a bad one says, who agrees, and that no prompt is on both sides. 3 s."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from train_pairs import EOS, clean_pairs, save_letters, write_rows
from transformers import AutoTokenizer

from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.objective import balance_lengths
from train_cluster.reward.pair_split import member_pairs, split_against, split_pairs
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import BadPairs, PairFile, read_pairs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(save_letters(tmp_path_factory.mktemp("letters")))


def read(path: Path, tokenizer: Any, *, chat: bool = False, system: str | None = None, **settings: Any) -> PairFile:
    config = RewardTrainingConfig(path=str(path), out="out", **settings)
    template = Template(tokenizer=tokenizer, chat_template=chat, system_prompt=system)
    return read_pairs(path, template, config=config, max_tokens=16)


def a_row(**changes: Any) -> dict[str, Any]:
    return {"prompt": "abc", "chosen": "ca", "rejected": "cbb"} | changes


def test_both_answers_follow_the_prompt_and_end(tmp_path: Path, tokenizer: Any) -> None:
    file = read(write_rows(tmp_path / "p", [a_row(margin=2, category="x"), "", a_row(prompt="d")]), tokenizer)
    first, second = file.pairs
    assert first.chosen.tolist() == [0, 1, 2, 2, 0, EOS]
    assert first.rejected.tolist() == [0, 1, 2, 2, 1, 1, EOS]
    assert (first.line, first.margin, first.category, first.answer_tokens, first.tokens) == (1, 2.0, "x", (3, 4), 13)
    assert (second.line, second.margin, second.category) == (3, 0.0, "")
    assert file.rows == 2


def test_chats_are_rendered_by_the_template(tmp_path: Path, tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]
    rows = [
        a_row(prompt=turns, chosen=[{"role": "assistant", "content": "ca"}]),
        a_row(prompt="ab", chosen=[*turns[:2], {"role": "assistant", "content": "ca"}]),
    ]
    chat, text = read(write_rows(tmp_path / "p", rows), tokenizer, chat=True, system="s").pairs
    assert "".join("abcdefghijklmnopqrst"[i] for i in chat.chosen[:-1]) == "sabcdt" + "ca"
    assert "".join("abcdefghijklmnopqrst"[i] for i in text.chosen[:-1]) == "sabt" + "ca"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": NaN}', "not JSON (NaN is no JSON)"),
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected', only chosen, prompt"),
        (a_row(rejected="ca"), "chosen and rejected are the same"),
        (a_row(chosen="u", rejected="v"), "chosen and rejected are the same tokens"),
        (a_row(chosen=" "), "chosen is empty"),
        (a_row(prompt=""), "the prompt is empty"),
        (a_row(rejected=3), "rejected is 3, neither a text nor a chat that the assistant ends"),
        (a_row(chosen=[{"role": "user", "content": "a"}]), "neither a text nor a chat that the assistant ends"),
        (a_row(prompt=[{"role": "user", "content": "a"}]), "the prompt is a chat, and data.chat_template is false"),
        (a_row(prompt={"a": 1}), "the prompt is {"),
        (a_row(margin=-1), "margin is -1, not a number of at least 0"),
        (a_row(margin=True), "margin is true, not a number"),
        (a_row(annotators=[1, 0]), 'annotators is [1, 0], not a list of "chosen" and "rejected"'),
        (a_row(category=1), "category is 1, not a text"),
        (a_row(chosen="a" * 13), "17 tokens are more than the model's context of 16"),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, tokenizer: Any, row: Any, complaint: str) -> None:
    path = write_rows(tmp_path / "p", [a_row(), row])
    with pytest.raises(BadPairs) as error:
        read(path, tokenizer)
    (line,) = error.value.lines
    assert line.startswith("line 2: ")
    assert complaint in line
    assert line.endswith("; correct the line, or set reward.bad_pairs=skip to leave such rows out")
    left = read(path, tokenizer, bad_pairs="skip")
    assert len(left.pairs) == 1
    assert sum(left.bad.values()) == 1
    assert complaint in left.first_bad


def test_many_bad_rows_are_counted_together(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(BadPairs) as error:
        read(write_rows(tmp_path / "p", ["["] * 30), tokenizer)
    assert len(error.value.lines) == 21
    assert error.value.lines[-1] == "… and 10 more lines like these"


def test_annotators_who_disagree_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    votes = [["chosen"] * yes + ["rejected"] * no for yes, no in ((3, 0), (7, 3), (2, 1), (1, 2), (0, 1), (0, 0))]
    path = write_rows(tmp_path / "p", [*(a_row(annotators=one) for one in votes), a_row()])
    file = read(path, tokenizer)
    # 3/3 and 7/10 are at least 0.7; 2/3, 1/3 and the one of line 5, who prefers the other, are not; no vote says nothing
    assert [pair.line for pair in file.pairs] == [1, 2, 6, 7]
    assert (file.several_annotators, file.disagreed) == (4, 3)
    assert [pair.line for pair in read(path, tokenizer, min_agreement=0.5).pairs] == [1, 2, 3, 6, 7]


def test_agreement_cannot_be_asked_of_one_annotator(tmp_path: Path, tokenizer: Any) -> None:
    path = write_rows(tmp_path / "p", [a_row(annotators=["chosen"]), a_row()])
    assert len(read(path, tokenizer).pairs) == 2
    with pytest.raises(BadPairs, match="no row has more than one annotator"):
        read(path, tokenizer, min_agreement=0.8)


@pytest.fixture(scope="module")
def many(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> PairFile:
    rows = clean_pairs(60)
    again = [row | {"chosen": row["chosen"] + "c"} for row in rows[:20]]  # other pairs of the same prompts
    return read(write_rows(tmp_path_factory.mktemp("pairs") / "p", rows + again), tokenizer)


def test_the_split_keeps_prompts_together_whatever_the_order(many: PairFile) -> None:
    split = split_pairs(many.pairs, share=0.25, seed=3)
    train, held = ({pair.prompt_key for pair in side} for side in (split.train, split.held_out))
    assert not train & held
    assert len(held) == 15
    assert len(split.train) + len(split.held_out) == 80
    turned = split_pairs(many.pairs[::-1], share=0.25, seed=3)
    assert {pair.line for pair in turned.held_out} == {pair.line for pair in split.held_out}
    assert {pair.prompt_key for pair in split_pairs(many.pairs, share=0.25, seed=4).held_out} != held
    assert len(split_pairs(many.pairs[:2], share=0.01, seed=0).held_out) == 1  # never none
    with pytest.raises(ValueError, match="1 different prompts cannot be split"):
        split_pairs(many.pairs[:1], share=0.5, seed=0)


def test_a_held_out_file_takes_its_prompts_from_training(many: PairFile) -> None:
    split = split_against(many.pairs, many.pairs[:5])
    assert split.overlapping == 10  # each of the five prompts has a second pair
    assert len(split.train) == 70
    with pytest.raises(ValueError, match="nothing is left"):
        split_against(many.pairs, many.pairs)


def test_members_see_different_prompts(many: PairFile) -> None:
    def lines(member: int, members: int, kind: Any, seed: int = 1) -> list[int]:
        return [pair.line for pair in member_pairs(many.pairs, member=member, members=members, kind=kind, seed=seed)]

    parts = [lines(member, 3, "disjoint") for member in range(3)]
    assert sorted(line for part in parts for line in part) == list(range(1, 81))
    drawn = Counter(lines(0, 3, "bootstrap"))
    prompts = {pair.prompt_key for pair in many.pairs if pair.line in drawn}
    assert 30 <= len(prompts) <= 46  # 60 · (1 − 1/e) = 38
    assert max(drawn.values()) > 1
    assert lines(0, 3, "bootstrap") == lines(0, 3, "bootstrap")
    assert lines(0, 3, "bootstrap") != lines(1, 3, "bootstrap")
    assert lines(0, 1, "bootstrap") == list(range(1, 81))  # a single model sees all
    with pytest.raises(ValueError, match="60 prompts are too few for 61"):
        member_pairs(many.pairs, member=0, members=61, kind="disjoint", seed=0)


def test_lengths_become_margins_only_on_request(tmp_path: Path, tokenizer: Any) -> None:
    rows = [a_row(prompt=p, chosen="aaaa", rejected="a") for p in ("ab", "ac", "ad")] + [
        a_row(chosen="a", rejected="cc")
    ]
    pairs = read(write_rows(tmp_path / "p", rows), tokenizer).pairs
    assert balance_lengths(pairs, penalty=0) == (pairs, 0.0)
    balanced, slope = balance_lengths(pairs, penalty=1)
    assert slope > 0
    assert [pair.margin for pair in balanced] == pytest.approx([-3 * slope] * 3 + [slope])


def test_counts_are_json(tmp_path: Path, tokenizer: Any) -> None:
    file = read(write_rows(tmp_path / "p", [a_row(), "{"]), tokenizer, bad_pairs="skip")
    counts = json.loads(json.dumps(file.counts()))
    assert (counts["rows"], counts["pairs"], counts["bad"]) == (2, 1, {"not JSON": 1})
    assert len(counts["sha256"]) == 64
