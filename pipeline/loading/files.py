"""Rows of a user's file, some thousands at a time: JSON lines, CSV or Parquet, plain or compressed."""

import contextlib
import csv
import io
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import FanpulseError
from pipeline.loading.mapping import RefusedRow, Rows

Format = Literal["jsonl", "csv", "parquet"]

ROWS = 20_000
"""Rows read at a time."""
LINE_BYTES = 1 << 20
"""A longer line of JSON is refused, bytes."""
_ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


class LogFile(Protocol):
    """An open file.

    Rows are numbered by the line they begin in, Parquet's from 1 on. ``complete`` is False where rows may have
    columns beyond ``columns``: then that is what the first rows had, and grows while the file is read.
    """

    columns: set[str]
    complete: bool

    def chunks(self, wanted: Collection[str]) -> Iterator[Rows]:
        """All rows, once, with the wanted columns. FanpulseError where the file is damaged."""

    def fraction(self) -> float | None:
        """Share of the file that is read, 0 to 1; None where its size is not known."""

    def close(self) -> None:
        """Lets go of the file."""


def open_log(name: str, form: Format | None) -> LogFile:
    """Opens a file, or standard input for ``-`` (JSON lines if nothing else is said).

    Raises:
        FanpulseError: there is no such file, it cannot be read, or its format is not told by its name.
    """
    path = Path(name)
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    compression = _COMPRESSED.get(endings[-1]) if endings else None
    if compression:
        endings.pop()
    if form is None:
        form = "jsonl" if name == "-" else _ENDINGS.get(endings[-1] if endings else "")
    if form is None:
        raise FanpulseError(f"{name}: the name does not tell the format; add --format jsonl, csv or parquet")
    if form == "parquet" and (name == "-" or compression):
        raise FanpulseError(f"{name}: Parquet is read from a plain file only")
    if name != "-" and path.is_dir():
        raise FanpulseError(f"{name} is a directory; give one file")
    try:
        raw: BinaryIO = sys.stdin.buffer if name == "-" else path.open("rb")
    except OSError as error:
        raise FanpulseError(f"{name}: cannot be read ({error.strerror})") from None
    try:
        with damage(name):
            if form == "parquet":
                return _Parquet(name, raw)
            size = None if name == "-" or not path.is_file() else path.stat().st_size
            stream = _Stream(name, raw, compression, size)
            return _Csv(stream) if form == "csv" else _Jsonl(stream)
    except FanpulseError:
        raw.close()
        raise


@contextlib.contextmanager
def damage(name: str) -> Iterator[None]:
    """What readers raise for a file that is not what it says, as one clear line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        text = " ".join(str(error).split())
        raise FanpulseError(f"{name}: the file is damaged or not of this format ({text[:160]})") from None


class _Stream:
    """The bytes of a file, decompressed."""

    def __init__(self, name: str, raw: BinaryIO, compression: str | None, size: int | None) -> None:
        self.name = name
        self._raw = raw
        self._size = size
        source: Any = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) if compression else raw
        self.bytes: Any = io.BufferedReader(source, 1 << 20) if compression else source

    def fraction(self) -> float | None:
        if self._size is None:
            return None
        return min(self._raw.tell() / self._size, 1.0) if self._size else 1.0

    def close(self) -> None:
        self._raw.close()


class _Jsonl:
    complete = False

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._line = 0
        self.columns: set[str] = set()
        self._first = self._read()

    def chunks(self, wanted: Collection[str]) -> Iterator[Rows]:
        numbers, records, broken = self._first
        while numbers or broken:
            yield Rows(numbers, {name: [record.get(name) for record in records] for name in wanted}, broken)
            with damage(self._stream.name):
                numbers, records, broken = self._read()

    def _read(self) -> tuple[list[int], list[dict[str, Any]], list[RefusedRow]]:
        numbers: list[int] = []
        records: list[dict[str, Any]] = []
        broken: list[RefusedRow] = []
        readline, columns = self._stream.bytes.readline, self.columns
        while len(numbers) + len(broken) < ROWS:
            line = readline(LINE_BYTES + 1)
            if not line:
                break
            self._line += 1
            if len(line) > LINE_BYTES and not line.endswith(b"\n"):
                while (rest := readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                broken.append(RefusedRow(self._line, "too_large", f"a line of more than {LINE_BYTES} bytes"))
                continue
            if self._line == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.isspace():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = "broken_json" if _is_utf8(line) else "invalid_utf8"
                detail = f"line is not JSON: {error}" if reason == "broken_json" else "the bytes are not UTF-8"
                broken.append(RefusedRow(self._line, reason, detail))
                continue
            if not isinstance(record, dict):
                broken.append(RefusedRow(self._line, "wrong_type", "the line is not a JSON object"))
                continue
            columns.update(record)
            numbers.append(self._line)
            records.append(record)
        return numbers, records, broken

    def fraction(self) -> float | None:
        return self._stream.fraction()

    def close(self) -> None:
        self._stream.close()


class _Csv:
    complete = True

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        # Bytes that are not UTF-8 must not end the reading: they spoil their row only.
        text = io.TextIOWrapper(stream.bytes, "utf-8-sig", "surrogateescape", newline="")
        self._reader = csv.reader(text, strict=True)
        try:
            self._header = next(self._reader, [])
        except csv.Error as error:
            raise FanpulseError(f"{stream.name}: the first line is no CSV header ({error})") from None
        self.columns = set(self._header)
        if not self._header:
            raise FanpulseError(f"{stream.name}: the file is empty; the first line must name the columns")

    def chunks(self, wanted: Collection[str]) -> Iterator[Rows]:
        at = {name: self._header.index(name) for name in wanted}
        for name in wanted:
            if self._header.count(name) > 1:
                raise FanpulseError(f"{self._stream.name}: two columns are named {name}; rename one")
        while True:
            with damage(self._stream.name):
                numbers, rows, broken = self._read()
            if not numbers and not broken:
                return
            yield Rows(numbers, {name: [row[index] for row in rows] for name, index in at.items()}, broken)

    def _read(self) -> tuple[list[int], list[list[str]], list[RefusedRow]]:
        numbers: list[int] = []
        rows: list[list[str]] = []
        broken: list[RefusedRow] = []
        reader, width = self._reader, len(self._header)
        while len(numbers) + len(broken) < ROWS:
            number = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                broken.append(RefusedRow(number, "broken_csv", f"not readable as CSV: {error}"))
                continue
            if len(row) == width:
                numbers.append(number)
                rows.append(row)
            elif row:
                broken.append(RefusedRow(number, "broken_csv", f"{len(row)} cells, but {width} columns"))
        return numbers, rows, broken

    def fraction(self) -> float | None:
        return self._stream.fraction()

    def close(self) -> None:
        self._stream.close()


class _Parquet:
    complete = True

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self._name = name
        self._raw = raw
        self._file = pq.ParquetFile(raw)
        self._total = self._file.metadata.num_rows
        self._read = 0
        self.columns = set(self._file.schema_arrow.names)

    def chunks(self, wanted: Collection[str]) -> Iterator[Rows]:
        batches = self._file.iter_batches(ROWS, columns=list(wanted))
        while True:
            with damage(self._name):
                batch = next(batches, None)
            if batch is None:
                return
            first = self._read + 1
            self._read += batch.num_rows
            frame = pl.DataFrame(pl.from_arrow(batch))
            values = {column.name: _shortest(column).to_list() for column in frame.iter_columns()}
            yield Rows(list(range(first, self._read + 1)), values, [])

    def fraction(self) -> float | None:
        return self._read / self._total if self._total else 1.0

    def close(self) -> None:
        self._raw.close()


def _shortest(column: pl.Series) -> pl.Series:
    # 19.9 in 32 bits is 19.899999618530273 in 64: by way of its shortest decimal it stays 19.9.
    return column.cast(pl.String).cast(pl.Float64) if column.dtype == pl.Float32 else column


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
