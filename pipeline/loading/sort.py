"""Records by event time, also when there are more of them than memory holds."""

import heapq
import tempfile
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import FanpulseError

MEMORY_BYTES = 192 * 1024 * 1024
"""Bytes of records held in memory (Python's own overhead doubles that); more go to temporary files."""
_BATCH = 2048
_OVERHEAD = 150

Record = tuple[int, int, int, bytes, bytes]
"""Event time (UTC ms), row, partition, key, value."""

_SCHEMA = pa.schema(
    [
        ("time", pa.int64()),
        ("row", pa.int64()),
        ("partition", pa.int32()),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ]
)


class Sorter:
    """Takes records in any order, gives them by event time, those of one time by row.

    Sorted runs are written to temporary files (``TMPDIR``; about as large as the records, less by compression) and
    merged. A context manager: the files are removed at its end.

    Raises:
        FanpulseError: the temporary files cannot be written.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._limit = memory_bytes
        self._held: list[Record] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __enter__(self) -> "Sorter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def __len__(self) -> int:
        return self._count

    @property
    def runs(self) -> int:
        """How many temporary files there are."""
        return len(self._runs)

    def add(self, records: Sequence[Record]) -> None:
        """Takes more records."""
        self._held.extend(records)
        self._count += len(records)
        self._bytes += sum(len(record[4]) for record in records) + _OVERHEAD * len(records)
        if self._bytes > self._limit:
            self._spill()

    def sorted(self) -> Iterator[Record]:
        """All records, in order; they are gone afterwards."""
        held, self._held = self._held, []
        _sort(held)
        if not self._runs:
            return iter(held)
        return heapq.merge(*(_read(run) for run in self._runs), held, key=itemgetter(0, 1))

    def _spill(self) -> None:
        held, self._held, self._bytes = self._held, [], 0
        _sort(held)
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="fanpulse-load-")
            run = Path(self._folder.name) / f"run-{len(self._runs)}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.OSFile(str(run), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
                for start in range(0, len(held), _BATCH):
                    columns: list[Any] = list(zip(*held[start : start + _BATCH], strict=True))
                    writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        except OSError as error:
            raise FanpulseError(
                f"no room for sorting in {tempfile.gettempdir()} ({error.strerror or error}): set TMPDIR to a "
                "directory with as much room as the file has uncompressed, or sort the file elsewhere and use --no-sort"
            ) from None
        self._runs.append(run)


def _sort(records: list[Record]) -> None:
    times = np.fromiter((record[0] for record in records), np.int64, len(records))
    rows = np.fromiter((record[1] for record in records), np.int64, len(records))
    records[:] = [records[index] for index in np.lexsort((rows, times)).tolist()]


def _read(run: Path) -> Iterator[Record]:
    with pa.OSFile(str(run), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
