"""YAML files that people write, read with the lines their values stand on, so that a refusal can say where.

Plain scalars are true, false, null, decimal integers and decimal numbers as in JSON; whatever else is not in quotes is
text too: ``no``, ``007``, ``12:30`` and ``2026-03-01`` stay as they are written. A value that stands for another
(``*name``), a key that is there twice, a tag and a second document are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import FanpulseError

LARGEST = 1 << 20
"""Bytes of a file at most."""

Place = tuple[str | int, ...]
"""Keys and indices from the top of a file to a value in it."""
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file that was read: ``value`` is made of dict, list, str, int, float, bool and None; ``lines`` says on which
    line (from 1 on) each key and each item of a list begins."""

    path: Path
    value: Any
    lines: dict[Place, int]

    def line(self, place: Sequence[str | int]) -> int:
        """The line of a place; of one that is not there, that of the nearest that is round it."""
        here = tuple(place)
        while here and here not in self.lines:
            here = here[:-1]
        return self.lines.get(here, 1)

    def error(self, place: Sequence[str | int], message: str) -> FanpulseError:
        """What to raise about a place: ``file:line: place: message``."""
        where = f"{_dotted(place)}: " if place else ""
        return FanpulseError(f"{self.path}:{self.line(place)}: {where}{message}")

    def read(self, model: type[Model]) -> Model:
        """The value as a model.

        Raises:
            FanpulseError: it is none; the first thing that is wrong, by line, and how many more there are.
        """
        try:
            return model.model_validate(self.value)
        except ValidationError as error:
            found = [(self._place(each["loc"]), _message(dict(each))) for each in error.errors(include_url=False)]
        # What holds something that is wrong is often said to be wrong, too: too short without it, say.
        found = [
            (place, message)
            for place, message in found
            if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in found)
        ]
        found.sort(key=lambda each: self.line(each[0]))
        place, message = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise self.error(place, message + more)

    def _place(self, loc: Sequence[str | int]) -> Place:
        """Where an error of pydantic is, without the names of types that it puts between keys."""
        place: Place = ()
        for number, step in enumerate(loc):
            if (*place, step) in self.lines or number == len(loc) - 1:
                place = (*place, step)
        return place


def load(path: Path) -> YamlFile:
    """Reads a file.

    Raises:
        FanpulseError: it cannot be read, or is no YAML as above; with the line where it is not.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise FanpulseError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > LARGEST:
        raise FanpulseError(f"{path}: larger than {LARGEST:,} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FanpulseError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[Place, int] = {}
        return YamlFile(path, _value(path, node, (), lines), lines)
    except yaml.reader.ReaderError as error:
        line = text[: int(error.position)].count("\n") + 1
        raise FanpulseError(f"{path}:{line}: the character {error.character:#x} must not be in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise FanpulseError(f"{path}:{line}: {_problem(error)}") from None
    except RecursionError:
        raise FanpulseError(f"{path}: nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Composes nodes; nodes that stand for others are refused, since a few lines of them make a value of any size."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor}: write the value out instead", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
}
"""Those that plain YAML is given."""


def _value(path: Path, node: yaml.Node | None, place: Place, lines: dict[Place, int]) -> Any:
    if node is None:
        return None
    lines.setdefault(place, node.start_mark.line + 1)
    if node.tag not in _TAGS:
        raise FanpulseError(f"{path}:{node.start_mark.line + 1}: {node.tag}: leave the tag out")
    if isinstance(node, yaml.MappingNode):
        made: dict[str, Any] = {}
        for key, inner in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise FanpulseError(f"{path}:{line}: a key must be a word")
            if key.value in made:
                first = lines[*place, key.value]
                raise FanpulseError(f"{path}:{line}: {_dotted((*place, key.value))} is there already, in line {first}")
            lines[*place, key.value] = line
            made[key.value] = _value(path, inner, (*place, key.value), lines)
        return made
    if isinstance(node, yaml.SequenceNode):
        return [_value(path, inner, (*place, number), lines) for number, inner in enumerate(node.value)]
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return _scalar(node.value) if plain else node.value


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _dotted(place: Sequence[str | int]) -> str:
    """A place in words: ``rules[2].action``; items are counted from 1 on, as people do."""
    text = ""
    for step in place:
        text += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What YAML says is wrong, in one line, and where that began."""
    said = ", ".join(" ".join(part.split()) for part in (error.context, error.problem) if part)
    begin, end = error.context_mark, error.problem_mark
    return f"{said} (it began in line {begin.line + 1})" if begin and end and begin.line < end.line else said


_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here; look for a misspelling",
    "model_type": "must have keys with values, a line each: key: value",
    "dict_type": "must have keys with values, a line each: key: value",
    "list_type": "must be a list: [one, other]",
    "tuple_type": "must be a list: [one, other]",
}
"""What is said by kind of pydantic's error, where its own words are not those of somebody who writes YAML."""


def _message(error: dict[str, Any]) -> str:
    """What is wrong, in one line."""
    kind, given = error["type"], error["input"]
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    if kind == "too_short":
        return f"must have {error['ctx']['min_length']} or more, each in a line: - value"
    message = " ".join(str(error["msg"]).split()).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind in ("value_error", "fanpulse") or isinstance(given, dict | list) or given is None:
        return message
    return f"{message}, not {given!r}"
