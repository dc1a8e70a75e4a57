"""What people tell the agent of rules: what is in force, what a file would change of it, and the messages that do so.

A change is a message in every partition of the campaign log. It holds in each from there on, so it may be sent again,
and one that was cut off between two partitions is completed by sending it again.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

import orjson
from clickhouse_connect.driver.client import Client
from kafka.errors import KafkaError
from pydantic import BaseModel, ValidationError

from infra.connect import kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.topics import ensure_topics
from pipeline.campaign_log import TOPIC, CampaignChange, RuleChange, Switch, encode, partition_of
from pipeline.rules import Key
from schemas.quantities import show_money
from schemas.rules import TARGET_CPA, Bidding, Campaign, Rule, sentence
from schemas.written import Difference, differences
from schemas.yaml_file import Place

PATIENCE = 10.0
"""Seconds in which workers that run have taken in a change."""
_LOOK = 0.2
_ANSWER_S = 30.0

Model = TypeVar("Model", bound=BaseModel)
Change = RuleChange | Switch | CampaignChange


@dataclass(frozen=True, slots=True)
class KnownRule:
    """A rule as it is now. ``having``: partitions of the campaign log in which it is this one, ``switched``: in which
    it is on or off as here; fewer than all while a change is under way, or after one that was cut off."""

    rule: Rule
    enabled: bool
    changed_by: str
    changed_at: datetime
    having: int
    switched: int

    def everywhere(self, partitions: int) -> bool:
        """Whether all partitions say the same."""
        return min(self.having, self.switched) >= partitions


@dataclass(frozen=True, slots=True)
class Deed:
    """What a rule did last to a budget, bid or state: ``at`` is when its window closed."""

    rule_id: str
    at: datetime

    def said(self, moment: Callable[[datetime], str]) -> str:
        """Who it was, and when; ``moment`` writes that."""
        who = "bidding" if self.rule_id == TARGET_CPA else f"rule {self.rule_id}"
        return f"{who}, {moment(self.at)}"


@dataclass(frozen=True, slots=True)
class KnownCampaign:
    """A campaign as it is now. ``told``: as people told it; ``now``: with what rules made of it since. ``deeds``: which
    rules did that, by field, such as ``daily_budget`` or ``ad_groups.ag_1.bid``."""

    told: Campaign
    now: Campaign
    changed_by: str
    changed_at: datetime
    deeds: Mapping[str, Deed]


@dataclass(frozen=True, slots=True)
class Step:
    """What a file would change of one rule or campaign. ``lines`` say it; ``warnings``: what is to be said loudly;
    ``refused``: why it may not be, by the place in the rule or campaign. ``unfinished``: it is as the file says, but
    not in all partitions."""

    name: str
    what: Literal["added", "changed", "unchanged", "unfinished"]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: Mapping[Place, str] = field(default_factory=dict)


def plan_rules(found: Iterable[Rule], known: Mapping[str, KnownRule], partitions: int) -> list[Step]:
    """What a file of rules would change. A rule that says something else must have a higher version."""
    return [_plan_rule(rule, known.get(rule.id), partitions) for rule in found]


def plan_campaigns(
    found: Iterable[Campaign], known: Mapping[tuple[str, str], KnownCampaign], moment: Callable[[datetime], str]
) -> list[Step]:
    """What a file of campaigns would change; ``moment`` writes one. What rules changed meanwhile is said so. Bidding
    that says something else must have a higher version."""
    return [_plan_campaign(each, known.get((each.platform, each.campaign_id)), moment) for each in found]


def _plan_rule(rule: Rule, known: KnownRule | None, partitions: int) -> Step:
    warnings = acting(rule)
    if known is None:
        return Step(rule.id, "added", (sentence(rule),), warnings)
    before = known.rule
    told = differences(before, rule)
    if not told:
        if known.having >= partitions:
            return Step(rule.id, "unchanged", () if known.enabled else ("it is switched off, and stays so",))
        cut_off = f"only {known.having} of {partitions} partitions have it"
        return Step(rule.id, "unfinished", (cut_off, *_switched_on(known)), warnings)
    lines = (*(str(one) for one in told), *_switched_on(known))
    acted = before.mode == "act" and known.enabled
    return Step(rule.id, "changed", lines, () if acted else warnings, _not_raised(before.version, rule.version, ()))


def _plan_campaign(campaign: Campaign, known: KnownCampaign | None, moment: Callable[[datetime], str]) -> Step:
    name = str(Key(campaign.platform, campaign.campaign_id))
    own = _bidding(campaign)
    before = {} if known is None else {each.id: each.bidding for each in _bidding(known.now)}
    warnings: list[str] = []
    refused: dict[Place, str] = {}
    for each in own:
        then = before.get(each.id)
        if each.bidding.mode == "act" and (then is None or then.mode != "act"):
            of = f"ad group {each.id} of {name}" if each.id else name
            warnings.append(f"{of}: bidding acts from now on: it moves the bid by itself")
        if then is not None and then != each.bidding:
            refused |= _not_raised(then.version, each.bidding.version, each.place)
    if known is None:
        return Step(name, "added", (_said(campaign),), tuple(warnings))
    told = differences(known.now, campaign)
    lines = tuple(_with_deed(one, known.deeds.get(one.field), moment) for one in told)
    return Step(name, "changed" if told else "unchanged", lines, tuple(warnings), refused)


class _Bidding(NamedTuple):
    """Bidding of a campaign (``id`` is empty) or an ad group of one, and where it stands there."""

    id: str
    bidding: Bidding
    place: Place


def _bidding(campaign: Campaign) -> list[_Bidding]:
    found = [_Bidding("", campaign.bidding, ("bidding",))] if campaign.bidding is not None else []
    for number, group in enumerate(campaign.ad_groups):
        if group.bidding is not None:
            found.append(_Bidding(group.ad_group_id, group.bidding, ("ad_groups", number, "bidding")))
    return found


def _not_raised(before: int, after: int, place: Place) -> dict[Place, str]:
    """Why a change may not be that leaves the version as it was."""
    if after > before:
        return {}
    return {(*place, "version"): f"it is changed, and its version is not raised; write `version: {before + 1}`"}


def _switched_on(known: KnownRule) -> tuple[str, ...]:
    return () if known.enabled else ("it is switched off -> on",)


def acting(rule: Rule) -> tuple[str, ...]:
    """What somebody should hear before the rule is switched on."""
    if rule.mode != "act":
        return ()
    does = {
        "budget": "changes daily budgets",
        "bid": "changes bids",
        "pause": f"pauses {_MANY[rule.level]}",
        "resume": f"resumes {_MANY[rule.level]}",
    }[rule.action.do]
    return (f"{rule.id} acts from now on: it {does} by itself",)


_MANY = {"campaign": "campaigns", "ad_group": "ad groups"}


def _said(campaign: Campaign) -> str:
    """A campaign in a line."""
    amounts = {
        "daily budget": campaign.daily_budget,
        "total budget": campaign.total_budget,
        "bid": campaign.bid,
        "target CPA": campaign.target_cpa,
    }
    said = [campaign.state, *(f"{name} {show_money(each)}" for name, each in amounts.items() if each is not None)]
    groups = len(campaign.ad_groups)
    return f"{', '.join(said)}; {groups} {'ad group' if groups == 1 else 'ad groups'}"


def _with_deed(one: Difference, deed: Deed | None, moment: Callable[[datetime], str]) -> str:
    if deed is None:
        return str(one)
    return f"{one.field}: {one.before} ({deed.said(moment)}) -> {one.after}"


def read_rules(client: Client) -> dict[str, KnownRule]:
    """All rules that are known, by id.

    Raises:
        FanpulseError: one of them was told by another version of fanpulse.
    """
    held: dict[str, list[tuple[str, int]]] = {}
    for rule_id, text, enabled in client.query(_HELD).result_rows:
        held.setdefault(rule_id, []).append((text, enabled))
    found = {}
    for rule_id, text, enabled, by, at in client.query(_RULES).result_rows:
        own = held[rule_id]
        having, switched = sum(one == text for one, _ in own), sum(one == enabled for _, one in own)
        rule = _read(Rule, text, f"rule {rule_id}")
        found[rule_id] = KnownRule(rule, bool(enabled), by, at.replace(tzinfo=UTC), having, switched)
    return found


_HELD = """
SELECT rule_id, argMax(text, applied), argMax(enabled, applied)
FROM rule_changes
GROUP BY rule_id, partition
"""
_RULES = "SELECT rule_id, text, enabled, changed_by, changed_at FROM rules ORDER BY rule_id"


@dataclass(frozen=True, slots=True)
class RuleEdit:
    """A change of a rule: as it was from then on. ``rule`` is None where another version of fanpulse told it."""

    rule: Rule | None
    version: int
    enabled: bool
    by: str
    at: datetime


def read_history(client: Client, rule_id: str) -> list[RuleEdit]:
    """Changes of a rule, oldest first, without what was only sent again."""
    by_partition: dict[int, list[Any]] = {}
    for partition, *row in client.query(_HISTORY, parameters={"rule_id": rule_id}).result_rows:
        by_partition.setdefault(partition, []).append(row)
    told = max(by_partition.values(), key=len, default=[])
    found: list[RuleEdit] = []
    before = None
    for version, text, enabled, by, at in told:
        if (text, enabled) != before:
            try:
                rule: Rule | None = _read(Rule, text, rule_id)
            except FanpulseError:
                rule = None
            found.append(RuleEdit(rule, version, bool(enabled), by, at.replace(tzinfo=UTC)))
        before = text, enabled
    return found


_HISTORY = """
SELECT partition, version, text, enabled, changed_by, changed_at
FROM rule_changes FINAL
WHERE rule_id = {rule_id:String}
ORDER BY partition, applied
"""


def read_campaigns(client: Client) -> dict[tuple[str, str], KnownCampaign]:
    """All campaigns that people told, by platform and id.

    Raises:
        FanpulseError: one of them was told by another version of fanpulse.
    """
    now = {Key(*row[:3]): row[3:] for row in client.query(_NOW).result_rows}
    deeds = {
        (Key(*row[:3]), row[3]): Deed(row[4], row[5].replace(tzinfo=UTC)) for row in client.query(_DEEDS).result_rows
    }
    found = {}
    for platform, campaign_id, text, by, at in client.query(_TOLD).result_rows:
        told = _read(Campaign, text, f"campaign {platform}:{campaign_id}")
        changed, done = _as_now(told, now, deeds)
        found[platform, campaign_id] = KnownCampaign(told, changed, by, at.replace(tzinfo=UTC), done)
    return found


_NOW = "SELECT platform, campaign_id, ad_group_id, state, daily_budget_micros, bid_micros FROM campaigns WHERE told = 1"
_DEEDS = """
SELECT
    platform,
    campaign_id,
    ad_group_id,
    multiIf(action = 'budget', 'daily_budget', action = 'bid', 'bid', 'state') AS field,
    argMax(rule_id, closed_at),
    max(closed_at)
FROM budget_actions
WHERE fold_version = 1
GROUP BY platform, campaign_id, ad_group_id, field
"""
_TOLD = """
SELECT
    platform,
    campaign_id,
    argMax(text, applied),
    argMax(changed_by, applied),
    max(changed_at)
FROM campaign_changes
GROUP BY platform, campaign_id
ORDER BY platform, campaign_id
"""


def _as_now(
    told: Campaign, now: Mapping[Key, Sequence[Any]], deeds: Mapping[tuple[Key, str], Deed]
) -> tuple[Campaign, dict[str, Deed]]:
    """The campaign with what rules made of it, and which did."""
    key, done = Key(told.platform, told.campaign_id), {}

    def changes(model: Model, key: Key, place: str) -> Model:
        update: dict[str, Any] = {}
        for name, value in zip(("state", "daily_budget", "bid"), now.get(key, ()), strict=False):
            if value != getattr(model, name):
                update[name] = value
                if deed := deeds.get((key, name)):
                    done[place + name] = deed
        return model.model_copy(update=update)

    groups = tuple(
        changes(each, key._replace(ad_group_id=each.ad_group_id), f"ad_groups.{each.ad_group_id}.")
        for each in told.ad_groups
    )
    return changes(told, key, "").model_copy(update={"ad_groups": groups}), done


def _read(model: type[Model], text: str, name: str) -> Model:
    try:
        return model.model_validate(orjson.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise FanpulseError(
            f"{name} cannot be read ({where}: {first['msg']}): it was told by another version of fanpulse; use that one"
        ) from None


Sent = frozenset[tuple[int, int]]
"""Partitions of the campaign log, and the offsets of a change in them."""


def send(settings: Settings, change: Change) -> Sent:
    """Sends a change to every partition of the campaign log, and waits until the broker has it in all of them.

    Raises:
        FanpulseError: it has it in some of them only; sending again mends that.
    """
    ensure_topics(settings)
    value, took, failure = encode(change), set(), None
    producer = kafka_producer(settings, linger_ms=0, max_block_ms=int(_ANSWER_S * 1000))
    try:
        sent = [
            producer.send(settings.topic_prefix + TOPIC, value, partition=partition)
            for partition in range(settings.partitions)
        ]
        for each in sent:
            try:
                at = each.get(timeout=_ANSWER_S)
                took.add((int(at.partition), int(at.offset)))
            except KafkaError as error:
                failure = error
    except KafkaError as error:
        failure = error
    finally:
        with contextlib.suppress(KafkaError):
            producer.close(timeout=5)
    if failure is not None:
        said = " ".join(str(failure).split())[:200] or type(failure).__name__
        raise FanpulseError(
            f"Kafka took the change in {len(took)} of {settings.partitions} partitions ({said}); when it is back, run "
            "the same command again: it completes what is missing",
            exit_code=1,
        )
    return frozenset(took)


def heard_of(change: Change, sent: Sent, partitions: int) -> Sent:
    """Of a change that was sent, where it leaves a row: one of campaigns in their partitions only."""
    if not isinstance(change, CampaignChange):
        return sent
    own = {partition_of(each.platform, each.campaign_id, partitions) for each in change.campaigns}
    return frozenset(place for place in sent if place[0] in own)


def await_taken(
    client: Client,
    change: Change,
    wanted: Sent,
    report: Callable[[int], None] = lambda taken: None,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Waits until workers have taken a change in.

    Args:
        wanted: where it leaves a row.
        report: is told in how many partitions they have.
        patience: seconds to wait at most.

    Returns:
        in how many partitions they have.
    """
    table = "campaign_changes" if isinstance(change, CampaignChange) else "rule_changes"
    end = clock() + patience
    while True:
        taken = len(wanted & _taken(client, table, wanted))
        report(taken)
        if taken == len(wanted) or clock() >= end:
            return taken
        sleep(_LOOK)


def _taken(client: Client, table: str, wanted: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    places = sorted(wanted)
    rows = client.query(
        f"SELECT DISTINCT partition, applied FROM {table} WHERE (partition, applied) IN (SELECT arrayJoin(arrayZip("
        "{partitions:Array(UInt16)}, {offsets:Array(Int64)})))",
        parameters={"partitions": [each for each, _ in places], "offsets": [each for _, each in places]},
    ).result_rows
    return {(int(partition), int(applied)) for partition, applied in rows}
