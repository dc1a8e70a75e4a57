"""Agents, recovery and ClickHouse together, Kafka made up: torn flushes, dead hands, refusals."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from rig import DAY, MINUTE, ask, database, event, verified

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.agent import Agent, FlushPolicy, Keeper
from pipeline.app import AGENTS as ALL
from pipeline.block import Block
from pipeline.checkpoint import Checkpoint
from pipeline.decode import Refused
from pipeline.fold import Output
from pipeline.log import Broken, Log
from pipeline.metrics import Metrics
from pipeline.migrate import migrate
from pipeline.recovery import Cluster, Partition, Recovery, RefusedToStart
from pipeline.sink import Sink
from pipeline.transport import Delivery
from pipeline.verdict import NEVER

pytestmark = pytest.mark.stack

NOW = 1_772_000_000_000
WHERE = ("interactions", 0)
AGENTS = tuple(agent for agent in ALL if agent.name in ("archive", "engagement"))
CLUSTER = Cluster("cluster", {"interactions": "topic"}, {"interactions": 4})


class Crash(Exception):
    """The worker dies here."""


class Hands:
    """A sink that dies at some insert. What it had still to write may land later, as of a frozen worker."""

    def __init__(self, sink: Sink, rng: Random) -> None:
        self._sink = sink
        self._rng = rng
        self.dead = False
        self.held: list[tuple[str, pl.DataFrame]] = []

    def insert(self, table: str, rows: pl.DataFrame) -> None:
        if self.dead or self._rng.random() < 0.08:
            self.dead = True
            self.held.append((table, rows))
            if table == "checkpoints":
                raise Crash
            return
        self._sink.insert(table, rows)

    def land(self) -> None:
        """Some of what was held lands, in its order."""
        for _ in range(self._rng.randrange(len(self.held) + 1)):
            self._sink.insert(*self.held.pop(0))


def records(rng: Random, count: int) -> tuple[list[bytes | None], list[int]]:
    """Values and append times: a day of events, some twice, some late, some refused."""
    values: list[bytes | None] = []
    times = []
    for index in range(count):
        now = NOW + index * DAY // count
        made = event(rng, rng.randrange(count) if rng.random() < 0.05 else index, now - rng.randrange(90 * MINUTE))
        if rng.random() < 0.05:
            made["event_time"] = now - DAY - rng.randrange(DAY)
        again = values[rng.randrange(len(values))] if values and rng.random() < 0.1 else None
        values.append(None if rng.random() < 0.02 else again or orjson.dumps(made))
        times.append(now)
    return values, times


class Worker:
    """What a worker process has in memory: logs from ClickHouse, agents, and blocks on their way to them."""

    def __init__(self, settings: Settings, hands: Any, end: int, earliest: int = 0) -> None:
        self.logs = recovery(settings).load({WHERE}, {WHERE: earliest}, lambda: {WHERE: end})
        self.reported: dict[str, int] = {}
        parameters = checkpoints.parameters(settings, "archive")
        self.agents = [
            Agent(
                spec,
                self.logs,
                hands,
                FlushPolicy(1.0, 1_000_000),
                Metrics(),
                lambda agent, topic: ("topic", "cluster", parameters),
                self._report,
                self._send,
                Keeper(self._dead_letters, self._set_aside) if spec.name == "archive" else None,
            )
            for spec in AGENTS
        ]
        self.queues: dict[str, list[Delivery]] = {agent.name: [] for agent in self.agents}
        self.fetched = self.logs[WHERE].position

    def fetch(self, values: list[bytes | None], times: list[int], size: int) -> None:
        start, until = self.fetched, min(self.fetched + size, len(values))
        offsets = np.arange(start, until)
        block = Block("t", 0, start, until, offsets, np.array(times[start:until]), values[start:until])
        delivery = Delivery(block, self.logs[WHERE])
        for queue in self.queues.values():
            queue.append(delivery)
        self.fetched = until

    def _report(self, agent: str, partition_log: Log, next_offset: int, newest: int) -> None:
        self.reported[agent] = next_offset

    async def _set_aside(self, refused: Mapping[Partition, Mapping[int, str]]) -> None:
        raise AssertionError(refused)

    async def _send(self, outputs: list[Output]) -> None:
        raise AssertionError(outputs)

    async def _dead_letters(self, topic: str, partition: int, refused: list[Refused]) -> None:
        pass


def recovery(settings: Settings, cluster: Cluster = CLUSTER, on_batch: Callable[..., None] | None = None) -> Recovery:
    told = on_batch or (lambda *told: None)
    return Recovery(settings, AGENTS, cluster, b"key", lambda: clickhouse_client(settings), told)


def sink(settings: Settings) -> Sink:
    return Sink(lambda: clickhouse_client(settings), threading.Event())


async def live(worker: Worker, rng: Random, values: list[bytes | None], times: list[int]) -> None:
    """Fetches, folds and flushes in any order, to the end of the log or until it dies."""
    while any(worker.reported.get(agent.name, 0) < len(values) for agent in worker.agents):
        if worker.fetched < len(values):
            worker.fetch(values, times, rng.randrange(1, 120))
        agent = rng.choice(worker.agents)
        for _ in range(rng.randrange(len(worker.queues[agent.name]) + 1)):
            agent.take(worker.queues[agent.name].pop(0))
        if rng.random() < 0.4 or worker.fetched == len(values):
            await agent.flush()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_torn_flushes_and_dead_hands_change_no_figure(settings: Settings, seed: int) -> None:
    migrate(settings)
    rng = Random(seed)
    values, times = records(rng, 4000)
    straight = sink(settings)
    frozen: list[Hands] = []
    deaths = 0
    while True:
        hands = Hands(straight, rng)
        worker = Worker(settings, hands, len(values))
        for other in frozen:
            other.land()
        try:
            asyncio.run(live(worker, rng, values, times))
            break
        except Crash:
            deaths += 1
            frozen.append(hands)
    for other in frozen:
        other.land()
    assert deaths > 3
    rows = verified(settings)
    raw, letters = (
        ask(settings, f"SELECT count() FROM {table} FINAL")[0][0] for table in ("raw_interactions", "dead_letters")
    )
    assert raw + letters == len(values)
    assert letters == sum(value is None for value in values)
    assert rows["engagement_creator_minute"] > 1000
    late, duplicates = ask(settings, "SELECT countIf(late), countIf(duplicate) FROM raw_interactions FINAL")[0]
    assert late > 100
    assert duplicates > 50


def test_an_agent_ahead_keeps_its_state_when_another_has_no_checkpoint(settings: Settings) -> None:
    migrate(settings)
    values: list[bytes | None] = [
        orjson.dumps(event(Random(1), number, NOW, creator_id="c", kind="view", content_id="v")) for number in range(20)
    ]
    times = [NOW] * 20
    first = Worker(settings, sink(settings), 20)
    first.fetch(values[:10], times, 10)
    asyncio.run(finish(first))
    with database(settings) as client:
        client.command("ALTER TABLE checkpoints DELETE WHERE agent = 'archive'", settings={"mutations_sync": 1})
    second = Worker(settings, sink(settings), 20)
    second.fetch(values, times, 20)
    asyncio.run(finish(second))
    verified(settings)
    assert ask(settings, "SELECT sum(plays), max(applied) FROM engagement_creator_minute FINAL") == [(20, 19)]


async def finish(worker: Worker) -> None:
    for agent in worker.agents:
        while worker.queues[agent.name]:
            agent.take(worker.queues[agent.name].pop(0))
        await agent.flush()


def test_every_agent_has_a_checkpoint_before_the_first_record(settings: Settings) -> None:
    """A crash between the first checkpoints of two agents is no reason to refuse a log that no longer begins at 0."""
    migrate(settings)
    values, times = records(Random(2), 100)
    worker = Worker(settings, sink(settings), 100, earliest=40)
    worker.fetch(values, times, 100)
    archive = worker.agents[0]
    archive.take(worker.queues[archive.name].pop(0))
    asyncio.run(archive.flush())
    after = Worker(settings, sink(settings), 100, earliest=40)
    assert after.logs[WHERE].checkpoints == {"archive": 100, "engagement": 40}
    with pytest.raises(RefusedToStart, match="begins at offset 41, but agent engagement stopped at 40"):
        Worker(settings, sink(settings), 100, earliest=41)


def stored(settings: Settings, **changed: Any) -> Checkpoint:
    """A checkpoint of each agent at offset 50, changed."""
    parameters = checkpoints.parameters(settings, "archive")
    made = Checkpoint("archive", *WHERE, 1, 50, NOW, "topic", "cluster", parameters)
    both = [replace(replace(made, agent=name), **changed) for name in ("archive", "engagement")]
    sink(settings).insert("checkpoints", checkpoints.frame(both, NOW))
    return made


@pytest.mark.parametrize(
    ("changed", "earliest", "end", "reason"),
    [
        ({"cluster_id": "other"}, 0, 90, r"filled from Kafka cluster other, this is cluster: name the right Kafka"),
        ({"topic_id": "other"}, 0, 90, r"topic interactions was deleted and made anew since the database was filled"),
        ({"parameters": '{"late_horizon": 1}'}, 0, 90, r"made with .*late_horizon.*set them back"),
        ({}, 0, 49, r"interactions\[0\] ends at offset 49, but agent archive has stored up to 50"),
        ({}, 51, 90, r"interactions\[0\] begins at offset 51, but agent archive stopped at 50"),
        (
            {"fold_version": 9},
            0,
            90,
            r"agent archive has no checkpoint in interactions\[0\] for its present definition",
        ),
    ],
)
def test_a_log_that_is_not_the_one_of_the_database_is_refused(
    settings: Settings, changed: dict[str, Any], earliest: int, end: int, reason: str
) -> None:
    migrate(settings)
    stored(settings, **changed)
    with pytest.raises(RefusedToStart, match=reason) as refused:
        recovery(settings).load({WHERE}, {WHERE: earliest}, lambda: {WHERE: end})
    assert refused.value.exit_code == 3
    assert "\n" not in refused.value.message


def test_rows_without_checkpoints_are_refused_when_the_log_is_no_longer_whole(settings: Settings) -> None:
    """Else the rows of keys that go on would be computed from their later events alone."""
    migrate(settings)
    values, times = records(Random(4), 60)
    worker = Worker(settings, sink(settings), 60)
    worker.fetch(values, times, 40)
    asyncio.run(finish(worker))
    with database(settings) as client:
        client.command("TRUNCATE TABLE checkpoints")
    with pytest.raises(RefusedToStart, match=r"interactions\[0\] has rows but no checkpoint"):
        Worker(settings, sink(settings), 60, earliest=20)
    again = Worker(settings, sink(settings), 60)
    again.fetch(values, times, 60)
    asyncio.run(finish(again))
    verified(settings)


def test_at_the_bounds_of_the_log_nothing_is_refused(settings: Settings) -> None:
    migrate(settings)
    stored(settings)
    logs = recovery(settings).load({WHERE}, {WHERE: 50}, lambda: {WHERE: 50})
    assert (logs[WHERE].position, logs[WHERE].verdicts.newest) == (50, NOW)


def test_partitions_are_restored_apart(settings: Settings) -> None:
    migrate(settings)
    stored(settings)
    held: set[Partition] = {WHERE, ("interactions", 1)}
    logs = recovery(settings).load(held, dict.fromkeys(held, 0), lambda: dict.fromkeys(held, 90))
    assert {where: found.position for where, found in logs.items()} == {WHERE: 50, ("interactions", 1): 0}
    assert logs["interactions", 1].checkpoints == {"archive": 0, "engagement": 0}


def test_blocks_that_do_not_follow_each_other_break_the_log(settings: Settings) -> None:
    migrate(settings)
    values, times = records(Random(3), 30)
    for gap in (-3, 4):
        worker = Worker(settings, sink(settings), 30)
        worker.fetch(values, times, 10)
        worker.fetched += gap
        worker.fetch(values, times, 10)
        agent = worker.agents[0]
        agent.take(worker.queues[agent.name].pop(0))
        with pytest.raises(Broken, match=r"interactions\[0\]: a block begins at \d+, but 10 was to come"):
            agent.take(worker.queues[agent.name].pop(0))


def test_records_set_aside_count_only_from_the_checkpoint_of_the_archive_on(settings: Settings) -> None:
    """Below it the tables say what became of them: here another worker stored the row after all."""
    migrate(settings)
    values: list[bytes | None] = [orjson.dumps(event(Random(1), number, NOW, kind="view")) for number in range(20)]
    first = Worker(settings, sink(settings), 20)
    first.fetch(values[:10], [NOW] * 20, 10)
    asyncio.run(finish(first))
    with database(settings) as client:
        client.command("ALTER TABLE checkpoints DELETE WHERE agent = 'engagement'", settings={"mutations_sync": 1})
    own = recovery(settings).load({WHERE}, {WHERE: 0}, lambda: {WHERE: 20}, {WHERE: {5: "why", 15: "why"}})[WHERE]
    offsets = np.arange(20)
    batch = own.read(Delivery(Block("t", 0, 0, 20, offsets, np.full(20, NOW), values), own))
    assert [record.offset for record in batch.refused] == [15]
    assert own.share("engagement", batch)["offset"].to_list() == [n for n in range(20) if n != 15]
    assert own.newest == {"archive": NOW, "engagement": NEVER}


def test_the_end_of_the_log_is_asked_for_after_the_checkpoints(settings: Settings) -> None:
    """Others go on while a worker is frozen: an end from before would seem to lie below what they have stored."""
    migrate(settings)
    values: list[bytes | None] = [orjson.dumps(event(Random(1), number, NOW, kind="view")) for number in range(20)]
    first = Worker(settings, sink(settings), 20)
    first.fetch(values[:10], [NOW] * 20, 10)
    asyncio.run(finish(first))
    own = recovery(settings)
    end = {WHERE: 10}

    class Frozen:
        """A client at whose first answer the worker stands still, while another stores the rest."""

        def __init__(self) -> None:
            self._client = clickhouse_client(settings)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._client, name)

        def query(self, *args: Any, **kwargs: Any) -> Any:
            if end[WHERE] == 10:
                end[WHERE] = 20
                other = Worker(settings, sink(settings), 20)
                other.fetch(values, [NOW] * 20, 20)
                asyncio.run(finish(other))
            return self._client.query(*args, **kwargs)

    own._connect = Frozen  # type: ignore[assignment]
    assert own.load({WHERE}, {WHERE: 0}, lambda: dict(end))[WHERE].position == 20
