"""What budget rules and bidding must make of one partition of the campaign log: message after message, plain Python.

Written from DESIGN.md ("The campaign log"), docs/rules.md and docs/bidding.md. It shares no code with ``pipeline``;
rules and campaigns are read from the JSON that was told. Amounts are micros, times UTC ms, rates millionths, shares
basis points.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from math import isqrt
from typing import Any
from zoneinfo import ZoneInfo

MINUTE, QUARTER, DAY = 60_000, 900_000, 86_400_000
LEAP, MINUTES_LEAP = DAY, 60 * MINUTE
"""Windows that closed longer ago than this, when time leaps, are not decided on; and windows of minutes."""
REMEMBERED = 33 * DAY
"""Who was never told and has had nothing for so long is not looked at."""
AHEAD_MS = 300_000
"""Readers believe a clock so far beyond the time at which the broker took the message."""
SHARE, MILLION = 10_000, 1_000_000
MEASURES = ("impressions", "clicks", "plays", "conversions", "spend", "conversion_value")
BIDDING = "target_cpa"
"""Rule id of bidding."""

Key = tuple[str, str, str]
"""Platform, campaign, ad group ('': the campaign)."""
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


# What is told.


def money(text: str | None) -> int | None:
    """``12.50 yuan`` or ``12500000 micros``; None stays None."""
    if text is None:
        return None
    number, unit = text.replace(",", "").split()
    whole, _, part = number.partition(".")
    return int(whole) if unit == "micros" else int(whole) * MILLION + int((part + "000000")[:6])


def percent(text: str, decimals: int) -> int:
    """``2.5%`` in whole parts of a percent, of which there are 10 to the power of ``decimals``."""
    whole, _, part = text.replace(",", "").strip().rstrip("%").lstrip("+-").partition(".")
    size = int(whole + (part + "0" * decimals)[:decimals])
    return -size if text.strip().startswith("-") else size


def length(text: str | None) -> tuple[int, str]:
    """``6 hours`` as a number and ``minute``, ``hour`` or ``day``."""
    if text is None:
        return 0, "minute"
    number, unit = text.split()
    return int(number), unit.removesuffix("s")


def ms(text: str | None) -> int:
    """``6 hours`` in milliseconds."""
    number, unit = length(text)
    return number * {"minute": MINUTE, "hour": 60 * MINUTE, "day": DAY}[unit]


@dataclass(frozen=True)
class Condition:
    """``metric operator value``, or a ``share`` of the metric ``other``."""

    metric: str
    operator: str
    value: int
    other: str
    share: int


def condition(text: str) -> Condition:
    """A condition as it is written."""
    found = re.fullmatch(r"(\w+)\s*(<=|>=|<|>|=)\s*(.+)", text.strip())
    assert found is not None, text
    metric, operator, right = found.groups()
    share, of, other = right.rpartition(" of ")
    if of or right in METRICS:
        return Condition(metric, operator, 0, other if of else right, percent(share, 2) if of else SHARE)
    if right.endswith("%"):
        value = percent(right, 4)
    elif " " in right:
        value = money(right) or 0
    else:
        value = int(right.replace(",", ""))
    return Condition(metric, operator, value, "", SHARE)


@dataclass(frozen=True)
class Timing:
    """When windows close, how long they are, and when they may act."""

    number: int
    skip: int
    unit: str
    zone: str
    days: tuple[str, ...] | None
    hours: tuple[int, int] | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Timing":
        window, schedule = told["window"], told.get("schedule") or {}
        number, unit = length(window["last"])
        hours = schedule.get("hours")
        between = None
        if hours is not None:
            begin, end = ([int(part) for part in side.split(":")] for side in hours.split("-"))
            between = (begin[0] * 60 + begin[1], end[0] * 60 + end[1])
        days = schedule.get("days")
        return cls(
            number,
            length(window.get("skip"))[0],
            unit,
            schedule.get("time_zone", "Asia/Shanghai"),
            None if days is None else tuple(days),
            between,
        )

    def closes(self, at: int) -> bool:
        if self.unit == "minute" or at % QUARTER:
            # Local hours and days begin at whole quarters of an hour.
            return self.unit == "minute"
        local = _local(at, self.zone)
        return local.minute == 0 and (self.unit == "hour" or local.hour == 0)

    def window(self, at: int) -> tuple[int, int]:
        if self.unit == "day":
            today = _local(at, self.zone).date()
            end = today - timedelta(days=self.skip)
            return _midnight(end - timedelta(days=self.number), self.zone), _midnight(end, self.zone)
        unit = MINUTE if self.unit == "minute" else 60 * MINUTE
        return at - (self.skip + self.number) * unit, at - self.skip * unit

    def allows(self, at: int) -> bool:
        local = _local(at, self.zone)
        if self.days is not None and _WEEKDAYS[local.weekday()] not in self.days:
            return False
        if self.hours is None:
            return True
        minute, (begin, end) = local.hour * 60 + local.minute, self.hours
        return begin <= minute < end if begin < end else minute >= begin or minute < end


@lru_cache(maxsize=100_000)
def _local(at: int, zone: str) -> datetime:
    return datetime.fromtimestamp(at / 1000, ZoneInfo(zone))


def _midnight(day: date, zone: str) -> int:
    return int(datetime.combine(day, time(), ZoneInfo(zone)).timestamp()) * 1000


class Rule:
    """A rule as it was told."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        scope, guards, action = told.get("scope") or {}, told.get("guards") or {}, told["action"]
        self.id = str(told["id"])
        self.version = int(told.get("version", 1))
        self.name, self.owner = told["name"], told["owner"]
        self.mode = told.get("mode", "dry_run")
        self.level = told["level"]
        self.timing = Timing.of(told)
        self.scope: dict[str, Any] = {
            name: scope.get(name) for name in ("platforms", "creators", "campaigns", "ad_groups")
        }
        self.when = [[condition(one) for one in _choices(group)] for group in told["when"]]
        self.impressions = int(guards.get("impressions", 0))
        self.spend = money(guards.get("spend")) or 0
        self.conversions = int(guards.get("conversions", 0))
        self.age = ms(guards.get("age"))
        self.staleness = ms(guards["staleness"]) if guards.get("staleness") is not None else None
        self.hysteresis = percent(told["hysteresis"], 2) if told.get("hysteresis") is not None else None
        self.cool_down = ms(told.get("cool_down"))
        self.most_per_day = int(told.get("most_per_day", 3))
        self.do = action["do"]
        self.by = percent(action["by"], 2) if action.get("by") is not None else None
        self.ceiling, self.floor = money(action.get("ceiling")), money(action.get("floor"))
        self.daily_cap = percent(action["daily_cap"], 2) if action.get("daily_cap") is not None else None
        self.priority = int(told.get("priority", 0))
        self.notify = told.get("notify")
        self.metrics = sorted({m for group in self.when for one in group for m in (one.metric, one.other) if m})

    def covers(self, entity: "Entity") -> bool:
        platform, campaign, group = entity.key
        named = {"platforms": platform, "creators": entity.creator, "campaigns": campaign, "ad_groups": group}
        right_level = bool(group) == (self.level == "ad_group")
        return right_level and all(
            self.scope[name] is None or value in self.scope[name] for name, value in named.items()
        )


def _choices(group: Any) -> list[str]:
    if isinstance(group, str):
        return [group]
    return list(group["any"] if isinstance(group, dict) else group)


class Bidding:
    """How a bid moves, as it was told."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.version = int(told.get("version", 1))
        self.mode = told.get("mode", "dry_run")
        self.timing = Timing.of(told)
        self.floor, self.ceiling = money(told["floor"]) or 0, money(told["ceiling"]) or 0
        self.conversions = int(told.get("conversions", 10))
        self.most_step = percent(told.get("most_step", "10%"), 2)
        self.dead_band = percent(told.get("dead_band", "5%"), 2)
        window = ms(told["window"]["last"]) + ms(told["window"].get("skip"))
        self.rest = window if told.get("cool_down") is None else ms(told["cool_down"])
        self.staleness = ms(told["staleness"]) if told.get("staleness") is not None else None


def campaign(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a campaign or ad group says, however it is written."""
    said: dict[str, Any] = {
        name: told[name] for name in told if name.endswith("_id") or name in ("platform", "created_at")
    }
    said["state"] = told.get("state", "active")
    for name in ("daily_budget", "total_budget", "bid", "target_cpa"):
        said[name] = money(told.get(name))
    said["bidding"] = vars(Bidding(told["bidding"])) if told.get("bidding") is not None else None
    said["ad_groups"] = [campaign(each) for each in told.get("ad_groups") or ()]
    return said


@dataclass
class Entity:
    """A campaign or ad group as it is known now; ``applied``: the message that changed it last."""

    key: Key
    creator: str
    state: str = "active"
    budget: int | None = None
    total: int | None = None
    bid: int | None = None
    target: int | None = None
    created: int | None = None
    bidding: Bidding | None = None
    listed: bool = False
    applied: int = -1


@dataclass
class Memory:
    """What is remembered of a rule and an entity."""

    armed: bool = True
    fired_at: int = 0
    day: int = 0
    firings: int = 0
    base: int = 0
    changed: int = 0
    seen: bool = False
    applied: int = -1

    @property
    def numbers(self) -> list[int]:
        """As the row of it has them."""
        return [int(self.armed), self.fired_at, self.day, self.firings, self.base, self.changed]


# Metrics.

Ratio = tuple[int, int] | None


def _over(over: int, under: int | None) -> Ratio:
    return (over, under) if under else None


def _set(value: int | None) -> Ratio:
    return None if value is None else (value, 1)


METRICS: dict[str, Callable[[Mapping[str, int], Entity], Ratio]] = {
    **{name: (lambda sums, entity, name=name: (sums[name], 1)) for name in MEASURES},  # type: ignore[misc]
    "cpm": lambda sums, entity: _over(1000 * sums["spend"], sums["impressions"]),
    "cpc": lambda sums, entity: _over(sums["spend"], sums["clicks"]),
    "cpa": lambda sums, entity: _over(sums["spend"], sums["conversions"]),
    "ctr": lambda sums, entity: _over(MILLION * sums["clicks"], sums["impressions"]),
    "cvr": lambda sums, entity: _over(MILLION * sums["conversions"], sums["clicks"]),
    "roas": lambda sums, entity: _over(MILLION * sums["conversion_value"], sums["spend"]),
    "roi": lambda sums, entity: _over(MILLION * (sums["conversion_value"] - sums["spend"]), sums["spend"]),
    "daily_budget": lambda sums, entity: _set(entity.budget),
    "bid": lambda sums, entity: _set(entity.bid),
    "target_cpa": lambda sums, entity: _set(entity.target),
}


def _holds(one: Condition, ratios: Mapping[str, Ratio], easier: int) -> bool | None:
    """Whether a condition holds with its threshold easier by so many basis points; None: there is no figure."""
    left, right = ratios[one.metric], ratios[one.other] if one.other else (one.value, 1)
    if left is None or right is None:
        return None
    # Everything times the divisors and SHARE squared.
    a = left[0] * right[1] * SHARE * SHARE
    b = right[0] * left[1] * one.share * SHARE
    allowance = abs(right[0] * left[1] * one.share) * easier
    match one.operator:
        case "<":
            return a < b + allowance
        case "<=":
            return a <= b + allowance
        case ">":
            return a > b - allowance
        case ">=":
            return a >= b - allowance
        case _:
            return a == b


def _all_hold(when: list[list[Condition]], ratios: Mapping[str, Ratio], easier: int = 0) -> bool | None:
    answers = []
    for group in when:
        said = [_holds(one, ratios, easier) for one in group]
        answers.append(True if True in said else None if None in said else False)
    return False if False in answers else None if None in answers else True


# Decisions.


@dataclass
class Decision:
    """A row of ``rule_decisions``, as it is made; ``memory`` is what is remembered if it acts."""

    rule_id: str
    entity: Key
    version: int
    mode: str
    window: tuple[int, int]
    action: str
    outcome: str
    reason: str
    figures: dict[str, int | None]
    guards: list[tuple[str, int, int | None, bool]]
    before: int | None = None
    after: int | None = None
    by: str = ""
    priority: int = 0
    memory: Memory | None = None

    @property
    def acts(self) -> bool:
        return self.outcome in ("fired", "clamped")


def _name(text: str) -> str:
    return text.replace("%", "%25").replace(":", "%3A")


def decision_key(rule_id: str, entity: Key, at: int) -> str:
    """Rule, platform, campaign, ad group, and when the window closed."""
    return ":".join([*(_name(each) for each in (rule_id, *entity) if each), str(at)])


@dataclass
class Book:
    """One partition of the campaign log, as far as it was read, and all that must be stored of it.

    ``decisions`` are rows by (rule, entity, closing); ``changes`` of rules and ``told`` campaigns, in order.
    """

    partition: int
    partitions: int
    owner: Callable[[str, str], int]
    sources: dict[int, tuple[int, int | None, int | None]] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    closed: tuple[int, int] | None = None
    minutes: dict[tuple[int, int, Key], tuple[tuple[int, ...], int]] = field(default_factory=dict)
    sums: dict[Key, dict[int, list[int]]] = field(default_factory=dict)
    rules: dict[str, tuple[dict[str, Any], Rule, bool, int]] = field(default_factory=dict)
    campaigns: dict[tuple[str, str], tuple[dict[str, Any], int]] = field(default_factory=dict)
    entities: dict[Key, Entity] = field(default_factory=dict)
    memories: dict[tuple[str, Key], Memory] = field(default_factory=dict)
    decisions: dict[tuple[str, Key, int], tuple[Decision, int, int]] = field(default_factory=dict)
    changes: list[tuple[dict[str, Any], Rule, bool, str, int, int]] = field(default_factory=list)
    told: list[tuple[dict[str, Any], str, int, int]] = field(default_factory=list)
    _newest: dict[Key, int] = field(default_factory=dict)
    _at: tuple[int, int] = (-1, 0)

    def read(self, offset: int, appended: int, head: Mapping[str, Any], figures: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the next message of our database: its line, and the figures after it."""
        self._at = (offset, appended)
        if "change" in head:
            self._change(head)
            return
        source, following = head["partition"], head["next"]
        reached, oldest = head["reached"], head["oldest"]
        if reached is not None:
            reached = min(reached, appended + AHEAD_MS)
        before = self.sources.get(source)
        if before is not None and following < before[0]:
            return
        for row in figures:
            bound = before[2] if before is not None else None
            if bound is None or row["minute"] + MINUTE > bound:
                self._count(source, row)
        if before is not None:
            reached = max((each for each in (reached, before[1]) if each is not None), default=None)
            oldest = max((each for each in (oldest, before[2]) if each is not None), default=None)
        self.sources[source] = (following, reached, oldest)
        self.heard[source] = offset
        self._pass()

    # Figures and changes.

    def _count(self, source: int, row: Mapping[str, Any]) -> None:
        group: Key = (row["platform"], row["campaign_id"], row["ad_group_id"])
        place = (source, row["minute"], group)
        now = tuple(row[name] for name in FIGURES)
        then, _ = self.minutes.get(place, ((0,) * len(FIGURES), 0))
        if place in self.minutes and then == now:
            return
        self.minutes[place] = (now, self._at[0])
        for key in (group, (*group[:2], "")):
            own = self.sums.setdefault(key, {}).setdefault(row["minute"], [0] * len(FIGURES))
            self._newest[key] = max(row["minute"], self._newest.get(key, row["minute"]))
            for index, value in enumerate(now):
                own[index] += value - then[index]
            entity = self.entities.get(key)
            if entity is None:
                self._put(Entity(key, row["creator_id"], created=row["minute"]))
            elif entity.created is None:
                entity.created = row["minute"]
                self._put(entity)

    def _put(self, entity: Entity) -> None:
        entity.applied = self._at[0]
        self.entities[entity.key] = entity

    def _change(self, head: Mapping[str, Any]) -> None:
        offset, appended = self._at
        match head["change"]:
            case "rules":
                for told in head["rules"]:
                    self._rule(told, True, head["by"])
            case "switch":
                if head["rule_id"] in self.rules:
                    self._rule(self.rules[head["rule_id"]][0], head["enabled"], head["by"])
            case _:
                for told in head["campaigns"]:
                    if self.owner(told["platform"], told["campaign_id"]) == self.partition:
                        self._campaign(told)
                        self.told.append((told, head["by"], offset, appended))

    def _rule(self, told: dict[str, Any], enabled: bool, by: str) -> None:
        rule = Rule(told)
        self.rules[rule.id] = (told, rule, enabled, self._at[0])
        self.changes.append((told, rule, enabled, by, *self._at))

    def _campaign(self, told: dict[str, Any]) -> None:
        where = (told["platform"], told["campaign_id"])
        self.campaigns[where] = (told, self._at[0])
        groups = {each["ad_group_id"]: each for each in told.get("ad_groups") or ()}
        for key, entity in self.entities.items():
            if key[:2] == where and entity.listed and key[2] and key[2] not in groups:
                entity.listed, entity.bidding = False, None
                self._put(entity)
        for name, each in (("", told), *groups.items()):
            key = (*where, name)
            known = self.entities.get(key)
            own = each if each.get("bidding") is not None else told
            target = each.get("target_cpa") or told.get("target_cpa")
            created = each.get("created_at", told.get("created_at"))
            self._put(
                Entity(
                    key,
                    told["creator_id"],
                    each.get("state", "active"),
                    money(each.get("daily_budget")),
                    None if name else money(told.get("total_budget")),
                    money(each.get("bid")),
                    money(target),
                    known.created if created is None and known is not None else created,
                    Bidding(own["bidding"]) if own.get("bidding") and each.get("bid") is not None else None,
                    True,
                )
            )

    # Closings.

    def _pass(self) -> None:
        if len(self.sources) < self.partitions:
            return
        times = [reached for _, reached, _ in self.sources.values() if reached is not None]
        if not times:
            return
        moment = min(times) // MINUTE * MINUTE
        if self.closed is not None:
            if moment <= self.closed[0]:
                return
            for at in range(max(self.closed[0], moment - LEAP) + MINUTE, moment + 1, MINUTE):
                self._decide(at, at < moment - MINUTES_LEAP)
        self.closed = (moment, self._at[0])

    def _lives(self, entity: Entity, at: int) -> bool:
        if entity.state == "ended":
            return False
        if entity.listed:
            return True
        newest = self._newest.get(entity.key)
        # Of long ago it is known by quarters of an hour only.
        return newest is not None and newest // QUARTER * QUARTER >= at - REMEMBERED

    def _window(self, key: Key, window: tuple[int, int]) -> list[int]:
        start, end = window
        own = self.sums.get(key, {})
        if (end - start) // MINUTE < len(own):
            rows = [own[minute] for minute in range(start, end, MINUTE) if minute in own]
        else:
            rows = [sums for minute, sums in own.items() if start <= minute < end]
        return [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * len(FIGURES)

    def _decide(self, at: int, long_ago: bool) -> None:
        rules = [
            rule
            for _, rule, enabled, _ in self.rules.values()
            if enabled and rule.timing.closes(at) and not (long_ago and rule.timing.unit == "minute")
        ]
        steered = {
            key
            for key, each in self.entities.items()
            if each.bidding
            and each.bidding.timing.closes(at)
            and not (long_ago and each.bidding.timing.unit == "minute")
        }
        if not rules and not steered:
            return
        living = [entity for entity in self.entities.values() if self._lives(entity, at)]
        made = [self._evaluate(rule, each, at) for rule in rules for each in living if rule.covers(each)]
        _settle([each for each in made if each.outcome != "skipped"])
        for each in made:
            self._keep(each, at)
        done = [each for each in made if each.acts]
        bids = [self._bid(entity, done, at) for entity in living if entity.key in steered]
        for each in (*made, *bids):
            if each.acts:
                self._apply(each)
        for each in bids:
            self._keep(each, at)

    def _keep(self, decision: Decision, at: int) -> None:
        self.decisions[decision.rule_id, decision.entity, at] = (decision, *self._at)
        if decision.outcome != "skipped" and decision.memory is not None:
            self._remember(decision.rule_id, decision.entity, decision.memory)

    def _remember(self, rule_id: str, key: Key, memory: Memory) -> None:
        before = self.memories.get((rule_id, key), Memory())
        memory.applied = self._at[0] if memory.numbers != before.numbers else before.applied
        self.memories[rule_id, key] = memory

    def _apply(self, decision: Decision) -> None:
        entity = self.entities[decision.entity]
        match decision.action:
            case "budget":
                entity.budget = decision.after
            case "bid":
                entity.bid = decision.after
            case action:
                entity.state = "paused" if action == "pause" else "active"
        self._put(entity)

    def _evaluate(self, rule: Rule, entity: Entity, at: int) -> Decision:
        window, now = rule.timing.window(at), self._at[1]
        sums = dict(zip(MEASURES, self._window(entity.key, window), strict=True))
        ratios = {name: METRICS[name](sums, entity) for name in rule.metrics}
        guards: list[tuple[str, int, int | None, bool]] = [
            (name, wants, sums[name], sums[name] >= wants)
            for name, wants in (
                ("impressions", rule.impressions),
                ("spend", rule.spend),
                ("conversions", rule.conversions),
            )
            if wants
        ]
        if rule.age:
            age = None if entity.created is None else at - entity.created
            guards.append(("age", rule.age, age, age is not None and age >= rule.age))
        if rule.staleness is not None:
            guards.append(("staleness", rule.staleness, now - at, now - at <= rule.staleness))
        guarded = all(holds for *_, holds in guards)

        known = self.memories.get((rule.id, entity.key), Memory())
        today = _local(at, rule.timing.zone).date().toordinal()
        armed = known.armed or rule.hysteresis is None
        if not armed and guarded and _all_hold(rule.when, ratios, rule.hysteresis or 0) is False:
            armed = True
        memory = Memory(armed, known.fired_at, today, applied=known.applied)
        if known.day == today:
            memory.firings, memory.base, memory.changed = known.firings, known.base, known.changed
        self._remember(rule.id, entity.key, memory)

        reason = self._refusal(rule, entity, memory, ratios, guarded, at)
        figures = {name: None if ratio is None else ratio[0] // ratio[1] for name, ratio in ratios.items()}
        made = Decision(
            *(rule.id, entity.key, rule.version, rule.mode, window, rule.do, "skipped", reason, figures, guards),
            priority=rule.priority,
        )
        if reason:
            return made
        if rule.by is not None:
            made.before, made.after, made.reason = _step(rule, entity, memory)
            if made.before == made.after:
                return made
        would = {"act": "fired", "notify": "notified", "dry_run": "dry_run"}[rule.mode]
        made.outcome = "clamped" if would == "fired" and made.reason else would
        changed = abs((made.after or 0) - (made.before or 0))
        base = memory.base if memory.firings else made.before or 0
        made.memory = Memory(rule.hysteresis is None, at, today, memory.firings + 1, base, memory.changed + changed)
        return made

    def _refusal(
        self, rule: Rule, entity: Entity, memory: Memory, ratios: Mapping[str, Ratio], guarded: bool, at: int
    ) -> str:
        wanted = "paused" if rule.do == "resume" else "active"
        if entity.state != wanted:
            return f"not_{wanted}"
        if not rule.timing.allows(at):
            return "schedule"
        if rule.staleness is not None and self._at[1] - at > rule.staleness:
            return "stale"
        if not guarded:
            return "guards"
        held = _all_hold(rule.when, ratios)
        if held is None:
            return "no_figure"
        if not held:
            return "conditions"
        if not memory.armed:
            return "disarmed"
        if memory.fired_at and at - memory.fired_at < rule.cool_down:
            return "cool_down"
        return "most_per_day" if memory.firings >= rule.most_per_day else ""

    def _bid(self, entity: Entity, done: list[Decision], at: int) -> Decision:
        bidding = entity.bidding
        assert bidding is not None
        window, now = bidding.timing.window(at), self._at[1]
        sums = self._window(entity.key, window)
        if not entity.key[2]:
            for other in self.entities.values():
                if other.key[:2] == entity.key[:2] and other.key[2] and other.bid is not None:
                    sums = [whole - part for whole, part in zip(sums, self._window(other.key, window), strict=True)]
        had = dict(zip(MEASURES, sums, strict=True))
        spend, conversions, target, bid = had["spend"], had["conversions"], entity.target, entity.bid

        known = self.memories.get((BIDDING, entity.key), Memory())
        changed = known.seen and bid != known.base
        memory = Memory(True, at if changed else known.fired_at, base=bid or 0, seen=True, applied=known.applied)
        campaign = (*entity.key[:2], "")
        ruled = sorted((each for each in done if each.entity == entity.key), key=lambda each: each.rule_id)
        pauses = [each for each in ruled if each.action == "pause"]
        pauses += [each for each in done if each.entity == campaign != entity.key and each.action == "pause"]
        bids = [each for each in ruled if each.action == "bid"]

        enough = max(conversions, spend // target) if target else None
        guards: list[tuple[str, int, int | None, bool]] = [
            ("conversions", bidding.conversions, enough, enough is not None and enough >= bidding.conversions)
        ]
        if bidding.staleness is not None:
            guards.append(("staleness", bidding.staleness, now - at, now - at <= bidding.staleness))
        figures = {
            "bid": bid,
            "conversions": conversions,
            "cpa": spend // conversions if conversions > 0 else None,
            "spend": spend,
            "target_cpa": target,
        }
        made = Decision(
            *(BIDDING, entity.key, bidding.version, bidding.mode, window, "bid", "skipped", "", figures, guards)
        )
        if entity.state != "active":
            made.reason = "not_active"
        elif not bidding.timing.allows(at):
            made.reason = "schedule"
        elif bidding.staleness is not None and now - at > bidding.staleness:
            made.reason = "stale"
        elif not bid:
            made.reason = "no_bid"
        elif not target:
            made.reason = "no_figure"
        elif not all(holds for *_, holds in guards):
            made.reason = "guards"
        elif memory.fired_at and at - memory.fired_at < bidding.rest:
            made.reason = "cool_down"
        else:
            made.before = bid
            made.after, made.reason = _next_bid(bidding, bid, target, spend, conversions)
            winner = (*pauses, *bids)
            if made.after != bid and winner:
                made.after, made.reason, made.by = bid, "outranked", winner[0].rule_id
            elif made.after != bid:
                act = bidding.mode == "act"
                made.outcome = ("clamped" if made.reason else "fired") if act else "dry_run"
                memory.fired_at, memory.base = at, made.after if act else bid
        if bids:
            memory.fired_at, memory.base = at, bids[0].after or 0
        self._remember(BIDDING, entity.key, memory)
        return made


FIGURES = ("impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros")
"""Names of ``MEASURES`` in a message."""


def _step(rule: Rule, entity: Entity, memory: Memory) -> tuple[int | None, int | None, str]:
    """Before, after, and what clamped the step or why there is none."""
    assert rule.by is not None
    before = entity.budget if rule.do == "budget" else entity.bid
    if before is None:
        return None, None, f"no_{rule.do}"
    step = before * abs(rule.by) // SHARE
    if step == 0:
        return before, before, "too_small"
    rooms: list[tuple[int, str]] = []
    if rule.by > 0:
        if rule.ceiling is not None:
            rooms.append((rule.ceiling - before, "ceiling"))
        if rule.do == "budget" and entity.total is not None:
            rooms.append((entity.total - before, "total_budget"))
    elif rule.floor is not None:
        rooms.append((before - rule.floor, "floor"))
    if rule.daily_cap is not None:
        base = memory.base if memory.firings else before
        rooms.append((base * rule.daily_cap // SHARE - memory.changed, "daily_cap"))
    least, limit = min(((max(room, 0), name) for room, name in rooms), key=lambda each: each[0], default=(step, ""))
    if least >= step:
        least, limit = step, ""
    return before, before + (least if rule.by > 0 else -least), limit


def _next_bid(bidding: Bidding, bid: int, target: int, cost: int, conversions: int) -> tuple[int, str]:
    wanted = target * conversions
    if abs(cost - wanted) * SHARE <= wanted * bidding.dead_band:
        return bid, "on_target"
    n = bidding.conversions
    goal = isqrt(bid * bid * target * (conversions + n) // (cost + n * target))
    most = bid * bidding.most_step // SHARE
    after = max(bid - most, min(bid + most, goal))
    if after > max(bid, bidding.ceiling):
        return max(bid, bidding.ceiling), "ceiling"
    if after < min(bid, bidding.floor):
        return min(bid, bidding.floor), "floor"
    return after, "" if after != bid else "too_small"


def _settle(wanting: list[Decision]) -> None:
    """Conflicts: those that act among themselves, then the others with all that is left."""
    acting = [each for each in wanting if each.mode == "act"]
    _outrank(acting, acting)
    left = [each for each in wanting if each.outcome != "skipped"]
    _outrank(left, [each for each in left if each.mode != "act"])


def _outrank(all_of_them: list[Decision], losers: list[Decision]) -> None:
    def rank(each: Decision) -> tuple[int, str]:
        return -each.priority, each.rule_id

    ranked = sorted(all_of_them, key=rank)

    def first(entity: Key, action: str) -> str:
        return next((each.rule_id for each in ranked if each.entity == entity and each.action == action), "")

    lost = []
    for each in losers:
        by = first(each.entity, each.action)
        if each.action != "pause":
            by = first(each.entity, "pause") or first((*each.entity[:2], ""), "pause") or by
        if by != each.rule_id:
            lost.append((each, by))
    for each, by in lost:
        each.outcome, each.reason, each.by, each.after, each.memory = "skipped", "outranked", by, each.before, None
