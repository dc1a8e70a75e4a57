import numpy as np
import polars as pl
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedupe import BUCKET_MS, TIME_MIX, DedupeIndex, _Table, fingerprints, restore

WORD = 2**64


def expected_print(event_id: str, event_time: int) -> int:
    """What ClickHouse computes: ``bitXor(xxh3(event_id), toUInt64(ms) * 11400714819323198485)``; 1 for 0."""
    return (xxhash.xxh3_64_intdigest(event_id.encode()) ^ (event_time * 11400714819323198485 % WORD)) or 1


def test_the_documented_multiplier() -> None:
    assert TIME_MIX == 11400714819323198485


@given(st.lists(st.tuples(st.text(min_size=1, max_size=300), st.integers(0, 4_102_444_800_000)), min_size=1))
def test_fingerprints_follow_the_formula(events: list[tuple[str, int]]) -> None:
    rows = pl.DataFrame(events, schema={"event_id": pl.String, "event_time": pl.Int64}, orient="row")
    assert fingerprints(rows).tolist() == [expected_print(*event) for event in events]


@pytest.mark.parametrize("length", [*range(1, 20), 64, 128, 129, 240, 241, 256])
def test_fingerprints_of_ids_of_every_length_class(length: int) -> None:
    rows = pl.DataFrame({"event_id": ["x" * length], "event_time": [1_750_000_000_000]})
    assert fingerprints(rows).tolist() == [expected_print("x" * length, 1_750_000_000_000)]


def test_a_fingerprint_of_zero_becomes_one() -> None:
    inverse = pow(TIME_MIX, -1, WORD)
    # No event has such a time, but then the hash and the mixed time cancel.
    time = xxhash.xxh3_64_intdigest(b"a") * inverse % WORD
    signed = time - WORD if time >= WORD // 2 else time
    rows = pl.DataFrame({"event_id": ["a"], "event_time": [signed]})
    assert fingerprints(rows).tolist() == [1]


class Model:
    """What the index says, with a dict."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, int], int] = {}

    def repeats(self, events: list[tuple[int, int, int]]) -> list[bool]:
        for fingerprint, time, offset in events:
            key = (time // BUCKET_MS, fingerprint)
            self.first[key] = min(offset, self.first.get(key, offset))
        return [self.first[time // BUCKET_MS, fingerprint] < offset for fingerprint, time, offset in events]

    def evict(self, before: int) -> None:
        self.first = {key: offset for key, offset in self.first.items() if (key[0] + 1) * BUCKET_MS > before}


def asked(index: DedupeIndex, events: list[tuple[int, int, int]]) -> list[bool]:
    prints = np.array([event[0] for event in events], np.uint64)
    times = np.array([event[1] for event in events], np.int64)
    offsets = np.array([event[2] for event in events], np.int64)
    return index.repeats(prints, times, offsets).tolist()


# Few distinct prints, and such as want the same slots at every size of table.
prints = st.one_of(
    st.integers(1, 12),
    st.integers(1, 6).map(lambda n: n << 40),
    st.integers(1, 3).map(lambda n: WORD - n),
    st.integers(0, 40).map(lambda n: (n << 12) | 1023),
)
times = st.integers(0, 5).flatmap(
    lambda bucket: st.sampled_from([0, 1, BUCKET_MS - 1]).map(lambda t: bucket * BUCKET_MS + t)
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(prints, times), max_size=25),
            st.integers(0, 7 * BUCKET_MS).map(lambda before: -before),
            st.integers(0, 60).map(str),
        ),
        max_size=12,
    )
)
def test_the_index_agrees_with_a_dict(steps: list[list[tuple[int, int]] | int | str]) -> None:
    """Steps: events to ask about; a time to evict before; an offset to replay the log from."""
    index, model = DedupeIndex(), Model()
    log: list[tuple[int, int, int]] = []
    for step in steps:
        if isinstance(step, int):
            index.evict(-step)
            model.evict(-step)
        elif isinstance(step, str):
            again = [event for event in log if event[2] >= int(step)]
            assert asked(index, again) == model.repeats(again)
        else:
            events = [(key, time, len(log) + n) for n, (key, time) in enumerate(step)]
            log.extend(events)
            assert asked(index, events) == model.repeats(events)
        assert len(index) == len(model.first)


def test_growth_keeps_every_first_offset() -> None:
    rng = np.random.default_rng(1)
    index, model = DedupeIndex(), Model()
    keys = rng.integers(1, WORD, 4000, np.uint64)
    offset = 0
    for size in (1, 7, 600, 1, 3000, 5000, 20_000):
        chosen = rng.choice(keys, size).tolist()
        events = [
            (key, int(time), offset + n)
            for n, (key, time) in enumerate(zip(chosen, rng.integers(0, 3 * BUCKET_MS, size), strict=True))
        ]
        offset += size
        assert asked(index, events) == model.repeats(events)
    assert len(index) == len(model.first)
    assert index.nbytes >= 32 * len(index)


def test_one_key_many_times_at_once() -> None:
    index = DedupeIndex()
    assert asked(index, [(5, 0, offset) for offset in range(2000)]) == [False] + [True] * 1999
    assert len(index) == 1


def test_keys_of_one_slot_probe_apart() -> None:
    table = _Table(16)
    keys = np.array([16 * n + 15 for n in range(1, 8)], np.uint64)
    assert table.note(keys, np.arange(7)).tolist() == list(range(7))
    assert table.note(keys[::-1].copy(), np.arange(10, 17)).tolist() == list(range(6, -1, -1))
    assert table.used == 7


def test_a_bucket_leaves_when_its_end_is_reached() -> None:
    index = DedupeIndex()
    asked(index, [(1, 0, 0), (2, BUCKET_MS, 1)])
    index.evict(BUCKET_MS - 1)
    assert len(index) == 2
    index.evict(BUCKET_MS)
    assert len(index) == 1
    index.evict(10 * BUCKET_MS)
    assert (len(index), index.nbytes) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 9), times, st.integers(0, 99)), max_size=30),
    st.lists(st.tuples(st.integers(1, 9), times), max_size=9),
)
def test_a_restored_index_knows_what_was_stored(
    stored: list[tuple[int, int, int]], later: list[tuple[int, int]]
) -> None:
    prints = np.array([event[0] for event in stored], np.uint64)
    kept = prints.copy()
    index = restore(
        prints, np.array([event[1] for event in stored], np.int64), np.array([event[2] for event in stored], np.int64)
    )
    model = Model()
    model.repeats([(key or 1, time, offset) for key, time, offset in stored])
    assert len(index) == len(model.first)
    assert prints.tolist() == kept.tolist()
    events = [(key, time, 50 + n) for n, (key, time) in enumerate(later)]
    assert asked(index, events) == model.repeats(events)
