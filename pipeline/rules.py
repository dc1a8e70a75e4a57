"""Budget rules, evaluated: from figures of closed windows to decisions and actions. Nothing here knows a database, a
market or a clock.

All arithmetic is of whole numbers. Quotients are compared by multiplying crosswise; a step is rounded down to a micro,
so it is never more than the rule says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from schemas.quantities import MINUTE_MS
from schemas.rules import FULL, MILLION, WEEKDAYS, Action, Bidding, Campaign, Condition, Kind, Mode, Rule, State

Outcome = Literal["fired", "clamped", "notified", "dry_run", "skipped"]
Reason = Literal[
    "",
    "evaluated",
    "ended",
    "not_active",
    "not_paused",
    "schedule",
    "stale",
    "guards",
    "no_figure",
    "conditions",
    "on_target",
    "disarmed",
    "cool_down",
    "most_per_day",
    "no_budget",
    "no_bid",
    "ceiling",
    "floor",
    "total_budget",
    "daily_cap",
    "too_small",
    "outranked",
]
REASONS: dict[Reason, str] = {
    "evaluated": "this window, or a later one, has been evaluated before",
    "ended": "the campaign or ad group has ended",
    "not_active": "it is not active, so there is nothing to change or to pause",
    "not_paused": "it is not paused, so there is nothing to resume",
    "schedule": "the window closed outside the schedule",
    "stale": "the window was evaluated too late",
    "guards": "a guard does not hold",
    "no_figure": "a condition has no figure: its divisor is 0, or nothing is set",
    "conditions": "the conditions do not hold",
    "on_target": "bidding: the cost per conversion is as near to its target as wanted",
    "disarmed": "it has fired, and the conditions have not failed clearly since",
    "cool_down": "it fired less than its cool-down ago",
    "most_per_day": "it has fired as often as it may in a day",
    "no_budget": "no daily budget is known",
    "no_bid": "no bid is known",
    "ceiling": "the step goes beyond the ceiling",
    "floor": "the step goes beyond the floor",
    "total_budget": "the step goes beyond the total budget",
    "daily_cap": "the step goes beyond what the rule may change in a day",
    "too_small": "the step is less than a micro",
    "outranked": "another rule wants the same, or a pause",
}
"""Why a rule did not fire; ``ceiling``, ``floor``, ``total_budget`` and ``daily_cap`` also why a step was clamped."""


class Key(NamedTuple):
    """A campaign, or an ad group of one."""

    platform: str
    campaign_id: str
    ad_group_id: str = ""

    def __str__(self) -> str:
        """``platform:campaign`` or ``platform:campaign:ad group``; a colon within a part is ``%3A``."""
        parts = self if self.ad_group_id else self[:2]
        return ":".join(_escaped(part) for part in parts)


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace(":", "%3A")


@dataclass(frozen=True, slots=True)
class Entity:
    """What a rule is evaluated for, as the market has it when the window closes. Amounts are micros, ``created_at`` UTC
    ms; None: not known, or there is none."""

    key: Key
    creator_id: str
    state: State = "active"
    daily_budget: int | None = None
    total_budget: int | None = None
    bid: int | None = None
    target_cpa: int | None = None
    created_at: int | None = None


def entities(campaigns: Iterable[Campaign]) -> list[Entity]:
    """Campaigns and their ad groups as entities. An ad group without a target of its own has the campaign's."""
    found = []
    for each in campaigns:
        found.append(
            Entity(
                Key(each.platform, each.campaign_id),
                each.creator_id,
                each.state,
                each.daily_budget,
                each.total_budget,
                each.bid,
                each.target_cpa,
                each.created_at,
            )
        )
        for group in each.ad_groups:
            found.append(
                Entity(
                    Key(each.platform, each.campaign_id, group.ad_group_id),
                    each.creator_id,
                    group.state,
                    group.daily_budget,
                    None,
                    group.bid,
                    each.target_cpa if group.target_cpa is None else group.target_cpa,
                    each.created_at if group.created_at is None else group.created_at,
                )
            )
    return found


class Sums(NamedTuple):
    """What an entity had in a window; money in micros."""

    impressions: int = 0
    clicks: int = 0
    plays: int = 0
    conversions: int = 0
    cost: int = 0
    value: int = 0


NOTHING = Sums()


class Span(NamedTuple):
    """A window: event times (UTC ms) from ``start`` on and before ``end``."""

    start: int
    end: int


class Memory(NamedTuple):
    """What a rule remembers of an entity.

    ``evaluated``: the last closing (UTC ms); ``armed``: whether it may fire, for hysteresis; ``fired_at``: the closing
    of its last firing, 0 if there was none. Of the local ``day``: ``firings``, ``base`` (micros before its first step)
    and ``changed`` (micros by which its steps changed it, always in one direction, so without a sign).
    """

    evaluated: int = 0
    armed: bool = True
    fired_at: int = 0
    day: int = 0
    firings: int = 0
    base: int = 0
    changed: int = 0


FRESH = Memory()
Memories = Mapping[tuple[str, Key], Memory]
"""By rule id and entity."""


class Guard(NamedTuple):
    """A guard: what it wants, and what there was (None: not known). ``staleness`` wants at most, others at least."""

    name: str
    wants: int
    found: int | None
    holds: bool


class Decision(NamedTuple):
    """What a rule made of an entity and a window, fired or not: the row to keep.

    ``key`` is the same whenever the same window is evaluated, so what is done under it is done once. ``figures`` are
    those of the metrics that the rule looks at, rounded down: counts, micros, millionths; beyond 64 bits, the largest
    that fits. ``before`` and ``after`` are micros of a budget or bid, and None where none was to be changed. ``by`` is
    the rule that outranked it.
    """

    key: str
    rule_id: str
    rule_version: int
    mode: Mode
    entity: Key
    window: Span
    closed_at: int
    kind: Kind
    outcome: Outcome
    reason: Reason
    figures: dict[str, int | None]
    guards: tuple[Guard, ...]
    before: int | None = None
    after: int | None = None
    by: str = ""


class Act(NamedTuple):
    """Something to be done in the market, once a ``key``: set a budget or bid to ``after`` micros, pause, or resume."""

    key: str
    rule_id: str
    rule_version: int
    entity: Key
    closed_at: int
    kind: Kind
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out: ``decisions`` and ``acts`` in order of rule and entity; ``memories`` of the rules and entities
    that were evaluated, to be put in place of those before."""

    decisions: list[Decision]
    acts: list[Act]
    memories: dict[tuple[str, Key], Memory]


def due(rule: Rule | Bidding, closed_at: int) -> bool:
    """Whether a window of the rule closes at a moment (UTC ms, a whole minute)."""
    unit = rule.window.last.unit
    if unit != "minute" and closed_at % (15 * MINUTE_MS):
        # In every time zone hours begin at a whole quarter; most minutes are done with here.
        return False
    match unit:
        case "minute":
            return closed_at % MINUTE_MS == 0
        case "hour":
            return _local(closed_at, rule.schedule.time_zone).minute == 0
        case _:
            zone = rule.schedule.time_zone
            return _midnight(_local(closed_at, zone).date(), zone) == closed_at


def span(rule: Rule | Bidding, closed_at: int) -> Span:
    """The window of a rule that closes at a moment at which one is due. A day is a local one, of 23 to 25 hours."""
    last, skip = rule.window.last, rule.window.skip.number if rule.window.skip else 0
    if last.unit == "day":
        zone = rule.schedule.time_zone
        day = _local(closed_at, zone).date() - timedelta(days=skip)
        return Span(_midnight(day - timedelta(days=last.number), zone), _midnight(day, zone))
    end = closed_at - skip * (last.ms // last.number)
    return Span(end - last.ms, end)


def scheduled(rule: Rule | Bidding, closed_at: int) -> bool:
    """Whether a window that closes at a moment may fire."""
    schedule, local = rule.schedule, _local(closed_at, rule.schedule.time_zone)
    return (schedule.days is None or WEEKDAYS[local.weekday()] in schedule.days) and (
        schedule.hours is None or schedule.hours.has(local.hour * 60 + local.minute)
    )


def evaluate(
    rules: Iterable[Rule],
    found: Iterable[Entity],
    figures: Mapping[Span, Mapping[Key, Sums]],
    memories: Memories,
    closed_at: int,
    now: int,
) -> Evaluation:
    """Every rule with a window that closes, for every entity in its scope.

    The order of rules and entities does not matter. A window that was evaluated before, or one before it, fires
    nothing. Rules that act compete with rules that act; others with all, so they say what they would do and stop none.

    Args:
        rules: each id once.
        found: campaigns and ad groups as they are when the window closes, each once.
        figures: for every ``span`` of a rule that is ``due``, sums by entity; an entity that is not in it had nothing.
        memories: of the evaluations before; of whom there is none, nothing is remembered.
        closed_at: the moment at which windows close, UTC ms of event time, a whole minute.
        now: when this is done, UTC ms, for ``staleness``; from the log, where a replay must decide the same.
    """
    rows: list[_Row] = []
    known = sorted(found, key=lambda entity: entity.key)
    names = {entity.key: str(entity.key) for entity in known}
    for rule in sorted(rules, key=lambda rule: rule.id):
        if due(rule, closed_at):
            rows += _evaluate(rule, known, names, figures, memories, closed_at, now)
    _outrank([row for row in rows if row.decision.outcome != "skipped" and row.rule.mode == "act"])
    _outrank([row for row in rows if row.decision.outcome != "skipped"], only_others=True)
    evaluation = Evaluation([], [], {})
    for row in rows:
        decision = row.decision
        evaluation.decisions.append(decision)
        evaluation.memories[row.rule.id, decision.entity] = row.fired if decision.outcome != "skipped" else row.rested
        if decision.outcome in ("fired", "clamped"):
            evaluation.acts.append(
                Act(
                    decision.key,
                    decision.rule_id,
                    decision.rule_version,
                    decision.entity,
                    closed_at,
                    decision.kind,
                    decision.before,
                    decision.after,
                )
            )
    return evaluation


def apply(found: Iterable[Entity], acts: Iterable[Act]) -> list[Entity]:
    """The entities once everything is done."""
    changed = {entity.key: entity for entity in found}
    for act in acts:
        entity = changed[act.entity]
        match act.kind:
            case "budget":
                changed[act.entity] = replace(entity, daily_budget=act.after)
            case "bid":
                changed[act.entity] = replace(entity, bid=act.after)
            case "pause":
                changed[act.entity] = replace(entity, state="paused")
            case "resume":
                changed[act.entity] = replace(entity, state="active")
    return list(changed.values())


_FIRES: dict[Mode, Outcome] = {"act": "fired", "notify": "notified", "dry_run": "dry_run"}
Ratio = tuple[int, int] | None
"""Numerator and positive denominator, in counts, micros or millionths; None: no figure."""
_LARGEST = (1 << 63) - 1


def _ratio(over: int, under: int) -> Ratio:
    return (over, under) if under > 0 else None


def _figure(over: int, under: int) -> int:
    """A quotient as it is kept. A conversion of a thousand million yuan for a micro is more than 64 bits hold."""
    return max(-_LARGEST, min(over // under, _LARGEST))


def _whole(value: int | None) -> Ratio:
    return None if value is None else (value, 1)


METRICS: dict[str, Callable[[Sums, Entity], Ratio]] = {
    "impressions": lambda sums, entity: (sums.impressions, 1),
    "clicks": lambda sums, entity: (sums.clicks, 1),
    "plays": lambda sums, entity: (sums.plays, 1),
    "conversions": lambda sums, entity: (sums.conversions, 1),
    "spend": lambda sums, entity: (sums.cost, 1),
    "conversion_value": lambda sums, entity: (sums.value, 1),
    "cpm": lambda sums, entity: _ratio(1000 * sums.cost, sums.impressions),
    "cpc": lambda sums, entity: _ratio(sums.cost, sums.clicks),
    "cpa": lambda sums, entity: _ratio(sums.cost, sums.conversions),
    "ctr": lambda sums, entity: _ratio(MILLION * sums.clicks, sums.impressions),
    "cvr": lambda sums, entity: _ratio(MILLION * sums.conversions, sums.clicks),
    "roas": lambda sums, entity: _ratio(MILLION * sums.value, sums.cost),
    "roi": lambda sums, entity: _ratio(MILLION * (sums.value - sums.cost), sums.cost),
    "daily_budget": lambda sums, entity: _whole(entity.daily_budget),
    "bid": lambda sums, entity: _whole(entity.bid),
    "target_cpa": lambda sums, entity: _whole(entity.target_cpa),
}
"""The metrics of ``schemas.rules.METRICS``, which has their formulas."""


@dataclass(slots=True)
class _Row:
    """A decision that conflicts may still change, and what is remembered if it is skipped, or fires."""

    rule: Rule
    decision: Decision
    rested: Memory
    fired: Memory


def _evaluate(
    rule: Rule,
    known: Sequence[Entity],
    names: Mapping[Key, str],
    figures: Mapping[Span, Mapping[Key, Sums]],
    memories: Memories,
    closed_at: int,
    now: int,
) -> Iterable[_Row]:
    window = span(rule, closed_at)
    sums_of = figures[window]
    local = _local(closed_at, rule.schedule.time_zone)
    day = local.date().toordinal()
    metrics = sorted({metric for group in rule.when for condition in group for metric in condition.metrics})
    readers = [(metric, METRICS[metric]) for metric in metrics]
    in_hours, name, fires = scheduled(rule, closed_at), _escaped(rule.id), _FIRES[rule.mode]
    fresh = rule.guards.staleness is None or now - closed_at <= rule.guards.staleness
    for entity in known:
        if not _in_scope(rule, entity):
            continue
        memory = memories.get((rule.id, entity.key), FRESH)
        sums = sums_of.get(entity.key, NOTHING)
        ratios = {metric: read(sums, entity) for metric, read in readers}
        guards = _guards(rule, sums, entity, closed_at, now)
        guarded = all(guard.holds for guard in guards)
        again = closed_at <= memory.evaluated
        rested = memory if again else _rested(rule, memory, closed_at, day, ratios, guarded)
        reason = "evaluated" if again else _not_now(rule, entity, in_hours, fresh)
        if not reason:
            reason = _refusal(rule, rested, ratios, guarded, closed_at)
        before = after = None
        fired = rested
        if not reason:
            before, after, reason = _change(rule.action, entity, rested)
            fired = _fired(rule, rested, before, after, closed_at)
        acts = not reason or (after is not None and after != before)
        outcome: Outcome = "skipped" if not acts else "clamped" if reason and fires == "fired" else fires
        yield _Row(
            rule,
            Decision(
                f"{name}:{names[entity.key]}:{closed_at}",
                rule.id,
                rule.version,
                rule.mode,
                entity.key,
                window,
                closed_at,
                rule.action.do,
                outcome,
                reason,
                {metric: None if ratio is None else _figure(*ratio) for metric, ratio in ratios.items()},
                guards,
                before,
                after,
            ),
            rested,
            fired,
        )


def _in_scope(rule: Rule, entity: Entity) -> bool:
    key, scope = entity.key, rule.scope
    return (
        (key.ad_group_id != "") == (rule.level == "ad_group")
        and (scope.platforms is None or key.platform in scope.platforms)
        and (scope.creators is None or entity.creator_id in scope.creators)
        and (scope.campaigns is None or key.campaign_id in scope.campaigns)
        and (scope.ad_groups is None or key.ad_group_id in scope.ad_groups)
    )


def _guards(rule: Rule, sums: Sums, entity: Entity, closed_at: int, now: int) -> tuple[Guard, ...]:
    wants = rule.guards
    found: list[Guard] = []
    if wants.impressions:
        found.append(Guard("impressions", wants.impressions, sums.impressions, sums.impressions >= wants.impressions))
    if wants.spend:
        found.append(Guard("spend", wants.spend, sums.cost, sums.cost >= wants.spend))
    if wants.conversions:
        found.append(Guard("conversions", wants.conversions, sums.conversions, sums.conversions >= wants.conversions))
    if wants.age:
        age = None if entity.created_at is None else closed_at - entity.created_at
        found.append(Guard("age", wants.age, age, age is not None and age >= wants.age))
    if wants.staleness is not None:
        found.append(Guard("staleness", wants.staleness, now - closed_at, now - closed_at <= wants.staleness))
    return tuple(found)


def _rested(rule: Rule, memory: Memory, closed_at: int, day: int, ratios: Mapping[str, Ratio], guarded: bool) -> Memory:
    """What is remembered of a window whether the rule fires or not: a new day begins, and it may be armed again."""
    armed = memory.armed or rule.hysteresis is None
    if not armed and guarded:
        armed = _hold(rule, ratios, rule.hysteresis or 0) is False
    if memory.day == day:
        return Memory(closed_at, armed, memory.fired_at, day, memory.firings, memory.base, memory.changed)
    return Memory(closed_at, armed, memory.fired_at, day)


def _not_now(rule: Rule, entity: Entity, scheduled: bool, fresh: bool) -> Reason:
    """Why it is not even looked at."""
    if entity.state == "ended":
        return "ended"
    if rule.action.do == "resume":
        if entity.state != "paused":
            return "not_paused"
    elif entity.state != "active":
        return "not_active"
    if not scheduled:
        return "schedule"
    return "" if fresh else "stale"


def _refusal(rule: Rule, memory: Memory, ratios: Mapping[str, Ratio], guarded: bool, closed_at: int) -> Reason:
    """Why it does not fire, by its figures and by what is remembered."""
    if not guarded:
        return "guards"
    held = _hold(rule, ratios, 0)
    if held is None:
        return "no_figure"
    if not held:
        return "conditions"
    if not memory.armed:
        return "disarmed"
    if memory.fired_at and closed_at - memory.fired_at < rule.cool_down:
        return "cool_down"
    return "most_per_day" if memory.firings >= rule.most_per_day else ""


def _hold(rule: Rule, ratios: Mapping[str, Ratio], margin: int) -> bool | None:
    """Whether the conditions hold with thresholds easier by ``margin`` basis points; None: that takes a figure which
    there is not."""
    unknown = False
    for group in rule.when:
        held: bool | None = False
        for condition in group:
            one = _compare(condition, ratios, margin)
            if one:
                held = True
                break
            if one is None:
                held = None
        if held is False:
            return False
        unknown = unknown or held is None
    return None if unknown else True


def _compare(condition: Condition, ratios: Mapping[str, Ratio], margin: int) -> bool | None:
    left = ratios[condition.metric]
    right = (condition.value, 1) if condition.other is None else ratios[condition.other]
    if left is None or right is None:
        return None
    one = left[0] * right[1] * FULL
    other = right[0] * left[1] * condition.share
    if margin:
        one *= FULL
        easier = abs(other) * margin
        other = other * FULL + (easier if "<" in condition.operator else -easier if ">" in condition.operator else 0)
    match condition.operator:
        case "<":
            return one < other
        case "<=":
            return one <= other
        case ">":
            return one > other
        case ">=":
            return one >= other
        case _:
            return one == other


def _change(action: Action, entity: Entity, memory: Memory) -> tuple[int | None, int | None, Reason]:
    """Before, after, and what clamped the step, or why there is none: then both are the same, or None."""
    if action.by is None:
        return None, None, ""
    before = entity.daily_budget if action.do == "budget" else entity.bid
    if before is None:
        return None, None, "no_budget" if action.do == "budget" else "no_bid"
    step = before * abs(action.by) // FULL
    if step == 0:
        return before, before, "too_small"
    rooms: list[tuple[int, Reason]] = []
    if action.by > 0:
        if action.ceiling is not None:
            rooms.append((action.ceiling - before, "ceiling"))
        if action.do == "budget" and entity.total_budget is not None:
            rooms.append((entity.total_budget - before, "total_budget"))
    elif action.floor is not None:
        rooms.append((before - action.floor, "floor"))
    if action.daily_cap is not None:
        base = memory.base or before
        rooms.append((base * action.daily_cap // FULL - memory.changed, "daily_cap"))
    reason: Reason = ""
    for room, limit in rooms:
        if max(room, 0) < step:
            step, reason = max(room, 0), limit
    return before, before + (step if action.by > 0 else -step), reason


def _fired(rule: Rule, memory: Memory, before: int | None, after: int | None, closed_at: int) -> Memory:
    changed = 0 if before is None or after is None else abs(after - before)
    base = memory.base or before or 0
    return Memory(
        closed_at,
        rule.hysteresis is None,
        closed_at,
        memory.day,
        memory.firings + 1,
        base,
        memory.changed + changed,
    )


def _outrank(rows: Sequence[_Row], only_others: bool = False) -> None:
    """Settles conflicts among rows that want to act: a pause beats everything of the entity and, of a campaign, of its
    ad groups; else of several that want to change the same, the higher priority, then the lower rule id, does it.

    ``only_others``: only rows of rules that do not act lose.
    """
    first: dict[tuple[Key, Kind], str] = {}
    for row in sorted(rows, key=lambda row: (-row.rule.priority, row.rule.id)):
        first.setdefault((row.decision.entity, row.decision.kind), row.rule.id)
    for row in rows:
        if only_others and row.rule.mode == "act":
            continue
        decision = row.decision
        by = first[decision.entity, decision.kind]
        if decision.kind != "pause":
            campaign = Key(decision.entity.platform, decision.entity.campaign_id)
            by = first.get((decision.entity, "pause")) or first.get((campaign, "pause")) or by
        if by != row.rule.id:
            row.decision = decision._replace(outcome="skipped", reason="outranked", by=by, after=decision.before)


def _local(moment: int, zone: str) -> datetime:
    return datetime.fromtimestamp(moment // 1000, UTC).astimezone(_zone(zone))


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=4096)
def _midnight(day: date, zone: str) -> int:
    """When a local day begins, UTC ms."""
    return int(datetime.combine(day, time(), _zone(zone)).timestamp()) * 1000
