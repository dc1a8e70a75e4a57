"""Bytes to columns: every record of a block becomes a validated row, or is refused with a reason."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from pipeline.block import Block
from pipeline.grammar import Grammar, grammar
from schemas.events import CONTRACTS, EARLIEST_EVENT_MS, FUTURE_MS, KINDS, MAX_RECORD_BYTES

FAN_CACHE = 500_000
"""Fans whose keyed hash a worker remembers."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is no event: where it stood, why (a short code and a sentence), and its bytes."""

    offset: int
    appended: int
    reason: str
    detail: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a block held.

    ``rows``: one row per event in offset order: ``offset``, ``appended`` (ms), then every field of the topic with
    absent strings as ``""`` and absent numbers as null, ``fan_id`` and ``reply_to`` replaced by keyed hashes
    (``fan``, ``reply_to_fan``, UInt64; 0 is absent). ``extra_fields`` counts fields that no model names;
    ``slow`` the records that pydantic read one by one.
    """

    rows: pl.DataFrame
    refused: list[Refused]
    extra_fields: int
    slow: int


class FanHasher:
    """Keyed 64-bit BLAKE2b of fan ids (RFC 7693): fans are told apart in ClickHouse, but not named there."""

    def __init__(self, key: bytes) -> None:
        self._base = hashlib.blake2b(key=key, digest_size=8)
        self._known: dict[str, int] = {"": 0}

    def hash(self, fan_id: str) -> int:
        """The hash of one id; 0 only for the empty string, which stands for "none"."""
        known = self._known.get(fan_id)
        if known is None:
            state = self._base.copy()
            state.update(fan_id.encode())
            known = int.from_bytes(state.digest(), "little") or 1
            if len(self._known) >= FAN_CACHE:
                self._known = {"": 0}
            self._known[fan_id] = known
        return known

    def column(self, ids: pl.Series) -> pl.Series:
        """Hashes of a String column, as UInt64."""
        if ids.is_empty():
            return pl.Series(ids.name, [], dtype=pl.UInt64)
        first = ids[0]
        if (ids == first).all():
            return pl.Series(ids.name, [self.hash(first)], dtype=pl.UInt64).new_from_index(0, len(ids))
        known = self._known
        hashes = [found if (found := known.get(value)) is not None else self.hash(value) for value in ids.to_list()]
        return pl.Series(ids.name, hashes, dtype=pl.UInt64)


class Decoder:
    """Reader of one topic. Holds no state but caches: the same block gives the same rows, always."""

    def __init__(self, topic: str, fans: FanHasher) -> None:
        self.topic = topic
        self._fans = fans
        self._grammar = grammar(topic)
        self._contract = CONTRACTS[topic]
        self._fields = {kind: frozenset(model.model_fields) for kind, model in KINDS[topic].items()}
        self._schema = {"offset": pl.Int64, "appended": pl.Int64, **self._grammar.schema}
        self._checks = _checks(self._grammar)

    def decode(self, block: Block) -> Decoded:
        """All records of the block, each as a row or as refused; nothing raises for what a record contains."""
        fast, doubtful = self._fast(block)
        slow, refused, extra = self._slow(block, doubtful)
        rows = fast if slow is None else pl.concat([fast, slow]).sort("offset")
        if len(rows):
            future = rows["event_time"] > rows["appended"] + FUTURE_MS
            if future.any():
                where = np.searchsorted(block.offsets, rows.filter(future)["offset"].to_numpy())
                for index in where.tolist():
                    refused.append(
                        Refused(
                            int(block.offsets[index]),
                            int(block.appended[index]),
                            "future",
                            "event_time is more than a day after the broker received it",
                            block.values[index],
                        )
                    )
                rows = rows.filter(~future)
                refused.sort(key=lambda record: record.offset)
        return Decoded(self._finish(rows), refused, extra, len(doubtful))

    def _finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        strings = [name for name, dtype in self._schema.items() if dtype == pl.String]
        rows = rows.with_columns(pl.col(strings).fill_null(""))
        hashed = [self._fans.column(rows["fan_id"]).alias("fan")]
        dropped = ["fan_id"]
        if "reply_to" in self._schema:
            hashed.append(self._fans.column(rows["reply_to"]).alias("reply_to_fan"))
            dropped.append("reply_to")
        return rows.drop(dropped).with_columns(hashed)

    def _fast(self, block: Block) -> tuple[pl.DataFrame, list[int]]:
        """Rows of the records whose form is proven, and the positions of all others."""
        empty = pl.DataFrame(schema=self._schema)
        total = len(block.values)
        if not total:
            return empty, []
        sizes = np.fromiter(
            (MAX_RECORD_BYTES + 1 if value is None else len(value) for value in block.values), np.int64, total
        )
        readable = (sizes > 0) & (sizes <= MAX_RECORD_BYTES)
        chosen = range(total) if readable.all() else np.flatnonzero(readable).tolist()
        values = block.values if len(chosen) == total else [block.values[index] for index in chosen]
        joined = b"\n".join(values)  # type: ignore[arg-type]
        # A line break inside a record would shift every row after it.
        if joined.count(b"\n") != len(values) - 1:
            chosen = [index for index in chosen if b"\n" not in block.values[index]]  # type: ignore[operator]
            values = [block.values[index] for index in chosen]
            joined = b"\n".join(values)  # type: ignore[arg-type]
        if not values:
            return empty, list(range(total))
        positions = np.fromiter(chosen, np.int64, len(chosen))
        try:
            lines = _lines(joined, sizes[positions])
        except (pa.ArrowInvalid, pl.exceptions.PolarsError):
            valid = [index for index in chosen if _utf8(block.values[index])]
            positions = np.array(valid, np.int64)
            joined = b"\n".join(block.values[index] for index in valid)  # type: ignore[misc]
            if not valid:
                return empty, list(range(total))
            lines = _lines(joined, sizes[positions])
        shaped = lines.str.contains(self._grammar.shape)
        if not shaped.all():
            keep = shaped.to_numpy()
            positions = positions[keep]
            lines = lines.filter(shaped)
            joined = b"\n".join(block.values[index] for index in positions.tolist())
            if not len(positions):
                return empty, list(range(total))
        try:
            rows = pl.read_ndjson(joined, schema=self._grammar.schema)
        except pl.exceptions.PolarsError:
            rows = empty
        if len(rows) != len(positions):
            return empty, list(range(total))
        # As many keys as values found: no key stood twice. (A ``":`` inside a string only raises the count.)
        keys = lines.str.count_matches('":', literal=True)
        sound = rows.select(
            self._checks & (pl.sum_horizontal(pl.all().is_not_null()) == pl.lit(keys)),
        ).to_series()
        if not sound.all():
            rows, positions = rows.filter(sound), positions[sound.to_numpy()]
        rows = rows.select(
            pl.Series("offset", block.offsets[positions]),
            pl.Series("appended", block.appended[positions]),
            pl.all(),
        )
        if len(positions) == total:
            return rows, []
        doubtful = np.ones(total, bool)
        doubtful[positions] = False
        return rows, np.flatnonzero(doubtful).tolist()

    def _slow(self, block: Block, positions: list[int]) -> tuple[pl.DataFrame | None, list[Refused], int]:
        rows: list[dict[str, Any]] = []
        refused: list[Refused] = []
        extra = 0
        for index in positions:
            value, offset, appended = block.values[index], int(block.offsets[index]), int(block.appended[index])
            try:
                event, ignored = self.read(value)
            except Unreadable as why:
                refused.append(Refused(offset, appended, why.reason, why.detail, value))
                continue
            extra += ignored
            rows.append({"offset": offset, "appended": appended, **event})
        if not rows:
            return None, refused, extra
        return pl.DataFrame(rows, schema=self._schema), refused, extra

    def read(self, value: bytes | None) -> tuple[dict[str, Any], int]:
        """One record as pydantic sees it, and how many of its fields no model names.

        Raises Unreadable, which says why. This is the contract; the fast path only agrees with it.
        """
        if value is None:
            raise Unreadable("null_value", "the record has no value")
        if len(value) > MAX_RECORD_BYTES:
            raise Unreadable("too_large", f"{len(value)} bytes; at most {MAX_RECORD_BYTES} are read")
        if not _utf8(value):
            raise Unreadable("invalid_utf8", "the bytes are not UTF-8")
        try:
            raw = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Unreadable("broken_json", str(error)) from None
        if not isinstance(raw, dict):
            raise Unreadable("wrong_type", "the record is not a JSON object")
        kind = raw.get("kind")
        if not isinstance(kind, str):
            reason = "missing_field" if kind is None else "wrong_type"
            raise Unreadable(reason, "kind: a string is required")
        known = self._fields.get(kind)
        if known is None:
            raise Unreadable("unknown_kind", f"kind: {self.topic} has no {kind[:64]!r}")
        try:
            event = self._contract.validate_json(value)
        except ValidationError as error:
            raise _unreadable(error) from None
        fields = {name: getattr(event, name) for name in known}
        try:
            for text in fields.values():
                if isinstance(text, str):
                    text.encode()
        except UnicodeEncodeError:
            raise Unreadable("broken_json", "a string holds half of a surrogate pair") from None
        return fields, sum(1 for name in raw if name not in known)


class Unreadable(Exception):
    """A record is no event; ``reason`` is a code, ``detail`` a sentence that names the field."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


_REASONS = {
    "missing": "missing_field",
    "json_invalid": "broken_json",
    "string_type": "wrong_type",
    "int_type": "wrong_type",
    "int_from_float": "wrong_type",
    "string_too_long": "too_long",
    "string_too_short": "empty",
    "string_pattern_mismatch": "bad_characters",
    "literal_error": "unknown_value",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "int_parsing_size": "out_of_range",
    "union_tag_invalid": "unknown_kind",
    "union_tag_not_found": "missing_field",
}


def _unreadable(error: ValidationError) -> Unreadable:
    first = error.errors(include_url=False, include_input=True)[0]
    field = str(first["loc"][-1]) if first["loc"] else "record"
    reason = _REASONS.get(first["type"], "invalid")
    value = first.get("input")
    if first["type"] == "greater_than_equal" and isinstance(value, int):
        if field == "event_time" and 0 < value < EARLIEST_EVENT_MS:
            return Unreadable("out_of_range", "event_time: before the year 2000; is it in seconds?")
        if value < 0:
            reason = "negative"
    return Unreadable(reason, f"{field}: {first['msg']}")


def _utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(joined: bytes, sizes: np.ndarray[Any, np.dtype[np.int64]]) -> pl.Series:
    """The joined records as a String column, without copying them apart. ArrowInvalid where they are not UTF-8."""
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes + 1, out=offsets[1:])
    offsets[-1] = len(joined)
    lines = pa.LargeStringArray.from_buffers(len(sizes), pa.py_buffer(offsets), pa.py_buffer(joined))
    lines.validate(full=True)
    return pl.Series(pl.from_arrow(lines))


def _checks(grammar: Grammar) -> pl.Expr:
    """What a column can say of a row: lengths, ranges, and that its kind has the field, or must have it."""
    checks = []
    for column in grammar.columns:
        value = pl.col(column.name)
        present = value.is_not_null() if not column.blank else value.str.len_bytes() > 0
        sound = []
        # Bytes bound characters from above, and are cheaper to count; who exceeds them is read slowly.
        if column.maximum is not None:
            sound.append((value if column.dtype == pl.Int64 else value.str.len_bytes()) <= column.maximum)
        if column.minimum is not None:
            # A byte is at most one character: only the first of them can be told from bytes.
            length = value.str.len_bytes() if column.minimum <= 1 else value.str.len_chars()
            enough = (value if column.dtype == pl.Int64 else length) >= column.minimum
            if not column.blank:
                sound.append(enough)
            elif column.minimum > 1:
                sound.append(enough | ~present)
        if column.required == grammar.kinds:
            checks.append(pl.all_horizontal(value.is_not_null(), *sound))
            continue
        if column.allowed != grammar.kinds:
            sound.append(pl.col("kind").is_in(sorted(column.allowed)))
        if sound:
            checks.append(value.is_null() | pl.all_horizontal(sound))
        if column.required:
            checks.append(present | ~pl.col("kind").is_in(sorted(column.required)))
    return pl.all_horizontal(check.fill_null(False) for check in checks)


def reasons(refused: list[Refused]) -> Counter[str]:
    """How many records were refused, by reason."""
    return Counter(record.reason for record in refused)
