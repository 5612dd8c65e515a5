"""How a panel of each kind looks: curves, one figure, bars, a table, states over time. Its description comes from `words/`."""

from collections.abc import Mapping

from grafana_foundation_sdk.builders import bargauge, common, prometheus, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import stat as figure
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.look import ANY, BLUE, GREEN, INK, RED, SOURCE, Limits, thresholds

LINE_HEIGHT, STAT_HEIGHT = 8, 4
"""Rows of Grafana's grid, of 38 pixels each; widths are of its 24 columns."""
GAP_MS = 600_000.0
"""Between two steps of a large model, some figures have no value; ten minutes without any are a gap."""


def lines(
    title: str,
    queries: Mapping[str, str],
    *,
    unit: str,
    width: int = 8,
    limits: Limits = (),
    stacked: bool = False,
    low: float | None = None,
    high: float | None = None,
    colours: Mapping[str, str] = {},
    decimals: int | None = None,
) -> timeseries.Panel:
    """Curves over time. queries: legend (may hold `{{label}}`) → query; limits: dashed lines; colours: by legend."""
    panel = timeseries.Panel().title(title).datasource(SOURCE).span(width).height(LINE_HEIGHT)
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).calcs(["lastNotNull"])
    panel = panel.unit(unit).legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(True))
    panel = panel.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
    panel = panel.line_width(1.5).fill_opacity(65 if stacked else 0).show_points(kinds.VisibilityMode.NEVER)
    panel = panel.span_nulls(GAP_MS)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if low is not None:
        panel = panel.min(low)
    if high is not None:
        panel = panel.max(high)
    if decimals is not None:
        panel = panel.decimals(decimals)
    if limits:
        dashed = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds(limits, below="transparent")).thresholds_style(dashed)
    for name, colour in colours.items():
        panel = panel.override_by_name(name, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
    for ref, (name, query) in enumerate(queries.items()):
        panel = panel.with_target(_target(query, ref=ref).range().legend_format(name))
    return panel


def counts(
    title: str,
    queries: Mapping[str, str],
    *,
    width: int = 8,
    limits: Limits = (),
    colours: Mapping[str, str] = {},
) -> timeseries.Panel:
    """Curves of whole numbers from 0 on."""
    return lines(title, queries, unit="none", width=width, limits=limits, low=0, decimals=0, colours=colours)


def shares(
    title: str,
    queries: Mapping[str, str],
    *,
    width: int = 8,
    limits: Limits = (),
    stacked: bool = False,
    colours: Mapping[str, str] = {},
) -> timeseries.Panel:
    """Curves between 0 and 100 %."""
    return lines(title, queries, unit="percentunit", width=width, limits=limits, stacked=stacked, low=0, high=1, colours=colours)  # fmt: skip


def stat(
    title: str,
    query: str,
    *,
    unit: str,
    width: int = 3,
    limits: Limits = (),
    below: str = INK,
    decimals: int | None = None,
    name: str = "",
    curve: bool = True,
) -> figure.Panel:
    """One figure, newest of its curve. name: show this legend in place of a number; curve: its course below it."""
    panel = figure.Panel().title(title).datasource(SOURCE).span(width).height(STAT_HEIGHT)
    panel = panel.unit(unit).thresholds(thresholds(limits, below=below)).color_mode(kinds.BigValueColorMode.VALUE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    curve = curve and not name
    panel = panel.graph_mode(kinds.BigValueGraphMode.AREA if curve else kinds.BigValueGraphMode.NONE)
    panel = panel.text_mode(kinds.BigValueTextMode.NAME if name else kinds.BigValueTextMode.VALUE)
    if decimals is not None:
        panel = panel.decimals(decimals)
    target = _target(query, ref=0).legend_format(name)
    return panel.with_target(target.range() if curve else target.instant())


def should_be_none(title: str, query: str, *, width: int = 3) -> figure.Panel:
    """A count in green at 0, in red above."""
    return stat(title, query, unit="none", width=width, limits=ANY, below=GREEN, curve=False)


def should_be_so(title: str, query: str) -> figure.Panel:
    """ "Yes" in green for 1, "No" in red for 0."""
    return stat(title, query, unit="bool_yes_no", limits=((1.0, GREEN),), below=RED, curve=False)


def bars(
    title: str,
    queries: Mapping[str, str],
    *,
    unit: str,
    width: int = 8,
    limits: Limits = (),
    below: str = BLUE,
    high: float | None = None,
    buckets: bool = False,
) -> bargauge.Panel:
    """A bar from 0 for each series, of its newest value; buckets: of a histogram, each by itself."""
    panel = bargauge.Panel().title(title).datasource(SOURCE).span(width).height(LINE_HEIGHT)
    panel = panel.unit(unit).thresholds(thresholds(limits, below=below)).orientation(kinds.VizOrientation.HORIZONTAL)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel = panel.display_mode(kinds.BarGaugeDisplayMode.BASIC).show_unfilled(True)
    panel = panel.min(0) if high is None else panel.min(0).max(high)
    for ref, (name, query) in enumerate(queries.items()):
        target = _target(query, ref=ref).instant().legend_format(name)
        panel = panel.with_target(target.format(PromQueryFormat.HEATMAP) if buckets else target)
    return panel


def listing(
    title: str,
    queries: Mapping[str, str],
    *,
    key: str,
    columns: Mapping[str, str],
    units: Mapping[str, str] = {},
    nothing: str = "No data",
    width: int = 12,
    height: int = LINE_HEIGHT,
) -> table.Panel:
    """A row for each value of the label `key`. queries: column → query, each over that label; columns: field → heading, in
    their order (the value of a query is the field `Value #A`, `Value #B`, … or, of the only one, `Value`)."""
    panel = table.Panel().title(title).datasource(SOURCE).span(width).height(height)
    panel = panel.no_value(nothing)
    for ref, query in enumerate(queries.values()):
        panel = panel.with_target(_target(query, ref=ref).instant().format(PromQueryFormat.TABLE))
    if len(queries) > 1:
        panel = panel.with_transformation(DataTransformerConfig(id_val="joinByField", options={"byField": key, "mode": "outer"}))  # fmt: skip
    order = {field: place for place, field in enumerate(columns)}
    include = dict.fromkeys(columns, True)
    options = {"includeByName": include, "indexByName": order, "renameByName": dict(columns)}
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    for field, unit in units.items():
        panel = panel.override_by_name(columns[field], [DynamicConfigValue("unit", unit)])
    return panel


def states(
    title: str, queries: Mapping[str, str], *, values: Mapping[str, tuple[str, str]], width: int = 12
) -> statetimeline.Panel:
    """A band for each series. values: value → (word, colour)."""
    panel = statetimeline.Panel().title(title).datasource(SOURCE).span(width).height(LINE_HEIGHT)
    words = {value: ValueMappingResult(text=word, color=colour) for value, (word, colour) in values.items()}
    panel = panel.mappings([ValueMap(options=words)]).merge_values(True).fill_opacity(85)
    panel = panel.show_value(kinds.VisibilityMode.NEVER).thresholds(thresholds((), below=GREEN))
    for ref, (name, query) in enumerate(queries.items()):
        panel = panel.with_target(_target(query, ref=ref).range().legend_format(name))
    return panel


def _target(query: str, *, ref: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query).ref_id("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[ref]).datasource(SOURCE)
