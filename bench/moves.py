"""How soon a move is seen: from Kafka's acknowledgement of an event to the move in ClickHouse, under load."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from random import Random

import orjson
from clickhouse_connect.driver.client import Client
from kafka import KafkaProducer

from bench import rig
from bench.events import chunks
from bench.machine import conditions
from bench.result import Result, Wrong
from infra.connect import clickhouse_client, kafka_producer
from infra.settings import Settings

RATE = 2_000
"""Events a second beside the probes."""
FANS = 60
"""Fans who come, leave and come back, each of a creator of its own."""
MOVES = (("follow", "arrived"), ("unfollow", "unfollowed"), ("like", "withdrawn"))
"""What such a fan does, and the reason of the move that follows; who comes back on the same day has not left."""
APART = 6.0
"""Seconds between two of a fan's events: the move before has been seen by then."""
WORKER = "pipeline.worker"


def bench(say: Callable[[str], None]) -> Result:
    """Median and worst seconds of each kind of move."""
    result = Result("moves", "python -m bench moves")
    result.conditions = conditions()
    with (
        rig.stack() as settings,
        rig.database(settings, "fanpulse_bench_moves") as own,
        rig.process(own, WORKER, "0") as worker,
    ):
        rig.await_begun(worker, own, WORKER)
        ending = threading.Event()
        load = threading.Thread(target=_load, args=(own, ending), daemon=True)
        load.start()
        try:
            time.sleep(10)
            sent, seen = _probe(own, say)
        finally:
            ending.set()
            load.join()
        rig.still_runs(worker, own, WORKER)
    waits = {reason: sorted(seen[key] - sent[key] for key in sent if key[1] == reason) for _, reason in MOVES}
    for reason, found in waits.items():
        note = f"median; worst {found[-1]:.2f} s of {len(found)}"
        result.add(f"move seen: {reason}", found[len(found) // 2], "s", note)
    result.add("load meanwhile", RATE, "events/s")
    every = [wait for found in waits.values() for wait in found]
    result.add("seen within 3 s", 100 * sum(wait < 3 for wait in every) / len(every), "%")
    result.check(len(every) == FANS * len(MOVES), f"{len(every)} moves were seen")
    return result


_Key = tuple[str, str]
"""Creator and reason."""


def _probe(settings: Settings, say: Callable[[str], None]) -> tuple[dict[_Key, float], dict[_Key, float]]:
    """When each probe was acknowledged, and its move seen, monotonic seconds."""
    random, begun = Random(1), time.monotonic() + 1
    due = sorted(
        (begun + number * 0.5 + random.uniform(0, 0.5) + step * APART, f"probe{number:03}", kind, reason)
        for number in range(FANS)
        for step, (kind, reason) in enumerate(MOVES)
    )
    sent: dict[_Key, float] = {}
    seen: dict[_Key, float] = {}
    with closing(clickhouse_client(settings)) as client, closing(kafka_producer(settings, linger_ms=0)) as producer:
        while due or len(seen) < len(sent):
            if due and due[0][0] <= time.monotonic():
                _, creator, kind, reason = due.pop(0)
                sent[creator, reason] = _send(producer, settings, creator, kind)
            _look(client, sent, seen)
            say(f"moves: {len(seen)} of {FANS * len(MOVES)} seen")
            late = [key for key in sent.keys() - seen.keys() if time.monotonic() - sent[key] > 60]
            if late:
                raise Wrong(f"the move of {late[0]} was not seen within 60 s")
            time.sleep(0.05)
    return sent, seen


def _send(producer: KafkaProducer, settings: Settings, creator: str, kind: str) -> float:
    event = {
        "event_id": f"{creator}-{kind}",
        "event_time": int(time.time() * 1000),
        "platform": "douyin",
        "fan_id": f"{creator}-fan",
        "creator_id": creator,
        "kind": kind,
        "content_id": "v",
    }
    topic = settings.topic_prefix + "interactions"
    producer.send(topic, orjson.dumps(event), str(event["fan_id"]).encode()).get(timeout=30)
    return time.monotonic()


def _look(client: Client, sent: dict[_Key, float], seen: dict[_Key, float]) -> None:
    waiting = sent.keys() - seen.keys()
    if not waiting:
        return
    found = client.query(
        "SELECT DISTINCT creator_id, if(withdrawn, 'withdrawn', toString(reason)) FROM fan_transitions "
        "WHERE creator_id IN {creators:Array(String)}",
        {"creators": sorted({creator for creator, _ in waiting})},
    ).result_rows
    now = time.monotonic()
    for key in waiting & set(map(tuple, found)):
        seen[key] = now


def _load(settings: Settings, ending: threading.Event) -> None:
    """Sends the load at an even pace until it is told to end."""
    producer = kafka_producer(settings)
    begun, number = time.monotonic(), 0
    try:
        for chunk in chunks(RATE * 600, int(time.time() * 1000) - rig.LAG_MS, rig.PARTITIONS):
            for key, value, partition in zip(chunk.keys, chunk.values, chunk.partitions, strict=True):
                producer.send(settings.topic_prefix + "interactions", value, key, partition=partition)
                number += 1
                if number % 100 == 0 and ending.wait(max(0.0, begun + number / RATE - time.monotonic())):
                    return
    finally:
        producer.close()
