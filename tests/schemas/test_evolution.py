import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic.fields import FieldInfo

from schemas.events import KINDS

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
RELEASED: dict[str, dict[str, dict[str, dict[str, Any]]]] = orjson.loads((EXAMPLES / "fields.json").read_bytes())
RELEASED_KINDS = [(topic, kind) for topic in RELEASED for kind in RELEASED[topic]]


def now(topic: str, kind: str) -> dict[str, dict[str, Any]]:
    schema = KINDS[topic][kind].model_json_schema()
    fields = {}
    for name, field in schema["properties"].items():
        [arm] = [arm for arm in field.get("anyOf", [field]) if arm.get("type") != "null"]
        fields[name] = arm | {"required": name in schema["required"]}
    return fields


def narrowed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What the new form of a field refuses that the old one took; empty: nothing."""
    unbounded = float("inf")
    if new["required"] and not old["required"]:
        return "required"
    if new["type"] != old["type"]:
        return "type"
    for least in ("minimum", "minLength"):
        if new.get(least, -unbounded) > old.get(least, -unbounded):
            return least
    for most in ("maximum", "maxLength"):
        if new.get(most, unbounded) < old.get(most, unbounded):
            return most
    if new.get("pattern") not in (None, old.get("pattern")):
        return "pattern"
    if "enum" in new and not set(old.get("enum", ["any other"])) <= set(new["enum"]):
        return "enum"
    other = set(new) - {"type", "required", "minimum", "minLength", "maximum", "maxLength", "pattern", "enum"}
    return ", ".join(sorted(other - {"title", "description", "default"}))


@pytest.mark.parametrize(("topic", "kind"), RELEASED_KINDS)
def test_released_fields_are_still_taken(topic: str, kind: str) -> None:
    present = now(topic, kind)
    for name, old in RELEASED[topic][kind].items():
        assert name in present, f"{name} is gone"
        assert not narrowed(old, present[name]), f"{name}: {narrowed(old, present[name])} is narrower than released"


@pytest.mark.parametrize(("topic", "kind"), RELEASED_KINDS)
def test_new_fields_are_optional(topic: str, kind: str) -> None:
    fields: dict[str, FieldInfo] = KINDS[topic][kind].model_fields
    for name in set(fields) - set(RELEASED[topic][kind]) - {"kind"}:
        assert not fields[name].is_required(), f"{name} is new and required"
        assert fields[name].default is None, f"{name} is new and has another default than None"


def test_every_optional_field_is_none_by_default() -> None:
    for kinds in KINDS.values():
        for model in kinds.values():
            assert {field.default for field in model.model_fields.values() if not field.is_required()} == {None}


def test_every_field_is_released() -> None:
    """A new field is added to ``fields.json`` with the release that brings it."""
    assert {(topic, kind) for topic in KINDS for kind in KINDS[topic]} == set(RELEASED_KINDS)
    for topic, kind in RELEASED_KINDS:
        assert set(RELEASED[topic][kind]) == set(KINDS[topic][kind].model_fields) - {"kind"}


def test_the_comparison_sees_every_narrowing() -> None:
    string = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^a$", "required": False}
    number = {"type": "integer", "minimum": 0, "maximum": 9, "required": True}
    choice = {"type": "string", "enum": ["a", "b"], "required": True}
    assert narrowed(string, string | {"required": True}) == "required"
    assert narrowed(string, string | {"maxLength": 63}) == "maxLength"
    assert narrowed(string, string | {"minLength": 2}) == "minLength"
    assert narrowed(string, string | {"pattern": "^b$"}) == "pattern"
    assert narrowed(number, number | {"minimum": 1}) == "minimum"
    assert narrowed(number, number | {"type": "string"}) == "type"
    assert narrowed(number, number | {"exclusiveMinimum": 0}) == "exclusiveMinimum"
    assert narrowed({"type": "integer", "required": True}, number) == "minimum"
    assert narrowed(choice, choice | {"enum": ["a"]}) == "enum"
    assert narrowed({"type": "string", "required": True}, choice) == "enum"
    assert not narrowed(string, {"type": "string", "required": False})
    assert not narrowed(number, number | {"maximum": 10, "required": False})
    assert not narrowed(choice, choice | {"enum": ["a", "b", "c"]})


def test_names_are_lower_case_and_say_their_unit() -> None:
    for topic, kind in RELEASED_KINDS:
        for name, field in RELEASED[topic][kind].items():
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
            if field["type"] == "integer" and name not in {"event_time", "quantity"}:
                assert name.endswith(("_ms", "_micros"))
