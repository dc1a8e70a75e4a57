"""Takes into attribution what came too late for the stream: touches, and conversions."""

from collections.abc import Callable, Mapping
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.attribution_twin import KEY, SETTLED, TOUCHES, VALUES, AttributionCut, told, wanted, windows
from pipeline.touch_log import KINDS
from pipeline.twin import IN_DAYS, limits


def repair_attribution(
    client: Client,
    settings: Settings,
    cut: AttributionCut,
    until: Mapping[str, dict[int, int]],
    span: Mapping[str, int],
    report: Callable[[str], None],
) -> dict[str, int]:
    """Stores the late touches of a span, and who won its late conversions; returns rows by table.

    The late records are settled. ``until``: the archive's next offsets by topic and partition, up to which is looked;
    ``span``: ``since`` and ``before``, UTC ms. A late conversion is given the best of all touches that came in time;
    its row is true up to the offset in ``ad_events`` that it says. Late touches are in no row: views look at them
    beside the rows, so they count for conversions that come after the repair, too.
    """
    parameters: dict[str, Any] = {**span, **windows(settings), "version": cut.version}
    parameters["earliest"] = max(span["since"] - max(windows(settings).values()), 0)
    for topic in KINDS:
        parameters |= {f"{topic}_{name}": each for name, each in limits(until.get(topic, {})).items()}
    report("repairing late_touches (attribution)")
    late = told("ad_events", f"raw_ad_events FINAL WHERE {SETTLED} AND {IN_DAYS} AND {_below('ad_events')}")
    client.command(
        f"INSERT INTO late_touches ({', '.join(TOUCHES)}, fold_version) SELECT *, {{version:UInt16}} FROM ({late})",
        parameters=parameters,
    )
    report("repairing attributions (attribution)")
    conversions = " UNION ALL ".join(_late_conversions(topic) for topic in ("interactions", "orders"))
    touches = told(
        "ad_events",
        f"raw_ad_events FINAL WHERE late = 0 AND duplicate = 0 AND {_below('ad_events')} "
        "AND event_time >= fromUnixTimestamp64Milli({earliest:Int64}, 'UTC') "
        "AND event_time < fromUnixTimestamp64Milli({before:Int64}, 'UTC') "
        f"AND (creator_id, fan) IN (SELECT creator_id, fan FROM ({conversions}))",
    )
    columns = ", ".join((*KEY, *VALUES))
    client.command(
        f"INSERT INTO attributions ({columns}, origin, fold_version, applied) "
        f"SELECT {columns}, 'repair', {{version:UInt16}}, {_until('ad_events')} FROM ({wanted(conversions, touches)})",
        parameters=parameters,
    )
    found = {"late_touches": late, "attributions": conversions}
    return {
        table: int(client.query(f"SELECT count() FROM ({query})", parameters=parameters).result_rows[0][0])
        for table, query in found.items()
    }


def _late_conversions(topic: str) -> str:
    """Those of the span that came late, and those that the stream left."""
    kinds = "'follow'" if topic == "interactions" else "'order', 'refund'"
    left = (
        f"SELECT partition, `offset` FROM attributions FINAL WHERE beyond = 1 AND kind IN ({kinds}) "
        "AND fold_version = {version:UInt16}"
    )
    return told(
        topic,
        f"raw_{topic} FINAL WHERE {IN_DAYS} AND {_below(topic)} "
        f"AND ({SETTLED} OR late = 0 AND duplicate = 0 AND (partition, `offset`) IN ({left}))",
    )


def _below(topic: str) -> str:
    return f"`offset` < {_until(topic)}"


def _until(topic: str) -> str:
    """The archive's next offset in a topic, in SQL."""
    return f"transform(partition, {{{topic}_partitions:Array(UInt16)}}, {{{topic}_until:Array(Int64)}}, 0)"
