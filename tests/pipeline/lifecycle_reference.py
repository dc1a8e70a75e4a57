"""Stages and moves from their definitions: every day of every pair in turn, over all facts. Slow, and shares nothing
with the fold."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

EPOCH = date(1970, 1, 1)

Pair = tuple[str, str, int]
"""Platform, creator, fan."""
Place = tuple[Pair, int, int]
"""Pair, local day and step: where a move is."""


class Fact(NamedTuple):
    pair: Pair
    at: int
    kind: str


@dataclass(frozen=True)
class Message:
    """A message of the fan log: what it tells, and then the as-of day that it brings."""

    applied: int
    facts: list[Fact]
    tick: int | None = None


@dataclass(frozen=True)
class Rules:
    time_zone: str
    interval: int = 7
    churn_after: int = 30
    no_activity: tuple[str, ...] = ("unfollow", "refunded", "impression")

    @property
    def window(self) -> int:
        """Days that a pair's days are held for: 64, and those that the stages of these depend on."""
        return 64 + max(self.churn_after, 2 * self.interval)


class Move(NamedTuple):
    from_stage: str
    to_stage: str
    at: int
    reason: str
    resurrected: int


@cache
def local_day(at: int, time_zone: str) -> int:
    local = datetime.fromtimestamp(at // 1000, UTC).astimezone(ZoneInfo(time_zone))
    return (local.date() - EPOCH).days


@cache
def midnight(day: int, time_zone: str) -> int:
    """The first second whose local date is this day, or one after it where the zone left the day out."""
    around = int(datetime(1970, 1, 1, tzinfo=UTC).timestamp()) + day * 86_400
    early = around - 40 * 3600
    for step in (3600, 60, 1):
        while local_day(early * 1000, time_zone) < day:
            early += step
        early -= step
    return (early + 1) * 1000


def calendar(day: int) -> date:
    return EPOCH + timedelta(days=day)


@dataclass
class Known:
    """What is known of one pair."""

    rules: Rules
    facts: list[Fact] = field(default_factory=list)
    too_old: int = 0
    applied: int = -1
    as_of: int | None = None
    """As-of day when it was last told something."""

    def is_action(self, fact: Fact) -> bool:
        return fact.kind not in self.rules.no_activity

    def day(self, fact: Fact) -> int:
        return local_day(fact.at, self.rules.time_zone)

    def state(self) -> dict[str, Any]:
        """The row of fan_state, by column; times in UTC ms."""
        row: dict[str, Any] = {"days": [], "firsts": [], "lasts": [], "unfollows": []}
        for day in sorted({self.day(fact) for fact in self.facts}):
            if self.as_of is not None and day <= self.as_of - self.rules.window:
                continue
            actions = [fact.at for fact in self.facts if self.day(fact) == day and self.is_action(fact)]
            unfollows = [fact.at for fact in self.facts if self.day(fact) == day and not self.is_action(fact)]
            row["days"].append(calendar(day))
            row["firsts"].append(min(actions, default=0))
            row["lasts"].append(max(actions, default=0))
            row["unfollows"].append(max(unfollows, default=0))
        first_at = min((fact.at for fact in self.facts if self.is_action(fact)), default=0)
        return {"first_at": first_at, **row, "too_old": self.too_old, "applied": self.applied}

    def stage(self, as_of: int, upto: int, left_counts: bool = True) -> str:
        """Stage as of a day, by the facts up to the end of day ``upto``."""
        seen = [fact for fact in self.facts if self.day(fact) <= upto]
        actions = [fact.at for fact in seen if self.is_action(fact)]
        unfollows = [fact.at for fact in seen if not self.is_action(fact)]
        active_days = {self.day(fact) for fact in seen if self.is_action(fact)}
        interval = self.rules.interval
        if not actions:
            return "none"
        if left_counts and unfollows and not any(at > max(unfollows) for at in actions):
            return "churned"
        gap = as_of - max(active_days)
        if gap >= self.rules.churn_after:
            return "churned"
        if gap >= interval:
            return "silent"
        if as_of - min(active_days) < interval:
            return "new"
        if any(as_of - 2 * interval + 1 <= day <= as_of - interval for day in active_days):
            return "retained"
        return "active"

    def moves(self, as_of: int | None) -> dict[tuple[int, int], Move]:
        """All moves, by day and step."""
        found: dict[tuple[int, int], Move] = {}
        days = {self.day(fact) for fact in self.facts}
        active_days = sorted({self.day(fact) for fact in self.facts if self.is_action(fact)})
        if not active_days:
            return found
        last = max(days) if as_of is None else max(*days, as_of)
        now = "none"
        for day in range(active_days[0], last + 1):
            stage = self.stage(day, day - 1)
            if stage != now:
                reason = "faded"
                if now == "new":
                    reason = "aged"
                if stage in ("silent", "churned"):
                    reason = "absent"
                found[day, 0] = Move(now, stage, midnight(day, self.rules.time_zone), reason, 0)
                now = stage
            if day in active_days:
                stage = self.stage(day, day, left_counts=False)
                if stage != now:
                    before = [each for each in active_days if each < day]
                    at = min(fact.at for fact in self.facts if self.day(fact) == day and self.is_action(fact))
                    back = now != "none" and day - before[-1] >= self.rules.interval
                    found[day, 1] = Move(now, stage, at, "arrived" if now == "none" else "returned", int(back))
                    now = stage
            unfollows = [fact.at for fact in self.facts if self.day(fact) == day and not self.is_action(fact)]
            if unfollows and now != "churned" and self.stage(day, day) == "churned":
                found[day, 2] = Move(now, "churned", max(unfollows), "unfollowed", 0)
                now = "churned"
        return found


class Reference:
    """What the log says up to each message."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.pairs: dict[Pair, Known] = {}
        self.as_of: int | None = None
        self.at: dict[int, tuple[dict[Pair, tuple[int, int]], int | None]] = {}
        """By offset: for each pair how many of its facts count and its too_old then, and the as-of day."""

    def read(self, message: Message) -> None:
        for fact in message.facts:
            if fact.kind != "unfollow" and fact.kind in self.rules.no_activity:
                continue
            known = self.pairs.setdefault(fact.pair, Known(self.rules))
            if self.as_of is not None and local_day(fact.at, self.rules.time_zone) < self.as_of - 63:
                known.too_old += 1
            else:
                known.facts.append(fact)
            known.applied, known.as_of = message.applied, self.as_of
        if message.tick is not None and (self.as_of is None or message.tick > self.as_of):
            self.as_of = message.tick
        counts = {pair: (len(known.facts), known.too_old) for pair, known in self.pairs.items()}
        self.at[message.applied] = counts, self.as_of

    def moves(self) -> dict[Place, Move]:
        """Every move, as of now."""
        return {
            (pair, *place): move
            for pair, known in self.pairs.items()
            for place, move in known.moves(self.as_of).items()
        }

    def moves_at(self, pair: Pair, applied: int) -> dict[tuple[int, int], Move]:
        """The moves of a pair as they were at an offset of the log."""
        counts, as_of = self.at[applied]
        facts = self.pairs[pair].facts[: counts[pair][0]]
        return _moves(self.rules, tuple(facts), as_of)


@cache
def _moves(rules: Rules, facts: tuple[Fact, ...], as_of: int | None) -> dict[tuple[int, int], Move]:
    return Known(rules, list(facts)).moves(as_of)
