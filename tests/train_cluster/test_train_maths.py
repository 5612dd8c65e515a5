"""Advantages, losses, KL, corrections and schedule: hand-worked numbers, identities, finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_cluster import kl
from train_cluster.advantages import group_normalised
from train_cluster.corrections import truncated_importance
from train_cluster.losses import clipped_surrogate, decoupled_surrogate, token_mean
from train_cluster.schedule import warmed_up


def close(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


# -- advantages ------------------------------------------------------------------------------------------------------
def test_advantages_by_hand() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0, 5.0, 7.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    # group 0: mean 1/4, deviations 3/4, -1/4 x3, sample variance (9 + 3)/16 / 3 = 1/4, std 1/2
    # group 1: mean 6, deviations -1, 1, sample variance 2 / 1, std sqrt 2
    close(group_normalised(rewards, groups, scale_by_std=False), [0.75, -0.25, -0.25, -0.25, -1.0, 1.0])
    scaled = group_normalised(rewards, groups, scale_by_std=True, epsilon=0.0)
    close(scaled, [1.5, -0.5, -0.5, -0.5, -1 / math.sqrt(2), 1 / math.sqrt(2)])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e3, 1e3)), min_size=1, max_size=20), st.booleans())
@settings(max_examples=50, deadline=None)
def test_advantages_of_a_group_sum_to_zero(members: list[tuple[int, float]], scale: bool) -> None:
    groups = torch.tensor([group for group, _ in members])
    advantages = group_normalised(torch.tensor([r for _, r in members]), groups, scale_by_std=scale)
    assert advantages.isfinite().all()
    assert torch.zeros(4, dtype=torch.float64).index_add(0, groups, advantages).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e6 + 0.1])
def test_equal_rewards_and_single_samples_have_no_advantage(reward: float, scale: bool) -> None:
    rewards, groups = torch.tensor([reward] * 8, dtype=torch.float64), torch.tensor([0] * 7 + [1])
    assert (group_normalised(rewards, groups, scale_by_std=scale) == 0).all()


def test_advantages_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"must be \[B\]"):
        group_normalised(torch.zeros(4), torch.zeros(3, dtype=torch.long), scale_by_std=True)


# -- losses ----------------------------------------------------------------------------------------------------------
def test_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5])
    advantage = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0])
    loss, clipped = clipped_surrogate(ratio.log(), torch.zeros(5), advantage, clip_low=0.2, clip_high=0.28)
    # -(1·2); -min(3, 1.28·2); -min(-3, -2.56); -min(1, 0.8·2); -min(-1, -1.6)
    close(loss, [-2.0, -2.56, 3.0, -1.0, 1.6])
    assert clipped.tolist() == [False, True, False, False, True]


def test_gradient_is_zero_where_clipped_and_else_that_of_the_ratio() -> None:
    logprobs = torch.tensor([0.0, 0.6, 0.6, -0.6, -0.6], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0], dtype=torch.float64)
    arguments = (torch.zeros(5, dtype=torch.float64), advantage)
    loss, clipped = clipped_surrogate(logprobs, *arguments, clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    assert logprobs.grad is not None
    close(logprobs.grad, torch.where(clipped, 0.0, -advantage * logprobs.detach().exp()).tolist())
    for i in range(5):  # central differences
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = 1e-6
        up, _ = clipped_surrogate(logprobs.detach() + step, *arguments, clip_low=0.2, clip_high=0.28)
        down, _ = clipped_surrogate(logprobs.detach() - step, *arguments, clip_low=0.2, clip_high=0.28)
        assert float((up - down).sum() / 2e-6) == pytest.approx(float(logprobs.grad[i]), abs=1e-6)


def test_decoupled_surrogate_scales_by_weights_and_reduces_to_the_plain_one() -> None:
    logprobs, advantage = torch.tensor([0.1, -0.1]), torch.tensor([1.0, -1.0])
    plain, _ = clipped_surrogate(logprobs, torch.zeros(2), advantage, clip_low=0.2, clip_high=0.2)
    for weights in (torch.ones(2), torch.tensor([0.5, 2.0])):
        loss, _ = decoupled_surrogate(logprobs, torch.zeros(2), advantage, weights, clip_low=0.2, clip_high=0.2)
        torch.testing.assert_close(loss, weights * plain)


def test_token_mean_of_parts_is_that_of_the_whole() -> None:
    values, mask = torch.arange(6.0), torch.tensor([True, True, False, True, False, True])
    values[2] = math.nan  # what is not trained may be anything
    # (0 + 1 + 3 + 5) / 4
    assert token_mean(values, mask, num_trained_tokens=4) == 2.25
    parts = [token_mean(values[s], mask[s], num_trained_tokens=4) for s in (slice(0, 2), slice(2, 6))]
    assert sum(parts) == 2.25


# -- KL --------------------------------------------------------------------------------------------------------------
def test_kl_estimators_by_hand() -> None:
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])  # r = 1/2
    close(kl.estimate(logprobs, reference, estimator="k1"), [math.log(2)])
    close(kl.estimate(logprobs, reference, estimator="k2"), [math.log(2) ** 2 / 2])
    close(kl.estimate(logprobs, reference, estimator="k3"), [0.5 - 1 + math.log(2)])


def categorical_kl_gradients(estimator: kl.Estimator) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected value of an estimate, and the expected gradient of it as a loss, exactly, over three outcomes."""
    logits = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    reference = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)
    estimates = kl.estimate(logprobs, reference, estimator=estimator)
    weights = logprobs.detach().exp()
    (gradient,) = torch.autograd.grad((weights * estimates).sum(), logits)
    return (weights * estimates).sum().detach(), gradient


def true_kl_gradient(*, forward: bool) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    reference = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)
    value = (
        (reference.exp() * (reference - logprobs)).sum() if forward else (logprobs.exp() * (logprobs - reference)).sum()
    )
    return value.detach(), torch.autograd.grad(value, logits)[0]


def test_kl_estimates_have_the_documented_values_and_gradients() -> None:
    value, gradient = true_kl_gradient(forward=False)
    _, forward_gradient = true_kl_gradient(forward=True)
    k1, k2, k3 = (categorical_kl_gradients(estimator) for estimator in ("k1", "k2", "k3"))
    torch.testing.assert_close(k1[0], value)
    torch.testing.assert_close(k3[0], value)
    torch.testing.assert_close(k1[1], torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(k2[1], gradient)
    torch.testing.assert_close(k3[1], forward_gradient)


@pytest.mark.parametrize(
    ("kl_measured", "value", "expected"),
    [
        (9.1, 0.02, 0.03),  # above 1.5 · 6
        (9.0, 0.02, 0.02),
        (4.0, 0.02, 0.02),
        (3.9, 0.03, 0.02),  # below 6 / 1.5
        (50.0, 0.19, 0.2),  # bounded by 10 · 0.02
        (0.0, 0.0021, 0.002),  # and by 0.02 / 10
    ],
)
def test_next_coefficient(kl_measured: float, value: float, expected: float) -> None:
    assert kl.next_coefficient(value, kl=kl_measured, target=6.0, initial=0.02) == pytest.approx(expected)


# -- corrections -----------------------------------------------------------------------------------------------------
def test_truncated_importance_by_hand() -> None:
    proximal = torch.tensor([1.5, 1.2, 4.0, 0.5]).log()
    behaviour = torch.zeros(4)
    mask, segment = torch.ones(4, dtype=torch.bool), torch.tensor([0, 0, 1, 1])
    weights, capped = truncated_importance(proximal, behaviour, mask, segment, level="token", cap=2.0)
    close(weights, [1.5, 1.2, 2.0, 0.5])
    assert capped.tolist() == [False, False, True, False]
    weights, capped = truncated_importance(proximal, behaviour, mask, segment, level="sequence", cap=1.9)
    close(weights, [1.8, 1.8, 1.9, 1.9])  # 1.5 · 1.2; min(4 · 0.5, 1.9)
    assert capped.tolist() == [False, False, True, True]


def test_truncated_importance_overlooks_what_is_not_trained() -> None:
    behaviour = torch.tensor([0.0, math.nan, 0.0])
    mask, segment = torch.tensor([True, False, True]), torch.tensor([0, 0, 0])
    for level in ("token", "sequence"):
        weights, _ = truncated_importance(torch.zeros(3), behaviour, mask, segment, level=level, cap=2.0)
        close(weights, [1.0, 1.0, 1.0])


def test_truncated_importance_survives_absurd_ratios() -> None:
    mask, segment = torch.ones(2, dtype=torch.bool), torch.tensor([0, 1])
    weights, _ = truncated_importance(
        torch.tensor([500.0, -500.0]), torch.zeros(2), mask, segment, level="sequence", cap=2.0
    )
    close(weights, [2.0, 0.0])


def test_warm_up() -> None:
    assert [warmed_up(k, peak=1.0, warmup_steps=4) for k in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert warmed_up(1, peak=1.0, warmup_steps=0) == 1.0
