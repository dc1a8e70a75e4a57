"""Figures of campaigns that alerts look at, and deciding alerts by the hour: pure."""

from datetime import UTC, date, datetime
from fractions import Fraction
from random import Random
from statistics import fmean, stdev
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alerts import DAY, Alert, Closed, Figures, alert_id, evaluate
from pipeline.campaign_figures import HOUR_MS, BudgetChange, Spent, Sums, budgets_at, campaign_figures, cpm, hour_of
from pipeline.rule_figures import describe
from schemas.alerts import alert_policy, write

POLICY = alert_policy({})
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = 1_772_424_000_000
"""2026-03-02 12:00 in Shanghai."""
COUNTS = st.integers(0, 3000)
SUMS = st.builds(Sums, COUNTS, st.integers(0, 500), st.integers(0, 20), st.integers(0, 10**9))
HOURS = st.lists(st.one_of(SUMS, st.just(Sums())), min_size=1, max_size=200)
SPENT = st.builds(Spent, st.integers(0, 10**12), st.none() | st.integers(0, 10**12))


@given(HOURS, SPENT, st.none() | SPENT, st.floats(0, 1))
def test_figures_are_what_a_plain_reading_of_the_formulas_says(
    hours: list[Sums], daily: Spent, total: Spent | None, left: float
) -> None:
    found = campaign_figures(hours, left, daily, total)
    hour, before = hours[-1], hours[:-1]
    if hour.impressions:
        exact = Fraction(1000 * hour.cost, hour.impressions)
        assert isinstance(found["cpm_micros"], int)
        assert exact - Fraction(1, 2) < found["cpm_micros"] <= exact + Fraction(1, 2)
    else:
        assert found["cpm_micros"] is None
    same = [before[-24 * back] for back in range(1, 8) if len(before) >= 24 * back]
    cpms = [paid for each in same if (paid := cpm(each)) is not None]
    assert found["cpm_days"] == len(cpms)
    assert found["cpm_usual_micros"] == (fmean(cpms) if cpms else None)
    paid = found["cpm_micros"]
    if paid is None or not cpms or not fmean(cpms):
        assert found["cpm_rise"] is None
    else:
        assert found["cpm_rise"] == pytest.approx((paid - fmean(cpms)) / fmean(cpms))
        if len(cpms) > 1:
            deviation = max(stdev(cpms), fmean(cpms) / 20)
            assert found["cpm_deviations"] == pytest.approx((paid - fmean(cpms)) / deviation)
        else:
            assert found["cpm_deviations"] is None
    day = hours[-24:]
    clicks, conversions = sum(each.clicks for each in day), sum(each.conversions for each in day)
    assert found["cost_24h_micros"] == sum(each.cost for each in day)
    assert (found["clicks_24h"], found["conversions_24h"]) == (clicks, conversions)
    assert found["cvr_24h"] == (conversions / clicks if clicks else None)
    for name, spent in (("daily", daily), ("total", total or Spent(0, None))):
        share = spent.cost / spent.budget if spent.budget else None
        assert found[f"{name}_share"] == share


@given(HOURS, SPENT, st.none() | SPENT)
def test_every_sentence_can_be_written(hours: list[Sums], daily: Spent, total: Spent | None) -> None:
    values = campaign_figures(hours, 0.5, daily, total)
    for name, kind in POLICY.kinds.items():
        if kind.figures == "campaigns":
            assert not kind.firing(values) or kind.staying(values, POLICY.hysteresis)
            known = {**kind.limits, **values, "day": date(2026, 3, 2), "subject": "c", "begin": "12:00", "end": "13:00"}
            assert "{" not in write(kind.say, known) + write(kind.resolved, known), name
            kind.advise(values)


QUIET = {"cpm_micros": 20_000_000, "impressions": 1000, "cost_micros": 20_000_000}
MONEY = 1_000_000


@pytest.mark.parametrize(
    ("kind", "values", "fires", "stays"),
    [
        ("cpm_high", {"impressions": 1000, "cpm_micros": 60 * MONEY + 1}, True, True),
        ("cpm_high", {"impressions": 1000, "cpm_micros": 60 * MONEY}, False, True),
        ("cpm_high", {"impressions": 999, "cpm_micros": 90 * MONEY}, False, True),
        ("cpm_high", {"impressions": 799, "cpm_micros": 90 * MONEY}, False, False),
        ("cpm_high", {"impressions": 0, "cpm_micros": None}, False, False),
        ("cpm_low", {"impressions": 1000, "cost_micros": 2 * MONEY, "cpm_micros": 2 * MONEY}, True, True),
        ("cpm_low", {"impressions": 1000, "cost_micros": 0, "cpm_micros": 0}, False, False),
        ("cpm_low", {"impressions": 1000, "cost_micros": 4 * MONEY, "cpm_micros": 3_500_000}, False, True),
        ("cpm_rise", {"impressions": 1000, "cpm_days": 3, "cpm_rise": 0.5, "cpm_deviations": 4.1}, True, True),
        ("cpm_rise", {"impressions": 1000, "cpm_days": 2, "cpm_rise": 9, "cpm_deviations": 9}, False, False),
        ("cpm_rise", {"impressions": 1000, "cpm_days": 7, "cpm_rise": 0.4, "cpm_deviations": 9}, False, True),
        ("cpm_rise", {"impressions": 1000, "cpm_days": 7, "cpm_rise": None, "cpm_deviations": None}, False, False),
        ("cvr_low", {"clicks_24h": 400, "conversions_24h": 1, "cvr_24h": 1 / 400}, True, True),
        ("cvr_low", {"clicks_24h": 399, "conversions_24h": 1, "cvr_24h": 1 / 399}, False, True),
        ("cvr_low", {"clicks_24h": 400, "conversions_24h": 0, "cvr_24h": 0.0}, False, False),
        ("spend_without_conversions", {"cost_24h_micros": 200 * MONEY, "conversions_24h": 0}, True, True),
        ("spend_without_conversions", {"cost_24h_micros": 200 * MONEY - 1, "conversions_24h": 0}, False, True),
        ("spend_without_conversions", {"cost_24h_micros": 900 * MONEY, "conversions_24h": 1}, False, False),
        ("daily_budget_gone", {"daily_cost_micros": 90 * MONEY, "daily_share": 0.9, "day_left": 0.21}, True, True),
        ("daily_budget_gone", {"daily_cost_micros": 90 * MONEY, "daily_share": 0.9, "day_left": 0.2}, False, True),
        ("daily_budget_gone", {"daily_cost_micros": 90 * MONEY, "daily_share": None, "day_left": 0.9}, False, False),
        ("daily_budget_gone", {"daily_cost_micros": 9 * MONEY, "daily_share": 0.9, "day_left": 0.9}, False, True),
        ("daily_budget_gone", {"daily_cost_micros": 99 * MONEY, "daily_share": 0.71, "day_left": 0.9}, False, False),
        ("total_budget_gone", {"cost_24h_micros": MONEY, "total_share": 0.9}, True, True),
        ("total_budget_gone", {"cost_24h_micros": 0, "total_share": 1.0}, False, False),
        ("rule_fired", {"firings": 1}, True, True),
    ],
)
def test_thresholds(kind: str, values: dict[str, float | None], fires: bool, stays: bool) -> None:
    assert POLICY.kinds[kind].firing(values) == fires
    assert POLICY.kinds[kind].staying(values, POLICY.hysteresis) == stays


def test_the_budget_of_a_moment_is_that_of_the_last_change() -> None:
    changes = [
        BudgetChange(100, True, 300, 9000),
        BudgetChange(200, False, 360, None),
        BudgetChange(200, False, 400, None),
        BudgetChange(300, True, None, None),
    ]
    assert [budgets_at(changes, at) for at in (99, 100, 199, 200, 299, 300)] == [
        (None, None),
        (300, 9000),
        (300, 9000),
        (400, 9000),
        (400, 9000),
        (None, None),
    ]


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Asia/Kolkata", "America/St_Johns", "UTC"])
@given(moment=st.integers(NOON, NOON + 400 * 24 * HOUR_MS))
def test_an_hour_begins_when_clocks_show_it(zone: str, moment: int) -> None:
    begin = hour_of(moment, ZoneInfo(zone))
    assert 0 <= moment - begin < HOUR_MS
    local = datetime.fromtimestamp(begin / 1000, ZoneInfo(zone))
    assert (local.minute, local.second, local.microsecond) == (0, 0, 0)


# Alerts by the hour.

ONLY = alert_policy({name: {"enabled": name == "cpm_high"} for name in POLICY.kinds})


def hour(number: int, yuan: float, closed: bool = True, impressions: int = 1000) -> Figures:
    """Figures at which only the CPM matters, of an hour so many after noon."""
    begin = NOON + number * HOUR_MS
    day = datetime.fromtimestamp(begin / 1000, SHANGHAI).date()
    values = {"impressions": impressions, "cpm_micros": round(yuan * MONEY), "cost_micros": 1, "cpm_rise": None}
    words = {"begin": f"{(12 + number) % 24:02}:00", "end": f"{(13 + number) % 24:02}:00"}
    at = begin + (HOUR_MS if closed else HOUR_MS // 2)
    return Figures("douyin", "dy_1", "cmp_1", day, closed, at, values, begin, words)


class Store:
    """Alerts as a table keeps them: who writes a state of an alert first is right."""

    def __init__(self) -> None:
        self.rows: dict[str, Alert] = {}
        self.written: list[tuple[str, str]] = []

    def look(self, figures: list[Figures]) -> None:
        ended = max((each.at for each in figures if each.closed), default=NOON)
        closed = {"campaigns": Closed(datetime.fromtimestamp((ended - 1) / 1000, SHANGHAI).date(), ended)}
        for alert in evaluate(ONLY, {"campaigns": figures}, list(self.rows.values()), closed):
            assert (alert.id, alert.state) not in self.written
            assert alert.state == "open" or alert.id in self.rows
            self.written.append((alert.id, alert.state))
            self.rows[alert.id] = alert


def test_an_alert_of_an_hour_fires_once_and_resolves_once_and_rings_again_on_the_same_day() -> None:
    store = Store()
    hours = [hour(0, 50), hour(1, 61), hour(2, 55), hour(3, 49), hour(4, 47.9), hour(5, 70), hour(6, 70)]
    for upto in range(1, len(hours) + 1):
        for _ in range(3):
            store.look(hours[:upto])
    one, other = "cpm_high:douyin:dy_1:cmp_1:2026-03-02T0500Z", "cpm_high:douyin:dy_1:cmp_1:2026-03-02T0900Z"
    assert store.written == [(one, "open"), (one, "resolved"), (other, "open")]
    assert store.rows[one].resolved_at == NOON + 5 * HOUR_MS
    assert store.rows[one].said == (
        "1,000 impressions of cmp_1 cost 61.00 yuan on 2026-03-02 from 13:00 to 14:00, more than 60.00 yuan: "
        "1,000 impressions for 0.00 yuan."
    )
    assert store.rows[one].resolved_said.startswith("1,000 impressions of cmp_1 cost 47.90 yuan on 2026-03-02 from 16:")


def test_a_running_hour_rings_at_once_and_is_resolved_by_closed_ones_only() -> None:
    store = Store()
    store.look([hour(0, 20), hour(1, 80, closed=False)])
    (opened,) = store.rows.values()
    assert (opened.state, opened.at) == ("open", NOON + 3 * HOUR_MS // 2)
    store.look([hour(0, 20), hour(1, 20, closed=False)])
    assert len(store.written) == 1
    # It went on, so the whole hour is dear; the next one is not, but runs.
    store.look([hour(0, 20), hour(1, 75), hour(2, 20, closed=False)])
    assert len(store.written) == 1
    store.look([hour(1, 75), hour(2, 20), hour(3, 90, closed=False)])
    assert [state for _, state in store.written] == ["open", "resolved", "open"]
    # Nobody speaks of the campaign any more: an hour later it is over.
    ended = NOON + 5 * HOUR_MS
    closed = {"campaigns": Closed(date(2026, 3, 2), ended)}
    (gone,) = evaluate(ONLY, {"campaigns": []}, list(store.rows.values()), closed)
    assert (gone.resolved_said, gone.resolved_at) == ("It is no longer looked at.", ended)
    # Where no period is known to be closed, nothing is resolved.
    assert evaluate(ONLY, {}, list(store.rows.values()), {"fans": Closed(date(2026, 3, 9), ended + 10**9)}) == []


RATES = st.lists(st.sampled_from([0, 47.9, 48, 48.1, 55, 60, 60.1, 90]), min_size=1, max_size=60)


@given(RATES, st.integers(0, 2**32))
def test_when_it_is_looked_at_changes_nothing_and_it_is_open_as_a_plain_reading_says(
    rates: list[float], chance: int
) -> None:
    rng = Random(chance)
    hours = [hour(number, rate) for number, rate in enumerate(rates)]
    at_once, in_steps, seen = Store(), Store(), 0
    at_once.look(hours)
    while seen < len(hours):
        upto = min(seen + rng.choice((0, 1, 1, 3)), len(hours))
        begin = rng.randrange(min(seen, max(upto - 1, 0)) + 1)
        part = hours[begin:upto]
        rng.shuffle(part)
        in_steps.look(part)
        seen = upto
    assert in_steps.rows == at_once.rows
    assert sorted(in_steps.written) == sorted(at_once.written)
    wanted: dict[int, int | None] = {}
    since: int | None = None
    for number, rate in enumerate(rates):
        if since is None and rate > 60:
            since, wanted[number] = number, None
        elif since is not None and not rate > 48:
            wanted[since], since = number, None
    found = {
        (alert.at - NOON) // HOUR_MS - 1: (alert.resolved_at - NOON) // HOUR_MS - 1 if alert.resolved_at else None
        for alert in at_once.rows.values()
    }
    assert found == wanted


def test_what_passes_is_over_with_its_day() -> None:
    """A rule that fires is told at once; what came of it is said when the day is over; every day anew."""
    only = alert_policy({name: {"enabled": name == "rule_fired"} for name in POLICY.kinds})
    first = date(2026, 3, 1)

    def firings(number: int, closed: bool, count: int) -> Figures:
        at = int(datetime(2026, 3, 1, 16, tzinfo=UTC).timestamp() * 1000) + (number - (not closed)) * 24 * HOUR_MS
        values = {"firings": count, "before_micros": 1, "after_micros": 2}
        words = {"campaign": "cmp_1", "rule": "Cheap", "did": "pause", "at": "12:00", "tell": " For ops."}
        day = first + number * DAY
        return Figures("douyin", "dy_1", "cmp_1/r", day, closed, at + (not closed), values, words=words)

    known: dict[str, Alert] = {}
    written = []
    looks = [[firings(0, False, 1)], [firings(0, False, 2)], [firings(0, True, 3), firings(1, False, 1)]]
    looks += [looks[2], [firings(0, True, 3), firings(1, True, 1)], [firings(4, True, 2)]]
    for look in looks:
        day, at = max(((each.day, each.at) for each in look if each.closed), default=(first - DAY, 0))
        for alert in evaluate(only, {"rules": look}, list(known.values()), {"rules": Closed(day, at)}):
            known[alert.id] = alert
            written.append((alert.id[-2:], alert.state, alert.resolved_said or alert.said))
    assert written == [
        ("01", "open", "Rule Cheap fired for cmp_1 at 12:00 on 2026-03-01: pause. For ops."),
        ("01", "resolved", "Firings of rule Cheap for cmp_1 on 2026-03-01: 3, the last at 12:00: pause."),
        ("02", "open", "Rule Cheap fired for cmp_1 at 12:00 on 2026-03-02: pause. For ops."),
        ("02", "resolved", "Firings of rule Cheap for cmp_1 on 2026-03-02: 1, the last at 12:00: pause."),
        ("05", "open", "Rule Cheap fired for cmp_1 at 12:00 on 2026-03-05: pause. For ops."),
        ("05", "resolved", "Firings of rule Cheap for cmp_1 on 2026-03-05: 2, the last at 12:00: pause."),
    ]


def test_what_a_rule_did_in_words() -> None:
    assert describe("budget", "fired", "", 300_000_000, 360_000_000) == "budget from 300.00 yuan to 360.00 yuan"
    assert describe("bid", "clamped", "g1", 800_000, 900_000) == (
        "bid from 0.80 yuan to 0.90 yuan (ad group g1, within a bound)"
    )
    assert describe("pause", "notified", "", None, None) == "pause (it only tells)"


def test_hours_are_told_apart_where_a_local_hour_comes_twice() -> None:
    zone = ZoneInfo("America/New_York")
    first = int(datetime(2026, 11, 1, 5, 30, tzinfo=UTC).timestamp() * 1000)
    ids = set()
    for moment in (first, first + HOUR_MS):
        begin = hour_of(moment, zone)
        day = datetime.fromtimestamp(begin / 1000, zone).date()
        ids.add(alert_id("k", Figures("douyin", "c", "s", day, True, begin + HOUR_MS, {}, begin)))
    assert ids == {"k:douyin:c:s:2026-11-01T0500Z", "k:douyin:c:s:2026-11-01T0600Z"}
