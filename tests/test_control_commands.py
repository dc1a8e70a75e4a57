"""``fanpulse rules`` and ``fanpulse campaigns`` as a user puts rules in force and asks why: what is sent, what is said.

No worker runs: the tests take in what was sent, and decide, as agent ``rules`` does."""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import orjson
import pytest
import yaml
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer, TopicPartition

from fanpulse import control
from fanpulse.cli import main
from infra.connect import clickhouse_client, kafka_options
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.stack import Stack
from infra.topics import ensure_topics
from pipeline.campaign_log import (
    TOPIC,
    CampaignChange,
    Message,
    RuleChange,
    Switch,
    decode,
    partition_of,
)
from pipeline.campaign_log import text as canonical
from pipeline.control import (
    Change,
    Deed,
    KnownCampaign,
    KnownRule,
    Sent,
    plan_campaigns,
    plan_rules,
    send,
)
from pipeline.migrate import migrate
from pipeline.rules import entities
from schemas.rule_files import read_rules
from schemas.rules import Campaign, Rule, sentence

Run = Callable[..., tuple[int, list[str], list[str]]]
Records = list[tuple[int, int, datetime, Message]]
RULES = """\
rules:
  - id: cheap
    version: 1
    name: Raise what is cheap
    owner: lin
    level: campaign
    when: [cpm < 10 yuan]
    window: {last: 1 hour}
    guards: {impressions: 600}
    cool_down: 2 hours
    action: {do: budget, by: +20%, ceiling: 1000 yuan, daily_cap: 40%}
  - id: idle
    name: Pause what brings nothing
    owner: lin
    mode: act
    level: ad_group
    scope: {platforms: [douyin]}
    when: [conversions < 1]
    window: {last: 3 hours}
    guards: {spend: 100 yuan}
    action: {do: pause}
"""
CAMPAIGNS = """\
campaigns:
  - campaign_id: c1
    platform: douyin
    creator_id: a
    daily_budget: 300 yuan
    ad_groups:
      - {ad_group_id: g1, bid: 0.80 yuan}
  - {campaign_id: c2, platform: kuaishou, creator_id: b, state: paused}
"""


def sent(settings: Settings) -> Records:
    """All of the campaign log: partition, offset, append time, message."""
    name = settings.topic_prefix + TOPIC
    with contextlib.closing(KafkaConsumer(**kafka_options(settings), auto_offset_reset="earliest")) as consumer:
        places = [TopicPartition(name, partition) for partition in range(settings.partitions)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        found: Records = []
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=200).values():
                for each in records:
                    at = datetime.fromtimestamp(each.timestamp / 1000, UTC)
                    found.append((each.partition, each.offset, at, decode(each.value)))
    return sorted(found, key=lambda each: each[:2])


RULE_COLUMNS = [
    "rule_id", "partition", "applied", "version", "name", "owner", "mode", "level", "enabled", "sentence", "text",
    "changed_by", "changed_at",
]  # fmt: skip
CAMPAIGN_COLUMNS = ["platform", "campaign_id", "partition", "applied", "text", "changed_by", "changed_at"]
STATE_COLUMNS = [
    "partition",
    "kind",
    "platform",
    "campaign_id",
    "ad_group_id",
    "numbers",
    "text",
    "fold_version",
    "applied",
]


class Agent:
    """Stores what agent ``rules`` would store of changes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: dict[tuple[int, str], Rule] = {}

    def take_in(self, records: Records) -> None:
        rules: list[list[Any]] = []
        campaigns: list[list[Any]] = []
        state: list[list[Any]] = []
        partitions = self._settings.partitions
        for partition, offset, at, message in records:
            match message:
                case RuleChange(_, by, found):
                    for rule in found:
                        self._held[partition, rule.id] = rule
                        rules.append(_row(rule, True, partition, offset, at, by))
                case Switch(_, by, rule_id, enabled):
                    rules.append(_row(self._held[partition, rule_id], enabled, partition, offset, at, by))
                case CampaignChange(_, by, told):
                    own = [c for c in told if partition_of(c.platform, c.campaign_id, partitions) == partition]
                    campaigns += [[c.platform, c.campaign_id, partition, offset, canonical(c), by, at] for c in own]
                    for each in entities(own):
                        numbers = [each.daily_budget, each.total_budget, each.bid, each.target_cpa, each.created_at, 1]
                        text = orjson.dumps({"creator_id": each.creator_id, "state": each.state}).decode()
                        state.append([partition, "entity", *each.key, numbers, text, 1, offset])
        with contextlib.closing(clickhouse_client(self._settings)) as client:
            for table, rows, columns in (
                ("rule_changes", rules, RULE_COLUMNS),
                ("campaign_changes", campaigns, CAMPAIGN_COLUMNS),
                ("rule_state", state, STATE_COLUMNS),
            ):
                if rows:
                    client.insert(table, rows, column_names=columns)

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on what a command sends is taken in at once."""

        def both(settings: Settings, change: Change) -> Sent:
            places = send(settings, change)
            at = datetime.now(UTC)
            self.take_in([(partition, offset, at, change) for partition, offset in sorted(places)])
            return places

        monkeypatch.setattr(control, "send", both)


def _row(rule: Rule, enabled: bool, partition: int, offset: int, at: datetime, by: str) -> list[Any]:
    told = [rule.version, rule.name, rule.owner, rule.mode, rule.level, enabled, sentence(rule), canonical(rule)]
    return [rule.id, partition, offset, *told, by, at]


DECISION_COLUMNS = [
    "key", "rule_id", "platform", "campaign_id", "ad_group_id", "closed_at", "rule_version", "mode", "window_start",
    "window_end", "action", "outcome", "reason", "metrics", "metric_values", "guards", "guard_wants", "guard_found",
    "guard_holds", "before_micros", "after_micros", "fold_version", "applied",
]  # fmt: skip
ACTION_COLUMNS = [
    "key", "rule_id", "platform", "campaign_id", "ad_group_id", "closed_at", "action", "before_micros", "after_micros",
    "fold_version", "applied",
]  # fmt: skip


@pytest.fixture(scope="module")
def migrated(stack: Stack) -> Iterator[Settings]:
    """A database for all tests here: to make one takes longer than any of them."""
    own = Settings(home=stack.home.path, database=f"fanpulse_{secrets.token_hex(4)}")
    migrate(own)
    yield own
    with contextlib.closing(clickhouse_client(own, database="system")) as client:
        client.command(f"DROP DATABASE IF EXISTS {own.database} SYNC")


@pytest.fixture
def here(migrated: Settings) -> Settings:
    """Topics of the test's own, and a database in which nothing is in force."""
    own = migrated.model_copy(update={"topic_prefix": f"t{secrets.token_hex(4)}."})
    ensure_topics(own)
    with contextlib.closing(clickhouse_client(own)) as client:
        for table in ("rule_changes", "campaign_changes", "rule_state", "rule_decisions", "budget_actions"):
            client.command(f"TRUNCATE TABLE {table}")
    return own


@pytest.fixture
def run(here: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process: exit code, lines of standard output and of errors. It waits for nobody."""
    for name in ("home", "database", "topic_prefix"):
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(getattr(here, name)))
    monkeypatch.setattr(control, "PATIENCE", 0.0)

    def call(*arguments: object) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out.splitlines(), error.splitlines()

    return call


NOBODY = (
    "sent; no worker has taken it in yet: it holds as soon as one does (fanpulse worker), and need not be sent again"
)
ACTING = RULES.replace("version: 1", "version: 2\n    mode: act")


@pytest.mark.stack
def test_rules_are_put_in_force_in_every_partition(
    run: Run, here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.yaml"
    apply = ("rules", "apply", file, "--by", "lin")
    file.write_text(RULES, encoding="utf-8")
    assert run("rules", "list") == (0, ["no rule is in force; fanpulse rules apply FILE puts some in force"], [])
    code, planned, _ = run(*apply, "--dry-run")
    assert (code, planned[-1], sent(here)) == (0, "nothing is sent: a dry run", [])

    # Sent, though nobody reads it; and sent again, which changes nothing.
    code, out, error = run(*apply)
    assert (code, out, error) == (0, [*planned[:-1], f"2 rules: {NOBODY}"], [])
    assert out[0] == "cheap  added"
    assert out[3].endswith("pause it; at most 3 times a day. It acts.")
    assert out[4] == "! idle acts from now on: it pauses ad groups by itself"
    assert run(*apply)[1] == out
    found = sent(here)
    assert [partition for partition, *_ in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    (told,) = {message for *_, message in found}
    assert told == RuleChange(here.database, "lin", read_rules(file, "Asia/Shanghai"))
    agent = Agent(here)
    agent.take_in(found)
    assert run(*apply) == (0, ["cheap  unchanged", "idle  unchanged", "nothing is to be changed"], [])

    # A change wants a higher version; then it is shown by field, and said loudly if the rule begins to act.
    file.write_text(RULES.replace("+20%", "+25%"), encoding="utf-8")
    code, out, error = run(*apply)
    assert (code, out) == (2, ["cheap  changed", "  action.by: +20% -> +25%", "idle  unchanged"])
    wrong = "it is changed, and its version is not raised; write `version: 2`"
    assert error == [f"fanpulse: {file}:3: rules[1].version: cheap: {wrong}", "fanpulse: nothing is sent"]
    file.write_text(ACTING.partition("  - id: idle")[0], encoding="utf-8")
    changed = ["cheap  changed", "  version: 1 -> 2", "  mode: dry_run -> act"]
    loud = "! cheap acts from now on: it changes daily budgets by itself"
    rest = ["idle  in force, and not in rules.yaml: left alone", loud]
    code, out, error = run(*apply)
    assert (code, out, error) == (0, [*changed, *rest, f"1 rule: {NOBODY}"], [])

    # Cut off: two partitions have it. The same command completes it.
    agent.take_in([each for each in sent(here) if each[0] < 2])
    assert run("rules", "list")[1][-1].startswith("cheap: only 2 of 4 partitions have this version; if it was cut off")
    agent.listen(monkeypatch)
    code, out, _ = run(*apply)
    assert (code, out) == (
        0,
        ["cheap  unfinished", "  only 2 of 4 partitions have it", *rest, "1 rule: sent, and in force"],
    )

    # Off and on.
    assert run("rules", "disable", "cheap", "--by", "mei")[:2] == (0, ["cheap off: sent, and in force"])
    assert run("rules", "disable", "cheap")[:2] == (0, ["cheap is off already"])
    assert {message for *_, message in sent(here)[-1:]} == {Switch(here.database, "mei", "cheap", False)}
    code, out, _ = run("rules", "list")
    assert [line.split()[:6] for line in out] == [
        ["RULE", "VERSION", "MODE", "SWITCHED", "LAST", "FIRING"],
        ["cheap", "2", "act", "off", "-", "0"],
        ["idle", "1", "act", "on", "-", "0"],
    ]
    code, out, _ = run("rules", "show", "cheap")
    assert (code, out[0]) == (0, "cheap, version 2, act, switched off")
    assert [line.partition("  ")[2] for line in out[-3:]] == [
        "lin: version 1", "lin: version: 1 -> 2; mode: dry_run -> act", "mei: switched off"
    ]  # fmt: skip
    shown = tmp_path / "shown.yaml"
    shown.write_text("\n".join(out[out.index("rules:") : -4]) + "\n", encoding="utf-8")
    assert read_rules(shown, "UTC") == read_rules(file, "Asia/Shanghai")
    assert run("rules", "enable", "cheap")[:2] == (0, [loud, "cheap on: sent, and in force"])
    assert run("rules", "enable", "chep") == (2, [], ["fanpulse: no rule chep is in force; did you mean cheap?"])
    assert json.loads("\n".join(run("rules", "list", "--json")[1]))[0]["everywhere"]


@pytest.mark.stack
def test_campaigns_are_told_and_decisions_are_explained(
    run: Run, here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, campaigns = tmp_path / "rules.yaml", tmp_path / "campaigns.yaml"
    rules.write_text(ACTING, encoding="utf-8")
    campaigns.write_text(CAMPAIGNS, encoding="utf-8")
    Agent(here).listen(monkeypatch)
    assert run("campaigns", "list")[1] == ["no campaign is known; fanpulse campaigns apply FILE tells of some"]
    assert run("rules", "apply", rules)[0] == 0
    code, out, _ = run("campaigns", "apply", campaigns, "--by", "lin")
    assert (code, out) == (
        0,
        [
            "douyin:c1  added",
            "  active, daily budget 300.00 yuan; 1 ad group",
            "kuaishou:c2  added",
            "  paused; 0 ad groups",
            "2 campaigns: sent, and in force",
        ],
    )
    assert run("campaigns", "apply", campaigns)[1][-1] == "nothing is to be changed"
    code, out, _ = run("rules", "why", "cheap", "c1")
    assert (code, out) == (
        1,
        [
            "cheap has decided nothing of douyin:c1 yet: no window of it has closed since it is in force, or no worker "
            "runs (fanpulse worker)"
        ],
    )
    assert run("rules", "why", "idle", "c2")[1][0].endswith("it is only for douyin")
    assert run("rules", "why", "cheap", "c1", "--ad-group", "g1")[1][0].endswith("leave out --ad-group")
    code, _, error = run("rules", "why", "idle", "c1", "--ad-group", "g2")
    assert (code, error) == (2, ["fanpulse: no ad group g2 of douyin:c1 is known; did you mean g1?"])

    # Two windows: a firing, and none for want of impressions.
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    closings = [now - timedelta(hours=1), now]
    outcomes = [
        ("fired", "", [5_000_000], 1000, 300_000_000, 360_000_000),
        ("skipped", "guards", [None], 0, None, None),
    ]
    decisions = [
        [
            f"cheap:douyin:c1:{number}", "cheap", "douyin", "c1", "", at, 2, "act", at - timedelta(hours=1), at,
            "budget", outcome, reason, ["cpm"], figures, ["impressions"], [600], [found], [found >= 600], before, after,
            1, number,
        ]
        for number, (at, (outcome, reason, figures, found, before, after)) in enumerate(
            zip(closings, outcomes, strict=True)
        )
    ]  # fmt: skip
    action = ["cheap:douyin:c1:0", "cheap", "douyin", "c1", "", closings[0], "budget", 300_000_000, 360_000_000, 1, 0]
    home = partition_of("douyin", "c1", here.partitions)
    text = '{"creator_id":"a","state":"active"}'
    state = [home, "entity", "douyin", "c1", "", [360_000_000, None, None, None, None, 1], text, 1, 1 << 40]
    events = [home, "entity", "kuaishou", "c1", "", [None, None, None, None, None, 0], text, 1, 1 << 40]
    with contextlib.closing(clickhouse_client(here)) as client:
        client.insert("rule_decisions", decisions * 2, column_names=DECISION_COLUMNS)
        client.insert("budget_actions", [action], column_names=ACTION_COLUMNS)
        client.insert("rule_state", [state, events], column_names=STATE_COLUMNS)
    local = [
        f"{at.astimezone(ZoneInfo('Asia/Shanghai')):%Y-%m-%d %H:%M}" for at in [*closings, now - timedelta(hours=2)]
    ]

    code, out, error = run("rules", "why", "cheap", "c1")
    assert (code, out) == (2, [])
    assert error == ["fanpulse: c1 is on several platforms: write douyin:c1 or kuaishou:c1"]
    code, out, _ = run("rules", "why", "cheap", "douyin:c1")
    assert (code, out[0]) == (0, sentence(read_rules(rules, "Asia/Shanghai")[0]))
    assert out[1:] == [
        f"2 decisions in the 24 hours up to {local[1]}: fired 1, guards 1 (impressions 1)",
        "",
        f"{local[1]}  douyin:c1  did not fire: a guard does not hold",
        f"  window      {local[0]} to {local[1]}",
        "  conditions  cpm < 10.00 yuan",
        "  figures     cpm has no figure",
        "  guard       impressions 0, wants at least 600: does not hold",
        "  rule        version 2, act",
        "",
        f"{local[0]}  douyin:c1  fired",
        f"  window        {local[2]} to {local[0]}",
        "  conditions    cpm < 10.00 yuan",
        "  figures       cpm 5.00 yuan",
        "  guard         impressions 1,000, wants at least 600: holds",
        "  daily budget  300.00 yuan -> 360.00 yuan",
        "  rule          version 2, act",
    ]
    code, out, _ = run("rules", "why", "cheap", "douyin:c1", "--last", "1", "--json")
    (told,) = json.loads("\n".join(out))
    assert (code, told["outcome"], told["reason"], told["figures"]) == (0, "skipped", "guards", {"cpm": None})
    assert run("rules", "why", "cheap", "douyin:c3")[2] == [
        "fanpulse: no campaign douyin:c3 is known; did you mean douyin:c1?"
    ]
    code, out, _ = run("rules", "list")
    assert " ".join(out[1].split()) == f"cheap 2 act on {local[0]} 1 Raise what is cheap"

    # What a rule made of a budget is seen, and who applies the file again sees what that undoes.
    code, out, _ = run("campaigns", "list")
    assert [line.split()[:6] for line in out[1:]] == [
        ["douyin", "c1", "a", "active", "360.00", "yuan"],
        ["kuaishou", "c1", "a", "active", "-", "-"],
        ["kuaishou", "c2", "b", "paused", "-", "-"],
    ]
    assert json.loads("\n".join(run("campaigns", "list", "--json")[1]))[1]["told"] is False
    code, out, _ = run("campaigns", "show", "douyin:c1")
    assert out[-4:-2] == [f"since then daily_budget: 300.00 yuan -> 360.00 yuan (rule cheap, {local[0]})", ""]
    assert out[-1].split() == [*local[0].split(), "cheap", "-", "budget", "300.00", "yuan", "->", "360.00", "yuan", "-"]
    assert run("campaigns", "show", "kuaishou:c1")[1][0].startswith("kuaishou:c1: nobody told of it")
    code, out, _ = run("campaigns", "apply", campaigns)
    assert out == [
        "douyin:c1  changed",
        f"  daily_budget: 360.00 yuan (rule cheap, {local[0]}) -> 300.00 yuan",
        "kuaishou:c2  unchanged",
        "1 campaign: sent, and in force",
    ]
    last = [message for *_, message in sent(here)][-1]
    assert isinstance(last, CampaignChange)
    assert [each.campaign_id for each in last.campaigns] == ["c1"]


def test_the_documentation_shows_what_a_file_changes_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "rules.md").read_text(encoding="utf-8")
    first, last = (yaml.safe_load(page.split("```yaml\n")[number].split("```")[0]) for number in (1, 2))
    (rule,), (campaign,) = map(Rule.model_validate, first["rules"]), map(Campaign.model_validate, last["campaigns"])
    at = datetime(2026, 1, 20, 6, tzinfo=UTC)
    after = rule.model_copy(update={"version": 3, "mode": "act", "action": rule.action.model_copy(update={"by": 2500})})
    known = {rule.id: KnownRule(rule, True, "lin", at, 4, 4)}
    control.show_plan(plan_rules([after], known, 4), ["old-rule"], Path("rules.yaml"))
    assert f"\n```text\n{capsys.readouterr().out}```\n" in page
    now = campaign.model_copy(update={"daily_budget": 360_000_000})
    deeds = {"daily_budget": Deed("cheap-reach", at)}
    told = {("douyin", campaign.campaign_id): KnownCampaign(campaign, now, "lin", at, deeds)}
    steps = plan_campaigns([campaign], told, control.Moment("Asia/Shanghai"))
    control.show_plan(steps, [], Path("campaigns.yaml"))
    assert f"\n```text\n{capsys.readouterr().out}```\n" in page


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (4, "sent, and in force"),
        (
            3,
            "sent; in 3 of 4 partitions it is in force, in the others once the workers that hold them have read so far",
        ),
        (0, NOBODY),
    ],
)
def test_how_far_a_change_has_come_is_said(
    taken: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "send", lambda here, change: frozenset((number, 7) for number in range(4)))
    monkeypatch.setattr(control, "await_taken", lambda *arguments: taken)
    control.tell(Settings(), cast(Client, None), Switch("d", "lin", "cheap", True), "cheap on")
    assert capsys.readouterr().out == f"cheap on: {said}\n"


def test_who_tells_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert control.who(" 林 ") == "林"
    monkeypatch.setattr("getpass.getuser", lambda: "lin")
    assert control.who(None) == "lin"
    for bad in ("", " ", "a\nb", "x" * 65):
        with pytest.raises(FanpulseError, match="write --by and a name"):
            control.who(bad)
