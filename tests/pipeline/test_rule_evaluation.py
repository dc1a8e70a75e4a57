"""Budget rules against a plain reading of what they say, with fractions; and what never happens, over any windows."""

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rules import (
    METRICS,
    REASONS,
    Decision,
    Entity,
    Evaluation,
    Key,
    Memory,
    Outcome,
    Span,
    Sums,
    apply,
    due,
    entities,
    evaluate,
    span,
)
from schemas import rules as schema
from schemas.rules import Campaign, Rule

HOUR = 3_600_000
ZONE = ZoneInfo("Asia/Shanghai")
BEGIN = int(datetime(2026, 1, 19, 12, tzinfo=ZONE).timestamp()) * 1000
"""Noon of a Monday in Shanghai."""
YUAN = 1_000_000


def rule(**changed: Any) -> Rule:
    made: dict[str, Any] = {
        "id": "r",
        "name": "Rule",
        "owner": "lin",
        "mode": "act",
        "level": "campaign",
        "when": ["cpm < 10 yuan"],
        "window": {"last": "1 hour"},
        "cool_down": "1 hour",
        "most_per_day": 24,
        "action": {"do": "budget", "by": "+20%", "ceiling": "1000 yuan"},
    }
    return Rule.model_validate(made | changed)


PAUSE = {"do": "pause"}
CAMPAIGN = Entity(Key("douyin", "c1"), "a", daily_budget=100 * YUAN, bid=YUAN)
CHEAP, DEAR = Sums(impressions=1000, cost=5 * YUAN), Sums(impressions=1000, cost=50 * YUAN)
World = dict[tuple[Key, int], Sums]
"""Sums of an entity in the hour that begins at a moment."""


def figures(rules: Sequence[Rule], world: World, closed_at: int) -> dict[Span, dict[Key, Sums]]:
    """Sums of every window that closes; all of them are whole hours."""
    found: dict[Span, dict[Key, Sums]] = {}
    for each in rules:
        if due(each, closed_at):
            window = span(each, closed_at)
            own = found[window] = {}
            for key, hour in world:
                if window.start <= hour < window.end:
                    own[key] = Sums(*map(sum, zip(own.get(key, Sums()), world[key, hour], strict=True)))
    return found


def run(
    rules: Sequence[Rule], known: Sequence[Entity], world: World, closings: Sequence[int], late: int = 0
) -> Iterator[tuple[list[Entity], Evaluation]]:
    """Evaluates window after window, and does what comes out: the entities before, and what came out."""
    memories: dict[tuple[str, Key], Memory] = {}
    now = list(known)
    for closed_at in closings:
        found = evaluate(rules, now, figures(rules, world, closed_at), memories, closed_at, closed_at + late)
        yield now, found
        memories |= found.memories
        now = apply(now, found.acts)


def one(made: Rule, sums: Sums, entity: Entity = CAMPAIGN, late: int = 0) -> Decision:
    """The decision on a single window."""
    world = {(entity.key, BEGIN - HOUR): sums}
    [(_, found)] = run([made], [entity], world, [BEGIN], late)
    [decision] = found.decisions
    return decision


class Reference:
    """Rules evaluated as they read: fractions, and a list of everything that has fired."""

    def __init__(self) -> None:
        self.firings: dict[tuple[str, Key], list[tuple[int, int, int]]] = defaultdict(list)
        self.disarmed: set[tuple[str, Key]] = set()
        self.last: dict[tuple[str, Key], int] = {}

    def decide(
        self, rules: Sequence[Rule], known: Sequence[Entity], world: World, closed_at: int, now: int
    ) -> dict[tuple[str, Key], tuple[str, str, int | None, int | None, str]]:
        """Outcome, reason, before, after and who outranked it, by rule and entity."""
        found: dict[tuple[str, Key], tuple[str, str, int | None, int | None, str]] = {}
        wanting = []
        for each in rules:
            local = datetime.fromtimestamp(closed_at / 1000, ZONE)
            if each.window.last.unit == "day" and (local.hour, local.minute) != (0, 0):
                continue
            for entity in known:
                if bool(entity.key.ad_group_id) != (each.level == "ad_group"):
                    continue
                scope = each.scope
                if scope.platforms and entity.key.platform not in scope.platforms:
                    continue
                if scope.campaigns and entity.key.campaign_id not in scope.campaigns:
                    continue
                who = (each.id, entity.key)
                reason, before, after = self.one(each, entity, world, closed_at, now, local)
                fires = not reason or (after is not None and after != before)
                name = {"act": "clamped" if reason else "fired", "notify": "notified", "dry_run": "dry_run"}[each.mode]
                found[who] = (name if fires else "skipped", reason, before, after, "")
                self.last[who] = max(closed_at, self.last.get(who, 0))
                if fires:
                    wanting.append((each, entity))
        rank = sorted(wanting, key=lambda pair: (-pair[0].priority, pair[0].id))
        losers: list[tuple[Rule, Entity, str]] = []
        for each, entity in wanting:
            rivals = [pair for pair in rank if pair[0].mode == "act"] if each.mode == "act" else list(rank)
            if each.mode != "act":
                gone = {(loser.id, group.key) for loser, group, _ in losers if loser.mode == "act"}
                gone |= {
                    (other.id, rival.key)
                    for other, rival in rank
                    if other.mode == "act" and self.beaten(other, rival, [p for p in rank if p[0].mode == "act"])
                }
                rivals = [(other, rival) for other, rival in rivals if (other.id, rival.key) not in gone]
            by = self.beaten(each, entity, rivals)
            if by:
                losers.append((each, entity, by))
        for each, entity, by in losers:
            _, _, before, _, _ = found[each.id, entity.key]
            found[each.id, entity.key] = ("skipped", "outranked", before, before, by)
        for each, entity in wanting:
            outcome, _, before, after, _ = found[each.id, entity.key]
            if outcome != "skipped":
                self.firings[each.id, entity.key].append((closed_at, before or 0, after or 0))
                if each.hysteresis is not None:
                    self.disarmed.add((each.id, entity.key))
        return found

    @staticmethod
    def beaten(each: Rule, entity: Entity, rank: Sequence[tuple[Rule, Entity]]) -> str:
        """By which rule of those that want something; best first."""
        campaign = Key(entity.key.platform, entity.key.campaign_id)
        if each.action.do != "pause":
            for where in (entity.key, campaign):
                for other, rival in rank:
                    if other.action.do == "pause" and rival.key == where:
                        return other.id
        for other, rival in rank:
            if other.action.do == each.action.do and rival.key == entity.key:
                return "" if other.id == each.id else other.id
        return ""

    def one(
        self, each: Rule, entity: Entity, world: World, closed_at: int, now: int, local: datetime
    ) -> tuple[str, int | None, int | None]:
        """Why not, before, after; why a step is cut if they differ."""
        who = (each.id, entity.key)
        length, skip = each.window.last.ms, each.window.skip.ms if each.window.skip else 0
        start, end = closed_at - skip - length, closed_at - skip
        hours = [sums for (key, hour), sums in world.items() if key == entity.key and start <= hour < end]
        shown, clicks, plays, conversions, cost, value = (sum(each[i] for each in hours) for i in range(6))
        have = {
            "impressions": Fraction(shown),
            "clicks": Fraction(clicks),
            "plays": Fraction(plays),
            "conversions": Fraction(conversions),
            "spend": Fraction(cost),
            "conversion_value": Fraction(value),
            "cpm": Fraction(cost * 1000, shown) if shown else None,
            "cpc": Fraction(cost, clicks) if clicks else None,
            "cpa": Fraction(cost, conversions) if conversions else None,
            "ctr": Fraction(clicks, shown) * 10**6 if shown else None,
            "cvr": Fraction(conversions, clicks) * 10**6 if clicks else None,
            "roas": Fraction(value, cost) * 10**6 if cost else None,
            "roi": Fraction(value - cost, cost) * 10**6 if cost else None,
            "daily_budget": None if entity.daily_budget is None else Fraction(entity.daily_budget),
            "bid": None if entity.bid is None else Fraction(entity.bid),
            "target_cpa": None if entity.target_cpa is None else Fraction(entity.target_cpa),
        }
        wants = each.guards
        good = shown >= wants.impressions and cost >= wants.spend and conversions >= wants.conversions
        if wants.age:
            good = good and entity.created_at is not None and closed_at - entity.created_at >= wants.age
        late = wants.staleness is not None and now - closed_at > wants.staleness
        held = self.holds(each, have, Fraction(0))
        if closed_at <= self.last.get(who, 0):
            return "evaluated", None, None
        if good and not late and self.holds(each, have, Fraction(each.hysteresis or 0, 10_000)) is False:
            self.disarmed.discard(who)
        if entity.state == "ended":
            return "ended", None, None
        if each.action.do == "resume" and entity.state != "paused":
            return "not_paused", None, None
        if each.action.do != "resume" and entity.state != "active":
            return "not_active", None, None
        days, hours_of = each.schedule.days, each.schedule.hours
        if days and ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[local.weekday()] not in days:
            return "schedule", None, None
        if hours_of and not hours_of.has(local.hour * 60 + local.minute):
            return "schedule", None, None
        if late:
            return "stale", None, None
        if not good:
            return "guards", None, None
        if held is not True:
            return "conditions" if held is False else "no_figure", None, None
        if who in self.disarmed:
            return "disarmed", None, None
        firings = self.firings[who]
        if firings and closed_at - firings[-1][0] < each.cool_down:
            return "cool_down", None, None
        today = [one for one in firings if datetime.fromtimestamp(one[0] / 1000, ZONE).date() == local.date()]
        if len(today) >= each.most_per_day:
            return "most_per_day", None, None
        return self.step(each, entity, today)

    @staticmethod
    def step(each: Rule, entity: Entity, today: Sequence[tuple[int, int, int]]) -> tuple[str, int | None, int | None]:
        action = each.action
        if action.by is None:
            return "", None, None
        before = entity.daily_budget if action.do == "budget" else entity.bid
        if before is None:
            return f"no_{action.do}", None, None
        size = int(before * Fraction(abs(action.by), 10_000))
        if not size:
            return "too_small", before, before
        base = today[0][1] if today else before
        limits = [
            ("ceiling", action.ceiling - before if action.ceiling is not None and action.by > 0 else None),
            (
                "total_budget",
                entity.total_budget - before
                if entity.total_budget is not None and action.by > 0 and action.do == "budget"
                else None,
            ),
            ("floor", before - action.floor if action.floor is not None and action.by < 0 else None),
            (
                "daily_cap",
                int(base * Fraction(action.daily_cap, 10_000)) - sum(abs(after - own) for _, own, after in today)
                if action.daily_cap is not None
                else None,
            ),
        ]
        least = min((room for _, room in limits if room is not None), default=size)
        least = max(least, 0)
        if least >= size:
            return "", before, before + size if action.by > 0 else before - size
        why = next(name for name, room in limits if room is not None and max(room, 0) == least)
        return why, before, before + least if action.by > 0 else before - least

    @staticmethod
    def holds(each: Rule, have: dict[str, Fraction | None], margin: Fraction) -> bool | None:
        groups = []
        for group in each.when:
            said = []
            for condition in group:
                left = have[condition.metric]
                right = (
                    Fraction(condition.value)
                    if condition.other is None
                    else None
                    if have[condition.other] is None
                    else (have[condition.other] or Fraction(0)) * Fraction(condition.share, 10_000)
                )
                if left is None or right is None:
                    said.append(None)
                    continue
                easier = abs(right) * margin
                said.append(
                    {
                        "<": left < right + easier,
                        "<=": left <= right + easier,
                        ">": left > right - easier,
                        ">=": left >= right - easier,
                        "=": left == right,
                    }[condition.operator]
                )
            groups.append(True if True in said else None if None in said else False)
        return False if False in groups else None if None in groups else True


KEYS = (Key("douyin", "c1"), Key("kuaishou", "c1"), Key("douyin", "c1", "g1"), Key("douyin", "c1", "g2"))
CONDITIONS = [
    "cpm < 20 yuan", "cpm >= 5 yuan", "cpc <= 1 yuan", "cpa > target_cpa", "cpa < 150% of target_cpa", "ctr > 1%",
    "cvr >= 10%", "roas > 100%", "roi > -50%", "roi < 0%", "conversions = 0", "conversions < 2", "impressions > 20",
    "spend >= 1% of daily_budget", "plays >= 0", "bid < cpc", "conversion_value > spend", "clicks <= impressions",
]  # fmt: skip
HYSTERESIS: list[dict[str, Any]] = [{}, {}, {"hysteresis": "5%"}, {"hysteresis": "50%"}]
GUARDS: list[dict[str, Any]] = [
    {}, {}, {}, {"impressions": 10}, {"spend": "1 yuan", "age": "6 hours"}, {"staleness": "1 hour"}
]  # fmt: skip
SCHEDULES: list[dict[str, Any]] = [{}, {}, {}, {"hours": "22:00-20:00"}, {"days": ["mon", "tue", "thu"]}]
SCOPES: list[dict[str, Any]] = [{}, {}, {"platforms": ["douyin"]}, {"campaigns": ["c1"]}]
WINDOWS = [(1, "hour"), (3, "hour"), (60, "minute"), (120, "minute"), (1, "day")]


def made_rules(drawn: random.Random) -> list[Rule]:
    """Some rules, of which many fire, compete and come to their limits."""
    found = []
    for number in drawn.sample(range(30), drawn.randint(1, 8)):
        last, unit = drawn.choice(WINDOWS)
        skip = drawn.choice([0, 0, 0, 60 if unit == "minute" else 1])
        action = made_action(drawn)
        rest = (last + skip) * {"minute": 1, "hour": 60, "day": 1440}[unit]
        made = {
            "id": f"r{number}",
            "mode": drawn.choice(["act", "act", "act", "dry_run", "notify"]),
            "level": drawn.choice(["campaign", "campaign", "ad_group"]),
            "when": [made_group(drawn) for _ in range(drawn.choice([1, 1, 2]))],
            "window": {"last": f"{last} {unit}s"} | ({"skip": f"{skip} {unit}s"} if skip else {}),
            "guards": drawn.choice(GUARDS),
            "cool_down": f"{rest + drawn.choice([0, 0, 60, 150])} minutes" if "by" in action else "0 minutes",
            "most_per_day": drawn.choice([1, 3, 24, 24]),
            "action": action,
            "priority": drawn.randint(0, 2),
            "schedule": drawn.choice(SCHEDULES),
            "scope": drawn.choice(SCOPES),
            "notify": ["ads-ops"],
            **drawn.choice(HYSTERESIS),
        }
        try:
            found.append(rule(**made))
        except ValueError:
            # Conditions that contradict each other, or the guards.
            found.append(rule(**(made | {"when": ["plays >= 0"]})))
    return found


def made_group(drawn: random.Random) -> Any:
    if drawn.random() < 0.3:
        return drawn.choice(CONDITIONS)
    return {"any": drawn.sample(CONDITIONS, drawn.randint(2, 4))}


def made_action(drawn: random.Random) -> dict[str, Any]:
    kind = drawn.choice(["budget"] * 5 + ["bid"] * 4 + ["pause", "resume", "resume"])
    if kind in ("pause", "resume"):
        return {"do": kind}
    by = drawn.choice([1, 10, 33, 90])
    action: dict[str, Any] = {"do": kind, "by": f"+{by}%", "ceiling": f"{drawn.randrange(10**8, 10**9)} micros"}
    if drawn.random() < 0.4:
        action = {"do": kind, "by": f"-{by}%", "floor": f"{drawn.choice([0, 10**6, 10**8])} micros"}
    return action | ({"daily_cap": f"{by + drawn.choice([0, 1, 50])}%"} if drawn.random() < 0.5 else {})


def made_entities(drawn: random.Random) -> list[Entity]:
    """Some campaigns and ad groups; of most everything is known."""

    def amount(chance: float = 0.9) -> int | None:
        return (
            drawn.choice([7, 10**8, *(drawn.randrange(10**7, 2 * 10**8) for _ in range(8))])
            if drawn.random() < chance
            else None
        )

    return [
        Entity(
            key,
            "a",
            drawn.choices(["active", "paused", "ended"], [12, 2, 1])[0],  # type: ignore[arg-type]
            amount(),
            amount(0.15) if not key.ad_group_id else None,
            amount(),
            amount(),
            drawn.choice([None, 0, 0, BEGIN + 3 * HOUR]),
        )
        for key in drawn.sample(KEYS, drawn.randint(2, len(KEYS)))
    ]


def made_world(drawn: random.Random, hours: int) -> World:
    """Sums of every hour, from two days before; odd ones, and hours without any, too."""
    return {
        (key, BEGIN + hour * HOUR): Sums(
            drawn.choice((0, 10, 100, 1000)),
            drawn.choice((0, 1, 20)),
            drawn.choice((0, 5)),
            drawn.choice((0, 0, 1, 3)),
            drawn.choice((0, YUAN, 10 * YUAN)),
            drawn.choice((0, 0, 5 * YUAN, 50 * YUAN)),
        )
        for key in KEYS
        for hour in range(-50, hours)
        if drawn.random() < 0.8
    }


Case = tuple[list[Rule], list[Entity], World, list[int]]


def made(seed: int) -> Case:
    """Rules, entities, their figures, and the hours that close."""
    drawn = random.Random(seed)
    hours = drawn.randint(1, 40)
    closings = [BEGIN + hour * HOUR for hour in range(hours)]
    return made_rules(drawn), made_entities(drawn), made_world(drawn, hours), closings


SEEDS = st.integers(0, 2**40)
"""Drawn from a seed rather than by hypothesis, whose small cases hardly ever fire."""


@settings(max_examples=250, deadline=None)
@given(SEEDS, st.sampled_from([0, 0, 2 * HOUR]))
def test_decisions_are_those_of_a_plain_reading(seed: int, late: int) -> None:
    rules, known, world, closings = made(seed)
    reference = Reference()
    for closed_at, (now, found) in zip(closings, run(rules, known, world, closings, late), strict=True):
        wanted = reference.decide(rules, now, world, closed_at, closed_at + late)
        given_ = {
            (each.rule_id, each.entity): (each.outcome, each.reason, each.before, each.after, each.by)
            for each in found.decisions
        }
        assert given_ == wanted
        assert [(act.rule_id, act.entity, act.before, act.after) for act in found.acts] == [
            (*who, each[2], each[3]) for who, each in sorted(wanted.items()) if each[0] in ("fired", "clamped")
        ]


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_limits_hold_over_any_windows(seed: int) -> None:
    rules, known, world, closings = made(seed)
    fired: dict[tuple[str, Key], list[Decision]] = defaultdict(list)
    for _, found in run(rules, known, world, closings):
        for each in found.decisions:
            if each.outcome != "skipped":
                fired[each.rule_id, each.entity].append(each)
        kinds = [(act.entity, act.kind) for act in found.acts]
        assert len(set(kinds)) == len(kinds)
        paused = {act.entity for act in found.acts if act.kind == "pause"}
        assert not [act for act in found.acts if act.kind != "pause" and (act.entity in paused)]
        assert not [
            act
            for act in found.acts
            if act.kind != "pause" and (act.entity[:2] in {key[:2] for key in paused if not key.ad_group_id})
        ]
    for each in rules:
        for (name, _), firings in fired.items():
            if name != each.id:
                continue
            closed = [one.closed_at for one in firings]
            assert all(after - before >= each.cool_down for before, after in itertools.pairwise(closed))
            days: dict[Any, list[Decision]] = defaultdict(list)
            for one in firings:
                days[datetime.fromtimestamp(one.closed_at / 1000, ZONE).date()].append(one)
            for own in days.values():
                assert len(own) <= each.most_per_day
                if each.action.by is None:
                    continue
                steps = [(one.before or 0, one.after or 0) for one in own]
                assert all(abs(after - before) * 10_000 <= before * abs(each.action.by) for before, after in steps)
                if each.action.daily_cap is not None:
                    changed = sum(abs(after - before) for before, after in steps)
                    assert changed * 10_000 <= steps[0][0] * each.action.daily_cap
                if each.action.by > 0:
                    assert all(before < after <= (each.action.ceiling or 0) for before, after in steps)
                else:
                    assert all(before > after >= (each.action.floor or 0) for before, after in steps)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.randoms(use_true_random=False))
def test_order_does_not_matter(seed: int, drawn: random.Random) -> None:
    rules, known, world, closings = made(seed)
    other_rules, other_known = drawn.sample(rules, len(rules)), drawn.sample(known, len(known))
    one = [found for _, found in run(rules, known, world, closings)]
    other = [found for _, found in run(other_rules, other_known, world, closings)]
    assert one == other


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 39))
def test_a_window_fires_once(seed: int, back: int) -> None:
    rules, known, world, closings = made(seed)
    memories: dict[tuple[str, Key], Memory] = {}
    now = list(known)
    for number, closed_at in enumerate(closings):
        found = evaluate(rules, now, figures(rules, world, closed_at), memories, closed_at, closed_at)
        # Whoever evaluates it again with what was remembered before comes to the same, under the same keys.
        assert evaluate(rules, now, figures(rules, world, closed_at), memories, closed_at, closed_at) == found
        memories |= found.memories
        for before in {closed_at, closings[max(0, number - back)]}:
            again = evaluate(rules, now, figures(rules, world, before), memories, before, before)
            assert {each.reason for each in again.decisions} <= {"evaluated"}
            assert again.acts == []
            assert all(memories[who] == memory for who, memory in again.memories.items())
        now = apply(now, found.acts)


def test_pause_beats_raise_and_priority_beats_id() -> None:
    rules = [
        rule(id="a-raise", priority=100),
        rule(id="b-raise", priority=200),
        rule(id="c-bid", action={"do": "bid", "by": "+10%", "ceiling": "5 yuan"}),
        rule(id="group", level="ad_group"),
    ]
    group = Entity(Key("douyin", "c1", "g1"), "a", daily_budget=YUAN)
    world = {(CAMPAIGN.key, BEGIN - HOUR): CHEAP, (group.key, BEGIN - HOUR): CHEAP}
    [(_, found)] = run(rules, [CAMPAIGN, group], world, [BEGIN])
    assert [(act.rule_id, act.kind) for act in found.acts] == [
        ("b-raise", "budget"),
        ("c-bid", "bid"),
        ("group", "budget"),
    ]
    first = found.decisions[0]
    assert (first.outcome, first.reason, first.by) == ("skipped", "outranked", "b-raise")
    [(_, found)] = run([*rules, rule(id="z-pause", priority=-100, action=PAUSE)], [CAMPAIGN, group], world, [BEGIN])
    assert [(act.rule_id, act.kind) for act in found.acts] == [("z-pause", "pause")]
    assert [each.by for each in found.decisions] == ["z-pause"] * 4 + [""]
    assert [found.memories[name, CAMPAIGN.key].firings for name in ("a-raise", "b-raise", "z-pause")] == [0, 0, 1]


def test_a_dry_run_stops_nobody_and_says_who_would_stop_it() -> None:
    world = {(CAMPAIGN.key, BEGIN - HOUR): CHEAP}
    rules = [rule(id="dry", mode="dry_run", priority=9, action=PAUSE), rule(id="real"), rule(id="shy", mode="dry_run")]
    [(_, found)] = run(rules, [CAMPAIGN], world, [BEGIN])
    assert [(each.rule_id, each.outcome, each.by) for each in found.decisions] == [
        ("dry", "dry_run", ""),
        ("real", "fired", ""),
        ("shy", "skipped", "dry"),
    ]
    [(_, found)] = run([rule(id="n", mode="notify", notify="ops")], [CAMPAIGN], world, [BEGIN])
    assert ([each.outcome for each in found.decisions], found.acts) == (["notified"], [])


@pytest.mark.parametrize(
    ("changed", "sums", "outcome", "reason"),
    [
        ({}, CHEAP, "fired", ""),
        ({}, DEAR, "skipped", "conditions"),
        ({}, Sums(cost=5), "skipped", "no_figure"),
        ({}, Sums(impressions=1000, cost=10 * YUAN), "skipped", "conditions"),
        ({"when": ["cpm <= 10 yuan"]}, Sums(impressions=1000, cost=10 * YUAN), "fired", ""),
        ({"when": ["cpm <= 10 yuan"]}, Sums(impressions=3000, cost=30 * YUAN + 1), "skipped", "conditions"),
        ({"when": [{"any": ["cpc < 1 yuan", "cpm < 10 yuan"]}]}, CHEAP, "fired", ""),
        ({"when": [{"any": ["cpc < 1 yuan", "cpm > 10 yuan"]}]}, CHEAP, "skipped", "no_figure"),
        ({"when": ["roi >= -100%"]}, CHEAP, "fired", ""),
        ({"when": ["spend >= 5% of daily_budget"]}, CHEAP, "fired", ""),
        ({"when": ["spend > 5% of daily_budget"]}, CHEAP, "skipped", "conditions"),
        ({"when": ["cpa > target_cpa"]}, CHEAP, "skipped", "no_figure"),
        ({"guards": {"impressions": 1001}}, CHEAP, "skipped", "guards"),
        ({"guards": {"conversions": 1}}, CHEAP, "skipped", "guards"),
        ({"guards": {"spend": "5 yuan", "impressions": 1000}}, CHEAP, "fired", ""),
        ({"guards": {"age": "1 hour"}}, CHEAP, "skipped", "guards"),
        ({"guards": {"staleness": "1 minute"}}, CHEAP, "fired", ""),
        ({"schedule": {"days": ["tue"]}}, CHEAP, "skipped", "schedule"),
        ({"schedule": {"hours": "11:00-12:00"}}, CHEAP, "skipped", "schedule"),
        ({"schedule": {"hours": "12:00-13:00"}}, CHEAP, "fired", ""),
        ({"action": {"do": "resume"}}, CHEAP, "skipped", "not_paused"),
        ({"action": {"do": "budget", "by": "+20%", "ceiling": "110 yuan"}}, CHEAP, "clamped", "ceiling"),
        ({"action": {"do": "budget", "by": "+20%", "ceiling": "100 yuan"}}, CHEAP, "skipped", "ceiling"),
        ({"action": {"do": "budget", "by": "+20%", "ceiling": "90 yuan"}}, CHEAP, "skipped", "ceiling"),
        ({"action": {"do": "budget", "by": "-20%", "floor": "90 yuan"}}, CHEAP, "clamped", "floor"),
        ({"action": {"do": "bid", "by": "-20%", "floor": "1 yuan"}}, CHEAP, "skipped", "floor"),
    ],
)
def test_why_it_fires_or_not(changed: dict[str, Any], sums: Sums, outcome: str, reason: str) -> None:
    found = one(rule(**changed), sums)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_a_decision_says_all_that_it_rests_on() -> None:
    made = rule(version=3, when=["cpm < 10 yuan", {"any": ["cvr > 1%", "roi < 0%"]}], guards={"impressions": 500})
    found = one(made, Sums(impressions=1500, clicks=0, cost=5 * YUAN))
    assert found.key == f"r:douyin:c1:{BEGIN}"
    assert (found.rule_id, found.rule_version, found.mode, found.kind) == ("r", 3, "act", "budget")
    assert (found.window, found.closed_at) == (Span(BEGIN - HOUR, BEGIN), BEGIN)
    assert found.figures == {"cpm": 3_333_333, "cvr": None, "roi": -1_000_000}
    assert found.guards == (("impressions", 500, 1500, True),)
    assert (found.before, found.after) == (100 * YUAN, 120 * YUAN)
    assert str(Key("douyin", "a:b%c", "d")) == "douyin:a%3Ab%25c:d"


def test_what_is_known_of_an_entity_counts() -> None:
    made = rule(guards={"age": "1 hour", "staleness": "1 minute"})
    old = Entity(CAMPAIGN.key, "a", daily_budget=3, created_at=BEGIN - HOUR)
    assert one(made, CHEAP, old).reason == "too_small"
    assert one(made, CHEAP, old, late=60_001).reason == "stale"
    assert one(rule(), CHEAP, Entity(CAMPAIGN.key, "a")).reason == "no_budget"
    bid = rule(action={"do": "bid", "by": "+1%", "ceiling": "9 yuan"})
    assert one(bid, CHEAP, Entity(CAMPAIGN.key, "a")).reason == "no_bid"
    assert one(rule(), CHEAP, Entity(CAMPAIGN.key, "a", "paused")).reason == "not_active"
    assert one(rule(), CHEAP, Entity(CAMPAIGN.key, "a", "ended")).reason == "ended"
    capped = one(rule(), CHEAP, Entity(CAMPAIGN.key, "a", daily_budget=100, total_budget=107))
    assert (capped.outcome, capped.reason, capped.after) == ("clamped", "total_budget", 107)
    assert one(rule(), CHEAP, Entity(CAMPAIGN.key, "a", daily_budget=9)).after == 10


def test_daily_cap_and_its_new_day() -> None:
    made = rule(action={"do": "budget", "by": "+20%", "ceiling": "1000 yuan", "daily_cap": "30%"})
    closings = [BEGIN + hour * HOUR for hour in (9, 10, 11, 12, 13)]
    world = {(CAMPAIGN.key, closed_at - HOUR): CHEAP for closed_at in closings}
    told = [found.decisions[0] for _, found in run([made], [CAMPAIGN], world, closings)]
    assert [(each.outcome, each.reason, (each.after or 0) // YUAN) for each in told] == [
        ("fired", "", 120),
        ("clamped", "daily_cap", 130),
        ("skipped", "daily_cap", 130),
        ("fired", "", 156),
        ("clamped", "daily_cap", 169),
    ]


def test_hysteresis_arms_again_when_the_figures_are_clearly_better() -> None:
    made = rule(hysteresis="20%", guards={"impressions": 100})
    yuan = (5, 5, 11, 9, 12, 9, 13, None, 9)
    closings = [BEGIN + hour * HOUR for hour in range(len(yuan))]
    world = {
        (CAMPAIGN.key, closed_at - HOUR): Sums(1000, cost=cost * YUAN)
        for closed_at, cost in zip(closings, yuan, strict=True)
        if cost is not None
    }
    told = [found.decisions[0].reason or "fired" for _, found in run([made], [CAMPAIGN], world, closings)]
    assert told == [
        "fired", "disarmed", "conditions", "disarmed", "conditions", "fired", "conditions", "guards", "fired"
    ]  # fmt: skip


def test_windows_close_in_local_time() -> None:
    berlin = {"time_zone": "Europe/Berlin"}
    days = rule(window={"last": "2 days", "skip": "1 day"}, cool_down="3 days", schedule=berlin)

    def at(*local: int) -> int:
        return int(datetime(*local, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * 1000  # type: ignore[arg-type]

    assert [due(days, at(2026, 3, 30, hour)) for hour in (0, 1)] == [True, False]
    assert span(days, at(2026, 3, 31)) == (at(2026, 3, 28), at(2026, 3, 30))
    assert at(2026, 3, 30) - at(2026, 3, 29) == 23 * HOUR
    hours = rule(
        window={"last": "2 hours", "skip": "1 hour"}, cool_down="3 hours", schedule={"time_zone": "Asia/Kolkata"}
    )
    assert [due(hours, BEGIN + minutes * 60_000) for minutes in (0, 30)] == [False, True]
    assert span(hours, BEGIN) == (BEGIN - 3 * HOUR, BEGIN - HOUR)
    minutes = rule(window={"last": "30 minutes", "skip": "5 minutes"})
    assert due(minutes, BEGIN + 60_000)
    assert span(minutes, BEGIN) == (BEGIN - 35 * 60_000, BEGIN - 5 * 60_000)


@pytest.mark.parametrize(
    "zone", ["Africa/Cairo", "America/Havana", "Asia/Beirut", "America/Santiago", "Australia/Lord_Howe"]
)
def test_days_meet_where_midnight_is_skipped_or_comes_twice(zone: str) -> None:
    daily = rule(window={"last": "1 day"}, cool_down="1 day", schedule={"time_zone": zone})
    closed = int(datetime(2024, 1, 5, tzinfo=ZoneInfo(zone)).timestamp()) * 1000
    lengths = set()
    for _ in range(366):
        later = (closed + quarters * 15 * 60_000 for quarters in range(1, 27 * 4))
        following = next(at for at in later if due(daily, at))
        assert span(daily, following) == Span(closed, following)
        lengths.add(following - closed)
        closed = following
    assert len(lengths) == 3


def test_campaigns_become_entities() -> None:
    made = Campaign.model_validate(
        {
            "campaign_id": "c1",
            "platform": "douyin",
            "creator_id": "a",
            "daily_budget": "100 yuan",
            "total_budget": "900 yuan",
            "bid": "1 yuan",
            "target_cpa": "20 yuan",
            "created_at": BEGIN,
            "ad_groups": [{"ad_group_id": "g1", "state": "paused"}, {"ad_group_id": "g2", "target_cpa": "1 yuan"}],
        }
    )
    campaign, one, other = entities([made])
    assert campaign == Entity(Key("douyin", "c1"), "a", "active", 100 * YUAN, 900 * YUAN, YUAN, 20 * YUAN, BEGIN)
    assert one == Entity(Key("douyin", "c1", "g1"), "a", "paused", None, None, None, 20 * YUAN, BEGIN)
    assert (other.key.ad_group_id, other.target_cpa) == ("g2", YUAN)


def test_metrics_and_reasons_are_those_that_are_documented() -> None:
    assert list(METRICS) == list(schema.METRICS)
    assert all(REASONS.values())
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    assert [name for name in [*REASONS, *get_args(Outcome)] if f"`{name}`" not in page] == []
    order = [name for line in page.split("| reason |")[1].splitlines() for name in re.findall(r"`(\w+)`", line[:70])]
    assert list(dict.fromkeys(name for name in order if name in REASONS)) == list(REASONS)
