"""Worker processes on the real stack: whatever happens to them, tables equal what was sent."""

from pathlib import Path
from random import Random

import pytest
from rig import DAY, WorkerProcess, ask, await_stored, events, now_ms, prepare, send, verified

from infra.settings import Settings

pytestmark = pytest.mark.stack


def count(settings: Settings, table: str = "raw_interactions") -> int:
    return int(ask(settings, f"SELECT count() FROM {table} FINAL")[0][0])


def test_what_is_sent_is_stored_and_a_clean_stop_exits_0(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    sent = events(Random(1), 3000, now - 2 * DAY, now)
    send(settings, "interactions", sent)
    with WorkerProcess(settings, tmp_path / "log") as worker:
        await_stored(settings, [worker])
        rows = verified(settings)
        assert worker.stop() == 0, worker.output()
    assert rows["raw_interactions"] == count(settings) == 3000
    assert rows["engagement_creator_minute"] > 100
