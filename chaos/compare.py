"""Compares what Kafka and ClickHouse hold with what follows from the ground truth, row by row and value by value."""

import contextlib
import fnmatch
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer

from chaos import compare_fans, compare_rules, oracle, wins
from chaos.compare_fans import Lives
from chaos.compare_rules import Deeds
from chaos.oracle import COLUMNS, SNAPSHOTS, Figures, Judge, Judged, Key
from chaos.tally import TableResult, Tally, log, short, stream
from chaos.truth import Sent, TruthLog
from chaos.wins import Wins
from infra.connect import clickhouse_client, kafka_options
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.topics import SOURCES

NOT_COMPARED: dict[str, str] = {
    "migrations": "which migrations ran and when: no figure of an event",
    "viewers_minute_mv": "fills viewers_minute, which is compared",
    "viewers_hour_mv": "fills viewers_hour, which is compared",
    "dead_letter_replays": "what people sent again, at their wall clock",
    "pipeline_*": "the pipeline's own health, by wall clock",
    "health_*": "the pipeline's own health, by wall clock",
    "scratch_*": "copies that verify makes and drops",
    **dict.fromkeys(
        ("ads_campaign_minutes", "ads_hours", "ads_days", "ads_people", "ads_by"),
        "SQL over what is compared: tests/pipeline/test_ads_views.py",
    ),
    **dict.fromkeys(
        ("ads_pace", "ads_budget_changes", "ads_budget_days", "ads_total_budgets"),
        "SQL over what is compared, and over what people told and rules did: tests/pipeline/test_ad_alerts.py",
    ),
    **dict.fromkeys(
        ("ads_budget_changes", "ads_budget_days", "ads_pace", "ads_total_budgets"),
        "SQL over what is compared: tests/pipeline/test_ad_alerts.py",
    ),
    **dict.fromkeys(
        ("attribution_hours", "attribution_by", "attribution_misses", "acquired_*"),
        "SQL over what is compared: tests/pipeline/test_attribution_views.py",
    ),
    "alert*": "alerts, which are looked at on a schedule by wall clock, and their thresholds",
    **dict.fromkeys(
        ("fan_days", "fan_values", "fan_refreshes", "fan_settings"),
        "computed by SQL from events_*, on a schedule by wall clock: tests/pipeline/test_refresh.py",
    ),
    **dict.fromkeys(
        (
            "fan_contribution",
            "fan_profiles",
            "fan_cohorts",
            "fan_value_now",
            "fan_portrait",
            "fan_growth_*",
            "fan_heat_map",
            "fan_snapshots",
            "fan_day_sums",
            "fan_*_counts",
            "fan_activity_days",
            "fan_value_shares",
            "acquired_cohort_counts",
        ),
        "SQL over what is compared, or refreshed on a schedule: tests/pipeline/test_refresh.py, test_fan_sums.py",
    ),
    **dict.fromkeys(
        ("fan_move_*", "fan_moves_uncounted"),
        "behind the view fan_moves, which is compared: tests/pipeline/test_fan_sums.py",
    ),
}
"""Tables and views that are not compared, and why; a name may end with * for all that begin so."""
AGENTS: dict[str, tuple[str, ...]] = {
    "archive": SOURCES,
    "engagement": ("interactions",),
    "ads": ("ad_events",),
    "facts": SOURCES,
    "touches": ("interactions", "orders", "ad_events"),
    "campaign_facts": ("ad_events",),
}
"""Every agent on source topics, and those it reads."""
OF_LOGS = (("lifecycle", "fan_facts"), ("attribution", "fan_touches"), ("rules", "campaign_facts"))
"""Agents on logs that other agents write, and those."""
SHOWN_BYTES = 65_536
"""How much of a refused record the table ``dead_letters`` keeps."""
SENT_BYTES = 3 * 1024 * 1024
"""How much of it the topic ``dead_letters`` keeps."""

_KEPT_S = 4 * oracle.DAY_S - 6 * 3600
"""Tables that forget after four days are compared as far back as this, seconds."""
_NO_EVENT = -2_208_988_800_000
"""``newest`` of a checkpoint before the first event: the year 1900 in UTC ms."""


def compare(
    settings: Settings,
    truth: TruthLog,
    repaired: bool = False,
    refused: Callable[[Sent], bool] = lambda sent: False,
    told: Sequence[bytes] = (),
) -> list[TableResult]:
    """Compares every topic, table and view, once all is stored; nothing may write meanwhile.

    Args:
        settings: the Kafka, the topics and the database that the records went through.
        truth: what was sent.
        repaired: whether ``fanpulse repair`` has run over all days since everything was stored.
        refused: whether ClickHouse refuses the row of a valid record; it is then wanted as a dead letter, and in no
            figure.
        told: what people and other databases told the campaign log, as ``campaigns.Teller`` has it.

    Raises:
        BrokenTruth: the sender's own account has gaps.
        FanpulseError: the database has a table or view that is neither compared nor named in ``NOT_COMPARED``.
        InfraError: Kafka or ClickHouse does not answer.
    """
    with (
        contextlib.closing(clickhouse_client(settings, timeout=600)) as client,
        contextlib.closing(_consumer(settings)) as consumer,
    ):
        _require_known(client, settings)
        # Before the tables: the fan log may only be behind them where time passes meanwhile.
        lives, deeds = Lives(settings, client, consumer), Deeds(settings, client, consumer, told)
        run = _Run(settings, truth, client, lives, deeds, repaired, refused)
        results = [_kafka(consumer, settings, truth, topic) for topic in SOURCES]
        for topic in SOURCES:
            results += run.raw(topic)
        results += [run.dead_letters(), run.dead_letter_topic(consumer), run.checkpoints()]
        results += [run.snapshot(table) for table in SNAPSHOTS]
        results += [run.viewers("minute"), run.viewers("hour")]
        results += run.rolling()
        results += run.lives()
        results.append(run.wins())
        results += deeds.results()
        return [tally.result() for tally in results]


_COMPARED = frozenset(
    (
        *(f"raw_{topic}" for topic in SOURCES),
        *(f"events_{topic}" for topic in SOURCES),
        *SNAPSHOTS,
        *compare_fans.COMPARED,
        *wins.COMPARED,
        *compare_rules.COMPARED,
        "dead_letters",
        "checkpoints",
        "viewers_minute",
        "viewers_hour",
        "engagement_rolling",
        "engagement_rolling_at",
        "engagement_by_content",
        "engagement_by_content_at",
    )
)


def _require_known(client: Client, settings: Settings) -> None:
    there = {
        str(name)
        for (name,) in client.query(
            "SELECT name FROM system.tables WHERE database = {database:String}",
            parameters={"database": settings.database},
        ).result_rows
    }
    left_out = {name for name in there for pattern in NOT_COMPARED if fnmatch.fnmatchcase(name, pattern)}
    if unknown := sorted(there - _COMPARED - left_out):
        raise FanpulseError(
            f"{settings.database}.{unknown[0]} is not compared: compute it in chaos/oracle.py and compare it in "
            "chaos/compare.py, or name it there in NOT_COMPARED with the reason"
        )
    if missing := sorted(_COMPARED - there):
        raise FanpulseError(f"{settings.database} has no {missing[0]}: run fanpulse migrate")


@dataclass(frozen=True, slots=True)
class _Letter:
    """A refused record, its value as digests of what the table and the topic keep."""

    appended: int
    size: int
    null: bool
    shown: bytes
    sent: bytes
    label: str
    reasons: frozenset[str]


class _Run:
    """One comparison: the raw tables are read first, and with them the truth; what follows from it is kept."""

    def __init__(
        self,
        settings: Settings,
        truth: TruthLog,
        client: Client,
        lives: Lives,
        deeds: Deeds,
        repaired: bool,
        refused: Callable[[Sent], bool],
    ) -> None:
        self._settings = settings
        self._truth = truth
        self._client = client
        self._repaired = repaired
        self._refused = refused
        self._figures = Figures(settings.time_zone)
        self._lives = lives
        self._deeds = deeds
        self._wins = Wins(settings, client)
        self._letters: dict[tuple[str, int, int], _Letter] = {}
        self._newest: dict[tuple[str, int], int | None] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._hashes: dict[str, int] = {}
        self._fans: dict[int, str] = {}
        self._kept = int(time.time()) - _KEPT_S

    # Raw tables and their views.

    def raw(self, topic: str) -> list[Tally]:
        """A raw table and the view of its events that count."""
        raw, view = Tally(f"raw_{topic}"), Tally(f"events_{topic}")
        shown = self._view_columns(f"events_{topic}")
        partitions = {partition for name, partition in self._truth.partitions() if name == topic}
        for partition in sorted(partitions | set(range(self._settings.partitions))):
            judge = Judge(
                self._settings.allowed_lateness * 1000,
                self._settings.late_horizon * 1000,
                self._repaired,
                self._refused,
            )
            sent = self._truth.partition(topic, partition) if partition in partitions else iter(())
            judged = self._account(judge, sent)
            hashes = self._raw_partition(raw, topic, partition, shown, judged)
            self._newest[topic, partition] = judge.newest
            self._view_partition(view, topic, partition, shown, hashes)
        elsewhere = self._client.query(
            "SELECT count() FROM {table:Identifier} WHERE partition >= {partitions:UInt16}",
            parameters={"table": f"raw_{topic}", "partitions": self._settings.partitions},
        ).result_rows[0][0]
        if elsewhere:
            raw.doubled += int(elsewhere)
            raw.examples.append(f"raw_{topic}: {elsewhere} rows of partitions that the topic does not have")
        return [raw, view]

    def _account(self, judge: Judge, sent: Iterable[Sent]) -> Iterator[Judged]:
        """The accepted records of a partition; all are counted, refused ones are noted as letters."""
        for record in sent:
            judged = judge.judge(record)
            self._ends[record.topic, record.partition] = record.offset + 1
            if judged.event is None:
                self._letters[record.topic, record.partition, record.offset] = _letter(judged)
                continue
            self._figures.add(judged)
            self._wins.add(judged)
            self._deeds.add(judged)
            yield judged
            # Its row has told the fan's hash by now.
            self._lives.add(judged, self._hashes.get(judged.event["fan_id"]))

    def _raw_partition(
        self, tally: Tally, topic: str, partition: int, shown: str, wanted: Iterator[Judged]
    ) -> dict[int, int | None]:
        """Compares one partition; returns, of its events that count, the digest that the view's row must have (None
        where the raw row is not there)."""
        names = COLUMNS[topic]
        fans = [names.index(name) for name in ("fan", "reply_to_fan") if name in names]
        times = ("appended_at", "event_time")
        columns = ", ".join(f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in times else name for name in names)
        stored = self._rows(
            f"SELECT `offset`, cityHash64(toString(tuple({shown}))) AS digest, {columns} "
            "FROM {table:Identifier} FINAL WHERE partition = {partition:UInt16} ORDER BY `offset`",
            {"table": f"raw_{topic}", "partition": partition},
        )
        hashes: dict[int, int | None] = {}
        row = next(stored, None)
        for judged in chain(wanted, (None,)):
            limit = math.inf if judged is None else judged.sent.offset
            while row is not None and row[0] < limit:
                tally.double(f"[{partition}] offset {row[0]}")
                row = next(stored, None)
            if judged is None:
                break
            offset = judged.sent.offset
            tally.rows += 1
            if row is None or row[0] != offset:
                tally.lose(f"[{partition}] offset {offset}")
                if judged.counts:
                    hashes[offset] = None
                continue
            if judged.counts:
                hashes[offset] = row[1]
            want, have = list(oracle.raw_row(judged)), list(row[2:])
            for index in fans:
                want[index], have[index] = self._same_fan(want[index], have[index])
            if want != have:
                tally.compare(f"[{partition}] offset {offset}", names, have, want)
            row = next(stored, None)
            while row is not None and row[0] == offset:
                tally.double(f"[{partition}] offset {offset}", "there twice")
                row = next(stored, None)
        return hashes

    def _same_fan(self, fan_id: str, fan: int) -> tuple[str, str]:
        """The fan wanted and the fan that the hash has stood for so far: one fan, one hash, in all tables."""
        if not fan_id or not fan:
            return fan_id, "" if not fan else f"hash {fan}"
        if self._hashes.setdefault(fan_id, fan) != fan:
            return fan_id, f"another hash, {fan}"
        return fan_id, self._fans.setdefault(fan, fan_id)

    def _view_columns(self, view: str) -> str:
        names = [
            str(name)
            for (name,) in self._client.query(
                "SELECT name FROM system.columns WHERE database = {database:String} AND table = {view:String} "
                "ORDER BY position",
                parameters={"database": self._settings.database, "view": view},
            ).result_rows
        ]
        return ", ".join(f"`{name}`" for name in names)

    def _view_partition(
        self, tally: Tally, topic: str, partition: int, shown: str, hashes: dict[int, int | None]
    ) -> None:
        tally.rows += len(hashes)
        for offset, digest in self._rows(
            f"SELECT `offset`, cityHash64(toString(tuple({shown}))) FROM {{view:Identifier}} "
            "WHERE partition = {partition:UInt16}",
            {"view": f"events_{topic}", "partition": partition},
        ):
            where = f"[{partition}] offset {offset}"
            if offset not in hashes:
                tally.double(where)
            elif hashes.pop(offset) != digest:
                tally.differ(where, f"another row than in raw_{topic}")
        for offset in hashes:
            tally.lose(f"[{partition}] offset {offset}")

    # Dead letters and checkpoints.

    def dead_letters(self) -> Tally:
        """The table of refused records."""
        tally = Tally("dead_letters", len(self._letters))
        missing = set(self._letters)
        names = ("appended_at", "size", "null_value", "value")
        for topic, partition, offset, reason, detail, appended, size, null, value in self._rows(
            "SELECT topic, partition, `offset`, reason, detail, toUnixTimestamp64Milli(appended_at), size, null_value, "
            "hex(value) FROM dead_letters FINAL",
            {},
        ):
            place = (topic, partition, offset)
            where = f"{topic}[{partition}] offset {offset}"
            letter = self._letters.get(place)
            if letter is None:
                tally.double(where)
                continue
            if place not in missing:
                tally.double(where, "there twice")
                continue
            missing.discard(place)
            have = [appended, size, null, _digest(bytes.fromhex(value)).hex(), reason in letter.reasons, detail != ""]
            want = [letter.appended, letter.size, int(letter.null), letter.shown.hex(), True, True]
            tally.compare(
                f"{where} ({letter.label})",
                (*names, f"reason {reason} of {sorted(letter.reasons)}", "detail"),
                have,
                want,
            )
        for topic, partition, offset in sorted(missing):
            tally.lose(f"{topic}[{partition}] offset {offset}")
        return tally

    def dead_letter_topic(self, consumer: KafkaConsumer) -> Tally:
        """The Kafka topic of refused records: each at least once, again only with the same bytes."""
        tally = Tally("kafka_dead_letters", len(self._letters))
        missing = set(self._letters)
        for record in log(consumer, self._settings.topic_prefix + "dead_letters", 0):
            key = (record.key or b"").decode(errors="replace")
            topic, _, place = key.partition(":")
            partition, _, offset = place.partition(":")
            where = (topic, int(partition), int(offset)) if partition.isdigit() and offset.isdigit() else None
            letter = self._letters.get(where) if where is not None else None
            if where is None or letter is None:
                tally.double(f"key {short(key)}")
                continue
            missing.discard(where)
            headers = dict(record.headers)
            tally.compare(
                f"key {key}",
                ("null", "value", "reason"),
                (record.value is None, _digest(record.value or b""), headers.get("reason", b"").decode()),
                (letter.null, letter.sent, _one_of(headers.get("reason", b"").decode(), letter.reasons)),
            )
        for topic, partition, offset in sorted(missing):
            tally.lose(f"key {topic}:{partition}:{offset}")
        return tally

    def checkpoints(self) -> Tally:
        """Every agent stands at the end of its logs, with their newest event time."""
        tally = Tally("checkpoints")
        wanted = {}
        for agent, topics in AGENTS.items():
            for topic in topics:
                for partition in range(self._settings.partitions):
                    newest = self._newest.get((topic, partition))
                    end = self._ends.get((topic, partition), 0)
                    wanted[agent, topic, partition, oracle.FOLD_VERSION] = (
                        end,
                        _NO_EVENT if newest is None else newest,
                    )
        tally.rows = len(wanted)
        for *key, following, newest, inputs in self._rows(
            "SELECT agent, topic, partition, fold_version, next_offset, toUnixTimestamp64Milli(newest), inputs "
            "FROM checkpoints FINAL",
            {},
        ):
            want = wanted.pop(tuple(key), None)
            if want is not None:
                tally.compare(key, ("next_offset", "newest", "inputs"), (following, newest, inputs), (*want, ""))
            elif tuple(key[:2]) not in OF_LOGS or key[2] >= self._settings.partitions or key[3] != 1:
                tally.double(key)
        for each in wanted:
            tally.lose(each)
        return tally

    def lives(self) -> list[Tally]:
        """The life of fans: log, checkpoints, tables, views and topic."""
        return self._lives.results(self._hashes, self._ends, self._newest)

    def wins(self) -> Tally:
        """Who won which follow and order."""
        return self._wins.result(self._hashes)

    # Figures.

    def snapshot(self, table: str) -> Tally:
        """A table of counts, FINAL."""
        tally = Tally(table)
        keys, values = SNAPSHOTS[table]
        forgets = table == "engagement_content_minute"
        wanted = self._figures.tables[table]
        if forgets:
            wanted = {key: row for key, row in wanted.items() if key[3] >= self._kept}
        tally.rows = len(wanted)
        missing = set(wanted)
        bucket = keys[-1]
        shown = "toInt64(day)" if bucket == "day" else f"toInt64(toUnixTimestamp({bucket}))"
        since = f"WHERE {bucket} >= toDateTime({{kept:Int64}}, 'UTC')" if forgets else ""
        for row in self._rows(
            f"SELECT {', '.join(keys[:-1])}, {shown}, partition, origin, fold_version, {', '.join(values)} "
            f"FROM {table} FINAL {since}",
            {"kept": self._kept},
        ):
            split = len(keys) + 2
            key, version, have = row[:split], row[split], row[split + 1 :]
            want = wanted.get(key)
            where = dict(zip((*keys, "partition", "origin"), key, strict=True))
            if want is None or version != oracle.FOLD_VERSION:
                tally.double(where, f"nobody wants it (fold_version {version})")
            elif key not in missing:
                tally.double(where, "there twice")
            else:
                missing.discard(key)
                if list(have) != want:
                    tally.compare(where, values, have, want)
        for key in sorted(missing):
            tally.lose(dict(zip((*keys, "partition", "origin"), key, strict=True)))
        return tally

    def viewers(self, grain: str) -> Tally:
        """Distinct viewers of each video by minute or hour."""
        tally = Tally(f"viewers_{grain}")
        if grain == "minute":
            wanted = {key: len(fans) for key, fans in self._figures.viewers.items() if key[3] >= self._kept}
        else:
            wanted = dict(self._figures.viewers_by_hour())
        tally.rows = len(wanted)
        since = "WHERE minute >= toDateTime({kept:Int64}, 'UTC')" if grain == "minute" else ""
        for *key, viewers in self._rows(
            f"SELECT platform, creator_id, content_id, toInt64(toUnixTimestamp({grain})), uniqMerge(viewers) "
            f"FROM viewers_{grain} {since} GROUP BY platform, creator_id, content_id, {grain}",
            {"kept": self._kept},
        ):
            want = wanted.pop(tuple(key), None)
            if want is None:
                tally.double(key)
            elif not _about(viewers, want):
                tally.differ(key, f"viewers stored {viewers} wanted {want}")
        for each in sorted(wanted):
            tally.lose(each)
        return tally

    def rolling(self) -> list[Tally]:
        """The rolling views: at moments that the events reach, and as they are now."""
        creators, contents = Tally("engagement_rolling_at"), Tally("engagement_by_content_at")
        clock = int(time.time()) // 60 * 60
        minutes = {key[2] for key in self._figures.tables["engagement_creator_minute"]}
        newest = max((minute for minute in minutes if minute <= clock), default=clock) + 60
        # From further back than these views look, or where minutes may be forgotten, nothing can be asked.
        for at in (newest, newest - 5400, newest + oracle.DAY_S - 3600):
            if at >= clock - 20 * 3600:
                self._creators(creators, "engagement_rolling_at(at = {at:DateTime('UTC')})", at)
                self._contents(contents, "engagement_by_content_at(at = {at:DateTime('UTC')})", at)
        now = []
        for name, look in (("engagement_rolling", self._creators), ("engagement_by_content", self._contents)):
            while True:
                before = self._minute()
                tally = Tally(name)
                look(tally, name, before)
                if self._minute() == before:
                    break
            now.append(tally)
        return [creators, now[0], contents, now[1]]

    def _minute(self) -> int:
        return int(self._client.query("SELECT toUnixTimestamp(toStartOfMinute(now()))").result_rows[0][0])

    def _creators(self, tally: Tally, view: str, at: int) -> None:
        rows = self._figures.tables["engagement_creator_minute"]
        minutes = ((key[:2], key[2], row) for key, row in rows.items())
        viewers = ((key[:2], key[3], fans) for key, fans in self._figures.viewers.items())
        count = oracle.CREATOR_VALUES.index
        columns = ("plays", "likes", "comments", "shares", "favorites", "follows", "unfollows")
        self._spans(tally, view, at, ("platform", "creator_id"), columns, count, oracle.rolling(minutes, viewers, at))

    def _contents(self, tally: Tally, view: str, at: int) -> None:
        rows = self._figures.tables["engagement_content_minute"]
        minutes = ((key[:3], key[3], row) for key, row in rows.items())
        count = oracle.CONTENT_VALUES.index
        columns = ("plays", "likes", "comments", "shares", "favorites", "follows")
        keys = ("platform", "creator_id", "content_id")
        self._spans(tally, view, at, keys, columns, count, oracle.rolling(minutes, (), at))

    def _spans(
        self,
        tally: Tally,
        view: str,
        at: int,
        keys: tuple[str, ...],
        columns: tuple[str, ...],
        count: Callable[[str], int],
        wanted: dict[tuple[Key, str], oracle.Span],
    ) -> None:
        ratios = ("mean_watch_ms", "completion_rate", "engagement_rate", "plays_yesterday", "plays_change")
        creators = keys[-1] == "creator_id"
        names = (*columns, *ratios, *(("engagement_rate_yesterday", "viewers") if creators else ()))
        tally.rows += len(wanted)
        for row in self._rows(
            f"SELECT {', '.join(keys)}, window, toInt64(toUnixTimestamp(window_end)), window_minutes, "
            f"{', '.join(names)} FROM {view}",
            {"at": at},
        ):
            split = len(keys)
            key, window, have = row[:split], row[split], list(row[split + 1 :])
            where = (*key, window, at)
            span = wanted.pop((key, window), None)
            if span is None:
                tally.double(where)
                continue
            now, before = ({name: sums[count(name)] for name in _SUMMED} for sums in (span.now, span.before))
            plays = now["plays"]
            want: list[Any] = [at, oracle.SPANS[window] // 60, *(span.now[count(name)] for name in columns)]
            want += [_ratio(now["watch_ms"], plays), _ratio(now["completions"], plays), _ratio(_acts(now), plays)]
            change = _ratio(plays, before["plays"])
            want += [before["plays"], None if change is None else change - 1]
            if creators:
                want += [_ratio(_acts(before), before["plays"]), len(span.viewers)]
                if have[-1] is not None and _about(have[-1], want[-1]):
                    have[-1] = want[-1]
            tally.compare(where, ("window_end", "window_minutes", *names), have, want)
        for key, window in sorted(wanted):
            tally.lose((*key, window, at))

    def _rows(self, query: str, parameters: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
        return stream(self._client, query, parameters)


_SUMMED = ("plays", "watch_ms", "completions", "likes", "comments", "shares")


def _acts(sums: dict[str, int]) -> int:
    return sums["likes"] + sums["comments"] + sums["shares"]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _about(stored: int, wanted: int) -> bool:
    """Whether an estimate of distinct fans is right: exactly for few, within half a percent for many."""
    return stored == wanted if wanted <= 200 else abs(stored - wanted) <= max(1, wanted * 0.005)


def _one_of(found: str, allowed: frozenset[str]) -> str:
    return found if found in allowed else " or ".join(sorted(allowed))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _letter(judged: Judged) -> _Letter:
    sent = judged.sent
    value = sent.value or b""
    return _Letter(
        sent.appended,
        len(value),
        sent.value is None,
        _digest(value[:SHOWN_BYTES]),
        _digest(value[:SENT_BYTES]),
        sent.label,
        judged.reasons,
    )


def _consumer(settings: Settings) -> KafkaConsumer:
    return KafkaConsumer(
        **kafka_options(settings), enable_auto_commit=False, auto_offset_reset="none", max_poll_records=20_000
    )


def _kafka(consumer: KafkaConsumer, settings: Settings, truth: TruthLog, topic: str) -> Tally:
    """A source topic: what a plain consumer reads is what the sender says. ``rows`` are those sent."""
    tally = Tally(f"kafka_{topic}")
    wanted = {partition for name, partition in truth.partitions() if name == topic}
    for partition in range(settings.partitions):
        sent = truth.partition(topic, partition) if partition in wanted else iter(())
        for record in log(consumer, settings.topic_prefix + topic, partition):
            own = next(sent, None)
            where = f"[{partition}] offset {record.offset}"
            if own is None:
                tally.double(where, "nobody sent it")
                continue
            tally.rows += 1
            have = (record.offset, record.key, record.value, record.timestamp)
            want = (own.offset, own.key, own.value, own.appended)
            if have != want:
                tally.compare(where, ("offset", "key", "value", "timestamp"), have, want)
        for own in sent:
            tally.rows += 1
            tally.lose(f"[{partition}] offset {own.offset}")
    return tally
