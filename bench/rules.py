"""Budget rules: what it costs to evaluate many rules for many campaigns, once and through a day."""

import random
import time
from collections.abc import Callable
from typing import Any

from bench.machine import conditions
from bench.result import Result
from pipeline.rules import Entity, Evaluation, Key, Memory, Sums, evaluate, span
from schemas.rules import Rule

CAMPAIGNS = 1_000
RULES = 20
WINDOWS = 5
CLOSED_AT = 1_768_881_600_000
"""Noon in Shanghai, UTC ms."""
_HOUR_MS = 3_600_000


def bench(say: Callable[[str], None]) -> Result:
    """CPU seconds of one closing at which all rules have a window, and of some in a row."""
    result = Result("rules", "python -m bench rules")
    result.conditions = conditions()
    rules, entities = made_rules(RULES), made_entities(CAMPAIGNS)
    memories: dict[tuple[str, Key], Memory] = {}
    seconds: list[float] = []
    fired = 0
    for number in range(WINDOWS):
        say(f"window {number + 1} of {WINDOWS}")
        closed_at = CLOSED_AT + number * _HOUR_MS
        figures = {span(rule, closed_at): made_sums(entities, number) for rule in rules}
        began = time.process_time()
        evaluation = evaluate(rules, entities, figures, memories, closed_at, closed_at)
        seconds.append(time.process_time() - began)
        memories |= evaluation.memories
        fired += len(evaluation.acts)
        _check(result, evaluation)
    pairs = CAMPAIGNS * RULES
    middle = sorted(seconds)[WINDOWS // 2]
    result.add(
        f"{CAMPAIGNS:,} campaigns x {RULES} rules, a closing",
        middle,
        "s",
        f"the most of {WINDOWS}: {max(seconds):.2g} s",
    )
    result.add("a rule and campaign", middle / pairs * 1e6, "us", f"{fired / pairs / WINDOWS:.2g} of them fired")
    result.check(max(seconds) < 2, "every closing in less than 2 s of CPU")
    return result


def _check(result: Result, evaluation: Evaluation) -> None:
    whole = len({decision.key for decision in evaluation.decisions}) == CAMPAIGNS * RULES
    once = len({(act.entity, act.kind) for act in evaluation.acts}) == len(evaluation.acts)
    if not (whole and once):
        result.check(False, "a decision of every rule and campaign, and one action of a kind a campaign")


def made_rules(number: int) -> list[Rule]:
    """Rules of windows of hours: raises, cuts, bids and pauses, with every kind of condition and guard."""
    return [Rule.model_validate(_rule(index)) for index in range(number)]


def _rule(index: int) -> dict[str, Any]:
    actions: list[dict[str, Any]] = [
        {"do": "budget", "by": "+20%", "ceiling": "5000 yuan", "daily_cap": "60%"},
        {"do": "budget", "by": "-15%", "floor": "50 yuan"},
        {"do": "bid", "by": "+5%", "ceiling": "3 yuan", "daily_cap": "20%"},
        {"do": "pause"},
    ]
    conditions = [
        ["cpm < 15 yuan", {"any": ["cvr > 2%", "roas > 150%"]}],
        ["cpa > 20 yuan", "spend >= 20% of daily_budget"],
        ["cpc < 0.90 yuan", "ctr > 1%"],
        ["conversions < 1", "roi < -50%"],
    ]
    return {
        "id": f"rule-{index:03}",
        "name": "Rule",
        "owner": "bench",
        "mode": "act",
        "level": "campaign",
        "when": conditions[index % 4],
        "window": {"last": f"{1 + index % 6} hours"},
        "guards": {"impressions": 100, "spend": "1 yuan", "age": "1 day"},
        "hysteresis": "10%",
        "cool_down": "6 hours",
        "action": actions[index % 4],
        "priority": index % 3,
    }


def made_entities(number: int) -> list[Entity]:
    """Active campaigns with budgets and bids."""
    drawn = random.Random(7)
    return [
        Entity(
            Key("douyin", f"campaign{index:05}"),
            f"creator{index % 100:03}",
            daily_budget=drawn.randrange(100, 3000) * 1_000_000,
            bid=drawn.randrange(200_000, 2_000_000),
            target_cpa=20_000_000,
            created_at=0,
        )
        for index in range(number)
    ]


def made_sums(entities: list[Entity], seed: int) -> dict[Key, Sums]:
    """Figures of a window."""
    drawn = random.Random(seed)
    sums = {}
    for entity in entities:
        impressions = drawn.randrange(20_000)
        clicks = impressions * drawn.randrange(4) // 100
        conversions = clicks * drawn.randrange(4) // 100
        cost = impressions * drawn.randrange(8_000, 30_000)
        value = conversions * drawn.randrange(80_000_000)
        sums[entity.key] = Sums(impressions, clicks, clicks, conversions, cost, value)
    return sums
