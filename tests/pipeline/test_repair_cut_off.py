"""A repair that ends in the middle, at each of its statements, and is run again."""

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from rig import ask, verified
from test_recovery import NOW, Worker, finish, records, sink

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline import repair as module
from pipeline.migrate import migrate
from pipeline.repair import repair
from pipeline.verify import verify

pytestmark = pytest.mark.stack

FIRST = datetime.fromtimestamp(NOW / 1000, UTC).date() - timedelta(days=3)
LAST = FIRST + timedelta(days=6)


class Cut(Exception):
    """The repair ends here."""


class Client:
    """A client of ClickHouse that gives up before its ``left``-th statement from here."""

    def __init__(self, client: Any, left: int) -> None:
        self._client = client
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def command(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Cut
        return self._client.command(*args, **kwargs)


def test_a_repair_cut_off_anywhere_is_finished_by_the_next(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(settings)
    values, times = records(Random(4), 1500)
    worker = Worker(settings, sink(settings), len(values))
    worker.fetch(values, times, len(values))
    asyncio.run(finish(worker))
    before = ask(settings, "SELECT count() FROM events_interactions")[0][0]
    cuts = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(
                module, "clickhouse_client", lambda *a, left=cuts, **k: Client(clickhouse_client(*a, **k), left)
            )
            try:
                done = repair(settings, FIRST, LAST)
                break
            except Cut:
                cuts += 1
        # The stream's rows are never touched, whatever the repair has got to.
        differing = {each.name for each in verify(settings) if each.differ}
        assert all(name.startswith("engagement_") for name in differing)
    assert cuts == 5, "one topic to settle, four tables to fill"
    verified(settings)
    assert done.events["interactions"] > 50
    assert ask(settings, "SELECT count() FROM events_interactions")[0][0] == before + done.events["interactions"]
    assert repair(settings, FIRST, LAST) == done
    verified(settings)
