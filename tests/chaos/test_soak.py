"""The soak: its arithmetic, and a short one on real commands."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from chaos.soak import Record, Sample, rows, verdicts
from chaos.trend import trend
from chaos.zone import START_HOUR, even_zone

LOOKS = 241
"""Looks of a steady part: 20 minutes, one every 5 s."""


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    found = trend([0, 5, 10, 15, 20], [100, 101, 102, 103, 104])
    assert found.per_hour == pytest.approx(720)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.exceeds(719)
    assert not found.exceeds(721)


def test_a_value_that_stays_has_no_slope() -> None:
    found = trend(range(10), [7.5] * 10)
    assert found.per_hour == pytest.approx(0)
    assert found.error == 0


def test_too_few_points_have_no_trend() -> None:
    assert math.isnan(trend([0, 5, 10], [1, 2, 3]).per_hour)


def test_the_error_covers_the_slope_of_pure_noise() -> None:
    moments = np.arange(LOOKS) * 5.0
    outside = 0
    for seed in range(200):
        found = trend(moments.tolist(), np.random.default_rng(seed).normal(300, 5, LOOKS).tolist())
        outside += abs(found.per_hour) > 2 * found.error
    # Two standard errors: one in twenty.
    assert outside <= 20


def test_a_wave_is_no_growth() -> None:
    moments = np.arange(LOOKS) * 5.0
    for phase in np.linspace(0, 300, 20):
        saw = 300 + 60 * ((moments + phase) % 300) / 300
        assert not trend(moments.tolist(), saw.tolist()).exceeds(30)


def test_growth_is_seen_through_waves() -> None:
    moments = np.arange(LOOKS) * 5.0
    saw = 300 + 20 * (moments % 300) / 300 + 600 * moments / 3600
    found = trend(moments.tolist(), saw.tolist())
    assert found.exceeds(30)
    assert found.per_hour == pytest.approx(600, rel=0.1)


def test_the_zone_makes_it_early_afternoon_at_any_hour() -> None:
    for hour in range(24):
        now = datetime(2026, 3, 1, hour, 30, tzinfo=UTC)
        assert now.astimezone(ZoneInfo(even_zone(now))).hour == START_HOUR


def made(**changes: object) -> Record:
    """A good soak of 30 minutes, with some columns changed by a function of the seconds."""
    record = Record(workers=1, rate=1000.0, warm=600.0)
    random = np.random.default_rng(3)
    for number in range(361):
        at = number * 5.0
        values = {
            "worker0_rss_mb": 300 + random.normal(0, 3) + 200 * math.exp(-at / 100),
            "worker0_dedupe_ids": 400_000 + 50_000 * (at % 300) / 300,
            "worker0_state_rows": 10_000.0,
            "worker0_files": 20.0,
            "worker0_threads": 18.0,
            "kafka_rss_mb": 500.0,
            "clickhouse_rss_mb": 900.0,
            "sent": at * 1000,
            "lag": 1000 + abs(random.normal(0, 200)),
            "parts_max_table": 20.0,
        }
        values |= {name: change(at) for name, change in changes.items() if callable(change)}
        record.add(Sample(at, values))
    return record


def failed(record: Record) -> set[str]:
    return {verdict.what for verdict in verdicts(record) if verdict.good is False}


def test_a_good_soak_passes_every_verdict() -> None:
    assert [verdict for verdict in verdicts(made()) if verdict.good is not True] == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"worker0_rss_mb": lambda at: 300 + at / 10}, {"worker 0: memory flat"}),
        ({"worker0_rss_mb": lambda at: 1500.0}, {"worker 0: memory bounded"}),
        ({"worker0_rss_mb": lambda at: math.nan}, {"worker 0: memory flat"}),
        ({"worker0_files": lambda at: 20 + at / 60}, {"worker 0: files bounded"}),
        ({"worker0_threads": lambda at: 18 + at / 60}, {"worker 0: threads bounded"}),
        ({"kafka_rss_mb": lambda at: 1100.0}, {"kafka: memory bounded"}),
        ({"clickhouse_rss_mb": lambda at: 7000.0}, {"clickhouse: memory bounded"}),
        ({"worker0_dedupe_ids": lambda at: at * 1000}, {"ids forgotten"}),
        ({"lag": lambda at: 100 + at * 50}, {"lag bounded", "lag flat"}),
        ({"lag": lambda at: 20_000.0 if at == 900 else 1000.0}, {"lag bounded"}),
        ({"parts_max_table": lambda at: at / 5}, {"parts bounded"}),
    ],
)
def test_each_fault_fails_its_own_verdict(changes: dict[str, object], what: set[str]) -> None:
    found = failed(made(**changes))
    assert what <= found
    assert {name.split(":")[0] for name in found} == {name.split(":")[0] for name in what}


def test_memory_of_more_ids_is_no_leak() -> None:
    ids = {"worker0_dedupe_ids": lambda at: 100 * at, "worker0_rss_mb": lambda at: 300 + 100 * at * 40 / 2**20}
    assert "worker 0: memory flat" not in failed(made(**ids))


def test_a_restart_fails() -> None:
    record = made()
    record.restarts = 1
    assert failed(record) == {"no restart"}


def test_growth_is_not_judged_by_a_short_run() -> None:
    record = made(worker0_rss_mb=lambda at: 300 + at / 10)
    record.samples = [sample for sample in record.samples if sample.seconds <= 900]
    assert {v.what: v.good for v in verdicts(record)}["worker 0: memory flat"] is None


def test_of_a_run_that_ends_within_its_warm_up_everything_is_shown() -> None:
    record = made()
    record.samples = [sample for sample in record.samples if sample.seconds < 590]
    assert failed(record) == set()
    assert {v.what: v.good for v in verdicts(record)}["worker 0: memory flat"] is None
    assert "worker 0: memory, MB" in {row[0] for row in rows(record)}


def test_the_summary_leaves_the_warm_up_out() -> None:
    found = {row[0]: row[1:] for row in rows(made(parts_max_table=lambda at: at))}
    assert found["active parts of one table"][:3] == ("600", "1,800", "1,800")
    assert found["active parts of one table"][3].startswith("+3,600.0")


def soak(home: Path, samples: Path, minutes: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "chaos.soak", "--minutes", minutes, "--rate", "300", "--workers", "2"]
    argv += ["--every", "2", "--home", str(home), "--samples", str(samples)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(400)
def test_a_short_soak_on_real_commands_ends_exact(tmp_path: Path) -> None:
    run = soak(tmp_path / "home", tmp_path / "samples.csv", "0.5")
    said, _ = run.communicate(timeout=380)
    assert run.returncode == 0, said
    assert "ok          no restart: 0 restarts" in said
    assert "ok          all stored: " in said
    assert "ok          verify exact: " in said
    with (tmp_path / "samples.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) >= 3
    last = table[-1]
    assert float(last["sent"]) > 10_000
    for name in ("worker0_rss_mb", "worker1_rss_mb", "kafka_rss_mb", "clickhouse_rss_mb", "generator_rss_mb"):
        assert float(last[name]) > 50
    assert float(last["worker0_dedupe_ids"]) + float(last["worker1_dedupe_ids"]) > 0
    assert float(last["parts_raw_interactions"]) >= 1
    assert not left_over(tmp_path / "home")


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(400)
def test_ctrl_c_still_shows_the_summary_and_leaves_nothing_behind(tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    run = soak(tmp_path / "home", samples, "30")
    end = time.monotonic() + 200
    while not (samples.exists() and len(samples.read_text().splitlines()) > 3):
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=180)
    assert run.returncode == 130, said
    assert "worker 0: memory, MB" in said
    assert "verify exact: " in said
    assert not left_over(tmp_path / "home")


def test_a_used_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generator.json").write_text("{}")
    argv = [sys.executable, "-m", "chaos.soak", "--home", str(tmp_path)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr == f"soak: {tmp_path} has been used already: name a new directory with --home\n"


def left_over(home: Path) -> list[str]:
    """Processes that still name the home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in line and int(process.name) != os.getpid():
            found.append(line)
    return found
