"""Rules ring when Grafana's would: against its rules written down a second time, and by its own examples."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import pytest
import yaml
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from hypothesis import given
from hypothesis import strategies as st

from dashboards.alerts import RULES, Rule
from dashboards.publication import files
from dashboards.ringing import INTERVAL_S, Answer, Labels, Ringing, Verdict, ask
from infra.errors import InfraError

_RULES = {rule.uid.removeprefix("fanpulse-"): rule for rule in RULES}
_FOR_MS = {"0s": 0, "5m": 300_000, "15m": 900_000}
_LABELS: tuple[Labels, ...] = ((), (("topic", "a"),), (("topic", "b"),))
_GAPS_S = (1, 59, 60, 61, 119, 120, 240, 300, 900)


def _answers(rule: Rule) -> st.SearchStrategy[Answer]:
    limit = rule.against.limit
    number = st.sampled_from((None, limit / 2, limit, limit * 2, limit / 21, limit / 19))
    values = st.dictionaries(st.sampled_from(_LABELS), number, max_size=3)
    return st.one_of(values.map(Answer), values.map(Answer), st.just(Answer(error="away")))


_HISTORIES = st.sampled_from(RULES).flatmap(
    lambda rule: st.tuples(
        st.just(rule),
        st.lists(st.tuples(st.sampled_from(_GAPS_S), _answers(rule)), min_size=1, max_size=14),
        st.sampled_from((1, 20)),
    )
)


def _fires(rule: Rule, value: float | None, faster: int) -> bool:
    if value is None:
        return rule.no_data == "Alerting"
    limit = rule.against.limit / (faster if rule.against.unit == "s" else 1)
    return value > limit if rule.against.worse == "above" else value < limit


def _episodes(rule: Rule, looks: list[tuple[int, Answer]], faster: int) -> list[dict[Labels, list[tuple[int, str]]]]:
    """What every look saw of each instance since that began: times, and what was found then."""
    found: list[dict[Labels, list[tuple[int, str]]]] = [{}]
    for now, answer in looks:
        known = found[-1]
        alive = {
            labels: seen
            for labels, seen in known.items()
            if now - seen[-1][0] < INTERVAL_S * 1000 // faster * (1 if seen[-1][1] == "error" else 2)
        }
        if answer.error is not None:
            seen_now: dict[Labels, str] = {(): "error"}
        elif all(value is None for value in answer.values.values()):
            names = set(known) or set(answer.values) or {()}
            seen_now = dict.fromkeys(names, "fires" if rule.no_data == "Alerting" else "fine")
        else:
            seen_now = {
                labels: "fires" if _fires(rule, value, faster) else "fine" for labels, value in answer.values.items()
            }
        after = dict(alive)
        for labels, what in seen_now.items():
            after[labels] = [*known.get(labels, []), (now, what)]
        found.append(after)
    return found[1:]


def _expected(rule: Rule, seen: list[tuple[int, str]], faster: int) -> tuple[str, int]:
    """State and its beginning, from all that was seen of an instance: the oracle."""
    what = seen[-1][1]
    breaks = [at for at, (one, other) in enumerate(pairwise(seen), 1) if one[1] != other[1]]
    run = [now for now, _ in seen[breaks[-1] if breaks else 0 :]]
    if what != "fires":
        return {"error": "error", "fine": "normal"}[what], run[0]
    for_ms = _FOR_MS[str(rule.against.for_)] / faster
    if not for_ms:
        return "alerting", run[0]
    over = [now for now in run[1:] if now - run[0] >= for_ms]
    return ("alerting", over[0]) if over else ("pending", run[0])


@given(_HISTORIES)
def test_states_are_those_of_the_rules_of_grafana(history: tuple[Rule, list[tuple[int, Answer]], int]) -> None:
    rule, steps, faster = history
    now, looks = 0, []
    for gap_s, answer in steps:
        now += gap_s * 1000 // faster
        looks.append((now, answer))
    ringing = Ringing([rule], faster)
    known: set[Labels] = set()
    for (now, answer), episodes in zip(looks, _episodes(rule, looks, faster), strict=True):
        verdicts = ringing.look(now, {rule.uid: answer})
        found = {tuple(sorted(each.labels.items())): (each.state, each.since_ms) for each in verdicts}
        expected = {labels: _expected(rule, seen, faster) for labels, seen in episodes.items()}
        # What is forgotten is told once, as normal.
        assert found == expected | dict.fromkeys(known - set(expected), ("normal", now))
        known = set(expected)


@given(_HISTORIES)
def test_a_verdict_rings_for_a_reason_and_says_it(history: tuple[Rule, list[tuple[int, Answer]], int]) -> None:
    rule, steps, faster = history
    ringing, now = Ringing([rule], faster), 0
    for gap_s, answer in steps:
        now += gap_s * 1000 // faster
        for each in ringing.look(now, {rule.uid: answer}):
            assert each.said.endswith(".") or each.state == "error"
            assert "{{" not in each.said
            assert each.since_ms <= now
            assert each.rings == (each.state in ("alerting", "error"))
            if each.state == "error":
                assert "away" in each.said
            if each.rings and each.value is not None:
                assert _fires(rule, each.value, faster)


def _run(ringing: Ringing, *answers: Answer, uid: str = "fanpulse-lag", from_ms: int = 0) -> list[list[Verdict]]:
    return [list(ringing.look(from_ms + at * 60_000, {uid: answer})) for at, answer in enumerate(answers)]


def test_a_rule_waits_and_rings_and_is_over() -> None:
    much, little = Answer({(("topic", "gifts"),): 30_000.0}), Answer({(("topic", "gifts"),): 10.0})
    looks = _run(Ringing([_RULES["lag"]]), little, *[much] * 7, little)
    assert [(each.state, each.since_ms // 60_000) for (each,) in looks] == [
        ("normal", 0),
        *[("pending", 1)] * 5,
        *[("alerting", 6)] * 2,
        ("normal", 8),
    ]
    assert looks[6][0].said == "30k records of gifts are in Kafka and not yet in all tables."
    assert looks[6][0].labels == {"topic": "gifts"}


def test_labels_that_vanish_are_resolved_at_the_second_look_without_them() -> None:
    gifts, orders = (("topic", "gifts"),), (("topic", "orders"),)
    looks = _run(Ringing([_RULES["lag"]]), *[Answer({gifts: 30_000.0, orders: 1.0})] * 6, *[Answer({orders: 1.0})] * 3)
    states = [{each.labels["topic"]: each.state for each in look} for look in looks]
    assert states[5:] == [
        {"gifts": "alerting", "orders": "normal"},
        {"gifts": "alerting", "orders": "normal"},
        {"gifts": "normal", "orders": "normal"},
        {"orders": "normal"},
    ]


def test_a_server_that_is_away_rings_at_once_and_is_over_with_its_first_answer() -> None:
    young, old = Answer({(): 3.0}), Answer({(): 5000.0})
    looks = _run(
        Ringing([_RULES["freshness"]]),
        young,
        Answer(error="no"),
        young,
        Answer(error="no"),
        old,
        young,
        uid="fanpulse-freshness",
    )
    assert [each.state for (each,) in looks] == ["normal", "error", "normal", "error", "pending", "normal"]
    assert looks[1][0].said == "It cannot be asked: no"
    assert looks[4][0].said == "The newest event stored is 1h 23m 20s old."


def test_an_error_is_over_with_the_first_answer_of_other_labels_too() -> None:
    known = Answer({(("topic", "gifts"),): 1.0})
    looks = _run(Ringing([_RULES["lag"]]), known, Answer(error="no"), known, known)
    states = [{each.labels.get("topic"): each.state for each in look} for look in looks]
    assert states == [
        {"gifts": "normal"},
        {None: "error", "gifts": "normal"},
        {None: "normal", "gifts": "normal"},
        {"gifts": "normal"},
    ]


def test_silence_is_what_the_rule_takes_it_for() -> None:
    nothing = Answer()
    fresh = _run(Ringing([_RULES["freshness"]]), *[nothing] * 6, uid="fanpulse-freshness")
    assert [each.state for (each,) in fresh] == [*["pending"] * 5, "alerting"]
    assert fresh[5][0].value is None
    assert fresh[5][0].said == "There is no figure: its query found nothing."
    dear = Answer({(("campaign", "c"),): 99.0})
    cpm = _run(Ringing([_RULES["cpm-high"]]), *[dear] * 6, nothing, uid="fanpulse-cpm-high")
    assert [look[0].state for look in cpm[-2:]] == ["alerting", "normal"]


def test_a_drill_waits_less_and_its_ages_are_shorter() -> None:
    ringing = Ringing([_RULES["freshness"]], faster=20)
    assert ringing.interval_s == 3
    ages = [Answer({(): 29.0}), *[Answer({(): 31.0})] * 6]
    states = [ringing.look(at * 3000, {"fanpulse-freshness": age})[0].state for at, age in enumerate(ages)]
    assert states == ["normal", *["pending"] * 5, "alerting"]
    # What is counted is not divided.
    lag = Ringing([_RULES["lag"]], faster=20)
    assert lag.look(0, {"fanpulse-lag": Answer({(): 19_000.0})})[0].state == "normal"


def test_rules_are_judged_as_the_file_for_grafana_says() -> None:
    group = yaml.safe_load(files()["alerting.yaml"])["groups"][0]
    assert group["interval"] == f"{INTERVAL_S // 60}m"
    for written, rule in zip(group["rules"], RULES, strict=True):
        assert written["execErrState"] == "Error"
        assert written["noDataState"] == rule.no_data
        assert written["for"] == rule.against.for_
        assert written["for"] in _FOR_MS


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("freshness", 0.0, "The newest event stored is 0s old."),
        ("freshness", 0.12345, "The newest event stored is 123.5ms old."),
        ("freshness", 12.345, "The newest event stored is 12.35s old."),
        ("freshness", 60.5, "The newest event stored is 1m 0s old."),
        ("freshness", 90_061.0, "The newest event stored is 1d 1h 1m 1s old."),
        ("dead-letters", 11.0, "11 records of [no value] were refused in 15 minutes."),
        ("dead-letters", 1_234_567.0, "1.235M records of [no value] were refused in 15 minutes."),
        ("churn-high", 0.1234567, "12.35% of the fans of [no value] churned yesterday."),
        ("cpm-high", 61.239, "The CPM of [no value] was 61.24 yuan over an hour."),
    ],
)
def test_numbers_are_written_as_grafana_writes_them(name: str, value: float, said: str) -> None:
    rule = _RULES[name]
    assert Ringing([rule]).look(0, {rule.uid: Answer({(): value})})[0].said == said


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.uid)
def test_every_summary_can_be_filled_in(rule: Rule) -> None:
    labels: Labels = (("campaign", "cmp_1"), ("creator", "dy_1"), ("topic", "gifts"))
    said = Ringing([rule]).look(0, {rule.uid: Answer({labels: 0.5})})[0].said
    assert "{{" not in said
    assert "no value" not in said


class _Client:
    """Answers in the place of ClickHouse, in turn: rows, or what is raised. ``asked`` has the queries."""

    def __init__(self, *answers: list[dict[str, Any]] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.closed = False

    def query(self, sql: str, settings: Mapping[str, Any]) -> "_Client":
        self.asked.append(sql)
        answer = self._answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        self._rows = answer
        return self

    def named_results(self) -> list[dict[str, Any]]:
        return self._rows

    def close(self) -> None:
        self.closed = True


_NOW_MS = 1_772_582_400_000


def test_rules_are_asked_for_their_time_ranges_and_rows_become_labels() -> None:
    client = _Client([{"platform": "douyin", "campaign": "c1", "value": 5}], [{"value": None}])
    answers = ask(lambda: cast(Client, client), [_RULES["cpm-high"], _RULES["freshness"]], _NOW_MS, "UTC")
    assert answers["fanpulse-cpm-high"] == Answer({(("campaign", "c1"), ("platform", "douyin")): 5.0})
    assert answers["fanpulse-freshness"] == Answer({(): None})
    end_s = _NOW_MS // 1000
    assert f"minute >= toDateTime({end_s - 3660}) AND minute <= toDateTime({end_s - 60})" in client.asked[0]
    assert f"toDateTime({end_s - 600})" in client.asked[1]
    assert client.closed


def test_a_query_that_fails_is_its_own_rules_error() -> None:
    refused = DatabaseError("Code: 60. DB::Exception: Unknown table x. (UNKNOWN_TABLE) (version 25.1 (official build))")
    twice = [{"topic": "gifts", "value": 1}, {"topic": "gifts", "value": 2}]
    rules = [_RULES["lag"], _RULES["dead-letters"], _RULES["freshness"]]
    answers = ask(lambda: cast(Client, _Client(refused, twice, [{"value": 1}])), rules, _NOW_MS, "UTC")
    assert answers["fanpulse-lag"].error == "Unknown table x. (UNKNOWN_TABLE)"
    assert answers["fanpulse-dead-letters"].error == "its query has two rows of {'topic': 'gifts'}"
    assert answers["fanpulse-freshness"] == Answer({(): 1.0})


def test_a_server_that_goes_away_is_asked_no_more_and_is_every_rules_error() -> None:
    client = _Client([{"value": 1}], OperationalError("Error timed out executing HTTP request"))
    rules = [_RULES["freshness"], _RULES["lag"], _RULES["dead-letters"]]
    answers = ask(lambda: cast(Client, client), rules, _NOW_MS, "UTC")
    assert len(client.asked) == 2
    assert answers["fanpulse-freshness"].error is None
    assert answers["fanpulse-lag"] == answers["fanpulse-dead-letters"]
    assert "does not answer" in str(answers["fanpulse-lag"].error)

    def away() -> Client:
        raise InfraError("ClickHouse is not running in X; start it: fanpulse up")

    assert {each.error for each in ask(away, rules, _NOW_MS, "UTC").values()} == {
        "ClickHouse is not running in X; start it: fanpulse up"
    }
