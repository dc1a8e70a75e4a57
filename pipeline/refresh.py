"""Keeps ``fan_days`` and ``fan_values`` up to date from the stored events: by day, on a schedule, any number of times.

A row of either table is a function of the events that count, and only grows with them; so whoever computes it last, or
twice, or beside another, the row with the most events is the right one.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import orjson
from clickhouse_connect.driver.client import Client

from infra.connect import clickhouse_client
from infra.errors import FanpulseError, InfraError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.fan_sums import count_moves, sum_features
from pipeline.sink import FAILURES
from pipeline.statements import SETTINGS, statement
from schemas.topics import SOURCES
from schemas.value import expressions, rule

log = logging.getLogger(__name__)

TIMEOUT = 1800.0
"""Seconds that one statement may take."""
TOGETHER = 1_000_000
"""Records of several days that one statement takes at most."""
DAY = timedelta(days=1)
OFTEN = 10
"""How many times as often a refresh is due while closed days still change."""
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Refreshed:
    """Rows written to ``fan_days`` and ``fan_values``, by local day."""

    days: dict[date, int] = field(default_factory=dict)
    values: dict[date, int] = field(default_factory=dict)


def refresh(
    settings: Settings,
    client: Client,
    now: datetime,
    worker: str = "refresh",
    first: date | None = None,
    last: date | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Refreshed:
    """Computes the features of every local day whose stored events have changed since (or of ``first`` to ``last``,
    both included), the tiers and tags of all days that depend on them, up to the local day of ``now``, and the sums
    of all (``fan_sums``).

    Raises:
        FanpulseError: the figures in the database were made with other settings.
    """
    store_settings(settings, client, now)
    today = now.astimezone(ZoneInfo(settings.time_zone)).date()
    stored, ledger = _stored(settings, client), _Ledger(client, worker)
    if first is None and last is None:
        due = {day for day, now_there in stored.items() if now_there.seen != ledger[day].seen}
    else:
        due = {day for day in stored if (first or day) <= day <= (last or day)}
    # What was clicked on a day may have brought a fan up to two days later.
    due |= {day + n * DAY for day in due for n in (1, 2)} & set(stored)
    due = {day for day in due if day < today} | {today}
    begin = min(due | {day for day, state in ledger.days.items() if not state.policy})
    begin = min([begin, *(day + DAY for day in [max(ledger.days, default=None)] if day is not None)])
    policy = _policy(settings)
    former = ledger.policy()
    # Whatever ends this run, the next one knows which tiers and tags have to be computed again.
    ledger.write(*(replace(state, policy="") for day, state in ledger.days.items() if day >= begin))
    done = Refreshed()
    for days in _together(sorted(due), stored):
        report(f"features of {days[0]}" if len(days) == 1 else f"features of {days[0]} to {days[-1]}")
        rows = _features(settings, client, days)
        done.days.update(rows)
        there = {day: stored.get(day, _Stored()) for day in days}
        at = _now()
        ledger.write(*(_State(day, found.records, found.seen, rows[day], "", at) for day, found in there.items()))
    everyone = former not in ("", policy)
    for day in _depend(client, ledger, begin, today, _reach(settings)):
        report(f"tiers and tags of {day}")
        done.values[day] = _values(settings, client, day, everyone)
        ledger.write(replace(ledger[day], policy=policy))
        everyone = False
    report("sums of all fans")
    sum_features(client, today, now)
    count_moves(client)
    return done


def store_settings(settings: Settings, client: Client, now: datetime) -> None:
    """Writes ``fan_settings``, if the newest row says something else.

    Raises:
        FanpulseError: the figures in the database were made with other settings.
    """
    checkpoints.require_same(settings, checkpoints.read(client))
    row = (
        settings.time_zone,
        settings.active_interval,
        settings.no_activity.split(","),
        list(settings.value_policy.badge_micros),
        settings.value_policy.model_dump_json(),
    )
    names = "time_zone, active_interval, no_activity, badge_micros, policy"
    newest = client.query(f"SELECT {names} FROM fan_settings ORDER BY written_at DESC LIMIT 1").result_rows
    if [tuple(each) for each in newest] != [row]:
        client.insert("fan_settings", [(*row, now)], column_names=[*names.split(", "), "written_at"])


class Refresher:
    """Refreshes every ``refresh_interval`` seconds from a thread of its own, unless another worker has.

    While closed days still change, as when a history is loaded, it is due ``OFTEN`` times as often. It never holds the
    worker up and never ends it: what fails is tried again later.
    """

    def __init__(
        self,
        settings: Settings,
        index: int,
        connect: Callable[[], Client] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.worker = f"{os.uname().nodename}-{index}"
        self._settings = settings
        self._connect = connect or (lambda: clickhouse_client(settings, timeout=TIMEOUT))
        self._clock = clock
        self._client: Client | None = None
        self._well = True
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="refresh", daemon=True)

    def start(self) -> None:
        """Writes ``fan_settings`` at once, and goes on until the process ends."""
        self._thread.start()

    def stop(self) -> None:
        """Begins nothing more; what is under way may still land, which is harmless."""
        self._ending.set()

    def _work(self) -> None:
        alive = self._try(lambda client: store_settings(self._settings, client, self._now()))
        # Workers started together shall not look at the same moment.
        while alive and not self._ending.wait(self._settings.refresh_interval * random.uniform(0.5, 1) / OFTEN):
            alive = self._try(self._look)

    def _look(self, client: Client) -> None:
        interval, now = self._settings.refresh_interval, self._now()
        quiet, old_days = client.query(_LATELY, parameters={"now": now, "interval": interval}).result_rows[0]
        if quiet * (OFTEN if old_days else 1) < interval:
            count_moves(client)
            return
        done = refresh(self._settings, client, now, self.worker)
        log.info(
            "refreshed %d days of fans and the tiers of %d in %.1f s",
            len(done.days),
            len(done.values),
            self._clock() - now.timestamp(),
        )

    def _try(self, work: Callable[[Client], None]) -> bool:
        """Whether it is worth trying again later."""
        try:
            if self._client is None:
                self._client = self._connect()
            work(self._client)
            self._well = True
        except (*FAILURES, InfraError) as error:
            if self._well:
                log.warning("fans are not refreshed for now: %s", " ".join(str(error).split())[:300])
            self._well = False
            if self._client is not None:
                self._client.close()
            self._client = None
        except FanpulseError as error:
            log.error("fans are not refreshed: %s", error.message)
            return False
        except Exception:
            log.exception("the refresh of fans failed")
        return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


_LATELY = """
SELECT
    dateDiff('second', max(written_at), {now:DateTime64(3, 'UTC')}) AS quiet,
    countIf(dateDiff('second', refreshed_at, {now:DateTime64(3, 'UTC')}) < {interval:Float64} AND day + 1 < newest)
FROM (SELECT *, max(day) OVER () AS newest FROM fan_refreshes FINAL)
"""
"""Seconds since anybody last wrote a row, and how many days before yesterday were refreshed in the last interval."""


@dataclass(frozen=True)
class _State:
    """A row of ``fan_refreshes``, but for who wrote it when."""

    day: date
    records: int = 0
    seen: int = 0
    rows: int = 0
    policy: str = ""
    refreshed_at: datetime = _NEVER


class _Ledger:
    """The table ``fan_refreshes``."""

    def __init__(self, client: Client, worker: str) -> None:
        self._client = client
        self._worker = worker
        found = client.query(
            "SELECT day, records, seen, rows, policy, refreshed_at FROM fan_refreshes FINAL"
        ).result_rows
        self.days = {row[0]: _State(*row) for row in found}

    def __getitem__(self, day: date) -> _State:
        return self.days.get(day) or _State(day)

    def policy(self) -> str:
        """What the latest tiers and tags were computed with; empty: there are none."""
        return next((self.days[day].policy for day in sorted(self.days, reverse=True) if self.days[day].policy), "")

    def write(self, *states: _State) -> None:
        if not states:
            return
        self.days |= {state.day: state for state in states}
        self._client.insert(
            "fan_refreshes",
            [(s.day, s.records, s.seen, s.rows, s.policy, s.refreshed_at, self._worker, _now()) for s in states],
            column_names=["day", "records", "seen", "rows", "policy", "refreshed_at", "worker", "written_at"],
            settings={"async_insert": 0},
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _policy(settings: Settings) -> str:
    """Everything that tiers and tags depend on beside features."""
    own = settings.value_policy.model_dump(exclude={"badge_micros"})
    return orjson.dumps({**own, "active_interval": settings.active_interval, "rule": rule()}).decode()


def _reach(settings: Settings) -> int:
    """For how many days after a fan's last event tier and tags may still change."""
    return max(settings.value_policy.window_days, settings.active_interval)


def _depend(client: Client, ledger: _Ledger, begin: date, today: date, reach: int) -> list[date]:
    """Days from ``begin`` on whose tiers and tags can differ from the day before or have rows already, in order."""
    kept = client.query("SELECT DISTINCT day FROM fan_values WHERE day >= {begin:Date}", {"begin": begin}).result_rows
    days = {today, *(row[0] for row in kept)}
    for state in ledger.days.values():
        if state.rows:
            days |= {state.day + n * DAY for n in range(reach + 1)}
    return sorted(day for day in days if begin <= day <= today)


def _counts(settings: Settings, topic: str) -> str:
    """Which events of a topic are kept by day, in SQL. Impressions would be most of the rows, and say nothing."""
    left_out = topic == "ad_events" and "impression" in settings.no_activity.split(",")
    return "kind != 'impression'" if left_out else "1"


@dataclass(frozen=True)
class _Stored:
    """The records of a local day that count: how many, about, and how far they reach, as a hash.

    An offset is stored or repaired after those below it. So the highest ones tell whether something is new, and they
    do not change when a record is stored again or copies are merged.
    """

    records: int = 0
    seen: int = 0


def _stored(settings: Settings, client: Client) -> dict[date, _Stored]:
    """What is stored of each local day, told without reading ``FINAL``."""
    parts = " UNION ALL ".join(
        f"SELECT '{topic}' AS topic, partition, toDate(event_time, {{zone:String}}) AS day, count() AS records, "
        f"maxIf(`offset`, late = 0) AS on_time, maxIf(`offset`, late = 1) AS too_late FROM raw_{topic} "
        f"WHERE duplicate = 0 AND (late = 0 OR repaired = 1) AND {_counts(settings, topic)} GROUP BY partition, day"
        for topic in SOURCES
    )
    query = (
        "SELECT day, sum(records), groupBitXor(cityHash64(topic, partition, on_time, too_late)) "
        f"FROM ({parts}) GROUP BY day"
    )
    rows = client.query(query, {"zone": settings.time_zone}).result_rows
    return {row[0]: _Stored(row[1], row[2]) for row in rows}


def _together(days: list[date], stored: dict[date, _Stored]) -> list[list[date]]:
    """Days that one statement takes: it costs little beside what it reads, and its groups are in memory."""
    found: list[list[date]] = []
    held = 0
    for day in days:
        records = stored.get(day, _Stored()).records
        if found and held + records <= TOGETHER and day - found[-1][0] < 31 * DAY:
            found[-1].append(day)
            held += records
        else:
            found.append([day])
            held = records
    return found


def _features(settings: Settings, client: Client, days: list[date]) -> dict[date, int]:
    """Writes the rows of ``fan_days`` of some days; how many there are now."""
    noon = {day: datetime(day.year, day.month, day.day, 12, tzinfo=UTC) for day in days}
    parameters = {
        "days": days,
        "zone": settings.time_zone,
        # Wherever the zone is, the local days are within these; and so are the 24 hours before.
        "since": noon[days[0]] - 3 * DAY,
        "before": noon[days[-1]] + 2 * DAY,
        "no_activity": settings.no_activity.split(","),
        "interactions": rule()["interactions"],
    }
    client.command(statement("fan_days"), parameters, settings=SETTINGS)
    query = "SELECT day, count() FROM fan_days FINAL WHERE day IN {days:Array(Date)} GROUP BY day"
    return dict.fromkeys(days, 0) | {row[0]: row[1] for row in client.query(query, parameters).result_rows}


def _values(settings: Settings, client: Client, day: date, everyone: bool) -> int:
    """Writes the rows of ``fan_values`` of a day, those before it being right; how many.

    Looked at are fans whose last event is so near that something can have changed; ``everyone``: all.
    """
    parameters = {
        "day": day,
        "window": settings.value_policy.window_days,
        "active_interval": settings.active_interval,
        "reach": _reach(settings),
        "everyone": int(everyone),
    }
    made = ", ".join(f"{text} AS {name}" for name, text in expressions(settings.value_policy).items())
    client.command(statement("fan_values").replace("{expressions}", made), parameters, settings=SETTINGS)
    return int(
        client.query("SELECT count() FROM fan_values FINAL WHERE day = {day:Date}", parameters).result_rows[0][0]
    )
