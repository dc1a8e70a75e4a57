"""One partition's log: decoded once, read by each agent from where it stands, and never with a gap."""

from typing import Any

import numpy as np
import orjson
import pytest

from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from pipeline.folds.archive import Archive
from pipeline.log import Broken, PartitionLog
from pipeline.transport import Delivery
from pipeline.verdict import Horizon, Verdicts

NOW = 1_750_000_000_000


def record(number: int) -> bytes:
    made = {"event_id": f"e{number}", "event_time": NOW + number, "platform": "douyin", "fan_id": "f"}
    return orjson.dumps({**made, "creator_id": "c", "kind": "profile_visit"})


def log(
    told: list[Any], checkpoints: dict[str, int], position: int, set_aside: dict[int, str] | None = None
) -> PartitionLog:
    folds = {name: Archive("interactions") for name in checkpoints}
    decoder, verdicts = Decoder("interactions", FanHasher(b"key")), Verdicts(Horizon(0, 3_600_000))
    return PartitionLog(
        "interactions",
        0,
        decoder,
        verdicts,
        folds,
        checkpoints,
        position,
        None,
        set_aside,
        lambda *heard: told.append(heard[1]),
    )


def delivery(to: PartitionLog, start: int, until: int, values: list[bytes | None] | None = None) -> Delivery:
    made = [record(number) for number in range(start, until)] if values is None else values
    offsets = np.arange(start, start + len(made))
    return Delivery(Block("t", 0, start, until, offsets, np.full(len(made), NOW), made), to)


def test_a_block_is_decoded_once_for_all_agents() -> None:
    told: list[Any] = []
    own = log(told, {"a": 5, "b": 5}, 5)
    block = delivery(own, 5, 9)
    assert own.read(block) is own.read(block)
    assert [(batch.start, batch.next, batch.newest, len(batch.rows)) for batch in told] == [(5, 9, NOW + 8, 4)]
    assert own.position == 9


def test_an_agent_ahead_gets_only_what_it_has_not_stored() -> None:
    own = log([], {"behind": 5, "ahead": 11}, 5)
    first, second = delivery(own, 5, 9), delivery(own, 9, 14)
    for block, behind, ahead in ((first, [5, 6, 7, 8], []), (second, [9, 10, 11, 12, 13], [11, 12, 13])):
        batch = own.read(block)
        assert own.share("behind", batch)["offset"].to_list() == behind
        assert own.share("ahead", batch)["offset"].to_list() == ahead


def test_a_block_without_records_moves_the_log_on() -> None:
    """Control records, and what compaction took away."""
    own = log([], {"a": 0}, 0)
    batch = own.read(delivery(own, 0, 7, []))
    assert (len(own.share("a", batch)), batch.next) == (0, 7)
    assert len(own.share("a", own.read(delivery(own, 7, 8)))) == 1


@pytest.mark.parametrize("start", [0, 8, 10, 20])
def test_a_block_that_does_not_follow_is_refused(start: int) -> None:
    """Behind: the topic was made anew under the worker. Ahead: the broker dropped what was not read yet."""
    own = log([], {"a": 5}, 5)
    own.read(delivery(own, 5, 9))
    with pytest.raises(Broken, match=rf"interactions\[0\]: a block begins at {start}, but 9 was to come"):
        own.read(delivery(own, start, start + 3))


def test_an_agent_that_missed_a_batch_is_stopped() -> None:
    own = log([], {"a": 0, "b": 0}, 0)
    first, second = own.read(delivery(own, 0, 3)), own.read(delivery(own, 3, 5))
    own.share("a", first)
    own.share("a", second)
    with pytest.raises(Broken, match="agent b is at 0, its next batch begins at 3"):
        own.share("b", second)


def test_a_record_set_aside_is_refused_and_leaves_no_trace_in_verdicts() -> None:
    """Neither the newest event time nor the ids seen know of it: it may be sent again."""
    values: list[bytes | None] = [record(0), b"no", record(2 * 3_600_000), record(1), record(2 * 3_600_000)]
    own = log([], {"a": 0}, 0, {2: "why", 99: "elsewhere"})
    batch = own.read(delivery(own, 0, 5, values))
    assert [(refused.offset, refused.reason) for refused in batch.refused] == [(1, "broken_json"), (2, "clickhouse")]
    assert (batch.refused[1].detail, batch.refused[1].value) == ("why", values[2])
    assert batch.rows["offset"].to_list() == [0, 3, 4]
    assert batch.rows["late"].to_list() == [0, 0, 0]
    assert batch.rows["duplicate"].to_list() == [0, 0, 0]
