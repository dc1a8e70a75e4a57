"""A board as Grafana reads it: the dashboard JSON that provisioning, the API and the preview take.

Written with Grafana's own builders, in a schema that Grafana 9.4 still reads and 12 brings up to date by itself.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.builders import barchart as bars
from grafana_foundation_sdk.builders import bargauge, common, heatmap, piechart, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import text as text_panel
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.piechart import PieChartLegendValues, PieChartType
from grafana_foundation_sdk.models.text import TextMode

from dashboards.board import Board, Column, Kind, Link, Panel
from dashboards.queries import ANNOTATIONS
from dashboards.thresholds import Steps
from dashboards.variables import SOURCE, constant, source, variable

SCHEMA_VERSION = 37
"""Grafana's version of the dashboard schema, that of 9.4; a newer Grafana migrates it as it loads it."""

TAG = "fanpulse"
"""Every board has it; by it they find each other."""

ZONE = "Asia/Shanghai"
"""Time zone of local days in the boards as they are kept; the default of ``FANPULSE_TIME_ZONE``."""

TIME_SERIES, TABLE = 0, 1
"""``format`` of a target: what the plugin makes of the answer."""


def as_json(board: Board, zone: str = ZONE) -> str:
    """The dashboard JSON, the same for the same board.

    Args:
        board: the board.
        zone: time zone of its days and of its time axis, that of the setting ``FANPULSE_TIME_ZONE``.
    """
    return json.dumps(dashboard(board, zone), cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def dashboard(board: Board, zone: str = ZONE) -> model.Dashboard:
    """The dashboard as Grafana's own model."""
    builder = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.question)
        .tags([TAG])
        .readonly()
        .timezone(zone)
        .time(board.since, "now")
        .refresh(f"{board.refresh_s}s" if board.refresh_s < 60 else f"{board.refresh_s // 60}m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .timepicker(build.TimePicker().refresh_intervals(["5s", "10s", "30s", "1m", "5m", "15m", "1h"]))
        .with_variable(source())
        .link(
            build.DashboardLink("Boards")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
            .as_dropdown(True)
        )
    )
    for name in board.variables:
        builder = builder.with_variable(variable(name))
    builder = builder.with_variable(constant("zone", zone))
    marks = [ANNOTATIONS[name] for name in board.annotations]
    for mark in marks:
        builder = builder.annotation(
            build.AnnotationQuery().name(mark.name).datasource(SOURCE).enable(True).hide(False).icon_color(mark.color)
        )
    for row in board.rows:
        titled = build.Row(row.title).id(_id(f"row {row.title}"))
        if row.folded:
            for panel in row.panels:
                titled = titled.with_panel(_panel(panel, board))
            builder = builder.with_row(titled)
        else:
            builder = builder.with_row(titled)
            for panel in row.panels:
                builder = builder.with_panel(_panel(panel, board))
    found = builder.build()
    found.schema_version = SCHEMA_VERSION
    found.version = 1
    assert found.templating is not None
    assert found.templating.list_val is not None
    found.templating.list_val[-1].current = model.VariableOption(selected=True, text=zone, value=zone)
    assert found.annotations is not None
    for annotation, mark in zip(found.annotations.list_val or (), marks, strict=True):
        # Grafana's model knows only the annotations of its own store.
        annotation.target = _Target("Anno", mark.of(board.variables), TABLE)  # type: ignore[assignment]
    return found


def panel_id(panel: Panel) -> int:
    """Grafana's number of a panel, from its title: it stays when others come and go."""
    return _id(panel.title)


def over_time(panel: Panel) -> bool:
    """Whether its answer is a time series: a column ``time``, in order, and what it is told by. Else it is a table."""
    return panel.kind in _OVER_TIME and " AS time" in panel.sql


def link_url(link: Link, board: Board) -> str:
    """Address of a link in a row of a table, with time range and variables kept."""
    kept = [name for name in board.variables if name not in link.variables]
    parts = ["${__url_time_range}", "${datasource:queryparam}", *(f"${{{name}:queryparam}}" for name in kept)]
    parts += [f'var-{name}=${{__data.fields["{column}"]:percentencode}}' for name, column in link.variables.items()]
    return f"/d/{quote(link.board)}?{'&'.join(parts)}"


class _Target(variants.Dataquery):
    """A query of the ClickHouse plugin, as 3.3 writes it; 4.x reads it and adds what it wants."""

    def __init__(self, ref: str, sql: str, format: int) -> None:
        self.ref, self.sql, self.format = ref, sql, format

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref,
            "datasource": SOURCE,
            "queryType": "sql",
            "editorType": "sql",
            "rawSql": self.sql,
            "format": self.format,
        }


class _TargetBuilder(cog.Builder[variants.Dataquery]):
    def __init__(self, sql: str, format: int) -> None:
        self._target = _Target("A", sql, format)

    def build(self) -> variants.Dataquery:
        return self._target


def _panel(panel: Panel, board: Board) -> Any:
    builder = _BUILDERS[panel.kind](panel)
    builder = (
        builder.id(panel_id(panel))
        .title(panel.title)
        .description(panel.description)
        .span(panel.width)
        .height(panel.height)
    )
    if panel.kind == "text":
        return builder
    builder = (
        builder.datasource(SOURCE)
        .with_target(_TargetBuilder(panel.sql, TIME_SERIES if over_time(panel) else TABLE))
        .interval(f"{panel.interval_s}s")
        .unit(panel.unit)
        .no_value("none" if panel.may_be_empty else "no data")
    )
    if panel.kind in ("stat", "series"):
        builder = builder.max_data_points(200)
    for given, method in ((panel.decimals, "decimals"), (panel.least, "min"), (panel.most, "max")):
        if given is not None:
            builder = getattr(builder, method)(given)
    builder = builder.thresholds(_thresholds(panel.steps or ((None, "text" if panel.kind == "stat" else "green"),)))
    by = _COLORS.get(panel.kind, "thresholds") if panel.steps is None or panel.kind == "series" else "thresholds"
    builder = builder.color_scheme(build.FieldColor().mode(model.FieldColorModeId(by)))
    if panel.series is not None:
        builder = builder.display_name(f"${{__field.labels.{panel.series}}}")
    builder = builder.mappings([*_mappings(panel.texts or {}), _NO_FIGURE])
    for name, column in panel.columns.items():
        builder = builder.override_by_name(name, _properties(panel.kind, column, board))
    return builder


_OVER_TIME = ("stat", "series", "timeline", "heat_map")
_COLORS = {"series": "palette-classic-by-name", "bars": "palette-classic", "pie": "palette-classic-by-name"}


def _stat(panel: Panel) -> Any:
    return (
        stat.Panel()
        .graph_mode(kinds.BigValueGraphMode.AREA)
        .color_mode(kinds.BigValueColorMode.BACKGROUND if panel.colored else kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.AUTO)
        .orientation(kinds.VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs([panel.total]).fields("").values(False))
    )


def _series(panel: Panel) -> Any:
    builder = (
        timeseries.Panel()
        .line_width(2)
        .fill_opacity(40 if panel.stacked else 10)
        .show_points(kinds.VisibilityMode.NEVER)
        .span_nulls(panel.held)
        .line_interpolation(kinds.LineInterpolation.STEP_AFTER if panel.held else kinds.LineInterpolation.LINEAR)
        .legend(_legend(panel))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    )
    if panel.steps is not None:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        builder = builder.thresholds_style(style)
    if panel.stacked:
        builder = builder.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    return builder


def _bars(panel: Panel) -> Any:
    return (
        bars.Panel()
        .orientation(kinds.VizOrientation.AUTO)
        .stacking(kinds.StackingMode.NORMAL if panel.stacked else kinds.StackingMode.NONE)
        .show_value(kinds.VisibilityMode.AUTO)
        .group_width(0.8)
        .bar_width(0.9)
        .fill_opacity(80)
        .legend(_legend(panel))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.NONE))
    )


def _bar_gauge(panel: Panel) -> Any:
    return (
        bargauge.Panel()
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs([panel.total]).fields("").values(True).limit(25))
    )


def _pie(panel: Panel) -> Any:
    return (
        piechart.Panel()
        .pie_type(PieChartType.DONUT)
        .reduce_options(common.ReduceDataOptions().calcs([panel.total]).fields("").values(True).limit(25))
        .legend(
            piechart.PieChartLegendOptions()
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.RIGHT)
            .show_legend(True)
            .values([PieChartLegendValues.VALUE, PieChartLegendValues.PERCENT])
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.SINGLE).sort(kinds.SortOrder.NONE))
    )


def _table(panel: Panel) -> Any:
    builder = table.Panel().show_header(True).footer(common.TableFooterOptions().show(False).reducer(["sum"]))
    if panel.colored:
        builder = builder.cell_options(
            kinds.TableColoredBackgroundCellOptions(mode=kinds.TableCellBackgroundDisplayMode.BASIC)
        )
    return builder


def _heat_map(panel: Panel) -> Any:
    return (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).min(0))
        .cell_gap(1)
        .show_color_scale(True)
        .mode(kinds.TooltipDisplayMode.SINGLE)
        .cell_values(heatmap.CellValues().unit(panel.unit))
        .show_legend()
    )


def _timeline(panel: Panel) -> Any:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(kinds.VisibilityMode.NEVER)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(_legend(panel))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.SINGLE).sort(kinds.SortOrder.NONE))
    )


def _text(panel: Panel) -> Any:
    return text_panel.Panel().mode(TextMode.MARKDOWN).content(panel.text)


_BUILDERS: dict[Kind, Any] = {
    "stat": _stat,
    "series": _series,
    "bars": _bars,
    "bar_gauge": _bar_gauge,
    "pie": _pie,
    "table": _table,
    "heat_map": _heat_map,
    "timeline": _timeline,
    "text": _text,
}


def _legend(panel: Panel) -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(kinds.LegendDisplayMode.LIST)
        .placement(kinds.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([panel.total] if panel.kind == "series" else [])
    )


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    found = [model.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _properties(kind: Kind, column: Column, board: Board) -> list[model.DynamicConfigValue]:
    found: dict[str, object] = {}
    if column.unit is not None:
        found["unit"] = column.unit
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.steps is not None:
        found["thresholds"] = _thresholds(column.steps).build()
        found["color"] = {"mode": "thresholds"}
        if kind == "table":
            found["custom.cellOptions"] = {"type": "color-text"}
            found["custom.displayMode"] = "color-text"
    if column.color is not None:
        found["color"] = {"mode": "fixed", "fixedColor": column.color}
    if column.dashed:
        found["custom.lineStyle"] = {"fill": "dash", "dash": [6, 6]}
        found["custom.fillOpacity"] = 0
        found["custom.lineWidth"] = 1
    if column.plain:
        found["custom.cellOptions"] = {"type": "auto"}
        found["custom.displayMode"] = "auto"
    if column.bar:
        found["custom.cellOptions"] = {"type": "gauge", "mode": "basic"}
        found["custom.displayMode"] = "basic"
        # Its own scale from 0 on; Grafana before 10.3 takes that of all numbers of the table.
        found["min"], found["fieldMinMax"] = 0, True
    if column.width is not None:
        found["custom.width"] = column.width
    if column.texts is not None:
        found["mappings"] = _mappings(column.texts)
        if kind == "table":
            found["custom.cellOptions"] = {"type": "color-text"}
            found["custom.displayMode"] = "color-text"
    if column.link is not None:
        found["links"] = [{"title": column.link.title, "url": link_url(column.link, board), "targetBlank": False}]
    return [model.DynamicConfigValue(id_val=name, value=value) for name, value in found.items()]


def _mappings(texts: Mapping[str, tuple[str, str]]) -> list[model.ValueMapping]:
    options = {
        value: model.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return [model.ValueMap(options=options)] if options else []


_NO_FIGURE = model.SpecialValueMap(
    options=model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL,
        result=model.ValueMappingResult(text="\N{EN DASH}", color="text", index=99),
    )
)
"""A figure that there is not, such as a rate of nothing: a dash, neither good nor bad."""


def _id(title: str) -> int:
    return zlib.crc32(title.encode()) % 1_000_000
