"""The campaign log, from events to decisions: whoever sends what twice, and wherever a worker dies."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import campaign_log
from pipeline.block import Block
from pipeline.campaign_log import CampaignChange, CampaignLog, RuleChange, Switch, partition_of
from pipeline.folds.campaign_facts import CampaignFacts
from pipeline.folds.rules import FINE_MS, HELD_MS, Rules
from pipeline.log import Broken
from pipeline.minutes import QUARTER_MS, Minutes
from pipeline.rules import Key, Span, Sums
from pipeline.verdict import Horizon, Verdicts
from schemas.rules import Campaign, Rule

MINUTE = 60_000
NOW = 1_768_881_600_000
"""Noon in Shanghai, UTC ms."""
PARTITIONS = 2
LATENESS = 2 * MINUTE
MEASURES = campaign_log.MEASURES
COLUMNS = {
    "offset": pl.Int64, "appended": pl.Int64, "event_id": pl.String, "event_time": pl.Int64, "platform": pl.String,
    "creator_id": pl.String, "kind": pl.String, "campaign_id": pl.String, "ad_group_id": pl.String,
    "cost_micros": pl.Int64, "value_micros": pl.Int64,
}  # fmt: skip
RULES = (
    {
        "id": "raise", "mode": "act", "level": "campaign", "when": ["cpm < 12 yuan"], "window": {"last": "5 minutes"},
        "guards": {"impressions": 1}, "cool_down": "7 minutes", "most_per_day": 3,
        "action": {"do": "budget", "by": "+20%", "ceiling": "5000 yuan", "daily_cap": "50%"},
    },
    {
        "id": "stop", "mode": "act", "level": "ad_group", "when": ["cpm >= 12 yuan"], "hysteresis": "10%",
        "window": {"last": "3 minutes", "skip": "1 minute"}, "action": {"do": "pause"},
    },
    {"id": "back", "mode": "dry_run", "level": "ad_group", "when": ["spend >= 0 yuan"], "window": {"last": "1 minutes"},
     "action": {"do": "resume"}},
    {"id": "hours", "mode": "act", "level": "campaign", "when": ["clicks > 0"], "window": {"last": "1 hour"},
     "cool_down": "1 hour", "action": {"do": "bid", "by": "-10%", "floor": "0.10 yuan"}},
)  # fmt: skip
CAMPAIGN = {"platform": "douyin", "creator_id": "A", "daily_budget": "100 yuan", "bid": "1 yuan"}
BIDDING = {"mode": "act", "window": {"last": "10 minutes"}, "floor": "0.20 yuan", "ceiling": "5 yuan", "conversions": 1}


def rule(**fields: Any) -> Rule:
    return Rule.model_validate({"name": "n", "owner": "o", **fields})


def campaign(name: str, **fields: Any) -> Campaign:
    return Campaign.model_validate({"campaign_id": name, **CAMPAIGN, **fields})


def made_events(rng: Random, size: int) -> pl.DataFrame:
    """Judged events of one source partition: out of order by less than the lateness, few repeats, few late."""
    verdicts, rows, offset, now = Verdicts(Horizon(LATENESS, 10 * MINUTE)), [], rng.randint(0, 3), NOW
    pace = rng.choice([5_000, 30_000, 2 * MINUTE])
    for number in range(size):
        offset += rng.choice([1, 1, 3])
        now += rng.randint(0, pace)
        behind = rng.choice([0, 0, rng.randint(0, LATENESS), 60 * MINUTE if rng.random() < 0.1 else 0])
        rows.append(
            {
                "offset": offset,
                "appended": now,
                "event_id": rng.choice([f"e{number}", f"e{number}", "twice"]),
                "event_time": now - behind,
                "platform": "douyin",
                "creator_id": "A",
                "kind": rng.choice(["impression", "impression", "click", "conversion"]),
                "campaign_id": rng.choice("klm"),
                "ad_group_id": rng.choice("gh"),
                "cost_micros": rng.choice([None, 1, 9_000, 40_000]),
                "value_micros": rng.choice([None, 5]),
            }
        )
    frames = [verdicts.judge(pl.DataFrame([row], schema=COLUMNS)) for row in rows]
    return pl.concat(frames)


@dataclass
class Source:
    """A partition of ``ad_events``, and a worker on it that dies now and then."""

    number: int
    rows: pl.DataFrame
    rng: Random
    at: int = 0
    stored: int = 0
    fold: CampaignFacts = field(init=False)

    def __post_init__(self) -> None:
        self.fold = CampaignFacts("d", self.number, PARTITIONS)

    @property
    def done(self) -> bool:
        return self.stored == len(self.rows)

    def newest(self, count: int) -> int:
        return int(self.rows[:count]["event_time"].max())  # type: ignore[arg-type]

    def offset(self, count: int) -> int:
        return int(self.rows["offset"][count - 1]) + 1 if count else 0

    def turn(self) -> list[tuple[int, bytes]]:
        """Folds some, and flushes: messages for partitions of the campaign log."""
        step = self.rng.choice([self.rng.randint(1, 8), self.rng.randint(1, 8), 50])
        if self.at < len(self.rows):
            self.fold.apply(self.rows[self.at : self.at + step])
            self.at = min(self.at + step, len(self.rows))
        reached = self.newest(self.at) - LATENESS
        outputs = self.fold.outputs(self.offset(self.stored), self.offset(self.at), reached)
        messages = [(each.partition or 0, each.value) for each in outputs]
        if self.rng.random() < 0.25:
            # It dies: some messages were sent, and another worker begins at the checkpoint.
            messages = [each for each in messages if self.rng.random() < 0.5]
            if self.rng.random() < 0.3:
                # Or where somebody set it back to.
                self.stored = self.rng.randint(0, self.stored)
            self.begin()
        else:
            self.stored = self.at
            self.fold.evict(Horizon(LATENESS, 10 * MINUTE).oldest(self.newest(self.at)))
        return messages

    def begin(self) -> None:
        """Anew, from what is stored."""
        self.fold, self.at = CampaignFacts("d", self.number, PARTITIONS), self.stored
        if not self.stored:
            return
        oldest = Horizon(LATENESS, 10 * MINUTE).oldest(self.newest(self.stored)) // MINUTE * MINUTE
        held = self.rows[: self.stored].filter(late=0, duplicate=0).filter(pl.col("event_time") >= oldest)
        minute = (pl.col("event_time") // MINUTE * MINUTE).cast(pl.Datetime("ms", "UTC"))
        kinds = zip(MEASURES, ("impression", "click", "play", "conversion"), strict=False)
        self.fold.remember(
            held.with_columns(minute=minute)
            .group_by("platform", "campaign_id", "ad_group_id", "minute")
            .agg(
                pl.col("creator_id").min(),
                *((pl.col("kind") == kind).sum().cast(pl.Int64).alias(name) for name, kind in kinds),
                pl.col("cost_micros").sum(),
                pl.col("value_micros").sum().alias("conversion_value_micros"),
                pl.col("offset").max().alias("applied"),
            )
        )


def made_log(rng: Random, sources: list[Source]) -> list[list[bytes]]:
    """The partitions of the campaign log, with changes and what is sent twice."""
    logs: list[list[bytes]] = [[] for _ in range(PARTITIONS)]

    def tell(message: campaign_log.Message) -> None:
        for log in logs:
            log.append(campaign_log.encode(message))

    tell(RuleChange("d", "me", tuple(rule(**each) for each in RULES)))
    tell(CampaignChange("d", "me", (campaign("k", bidding=BIDDING, target_cpa="0.01 yuan"), campaign("l"))))
    tell(RuleChange("another", "me", (rule(**RULES[0], version=9),)))
    while not all(source.done for source in sources):
        for partition, message in rng.choice(sources).turn():
            logs[partition].append(message)
        if rng.random() < 0.1:
            log = rng.choice(logs)
            log.append(rng.choice(log[3:] or log[2:3]))
        if rng.random() < 0.05:
            tell(Switch("d", "me", rng.choice(["raise", "stop", "unknown"]), rng.random() < 0.5))
        if rng.random() < 0.2:
            tell(CampaignChange("d", "me", (campaign(rng.choice("klm"), daily_budget="200 yuan"),)))
    for source in sources:
        reached = NOW + 70 * MINUTE
        for partition, each in enumerate(
            source.fold.outputs(source.offset(source.at), source.offset(source.at), reached)
        ):
            logs[partition].append(each.value)
    return logs


KEYS = {
    "rule_decisions": ("rule_id", "platform", "campaign_id", "ad_group_id", "closed_at"),
    "budget_actions": ("closed_at", "platform", "campaign_id", "ad_group_id", "rule_id"),
    "rule_changes": ("rule_id", "applied"),
    "campaign_changes": ("platform", "campaign_id", "applied"),
    "rule_state": ("kind", "minute", "platform", "campaign_id", "ad_group_id", "rule_id", "source"),
}
Tables = dict[str, dict[Any, dict[str, Any]]]


def put(tables: Tables, taken: dict[str, pl.DataFrame]) -> None:
    for name, frame in taken.items():
        for row in frame.to_dicts():
            held = tables[name].setdefault(tuple(row[key] for key in KEYS[name]), row)
            assert row["applied"] != held["applied"] or row == held, "two rows of one offset differ"
            if row["applied"] > held["applied"]:
                tables[name][tuple(row[key] for key in KEYS[name])] = row


def state(tables: Tables) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What recovery reads, from the table."""
    rows = list(tables["rule_state"].values())
    frame = pl.DataFrame(rows, schema_overrides={"numbers": pl.List(pl.Int64)}) if rows else pl.DataFrame()
    if frame.is_empty():
        return frame, frame
    frame = frame.with_columns(pl.col("minute").dt.epoch("ms"))
    oldest = {row["source"]: row["numbers"][2] or 0 for row in rows if row["kind"] == "input"}
    closed = next((row["numbers"][0] for row in rows if row["kind"] == "closed"), None)
    minutes = frame.filter(kind="minute").with_columns(
        *(pl.col("numbers").list.get(index).alias(name) for index, name in enumerate(MEASURES))
    )
    fine = 0 if closed is None else (closed - FINE_MS) // QUARTER_MS * QUARTER_MS
    begin = pl.col("minute")
    sums = (
        minutes.filter(begin >= (0 if closed is None else closed - HELD_MS))
        .with_columns(begin=pl.when(begin < fine).then(begin // QUARTER_MS * QUARTER_MS).otherwise(begin))
        .group_by("platform", "campaign_id", "ad_group_id", "begin")
        .agg(pl.col(MEASURES).sum())
    )
    is_open = [
        row["kind"] != "minute" or minute + MINUTE > oldest[row["source"]]
        for row, minute in zip(rows, frame["minute"].to_list(), strict=True)
    ]
    return frame.filter(pl.Series(is_open)), sums


def blocks(log: list[bytes], partition: int, rng: Random, start: int) -> Iterable[Block]:
    """The log from an offset on, cut anywhere."""
    at = start
    while at < len(log):
        end = min(at + rng.randint(1, 12), len(log))
        offsets = pl.arange(at, end, eager=True).to_numpy()
        values: list[bytes | None] = [*log[at:end]]
        yield Block("campaign_facts", partition, at, end, offsets, offsets + NOW + 4 * 60 * MINUTE, values)
        at = end


def run(log: list[bytes], partition: int, rng: Random, deaths: float) -> tuple[Tables, list[tuple[str, bytes]]]:
    """Tables, and records of actions, when workers with this chance of dying at a flush fold the log."""
    tables: Tables = {name: {} for name in KEYS}
    sent: list[tuple[str, bytes]] = []
    checkpoint = 0
    while True:
        fold = Rules("d", partition, PARTITIONS)
        fold.restore_state(*state(tables))
        reader = CampaignLog(partition, "d", {"rules": fold}, {"rules": checkpoint}, checkpoint)
        died = False
        for block in blocks(log, partition, rng, checkpoint):
            batch = reader._judge(block)
            fold.apply(batch.rows)
            if rng.random() < 0.6 or block.next == len(log):
                while not fold.settle(rng.choice([1, 50, 10**9])):
                    pass
                sent += [(each.topic, each.value) for each in fold.outputs(checkpoint, block.next, None)]
                taken = fold.take()
                assert list(taken) == [name for name in Rules.order if name in taken]
                if rng.random() < deaths:
                    # Tables are stored in their order, each whole or not at all; the checkpoint is not.
                    put(tables, dict(list(taken.items())[: rng.randint(0, len(taken))]))
                    died = True
                    break
                put(tables, taken)
                checkpoint = block.next
        if not died:
            return tables, sent


def by_minute(sources: list[Source]) -> dict[tuple[str, ...], dict[int, list[int]]]:
    """Sums of every campaign and ad group by minute, from the definitions."""
    found: dict[tuple[str, ...], dict[int, list[int]]] = {}
    for source in sources:
        for row in source.rows.iter_rows(named=True):
            if row["late"] or row["duplicate"]:
                continue
            names = row["platform"], row["campaign_id"], row["ad_group_id"]
            for key in (names, (*names[:2], "")):
                sums = found.setdefault(key, {}).setdefault(row["event_time"] // MINUTE, [0] * len(MEASURES))
                sums[("impression", "click", "play", "conversion").index(row["kind"])] += 1
                sums[4] += row["cost_micros"] or 0
                sums[5] += row["value_micros"] or 0
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**63))
def test_wherever_workers_die_decisions_and_actions_are_those_of_the_events(seed: int) -> None:
    rng = Random(seed)
    sources = [Source(number, made_events(rng, rng.randint(20, 60)), rng) for number in range(PARTITIONS)]
    logs, truth = made_log(rng, sources), by_minute(sources)
    for partition, log in enumerate(logs):
        once, sent_once = run(log, partition, rng, 0)
        again, sent_again = run(log, partition, rng, 0.5)
        assert again == once
        assert set(sent_again) == set(sent_once)
        for name in ("k", "l", "m"):
            assert ("douyin", name) not in {key[1:3] for key in once["rule_decisions"]} or partition == partition_of(
                "douyin", name, PARTITIONS
            )
        for row in once["rule_decisions"].values():
            start, end = (int(row[side].timestamp()) // 60 for side in ("window_start", "window_end"))
            minutes = truth.get((row["platform"], row["campaign_id"], row["ad_group_id"]), {})
            inside = [sums for minute, sums in minutes.items() if start <= minute < end]
            sums = Sums(*(sum(column) for column in zip(*inside, strict=True))) if inside else Sums()
            figures = dict(zip(row["metrics"], row["metric_values"], strict=True))
            wanted = {
                "spend": sums.cost,
                "clicks": sums.clicks,
                "conversions": sums.conversions,
                "cpm": 1000 * sums.cost // sums.impressions if sums.impressions else None,
                "cpa": sums.cost // sums.conversions if sums.conversions else None,
            }
            compared = [name for name in figures if name in wanted]
            assert compared
            assert [figures[name] for name in compared] == [wanted[name] for name in compared]
        keys = {row["key"] for row in once["budget_actions"].values()}
        assert keys == {row["key"] for row in once["rule_decisions"].values() if row["outcome"] in ("fired", "clamped")}
        assert len(set(sent_once)) == len(keys)


def test_many_decisions_are_made() -> None:
    """The test above would prove little if hardly anything fired."""
    outcomes: dict[tuple[str, str], int] = {}
    for seed in range(3):
        rng = Random(seed)
        sources = [Source(number, made_events(rng, 60), rng) for number in range(PARTITIONS)]
        for partition, log in enumerate(made_log(rng, sources)):
            for row in run(log, partition, rng, 0)[0]["rule_decisions"].values():
                pair = row["rule_id"], row["outcome"]
                outcomes[pair] = outcomes.get(pair, 0) + 1
    for pair in (("raise", "fired"), ("stop", "fired"), ("back", "dry_run"), ("hours", "fired"), ("raise", "skipped")):
        assert outcomes.get(pair, 0) > 0, outcomes
    assert outcomes.get(("target_cpa", "skipped"), 0) + outcomes.get(("target_cpa", "fired"), 0) > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), max_size=60), st.integers(0, 200), st.data())
def test_sums_of_minutes_are_those_of_what_was_added(added: list[tuple[int, int]], coarse: int, data: Any) -> None:
    minutes, before = Minutes(), coarse * MINUTE // QUARTER_MS * QUARTER_MS
    for number, (minute, amount) in enumerate(added):
        minutes.add(minute * MINUTE, (amount, 1, 0, 0, -amount, 0))
        if number == len(added) // 2:
            minutes.coarsen(before, 0)
    for _ in range(5):
        start, end = sorted(data.draw(st.tuples(st.integers(0, 220), st.integers(0, 220))))
        window = Span(
            *(at * MINUTE if at * MINUTE >= before else at * MINUTE // QUARTER_MS * QUARTER_MS for at in (start, end))
        )
        inside = [amount for minute, amount in added if window.start <= minute * MINUTE < window.end]
        assert minutes.sums(window) == Sums(sum(inside), len(inside), 0, 0, -sum(inside), 0)


def figures(start: int, until: int, oldest: int | None, rows: dict[int, int]) -> bytes:
    """A message of partition 0: impressions of an ad group by minute."""
    made = [
        {"platform": "douyin", "creator_id": "A", "campaign_id": "k", "ad_group_id": "g", "minute": minute * MINUTE}
        | dict.fromkeys(MEASURES, 0)
        | {"impressions": count}
        for minute, count in rows.items()
    ]
    frame = pl.DataFrame(made, schema=campaign_log.FIGURES)
    return campaign_log.encode(campaign_log.Figures("d", 0, start, until, NOW, oldest, frame))


def test_a_minute_that_no_event_can_change_is_not_counted_anew() -> None:
    """Sent again with more behind it, once its details are let go: by a worker whose checkpoint was set back."""
    fold = Rules("d", 0, 1)
    reader = CampaignLog(0, "d", {"rules": fold}, {"rules": 0}, 0)
    log = [figures(0, 10, None, {7: 3}), figures(10, 20, 9 * MINUTE, {9: 1}), figures(0, 30, 9 * MINUTE, {7: 3, 9: 2})]
    for at, message in enumerate(log):
        offsets = np.array([at])
        fold.apply(reader._judge(Block("campaign_facts", 0, at, at + 1, offsets, offsets, [message])).rows)
        assert fold.settle(10**9)
        rows = fold.take()["rule_state"]
    assert fold._minutes[Key("douyin", "k")].sums(Span(0, NOW)).impressions == 5
    assert rows.filter(kind="minute")["minute"].dt.epoch("ms").to_list() == [9 * MINUTE]


def folded(messages: Iterable[bytes], partitions: int = 1) -> Rules:
    """Partition 0 after these messages, everything decided; the broker took them hours after ``NOW``."""
    fold = Rules("d", 0, partitions)
    reader = CampaignLog(0, "d", {"rules": fold}, {"rules": 0}, 0)
    for at, message in enumerate(messages):
        offsets = np.array([at])
        block = Block("campaign_facts", 0, at, at + 1, offsets, offsets + NOW + 4 * 60 * MINUTE, [message])
        fold.apply(reader._judge(block).rows)
        assert fold.settle(10**9)
    return fold


def sums(start: int, until: int, reached: int, minute: int = 0, **measures: int) -> bytes:
    """A message of partition 0: what an ad group had in a minute after ``NOW``."""
    made = {"platform": "douyin", "creator_id": "A", "campaign_id": "k", "ad_group_id": "g"}
    row = made | {"minute": NOW + minute * MINUTE} | dict.fromkeys(MEASURES, 0) | measures
    frame = pl.DataFrame([row] if measures else [], schema=campaign_log.FIGURES)
    return campaign_log.encode(campaign_log.Figures("d", 0, start, until, NOW + reached * MINUTE, None, frame))


def test_what_others_wrote_into_the_log_stops_nobody() -> None:
    """Another database's workers may be of a version that says what this one cannot read."""
    newer = {"database": "another", "change": "rules", "by": "x", "rules": [{"id": "r", "something": "new"}]}
    foreign = [orjson.dumps(newer) + b"\n", orjson.dumps({"database": "another"}), b"", b"hello", b"[1]\n", b'"d"']
    told = campaign_log.encode(RuleChange("d", "me", (rule(**RULES[0]),)))
    assert list(folded([*foreign, told])._rules) == ["raise"]


def test_an_own_message_that_cannot_be_read_ends_the_process_and_says_what_to_do() -> None:
    newer = {"database": "d", "change": "rules", "by": "x", "rules": [{"id": "r", "something": "new"}]}
    with pytest.raises(Broken, match=r"campaign_facts\[0\]: offset 0 .* start workers of that version"):
        folded([orjson.dumps(newer) + b"\n"])


def test_figures_beyond_64_bits_are_the_largest_that_fit() -> None:
    """A conversion of a thousand million yuan for a micro: a ROAS of 10^21 millionths is no missing figure."""
    told = rule(
        id="win", mode="act", level="campaign", when=["roas > 100%", "roi > 100%"], window={"last": "1 minute"},
        action={"do": "pause"},
    )  # fmt: skip
    log = [campaign_log.encode(RuleChange("d", "me", (told,))), sums(0, 1, 0)]
    figures = {"conversions": 1, "cost_micros": 1, "conversion_value_micros": 10**15}
    rows = folded([*log, sums(1, 2, 1, **figures)]).take()["rule_decisions"]
    assert rows["outcome"].to_list() == ["fired"]
    assert rows["metric_values"].to_list() == [[2**63 - 1, 2**63 - 1]]


def test_what_a_rule_changed_before_it_was_about_something_else_is_no_part_of_its_daily_cap() -> None:
    """Else a bid of 1 yuan might be raised by half of the budget, for it was 100 yuan before the first change."""
    fields: dict[str, Any] = {
        "id": "r", "mode": "act", "level": "campaign", "when": ["impressions > 0"], "window": {"last": "1 minute"},
        "cool_down": "1 minute", "most_per_day": 9,
    }  # fmt: skip
    budget = {"do": "budget", "by": "+40%", "ceiling": "5000 yuan", "daily_cap": "50%"}
    price = {"do": "bid", "by": "+40%", "ceiling": "5000 yuan", "daily_cap": "50%"}
    rules = [rule(**fields, action=budget), rule(**fields, action=price, version=2)]
    log = [
        campaign_log.encode(CampaignChange("d", "me", (campaign("k"),))),
        campaign_log.encode(RuleChange("d", "me", (rules[0],))),
        sums(0, 1, 0),
        sums(1, 2, 1, 0, impressions=1),
        campaign_log.encode(RuleChange("d", "me", (rules[1],))),
        *(sums(minute, minute + 1, minute, minute - 1, impressions=1) for minute in (2, 3, 4)),
    ]
    actions = folded(log).take()["budget_actions"].sort("closed_at")
    assert actions["after_micros"].to_list() == [140_000_000, 1_400_000, 1_500_000]
    assert actions["clamped_by"].to_list() == ["", "", "daily_cap"]


def test_what_an_ad_group_spent_by_its_own_bid_is_never_the_campaigns_also_once_it_has_ended() -> None:
    group = {"ad_group_id": "g", "bid": "1 yuan"}
    fields: dict[str, Any] = {"bidding": BIDDING, "target_cpa": "1 yuan"}
    log = [
        campaign_log.encode(CampaignChange("d", "me", (campaign("k", ad_groups=[group], **fields),))),
        sums(0, 1, 0),
        sums(1, 2, 1, 0, cost_micros=900_000_000, conversions=1),
        campaign_log.encode(
            CampaignChange("d", "me", (campaign("k", ad_groups=[group | {"state": "ended"}], **fields),))
        ),
        sums(2, 3, 2, 1),
    ]
    decisions = folded(log).take()["rule_decisions"].filter(pl.col("ad_group_id") == "").sort("closed_at")
    spend = [dict(zip(row["metrics"], row["metric_values"], strict=True))["spend"] for row in decisions.to_dicts()]
    assert spend == [0, 0]
    assert decisions["outcome"].to_list() == ["skipped", "skipped"]


def test_of_a_night_without_workers_windows_of_minutes_are_decided_on_for_its_last_hour() -> None:
    def after(minutes: int) -> dict[str, int]:
        fold = Rules("d", 0, 1)
        reader = CampaignLog(0, "d", {"rules": fold}, {"rules": 0}, 0)
        told = [rule(**RULES[2], scope={"ad_groups": "g"}), rule(**RULES[3])]
        log = [campaign_log.encode(RuleChange("d", "me", tuple(told))), figures(0, 10, None, {NOW // MINUTE: 3})]
        log.append(campaign_log.encode(time_only(NOW + minutes * MINUTE)))
        for at, message in enumerate(log):
            offsets = np.array([at])
            fold.apply(
                reader._judge(Block("campaign_facts", 0, at, at + 1, offsets, offsets + NOW * 2, [message])).rows
            )
        assert fold.settle(10**9)
        rows = fold.take()["rule_decisions"]["rule_id"].to_list()
        return {name: rows.count(name) for name in ("back", "hours")}

    assert after(60) == {"back": 60, "hours": 1}
    assert after(61) == {"back": 61, "hours": 1}
    assert after(8 * 60) == {"back": 61, "hours": 8}
    assert after(60 * 60) == {"back": 61, "hours": 24}


def time_only(reached: int) -> campaign_log.Figures:
    return campaign_log.Figures("d", 0, 10, 10, reached, None, pl.DataFrame(schema=campaign_log.FIGURES))
