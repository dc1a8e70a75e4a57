"""Content and creators: for account managers, and for whoever plans what is published."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import END, beside_yesterday, chosen, rate, rolling
from dashboards.thresholds import thresholds

_T = thresholds()
_MINUTES = "engagement_creator_minute FINAL"
_HERE = "fold_version = 1 AND " + chosen("platform", "creator")
_CHANGE = {"vs yesterday": Column("percentunit", 0, _T["change"].steps)}
_HERE_ONLY = Link("fanpulse-engagement", "Only this creator", {"creator": "creator"})


def _key(title: str, description: str, sums: dict[str, str], figure: str, unit: str = "short") -> Panel:
    return Panel(
        "stat",
        title,
        f"{description} Over the window up to each moment, and the change against the same window yesterday.",
        rolling(_MINUTES, sums, figure, title.lower(), _HERE),
        unit=unit,
        width=4,
        height=5,
        total="last",
        decimals=1 if unit in ("percentunit", "s") else None,
        columns={"vs yesterday": Column("percentunit", 0)} if title == "Unfollows" else _CHANGE,
    )


_KEY = Row(
    "How does it go, over the chosen window?",
    (
        _key("Plays", "Plays of videos.", {"plays": "plays"}, "{plays}"),
        _key(
            "Watch time",
            "Mean time watched of a play.",
            {"watched": "watch_ms", "plays": "plays"},
            "{watched} / nullIf({plays}, 0) / 1000",
            "s",
        ),
        _key(
            "Completion",
            "Plays watched to the end, of all plays.",
            {"completions": "completions", "plays": "plays"},
            "{completions} / nullIf({plays}, 0)",
            "percentunit",
        ),
        _key(
            "Engagement",
            "(likes + comments + shares) / plays.",
            {"deeds": "likes + comments + shares", "plays": "plays"},
            "{deeds} / nullIf({plays}, 0)",
            "percentunit",
        ),
        _key("Follows", "Fans who followed.", {"follows": "follows"}, "{follows}"),
        _key("Unfollows", "Fans who left.", {"unfollows": "unfollows"}, "{unfollows}"),
    ),
)

_RATES = Row(
    "What changed?",
    (
        Panel(
            "series",
            "Plays a minute",
            "Plays of videos a minute, beside those of the same time yesterday.",
            beside_yesterday(_MINUTES, "plays", "today", _HERE),
            columns={"yesterday": Column(color="#888888", dashed=True), "today": Column(color="blue")},
            least=0,
        ),
        Panel(
            "series",
            "Rates of plays",
            "Of the plays of each interval: how many were watched to the end, and how many likes, comments and shares "
            "there were for one.",
            rate(
                _MINUTES,
                {
                    "completion": "sum(completions) / nullIf(sum(plays), 0)",
                    "engagement": "sum(likes + comments + shares) / nullIf(sum(plays), 0)",
                },
                _HERE,
            ),
            unit="percentunit",
            least=0,
            total="mean",
            interval_s=300,
        ),
        Panel(
            "series",
            "Deeds a minute",
            "Likes, comments, shares and favorites of videos a minute.",
            rate(
                _MINUTES,
                {name: f"60 * sum({name}) / $__interval_s" for name in ("likes", "comments", "shares", "favorites")},
                _HERE,
            ),
            least=0,
            stacked=True,
            total="mean",
        ),
    ),
)

_BREAKDOWN = Row(
    "Which content, which creator?",
    (
        Panel(
            "table",
            "Videos",
            "Videos by plays over the window up to the end of the time range, with the new fans they brought. Only the "
            "last 24 hours can be looked at.",
            f"""\
SELECT
    content_id AS video,
    creator_id AS creator,
    plays,
    plays_change AS "vs yesterday",
    completion_rate AS completion,
    engagement_rate AS engagement,
    follows AS "new fans"
FROM engagement_by_content_at(at = {END})
WHERE {chosen("platform", "creator")}window_minutes = ${{window:raw}}
ORDER BY plays DESC
LIMIT 50""",
            width=14,
            height=11,
            columns={
                "creator": Column(link=_HERE_ONLY),
                "plays": Column(bar=True),
                "vs yesterday": Column("percentunit", 0, _T["change"].steps),
                "completion": Column("percentunit", 1),
                "engagement": Column("percentunit", 1),
            },
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
    viewers,
    engagement_rate AS engagement,
    follows - unfollows AS "net follows"
FROM engagement_rolling_at(at = {END})
WHERE {chosen("platform", "creator")}window_minutes = ${{window:raw}}
ORDER BY plays DESC
LIMIT 50""",
            width=10,
            height=11,
            columns={
                "creator": Column(link=Link("fanpulse-lifecycle", "Fans of this creator", {"creator": "creator"})),
                "plays": Column(bar=True),
                "vs yesterday": Column("percentunit", 0, _T["change"].steps),
                "engagement": Column("percentunit", 1),
            },
        ),
        Panel(
            "bar_gauge",
            "Which videos brought new fans?",
            "Follows by the video they came from, over the local days of the time range.",
            f"""\
SELECT content_id AS video, sum(follows) AS "new fans"
FROM engagement_content_day FINAL
WHERE {_HERE}day >= toDate($__fromTime, ${{zone:singlequote}}) AND day <= toDate($__toTime, ${{zone:singlequote}})
GROUP BY video
HAVING "new fans" > 0
ORDER BY "new fans" DESC
LIMIT 10""",
            width=8,
            height=9,
            may_be_empty=True,
        ),
        Panel(
            "series",
            "Follows and unfollows, a minute",
            "Who came and who left, a minute. Many unfollows at once: look at what was said or sold just before.",
            rate(
                _MINUTES,
                {
                    "follows": "60 * sum(follows) / $__interval_s",
                    "unfollows": "60 * sum(unfollows) / $__interval_s",
                },
                _HERE,
            ),
            width=8,
            height=9,
            columns={"follows": Column(color="green"), "unfollows": Column(color="red")},
            least=0,
            total="mean",
        ),
        Panel(
            "series",
            "Live rooms and groups, a minute",
            "Entries into live rooms, comments there, and messages in fan groups, a minute.",
            rate(
                _MINUTES,
                {
                    "live entries": "60 * sum(live_entries) / $__interval_s",
                    "live comments": "60 * sum(live_comments) / $__interval_s",
                    "group messages": "60 * sum(group_messages) / $__interval_s",
                },
                _HERE,
            ),
            width=8,
            height=9,
            least=0,
            total="mean",
        ),
    ),
)

_DETAILS = Row(
    "Details: from card to click, and what else fans did",
    (
        Panel(
            "series",
            "Product cards",
            "Product cards clicked, of those shown.",
            rate(_MINUTES, {"click rate": "sum(product_clicks) / nullIf(sum(product_exposures), 0)"}, _HERE),
            unit="percentunit",
            width=12,
            least=0,
            total="mean",
            interval_s=300,
        ),
        Panel(
            "bar_gauge",
            "What fans did",
            "Every kind of deed in the time range.",
            f"""\
SELECT kind, count AS deeds
FROM
(
    SELECT
        ['plays', 'likes', 'comments', 'shares', 'favorites', 'follows', 'profile visits', 'live entries',
            'live comments', 'live likes', 'badges lit', 'group messages', 'votes', 'check-ins',
            'welfare claims'] AS kinds,
        [sum(plays), sum(likes), sum(comments), sum(shares), sum(favorites), sum(follows), sum(profile_visits),
            sum(live_entries), sum(live_comments), sum(live_likes), sum(badges_lit), sum(group_messages),
            sum(group_votes), sum(group_checkins), sum(welfare_claims)] AS counts
    FROM {_MINUTES}
    WHERE {_HERE}$__timeFilter(minute)
)
ARRAY JOIN kinds AS kind, counts AS count
ORDER BY deeds DESC""",
            width=12,
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-engagement",
    "Content and creators",
    "Which content works right now, and for whom?",
    place=2,
    rows=(_KEY, _RATES, _BREAKDOWN, _DETAILS),
    since="now-6h",
    refresh_s=10,
    variables=("platform", "creator", "window"),
)
"""For account managers, and for whoever plans what is published."""
