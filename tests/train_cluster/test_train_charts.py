"""Ticks of charts that pages draw."""

import pytest

from train_cluster.charts import tick


@pytest.mark.parametrize(
    ("value", "ends", "shown"),
    [
        (0.0072, (-1.8, 1.8), "0.01"),  # half a step of 0.9 off would be told by the second digit
        (-1e-12, (-1.0, 1.0), "0"),
        (0.625, (0.5, 1.0), "0.62"),
        (57.75, (0.0, 77.0), "58"),
        (1e-5, (0.0, 4e-5), "1e-05"),
        (125_000.0, (0.0, 500_000.0), "125000"),
        (3.0, (3.0, 3.0), "3"),
    ],
)
def test_a_tick_is_no_finer_than_its_axis(value: float, ends: tuple[float, float], shown: str) -> None:
    assert tick(value, ends) == shown
