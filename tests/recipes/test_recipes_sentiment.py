"""The demo's task: the same bytes each time, disjoint sets, a sensible preference, and labels that are wrong at times."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer
from typer.testing import CliRunner
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from recipes import remarks, sentiment, words
from recipes.gold import value

SETS = ("heldout", "train", "pairs", "sft")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sentiment")
    assert CliRunner().invoke(sentiment.app, ["prepare", str(out), "--seed", "0"]).exit_code == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_opening_is_in_two_sets_or_twice_in_one(prepared: Path) -> None:
    openings = [row["prompt"] for name in SETS for row in rows(prepared / f"{name}.jsonl")]
    assert len(openings) == len(set(openings))
    assert len(rows(prepared / "heldout.jsonl")) == sentiment.HELD_OUT_PROMPTS >= 512


def test_held_out_openings_share_no_thing_and_place_with_others(prepared: Path) -> None:
    heldout, *others = (
        {tuple(row["prompt"].partition(" the ")[2].split()) for row in rows(prepared / f"{name}.jsonl")}
        for name in SETS
    )
    assert heldout
    assert all(heldout.isdisjoint(other) for other in others)


def test_preparing_again_writes_the_same_bytes_and_another_seed_other_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HELD_OUT_PROMPTS", "TRAIN_PROMPTS", "PAIRS", "SFT_REMARKS"):
        monkeypatch.setattr(sentiment, name, 64)
    for folder, seed in (("first", "1"), ("again", "1"), ("other", "2")):
        assert CliRunner().invoke(sentiment.app, ["prepare", str(tmp_path / folder), "--seed", seed]).exit_code == 0
    first, again, other = (tmp_path / folder for folder in ("first", "again", "other"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert all((first / f"{name}.jsonl").read_bytes() != (other / f"{name}.jsonl").read_bytes() for name in SETS)


@pytest.mark.parametrize(
    ("better", "worse", "why"),
    [
        (
            "the plot was good and the acting was funny , we enjoyed it .",
            "the plot was bad and the acting was dreary , i regret it .",
            "praise",
        ),
        (
            "the plot was good and the acting was funny , we enjoyed it .",
            "the plot was not good and the acting was not funny , i regret it .",
            "no denial",
        ),
        (
            "the plot was good and the acting was funny , we enjoyed it .",
            "the plot was good good good good and the acting was funny , we enjoyed it .",
            "no stammer",
        ),
        (
            "the soup was rich and the bread was fresh , what a joy .",
            "the soup was rich and the soup was rich and the soup was rich , what a joy .",
            "no echo",
        ),
        (
            "the soup was rich and the bread was fresh , what a joy .",
            "the soup was rich .",
            "more than a word or two",
        ),
        (
            "the soup was rich and the bread was fresh , we stayed late .",
            "the soup was rich and the bread was fresh , we stayed late , it was over at nine and i thought the menu was plain "
            "and we found the wine quiet , we took the bus .",
            "no rambling",
        ),
        ("the beach was so sunny and the room clean .", "the beach was so sunny and the room clean", "an end"),
        ("the beach was terrible , i hated it .", "great " * 30, "even blame is better than babble"),
    ],
)
def test_gold_prefers(better: str, worse: str, why: str) -> None:
    assert value(better) > value(worse), why


def test_a_value_worked_by_hand() -> None:
    # 8 words in place of 12: -1.6; `train` and `was` ... only `quiet` comes again: -0.7; no word of feeling: compound 0.
    assert value("the train was quiet , the view was quiet .") == pytest.approx(-1.6 - 0.7)
    # great 3.1 of VADER: compound = 3.1 / sqrt(3.1^2 + 15) = 0.6249 (it rounds to four places); 4 words: -3.2.
    assert value("the train was great .") == pytest.approx(4 * 0.6249 - 3.2)


def test_pairs_are_labelled_by_gold_but_for_a_tenth(prepared: Path) -> None:
    pairs = rows(prepared / "pairs.jsonl")[:2048]
    assert all(value(row["chosen"]) != value(row["rejected"]) for row in pairs)
    flipped = sum(value(row["chosen"]) < value(row["rejected"]) for row in pairs) / len(pairs)
    assert flipped == pytest.approx(0.1, abs=0.02)  # three standard errors of 2,048 draws


def test_remarks_have_the_length_they_promise_and_all_their_flaws_at_times(prepared: Path) -> None:
    lengths = sorted(len(row["completion"].split()) for row in rows(prepared / "sft.jsonl"))
    assert lengths[len(lengths) // 5] >= 8
    assert lengths[len(lengths) * 4 // 5] <= 23
    assert 14 <= lengths[len(lengths) // 2] <= 18
    shares = dict.fromkeys((*remarks.FLAWS, None), 0)
    generator = random.Random(0)
    for _ in range(2000):
        shares[remarks._flaw(generator)] += 1
    assert all(shares[flaw] / 2000 == pytest.approx(share, abs=0.03) for flaw, share in remarks.FLAWS.items())


def test_words_of_feeling_are_in_the_lexicon_and_no_others() -> None:
    lexicon = SentimentIntensityAnalyzer().lexicon
    subjects = words.SUBJECTS.values()
    assert all(lexicon[word] > 0.5 for word in (*words.KIND, *(word for one in subjects for word in one.kind)))
    assert all(lexicon[word] < -0.5 for word in (*words.UNKIND, *(word for one in subjects for word in one.unkind)))
    plain = {*words.PLAIN, *words.BOOSTERS, *words.WHO, *" ".join((*words.WHEN, *words.WHERE)).split()}
    plain |= {word for one in subjects for word in (*one.verbs, *one.things, *one.aspects)}
    assert not plain & set(lexicon)


def test_the_model_folder_fits_the_texts(prepared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(prepared / "model")
    config = AutoConfig.from_pretrained(prepared / "model")
    assert config.vocab_size == len(tokenizer)
    assert config.head_dim == 32
    for row in rows(prepared / "sft.jsonl")[:500]:
        prompt, completion = (tokenizer(row[column])["input_ids"] for column in ("prompt", "completion"))
        assert tokenizer.unk_token_id not in prompt + completion
        assert len(prompt) + len(completion) < config.max_position_embeddings
        assert tokenizer(f"{row['prompt']} {row['completion']}")["input_ids"] == prompt + completion
        assert tokenizer.decode([*completion, tokenizer.eos_token_id], skip_special_tokens=True) == row["completion"]
