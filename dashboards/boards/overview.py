"""Operations overview: for the shift, on a wall."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import DEAD_LETTERS, END, WHOLE, beside_yesterday, chosen, rate, rolling
from dashboards.thresholds import thresholds

_T = thresholds()
_CREATORS = "fold_version = 1 AND " + chosen("platform", "creator")
_CHANGE = {"vs yesterday": Column("percentunit", 0, _T["change"].steps)}
_TO_CREATOR = Link("fanpulse-engagement", "Content and creators of this one", {"creator": "creator"})
_TO_CAMPAIGN = Link("fanpulse-ads", "Advertisements of this campaign", {"campaign": "campaign"})

_HEALTH = Row(
    "Is it healthy?",
    (
        Panel(
            "stat",
            "Freshness",
            "From the newest event time stored to now, of the topic that is freshest: if this grows, nothing arrives "
            "any more. The board of the pipeline has every topic.",
            """\
SELECT $__timeInterval(minute) AS time, min(freshness_seconds) AS "freshness"
FROM pipeline_lag
WHERE $__timeFilter(minute)
GROUP BY time
ORDER BY time""",
            unit="s",
            width=4,
            height=4,
            decimals=0,
            steps=_T["freshness"].steps,
            colored=True,
        ),
        Panel(
            "stat",
            "Lag",
            "Records in Kafka that are not yet in all tables, over all topics, the most of each minute. Nothing is "
            "lost by lag; figures are that far behind.",
            """\
SELECT $__timeInterval(minute) AS time, max(waiting) AS "lag"
FROM (SELECT minute, sum(highest_lag) AS waiting FROM pipeline_lag WHERE $__timeFilter(minute) GROUP BY minute)
GROUP BY time
ORDER BY time""",
            width=4,
            height=4,
            steps=_T["lag"].steps,
            colored=True,
        ),
        Panel(
            "stat",
            "Dead letters",
            "Records refused in the 15 minutes up to each moment, because they are no events.",
            DEAD_LETTERS,
            width=4,
            height=4,
            steps=_T["dead_letters"].steps,
            colored=True,
        ),
        Panel(
            "stat",
            "Late events",
            "Events beyond the late horizon, of all that were read. They are stored, and count once they are repaired.",
            """\
SELECT $__timeInterval(minute) AS time, sum(late) / nullIf(sum(events), 0) AS "late"
FROM pipeline_throughput
WHERE $__timeFilter(minute)
GROUP BY time
ORDER BY time""",
            unit="percentunit",
            width=4,
            height=4,
            decimals=1,
            steps=_T["late_share"].steps,
            colored=True,
        ),
        Panel(
            "stat",
            "Workers",
            "Workers that reported in each interval, of minutes that are over. Fewer than usual: the board of the "
            "pipeline says which is gone.",
            f"""\
SELECT $__timeInterval(minute) AS time, uniqExact(worker) AS "workers"
FROM pipeline_throughput
WHERE $__timeFilter(minute) AND minute <= {END} - INTERVAL 1 MINUTE
GROUP BY time
ORDER BY time""",
            width=4,
            height=4,
            steps=((None, "red"), (1, "green")),
            colored=True,
        ),
        Panel(
            "stat",
            "Open alerts",
            "Alerts of the stream that were open at each moment. Below is what they say and what to do.",
            f"""\
WITH
    (
        SELECT groupArray((at, if(state = 'open', toDateTime64('2100-01-01 00:00:00', 3, 'UTC'), resolved_at)))
        FROM alerts FINAL
        WHERE {chosen("platform", "creator")}at <= $__toTime
    ) AS known
SELECT
    arrayJoin(arrayMap(i -> {END} - i * $__interval_s, reverse(range(200)))) AS time,
    arrayCount(alert -> alert.1 <= time AND alert.2 > time, known) AS "open alerts"
WHERE time >= $__fromTime
ORDER BY time""",
            width=4,
            height=4,
            steps=((None, "green"), (1, "orange")),
            colored=True,
        ),
    ),
)

_KEY = Row(
    "What do the figures say, over the chosen window?",
    (
        Panel(
            "stat",
            "Plays",
            "Plays of videos over the window up to each moment, and the change against the same window yesterday.",
            rolling("engagement_creator_minute FINAL", {"plays": "plays"}, "{plays}", "plays", _CREATORS),
            width=4,
            height=5,
            total="last",
            columns=_CHANGE,
        ),
        Panel(
            "stat",
            "Engagement rate",
            "(likes + comments + shares) / plays over the window, and its change against the same window yesterday.",
            rolling(
                "engagement_creator_minute FINAL",
                {"deeds": "likes + comments + shares", "plays": "plays"},
                "{deeds} / nullIf({plays}, 0)",
                "rate",
                _CREATORS,
            ),
            unit="percentunit",
            width=4,
            height=5,
            total="last",
            decimals=1,
            columns=_CHANGE,
        ),
        Panel(
            "stat",
            "New followers",
            "Follows less unfollows over the window, and the change against the same window yesterday.",
            rolling(
                "engagement_creator_minute FINAL",
                {"follows": "follows", "unfollows": "unfollows"},
                "{follows} - {unfollows}",
                "net",
                _CREATORS,
            ),
            width=4,
            height=5,
            total="last",
            columns=_CHANGE,
        ),
        Panel(
            "stat",
            "Live room entries",
            "Entries into live rooms over the window, and the change against the same window yesterday.",
            rolling("engagement_creator_minute FINAL", {"entries": "live_entries"}, "{entries}", "entries", _CREATORS),
            width=4,
            height=5,
            total="last",
            columns=_CHANGE,
        ),
        Panel(
            "stat",
            "Ad spend",
            "Cost of advertisements over the window, yuan, and the change against the same window yesterday.",
            rolling("ads_minute FINAL", {"cost": "cost_micros"}, "{cost} / 1e6", "spend", _CREATORS),
            unit="currency:¥",
            width=4,
            height=5,
            total="last",
            columns={"vs yesterday": Column("percentunit", 0)},
        ),
        Panel(
            "stat",
            "Conversions",
            "Conversions of advertisements over the window, and the change against the same window yesterday.",
            rolling("ads_minute FINAL", {"conversions": "conversions"}, "{conversions}", "conversions", _CREATORS),
            width=4,
            height=5,
            total="last",
            columns=_CHANGE,
        ),
    ),
)

_OVER_TIME = Row(
    "What changed?",
    (
        Panel(
            "series",
            "Plays a minute",
            "Plays of videos a minute, beside those of the same time yesterday.",
            beside_yesterday("engagement_creator_minute FINAL", "plays", "today", _CREATORS),
            columns={"yesterday": Column(color="#888888", dashed=True), "today": Column(color="blue")},
            least=0,
        ),
        Panel(
            "series",
            "What fans do, a minute",
            "Likes, comments, shares and follows a minute.",
            rate(
                "engagement_creator_minute FINAL",
                {
                    name: f"60 * sum({name}) / $__interval_s"
                    for name in ("likes", "comments", "shares", "follows", "live_comments", "group_messages")
                },
                _CREATORS,
            ),
            least=0,
            total="mean",
        ),
        Panel(
            "series",
            "Events read a second",
            "Events that workers read a second, by topic, with repeats and late ones. A topic at 0 sends nothing.",
            f"""\
SELECT $__timeInterval(minute) AS time, topic, sum(events) / $__interval_s AS events
FROM pipeline_throughput
WHERE $__timeFilter(minute)
GROUP BY time, topic
{WHOLE}
ORDER BY time, topic""",
            unit="cps",
            series="topic",
            least=0,
            stacked=True,
            total="mean",
        ),
    ),
)

_WHO = Row(
    "Who needs attention?",
    (
        Panel(
            "table",
            "Open alerts and what to do",
            "Alerts of the stream that are open, the newest first, with their first piece of advice. "
            "docs/runbooks has a page for each kind.",
            f"""\
SELECT at, title AS alert, creator_id AS creator, said, advice[1] AS "what to do"
FROM alerts_now
WHERE {chosen("platform", "creator")}at <= $__toTime
ORDER BY at DESC
LIMIT 50""",
            width=24,
            height=5,
            columns={
                "at": Column("dateTimeAsIso", width=160),
                "alert": Column(width=180),
                "said": Column(width=520),
                "creator": Column(
                    width=130, link=Link("fanpulse-lifecycle", "Fans of this creator", {"creator": "creator"})
                ),
            },
            may_be_empty=True,
        ),
        Panel(
            "table",
            "Creators",
            "The window up to the end of the time range, by plays, beside the same window yesterday.",
            f"""\
SELECT
    creator_id AS creator,
    platform,
    plays,
    plays_change AS "vs yesterday",
    engagement_rate AS "engagement",
    follows,
    unfollows
FROM engagement_rolling_at(at = {END})
WHERE {chosen("platform", "creator")}window_minutes = ${{window:raw}}
ORDER BY plays DESC
LIMIT 30""",
            width=12,
            height=10,
            columns={
                "creator": Column(link=_TO_CREATOR),
                "vs yesterday": Column("percentunit", 0, _T["change"].steps),
                "engagement": Column("percentunit", 1),
                "plays": Column(bar=True),
            },
        ),
        Panel(
            "table",
            "Campaigns",
            "Campaigns of the time range, by spend. CPM = 1000 x cost / impressions, CVR = conversions / clicks.",
            f"""\
SELECT
    campaign_id AS campaign,
    sum(cost_micros) / 1e6 AS spend,
    1000 * spend / nullIf(sum(impressions), 0) AS "CPM",
    sum(clicks) / nullIf(sum(impressions), 0) AS "CTR",
    sum(ads.conversions) / nullIf(sum(clicks), 0) AS "CVR",
    sum(ads.conversions) AS conversions
FROM ads_minute AS ads FINAL
WHERE {_CREATORS}$__timeFilter(minute)
GROUP BY campaign
ORDER BY spend DESC
LIMIT 30""",
            width=12,
            height=10,
            columns={
                "campaign": Column(link=_TO_CAMPAIGN),
                "spend": Column("currency:¥", bar=True),
                "CPM": Column("currency:¥", 2),
                "CTR": Column("percentunit", 1),
                "CVR": Column("percentunit", 1),
            },
        ),
    ),
)

_DETAILS = Row(
    "Details: who has the plays",
    (
        Panel(
            "bar_gauge",
            "Plays by creator",
            "Plays of the time range, the 15 creators with most.",
            f"""\
SELECT creator_id AS creator, sum(plays) AS plays
FROM engagement_creator_minute FINAL
WHERE {_CREATORS}$__timeFilter(minute)
GROUP BY creator
ORDER BY plays DESC
LIMIT 15""",
            width=12,
            height=9,
        ),
        Panel(
            "pie",
            "Plays by platform",
            "Plays of the time range.",
            f"""\
SELECT platform, sum(plays) AS plays
FROM engagement_creator_minute FINAL
WHERE {_CREATORS}$__timeFilter(minute)
GROUP BY platform
ORDER BY plays DESC""",
            width=12,
            height=9,
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-overview",
    "Operations overview",
    "Is it healthy, what changed, and who needs attention?",
    place=1,
    rows=(_HEALTH, _KEY, _OVER_TIME, _WHO, _DETAILS),
    variables=("platform", "creator", "window"),
)
"""For the shift, on a wall."""
