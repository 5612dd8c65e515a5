"""The parts of the renderer: values as people read them, ticks, stacks, tables, states, and names that are not trusted. 1 s."""

import re

import pytest
from grafana_panels import NAMES, dashboard

from deploy.grafana.render.__main__ import main
from deploy.grafana.render.api import Series
from deploy.grafana.render.axes import time_ticks, value_range, value_ticks
from deploy.grafana.render.curves import curves
from deploy.grafana.render.figures import bands, bar_list, figure
from deploy.grafana.render.names import legend
from deploy.grafana.render.panel import Panel, rows
from deploy.grafana.render.tables import listing
from deploy.grafana.render.units import shown, unit_size
from deploy.grafana.render.window import Window, duration_s

NOON = 1_800_014_400.0
"""2027-01-15 12:00:00 UTC"""
SIZE, SPAN = (400, 200), (NOON, NOON + 60)


def panel(name: str, title: str) -> Panel:
    return next(each for row in rows(dashboard(name)) for each in row.panels if each.title == title)


def series(*values: float, **labels: str) -> Series:
    """A value each ten seconds from noon on."""
    return Series(labels=labels, points=tuple((NOON + 10 * place, value) for place, value in enumerate(values)))


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.4567, "percentunit", None, "45.7%"),
        (0.4567, "percentunit", 0, "46%"),
        (12_345.0, "si:tok/s", None, "12.3 ktok/s"),
        (31.0, "si:tok/s", None, "31 tok/s"),
        (0.0042, "s", None, "4.2 ms"),
        (90.0, "s", None, "1.5 min"),
        (0.0, "s", None, "0 s"),
        (1536.0, "bytes", None, "1.5 KiB"),
        (0.0, "bytes", None, "0 B"),
        (3 * 2**20, "binBps", None, "3 MiB/s"),
        (6.25, "suffix: nats", 2, "6.25 nats"),
        (2.0, "suffix: /s", None, "2/s"),
        (5e-6, "sci", None, "5.00e-06"),
        (1.0, "bool_yes_no", None, "Yes"),
        (1234.0, "none", None, "1234"),
        (0.00001, "none", None, "1.0e-05"),
    ],
)
def test_values_are_written_with_their_units(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert shown(value, unit, decimals) == text


def test_every_unit_of_the_dashboards_can_be_written() -> None:
    for name in NAMES:
        for row in rows(dashboard(name)):
            for each in row.panels:
                assert shown(0.5, each.unit, each.decimals)


def test_ticks_are_round() -> None:
    assert value_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert value_ticks(-0.07, 0.11) == [-0.05, 0.0, 0.05, 0.1]
    assert value_ticks(0.0, 1.3, decimals=0) == [0.0, 1.0]
    assert value_ticks(0.0, 1.1, decimals=1) == [0.0, 0.5, 1.0], "0.25 would be written 0.2"
    assert value_ticks(0.0, 190.0, size=60.0) == [0.0, 60.0, 120.0, 180.0]
    assert value_ticks(0.0, 4 * 2**20, size=unit_size(4 * 2**20, "bytes")) == [
        0.0,
        2**20,
        2 * 2**20,
        3 * 2**20,
        4 * 2**20,
    ]
    assert time_ticks(NOON - 1, NOON + 61, 360) == [
        (NOON, "12:00:00"),
        (NOON + 30, "12:00:30"),
        (NOON + 60, "12:01:00"),
    ]
    assert value_range([0.0, 0.0], 0.0, None) == (0.0, 1.0)
    assert value_range([2.0, 2.0], 0.0, 1.0) == (0.0, 2.0), "what lies outside of a fixed range is shown all the same"


def test_stacked_curves_stand_on_one_another() -> None:
    """0.25 and 0.75 of a plot from 0 to 1: the second area reaches its top."""
    drawn = curves(panel("overview", "The trainer: at work, or waiting for"), [("{{stage}}", series(0.25, 0.25, stage="scoring")), ("{{stage}}", series(0.75, 0.75, stage="training"))], times=SPAN, size=SIZE)  # fmt: skip
    first, second = (
        re.findall(r"[\d.]+,([\d.]+)", points) for points in re.findall(r'<polygon[^>]*points="([^"]*)"', drawn)
    )
    floor, top = max(map(float, first)), min(map(float, second))
    assert float(first[0]) == pytest.approx(floor - 0.25 * (floor - top), abs=0.1)
    assert second[2:] == first[1::-1], "its floor is the top of the first"
    assert 'fill="#6d4aa8"' in drawn
    assert 'fill="#207a4c"' in drawn


def test_curves_have_legend_values_and_limits() -> None:
    drawn = curves(panel("overview", "KL a response"), [("training", series(4.0, 12.0))], times=SPAN, size=SIZE)
    assert "training <b>12 nats</b>" in drawn
    assert drawn.count('class="limit"') == 1, "10 lies in the picture, 15 does not"


def test_a_figure_has_the_colour_of_its_limit() -> None:
    kl = panel("overview", "Newest KL")
    assert "#1f2733" in figure(kl, [("", series(1.0, 4.0))], size=SIZE)
    assert "#b42318" in figure(kl, [("", series(4.0, 16.0))], size=SIZE)
    assert ">training<" in figure(panel("overview", "Bottleneck"), [("{{stage}}", series(30.0, stage="training"))], size=SIZE)  # fmt: skip


def test_bars_fill_their_share() -> None:
    assert "width:25.0%" in bar_list(panel("stores", "Disks in use"), [("{{path}}", series(0.25, path="run"))])


def test_bands_show_each_state_as_a_piece() -> None:
    drawn = bands(panel("overview", "Processes"), [("{{worker}}", series(1, 1, 0, 1, worker="gen-0"))], span=SPAN, step_s=10, size=SIZE)  # fmt: skip
    assert re.findall(r"<title>(.*?)</title>", drawn) == ["gen-0: up", "gen-0: down", "gen-0: up"]


def test_tables_join_their_queries_in_the_order_of_their_columns() -> None:
    found = {
        "A": [series(1, worker="gen-0"), series(0, worker="rank-0")],
        "B": [series(2**30, worker="gen-0")],
        "C": [series(0.5, worker="gen-0")],
    }
    text = listing(panel("overview", "What the processes take"), found)
    assert re.findall(r"<th>(.*?)</th>", text) == ["Process", "Up", "Memory", "Cores"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", text) == ["gen-0", "1", "1 GiB", "0.5", "rank-0", "0", "", ""]


def test_names_from_a_server_are_not_markup() -> None:
    evil = series(1.0, 2.0, component="<script>alert(1)</script>")
    drawn = curves(panel("scoring", "Reward by component"), [("{{component}}", evil)], times=SPAN, size=SIZE)
    assert "<script>" not in drawn
    assert legend("{{a}}, {{b}}", series(1.0, a="x")) == "x"


def test_windows_are_chosen_as_grafana_does() -> None:
    """900 s in 240 points: 4 s a point; four scrapes of 15 s are longer than a point and a scrape."""
    window = Window(run="r", start=NOON, end=NOON + 900, scrape_s=15.0)
    query = 'rate(a{run="$run"}[$__rate_interval]) / increase(a[$__range])'
    assert window.fill(query) == 'rate(a{run="r"}[60s]) / increase(a[900s])'
    assert window.step_s == 15.0
    assert Window(run="r", start=NOON, end=NOON + 86400, scrape_s=15.0).step_s == 360.0
    assert duration_s("10m") == 600.0


def test_what_a_user_gets_wrong_is_said_in_a_line(tmp_path, capsys) -> None:
    assert main(["--prometheus", "http://127.0.0.1:9", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("--prometheus = http://127.0.0.1:9: no answer from")
    with pytest.raises(SystemExit, match="2"):
        main(["--prometheus", "http://127.0.0.1:9", "--out", str(tmp_path), "--last", "soon"])
    assert "soon is no duration such as 90s, 10m, 2h or 1d" in capsys.readouterr().err
