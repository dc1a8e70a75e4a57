"""A/B tests over ad groups, as people write them into a file: what is compared, by what, and when it may speak."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.events import Platform
from schemas.quantities import money, percent, refused

Metric = Literal["ctr", "cvr", "roi"]


def _text(given: Any) -> Any:
    """Ids that are numbers need no quotes: a whole number of a file is written in one way only."""
    return str(given) if type(given) is int else given


def _day(given: Any) -> date:
    if isinstance(given, date):
        return given
    try:
        return date.fromisoformat(given)
    except (TypeError, ValueError):
        raise refused(f"`{given}` is no day; write it like `2026-03-01`") from None


Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=128)]
Day = Annotated[date, BeforeValidator(_day)]
Share = Annotated[float, BeforeValidator(lambda given: percent(given, 3) / 100_000)]


class Guards(BaseModel):
    """What every arm must have before its test says anything.

    Where ``conversions`` is not given, it is what ``pipeline.experiments.CONVERSIONS`` says of the metric. ``cost`` is
    in millionths of a yuan; in a file it has a unit: ``500 yuan``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(7, ge=3, le=365, strict=True)
    clicks: int = Field(1000, ge=0, le=10**12, strict=True)
    conversions: int | None = Field(None, ge=0, le=10**12, strict=True)
    cost: Annotated[int, BeforeValidator(money)] = 0


class Experiment(BaseModel):
    """An A/B test: arms are sets of ad groups of one platform, one of them the control.

    ``first`` and ``last`` (``from`` and ``to`` in a file) are local days, both in; without ``last`` it goes on.
    ``alpha`` is the share of tests without any difference that may ever say that there is one, however often they are
    looked at and however many arms they have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    name: Name
    platform: Platform
    metric: Metric
    first: Day = Field(alias="from")
    last: Day | None = Field(None, alias="to")
    arms: dict[str, tuple[Name, ...]]
    control: str
    alpha: Annotated[Share, Field(ge=0.001, le=0.2)] = 0.05
    guards: Guards = Guards()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.last is not None and (self.last - self.first).days + 1 < self.guards.days:
            raise refused(f"from {self.first} to {self.last} is shorter than the {self.guards.days} days of its guards")
        if not 2 <= len(self.arms) <= 20:
            raise refused("arms: there must be 2 to 20, the control among them")
        if self.control not in self.arms:
            raise refused(f"control: {self.control} is none of the arms {', '.join(self.arms)}")
        owner: dict[str, str] = {}
        for arm, groups in self.arms.items():
            if not groups:
                raise refused(f"arms: {arm} has no ad group")
            for group in groups:
                if group in owner:
                    where = f"in {arm} twice" if owner[group] == arm else f"in both {owner[group]} and {arm}"
                    raise refused(f"arms: ad group {group} is {where}")
                owner[group] = arm
        return self

    @property
    def challengers(self) -> tuple[str, ...]:
        """Arms that are compared with the control, in the order of the file."""
        return tuple(arm for arm in self.arms if arm != self.control)


class Experiments(BaseModel):
    """A file of tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiments: tuple[Experiment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Self:
        ids = [each.id for each in self.experiments]
        if twice := next((each for each in ids if ids.count(each) > 1), None):
            raise refused(f"experiments: the id {twice} is there twice")
        return self
