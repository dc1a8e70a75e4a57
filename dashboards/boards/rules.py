"""Budget rules: what fired, what did not, and why."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import END, chosen
from schemas.rules import METRICS

_HERE = "fold_version = 1 AND " + chosen("platform", "campaign")
_OUTCOMES = {"fired": "green", "clamped": "yellow", "notified": "blue", "dry_run": "purple", "skipped": "#8e8e8e"}
_WORDS = {name: (name.replace("_", " "), color) for name, color in _OUTCOMES.items()}
_EACH_OUTCOME = ",\n".join(
    f"    countIf(outcome = '{name}') AS \"{text}\"" for name, (text, _) in _WORDS.items() if name != "skipped"
)
_STEPS = f"{_HERE}action = 'budget' AND ad_group_id = '' AND $__timeFilter(closed_at)"
_TO_CAMPAIGN = Link("fanpulse-ads", "Figures of this campaign", {"campaign": "campaign"})
_CODES = {
    "0": ("did not fire", "#8e8e8e"),
    "1": ("would have fired", "purple"),
    "2": ("told", "blue"),
    "3": ("clamped", "yellow"),
    "4": ("fired", "green"),
}


def _named(measure: str) -> str:
    return ", ".join(f"'{name}'" for name, metric in METRICS.items() if metric.measure == measure)


_FIGURES = f"""\
arrayStringConcat(arrayMap((metric, figure) -> concat(metric, ' ', multiIf(
        figure IS NULL, 'none',
        metric IN ({_named("money")}), concat(toString(round(figure / 1e6, 2)), ' yuan'),
        metric IN ({_named("rate")}), concat(toString(round(figure / 1e4, 2)), ' %'),
        toString(figure))), metrics, metric_values), ', ')"""


def _count(title: str, description: str, condition: str, color: str) -> Panel:
    return Panel(
        "stat",
        title,
        f"{description} The figure is the sum over the time range.",
        f"""\
SELECT $__timeInterval(closed_at) AS time, countIf({condition}) AS decisions
FROM rule_decisions FINAL
WHERE {_HERE}$__timeFilter(closed_at)
GROUP BY time
ORDER BY time""",
        width=4,
        height=4,
        total="sum",
        steps=((None, color),),
        interval_s=3600,
    )


_RUN = Row(
    "Do the rules run?",
    (
        Panel(
            "stat",
            "Last evaluation",
            "From the newest decision of any rule to the end of the time range. Rules are evaluated when their "
            "windows close, "
            "by default at every full hour.",
            f"""\
SELECT dateDiff('second', max(decided_at), {END}) AS "ago"
FROM rule_decisions
WHERE {_HERE}closed_at >= $__fromTime - INTERVAL 1 DAY AND closed_at <= $__toTime
HAVING count() > 0""",
            unit="s",
            width=4,
            height=4,
            steps=((None, "green"), (7200, "yellow"), (14400, "red")),
            colored=True,
        ),
        _count("Evaluations", "Decisions of all rules, fired or not.", "1", "blue"),
        _count("Fired", "What rules did, clamped ones among it.", "outcome IN ('fired', 'clamped')", "green"),
        _count("Would have fired", "What rules in mode dry_run would have done.", "outcome = 'dry_run'", "purple"),
        _count("Told", "What rules in mode notify have told.", "outcome = 'notified'", "blue"),
        _count(
            "Held back",
            "Conditions held, but a guard, a rest, a bound or another rule said no.",
            "outcome = 'skipped' AND reason NOT IN ('conditions', 'no_figure', 'schedule', 'on_target')",
            "orange",
        ),
    ),
)

_DID = Row(
    "What did they do?",
    (
        Panel(
            "timeline",
            "Campaigns",
            "Of each campaign the strongest decision in each interval.",
            f"""\
SELECT
    $__timeInterval(closed_at) AS time,
    campaign_id AS campaign,
    max(transform(outcome, ['dry_run', 'notified', 'clamped', 'fired'], [1, 2, 3, 4], 0)) AS decision
FROM rule_decisions FINAL
WHERE {_HERE}$__timeFilter(closed_at)
    AND campaign_id IN
    (
        SELECT campaign_id
        FROM rule_decisions
        WHERE {_HERE}$__timeFilter(closed_at)
        GROUP BY campaign_id
        ORDER BY countIf(outcome != 'skipped') DESC, campaign_id
        LIMIT 20
    )
GROUP BY time, campaign
ORDER BY time, campaign""",
            width=12,
            height=10,
            series="campaign",
            texts=_CODES,
            interval_s=3600,
        ),
        Panel(
            "table",
            "Actions",
            "What rules did, the newest first: budget or bid before and after, and what made the step smaller.",
            f"""\
SELECT
    closed_at AS at,
    rule_id AS rule,
    campaign_id AS campaign,
    ad_group_id AS "ad group",
    action,
    before_micros / 1e6 AS before,
    after_micros / 1e6 AS after,
    after_micros / nullIf(before_micros, 0) - 1 AS change,
    clamped_by AS "clamped by"
FROM budget_actions FINAL
WHERE {_HERE}$__timeFilter(closed_at)
ORDER BY closed_at DESC
LIMIT 100""",
            width=12,
            height=10,
            columns={
                "at": Column("dateTimeAsIso", width=160),
                "campaign": Column(link=_TO_CAMPAIGN),
                "before": Column("currency:¥", 2),
                "after": Column("currency:¥", 2),
                "change": Column("percentunit", 0),
            },
            may_be_empty=True,
        ),
        Panel(
            "series",
            "Decisions over time",
            "Decisions of each interval that came to something, by what came out.",
            f"""\
SELECT
    $__timeInterval(closed_at) AS time,
{_EACH_OUTCOME}
FROM rule_decisions FINAL
WHERE {_HERE}$__timeFilter(closed_at)
GROUP BY time
ORDER BY time""",
            width=12,
            columns={text: Column(color=color) for text, color in _WORDS.values()},
            stacked=True,
            least=0,
            total="sum",
            interval_s=3600,
        ),
        Panel(
            "series",
            "Daily budgets that rules set",
            "The daily budget of each campaign after every step, up to now; the 20 campaigns with the most steps.",
            f"""\
SELECT time, campaign, argMax(after_micros, at) / 1e6 AS budget
FROM
(
    SELECT
        arrayJoin([$__timeInterval(closed_at), toDateTime({END})]) AS time,
        campaign_id AS campaign,
        after_micros,
        closed_at AS at
    FROM budget_actions FINAL
    WHERE {_STEPS}
        AND campaign_id IN
        (
            SELECT campaign_id
            FROM budget_actions
            WHERE {_STEPS}
            GROUP BY campaign_id
            ORDER BY count() DESC, campaign_id
            LIMIT 20
        )
)
GROUP BY time, campaign
ORDER BY time, campaign""",
            unit="currency:¥",
            width=12,
            series="campaign",
            least=0,
            held=True,
            may_be_empty=True,
            interval_s=3600,
        ),
    ),
)

_WHY = Row(
    "Why did the others not fire?",
    (
        Panel(
            "bar_gauge",
            "Reasons",
            "Decisions that did not fire, by reason. docs/rules.md explains each.",
            f"""\
SELECT reason, count() AS decisions
FROM rule_decisions FINAL
WHERE {_HERE}outcome = 'skipped' AND $__timeFilter(closed_at)
GROUP BY reason
ORDER BY decisions DESC
LIMIT 20""",
            width=6,
            height=11,
            may_be_empty=True,
        ),
        Panel(
            "table",
            "Decisions",
            "Every decision with the figures that it was made on, the newest first; at one closing those that fired "
            "first.",
            f"""\
SELECT
    closed_at AS at,
    rule_id AS rule,
    campaign_id AS campaign,
    outcome,
    reason,
    {_FIGURES} AS figures,
    arrayStringConcat(arrayFilter((guard, holds) -> holds = 0, guards, guard_holds), ', ') AS "guards that fail",
    before_micros / 1e6 AS before,
    after_micros / 1e6 AS after
FROM rule_decisions FINAL
WHERE {_HERE}$__timeFilter(closed_at)
ORDER BY closed_at DESC, outcome = 'skipped', rule, campaign
LIMIT 200""",
            width=18,
            height=11,
            columns={
                "at": Column("dateTimeAsIso", width=160),
                "campaign": Column(link=_TO_CAMPAIGN),
                "outcome": Column(texts=_WORDS),
                "figures": Column(width=340),
                "before": Column("currency:¥", 2),
                "after": Column("currency:¥", 2),
            },
        ),
    ),
)

_DETAILS = Row(
    "Details: rules and campaigns as they are now",
    (
        Panel(
            "table",
            "Rules",
            "Every rule as one sentence, as it is in force now.",
            """\
SELECT
    rule_id AS rule,
    mode,
    if(enabled = 1, 'on', 'off') AS "is",
    owner,
    sentence,
    changed_at AS changed,
    changed_by AS "by"
FROM rules
ORDER BY rule
LIMIT 200""",
            width=24,
            height=9,
            columns={"changed": Column("dateTimeAsIso", width=160), "sentence": Column(width=900)},
            of_now=True,
            may_be_empty=True,
        ),
        Panel(
            "table",
            "Campaigns as rules know them",
            "State, budgets and bids, as they were told and as rules have changed them since.",
            f"""\
SELECT
    campaign_id AS campaign,
    creator_id AS creator,
    ad_group_id AS "ad group",
    state,
    daily_budget_micros / 1e6 AS "daily budget",
    bid_micros / 1e6 AS bid,
    target_cpa_micros / 1e6 AS "target CPA"
FROM campaigns
WHERE {chosen("platform", "campaign")}state != ''
ORDER BY campaign, "ad group"
LIMIT 500""",
            unit="currency:¥",
            width=24,
            height=9,
            columns={
                "campaign": Column(link=_TO_CAMPAIGN),
                "state": Column(
                    texts={"active": ("active", "green"), "paused": ("paused", "orange"), "ended": ("ended", "#888888")}
                ),
            },
            decimals=2,
            of_now=True,
            may_be_empty=True,
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-rules",
    "Budget rules",
    "What did the rules do, what did they not do, and why?",
    place=6,
    rows=(_RUN, _DID, _WHY, _DETAILS),
    since="now-24h",
    refresh_s=10,
    variables=("platform", "campaign"),
    needs="rule_decisions",
)
"""What fired, what did not, and why."""
