"""Budget rules and the campaigns that they act on: what may be written, and what contradicts itself.

A rule is written as text with units (``12.50 yuan``, ``20%``, ``6 hours``), and reads back so; inside, money is micros,
a rate millionths, a step basis points. ``schemas/rule_files.py`` reads files, docs/rules.md explains them.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_serializer,
    model_validator,
)

from schemas.events import EventTime, Id, Label, Platform
from schemas.quantities import Length, length, money, percent, refused, show_money, show_ms, show_percent

Mode = Literal["dry_run", "notify", "act"]
Level = Literal["campaign", "ad_group"]
Kind = Literal["budget", "bid", "pause", "resume"]
State = Literal["active", "paused", "ended"]
Operator = Literal["<", "<=", ">", ">=", "="]
Measure = Literal["count", "money", "rate"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

FULL = 10_000
"""100 % in basis points."""
MILLION = 1_000_000
"""100 % in millionths."""
LONGEST_DAYS = 31
"""Longest window with what it leaves out."""
TARGET_CPA = "target_cpa"
"""Rule id under which bids that move towards a target are decided; no rule has it."""


@dataclass(frozen=True)
class Metric:
    """What can be compared. ``measure``: of what it is, so in which unit it is written. ``of_window``: a figure of the
    window, and not a setting of the campaign."""

    measure: Measure
    formula: str
    of_window: bool = True


METRICS: dict[str, Metric] = {
    "impressions": Metric("count", "impressions of the window"),
    "clicks": Metric("count", "clicks of the window"),
    "plays": Metric("count", "plays of the window"),
    "conversions": Metric("count", "conversions of the window"),
    "spend": Metric("money", "cost of the window"),
    "conversion_value": Metric("money", "value that the conversions of the window carry"),
    "cpm": Metric("money", "1000 x spend / impressions"),
    "cpc": Metric("money", "spend / clicks"),
    "cpa": Metric("money", "spend / conversions"),
    "ctr": Metric("rate", "clicks / impressions"),
    "cvr": Metric("rate", "conversions / clicks"),
    "roas": Metric("rate", "conversion_value / spend"),
    "roi": Metric("rate", "(conversion_value - spend) / spend"),
    "daily_budget": Metric("money", "daily budget at the end of the window", False),
    "bid": Metric("money", "bid at the end of the window", False),
    "target_cpa": Metric("money", "cost per conversion that the campaign aims at", False),
}
"""Metrics by name. A quotient of which the divisor is 0 has no figure: nothing is true of it."""

T = TypeVar("T")


def _whole(least: int, most: int) -> Any:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refused(f"`{value}` is no whole number")
        if not least <= value <= most:
            raise refused(f"`{value}` must be from {least:,} to {most:,}")
        return value

    return BeforeValidator(check)


def _plural(value: Any) -> Any:
    """A list with something in it, each once; a lone value is a list of one."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise refused("is empty; name something, or leave it out")
    if len({str(each) for each in values}) < len(values):
        raise refused("names something twice")
    return tuple(values)


def _as_money(micros: int | None) -> str | None:
    return None if micros is None else f"{micros} micros"


def _as_step(points: int | None) -> str | None:
    return None if points is None else show_percent(points, 2, "+").replace(",", "")


def _as_share(points: int | None) -> str | None:
    return None if points is None else show_percent(points, 2).replace(",", "")


def _as_time(ms: int | None) -> str | None:
    return None if ms is None else show_ms(ms)


def _step(value: Any) -> int:
    points = percent(value, 2)
    if not -90 * 100 <= points <= 100 * 100 or points == 0:
        raise refused(f"`{value}` must be from -90% to +100%, and not 0; write it like `+20%` or `-15%`")
    return points


def _share(value: Any) -> int:
    points = percent(value, 2)
    if not 0 < points <= 1000 * 100:
        raise refused(f"`{value}` must be above 0% and at most 1000%")
    return points


Money = Annotated[int, BeforeValidator(money), PlainSerializer(_as_money)]
"""Micros; written ``12.50 yuan`` or ``12500000 micros``."""
Step = Annotated[int, BeforeValidator(_step), PlainSerializer(_as_step)]
"""Basis points, with a sign; written ``+20%``."""
Share = Annotated[int, BeforeValidator(_share), PlainSerializer(_as_share)]
"""Basis points; written ``50%``."""
Time = Annotated[int, BeforeValidator(lambda value: length(value).ms), PlainSerializer(_as_time)]
"""Milliseconds; written ``6 hours``."""
Span = Annotated[Length, BeforeValidator(length), PlainSerializer(str)]
"""A number of minutes, hours or days; written ``6 hours``."""
Several = Annotated[tuple[T, ...], BeforeValidator(_plural)]
"""A list with something in it; a lone value is a list of one."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Condition(_Frozen):
    """A comparison, written ``cpm < 12.50 yuan``, ``cpa > target_cpa`` or ``spend >= 80% of daily_budget``.

    Its right side is ``value`` (a count, micros, or millionths: the unit of the metric), or ``share`` basis points of
    ``other``.
    """

    metric: str
    operator: Operator
    value: int = 0
    other: str | None = None
    share: int = FULL

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return _parse(value)

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.metric} {self.operator} {self._right()}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it looks at."""
        return (self.metric,) if self.other is None else (self.metric, self.other)

    def _right(self) -> str:
        if self.other is not None:
            return self.other if self.share == FULL else f"{show_percent(self.share, 2)} of {self.other}"
        return show(self.metric, self.value)


def show(metric: str, value: int) -> str:
    """A figure of a metric as it is written: ``12.50 yuan``, ``2.5%``, ``1,200``."""
    match METRICS[metric].measure:
        case "money":
            return show_money(value)
        case "rate":
            return show_percent(value, 4)
        case _:
            return f"{value:,}"


_CONDITION = re.compile(r"(\S+?)\s*(<=|>=|==|!=|<|>|=)\s*(.+)")
_OF = re.compile(r"(.+?%)\s*of\s+(\S+)")
_EXAMPLES = {"count": "100", "money": "12.50 yuan", "rate": "2.5%"}


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise refused(f"`{text}` is no condition; write it like `cpm < 12.50 yuan`")
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise refused(f"`{text}` is no condition; write it like `cpm < 12.50 yuan`")
    metric, operator, right = found.groups()
    measure = _metric(metric).measure
    if operator in ("==", "!="):
        raise refused(f"`{operator}` is no comparison here; write <, <=, > or >=, or = with a count")
    if operator == "=" and measure != "count":
        raise refused(f"{metric} is hardly ever equal to anything: write <, <=, > or >=; = is for counts")
    of = _OF.fullmatch(right)
    if of or re.fullmatch(r"[A-Za-z_]\w*", right):
        share, other = of.groups() if of else ("100%", right)
        if _metric(other).measure != measure:
            raise refused(f"{metric} and {other} are not of one kind: a {measure} and a {METRICS[other].measure}")
        if other == metric:
            raise refused(f"{metric} is compared with itself; name a value, or another metric")
        return {"metric": metric, "operator": operator, "other": other, "share": _share(share)}
    return {"metric": metric, "operator": operator, "value": _value(metric, measure, right)}


def _metric(name: str) -> Metric:
    if name not in METRICS:
        near = difflib.get_close_matches(name.lower(), METRICS, n=1, cutoff=0.0)[0]
        raise refused(f"there is no metric `{name}`; did you mean {near}? There are {', '.join(METRICS)}")
    return METRICS[name]


def _value(metric: str, measure: Measure, text: str) -> int:
    if measure == "money":
        return money(text) if not text.isdecimal() else money(int(text))
    if measure == "rate":
        value = percent(int(text) if text.isdecimal() else text, 4)
        if value < 0 and metric != "roi":
            raise refused(f"{metric} is never below 0%")
        return value
    if not re.fullmatch(r"\d{1,3}(,\d{3})+|\d+", text):
        raise refused(f"`{text}` is no whole number, and {metric} is a count; write it like `{metric} > 100`")
    return int(text.replace(",", ""))


class Scope(_Frozen):
    """Which campaigns or ad groups a rule is for: all that every given list names."""

    platforms: Several[Platform] | None = Field(None, examples=["[douyin]"], description="Platforms")
    creators: Several[Id] | None = Field(None, examples=["[dy_food_027]"], description="Creators advertised")
    campaigns: Several[Id] | None = Field(None, examples=["[cmp_027_1]"], description="Campaigns")
    ad_groups: Several[Id] | None = Field(
        None, examples=["[ag_027_1_2]"], description="Ad groups; only at level ad_group"
    )


class Window(_Frozen):
    """The closed window that a rule looks at: the last whole minutes, local hours or local days, after which one ends.

    One of minutes closes at every minute, one of hours at every full local hour, one of days at local midnight.
    """

    last: Span = Field(examples=["6 hours"], description="Length; its unit says how often the rule is evaluated")
    skip: Span | None = Field(
        None, examples=["1 hour"], description="Newest part left out, as conversions come late; in the same unit"
    )

    @model_validator(mode="after")
    def _closes(self) -> Self:
        if self.last.number == 0:
            raise refused("last: a window of no length never closes; write it like `6 hours`")
        if self.skip is not None and self.skip.unit != self.last.unit:
            raise refused(f"skip: {self.skip} is in another unit than {self.last}; write it in {self.last.unit}s")
        if self.last.unit == "minute" and self.ms > 86_400_000:
            raise refused("last: window and skip are longer than a day together; write them in hours")
        if self.ms > LONGEST_DAYS * 86_400_000:
            raise refused(f"last: window and skip are longer than {LONGEST_DAYS} days together")
        return self

    @property
    def ms(self) -> int:
        """From the start of the window until it is evaluated, milliseconds; a day has 24 hours."""
        return self.last.ms + (self.skip.ms if self.skip is not None else 0)


class Guards(_Frozen):
    """What must be there before the conditions say anything."""

    impressions: Annotated[int, _whole(0, 10**12)] = Field(
        0, examples=["1000"], description="Impressions of the window, at least"
    )
    spend: Money = Field(0, examples=["50 yuan"], description="Cost of the window, at least")
    conversions: Annotated[int, _whole(0, 10**12)] = Field(
        0, examples=["5"], description="Conversions of the window, at least"
    )
    age: Time = Field(0, examples=["2 days"], description="Time since the campaign or ad group was made, at least")
    staleness: Time | None = Field(
        None, examples=["15 minutes"], description="Time from the end of the window to its evaluation, at most"
    )


class Action(_Frozen):
    """What a firing does: a step of the daily budget or the bid, within bounds, or a pause, or its end."""

    do: Kind = Field(examples=["budget"], description="budget, bid, pause or resume")
    by: Step | None = Field(None, examples=["+20%"], description="Step of a budget or bid, of what it is")
    ceiling: Money | None = Field(None, examples=["5000 yuan"], description="A raise goes no higher")
    floor: Money | None = Field(None, examples=["100 yuan"], description="A cut goes no lower")
    daily_cap: Share | None = Field(
        None,
        examples=["50%"],
        description="Most that the rule changes in a local day, of what it was before the first change",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.do in ("pause", "resume"):
            for name in ("by", "ceiling", "floor", "daily_cap"):
                if getattr(self, name) is not None:
                    raise refused(f"{name}: a {self.do} has no step; leave {name} out, or write `do: budget`")
            return self
        if self.by is None:
            raise refused(f"by: is missing: by how much the {self.do} changes; write it like `by: +20%`")
        if self.by > 0 and self.ceiling is None:
            raise refused(
                f"ceiling: is missing: how high a {self.do} may be raised; write it like `ceiling: 5000 yuan`"
            )
        if self.by < 0 and self.floor is None:
            raise refused(f"floor: is missing: how low a {self.do} may be cut; write it like `floor: 100 yuan`")
        if self.floor is not None and self.ceiling is not None and self.floor > self.ceiling:
            raise refused(f"floor: {show_money(self.floor)} is above the ceiling, {show_money(self.ceiling)}")
        if self.daily_cap is not None and self.daily_cap < abs(self.by):
            raise refused(
                f"daily_cap: {show_percent(self.daily_cap, 2)} is below a step, {show_percent(self.by, 2, '+')}, "
                f"so none is ever taken whole; write at least `daily_cap: {show_percent(abs(self.by), 2)}`"
            )
        return self


class Hours(_Frozen):
    """A part of the local day, minutes since midnight; the end is not in it. May go over midnight."""

    begin: int
    end: int

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        found = re.fullmatch(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", value.strip()) if isinstance(value, str) else None
        times = [int(part) for part in found.groups()] if found else []
        if not times or times[0] > 23 or times[1] > 59 or times[3] > 59 or times[2] * 60 + times[3] > 1440:
            raise refused(f"`{value}` is no part of a day; write it like `08:00-23:00`")
        begin, end = times[0] * 60 + times[1], times[2] * 60 + times[3]
        if begin == end:
            raise refused(f"`{value}` has no length; write it like `08:00-23:00`, or leave it out for the whole day")
        return {"begin": begin, "end": end}

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.begin // 60:02}:{self.begin % 60:02}-{self.end // 60:02}:{self.end % 60:02}"

    def has(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise refused(f"`{name}` is no time zone; write it like `Asia/Shanghai`") from None
    return name


class Schedule(_Frozen):
    """When windows that close may fire, in local time; and whose days a day is."""

    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        "Asia/Shanghai", examples=["Asia/Shanghai"], description="Time zone of hours, days and daily limits"
    )
    days: Several[Weekday] | None = Field(None, examples=["[mon, tue, wed, thu, fri]"], description="Days of the week")
    hours: Hours | None = Field(None, examples=["08:00-23:00"], description="Part of the day")


class Rule(_Frozen):
    """A budget rule: where all groups of ``when`` hold, any condition of each, for a closed window of an entity.

    Raises:
        pydantic.ValidationError: a field is malformed, or the rule contradicts itself.
    """

    id: Id = Field(examples=["cheap-clicks"], description="Identifier, once in a file")
    version: Annotated[int, _whole(1, 2**31)] = Field(1, examples=["2"], description="Raised at every change")
    name: Label = Field(examples=["Raise what is cheap"], description="Name that people read")
    owner: Label = Field(examples=["lin"], description="Who answers for it")
    mode: Mode = Field(
        "dry_run", examples=["dry_run"], description="dry_run: only says what it would do; notify: tells; act: does it"
    )
    level: Level = Field(examples=["campaign"], description="What it is evaluated for: campaign or ad_group")
    scope: Scope = Field(default_factory=Scope, examples=["{platforms: [douyin]}"], description="Which of them")
    when: tuple[tuple[Condition, ...], ...] = Field(
        examples=["[cpm < 12.50 yuan]"], description="Conditions that must all hold; `any:` begins a list of choices"
    )
    window: Window = Field(examples=["{last: 6 hours}"], description="What it looks at")
    guards: Guards = Field(default_factory=Guards, examples=["{impressions: 1000}"], description="What must be there")
    hysteresis: Share | None = Field(
        None,
        examples=["10%"],
        description="After a firing it is armed again once conditions fail with thresholds so much easier; "
        "without it, it stays armed",
    )
    cool_down: Time = Field(0, examples=["7 hours"], description="Rest of an entity after a firing")
    most_per_day: Annotated[int, _whole(1, 1440)] = Field(
        3, examples=["3"], description="Most firings of an entity in a local day"
    )
    action: Action = Field(examples=["{do: pause}"], description="What it does")
    priority: Annotated[int, _whole(-1000, 1000)] = Field(
        0, examples=["10"], description="Of two that want the same, the higher one does it; then the lower id"
    )
    schedule: Schedule = Field(default_factory=Schedule, examples=["{hours: 08:00-23:00}"], description="When")
    notify: Several[Label] | None = Field(None, examples=["[ads-ops]"], description="Who is told")

    @field_validator("id")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == TARGET_CPA:
            raise refused(f"`{value}` is the name of bidding towards a target (docs/bidding.md); write another one")
        return value

    @field_validator("when", mode="before")
    @classmethod
    def _groups(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not value:
            raise refused("must be a list of conditions; write a line like `- cpm < 12.50 yuan` for each")
        return tuple(_group(number, each) for number, each in enumerate(value))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.level == "campaign" and self.scope.ad_groups is not None:
            raise refused("scope.ad_groups: the rule is for campaigns; write `level: ad_group`, or leave it out")
        if self.mode == "notify" and self.notify is None:
            raise refused(
                "notify: is missing: the mode is notify and nobody is told; write it like `notify: [ads-ops]`"
            )
        self._never_twice()
        self._possible()
        if not _closes_within(self.window, self.schedule):
            raise refused(
                f"schedule.hours: a window of {self.window.last} never closes within {self.schedule.hours}; "
                f"one closes at every {_CLOSING[self.window.last.unit]}"
            )
        return self

    def _never_twice(self) -> None:
        """Steps decided on figures from before the last step would add up."""
        if self.action.by is None or self.cool_down >= self.window.ms:
            return
        skipped = f", {self.window.skip} left out" if self.window.skip is not None else ""
        raise refused(
            f"cool_down: {show_ms(self.cool_down)} is shorter than the window ({self.window.last}{skipped}): figures "
            "from before a step would decide on the next one, too; "
            f"write at least `cool_down: {show_ms(self.window.ms)}`"
        )

    def _possible(self) -> None:
        """Refuses bounds of one metric that leave nothing between them."""
        low = {name: _Bound(0, False, f"{name} is never below 0") for name in METRICS if name != "roi"}
        for name in ("impressions", "spend", "conversions"):
            if least := getattr(self.guards, name):
                low[name] = _Bound(least, False, f"the guard wants {show(name, least)}")
        high: dict[str, _Bound] = {}
        for number, (each, *choices) in enumerate(self.when):
            if choices or each.other is not None:
                continue
            bound, name = _Bound(each.value, each.operator in ("<", ">"), f"`{each}`", number), each.metric
            if each.operator in (">", ">=", "=") and (name not in low or bound[:2] >= low[name][:2]):
                low[name] = bound
            if each.operator in ("<", "<=", "=") and (name not in high or bound.tighter(high[name])):
                high[name] = bound
        for name, upper in high.items():
            lower = low.get(name)
            if lower and (lower.value > upper.value or (lower.value == upper.value and (lower.open or upper.open))):
                raise refused(f"when.{upper.group}: {upper.said} can never hold: {lower.said}; change one of them")


class _Bound(NamedTuple):
    """A bound of a metric; ``open``: it is not among the values within. ``said``: whence it is; ``group``: which."""

    value: int
    open: bool
    said: str
    group: int = 0

    def tighter(self, other: "_Bound") -> bool:
        """Whether an upper bound leaves no more than another one."""
        return (self.value, not self.open) <= (other.value, not other.open)


def _group(number: int, value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        if set(value) != {"any"} or not isinstance(value["any"], list | tuple) or not value["any"]:
            raise refused(f"{number}: a group of choices is written `any:` with a list of conditions, and nothing else")
        return tuple(value["any"])
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_CLOSING = {"minute": "minute", "hour": "full local hour", "day": "local midnight"}


def _closes_within(window: Window, schedule: Schedule) -> bool:
    if schedule.hours is None or window.last.unit == "minute":
        return True
    closings = range(0, 1440, 60) if window.last.unit == "hour" else (0,)
    return any(schedule.hours.has(minute) for minute in closings)


class Bidding(_Frozen):
    """How the bid of a campaign or ad group moves towards its target cost per conversion (docs/bidding.md).

    Raises:
        pydantic.ValidationError: a field is malformed, or they contradict one another.
    """

    version: Annotated[int, _whole(1, 2**31)] = Field(1, examples=["2"], description="Raised at every change")
    mode: Literal["dry_run", "act"] = Field(
        "dry_run", examples=["act"], description="dry_run: only says what it would do; act: does it"
    )
    window: Window = Field(examples=["{last: 6 hours, skip: 1 hour}"], description="What it looks at")
    floor: Money = Field(examples=["0.20 yuan"], description="The bid goes no lower")
    ceiling: Money = Field(examples=["5 yuan"], description="The bid goes no higher")
    conversions: Annotated[int, _whole(1, 10**9)] = Field(
        10, examples=["10"], description="Conversions of the window, or their target cost spent, at least"
    )
    most_step: Share = Field(1000, examples=["10%"], description="Most that the bid changes at once, of what it is")
    dead_band: Share = Field(500, examples=["5%"], description="So near to the target the bid stays")
    cool_down: Time | None = Field(
        None, examples=["7 hours"], description="Rest after any change of the bid; left out: the window with its skip"
    )
    staleness: Time | None = Field(
        None, examples=["15 minutes"], description="Time from the end of the window to its evaluation, at most"
    )
    schedule: Schedule = Field(default_factory=Schedule, examples=["{hours: 08:00-23:00}"], description="When")

    @property
    def rest(self) -> int:
        """From a change of the bid to the next one at least, milliseconds."""
        return self.window.ms if self.cool_down is None else self.cool_down

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.floor > self.ceiling:
            raise refused(f"floor: {show_money(self.floor)} is above the ceiling, {show_money(self.ceiling)}")
        if self.floor == 0:
            raise refused("floor: a bid of 0.00 yuan never rises again; write it like `floor: 0.20 yuan`")
        if self.most_step > FULL // 2:
            raise refused(
                f"most_step: {show_percent(self.most_step, 2)} is more than half of the bid; write at most 50%"
            )
        if self.dead_band >= FULL:
            raise refused(f"dead_band: {show_percent(self.dead_band, 2)} never lets a bid rise; write it like `5%`")
        if self.rest < self.window.ms:
            raise refused(
                f"cool_down: {show_ms(self.rest)} is shorter than the window with what it leaves out, "
                f"{show_ms(self.window.ms)}: figures from before a change would decide on the next one, too; "
                "leave it out"
            )
        if not _closes_within(self.window, self.schedule):
            raise refused(
                f"schedule.hours: a window of {self.window.last} never closes within {self.schedule.hours}; "
                f"one closes at every {_CLOSING[self.window.last.unit]}"
            )
        return self


class AdGroup(_Frozen):
    """An ad group of a campaign, as the market has it. Without a daily budget or bid of its own the campaign's hold."""

    ad_group_id: Id = Field(examples=["ag_027_1_2"], description="Ad group")
    state: State = Field("active", examples=["active"], description="Whether it may spend")
    daily_budget: Money | None = Field(None, examples=["100 yuan"], description="Most to spend a local day")
    bid: Money | None = Field(None, examples=["0.80 yuan"], description="Bid")
    target_cpa: Money | None = Field(None, examples=["20 yuan"], description="Cost per conversion to aim at")
    created_at: EventTime | None = Field(None, examples=["1767225600000"], description="When it was made, UTC ms")
    bidding: Bidding | None = Field(
        None,
        examples=["{window: {last: 6 hours}, floor: 0.20 yuan, ceiling: 5 yuan}"],
        description="How its own bid moves, if not as the campaign says",
    )


class Campaign(_Frozen):
    """An advertising campaign, as the market has it."""

    campaign_id: Id = Field(examples=["cmp_027_1"], description="Campaign")
    platform: Platform = Field(examples=["douyin"], description="Platform it runs on")
    creator_id: Id = Field(examples=["dy_food_027"], description="Creator it advertises")
    state: State = Field("active", examples=["active"], description="Whether it may spend")
    daily_budget: Money | None = Field(None, examples=["300 yuan"], description="Most to spend a local day")
    total_budget: Money | None = Field(None, examples=["9000 yuan"], description="Most to spend in all")
    bid: Money | None = Field(None, examples=["0.80 yuan"], description="Bid")
    target_cpa: Money | None = Field(None, examples=["20 yuan"], description="Cost per conversion to aim at")
    created_at: EventTime | None = Field(None, examples=["1767225600000"], description="When it was made, UTC ms")
    bidding: Bidding | None = Field(
        None,
        examples=["{window: {last: 6 hours}, floor: 0.20 yuan, ceiling: 5 yuan}"],
        description="How bids move towards the target: its own, and those of its ad groups",
    )
    ad_groups: tuple[AdGroup, ...] = Field((), description="Its ad groups")

    @field_validator("ad_groups", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.daily_budget is not None and self.total_budget is not None and self.daily_budget > self.total_budget:
            raise refused(
                f"daily_budget: {show_money(self.daily_budget)} is above the total budget, "
                f"{show_money(self.total_budget)}"
            )
        ids = [each.ad_group_id for each in self.ad_groups]
        if len(set(ids)) < len(ids):
            raise refused("ad_groups: an ad group is there twice")
        self._steered()
        return self

    def _steered(self) -> None:
        """Refuses bidding that has no bid to move, no target, or bounds that the bid is beyond."""
        if self.bidding is not None and self.bid is None and all(group.bid is None for group in self.ad_groups):
            raise refused("bidding: there is no bid to move; write it like `bid: 0.80 yuan`")
        if self.bidding is not None and self.bid is not None:
            _steers("", self.bidding, self.bid, self.target_cpa)
        for number, group in enumerate(self.ad_groups):
            place = f"ad_groups.{number}."
            if group.bidding is not None and group.bid is None:
                raise refused(
                    f"{place}bidding: the ad group has no bid of its own to move; write it like `bid: 1 yuan`"
                )
            bidding = group.bidding or self.bidding
            if bidding is not None and group.bid is not None:
                target = self.target_cpa if group.target_cpa is None else group.target_cpa
                _steers(place, bidding, group.bid, target)


def _steers(place: str, bidding: Bidding, bid: int, target: int | None) -> None:
    if not target:
        raise refused(f"{place}target_cpa: bidding has no target to move to; write it like `target_cpa: 20 yuan`")
    if not bidding.floor <= bid <= bidding.ceiling:
        raise refused(
            f"{place}bid: {show_money(bid)} is not from {show_money(bidding.floor)} to {show_money(bidding.ceiling)}, "
            "the floor and ceiling of its bidding; change one of them"
        )


def sentence(rule: Rule) -> str:
    """The rule as one sentence, that says all that it does."""
    conditions = " and ".join(_choices(group) for group in rule.when)
    skip = f", without the newest {_long(rule.window.skip)}," if rule.window.skip else ""
    parts = [
        f"{_EVERY[rule.window.last.unit]}{_when(rule.schedule)}, for {_whom(rule)}:",
        f"if over the last {_long(rule.window.last)}{skip} {conditions}{_guarded(rule.guards)}, {_does(rule)}",
    ]
    limits = [f"at most {_times(rule.most_per_day)} a day"]
    if rule.cool_down:
        limits.append(f"then rest {show_ms(rule.cool_down)}")
    if rule.hysteresis is not None:
        limits.append(f"and not again before the conditions have failed by {show_percent(rule.hysteresis, 2)}")
    said = " ".join(parts) + "; " + ", ".join(limits)
    if rule.notify is not None:
        said += f"; tell {_and(rule.notify)}"
    return f"{said}. {_MODES[rule.mode]}"


_EVERY = {"minute": "Every minute", "hour": "Every full hour", "day": "Every midnight"}
_MODES = {
    "dry_run": "Dry run: it only says what it would do.",
    "notify": "It tells and does nothing.",
    "act": "It acts.",
}


def _choices(group: Sequence[Condition]) -> str:
    said = " or ".join(_said(each) for each in group)
    return f"({said})" if len(group) > 1 else said


_NAMES = {name: name.upper() for name in ("cpm", "cpc", "cpa", "ctr", "cvr", "roas", "roi")} | {
    "daily_budget": "daily budget",
    "conversion_value": "conversion value",
    "target_cpa": "target CPA",
}


def _said(condition: Condition) -> str:
    words = str(condition).split()
    return " ".join(_NAMES.get(word, word) for word in words)


def _when(schedule: Schedule) -> str:
    said = ""
    if schedule.days is not None:
        said += f" on {_and([day.capitalize() for day in WEEKDAYS if day in (schedule.days or ())])}"
    if schedule.hours is not None:
        begin, end = str(schedule.hours).split("-")
        said += f" from {begin} to {end}"
    return f"{said} ({schedule.time_zone})"


def _whom(rule: Rule) -> str:
    many = {"campaign": "campaign", "ad_group": "ad group"}[rule.level]
    scope = rule.scope
    said = f"every {many}"
    named = scope.ad_groups if rule.level == "ad_group" else scope.campaigns
    if named is not None:
        said = f"{many} {_or(named)}"
    if rule.level == "ad_group" and scope.campaigns is not None:
        said += f" of campaign {_or(scope.campaigns)}"
    if scope.creators is not None:
        said += f" of {_or(scope.creators)}"
    return said + (f" on {_or(scope.platforms)}" if scope.platforms is not None else "")


def _guarded(guards: Guards) -> str:
    wants = []
    if guards.impressions:
        wants.append(f"{guards.impressions:,} impressions")
    if guards.conversions:
        wants.append(f"{guards.conversions:,} conversions")
    if guards.spend:
        wants.append(f"{show_money(guards.spend)} spent")
    if guards.age:
        wants.append(f"an age of {show_ms(guards.age)}")
    said = f", given at least {_and(wants)}" if wants else ""
    return said + (f", no later than {show_ms(guards.staleness)}" if guards.staleness is not None else "")


def _does(rule: Rule) -> str:
    action = rule.action
    if action.by is None:
        return f"{action.do} it"
    what = "the daily budget" if action.do == "budget" else "the bid"
    if action.by > 0 and action.ceiling is not None:
        said = f"raise {what} by {show_percent(action.by, 2)} up to {show_money(action.ceiling)}"
    else:
        said = f"cut {what} by {show_percent(-action.by, 2)} down to {show_money(action.floor or 0)}"
    return said + (f" and by at most {show_percent(action.daily_cap, 2)} a day" if action.daily_cap is not None else "")


def _long(length: Length) -> str:
    return str(length).removeprefix("1 ")


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
