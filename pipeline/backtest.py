"""Budget rules tried on what was: the evaluator of ``pipeline.rules``, window after window, on stored figures.

What the rules would have changed changes nothing in the figures: those are of what was really spent.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl
from clickhouse_connect.driver.client import Client

from pipeline.rules import NOTHING, Decision, Entity, Key, Memory, Reason, Span, Sums, apply, due, evaluate, span
from schemas.quantities import MINUTE_MS, YUAN
from schemas.rules import Rule

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Series:
    """An entity's minutes: ``begins`` (UTC ms, rising), and ``totals``: sums of all minutes before each, and of all."""

    begins: "array[int]"
    totals: npt.NDArray[np.int64]

    def sums(self, window: Span) -> Sums:
        """What it had in a window."""
        first, last = bisect_left(self.begins, window.start), bisect_left(self.begins, window.end)
        return NOTHING if first == last else Sums(*(self.totals[last] - self.totals[first]).tolist())


@dataclass(frozen=True, slots=True)
class Seen:
    """A campaign or ad group of which something is stored; ``first`` is the minute (UTC ms) of the first."""

    key: Key
    creator_id: str
    first: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """What the rules would have done, all of them acting together.

    ``closings``: moments at which windows closed. By rule id: ``scope``, entities that it was evaluated for;
    ``evaluated``, decisions; ``skipped``, why it did not fire; ``guards``, of those that guards stopped, which did not
    hold. ``fired``: the decisions that fired, in their order.
    """

    closings: int = 0
    scope: dict[str, int] = field(default_factory=dict)
    evaluated: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, Counter[Reason]] = field(default_factory=dict)
    guards: dict[str, Counter[str]] = field(default_factory=dict)
    fired: list[Decision] = field(default_factory=list)


def read_seen(client: Client) -> list[Seen]:
    """All campaigns and ad groups that anything is stored of."""
    found = []
    for platform, campaign, group, creator, first in client.query(_SEEN).result_rows:
        found.append(Seen(Key(platform, campaign, group), creator, int(first) * 1000))
    for (platform, campaign), own in _by_campaign(found).items():
        found.append(Seen(Key(platform, campaign), min(one.creator_id for one in own), min(one.first for one in own)))
    return sorted(found, key=lambda each: each.key)


def read_newest(client: Client) -> int | None:
    """The end of the newest minute that anything is stored of (UTC ms); None: nothing is stored."""
    newest: int | None = client.query("SELECT toUnixTimestamp(maxOrNull(minute)) FROM ads_minute").result_rows[0][0]
    return None if newest is None else newest * 1000 + MINUTE_MS


def read_series(client: Client, window: Span) -> dict[Key, Series]:
    """Figures of all campaigns and ad groups by minute, the stream's and those that repair took in together."""
    parameters = {
        name: datetime.fromtimestamp(at // 1000, UTC) for name, at in zip(("begin", "end"), window, strict=True)
    }
    rows = pl.DataFrame(pl.from_arrow(client.query_arrow(_MINUTES, parameters=parameters, use_strings=True)))
    found = {}
    names = ["platform", "campaign_id", "ad_group_id"]
    campaigns = rows.group_by("platform", "campaign_id", "begin").agg(pl.col(_MEASURES).sum())
    for frame, keys in ((rows, names), (campaigns, names[:2])):
        for key, own in frame.sort("begin").group_by(keys):
            totals = own.select(pl.col(_MEASURES).cast(pl.Int64).cum_sum()).to_numpy()
            begins = array("q", own["begin"].to_list())
            found[Key(*map(str, key))] = Series(begins, np.vstack([np.zeros((1, len(_MEASURES)), np.int64), totals]))
    return found


_MEASURES = ["impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros"]
_SEEN = """
SELECT toString(platform), campaign_id, ad_group_id, min(creator_id), toUnixTimestamp(min(minute))
FROM ads_minute
WHERE fold_version = 1
GROUP BY ALL
"""
_MINUTES = f"""
SELECT
    toString(platform) AS platform,
    campaign_id,
    ad_group_id,
    toInt64(toUnixTimestamp(minute)) * 1000 AS begin,
    {", ".join(f"sum(ads_minute.{name}) AS {name}" for name in _MEASURES)}
FROM ads_minute FINAL
WHERE fold_version = 1 AND minute >= {{begin:DateTime('UTC')}} AND minute < {{end:DateTime('UTC')}}
GROUP BY ALL
"""


def _by_campaign(seen: Iterable[Seen]) -> dict[tuple[str, str], list[Seen]]:
    found: dict[tuple[str, str], list[Seen]] = {}
    for each in seen:
        found.setdefault((each.key.platform, each.key.campaign_id), []).append(each)
    return found


def days(first: date, last: date, zone: str) -> Span:
    """From the begin of a local day to the end of another, UTC ms."""
    begin, end = (datetime.combine(day, time(), ZoneInfo(zone)).timestamp() for day in (first, last + DAY))
    return Span(int(begin) * 1000, int(end) * 1000)


def looked_at(rules: Iterable[Rule], window: Span) -> Span:
    """A time with all that rules look at which are evaluated in it. Local days have at most 25 hours."""
    longest = max(rule.window.ms for rule in rules)
    return Span(window.start - longest - longest // 24, window.end)


def assumed(seen: Iterable[Seen], series: Mapping[Key, Series], window: Span, zone: str) -> list[Entity]:
    """Entities about which nothing is known but their figures: active, and with the spend of their dearest local day of
    the window, in whole yuan, as daily budget. They have no bid and no target."""
    found = []
    for each in seen:
        own, spent, day = series.get(each.key), 0, window.start
        while own is not None and day < window.end:
            local = datetime.fromtimestamp(day // 1000, ZoneInfo(zone)).date()
            here = days(local, local, zone)
            spent = max(spent, own.sums(here).cost)
            day = here.end
        budget = -(-spent // YUAN) * YUAN or None
        found.append(Entity(each.key, each.creator_id, daily_budget=budget, created_at=each.first))
    return found


def with_age(known: Iterable[Entity], seen: Iterable[Seen]) -> list[Entity]:
    """The entities; where it is not known when one was made, it was when something was first stored of it."""
    first = {each.key: each.first for each in seen}
    return [each if each.created_at is not None else replace(each, created_at=first.get(each.key)) for each in known]


def backtest(
    rules: Sequence[Rule],
    known: Sequence[Entity],
    series: Mapping[Key, Series],
    window: Span,
    say: Callable[[float], None] = lambda done: None,
) -> Backtest:
    """Evaluates every window that closes after the start of a time, up to its end, and does what comes out.

    Every rule acts, whatever its mode, as soon as its window closes.

    Args:
        rules: each id once.
        known: campaigns and ad groups as they are at the start.
        series: figures by minute, from the start of the first window on.
        window: the time; its start and end are whole minutes.
        say: is told now and then what part is done.
    """
    acting = [rule.model_copy(update={"mode": "act"}) for rule in rules]
    ids = [rule.id for rule in rules]
    result = Backtest(skipped={name: Counter() for name in ids}, guards={name: Counter() for name in ids})
    memories: dict[tuple[str, Key], Memory] = {}
    now = list(known)
    groups = {rule.level == "ad_group" for rule in rules}
    own = {each.key: series[each.key] for each in known if each.key in series and bool(each.key.ad_group_id) in groups}
    closings = 0
    # Full local hours and midnights are whole quarters of an hour in every zone.
    step = MINUTE_MS if any(rule.window.last.unit == "minute" for rule in rules) else 15 * MINUTE_MS
    for closed_at in range(window.start - window.start % step + step, window.end + 1, step):
        closing = [rule for rule in acting if due(rule, closed_at)]
        if not closing:
            continue
        closings += 1
        say((closed_at - window.start) / (window.end - window.start))
        spans = {span(rule, closed_at) for rule in closing}
        figures = {each: {key: minutes.sums(each) for key, minutes in own.items()} for each in spans}
        found = evaluate(closing, now, figures, memories, closed_at, closed_at)
        memories |= found.memories
        now = apply(now, found.acts) if found.acts else now
        for decision in found.decisions:
            result.evaluated[decision.rule_id] += 1
            if decision.outcome == "skipped":
                result.skipped[decision.rule_id][decision.reason] += 1
                if decision.reason == "guards":
                    result.guards[decision.rule_id].update(each.name for each in decision.guards if not each.holds)
            else:
                result.fired.append(decision)
    scope = Counter(rule_id for rule_id, _ in memories)
    return replace(result, closings=closings, scope={rule.id: scope[rule.id] for rule in rules})
