"""A/B tests over ad groups: figures with intervals, and verdicts that looking early does not make wrong.

Sums come in blocks, local days, of which each arm has one. A figure is a ratio of sums: CTR = clicks / impressions, CVR
= conversions / clicks, ROI = (conversion value - cost) / cost. An arm is compared with the control block by block, so
what moves both (weekday, season, a rush of buyers) falls out: the difference is that of Mantel and Haenszel, the
differences of the blocks weighted by d e / (d + e), where d and e are the denominators of the two.

An interval is one of a confidence sequence: with probability 1 - alpha the truth is in *all* of them, whenever and
however often somebody looks and whatever makes them stop. It is that of the anytime-valid t-test for a linear model: M.
Lindon, D. W. Ham, M. Tingley, I. Bojinov, "Anytime-Valid Linear Models and Regression Adjusted Causal Inference in
Randomized Experiments" (arXiv:2210.08589); for a mean alone H. Wang, A. Ramdas, "Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance" (arXiv:2310.03722). With x a block's numerator (or its share in the
difference), w its weight, X and W their sums over m blocks:

    figure = X / W        n = W^2 / sum w^2        c = u / (u + W)        k = (1 / (c alpha^2))^(1/n)
    v = the larger of sum (x - figure w)^2 / w / W and m sum (x - figure w)^2 / W^2
    interval = figure +- sqrt((k - 1) / (1 - c k) v), if c k < 1; otherwise there is none yet

u is a weight that is fixed before anything is said, that of an average day of the first days, as many as the guard
wants: an effect is looked for that is about as large as what chance makes of one day. In the papers n is m, and v the
first of the two. That is exact if a block deviates by 1 / sqrt(w), and too bold if all deviate alike and a few blocks
have most of the weight, as after a budget is raised. So of v the robust form is taken if it is larger, and n is Kish's
effective number: of so many equal blocks they have the weight.

What it assumes: that the people whom the ad groups of an arm are shown to differ by chance only; that what moves one
arm alone does so on one day only, not for days on end; that a day's difference is about normal or at least symmetric,
as that of some dozens of conversions is; and that weights do not tell what is to come. Hours are blocks, too, if what
moves one arm alone lasts no longer than an hour; nobody can promise that, so tests use days.

Of k challengers each is compared at alpha / k (Bonferroni), so alpha holds for all of them together. Money and counts
stay whole numbers up to the sums of a block; intervals are floats.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Literal, NamedTuple

from schemas.experiments import Experiment, Guards, Metric

Verdict = Literal["better", "worse", "no difference shown yet", "not enough data"]


@dataclass(frozen=True, slots=True)
class Sums:
    """What an arm had in a block, or in all: counts; money in millionths of a yuan."""

    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    cost_micros: int = 0
    conversion_value_micros: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Sums)))


class Ratio(NamedTuple):
    """How a figure is made of sums. ``least`` is the lowest that it can be."""

    formula: str
    numerator: Callable[[Sums], int]
    denominator: Callable[[Sums], int]
    least: float


RATIOS: dict[Metric, Ratio] = {
    "ctr": Ratio("clicks / impressions", lambda s: s.clicks, lambda s: s.impressions, 0.0),
    "cvr": Ratio("conversions / clicks", lambda s: s.conversions, lambda s: s.clicks, 0.0),
    "roi": Ratio(
        "(conversion value - cost) / cost",
        lambda s: s.conversion_value_micros - s.cost_micros,
        lambda s: s.cost_micros,
        -1.0,
    ),
}
"""Figures by metric."""

CONVERSIONS: dict[Metric, int] = {"ctr": 0, "cvr": 30, "roi": 200}
"""How many an arm must have where the guards do not say. Money is uneven: sums of few conversions are far from normal,
and an arm that has a tenth of the control's would be called worse too often."""


@dataclass(frozen=True, slots=True)
class Block:
    """The sums of a block by arm; an arm that is not there had nothing. ``day``: the local day that it is (part) of."""

    day: date
    sums: Mapping[str, Sums]


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends belong to it."""

    low: float
    high: float

    def meet(self, other: "Interval") -> "Interval":
        """What is in both; where there is nothing, ``low`` is above ``high``."""
        return Interval(max(self.low, other.low), min(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A guard that is not met: what it counts (as ``Guards`` names it), how much there is, and how much it wants."""

    of: str
    have: int
    want: int


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm over all blocks. ``days`` with a denominator; ``figure`` None without any; ``interval`` of the figure,
    None before the guards are met or while nothing can be said; it holds for this arm alone, at 1 - alpha."""

    name: str
    sums: Sums
    days: int
    figure: float | None
    interval: Interval | None
    lacks: tuple[Shortfall, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the control, over the blocks in which both ran.

    ``difference`` (arm - control) and ``interval`` as of the last day; ``narrowest`` is what all intervals since the
    guards were met have in common, and what the verdict follows from: it never widens, so a verdict stays. ``decided``
    is the day on which it was first due. ``changed``: intervals of different days have nothing in common, so the
    difference was not one and the same all the time; then none is shown.
    """

    arm: str
    difference: float | None
    interval: Interval | None
    narrowest: Interval | None
    verdict: Verdict
    decided: date | None
    changed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test comes to at the end of ``day`` (None: it has no block): arms in the order of the file, and each
    challenger against the control."""

    day: date | None
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]


def evaluate(experiment: Experiment, blocks: Iterable[Block]) -> Outcome:
    """What a test comes to.

    It is looked at at the end of every day, also of those long past: the outcome does not depend on who looked when. A
    numerator without a denominator (conversions of yesterday's clicks, on a day without any) belongs to the arm's last
    block that has one, or to its first.

    Args:
        experiment: the test.
        blocks: in the order of time; those of days outside the test are left out.
    """
    ratio = RATIOS[experiment.metric]
    arms = {name: _ArmSoFar(ratio, experiment.guards.days) for name in experiment.arms}
    pairs = {name: _PairSoFar(experiment.guards.days) for name in experiment.challengers}
    alpha = experiment.alpha / len(pairs)
    control = arms[experiment.control]
    day: date | None = None

    def look() -> None:
        short = _lacks(experiment, control)
        for name, pair in pairs.items():
            if day is not None and not short and not _lacks(experiment, arms[name]):
                pair.look(day, alpha)

    for number, block in enumerate(blocks):
        if block.day < experiment.first or (experiment.last is not None and block.day > experiment.last):
            continue
        if day is not None and block.day != day:
            look()
        day = block.day
        touched = {name: arm.add(number, day, block.sums.get(name, Sums())) for name, arm in arms.items()}
        for name, pair in pairs.items():
            for changed in {touched[name], touched[experiment.control]}:
                if changed is not None:
                    pair.put(changed, arms[name], control)
    look()
    return Outcome(
        day,
        tuple(_arm(experiment, name, arm, ratio) for name, arm in arms.items()),
        tuple(pair.comparison(name) for name, pair in pairs.items()),
    )


@dataclass(slots=True)
class Totals:
    """Sums over blocks: how many, of w, x, x^2 / w, x^2, x w and w^2."""

    count: int = 0
    weight: float = 0.0
    total: float = 0.0
    shares: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    weights: float = 0.0


def interval(totals: Totals, unit: float, alpha: float) -> Interval | None:
    """The interval of the confidence sequence at this time, or None while nothing can be said: the blocks are too few,
    or do not differ at all.

    Args:
        totals: of the blocks.
        unit: weight u, the same at all times.
        alpha: probability that the truth is ever outside.
    """
    weight, figure = totals.weight, totals.total / totals.weight
    by_weight = totals.shares - figure * totals.total
    alike = totals.squares - 2 * figure * totals.products + figure**2 * totals.weights
    # Blocks that do not differ leave only what rounding makes: of chance they say nothing.
    if totals.count < 2 or by_weight <= 1e-12 * totals.shares:
        return None
    c = unit / (unit + weight)
    k = (c * alpha**2) ** (-totals.weights / weight**2)
    if c * k >= 1:
        return None
    half = math.sqrt((k - 1) / (1 - c * k) * max(by_weight / weight, totals.count * alike / weight**2))
    return Interval(figure - half, figure + half)


class _Fit:
    """Totals of blocks that come one after the other, whose x may still change; and the weight of their first days."""

    def __init__(self, first_days: int) -> None:
        self.totals = Totals()
        self._first_days = first_days
        self._blocks: dict[int, float] = {}
        self._days: dict[date, float] = {}

    def put(self, number: int, day: date, x: float, weight: float) -> None:
        """Takes a block, or another x of one; its weight stays."""
        before = self._blocks.get(number)
        if before is None:
            self.totals.count += 1
            self.totals.weight += weight
            self.totals.weights += weight**2
            if day in self._days or len(self._days) < self._first_days:
                self._days[day] = self._days.get(day, 0.0) + weight
            before = 0.0
        self._blocks[number] = x
        self.totals.total += x - before
        self.totals.shares += (x**2 - before**2) / weight
        self.totals.squares += x**2 - before**2
        self.totals.products += (x - before) * weight

    @property
    def figure(self) -> float | None:
        return self.totals.total / self.totals.weight if self.totals.count else None

    def interval(self, alpha: float) -> Interval | None:
        if len(self._days) < self._first_days:
            return None
        return interval(self.totals, sum(self._days.values()) / self._first_days, alpha)


class _ArmSoFar:
    """An arm up to a block."""

    def __init__(self, ratio: Ratio, first_days: int) -> None:
        self.fit = _Fit(first_days)
        self.sums = Sums()
        self.blocks: dict[int, tuple[date, int, int]] = {}
        """Day, numerator and denominator of each block that has a denominator."""
        self.days = 0
        self._ratio = ratio
        self._early = 0

    def add(self, number: int, day: date, sums: Sums) -> int | None:
        """Takes a block; the number of the block that it changed, if any."""
        self.sums += sums
        numerator, denominator = self._ratio.numerator(sums), self._ratio.denominator(sums)
        if denominator > 0:
            last = next(reversed(self.blocks.values()), None)
            self.days += last is None or last[0] != day
            numerator, self._early = numerator + self._early, 0
        elif not numerator:
            return None
        elif not self.blocks:
            self._early += numerator
            return None
        else:
            number, (day, before, denominator) = next(reversed(self.blocks.items()))
            numerator += before
        self.blocks[number] = day, numerator, denominator
        self.fit.put(number, day, numerator, denominator)
        return number


class _PairSoFar:
    """An arm and the control up to a block, and what was seen at the ends of days."""

    def __init__(self, first_days: int) -> None:
        self._fit = _Fit(first_days)
        self._interval: Interval | None = None
        self._narrowest: Interval | None = None
        self._decided: date | None = None

    def put(self, number: int, arm: _ArmSoFar, control: _ArmSoFar) -> None:
        """Takes a block of both anew."""
        if number in arm.blocks and number in control.blocks:
            day, one, of_one = arm.blocks[number]
            _, other, of_other = control.blocks[number]
            both = of_one + of_other
            self._fit.put(number, day, (one * of_other - other * of_one) / both, of_one * of_other / both)

    def look(self, day: date, alpha: float) -> None:
        """Sees what can be said at the end of a day."""
        self._interval = self._fit.interval(alpha)
        if self._interval is None:
            return
        self._narrowest = self._interval if self._narrowest is None else self._narrowest.meet(self._interval)
        if self._decided is None and _verdict(self._narrowest) in ("better", "worse"):
            self._decided = day

    def comparison(self, arm: str) -> Comparison:
        changed = self._narrowest is not None and self._narrowest.low > self._narrowest.high
        narrowest = None if changed else self._narrowest
        verdict: Verdict = "not enough data" if self._narrowest is None else _verdict(narrowest)
        decided = None if changed else self._decided
        return Comparison(arm, self._fit.figure, self._interval, narrowest, verdict, decided, changed)


def _verdict(seen: Interval | None) -> Verdict:
    if seen is None or seen.low <= 0 <= seen.high:
        return "no difference shown yet"
    return "better" if seen.low > 0 else "worse"


def _arm(experiment: Experiment, name: str, arm: _ArmSoFar, ratio: Ratio) -> Arm:
    lacks = _lacks(experiment, arm)
    found = None if lacks else arm.fit.interval(experiment.alpha)
    if found is not None:
        found = found.meet(Interval(ratio.least, math.inf))
    return Arm(name, arm.sums, arm.days, arm.fit.figure, found, lacks)


def _lacks(experiment: Experiment, arm: _ArmSoFar) -> tuple[Shortfall, ...]:
    have = {
        "days": arm.days,
        "clicks": arm.sums.clicks,
        "conversions": arm.sums.conversions,
        "cost": arm.sums.cost_micros,
    }
    wanted = least(experiment.metric, experiment.guards)
    return tuple(Shortfall(name, have[name], want) for name, want in wanted.items() if have[name] < want)


def least(metric: Metric, guards: Guards) -> dict[str, int]:
    """What each arm must have, by name; cost in millionths of a yuan."""
    conversions = CONVERSIONS[metric] if guards.conversions is None else guards.conversions
    return {"days": guards.days, "clicks": guards.clicks, "conversions": conversions, "cost": guards.cost}
