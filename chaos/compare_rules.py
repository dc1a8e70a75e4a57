"""Compares what Kafka and ClickHouse hold of budget rules with what follows from the ground truth.

Of the campaign log (topic ``campaign_facts``) every message is held to the ad events that were sent, and to what people
told. From the log as it is follows what must be decided (``chaos/rule_oracle.py``): of tables, views and the topic
``budget_actions`` every row is compared.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import orjson
import polars as pl
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer, TopicPartition

from chaos import rule_oracle
from chaos.oracle import AHEAD_MS, FOLD_VERSION, Judged
from chaos.rule_oracle import FIGURES, MINUTE, Book, Decision, Key, Rule, decision_key
from chaos.tally import Tally, log, stream
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.topics import partition_for

COMPARED = (
    *("rule_decisions", "budget_actions", "rule_changes", "campaign_changes", "rule_state"),
    *("rules", "campaigns"),
)
"""Tables and views that are compared here."""
AGENT, LOG, ACTIONS = "rules", "campaign_facts", "budget_actions"
_KINDS = ("impression", "click", "play", "conversion")
_TRIES = 30
_Group = tuple[int, Key, int]
"""A partition of ``ad_events``, an ad group and a minute (UTC ms)."""


class Deeds:
    """One comparison: reads log, tables and topic when it is made, is given the ad events, and then compares.

    ``told`` are the messages that people and other databases sent to every partition of the log, in order; each may
    stand in it several times in a row.
    """

    def __init__(self, settings: Settings, client: Client, consumer: KafkaConsumer, told: Sequence[bytes]) -> None:
        self._settings = settings
        self._told = told
        self._events: dict[_Group, list[tuple[int, tuple[int, ...]]]] = {}
        self._creators: dict[tuple[int, Key], dict[str, int]] = {}
        self._newest: dict[int, list[tuple[int, int]]] = {}
        self._books: list[Book] = []
        self._sums: dict[_Group, tuple[list[int], list[tuple[int, ...]]]] = {}
        self._read(client, consumer)

    def _read(self, client: Client, consumer: KafkaConsumer) -> None:
        """Reads at a moment at which the log does not grow and nothing is stored of it: workers may be running, and
        then every minute says that time has passed."""
        for _ in range(_TRIES):
            before = self._state(client, consumer)
            if before[0] != before[1]:
                # Nobody reads it any more, or they are about to.
                time.sleep(1)
            if before != self._state(client, consumer):
                continue
            self._stands = before[1]
            self._messages = {
                partition: [
                    (each.offset, each.timestamp, each.value or b"") for each in self._log(consumer, LOG, partition)
                ]
                for partition in range(self._settings.partitions)
            }
            self._actions = [
                (partition, each.key or b"", each.value or b"")
                for partition in range(self._settings.partitions)
                for each in self._log(consumer, ACTIONS, partition)
            ]
            self._rows = {name: list(stream(client, query)) for name, query in _QUERIES.items()}
            if before == self._state(client, consumer):
                return
        raise FanpulseError("agent rules did not come to rest", 1)

    def _log(self, consumer: KafkaConsumer, topic: str, partition: int) -> Iterable[Any]:
        return log(consumer, self._settings.topic_prefix + topic, partition)

    def _state(self, client: Client, consumer: KafkaConsumer) -> tuple[dict[int, int], dict[int, int]]:
        """Ends of the log, and checkpoints of the agent that reads it."""
        places = [
            TopicPartition(self._settings.topic_prefix + LOG, partition)
            for partition in range(self._settings.partitions)
        ]
        ends = {place.partition: int(end) for place, end in consumer.end_offsets(places).items()}
        stands = client.query(
            f"SELECT partition, next_offset FROM checkpoints FINAL WHERE agent = '{AGENT}' AND topic = '{LOG}' "
            f"AND fold_version = {FOLD_VERSION}"
        ).result_rows
        return ends, {int(partition): int(following) for partition, following in stands}

    def add(self, judged: Judged) -> None:
        """Takes in a record; those of a partition come in offset order."""
        event, sent = judged.event, judged.sent
        if event is None or sent.topic != "ad_events":
            return
        at = min(event["event_time"], sent.appended + AHEAD_MS)
        newest = self._newest.setdefault(sent.partition, [])
        if not newest or at > newest[-1][1]:
            newest.append((sent.offset, at))
        if judged.late or judged.duplicate:
            return
        group: Key = (event["platform"], event["campaign_id"], event["ad_group_id"])
        counts = tuple(int(event["kind"] == kind) for kind in _KINDS)
        amounts = (event.get("cost_micros") or 0, event.get("value_micros") or 0)
        minute = event["event_time"] // MINUTE * MINUTE
        self._events.setdefault((sent.partition, group, minute), []).append((sent.offset, (*counts, *amounts)))
        self._creators.setdefault((sent.partition, group), {}).setdefault(event["creator_id"], sent.offset)

    def results(self) -> list[Tally]:
        """Compares, all records having been added."""
        for place, found in self._events.items():
            sums = accumulate((row for _, row in found), lambda a, b: tuple(map(sum, zip(a, b, strict=True))))
            self._sums[place] = [offset for offset, _ in found], list(sums)
        return [
            self._campaign_log(),
            self._checkpoints(),
            self._decisions(),
            *self._done(),
            *self._changes(),
            self._remembered(),
            *self._views(),
        ]

    def _owner(self, platform: str, campaign: str) -> int:
        return partition_for(f"{platform}:{campaign}".encode(), self._settings.partitions)

    # The log.

    def _campaign_log(self) -> Tally:
        """Whether figures, times and changes in the log are true, and all of them there."""
        tally = Tally("kafka_campaign_facts")
        for partition, messages in self._messages.items():
            book = Book(partition, self._settings.partitions, self._owner)
            self._books.append(book)
            told = []
            for offset, appended, value in messages:
                where = f"[{partition}] offset {offset}"
                tally.rows += 1
                line, _, body = value.partition(b"\n")
                head = orjson.loads(line)
                rows = pl.read_ipc_stream(body).rows(named=True) if body else []
                if "change" in head or head["database"] != self._settings.database:
                    told.append(value)
                else:
                    self._true(tally, where, partition, head, rows, appended)
                if offset >= self._stands.get(partition, 0):
                    if rows or "change" in head:
                        tally.differ(where, "agent rules has not read it")
                elif head["database"] == self._settings.database:
                    book.read(offset, appended, head, rows)
            self._all_told(tally, partition, told)
            self._all_counted(tally, partition, book)
        return tally

    def _true(
        self, tally: Tally, where: str, partition: int, head: dict[str, Any], rows: list[dict[str, Any]], appended: int
    ) -> None:
        source, following = head["partition"], head["next"]
        for row in rows:
            group: Key = (row["platform"], row["campaign_id"], row["ad_group_id"])
            place = f"{where}: {source}, {group}, {row['minute']}"
            wanted = self._sum(source, group, row["minute"], following)
            if wanted is None or self._owner(*group[:2]) != partition:
                tally.double(place)
                continue
            tally.compare(place, FIGURES, [row[name] for name in FIGURES], wanted)
            creators = self._creators[source, group]
            if creators.get(row["creator_id"], following) >= following:
                tally.differ(place, f"creator {row['creator_id']} of nobody so far")
        newest = self._newest_before(source, following)
        reached, oldest, behind = head["reached"], head["oldest"], self._settings.late_horizon * 1000
        lateness = self._settings.allowed_lateness * 1000
        if newest is None:
            tally.compare(where, ("reached", "oldest"), (reached, oldest), (None, None))
            return
        if reached is None or not newest - lateness <= reached <= max(newest - lateness, appended + AHEAD_MS):
            tally.differ(where, f"{source} has reached {reached}, newest event {newest}, appended {appended}")
        if oldest is not None and oldest > newest - lateness - behind:
            tally.differ(where, f"{source}: oldest {oldest}, newest event {newest}")

    def _sum(self, source: int, group: Key, minute: int, following: int) -> tuple[int, ...] | None:
        """Sums of an ad group and minute, of the events of a source below an offset; None: there is none."""
        offsets, sums = self._sums.get((source, group, minute), ([], []))
        index = bisect_left(offsets, following)
        return sums[index - 1] if index else None

    def _newest_before(self, source: int, following: int) -> int | None:
        newest = self._newest.get(source, [])
        index = bisect_left(newest, (following, 0))
        return newest[index - 1][1] if index else None

    def _all_told(self, tally: Tally, partition: int, found: list[bytes]) -> None:
        have, wanted = _once(found), _once(self._told)
        if have != wanted:
            missing, strange = (
                [each for each in wanted if each not in have],
                [each for each in have if each not in wanted],
            )
            for each in missing:
                tally.lose(f"[{partition}] {each[:200]!r}")
            for each in strange:
                tally.double(f"[{partition}] {each[:200]!r}")
            if not missing and not strange:
                tally.differ(f"[{partition}]", "changes are in another order")

    def _all_counted(self, tally: Tally, partition: int, book: Book) -> None:
        """After the last message every minute is known as it is, and how far time is."""
        for (source, group, minute), (_, sums) in self._sums.items():
            if self._owner(*group[:2]) == partition:
                have, _ = book.minutes.get((source, minute, group), (None, 0))
                if have is None:
                    tally.lose(f"[{partition}] {source}, {group}, {minute}")
                else:
                    tally.compare(f"[{partition}] {source}, {group}, {minute} at last", FIGURES, have, sums[-1])
        for source, newest in self._newest.items():
            reached = (book.sources.get(source) or (0, None, None))[1]
            least = (newest[-1][1] - self._settings.allowed_lateness * 1000) // MINUTE
            if reached is None or reached // MINUTE < least:
                tally.lose(f"[{partition}] that {source} has reached {newest[-1][1]}", f"it says {reached}")

    def _checkpoints(self) -> Tally:
        tally = Tally("checkpoints_rules", self._settings.partitions)
        for partition in range(self._settings.partitions):
            if partition not in self._stands:
                tally.lose(f"[{partition}]")
        return tally

    # Tables and topic.

    def _decisions(self) -> Tally:
        tally = Tally("rule_decisions")
        wanted = {
            (rule_id, *entity, at): (book.partition, *made)
            for book in self._books
            for (rule_id, entity, at), made in book.decisions.items()
        }
        tally.rows = len(wanted)
        for *key, version, have in _keyed(self._rows["rule_decisions"], 5):
            found = wanted.pop(tuple(key), None)
            if found is None or version != FOLD_VERSION:
                tally.double(key)
                continue
            partition, each, applied, appended = found
            want = (
                *(partition, each.version, each.mode, *each.window, each.action, each.outcome, each.reason),
                *(list(each.figures), list(each.figures.values())),
                *([list(column) for column in zip(*each.guards, strict=True)] if each.guards else [[]] * 4),
                *(each.before, each.after, each.by, appended, decision_key(each.rule_id, each.entity, key[4]), applied),
            )
            tally.compare(key, _DECISION, have, want)
        for missing in wanted:
            tally.lose(missing)
        return tally

    def _done(self) -> tuple[Tally, Tally]:
        """The table of actions, and the topic: each at least once, always with the same content."""
        done: dict[str, tuple[int, Decision, int, int, int]] = {
            decision_key(rule_id, entity, at): (book.partition, each, at, applied, appended)
            for book in self._books
            for (rule_id, entity, at), (each, applied, appended) in book.decisions.items()
            if each.acts
        }
        table, topic = Tally("budget_actions", len(done)), Tally("kafka_budget_actions", len(done))
        left = dict(done)
        for key, *have in self._rows["budget_actions"]:
            found = left.pop(key, None)
            if found is None:
                table.double(key)
                continue
            partition, each, at, applied, appended = found
            want = (each.rule_id, *each.entity, at, partition, FOLD_VERSION, each.version, each.action, each.reason)
            table.compare(key, _ACTION, have, (*want, each.before, each.after, appended, applied))
        for missing in left:
            table.lose(missing)
        said: dict[str, bytes] = {}
        for partition, record_key, value in self._actions:
            record = orjson.loads(value)
            key = record["id"]
            if key not in done:
                topic.double(key)
                continue
            if said.setdefault(key, value) != value:
                topic.differ(key, "told with another content")
                continue
            owner, each, at, _, appended = done[key]
            platform, campaign, group = each.entity
            fields = {
                "id": key,
                "rule_id": each.rule_id,
                "rule_version": each.version,
                "platform": platform,
                "campaign_id": campaign,
                "ad_group_id": group,
                "kind": each.action,
                "before": each.before,
                "after": each.after,
                "closed_at": at,
                "decided_at": appended,
            }
            said_of = (partition, record_key.decode(), record)
            topic.compare(key, ("partition", "key", "record"), said_of, (owner, f"{platform}:{campaign}", fields))
        for missing in done.keys() - said.keys():
            topic.lose(missing)
        return table, topic

    def _changes(self) -> tuple[Tally, Tally]:
        rules, campaigns = Tally("rule_changes"), Tally("campaign_changes")
        wanted = {(each[1].id, book.partition, each[4]): each for book in self._books for each in book.changes}
        rules.rows = len(wanted)
        for *key, said in _keyed(self._rows["rule_changes"], 3, 0):
            found = wanted.pop(tuple(key), None)
            if found is None:
                rules.double(key)
            else:
                _, rule, enabled, by, _, at = found
                rules.compare(key, _RULE, _read_rule(said), _rule_row(rule, enabled, by, at))
        for missing in wanted:
            rules.lose(missing)
        told: dict[tuple[Any, ...], tuple[Any, ...]] = {
            (each["platform"], each["campaign_id"], book.partition, applied): (each, by, at)
            for book in self._books
            for each, by, applied, at in book.told
        }
        campaigns.rows = len(told)
        for *where, (text, by, at) in _keyed(self._rows["campaign_changes"], 4, 0):
            change = told.pop(tuple(where), None)
            if change is None:
                campaigns.double(where)
            else:
                meaning = rule_oracle.campaign(change[0])
                have = (rule_oracle.campaign(orjson.loads(text)), by, at)
                campaigns.compare(where, ("text", "changed_by", "changed_at"), have, (meaning, *change[1:]))
        for missing in told:
            campaigns.lose(missing)
        return rules, campaigns

    def _remembered(self) -> Tally:
        """What the agent goes on from after a restart; of minutes it is held to the events."""
        tally = Tally("rule_state")
        nobody: Key = ("", "", "")
        wanted: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for book in self._books:
            for source, (following, reached, oldest) in book.sources.items():
                known = [following, reached, oldest]
                wanted[book.partition, "input", 0, *nobody, "", source] = (known, None, book.heard[source])
            if book.closed is not None:
                wanted[book.partition, "closed", 0, *nobody, "", 0] = ([book.closed[0]], None, book.closed[1])
            for rule_id, (told, _, enabled, applied) in book.rules.items():
                wanted[book.partition, "rule", 0, *nobody, rule_id, 0] = ([int(enabled)], vars(Rule(told)), applied)
            for (platform, name), (told, applied) in book.campaigns.items():
                meaning = rule_oracle.campaign(told)
                wanted[book.partition, "campaign", 0, platform, name, "", "", 0] = ([], meaning, applied)
            for key, each in book.entities.items():
                numbers = [each.budget, each.total, each.bid, each.target, each.created, int(each.listed)]
                shown = {"creator_id": each.creator, "state": each.state}
                wanted[book.partition, "entity", 0, *key, "", 0] = (numbers, shown, each.applied)
            for (rule_id, key), memory in book.memories.items():
                if memory.applied >= 0:
                    wanted[book.partition, "memory", 0, *key, rule_id, 0] = (memory.numbers, None, memory.applied)
            for (source, minute, key), (sums, applied) in book.minutes.items():
                # Wrong figures in the log are found there.
                wanted[book.partition, "minute", minute, *key, "", source] = (list(sums), None, applied)
        tally.rows = len(wanted)
        for *place, version, (numbers, text, applied) in _keyed(self._rows["rule_state"], 8):
            found = wanted.pop(tuple(place), None)
            if found is None or version != FOLD_VERSION:
                tally.double(place)
                continue
            said: Any = orjson.loads(text) if text else None
            if place[1] == "rule":
                said = vars(Rule(said))
            elif place[1] == "campaign":
                said = rule_oracle.campaign(said)
            tally.compare(place, ("numbers", "text", "applied"), (numbers, said, applied), found)
        for missing in wanted:
            tally.lose(missing)
        return tally

    def _views(self) -> tuple[Tally, Tally]:
        rules, campaigns = Tally("rules"), Tally("campaigns")
        latest: dict[str, tuple[Any, ...]] = {}
        for book in self._books:
            for change in book.changes:
                name, order = change[1].id, (change[5], change[4])
                if name not in latest or order >= latest[name][0]:
                    latest[name] = order, change
        rules.rows = len(latest)
        for name, *said in self._rows["rules"]:
            found = latest.pop(name, None)
            if found is None:
                rules.double(name)
            else:
                _, rule, enabled, by, _, at = found[1]
                rules.compare(name, _RULE, _read_rule(said), _rule_row(rule, enabled, by, at))
        for name in latest:
            rules.lose(name)
        known = {key: each for book in self._books for key, each in book.entities.items()}
        campaigns.rows = len(known)
        for *key, have in _keyed(self._rows["campaigns"], 3, 0):
            entity = known.pop((key[0], key[1], key[2]), None)
            if entity is None:
                campaigns.double(key)
                continue
            want = (
                entity.creator,
                entity.state,
                entity.budget,
                entity.total,
                entity.bid,
                entity.target,
                entity.created,
            )
            campaigns.compare(key, _CAMPAIGN, have, (*want, int(entity.listed)))
        for missing in known:
            campaigns.lose(missing)
        return rules, campaigns


_DECISION = (
    *("partition", "rule_version", "mode", "window_start", "window_end", "action", "outcome", "reason"),
    *("metrics", "metric_values", "guards", "guard_wants", "guard_found", "guard_holds"),
    *("before_micros", "after_micros", "outranked_by", "decided_at", "key", "applied"),
)
_ACTION = (
    *("rule_id", "platform", "campaign_id", "ad_group_id", "closed_at", "partition", "fold_version", "rule_version"),
    *("action", "clamped_by", "before_micros", "after_micros", "decided_at", "applied"),
)
_RULE = ("version", "name", "owner", "mode", "level", "enabled", "says something", "text", "changed_by", "changed_at")
_CAMPAIGN = (
    *("creator_id", "state", "daily_budget_micros", "total_budget_micros", "bid_micros", "target_cpa_micros"),
    *("created_at", "told"),
)
_TIMES = {
    "closed_at": 0,
    "window_start": 0,
    "window_end": 0,
    "minute": 0,
    "decided_at": 3,
    "changed_at": 3,
    "created_at": 3,
}


def _columns(names: Iterable[str]) -> str:
    """Columns of a query, times in UTC ms."""
    shown = []
    for name in names:
        match _TIMES.get(name):
            case None:
                shown.append(name)
            case 0:
                shown.append(f"toInt64(toUnixTimestamp({name})) * 1000 AS {name}_ms")
            case _:
                shown.append(f"toUnixTimestamp64Milli({name}) AS {name}_ms")
    return ", ".join(shown)


_RULE_COLUMNS = tuple("sentence" if name == "says something" else name for name in _RULE)
_ENTITY = ("platform", "campaign_id", "ad_group_id")
_QUERIES = {
    "rule_decisions": f"SELECT {_columns(('rule_id', *_ENTITY, 'closed_at', 'fold_version', *_DECISION))} "
    "FROM rule_decisions FINAL",
    "budget_actions": f"SELECT {_columns(('key', *_ACTION))} FROM budget_actions FINAL",
    "rule_changes": f"SELECT {_columns(('rule_id', 'partition', 'applied', *_RULE_COLUMNS))} FROM rule_changes FINAL",
    "campaign_changes": "SELECT platform, campaign_id, partition, applied, text, changed_by, "
    f"{_columns(('changed_at',))} FROM campaign_changes FINAL",
    "rule_state": f"SELECT partition, kind, {_columns(('minute',))}, {', '.join(_ENTITY)}, rule_id, source, "
    "fold_version, numbers, text, applied FROM rule_state FINAL",
    "rules": f"SELECT {_columns(('rule_id', *_RULE_COLUMNS))} FROM rules",
    "campaigns": f"SELECT {_columns((*_ENTITY, *_CAMPAIGN))} FROM campaigns",
}


def _keyed(rows: Iterable[Sequence[Any]], size: int, version: int = 1) -> Iterable[tuple[Any, ...]]:
    """Rows as the columns of their key, their version if they have one, and all others as one."""
    for row in rows:
        yield (*row[: size + version], row[size + version :])


def _read_rule(said: Sequence[Any]) -> tuple[Any, ...]:
    *before, sentence, text, by, at = said
    return (*before, sentence != "", vars(Rule(orjson.loads(text))), by, at)


def _rule_row(rule: Rule, enabled: bool, by: str, at: int) -> tuple[Any, ...]:
    shown = (rule.version, rule.name, rule.owner, rule.mode, rule.level, int(enabled))
    return (*shown, True, vars(rule), by, at)


def _once(messages: Iterable[bytes]) -> list[bytes]:
    """Messages, those that stand several times in a row once."""
    found: list[bytes] = []
    for each in messages:
        if not found or found[-1] != each:
            found.append(each)
    return found
