"""Every format gives the same rows; what cannot be read is refused row by row."""

import contextlib
import gzip
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline.loading.files as files
from infra.errors import FanpulseError
from pipeline.loading.files import open_log
from pipeline.loading.mapping import Rows

ROWS: list[dict[str, Any]] = [{"a": "甲", "b": str(index)} for index in range(5)]
CSV = "a,b\n" + "".join(f"{row['a']},{row['b']}\n" for row in ROWS)
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(name: str | Path, wanted: tuple[str, ...] = ("a", "b"), form: Any = None) -> Rows:
    log = open_log(str(name), form)
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {column: [] for column in wanted}
    broken = []
    with contextlib.closing(log):
        for rows in log.chunks(wanted):
            numbers += rows.numbers
            broken += rows.broken
            for column in wanted:
                columns[column] += rows.columns[column]
        assert log.fraction() in (1.0, None)
    return Rows(numbers, columns, broken)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS", 2)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.ndjson", "x.csv.gz", "x.jsonl.zst", "x.CSV.GZ", "x.parquet"])
def test_formats(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = (CSV if "csv" in name.lower() else JSONL).encode()
    if name.lower().endswith(".gz"):
        # Logs are rotated and joined: members follow each other.
        path.write_bytes(gzip.compress(data[:9]) + gzip.compress(data[9:]))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(data)
    elif name.endswith(".parquet"):
        pl.DataFrame(ROWS).write_parquet(path, row_group_size=3)
    else:
        path.write_bytes(data)
    rows = read(path)
    assert rows.columns == {"a": ["甲"] * 5, "b": list("01234")}
    first = {"c": 2, "C": 2, "j": 1, "n": 1, "p": 1}[path.suffixes[0][1]]
    assert rows.numbers == list(range(first, first + 5))
    assert rows.broken == []


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, text in ((None, JSONL), ("csv", CSV)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert read("-", form=form).columns["b"] == list("01234")


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    long = b'{"a":"' + b"x" * (1 << 20) + b'"}\n'
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n\n{"a":\n[1]\n{"a":"\xff"}\n' + long + b'{"a":2,"c":3}')
    log = open_log(str(path), None)
    rows = read(path, ("a",))
    assert rows.numbers == [1, 7]
    assert rows.columns["a"] == [1, 2]
    assert [(each.row, each.reason) for each in rows.broken] == [
        (3, "broken_json"),
        (4, "wrong_type"),
        (5, "invalid_utf8"),
        (6, "too_large"),
    ]
    list(log.chunks(("a",)))
    assert log.columns == {"a", "c"}, "columns that show up later are known at the end"
    log.close()


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffa,b\r\n"two\nlines, ""quoted""",1\r\nshort\r\n\r\nx,y,z\r\n'.encode() + b"\xff,2\r\n")
    rows = read(path)
    assert rows.numbers == [2, 7]
    assert rows.columns["a"] == ['two\nlines, "quoted"', "\udcff"]
    assert [(each.row, each.reason) for each in rows.broken] == [(4, "broken_csv"), (6, "broken_csv")]


def test_an_open_quote_ends_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,2\n"x"y,3\n4,5\n6,"7')
    rows = read(path)
    assert rows.columns["a"] == ["1", "4"]
    assert [(each.row, each.reason) for each in rows.broken] == [(3, "broken_csv"), (5, "broken_csv")]


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    moment = datetime(2025, 6, 15, 20, 31, 5, 250_000)  # noqa: DTZ001
    pl.DataFrame(
        {
            "a": pl.Series([19.9, None], dtype=pl.Float32),
            "b": pl.Series([moment, None]).cast(pl.Datetime("ns")),
            "c": pl.Series([moment, None]).dt.replace_time_zone("Asia/Shanghai"),
            "d": pl.Series(["douyin", None], dtype=pl.Categorical),
        }
    ).write_parquet(path)
    rows = read(path, ("a", "b", "c", "d"))
    assert rows.columns["a"] == [19.9, None], "a 32-bit float keeps its own shortest decimal"
    assert rows.columns["b"] == [moment, None]
    assert rows.columns["c"][0].isoformat() == "2025-06-15T20:31:05.250000+08:00"
    assert rows.columns["d"] == ["douyin", None]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.csv", b"", "the file is empty"),
        ("x.log", b"", "the name does not tell the format"),
        ("x", b"", "add --format jsonl, csv or parquet"),
        ("x.parquet", b"a,b", "damaged or not of this format"),
        ("x.csv.gz", b"a,b\n", "damaged or not of this format"),
        ("x.jsonl.gz", gzip.compress(JSONL.encode() * 50, mtime=0)[:-20], "damaged or not of this format"),
        ("x.jsonl.zst", b"no zstd", "damaged or not of this format"),
        ("x.parquet.gz", b"", "Parquet is read from a plain file only"),
        ("x.csv", b"a,a,b\n1,2,3\n", "two columns are named a"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FanpulseError) as error:
        read(tmp_path / name)
    assert said in error.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FanpulseError, match="cannot be read \\(No such file or directory\\)"):
        open_log(str(tmp_path / "none.csv"), None)
    with pytest.raises(FanpulseError, match="is a directory"):
        open_log(str(tmp_path), "csv")
