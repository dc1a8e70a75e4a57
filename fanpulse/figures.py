"""What the screen shows: rolling engagement from ClickHouse, health from the workers' metrics."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client
from prometheus_client.parser import text_string_to_metric_families

from infra.home import Home
from infra.settings import Settings
from schemas.topics import SOURCES

WINDOWS = ("1m", "5m", "1h", "24h")


@dataclass(frozen=True)
class Health:
    """The workers' own figures, summed over them.

    ``records``, ``duplicates``, ``late`` and ``refused`` count since the workers started; ``lag`` is in records;
    ``newest`` is the newest event time stored of interactions (UTC seconds), ``complete`` the time up to which every
    partition of them has got; None if unknown.
    """

    workers: int = 0
    records: int = 0
    duplicates: int = 0
    late: int = 0
    refused: int = 0
    lag: int = 0
    retries: int = 0
    newest: float | None = None
    complete: float | None = None


@dataclass(frozen=True)
class Creator:
    """One creator's rolling figures; ``plays`` and ``change`` (against a day before, a ratio - 1) by window."""

    creator_id: str
    platform: str
    plays: dict[str, int]
    change: dict[str, float | None]
    viewers: int | None
    engagement_rate: float | None
    completion_rate: float | None
    follows: int


@dataclass(frozen=True)
class Board:
    """Rolling engagement at a moment (UTC): totals over all creators, and the creators with most plays in 24 h."""

    at: datetime
    plays: dict[str, int] = field(default_factory=dict)
    change: dict[str, float | None] = field(default_factory=dict)
    creators: list[Creator] = field(default_factory=list)


def read_health(settings: Settings, workers: Iterable[int], timeout: float = 1.0) -> Health:
    """Asks the workers of this home; those that do not answer are left out."""
    ports = Home(settings.home).ports()
    sums: dict[str, float] = {}
    newest: dict[str, float] = {}
    answered = 0
    for index in workers:
        port = ports.get(f"worker-{index}")
        if port is None:
            continue
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, OSError):
            continue
        answered += 1
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix("fanpulse_")
                sums[name] = sums.get(name, 0.0) + sample.value
                if name == "newest_event_seconds" and sample.labels["topic"] == SOURCES[0]:
                    newest[sample.labels["partition"]] = sample.value
    return Health(
        workers=answered,
        records=int(sums.get("records_total", 0)),
        duplicates=int(sums.get("duplicates_total", 0)),
        late=int(sums.get("late_total", 0)),
        refused=int(sums.get("dead_letters_total", 0)),
        lag=int(sums.get("lag", 0)),
        retries=int(sums.get("retries_total", 0)),
        newest=max(newest.values(), default=None),
        complete=min(newest.values()) if len(newest) == settings.partitions else None,
    )


def read_board(client: Client, at: float, top: int) -> Board:
    """Rolling engagement as of ``at`` (UTC seconds), as the analyst sees it in ``engagement_rolling_at``."""
    moment = datetime.fromtimestamp(at, UTC)
    rows = client.query(
        "SELECT window, platform, creator_id, plays, plays_yesterday, plays_change, viewers, engagement_rate, "
        "completion_rate, follows FROM engagement_rolling_at(at = {at:String})",
        parameters={"at": moment.strftime("%Y-%m-%d %H:%M:%S")},
    ).result_rows
    found: dict[tuple[str, str], Creator] = {}
    plays = dict.fromkeys(WINDOWS, 0)
    before = dict.fromkeys(WINDOWS, 0)
    for window, platform, creator, now, then, change, viewers, engagement, completion, follows in rows:
        each = found.setdefault((creator, platform), Creator(creator, platform, {}, {}, 0, None, None, 0))
        each.plays[window], each.change[window] = now, change
        plays[window] += now
        before[window] += then
        if window == WINDOWS[-1]:
            found[creator, platform] = Creator(
                creator, platform, each.plays, each.change, viewers, engagement, completion, follows
            )
    creators = sorted(found.values(), key=lambda creator: (-creator.plays.get(WINDOWS[-1], 0), creator.creator_id))
    change = {window: plays[window] / before[window] - 1 if before[window] else None for window in WINDOWS}
    return Board(moment, plays, change, creators[:top])


class Rate:
    """Records per second, over the last few seconds."""

    def __init__(self, span: float = 5.0) -> None:
        self._span = span
        self._seen: list[tuple[float, int]] = []

    def add(self, count: int, now: float | None = None) -> float:
        """Takes the count so far; returns the rate. A count below the last one (a worker restarted) begins anew."""
        now = time.monotonic() if now is None else now
        if self._seen and count < self._seen[-1][1]:
            self._seen = []
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._span:
            del self._seen[0]
        (then, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - then) if last > then else 0.0
