"""The world: every event of every partition as a pure function of configuration and time."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from generators.cast import SEASON_MS, Cast
from generators.columns import CODES, Columns, join, names
from generators.config import WorldConfig
from generators.draws import Ints
from generators.encode import Encoded, Encoder
from generators.incidents import ChurnWave
from generators.leavers import Leavers, followers, leavers
from generators.market import Market
from generators.population import NEVER, Population
from generators.rhythm import Clock
from generators.stage import REACH_MS, Orders, Stage
from generators.weather import LATEST_MS, Records, Weather, empty, merge
from schemas.topics import DAY_MS, SOURCES

T = TypeVar("T")

SLOT_LENGTHS_MS = tuple(s * 1000 for s in (86_400, 43_200, 21_600, 10_800, 3_600, 1_800, 900, 300, 60, 20, 10))
SLOT_EVENTS = 40_000
"""Slots are as long as gives about so many events in one partition, but at most a day."""
EVENTS_A_FAN_AND_DAY = 4.6
"""What one unit of ``WorldConfig.fans`` gives a day at the natural rate (measured)."""
ORDER_REACH_MS = 13 * DAY_MS
"""The steps of an order are over so long after its visit."""


@dataclass
class _Book:
    """Steps of orders to come, by slot. ``pending`` can be made again from the configuration at any time."""

    first: int
    next_slot: int
    floor: int
    pending: dict[int, list[Columns]] = field(default_factory=dict)


@dataclass
class _Ahead(Generic[T]):
    """What a slot leads to, by topic and the slot in which that happens; what happens before ``floor`` is forgotten."""

    targets: dict[str, dict[int, T]]
    floor: int

    def forget(self, floor: int) -> None:
        if floor > self.floor:
            self.floor = floor
            for targets in self.targets.values():
                for target in [t for t in targets if t < floor]:
                    del targets[target]


class World:
    """A world of creators and fans.

    All methods are pure: the same arguments give the same answer, in any order of calls, in any process. What is
    remembered between calls is bounded and only saves time; it makes an instance unfit for use by two threads.

    Raises:
        ValueError: an incident is of a creator that there is not.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.clock = Clock(config.time_zone)
        self.cast = Cast(config, self.clock)
        for incident in config.incidents:
            if incident.creator_id not in self.cast.ids:
                raise ValueError(f"there is no creator {incident.creator_id}")
        self.population = Population(config, self.cast)
        rate = config.fans * EVENTS_A_FAN_AND_DAY * config.rate_factor / config.partitions / DAY_MS
        self.slot_ms = next((s for s in SLOT_LENGTHS_MS if rate * s <= SLOT_EVENTS), SLOT_LENGTHS_MS[-1])
        self._stage = Stage(config, self.cast, self.population, self.clock, self.slot_ms)
        calm = config.model_dump(exclude={"duplicates", "late", "malformed", "incidents"})
        tag = hashlib.blake2b(repr(sorted(calm.items())).encode(), digest_size=3).hexdigest()
        self._encoder = Encoder(self.cast, self.population, tag)
        self._weather = Weather(config)
        self._reach = -(-REACH_MS // self.slot_ms)
        self._late_reach = -(-LATEST_MS // self.slot_ms)
        self._begun: OrderedDict[tuple[int, int], _Ahead[Columns]] = OrderedDict()
        self._slots: OrderedDict[tuple[int, int], dict[str, Columns]] = OrderedDict()
        # Of the market in which they were made, each has the mark at the end of its slot.
        self._sent: OrderedDict[tuple[int, int], tuple[int, dict[str, Records]]] = OrderedDict()
        self._spread: OrderedDict[tuple[int, int], tuple[int, _Ahead[Records]]] = OrderedDict()
        self._unchanged = self.market()
        self._books: dict[int, _Book] = {}
        self._leavers: dict[int, Leavers] = {}
        self._first = config.start_ms // self.slot_ms

    @property
    def creator_ids(self) -> list[str]:
        """Identifiers of all creators."""
        return list(self.cast.ids)

    @property
    def natural_rate(self) -> float:
        """Events per second of an average day over all partitions, at ``rate_factor`` 1 (measured; within 20 %)."""
        return self.config.fans * EVENTS_A_FAN_AND_DAY / (DAY_MS / 1000)

    def market(self) -> Market:
        """The market of its advertisements, before any change."""
        return Market(self.config, self.cast, self.clock)

    def events(self, partition: int, start_ms: int, end_ms: int, market: Market | None = None) -> dict[str, Columns]:
        """Events of a partition with event time in [start_ms, end_ms), by topic, each in order of time.

        ``market``: that of its advertisements, with all changes before ``end_ms``; None: nothing was ever changed.
        """
        self._check(partition)
        parts: dict[str, list[Columns]] = {topic: [] for topic in SOURCES}
        for slot in self._slots_of(start_ms, end_ms):
            for topic, columns in self._slot(partition, slot).items():
                low, high = np.searchsorted(columns["event_time"], (start_ms, end_ms))
                parts[topic].append(columns.take(slice(int(low), int(high))))
        found = {topic: join(topic, some) for topic, some in parts.items()}
        found = {
            topic: self._happening(partition, columns, market or self._unchanged)[1] for topic, columns in found.items()
        }
        unfollows = self._unfollows(partition, max(start_ms, self.config.start_ms), end_ms)
        if len(unfollows):
            acts = join("interactions", [found["interactions"], unfollows])
            found["interactions"] = acts.take(np.argsort(acts["event_time"], kind="stable"))
        return found

    def records(self, partition: int, start_ms: int, end_ms: int, market: Market | None = None) -> dict[str, Records]:
        """Records that reach a partition in [start_ms, end_ms) of the producer's time, by topic, as they are sent.

        In calm weather a record is sent when its event happens. Duplicates and late events are sent after it;
        malformed records are added. ``Records.labels`` names what each record is. ``market``: as for ``events``.
        """
        self._check(partition)
        parts: dict[str, list[Records]] = {topic: [] for topic in SOURCES}
        for slot in self._slots_of(start_ms, end_ms):
            for topic, records in self._sending(partition, slot, market or self._unchanged).items():
                low, high = np.searchsorted(records.sent_ms, (start_ms, end_ms))
                parts[topic].append(records.between(int(low), int(high)))
        return {topic: merge(found) for topic, found in parts.items()}

    def encode(self, columns: Columns, partition: int) -> Encoded:
        """Events as JSON records, in the order given."""
        return self._encoder.encode(columns, partition)

    def followers(self, at_ms: int) -> dict[str, int]:
        """How many fans follow each creator at a time (UTC ms) and were there within 30 days; no incident counted."""
        season, count = at_ms // SEASON_MS, self.cast.count
        crowds = [self.population.crowd(partition, season) for partition in range(self.config.partitions)]
        total = sum(followers(crowd, count, at_ms) for crowd in crowds)
        return dict(zip(self.cast.ids, np.asarray(total).tolist(), strict=True))

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self.config.partitions:
            raise ValueError(f"partition {partition} is not one of {self.config.partitions}")

    def _slots_of(self, start_ms: int, end_ms: int) -> range:
        start_ms = max(start_ms, self.config.start_ms)
        return range(start_ms // self.slot_ms, -(-end_ms // self.slot_ms)) if end_ms > start_ms else range(0)

    def _slot(self, partition: int, slot: int) -> dict[str, Columns]:
        """Events whose time is in a slot, whenever they began."""
        key = (partition, slot)
        found = self._slots.get(key)
        if found is None:
            pieces: dict[str, list[Columns]] = {topic: [] for topic in SOURCES}
            for begun in range(max(self._first, slot - self._reach), slot + 1):
                beginning = self._beginning(partition, begun, slot)
                for topic, targets in beginning.targets.items():
                    if slot in targets:
                        pieces[topic].append(targets[slot])
                # One slot back is kept: a call may ask for the end of it and the begin of the next.
                beginning.forget(slot - 1)
            pieces["orders"] = self._steps(partition, slot)
            found = {}
            for topic, parts in pieces.items():
                columns = join(topic, parts)
                found[topic] = columns.take(np.argsort(columns["event_time"], kind="stable"))
            self._slots[key] = found
            _forget(self._slots, 2 * self.config.partitions)
        return found

    def _beginning(self, partition: int, slot: int, target: int) -> _Ahead[Columns]:
        """What begins in a slot, as far as it happens in slot ``target`` or later."""
        key = (partition, slot)
        found = self._begun.get(key)
        if found is None or target < found.floor:
            found = _Ahead[Columns]({}, slot)
            for topic, columns in self._stage.begin(partition, slot).items():
                targets = columns["event_time"] // self.slot_ms
                found.targets[topic] = _split(columns, targets, max(slot, target - 1), slot + self._reach)
            found.floor = max(slot, target - 1)
            self._begun[key] = found
            _forget(self._begun, (self._reach + 2) * self.config.partitions)
        return found

    def _steps(self, partition: int, slot: int) -> list[Columns]:
        """Steps of orders whose time is in a slot."""
        first = max(self._first, slot - ORDER_REACH_MS // self.slot_ms)
        book = self._books.get(partition)
        if book is None or slot < book.floor or first < book.first or first > book.next_slot:
            book = self._books[partition] = _Book(first, first, slot)
        while book.next_slot <= slot:
            made = self._order_steps(self._stage.orders(partition, book.next_slot), partition, book.next_slot)
            targets = made["event_time"] // self.slot_ms
            for target, columns in _split(made, targets, book.floor, int(targets.max(initial=slot))).items():
                book.pending.setdefault(target, []).append(columns)
            book.next_slot += 1
        # Slots long past are forgotten; who asks for one of them again has the book written anew.
        if slot - book.floor > 2 * self._late_reach + 4:
            book.floor = slot - self._late_reach - 1
            book.pending = {target: parts for target, parts in book.pending.items() if target >= book.floor}
        return book.pending.get(slot, [])

    def _order_steps(self, orders: Orders, partition: int, slot: int) -> Columns:
        crowd = self.population.crowd(partition, self._stage.season(slot))
        kinds = CODES["orders"]
        n = len(orders.bond)
        steps = (
            (np.where(orders.plan, kinds["membership"], kinds["placed"]), orders.placed_ms),
            (np.full(n, kinds["paid"]), orders.paid_ms),
            (np.full(n, kinds["shipped"]), orders.shipped_ms),
            (np.full(n, kinds["refunded"]), orders.refunded_ms),
        )
        rows = np.arange(n, dtype=np.int64)
        code = (slot * 256 + partition) * 2**20 + rows
        parts = []
        for number, (kind, times) in enumerate(steps):
            done = np.flatnonzero(times < NEVER)
            values = {name: np.full(len(done), -1, dtype=np.int64) for name in names("orders")}
            values["event_time"] = times[done]
            values["fan"] = crowd.bonds.fan[orders.bond[done]]
            values["creator"] = crowd.bonds.creator[orders.bond[done]]
            values["kind"] = kind[done]
            values["slot"] = np.full(len(done), slot, dtype=np.int64)
            values["number"] = rows[done] * 4 + number
            values["order_id"] = code[done]
            values["product_id"] = orders.product[done]
            values["amount_micros"] = orders.amount[done]
            if number < 2:
                coupon = orders.coupon[done]
                values["coupon_micros"] = np.where(coupon > 0, coupon, -1)
            values["content_id"] = orders.content[done]
            values["live_id"] = orders.live[done]
            values["group_id"] = orders.group[done]
            parts.append(Columns("orders", values))
        return join("orders", parts)

    def _happening(self, partition: int, columns: Columns, market: Market) -> tuple[Ints, Columns]:
        """Of events that there may be, those that happen: their rows, and the events."""
        here = self._gone(partition)
        rows = np.flatnonzero(here.stay(columns)) if len(here.pair) else np.arange(len(columns))
        found = columns.take(rows) if len(rows) < len(columns) else columns
        if columns.topic == "ad_events":
            shown, found = market.shown(found)
            rows = rows[shown]
        return rows, found

    def _gone(self, partition: int) -> Leavers:
        """Who leaves in the churn waves."""
        found = self._leavers.get(partition)
        if found is None:
            waves = [
                (
                    each,
                    self.cast.ids.index(each.creator_id),
                    self.population.crowd(partition, each.start_ms // SEASON_MS),
                )
                for each in self.config.incidents
                if isinstance(each, ChurnWave)
            ]
            found = self._leavers[partition] = leavers(waves, self.cast.count, self.config.seed)
        return found

    def _unfollows(self, partition: int, start_ms: int, end_ms: int) -> Columns:
        """The events of leaving in churn waves in [start_ms, end_ms)."""
        return self._gone(partition).unfollows(start_ms, end_ms, self.slot_ms)

    def _encoded(self, partition: int, slot: int, market: Market) -> dict[str, tuple[Encoded, Ints, int]]:
        """Records of the events of a slot, by topic; which of the events that there may be they are, of how many."""
        found = {}
        for topic, columns in self._slot(partition, slot).items():
            rows, here = self._happening(partition, columns, market)
            found[topic] = self._encoder.encode(here, partition), rows, len(columns)
        return found

    def _leaving(self, partition: int, slot: int) -> Records:
        """Records of leaving in a slot. No weather spoils them: with them the draws of all others would be others."""
        span = max(slot * self.slot_ms, self.config.start_ms), (slot + 1) * self.slot_ms
        return Records.plain(self._encoder.encode(self._unfollows(partition, *span), partition))

    def _sending(self, partition: int, slot: int, market: Market) -> dict[str, Records]:
        """Records sent in a slot."""
        key, mark = (partition, slot), market.mark((slot + 1) * self.slot_ms)
        known = self._sent.get(key)
        if known is not None and known[0] == mark:
            return known[1]
        if self.config.calm:
            found = {topic: Records.plain(e) for topic, (e, _, _) in self._encoded(partition, slot, market).items()}
        else:
            parts: dict[str, list[Records]] = {topic: [] for topic in SOURCES}
            for happened in range(max(self._first, slot - self._late_reach), slot + 1):
                spread = self._spreading(partition, happened, slot, market)
                for topic, targets in spread.targets.items():
                    if slot in targets:
                        parts[topic].append(targets[slot])
                # As above, one slot back is kept. All else would be six hours of records.
                spread.forget(slot - 1)
            found = {topic: merge(some).in_order() if some else empty() for topic, some in parts.items()}
        unfollows = self._leaving(partition, slot)
        if len(unfollows):
            found["interactions"] = merge([found["interactions"], unfollows]).in_order()
        self._sent[key] = mark, found
        _forget(self._sent, 2 * self.config.partitions)
        return found

    def _spreading(self, partition: int, slot: int, target: int, market: Market) -> _Ahead[Records]:
        """Records of the events of a slot, as far as they are sent in slot ``target`` or later."""
        key, mark = (partition, slot), market.mark((slot + 1) * self.slot_ms)
        known = self._spread.get(key)
        if known is not None and known[0] == mark and target >= known[1].floor:
            return known[1]
        found = _Ahead[Records]({}, max(slot, target - 1))
        for topic, (encoded, rows, of) in self._encoded(partition, slot, market).items():
            records = self._weather.spoil(encoded, topic, partition, slot, rows, of).in_order()
            targets = records.sent_ms // self.slot_ms
            found.targets[topic] = {
                due: records.between(*(int(b) for b in np.searchsorted(targets, (due, due + 1))))
                for due in np.unique(targets).tolist()
                if due >= found.floor
            }
        self._spread[key] = mark, found
        _forget(self._spread, (self._late_reach + 2) * self.config.partitions)
        return found


def _split(columns: Columns, targets: Ints, first: int, last: int) -> dict[int, Columns]:
    """Events by target slot, in the order made; targets outside [first, last] are left out."""
    if len(columns) == 0:
        return {}
    order = np.argsort(targets, kind="stable")
    ranked = targets[order]
    cuts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]).tolist()
    return {
        int(ranked[low]): columns.take(order[low:high])
        for low, high in zip(cuts, [*cuts[1:], len(ranked)], strict=True)
        if first <= ranked[low] <= last
    }


def _forget(kept: "OrderedDict[tuple[int, int], Any]", size: int) -> None:
    while len(kept) > size:
        kept.popitem(last=False)
