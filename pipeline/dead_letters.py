"""Dead letters: refused records, kept in a Kafka topic (whole) and a ClickHouse table (for looking at)."""

from collections.abc import Iterable

import polars as pl

from pipeline.decode import Refused

SHOWN_BYTES = 65_536
"""How much of a refused record the table keeps."""
SENT_BYTES = 3 * 1024 * 1024
"""How much of it the Kafka topic keeps: a record that came compressed may be longer than a topic takes."""


def dead_letter_rows(refused: Iterable[tuple[str, int, Refused]]) -> pl.DataFrame:
    """Rows for the table ``dead_letters``, from (topic, partition, record)."""
    letters = list(refused)
    return pl.DataFrame(
        {
            "topic": [topic for topic, _, _ in letters],
            "partition": [partition for _, partition, _ in letters],
            "offset": [record.offset for _, _, record in letters],
            "appended_at": [record.appended for _, _, record in letters],
            "reason": [record.reason for _, _, record in letters],
            "detail": [record.detail for _, _, record in letters],
            "value": [(record.value or b"")[:SHOWN_BYTES] for _, _, record in letters],
            "size": [len(record.value or b"") for _, _, record in letters],
            "null_value": [record.value is None for _, _, record in letters],
        },
        schema={
            "topic": pl.String,
            "partition": pl.UInt16,
            "offset": pl.Int64,
            "appended_at": pl.Int64,
            "reason": pl.String,
            "detail": pl.String,
            "value": pl.Binary,
            "size": pl.UInt32,
            "null_value": pl.UInt8,
        },
        strict=False,
    ).with_columns(pl.col("appended_at").cast(pl.Datetime("ms", "UTC")))


def headers(topic: str, partition: int, record: Refused) -> dict[str, bytes]:
    """Headers of the Kafka record whose value is the refused record's bytes."""
    return {
        "topic": topic.encode(),
        "partition": str(partition).encode(),
        "offset": str(record.offset).encode(),
        "appended_at_ms": str(record.appended).encode(),
        "reason": record.reason.encode(),
        "detail": record.detail.encode(errors="replace"),
        "size": str(len(record.value or b"")).encode(),
    }


def value(record: Refused) -> bytes | None:
    """Value of the Kafka record: the refused record's bytes."""
    return record.value and record.value[:SENT_BYTES]


def key(topic: str, partition: int, record: Refused) -> bytes:
    """Key of the Kafka record: the same record refused again, after a crash, has the same key."""
    return f"{topic}:{partition}:{record.offset}".encode()
