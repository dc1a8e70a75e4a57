"""The oracle of rules and the agent, both on a campaign log made up: two minds, one opinion."""

import io
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.campaigns import CAMPAIGNS, GROUPS, platform, rules, told_campaigns
from chaos.rule_oracle import FIGURES, Book, condition, length, money, ms, percent
from pipeline import campaign_log
from pipeline.block import Block
from pipeline.campaign_log import CampaignLog
from pipeline.folds.rules import Rules

MINUTE = 60_000
NOW = 1_768_881_600_000
"""Noon in Shanghai, UTC ms."""
SOURCES = 2
Row = dict[str, Any]


def message(**head: Any) -> bytes:
    return orjson.dumps({"database": "d", **head}) + b"\n"


class Source:
    """A partition of ``ad_events``, as agent ``campaign_facts`` would tell of it."""

    def __init__(self, number: int, rng: Random, pace: int) -> None:
        self.number = number
        self.rng = rng
        self.pace = pace
        self.next = 0
        self.now = NOW + rng.randrange(5 * MINUTE)
        self.sums: dict[tuple[str, str, int], list[int]] = {}
        self.changed: set[tuple[str, str, int]] = set()

    def go_on(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(40)):
            self.next += 1
            self.now += rng.randrange(self.pace)
            at = (self.now - rng.choice([0, 0, 0, rng.randrange(3 * MINUTE)])) // MINUTE * MINUTE
            key = (rng.choice(CAMPAIGNS), rng.choice(GROUPS), at)
            sums = self.sums.setdefault(key, [0] * 6)
            kind = rng.choice([0, 0, 0, 0, 1, 2, 3])
            sums[kind] += 1
            sums[4] += (rng.choice([9_000, 9_000, 14_000]) + 6_000 * (at // MINUTE % 5 == 0)) if kind == 0 else 0
            sums[5] += rng.randrange(90_000) if kind == 3 else 0
            self.changed.add(key)

    def told(self) -> bytes:
        rows = [
            {"platform": platform(name), "creator_id": f"of-{name}", "campaign_id": name, "ad_group_id": group}
            | {"minute": at}
            | dict(zip(FIGURES, self.sums[name, group, at], strict=True))
            for name, group, at in sorted(self.changed)
        ]
        self.changed = set()
        body = io.BytesIO()
        if rows:
            pl.DataFrame(rows, schema=campaign_log.FIGURES).write_ipc_stream(body)
        reached = self.now - MINUTE if self.next else None
        oldest = self.now - 3 * 60 * MINUTE if self.rng.random() < 0.7 and self.next else None
        head = {"partition": self.number, "start": 0, "next": self.next, "reached": reached, "oldest": oldest}
        return message(**head) + body.getvalue()


def made_log(rng: Random, size: int) -> list[bytes]:
    unit = rng.choice(["minute", "minute", "hour", "day"])
    pace = {"minute": 20_000, "hour": 10 * MINUTE, "day": 180 * MINUTE}[unit]
    sources = [Source(number, rng, pace) for number in range(SOURCES)]
    log = [message(change="campaigns", by="me", campaigns=told_campaigns(unit))]
    log.append(message(change="rules", by="me", rules=[*rules(unit), *(rules("hour")[:2] if unit != "hour" else [])]))
    for number in range(size):
        source = rng.choice(sources)
        source.go_on()
        log.append(source.told())
        if rng.random() < 0.1:
            log.append(rng.choice(log))
        if rng.random() < 0.1:
            told = rng.choice(rules(unit, number))
            log.append(message(change="rules", by="you", rules=[told]))
        if rng.random() < 0.1:
            log.append(message(change="campaigns", by="you", campaigns=told_campaigns(unit, number)[number % 3 :: 2]))
        if rng.random() < 0.1:
            name = f"{unit}-{rng.choice(['grow', 'raise', 'nothing'])}"
            log.append(message(change="switch", by="you", rule_id=name, enabled=rng.random() < 0.7))
        if rng.random() < 0.01:
            source.now += rng.choice([60 * MINUTE, 3 * 24 * 60 * MINUTE, 40 * 24 * 60 * MINUTE])
    return log


def of_agent(log: list[bytes], rng: Random) -> dict[str, list[Row]]:
    """What the agent stores."""
    fold = Rules("d", 0, SOURCES)
    reader = CampaignLog(0, "d", {"rules": fold}, {"rules": 0}, 0)
    tables: dict[str, list[Row]] = {}
    for at, each in enumerate(log):
        offsets = np.array([at])
        fold.apply(reader._judge(Block("campaign_facts", 0, at, at + 1, offsets, appended(offsets), [each])).rows)
        if rng.random() < 0.5 or at == len(log) - 1:
            while not fold.settle(10**9):
                pass
            for name, frame in fold.take().items():
                tables.setdefault(name, []).extend(frame.to_dicts())
    return tables


def appended(offsets: Any) -> Any:
    return offsets * 1000 + NOW + 90 * 24 * 60 * MINUTE


def of_oracle(log: list[bytes]) -> Book:
    book = Book(0, SOURCES, lambda *where: campaign_log.partition_of(*where, SOURCES))
    for at, each in enumerate(log):
        line, _, body = each.partition(b"\n")
        rows = pl.read_ipc_stream(body).rows(named=True) if body else []
        book.read(at, int(appended(at)), orjson.loads(line), rows)
    return book


def ms_of(moment: Any) -> int:
    return int(moment.timestamp() * 1000)


def compared(seed: int, size: int) -> Counter[str]:
    """Compares both; how often each outcome and reason was there."""
    rng = Random(seed)
    log = made_log(rng, size)
    tables, book = of_agent(log, rng), of_oracle(log)
    found = {}
    for row in tables.get("rule_decisions", []):
        key = (row["rule_id"], (row["platform"], row["campaign_id"], row["ad_group_id"]), ms_of(row["closed_at"]))
        assert key not in found
        guards = zip(row["guards"], row["guard_wants"], row["guard_found"], map(bool, row["guard_holds"]), strict=True)
        found[key] = (
            *(row["rule_version"], row["mode"], row["action"], row["outcome"], row["reason"], row["outranked_by"]),
            *(row["before_micros"], row["after_micros"], ms_of(row["window_start"]), ms_of(row["window_end"])),
            *(dict(zip(row["metrics"], row["metric_values"], strict=True)), list(guards), row["applied"]),
        )
    wanted = {
        key: (
            *(each.version, each.mode, each.action, each.outcome, each.reason, each.by, each.before, each.after),
            *(*each.window, each.figures, each.guards, applied),
        )
        for key, (each, applied, _) in book.decisions.items()
    }
    for key in sorted(found.keys() | wanted.keys(), key=lambda key: (key[2], key)):
        assert found.get(key) == wanted.get(key), key
    state = {}
    for row in tables.get("rule_state", []):
        place = (row["kind"], ms_of(row["minute"]), row["platform"], row["campaign_id"], row["ad_group_id"])
        state[(*place, row["rule_id"], row["source"])] = (row["numbers"], row["applied"])
    for kind, numbers in (
        ("memory", {(*key, rule_id): (m.numbers, m.applied) for (rule_id, key), m in book.memories.items()}),
        ("entity", {(*key, ""): (
            [e.budget, e.total, e.bid, e.target, e.created, int(e.listed)], e.applied
        ) for key, e in book.entities.items()}),
    ):  # fmt: skip
        have = {key[2:6]: value for key, value in state.items() if key[0] == kind}
        assert have == {key: value for key, value in numbers.items() if value[1] >= 0}
    minutes = {(key[6], key[1], key[2:5]): value for key, value in state.items() if key[0] == "minute"}
    assert minutes == {key: (list(sums), at) for key, (sums, at) in book.minutes.items()}
    made = [each for each, *_ in book.decisions.values()]
    return Counter(name for each in made for name in (each.outcome, each.reason) if name)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**63))
def test_the_oracle_and_the_agent_decide_the_same(seed: int) -> None:
    compared(seed, Random(seed).randint(5, 60))


def test_nearly_every_reason_is_tried() -> None:
    """The test above would prove little if hardly anything were decided."""
    found: Counter[str] = Counter()
    for seed in range(4):
        found += compared(seed, 80)
    reasons = (
        *("fired", "clamped", "notified", "dry_run", "skipped", "not_active", "not_paused", "schedule", "stale"),
        *("guards", "no_figure", "conditions", "disarmed", "cool_down", "most_per_day", "no_budget", "no_bid"),
        *("ceiling", "floor", "total_budget", "daily_cap", "too_small", "outranked"),
    )
    assert [name for name in reasons if not found[name]] == []


def test_what_is_written_is_read() -> None:
    assert [money("12.50 yuan"), money("1,000 yuan"), money("7 micros"), money(None)] == [12_500_000, 10**9, 7, None]
    assert [percent("2.5%", 4), percent("-15%", 2), percent("+0.01%", 2)] == [25_000, -1500, 1]
    assert (length("1 day"), length("30 minutes"), ms("2 hours")) == ((1, "day"), (30, "minute"), 7_200_000)
    assert vars(condition("spend >= 80% of daily_budget"))["share"] == 8000
    assert vars(condition("cpa > target_cpa"))["other"] == "target_cpa"
    assert vars(condition("roi < -50%"))["value"] == -500_000


@pytest.mark.parametrize("unit", ["minute", "hour", "day"])
def test_rules_of_the_harness_are_rules(unit: str) -> None:
    for turn in range(3):
        value = message(change="rules", by="me", rules=rules(unit, turn))
        assert isinstance(campaign_log.decode(value), campaign_log.RuleChange)
        campaigns = message(change="campaigns", by="me", campaigns=told_campaigns(unit, turn))
        assert isinstance(campaign_log.decode(campaigns), campaign_log.CampaignChange)
