"""The shell around a fold, with everything else made up: order, shares, and whose results count."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from pipeline.agent import Agent, FlushPolicy, Keeper
from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher, Refused
from pipeline.fold import Output
from pipeline.folds.archive import Archive
from pipeline.log import PartitionLog
from pipeline.metrics import Metrics
from pipeline.recovery import AgentSpec, Partition
from pipeline.sink import RefusedByClickHouse, Stopped
from pipeline.transport import Delivery
from pipeline.verdict import Horizon, Verdicts

NOW = 1_750_000_000_000
WHERE = ("interactions", 0)
SPEC = AgentSpec("archive", ("interactions",), lambda settings, topic, partition: Archive(topic))


class Rig:
    """An agent and what it tells others, in order."""

    def __init__(self, rows: int = 1_000_000, own: int = 0, after: str | None = None) -> None:
        self.unstorable: set[int] = set()
        self.refusing = ""
        self.there: set[tuple[int, int]] = set()
        self.told: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.logs = {WHERE: self.log(own)}
        identity = ("topic", "cluster", "{}")
        self.agent = Agent(
            replace(SPEC, after=after),
            self.logs,
            self,
            FlushPolicy(1.0, rows),
            Metrics(),
            lambda agent, topic: identity,
            lambda agent, log, offset, newest: self.told.append(("report", offset, newest)),
            self.send,
            Keeper(self.dead_letters, self.set_aside) if after is None else None,
        )

    def log(self, own: int = 0) -> PartitionLog:
        decoder, verdicts = Decoder("interactions", FanHasher(b"key")), Verdicts(Horizon(0, 3_600_000))
        return PartitionLog(*WHERE, decoder, verdicts, {"archive": Archive("interactions")}, {"archive": own}, 0)

    def insert(self, table: str, rows: pl.DataFrame) -> None:
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        if table == self.refusing:
            raise RefusedByClickHouse(f"{table}: no", 469)
        if table != "checkpoints" and self.unstorable & set(rows["offset"].to_list()):
            raise RefusedByClickHouse(f"{table}: no", 469)
        if table == "checkpoints":
            self.told.append((table, rows["next_offset"].to_list(), rows["partition"].to_list()))
            if self.unstorable:
                self.told.append(("newest", rows["newest"].dt.epoch("ms").to_list()))
        else:
            self.told.append((table, rows["offset"].to_list()))

    async def set_aside(self, refused: Mapping[Partition, Mapping[int, str]]) -> None:
        self.told.append(("aside", refused))

    def refused(self, table: str, rows: pl.DataFrame) -> dict[int, str]:
        offsets = rows["offset"].to_list()
        return {index: "why" for index, offset in enumerate(offsets) if offset in self.unstorable}

    def held(self, table: str, rows: pl.DataFrame) -> set[tuple[int, int]]:
        return self.there

    async def send(self, outputs: list[Output]) -> None:
        self.told.append(("to kafka", [output.value for output in outputs]))

    async def dead_letters(self, topic: str, partition: int, refused: list[Refused]) -> None:
        self.told.append(("sent", [record.offset for record in refused]))

    def delivery(self, start: int, *sound: bool) -> Delivery:
        values = [record(start + index) if good else b"no" for index, good in enumerate(sound)]
        offsets = np.arange(start, start + len(values))
        block = Block("t", 0, start, start + len(values), offsets, np.full(len(values), NOW), values)
        return Delivery(block, self.logs.get(WHERE))


def record(number: int) -> bytes:
    return orjson.dumps(
        {
            "event_id": f"e{number}",
            "event_time": NOW + number,
            "platform": "douyin",
            "fan_id": "f",
            "creator_id": "c",
            "kind": "profile_visit",
        }
    )


def test_rows_then_checkpoint_then_report() -> None:
    async def run() -> Rig:
        rig = Rig()
        rig.agent.take(rig.delivery(0, True, False, True))
        rig.agent.take(rig.delivery(3, False))
        await rig.agent.flush()
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == [
        ("sent", [1, 3]),
        ("raw_interactions", [0, 2]),
        ("dead_letters", [1, 3]),
        ("checkpoints", [4], [0]),
        ("report", 4, NOW + 2),
    ]


def test_what_an_agent_has_stored_is_not_stored_again() -> None:
    async def run() -> Rig:
        rig = Rig(own=2)
        rig.agent.take(rig.delivery(0, True, False, True, False))
        await rig.agent.flush()
        return rig

    told = asyncio.run(run()).told
    assert told[:3] == [("sent", [3]), ("raw_interactions", [2]), ("dead_letters", [3])]


def test_too_many_waiting_rows_hold_the_stream_back_until_those_before_are_stored() -> None:
    """Refused records count too: they wait in memory as well."""

    async def run() -> None:
        rig = Rig(rows=4)
        rig.gate.clear()
        fed = 0

        async def stream() -> Any:
            nonlocal fed
            for start in range(0, 20, 2):
                fed += 1
                yield rig.delivery(start, True, False)

        running = asyncio.create_task(rig.agent.run(stream()))
        await asyncio.sleep(0.2)
        assert fed == 4, "one flush under way, and as many rows again waiting"
        rig.gate.set()
        await running
        await rig.agent.flush()
        assert fed == 10
        assert [told[1] for told in rig.told if told[0] == "checkpoints"] == [[4], [8], [12], [16], [20]]

    asyncio.run(run())


def test_only_one_flush_is_under_way() -> None:
    async def run() -> None:
        rig = Rig()
        rig.gate.clear()
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.0)
        rig.agent.take(rig.delivery(1, True))
        rig.agent.tick(200.0)
        both = asyncio.gather(rig.agent.flush(), rig.agent.flush())
        await asyncio.sleep(0.1)
        rig.agent.take(rig.delivery(2, True))
        assert rig.told == []
        rig.gate.set()
        await both
        await rig.agent.flush()
        assert [told[1] for told in rig.told if told[0] == "raw_interactions"] in ([[0], [1, 2]], [[0], [1], [2]])
        assert [told[1] for told in rig.told if told[0] == "report"] in ([1, 3], [1, 2, 3])

    asyncio.run(run())


def test_a_flush_waits_for_its_time() -> None:
    async def run() -> None:
        rig = Rig()
        rig.agent.tick(100.0)
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.5)
        await asyncio.sleep(0.05)
        rig.agent.take(rig.delivery(1, True))
        rig.agent.tick(101.0)
        await asyncio.sleep(0.05)
        rig.agent.tick(101.6)
        await rig.agent.flush()
        assert [told[1] for told in rig.told if told[0] == "raw_interactions"] == [[0], [1]]

    asyncio.run(run())


def test_a_block_of_an_assignment_that_has_ended_is_ignored() -> None:
    async def run() -> Rig:
        rig = Rig()
        stale, unheld = rig.delivery(0, True), rig.delivery(0, True)
        rig.logs[WHERE] = rig.log()
        rig.agent.take(stale)
        unheld.reader = None
        rig.agent.take(unheld)
        await rig.agent.flush()
        assert rig.told == []
        rig.agent.take(rig.delivery(0, True))
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told[-1] == ("report", 1, NOW)


def test_a_flush_of_an_assignment_that_ends_meanwhile_is_not_reported() -> None:
    """Its rows may land, they are right; its report would let Kafka commit for a partition held by others."""

    async def run() -> Rig:
        rig = Rig()
        rig.gate.clear()
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.0)
        rig.agent.take(rig.delivery(1, True))
        rig.logs.clear()
        rig.gate.set()
        await rig.agent.flush()
        return rig

    assert [told[0] for told in asyncio.run(run()).told] == ["raw_interactions", "checkpoints"]


def test_rows_that_clickhouse_refuses_end_the_worker_at_the_next_tick() -> None:
    async def run() -> None:
        rig = Rig()
        rig.error = RefusedByClickHouse("raw_interactions: no such column")
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.0)
        await asyncio.sleep(0.1)
        with pytest.raises(RefusedByClickHouse):
            rig.agent.tick(100.1)
        with pytest.raises(RefusedByClickHouse):
            await rig.agent.flush()
        assert rig.told == []

    asyncio.run(run())


def test_a_flush_that_is_stopped_reports_nothing() -> None:
    async def run() -> Rig:
        rig = Rig()
        rig.error = Stopped()
        rig.agent.take(rig.delivery(0, True))
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == []


WHY = "ClickHouse refuses its row: why"


def test_records_whose_rows_clickhouse_refuses_are_set_aside_and_what_is_before_them_is_stored() -> None:
    async def run() -> Rig:
        rig = Rig()
        rig.unstorable = {2, 4}
        rig.agent.take(rig.delivery(0, True, True, True, True, True))
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == [
        ("raw_interactions", [0, 1]),
        ("checkpoints", [2], [0]),
        ("newest", [NOW + 1]),
        ("report", 2, NOW + 1),
        ("aside", {WHERE: {2: WHY, 4: WHY}}),
    ]


def test_nothing_before_the_first_refused_record_leaves_the_checkpoint_as_it_is() -> None:
    async def run() -> Rig:
        rig = Rig(own=3)
        rig.logs[WHERE].newest["archive"] = NOW + 77
        rig.unstorable = {3}
        rig.agent.take(rig.delivery(0, True, True, True, True, True))
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == [
        ("checkpoints", [3], [0]),
        ("newest", [NOW + 77]),
        ("report", 3, NOW + 77),
        ("aside", {WHERE: {3: WHY}}),
    ]


def test_refused_rows_of_another_table_end_the_worker() -> None:
    """Only raw rows are records; a table of dead letters that refuses is for people to mend."""

    async def run() -> None:
        rig = Rig()
        rig.refusing = "dead_letters"
        rig.agent.take(rig.delivery(0, True, False))
        with pytest.raises(RefusedByClickHouse):
            await rig.agent.flush()

    asyncio.run(run())


def test_after_a_flush_that_was_given_up_there_is_none() -> None:
    """Its rows are taken from the folds: a later checkpoint would pass them."""

    async def run() -> Rig:
        rig = Rig(rows=2)
        rig.error = Stopped()

        async def stream() -> Any:
            for start in range(0, 10, 2):
                yield rig.delivery(start, True, True)
                await asyncio.sleep(0.05)
                rig.error = None

        await rig.agent.run(stream())
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == []


def test_rows_that_clickhouse_took_before_it_began_to_refuse_them_are_left_as_they_are() -> None:
    async def run() -> Rig:
        rig = Rig()
        rig.unstorable = {1}
        rig.there = {(0, 1)}
        rig.agent.take(rig.delivery(0, True, True, True))
        await rig.agent.flush()
        return rig

    told = asyncio.run(run()).told
    stored = [("raw_interactions", [0, 2]), ("checkpoints", [3], [0]), ("newest", [NOW + 2])]
    assert told == [*stored, ("report", 3, NOW + 2)]


def test_records_of_an_assignment_that_has_ended_are_not_set_aside() -> None:
    async def run() -> Rig:
        rig = Rig()
        rig.unstorable = {0}
        rig.gate.clear()
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.0)
        rig.logs.clear()
        rig.gate.set()
        await rig.agent.flush()
        return rig

    assert "aside" not in [told[0] for told in asyncio.run(run()).told]


def test_an_agent_that_follows_another_folds_only_what_that_has_stored() -> None:
    """What it has folded is then never dropped with a record that ClickHouse refuses, so it moves on however often
    that comes."""

    async def run() -> None:
        rig = Rig(after="keeper")
        keeper = rig.logs[WHERE].stored
        keeper["keeper"] = 1
        rig.agent.take(rig.delivery(0, True, True))
        rig.agent.take(rig.delivery(2, True))
        rig.agent.tick(100.0)
        await rig.agent.flush()
        assert rig.told == []
        keeper["keeper"] = 2
        await rig.agent.flush()
        assert rig.told == [("raw_interactions", [0, 1]), ("checkpoints", [2], [0]), ("report", 2, NOW + 1)]
        keeper["keeper"] = 3
        rig.agent.tick(102.0)
        await rig.agent.flush()
        assert rig.told[3] == ("raw_interactions", [2])

    asyncio.run(run())


def test_what_may_never_be_stored_is_dropped() -> None:
    async def run() -> Rig:
        rig = Rig(after="keeper")
        rig.logs[WHERE].stored["keeper"] = 1
        rig.agent.take(rig.delivery(0, True, True))
        rig.logs.clear()
        await rig.agent.flush()
        return rig

    assert asyncio.run(run()).told == []


def test_a_stream_that_is_ahead_of_what_it_follows_is_held_back() -> None:
    async def run() -> None:
        rig = Rig(rows=4, after="keeper")
        keeper = rig.logs[WHERE].stored
        keeper["keeper"] = 0
        fed = 0

        async def stream() -> Any:
            nonlocal fed
            for start in range(0, 20, 2):
                fed += 1
                yield rig.delivery(start, True, True)

        running = asyncio.create_task(rig.agent.run(stream()))
        await asyncio.sleep(0.2)
        assert fed == 2
        keeper["keeper"] = 20
        await running
        await rig.agent.flush()
        assert [told[1] for told in rig.told if told[0] == "checkpoints"][-1] == [20]

    asyncio.run(run())


class Slow(Archive):
    """Has something to do before its rows are taken."""

    left = 3

    def settle(self, limit: int) -> bool:
        self.left -= 1
        return self.left <= 0


def test_what_is_left_to_do_before_a_flush_is_done_in_pieces() -> None:
    async def run() -> None:
        rig = Rig()
        fold = rig.logs[WHERE].folds["archive"] = Slow("interactions")
        rig.agent.take(rig.delivery(0, True))
        rig.agent.tick(100.0)
        assert (fold.left, rig.told) == (2, [])
        rig.agent.take(rig.delivery(1, True))
        await rig.agent.flush()
        assert fold.left <= 0
        assert [told[1] for told in rig.told if told[0] == "checkpoints"] == [[2]]

    asyncio.run(run())
