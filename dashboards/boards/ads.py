"""Advertisements: for ad buyers."""

from dashboards.board import Board, Column, Link, Panel, Row
from dashboards.queries import beside_yesterday, chosen, days, rate, rolling
from dashboards.thresholds import thresholds

_T = thresholds()
_MINUTES = "ads_minute FINAL"
_HERE = "fold_version = 1 AND " + chosen("platform", "creator", "campaign")
# Figures of campaigns that name no creator: only those of campaigns with a creator that is chosen.
_OF_CREATORS = f"""\
{chosen("platform", "campaign")}campaign_id IN
    (
        SELECT campaign_id
        FROM ads_minute
        WHERE {_HERE}$__timeFilter(minute)
    )
    AND """
_BOTH = ((None, "red"), (_T["cpm_low"].warning, "green"), (_T["cpm_high"].warning, "yellow"))
_CPM = (*_BOTH, (_T["cpm_high"].critical, "red"))
_TO_RULES = Link("fanpulse-rules", "What rules did with this campaign", {"campaign": "campaign"})


def _key(
    title: str, description: str, sums: dict[str, str], figure: str, unit: str = "short", **options: bool
) -> Panel:
    return Panel(
        "stat",
        title,
        f"{description} Over the window up to each moment, and the change against the same window yesterday.",
        rolling(_MINUTES, sums, figure, title, _HERE),
        unit=unit,
        width=4,
        height=5,
        total="last",
        decimals=2 if unit != "short" else None,
        columns={"vs yesterday": Column("percentunit", 0)},
        **options,  # type: ignore[arg-type]
    )


_KEY = Row(
    "How do they run, over the chosen window?",
    (
        _key("Spend", "Cost of advertisements.", {"cost": "cost_micros"}, "{cost} / 1e6", "currency:¥"),
        _key(
            "CPM",
            "1000 x cost / impressions.",
            {"cost": "cost_micros", "shown": "impressions"},
            "1000 * {cost} / nullIf({shown}, 0) / 1e6",
            "currency:¥",
        ),
        _key(
            "CTR",
            "Clicks / impressions.",
            {"clicked": "clicks", "shown": "impressions"},
            "{clicked} / nullIf({shown}, 0)",
            "percentunit",
        ),
        _key(
            "CVR",
            "Conversions / clicks.",
            {"converted": "conversions", "clicked": "clicks"},
            "{converted} / nullIf({clicked}, 0)",
            "percentunit",
            may_be_empty=True,
        ),
        _key(
            "CPA",
            "Cost / conversions.",
            {"cost": "cost_micros", "converted": "conversions"},
            "{cost} / nullIf({converted}, 0) / 1e6",
            "currency:¥",
            may_be_empty=True,
        ),
        _key(
            "ROI",
            "(Value of conversions - cost) / cost, by what the platform reports; -100 %: nothing came back.",
            {"cost": "cost_micros", "value": "conversion_value_micros"},
            "({value} - {cost}) / nullIf({cost}, 0)",
            "percentunit",
        ),
    ),
)

_RATES = Row(
    "What changed?",
    (
        Panel(
            "series",
            "Spend a minute",
            "Cost a minute, beside that of the same time yesterday.",
            beside_yesterday(_MINUTES, "cost_micros / 1e6", "today", _HERE),
            unit="currency:¥",
            columns={"yesterday": Column(color="#888888", dashed=True), "today": Column(color="blue")},
            least=0,
        ),
        Panel(
            "series",
            "CPM over time",
            "1000 x cost / impressions. The lines are the thresholds of the alerts CPM high and CPM low.",
            rate(_MINUTES, {"CPM": "1000 * sum(cost_micros) / nullIf(sum(impressions), 0) / 1e6"}, _HERE),
            unit="currency:¥",
            columns={"CPM": Column(color="purple")},
            steps=_CPM,
            least=0,
            total="mean",
            interval_s=600,
        ),
        Panel(
            "series",
            "CTR and CVR",
            "Clicks of impressions, and conversions of clicks.",
            rate(
                _MINUTES,
                {
                    "CTR": "sum(clicks) / nullIf(sum(impressions), 0)",
                    "CVR": "sum(conversions) / nullIf(sum(clicks), 0)",
                },
                _HERE,
            ),
            unit="percentunit",
            least=0,
            total="mean",
            interval_s=1800,
        ),
    ),
)


def _by(by: str, title: str, width: int) -> Panel:
    # ads_by has no creator of what spans campaigns, so the table of minutes is asked.
    return Panel(
        "table",
        title,
        f"Each {by} in the time range, by spend. CPM = 1000 x cost / impressions, CVR = conversions / clicks, CPA = "
        "cost / "
        "conversions.",
        f"""\
SELECT
    {by.replace(" ", "_")}{"_id" if by in ("creative", "ad group") else ""} AS "{by}",
    sum(cost_micros) / 1e6 AS spend,
    1000 * spend / nullIf(sum(impressions), 0) AS "CPM",
    sum(ads.conversions) / nullIf(sum(clicks), 0) AS "CVR",
    spend / nullIf(sum(ads.conversions), 0) AS "CPA",
    sum(ads.conversions) AS conversions
FROM ads_minute AS ads FINAL
WHERE {_HERE}$__timeFilter(minute)
GROUP BY "{by}"
ORDER BY spend DESC
LIMIT 20""",
        width=width,
        height=9,
        columns={
            "spend": Column("currency:¥", bar=True),
            "CPM": Column("currency:¥", 2),
            "CVR": Column("percentunit", 1),
            "CPA": Column("currency:¥", 2),
        },
    )


_BREAKDOWN = Row(
    "Which campaign, audience, channel, creative?",
    (
        Panel(
            "table",
            "Campaigns",
            "Campaigns of the time range, by spend. CPM and CVR are coloured by the thresholds of their alerts. ROAS = "
            "value of conversions / cost, by what the platform reports.",
            f"""\
SELECT
    campaign_id AS campaign,
    any(creator_id) AS creator,
    sum(cost_micros) / 1e6 AS spend,
    sum(ads.impressions) AS impressions,
    1000 * spend / nullIf(sum(ads.impressions), 0) AS "CPM",
    sum(clicks) / nullIf(sum(ads.impressions), 0) AS "CTR",
    sum(ads.conversions) / nullIf(sum(clicks), 0) AS "CVR",
    spend / nullIf(sum(ads.conversions), 0) AS "CPA",
    sum(conversion_value_micros) / nullIf(sum(cost_micros), 0) AS "ROAS",
    sum(ads.conversions) AS conversions
FROM ads_minute AS ads FINAL
WHERE {_HERE}$__timeFilter(minute)
GROUP BY campaign
ORDER BY spend DESC
LIMIT 50""",
            width=24,
            height=9,
            columns={
                "campaign": Column(link=_TO_RULES),
                "creator": Column(link=Link("fanpulse-audience", "Audience of this creator", {"creator": "creator"})),
                "spend": Column("currency:¥", bar=True),
                "CPM": Column("currency:¥", 2, _CPM),
                "CTR": Column("percentunit", 1),
                "CVR": Column("percentunit", 1, _T["cvr_low"].steps),
                "CPA": Column("currency:¥", 2),
                "ROAS": Column("none", 2),
            },
        ),
        _by("audience", "Audiences", 12),
        _by("channel", "Channels", 12),
        _by("creative", "Creatives", 12),
        _by("ad group", "Ad groups", 12),
    ),
)

_DETAILS = Row(
    "Details: budgets, what they won, hours, people",
    (
        Panel(
            "table",
            "Budgets today",
            "How campaigns spend their daily budget on the local day that runs: pace 1 is even over the day, 2 twice "
            "as fast. "
            "Empty where no budget is known: fanpulse campaigns apply tells them.",
            f"""\
SELECT
    campaign_id AS campaign,
    cost_micros / 1e6 AS spent,
    daily_budget_micros / 1e6 AS budget,
    cost_share AS "of it",
    pace,
    used_up_at AS "used up at"
FROM ads_pace
WHERE {chosen("platform", "creator", "campaign")}ad_group_id = ''
ORDER BY "of it" DESC, spent DESC
LIMIT 50""",
            width=24,
            height=9,
            columns={
                "campaign": Column(link=_TO_RULES),
                "spent": Column("currency:¥", 2),
                "budget": Column("currency:¥", 2),
                "of it": Column("percentunit", 0, ((None, "green"), (0.9, "yellow"), (1, "red"))),
                "pace": Column("none", 2),
                "used up at": Column("dateTimeAsIso", width=160),
            },
            of_now=True,
            may_be_empty=True,
        ),
        Panel(
            "table",
            "What campaigns won",
            "Follows and orders that advertisements seen or clicked in the time range won by last touch; what they win "
            "still grows for days. Revenue is after refunds, ROAS = that / spend. docs/attribution.md defines it.",
            f"""\
SELECT
    campaign_id AS campaign,
    cost_micros / 1e6 AS spend,
    follows,
    follow_cost_micros / 1e6 AS "cost of a fan",
    orders,
    net_micros / 1e6 AS revenue,
    roas AS "ROAS"
FROM attribution_by(by = 'campaign', since = $__fromTime, until = $__toTime)
WHERE {_OF_CREATORS}cost_micros > 0
ORDER BY revenue DESC, spend DESC
LIMIT 50""",
            width=24,
            height=9,
            columns={
                "spend": Column("currency:¥", 2),
                "cost of a fan": Column("currency:¥", 2),
                "revenue": Column("currency:¥", 2, bar=True),
                "ROAS": Column("none", 2),
            },
        ),
        Panel(
            "bars",
            "Cost of a thousand impressions by local hour",
            "CPM by local hour over the time range: when reach is cheap.",
            f"""\
SELECT
    leftPad(toString(toHour(minute, ${{zone:singlequote}})), 2, '0') AS hour,
    1000 * sum(cost_micros) / nullIf(sum(impressions), 0) / 1e6 AS "CPM"
FROM ads_minute FINAL
WHERE {_HERE}$__timeFilter(minute)
GROUP BY hour
ORDER BY hour""",
            unit="currency:¥",
            width=12,
        ),
        Panel(
            "table",
            "People",
            "Whom campaigns with an advertisement in the time range reached on its local days, by age band, gender and "
            "region; empty: unknown.",
            f"""\
SELECT
    by,
    value,
    sum(ads_people.impressions) AS impressions,
    sum(clicks) / nullIf(sum(ads_people.impressions), 0) AS "CTR",
    sum(conversions) / nullIf(sum(clicks), 0) AS "CVR",
    sum(cost_micros) / nullIf(sum(conversions), 0) / 1e6 AS "CPA"
FROM ads_people
WHERE {_OF_CREATORS}{days()}
GROUP BY by, value
ORDER BY impressions DESC
LIMIT 40""",
            width=12,
            columns={
                "impressions": Column(bar=True),
                "CTR": Column("percentunit", 1),
                "CVR": Column("percentunit", 1),
                "CPA": Column("currency:¥", 2),
            },
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-ads",
    "Advertisements",
    "Is the money well spent, and where not?",
    place=5,
    rows=(_KEY, _RATES, _BREAKDOWN, _DETAILS),
    since="now-6h",
    refresh_s=10,
    variables=("platform", "creator", "campaign", "window"),
)
"""For ad buyers."""
