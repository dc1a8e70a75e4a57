"""Sorting gives the same whether or not memory holds it."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import FanpulseError
from pipeline.loading.sort import Record, Sorter


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=9)), max_size=60), st.integers(1, 5000), st.integers(1, 9)
)
def test_by_time_then_row(rows: list[tuple[int, bytes]], memory: int, chunk: int) -> None:
    records: list[Record] = [(time, row, row % 3, b"k%d" % row, value) for row, (time, value) in enumerate(rows)]
    with Sorter(memory) as sorter:
        for start in range(0, len(records), chunk):
            sorter.add(records[start : start + chunk])
        assert len(sorter) == len(records)
        assert list(sorter.sorted()) == sorted(records)


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sorter(1000) as sorter:
        for row in range(100):
            sorter.add([(-row, row, 0, b"k", b"v" * 500)])
        assert sorter.runs > 10
        assert list(tmp_path.iterdir())
        assert [record[1] for record in sorter.sorted()] == list(range(99, -1, -1))
    assert not list(tmp_path.iterdir())


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with Sorter(10) as sorter, pytest.raises(FanpulseError, match="no room for sorting"):
        sorter.add([(1, 1, 0, b"k", b"v" * 500)])
