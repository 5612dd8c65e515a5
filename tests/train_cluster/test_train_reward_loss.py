"""The preference loss: hand-worked, by finite differences, and what margins, flips and lengths do to it. 2 s."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from train_cluster.reward.losses import length_margins, length_slope, preference_loss


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(chosen: float, rejected: float, margin: float = 0.0, centring: float = 0.0, flip_rate: float = 0.0) -> float:
    return float(preference_loss(t(chosen), t(rejected), t(margin), centring=centring, flip_rate=flip_rate))


def test_hand_worked() -> None:
    assert loss(1, 1) == pytest.approx(math.log(2))  # −log σ(0)
    assert loss(2, 1) == pytest.approx(0.3132617)  # log(1 + e⁻¹)
    assert loss(2, 1, margin=3) == pytest.approx(2.1269280)  # x = −2: log(1 + e²)
    assert loss(2, 1, centring=0.01) == pytest.approx(0.3132617 + 0.09)  # (2 + 1)² / 100
    # (0.8 · log(1 + e⁻¹) − 0.2 · log(1 + e)) / 0.6 = (0.2506093 − 0.2626523) / 0.6
    assert loss(2, 1, flip_rate=0.2) == pytest.approx(-0.0200717, abs=1e-6)


def test_scores_may_move_together_unless_they_are_centred() -> None:
    assert loss(102, 101) == pytest.approx(loss(2, 1))
    assert loss(102, 101, centring=0.01) > loss(2, 1, centring=0.01)


def test_flipped_labels_give_the_clean_loss_on_average() -> None:
    """(1 − ε) · L(x) + ε · L(−x) is the plain loss of x, whatever x."""
    for x in (-3.0, 0.2, 5.0):
        expected = 0.7 * loss(x, 0, flip_rate=0.3) + 0.3 * loss(0, x, flip_rate=0.3)
        assert expected == pytest.approx(loss(x, 0))


@pytest.mark.parametrize(("centring", "flip_rate"), [(0, 0), (0.1, 0), (0, 0.15), (0.1, 0.15)])
def test_gradient_by_finite_differences(centring: float, flip_rate: float) -> None:
    chosen, rejected = t(0.3, -2, 4).requires_grad_(), t(0.1, 1, -1).requires_grad_()
    assert gradcheck(
        lambda c, r: preference_loss(c, r, t(0, 1, 0.5), centring=centring, flip_rate=flip_rate), (chosen, rejected)
    )


def test_margins_carry_no_gradient_and_large_scores_no_overflow() -> None:
    margins = t(1).requires_grad_()
    assert not preference_loss(t(0), t(0), margins, centring=0, flip_rate=0).requires_grad
    assert loss(-2000, 2000) == pytest.approx(4000)


def test_the_slope_of_lengths_is_that_of_a_logistic_regression() -> None:
    # 3 of 4 pairs prefer the longer answer by 2 tokens: at w the gradient 2·(3·σ(−2w) − σ(2w)) vanishes at σ(2w) = 3/4,
    # so w = log(3) / 2 without the prior; with many such pairs the prior does not matter.
    longer = t(2, 2, 2, -2).repeat(1000)
    assert length_slope(longer) == pytest.approx(math.log(3) / 2, rel=2e-3)
    assert length_slope(-longer) == pytest.approx(-math.log(3) / 2, rel=2e-3)
    assert length_slope(t(0, 0)) == 0
    assert length_slope(t(3, -3)) == pytest.approx(0)
    assert 0 < length_slope(t(5, 5, 5)) < 1  # lengths that separate the pairs leave it finite


def test_a_pair_that_its_length_explains_teaches_nothing() -> None:
    """With the whole of it explained away, scores that say nothing are the optimum where only length tells the answers."""
    longer = t(2, 2, 2, -2).repeat(1000)
    margins = length_margins(torch.zeros_like(longer), longer, slope=length_slope(longer), penalty=1)
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)  # a model that can only rate length

    preference_loss(w * longer, torch.zeros_like(longer), margins, centring=0, flip_rate=0).mean().backward()
    assert w.grad is not None
    assert float(w.grad) == pytest.approx(0, abs=1e-3)
    without = torch.zeros((), dtype=torch.float64, requires_grad=True)
    preference_loss(without * longer, t(0), t(0), centring=0, flip_rate=0).mean().backward()
    assert without.grad is not None
    assert float(without.grad) == pytest.approx(-0.5)  # −(3·2·½ − 2·½)/4
