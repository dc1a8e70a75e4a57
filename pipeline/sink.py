"""Rows into ClickHouse, retried in place while it is away."""

import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable

import polars as pl
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError, ProgrammingError
from urllib3.exceptions import HTTPError

from infra.errors import InfraError

log = logging.getLogger(__name__)

TRANSIENT = frozenset({159, 173, 202, 203, 209, 210, 225, 236, 241, 242, 243, 252, 285, 286, 319, 394, 425, 439, 999})
"""ClickHouse error codes that a later try may not meet: timeouts, too many queries or parts, memory, disk, threads,
network, shutting down, replicas or Keeper away."""
BY_CONTENT = frozenset({6, 27, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 395, 407, 469})
"""ClickHouse error codes that speak of the rows of an insert: what cannot be parsed or converted, is out of range, or
violates a constraint of the table."""
_INSERT = {
    # One insert may span many months (a load of old logs); each becomes its own part.
    "max_partitions_per_insert_block": 0,
    # A block repeated after a crash must reach the materialized views, whether its first try did or not.
    "insert_deduplicate": 0,
    # What is answered is stored.
    "async_insert": 0,
}
LONGEST_WAIT = 10.0
"""Seconds between tries, at most."""


class Stopped(Exception):
    """The worker is stopping: what was not stored will be computed again by its successor."""


SAMPLE = 50
"""Rows tried one by one before the refused ones are searched for."""
FOUND_AT_ONCE = 1_000
"""Refused rows that one search finds at most; what is left is found when the others are stored."""
SEARCH = 10.0
"""Seconds after which a search that has found something ends."""
PIECE = 1_000
"""Rows that a search tries at once."""


class RefusedByClickHouse(Exception):
    """ClickHouse refuses rows and will refuse them again. ``code`` is ClickHouse's number of the error."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Sink:
    """Inserts of whole frames. Blocking, safe from several threads.

    While ClickHouse cannot be reached or says "later", an insert waits and tries again for ever, which holds back the
    partition it belongs to. ``stopping`` ends that with Stopped; ``on_wait(table, reason)`` is told of each try.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        stopping: threading.Event,
        on_wait: Callable[[str, str], None] = lambda table, reason: None,
    ) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._stopping = stopping
        self._on_wait = on_wait
        self._inserting: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether ClickHouse is being waited for."""
        return bool(self._inserting)

    def insert(self, table: str, rows: pl.DataFrame) -> None:
        """Stores the rows, or raises RefusedByClickHouse or Stopped. A try that failed may have stored them: rows
        are absolute, so storing them again changes nothing."""
        self._inserting.add(threading.get_ident())
        try:
            self._insert(table, rows)
        finally:
            self._inserting.discard(threading.get_ident())

    def refused(self, table: str, rows: pl.DataFrame) -> dict[int, str]:
        """Which of the rows ClickHouse refuses for what they contain, and why, by index: the first ones, as many as are
        found in about ``SEARCH`` seconds, at most ``FOUND_AT_ONCE``.

        They are tried, and nothing is stored: on an empty table of the same columns and constraints. Raises
        RefusedByClickHouse if most rows are refused, for then it is the table that is wrong; or Stopped.
        """
        probe = f"scratch_{secrets.token_hex(4)}_{table}"
        with contextlib.closing(self._connect()) as client:
            client.command(f"CREATE TABLE {probe} AS {table} ENGINE = Null")
            try:
                tried = range(0, len(rows), max(1, len(rows) // SAMPLE))
                sample = [why for index in tried if (why := self._try(probe, rows[index]))]
                if len(rows) > SAMPLE and len(sample) > len(tried) / 2:
                    raise RefusedByClickHouse(
                        f"{table}: ClickHouse refuses {len(sample)} of {len(tried)} rows looked at, so it is the table "
                        f"that is wrong: {sample[-1]}"
                    )
                found: dict[int, str] = {}
                # From the top of the list, so from the first row to the last, in pieces that are quickly tried.
                waiting = [range(at, min(at + PIECE, len(rows))) for at in range(0, len(rows), PIECE)][::-1]
                end = time.monotonic() + SEARCH
                while waiting and len(found) < FOUND_AT_ONCE and not (found and time.monotonic() > end):
                    span = waiting.pop()
                    if not (why := self._try(probe, rows[span.start : span.stop])):
                        continue
                    if len(span) == 1:
                        found[span.start] = why
                        continue
                    # Most errors name the row; whether it is that one alone is tried all the same.
                    named = re.search(r"\brow (\d+)\b", why)
                    at = span.start + (min(max(int(named[1]), 1), len(span)) - 1 if named else len(span) // 2)
                    parts = (range(span.start, at), range(at, at + 1), range(at + 1, span.stop))
                    waiting += [part for part in reversed(parts) if part]
                return found
            finally:
                client.command(f"DROP TABLE IF EXISTS {probe} SYNC")

    def held(self, table: str, rows: pl.DataFrame) -> set[tuple[int, int]]:
        """Which (partition, offset) of raw rows the table has already."""
        times = rows["event_time"].dt.epoch("ms")
        with contextlib.closing(self._connect()) as client:
            found = client.query(
                "SELECT DISTINCT partition, `offset` FROM {table:Identifier} "
                "WHERE event_time BETWEEN fromUnixTimestamp64Milli({first:Int64}, 'UTC') "
                "AND fromUnixTimestamp64Milli({last:Int64}, 'UTC') "
                "AND has({creators:Array(String)}, creator_id) "
                "AND has({partitions:Array(UInt16)}, partition) AND has({offsets:Array(Int64)}, `offset`)",
                parameters={
                    "table": table,
                    "first": times.min(),
                    "last": times.max(),
                    "creators": rows["creator_id"].unique().to_list(),
                    "partitions": rows["partition"].unique().to_list(),
                    "offsets": rows["offset"].to_list(),
                },
            ).result_rows
        wanted = set(rows.select("partition", "offset").rows())
        return {(int(partition), int(offset)) for partition, offset in found} & wanted

    def _try(self, probe: str, rows: pl.DataFrame) -> str:
        """Why the rows are refused for what they contain; empty if they are taken."""
        try:
            self.insert(probe, rows)
        except RefusedByClickHouse as error:
            if error.code not in BY_CONTENT:
                raise
            return _why(str(error))
        return ""

    def _insert(self, table: str, rows: pl.DataFrame) -> None:
        arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        wait = 0.1
        while True:
            # Also before the first try: what comes after an insert that was given up must not be stored beyond it.
            if self._stopping.is_set():
                raise Stopped
            try:
                client = self._client = self._client or self._connect()
                client.insert_arrow(table, arrow, settings=_INSERT)
                return
            except FAILURES as error:
                if not transient(error):
                    raise RefusedByClickHouse(f"{table}: {_line(error)}", error_code(error)) from error
                # It may come back at another address.
                self._client = None
                code = error_code(error)
                reason = f"code {code}" if code else type(error).__name__
            self._on_wait(table, reason)
            log.warning(
                "ClickHouse did not take %d rows of %s (%s); trying again in %.1f s", len(rows), table, reason, wait
            )
            if self._stopping.wait(wait):
                raise Stopped
            wait = min(wait * 2, LONGEST_WAIT)


FAILURES = (ClickHouseError, HTTPError, OSError, InfraError)
"""What talking to ClickHouse may raise."""


def transient(error: BaseException) -> bool:
    """Whether a later try may go through: ClickHouse cannot be reached, or says so."""
    if code := error_code(error):
        return code in TRANSIENT
    # Without a code it was not ClickHouse that answered, but the network, or what stands before it.
    return isinstance(error, FAILURES) and not isinstance(error, ProgrammingError | DataError)


def _why(message: str) -> str:
    """What ClickHouse says of a row, without what differs from try to try."""
    found = re.search(r"DB::Exception: (.*?)(?: \(version [^)]*\).*)?$", message)
    return re.sub(r"scratch_[0-9a-f]{8}_| \([0-9a-f-]{36}\)", "", found[1] if found else message)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600]


def error_code(error: BaseException) -> int:
    """ClickHouse's number of an error; 0 where the message has none."""
    found = re.search(r"\bcode: ?(\d+)", str(error), re.IGNORECASE)
    return int(found[1]) if found else 0
