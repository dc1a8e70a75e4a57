"""What a fold is: a metric as a pure function of one log."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipeline.snapshot import SnapshotTable


@dataclass(frozen=True, slots=True)
class Output:
    """A record for a Kafka topic (named without prefix); ``partition`` None: by its key."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None


class Fold(ABC):
    """State of one metric in one partition.

    A fold knows nothing but the rows of its log, in order: no other topic, no other row, no clock. So its state is a
    function of (log, offset), and whoever computes it, however often, stores the same rows. It reads and writes only
    the row of an event's key, because a flush may be torn: some rows landed, others did not.
    """

    version: ClassVar[int] = 1
    """Raised when the definition changes; rows of different versions never mix."""
    tables: ClassVar[tuple[SnapshotTable, ...]] = ()
    """Tables it stores snapshot rows in, to be restored from."""
    order: ClassVar[tuple[str, ...]] = ()
    """Tables whose rows must be stored in this order."""

    @abstractmethod
    def apply(self, rows: pl.DataFrame) -> None:
        """Takes in judged rows (see ``decode.Decoded`` and ``verdict.Verdicts.judge``), in offset order."""

    @abstractmethod
    def take(self) -> dict[str, pl.DataFrame]:
        """Rows to store since the last take, by table; each is counted as stored from here on."""

    def settle(self, limit: int) -> bool:
        """Does a part of what is left to do before rows are taken, about ``limit`` rows' work; whether that was all.

        For a fold that one record may give much to do: called over and over, it does not stop the flow."""
        return True

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        """Records for Kafka of what was folded from offset ``start`` to before ``next_offset``, since the last call.
        They are sent, and acknowledged, before the rows are stored. ``reached`` is the event time that the log has
        got to (UTC ms); None: it has had no event."""
        return []

    def __len__(self) -> int:
        """Rows in memory that may still change."""
        return 0

    def restore(self, table: SnapshotTable, rows: pl.DataFrame) -> None:
        """Takes stored rows of a table as the state."""
        return

    def evict(self, oldest: int) -> None:
        """Forgets what no on-time event can change any more: buckets that ended before ``oldest`` (UTC ms)."""
        return
