"""The life of every fan as the tables must have it: plain sequential Python, one pair and one day after the other.

A pair is (partition, platform, creator id, fan id): one fan of one creator. Written from the definitions of the stages
in DESIGN.md ("Stages of fans") and the comments of schemas/migrations; it shares no code with the pipeline.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from chaos.oracle import Judged

STAGES = ("none", "new", "active", "retained", "silent", "churned")
"""Stages by number; a pair without any action yet is no fan: ``none``."""
WINDOW = 64
"""So many local days up to the day reached are recomputed; facts of earlier days that come later are left out."""

Pair = tuple[int, str, str, str]
"""Partition, platform, creator id, fan id."""


@dataclass(frozen=True)
class Rules:
    """What the stages hang on. ``interval`` and ``churn_after`` in local days; ``no_activity``: kinds of events that
    are no action of the fan's."""

    time_zone: str
    interval: int = 7
    churn_after: int = 30
    no_activity: frozenset[str] = frozenset({"unfollow", "refunded", "impression"})


class Calendar:
    """Local days, as days since 1970-01-01, and UTC ms."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._days: dict[int, int] = {}
        self._begins: dict[int, int] = {}

    def day(self, at: int) -> int:
        """The local day of a moment."""
        minute = at // 60_000
        day = self._days.get(minute)
        if day is None:
            local = datetime.fromtimestamp(minute * 60, self._zone)
            day = self._days[minute] = local.date().toordinal() - _EPOCH
        return day

    def begin(self, day: int) -> int:
        """The first moment of a local day. Where clocks are put forward at midnight it is not 0:00."""
        found = self._begins.get(day)
        if found is None:
            found = day * 86_400_000 - 16 * 3_600_000
            while self.day(found) < day:
                found += 60_000
            self._begins[day] = found
        return found


@functools.cache
def calendar(time_zone: str) -> Calendar:
    """The calendar of a time zone, with what it has worked out so far."""
    return Calendar(time_zone)


_EPOCH = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001


@dataclass(slots=True)
class Day:
    """What a pair did on a local day: earliest and latest action, latest unfollow, UTC ms; None: there was none."""

    first: int | None = None
    last: int | None = None
    unfollow: int | None = None

    @property
    def followed(self) -> bool:
        """Whether an action of the day is later than its latest unfollow."""
        return self.unfollow is not None and self.last is not None and self.last > self.unfollow


class Move(NamedTuple):
    """A change of stage. ``day``: days since 1970-01-01; ``at``: UTC ms; ``resurrected``: 1 if the pair came back
    after ``Rules.interval`` days or more."""

    day: int
    step: int
    from_stage: str
    to_stage: str
    at: int
    reason: str
    resurrected: int


@dataclass
class Fans:
    """What every pair did, by local day: of events in any order."""

    rules: Rules
    days: dict[Pair, dict[int, Day]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calendar = calendar(self.rules.time_zone)

    def add(self, judged: Judged) -> None:
        """Takes in one record of any topic, if it counts."""
        event = judged.event
        if event is not None and judged.counts:
            pair = (judged.sent.partition, event["platform"], event["creator_id"], event["fan_id"])
            self.note(pair, event["kind"], event["event_time"])

    def note(self, pair: Pair, kind: str, at: int) -> None:
        """Takes in one event of a pair; ``at`` in UTC ms."""
        unfollow = kind == "unfollow"
        if not unfollow and kind in self.rules.no_activity:
            return
        day = self.days.setdefault(pair, {}).setdefault(self.calendar.day(at), Day())
        if unfollow:
            day.unfollow = at if day.unfollow is None else max(day.unfollow, at)
        else:
            day.first = at if day.first is None else min(day.first, at)
            day.last = at if day.last is None else max(day.last, at)

    def moves(self, pair: Pair, reached: int) -> list[Move]:
        """All moves of a pair up to the local day ``reached``, or its own last day if that is later."""
        return moves(self.days[pair], reached, self.rules, self.calendar.begin)


def first_at(days: Mapping[int, Day]) -> int | None:
    """The earliest action of a pair, UTC ms."""
    return min((day.first for day in days.values() if day.first is not None), default=None)


def moves(days: Mapping[int, Day], reached: int, rules: Rules, begin: Callable[[int], int]) -> list[Move]:
    """The moves of a pair in their order.

    Every local day has three steps: what its midnight makes of the pair (0), its actions (1), and an unfollow that no
    action has followed by the end of the day (2).

    Args:
        days: what the pair did, by local day.
        reached: the local day up to which time has passed for all pairs.
        rules: what the stages hang on.
        begin: first moment of a local day, UTC ms.
    """
    found: list[Move] = []
    stage = "none"
    active: list[int] = []
    acted = unfollowed = -1

    def left() -> bool:
        return unfollowed >= 0 and acted <= unfollowed

    def move(day: int, step: int, target: str, at: int, reason: str, resurrected: bool = False) -> None:
        nonlocal stage
        if target != stage:
            found.append(Move(day, step, stage, target, at, reason, int(resurrected)))
            stage = target

    for day in range(min(days), max(reached, *days) + 1):
        if active:
            target = "churned" if left() else _by_absence(day, active, rules)
            reason = "absent" if target in ("silent", "churned") else "aged" if stage == "new" else "faded"
            move(day, 0, target, begin(day), reason)
        own = days.get(day)
        if own is None:
            continue
        if own.first is not None and own.last is not None:
            gap = day - active[-1] if active else 0
            active.append(day)
            acted = own.last
            reason = "arrived" if stage == "none" else "returned"
            move(day, 1, _by_absence(day, active, rules), own.first, reason, gap >= rules.interval)
        if own.unfollow is not None:
            unfollowed = own.unfollow
            if left() and active:
                move(day, 2, "churned", own.unfollow, "unfollowed")
    return found


def _by_absence(day: int, active: Sequence[int], rules: Rules) -> str:
    """The stage of a fan who has not left, as of a local day, by the days with an action so far, in order."""
    interval = rules.interval
    gap = day - active[-1]
    if gap >= rules.churn_after:
        return "churned"
    if gap >= interval:
        return "silent"
    if day - active[0] < interval:
        return "new"
    before = any(day - 2 * interval + 1 <= each <= day - interval for each in active)
    return "retained" if before else "active"
