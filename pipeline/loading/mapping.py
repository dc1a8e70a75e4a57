"""A row of somebody's log becomes an event: which column is which field, and what the values are turned into."""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from infra.errors import FanpulseError
from pipeline.grammar import grammar
from schemas.events import KINDS

MONEY_UNITS = {"micros": 1, "fen": 10_000, "yuan": 1_000_000}
"""Units of ``*_micros`` fields, in micros."""
TIME_UNITS = {"ms": 1, "s": 1000}
"""Units of ``event_time`` and ``*_ms`` fields, in milliseconds."""

_INTEGER = re.compile(r"-?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LARGEST = 1 << 62

Converter = Callable[[Any], Any]


class Unfit(Exception):
    """A value that no conversion makes fit its field: ``reason`` as in dead letters, ``detail`` a sentence."""

    def __init__(self, detail: str, reason: str = "wrong_type") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that is not sent: its number in the file, why (a short code, as in dead letters), and a sentence."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file: their numbers, the values of the wanted columns, and rows that cannot be read at all."""

    numbers: list[int]
    columns: dict[str, list[Any]]
    broken: list[RefusedRow]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as records for Kafka: numbers, keys and values, all of one length; and the rows that became none."""

    numbers: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)


@dataclass(frozen=True)
class Mapping:
    """What the user said: columns of fields with their unit (None: the field's own), and constant fields."""

    topic: str
    columns: dict[str, tuple[str, str | None]]
    constants: dict[str, Any]
    zone: ZoneInfo

    def bind(self, there: Collection[str], complete: bool) -> "Encoder":
        """The encoder of a file.

        Args:
            there: names of its columns.
            complete: it has no others. Where that is not known (JSON lines), fields are also taken from columns of
                their name that show up later.

        Raises:
            FanpulseError: a mapped column is missing, or nothing gives a field that every event needs.
        """
        names = {column.name: column for column in grammar(self.topic).columns}
        if complete:
            for name, (column, _) in self.columns.items():
                if column not in there:
                    raise FanpulseError(f"--map {name}={column}: the file has no column {column}{_near(column, there)}")
        given: dict[str, tuple[str, str | None]] = {
            name: (name, None) for name in names if not complete or name in there
        }
        given |= self.columns
        given = {name: source for name, source in given.items() if name not in self.constants}
        kinds = {str(self.constants["kind"])} if "kind" in self.constants else set(KINDS[self.topic])
        known = {name for name in names if name in self.constants or name in self.columns or name in there}
        for name, field_ in names.items():
            if name not in known and name != "event_id" and there and kinds <= field_.required:
                raise FanpulseError(
                    f"nothing gives {name}, which {_kinds(self.topic, kinds)} need: name its column "
                    f"(--map {name}=COLUMN) or a value for all rows (--set {name}=VALUE); "
                    f"the columns are {', '.join(sorted(there))}"
                )
        order = [name for name in names if name in given]
        return Encoder(
            self.topic,
            {name: (given[name][0], _converter(name, given[name][1], self.topic, self.zone)) for name in order},
            self.constants,
        )


def parse(topic: str, maps: Iterable[str], sets: Iterable[str], zone: ZoneInfo) -> Mapping:
    """The mapping that ``--map field=column[:unit]`` and ``--set field=value`` say.

    Raises:
        FanpulseError: no such field, unit, kind or choice; a field given twice; not of that form.
    """
    columns: dict[str, tuple[str, str | None]] = {}
    constants: dict[str, Any] = {}
    for text in maps:
        name, column = _split("--map", text, "COLUMN", topic)
        before, colon, unit = column.rpartition(":")
        units = _units(name)
        if colon and unit in {*MONEY_UNITS, *TIME_UNITS}:
            if unit not in units:
                may = f"its units are {', '.join(units)}" if units else "it has no units"
                raise FanpulseError(f"--map {text}: {name} is not in {unit}; {may}")
            column = before
        else:
            unit = ""
        if not column:
            raise FanpulseError(f"--map {text}: no column is named; write --map {name}=COLUMN")
        if name in columns:
            raise FanpulseError(f"--map {text}: {name} is mapped twice")
        columns[name] = (column, unit or None)
    for text in sets:
        name, value = _split("--set", text, "VALUE", topic)
        if name in columns or name in constants:
            raise FanpulseError(f"--set {text}: {name} is given twice")
        if name == "kind" and value not in KINDS[topic]:
            raise FanpulseError(f"--set {text}: {topic} have no such kind{_near(value, KINDS[topic])}")
        try:
            constants[name] = _converter(name, None, topic, zone)(value)
        except Unfit as why:
            raise FanpulseError(f"--set {text}: {why.detail}") from None
    return Mapping(topic, columns, constants, zone)


class Encoder:
    """Makes canonical compact JSON of rows. A pure function of the rows; see ``Mapping.bind``."""

    def __init__(self, topic: str, sources: dict[str, tuple[str, Converter]], constants: dict[str, Any]) -> None:
        self.columns = {column for column, _ in sources.values()}
        """Columns of the file that are read."""
        self._sources = sources
        self._constants = constants
        names = [*sources, *constants]
        self._layouts = {
            kind: [(index, name) for index, name in enumerate(names) if name in model.model_fields]
            for kind, model in KINDS[topic].items()
        }
        self._all = list(enumerate(names))
        self._at = {name: index for index, name in enumerate(names)}

    def encode(self, rows: Rows) -> Encoded:
        """The rows as records. Fields that a row's kind does not have are left out, as are absent values.

        A row without ``event_id`` gets one made of its fields and its number, so the same file gives the same ids.
        Whether a record is an event is not decided here, only whether its values can be converted.
        """
        encoded = Encoded(refused=list(rows.broken))
        unfit: dict[int, RefusedRow] = {}
        columns: list[Sequence[Any]] = []
        for name, (column, convert) in self._sources.items():
            values = rows.columns[column]
            try:
                columns.append(list(map(convert, values)))
            except Unfit:
                columns.append(_one_by_one(name, convert, values, rows.numbers, unfit))
        columns.extend([value] * len(rows.numbers) for value in self._constants.values())
        kind_at, id_at, fan_at = (self._at.get(name) for name in ("kind", "event_id", "fan_id"))
        for index, (number, row) in enumerate(zip(rows.numbers, zip(*columns, strict=True), strict=True)):
            if index in unfit:
                encoded.refused.append(unfit[index])
                continue
            layout = self._layouts.get(row[kind_at], self._all) if kind_at is not None else self._all
            record = {name: row[at] for at, name in layout if row[at] is not None}
            try:
                value = orjson.dumps(record)
                if id_at is None or row[id_at] is None:
                    digest = hashlib.blake2b(value + b"\n%d" % number, digest_size=12).hexdigest()
                    value = b'{"event_id":"%s"%s' % (digest.encode(), b"," + value[1:] if record else b"}")
                fan = row[fan_at] if fan_at is not None else None
                key = fan.encode() if fan is not None else b""
            except (orjson.JSONEncodeError, UnicodeEncodeError):
                encoded.refused.append(RefusedRow(number, "invalid_utf8", "the bytes are not UTF-8"))
                continue
            encoded.numbers.append(number)
            encoded.keys.append(key)
            encoded.values.append(value)
        return encoded


def _one_by_one(
    name: str, convert: Converter, values: list[Any], numbers: list[int], unfit: dict[int, RefusedRow]
) -> list[Any]:
    converted = []
    for index, value in enumerate(values):
        try:
            converted.append(convert(value))
        except Unfit as why:
            converted.append(None)
            unfit.setdefault(index, RefusedRow(numbers[index], why.reason, f"{name}: {why.detail}"))
    return converted


def _split(option: str, text: str, what: str, topic: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise FanpulseError(f"{option} {text}: write {option} FIELD={what}")
    fields = [column.name for column in grammar(topic).columns]
    if name not in fields:
        raise FanpulseError(f"{option} {text}: {topic} have no field {name}{_near(name, fields)}")
    return name, value


def _near(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(names))}"


def _kinds(topic: str, kinds: set[str]) -> str:
    return f"all kinds of {topic}" if kinds == set(KINDS[topic]) and len(kinds) > 6 else " and ".join(sorted(kinds))


def _units(name: str) -> dict[str, int]:
    if name.endswith("_micros"):
        return MONEY_UNITS
    return TIME_UNITS if name == "event_time" or name.endswith("_ms") else {}


def _converter(name: str, unit: str | None, topic: str, zone: ZoneInfo) -> Converter:
    column = next(column for column in grammar(topic).columns if column.name == name)
    if name == "event_time":
        return _time(TIME_UNITS[unit or "ms"], zone)
    factor = _units(name)[unit] if unit else 1
    if factor != 1:
        return _scaled(factor, ROUND_HALF_EVEN if name.endswith("_micros") else ROUND_FLOOR)
    return _text if "String" in str(column.dtype) else _integer


def _text(value: Any) -> str | None:
    """Strings as they are, integers written out; empty is absent."""
    if type(value) is str:
        return value or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        raise Unfit(f"{value} is no string")
    if isinstance(value, int) or (isinstance(value, Decimal) and value == value.to_integral_value()):
        return str(int(value))
    if isinstance(value, float):
        raise Unfit(f"{value!r} is a float, which may have lost digits; give a string or an integer")
    raise Unfit(f"{_shown(value)} is no string")


def _integer(value: Any) -> int | None:
    """Integers, and what is written or stored as a number without a fraction; empty is absent."""
    if type(value) is int:
        return _bounded(value)
    if value is None or value == "":
        return None
    if type(value) is str and _INTEGER.fullmatch(value):
        return _bounded(int(value))
    number = _number(value)
    if number is None:
        return None
    if number != number.to_integral_value():
        raise Unfit(f"{_shown(value)} is no integer")
    return _bounded(int(number))


def _scaled(factor: int, rounding: str) -> Converter:
    """Numbers in a larger unit, times ``factor``, exactly; what is finer than the field is rounded."""

    def convert(value: Any) -> int | None:
        if type(value) is int:
            return _bounded(value * factor)
        number = None if value == "" else _number(value)
        return None if number is None else _bounded(int((number * factor).to_integral_value(rounding)))

    return convert


def _time(factor: int, zone: ZoneInfo) -> Converter:
    """Milliseconds since the epoch of numbers (times ``factor``), datetimes, and ISO 8601 strings."""
    numeric: Callable[[Any], int | None] = _integer if factor == 1 else _scaled(factor, ROUND_FLOOR)

    def convert(value: Any) -> int | None:
        moment = value
        if type(value) is int:
            return _bounded(value * factor)
        if type(value) is str:
            # Digits alone are a number, though ISO 8601 has a form of dates without hyphens.
            if value == "" or _NUMBER.fullmatch(value):
                return numeric(value)
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise Unfit(f"{_shown(value)} is no time; such are 2025-06-15T20:31:05.250+08:00") from None
            if len(value) <= 10:
                raise Unfit(f"{_shown(value)} is a date without a time of day")
        elif not isinstance(value, datetime):
            if isinstance(value, date):
                raise Unfit(f"{value} is a date without a time of day")
            return numeric(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
            if moment.utcoffset() < moment.replace(fold=1).utcoffset():
                raise Unfit(f"{_shown(value)} does not exist in {zone.key}: the clocks were put forward over it")
        milliseconds: int = (moment - _EPOCH) // _MILLISECOND
        return milliseconds

    return convert


def _number(value: Any) -> Decimal | None:
    """The exact number; of a float, the shortest decimal that is stored as that float. None is absent."""
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise Unfit("infinity is no number", "out_of_range")
        return Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    raise Unfit(f"{_shown(value)} is no number")


def _bounded(number: int) -> int:
    # JSON readers stop at 64 bits; no field comes near, so the contract need not see such numbers to refuse them.
    if not -_LARGEST < number < _LARGEST:
        raise Unfit("far larger than any number of an event", "out_of_range")
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
