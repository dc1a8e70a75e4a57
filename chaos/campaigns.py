"""Campaigns and rules under faults: what people tell while load goes on, and how often each thing must have come of it.

Told are rules of windows of days and hours, which fit the weeks of a history, and, once the load is at its last hours,
rules of windows of minutes; changes of both, switches, what is told twice, and what another database is told.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from kafka import KafkaProducer
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_producer
from infra.settings import Settings

CAMPAIGNS = ("c1", "c2", "c3", "c4", "c5", "c6", "u1")
"""Campaigns whose events a feed adds; those with a u are never told."""
GROUPS = ("a", "b")
"""Ad groups of each."""
EVERY_S = 0.5
"""Seconds between two things that are told, at least."""
_PATIENCE_S = 900.0
_BY = "chaos"


def platform(name: str) -> str:
    """Platform of one of ``CAMPAIGNS``."""
    return "kuaishou" if name in ("c2", "c5") else "douyin"


def told_campaigns(unit: str, turn: int = 0) -> list[dict[str, Any]]:
    """Campaigns as people have them at a turn: budgets and bids are set back to about where they began. Bidding has
    windows of a unit."""
    bidding = {"window": {"last": f"4 {unit}s"}, "floor": "0.20 yuan", "ceiling": "5 yuan", "conversions": 1}
    steered = {"target_cpa": "0.02 yuan", "bidding": {**bidding, "mode": "act"}}
    groups: dict[str, list[dict[str, Any]]] = {
        # The second ad group is listed at times only.
        "c4": [{"ad_group_id": group} for group in GROUPS[: 1 + turn % 2]],
        "c5": [{"ad_group_id": "a", "bid": "1 yuan", "bidding": {**bidding, "mode": "dry_run"}}, {"ad_group_id": "b"}],
    }
    more: dict[str, dict[str, Any]] = {
        "c2": {"total_budget": "150 yuan"},
        "c3": {"bid": "5 micros", "created_at": int(time.time() * 1000)},
        "c5": {**steered, "bid": "1 yuan"},
        "c6": {**steered, "bid": "2 yuan"},
    }
    return [
        {
            "campaign_id": name,
            "platform": platform(name),
            "creator_id": f"of-{name}",
            "daily_budget": f"{100 + turn % 3} yuan",
            "bid": "0.80 yuan",
            **more.get(name, {}),
            "ad_groups": groups.get(name, []),
        }
        for name in CAMPAIGNS
        if not name.startswith("u")
    ]


def rules(unit: str, turn: int = 0) -> list[dict[str, Any]]:
    """Rules with windows of a unit: two that raise and one that cuts, pauses and their ends, steps of bids, one that
    tells and one that only tries."""
    own: dict[str, Any] = {"version": 1 + turn, "owner": "chaos", "mode": "act", "level": "campaign"}
    three = {"window": {"last": f"3 {unit}s"}, "cool_down": f"3 {unit}s", "most_per_day": 400}
    cheap, dear = ["cpm < 12 yuan"], ["cpm >= 12 yuan"]
    of_three = {"campaigns": ["c1", "c2", "c3", "u1"]}
    found: list[dict[str, Any]] = [
        {
            "id": "raise", **three, "when": cheap, "scope": of_three, "guards": {"impressions": 1},
            "action": {"do": "budget", "by": "+20%", "ceiling": "200 yuan", "daily_cap": "70%"},
        },
        {
            "id": "cut", **three, "when": dear, "scope": of_three, "priority": 5,
            "action": {"do": "budget", "by": "-15%", "floor": "95 yuan"},
        },
        {
            "id": "grow", **three, "when": ["impressions >= 1"], "scope": of_three, "priority": -1,
            "action": {"do": "budget", "by": "+5%", "ceiling": "150 yuan"},
        },
        {
            "id": "stop", "level": "ad_group", "when": dear, "scope": {"campaigns": ["c4"]}, "hysteresis": "10%",
            "window": {"last": f"2 {unit}s", "skip": f"1 {unit}"}, "most_per_day": 400, "action": {"do": "pause"},
        },
        {
            "id": "back", "level": "ad_group", "when": ["spend >= 0 yuan"], "scope": {"campaigns": ["c4"]},
            "window": {"last": f"1 {unit}"}, "cool_down": f"2 {unit}s", "most_per_day": 400,
            "action": {"do": "resume"},
        },
        {
            "id": "halt", "when": [{"any": ["roas < 150%", "clicks < 1"]}], "scope": {"campaigns": ["c6"]},
            "guards": {"spend": "0.01 yuan"}, "window": {"last": f"1 {unit}"}, "cool_down": f"4 {unit}s",
            "most_per_day": 400, "action": {"do": "pause"},
        },
        {
            "id": "wake", "when": ["impressions >= 0"], "scope": {"campaigns": ["c6"]}, "window": {"last": f"1 {unit}"},
            "most_per_day": 400, "action": {"do": "resume"},
        },
        {
            "id": "lower", **three, "when": ["spend >= 0.01% of daily_budget", "ctr > 1%"],
            "scope": {"platforms": ["douyin"], "campaigns": ["c1", "c3", "c6", "u1"]},
            "action": {"do": "bid", "by": "-10%", "floor": "0.60 yuan"},
        },
        {
            "id": "groups", "level": "ad_group", "when": ["impressions >= 0"], "scope": {"campaigns": ["c6", "c5"]},
            "window": {"last": f"1 {unit}"}, "cool_down": f"1 {unit}", "most_per_day": 400,
            "action": {"do": "bid", "by": "+1%", "ceiling": "9 yuan"},
        },
        {
            "id": "tell", "mode": "notify", "notify": ["people"], "when": ["cvr > 1%"], "most_per_day": 4,
            "scope": {"creators": ["of-c1", "of-u1"]}, "window": {"last": f"2 {unit}s"}, "action": {"do": "pause"},
        },
        {
            "id": "try", "mode": "dry_run", **three, "when": ["cpc > 0.001 yuan"], "scope": {"campaigns": ["c1", "c2"]},
            "guards": {"age": "1 minute"}, "action": {"do": "budget", "by": "+50%", "ceiling": "140 yuan"},
        },
        {
            "id": "stale", "when": ["plays >= 0"], "scope": {"campaigns": ["c1"]}, "guards": {"staleness": "0 minutes"},
            "window": {"last": f"1 {unit}"}, "action": {"do": "pause"},
        },
        {
            "id": "weekend", "when": ["conversions = 0"], "scope": {"campaigns": ["c2"]}, "action": {"do": "pause"},
            "window": {"last": f"1 {unit}"}, "schedule": {"days": ["sat", "sun"]}, "mode": "dry_run",
        },
        {
            "id": "week", "when": ["roi < 1,000%"], "scope": {"campaigns": ["c2"]}, "action": {"do": "pause"},
            "window": {"last": f"1 {unit}"}, "mode": "dry_run",
            "schedule": {"days": ["mon", "tue", "wed", "thu", "fri"], "hours": "23:59-23:30"},
        },
    ]  # fmt: skip
    return [{**own, **each, "id": f"{unit}-{each['id']}", "name": each["id"]} for each in found]


HOURS = ("raise", "stop", "back")
"""Rules that are told with windows of hours, too, for fewer campaigns: a history has a thousand hours."""
LASTING = "minute-back"
"""The rule of minutes that is left switched on when a feed ends, and time may leap."""


class Teller:
    """Tells the campaign log what people change, and what it must not listen to.

    ``told``: every message that all partitions of the log have taken, in order; one that had to be sent again stands
    there several times in a row. ``begin`` comes before any event, ``turn`` at any moment of a load, ``end`` after it.
    """

    def __init__(self, settings: Settings) -> None:
        self.told: list[bytes] = []
        self._settings = settings
        self._turns = 0
        self._next = 0.0
        self._minutes = False
        self._producer: KafkaProducer | None = None

    def begin(self) -> None:
        """Campaigns, and rules with windows of days and hours."""
        few = [each for each in rules("hour") if each["name"] in HOURS]
        for each in few:
            each["scope"] = {"campaigns": ["c1", "c4"]}
        self._tell({"change": "campaigns", "campaigns": told_campaigns("day")})
        self._tell({"change": "rules", "rules": [*rules("day"), *few]})

    def turn(self, minutes: bool) -> None:
        """Tells something, if it is time; ``minutes``: the load is at its last hours."""
        if time.monotonic() < self._next:
            return
        self._turns += 1
        if minutes and not self._minutes:
            self._tell({"change": "rules", "rules": rules("minute")})
            self._tell({"change": "campaigns", "campaigns": told_campaigns("minute")})
            self._minutes = True
        number, unit = self._turns // 2, "minute" if self._minutes else "day"
        if self._turns % 2:
            told = rules(unit, number)
            self._tell({"change": "rules", "rules": [told[number % (len(told) - 1)], told[-1]]})
            self._tell({"change": "campaigns", "campaigns": told_campaigns(unit, number)[number % 3 :: 2]})
        else:
            self._other(number, unit)
        self._next = time.monotonic() + EVERY_S

    def _other(self, number: int, unit: str) -> None:
        match number % 4:
            case 0:
                self._tell({"change": "switch", "rule_id": f"{unit}-grow", "enabled": number % 8 == 4})
            case 1:
                self._send(self.told[-1 - number % 3])
            case 2:
                self._tell({"change": "switch", "rule_id": f"{unit}-raise", "enabled": False, "database": "another"})
            case _:
                far = dict.fromkeys(("next", "reached", "oldest"), 1 << 40)
                self._tell({"database": "another", "partition": 0, "start": 0, **far})
                self._tell({"change": "switch", "rule_id": "nobody", "enabled": False})

    def end(self) -> None:
        """Switches most rules of minutes off: where nothing comes any more, the clock closes hundreds of windows."""
        for each in rules("minute") if self._minutes else ():
            if each["id"] != LASTING:
                self._tell({"change": "switch", "rule_id": each["id"], "enabled": False})
        self.close()

    def close(self) -> None:
        """Takes leave of Kafka; what is told after that finds it again."""
        if self._producer is not None:
            self._producer.close(timeout=10)
            self._producer = None

    def _tell(self, message: dict[str, Any]) -> None:
        self._send(orjson.dumps({"database": self._settings.database, "by": _BY, **message}) + b"\n")

    def _send(self, value: bytes) -> None:
        """Until every partition has it, so that none has another before it."""
        topic, until = self._settings.topic_prefix + "campaign_facts", time.monotonic() + _PATIENCE_S
        if self._producer is None:
            self._producer = kafka_producer(self._settings, linger_ms=0, max_block_ms=int(_PATIENCE_S * 1000))
        left = list(range(self._settings.partitions))
        while left:
            sent = [(partition, self._producer.send(topic, value, partition=partition)) for partition in left]
            left = []
            for partition, answer in sent:
                try:
                    answer.get(timeout=60)
                except KafkaError:
                    # Perhaps it has it, then it has it twice.
                    if time.monotonic() > until:
                        raise
                    left.append(partition)
        self.told.append(value)


# What must have come of it.

LEAST: dict[str, int] = {
    **{f"outcome {name}": 3 for name in ("fired", "dry_run", "skipped")},
    **{f"outcome {name}": 1 for name in ("clamped", "notified")},
    **{f"action {name}": 1 for name in ("budget", "bid", "pause", "resume")},
    **{
        f"reason {name}": 1
        for name in ("not_paused", "stale", "guards", "no_figure", "conditions", "cool_down", "no_budget", "outranked")
    },
}
"""How often each outcome, kind of action and reason must be there at least."""


def made(settings: Settings) -> Counter[str]:
    """How many decisions there are of each outcome and reason, and actions of each kind."""
    counts: Counter[str] = Counter()
    with contextlib.closing(clickhouse_client(settings)) as client:
        for outcome, reason, action, number in client.query(
            "SELECT outcome, reason, action, count() FROM rule_decisions FINAL GROUP BY ALL"
        ).result_rows:
            counts[f"outcome {outcome}"] += number
            counts[f"reason {reason}"] += number if reason else 0
            counts[f"action {action}"] += number if outcome in ("fired", "clamped") else 0
    return counts


def too_few(counts: Counter[str], wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """What there is too little of to have been tried."""
    return [
        f"{counts[name]} decisions with {name}, fewer than {least}"
        for name, least in LEAST.items()
        if wanted(name) and counts[name] < least
    ]
