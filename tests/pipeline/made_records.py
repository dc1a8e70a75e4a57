"""Records for tests, sound and broken, built from the JSON schemas of the event models by any ``random.Random``."""

import json
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import orjson

from pipeline.block import Block
from schemas.events import KINDS, MAX_RECORD_BYTES

NOW_MS = 1_750_000_000_000
"""Append time of made records, UTC ms."""
REASONS = (
    "null_value", "too_large", "invalid_utf8", "broken_json", "wrong_type", "missing_field", "unknown_kind", "empty",
    "too_long", "bad_characters", "unknown_value", "out_of_range", "negative", "future",
)  # fmt: skip
"""Every code that a record can be refused with."""

_PLAIN = "abcXYZ019-_.:/#%{}[],'~中文é😀\u0301\ue000\U0010ffff"
_COMMON = "abcxyz0189-_中文"
_SPACED = _PLAIN + " \u00a0\u3000\u0085\u00ad\u200b\u202e\u2028\ufeff"
_ANY = _SPACED + '"\\\n\r\t\b\f/\x00\x01\x1f\x7f\u0085'
_NUMBERS = (
    "0", "-0", "00", "01", "1", "-1", "+1", "1.0", "1e3", "1E3", "1e400", ".5", "5.", "0x10", "NaN", "Infinity", "-",
    "1 2", "1_000", "true", "false", "null", '"5"', '""', '"null"', "[]", "{}", "[1]", '{"kind":"view"}',
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615",
    "18446744073709551616", "999999999999999999", "1000000000000000000", "-999999999999999999", "9" * 40, "9" * 5000,
    "1750000000", "-1750000000000", "946684799999", "946684800000", "4102444800000", "4102444800001",
    "1000000000000000", "1000000000000001", "604800000", "604800001", "1000000", "1000001",
)  # fmt: skip
_STRINGS = (
    rb'""', rb'" "', rb'"\u0000"', rb'"a\u0000b"', rb'"\ud800"', rb'"\udc00"', rb'"\ud83d\ude00"', rb'"\ude00\ud83d"',
    rb'"\uD83D\uDE00"', rb'"\ud83dx"', rb'"\ud83d\u0041"', rb'"\u00e9"', rb'"\u0022"', rb'"\u005c"', rb'"\u000a"',
    rb'"a\nb"', rb'"a\/b"', rb'"\x41"', rb'"\u12"', rb'"\U0041"', rb'"\a"', rb'"a\"b"', rb'"a\":b"', rb'"a\\"',
    rb'"a\"', rb'"a', rb"'a'", b'"a\x00b"', b'"a\x1fb"', b'"a\tb"', b'"a\nb"', b'"a\x7fb"', b'"\xff"', b'"\xc0\x80"',
    b'"\xed\xa0\x80"', b'"\xe4\xb8"', b'"\xf4\x90\x80\x80"', b'"a":', b'"a","b":"c"', b'"view"', b'"VIEW"',
    b'"vi\\u0065w"', b'"douyin"', b'"douyin "', b'"feed"', b'"\xef\xbb\xbf"', b'"\xc2\x85"', b'"\xe2\x80\xa8"',
    b'"\xe2\x80\x8b"', b'"a\xc2\xa0b"', b'"a\xcc\x81"',
    b'"123"', b'"1e3"'
   ,
    b'"2024-01-01"', b'"2024-01-01T00:00:00Z"', b"a", b'["a"]', b'{"a":1}', b"nul", b"None",
    b'"' + b"x" * 64 + b'"', b'"' + b"x" * 65 + b'"', b'"' + "中".encode() * 64 + b'"',
    b'"' + "中".encode() * 65 + b'"',
    b'"' + b"x" * 2000 + b'"', b'"' + b"x" * 2001 + b'"', b'"' + "😀".encode() * 2000 + b'"',
    b'"' + "😀".encode() * 2001 + b'"',
    b'"' + b"\\u4e2d" * 64 + b'"', b'"' + b"x" * 70_000 + b'"',
)  # fmt: skip
TOKENS = (*(number.encode() for number in _NUMBERS), *_STRINGS)
"""JSON values and what only looks like them, each odd in its own way."""
_WHOLE = (
    b"", b" ", b"\n", b"\r\n", b"null", b"[]", b"{}", b"{ }", b'""', b"1", b"true", b"\x00", b"\xff", b"\xef\xbb\xbf{}",
    b"{", b"}", b'{"', b"{}{}", b"{}\n{}", b"[{}]", b"nan", b'{"kind":"view"}', b'{"kind":1}', b'{"kind":null}',
    b'{"kind":[]}', b'{"kind":"nothing"}', rb'{"kind":"\u0000"}', rb'{"kind":"\ud800"}', b'{"kind":""}',
    b'{"a":' * 150 + b"1" + b"}" * 150, b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 3000 + b"]" * 3000,
    b" " * (MAX_RECORD_BYTES + 1), b"{" + b" " * 5000 + b"}",
)  # fmt: skip


@lru_cache
def fields(topic: str, kind: str) -> dict[str, dict[str, Any]]:
    """JSON schema of each field of a kind, in the order of the model, without the null of optional ones."""
    model = KINDS[topic][kind]
    schema = model.model_json_schema()
    flat = {}
    for name, field in schema["properties"].items():
        arms = [arm for arm in field.get("anyOf", [field]) if arm.get("type") != "null"]
        flat[name] = {**arms[0], "required": name in schema["required"]}
    flat["kind"] = {"enum": [kind], "required": True}
    return flat


def sound_value(rng: Random, field: dict[str, Any]) -> Any:
    """A value that the field's JSON schema allows."""
    if "enum" in field:
        return rng.choice(field["enum"])
    if "const" in field:
        return field["const"]
    if field["type"] == "integer":
        low, high = field["minimum"], field["maximum"]
        return rng.choice([low, high, rng.randint(low, high), min(high, low + rng.randint(0, 1000))])
    alphabet = _ANY
    if pattern := field.get("pattern"):
        alphabet = _PLAIN if r"\p{Z}" in pattern else _SPACED
    if rng.random() < 0.8:
        alphabet = _COMMON
    length = rng.randint(1, 12)
    if rng.random() < 0.03:
        length = rng.choice([field["maxLength"], rng.randint(1, field["maxLength"])])
    letters = [rng.choice(alphabet) for _ in range(min(length, 12))]
    return "".join((letters * (length // len(letters) + 1))[:length])


def sound(rng: Random, topic: str, kind: str | None = None) -> dict[str, Any]:
    """A valid event in canonical order, each optional field there or not."""
    kind = kind or rng.choice(sorted(KINDS[topic]))
    event = {}
    for name, field in fields(topic, kind).items():
        if field["required"] or rng.random() < 0.5:
            event[name] = sound_value(rng, field)
    event["event_time"] = NOW_MS + rng.choice([0, -1000, 86_400_000, rng.randint(-86_400_000, 86_400_000)])
    return event


def plain(topic: str, kind: str) -> dict[str, Any]:
    """A valid event of a kind with every field, in canonical order: short strings and small numbers."""
    event: dict[str, Any] = {}
    for name, field in fields(topic, kind).items():
        if "enum" in field:
            event[name] = field["enum"][0]
        elif field["type"] == "integer":
            event[name] = NOW_MS if name == "event_time" else 7
        else:
            event[name] = "ab"
    return event


def canonical(event: Any) -> bytes:
    """Compact UTF-8 JSON, as producers are told to send it."""
    return orjson.dumps(event)


def record(rng: Random, topic: str) -> bytes | None:
    """A record of a topic, sound or broken in one or several of many ways."""
    event = sound(rng, topic)
    choice = rng.random()
    if choice < 0.25:
        return canonical(event)
    if choice < 0.28:
        return rng.choice((None, *_WHOLE))
    pairs = [_pair(rng, name, value) for name, value in event.items()]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        pairs = rng.choice(_PAIR_CHANGES)(rng, topic, event, pairs)
    value = _joined(rng, pairs)
    if rng.random() < 0.25:
        for _ in range(rng.choice([1, 1, 2])):
            value = rng.choice(_BYTE_CHANGES)(rng, value)
    return value


Pairs = list[tuple[bytes, bytes]]


def _pair(rng: Random, name: str, value: Any) -> tuple[bytes, bytes]:
    style = rng.random()
    if style < 0.7 or not isinstance(value, str):
        text = orjson.dumps(value)
    elif style < 0.9:
        text = json.dumps(value).encode()
    else:
        escaped = "".join(
            rf"\u{ord(c):04x}" if ord(c) < 0xD800 and rng.random() < 0.5 else json.dumps(c)[1:-1] for c in value
        )
        text = f'"{escaped}"'.encode()
    return f'"{name}"'.encode(), text


def _joined(rng: Random, pairs: Pairs) -> bytes:
    comma, colon = rng.choice(
        [(b",", b":")] * 3 + [(b", ", b": "), (b",", b": "), (b" ,\t", b" :  "), (b",\n", b":\r\n")]
    )
    return b"{" + comma.join(key + colon + value for key, value in pairs) + b"}"


def _somewhere(rng: Random, pairs: Pairs) -> int:
    return rng.randint(0, max(0, len(pairs) - 1))


def _replaced(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    at = _somewhere(rng, pairs)
    new = rng.choice(_NUMBERS).encode() if rng.random() < 0.5 else rng.choice(_STRINGS)
    return [(key, new if index == at else value) for index, (key, value) in enumerate(pairs)]


def _same_type(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    at = _somewhere(rng, pairs)
    number = bool(pairs) and pairs[at][1][:1] not in (b'"', b"")
    new = rng.choice(_NUMBERS).encode() if number else rng.choice(_STRINGS)
    return [(key, new if index == at else value) for index, (key, value) in enumerate(pairs)]


def _dropped(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    at = _somewhere(rng, pairs)
    return pairs[:at] + pairs[at + 1 :]


def _twice(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    if not pairs:
        return pairs
    key, value = rng.choice(pairs)
    if rng.random() < 0.6:
        value = rng.choice([rng.choice(pairs)[1], rng.choice(_STRINGS), rng.choice(_NUMBERS).encode(), b"null"])
    if key == b'"kind"' and rng.random() < 0.7:
        value = orjson.dumps(rng.choice(sorted(KINDS[topic])))
    at = rng.randint(0, len(pairs))
    return [*pairs[:at], (key, value), *pairs[at:]]


def _unknown(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    key = rng.choice(
        [
            b'"new_field"',
            b'""',
            b'"\\u0000"',
            b'"event_id "',
            b'"KIND"',
            b'"fan"',
            b'"reply_to_fan"',
            b'"offset"',
            b'"\xff"',
        ]
    )
    nested = b"{" + b",".join(k + b":" + v for k, v in pairs) + b"}"
    value = rng.choice(
        [b"1", b'"a"', b"null", b"1.5", b"NaN", b"[]", b"{}", nested, b"[" + nested + b"]", b'"' + b"y" * 66_000 + b'"']
    )
    at = rng.randint(0, len(pairs))
    return [*pairs[:at], (key, value), *pairs[at:]]


def _foreign(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    other = rng.choice(sorted(KINDS[topic] if rng.random() < 0.8 else KINDS[rng.choice(sorted(KINDS))]))
    home = next(name for name in KINDS if other in KINDS[name])
    name, field = rng.choice(sorted(fields(home, other).items(), key=lambda item: item[0]))
    at = rng.randint(0, len(pairs))
    return [*pairs[:at], _pair(rng, name, sound_value(rng, field)), *pairs[at:]]


def _other_kind(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    kind = rng.choice([kind for name in KINDS for kind in KINDS[name]] + ["", "View", "view ", "none"])
    return [(key, orjson.dumps(kind) if key == b'"kind"' else value) for key, value in pairs]


def _nulled(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    at = _somewhere(rng, pairs)
    return [(key, b"null" if index == at else value) for index, (key, value) in enumerate(pairs)]


def _emptied(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    share = rng.choice([0.1, 0.5, 1.0])
    required = {b'"%s"' % name.encode() for name, field in fields(topic, event["kind"]).items() if field["required"]}
    return [(key, b'""' if key not in required and rng.random() < share else value) for key, value in pairs]


def _shuffled(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    return rng.sample(pairs, len(pairs))


def _renamed(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    at = _somewhere(rng, pairs)
    if not pairs:
        return pairs
    name = pairs[at][0][1:-1].decode(errors="replace")
    key = rng.choice(
        [f'"\\u{ord((name or "x")[0]):04x}{name[1:]}"', f'"{name}\\u0000"', f'"{name.upper()}"', name, f"'{name}'"]
    )
    return [*pairs[:at], (key.encode(), pairs[at][1]), *pairs[at + 1 :]]


def _out_of_time(rng: Random, topic: str, event: dict[str, Any], pairs: Pairs) -> Pairs:
    time = rng.choice(
        [NOW_MS + 86_400_000, NOW_MS + 86_400_001, NOW_MS // 1000, 0, -5, NOW_MS * 1000, 4_102_444_800_000]
    )
    return [(key, str(time).encode() if key == b'"event_time"' else value) for key, value in pairs]


_PAIR_CHANGES = (
    _replaced, _same_type, _same_type, _dropped, _twice, _twice, _unknown, _foreign, _other_kind, _nulled, _emptied,
    _shuffled, _renamed, _out_of_time,
)  # fmt: skip


def _flip(rng: Random, value: bytes) -> bytes:
    if not value:
        return value
    at = rng.randint(0, len(value) - 1)
    return value[:at] + bytes([value[at] ^ (1 << rng.randint(0, 7))]) + value[at + 1 :]


def _cut(rng: Random, value: bytes) -> bytes:
    return value[: rng.randint(0, len(value))]


def _insert(rng: Random, value: bytes) -> bytes:
    at = rng.randint(0, len(value))
    what = rng.choice(
        [
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
            b"\xff",
            b"\xef\xbb\xbf",
            b"\xe4",
            b"/**/",
            b"null",
        ]
    )
    return value[:at] + what + value[at:]


def _delete(rng: Random, value: bytes) -> bytes:
    at = rng.randint(0, max(0, len(value) - 1))
    return value[:at] + value[at + rng.randint(1, 4) :]


def _around(rng: Random, value: bytes) -> bytes:
    space = rng.choice(
        [
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"\x0b",
            b"\x0c",
            b"\xc2\xa0",
            b"\x00",
            b",",
            b"\n\n",
            b"\xef\xbb\xbf",
            b" " * 66_000,
        ]
    )
    return rng.choice([space + value, value + space, space + value + space])


def _wrapped(rng: Random, value: bytes) -> bytes:
    return rng.choice(
        [
            b"[" + value + b"]",
            value + value,
            value + b"\n" + value,
            b'{"event":' + value + b"}",
            value[1:],
            value[:-1],
            value[:-1] + b",}",
        ]
    )


_BYTE_CHANGES = (_flip, _flip, _cut, _insert, _insert, _delete, _around, _wrapped)


def block(values: list[bytes | None], topic: str, start: int = 0, step: int = 1) -> Block:
    """A block of these values, ``step`` offsets apart, all appended at NOW_MS."""
    offsets = start + step * np.arange(len(values), dtype=np.int64)
    end = start + step * len(values)
    return Block(topic, 0, start, end, offsets, np.full(len(values), NOW_MS, np.int64), values)
