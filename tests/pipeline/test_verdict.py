from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedupe import BUCKET_MS, DedupeIndex, fingerprints, restore
from pipeline.verdict import AHEAD_MS, NEVER, Horizon, Verdicts

START_MS = 1_750_000_000_000 // BUCKET_MS * BUCKET_MS


@dataclass
class Event:
    offset: int
    appended: int
    event_time: int
    event_id: str


@dataclass
class Reference:
    """Verdicts one event at a time: the watermark is the newest event time less the lateness, where one event counts
    at most as its append time and five minutes; late is more than the horizon behind the watermark; a repeat is an
    event on time whose id and time stood at a lower offset, on time."""

    lateness: int
    late: int
    newest: int | None = None
    seen: dict[tuple[str, int], int] = field(default_factory=dict)

    def judge(self, event: Event) -> tuple[int, int]:
        counted = min(event.event_time, event.appended + 5 * 60_000)
        self.newest = counted if self.newest is None else max(self.newest, counted)
        watermark = self.newest - self.lateness
        if watermark - event.event_time > self.late:
            return 1, 0
        first = self.seen.setdefault((event.event_id, event.event_time), event.offset)
        return 0, int(first < event.offset)


def frame(events: list[Event]) -> pl.DataFrame:
    return pl.DataFrame(
        [(e.offset, e.appended, e.event_time, e.event_id) for e in events],
        schema={"offset": pl.Int64, "appended": pl.Int64, "event_time": pl.Int64, "event_id": pl.String},
        orient="row",
    )


def judged(verdicts: Verdicts, events: list[Event]) -> list[tuple[int, int]]:
    rows = verdicts.judge(frame(events))
    assert rows.schema["late"] == rows.schema["duplicate"] == pl.UInt8
    return list(zip(rows["late"].to_list(), rows["duplicate"].to_list(), strict=True))


horizons = st.builds(
    Horizon,
    st.sampled_from([0, 1, 60_000, BUCKET_MS]),
    st.sampled_from([0, 1, BUCKET_MS, 2 * BUCKET_MS, 24 * BUCKET_MS]),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    events, offset, appended = [], draw(st.integers(0, 10)), START_MS
    for _ in range(draw(st.integers(0, 30))):
        offset += draw(st.integers(1, 3))
        appended += draw(st.sampled_from([0, 0, 1, 60_000, BUCKET_MS, 5 * BUCKET_MS]))
        if events and draw(st.booleans()):
            again = draw(st.sampled_from(events))
            events.append(Event(offset, appended, again.event_time, again.event_id))
            continue
        reach = draw(
            st.sampled_from(
                [0, AHEAD_MS, AHEAD_MS + 1, -60_000, -BUCKET_MS, -2 * BUCKET_MS, -30 * BUCKET_MS, 20 * BUCKET_MS]
            )
        )
        time = appended + reach + draw(st.integers(-2, 2))
        events.append(Event(offset, appended, time, draw(st.sampled_from("abc"))))
    return events


def split(events: list[Event], cuts: list[int]) -> list[list[Event]]:
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    return [events[low:high] for low, high in pairwise(edges)]


@settings(max_examples=250, deadline=None)
@given(logs(), horizons, st.lists(st.integers(0, 30), max_size=5))
def test_any_split_gives_the_verdicts_of_one_event_at_a_time(
    log: list[Event], horizon: Horizon, cuts: list[int]
) -> None:
    reference = Reference(horizon.lateness, horizon.late)
    expected = [reference.judge(event) for event in log]
    verdicts = Verdicts(horizon)
    got = [each for part in split(log, cuts) for each in judged(verdicts, part)]
    assert got == expected
    assert verdicts.newest == (NEVER if reference.newest is None else reference.newest)
    if log:
        assert verdicts.newest <= max(event.appended for event in log) + AHEAD_MS


@settings(max_examples=250, deadline=None)
@given(logs(), horizons, st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_restored_worker_gives_the_same_verdicts(
    log: list[Event], horizon: Horizon, checkpoint: int, stored: int, cut: int
) -> None:
    """Restored from the watermark of a checkpoint and the raw rows stored, which may be further than it."""
    reference = Reference(horizon.lateness, horizon.late)
    expected = [reference.judge(event) for event in log]
    before = Verdicts(horizon)
    judged(before, log[:checkpoint])
    kept = [
        event
        for event, (late, _) in zip(log[: max(checkpoint, stored)], expected, strict=False)
        if not late and event.event_time >= horizon.oldest(before.newest)
    ]
    raw = frame(kept)
    prints = fingerprints(raw) if kept else np.array([], np.uint64)
    index = restore(prints, raw["event_time"].to_numpy(), raw["offset"].to_numpy())
    after = Verdicts(horizon, before.newest, index)
    got = [each for part in split(log[checkpoint:], [cut]) for each in judged(after, part)]
    assert got == expected[checkpoint:]


def test_what_lies_exactly_at_the_horizon_is_on_time() -> None:
    horizon = Horizon(lateness=1_000, late=10_000)
    verdicts = Verdicts(horizon)
    log = [
        Event(0, START_MS, START_MS, "a"),
        Event(1, START_MS, START_MS - 11_000, "b"),
        Event(2, START_MS, START_MS - 11_001, "c"),
        Event(3, START_MS, START_MS - 11_000, "b"),
        Event(4, START_MS, START_MS - 11_001, "c"),
    ]
    assert judged(verdicts, log) == [(0, 0), (0, 0), (1, 0), (0, 1), (1, 0)]
    assert verdicts.watermark == START_MS - 1_000


def test_one_event_of_tomorrow_does_not_make_all_others_late() -> None:
    verdicts = Verdicts(Horizon(0, 0))
    tomorrow = START_MS + 86_400_000
    assert judged(verdicts, [Event(0, START_MS, tomorrow, "a")]) == [(0, 0)]
    assert verdicts.newest == START_MS + AHEAD_MS
    assert judged(verdicts, [Event(1, START_MS, START_MS + AHEAD_MS, "a"), Event(2, START_MS, tomorrow, "a")]) == [
        (0, 0),
        (0, 1),
    ]


def test_an_event_that_raises_the_watermark_is_judged_by_it() -> None:
    verdicts = Verdicts(Horizon(0, 5))
    log = [Event(0, START_MS, START_MS, "a"), Event(1, START_MS, START_MS + 10, "b"), Event(2, START_MS, START_MS, "a")]
    assert judged(verdicts, log) == [(0, 0), (0, 0), (1, 0)]


def test_an_index_that_is_handed_over_is_used_even_when_empty() -> None:
    index = DedupeIndex()
    verdicts = Verdicts(Horizon(0, 0), index=index)
    judged(verdicts, [Event(0, START_MS, START_MS, "a")])
    assert verdicts.index is index
    assert len(index) == 1


def test_what_the_horizon_left_behind_is_forgotten() -> None:
    verdicts = Verdicts(Horizon(0, 0))
    for hour in range(5):
        time = START_MS + hour * BUCKET_MS
        assert judged(verdicts, [Event(hour, time, time, f"e{hour}")]) == [(0, 0)]
    assert len(verdicts.index) == 1


def test_an_empty_block_changes_nothing() -> None:
    verdicts = Verdicts(Horizon(0, 0))
    assert judged(verdicts, []) == []
    assert (verdicts.newest, len(verdicts.index)) == (NEVER, 0)
