"""Deciding alerts: pure, from figures by day."""

import json
from collections import defaultdict
from dataclasses import replace
from datetime import date, timedelta
from random import Random
from statistics import fmean, stdev
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import SettingsError
from infra.settings import load
from pipeline.alerting import FIGURES
from pipeline.alerts import DAY, Alert, Closed, FanDay, Figures, alert_id, end_of, evaluate, fan_figures
from pipeline.campaign_figures import Spent, Sums, campaign_figures
from schemas.alerts import AlertPolicy, alert_policy, write

POLICY = alert_policy({})
FIRST = date(2026, 3, 1)
ZONE = ZoneInfo("Asia/Shanghai")
OTHERS: dict[str, dict[str, object]] = {name: {"enabled": False} for name in POLICY.kinds if name != "churn_high"}
OTHERS["churn_high"] = {"above": 0.03}
ONLY_CHURN = alert_policy(OTHERS)
QUIET = FanDay(1000, 10, 2, 10, 12, 400)


def churn(number: int, rate: float, creator: str = "c1", closed: bool = True) -> Figures:
    """Figures at which only the churn rate matters."""
    day = FIRST + number * DAY
    values = {
        "fans_at_start": 1000.0,
        "churned": rate * 1000,
        "churn_rate": rate,
        "unfollowed": 1.0,
        "unfollowed_share": 0.1,
    }
    return Figures("douyin", creator, "", day, closed, end_of(day, ZONE), values)


def decide(figures: list[Figures], known: list[Alert], policy: AlertPolicy = ONLY_CHURN) -> list[Alert]:
    """What changes, where the last closed day of the figures is the last one there is."""
    closed = max((each.day for each in figures if each.closed), default=FIRST - DAY)
    return evaluate(policy, {"fans": figures}, known, {"fans": Closed(closed, end_of(closed, ZONE))})


class Store:
    """Alerts as a table keeps them: who writes a state of an alert first is right."""

    def __init__(self) -> None:
        self.rows: dict[str, Alert] = {}
        self.written: list[tuple[str, str]] = []

    def look(self, figures: list[Figures], policy: AlertPolicy = ONLY_CHURN) -> None:
        for alert in decide(figures, list(self.rows.values()), policy):
            assert (alert.id, alert.state) not in self.written
            assert alert.state == "open" or alert.id in self.rows
            self.written.append((alert.id, alert.state))
            self.rows[alert.id] = alert


def test_an_alert_fires_once_and_resolves_once() -> None:
    store = Store()
    days = [churn(0, 0.01), churn(1, 0.05), churn(2, 0.04), churn(3, 0.026), churn(4, 0.02), churn(5, 0.05)]
    for upto in range(1, len(days) + 1):
        for _ in range(3):
            store.look(days[:upto])
    one, other = "churn_high:douyin:c1:2026-03-02", "churn_high:douyin:c1:2026-03-06"
    assert store.written == [(one, "open"), (one, "resolved"), (other, "open")]
    assert store.rows[one].resolved_day == FIRST + 4 * DAY
    assert store.rows[one].at == end_of(FIRST + DAY, ZONE)
    assert (
        store.rows[one].said
        == "5.0% of 1,000 fans churned on 2026-03-02, more than 3.0%: 50 fans, 1 of them by unfollow."
    )
    assert store.rows[one].resolved_said == "2.0% of 1,000 fans churned on 2026-03-05: 20 fans."
    assert store.rows[one].figures["churn_rate"] == 0.05
    assert store.rows[one].thresholds == {"min_fans": 100, "min_churned": 10, "above": 0.03}
    # What it said when it was opened stays what it said.
    opened = next(alert for alert in decide(days, []) if alert.id == one)
    assert store.rows[one].message("open") == opened.message("open")


RATES = st.lists(st.sampled_from([0.0, 0.01, 0.0239, 0.024, 0.025, 0.03, 0.0301, 0.05]), min_size=1, max_size=20)


@given(st.dictionaries(st.sampled_from("abc"), RATES, min_size=1), st.integers(0, 2**32))
def test_when_and_how_often_it_is_looked_at_changes_nothing(series: dict[str, list[float]], chance: int) -> None:
    """Days close one by one or many at a time, creators come in any order, old days are seen again."""
    rng = Random(chance)
    figures = [churn(number, rate, creator) for creator, rates in series.items() for number, rate in enumerate(rates)]
    longest = max(map(len, series.values()))
    # Every creator has a figure of every day, as the source of fans has.
    figures += [
        churn(number, 0.0, creator) for creator, rates in series.items() for number in range(len(rates), longest)
    ]
    at_once = Store()
    at_once.look(figures)
    in_steps, seen = Store(), 0
    while seen < longest:
        upto = min(seen + rng.choice((0, 1, 1, 3)), longest)
        # Days that were looked at may be left out, those that were not may not.
        begin = rng.randrange(min(seen, max(upto - 1, 0)) + 1)
        part = [each for each in figures if FIRST + begin * DAY <= each.day < FIRST + upto * DAY]
        rng.shuffle(part)
        in_steps.look(part)
        seen = upto
    assert in_steps.rows == at_once.rows
    assert sorted(in_steps.written) == sorted(at_once.written)
    assert len(set(at_once.written)) == len(at_once.written)


@given(RATES)
def test_an_alert_is_open_exactly_while_a_plain_reading_says_so(rates: list[float]) -> None:
    wanted, since = {}, None
    for number, rate in enumerate(rates):
        if since is None and rate > 0.03:
            since, wanted[number] = number, None
        elif since is not None and not rate > 0.03 * 0.8:
            wanted[since], since = number, None
    store = Store()
    store.look([churn(number, rate) for number, rate in enumerate(rates)])
    assert {(alert.day - FIRST).days for alert in store.rows.values()} == set(wanted)
    for alert in store.rows.values():
        until = wanted[(alert.day - FIRST).days]
        assert alert.state == ("open" if until is None else "resolved")
        assert until is None or alert.resolved_day == FIRST + until * DAY


def running(unfollowed: int, number: int = 20) -> Figures:
    days = [QUIET] * 21 + [QUIET._replace(unfollowed=unfollowed, churned=8 + unfollowed)]
    day = FIRST + number * DAY
    return Figures("douyin", "c1", "", day, False, end_of(day, ZONE) - 3_600_000, fan_figures(days, POLICY))


def closed_days(count: int, **last: int) -> list[Figures]:
    days = [QUIET] * 21 + [QUIET] * (count - 1) + [QUIET._replace(**last)]
    return [
        Figures(
            "douyin", "c1", "", FIRST + n * DAY, True, end_of(FIRST + n * DAY, ZONE),
            fan_figures(days[: 22 + n], POLICY),
        )
        for n in range(count)
    ]  # fmt: skip


def test_a_loss_rings_before_the_day_is_over_and_a_flapping_figure_only_once_a_day() -> None:
    store = Store()
    for unfollowed in (0, 15, 16, 3, 0, 20, 0, 30):
        store.look([*closed_days(20), running(unfollowed)], POLICY)
    loss = "follower_loss:douyin:c1:2026-03-21"
    assert store.written == [(loss, "open")]
    assert store.rows[loss].said == "15 of 1,000 fans unfollowed on 2026-03-21, a usual day has 2.0."
    assert store.rows[loss].at < end_of(FIRST + 20 * DAY, ZONE)
    # The day ends with fewer after all: resolved, and it does not ring again for that day.
    ended = closed_days(21, unfollowed=3)
    for _ in range(2):
        store.look(ended, POLICY)
        store.look([*ended, running(0, 21)], POLICY)
    assert [state for _, state in store.written] == ["open", "resolved"]
    assert store.rows[loss].resolved_day == FIRST + 20 * DAY


def test_a_loss_that_goes_on_is_one_alert() -> None:
    store = Store()
    store.look([*closed_days(20), running(200)], POLICY)
    lost = closed_days(21, unfollowed=200, churned=208)
    store.look([*lost, running(300, 21)], POLICY)
    opened = [alert.kind for alert in store.rows.values() if alert.state == "open"]
    # The whole day is also above what churn should be.
    assert sorted(opened) == ["churn_high", "churn_rise", "follower_loss"]


def test_a_correction_resolves_and_what_is_no_longer_looked_at_too() -> None:
    store = Store()
    store.look([churn(0, 0.05)])
    store.look([churn(0, 0.01)])
    assert [row.state for row in store.rows.values()] == ["resolved"]
    store.look([churn(0, 0.05)])
    assert len(store.written) == 2
    store.look([churn(1, 0.05), churn(1, 0.05, "c2")])
    store.look([churn(2, 0.05, "c2")])
    gone = store.rows["churn_high:douyin:c1:2026-03-02"]
    assert (gone.state, gone.resolved_said) == ("resolved", "It is no longer looked at.")
    changes = decide(
        [churn(3, 0.05, "c2")], list(store.rows.values()), alert_policy({**OTHERS, "churn_high": {"enabled": False}})
    )
    assert [alert.id for alert in changes] == ["churn_high:douyin:c2:2026-03-02"]


def test_of_two_open_alerts_of_one_kind_the_earlier_ends() -> None:
    """As a worker may leave behind that was thought dead."""
    one, other = decide([churn(0, 0.05)], [])[0], decide([churn(2, 0.05)], [])[0]
    changes = decide([churn(number, 0.05) for number in range(3)], [other, one])
    assert [(each.id, each.state, each.resolved_said) for each in changes] == [
        (one.id, "resolved", f"It goes on as {other.id}.")
    ]


def test_small_creators_do_not_ring() -> None:
    few = replace(churn(0, 0.5), values={"fans_at_start": 99.0, "churned": 50.0, "churn_rate": 0.5})
    assert decide([few], []) == []
    assert (
        decide(
            [
                replace(
                    churn(0, 0.5), values={"fans_at_start": 0.0, "churned": 0.0, "churn_rate": None, "unfollowed": 0.0}
                )
            ],
            [],
        )
        == []
    )


DAYS = st.lists(
    st.builds(
        FanDay,
        st.integers(0, 5000), st.integers(0, 300), st.integers(0, 100), st.integers(0, 50), st.integers(0, 300),
        st.integers(0, 2000), st.booleans(),
    ),
    min_size=1,
    max_size=40,
)  # fmt: skip


@given(DAYS)
def test_figures_are_what_a_plain_reading_of_the_formulas_says(days: list[FanDay]) -> None:
    found = fan_figures(days, POLICY)
    day, past = days[-1], days[:-1]
    rate = day.churned / day.fans_at_start if day.fans_at_start else None
    assert found["churn_rate"] == rate
    rates = [each.churned / each.fans_at_start for each in past[-14:] if each.fans_at_start and each.settled]
    if len(rates) >= 7 and rate is not None:
        least = (max(fmean(rates), 1 / day.fans_at_start) / day.fans_at_start) ** 0.5
        assert found["churn_deviations"] == pytest.approx((rate - fmean(rates)) / max(stdev(rates), least))
        assert found["churn_rise"] == pytest.approx(rate - fmean(rates))
    else:
        assert found["churn_deviations"] is None
    lost = [each.unfollowed for each in past[-14:] if each.fans_at_start]
    if len(lost) >= 7:
        assert found["unfollowed_usual"] == fmean(lost)
        least = max(fmean(lost), 1) ** 0.5
        assert found["unfollow_deviations"] == pytest.approx((day.unfollowed - fmean(lost)) / max(stdev(lost), least))
    else:
        assert found["unfollow_deviations"] is None
    week, before = days[-7:], [each for each in days[-21:-7] if each.settled]
    assert found["returned_week"] == sum(each.returned for each in week)
    if len([each for each in before if each.idle_at_start]) >= 7 and sum(each.idle_at_start for each in week):
        usual = sum(each.returned for each in before) / sum(each.idle_at_start for each in before)
        idle = sum(each.idle_at_start for each in week)
        assert found["expected_returns"] == pytest.approx(usual * idle)
        if usual:
            assert found["reactivation_change"] == pytest.approx(found["returned_week"] / idle / usual - 1)
    else:
        assert found["reactivation_change"] is None


@given(DAYS)
def test_every_sentence_can_be_written(days: list[FanDay]) -> None:
    values = fan_figures(days, POLICY)
    for name, kind in POLICY.kinds.items():
        if kind.figures != "fans":
            continue
        assert not kind.firing(values) or kind.staying(values, POLICY.hysteresis)
        known = {**kind.limits, **values, "day": FIRST, "subject": ""}
        assert "{" not in write(kind.say, known) + write(kind.resolved, known), name
        assert kind.advise({**values, "unfollowed_share": 0.5})


def test_kinds_speak_of_figures_and_thresholds_that_there_are() -> None:
    of = {
        "fans": fan_figures([QUIET] * 30, POLICY),
        "campaigns": campaign_figures([Sums()], 0.5, Spent(0, None), None),
        "rules": dict.fromkeys(("firings", "before_micros", "after_micros")),
    }
    for kind in POLICY.kinds.values():
        values, used = of[kind.figures], set()
        assert kind.period == FIGURES[kind.figures].period
        for condition in (each for advice in kind.advice for each in advice.when):
            assert condition.split()[0] in values
        for condition in kind.fires:
            figure, sign, threshold = condition.split()
            assert figure in values
            assert sign in (">", ">=", "<", "<=")
            used.add(threshold)
        assert used == set(kind.thresholds)
        assert not set(kind.thresholds) & set(values)


@pytest.mark.parametrize(
    ("kind", "values", "fires", "stays"),
    [
        ("churn_high", {"fans_at_start": 100, "churned": 10, "churn_rate": 0.0301}, True, True),
        ("churn_high", {"fans_at_start": 99, "churned": 10, "churn_rate": 0.0301}, False, True),
        ("churn_high", {"fans_at_start": 100, "churned": 9, "churn_rate": 0.03}, False, True),
        ("churn_high", {"fans_at_start": 100, "churned": 7, "churn_rate": 0.05}, False, False),
        ("reactivation_fall", {"idle_at_start": 100, "expected_returns": 30, "reactivation_change": -0.4}, True, True),
        (
            "reactivation_fall",
            {"idle_at_start": 100, "expected_returns": 30, "reactivation_change": -0.33},
            False,
            True,
        ),
        (
            "reactivation_fall",
            {"idle_at_start": 100, "expected_returns": 30, "reactivation_change": -0.3},
            False,
            False,
        ),
        (
            "reactivation_fall",
            {"idle_at_start": 100, "expected_returns": None, "reactivation_change": -1},
            False,
            False,
        ),
    ],
)
def test_thresholds(kind: str, values: dict[str, float | None], fires: bool, stays: bool) -> None:
    assert ONLY_CHURN.kinds[kind].firing(values) == fires
    assert ONLY_CHURN.kinds[kind].staying(values, ONLY_CHURN.hysteresis) == stays


def test_ids_are_told_apart_whatever_producers_call_a_creator() -> None:
    one = replace(churn(0, 0), creator_id="a:b", subject="c")
    other = replace(churn(0, 0), creator_id="a", subject="b:c")
    assert alert_id("k", one) == "k:douyin:a%3Ab:c:2026-03-01"
    assert alert_id("k", other) == "k:douyin:a:b%3Ac:2026-03-01"
    assert alert_id("k", replace(one, subject="")) == "k:douyin:a%3Ab:2026-03-01"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "FANPULSE_ALERT_POLICY={: is no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"churn_hihg": {}}', "churn_hihg is no kind of alert; did you mean churn_high?"),
        ('{"churn_high": 1}', "churn_high: must be an object"),
        ('{"churn_high": {"abov": 1}}', "abov is no threshold of it; did you mean above?"),
        ('{"churn_high": {"above": "x"}}', "churn_high.above: Input should be a valid number"),
        ('{"churn_high": {"above": NaN}}', "is no JSON"),
        ('{"hysteresis": 1}', "hysteresis: Input should be less than 1"),
        ('{"least_history_days": 15}', "least_history_days must not be above history_days"),
    ],
)
def test_a_bad_policy_is_one_line(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("FANPULSE_ALERT_POLICY", given)
    with pytest.raises(SettingsError) as refused:
        load()
    assert said in refused.value.message
    assert "\n" not in refused.value.message


def test_a_policy_is_the_file_with_what_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"history_days": 28, "churn_high": {"above": 0.07}, "follower_loss": {"enabled": False}}
    monkeypatch.setenv("FANPULSE_ALERT_POLICY", json.dumps(changes))
    policy = load().alert_policy
    assert policy.kinds["churn_high"].limits["above"] == 0.07
    assert policy.kinds["churn_rise"] == POLICY.kinds["churn_rise"]
    assert json.loads(str(policy)) == changes
    assert str(POLICY) == "{}"
    assert hash(policy) != hash(POLICY)


def test_the_order_of_known_alerts_does_not_matter() -> None:
    days = [churn(number, rate) for number, rate in enumerate((0.05, 0.0, 0.05, 0.0, 0.05))]
    known: dict[str, Alert] = {}
    for alert in decide(days, []):
        known[alert.id] = alert
    by_state = defaultdict(int)
    for alert in known.values():
        by_state[alert.state] += 1
    assert dict(by_state) == {"resolved": 2, "open": 1}
    assert decide(days, list(known.values())[::-1]) == []
    later = [*days, churn(5, 0.0)]
    assert [alert.day for alert in decide(later, list(known.values())[::-1])] == [FIRST + timedelta(days=4)]
