"""The ad market: which advertisements are shown, and at what price, given what campaigns bid and may spend.

An auction is won where the bid beats the dearest of the others, and costs what that one bids (a second-price auction).
The others' dearest bid over that with which a campaign begins is log-logistic, so at ``m`` times that bid a campaign
wins ``m / (1 + m)`` of its auctions, for ``(1 + m) ln(1 + m) / m - 1`` on average: both rise with the bid, ever less.

A daily budget is paced: of the auctions that it wins a campaign takes part in as many as are expected to use up what is
left of the budget by midnight, as platforms do (Agarwal, Ghosh, Wei and You, Budget Pacing for Targeted Online
Advertisements at LinkedIn, KDD 2014). It is kept in expectation; a day's spend varies about it by chance. Where a cut
leaves nothing of it, nothing is shown until midnight.

Nobody foresees a spike of prices (``generators.incidents``): pacing takes the prices of the moment for those of the
rest of the day.

Nothing here has a memory of what was shown: all follows from the world and what was changed when.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from generators.cast import PLATFORMS, WON, Cast
from generators.columns import CODES, LUCK, Columns
from generators.config import WorldConfig
from generators.draws import Floats, Ints, Mask
from generators.incidents import CpmSpike
from generators.rhythm import HABITS, HOUR_MS, WEEK, Clock
from generators.stage import SHOWN_A_DAY
from schemas.quantities import YUAN, Length
from schemas.rules import Campaign, Kind
from schemas.topics import DAY_MS

if TYPE_CHECKING:
    from generators.world import World

FEN = YUAN // 100
_TRAFFIC: Floats = np.r_[0.0, np.cumsum(HABITS.mean(axis=0)) / 24]
"""Part of a day's traffic before each local hour, and before midnight."""
_WINDOWS = (Length(30, "minute"), Length(1, "hour"), Length(24, "hour"), Length(7, "day"))
"""Windows of bidding: the shortest one with ``_ENOUGH`` conversions."""
_ENOUGH = 20
_SAMPLE = 300_000
"""Events of a partition that are looked at to see what conversions cost."""


class Change(BaseModel):
    """Something done to a campaign, or to an ad group of it, that holds from ``at_ms`` (UTC) on.

    ``id`` tells it from others; ``after``: the daily budget or bid, micros, of kind ``budget`` or ``bid``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    at_ms: int
    campaign_id: str
    ad_group_id: str = ""
    kind: Kind
    after: int | None = None


@dataclass(frozen=True)
class _Spell:
    """A part of a day in which nothing changes, from ``start_ms`` on: what holds for some ``groups``. ``shown``: part
    of the auctions; ``price``: of the price at the bid that it began with; ``bid``: micros."""

    start_ms: int
    groups: Ints
    shown: Floats
    price: Floats
    bid: Ints


@dataclass(frozen=True)
class _State:
    """A campaign after some changes; ``paused`` and ``bids`` of ad groups."""

    budget: int
    bid: int
    active: bool
    paused: frozenset[str] = frozenset()
    bids: tuple[tuple[str, int], ...] = ()


class Market:
    """The market of a world, after some changes. Immutable; what is remembered between calls only saves time."""

    def __init__(self, config: WorldConfig, cast: Cast, clock: Clock, changes: Sequence[Change] = ()) -> None:
        self._config, self._cast, self._clock = config, cast, clock
        self.changes = tuple(sorted(changes, key=lambda change: change.at_ms))
        places = cast.placements
        # What the stage draws, on average: fans of two seasons are shown advertisements, 12 % of them others than the
        # audience, who click half as often; a click of a search costs a tenth of the bid.
        audience = 2 * max(4, round(config.fans * 0.6))
        shown = SHOWN_A_DAY * config.rate_factor * audience * places.weight / places.weight.sum()
        clicks = 0.94 * places.click
        cost = np.where(places.channel == 2, clicks * places.bid * 0.1, places.mille / 1000)
        # What ad groups could spend on an average day with the bids that they begin with, micros.
        _, first = np.unique(places.group, return_index=True)
        self._campaign: Ints = places.campaign[first]
        self._bid: Ints = places.bid[first]
        self._group_id = [places.ad_group_id[row] for row in first.tolist()]
        self._demand = _sums(places.group, shown * cost / places.shown * WON)
        _, first = np.unique(places.campaign, return_index=True)
        self._campaign_id = [places.campaign_id[row] for row in first.tolist()]
        self._creator: Ints = places.creator[first]
        wanted = places.budget[first] * _sums(self._campaign, self._demand)
        self._budget: Ints = np.maximum(np.round(wanted / FEN).astype(np.int64), 1) * FEN
        self._aim: Floats = places.aim[first]
        numbers = {name: number for number, name in enumerate(self._campaign_id)}
        self._spikes: dict[int, list[CpmSpike]] = {}
        for incident in config.incidents:
            if isinstance(incident, CpmSpike):
                for own in np.flatnonzero(self._creator == cast.ids.index(incident.creator_id)).tolist():
                    self._spikes.setdefault(own, []).append(incident)
        self._changes: dict[int, list[Change]] = {}
        self._marks = [0]
        for change in self.changes:
            self._marks.append(hash((self._marks[-1], change)))
            number = numbers.get(change.campaign_id)
            if number is not None:
                self._changes.setdefault(number, []).append(change)
        self._times = [change.at_ms for change in self.changes]
        self._days: OrderedDict[int, list[_Spell]] = OrderedDict()

    def after(self, changes: Sequence[Change]) -> "Market":
        """The market after more changes; one that it has already, by its ``id``, counts once."""
        known = {change.id for change in self.changes}
        more: dict[str, Change] = {}
        for change in changes:
            if change.id not in known:
                more.setdefault(change.id, change)
        if not more:
            return self
        return Market(self._config, self._cast, self._clock, (*self.changes, *more.values()))

    def mark(self, at_ms: int) -> int:
        """The same for two markets of a world that have the same changes before a time (UTC ms), within a process."""
        return self._marks[bisect_left(self._times, at_ms)]

    def shown(self, ads: Columns) -> tuple[Ints, Columns]:
        """Of events that may come of auctions, in any order, those of which the advertisement is shown: their rows, and
        the events, with the bids made and the prices paid."""
        at, placement = ads["shown_ms"], ads["placement"]
        group = self._cast.placements.group[placement]
        shown, price = np.zeros(len(ads)), np.zeros(len(ads))
        bid = np.zeros(len(ads), dtype=np.int64)
        for first, last, day in self._days_of(at):
            for spell in self._day(day):
                here = (at >= max(first, spell.start_ms)) & (at < last)
                place = np.searchsorted(spell.groups, group)
                place[place == len(spell.groups)] = 0
                here &= spell.groups[place] == group
                shown[here], price[here], bid[here] = (
                    spell.shown[place[here]],
                    spell.price[place[here]],
                    spell.bid[place[here]],
                )
        rows = np.flatnonzero(ads["luck"] < shown * LUCK)
        found = ads.take(rows)
        found.values["bid_micros"] = np.where(found["bid_micros"] >= 0, bid[rows], -1)
        cost = found["cost_micros"]
        found.values["cost_micros"] = np.where(cost > 0, np.floor(cost * price[rows]).astype(np.int64), cost)
        return rows, found

    def declared(self, cost: Floats, conversions: Floats, scale: float) -> list[Campaign]:
        """The campaigns as they begin, as a file of campaigns has them.

        Args:
            cost: of one conversion of each, micros.
            conversions: of each, a day.
            scale: budgets are so many times as large as the world's own.
        """
        found = []
        for number, campaign_id in enumerate(self._campaign_id):
            groups = np.flatnonzero(self._campaign == number).tolist()
            bid = int(self._bid[groups[0]])
            made = {
                "campaign_id": campaign_id,
                "platform": PLATFORMS[self._cast.platform[self._creator[number]]],
                "creator_id": self._cast.ids[self._creator[number]],
                "daily_budget": f"{round(self._budget[number] * scale / FEN) * FEN} micros",
                "bid": f"{bid} micros",
                "target_cpa": f"{max(1, round(self._aim[number] * cost[number] / FEN)) * FEN} micros",
                "created_at": self._config.start_ms,
                "ad_groups": [{"ad_group_id": self._group_id[group]} for group in groups],
            }
            window = next((each for each in _WINDOWS if conversions[number] * each.ms / DAY_MS >= _ENOUGH), None)
            if window is not None:
                made["bidding"] = {
                    "mode": "act",
                    "window": {"last": str(window), "skip": f"1 {window.unit}"},
                    "floor": f"{bid // 4} micros",
                    "ceiling": f"{bid * 4} micros",
                }
            found.append(Campaign.model_validate(made))
        return found

    def _days_of(self, at: Ints) -> list[tuple[int, int, int]]:
        """Local days that times fall on: begin and end, UTC ms, and the day."""
        if len(at) == 0:
            return []
        first, last = self._clock.day(int(at.min())), self._clock.day(int(at.max()))
        return [(self._clock.midnight_ms(day), self._clock.midnight_ms(day + 1), day) for day in range(first, last + 1)]

    def _day(self, day: int) -> list[_Spell]:
        found = self._days.get(day)
        if found is None:
            found = self._days[day] = self._spells(day)
            while len(self._days) > 8:
                self._days.popitem(last=False)
        return found

    def _spells(self, day: int) -> list[_Spell]:
        """How a day goes: of all groups from midnight on, then from each change of the day on, of that campaign."""
        begin, end = self._clock.midnight_ms(day), self._clock.midnight_ms(day + 1)
        busy = float(WEEK[(day + 3) % 7])
        needs = _sums(self._campaign, self._demand) * busy
        everyone = np.arange(len(self._campaign))
        shown, paid = WON * np.minimum(1.0, self._budget / needs)[self._campaign], np.ones(len(everyone))
        bids, later = self._bid.copy(), []
        for number in sorted({*self._changes, *self._spikes}):
            changes = [change for change in self._changes.get(number, []) if change.at_ms < end]
            spikes = [spike for spike in self._spikes.get(number, []) if spike.start_ms < end and spike.end_ms > begin]
            if changes or spikes:
                first, *rest = self._changed(number, changes, spikes, begin, end, busy)
                # A day that begins as ever is left to the byte as it is until then.
                if changes or any(spike.start_ms <= begin for spike in spikes):
                    shown[first.groups], paid[first.groups], bids[first.groups] = first.shown, first.price, first.bid
                later += rest
        return [_Spell(begin, everyone, shown, paid, bids), *later]

    def _changed(
        self, number: int, changes: Sequence[Change], spikes: Sequence[CpmSpike], begin: int, end: int, busy: float
    ) -> list[_Spell]:
        """A campaign's day with changes or spikes: from midnight and from each of them on, it goes on with what is
        left."""
        groups = np.flatnonzero(self._campaign == number)
        state = _State(int(self._budget[number]), int(self._bid[groups[0]]), True)
        spells, spent = [], 0.0
        turns = [change.at_ms for change in changes]
        turns += [turn for spike in spikes for turn in (spike.start_ms, spike.end_ms)]
        knots = sorted({begin, *(turn for turn in turns if begin < turn < end)})
        todo = list(changes)
        for start, stop in zip(knots, [*knots[1:], end], strict=True):
            while todo and todo[0].at_ms <= start:
                state = self._done(state, todo.pop(0))
            bid = np.array([dict(state.bids).get(self._group_id[group], state.bid) for group in groups.tolist()])
            on = np.array([state.active and self._group_id[group] not in state.paused for group in groups.tolist()])
            times = bid / self._bid[groups]
            dear, still = 1.0, 1.0
            for spike in spikes:
                if spike.start_ms <= start < spike.end_ms:
                    dear, still = dear * spike.price, still * spike.won
            pace = on * busy * self._demand[groups] * won(times) / WON * price(times) * (dear * still)
            ahead = 1.0 - self._traffic(start, begin, end)
            part = min(1.0, max(0.0, state.budget - spent) / (pace.sum() * ahead)) if pace.sum() * ahead > 0 else 0.0
            spent += part * float(pace.sum()) * (self._traffic(stop, begin, end) - self._traffic(start, begin, end))
            spells.append(_Spell(start, groups, part * on * won(times) * still, price(times) * dear, bid))
        return spells

    def _done(self, state: _State, change: Change) -> _State:
        group, after = change.ad_group_id, change.after
        bids, paused = dict(state.bids), state.paused
        budget, bid, active = state.budget, state.bid, state.active
        match change.kind:
            case "budget" if after is not None and not group:
                budget = after
            case "bid" if after is not None and group:
                bids[group] = after
            case "bid" if after is not None:
                bid = after
            case "pause" | "resume" if group:
                paused = paused | {group} if change.kind == "pause" else paused - {group}
            case "pause" | "resume":
                active = change.kind == "resume"
        return _State(budget, bid, active, paused, tuple(bids.items()))

    def _traffic(self, at_ms: int, begin: int, end: int) -> float:
        """Part of a local day's traffic before a time in it."""
        if at_ms >= end:
            return 1.0
        hour, rest = divmod(at_ms - begin, HOUR_MS)
        hour = min(int(hour), 23)
        return float(_TRAFFIC[hour] + (_TRAFFIC[hour + 1] - _TRAFFIC[hour]) * min(1.0, rest / HOUR_MS))


def _sums(of: Ints, values: Floats) -> Floats:
    """Sums of values by what they are of: numbers from 0 on, each there."""
    return np.bincount(of, values).astype(np.float64)


def won(times: Floats) -> Floats:
    """Part of the auctions won at so many times the bid that a campaign begins with; ``WON`` at 1."""
    part: Floats = times / (1 + times)
    return part


def price(times: Floats) -> Floats:
    """What an auction won costs on average at so many times the bid that a campaign begins with, over that at 1."""
    small: Mask = times < 1e-3
    safe = np.where(small, 1.0, times)
    paid = np.where(small, times / 2, (1 + safe) * np.log1p(safe) / safe - 1)
    found: Floats = paid / (2 * np.log(2) - 1)
    return found


def campaigns(world: "World", rate: float | None = None) -> list[Campaign]:
    """The campaigns of a world as they begin, for a file of campaigns. Targets are round what a conversion costs in a
    sample of the world's first days; who has enough conversions bids towards it.

    Args:
        world: the world.
        rate: events/s at which it goes live, if not its natural rate: budgets are as much larger or smaller.
    """
    scale = 1.0 if rate is None else rate / world.natural_rate
    market, config, places = world.market(), world.config, world.cast.placements
    a_second = world.natural_rate * config.rate_factor / config.partitions
    span = min(7 * DAY_MS, int(_SAMPLE / a_second * 1000))
    ads = world.events(0, config.start_ms, config.start_ms + span)["ad_events"]
    campaign, many = places.campaign[ads["placement"]], int(places.campaign.max()) + 1
    cost = np.bincount(campaign, np.maximum(ads["cost_micros"], 0), many)
    converted = np.bincount(campaign, ads["kind"] == CODES["ad_events"]["conversion"], many)
    # Where conversions are few, the cost is drawn towards that of all.
    overall = max(cost.sum(), 1.0) / max(converted.sum(), 1.0)
    a_day = converted * config.partitions * DAY_MS / span * scale
    return market.declared((cost + 5 * overall) / (converted + 5), a_day, scale)
