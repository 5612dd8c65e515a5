"""What a card says: hand-worked figures, verdicts, warnings, and a page that asks for nothing from outside. 2 s."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from train_cluster.reward import figures, page
from train_cluster.reward.figures import HeldOut


def held_out(chosen: list[float], rejected: list[float], **changes: object) -> HeldOut:
    n = len(chosen)
    given = {"chosen_tokens": np.full(n, 3.0), "rejected_tokens": np.full(n, 3.0), "categories": ("",) * n}
    return HeldOut(chosen=np.array(chosen, float), rejected=np.array(rejected, float), **(given | changes))  # type: ignore[arg-type]


def test_wilson_interval() -> None:
    # 8 of 10: centre 0.8 + 3.8415/20 = 0.99207, half 1.95996 · √(0.016 + 0.0096036) = 0.31362, over 1.38415
    p, (low, high) = figures.share(np.array([1.0] * 8 + [0.0] * 2))
    assert (p, low, high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert figures.share(np.ones(20))[1] == pytest.approx([0.8389, 1.0], abs=1e-4)


def test_a_tie_is_half_right() -> None:
    assert held_out([1, 0, 2], [0, 0, 3]).right.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize(
    ("accuracy", "pairs", "word", "advice"),
    [
        (0.5, 1000, "weak", "no better than a coin"),
        (0.7, 10, "weak", "no better than a coin"),
        (0.6, 1000, "weak", "below 65%"),
        (0.65, 1000, "healthy", "65% to 75%"),
        (0.75, 1000, "healthy", "65% to 75%"),
        (0.9, 1000, "suspicious", "near copies of training prompts"),
    ],
)
def test_verdicts(accuracy: float, pairs: int, word: str, advice: str) -> None:
    right = np.zeros(pairs)
    right[: round(accuracy * pairs)] = 1
    found = figures.verdict(*figures.share(right))
    assert found["word"] == word
    assert advice in found["advice"]


def test_calibration_counts_what_was_said_and_what_came() -> None:
    # differences of log 3 say 75 %: three are right of four; those of −log 9 say 90 % and are wrong
    three = np.log(3.0)
    found = figures.calibration(np.array([three, three, three, -three, -np.log(9.0)]))
    low, high = found["bins"]
    assert (low["pairs"], low["said"], low["observed"]) == (4, pytest.approx(0.75), pytest.approx(0.75))
    assert (high["pairs"], high["said"], high["observed"]) == (1, pytest.approx(0.9), 0)
    assert found["expected_calibration_error"] == pytest.approx(0.9 / 5)


def test_a_model_that_says_what_comes_is_calibrated() -> None:
    random = np.random.default_rng(0)
    said = random.uniform(-3, 3, 20_000)
    comes = np.where(random.uniform(size=said.size) < 1 / (1 + np.exp(-said)), said, -said)
    assert figures.calibration(comes)["expected_calibration_error"] < 0.02
    assert figures.calibration(4 * comes)["expected_calibration_error"] > 0.1  # four times too sure


def test_length_bias_is_measured_and_warned_of() -> None:
    lengths = {"chosen_tokens": np.array([5.0, 6.0, 7.0]), "rejected_tokens": np.array([1.0, 2.0, 8.0])}
    leaning = figures.length_bias(held_out([5, 6, 7], [1, 2, 8], **lengths))
    assert leaning["pearson"] == pytest.approx(1)
    assert leaning["chosen_is_longer"] == pytest.approx(2 / 3)
    assert "longer answers" in leaning["warning"]
    assert "reward.length_penalty=1" in leaning["warning"]
    shorter = figures.length_bias(held_out([-5, -6, -7], [-1, -2, -8], **lengths))
    assert "shorter answers" in shorter["warning"]
    assert figures.length_bias(held_out([1, 0, 1], [0, 1, 0]))["warning"] == ""  # lengths do not vary
    slight = figures.length_bias(held_out([1, 3, 1], [3, 1, 2.4], **lengths))
    assert abs(slight["pearson"]) < 0.2
    assert slight["warning"] == ""


def test_agreement_of_members() -> None:
    one, two, three = (held_out(chosen, [0, 0, 0, 0]) for chosen in ([1, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1]))
    found = figures.agreement(np.stack([one.chosen, two.chosen, three.chosen]))
    assert found["matrix"] == [[1, 0.75, 0.5], [0.75, 1, 0.75], [0.5, 0.75, 1]]
    assert found["mean"] == pytest.approx((0.75 + 0.5 + 0.75) / 3)
    assert found["unanimous"] == 0.5
    assert figures.mean_of([one, two, three]).chosen == pytest.approx([1, 1, 1 / 3, -1 / 3])


def test_quality_by_category() -> None:
    found = figures.quality(held_out([1, 1, 0, 0], [0, 0, 1, 1], categories=("a", "a", "a", "")))
    assert found["accuracy"] == 0.5
    assert list(found["categories"]) == ["a"]
    assert found["categories"]["a"]["accuracy"] == pytest.approx(2 / 3)
    assert found["scores"] == {"mean": 0.5, "std": 0.5, "mean_chosen": 0.5, "mean_rejected": 0.5}
    assert sum(found["margins"]["counts"]) == 4


def a_card(found: HeldOut) -> dict[str, Any]:
    hostile = "<script>alert(1)</script>"
    file = {"path": hostile, "sha256": "ab", "rows": 3, "pairs": 2, "bad": {"too long": 1}, "disagreed": 4}
    data = {"files": [file], "train_pairs": 7, "train_prompts": 6, "held_out_pairs": 2, "held_out_prompts": 2}
    member = {"path": "0", "accuracy": 0.7, "prompts": 5, "weights_sha256": "ef"}
    return {
        "name": hostile,
        "data": data,
        "training": {"base": hostile, "steps": 3, "config": {"batch_pairs": 4}},
        "held_out": figures.quality(found),
        "curve": [{"step": 0, "loss": None, "held_out_loss": 0.7}, {"step": 1, "loss": 0.6, "accuracy": 0.5}],
        "hashes": {"weights_sha256": "cd"},
        "members": [member, member],
        "agreement": figures.agreement(np.ones((2, 3))),
    }


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_shows_it_all_and_fetches_nothing() -> None:
    found = held_out([1, 2, 0], [0, 3, -1], categories=("<b>", "x", "x"), chosen_tokens=np.array([3.0, 9.0, 1.0]))
    html = page.page(a_card(found), found)
    tags = Tags()
    tags.feed(html)
    names = [name for name, _ in tags.seen]
    assert names.count("svg") == 5
    assert not {"script", "link", "img", "iframe"} & {*names}
    assert "<script" not in html
    assert "<td><b>" not in html
    targets = [value for _, given in tags.seen for key, value in given.items() if key in ("src", "href")]
    assert targets == ["0/reward_card.html"] * 2
    for text in ("66.7%", "1 too long, 4 on which annotators disagree", "All agree on 100.0%", "7 pairs of 6 prompts"):
        assert text in html
    assert "nan" not in html
