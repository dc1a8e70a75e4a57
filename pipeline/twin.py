"""The SQL twins of the folds: definitions in ``schemas/twins``, run by verify and by repair."""

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.fold import Fold
from pipeline.folds.ads import Ads
from pipeline.folds.engagement import Engagement
from pipeline.snapshot import SnapshotTable
from pipeline.statements import text

FOLDS: dict[str, tuple[type[Fold], str]] = {"engagement": (Engagement, "interactions"), "ads": (Ads, "ad_events")}
"""Folds that store snapshot rows, by agent: the class, and the topic that its tables are computed from."""


UNTIL = "transform(partition, {partitions:Array(UInt16)}, {until:Array(Int64)}, 0)"
"""The offset up to which a partition is looked at, in SQL; ``limits`` gives its parameters."""
BUCKETS = (
    "toStartOfMinute(event_time) AS minute, toStartOfHour(event_time) AS hour, "
    "toDate(event_time, {time_zone:String}) AS day"
)
"""The buckets of an event that twins group by, in SQL; its parameter is ``time_zone``."""

IN_DAYS = (
    "event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') "
    "AND event_time < fromUnixTimestamp64Milli({before:Int64}, 'UTC')"
)
"""Condition: an event of a span, in SQL; its parameters are ``since`` and ``before``, UTC ms."""


def limits(until: dict[int, int]) -> dict[str, object]:
    """Parameters of ``UNTIL``: the first offset left out, by partition."""
    return {"partitions": list(until), "until": list(until.values())}


def twin(name: str) -> str:
    """Text of a twin, without its comment lines."""
    return text("twins", name)


def judge(client: Client, settings: Settings, topic: str, until: dict[int, int], into: str) -> None:
    """Makes the table ``into`` of a topic's raw records below ``until`` (by partition), judged anew (``is_late``,
    ``is_duplicate``), with ``minute``, ``hour`` and local ``day`` of event time."""
    client.command(
        f"CREATE TABLE {into} ENGINE = MergeTree ORDER BY (partition, `offset`) AS "
        f"SELECT *, {BUCKETS} FROM ({twin('verdicts')})",
        parameters={
            "table": f"raw_{topic}",
            "lateness_ms": settings.allowed_lateness * 1000,
            "horizon_ms": settings.late_horizon * 1000,
            **limits(until),
            "time_zone": settings.time_zone,
        },
        # The records of a topic, whole, are sorted by id: beyond it on disk, bytes.
        settings={"max_bytes_before_external_sort": 1_000_000_000},
    )


def columns(table: SnapshotTable) -> str:
    """Key, partition, measure and applied columns of a snapshot table, as twins have them."""
    return ", ".join((*table.keys, "partition", *table.measures, "applied"))
