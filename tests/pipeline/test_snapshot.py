from datetime import UTC, date, datetime
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.snapshot import Snapshots, SnapshotTable

MINUTES = SnapshotTable("t", ("who", "minute"), ("a", "b", "c"))
HOURS = SnapshotTable("t", ("who", "hour"), ("a",))
DAYS = SnapshotTable("t", ("who", "what", "day"), ("a",))
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

Key = tuple[Any, ...]


def contribute(snapshots: Snapshots, key: Key, column: int, amount: int, applied: int) -> None:
    snapshots.add([key], np.array([[column]]), np.array([[amount]]), np.array([applied]))


def numbers(snapshots: Snapshots, frame: pl.DataFrame) -> dict[Key, tuple[int, ...]]:
    keys = snapshots.key_columns(frame)
    values = frame.select(*snapshots.table.measures, "applied").rows()
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, values, strict=True))


class Model:
    """Rows in a dict, and which of them changed since they were taken."""

    def __init__(self, measures: int) -> None:
        self.measures = measures
        self.rows: dict[Key, list[int]] = {}
        self.dirty: set[Key] = set()

    def add(self, key: Key, columns: list[int], amounts: list[int], applied: int) -> None:
        row = self.rows.setdefault(key, [0] * self.measures + [-1])
        for column, amount in zip(columns, amounts, strict=True):
            row[column] += amount
        row[-1] = max(row[-1], applied)
        self.dirty.add(key)

    def take(self) -> dict[Key, tuple[int, ...]]:
        taken = {key: tuple(self.rows[key]) for key in self.dirty}
        self.dirty = set()
        return taken


keys = st.tuples(st.sampled_from(["a", "b", "粉", ""]), st.integers(0, 40).map(lambda n: n * MINUTE_MS))
additions = st.lists(
    st.tuples(keys, st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 9)), min_size=2, max_size=2)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(additions, st.booleans(), st.none() | st.integers(0, 45 * MINUTE_MS)), max_size=8))
def test_snapshots_agree_with_a_dict(steps: list[tuple[list[Any], bool, int | None]]) -> None:
    """Each step adds, may take, may evict. A row that left and comes back starts from nothing."""
    snapshots, model, offset = Snapshots(MINUTES), Model(3), 0
    for added, take, oldest in steps:
        if added:
            columns = np.array([[column for column, _ in amounts] for _, amounts in added])
            values = np.array([[amount for _, amount in amounts] for _, amounts in added])
            snapshots.add([key for key, _ in added], columns, values, offset + np.arange(len(added)))
        for number, (key, amounts) in enumerate(added):
            model.add(key, [column for column, _ in amounts], [amount for _, amount in amounts], offset + number)
        offset += len(added)
        if take:
            assert numbers(snapshots, snapshots.take()) == model.take()
        if oldest is not None:
            snapshots.evict(oldest)
            for key in [key for key in model.rows if key not in model.dirty and key[-1] + MINUTE_MS < oldest]:
                del model.rows[key]
        assert len(snapshots) == len(model.rows)
        assert snapshots.highest == max((row[-1] for row in model.rows.values()), default=-1)
        every = sorted({*model.rows, ("a", 0), ("nobody", 7)})
        held = [model.rows[key][-1] if key in model.rows else -1 for key in every]
        assert snapshots.applied(every).tolist() == held
    assert numbers(snapshots, snapshots.take()) == model.take()
    assert snapshots.take().is_empty()


def test_growth_and_reuse_of_slots_keep_every_row() -> None:
    snapshots = Snapshots(MINUTES)
    for generation in range(4):
        base = generation * 1_000 * MINUTE_MS
        names = [(f"k{n}", base + n * MINUTE_MS) for n in range(700)]
        snapshots.add(names, np.zeros((700, 1), int), np.arange(700)[:, None], np.arange(700))
        taken = numbers(snapshots, snapshots.take())
        assert taken == {name: (n, 0, 0, n) for n, name in enumerate(names)}
        snapshots.evict(base + 10_000 * MINUTE_MS)
        assert (len(snapshots), snapshots.highest) == (0, -1)


def test_what_is_not_yet_taken_is_not_forgotten() -> None:
    snapshots = Snapshots(MINUTES)
    contribute(snapshots, ("a", 0), 0, 5, 1)
    snapshots.evict(10 * MINUTE_MS)
    assert len(snapshots) == 1
    assert numbers(snapshots, snapshots.take()) == {("a", 0): (5, 0, 0, 1)}
    snapshots.evict(10 * MINUTE_MS)
    assert len(snapshots) == 0


@pytest.mark.parametrize(("table", "length"), [(MINUTES, MINUTE_MS), (HOURS, HOUR_MS)])
def test_a_bucket_stays_until_its_end_has_passed(table: SnapshotTable, length: int) -> None:
    snapshots = Snapshots(table)
    contribute(snapshots, ("a", 5 * length), 0, 1, 1)
    snapshots.take()
    snapshots.evict(6 * length - 1)
    snapshots.evict(6 * length)
    assert len(snapshots) == 1
    snapshots.evict(6 * length + 1)
    assert len(snapshots) == 0


@pytest.mark.parametrize(("hours", "kept"), [(24 + 13, 1), (24 + 24 + 24 + 15, 0)])
def test_a_local_day_stays_until_it_has_ended_everywhere(hours: int, kept: int) -> None:
    """West of everything a day ends 12 hours later than in UTC, and 13 when the clock goes back."""
    snapshots = Snapshots(DAYS)
    contribute(snapshots, ("a", "x", 20_000), 0, 1, 1)
    snapshots.take()
    snapshots.evict(20_000 * DAY_MS + hours * HOUR_MS)
    assert len(snapshots) == kept


def test_taken_rows_have_stored_types() -> None:
    snapshots, days = Snapshots(MINUTES), Snapshots(DAYS)
    contribute(snapshots, ("a", 1_750_000_020_000), 1, 2**50, 9)
    contribute(days, ("a", "x", 20_254), 0, -3, 8)
    assert snapshots.take().rows() == [("a", datetime(2025, 6, 15, 15, 7, tzinfo=UTC), 0, 2**50, 0, 9)]
    taken = days.take()
    assert taken.rows() == [("a", "x", date(2025, 6, 15), -3, 8)]
    assert taken.schema == {"who": pl.String, "what": pl.String, "day": pl.Date, "a": pl.Int64, "applied": pl.Int64}
    empty = days.take()
    assert empty.is_empty()
    assert empty.schema == taken.schema


@pytest.mark.parametrize(
    ("table", "bucket", "forms"),
    [
        (
            HOURS,
            1_750_000_000_000 // HOUR_MS * HOUR_MS,
            [pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "UTC")],
        ),
        (DAYS, 20_254, [pl.Date, pl.UInt16, pl.Int32]),
    ],
)
def test_a_restored_row_goes_on_from_its_values(table: SnapshotTable, bucket: int, forms: list[Any]) -> None:
    for form in forms:
        first, second = Snapshots(table), Snapshots(table)
        key = (*(["a"] * (len(table.keys) - 1)), bucket)
        contribute(first, key, 0, 7, 3)
        stored = first.take()
        second.restore(stored.with_columns(pl.col(table.bucket).cast(form)))
        assert second.take().is_empty()
        assert (second.highest, second.applied([key]).tolist()) == (3, [3])
        contribute(second, key, 0, 1, 4)
        assert numbers(second, second.take()) == {key: (8, 4)}


def test_restoring_no_rows_does_nothing() -> None:
    snapshots = Snapshots(MINUTES)
    snapshots.restore(snapshots.take())
    assert (len(snapshots), snapshots.highest) == (0, -1)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("calls", [1, 3])
def test_of_restored_rows_with_one_key_the_most_advanced_stays(order: tuple[int, ...], calls: int) -> None:
    first, second = Snapshots(MINUTES), Snapshots(MINUTES)
    states = []
    for offset in range(3):
        contribute(first, ("a", 0), 0, 5 - 4 * offset, offset)
        contribute(first, (f"other{offset}", 0), 1, 1, offset)
        states.append(first.take())
    stored = [states[number] for number in order]
    for part in stored if calls == 3 else [pl.concat(stored)]:
        second.restore(part)
    assert second.take().is_empty()
    assert (len(second), second.highest, second.applied([("a", 0)]).tolist()) == (4, 2, [2])
    contribute(second, ("a", 0), 2, 7, 3)
    assert numbers(second, second.take()) == {("a", 0): (3, 0, 7, 3)}
