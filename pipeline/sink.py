"""Rows into ClickHouse, retried in place while it is away."""

import logging
import re
import threading
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


class RefusedByClickHouse(Exception):
    """ClickHouse refuses rows and will refuse them again."""


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

    def _insert(self, table: str, rows: pl.DataFrame) -> None:
        arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        wait = 0.1
        while True:
            try:
                if self._client is None:
                    self._client = self._connect()
                self._client.insert_arrow(table, arrow, settings=_INSERT)
                return
            except FAILURES as error:
                if not transient(error):
                    raise RefusedByClickHouse(f"{table}: {' '.join(str(error).split())[:600]}") from error
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


def error_code(error: BaseException) -> int:
    """ClickHouse's number of an error; 0 where the message has none."""
    found = re.search(r"\bcode: ?(\d+)", str(error), re.IGNORECASE)
    return int(found[1]) if found else 0
