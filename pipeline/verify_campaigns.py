"""What agent ``rules`` decides on, against its definition: ad groups by minute, as far as its log has them."""

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.comparison import Comparison, compare_rows
from pipeline.folds.rules import STATE, Rules
from pipeline.twin import twin


def copy_campaigns(client: Client, into: str) -> dict[int, int]:
    """Copies what ``rules`` remembers of minutes, and of how far each partition of ``ad_events`` is, at one moment,
    into a new table; the first offset that it has nothing of, by partition of ``ad_events``."""
    client.command(
        f"CREATE TABLE {into} ENGINE = MergeTree ORDER BY tuple() AS SELECT kind, partition, source, platform, "
        f"campaign_id, ad_group_id, minute, numbers FROM {STATE} FINAL WHERE fold_version = {{version:UInt16}} "
        "AND kind IN ('minute', 'input')",
        parameters={"version": Rules.version},
    )
    rows = client.query(
        f"SELECT source, max(assumeNotNull(numbers[1])) FROM {into} WHERE kind = 'input' GROUP BY source"
    ).result_rows
    return {int(source): int(offset) for source, offset in rows}


def compare_campaigns(client: Client, settings: Settings, copy: str, judged: str) -> Comparison:
    """Every minute of every ad group and partition of ``ad_events`` that the copy has, or should have.

    ``judged`` are the records of ``ad_events`` (``twin.judge``), at least as far as the copy.
    """
    events = f"""
        SELECT judged.* FROM {judged} AS judged
        INNER JOIN
        (
            SELECT partition AS owner, source, assumeNotNull(numbers[1]) AS next FROM {copy} WHERE kind = 'input'
        ) AS inputs ON judged.partition = inputs.source
        WHERE is_late = 0 AND is_duplicate = 0 AND `offset` < next AND owner = bitAnd(
            kafkaMurmurHash(concat(platform, ':', campaign_id)), 0x7fffffff) % {{partitions:UInt32}}
    """
    keys = ("platform", "campaign_id", "ad_group_id", "minute", "source")
    stored = f"SELECT {', '.join(keys)}, numbers FROM {copy} WHERE kind = 'minute'"
    wanted = f"WITH events AS ({events}) {twin('campaign_minute')}"
    return compare_rows(client, "rule_state", stored, wanted, keys, ("numbers",), {"partitions": settings.partitions})
