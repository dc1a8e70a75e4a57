"""The fold of attribution against a plain computation, over any order of arrival, blocks, crashes and torn flushes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import fan_log, touch_log
from pipeline.block import Block
from pipeline.fan_log import Input
from pipeline.folds import attribution
from pipeline.folds.attribution import ATTRIBUTIONS, CONVERSIONS, LATE_TOUCHES, Attribution, AttributionPolicy
from pipeline.folds.touches import Touches
from pipeline.touch_log import KINDS, TouchLog
from pipeline.transport import Delivery
from pipeline.verdict import NEVER

START = 1_750_000_000_000
HOUR = 3_600_000
LATE = 2 * HOUR
POLICY = AttributionPolicy(click_window=10 * HOUR, view_window=4 * HOUR, late=LATE)
SOURCES = tuple(KINDS)


@dataclass(frozen=True)
class Event:
    """An event of a source; ``amount`` also tells its advertisement or order from others."""

    source: str
    offset: int
    kind: str
    fan: int
    creator: str
    at: int
    amount: int
    late: bool

    @property
    def ad(self) -> tuple[str, str, str, str, str]:
        return f"k{self.amount}", f"g{self.amount}", f"v{self.amount}", "通投", "feed"


def block(events: Iterable[Event]) -> pl.DataFrame:
    """Judged rows of a source, as an agent has them."""
    listed = list(events)
    rows = pl.DataFrame(
        [
            (e.offset, "douyin", e.creator, e.fan, e.at, e.kind, f"o{e.amount}", e.amount, *e.ad, int(e.late), 0)
            for e in listed
        ],
        schema={
            "offset": pl.Int64,
            "platform": pl.String,
            "creator_id": pl.String,
            "fan": pl.UInt64,
            "event_time": pl.Int64,
            "kind": pl.String,
            "order_id": pl.String,
            "amount_micros": pl.Int64,
            **dict.fromkeys(touch_log.AD_COLUMNS, pl.String),
            "late": pl.UInt8,
            "duplicate": pl.UInt8,
        },
        orient="row",
    )
    return rows.drop(*_ABSENT[listed[0].source]) if listed else rows


_ABSENT = {
    "ad_events": ("order_id", "amount_micros"),
    "interactions": ("order_id", "amount_micros", *touch_log.AD_COLUMNS),
    "orders": touch_log.AD_COLUMNS,
}


Winner = tuple[int, bool, int, str] | None
"""Time, whether a click, offset and campaign of a touch."""


def winner(conversion: Event, touches: Iterable[Event]) -> Winner:
    """The definition."""
    windows = {"click": POLICY.click_window, "impression": POLICY.view_window}
    return max(
        (
            (t.at, t.kind == "click", t.offset, t.ad[0])
            for t in touches
            if (t.fan, t.creator) == (conversion.fan, conversion.creator)
            and 0 <= conversion.at - t.at <= windows[t.kind]
        ),
        default=None,
    )


def won(row: Mapping[str, Any]) -> Winner:
    """What a row of the table says."""
    if row["touch"] == "none":
        assert (row["campaign_id"], row["touch_offset"]) == ("", -1)
        return None
    at = int(row["touched_at"].timestamp() * 1000 + 0.5)
    return at, row["touch"] == "click", row["touch_offset"], row["campaign_id"]


class Told:
    """The touch log as it grows, and which facts each of its messages told for the first time."""

    def __init__(self, events: Mapping[str, list[Event]]) -> None:
        self.events = events
        self.messages: list[bytes] = []
        self.at: dict[tuple[str, int], int] = {}
        self.sent = dict.fromkeys(SOURCES, 0)

    def send(self, source: str, start: int, upto: int, cuts: int) -> None:
        """An agent tells the events of a source, in so many blocks."""
        fold = Touches("db", source, 0)
        bounds = np.linspace(start, upto, cuts + 1).astype(int).tolist()
        for begin, end in pairwise(bounds):
            if end > begin:
                fold.apply(block(self.events[source][begin:end]))
        newest = max((e.at for e in self.events[source][:upto]), default=None)
        for output in fold.outputs(start, upto, newest):
            assert (output.topic, output.partition) == ("fan_touches", 0)
            self._note(output.value)
        self.sent[source] = max(self.sent[source], upto)

    def quiet(self, source: str) -> None:
        newest = max((e.at for e in self.events[source][: self.sent[source]]), default=None)
        (output,) = Touches("db", source, 0).outputs(self.sent[source], self.sent[source], newest)
        self._note(output.value)

    def _note(self, value: bytes) -> None:
        facts = fan_log.decode(value, touch_log.SCHEMA)
        for offset in facts.facts["offset"].to_list():
            self.at.setdefault((facts.source, offset), len(self.messages))
        self.messages.append(value)


Row = dict[str, Any]


class Tables:
    """What is stored, with all that ever was."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Row] = {}
        self.late: set[int] = set()
        self.every: list[Row] = []

    def store(self, taken: dict[str, pl.DataFrame], last: bool = True) -> None:
        """``last``: also the second table of a flush."""
        if LATE_TOUCHES in taken:
            self.late |= set(taken[LATE_TOUCHES]["offset"].to_list())
        for row in taken[ATTRIBUTIONS].rows(named=True) if last and ATTRIBUTIONS in taken else []:
            key = (row["kind"], row["offset"])
            before = self.rows.get(key)
            if before is None or row["applied"] >= before["applied"]:
                assert before is None or row["applied"] > before["applied"] or row == before
                self.rows[key] = row
            self.every.append(row)


class Reader:
    """A worker on the touch log: restored from the tables at a checkpoint."""

    def __init__(self, told: Told, tables: Tables, position: int, inputs: dict[str, Input]) -> None:
        self.told, self.tables = told, tables
        self.fold = Attribution(POLICY)
        self.log = TouchLog(0, "db", LATE, {"attribution": self.fold}, {"attribution": position}, position, inputs)
        reached = {source: inputs[source].reached if source in inputs else None for source in SOURCES}
        below = {source: inputs[source].next if source in inputs else 0 for source in SOURCES}
        touches = [
            e
            for e in told.events["ad_events"][: below["ad_events"]]
            if e.kind in KINDS["ad_events"] and not e.late and e.offset not in tables.late
        ]
        fold = Touches("db", "ad_events", 0)
        if touches:
            fold.apply(block(touches))
        facts = [fan_log.decode(o.value, touch_log.SCHEMA).facts for o in fold.outputs(0, 1 << 40, None)]
        ads = reached["ad_events"]
        stored = [
            {**row, "converted_at": _ms(row["converted_at"]), "touched_at": _ms(row["touched_at"])}
            for (kind, offset), row in tables.rows.items()
            if kind != "refund"
            and offset < below["interactions" if kind == "follow" else "orders"]
            and (ads is None or _ms(row["converted_at"]) >= ads - LATE)
        ]
        self.fold.restore_state(pl.concat(facts), pl.DataFrame(stored, schema=attribution._ROW), reached)
        self.inputs = inputs

    def read(self, count: int) -> None:
        begin = self.log.position
        values = self.told.messages[begin : begin + count]
        if values:
            offsets = np.arange(begin, begin + len(values))
            appended = np.full(len(values), 1 << 50)
            batch = self.log.read(
                Delivery(Block("fan_touches", 0, begin, begin + len(values), offsets, appended, [*values]), self.log)
            )
            self.fold.apply(self.log.share("attribution", batch))
            self.inputs = fan_log.read_inputs(batch.inputs)


def _ms(at: Any) -> int:
    return int(at.timestamp() * 1000 + 0.5)


def events(rng: Random) -> dict[str, list[Event]]:
    """Events of every source: forward by and by, and back, within the horizon and beyond it."""
    found = {}
    for source, kinds in KINDS.items():
        listed: list[Event] = []
        at, newest = START, NEVER
        for offset in range(rng.randrange(50)):
            at += rng.choice((0, 0, HOUR // 4, HOUR, 2 * HOUR))
            back = rng.choice((0, 0, HOUR // 4, HOUR, LATE, LATE + HOUR))
            newest = max(newest, at - back)
            kind = rng.choice((*kinds, "play" if source == "ad_events" else kinds[0]))
            fan, creator = rng.choice(((1, "a"), (1, "a"), (1, "b"), (2, "a")))
            late = at - back < newest - LATE
            listed.append(Event(source, offset, kind, fan, creator, at - back, rng.randrange(1, 4), late))
        found[source] = listed
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_any_order_blocks_crashes_and_torn_flushes_end_in_the_definition(seed: int) -> None:
    rng = Random(seed)
    made, gives_up = events(rng), rng.random() < 0.3
    told, tables = Told(made), Tables()
    checkpoint: tuple[int, dict[str, Input]] = (0, {})
    reader = Reader(told, tables, *checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(touch_log, "MESSAGE_FACTS", rng.randrange(1, 7))
        patch.setattr(touch_log, "WAIT_MS", 5 * HOUR if gives_up else 1 << 40)
        patch.setattr(attribution, "_SPARE", rng.choice((-1000, 0, 1 << 16)))
        patch.setattr(attribution, "_DEEP", rng.choice((0, 1, 2, 64)))
        for _ in range(rng.randrange(80)):
            source = rng.choice(SOURCES)
            sent = told.sent[source]
            match rng.choice(("send", "send", "send", "again", "quiet", "read", "read", "flush", "flush", "crash")):
                case "send" if sent < len(made[source]):
                    told.send(source, sent, min(sent + rng.randrange(1, 9), len(made[source])), 2)
                case "again" if sent:
                    start = rng.randrange(sent)
                    told.send(source, start, rng.randrange(start + 1, sent + 1), 3)
                case "quiet" if rng.random() < 0.3:
                    told.quiet(source)
                case "read":
                    reader.read(rng.randrange(1, 7))
                case "flush":
                    tables.store(reader.fold.take())
                    reader.fold.evict(NEVER)
                    checkpoint = reader.log.position, reader.inputs
                case "crash":
                    tables.store(reader.fold.take(), last=rng.random() < 0.5)
                    reader = Reader(told, tables, *checkpoint)
        for source in SOURCES:
            told.send(source, told.sent[source], len(made[source]), 1)
        reader.read(len(told.messages))
        tables.store(reader.fold.take())
    conversions = {
        (CONVERSIONS[e.kind], e.offset): e
        for source in ("interactions", "orders")
        for e in made[source]
        if e.kind in CONVERSIONS and not e.late
    }
    touches = [e for e in made["ad_events"] if e.kind in KINDS["ad_events"] and not e.late]
    assert tables.rows.keys() == conversions.keys()
    assert gives_up or not (tables.late or any(row["beyond"] for row in tables.rows.values()))
    known = [t for t in touches if t.offset not in tables.late]
    # Every row that ever was is what the log says up to where it says so.
    for row in tables.every:
        conversion = conversions[row["kind"], row["offset"]]
        assert (row["fan"], row["creator_id"], _ms(row["converted_at"]), row["amount_micros"]) == (
            conversion.fan,
            conversion.creator,
            conversion.at,
            conversion.amount if conversion.kind != "follow" else 0,
        )
        if conversion.kind == "refunded" or row["beyond"]:
            assert won(row) is None
            continue
        upto = row["applied"]
        assert told.at[conversion.source, conversion.offset] <= upto
        assert won(row) == winner(conversion, (t for t in known if told.at["ad_events", t.offset] <= upto))
    for key, row in tables.rows.items():
        if row["kind"] != "refund" and not row["beyond"]:
            assert won(row) == winner(conversions[key], known)
