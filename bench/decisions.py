"""Decisions of budget rules: how soon they are there when a window closes; what a closing, memory and a restart cost.

The first part is a real worker under events whose time runs sixty times as fast as the clock, so that a window of
minutes closes every second. The second is the agent's fold alone. The third reads a day of minutes from a real
ClickHouse.
"""

import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np
import orjson
import polars as pl
from kafka import KafkaConsumer, TopicPartition

from bench import rig
from bench.machine import conditions
from bench.result import Result, Wrong
from bench.rules import CAMPAIGNS, RULES, made_rules
from infra.connect import clickhouse_client, kafka_options, kafka_producer
from infra.settings import Settings
from pipeline import campaign_log
from pipeline.block import Block
from pipeline.campaign_log import MEASURES, CampaignChange, CampaignLog, Figures, Message, RuleChange
from pipeline.control import send
from pipeline.folds.rules import DAY_MS, Rules
from pipeline.recovery import rule_state
from schemas.quantities import MINUTE_MS
from schemas.rules import Campaign, Rule
from schemas.topics import partition_for

CLOSINGS = 100
"""Windows that close while a worker runs, one a second."""
LIVE_CAMPAIGNS = 100
"""Campaigns that have events meanwhile, each with a decision and an action at every closing."""
MINUTES = 1440
SOURCES = 4
"""Partitions of ``ad_events`` that have something of each minute of a campaign that is restored."""
MIDNIGHT = 1_768_924_800_000
"""A midnight in Shanghai, UTC ms: windows of minutes, hours and days close."""
WORKER = "pipeline.worker"


def bench(say: Callable[[str], None]) -> Result:
    """Seconds from a closing to what is seen of it; CPU seconds of a closing, bytes, seconds of a restart."""
    result = Result("decisions", "python -m bench decisions")
    result.conditions = conditions()
    state = _fold(result, say)
    with rig.stack() as settings:
        with rig.database(settings, "fanpulse_bench_restart") as own:
            _restart(result, own, state, say)
        with (
            rig.database(settings, "fanpulse_bench_decisions") as own,
            rig.process(own, WORKER, "0") as worker,
        ):
            rig.await_begun(worker, own, WORKER)
            _live(result, own, say)
            rig.still_runs(worker, own, WORKER)
    return result


# A worker.


def _live(result: Result, settings: Settings, say: Callable[[str], None]) -> None:
    rule = Rule.model_validate(
        {
            "id": "more",
            "name": "More",
            "owner": "bench",
            "mode": "act",
            "level": "campaign",
            "when": ["impressions >= 0"],
            "window": {"last": "1 minute"},
            "cool_down": "1 minute",
            "most_per_day": 1440,
            "action": {"do": "budget", "by": "+0.01%", "ceiling": "1000000 yuan"},
        }
    )
    send(settings, CampaignChange(settings.database, "bench", tuple(_campaigns(LIVE_CAMPAIGNS))))
    send(settings, RuleChange(settings.database, "bench", (rule,)))
    ending = threading.Event()
    load = threading.Thread(target=_load, args=(settings, ending), daemon=True)
    load.start()
    try:
        rows, decided = _seen(settings, say)
    finally:
        ending.set()
        load.join()
    records = _records(settings)
    told = {key: at for key, at in records.items() if key[0] in {closed_at for closed_at, _ in rows}}
    _latency(result, "row in ClickHouse", [at - decided[key] for key, at in rows.items()])
    _latency(result, "record in budget_actions", [at - decided[key] for key, at in told.items() if key in decided])
    lateness = settings.allowed_lateness
    result.add("allowed lateness, which comes before", lateness, "s", "of event time, after the end of the window")
    result.check(rows.keys() <= told.keys(), f"{len(rows)} closings of a partition, each with rows and records")


def _latency(result: Result, what: str, found: list[int]) -> None:
    waits = sorted(each / 1000 for each in found)
    if not waits:
        raise Wrong(f"no {what}")
    note = f"median; worst {waits[-1]:.2f} s of {len(waits)}"
    result.add(f"from the closing to the {what}", statistics.median(waits), "s", note)
    result.check(waits[-1] < 3, f"every {what} within 3 s")


_Closing = tuple[int, int]
"""When a window closed (UTC ms), and a partition of the campaign log."""


def _seen(settings: Settings, say: Callable[[str], None]) -> tuple[dict[_Closing, int], dict[_Closing, int]]:
    """When rows of each closing were seen, and when it was decided, UTC ms."""
    rows: dict[_Closing, int] = {}
    decided: dict[_Closing, int] = {}
    until, newest = time.monotonic() + 60 + 5 * CLOSINGS, 0
    with closing(clickhouse_client(settings)) as client:
        while len({closed_at for closed_at, _ in rows}) < CLOSINGS:
            found = client.query(
                "SELECT toInt64(toUnixTimestamp(closed_at)) * 1000 AS at, partition, "
                "min(toUnixTimestamp64Milli(decided_at)) FROM rule_decisions WHERE closed_at >= "
                "fromUnixTimestamp64Milli({since:Int64}, 'UTC') GROUP BY at, partition",
                {"since": newest - 10 * MINUTE_MS},
            ).result_rows
            now = int(time.time() * 1000)
            for closed_at, partition, at in found:
                rows.setdefault((closed_at, partition), now)
                decided.setdefault((closed_at, partition), at)
                newest = max(newest, closed_at)
            say(f"decisions: {len(rows)} closings seen")
            if time.monotonic() > until:
                raise Wrong(f"{len(rows)} closings were seen in time")
            time.sleep(0.02)
    return rows, decided


def _records(settings: Settings) -> dict[_Closing, int]:
    """When Kafka took the last action of each closing, UTC ms."""
    consumer = KafkaConsumer(**kafka_options(settings), enable_auto_commit=False, auto_offset_reset="earliest")
    found: dict[_Closing, int] = {}
    with closing(consumer):
        places = [
            TopicPartition(settings.topic_prefix + "budget_actions", number) for number in range(settings.partitions)
        ]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning()
        while any(consumer.position(place) < end for place, end in ends.items()):
            for place, records in consumer.poll(1000).items():
                for record in records:
                    key = orjson.loads(record.value)["closed_at"], place.partition
                    found[key] = max(record.timestamp, found.get(key, 0))
    return found


def _load(settings: Settings, ending: threading.Event) -> None:
    """Sends events of all campaigns, a minute of event time a second, until it is told to end."""
    producer = kafka_producer(settings, linger_ms=5)
    begun, start, number = time.monotonic(), int(time.time() * 1000) - 3 * 3_600_000, 0
    topic = settings.topic_prefix + "ad_events"
    try:
        while not ending.wait(max(0.0, begun + number / 1000 - time.monotonic())):
            for _ in range(20):
                key = f"fan{number % 997}".encode()
                event = {
                    "event_id": f"e{number}",
                    "event_time": start + number * 60,
                    "platform": "douyin",
                    "fan_id": key.decode(),
                    "creator_id": "c",
                    "kind": "impression",
                    "campaign_id": f"campaign{number % LIVE_CAMPAIGNS:05}",
                    "ad_group_id": "g",
                    "creative_id": "r",
                    "audience": "all",
                    "channel": "dou_plus",
                    "cost_micros": 9000,
                }
                partition = partition_for(key, settings.partitions)
                producer.send(topic, orjson.dumps(event), key, partition=partition)
                number += 1
    finally:
        producer.close()


# The fold.


def _fold(result: Result, say: Callable[[str], None]) -> pl.DataFrame:
    """Measures a closing and memory; returns the state without minutes."""
    before = _Reader()
    before.take_in(RuleChange("d", "bench", tuple(_rules())))
    before.take_in(CampaignChange("d", "bench", tuple(_campaigns(CAMPAIGNS))))
    before.take_in(_time(MIDNIGHT - MINUTE_MS))
    rows = before.fold.take()["rule_state"].with_columns(pl.col("minute").dt.epoch("ms")).drop("fold_version")
    say("minutes of a day")
    minutes = _minutes()

    tracemalloc.start()
    try:
        empty = tracemalloc.get_traced_memory()[0]
        fold = Rules("d", 0, 1)
        fold.restore_state(rows, minutes)
        size = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    held = f"{size / 2**20:,.0f} MiB; {MINUTES} minutes each of a campaign and its ad group"
    result.add("memory of a campaign and a day of minutes", size / CAMPAIGNS, "bytes", held)

    seconds, decisions = [], 0
    for turn in range(3):
        say(f"a closing: {turn + 1} of 3")
        reader = _Reader(1000)
        reader.fold.restore_state(rows, minutes)
        began = time.process_time()
        reader.take_in(_time(MIDNIGHT))
        taken = reader.fold.take()
        seconds.append(time.process_time() - began)
        decisions = len(taken["rule_decisions"])
    note = f"median of 3; {decisions:,} decisions on {RULES} rules, with rows and records of them"
    result.add(f"a closing of {CAMPAIGNS:,} campaigns", statistics.median(seconds), "s", note)
    result.check(decisions == CAMPAIGNS * RULES, "a decision of every rule and campaign")
    result.check(max(seconds) < 2, "every closing in less than 2 s of CPU")
    return rows


class _Reader:
    """The fold behind its log."""

    def __init__(self, offset: int = 0) -> None:
        self.fold = Rules("d", 0, 1)
        self._log = CampaignLog(0, "d", {"rules": self.fold}, {"rules": offset}, offset)
        self._offset = offset

    def take_in(self, message: Message) -> None:
        offsets = np.array([self._offset])
        block = Block(
            campaign_log.TOPIC,
            0,
            self._offset,
            self._offset + 1,
            offsets,
            np.array([MIDNIGHT]),
            [campaign_log.encode(message)],
        )
        self.fold.apply(self._log._judge(block).rows)
        while not self.fold.settle(50_000):
            pass
        self._offset += 1


def _time(reached: int) -> Figures:
    figures = pl.DataFrame(schema=campaign_log.FIGURES)
    return Figures("d", 0, 0, 1, reached, None, figures)


def _rules() -> Iterable[Rule]:
    """As many with windows of minutes, of hours and of days."""
    for number, rule in enumerate(made_rules(RULES)):
        unit = ("minute", "hour", "day")[number % 3]
        told = rule.model_dump(mode="json", exclude_none=True)
        yield Rule.model_validate(told | {"window": {"last": f"{1 + number % 6} {unit}s"}, "cool_down": "6 days"})


def _campaigns(number: int) -> Iterable[Campaign]:
    for index in range(number):
        yield Campaign.model_validate(
            {
                "campaign_id": f"campaign{index:05}",
                "platform": "douyin",
                "creator_id": f"creator{index % 100:03}",
                "daily_budget": f"{100 + index} yuan",
                "bid": "1 yuan",
                "target_cpa": "20 yuan",
                "created_at": MIDNIGHT - 9 * DAY_MS,
                "ad_groups": [{"ad_group_id": "g"}],
            }
        )


def _minutes() -> pl.DataFrame:
    """A day before midnight, of an ad group of each campaign."""
    drawn = np.random.default_rng(1)
    size = CAMPAIGNS * MINUTES
    begins = np.tile(MIDNIGHT - DAY_MS + np.arange(MINUTES) * MINUTE_MS, CAMPAIGNS)
    names = pl.Series([f"campaign{index:05}" for index in range(CAMPAIGNS)])
    return pl.DataFrame(
        [
            pl.Series("platform", ["douyin"]).new_from_index(0, size),
            names.gather(np.repeat(np.arange(CAMPAIGNS), MINUTES)).rename("campaign_id"),
            pl.Series("ad_group_id", ["g"]).new_from_index(0, size),
            pl.Series("begin", begins),
            *(pl.Series(name, drawn.integers(0, 50, size)) for name in MEASURES),
        ]
    )


# A restart.


def _restart(result: Result, settings: Settings, state: pl.DataFrame, say: Callable[[str], None]) -> None:
    say("a restart")
    with closing(clickhouse_client(settings, timeout=600)) as client:
        stored = state.with_columns(
            pl.col("minute").cast(pl.Datetime("ms", "UTC")),
            pl.lit(0, pl.UInt16).alias("partition"),
            pl.lit(Rules.version, pl.UInt16).alias("fold_version"),
        )
        client.insert_arrow("rule_state", stored.to_arrow())
        client.command(
            "INSERT INTO rule_state SELECT 0, 'minute', toDateTime({since:Int64} + intDiv(number, "
            "{sources:UInt16}) % {minutes:UInt16} * 60, 'UTC'), 'douyin', concat('campaign', leftPad(toString(intDiv("
            "number, {sources:UInt16} * {minutes:UInt16})), 5, '0')), 'g', '', number % {sources:UInt16}, "
            "[3, 2, 1, 0, 27000, 0], '', {version:UInt16}, 5 FROM numbers({rows:UInt64})",
            parameters={
                "since": (MIDNIGHT - DAY_MS) // 1000,
                "sources": SOURCES,
                "minutes": MINUTES,
                "version": Rules.version,
                "rows": CAMPAIGNS * MINUTES * SOURCES,
            },
        )
        began = time.perf_counter()
        fold = Rules("d", 0, 1)
        fold.restore_state(*rule_state(client, 0, Rules.version))
        seconds = time.perf_counter() - began
    note = f"{CAMPAIGNS * MINUTES * SOURCES:,} rows of minutes of {SOURCES} partitions, from a real ClickHouse"
    result.add(f"restoring a day of {CAMPAIGNS:,} campaigns", seconds, "s", note)
    result.check(len(fold) == 2 * CAMPAIGNS * MINUTES, f"{len(fold):,} minutes of campaigns and ad groups restored")
