"""The shipped reward functions, by numbers worked by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_cluster.functions import (
    character_accuracy,
    exact_match,
    length_penalty,
    length_window,
    repetition_penalty,
    sentiment,
)


@pytest.mark.parametrize(
    ("completion", "value"), [("fedcba", 1.0), (" fedcba\n", 1.0), ("fedcb", 0.0), ("Fedcba", 0.0), ("", 0.0)]
)
def test_exact_match(completion: str, value: float) -> None:
    assert exact_match(prompt="", completion=completion, metadata={"answer": "fedcba"}) == value


def test_exact_match_takes_any_field_and_compares_numbers_as_text() -> None:
    assert exact_match(prompt="", completion="12", metadata={"sum": 12}, field="sum") == 1.0


def test_a_row_without_the_answer_is_an_error_that_names_what_it_has() -> None:
    with pytest.raises(ValueError, match="no field 'answer'; it has solution"):
        exact_match(prompt="", completion="", metadata={"solution": "x"})


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("abcd", 1.0),
        ("abdc", 2 / 4),
        ("ab", 2 / 4),  # two of four places filled
        ("abcdxxxx", 4 / 8),  # four surplus characters
        ("bcda", 0.0),
        ("", 0.0),
    ],
)
def test_character_accuracy(completion: str, value: float) -> None:
    assert character_accuracy(prompt="", completion=completion, metadata={"answer": "abcd"}) == pytest.approx(value)


@settings(deadline=None)  # a busy machine is no failure
@given(completion=st.text(max_size=8), answer=st.text(alphabet="abc", max_size=8))
def test_character_accuracy_is_one_exactly_where_the_match_is(completion: str, answer: str) -> None:
    metadata = {"answer": answer}
    share = character_accuracy(prompt="", completion=completion, metadata=metadata)
    assert 0 <= share <= 1
    assert (share == 1) == bool(exact_match(prompt="", completion=completion, metadata=metadata))


def test_sentiment_orders_text_and_knows_neutral() -> None:
    bad, neutral, good = (
        sentiment(prompt="", completion=text, metadata={})
        for text in ("What a terrible, sad day.", "The door is made of wood.", "What a wonderful, happy day!")
    )
    assert -1 <= bad < -0.4
    assert neutral == 0
    assert 0.4 < good <= 1


def test_length_penalty() -> None:
    words = "one two three four five"
    assert length_penalty(prompt="", completion=words, metadata={}) == 0
    # 5 words, 2 beyond the limit of 3, 0.001 each
    assert length_penalty(prompt="", completion=words, metadata={}, limit=3) == pytest.approx(-0.002)
    # 23 characters, 13 beyond 10, 0.1 each
    penalty = length_penalty(prompt="", completion=words, metadata={}, limit=10, per_unit=0.1, unit="characters")
    assert penalty == pytest.approx(-1.3)


@pytest.mark.parametrize(
    ("completion", "ngram", "value"),
    [
        ("great great great", 2, -1 / 2),  # two pairs, one distinct
        ("Great great GREAT", 2, -1 / 2),
        ("a b a b a", 2, -2 / 4),  # ab ba ab ba
        ("a b c d", 2, 0.0),
        ("a a a a", 1, -3 / 4),
        ("word", 2, 0.0),
        ("", 2, 0.0),
    ],
)
def test_repetition_penalty(completion: str, ngram: int, value: float) -> None:
    assert repetition_penalty(prompt="", completion=completion, metadata={}, ngram=ngram) == pytest.approx(value)


@pytest.mark.parametrize(("words", "value"), [(0, -0.15), (2, -0.05), (3, 0.0), (5, 0.0), (7, -0.10)])
def test_length_window(words: int, value: float) -> None:
    penalty = length_window(prompt="", completion="w " * words, metadata={}, minimum=3, maximum=5)
    assert penalty == pytest.approx(value)


def test_impossible_arguments_raise() -> None:
    with pytest.raises(ValueError, match="minimum <= maximum"):
        length_window(prompt="", completion="", metadata={}, minimum=5, maximum=3)
    with pytest.raises(ValueError, match="words or characters"):
        length_penalty(prompt="", completion="", metadata={}, unit="tokens")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        repetition_penalty(prompt="", completion="", metadata={}, ngram=0)
