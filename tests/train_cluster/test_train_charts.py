"""Charts that pages draw: ticks, gaps, ranges, levels, legends."""

import re

import pytest

from train_cluster import charts
from train_cluster.charts import Axes, round_ticks, thinned, tick

AXES = Axes(x=(0, 10), y=(0, 1), x_label="step", y_label="share")
NAN = float("nan")


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


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0, 1), [0, 0.25, 0.5, 0.75, 1]),
        ((0, 36), [0, 10, 20, 30]),
        ((1, 12), [2, 4, 6, 8, 10, 12]),  # what is counted has no halves
        ((-0.13, 0.31), [-0.1, 0, 0.1, 0.2, 0.3]),
        ((0, 100_000), [0, 25_000, 50_000, 75_000, 100_000]),
        ((3, 3), [3]),
    ],
)
def test_ticks_are_round(ends: tuple[float, float], ticks: list[float]) -> None:
    assert round_ticks(ends) == pytest.approx(ticks)


def test_missing_values_leave_gaps_and_a_lone_one_is_a_dot() -> None:
    drawn = charts.curve(
        AXES, [(0, 0.1), (1, 0.2), (2, None), (3, 0.5), (4, NAN), (5, 0.1), (6, 0.2), (7, 0.3)], kind="s0"
    )
    assert [len(points.split()) for points in re.findall('points="(.*?)"', drawn)] == [2, 3]
    assert drawn.count("<circle") == 1
    assert charts.curve(AXES, [(0, None)]) == ""


def test_a_band_breaks_where_either_end_is_missing() -> None:
    drawn = charts.band(AXES, [(0, 0.1, 0.2), (1, 0.1, 0.3), (2, None, 0.3), (3, 0.2, 0.3), (4, 0.2, 0.4)])
    assert [len(points.split()) for points in re.findall('points="(.*?)"', drawn)] == [4, 4]


def test_a_level_outside_the_axis_is_not_drawn() -> None:
    assert charts.reference(AXES, 1.5, "alarm") == ""
    assert ">alarm</text>" in charts.reference(AXES, 0.5, "alarm")
    top = re.search('<text.* y="(.*?)"', charts.reference(AXES, 1.0, "alarm"))
    assert top is not None
    assert float(top[1]) > charts.TOP  # its name lies below it, inside the frame


def test_neighbours_are_averaged_with_their_range() -> None:
    points = [(float(at), float(at % 4)) for at in range(8)]
    assert thinned(points, most=2) == [(2.0, 1.5, 0.0, 3.0), (6.0, 1.5, 0.0, 3.0)]
    assert thinned(points, most=8)[3] == (3.0, 3.0, 3.0, 3.0)
    assert thinned([(0.0, None), (1.0, NAN), (2.0, 5.0), (3.0, None)], most=2) == [
        (1.0, None, None, None),
        (3.0, 5.0, 5.0, 5.0),
    ]
    assert len(thinned([(float(at), 0.0) for at in range(100_000)], most=240)) <= 240


def test_a_legend_names_its_series_and_is_escaped() -> None:
    drawn = charts.chart("Two", AXES, [], legend={"a<b": "s0", "c": "s1"})
    assert '<i class="key key-s0"></i>a&lt;b' in drawn
    assert "key-s1" in drawn
    assert 'class="key' not in charts.chart("One", AXES, [])
