"""The measures of the scorer's benchmark, by hand."""

import numpy as np
import pytest

from benchmarks.scorer_measures import accuracy, correlation, kl_per_response, logprob_error, pairwise_agreement


def test_agreement_counts_pairs_in_the_same_order() -> None:
    exact = np.array([1.0, 2.0, 3.0, 3.0])
    # five pairs that differ; the second stands above the third and the fourth now
    assert pairwise_agreement(exact, np.array([1.0, 3.5, 3.0, 3.0])) == pytest.approx(3 / 5)
    assert pairwise_agreement(exact, 2 * exact) == 1.0


def test_scores_of_answers_in_turn() -> None:
    assert accuracy(np.array([2.0, 1.0, 0.0, 1.0])) == 0.5
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([-1.0, -2.0, -3.0])) == pytest.approx(-1)


def test_errors_of_log_probs() -> None:
    exact = [np.array([-1.0, -2.0], np.float32), np.array([-3.0], np.float32)]
    near = [np.array([-1.5, -2.0], np.float32), np.array([-3.0], np.float32)]
    assert logprob_error(exact, near) == pytest.approx(0.5 / 3)
    # d = -0.5, 0 | 0: exp(-0.5) - 1 + 0.5
    assert kl_per_response(exact, near) == pytest.approx((np.exp(-0.5) - 0.5) / 2)
