"""GAE, whitening, the value loss and explained variance: hand-worked numbers, reductions, finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_cluster.advantages import generalised, mean_and_std, token_rewards, whitened
from train_cluster.config import GrpoConfig, KlConfig, PpoConfig, TrainingConfig
from train_cluster.losses import clipped_value_loss
from train_cluster.measures import effective_share, explained_variance


def close(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_rewards_stand_at_the_last_trained_token_and_penalties_at_their_own() -> None:
    totals, segment = torch.tensor([2.0, 2.0, 2.0, -1.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 2, 2])
    penalties = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.0, 0.5])
    close(token_rewards(totals, penalties, segment), [-0.1, 0.2, 2 - 0.3, -1 - 0.4, 0.0, 5 - 0.5])


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 1.0, 3.0]), torch.tensor([0.5, 0.4, 0.8, 2.0])
    segment = torch.tensor([0, 0, 0, 1])
    # gamma 1/2, lambda 1/2, product 1/4
    # delta: 0 + 0.4/2 - 0.5 = -0.3; 0 + 0.8/2 - 0.4 = 0; 1 - 0.8 = 0.2; and alone 3 - 2 = 1
    # A: third 0.2; second 0 + 0.2/4 = 0.05; first -0.3 + 0.05/4 = -0.2875
    advantages = generalised(rewards, values, segment, gamma=0.5, gae_lambda=0.5)
    close(advantages, [-0.2875, 0.05, 0.2, 1.0])


def test_gae_reduces_to_returns_at_lambda_1_and_to_one_step_at_0() -> None:
    rewards, values = torch.tensor([-0.1, -0.2, 2.0, 7.0]), torch.tensor([0.5, 0.4, 0.8, 2.0])
    segment = torch.tensor([0, 0, 0, 1])
    whole = generalised(rewards, values, segment, gamma=1.0, gae_lambda=1.0)
    close(whole, [1.7 - 0.5, 1.8 - 0.4, 2.0 - 0.8, 7.0 - 2.0])  # all that follows, less the value
    one_step = generalised(rewards, values, segment, gamma=1.0, gae_lambda=0.0)
    close(one_step, [-0.1 + 0.4 - 0.5, -0.2 + 0.8 - 0.4, 2.0 - 0.8, 7.0 - 2.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.floats(0.1, 1), st.floats(0, 1))
def test_packing_changes_no_advantage(lengths: list[int], gamma: float, gae_lambda: float) -> None:
    random = torch.Generator().manual_seed(sum(lengths))
    rewards, values = torch.randn(2, sum(lengths), generator=random)
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    packed = generalised(rewards, values, segment, gamma=gamma, gae_lambda=gae_lambda)
    alone = [
        generalised(r, v, torch.zeros(len(r), dtype=torch.long), gamma=gamma, gae_lambda=gae_lambda)
        for r, v in zip(rewards.split(lengths), values.split(lengths), strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-12)


def test_gae_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"must all be \[N\]"):
        generalised(torch.zeros(3), torch.zeros(2), torch.zeros(3, dtype=torch.long), gamma=1.0, gae_lambda=1.0)


def test_whitening_by_sums_of_two_ranks() -> None:
    ranks = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]
    sums = [sum(float(f(part).sum()) for part in ranks) for f in (torch.ones_like, lambda x: x, torch.square)]
    mean, std = mean_and_std(count=sums[0], total=sums[1], squares=sums[2])
    assert (mean, std) == (3.0, math.sqrt(3.5))  # ((-2)² + (-1)² + 0² + 3²) / 4 = 14/4
    together = torch.cat([whitened(part, mean=mean, std=std) for part in ranks])
    close(together.mean()[None], [0.0])
    close(together.square().mean()[None], [1.0])
    assert whitened(torch.tensor([2.0]), mean=2.0, std=0.0) == 0.0  # equal advantages move nothing


def test_value_loss_by_hand_and_where_its_gradient_is_zero() -> None:
    values = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.9], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    returns = torch.tensor([3.0, 3.0, 3.0, 0.0, 3.0], dtype=torch.float64)
    loss, clipped = clipped_value_loss(values, old, returns, clip=0.2)
    # ½·2²; ½·max(1.5², 1.8²); ½·max(2.5², 2.2²): away from the return it is not held; ½·max(1.5², 1.2²); ½·2.1²
    close(loss, [2.0, 1.62, 3.125, 1.125, 2.205])
    assert clipped.tolist() == [False, True, False, False, False]
    loss.sum().backward()
    assert values.grad is not None
    close(values.grad, [-2.0, 0.0, -2.5, 1.5, -2.1])
    for i in range(5):  # central differences
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = 1e-6
        up, _ = clipped_value_loss(values.detach() + step, old, returns, clip=0.2)
        down, _ = clipped_value_loss(values.detach() - step, old, returns, clip=0.2)
        assert float((up - down).sum() / 2e-6) == pytest.approx(float(values.grad[i]), abs=1e-6)
    plain, held = clipped_value_loss(values, old, returns, clip=None)
    close(plain.detach(), [2.0, 1.125, 3.125, 1.125, 2.205])
    assert not held.any()


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1.0),
        ([2.0, 0.0, 0.0, 0.0], 0.25),  # 2^2 / (4 * 2^2)
        ([3.0, 1.0], 0.8),  # 4^2 / (2 * 10)
        ([0.0, 0.0], 0.0),  # after a step that was far too large: measured, and no reason to end
        ([], 1.0),
    ],
)
def test_effective_share_of_weights(weights: list[float], share: float) -> None:
    total, squared = sum(weights), sum(weight**2 for weight in weights)
    assert effective_share(total, squared, count=len(weights)) == pytest.approx(share)


def test_explained_variance() -> None:
    assert explained_variance(error_std=0.0, return_std=2.0) == 1.0
    assert explained_variance(error_std=2.0, return_std=2.0) == 0.0
    assert explained_variance(error_std=4.0, return_std=2.0) == -3.0
    assert explained_variance(error_std=1.0, return_std=0.0) == 0.0


def test_what_each_algorithm_makes_of_nulls() -> None:
    ppo, grpo = TrainingConfig(), TrainingConfig(algorithm=GrpoConfig())
    assert isinstance(ppo.algorithm, PpoConfig)
    assert (ppo.epochs_in_force, [ppo.mini_batches_in_force(groups) for groups in (16, 12, 13, 2)]) == (4, [8, 6, 1, 2])
    assert (ppo.kl_in_force.where, ppo.kl_in_force.estimator, ppo.kl_in_force.adaptive) == ("reward", "k1", True)
    assert (grpo.epochs_in_force, grpo.mini_batches_in_force(16)) == (1, 1)
    assert (grpo.kl_in_force.where, grpo.kl_in_force.estimator, grpo.kl_in_force.adaptive) == ("loss", "k3", False)
    own = TrainingConfig(epochs=2, mini_batches=3, kl=KlConfig(where="loss", estimator="k2", adaptive=False))
    assert (own.epochs_in_force, own.mini_batches_in_force(16)) == (2, 3)
    assert (own.kl_in_force.where, own.kl_in_force.estimator, own.kl_in_force.adaptive) == ("loss", "k2", False)
    for unpenalised in (KlConfig(where="none"), KlConfig(coefficient=0.0)):  # there is nothing to adapt
        assert not TrainingConfig(kl=unpenalised).kl_in_force.adaptive
    assert TrainingConfig(kl=KlConfig(where="loss")).kl_in_force.estimator == "k3"  # k1 would be noise there
