"""Figures of campaigns by hour, that alerts look at."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pipeline.alerts import DAY, WEEK, Figures, end_of, ratio
from pipeline.look import Look

HOUR_MS = 3_600_000
DAY_HOURS = 24
LOOKED_BACK = 24
"""Closed hours that a worker looks at which begins to look: what was dear yesterday morning helps nobody."""
CORRECTED = 3
"""Closed hours that it reads and looks at again each time after: events come late."""
HELD = LOOKED_BACK + WEEK * DAY_HOURS
"""Closed hours that are held: those that are looked at, and what is usual before the first of them."""
STEADY = 0.05
"""Share of the usual CPM that its standard deviation is taken for at least."""

Campaign = tuple[str, str]
"""Platform and campaign."""


class Sums(NamedTuple):
    """What a campaign had in an hour; money in micros."""

    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost: int = 0


NOTHING = Sums()


class Spent(NamedTuple):
    """What is spent of a budget, micros; ``budget`` is None where none is known."""

    cost: int
    budget: int | None


class BudgetChange(NamedTuple):
    """A change of a campaign's budgets at a time (UTC ms). ``told``: by people, who say both; a rule changes the daily
    one alone. Micros; None: not known."""

    at: int
    told: bool
    daily: int | None
    total: int | None


def campaign_figures(
    hours: Sequence[Sums], day_left: float, daily: Spent, total: Spent | None
) -> dict[str, float | None]:
    """Figures of the last of some hours in a row, by those before it: 7 days for the usual CPM.

    ``daily``: of the local day up to the end of the hour; ``total``: of all time (None: there is no total budget).
    ``day_left``: part of the local day that is left then, from 0 to 1. Formulas: docs/alerts.md.
    """
    hour, day = hours[-1], hours[-DAY_HOURS:]
    cost, clicks, conversions = (sum(getattr(each, name) for each in day) for name in ("cost", "clicks", "conversions"))
    cpms = [paid for each in hours[-1 - DAY_HOURS :: -DAY_HOURS][:WEEK] if (paid := cpm(each)) is not None]
    paid = cpm(hour)
    usual = fmean(cpms) if cpms else None
    spread = max(stdev(cpms), STEADY * usual) if usual is not None and len(cpms) > 1 else None
    rise = paid - usual if paid is not None and usual is not None else None
    return {
        "impressions": hour.impressions,
        "clicks": hour.clicks,
        "conversions": hour.conversions,
        "cost_micros": hour.cost,
        "cpm_micros": paid,
        "cpm_days": len(cpms),
        "cpm_usual_micros": usual,
        "cpm_rise": None if rise is None or not usual else rise / usual,
        "cpm_deviations": None if rise is None or not spread else rise / spread,
        "cost_24h_micros": cost,
        "clicks_24h": clicks,
        "conversions_24h": conversions,
        "cvr_24h": ratio(conversions, clicks),
        "day_left": day_left,
        **_share("daily", daily),
        **_share("total", total),
    }


def cpm(sums: Sums) -> int | None:
    """1000 x cost / impressions, micros, rounded to the nearest, a half up; None without impressions."""
    return (2000 * sums.cost + sums.impressions) // (2 * sums.impressions) if sums.impressions else None


def _share(name: str, spent: Spent | None) -> dict[str, float | None]:
    cost, budget = spent if spent is not None else (None, None)
    share = ratio(cost, budget) if cost is not None and budget is not None else None
    return {f"{name}_cost_micros": cost, f"{name}_budget_micros": budget, f"{name}_share": share}


def budgets_at(changes: Sequence[BudgetChange], moment: int) -> tuple[int | None, int | None]:
    """Daily and total budget that held at a moment (UTC ms), by changes in their order; None: none was known."""
    held = changes[: bisect_right(changes, moment, key=lambda change: change.at)]
    total = next((change.total for change in reversed(held) if change.told), None)
    return (held[-1].daily if held else None), total


def hour_of(moment: int, zone: ZoneInfo) -> int:
    """When the local hour began that a moment is in; both UTC ms."""
    offset = datetime.fromtimestamp(moment / 1000, zone).utcoffset()
    local = int(offset.total_seconds() * 1000) if offset is not None else 0
    return (moment + local) // HOUR_MS * HOUR_MS - local


class CampaignFigures:
    """Figures of every campaign that had an event in the last 24 hours: of closed local hours, and of the running one.

    Hours are held in memory, and a look reads the newest ones. So what repair takes in of hours before these is seen by
    the next worker that begins to look.
    """

    def __init__(self) -> None:
        self._closed: int | None = None
        self._hours: dict[Campaign, dict[int, Sums]] = defaultdict(dict)
        self._creators: dict[Campaign, str] = {}
        self._before: dict[Campaign, int] = {}

    def __call__(self, look: Look) -> list[Figures]:
        if not look.looks_at("campaigns"):
            return []
        closed = hour_of(look.reached, look.zone)
        first, oldest = closed - LOOKED_BACK * HOUR_MS, closed - HELD * HOUR_MS
        since = oldest
        if self._closed is not None:
            first = max(first, self._closed - CORRECTED * HOUR_MS)
            since = max(since, self._closed - CORRECTED * HOUR_MS)
        self._read(look, since)
        budgets = read_budgets(look)
        self._closed = closed
        self._forget(oldest)
        self._read_before(look, oldest, {campaign for campaign, own in budgets.items() if any(x.total for x in own)})
        found: list[Figures] = []
        for campaign, own in self._hours.items():
            if max(own) >= closed - DAY_HOURS * HOUR_MS:
                found += self._figures(look, campaign, first, budgets.get(campaign, []))
        return found

    def _read(self, look: Look, since: int) -> None:
        """Takes in hours from then on."""
        parameters = {"zone": look.settings.time_zone, "since": datetime.fromtimestamp(since / 1000, UTC)}
        for platform, campaign, creator, hour, *sums in look.client.query(_HOURS, parameters).result_rows:
            self._hours[platform, campaign][hour * 1000] = Sums(*sums)
            self._creators.setdefault((platform, campaign), creator)
        self._creators |= read_creators(look)

    def _forget(self, oldest: int) -> None:
        """Lets go of hours before; what they cost stays known of campaigns that have a total budget."""
        for campaign, own in list(self._hours.items()):
            for hour in [hour for hour in own if hour < oldest]:
                sums = own.pop(hour)
                if campaign in self._before:
                    self._before[campaign] += sums.cost
            if not own:
                del self._hours[campaign]

    def _read_before(self, look: Look, oldest: int, campaigns: set[Campaign]) -> None:
        """Takes in what campaigns spent before the hours that are held, where that is not known."""
        new = sorted(campaigns - self._before.keys())
        if new:
            parameters = {"ids": [each for _, each in new], "until": datetime.fromtimestamp(oldest / 1000, UTC)}
            rows = look.client.query(_BEFORE, parameters).result_rows
            spent = {(platform, campaign): cost for platform, campaign, cost in rows}
            self._before |= {campaign: spent.get(campaign, 0) for campaign in new}

    def _figures(
        self, look: Look, campaign: Campaign, first: int, changes: Sequence[BudgetChange]
    ) -> Iterable[Figures]:
        """Of the hours that begin from ``first`` on, and of the running one."""
        own, closed = self._hours[campaign], hour_of(look.reached, look.zone)
        platform, name = campaign
        for hour in range(first, closed + 1, HOUR_MS):
            over = hour < closed
            if not over and look.reached == closed:
                continue
            day = _local(hour, look.zone).date()
            begin, end = end_of(day - DAY, look.zone), end_of(day, look.zone)
            at = hour + HOUR_MS if over else look.reached
            sums = [own.get(hour - back * HOUR_MS, NOTHING) for back in range(WEEK * DAY_HOURS, -1, -1)]
            daily, total = budgets_at(changes, at if over else max(at, _last(changes)))
            spent_today = sum(own[each].cost for each in range(begin, hour + 1, HOUR_MS) if each in own)
            spent = self._before.get(campaign, 0) + sum(each.cost for start, each in own.items() if start <= hour)
            values = campaign_figures(
                sums,
                max(end - at, 0) / (end - begin),
                Spent(spent_today, daily),
                None if total is None else Spent(spent, total),
            )
            words = {"begin": f"{_local(hour, look.zone):%H:%M}", "end": f"{_local(at, look.zone):%H:%M}"}
            yield Figures(platform, self._creators[campaign], name, day, over, at, values, hour, words)


def _local(moment: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(moment / 1000, zone)


def _last(changes: Sequence[BudgetChange]) -> int:
    return max((change.at for change in changes), default=0)


def read_budgets(look: Look) -> dict[Campaign, list[BudgetChange]]:
    """Changes of the budgets of campaigns, in their order."""
    found: dict[Campaign, list[BudgetChange]] = defaultdict(list)
    for platform, campaign, at, told, daily, total in look.client.query(_BUDGETS).result_rows:
        own = found[platform, campaign]
        # The log orders them; the clock of a broker may be set back.
        own.append(BudgetChange(max(at, own[-1].at if own else at), bool(told), daily, total))
    return found


def read_creators(look: Look) -> Mapping[Campaign, str]:
    """Creators of the campaigns that rules know."""
    rows = look.client.query(
        "SELECT platform, campaign_id, creator_id FROM campaigns WHERE ad_group_id = ''"
    ).result_rows
    return {(platform, campaign): creator for platform, campaign, creator in rows}


_HOURS = """
SELECT
    platform,
    campaign_id,
    min(creator_id),
    toUnixTimestamp(toStartOfHour(minute, {zone:String})) AS hour,
    sum(impressions),
    sum(clicks),
    sum(conversions),
    sum(cost_micros)
FROM ads_minute FINAL
WHERE fold_version = 1 AND minute >= {since:DateTime('UTC')}
GROUP BY platform, campaign_id, hour
"""
_BEFORE = """
SELECT platform, campaign_id, sum(cost_micros)
FROM ads_minute FINAL
WHERE fold_version = 1 AND campaign_id IN {ids:Array(String)} AND minute < {until:DateTime('UTC')}
GROUP BY platform, campaign_id
"""
_BUDGETS = """
SELECT platform, campaign_id, toUnixTimestamp64Milli(at), told, daily_budget_micros, total_budget_micros
FROM ads_budget_changes
WHERE ad_group_id = ''
ORDER BY platform, campaign_id, applied
"""
