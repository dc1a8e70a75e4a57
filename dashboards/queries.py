"""SQL that boards have in common: conditions of variables, rates over time, figures beside those of a day before.

The texts keep the macros and variables of the panels; ``macros.expand`` fills them in. A helper never takes what a user
typed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

END = "least($__toTime, now())"
"""End of what there can be figures of: a time range may end in the future, such as that of today."""


@dataclass(frozen=True)
class Annotation:
    """What is marked on time axes: a query with columns time, text and tags.

    ``scope``: variables that narrow it where a board offers them, with the column of each.
    """

    name: str
    color: str
    sql: str
    scope: Mapping[str, str]

    def of(self, offered: Collection[str]) -> str:
        """The query for a board that offers these variables."""
        narrowed = {name: column for name, column in self.scope.items() if name in offered}
        return self.sql.replace("WHERE ", f"WHERE {chosen(**narrowed)}", 1)


ANNOTATIONS: dict[str, Annotation] = {
    "alerts": Annotation(
        "Alerts",
        "red",
        """\
SELECT
    at AS time,
    concat(title, ': ', creator_id, if(subject = '', '', concat(' ', subject)), '. ', said) AS text,
    kind AS tags
FROM alerts FINAL
WHERE $__timeFilter(at)
ORDER BY at DESC
LIMIT 200""",
        {"platform": "platform", "creator": "creator_id"},
    ),
    "rules": Annotation(
        "Budget rules",
        "blue",
        """\
SELECT
    closed_at AS time,
    concat(
        rule_id, ': ', action, ' ', campaign_id,
        if(after_micros IS NULL, '', concat(' to ', toString(round(after_micros / 1e6, 2)), ' yuan'))
    ) AS text,
    action AS tags
FROM budget_actions FINAL
WHERE fold_version = 1 AND $__timeFilter(closed_at)
ORDER BY closed_at DESC
LIMIT 200""",
        {"platform": "platform", "campaign": "campaign_id"},
    ),
}
"""Alerts of the stream, when they became true; and what budget rules did, when their windows closed."""


def chosen(*names: str, **columns: str) -> str:
    """Conditions that only rows of what is chosen are read: of variables by name, or ``variable=column``.

    Ends with the word AND, so that another condition follows.
    """
    usual = {"platform": "platform", "creator": "creator_id", "campaign": "campaign_id"}
    found = {name: usual[name] for name in names} | columns
    return "".join(
        f"$__conditionalAll({column} IN (${{{name}:singlequote}}), ${name}) AND " for name, column in found.items()
    )


def days(column: str = "day") -> str:
    """Condition that a local day is within the time range."""
    zone = "${zone:singlequote}"
    return f"{column} >= toDate($__fromTime, {zone}) AND {column} <= toDate($__toTime, {zone})"


def whole(column: str = "day") -> str:
    """Condition that a local day was over at the end of the time range: who moves by the passing of time does so at its
    midnight, who comes does so all day long, so that a running day is no measure. Its last second belongs to a range:
    of one that ends at 23:59:59 the last day is over."""
    return f"{column} < toDate(least($__toTime + INTERVAL 1 SECOND, now()), ${{zone:singlequote}})"


def midnight(column: str = "day") -> str:
    """The local midnight that begins a local day, as a moment."""
    return f"toDateTime({column}, ${{zone:singlequote}})"


def rate(table: str, figures: Mapping[str, str], conditions: str, at: str = "minute") -> str:
    """Figures over time, a column each, from a table with a row a minute or so; whole intervals only.

    Args:
        table: table or view; with FINAL where it needs that.
        figures: expressions of sums by the name of the line.
        conditions: what ``chosen`` gives, and more that ends with AND.
        at: its column of time.
    """
    columns = ",\n".join(f'    {expression} AS "{name}"' for name, expression in figures.items())
    return (
        f"SELECT\n    $__timeInterval({at}) AS time,\n{columns}\nFROM {table}\n"
        f"WHERE {conditions}$__timeFilter({at})\nGROUP BY time\n{WHOLE}\nORDER BY time"
    )


def beside_yesterday(table: str, expression: str, name: str, conditions: str, at: str = "minute") -> str:
    """A sum a minute over time, and the same a day before; whole intervals only. Arguments as in ``rate``."""
    return (
        f"SELECT\n    $__timeInterval(moment) AS time,\n"
        f'    60 * sumIf(figure, days = 0) / $__interval_s AS "{name}",\n'
        f'    60 * sumIf(figure, days = 1) / $__interval_s AS "yesterday"\nFROM\n(\n'
        f"    SELECT {at} + toIntervalDay(days) AS moment, days, {expression} AS figure\n"
        f"    FROM {table}\n    ARRAY JOIN [0, 1] AS days\n"
        f"    WHERE {conditions}{_both_days(at, '')}\n)\n"
        f"WHERE $__timeFilter(moment)\nGROUP BY time\n{WHOLE}\nORDER BY time"
    )


def rolling(table: str, sums: Mapping[str, str], figure: str, name: str, conditions: str, at: str = "minute") -> str:
    """A figure over the chosen window up to each moment, and its change against the same window a day before.

    A window of n minutes at a moment is the n whole minutes before it, as in ``engagement_rolling``. Where one has no
    figure it is NULL: show the last one, not the last that is none. Against a figure of 0 or less there is no change.

    Args:
        table: with a row a minute and column ``at``.
        sums: what is added up over the window: expressions of a minute by name.
        figure: the figure, from these names in braces, such as ``{likes} / nullIf({plays}, 0)``.
        name: of the column.
        conditions: as in ``rate``.
        at: column of the minute.
    """
    inner = ",\n".join(
        f"            sumIf({expression}, days = {days}) AS {column}_{days}"
        for column, expression in sums.items()
        for days in (0, 1)
    )
    today, yesterday = (figure.format(**{column: f"sum({column}_{days}) OVER w" for column in sums}) for days in (0, 1))
    return f"""\
SELECT
    $__timeInterval(moment) AS time,
    argMax(tuple(figure), moment).1 AS "{name}",
    argMax(tuple(change), moment).1 AS "vs yesterday"
FROM
(
    SELECT
        moment,
        intDiv(toUnixTimestamp(moment), 60) AS number,
        {today} AS figure,
        figure / nullIf(greatest({yesterday}, 0), 0) - 1 AS change
    FROM
    (
        SELECT
            {at} + toIntervalDay(days) AS moment,
{inner}
        FROM {table}
        ARRAY JOIN [0, 1] AS days
        WHERE {conditions}{_both_days(at, " - INTERVAL ${window:raw} MINUTE")}
        GROUP BY moment
    )
    WINDOW w AS (ORDER BY number RANGE BETWEEN ${{window:raw}} PRECEDING AND 1 PRECEDING)
)
WHERE $__timeFilter(moment) AND moment <= {END}
GROUP BY time
ORDER BY time"""


WHOLE = f"HAVING time >= $__fromTime AND time + toIntervalSecond($__interval_s) <= {END}"
"""Only intervals that are whole: the first and the last of a time range seldom are."""


def _both_days(at: str, before: str) -> str:
    """Rows of the time range, and of a day before it where ``days`` is 1. Both ranges stand there as constants, too:
    only by those does ClickHouse skip what is between them."""
    ranges = [f"{at} >= $__fromTime{before}{day} AND {at} <= $__toTime{day}" for day in ("", " - INTERVAL 1 DAY")]
    return (
        f"(({ranges[0]}) OR ({ranges[1]})) AND if(days = 0, {at} >= $__fromTime{before}, {at} <= $__toTime"
        " - INTERVAL 1 DAY)"
    )


DEAD_LETTERS = """\
SELECT $__timeInterval(minute) AS time, argMax(refused, minute) AS "dead letters"
FROM
(
    SELECT minute, sum(records) OVER (ORDER BY minute RANGE BETWEEN 899 PRECEDING AND CURRENT ROW) AS refused
    FROM
    (
        SELECT minute, sum(dead_letters) AS records
        FROM pipeline_throughput
        WHERE minute >= $__fromTime - INTERVAL 15 MINUTE AND minute <= $__toTime
        GROUP BY minute
    )
)
WHERE $__timeFilter(minute)
GROUP BY time
ORDER BY time"""
"""Records refused in the 15 minutes up to each moment."""
