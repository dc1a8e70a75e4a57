"""Stages of fans computed anew by other settings: from then on the workers go on with them."""

import contextlib
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fan_lives import COMMON, FANS, life, moves_in_clickhouse, moves_in_kafka, today
from rig import DAY, WorkerProcess, ask, await_stored, event, now_ms, prepare, send, until, verified

from chaos.fleet import Fleet
from fanpulse.cli import main
from infra.connect import kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import fan_log
from pipeline import recompute as module
from pipeline.recompute import recompute

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


def changed(settings: Settings, **values: Any) -> Settings:
    return Settings(**{**settings.model_dump(exclude_unset=True), **values})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    prepare(settings)
    return changed(settings, idle_after=2.0, session_timeout=6.0, static_membership=False)


def said_in_kafka(settings: Settings) -> set[tuple[Any, ...]]:
    names = ("platform", "creator_id", "fan", "day", "step", "from", "to", "at", "reason", "resurrected")
    return {tuple(move[name] for name in names) for move in moves_in_kafka(settings).values() if not move["withdrawn"]}


def refused(settings: Settings, log: Path) -> str:
    """What a worker says that does not start."""
    with WorkerProcess(settings, log) as worker:
        until(lambda: worker.process.poll() is not None, "the worker to refuse")
        assert worker.process.returncode == 3
        return worker.output()


def test_other_settings_are_computed_anew_and_gone_on_with(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = life(Random(8), 90, 200, now_ms() - 60_000)
    # Who does nothing else is no fan once that is no activity.
    viewer = event(Random(1), 10**6, now_ms() - 40 * DAY, fan_id="viewer", creator_id="c0", platform="douyin")
    visit = {name: viewer[name] for name in COMMON} | {"kind": "profile_visit"}
    made["interactions"] = sorted([visit, *made["interactions"]], key=lambda each: each["event_time"])
    halves: list[dict[str, list[dict[str, Any]]]] = [
        {topic: events[: len(events) // 2] for topic, events in made.items()},
        {topic: events[len(events) // 2 :] for topic, events in made.items()},
    ]
    with WorkerProcess(settings, tmp_path / "0.log") as worker:
        for topic, events in halves[0].items():
            send(settings, topic, events)
        await_stored(settings, [worker])
        with pytest.raises(FanpulseError, match="workers are running"):
            recompute(settings, datetime.now(UTC))
        assert worker.stop() == 0
    before = moves_in_clickhouse(settings)
    other = changed(
        settings, active_interval=5, churn_after=12, no_activity="impression,profile_visit,refunded,unfollow"
    )
    assert "active_interval" in (said := refused(other, tmp_path / "1.log"))
    assert "fanpulse repair --stages" in said

    for name, value in other.model_dump(exclude_unset=True, mode="json").items():
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))
    with pytest.raises(SystemExit) as ended:
        main(["repair", "--stages", "--json"])
    assert ended.value.code == 0, capsys.readouterr()
    assert set(FANS) <= set(verified(other))
    after = moves_in_clickhouse(other)
    assert before - after
    assert after - before
    assert said_in_kafka(other) == after
    viewers = "SELECT fan FROM raw_interactions WHERE event_id = {id:String}"
    ((fan,),) = ask(other, viewers.replace("{id:String}", f"'{viewer['event_id']}'"))
    assert ask(other, f"SELECT count() FROM fan_stage_now WHERE fan = {fan}") == [(0,)]
    assert recompute(other, datetime.now(UTC)).moves == 0, "it is so already"

    with WorkerProcess(other, tmp_path / "2.log") as worker:
        for topic, events in halves[1].items():
            send(other, topic, events)
        await_stored(other, [worker])
        until(lambda: today(other), "the wall clock to move quiet topics on")
        await_stored(other, [worker])
        assert worker.stop() == 0
    assert set(FANS) <= set(verified(other))
    assert said_in_kafka(other) == moves_in_clickhouse(other)


def filled(settings: Settings, log: Path, fans: int) -> None:
    """Stages of fans, stored by a worker that has ended."""
    with WorkerProcess(settings, log) as worker:
        for topic, events in life(Random(9), 70, fans, now_ms() - 60_000).items():
            send(settings, topic, events)
        await_stored(settings, [worker])
        assert worker.stop() == 0


def cut_off(settings: Settings, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, place, lambda *args, **kwargs: sys.exit(9))
        with pytest.raises(SystemExit):
            recompute(settings, datetime.now(UTC))


@pytest.mark.long
def test_cut_off_it_must_be_done_again(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(settings, tmp_path / "0.log", 60)
    other = changed(settings, churn_after=9)
    # Before anything, with moves stored and not told, told and without state, all but the days.
    for place in ("_tables", "records", "_state", "refresh"):
        cut_off(other, monkeypatch, place)
        if place == "_state":
            for each in (settings, other):
                assert "cut off" in refused(each, tmp_path / "1.log")
            with pytest.raises(FanpulseError, match="cut off"):
                verified(other)
    recompute(other, datetime.now(UTC))
    assert set(FANS) <= set(verified(other))
    assert said_in_kafka(other) == moves_in_clickhouse(other)


@pytest.mark.parametrize("place", ["records", pytest.param("_state", marks=pytest.mark.long)])
def test_cut_off_it_may_be_done_with_the_settings_of_before(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    filled(settings, tmp_path / "0.log", 20)
    cut_off(changed(settings, churn_after=9), monkeypatch, place)
    recompute(settings, datetime.now(UTC))
    assert set(FANS) <= set(verified(settings))
    assert said_in_kafka(settings) == moves_in_clickhouse(settings)


def test_a_worker_that_joins_meanwhile_is_noticed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the checkpoints before they are marked."""
    filled(settings, tmp_path / "0.log", 10)
    write, log = module._write, tmp_path / "1.log"
    with contextlib.ExitStack() as parts:

        def joined(*args: Any) -> None:
            monkeypatch.setattr(module, "_write", write)
            parts.enter_context(WorkerProcess(settings, log))
            until(lambda: b"restored " in log.read_bytes(), "it to restore")
            write(*args)

        monkeypatch.setattr(module, "_write", joined)
        with pytest.raises(FanpulseError, match="workers are running"):
            recompute(changed(settings, churn_after=9), datetime.now(UTC))
    assert set(FANS) <= set(verified(settings))


@pytest.mark.long
def test_moves_that_a_killed_worker_told_are_taken_back(settings: Settings, tmp_path: Path) -> None:
    """Nothing but the topic has them."""
    filled(settings, tmp_path / "0.log", 4)
    visit = event(Random(1), 10**6, now_ms(), fan_id="visitor", creator_id="c0", platform="douyin")
    with Fleet(settings, tmp_path, idle_after=60) as fleet:
        worker = fleet.start(0, "--die-at", "moves", "--nth", "1", "--mark", str(tmp_path / "mark"))
        worker.expected.add(-signal.SIGKILL)
        fleet.begun()
        send(settings, "interactions", [{name: visit[name] for name in COMMON} | {"kind": "profile_visit"}])
        until(lambda: not worker.alive, "the worker to die")
    assert len(said_in_kafka(settings)) == len(moves_in_clickhouse(settings)) + 1
    other = changed(settings, no_activity="impression,profile_visit,refunded,unfollow")
    recompute(other, datetime.now(UTC))
    assert set(FANS) <= set(verified(other))
    assert said_in_kafka(other) == moves_in_clickhouse(other)


@pytest.mark.long
def test_what_only_the_fan_log_knows_is_not_passed_over(settings: Settings, tmp_path: Path) -> None:
    """A worker was killed between a message and the checkpoint: the next says it again, with the settings it has."""
    with WorkerProcess(settings, tmp_path / "0.log") as worker:
        send(settings, "interactions", [event(Random(1), 1, now_ms(), fan_id="f", creator_id="c", platform="douyin")])
        await_stored(settings, [worker])
        assert worker.stop() == 0
    ((partition, offset),) = ask(settings, "SELECT partition, `offset` FROM raw_interactions")
    (message,) = fan_log.encode(settings.database, "interactions", offset + 1, offset + 2, None, [])
    producer = kafka_producer(settings)
    producer.send(settings.topic_prefix + fan_log.TOPIC, message, partition=partition).get(timeout=30)
    producer.close()
    before = ask(settings, "SELECT * EXCEPT written_at FROM checkpoints FINAL ORDER BY ALL")
    with pytest.raises(FanpulseError, match="a worker was killed: start one with the settings of before"):
        recompute(changed(settings, churn_after=9), datetime.now(UTC))
    assert ask(settings, "SELECT * EXCEPT written_at FROM checkpoints FINAL ORDER BY ALL") == before


def test_without_workers_there_is_nothing_to_compute(settings: Settings) -> None:
    with pytest.raises(FanpulseError, match="start a worker"):
        recompute(settings, datetime.now(UTC))


@pytest.mark.parametrize("options", [[], ["--stages", "--from", "2026-01-01"], ["--to", "2026-01-01"]])
def test_the_command_wants_days_or_stages(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["repair", *options])
    assert ended.value.code == 2
    assert "--stages" in capsys.readouterr().err
