"""What a fast reader may accept, derived from the event models.

The fast path reads a whole block of JSON at once, and such readers are lenient: a number passes for a string, the
first of two equal keys wins, a missing field is a null. So a record is read fast only where a regular expression,
made from the same pydantic models, proves its form: an object of known keys, each with a value of its type, without
nulls. What the expression cannot say (lengths, ranges, which kind has which field) is checked on columns; choices and
forbidden characters are part of the expression. Everything else goes to pydantic record by record, so the fast path
can be wrong only by accepting, and a property test holds that it never accepts what pydantic refuses, nor reads
another value.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import annotated_types
import polars as pl
from pydantic.fields import FieldInfo

from schemas.events import EMPTY_IS_ABSENT, KINDS, MODELS

# Strings: no control characters, and of the escapes only those that stand for one character and are no half of a
# surrogate pair (readers differ on lone halves).
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9a-cA-CeEfF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))*"'
# The pattern of a string that may hold all characters but some; pydantic and polars read it with the same engine.
_EXCLUDING = re.compile(r"\^\[\^([^\]]+)\]\+\$")
_INTEGER = r"(?:0|-?[1-9][0-9]{0,17})"


@dataclass(frozen=True)
class Column:
    """One field of a topic, over all its models.

    ``minimum``/``maximum`` bound the value of an integer, or the number of characters of a string; ``form`` is the
    regular expression of its value in JSON. ``required`` and ``allowed`` are the kinds that must or may have it;
    ``blank`` those where an empty string stands for none. That of a number is left to pydantic.
    """

    name: str
    dtype: Any
    minimum: int | None
    maximum: int | None
    form: str
    required: frozenset[str]
    allowed: frozenset[str]
    blank: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Grammar:
    """What the fast path of one topic accepts: ``shape`` for the bytes of a record, ``columns`` for its values."""

    topic: str
    shape: str
    columns: tuple[Column, ...]
    kinds: frozenset[str]

    @property
    def schema(self) -> dict[str, Any]:
        """Polars type of each field: String or Int64."""
        return {column.name: column.dtype for column in self.columns}


@lru_cache
def grammar(topic: str) -> Grammar:
    """The grammar of a topic, from its models. TypeError for a field type that the fast path does not know."""
    fields: dict[str, FieldInfo] = {}
    for model in MODELS[topic]:
        for name, field in model.model_fields.items():
            fields.setdefault(name, field)
    columns = []
    for name, field in fields.items():
        required, allowed, blank = set(), set(), set()
        for kind, model in KINDS[topic].items():
            if name in model.model_fields:
                allowed.add(kind)
                if model.model_fields[name].is_required():
                    required.add(kind)
                if EMPTY_IS_ABSENT in model.model_fields[name].metadata:
                    blank.add(kind)
        known = frozenset(required), frozenset(allowed), frozenset(KINDS[topic]), frozenset(blank)
        columns.append(_column(name, field, *known))
    names: dict[str, list[str]] = {}
    for column in columns:
        names.setdefault(column.form, []).append(re.escape(column.name))
    pair = '"(?:' + "|".join(f'(?:{"|".join(same)})": ?{form}' for form, same in names.items()) + ")"
    return Grammar(topic, rf"^\{{{pair}(?:, ?{pair})*\}}\n?$", tuple(columns), frozenset(KINDS[topic]))


def _column(
    name: str,
    field: FieldInfo,
    required: frozenset[str],
    allowed: frozenset[str],
    kinds: frozenset[str],
    blank: frozenset[str],
) -> Column:
    if blank != allowed - required:
        raise TypeError(f"field {name}: the fast path knows no optional field but Maybe, and no required one of it")
    annotation: Any = field.annotation
    constraints = [constraint for constraint in field.metadata if constraint != EMPTY_IS_ABSENT]
    inner = [arm for arm in get_args(annotation) if arm is not type(None)]
    if type(None) in get_args(annotation):
        if len(inner) != 1:
            raise TypeError(f"field {name}: the fast path knows no union {annotation}")
        annotation = inner[0]
    annotated = getattr(annotation, "__metadata__", ())
    if annotated:
        for extra in annotated:
            constraints.extend(extra.metadata if isinstance(extra, FieldInfo) else [extra])
        annotation = get_args(annotation)[0]
    choices: frozenset[str] = frozenset()
    if name == "kind":
        choices, annotation = kinds, str
    elif get_args(annotation) and all(isinstance(value, str) for value in get_args(annotation)):
        choices, annotation = frozenset(get_args(annotation)), str
    if annotation not in (str, int):
        raise TypeError(f"field {name}: the fast path knows no type {annotation}")
    minimum = maximum = None
    form = _INTEGER if annotation is int else _STRING
    if choices:
        form = f'"(?:{"|".join(re.escape(choice) for choice in sorted(choices))}){"?" if blank else ""}"'
    for constraint in constraints:
        if isinstance(constraint, annotated_types.Ge):
            minimum = int(constraint.ge)  # type: ignore[call-overload]
        elif isinstance(constraint, annotated_types.Le):
            maximum = int(constraint.le)  # type: ignore[call-overload]
        elif isinstance(constraint, annotated_types.MinLen):
            minimum = constraint.min_length
        elif isinstance(constraint, annotated_types.MaxLen):
            maximum = constraint.max_length
        elif match := _EXCLUDING.fullmatch(getattr(constraint, "pattern", None) or ""):
            form = rf'"[^"\\{match[1]}]{"*" if blank else "+"}"'
        else:
            raise TypeError(f"field {name}: the fast path knows no constraint {constraint!r}")
    dtype = pl.String if annotation is str else pl.Int64
    return Column(name, dtype, minimum, maximum, form, required, allowed, blank if dtype == pl.String else frozenset())
