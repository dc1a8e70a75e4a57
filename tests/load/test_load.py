"""The command against a real Kafka and ClickHouse: what a log says is in the figures once, late or not."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

import pipeline.loading.load as core
from fanpulse.cli import main
from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.topics import end_offsets, ensure_topics
from pipeline.migrate import migrate
from pipeline.verify import verify

pytestmark = pytest.mark.stack

COMMENTS = [
    *("--topic=interactions", "--set=kind=comment", "--set=platform=douyin", "--map=event_time=评论时间"),
    *("--map=fan_id=用户ID", "--map=content_id=视频ID", "--map=creator_id=作者ID", "--map=text=评论内容"),
]
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
"""Local midnight in the logs, which are naive."""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Load = Callable[..., Result]


@pytest.fixture
def load(settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Load:
    """``fanpulse load`` in this process."""
    for name, value in _environment(settings).items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str | Path) -> Result:
        with pytest.raises(SystemExit) as ended:
            main(["load", *map(str, arguments)])
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return call


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "FANPULSE_HOME": str(settings.home),
        "FANPULSE_DATABASE": settings.database,
        "FANPULSE_TOPIC_PREFIX": settings.topic_prefix,
    }


@contextlib.contextmanager
def _worker(settings: Settings, log: Path) -> Iterator[None]:
    ensure_topics(settings)
    migrate(settings)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.worker", "0"],
            env={**os.environ, **_environment(settings)},
            stdout=out,
            stderr=out,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def _comments(path: Path, start: datetime, count: int, step: timedelta, fan: str = "u") -> Path:
    """A log of comments, the newest first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["评论时间", "用户ID", "视频ID", "作者ID", "评论内容", "点赞数"])
        for index in reversed(range(count)):
            at = (start + index * step).strftime("%Y-%m-%d %H:%M:%S")
            out.writerow([at, f"{fan}{index % 40}", f"v{index % 7}", "creator-01", "主播讲得真好", index])
    return path


def _query(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(clickhouse_client(settings)) as client:
        rows: list[tuple[Any, ...]] = [tuple(row) for row in client.query(query).result_rows]
        return rows


def _counted(settings: Settings) -> int:
    """Comments in the figures of days."""
    ((comments,),) = _query(settings, "SELECT sum(comments) FROM engagement_content_hour FINAL")
    return int(comments)


def _await(settings: Settings, raw: int) -> None:
    deadline = time.monotonic() + 30
    while _query(settings, "SELECT count() FROM raw_interactions FINAL") != [(raw,)] and time.monotonic() < deadline:
        time.sleep(0.2)
    verify_equal(settings)


def verify_equal(settings: Settings) -> None:
    assert [(each.name, each.examples) for each in verify(settings) if each.differ] == []


def test_fresh_then_live_then_twice(load: Load, settings: Settings, tmp_path: Path) -> None:
    recent = _comments(tmp_path / "recent.csv", TODAY - timedelta(days=3), 600, timedelta(minutes=7))
    first = load(recent, *COMMENTS, "--json")
    assert first.code == 0, first.err
    assert (first.json["sent"], first.json["late"], first.json["ignored_columns"]) == (600, 0, ["点赞数"])
    with _worker(settings, tmp_path / "worker.log"):
        _await(settings, 600)
        assert _query(settings, "SELECT sum(late), sum(duplicate) FROM raw_interactions FINAL") == [(0, 0)]
        assert _query(settings, "SELECT min(event_time) FROM raw_interactions")[0][0] == TODAY - timedelta(
            days=3, hours=8
        )
        assert _counted(settings) == 600

        old = _comments(tmp_path / "old.csv", TODAY - timedelta(days=30), 500, timedelta(minutes=30), "o")
        second = load(old, *COMMENTS)
        assert second.code == 0, second.err
        days = f"{(TODAY - timedelta(days=30)).date()} to"
        assert f"500 rows were too late for the stream: {days}" in second.out
        assert _counted(settings) == 1100

        for path in (recent, old):
            again = load(path, *COMMENTS, "--json")
            assert (again.code, again.json["sent"]) == (0, 600 if path == recent else 500)
        assert _counted(settings) == 1100
        assert _query(settings, "SELECT count(), sum(duplicate) FROM raw_interactions FINAL") == [(2200, 1100)]
        verify_equal(settings)


def test_no_worker(load: Load, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.load, "__defaults__", (0.5,))
    recent = _comments(tmp_path / "recent.csv", TODAY - timedelta(days=1), 400, timedelta(minutes=1))
    old = _comments(tmp_path / "old.csv", TODAY - timedelta(days=9), 400, timedelta(minutes=1))
    assert load(recent, *COMMENTS).code == 0
    result = load(old, *COMMENTS)
    day = (TODAY - timedelta(days=9)).date()
    assert result.code == 1
    assert f"then: fanpulse repair --from {day} --to {day}" in result.err
    assert "start one (fanpulse worker)" in result.err


def test_bad_rows(load: Load, tmp_path: Path) -> None:
    good = {"event_time": 1_750_000_000_000, "platform": "douyin", "fan_id": 7, "creator_id": "c"}
    gift = {**good, "kind": "gift", "live_id": "l", "gift_type": "rose", "quantity": 1, "value_micros": 0}
    path, rejects = tmp_path / "gifts.jsonl", tmp_path / "rejects.jsonl"
    rows = [gift, {**gift, "quantity": -1}, {**gift, "kind": "gfit"}, {**gift, "live_id": ""}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\nnonsense\n")
    result = load(path, "--topic=gifts", f"--rejects={rejects}")
    assert result.code == 1
    assert "1 of 5 rows sent to gifts" in result.out
    assert "4 rows refused" in result.out
    assert "row 3: unknown_kind" in result.out
    assert "Traceback" not in result.err
    refused = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in refused] == [
        (2, "negative"),
        (3, "unknown_kind"),
        (4, "missing_field"),
        (5, "broken_json"),
    ]
    assert "file to load" in load(path, "--topic=gifts", f"--rejects={path}").err


def test_parquet_and_no_sort(load: Load, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    moments = [TODAY - timedelta(days=2, minutes=minute) for minute in range(50)]
    pl.DataFrame(
        {
            "paid_at": pl.Series(moments).dt.replace_time_zone("UTC"),
            "buyer": range(50),
            "order_id": [f"o{index}" for index in range(50)],
            "sku": ["p1"] * 50,
            "amount": [19.9] * 50,
        }
    ).write_parquet(path)
    options = [
        *("--topic=orders", "--set=kind=paid", "--set=platform=kuaishou", "--set=creator_id=c1", "--map=fan_id=buyer"),
        *("--map=event_time=paid_at", "--map=product_id=sku", "--map=amount_micros=amount:yuan", "--json"),
    ]
    for sort in ("--sort", "--no-sort"):
        result = load(path, *options, sort)
        assert (result.code, result.json["sent"], result.json["refused"]) == (0, 50, {}), result.err
    with _worker(settings, tmp_path / "worker.log"):
        deadline = time.monotonic() + 30
        wanted = [(100, 50, 19_900_000, 19_900_000)]
        query = "SELECT count(), sum(duplicate), min(amount_micros), max(amount_micros) FROM raw_orders FINAL"
        while (found := _query(settings, query)) != wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        assert found == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.csv", *COMMENTS], "cannot be read"),
        ([*COMMENTS[:-1], "--map=tex=评论内容"], "no field tex; did you mean text?"),
        ([*COMMENTS[:-1], "--map=text=评论内"], "the file has no column 评论内; did you mean 评论内容?"),
        ([*COMMENTS[:5], *COMMENTS[6:]], "nothing gives content_id, which comment need"),
        ([*COMMENTS, "--time-zone=Moon"], "there is no such time zone"),
        ([*COMMENTS, "--rejects=/none/x"], "cannot be written"),
    ],
)
def test_wrong_usage(load: Load, tmp_path: Path, arguments: list[str], said: str) -> None:
    path = _comments(tmp_path / "x.csv", TODAY, 1, timedelta())
    result = load(*arguments) if arguments[0] == "none.csv" else load(path, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1


def test_misspelt_column_of_json_lines(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"ts": 1_750_000_000, "user": "u", "creator_id": "c", "live": "l"}) + "\n")
    options = ["--topic=interactions", "--set=kind=live_enter", "--set=platform=douyin", "--map=event_time=ts:s"]
    result = load(path, *options, "--map=fan_id=user", "--map=live_id=live", "--map=source=form")
    assert result.code == 2
    assert "no row has a column form; the columns are creator_id, live, ts, user" in result.err


def test_interrupted(settings: Settings, tmp_path: Path) -> None:
    path = _comments(tmp_path / "x.csv", TODAY - timedelta(days=5), 150_000, timedelta(seconds=1))
    ensure_topics(settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "fanpulse.cli", "load", str(path), *COMMENTS, "--no-sort"],
        env={**os.environ, **_environment(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not any(end_offsets(settings).values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "stopped before the end; the same command again" in out
    assert int(out.split(" of ")[0].replace(",", "")) < 150_000
    assert "Traceback" not in err
