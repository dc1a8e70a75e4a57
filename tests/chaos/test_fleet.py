"""Workers under the harness: what ends by itself is noticed, and recovery is timed from the checkpoints."""

import signal
import time
from pathlib import Path

import pytest

from chaos.fleet import Fleet, Recoveries, Wrong, database, stored, until
from infra.settings import Settings
from infra.topics import ensure_topics
from pipeline.app import AGENTS, READ
from pipeline.checkpoint import Checkpoint, frame
from pipeline.migrate import migrate


def test_waiting_ends_with_what_was_waited_for() -> None:
    asked = []
    assert until(lambda: asked.append(1) or (len(asked) == 3 and "there"), "three", pause=0) == "there"
    with pytest.raises(Wrong, match="still waiting for nothing"):
        until(lambda: False, "nothing", deadline=0.01)

    def check() -> None:
        raise Wrong("ended meanwhile")

    with pytest.raises(Wrong, match="ended meanwhile"):
        until(lambda: False, "nothing", check)


def test_a_worker_that_ends_by_itself_is_wrong(tmp_path: Path) -> None:
    with Fleet(Settings(home=tmp_path / "home"), tmp_path / "logs") as fleet:
        worker = fleet.start(0)
        with pytest.raises(Wrong, match="worker 0 ended by itself with exit code 1: .*is not running in"):
            until(lambda: False, "its end", fleet.check)
        assert not worker.alive
        killed = fleet.start(1)
        fleet.kill(1)
        killed.check()
        assert killed.process.returncode == -signal.SIGKILL
        left = fleet.start(2)
    assert not left.alive


@pytest.mark.stack
def test_recovery_is_timed_until_every_partition_has_moved(settings: Settings) -> None:
    ensure_topics(settings)
    migrate(settings)

    def checkpoint(offset: int, agents: set[str]) -> None:
        made = [
            Checkpoint(agent.name, topic, partition, 1, offset, 0, "t", "c", "{}")
            for agent in AGENTS
            if agent.name in agents
            for topic in agent.topics
            for partition in range(settings.partitions)
        ]
        with database(settings) as client:
            client.insert_arrow("checkpoints", frame(made, 0).to_arrow())

    every = {agent.name for agent in AGENTS}
    # Nothing is in the topics, so offsets below their ends are below 0.
    checkpoint(-9, every)
    assert stored(settings) == {(topic, partition): -9 for topic in READ for partition in range(4)}
    found: list[float] = []
    with Recoveries(settings) as recoveries:
        recoveries.begin(found)
        checkpoint(-5, {"archive"})
        time.sleep(1)
        assert found == [], "the other agent has not moved in one topic"
        checkpoint(-4, every)
        recoveries.wait()
        assert found[0] > 1
        # At the end of the log there is nothing to wait for.
        checkpoint(0, every)
        recoveries.begin(found)
        recoveries.wait()
        assert len(found) == 2
