"""The fan log: what the source topics say about fans, from agent ``facts`` to the agents that read it.

A message is a line of JSON and then an Arrow stream. The line has ``database`` (whose workers sent it: those of another
database on the same topics may hash fans with another key), ``source`` (topic, or ``repair``), ``start`` and ``next``
(the source's offsets that it covers; facts beyond ``next`` are told again by one that covers them) and ``reached``
(event time the source has got to, UTC ms; null: it has had no event). Columns of the facts: ``offset`` (Int64, in the
source), ``platform``, ``creator_id`` (String), ``fan`` (UInt64), ``at`` (Int64, event time, UTC ms), ``kind`` (String).
A message without facts tells only that time passed. The touch log (``touch_log``) has the same with other columns.
"""

import io
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import orjson
import polars as pl

from pipeline.block import Block
from pipeline.fold import Fold
from pipeline.log import Batch, Broken, Log, sender
from pipeline.verdict import AHEAD_MS, NEVER
from schemas.topics import SOURCES

TOPIC = "fan_facts"
REPAIR = "repair"
"""Source of late events that a repair has taken in: in no order, and sent again by every repair of their days."""
SCHEMA = {
    "offset": pl.Int64,
    "platform": pl.String,
    "creator_id": pl.String,
    "fan": pl.UInt64,
    "at": pl.Int64,
    "kind": pl.String,
}
"""Columns of facts, as sent."""
ROWS = {"applied": pl.Int64, "source": pl.String, **SCHEMA, "day": pl.Int32}
"""Columns of what folds read. ``applied`` is the offset on the fan log, ``day`` the local date (days since epoch). A
row whose ``kind`` is empty is a tick: every source has reached its ``day``."""
MESSAGE_FACTS = 20_000
"""Facts in a message at most."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, read (see above)."""

    database: str
    source: str
    start: int
    next: int
    reached: int | None
    facts: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Input:
    """How far the fan log holds a source: its next offset, and the event time it has reached (UTC ms; None: none)."""

    next: int
    reached: int | None


def encode(
    database: str,
    source: str,
    start: int,
    next_offset: int,
    reached: int | None,
    parts: Sequence[tuple[int, pl.DataFrame]],
    schema: Mapping[str, Any] = SCHEMA,
    most: int | None = None,
) -> list[bytes]:
    """Messages for the facts from ``start`` to before ``next_offset``, of ``most`` each at most (``MESSAGE_FACTS``).

    ``parts`` are facts in order, with the columns of ``schema``, each with the offset up to which, with those before
    it, they say all. A message covers whole parts: who sends the same again, cut otherwise, may tell a fact at another
    offset, so what is covered must be said in full. Of a part that is too large for a message only the last piece
    covers anything.
    """
    most = MESSAGE_FACTS if most is None else most
    covered: list[tuple[int, list[pl.DataFrame]]] = [(start, [pl.DataFrame(schema=schema)])]
    for end, facts in parts:
        held = sum(map(len, covered[-1][1]))
        if held and held + len(facts) > most:
            covered.append((end, [facts]))
        else:
            covered[-1] = (end, [*covered[-1][1], facts])
    # Time has passed when all facts before it are there.
    covered[-1] = (next_offset, covered[-1][1])
    messages = []
    for number, (end, together) in enumerate(covered, 1):
        facts = pl.concat(together)
        for begin in range(0, max(len(facts), 1), most):
            last = begin + most >= len(facts)
            piece, body = facts[begin : begin + most], io.BytesIO()
            if len(piece):
                piece.select(*schema).write_ipc_stream(body, compression="lz4")
            head: dict[str, Any] = {"database": database, "source": source, "start": start}
            head |= {"next": end if last else start, "reached": reached if last and number == len(covered) else None}
            messages.append(orjson.dumps(head) + b"\n" + body.getvalue())
        start = end
    return messages


def decode(value: bytes | None, schema: Mapping[str, Any] = SCHEMA) -> Message:
    """A message whose facts have these columns. ValueError if ``value`` is none."""
    head, _, body = (value or b"").partition(b"\n")
    try:
        line = orjson.loads(head)
        facts = pl.read_ipc_stream(body) if body else pl.DataFrame(schema=schema)
        if dict(facts.schema) != schema or line["source"] not in (*SOURCES, REPAIR):
            raise ValueError("it has another source or other columns")
        return Message(
            str(line["database"]), line["source"], int(line["start"]), int(line["next"]), line["reached"], facts
        )
    except (KeyError, OSError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(str(error)) from None


def read_inputs(text: str) -> dict[str, Input]:
    """What ``Checkpoint.inputs`` says, by source."""
    return {source: Input(found["next"], found["reached"]) for source, found in orjson.loads(text or "{}").items()}


def write_inputs(inputs: Mapping[str, Input]) -> str:
    """Text for ``Checkpoint.inputs``: canonical JSON."""
    found = {source: {"next": each.next, "reached": each.reached} for source, each in inputs.items()}
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()


def as_of(inputs: Mapping[str, Input], zone: ZoneInfo) -> int | None:
    """The local day (days since epoch) that all sources have reached; None while one has not been heard of, or none
    has had an event."""
    if any(source not in inputs for source in SOURCES):
        return None
    reached = [each.reached for each in inputs.values() if each.reached is not None]
    return local_day(min(reached), zone) if reached else None


def local_day(at: int, zone: ZoneInfo) -> int:
    """Local date of an event time (UTC ms), days since epoch."""
    offset = pl.Series([at]).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone.key).dt.date()
    return int(offset.to_physical()[0])


class MessageLog(Log):
    """One partition of a log of such messages, for as long as this worker holds it.

    What was sent twice, after a crash or by two workers, is dropped by the offset of its source; ``inputs`` says how
    far each is. ``name`` is the topic, ``schema`` has the columns of its facts, ``row_schema`` those of what folds
    read. ``on_batch(log, batch, seconds)`` as in ``log.PartitionLog``.
    """

    place: ClassVar[str] = "applied"
    name: ClassVar[str]
    schema: ClassVar[Mapping[str, Any]]
    row_schema: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        partition: int,
        database: str,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        inputs: Mapping[str, Input],
        on_batch: Callable[[Any, Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        super().__init__(self.name, partition, folds, checkpoints, position)
        self._database = database
        self._inputs = dict(inputs)
        self._on_batch = on_batch

    def oldest(self, newest: int) -> int:
        return NEVER

    @abstractmethod
    def _rows(self, message: Message, facts: pl.DataFrame, applied: int) -> pl.DataFrame:
        """What folds read of a message at an offset of this log, of whose ``facts`` the log has had none."""

    @abstractmethod
    def _reached(self, message: Message, known: Input | None) -> int | None:
        """The event time that the source of a message has reached, whose facts follow what is known of it."""

    def _judge(self, block: Block) -> Batch:
        began, parts, newest = time.thread_time(), [], NEVER
        bounds = (block.appended + AHEAD_MS).tolist()
        for offset, bound, value in zip(block.offsets.tolist(), bounds, block.values, strict=True):
            if sender(value) not in (self._database, None):
                continue
            try:
                message = decode(value, self.schema)
            except ValueError as error:
                where = f"{self.name}[{self.partition}]: offset {offset}"
                raise Broken(f"{where} is no message of the fan log ({error})") from None
            if message.reached is not None and message.reached > bound:
                # Told by a worker whose clock was far ahead.
                message = replace(message, reached=bound)
            facts = self._new(message)
            if len(facts):
                newest = max(newest, int(facts["at"].max()))  # type: ignore[arg-type]
            rows = self._rows(message, facts, offset)
            if len(rows):
                parts.append(rows)
        rows = pl.concat(parts) if parts else pl.DataFrame(schema=self.row_schema)
        inputs = write_inputs(self._inputs)
        batch = Batch(rows, [], block.start, block.next, newest, 0, 0, inputs)
        self._on_batch(self, batch, time.thread_time() - began)
        return batch

    def _new(self, message: Message) -> pl.DataFrame:
        """Facts of a message that the log has not had."""
        if message.source == REPAIR:
            return message.facts
        known = self._inputs.get(message.source)
        next_offset = message.start if known is None else known.next
        if message.start > next_offset:
            raise Broken(
                f"{self.name}[{self.partition}]: a message of {message.source} begins at {message.start}, "
                f"but {next_offset} was to come"
            )
        self._inputs[message.source] = Input(max(next_offset, message.next), self._reached(message, known))
        return message.facts.filter(pl.col("offset") >= next_offset)


class FanLog(MessageLog):
    """One partition of the fan log. Its rows have a tick for each day that all sources have reached."""

    name = TOPIC
    schema = SCHEMA
    row_schema = ROWS

    def __init__(
        self,
        partition: int,
        database: str,
        time_zone: str,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        inputs: Mapping[str, Input],
        on_batch: Callable[[Any, Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        super().__init__(partition, database, folds, checkpoints, position, inputs, on_batch)
        self._zone = ZoneInfo(time_zone)
        self._day = as_of(self._inputs, self._zone)

    def _rows(self, message: Message, facts: pl.DataFrame, applied: int) -> pl.DataFrame:
        day = pl.col("at").cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._zone.key).dt.date().to_physical()
        rows = facts.select(
            pl.lit(applied, pl.Int64).alias("applied"),
            pl.lit(message.source).alias("source"),
            *SCHEMA,
            day.cast(pl.Int32).alias("day"),
        )
        reached = as_of(self._inputs, self._zone)
        if reached is not None and (self._day is None or reached > self._day):
            self._day = reached
            rows = pl.concat([rows, _tick(applied, reached)])
        return rows

    def _reached(self, message: Message, known: Input | None) -> int | None:
        reached = None if known is None else known.reached
        times = [at for at in (reached, message.reached) if at is not None]
        if message.reached is not None and reached is None and self._day is not None:
            # Its first event may be older than what others have long reached; the day never goes back.
            times += [min(each.reached for each in self._inputs.values() if each.reached is not None)]
        return max(times, default=None)


def _tick(applied: int, day: int) -> pl.DataFrame:
    row = {"applied": applied, "source": "", "offset": -1, "platform": "", "creator_id": "", "fan": 0, "at": 0}
    return pl.DataFrame([row | {"kind": "", "day": day}], schema=ROWS)
