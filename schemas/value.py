"""What a fan is worth: tier and tags by the rule of ``value.json``, once as a Python function and once as SQL.

The rule says points for recency, frequency and money, a tier by their sum, and tags. Each is a condition ``feature
operator threshold``; of several lines the first that holds counts, and an empty condition always holds. A feature is a
field of ``Features`` or ``score``, the sum of the points; a threshold is a field of ``ValuePolicy`` or a whole number.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Days = Annotated[int, Field(ge=0, le=365)]
Money = Annotated[int, Field(ge=0, le=10**18)]
Points = Annotated[int, Field(ge=3, le=10)]

_YUAN = 1_000_000


class ValuePolicy(BaseModel):
    """Every threshold of the rule; immutable. Money is in millionths of a yuan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_days: int = Field(30, ge=1, le=180, description="Days, today included, over which a fan's days are counted")
    recency_high_days: Days = Field(3, description="Acted at most so many days ago: 3 points for recency")
    recency_middle_days: Days = Field(14, description="Acted at most so many days ago: 2 points, else 1")
    frequency_high_days: Days = Field(
        12, description="At least so many active days in the window: 3 points for frequency"
    )
    frequency_middle_days: Days = Field(3, description="At least so many active days: 2 points, else 1")
    money_high_micros: Money = Field(300 * _YUAN, description="Contribution of at least so much: 3 points for money")
    money_middle_micros: Money = Field(30 * _YUAN, description="Contribution of at least so much: 2 points, else 1")
    tier_high_score: Points = Field(8, description="At least so many of the 9 points: tier high")
    tier_middle_score: Points = Field(5, description="At least so many points: tier middle, else low")
    high_value_micros: Money = Field(1000 * _YUAN, description="Contribution of at least so much: tag high_value")
    potential_active_days: Days = Field(8, description="At least so many active days in the window, and ...")
    potential_below_micros: Money = Field(30 * _YUAN, description="... a contribution below this: tag potential")
    iron_tenure_days: int = Field(30, ge=0, le=10_000, description="First acted at least so many days ago, and ...")
    iron_active_days: Days = Field(12, description="... at least so many active days in the window, and ...")
    iron_interactions: int = Field(60, ge=0, le=1_000_000, description="... so many interactions in it: tag iron")
    badge_micros: tuple[Annotated[int, Field(ge=1, le=10**18)], ...] = Field(
        tuple(yuan * _YUAN for yuan in (1, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)),
        max_length=100,
        description="Contributions, rising, from which a badge has level 1, 2, 3 ...",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for lower, higher in (
            ("recency_high_days", "recency_middle_days"),
            ("recency_middle_days", "window_days"),
            ("frequency_middle_days", "frequency_high_days"),
            ("money_middle_micros", "money_high_micros"),
            ("tier_middle_score", "tier_high_score"),
        ):
            if getattr(self, lower) > getattr(self, higher):
                raise PydanticCustomError("fanpulse", f"{lower} must not be above {higher}")
        if any(after <= before for before, after in zip(self.badge_micros, self.badge_micros[1:], strict=False)):
            raise PydanticCustomError("fanpulse", "badge_micros must rise")
        return self

    def __str__(self) -> str:
        """What to write into ``FANPULSE_VALUE_POLICY``: the thresholds that are not the default, as JSON."""
        return self.model_dump_json(exclude_defaults=True)


@dataclass(frozen=True)
class Features:
    """What the rule looks at, of a fan of a creator at the end of a local day.

    ``recency_days`` and ``tenure_days`` since the last and the first day with an action; ``active_days`` and
    ``interactions`` in the last ``window_days``; ``money_micros`` contributed up to then; ``staying``: 1 if the last
    action is less than the active interval ago and no unfollow is as late as it.
    """

    recency_days: int
    active_days: int
    interactions: int
    money_micros: int
    tenure_days: int
    staying: int


@dataclass(frozen=True)
class Value:
    """Tier, tags in alphabetical order, and the points that the tier follows from."""

    tier: str
    tags: tuple[str, ...]
    recency_score: int
    frequency_score: int
    money_score: int


def classify(features: Features, policy: ValuePolicy) -> Value:
    """Tier and tags of a fan."""
    known: dict[str, float | None] = {**policy.model_dump(exclude={"badge_micros"}), **asdict(features)}
    scores = {name: int(_first(lines, known)) for name, lines in rule()["scores"].items()}
    known |= scores | {"score": sum(scores.values())}
    tags = tuple(tag for tag, conditions in sorted(rule()["tags"].items()) if all(holds(c, known) for c in conditions))
    return Value(_first(rule()["tiers"], known), tags, **scores)


def expressions(policy: ValuePolicy) -> dict[str, str]:
    """The same in SQL: an expression over columns named like ``Features`` for each field of ``Value``."""
    known = {name: str(value) for name, value in policy.model_dump(exclude={"badge_micros"}).items()}
    scores = {name: f"toUInt8({_cases(lines, known)})" for name, lines in rule()["scores"].items()}
    known["score"] = "(" + " + ".join(scores.values()) + ")"
    tags = ", ".join(
        f"if({' AND '.join(_sql(c, known) for c in conditions)}, '{tag}', '')"
        for tag, conditions in sorted(rule()["tags"].items())
    )
    quoted = {f"'{tier}'": condition for tier, condition in rule()["tiers"].items()}
    return {"tier": _cases(quoted, known), "tags": f"arrayFilter(tag -> tag != '', [{tags}])", **scores}


def holds(condition: str, known: Mapping[str, float | None]) -> bool:
    """Whether ``name operator name`` or ``name operator number`` is true of known numbers; of None nothing is."""
    if not condition:
        return True
    left, sign, right = _parts(condition)
    number = _number(right)
    one, other = known[left], known[right] if number is None else number
    return one is not None and other is not None and _OPERATORS[sign](one, other)


@cache
def rule() -> dict[str, Any]:
    """``value.json``."""
    found: dict[str, Any] = json.loads(files("schemas").joinpath("value.json").read_text(encoding="utf-8"))
    return found


_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def _parts(condition: str) -> tuple[str, str, str]:
    left, sign, right = condition.split()
    if sign not in _OPERATORS:
        raise ValueError(f"value.json: {condition!r} has no known operator")
    return left, sign, right


def _number(text: str) -> float | None:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+\.\d+", text) else None


def _first(lines: Mapping[str, str], known: Mapping[str, float | None]) -> str:
    return next(result for result, condition in lines.items() if holds(condition, known))


def _sql(condition: str, known: Mapping[str, str]) -> str:
    left, sign, right = _parts(condition)
    return f"{known.get(left, left)} {sign} {known.get(right, right)}"


def _cases(lines: Mapping[str, str], known: Mapping[str, str]) -> str:
    *cases, last = lines.items()
    return "multiIf(" + ", ".join([*(f"{_sql(c, known)}, {result}" for result, c in cases), last[0]]) + ")"
