"""Files of budget rules and of campaigns: YAML in, models out, and everything that is wrong with its line."""

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from infra.errors import FanpulseError
from schemas.rules import Action, AdGroup, Bidding, Campaign, Guards, Rule, Schedule, Scope, Window
from schemas.yaml_file import Place, YamlFile, load

Model = TypeVar("Model", bound=BaseModel)

TEMPLATES = ("e-commerce", "education", "local-services")
"""Names of the files in ``schemas/rules/``, all of rules that only say what they would do."""

_LONGEST = 500
"""Characters of what is said of a fault: it may quote a text of any length."""
_PARTS: dict[type[BaseModel], dict[str, type[BaseModel]]] = {
    Rule: {"scope": Scope, "window": Window, "guards": Guards, "action": Action, "schedule": Schedule},
    Campaign: {"ad_groups": AdGroup, "bidding": Bidding},
    AdGroup: {"bidding": Bidding},
    Bidding: {"window": Window, "schedule": Schedule},
}


class Refused(FanpulseError):
    """A file that is refused. ``faults``: everything that is wrong, each ``file:line: field: what``, in their order."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(faults[0] + more)
        self.faults = tuple(faults)


def read_rules(path: Path, time_zone: str) -> tuple[Rule, ...]:
    """The rules of a file, as they are written: ``rules:`` and a list.

    Args:
        path: where it is.
        time_zone: of rules that name none.

    Raises:
        Refused: something in it is no rule, or contradicts itself.
        FanpulseError: it cannot be read, or is no YAML.
    """
    file = load(path)
    for each in _items(file, "rules"):
        schedule = each.setdefault("schedule", {}) if isinstance(each, dict) else None
        if isinstance(schedule, dict):
            schedule.setdefault("time_zone", time_zone)
    return _read(file, "rules", Rule, lambda rule: rule.id, "id")


def read_campaigns(path: Path) -> tuple[Campaign, ...]:
    """The campaigns of a file: ``campaigns:`` and a list.

    Raises:
        Refused: something in it is no campaign, or contradicts itself.
        FanpulseError: it cannot be read, or is no YAML.
    """
    return _read(load(path), "campaigns", Campaign, lambda each: f"{each.platform} {each.campaign_id}", "campaign_id")


def template(name: str) -> str:
    """The text of a ready file of rules.

    Raises:
        FanpulseError: there is none of that name.
    """
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.0)[0]
        raise FanpulseError(f"there is no template {name}; did you mean {near}? There are {', '.join(TEMPLATES)}")
    return files("schemas").joinpath("rules", f"{name}.yaml").read_text(encoding="utf-8")


def _items(file: YamlFile, top: str) -> list[Any]:
    value = file.value
    example = f"write `{top}:` and below it a list"
    if not isinstance(value, dict):
        raise Refused([_fault(file, (), f"is no list of {top}; {example}")])
    if top not in value:
        raise Refused([_fault(file, (), f"`{top}:` is missing; {example}")])
    if unknown := [key for key in value if key != top]:
        raise Refused([_fault(file, (unknown[0],), f"is not known here; {example}, and nothing else")])
    if not isinstance(value[top], list) or not value[top]:
        raise Refused([_fault(file, (top,), f"must be a list with something in it; {example}")])
    return list(value[top])


def _read(file: YamlFile, top: str, model: type[Model], identity: Any, field: str) -> tuple[Model, ...]:
    found: list[Model] = []
    faults: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for number, item in enumerate(_items(file, top)):
        try:
            each = model.model_validate(item)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                place, message = _explain(model, item, fault["loc"], dict(fault))
                where = (top, number, *place)
                faults.append((file.line(where), _fault(file, where, message)))
            continue
        found.append(each)
        where = (top, number, field)
        first = seen.setdefault(identity(each), file.line(where))
        if first != file.line(where):
            message = f"`{getattr(each, field)}` is there already, in line {first}; give it another one"
            faults.append((file.line(where), _fault(file, where, message)))
    if faults:
        raise Refused([text for _, text in sorted(faults, key=lambda fault: fault[0])])
    return tuple(found)


def _fault(file: YamlFile, place: Place, message: str) -> str:
    line = " ".join(message.split())
    return file.error(place, line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "...").message


def _explain(
    model: type[BaseModel], item: Any, loc: Sequence[str | int], error: Mapping[str, Any]
) -> tuple[Place, str]:
    """Where an error of pydantic is in the item, and what to say about it."""
    place: Place = ()
    here: Any = item
    owner: type[BaseModel] | None = model
    parent: type[BaseModel] | None = None
    for step in loc:
        if isinstance(here, dict) and "any" in here and isinstance(step, int):
            place, here = (*place, "any"), here["any"]
        inside = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if inside or (isinstance(here, dict) and step in here):
            here = here[step]
        elif isinstance(step, int):
            continue
        place = (*place, step)
        if isinstance(step, str):
            parent, owner = owner, _PARTS.get(owner, {}).get(step) if owner is not None else None
    message = str(error["msg"])
    if error["type"] == "fanpulse":
        field, _, rest = message.partition(": ")
        # A contradiction between fields is told of the model; which of them, its text says first.
        if rest and re.fullmatch(r"[a-z_.0-9]+", field):
            return (*place, *(int(part) if part.isdigit() else part for part in field.split("."))), rest
        return place, message
    name = str(place[-1]) if place else ""
    return place, _words(parent, name, error)


def _words(model: type[BaseModel] | None, name: str, error: Mapping[str, Any]) -> str:
    """What is wrong and what to write, of the errors that pydantic finds by itself."""
    fields = model.model_fields if model is not None else {}
    examples = fields[name].examples if name in fields else None
    example = f"; write it like `{name}: {examples[0]}`" if examples else ""
    given = error["input"]
    match error["type"]:
        case "missing":
            return f"is missing{example}"
        case "extra_forbidden":
            near = difflib.get_close_matches(name, fields, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            return f"is not known here; {meant}There are {', '.join(fields)}"
        case _ if given is None:
            return f"is empty{example}"
        case "literal_error":
            return f"`{given}` must be {error['ctx']['expected'].replace(chr(39), '')}"
        case "string_type":
            return f"`{given}` must be text; write it in quotes"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"must have keys with values{example}"
        case _:
            message = str(error["msg"])
            return f"`{given}`: {message[:1].lower()}{message[1:]}{example}"
