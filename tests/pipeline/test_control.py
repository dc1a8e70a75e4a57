"""What a file would change of what is in force, and whether workers have taken in what was sent."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError

from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import control
from pipeline.campaign_log import CampaignChange, Message, RuleChange, Switch, decode, partition_of
from pipeline.control import (
    Deed,
    KnownCampaign,
    KnownRule,
    await_taken,
    heard_of,
    plan_campaigns,
    plan_rules,
    send,
)
from schemas.rules import Campaign, Rule, sentence

AT = datetime(2026, 3, 1, 6, tzinfo=UTC)
PARTITIONS = 4
RULE: dict[str, Any] = {
    "id": "cheap",
    "version": 2,
    "name": "Raise what is cheap",
    "owner": "lin",
    "level": "campaign",
    "when": ["cpm < 10 yuan"],
    "window": {"last": "1 hour"},
    "cool_down": "2 hours",
    "action": {"do": "budget", "by": "+20%", "ceiling": "1000 yuan"},
}
CAMPAIGN: dict[str, Any] = {
    "campaign_id": "c1",
    "platform": "douyin",
    "creator_id": "a",
    "daily_budget": "300 yuan",
    "bid": "1 yuan",
    "target_cpa": "20 yuan",
    "ad_groups": [{"ad_group_id": "g1", "bid": "0.80 yuan"}],
}
BIDDING: dict[str, Any] = {"window": {"last": "6 hours"}, "floor": "0.20 yuan", "ceiling": "5 yuan"}


def rule(**changed: Any) -> Rule:
    return Rule.model_validate({**RULE, **changed})


def campaign(**changed: Any) -> Campaign:
    return Campaign.model_validate({**CAMPAIGN, **changed})


def in_force(one: Rule, **changed: Any) -> dict[str, KnownRule]:
    return {one.id: replace(KnownRule(one, True, "lin", AT, PARTITIONS, PARTITIONS), **changed)}


def told(one: Campaign, now: Campaign | None = None, **deeds: Deed) -> dict[tuple[str, str], KnownCampaign]:
    known = KnownCampaign(one, now or one, "lin", AT, {name.replace("__", "."): deed for name, deed in deeds.items()})
    return {(one.platform, one.campaign_id): known}


def moment(at: datetime) -> str:
    return f"{at:%H:%M}"


def test_a_rule_that_is_new_is_said_as_a_sentence() -> None:
    [quiet, loud] = plan_rules([rule(), rule(id="stop", mode="act", action={"do": "pause"})], {}, PARTITIONS)
    assert (quiet.what, quiet.lines, quiet.warnings, quiet.refused) == ("added", (sentence(rule()),), (), {})
    assert loud.warnings == ("stop acts from now on: it pauses campaigns by itself",)


def test_a_change_is_said_by_field_and_wants_a_higher_version() -> None:
    after = {"action": {"do": "budget", "by": "+25%", "ceiling": "1000 yuan"}}
    [step] = plan_rules([rule(**after)], in_force(rule()), PARTITIONS)
    assert (step.what, step.lines) == ("changed", ("action.by: +20% -> +25%",))
    assert step.refused == {("version",): "it is changed, and its version is not raised; write `version: 3`"}
    [step] = plan_rules([rule(**after, version=3)], in_force(rule()), PARTITIONS)
    assert (step.lines, step.refused) == (("version: 2 -> 3", "action.by: +20% -> +25%"), {})
    [step] = plan_rules([rule(version=1)], in_force(rule()), PARTITIONS)
    assert step.refused == {("version",): "it is changed, and its version is not raised; write `version: 3`"}


def test_a_rule_that_begins_to_act_is_said_loudly_once() -> None:
    def warnings(before: dict[str, Any], after: dict[str, Any], **known: Any) -> tuple[str, ...]:
        [step] = plan_rules([rule(**after, version=3)], in_force(rule(**before), **known), PARTITIONS)
        return step.warnings

    loud = ("cheap acts from now on: it changes daily budgets by itself",)
    tell = {"mode": "notify", "notify": ["ads-ops"]}
    assert warnings({}, {"mode": "act"}) == warnings(tell, {"mode": "act"}) == loud
    assert warnings({"mode": "act"}, {"mode": "act"}) == warnings({"mode": "act"}, {}) == warnings({}, tell) == ()
    assert warnings({"mode": "act"}, {"mode": "act"}, enabled=False) == loud


def test_a_rule_that_is_off_stays_off_unless_it_is_changed() -> None:
    off = in_force(rule(), enabled=False)
    [step] = plan_rules([rule()], off, PARTITIONS)
    assert (step.what, step.lines) == ("unchanged", ("it is switched off, and stays so",))
    [step] = plan_rules([rule(version=3)], off, PARTITIONS)
    assert step.lines == ("version: 2 -> 3", "it is switched off -> on")


@given(having=st.integers(1, PARTITIONS), switched=st.integers(1, PARTITIONS), raised=st.integers(0, 2))
def test_what_was_cut_off_is_completed_by_the_same_file(having: int, switched: int, raised: int) -> None:
    known = in_force(rule(), having=having, switched=switched)
    assert known["cheap"].everywhere(PARTITIONS) == (having == switched == PARTITIONS)
    [step] = plan_rules([rule(version=2 + raised)], known, PARTITIONS)
    whole = "unchanged" if having == PARTITIONS else "unfinished"
    assert (step.what, step.refused) == ("changed" if raised else whole, {})
    if step.what == "unfinished":
        assert step.lines == (f"only {having} of 4 partitions have it",)


def test_what_rules_made_of_a_campaign_is_said() -> None:
    now = campaign(
        daily_budget="360 yuan", state="paused", bid="1.10 yuan", ad_groups=[{"ad_group_id": "g1", "bid": "0.72 yuan"}]
    )
    known = told(
        campaign(),
        now,
        daily_budget=Deed("raise-cheap", AT),
        bid=Deed("target_cpa", AT),
        ad_groups__g1__bid=Deed("cut", AT),
    )
    [step] = plan_campaigns([campaign(target_cpa="25 yuan")], known, moment)
    assert (step.name, step.what, step.lines) == (
        "douyin:c1",
        "changed",
        (
            "state: paused -> active",
            "daily_budget: 360.00 yuan (rule raise-cheap, 06:00) -> 300.00 yuan",
            "bid: 1.10 yuan (bidding, 06:00) -> 1.00 yuan",
            "target_cpa: 20.00 yuan -> 25.00 yuan",
            "ad_groups.g1.bid: 0.72 yuan (rule cut, 06:00) -> 0.80 yuan",
        ),
    )
    assert [each.what for each in plan_campaigns([now], known, moment)] == ["unchanged"]


def test_a_campaign_that_is_new_is_said_in_a_line() -> None:
    [one, other] = plan_campaigns(
        [campaign(), Campaign(campaign_id="c:2", platform="kuaishou", creator_id="b", state="paused")], {}, moment
    )
    assert (one.what, one.lines) == (
        "added",
        ("active, daily budget 300.00 yuan, bid 1.00 yuan, target CPA 20.00 yuan; 1 ad group",),
    )
    assert (other.name, other.lines) == ("kuaishou:c%3A2", ("paused; 0 ad groups",))


def test_bidding_that_is_changed_wants_a_higher_version_and_is_said_loudly() -> None:
    def groups(**bidding: Any) -> list[dict[str, Any]]:
        return [{"ad_group_id": "g1", "bid": "0.80 yuan", "bidding": {**BIDDING, **bidding}}]

    loud = "bidding acts from now on: it moves the bid by itself"
    [step] = plan_campaigns([campaign(bidding={**BIDDING, "mode": "act"})], {}, moment)
    assert step.warnings == (f"douyin:c1: {loud}",)
    before = told(campaign(bidding=BIDDING, ad_groups=groups()))
    [step] = plan_campaigns([campaign(bidding=BIDDING, ad_groups=groups(mode="act"))], before, moment)
    assert step.warnings == (f"ad group g1 of douyin:c1: {loud}",)
    assert list(step.refused) == [("ad_groups", 0, "bidding", "version")]
    [step] = plan_campaigns([campaign(bidding={**BIDDING, "version": 2, "mode": "act"})], before, moment)
    assert (step.warnings, step.refused) == ((f"douyin:c1: {loud}",), {})


class Producer:
    """Kafka takes what is sent to some partitions."""

    def __init__(self, fails: int | None) -> None:
        self.sent: list[tuple[str, Message, int]] = []
        self._fails = fails

    def send(self, topic: str, value: bytes, partition: int) -> Any:
        self.sent.append((topic, decode(value), partition))

        def get(timeout: float) -> Any:
            if partition == self._fails:
                raise KafkaTimeoutError("no\n answer")
            return SimpleNamespace(partition=partition, offset=100 + partition)

        return SimpleNamespace(get=get)

    def close(self, timeout: float) -> None:
        """Has nothing to close."""


@pytest.mark.parametrize("fails", [None, 2])
def test_a_change_is_sent_to_every_partition(fails: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer(fails)
    monkeypatch.setattr(control, "ensure_topics", lambda settings: [])
    monkeypatch.setattr(control, "kafka_producer", lambda settings, **options: producer)
    change = RuleChange("d", "lin", (rule(),))
    if fails is None:
        assert send(Settings(topic_prefix="t."), change) == {(number, 100 + number) for number in range(PARTITIONS)}
    else:
        with pytest.raises(
            FanpulseError, match=r"in 3 of 4 partitions \(KafkaTimeoutError: no answer\); when"
        ) as error:
            send(Settings(topic_prefix="t."), change)
        assert error.value.exit_code == 1
    assert producer.sent == [("t.campaign_facts", change, number) for number in range(PARTITIONS)]


class Database:
    """Says what was taken in, one more at every look."""

    def __init__(self, *taken: tuple[int, int]) -> None:
        self.taken = taken
        self.looks = 0
        self.asked: list[str] = []

    def query(self, query: str, parameters: dict[str, Any]) -> Any:
        self.asked.append(query)
        wanted = set(zip(parameters["partitions"], parameters["offsets"], strict=True))
        self.looks += 1
        found = [place for place in self.taken[: self.looks] if place in wanted]
        return type("Result", (), {"result_rows": found})


@pytest.mark.parametrize(
    ("taken", "patience", "found", "looks"),
    [
        ([(0, 5), (1, 7)], 10.0, [1, 2], 2),
        ([(0, 5)], 1.0, [1, 1, 1], 3),
        ([], 1.0, [0, 0, 0], 3),
        ([(0, 4), (1, 7)], 0.0, [0], 1),
    ],
)
def test_workers_are_waited_for_as_long_as_they_may_take(
    taken: list[tuple[int, int]], patience: float, found: list[int], looks: int
) -> None:
    now, reports = [0.0], list[int]()
    database = Database(*taken)
    change = Switch("d", "lin", "cheap", False)
    number = await_taken(
        cast(Client, database),
        change,
        frozenset({(0, 5), (1, 7)}),
        reports.append,
        patience,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + 0.5),
    )
    assert (number, reports, database.looks) == (found[-1], found, looks)
    assert all("rule_changes" in query for query in database.asked)


@given(st.sets(st.sampled_from([f"c{number}" for number in range(20)]), min_size=1))
def test_a_change_of_campaigns_is_heard_of_in_their_partitions_only(names: set[str]) -> None:
    sent = frozenset((partition, 10 + partition) for partition in range(PARTITIONS))
    change = CampaignChange("d", "lin", tuple(campaign(campaign_id=name) for name in names))
    own = {partition_of("douyin", name, PARTITIONS) for name in names}
    assert heard_of(change, sent, PARTITIONS) == {(partition, 10 + partition) for partition in own}
    assert heard_of(RuleChange("d", "lin", (rule(),)), sent, PARTITIONS) == sent
