"""Fan lifecycle: for account managers, who keep fans and win them back."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import chosen, days, midnight, whole
from dashboards.thresholds import thresholds

_T = thresholds()
_HERE = chosen("platform", "creator")
_STAGES = {"new": "blue", "active": "green", "retained": "dark-green", "silent": "orange", "churned": "red"}
_EACH_STAGE = ",\n".join(f"    sumIf(fans, stage = '{stage}') AS \"{stage}\"" for stage in _STAGES)


def _stage(stage: str, says: str) -> Panel:
    return Panel(
        "stat",
        stage.capitalize(),
        f"{says} Now, and at the end of each local day; beside it the last whole day against a week before.",
        f"""\
SELECT
    {midnight()} AS time,
    here AS "fans",
    if({whole()}, here / nullIf(before, 0) - 1, NULL) AS "vs last week"
FROM
(
    SELECT day, here, any(here) OVER (ORDER BY number RANGE BETWEEN 7 PRECEDING AND 7 PRECEDING) AS before
    FROM
    (
        SELECT day, toUInt16(day) AS number, sumIf(fans, stage = '{stage}') AS here
        FROM fan_stage_days
        WHERE {_HERE}{days("day + 7")} OR {_HERE}{days()}
        GROUP BY day
    )
)
WHERE {days()}
ORDER BY time""",
        width=4,
        height=5,
        columns={"vs last week": Column("percentunit", 0)},
        steps=((None, _STAGES[stage]),),
        interval_s=86_400,
    )


_KEY = Row(
    "In which stage are the fans?",
    (
        _stage("new", "The first active day is less than FANPULSE_ACTIVE_INTERVAL days ago."),
        _stage("active", "Acted in the last interval, neither new nor retained: who comes back is here, too."),
        _stage("retained", "Acted in the last interval and in the one before it."),
        _stage("silent", "Did nothing for an interval. They can be won back: send recall content."),
        _stage("churned", "Did nothing for FANPULSE_CHURN_AFTER days, or unfollowed and has not acted since."),
        Panel(
            "stat",
            "Churn rate",
            "Moves to churned on the last whole local day, of the fans not churned when it began. Above its threshold "
            "an alert of the stream says what to do.",
            f"""\
SELECT {midnight()} AS time, sum(churned) / nullIf(sum(fans_at_start), 0) AS "churn a day"
FROM fan_churn_days
WHERE {_HERE}{days()} AND {whole()}
GROUP BY day
ORDER BY time""",
            unit="percentunit",
            width=4,
            height=5,
            decimals=2,
            steps=_T["churn_rate"].steps,
            interval_s=86_400,
        ),
    ),
)

_OVER_TIME = Row(
    "How did it develop?",
    (
        Panel(
            "series",
            "Stages by day",
            "Fans in each stage at the end of each local day. They add up to all fans ever seen.",
            f"""\
SELECT
    {midnight()} AS time,
{_EACH_STAGE}
FROM fan_stage_days
WHERE {_HERE}{days()}
GROUP BY day
ORDER BY time""",
            width=12,
            height=9,
            columns={stage: Column(color=color) for stage, color in _STAGES.items()},
            stacked=True,
            least=0,
            interval_s=86_400,
        ),
        Panel(
            "series",
            "Churn and return a day",
            "Churn rate: moves to churned of the fans not churned at the start of the day. Return rate: fans who came "
            "back, of those silent or churned then. Whole days only.",
            f"""\
SELECT
    {midnight()} AS time,
    sum(churned) / nullIf(sum(fans_at_start), 0) AS "churn rate",
    sum(returned) / nullIf(sum(idle_at_start), 0) AS "return rate"
FROM fan_churn_days
WHERE {_HERE}{days()} AND {whole()}
GROUP BY day
ORDER BY time""",
            unit="percentunit",
            width=12,
            height=9,
            columns={"churn rate": Column(color="red"), "return rate": Column(color="green")},
            steps=_T["churn_rate"].steps,
            least=0,
            interval_s=86_400,
        ),
        Panel(
            "bars",
            "Came and went",
            "New fans and churned ones who came back, above; churned fans below. Together: the growth of the day. "
            "Whole days only.",
            f"""\
SELECT
    toString(day) AS day,
    sum(arrived) AS "new",
    sum(recovered) AS "came back",
    -sum(churned) AS "churned"
FROM fan_growth_days
WHERE {_HERE}{days("fan_growth_days.day")} AND {whole("fan_growth_days.day")}
GROUP BY day
ORDER BY day""",
            width=24,
            height=8,
            columns={
                "new": Column(color="blue"),
                "came back": Column(color="green"),
                "churned": Column(color="red"),
            },
            stacked=True,
        ),
    ),
)

_WHO = Row(
    "Who needs attention?",
    (
        Panel(
            "table",
            "Creators",
            "By churn rate. Of the last whole local day: fans not churned when it began, fans lost, and the rate. Of "
            "all whole days of the time range: new fans, fans lost, and fans who came back.",
            f"""\
SELECT
    creator,
    argMax(here, day) AS fans,
    argMax(lost, day) AS "lost a day",
    "lost a day" / nullIf(fans, 0) AS "churn rate",
    sum(came) AS "new fans",
    sum(lost) AS "lost in all",
    sum(back) AS "came back"
FROM
(
    SELECT
        creator_id AS creator,
        day,
        sum(fans_at_start) AS here,
        sum(churned) AS lost,
        sum(arrived) AS came,
        sum(returned) AS back
    FROM fan_churn_days
    WHERE {_HERE}{days()} AND {whole()}
    GROUP BY creator, day
)
GROUP BY creator
ORDER BY "churn rate" DESC, "lost in all" DESC, creator
LIMIT 50""",
            width=9,
            height=10,
            columns={
                "creator": Column(link=Link("fanpulse-audience", "Audience of this creator", {"creator": "creator"})),
                "churn rate": Column("percentunit", 2, _T["churn_rate"].steps),
                "lost in all": Column(bar=True),
            },
        ),
        Panel(
            "table",
            "Moves between stages",
            "How many fans moved from which stage to which, and why, in the time range.",
            f"""\
SELECT
    toString(from_stage) AS "from",
    toString(to_stage) AS "to",
    reason,
    sum(fans) AS moved
FROM fan_moves
WHERE {_HERE}{days()}
GROUP BY from_stage, to_stage, reason
ORDER BY moved DESC
LIMIT 30""",
            width=7,
            height=10,
            columns={"moved": Column(bar=True)},
        ),
        Panel(
            "table",
            "Alerts",
            "Alerts of the stream in the time range, the newest first. docs/runbooks has a page for each kind.",
            f"""\
SELECT at, title AS alert, creator_id AS creator, toString(state) AS state, said
FROM alerts FINAL
WHERE {_HERE}$__timeFilter(at)
ORDER BY at DESC
LIMIT 50""",
            width=8,
            height=10,
            columns={
                "at": Column("dateTimeAsIso", width=160),
                "state": Column(texts={"open": ("open", "red"), "resolved": ("resolved", "green")}),
            },
            may_be_empty=True,
        ),
    ),
)

_DETAILS = Row(
    "Details: cohorts",
    (
        Panel(
            "table",
            "Retention by week of arrival",
            "Fans by the local week of their first action, and the share of them with an action on the local day 1, 7, "
            "14 and 30 days after it. Empty until that day is over for all of them.",
            f"""\
SELECT
    week,
    sum(fans) AS "came",
    sum(retained_1) / nullIf(sumIf(fans, retained_1 IS NOT NULL), 0) AS "day 1",
    sum(retained_7) / nullIf(sumIf(fans, retained_7 IS NOT NULL), 0) AS "day 7",
    sum(retained_14) / nullIf(sumIf(fans, retained_14 IS NOT NULL), 0) AS "day 14",
    sum(retained_30) / nullIf(sumIf(fans, retained_30 IS NOT NULL), 0) AS "day 30"
FROM fan_cohorts
WHERE {_HERE}by = 'all' AND {days("week")}
GROUP BY week
ORDER BY week DESC""",
            unit="percentunit",
            width=12,
            height=9,
            columns={"week": Column("dateTimeAsLocal", width=160, plain=True), "came": Column("short", plain=True)},
            decimals=1,
            steps=((None, "dark-red"), (0.02, "orange"), (0.05, "yellow"), (0.1, "green"), (0.2, "dark-green")),
            colored=True,
        ),
        Panel(
            "table",
            "What brought fans who stay?",
            "Fans by what brought them, over the weeks of the time range, and the share still acting 7 days after.",
            f"""\
SELECT
    by,
    value,
    sum(fans) AS came,
    sum(retained_1) / nullIf(sumIf(fans, retained_1 IS NOT NULL), 0) AS "day 1",
    sum(retained_7) / nullIf(sumIf(fans, retained_7 IS NOT NULL), 0) AS "day 7"
FROM fan_cohorts
WHERE {_HERE}by != 'all' AND value != '' AND {days("week")}
GROUP BY by, value
HAVING came >= 20
ORDER BY "day 7" DESC
LIMIT 30""",
            width=12,
            height=9,
            columns={"day 1": Column("percentunit", 1), "day 7": Column("percentunit", 1), "came": Column(bar=True)},
            may_be_empty=True,
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-lifecycle",
    "Fan lifecycle",
    "Are fans staying, and who is about to leave?",
    place=3,
    rows=(_KEY, _OVER_TIME, _WHO, _DETAILS),
    since="now-30d",
    annotations=("alerts",),
    refresh_s=60,
    rows_read=20_000_000,
)
"""For account managers, who keep fans and win them back."""
