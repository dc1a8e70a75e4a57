"""A/B tests whose truth is known: how often one without any difference says that there is one, though it is looked at
every day; and how soon a difference is found."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from bench.machine import conditions
from bench.result import Result
from pipeline.experiments import Block, Outcome, Sums, evaluate
from schemas.experiments import Experiment

FIRST = date(2026, 3, 2)
"""A Monday."""
TESTS = 1000
DAYS = 28
ALPHA = 0.05


@dataclass(frozen=True)
class Market:
    """How ads of an arm go: ``clicks`` of an arm on an average day, times its ``share``; conversions a click; yuan of a
    conversion, lognormal with ``spread``, or Pareto with index ``tail``; blocks are ``hours`` or days. ``own_days``: by
    how much conversions a click of an arm deviate for a whole day, by themselves; ``raised``: budgets after 10 days."""

    metric: str
    clicks: int = 3000
    ctr: float = 0.03
    cvr: float = 0.02
    shares: tuple[float, ...] = (1.0, 1.0)
    spread: float = 1.2
    tail: float | None = None
    hours: bool = False
    own_days: float = 0.02
    raised: float = 1.0


SAME = {
    "CTR": Market("ctr"),
    "CVR": Market("cvr"),
    "CVR, 300 clicks a day": Market("cvr", clicks=300),
    "CVR, three challengers": Market("cvr", shares=(1.0, 1.0, 1.0, 1.0)),
    "CVR, good and bad days of an arm alone": Market("cvr", own_days=0.1),
    "CVR, the same, budgets raised to six times": Market("cvr", own_days=0.1, raised=6.0),
    "ROI": Market("roi"),
    "ROI, arms as 1 to 4": Market("roi", shares=(1.0, 0.25)),
    "ROI, arms as 1 to 10, uneven values": Market("roi", clicks=6000, shares=(1.0, 0.1), spread=1.6),
    "ROI, values with a Pareto tail of 2.1": Market("roi", tail=2.1),
}
"""Markets in which the arms are the same."""
HOURS = {
    "CVR, by hour": Market("cvr", hours=True),
    "CVR, by hour, good and bad days of an arm alone": Market("cvr", hours=True, own_days=0.2),
}
"""The same by hour: what tests do not do, and why."""
LIFTS = {
    "CVR": (Market("cvr"), (0.1, 0.2, 0.3)),
    "value per cost": (Market("roi"), (0.2, 0.3, 0.5)),
}
"""Markets in which the challenger is better by so much."""

_WEEK_CLICKS = np.array([1.0, 0.92, 0.9, 0.95, 1.05, 1.3, 1.25])
_WEEK_CVR = np.array([1.0, 0.95, 0.93, 0.97, 1.0, 1.12, 1.15])
_HOURS = np.array([3, 2, 1, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 5, 4, 4, 5, 6, 8, 10, 11, 10, 7, 5], dtype=np.float64)
_NEXT = 0.2
"""Share of conversions that come a block after their click."""


def experiment(market: Market, alpha: float = ALPHA) -> Experiment:
    """The test of a market: arm ``a0`` is the control."""
    arms = {f"a{number}": (f"g{number}",) for number in range(len(market.shares))}
    return Experiment.model_validate(
        {
            "id": "made",
            "name": "made",
            "platform": "douyin",
            "metric": market.metric,
            "from": FIRST,
            "arms": arms,
            "control": "a0",
            "alpha": f"{100 * alpha:g}%",
        }
    )


def blocks(rng: np.random.Generator, market: Market, lift: float = 0.0, days: int = DAYS) -> list[Block]:
    """Sums of a made-up test. Arms share weekdays, hours and good and bad days; each has some of its own, too.
    ``lift``: conversions a click of all arms but the control are higher by so much."""
    parts = 24 if market.hours else 1
    count, arms = days * parts, len(market.shares)
    day = np.arange(count) // parts
    hours = np.tile(_HOURS / _HOURS.sum(), days) if market.hours else np.ones(count)

    def noise(spread: float, own: float) -> np.ndarray:
        return np.asarray(
            np.exp(rng.normal(0, spread, days)[day, None] + rng.normal(0, own, (count, arms)) - own**2 / 2)
        )

    raised = np.where(day < 10, 1.0, market.raised)
    expected = (
        market.clicks * np.array(market.shares) * (_WEEK_CLICKS[day % 7] * hours * raised)[:, None] * noise(0.15, 0.08)
    )
    impressions = rng.poisson(expected / market.ctr)
    better = np.array([1.0] + [1 + lift] * (arms - 1))
    clicks = rng.binomial(impressions, np.minimum(1, market.ctr * noise(0.05, 0.02)))
    rate = market.cvr * _WEEK_CVR[day % 7][:, None] * noise(0.1, 0.03) * better
    rate *= np.exp(rng.normal(0, market.own_days, (days, arms)))[day]
    converting = rng.binomial(clicks, np.minimum(1, rate))
    later = rng.binomial(converting, _NEXT)
    conversions = converting - later
    conversions[1:] += later[:-1]
    cost = np.round(clicks * 1e6 * noise(0.1, 0.03)).astype(np.int64)
    total = int(conversions.sum())
    if market.tail is None:
        values = 60 * np.exp(rng.normal(0, market.spread, total))
    else:
        values = 40 * (1 + rng.pareto(market.tail, total))
    ends = np.cumsum(conversions.ravel())
    summed = np.concatenate([[0.0], np.cumsum(np.round(values * 1e6))])
    value = (summed[ends] - summed[ends - conversions.ravel()]).reshape(conversions.shape).astype(np.int64)
    columns = [each.tolist() for each in (impressions, clicks, conversions, cost, value)]
    names = [f"a{number}" for number in range(arms)]
    return [
        Block(
            FIRST + timedelta(int(day[number])),
            {name: Sums(*(column[number][arm] for column in columns)) for arm, name in enumerate(names)},
        )
        for number in range(count)
    ]


def spoke(outcome: Outcome) -> bool:
    """Whether the test said on any day that an arm is better or worse."""
    return any(each.decided is not None or each.changed for each in outcome.comparisons)


def naive(made: list[Block], market: Market) -> bool:
    """Whether the usual z-test at 95 % for two shares, looked at on each day from the seventh on, ever said so."""
    clicks, conversions = np.zeros(2), np.zeros(2)
    for number, block in enumerate(made):
        for arm in (0, 1):
            sums = block.sums[f"a{arm}"]
            clicks[arm] += sums.clicks
            conversions[arm] += sums.conversions
        share = conversions.sum() / clicks.sum()
        deviation = math.sqrt(share * (1 - share) * (1 / clicks).sum())
        if number >= 6 and abs(np.diff(conversions / clicks)[0]) > 1.96 * deviation:
            return True
    return False


def bench(say: Callable[[str], None], tests: int = TESTS) -> Result:
    """Shares of simulated tests that spoke without a difference, and that found one."""
    result = Result("experiments", "python -m bench experiments")
    result.conditions = conditions()
    used, evaluated = 0.0, 0
    for name, market in (SAME | HOURS).items():
        say(f"no difference: {name}")
        rng = np.random.default_rng(1)
        wrong = usual = 0
        for _ in range(tests):
            made = blocks(rng, market)
            began = time.process_time()
            wrong += spoke(evaluate(experiment(market), made))
            used += time.process_time() - began
            evaluated += len(made)
            usual += name == "CVR" and naive(made, market)
        result.add(f"no difference, {name}: ever a verdict", 100 * wrong / tests, "%", f"{wrong} of {tests} tests")
        if name in SAME:
            result.check(wrong <= ALPHA * tests, f"{name}: at most {ALPHA:.0%} of tests without a difference speak")
        if name == "CVR":
            note = f"{usual} of {tests} tests"
            result.add("the same tests, a z-test that is looked at every day", 100 * usual / tests, "%", note)
    for name, (market, lifts) in LIFTS.items():
        for lift in lifts:
            say(f"a difference: {name} +{lift:.0%}")
            rng = np.random.default_rng(2)
            found = []
            for _ in range(tests):
                (one,) = evaluate(experiment(market), blocks(rng, market, lift)).comparisons
                if one.verdict == "better" and one.decided is not None:
                    found.append((one.decided - FIRST).days + 1)
            for within in (14, 28):
                share = sum(days <= within for days in found) / tests
                result.add(f"{name} +{lift:.0%}: found within {within} days", 100 * share, "%")
            if len(found) * 2 > tests:
                middle = statistics.median(found + [DAYS + 1] * (tests - len(found)))
                result.add(f"{name} +{lift:.0%}: half of them found by", middle, "days")
    result.add("CPU to evaluate a test", used / evaluated * 1e6, "us/block", "with its arms and all looks")
    return result
