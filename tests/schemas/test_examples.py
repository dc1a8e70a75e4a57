from pathlib import Path

import numpy as np
import orjson
import pytest

from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from schemas.events import CONTRACTS, KINDS, MAX_RECORD_BYTES

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
NOW_MS = 1_750_000_000_000
SOUND = [
    (topic, kind, form, EXAMPLES / topic / f"{kind}{form}.json")
    for topic in KINDS
    for kind in KINDS[topic]
    for form in ("", ".minimal")
]
REFUSED = sorted(EXAMPLES.glob("refused/*/*"))


def decoder(topic: str) -> Decoder:
    return Decoder(topic, FanHasher(b"key"))


def block(topic: str, values: list[bytes | None]) -> Block:
    size = len(values)
    return Block(topic, 0, 0, size, np.arange(size), np.full(size, NOW_MS), values)


def test_there_are_no_other_examples() -> None:
    known = {path for *_, path in SOUND} | {EXAMPLES / "fields.json"} | set(REFUSED)
    assert {path for path in EXAMPLES.rglob("*") if path.is_file()} == known


@pytest.mark.parametrize(("topic", "kind", "form", "path"), SOUND, ids=lambda part: getattr(part, "name", None))
def test_an_example_is_canonical(topic: str, kind: str, form: str, path: Path) -> None:
    """Compact, in the order of the model, every optional field or none, and validated to the same values."""
    value = path.read_bytes()
    event = CONTRACTS[topic].validate_json(value)
    fields = KINDS[topic][kind].model_fields
    assert type(event) is KINDS[topic][kind]
    assert list(orjson.loads(value)) == [name for name in fields if not form or fields[name].is_required()]
    assert orjson.dumps(orjson.loads(value)) == value
    assert event.model_dump(exclude_none=True) == orjson.loads(value)


@pytest.mark.parametrize("topic", list(KINDS))
def test_examples_are_read_fast_in_one_block(topic: str) -> None:
    values: list[bytes | None] = [path.read_bytes() for name, *_, path in SOUND if name == topic]
    decoded = decoder(topic).decode(block(topic, values))
    assert (decoded.refused, decoded.slow, decoded.extra_fields) == ([], 0, 0)
    assert decoded.rows["kind"].to_list() == [kind for name, kind, *_ in SOUND if name == topic]
    for row, value in zip(decoded.rows.iter_rows(named=True), values, strict=True):
        sent = orjson.loads(value or b"")
        for name in set(sent) - {"fan_id", "reply_to"}:
            assert row[name] == sent[name]
        assert row["fan"] != 0
        assert ("reply_to" in sent) == bool(row.get("reply_to_fan"))


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_refused_example_is_refused_for_its_reason(path: Path) -> None:
    topic, reason, value = path.parent.name, path.name.split(".")[0], path.read_bytes()
    sound = (EXAMPLES / topic / f"{next(iter(KINDS[topic]))}.json").read_bytes()
    decoded = decoder(topic).decode(block(topic, [sound, value, sound]))
    [refused] = decoded.refused
    assert (refused.offset, refused.reason, refused.value) == (1, reason, value)
    assert refused.detail
    assert decoded.rows["offset"].to_list() == [0, 2]


def test_every_reason_that_bytes_can_have_has_an_example() -> None:
    """``null_value`` has no bytes; ``invalid`` is for what the models do not do today."""
    assert {path.name.split(".")[0] for path in REFUSED} == {
        "too_large", "invalid_utf8", "broken_json", "wrong_type", "missing_field", "unknown_kind", "empty", "too_long",
        "bad_characters", "unknown_value", "out_of_range", "negative", "future",
    }  # fmt: skip
    assert {path.parent.name for path in REFUSED} == set(KINDS)
    [refused] = decoder("gifts").decode(block("gifts", [None])).refused
    assert refused.reason == "null_value"


def test_an_unknown_field_is_tolerated_and_counted() -> None:
    for topic, *_, path in SOUND:
        event = orjson.loads(path.read_bytes())
        values: list[bytes | None] = [path.read_bytes(), orjson.dumps(event | {"x": {"y": 1}, "z": None})]
        decoded = decoder(topic).decode(block(topic, values))
        assert (len(decoded.rows), decoded.extra_fields, decoded.slow) == (2, 2, 1)
        assert decoded.rows.drop("offset")[0].equals(decoded.rows.drop("offset")[1])


def test_every_required_field_is_required() -> None:
    for topic, kind, form, path in SOUND:
        if not form:
            continue
        event = orjson.loads(path.read_bytes())
        values: list[bytes | None] = [
            orjson.dumps({name: event[name] for name in event if name != dropped}) for dropped in event
        ]
        decoded = decoder(topic).decode(block(topic, values))
        assert [refused.reason for refused in decoded.refused] == ["missing_field"] * len(event), kind


def test_a_record_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    value = (EXAMPLES / "gifts" / "gift.json").read_bytes()
    filled = value[:-1] + b',"x":"' + b"y" * (MAX_RECORD_BYTES - len(value) - 7) + b'"}'
    assert len(filled) == MAX_RECORD_BYTES
    decoded = decoder("gifts").decode(block("gifts", [filled, filled[:-2] + b'y"}']))
    assert decoded.rows["offset"].to_list() == [0]
    assert [refused.reason for refused in decoded.refused] == ["too_large"]
