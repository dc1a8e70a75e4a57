"""Rules and campaigns as people write them: back to YAML, and what one says otherwise than another."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from schemas.quantities import show_money

_ALWAYS = ("version", "mode", "state", "schedule", "time_zone")
"""Fields that are written also where a file might leave them out: a reader asks for them, and the time zone of a rule
that names none is that of the settings."""


class Difference(NamedTuple):
    """A field that two say differently: its name, as ``action.by`` or ``ad_groups.ag_1.bid``, and both in words."""

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.before} -> {self.after}"


def document(top: str, *models: BaseModel) -> str:
    """A YAML file: ``top:`` and the list. What is left out there means the same as what is set."""
    made = {top: [written(each) for each in models]}
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=120)


def written(model: BaseModel, whole: bool = False) -> dict[str, Any]:
    """Fields with values as in a file: amounts in yuan, conditions as text. ``whole``: those that are left at their
    defaults, too."""
    texts = model.model_dump(mode="json")
    told = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if whole or name in _ALWAYS or value != field.get_default(call_default_factory=True):
            told[name] = _written(value, texts[name], whole)
    return told


def differences(before: BaseModel, after: BaseModel) -> list[Difference]:
    """What ``after`` says otherwise, in the order of the fields; parts of a list that have a name of their own, such
    as ad groups, one by one."""
    return list(_differences(written(before, True), written(after, True), ""))


def _written(value: Any, text: Any, whole: bool) -> Any:
    if isinstance(text, dict) and isinstance(value, BaseModel):
        return written(value, whole)
    if isinstance(text, list):
        return [_item(one, other, whole) for one, other in zip(value, text, strict=True)]
    if isinstance(value, int) and text == f"{value} micros":
        return show_money(value)
    return text


def _item(value: Any, text: Any, whole: bool) -> Any:
    """An item of a list; a group of conditions is a list itself."""
    item = _written(value, text, whole)
    if not isinstance(item, list):
        return item
    return item[0] if len(item) == 1 else {"any": item}


def _differences(before: Any, after: Any, field: str) -> Iterator[Difference]:
    one, other = _by_name(before), _by_name(after)
    if before == after:
        return
    if one is None or other is None:
        yield Difference(field, _words(before), _words(after))
        return
    for name in one | other:
        yield from _differences(one.get(name), other.get(name), f"{field}.{name}" if field else name)


def _by_name(value: Any) -> dict[str, Any] | None:
    """What has parts, by their names: of a list of parts the first field is the name. None: it has none."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(each, dict) and "any" not in each for each in value):
        parts = [list(each.items()) for each in value]
        return {str(name): dict(rest) for (_, name), *rest in parts}
    return None


def _words(value: Any) -> str:
    match value:
        case None:
            return "none"
        case {"any": choices}:
            return f"({' or '.join(choices)})"
        case dict():
            return ", ".join(f"{name} {_words(each)}" for name, each in value.items() if each is not None)
        case list():
            return ", ".join(map(_words, value)) or "none"
        case _:
            return str(value)
