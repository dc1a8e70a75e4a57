import hashlib
import json
import unicodedata
from itertools import pairwise
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_records import NOW_MS, REASONS, TOKENS, block, canonical, plain, record, sound
from pydantic import ValidationError

from pipeline.block import Block
from pipeline.decode import Decoded, Decoder, FanHasher, Refused, Unreadable, reasons
from schemas.events import CONTRACTS, FUTURE_MS, KINDS

TOPICS = sorted(KINDS)
FANS = FanHasher(b"test key")
DECODERS = {topic: Decoder(topic, FANS) for topic in TOPICS}


def reference(
    decoder: Decoder, given_block: Block
) -> tuple[list[dict[str, Any]], list[tuple[int, str, bytes | None]], int]:
    """What a reader of one record at a time makes of a block: rows, refusals, unknown fields."""
    rows, refused, extra = [], [], 0
    for offset, value in zip(given_block.offsets.tolist(), given_block.values, strict=True):
        try:
            event, ignored = decoder.read(value)
        except Unreadable as why:
            refused.append((offset, why.reason, value))
            continue
        extra += ignored
        if event["event_time"] > NOW_MS + FUTURE_MS:
            refused.append((offset, "future", value))
            continue
        row: dict[str, Any] = {"offset": offset, "appended": NOW_MS}
        for column in decoder._grammar.columns:
            present = event.get(column.name)
            row[column.name] = "" if present is None and column.dtype == pl.String else present
        row["fan"] = FANS.hash(row.pop("fan_id"))
        if "reply_to" in row:
            row["reply_to_fan"] = FANS.hash(row.pop("reply_to"))
        rows.append(row)
    return rows, refused, extra


def refusals(decoded: Decoded) -> list[tuple[int, str, bytes | None]]:
    return [(each.offset, each.reason, each.value) for each in decoded.refused]


def assert_as_one_by_one(topic: str, values: list[bytes | None], step: int = 1) -> Decoded:
    decoder = DECODERS[topic]
    given_block = block(values, topic, 100, step)
    decoded = decoder.decode(given_block)
    rows, refused, extra = reference(decoder, given_block)
    got = decoded.rows.to_dicts()
    if got != rows:
        wrong = {row["offset"] for row in got if row not in rows} ^ {row["offset"] for row in rows if row not in got}
        records = [values[(offset - 100) // step] for offset in sorted(wrong)][:3]
        raise AssertionError(f"{topic}: read differently as a block: {records}")
    assert refusals(decoded) == refused
    assert decoded.extra_fields == extra
    return decoded


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TOPICS), st.randoms(use_true_random=False), st.integers(0, 5), st.integers(1, 3))
def test_any_block_reads_as_its_records_one_by_one(topic: str, rng: Random, size: int, step: int) -> None:
    assert_as_one_by_one(topic, [record(rng, topic) for _ in range(size)], step)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(TOPICS), st.integers(0, 2**63))
def test_a_long_block_reads_as_its_records_one_by_one(topic: str, seed: int) -> None:
    rng = Random(seed)
    assert_as_one_by_one(topic, [record(rng, topic) for _ in range(100)])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(TOPICS), st.integers(0, 2**63), st.lists(st.integers(0, 40), max_size=4))
def test_a_split_block_reads_the_same(topic: str, seed: int, cuts: list[int]) -> None:
    rng = Random(seed)
    values = [record(rng, topic) for _ in range(40)]
    whole = DECODERS[topic].decode(block(values, topic))
    edges = [0, *sorted(cuts), 40]
    parts = [DECODERS[topic].decode(block(values[low:high], topic, low)) for low, high in pairwise(edges)]
    assert pl.concat([part.rows for part in parts]).equals(whole.rows)
    assert [each for part in parts for each in part.refused] == whole.refused
    assert sum(part.extra_fields for part in parts) == whole.extra_fields


@pytest.mark.parametrize("topic", TOPICS)
def test_every_token_in_every_field_reads_as_one_by_one(topic: str) -> None:
    """What generators of records seldom hit: each odd number and string alone in an otherwise plain record."""
    values: list[bytes | None] = []
    for kind in KINDS[topic]:
        pairs = [(b'"%s"' % name.encode(), canonical(value)) for name, value in plain(topic, kind).items()]
        for at in range(len(pairs)):
            for token in TOKENS:
                values.append(
                    b"{" + b",".join(k + b":" + (token if i == at else v) for i, (k, v) in enumerate(pairs)) + b"}"
                )
    if topic == "interactions":
        values = values[::3]
    decoded = assert_as_one_by_one(topic, values)
    assert 0 < decoded.slow < len(values)


@pytest.mark.parametrize("place", ["event_id", "region", "text"])
def test_every_character_reads_as_one_by_one(place: str) -> None:
    event = plain("interactions", "comment")
    invisible = [code for code in range(0x110000) if unicodedata.category(chr(code)) in {"Zs", "Zl", "Zp", "Cf"}]
    codes = [*range(0x800), *invisible, 0xD7FF, 0xE000, 0xFFFE, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF]
    raw = [
        canonical(event).replace(b'"%s":"ab"' % place.encode(), b'"%s":"%s"' % (place.encode(), chr(c).encode()))
        for c in codes
    ]
    escaped = [
        canonical(event).replace(b'"%s":"ab"' % place.encode(), b'"%s":"x\\u%04x"' % (place.encode(), code))
        for code in (*range(0x100), *range(0xD7F0, 0xE010), 0xFFFF)
    ]
    assert_as_one_by_one("interactions", [*raw, *escaped])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOPICS), st.integers(0, 2**63))
def test_canonical_records_are_read_fast(topic: str, seed: int) -> None:
    """Read slowly though canonical: more bytes than the field may have characters, and ``":`` inside a string."""
    rng = Random(seed)
    values: list[bytes | None] = []
    while len(values) < 100:
        event = sound(rng, topic)
        wide = any(
            len(value.encode()) > (2000 if name == "text" else 64)
            for name, value in event.items()
            if isinstance(value, str)
        )
        if not wide and canonical(event).count(b'":') == len(event):
            values.append(canonical(event))
    decoded = DECODERS[topic].decode(block(values, topic))
    assert (decoded.slow, len(decoded.rows), decoded.refused) == (0, 100, [])


@pytest.mark.parametrize("topic", TOPICS)
def test_readable_spacing_is_read_fast(topic: str) -> None:
    values: list[bytes | None] = [json.dumps(plain(topic, kind)).encode() for kind in KINDS[topic]]
    assert DECODERS[topic].decode(block(values, topic)).slow == 0


@pytest.mark.parametrize("topic", TOPICS)
def test_absent_null_and_empty_are_the_same_in_every_optional_field(topic: str) -> None:
    """Those of strings are read fast where empty; the required fields take neither null nor an empty string."""
    for kind, model in KINDS[topic].items():
        event = plain(topic, kind)
        for name, field in model.model_fields.items():
            left_out = canonical({each: event[each] for each in event if each != name})
            null, empty = (canonical(event | {name: value}) for value in (None, ""))
            decoded = assert_as_one_by_one(topic, [left_out, null, empty])
            if field.is_required():
                assert decoded.rows.is_empty()
                assert decoded.refused[0].reason == "missing_field"
                wrong = {"wrong_type", "empty", "unknown_value", "missing_field", "unknown_kind"}
                assert {each.reason for each in decoded.refused} <= wrong
            else:
                first, second, third = decoded.rows.drop("offset").rows()
                assert first == second == third, f"{kind}.{name}"
                assert decoded.slow == (2 if isinstance(event[name], int) else 1)
        blank = {name: "" for name, field in model.model_fields.items() if not field.is_required()}
        assert all(getattr(CONTRACTS[topic].validate_python(event | blank), name) is None for name in blank)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOPICS), st.integers(0, 2**63))
def test_reading_one_record_agrees_with_the_model(topic: str, seed: int) -> None:
    rng = Random(seed)
    for value in [record(rng, topic) for _ in range(50)]:
        why, fields = _read(topic, value)
        if why is None:
            assert value is not None
            event = CONTRACTS[topic].validate_json(value)
            assert {name: getattr(event, name) for name in type(event).model_fields} == fields
            continue
        assert why in REASONS
        if value is not None and _accepts(topic, value):
            # Numbers that no double holds, NaN, and what is too long to look at: refused before the model.
            assert why in {"broken_json", "too_large"}


def _read(topic: str, value: bytes | None) -> tuple[str | None, dict[str, Any]]:
    try:
        return None, DECODERS[topic].read(value)[0]
    except Unreadable as why:
        return why.reason, {}


def _accepts(topic: str, value: bytes) -> bool:
    try:
        CONTRACTS[topic].validate_json(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("values", [[], [b"{"], [None], [b"\xff"], [b'{"kind":"x"}\n']])
def test_a_block_without_events_has_the_same_columns(topic: str, values: list[bytes | None]) -> None:
    event = canonical(plain(topic, next(iter(KINDS[topic]))))
    full = DECODERS[topic].decode(block([event], topic)).rows
    none = DECODERS[topic].decode(block(values, topic)).rows
    assert none.is_empty()
    assert none.schema == full.schema


@pytest.mark.parametrize("mended", [b'{"kind":"x"}', b"\xff", b"{", b"[]", None, b"a\nb"])
def test_slow_records_do_not_shift_the_others(mended: bytes | None) -> None:
    topic = "gifts"
    events = [plain(topic, "gift") | {"event_id": f"e{number}"} for number in range(6)]
    values: list[bytes | None] = [canonical(event) for event in events]
    values[2] = mended
    values[4] = canonical(events[4] | {"new_field": 1})
    decoded = assert_as_one_by_one(topic, values, step=7)
    assert decoded.rows["event_id"].to_list() == ["e0", "e1", "e3", "e4", "e5"]
    assert decoded.rows["offset"].to_list() == [100, 107, 121, 128, 135]
    assert decoded.slow == 2
    assert decoded.extra_fields == 1


def test_an_event_of_the_future_is_refused_by_append_time() -> None:
    values: list[bytes | None] = [
        canonical(plain("gifts", "gift") | {"event_time": NOW_MS + FUTURE_MS + beyond}) for beyond in (-1, 0, 1)
    ]
    values.append(canonical(plain("gifts", "gift") | {"event_time": NOW_MS + FUTURE_MS + 1, "new_field": None}))
    decoded = assert_as_one_by_one("gifts", values)
    assert decoded.rows["offset"].to_list() == [100, 101]
    assert refusals(decoded) == [(102, "future", values[2]), (103, "future", values[3])]


def test_the_last_of_two_equal_keys_counts() -> None:
    text = canonical(plain("gifts", "gift"))[:-1]
    values: list[bytes | None] = [text + b',"quantity":9}', text + b',"kind":"guard"}', text + b',"quantity":"9"}']
    decoded = assert_as_one_by_one("gifts", values)
    assert decoded.rows["quantity"].to_list() == [9, 7]
    assert decoded.rows["kind"].to_list() == ["gift", "guard"]


def test_details_of_refusals_name_the_field_and_are_text() -> None:
    values: list[bytes | None] = [
        canonical(plain("gifts", "gift") | {"quantity": -1}),
        canonical(plain("gifts", "gift") | {"event_time": NOW_MS // 1000}),
        b'{"kind":"\\udc00"}',
        b'{"kind":"\xf0\x9f\x98\x80"}',
    ]
    details = [refused.detail for refused in DECODERS["gifts"].decode(block(values, "gifts")).refused]
    assert details[0].startswith("quantity: ")
    assert details[1] == "event_time: before the year 2000; is it in seconds?"
    assert all(detail.encode() for detail in details)


@pytest.mark.parametrize("lost", [0, 1])
def test_where_the_fast_reader_fails_every_record_is_read_alone(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    def failing(source: bytes, schema: dict[str, Any]) -> pl.DataFrame:
        if lost:
            return pl.DataFrame(schema=schema)
        raise pl.exceptions.ComputeError

    monkeypatch.setattr(pl, "read_ndjson", failing)
    values: list[bytes | None] = [canonical(plain("gifts", "gift")), b"{", canonical(plain("gifts", "guard"))]
    decoded = assert_as_one_by_one("gifts", values)
    assert (len(decoded.rows), decoded.slow) == (2, 3)


def test_reasons_are_counted() -> None:
    refused = [Refused(n, 0, reason, "", None) for n, reason in enumerate(["empty", "future", "empty"])]
    assert reasons(refused) == {"empty": 2, "future": 1}


def test_fans_are_keyed_blake2b() -> None:
    ids = ["", "f", "粉丝", "f", "x" * 64]
    expected = [
        int.from_bytes(hashlib.blake2b(each.encode(), key=b"k", digest_size=8).digest(), "little") if each else 0
        for each in ids
    ]
    hasher = FanHasher(b"k")
    assert hasher.column(pl.Series("fan_id", ids)).to_list() == expected
    assert hasher.column(pl.Series("fan_id", ["f"] * 3)).to_list() == [expected[1]] * 3
    assert FanHasher(b"other").hash("f") != expected[1]


def test_a_full_fan_cache_forgets_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decode.FAN_CACHE", 3)
    ids = pl.Series("fan_id", [f"f{number % 7}" for number in range(50)] + [""])
    assert FanHasher(b"k").column(ids).to_list() == [FanHasher(b"k").hash(each) for each in ids.to_list()]
