"""A board with a panel of every kind, in Grafana's JSON, over made-up figures that need no tables."""

from typing import Any

_TIMES = "toDateTime(intDiv(toUnixTimestamp($__toTime), 60) * 60 - 60 * arrayJoin(range(30)))"


def gallery() -> dict[str, Any]:
    """The board ``gallery``: its panels' ids are their places in ``_PANELS``, from 1."""
    panels = []
    for number, (kind, title, given) in enumerate(_PANELS, start=1):
        place = {"x": (number - 1) % 3 * 8, "y": (number - 1) // 3 * 7, "w": 8, "h": 7}
        panels.append(
            {"id": number, "type": kind, "title": title, "gridPos": place, "description": f"A {kind}", **given}
        )
    folded = [
        _panel("table", "Unfolded", "SELECT 1 AS one") | {"id": 99, "gridPos": {"x": 0, "y": 101, "w": 24, "h": 5}}
    ]
    row = {"id": 98, "type": "row", "title": "Details", "collapsed": True, "panels": folded}
    return {
        "uid": "gallery",
        "title": "Gallery",
        "description": "Is every kind of panel drawn?",
        "tags": ["fanpulse"],
        "timezone": "Asia/Shanghai",
        "graphTooltip": 1,
        "refresh": "",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "link", "title": "All of it", "url": "/d/gallery", "keepTime": True, "includeVars": True}],
        "annotations": {"list": [{"name": "Alerts", "enable": True, "iconColor": "red", "target": _target(_NOTES, 1)}]},
        "templating": {"list": list(_VARIABLES)},
        "panels": [*panels, row | {"gridPos": {"x": 0, "y": 100, "w": 24, "h": 1}}],
    }


def _target(sql: str, format: int, ref: str = "A") -> dict[str, Any]:
    return {"refId": ref, "rawSql": sql, "format": format, "queryType": "sql"}


def _panel(
    kind: str,
    title: str,
    sql: str,
    defaults: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    overrides: tuple[tuple[str, dict[str, Any]], ...] = (),
    format: int = 1,
) -> dict[str, Any]:
    found = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in properties.items()],
        }
        for name, properties in overrides
    ]
    return {
        "type": kind,
        "title": title,
        "targets": [_target(sql, format)],
        "fieldConfig": {"defaults": defaults or {}, "overrides": found},
        "options": options or {},
    }


def _entry(kind: str, title: str, *given: Any, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return kind, title, _panel(kind, title, *given, **more)


def _steps(*steps: tuple[float | None, str]) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


_NOTES = "SELECT $__toTime - 600 AS time, 'Churn is high' AS text, 'churn' AS tags"
_GOOD = _steps((None, "green"), (80, "yellow"), (90, "red"))
_EACH = {"calcs": ["lastNotNull"], "fields": "", "values": True, "limit": 25}
_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_NAMES = "arrayJoin([('first', 5), ('second', 3), ('third', 2)]) AS pair"
_LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"]}

_LINK = '/d/gallery?${__url_time_range}&${platform:queryparam}&var-creator=${__data.fields["name"]:percentencode}'

_VARIABLES: tuple[dict[str, Any], ...] = (
    {"name": "datasource", "type": "datasource", "query": "grafana-clickhouse-datasource"},
    {
        "name": "platform",
        "type": "custom",
        "label": "Platform",
        "query": "douyin,kuaishou",
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    },
    {
        "name": "creator",
        "type": "query",
        "label": "Creator",
        "query": "SELECT arrayJoin(['c1', 'c2', 'it''s', '</b>']) AS value",
        "multi": True,
        "includeAll": True,
        "refresh": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    },
    {
        "name": "window",
        "type": "custom",
        "label": "Window",
        "query": "1m : 1,1h : 60",
        "current": {"text": "1h", "value": "60"},
    },
    {"name": "zone", "type": "constant", "hide": 2, "query": "Asia/Shanghai"},
)

_PANELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    _entry(
        "stat",
        "Figure",
        f"SELECT {_TIMES} AS time, toFloat64(toUnixTimestamp(time) - toUnixTimestamp($__toTime)) / 60 + 95 AS share, "
        "0.25 AS change ORDER BY time",
        {"unit": "short", "thresholds": _GOOD, "color": {"mode": "thresholds"}},
        {"reduceOptions": _LAST, "graphMode": "area", "colorMode": "value", "textMode": "auto"},
        overrides=(("change", {"unit": "percentunit", "displayName": "vs yesterday"}),),
        format=0,
    ),
    _entry(
        "timeseries",
        "Lines of ${platform}",
        f"SELECT {_TIMES} AS time, arrayJoin(['douyin', 'kuaishou']) AS platform, "
        "sin(toUnixTimestamp(time) / 300) * 50 + if(platform = 'douyin', 60, 80) AS plays "
        "WHERE $__conditionalAll(platform IN (${platform:singlequote}), $platform) ORDER BY time",
        {
            "unit": "short",
            "displayName": "${__field.labels.platform}",
            "thresholds": _GOOD,
            "color": {"mode": "palette-classic-by-name"},
            "custom": {"fillOpacity": 10, "lineWidth": 2, "thresholdsStyle": {"mode": "dashed"}},
        },
        {"legend": _LEGEND},
        format=0,
    ),
    _entry(
        "timeseries",
        "Stacked, and a second unit",
        f"SELECT {_TIMES} AS time, 3 AS a, 4 AS b, 0.5 AS part ORDER BY time",
        {"custom": {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40, "drawStyle": "bars"}},
        {"legend": _LEGEND},
        overrides=(
            (
                "part",
                {
                    "unit": "percentunit",
                    "custom.stacking": {"mode": "none"},
                    "custom.drawStyle": "line",
                    "custom.axisPlacement": "right",
                    "custom.lineStyle": {"fill": "dash", "dash": [6, 6]},
                },
            ),
        ),
        format=0,
    ),
    _entry(
        "barchart",
        "Bars",
        f"SELECT pair.1 AS name, pair.2 AS plays, pair.2 * 2 AS likes FROM (SELECT {_NAMES})",
        {"color": {"mode": "palette-classic"}},
        {"legend": {"showLegend": True, "placement": "bottom"}, "showValue": "auto"},
    ),
    _entry(
        "bargauge",
        "Bar gauge",
        f"SELECT pair.1 AS name, pair.2 * 20 AS load FROM (SELECT {_NAMES})",
        {"unit": "percent", "min": 0, "max": 100, "thresholds": _GOOD, "color": {"mode": "thresholds"}},
        {"reduceOptions": _EACH, "orientation": "horizontal", "displayMode": "gradient"},
    ),
    _entry(
        "piechart",
        "Pie",
        f"SELECT pair.1 AS name, pair.2 AS plays FROM (SELECT {_NAMES})",
        {"color": {"mode": "palette-classic-by-name"}},
        {
            "reduceOptions": _EACH,
            "pieType": "donut",
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "right",
                "values": ["value", "percent"],
            },
        },
    ),
    _entry(
        "table",
        "Table",
        "SELECT rows.1 AS name, rows.2 AS plays, rows.3 AS rate, rows.4 AS state, $__toTime AS at FROM "
        "(SELECT arrayJoin([('</b> & c1', 1234567, 0.1234, 1), ('it''s', 20, NULL, 0)]) AS rows)",
        {"color": {"mode": "thresholds"}, "thresholds": _steps((None, "green"), (0.1, "red"))},
        overrides=(
            ("name", {"links": [{"title": "There", "url": _LINK}]}),
            ("plays", {"unit": "short", "custom.cellOptions": {"type": "gauge", "mode": "basic"}}),
            (
                "rate",
                {
                    "unit": "percentunit",
                    "decimals": 1,
                    "noValue": "-",
                    "custom.cellOptions": {"type": "color-background"},
                },
            ),
            (
                "state",
                {
                    "mappings": [
                        {
                            "type": "value",
                            "options": {"1": {"text": "up", "color": "green"}, "0": {"text": "down", "color": "red"}},
                        }
                    ],
                    "custom.cellOptions": {"type": "color-text"},
                },
            ),
        ),
    ),
    _entry(
        "heatmap",
        "Heat map",
        f"SELECT {_TIMES} AS time, 1 AS low, 5 AS middle, toMinute(time) % 10 AS high ORDER BY time",
        options={"calculate": False, "color": {"scheme": "Oranges", "min": 0}, "cellGap": 1},
    ),
    _entry(
        "state-timeline",
        "States",
        f"SELECT {_TIMES} AS time, if(toMinute(time) % 7 < 4, 'up', 'down') AS one, toMinute(time) % 10 AS two "
        "ORDER BY time",
        {
            "thresholds": _steps((None, "green"), (8, "red")),
            "custom": {"fillOpacity": 80},
            "color": {"mode": "thresholds"},
        },
        {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8, "legend": _LEGEND},
        format=1,
    ),
    (
        "text",
        "Words",
        {
            "options": {
                "mode": "markdown",
                "content": "## Hello\n\n- **one** [there](/d/gallery)\n- `two`\n\n<b>no tag</b>",
            }
        },
    ),
    _entry(
        "gauge",
        "Gauge",
        "SELECT 72 AS full",
        {"unit": "percent", "min": 0, "max": 100, "thresholds": _GOOD, "color": {"mode": "thresholds"}},
        {"reduceOptions": _LAST},
    ),
    _entry("table", "Empty", "SELECT 1 AS one WHERE one > 1", {"noValue": "none today"}),
    _entry("stat", "Broken", "SELECT nothing FROM nowhere"),
    _entry("geomap", "Only Grafana's", "SELECT 1 AS one"),
    _entry("stat", "Chosen", "SELECT ${window:raw} AS minutes, ${zone:singlequote} AS zone", {"unit": "m"}),
)
