"""Audience: who the fans are, when they are there, what they are worth."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import chosen, days, midnight, whole

_HERE = chosen("platform", "creator")
_SHARES = (
    (None, "#1f2229"),
    (0.15, "#3b2a63"),
    (0.3, "#6a3d9a"),
    (0.5, "#b5428a"),
    (0.7, "#e8695c"),
    (0.85, "#fdb35f"),
)
_HOURS = ",\n".join(f'    sumIf(actions, hour = {hour}) / most AS "{hour:02}"' for hour in range(24))
_DAY_HOURS = ",\n".join(f'    sum(hour_actions[{hour + 1}]) AS "{hour:02}"' for hour in range(24))


def _portrait(dimension: str, title: str, kind: str) -> Panel:
    return Panel(
        "pie" if kind == "pie" else "bar_gauge",
        title,
        f"All fans ever seen, by {title.lower()}, the latest that is known of each; empty: unknown.",
        f"""\
SELECT if(value = '', 'unknown', value) AS "{title.lower()}", sum(fans) AS fans
FROM fan_portrait
WHERE {_HERE}dimension = '{dimension}'
GROUP BY value
ORDER BY fans DESC
LIMIT 12""",
        width=6,
        height=9,
        of_now=True,
    )


_KEY = Row(
    "How many, and what are they worth?",
    (
        Panel(
            "stat",
            "Fans",
            "All fans ever seen but the churned, now and at the end of each local day, and the growth of the last "
            "whole day.",
            f"""\
SELECT {midnight()} AS time, sum(fans) AS fans, if({whole()}, sum(net), NULL) AS "growth of a day"
FROM fan_growth_days
WHERE {_HERE}{days()}
GROUP BY day
ORDER BY time""",
            width=6,
            height=6,
            interval_s=86_400,
        ),
        Panel(
            "stat",
            "New fans a day",
            "Fans whose first action was on the day.",
            f"""\
SELECT {midnight()} AS time, sum(arrived) AS "new fans"
FROM fan_growth_days
WHERE {_HERE}{days()} AND {whole()}
GROUP BY day
ORDER BY time""",
            width=6,
            height=6,
            interval_s=86_400,
        ),
        Panel(
            "stat",
            "Contribution",
            "Gifts, orders and memberships less refunds, by local day of the time range; the figure is the sum.",
            f"""\
SELECT {midnight()} AS time, sum(contribution_micros) / 1e6 AS "contribution"
FROM fan_activity_days
WHERE {_HERE}{days()}
GROUP BY day
ORDER BY time""",
            unit="currency:¥",
            width=6,
            height=6,
            total="sum",
            interval_s=86_400,
        ),
        Panel(
            "bar_gauge",
            "Tiers and tags",
            "Fans by tier (recency, frequency, money) and by tag, as of the last refresh. docs/fans.md defines them.",
            f"""\
SELECT concat(label, ' ', value) AS which, sum(fans) AS fans
FROM fan_value_shares
WHERE {_HERE}fan_value_shares.fans > 0
GROUP BY label, value
ORDER BY which DESC""",
            width=6,
            height=6,
            of_now=True,
        ),
    ),
)

_WHO = Row(
    "Who are they?",
    (
        _portrait("gender", "Gender", "pie"),
        _portrait("age_band", "Age", "bars"),
        _portrait("region", "Region", "bars"),
        _portrait("interest", "Interest", "bars"),
    ),
)

_WHEN = Row(
    "When are they there?",
    (
        Panel(
            "table",
            "Hour by weekday",
            "Actions of fans by local hour, summed over the 28 days before the last refresh, as a share of the "
            "busiest hour of "
            "the week: when to publish, to go live, and to have somebody on shift.",
            f"""\
WITH
    (
        SELECT max(cell)
        FROM
        (
            SELECT sum(actions) AS cell
            FROM fan_heat_map
            WHERE {_HERE}hour < 24
            GROUP BY weekday, hour
        )
    ) AS most
SELECT
    ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][weekday] AS "weekday",
{_HOURS}
FROM fan_heat_map
WHERE {_HERE}hour < 24
GROUP BY fan_heat_map.weekday
ORDER BY fan_heat_map.weekday""",
            unit="percentunit",
            width=24,
            height=9,
            of_now=True,
            decimals=0,
            steps=_SHARES,
            colored=True,
            columns={"weekday": Column("string", plain=True, width=80)},
        ),
        Panel(
            "heat_map",
            "Actions by day and hour",
            "Actions of fans by local hour (upwards) on each local day of the time range.",
            f"""\
SELECT
    {midnight()} AS time,
{_DAY_HOURS}
FROM fan_activity_days
WHERE {_HERE}{days()}
GROUP BY day
ORDER BY time""",
            width=24,
            height=10,
            interval_s=86_400,
        ),
    ),
)

_SOURCES = Row(
    "What brought them, and do they stay?",
    (
        Panel(
            "table",
            "By traffic source",
            "Fans by the traffic source of their first action, over the weeks of the time range, and the share with "
            "an action "
            "on the 1st and 7th day after.",
            f"""\
SELECT
    if(value = '', 'unknown', value) AS source,
    sum(fans) AS came,
    sum(retained_1) / nullIf(sumIf(fans, retained_1 IS NOT NULL), 0) AS "day 1",
    sum(retained_7) / nullIf(sumIf(fans, retained_7 IS NOT NULL), 0) AS "day 7"
FROM fan_cohorts
WHERE {_HERE}by = 'source' AND {days("week")}
GROUP BY value
ORDER BY came DESC
LIMIT 20""",
            width=8,
            height=9,
            columns={"came": Column(bar=True), "day 1": Column("percentunit", 1), "day 7": Column("percentunit", 1)},
        ),
        Panel(
            "table",
            "By audience of advertisements",
            "Fans whose first follow an advertisement won (last touch), by its targeting label: which audience's "
            "acquired "
            "fans stay longest, and what did they bring in their first week? docs/attribution.md defines it.",
            f"""\
SELECT
    value AS audience,
    sum(fans) AS acquired,
    sum(retained_7) / nullIf(sumIf(fans, retained_7 IS NOT NULL), 0) AS "day 7",
    sum(retained_30) / nullIf(sumIf(fans, retained_30 IS NOT NULL), 0) AS "day 30",
    sum(value_7_micros) / nullIf(sumIf(fans, value_7_micros IS NOT NULL), 0) / 1e6 AS "value a fan"
FROM acquired_cohorts
WHERE {_HERE}by = 'audience' AND {days("week")}
GROUP BY value
ORDER BY "day 30" DESC, "day 7" DESC, acquired DESC
LIMIT 20""",
            width=8,
            height=9,
            columns={
                "acquired": Column(bar=True),
                "day 7": Column("percentunit", 1),
                "day 30": Column("percentunit", 1),
                "value a fan": Column("currency:¥", 2),
            },
            may_be_empty=True,
        ),
        Panel(
            "table",
            "By content",
            "Videos of the first action of new fans, over the weeks of the time range: which content brought fans who "
            "stay?",
            f"""\
SELECT
    value AS video,
    creator_id AS creator,
    sum(fans) AS came,
    sum(retained_7) / nullIf(sumIf(fans, retained_7 IS NOT NULL), 0) AS "day 7"
FROM fan_cohorts
WHERE {_HERE}by = 'content' AND value != '' AND {days("week")}
GROUP BY value, creator
ORDER BY came DESC
LIMIT 20""",
            width=8,
            height=9,
            columns={
                "creator": Column(link=Link("fanpulse-engagement", "Content of this creator", {"creator": "creator"})),
                "came": Column(bar=True),
                "day 7": Column("percentunit", 1),
            },
        ),
    ),
)

_DETAILS = Row(
    "Details: the new fans",
    (
        Panel(
            "series",
            "New fans by gender",
            "Fans whose first action was on the local day.",
            f"""\
SELECT {midnight()} AS time, if(value = '', 'unknown', value) AS gender, sum(arrived) AS fans
FROM fan_growth_portrait
WHERE {_HERE}dimension = 'gender' AND {days()}
GROUP BY day, gender
ORDER BY time, gender""",
            width=12,
            series="gender",
            stacked=True,
            least=0,
            interval_s=86_400,
        ),
        Panel(
            "series",
            "New fans by age",
            "Fans whose first action was on the local day.",
            f"""\
SELECT {midnight()} AS time, if(value = '', 'unknown', value) AS age, sum(arrived) AS fans
FROM fan_growth_portrait
WHERE {_HERE}dimension = 'age_band' AND {days()}
GROUP BY day, age
ORDER BY time, age""",
            width=12,
            series="age",
            stacked=True,
            least=0,
            interval_s=86_400,
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-audience",
    "Audience",
    "Who are the fans, when are they there, and what brought those who stay?",
    place=4,
    rows=(_KEY, _WHO, _WHEN, _SOURCES, _DETAILS),
    since="now-30d",
    annotations=("alerts",),
    refresh_s=300,
    rows_read=40_000_000,
)
"""Who the fans are, when they are there, what they are worth."""
