"""``python -m chaos.fuzz``: no record, whatever its bytes, can end the reader, slip a row, or be read differently in a
block than alone."""

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from random import Random
from typing import Any

# As in a worker: one core's work. Read when polars is imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import orjson
import polars as pl
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from chaos.fleet import Fleet, Wrong, ask
from generators.config import WorldConfig
from generators.world import World
from infra.connect import clickhouse_client, kafka_producer
from infra.errors import FanpulseError
from infra.home import fan_key
from infra.settings import PREFIX, Settings
from infra.stack import Stack, temporary
from infra.topics import ensure_topics
from pipeline.block import Block
from pipeline.dead_letters import SHOWN_BYTES
from pipeline.decode import Decoded, Decoder, FanHasher, Unreadable
from pipeline.grammar import grammar
from pipeline.migrate import migrate
from pipeline.verify import verify
from schemas.events import CONTRACTS, FUTURE_MS, KINDS, MAX_RECORD_BYTES
from schemas.topics import SOURCES

PAYLOADS = 1_000_000
THROUGH_KAFKA = 20_000
LONGEST_BLOCK = 1500
"""Payloads of a block at most."""
START = 700
"""First offset of a block; those after it are ``STEP`` apart."""
STEP = 3
NOW_MS = 1_764_600_000_000
"""Append time of payloads that go through no Kafka, UTC ms; the made-up world ends then."""
_HOUR_MS = 3_600_000
_WORLD_RECORDS = 4000
_SHRINKING_S = 60.0
_SENT_S = 120.0
_BEFORE_MODEL = frozenset({"too_large", "broken_json"})
"""Why a record that the model would take is refused before it."""


@dataclass(frozen=True)
class Corpus:
    """What payloads of a topic are made of: examples that are taken, examples that are refused, a world's records."""

    topic: str
    golden: list[bytes]
    refused: list[bytes]
    world: list[bytes]

    def any(self, rng: Random) -> bytes:
        """A sound record."""
        return rng.choice(self.golden if rng.random() < 0.2 else self.world)


def corpora(seed: int, now: int) -> dict[str, Corpus]:
    """The corpus of every topic; the world's events end at ``now`` (UTC ms)."""
    begin = now - 24 * _HOUR_MS
    world = World(WorldConfig(seed=seed, fans=600, partitions=1, start_ms=begin, rate_factor=8.0))
    events = world.events(0, begin, now)
    made = {}
    for topic in SOURCES:
        folder, bad = (files("schemas").joinpath("examples", *part) for part in ((topic,), ("refused", topic)))
        golden, refused = ([path.read_bytes() for path in _sorted(each)] for each in (folder, bad))
        values = world.encode(events[topic], 0).values
        made[topic] = Corpus(topic, golden, refused, values[:: -(-len(values) // _WORLD_RECORDS)] or golden)
    return made


def _sorted(folder: Any) -> list[Any]:
    return sorted(folder.iterdir(), key=lambda path: str(path.name))


# Payloads. Each function makes one of its kind from the corpus.

_INTEGERS = (
    "0", "-0", "1", "-1", "+1", "00", "01", "2147483648", "4294967296", "9007199254740993", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
    "18446744073709551616", "340282366920938463463374607431768211456", "9" * 400, "9" * 5000, "604800000", "604800001",
    "1000000", "1000001", "1000000000000000", "1000000000000001", "946684799999", "946684800000", "4102444800000",
    "4102444800001",
)  # fmt: skip
_NUMBERS = (
    "1.0", "-0.0", "1e3", "1E+3", "1e-3", "1e308", "1e309", "-1e400", "5e-324", "1e-400", "0." + "1" * 400, ".5", "5.",
    "0x10", "1_000", "1 2", "--1", "1e", "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "1f", "1n", "0b1", "१",
)  # fmt: skip
_ODD = (
    "\u0000", "\u0001", "\u001f", "\u007f", "\u0085", "\u00a0", "\u00ad", "\u0301", "\u061c", "\u200b", "\u200d",
    "\u200f", "\u2028", "\u2029", "\u202e", "\u2066", "\u3000", "\ud7ff", "\ue000", "\ufdd0", "\ufeff", "\ufffd",
    "\ufffe", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U000e0001", "\U0010ffff", "İ", "ß", "ﷺ",
    "中", "e\u0301" * 20,
)  # fmt: skip
_ESCAPES = (
    r"\ud800", r"\udfff", r"\ud83d\ude00", r"\ude00\ud83d", r"\ud83d", r"\ud83dA", r"\uD83D\uDE00", r"\u0000",
    r"\u000a", r"\u0022", r"\u005c", r"\u00e9", r"\u4e2d", r"\/", r"\b", r"\n", r"\x41", r"\u12", r"\U00000041", r"\a",
    "\\", r"\"", r"\uFFFF", r"\u+041", r"\ud83d\n", r"\ud83d\ud83d\ude00",
)  # fmt: skip
_BROKEN_UTF8 = (
    b"\xff", b"\xc0\x80", b"\xc3", b"\xe4\xb8", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80", b"\x80", b"\xfe\xff",
)  # fmt: skip
_SPACES = (b" ", b"\n", b"\r\n", b"\t", b"\x0b", b"\x0c", b"\x00", b"\xc2\xa0", b"\xe2\x80\xa8", b"\n\n", b" " * 300)
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"\x1e")
_WRONG = (
    b"null", b"true", b"false", b"[]", b"{}", b"[1]", b'{"a":1}', b'""', b'"1"', b"0", b"1.5", b'"x"', b"[null]",
    b'"null"', b'"true"', b"nul", b"True", b"undefined", b"'x'",
)  # fmt: skip
_BYTES = (
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b'"',
    b"\\",
    b",",
    b":",
    b"{",
    b"}",
    b"[",
    b"]",
    b"/**/",
    b"//",
    b"#",
    b"-",
    b"e",
)

Pairs = list[tuple[bytes, bytes]]
Maker = Callable[[Random, Corpus], bytes | None]


def _pairs(rng: Random, corpus: Corpus) -> Pairs:
    event = orjson.loads(corpus.any(rng))
    return [(orjson.dumps(name), orjson.dumps(value)) for name, value in event.items()]


def _written(pairs: Pairs) -> bytes:
    return b"{" + b",".join(name + b":" + value for name, value in pairs) + b"}"


def _with(rng: Random, corpus: Corpus, new: Callable[[bytes], bytes], wanted: Callable[[bytes], bool]) -> bytes:
    """A record of which one value, or now and then two, are others."""
    pairs = _pairs(rng, corpus)
    places = [at for at, (_, value) in enumerate(pairs) if wanted(value)] or [0]
    for at in rng.sample(places, min(len(places), rng.choice((1, 1, 1, 2)))):
        pairs[at] = (pairs[at][0], new(pairs[at][1]))
    return _written(pairs)


def _is_string(value: bytes) -> bool:
    return value[:1] == b'"'


def _is_number(value: bytes) -> bool:
    return value[:1] != b'"'


def _anything(value: bytes) -> bool:
    return True


def _golden(rng: Random, corpus: Corpus) -> bytes:
    return rng.choice(corpus.golden)


def _refused(rng: Random, corpus: Corpus) -> bytes:
    return rng.choice(corpus.refused)


def _world(rng: Random, corpus: Corpus) -> bytes:
    return rng.choice(corpus.world)


def _flipped(rng: Random, corpus: Corpus) -> bytes:
    value = bytearray(corpus.any(rng))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return bytes(value)


def _cut(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    low = rng.choice((0, 0, 0, rng.randrange(len(value))))
    return value[low : rng.randrange(low, len(value) + 1)]


def _inserted(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    at = rng.randrange(len(value) + 1)
    return value[:at] + rng.choice(_BYTES + _SPACES + _BROKEN_UTF8) * rng.choice((1, 1, 2)) + value[at:]


def _deleted(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    at = rng.randrange(len(value))
    return value[:at] + value[at + rng.choice((1, 1, 2, 3, 8)) :]


def _spliced(rng: Random, corpus: Corpus) -> bytes:
    first, second = corpus.any(rng), corpus.any(rng)
    style = rng.random()
    if style < 0.3:
        return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]
    if style < 0.5:
        return first + rng.choice((b"", b"\n", b",", b" ")) + second
    if style < 0.8:
        one, two = orjson.loads(first), orjson.loads(second)
        return orjson.dumps({**one, **{name: two[name] for name in two if rng.random() < 0.5}})
    return first[:-1] + b"," + second[1:]


def _equal_keys(rng: Random, corpus: Corpus) -> bytes:
    pairs = _pairs(rng, corpus)
    for _ in range(rng.choice((1, 1, 2, 6))):
        name, value = rng.choice(pairs)
        value = rng.choice((value, value, rng.choice(_WRONG), rng.choice(_INTEGERS).encode(), rng.choice(pairs)[1]))
        if name == b'"kind"' and rng.random() < 0.7:
            value = orjson.dumps(rng.choice(sorted(KINDS[corpus.topic])))
        pairs.insert(rng.randrange(len(pairs) + 1), (name, value))
    return _written(pairs)


def _integers(rng: Random, corpus: Corpus) -> bytes:
    drawn = str(rng.choice((1, -1)) * rng.getrandbits(rng.randrange(1, 80)))
    return _with(rng, corpus, lambda _: rng.choice((*_INTEGERS, drawn)).encode(), _is_number)


def _floats(rng: Random, corpus: Corpus) -> bytes:
    drawn = repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300))
    return _with(rng, corpus, lambda _: rng.choice((*_NUMBERS, drawn)).encode(), _is_number)


def _not_numbers(rng: Random, corpus: Corpus) -> bytes:
    token = rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"))
    if rng.random() < 0.5:
        return corpus.any(rng)[:-1] + b',"new_field":' + token + b"}"
    return _with(rng, corpus, lambda _: token, _anything)


def _unicode(rng: Random, corpus: Corpus) -> bytes:
    def odd(value: bytes) -> bytes:
        text = list(orjson.loads(value)) if rng.random() < 0.8 else []
        for _ in range(rng.choice((1, 1, 3))):
            mark = rng.choice(_ODD) if rng.random() < 0.7 else chr(rng.choice((*range(0xD800), *range(0xE000, 0xE100))))
            text.insert(rng.randrange(len(text) + 1), mark)
        return orjson.dumps("".join(text))

    return _with(rng, corpus, odd, _is_string)


def _escapes(rng: Random, corpus: Corpus) -> bytes:
    def escaped(value: bytes) -> bytes:
        at = rng.randrange(1, max(2, len(value)))
        return value[:at] + b"".join(rng.choice(_ESCAPES).encode() for _ in range(rng.choice((1, 1, 2)))) + value[at:]

    def spelled(value: bytes) -> bytes:
        # The same text in other words.
        return json.dumps(orjson.loads(value)).replace("a", "\\u0061").encode()

    if rng.random() < 0.2:
        name, value = rng.choice(pairs := _pairs(rng, corpus))
        pairs[pairs.index((name, value))] = (spelled(name), value)
        return _written(pairs)
    return _with(rng, corpus, escaped if rng.random() < 0.7 else spelled, _is_string)


def _surrogates(rng: Random, corpus: Corpus) -> bytes:
    half = b"\\u%04x" % rng.randrange(0xD800, 0xE000)
    style = rng.random()
    if style < 0.3:
        return corpus.any(rng)[:-1] + b',"' + half + b'":"' + half + b'"}'
    if style < 0.4:
        half = rng.choice((b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xed\xa0\xbd\xed\xb8\x80"))
    return _with(rng, corpus, lambda value: value[:-1] + half + b'"', _is_string)


def _controls(rng: Random, corpus: Corpus) -> bytes:
    def with_control(value: bytes) -> bytes:
        at = rng.randrange(1, max(2, len(value)))
        return value[:at] + bytes([rng.choice((0, rng.randrange(32), 127))]) + value[at:]

    if rng.random() < 0.2:
        value = corpus.any(rng)
        return rng.choice((b"\x00" + value, value + b"\x00", b"\x00" * rng.randrange(1, 50)))
    return _with(rng, corpus, with_control, _is_string)


def _nested(rng: Random, corpus: Corpus) -> bytes:
    depth = rng.choice((1, 2, 10, 100, 127, 128, 129, 200, 255, 256, 1000, 1024, 1025, 3000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opened * depth + b"1" + closed * rng.choice((depth, depth, depth, depth - 1))
    style = rng.random()
    if style < 0.4:
        return corpus.any(rng)[:-1] + b',"new_field":' + deep + b"}"
    if style < 0.7:
        return _with(rng, corpus, lambda _: deep, _anything)
    if style < 0.85:
        return opened * min(depth, 20) + corpus.any(rng) + closed * min(depth, 20)
    return deep


def _marks(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    style = rng.random()
    if style < 0.2:
        return value.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "gb18030")))
    mark = rng.choice(_MARKS)
    return mark + value if style < 0.8 else value + mark


def _wrong_types(rng: Random, corpus: Corpus) -> bytes:
    def quoted(value: bytes) -> bytes:
        return b'"' + value.strip(b'"') + b'"' if value[:1] != b'"' else value.strip(b'"') or b"0"

    if rng.random() < 0.4:
        return _with(rng, corpus, quoted, _anything)
    return _with(rng, corpus, lambda _: rng.choice(_WRONG), _anything)


def _absent(rng: Random, corpus: Corpus) -> bytes:
    pairs = _pairs(rng, corpus)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(pairs))
        if rng.random() < 0.5:
            pairs[at] = (pairs[at][0], rng.choice((b"null", b'""')))
        elif len(pairs) > 1:
            del pairs[at]
    return _written(pairs)


def _unknown_fields(rng: Random, corpus: Corpus) -> bytes:
    pairs = _pairs(rng, corpus)
    names = (b'"new_field"', b'""', b'"KIND"', b'"event_id "', b'"fan"', b'"offset"', b'"appended"', b'"\\u0000"')
    others = [*names, *(orjson.dumps(column.name) for column in grammar(corpus.topic).columns)]
    for _ in range(rng.choice((1, 1, 3))):
        value = rng.choice((*_WRONG, rng.choice(pairs)[1], b"7"))
        pairs.insert(rng.randrange(len(pairs) + 1), (rng.choice(others), value))
    return _written(pairs)


def _kinds(rng: Random, corpus: Corpus) -> bytes:
    every = [kind for topic in KINDS for kind in KINDS[topic]] + ["", "View", "view ", "none", "\u0000", "x" * 70]
    pairs = _pairs(rng, corpus)
    kind = orjson.dumps(rng.choice(every))
    return _written([(name, kind if name == b'"kind"' else value) for name, value in pairs])


def _times(rng: Random, corpus: Corpus) -> bytes:
    pairs = _pairs(rng, corpus)
    now = max(int(value) for name, value in pairs if name == b'"event_time"')
    edges = (NOW_MS + FUTURE_MS, NOW_MS + FUTURE_MS + 1, NOW_MS + 3 * FUTURE_MS, now // 1000, now * 1000, -now, 0)
    drawn = rng.choice((*edges, now + rng.randrange(-(10**9), 10**9)))
    return _written([(name, b"%d" % drawn if name == b'"event_time"' else value) for name, value in pairs])


def _lengths(rng: Random, corpus: Corpus) -> bytes:
    letter = rng.choice(("x", "x", "中", "\U0001f600", "\u00e9", "\\"))
    length = rng.choice((0, 1, 21, 22, 63, 64, 65, 666, 667, 1999, 2000, 2001, rng.randrange(3000)))
    return _with(rng, corpus, lambda _: orjson.dumps(letter * length), _is_string)


def _spaced(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    style = rng.random()
    space = rng.choice(_SPACES)
    if style < 0.3:
        return rng.choice((space + value, value + space))
    if style < 0.5:
        return json.dumps(orjson.loads(value), indent=rng.choice((None, 1, 2)), ensure_ascii=style < 0.4).encode()
    pairs = _pairs(rng, corpus)
    comma, colon = rng.choice(((b", ", b": "), (b" ,", b" :"), (b"," + space, b":"), (b",", b":" + space)))
    rng.shuffle(pairs)
    return b"{" + comma.join(name + colon + value for name, value in pairs) + b"}"


def _large(rng: Random, corpus: Corpus) -> bytes:
    value = corpus.any(rng)
    room = MAX_RECORD_BYTES - len(value) + rng.choice((-1, 0, 1, 5000))
    if rng.random() < 0.5:
        return value[:-1] + b" " * room + b"}"
    return value[:-1] + b',"n":"' + b"y" * max(room - 7, 0) + b'"}'


def _random_bytes(rng: Random, corpus: Corpus) -> bytes:
    if rng.random() < 0.5:
        return rng.randbytes(rng.randrange(1, 80))
    return bytes(rng.choice(b'{}[]":,\\ntfu0123456789eE+-. \n') for _ in range(rng.randrange(1, 60)))


def _random_json(rng: Random, corpus: Corpus) -> bytes:
    names = [column.name for column in grammar(corpus.topic).columns]

    def made(depth: int) -> Any:
        style = rng.random()
        if depth and style < 0.25:
            keys = (rng.choice(names) if rng.random() < 0.8 else rng.choice(_ODD) for _ in range(rng.randrange(6)))
            return {key: made(depth - 1) for key in keys}
        if depth and style < 0.35:
            return [made(depth - 1) for _ in range(rng.randrange(4))]
        drawn = (
            None,
            True,
            False,
            0,
            -1,
            1.5,
            1 << 40,
            "",
            "x",
            rng.choice(_ODD),
            rng.choice(sorted(KINDS[corpus.topic])),
        )
        return rng.choice(drawn)

    top = {name: made(1) for name in rng.sample(names, rng.randrange(len(names) + 1))}
    return orjson.dumps(top if rng.random() < 0.8 else made(3))


def _empty(rng: Random, corpus: Corpus) -> bytes:
    return rng.choice((b"", b"", b" ", b"\n", b"{}", b"[]", b'""', b"null", b"0", b"{ }"))


def _none(rng: Random, corpus: Corpus) -> None:
    return None


MAKERS: dict[str, tuple[float, Maker]] = {
    "world": (12, _world),
    "golden": (4, _golden),
    "refused examples": (4, _refused),
    "flipped bits": (6, _flipped),
    "cut off": (4, _cut),
    "inserted": (4, _inserted),
    "deleted": (4, _deleted),
    "spliced": (5, _spliced),
    "equal keys": (5, _equal_keys),
    "integers": (5, _integers),
    "floats": (4, _floats),
    "NaN, Infinity": (2, _not_numbers),
    "unicode": (6, _unicode),
    "escapes": (5, _escapes),
    "surrogates": (3, _surrogates),
    "NUL, controls": (3, _controls),
    "nested": (2, _nested),
    "byte order marks": (2, _marks),
    "wrong types": (5, _wrong_types),
    "absent fields": (5, _absent),
    "unknown fields": (4, _unknown_fields),
    "kinds": (3, _kinds),
    "times": (3, _times),
    "lengths": (4, _lengths),
    "spaces, order": (4, _spaced),
    "large": (0.05, _large),
    "random bytes": (3, _random_bytes),
    "random JSON": (4, _random_json),
    "empty": (1, _empty),
    "no value": (1, _none),
}
"""Kinds of payload: how often, and how each is made."""


def payloads(rng: Random, corpus: Corpus, count: int) -> list[tuple[str, bytes | None]]:
    """So many payloads, each with its kind."""
    kinds = rng.choices(list(MAKERS), [weight for weight, _ in MAKERS.values()], k=count)
    return [(kind, MAKERS[kind][1](rng, corpus)) for kind in kinds]


# What a payload must come to, and whether it does.


@dataclass(frozen=True, slots=True)
class Alone:
    """A payload read alone, by the models: the row it becomes, or the reason and the sentence of its refusal."""

    row: dict[str, Any] | None
    reason: str = ""
    detail: str = ""


class Disagree(Exception):
    """The reader of one record and the model of the contract differ."""


def alone(decoder: Decoder, fans: FanHasher, value: bytes | None, appended: int) -> Alone:
    """What pydantic makes of a payload that the broker took at ``appended`` (UTC ms).

    Raises:
        Disagree: the reader of one record and the model of the contract differ.
    """
    try:
        event, _ = decoder.read(value)
    except Unreadable as why:
        taken = why.reason not in _BEFORE_MODEL and _taken(decoder.topic, value)
        if taken:
            raise Disagree(f"refused as {why.reason}, but the model takes it") from None
        return Alone(None, why.reason, why.detail)
    model = CONTRACTS[decoder.topic].validate_json(value or b"")
    said = {name: getattr(model, name) for name in type(model).model_fields}
    if said != event:
        raise Disagree(f"read as {event}, the model says {said}")
    if event["event_time"] > appended + FUTURE_MS:
        return Alone(None, "future", "event_time is more than a day after the broker received it")
    row: dict[str, Any] = {}
    for column in grammar(decoder.topic).columns:
        present = event.get(column.name)
        row[column.name] = "" if present is None and column.dtype == pl.String else present
    row["fan"] = fans.hash(row.pop("fan_id"))
    if "reply_to" in row:
        row["reply_to_fan"] = fans.hash(row.pop("reply_to"))
    return Alone(row)


def _taken(topic: str, value: bytes | None) -> bool:
    try:
        CONTRACTS[topic].validate_json(value if value is not None else b"")
    except ValidationError:
        return False
    return True


def _block(topic: str, values: Sequence[bytes | None]) -> Block:
    offsets = START + STEP * np.arange(len(values), dtype=np.int64)
    appended = np.full(len(values), NOW_MS, np.int64)
    return Block(topic, 0, START, START + STEP * len(values), offsets, appended, list(values))


def difference(decoder: Decoder, fans: FanHasher, values: Sequence[bytes | None]) -> str:
    """How a block of these payloads differs from its payloads one by one; empty if it does not."""
    try:
        decoded = decoder.decode(_block(decoder.topic, values))
    except Exception as error:
        return f"the block raises {type(error).__name__}: {error}"
    try:
        return compared(decoded, values, [alone(decoder, fans, value, NOW_MS) for value in values])
    except Exception as error:
        return f"one alone: {type(error).__name__}: {error}"


def compared(decoded: Decoded, values: Sequence[bytes | None], wanted: Sequence[Alone]) -> str:
    """The first difference between a decoded block and its payloads read alone; empty if there is none."""
    rows = {row.pop("offset"): row for row in decoded.rows.to_dicts()}
    if len(rows) != len(decoded.rows) or not decoded.rows["offset"].is_sorted():
        return "rows are out of order, or one offset has two"
    refused = {record.offset: record for record in decoded.refused}
    if len(rows) + len(refused) != len(values) or len(refused) != len(decoded.refused):
        return f"{len(values)} payloads became {len(decoded.rows)} rows and {len(decoded.refused)} refusals"
    for index, (value, want) in enumerate(zip(values, wanted, strict=True)):
        offset = START + STEP * index
        row, record = rows.get(offset), refused.get(offset)
        if want.row is not None:
            if row != {"appended": NOW_MS, **want.row}:
                return f"offset {offset}: as a block {row or record}, alone {want.row}"
        elif record is None:
            return f"offset {offset}: as a block a row, alone refused: {want.reason}: {want.detail}"
        elif (record.reason, record.detail, record.value) != (want.reason, want.detail, value):
            return f"offset {offset}: as a block {record.reason}: {record.detail}, alone {want.reason}: {want.detail}"
        elif not record.reason or not record.detail or record.appended != NOW_MS:
            return f"offset {offset}: refused without a reason, a sentence, or its time: {record}"
    return ""


def smallest(fails: Callable[[Sequence[bytes | None]], str], values: Sequence[bytes | None]) -> list[bytes | None]:
    """The fewest and shortest payloads that still fail, found by leaving out, for at most a minute."""
    deadline = time.monotonic() + _SHRINKING_S
    kept = list(values)
    single = next(([value] for value in sorted(kept, key=lambda v: len(v or b"")) if fails([value])), None)
    kept = single or kept
    size = len(kept) // 2
    while size and time.monotonic() < deadline:
        for at in range(0, len(kept), size):
            less = kept[:at] + kept[at + size :]
            if less and fails(less):
                kept = less
                break
        else:
            size //= 2
    for index, value in enumerate(kept):
        size = len(value or b"") // 2
        while value and size and time.monotonic() < deadline:
            for at in range(0, len(value), size):
                shorter = value[:at] + value[at + size :]
                if fails([*kept[:index], shorter, *kept[index + 1 :]]):
                    kept[index] = value = shorter
                    break
            else:
                size //= 2
    return kept


@dataclass
class Tally:
    """What became of the payloads of one kind. ``seconds``: of reading them alone."""

    payloads: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class Found:
    """What a run found: by kind of payload, seconds by phase, records read a block at a time without pydantic, and
    the first difference with the smallest payloads that show it."""

    kinds: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in MAKERS})
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    fast: int = 0
    difference: str = ""
    topic: str = ""
    failing: list[bytes | None] = field(default_factory=list)
    kafka: dict[str, int] = field(default_factory=dict)

    @property
    def payloads(self) -> int:
        return sum(tally.payloads for tally in self.kinds.values())


def fuzz(seed: int, count: int, say: Callable[[str], None] = lambda line: None) -> Found:
    """Reads ``count`` payloads of all topics in blocks and one by one, and stops at the first difference."""
    found, fans = Found(), FanHasher(b"fuzz")
    decoders = {topic: Decoder(topic, fans) for topic in SOURCES}
    made, rng, told = corpora(seed, NOW_MS), Random(seed), time.monotonic()
    while found.payloads < count:
        topic = rng.choice(SOURCES)
        size = min(rng.choice((1, rng.randrange(2, 20), rng.randrange(20, LONGEST_BLOCK))), count - found.payloads)
        begun = time.perf_counter()
        named = payloads(rng, made[topic], size)
        values = [value for _, value in named]
        made_at = time.perf_counter()
        try:
            decoded = decoders[topic].decode(_block(topic, values))
            decoded_at = time.perf_counter()
            wanted = []
            for kind, value in named:
                before = time.perf_counter()
                wanted.append(alone(decoders[topic], fans, value, NOW_MS))
                found.kinds[kind].seconds += time.perf_counter() - before
            alone_at = time.perf_counter()
            wrong = compared(decoded, values, wanted)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            found.topic = topic
            fails = partial(difference, decoders[topic], fans)
            found.failing = smallest(fails, values)
            found.difference = fails(found.failing) or wrong
            return found
        found.fast += size - decoded.slow
        for (kind, _), want in zip(named, wanted, strict=True):
            tally = found.kinds[kind]
            tally.payloads += 1
            if want.row is None:
                tally.refused[want.reason] += 1
            else:
                tally.accepted += 1
        found.seconds["making"] += made_at - begun
        found.seconds["in blocks"] += decoded_at - made_at
        found.seconds["alone"] += alone_at - decoded_at
        found.seconds["comparing"] += time.perf_counter() - alone_at
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"{found.payloads:,} of {count:,} payloads")
    return found


def through_kafka(
    stack: Stack, seed: int, count: int, found: Found, say: Callable[[str], None] = lambda line: None
) -> None:
    """Sends ``count`` payloads through Kafka to a worker; what is stored is compared with each read alone.

    Raises:
        Wrong: the worker ended, or does not get on.
    """
    corner = secrets.token_hex(4)
    settings = Settings(home=stack.home.path, database=f"fanpulse_fuzz_{corner}", topic_prefix=f"fuzz.{corner}.")
    logs = stack.home.logs / f"fuzz-{corner}"
    ensure_topics(settings)
    migrate(settings)
    try:
        begun = time.perf_counter()
        with Fleet(settings, logs, dead_letter_limit=1.0, flush_interval=1.0) as fleet:
            fleet.start(0)
            fleet.begun()
            say(f"sending {count:,} payloads through Kafka")
            sent = _send(settings, seed, count)
            fleet.stored()
            say("comparing what is stored")
            found.difference = _stored_difference(settings, sent, found)
            fleet.stop()
        if not found.difference:
            wrong = [each for each in verify(settings) if each.differ]
            found.difference = f"verify: {wrong[0].name}: {wrong[0].examples}" if wrong else ""
        found.seconds["through Kafka"] += time.perf_counter() - begun
    finally:
        with contextlib.closing(clickhouse_client(settings, database="system")) as client:
            client.command(f"DROP DATABASE IF EXISTS {settings.database} SYNC")


Place = tuple[str, int, int]
"""Topic, partition and offset."""


def _send(settings: Settings, seed: int, count: int) -> dict[Place, bytes | None]:
    """Sends payloads to random partitions; where the broker put each."""
    rng, now = Random(seed + 1), time.time_ns() // 1_000_000
    made = corpora(seed, now)
    futures = []
    with contextlib.closing(kafka_producer(settings)) as producer:
        for _ in range(count):
            topic = rng.choice(SOURCES)
            ((_, value),) = payloads(rng, made[topic], 1)
            partition = rng.randrange(settings.partitions)
            name = settings.topic_prefix + topic
            futures.append((topic, value, producer.send(name, value=value, key=b"fuzz", partition=partition)))
        producer.flush(timeout=_SENT_S)
    places = {}
    for topic, value, future in futures:
        taken = future.get(timeout=_SENT_S)
        places[topic, int(taken.partition), int(taken.offset)] = value
    return places


def _stored_difference(settings: Settings, sent: dict[Place, bytes | None], found: Found) -> str:
    """The first record that is not stored as it is read alone: as a raw row or as a dead letter, once."""
    fans = FanHasher(fan_key(settings))
    stored: dict[Place, tuple[int, str, str, int, int]] = {}
    refused: dict[Place, tuple[int, str, str, int, str]] = {}
    for topic in SOURCES:
        for row in ask(
            settings,
            "SELECT partition, `offset`, toUnixTimestamp64Milli(appended_at), event_id, kind, fan, "
            f"toUnixTimestamp64Milli(event_time) FROM raw_{topic} FINAL",
        ):
            stored[topic, row[0], row[1]] = row[2:]
    for topic, partition, offset, *said in ask(
        settings,
        "SELECT topic, partition, `offset`, toUnixTimestamp64Milli(appended_at), reason, detail, size, hex(value) "
        "FROM dead_letters FINAL",
    ):
        refused[topic, partition, offset] = (said[0], said[1], said[2], said[3], said[4])
    found.kafka = {"sent": len(sent), "raw rows": len(stored), "dead letters": len(refused)}
    if len(stored) + len(refused) != len(sent) or stored.keys() | refused.keys() != sent.keys():
        missing = sorted(sent.keys() - stored.keys() - refused.keys())
        return f"{len(sent)} records became {found.kafka}; neither is {missing[:3]}"
    decoders = {topic: Decoder(topic, fans) for topic in SOURCES}
    for place, value in sent.items():
        appended = stored[place][0] if place in stored else refused[place][0]
        want = alone(decoders[place[0]], fans, value, appended)
        if want.row is not None:
            row = (want.row["event_id"], want.row["kind"], want.row["fan"], want.row["event_time"])
            if place not in stored or stored[place][1:] != row:
                found.topic, found.failing = place[0], [value]
                return f"{place}: stored as {stored.get(place, refused.get(place))}, alone {row}"
            continue
        kept = (want.reason, want.detail, len(value or b""), (value or b"")[:SHOWN_BYTES].hex().upper())
        if place not in refused or refused[place][1:] != kept:
            found.topic, found.failing = place[0], [value]
            return f"{place}: stored as {stored.get(place, refused.get(place))}, alone {want.reason}: {want.detail}"
    return ""


# The command.


def show(found: Found, console: Console) -> None:
    """Prints what was found."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("payload", "number", "accepted", "refused", "seconds alone", "payloads/s alone"):
        table.add_column(name, justify="left" if name == "payload" else "right")
    table.add_column("refused by reason", overflow="fold")
    for kind, tally in found.kinds.items():
        if tally.payloads:
            table.add_row(
                kind,
                f"{tally.payloads:,}",
                f"{tally.accepted:,}",
                f"{tally.payloads - tally.accepted:,}",
                f"{tally.seconds:.1f}",
                f"{tally.payloads / tally.seconds:,.0f}" if tally.seconds else "-",
                ", ".join(f"{reason} {number:,}" for reason, number in tally.refused.most_common()),
            )
    console.print(table)
    if found.payloads and found.seconds["in blocks"]:
        console.print(
            f"{found.payloads:,} payloads, {found.fast:,} of them read without pydantic; "
            f"{found.payloads / found.seconds['in blocks']:,.0f} payloads/s in blocks, "
            f"{found.payloads / found.seconds['alone']:,.0f}/s alone",
            highlight=False,
        )
    console.print(", ".join(f"{phase} {spent:.1f} s" for phase, spent in found.seconds.items()), highlight=False)
    if found.kafka:
        console.print(", ".join(f"{number:,} {what}" for what, number in found.kafka.items()), highlight=False)
    if found.difference:
        console.print(f"DIFFERENT: {found.topic}: {found.difference}"[:4000], markup=False, highlight=False)
        for value in found.failing[:20]:
            console.print(f"payload: {value!r}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print("no difference")


def as_json(found: Found) -> dict[str, Any]:
    """The same as a JSON object."""
    return {
        "ok": not found.difference,
        "difference": found.difference,
        "topic": found.topic,
        "failing": [repr(value) for value in found.failing],
        "payloads": found.payloads,
        "fast": found.fast,
        "seconds": {phase: round(spent, 3) for phase, spent in found.seconds.items()},
        "kafka": found.kafka,
        "kinds": {
            kind: {
                "payloads": tally.payloads,
                "accepted": tally.accepted,
                "refused": dict(tally.refused.most_common()),
                "seconds_alone": round(tally.seconds, 3),
            }
            for kind, tally in found.kinds.items()
        },
    }


def main() -> None:
    """Exit code 0: no difference; 1: a difference, or the worker ended; 2: cannot run; 130: interrupted."""
    parser = argparse.ArgumentParser("python -m chaos.fuzz", description=__doc__)
    parser.add_argument("--payloads", type=int, default=PAYLOADS, help=f"read in blocks (default {PAYLOADS:,})")
    parser.add_argument(
        "--kafka", type=int, default=THROUGH_KAFKA, help=f"sent to a worker (default {THROUGH_KAFKA:,}; 0: none)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides every payload (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args()
    if given.payloads < 0 or given.kafka < 0 or not 0 <= given.seed < 2**32 - 1:
        parser.error("numbers of payloads and the seed are not negative")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    logging.basicConfig(level=logging.CRITICAL)
    found, code = Found(), 0

    def say(line: str) -> None:
        print(f"fuzz: {line}", file=sys.stderr, flush=True)

    try:
        found = fuzz(given.seed, given.payloads, say)
        if given.kafka and not found.difference:
            with temporary("fanpulse-fuzz-") as stack:
                through_kafka(stack, given.seed, given.kafka, found, say)
    except Wrong as error:
        found.difference = str(error)
    except FanpulseError as error:
        print(f"fuzz: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("fuzz: interrupted", file=sys.stderr)
        code = 130
    if given.json:
        print(json.dumps(as_json(found), indent=2, ensure_ascii=False))
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 200))
    sys.exit(code or (1 if found.difference else 0))


if __name__ == "__main__":
    main()
