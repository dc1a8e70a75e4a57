"""Amounts, shares and times as people write them, with a unit, and as integers: no float on the way.

What has no unit is refused: nobody can tell whether ``12`` is yuan or micros, and a budget is decided on it.
"""

import re
from typing import Any, Literal, NamedTuple

from pydantic_core import PydanticCustomError

from schemas.events import MAX_MICROS

YUAN = 1_000_000
"""Micros."""
MINUTE_MS = 60_000
Unit = Literal["minute", "hour", "day"]
UNIT_MS: dict[Unit, int] = {"minute": MINUTE_MS, "hour": 60 * MINUTE_MS, "day": 1440 * MINUTE_MS}
MAX_DAYS = 365
"""The longest time that can be written."""

_NUMBER = r"([+-]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?)"


class Length(NamedTuple):
    """A number of minutes, hours or days."""

    number: int
    unit: Unit

    @property
    def ms(self) -> int:
        """Milliseconds; a day has 24 hours."""
        return self.number * UNIT_MS[self.unit]

    def __str__(self) -> str:
        return f"{self.number} {self.unit}{'' if self.number == 1 else 's'}"


def refused(message: str) -> PydanticCustomError:
    """The error of a validator: what is wrong and what to write."""
    return PydanticCustomError("fanpulse", message)


def money(value: Any) -> int:
    """``12.50 yuan`` or ``12500000 micros`` as micros.

    Raises:
        PydanticCustomError: no unit or another one, a sign, parts of a micro, or more than 10^15 micros.
    """
    number, unit = _amount(value, "`12.50 yuan` or `12500000 micros`", "is it yuan or micros?")
    if unit not in ("yuan", "micros"):
        raise refused(f"`{value}` is not in yuan or micros; write it like `12.50 yuan` or `12500000 micros`")
    micros = _scaled(number, 6 if unit == "yuan" else 0)
    if micros is None:
        raise refused(f"`{value}` has parts of a micro, the millionth of a yuan; leave out the last digits")
    if not 0 <= micros <= MAX_MICROS or number[0] == "+":
        raise refused(f"`{value}` must be from 0 to {MAX_MICROS // YUAN:,} yuan, without a sign")
    return micros


def percent(value: Any, decimals: int) -> int:
    """``2.5%`` as whole parts of a percent, ``10 ** decimals`` of them a percent: with 2, basis points.

    Raises:
        PydanticCustomError: no ``%``, or more decimals than that.
    """
    number, unit = _amount(value, "`20%`", "is it a share or percent?")
    if unit != "%":
        raise refused(f"`{value}` is not in percent; write it like `20%`")
    parts = _scaled(number, decimals)
    if parts is None:
        raise refused(f"`{value}` has more than {decimals} decimals; leave out the last digits")
    if abs(parts) > 10**12:
        raise refused(f"`{value}` is too large")
    return parts


def length(value: Any) -> Length:
    """``30 minutes``, ``6 hours`` or ``1 day``.

    Raises:
        PydanticCustomError: no unit or another one, a sign, a decimal point, or more than a year.
    """
    number, unit = _amount(value, "`30 minutes`, `6 hours` or `2 days`", "is it minutes, hours or days?")
    name = unit.removesuffix("s")
    if name not in UNIT_MS:
        raise refused(f"`{value}` is not in minutes, hours or days; write it like `30 minutes`, `6 hours` or `2 days`")
    whole = _scaled(number, 0)
    if whole is None or number[0]:
        raise refused(f"`{value}` must be a whole number without a sign; write a smaller unit, like `90 minutes`")
    found = Length(whole, name)
    if found.ms > MAX_DAYS * UNIT_MS["day"]:
        raise refused(f"`{value}` is longer than {MAX_DAYS} days")
    return found


def show_money(micros: int) -> str:
    """``1,234.50 yuan``: at least two decimals, and all that there are."""
    sign = "-" if micros < 0 else ""
    whole, part = divmod(abs(micros), YUAN)
    return f"{sign}{whole:,}.{f'{part:06}'.rstrip('0').ljust(2, '0')} yuan"


def show_percent(parts: int, decimals: int, sign: str = "") -> str:
    """``2.5%``: all decimals that there are; ``sign`` ``+`` shows that of a positive one."""
    shown = "-" if parts < 0 else sign
    whole, part = divmod(abs(parts), 10**decimals)
    return f"{shown}{whole:,}.{part:0{decimals}}".rstrip("0").rstrip(".") + "%"


def show_ms(ms: int) -> str:
    """A time in the largest unit that it is a whole number of."""
    units: tuple[Unit, ...] = ("day", "hour", "minute")
    for unit in units:
        number, rest = divmod(ms, UNIT_MS[unit])
        if not rest and (number or unit == "minute"):
            return str(Length(number, unit))
    return f"{ms / MINUTE_MS:.1f} minutes"


def _amount(value: Any, example: str, question: str) -> tuple[tuple[str, str, str], str]:
    """Sign, digits and decimals; and the unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refused(f"`{value}` is a bare number: {question} Write it like {example}")
    found = re.fullmatch(_NUMBER + r"\s*(\D*?)", value.strip()) if isinstance(value, str) else None
    if found is None:
        raise refused(f"`{value}` is no amount with a unit; write it like {example}")
    sign, digits, decimals, unit = found.groups()
    if not unit:
        raise refused(f"`{value}` is a bare number: {question} Write it like {example}")
    return (sign, digits.partition(".")[0].replace(",", ""), decimals or ""), unit


def _scaled(number: tuple[str, str, str], decimals: int) -> int | None:
    """The number times ``10 ** decimals``; None if that is not whole."""
    sign, digits, after = number
    after = after.rstrip("0")
    if len(after) > decimals:
        return None
    return int(sign + digits + after.ljust(decimals, "0"))
