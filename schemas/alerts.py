"""When an alert rings: the kinds of ``alerts.json`` with their thresholds, and what settings change of them.

A kind fires where all its conditions hold, each ``figure operator threshold``. An alert stays open while they all hold
with every threshold moved by ``hysteresis`` in its favour, so that a figure that wavers about a threshold rings once.
"""

import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.quantities import show_money
from schemas.value import holds

Number = Annotated[float, Field(allow_inf_nan=False)]
Period = Literal["day", "hour"]
"""What figures are of: a local day, or a local hour."""
Values = Mapping[str, float | None]
"""Figures by name; None where there is none, such as a rate of nothing."""


class Threshold(BaseModel):
    """A threshold and what it bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Number
    meaning: str


class Advice(BaseModel):
    """What to do, where all conditions on the figures hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: tuple[str, ...]
    say: str


class Kind(BaseModel):
    """A kind of alert.

    ``figures`` names the source of what it looks at (``pipeline.alerting.FIGURES``), which has them by local day or
    hour: its ``period``. ``running``: it may be opened before its period is over. ``passing``: what it speaks of is
    over with its period. ``say`` and ``resolved`` are sentences with figures and thresholds in them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: str
    period: Period = "day"
    running: bool = False
    passing: bool = False
    enabled: bool = True
    title: str
    means: str
    formula: str
    fires: tuple[str, ...] = Field(min_length=1)
    thresholds: dict[str, Threshold]
    say: str
    resolved: str
    advice: tuple[Advice, ...]

    @property
    def limits(self) -> dict[str, float]:
        """Thresholds by name."""
        return {name: threshold.value for name, threshold in self.thresholds.items()}

    def firing(self, values: Values) -> bool:
        """Whether it fires at these figures."""
        known = {**values, **self.limits}
        return all(holds(condition, known) for condition in self.fires)

    def staying(self, values: Values, hysteresis: float) -> bool:
        """Whether an alert that is open stays so. True of all figures at which it fires."""
        for condition in self.fires:
            _, sign, name = condition.split()
            limit = self.thresholds[name].value
            margin = abs(limit) * hysteresis
            if not holds(condition, {**values, name: limit - margin if ">" in sign else limit + margin}):
                return False
        return True

    def advise(self, values: Values) -> tuple[str, ...]:
        """What to do at these figures."""
        return tuple(each.say for each in self.advice if all(holds(condition, values) for condition in each.when))


class AlertPolicy(BaseModel):
    """Every kind and threshold; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_days: int = Field(
        ge=2, le=90, description="Days before the day, or before its week, that say what is usual"
    )
    least_history_days: int = Field(
        ge=2, le=90, description="Of them so many must have a figure, else nothing is usual"
    )
    hysteresis: float = Field(ge=0, lt=1, description="Share of a threshold by which figures must be better again")
    kinds: dict[str, Kind]

    @model_validator(mode="after")
    def _consistent(self) -> "AlertPolicy":
        if self.least_history_days > self.history_days:
            raise PydanticCustomError("fanpulse", "least_history_days must not be above history_days")
        return self

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        """What to write into ``FANPULSE_ALERT_POLICY``: what is not the default, as JSON."""
        default = alert_policy({})
        changed: dict[str, Any] = {
            name: getattr(self, name) for name in _GENERAL if getattr(self, name) != getattr(default, name)
        }
        for name, kind in self.kinds.items():
            usual = default.kinds[name]
            own: dict[str, Any] = {key: value for key, value in kind.limits.items() if value != usual.limits[key]}
            if kind.enabled != usual.enabled:
                own["enabled"] = kind.enabled
            if own:
                changed[name] = own
        return json.dumps(changed, separators=(",", ":"))


_FEN = 10_000
_GENERAL = ("history_days", "least_history_days", "hysteresis")


def alert_policy(changes: Mapping[str, Any]) -> AlertPolicy:
    """The policy of ``alerts.json`` with changes: ``{"churn_high": {"above": 0.08}, "history_days": 28}``; ``"enabled":
    false`` switches a kind off.

    Raises:
        ValueError: there is no such kind or threshold, or a value is none; one line.
    """
    policy = _file()
    for name, value in changes.items():
        if name in _GENERAL:
            policy[name] = value
            continue
        kind = policy["kinds"].get(name)
        if kind is None:
            raise ValueError(f"{name} is no kind of alert; did you mean {_near(name, [*policy['kinds'], *_GENERAL])}?")
        if not isinstance(value, Mapping):
            raise ValueError(f'{name}: must be an object such as {{"{next(iter(kind["thresholds"]))}": 1}}')
        for key, new in value.items():
            if key == "enabled":
                kind["enabled"] = new
            elif key in kind["thresholds"]:
                kind["thresholds"][key]["value"] = new
            else:
                known = [*kind["thresholds"], "enabled"]
                raise ValueError(f"{name}: {key} is no threshold of it; did you mean {_near(key, known)}?")
    return AlertPolicy.model_validate(policy)


def write(template: str, values: Mapping[str, Any]) -> str:
    """A sentence of ``alerts.json`` with figures put in, micros as ``{name:yuan}``; of a figure that there is not, a
    dash."""
    return _Sentence().vformat(template, (), values)


class _Sentence(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "-"
        return show_money(_to_fen(value)) if format_spec == "yuan" else str(format(value, format_spec))


def _to_fen(micros: float) -> int:
    """Micros to the nearest hundredth of a yuan, a half up."""
    return (round(micros) + _FEN // 2) // _FEN * _FEN


def _file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_text())
    return found


@cache
def _text() -> str:
    return files("schemas").joinpath("alerts.json").read_text(encoding="utf-8")


def _near(name: str, known: list[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
