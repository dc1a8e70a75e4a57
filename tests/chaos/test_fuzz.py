"""The fuzzer finds nothing in the reader, and finds what is put there."""

from collections.abc import Callable
from random import Random
from typing import Any

import polars as pl
import pytest

from chaos import fuzz
from infra.stack import Stack
from pipeline.block import Block
from pipeline.decode import Decoded, Decoder, Refused
from schemas.topics import SOURCES


def test_no_payload_is_read_differently_in_a_block_than_alone() -> None:
    found = fuzz.fuzz(2, 15_000)
    assert (found.difference, found.failing) == ("", [])
    assert found.payloads == 15_000
    assert all(tally.payloads for tally in found.kinds.values())
    assert found.kinds["world"].accepted == found.kinds["world"].payloads
    assert found.kinds["golden"].accepted == found.kinds["golden"].payloads
    assert found.kinds["refused examples"].accepted == 0
    assert found.fast > 1000
    assert sum((tally.refused for tally in found.kinds.values()), start=fuzz.Counter()).keys() >= {
        "null_value", "too_large", "invalid_utf8", "broken_json", "wrong_type", "missing_field", "unknown_kind",
        "empty", "too_long", "bad_characters", "unknown_value", "out_of_range", "negative", "future",
    }  # fmt: skip


def test_a_seed_gives_the_same_payloads() -> None:
    first, second = (fuzz.corpora(3, fuzz.NOW_MS) for _ in range(2))
    for topic in SOURCES:
        assert fuzz.payloads(Random(1), first[topic], 500) == fuzz.payloads(Random(1), second[topic], 500)


def _shifted(decoded: Decoded) -> Decoded:
    return Decoded(decoded.rows.with_columns(pl.col("offset") + 3), decoded.refused, 0, 0)


def _lost(decoded: Decoded) -> Decoded:
    return Decoded(decoded.rows, decoded.refused[1:], 0, 0)


def _other_value(decoded: Decoded) -> Decoded:
    return Decoded(decoded.rows.with_columns(creator_id=pl.col("creator_id") + "x"), decoded.refused, 0, 0)


def _without_words(decoded: Decoded) -> Decoded:
    return Decoded(decoded.rows, [Refused(r.offset, r.appended, r.reason, "", r.value) for r in decoded.refused], 0, 0)


def _twice(decoded: Decoded) -> Decoded:
    return Decoded(pl.concat([decoded.rows, decoded.rows]), decoded.refused, 0, 0)


def _failing(decoded: Decoded) -> Decoded:
    if any(b"\xff" in (record.value or b"") for record in decoded.refused):
        raise ValueError("cannot")
    return decoded


@pytest.mark.parametrize("fault", [_shifted, _lost, _other_value, _without_words, _twice, _failing])
def test_a_reader_that_is_wrong_is_found(fault: Callable[[Decoded], Decoded], monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Decoder.decode

    def wrong(self: Decoder, block: Block) -> Decoded:
        return fault(sound(self, block))

    monkeypatch.setattr(Decoder, "decode", wrong)
    monkeypatch.setattr(fuzz, "_SHRINKING_S", 5.0)
    found = fuzz.fuzz(4, 5000)
    assert found.difference
    assert len(found.failing) == 1
    if fault is _failing:
        assert found.failing == [b"\xff"]


def test_the_smallest_payload_is_kept() -> None:
    def fails(values: Any) -> str:
        return "wrong" if any(b"ab" in (value or b"") for value in values) else ""

    assert fuzz.smallest(fails, [None, b"x" * 500 + b"ab" + b"y" * 300, b"zz", b"ab" * 1000]) == [b"ab"]

    def together(values: Any) -> str:
        return "wrong" if any(value is None for value in values) and b"q" in values else ""

    assert fuzz.smallest(together, [b"1", None, b"2", b"3", b"q", b"4", b"5"]) == [None, b"q"]


@pytest.mark.stack
@pytest.mark.slow
def test_every_payload_through_kafka_is_a_row_or_a_dead_letter(stack: Stack) -> None:
    found = fuzz.Found()
    fuzz.through_kafka(stack, 5, 1500, found)
    assert found.difference == ""
    assert found.kafka["raw rows"] + found.kafka["dead letters"] == found.kafka["sent"] == 1500
    assert min(found.kafka.values()) > 100
