import unicodedata
from dataclasses import replace
from typing import Annotated, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pipeline.decode import _checks
from pipeline.grammar import Column, Grammar, _column, grammar
from schemas.events import KINDS, MODELS, Id

TOPICS = sorted(KINDS)


def column(name: str, field: FieldInfo) -> Column:
    return _column(name, field, frozenset(), frozenset(), frozenset({"a"}), frozenset())


@pytest.mark.parametrize("topic", TOPICS)
def test_a_field_has_the_same_constraints_in_all_models_of_a_topic(topic: str) -> None:
    """The fast path knows one column per name; ``kind`` alone differs from model to model."""
    seen: dict[str, Column] = {}
    for model in MODELS[topic]:
        for name, field in model.model_fields.items():
            assert seen.setdefault(name, column(name, field)) == column(name, field), f"{model.__name__}.{name}"


@pytest.mark.parametrize("topic", TOPICS)
def test_every_field_and_kind_is_known(topic: str) -> None:
    known = {each.name: each for each in grammar(topic).columns}
    assert grammar(topic).kinds == frozenset(KINDS[topic])
    assert set(known) == {name for model in MODELS[topic] for name in model.model_fields}
    for kind, model in KINDS[topic].items():
        for name, field in model.model_fields.items():
            assert kind in known[name].allowed
            assert (kind in known[name].required) == field.is_required()
    for name, each in known.items():
        assert each.allowed == {kind for kind, model in KINDS[topic].items() if name in model.model_fields}
        assert each.blank == (each.allowed - each.required if each.dtype == pl.String else frozenset())


@pytest.mark.parametrize("topic", TOPICS)
def test_limits_are_those_of_the_json_schema(topic: str) -> None:
    for model in MODELS[topic]:
        for name, schema in model.model_json_schema()["properties"].items():
            field = next(arm for arm in schema.get("anyOf", [schema]) if arm.get("type") != "null")
            got = column(name, model.model_fields[name])
            if name == "kind" or "enum" in field:
                assert got.dtype == pl.String
            elif field["type"] == "integer":
                assert (got.dtype, got.minimum, got.maximum) == (pl.Int64, field.get("minimum"), field.get("maximum"))
            else:
                limits = (pl.String, field.get("minLength"), field.get("maxLength"))
                assert (got.dtype, got.minimum, got.maximum) == limits


@pytest.mark.parametrize(
    ("annotation", "constraints"),
    [
        (float, {}),
        (bool, {}),
        (list[str], {}),
        (str | int, {}),
        (int | str | None, {}),
        (int, {"gt": 0}),
        (int, {"lt": 10}),
        (int, {"multiple_of": 2}),
        (str, {"pattern": "^[a-z]+$"}),
        (str, {"pattern": "^(a|b)+$"}),
    ],
)
def test_a_type_the_fast_path_does_not_know_is_no_column(annotation: Any, constraints: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="field x: the fast path knows no"):
        column("x", FieldInfo.from_annotation(Annotated[annotation, Field(**constraints)]))


@pytest.mark.parametrize(("required", "blank"), [("", ""), ("a", "a"), ("a", ""), ("", "a"), ("ab", "b")])
def test_an_optional_field_that_is_refused_when_empty_is_no_column(required: str, blank: str) -> None:
    field = FieldInfo.from_annotation(Id)
    with pytest.raises(TypeError, match="field x: the fast path knows no optional field but Maybe"):
        _column("x", field, frozenset(required), frozenset("ab"), frozenset("ab"), frozenset(blank))


bounds = st.none() | st.integers(-3, 6)


@given(bounds, bounds, st.none() | st.integers(-5, 8), st.sampled_from(["all", "some", "none"]))
def test_checks_of_a_number(low: int | None, high: int | None, value: int | None, required: str) -> None:
    kinds = frozenset({"a", "b"})
    needed = {"all": kinds, "some": frozenset({"b"}), "none": frozenset[str]()}[required]
    column = Column("n", pl.Int64, low, high, "", needed, kinds)
    sound = checked(column, kinds, [value])
    within = value is None or ((low is None or low <= value) and (high is None or value <= high))
    assert sound == [within and (value is not None or kind not in needed) for kind in sorted(kinds)]


@given(st.none() | st.integers(0, 4), st.none() | st.integers(0, 4), st.text("a中😀", max_size=5))
def test_checks_of_a_string_accept_no_length_out_of_bounds(low: int | None, high: int | None, value: str) -> None:
    kinds = frozenset({"a"})
    column = Column("s", pl.String, low, high, "", kinds, kinds)
    sound = checked(column, kinds, [value])
    fits = (low is None or low <= len(value)) and (high is None or len(value) <= high)
    if sound[0]:
        assert fits
    if fits and value.isascii():
        assert sound == [True]


@given(st.none() | st.integers(0, 4), st.none() | st.integers(0, 4), st.none() | st.text("a中😀", max_size=5))
def test_checks_of_a_string_that_may_be_empty_where_it_is_optional(
    low: int | None, high: int | None, value: str | None
) -> None:
    kinds = frozenset({"a", "b", "c"})
    column = Column("s", pl.String, low, high, "", frozenset({"a"}), frozenset({"a", "b"}), frozenset({"b"}))
    required, optional, foreign = checked(column, kinds, [value])
    fits = value is not None and (low is None or low <= len(value)) and (high is None or len(value) <= high)
    assert foreign == (value is None)
    if required:
        assert fits
    if optional:
        assert fits or not value
    if not value:
        assert (required, optional) == (False, True)
    elif fits and value.isascii():
        assert (required, optional) == (True, True)


def test_checks_of_a_field_of_another_kind() -> None:
    kinds = frozenset({"a", "b"})
    column = Column("n", pl.Int64, None, None, "", frozenset({"a"}), frozenset({"a"}))
    assert checked(column, kinds, [None, 5]) == [False, True, True, False]


def checked(column: Column, kinds: frozenset[str], values: list[Any]) -> list[bool]:
    kind = Column("kind", pl.String, None, None, "", kinds, kinds)
    rows = [(name, value) for name in sorted(kinds) for value in values]
    frame = pl.DataFrame(rows, schema={"kind": pl.String, column.name: column.dtype}, orient="row")
    return frame.select(_checks(Grammar("t", "", (kind, column), kinds))).to_series().to_list()


def test_a_copy_of_a_grammar_has_the_types_of_its_columns() -> None:
    whole = grammar("gifts")
    part = replace(whole, columns=whole.columns[:2])
    assert part.schema == {"event_id": pl.String, "event_time": pl.Int64}


@pytest.mark.parametrize("topic", TOPICS)
def test_the_shape_is_one_anchored_expression(topic: str) -> None:
    given = ['{"event_id":"a"}', 'x{"event_id":"a"}', '{"event_id":"a"}x', '{"event_id":"a",}', "{}"]
    assert pl.Series(given).str.contains(grammar(topic).shape).to_list() == [True, False, False, False, False]


def test_readers_agree_on_every_character_of_an_id() -> None:
    """The model, the fast path, and Python as far as its older tables know the character."""
    model = TypeAdapter(Id)
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    form = next(each.form for each in grammar("gifts").columns if each.name == "event_id")
    fast = pl.select(pl.lit('"') + pl.Series(characters) + pl.lit('"')).to_series().str.contains(f"^{form}$").to_list()
    for character, read in zip(characters, fast, strict=True):
        try:
            taken = bool(model.validate_python(character))
        except ValidationError:
            taken = False
        assert read == (taken and character not in '"\\'), hex(ord(character))
        category = unicodedata.category(character)
        if category != "Cn":
            assert taken == (category not in {"Zs", "Zl", "Zp", "Cc", "Cf"}), hex(ord(character))
