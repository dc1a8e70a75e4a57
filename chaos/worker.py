"""A worker that dies where it is told: ``python -m chaos.worker INDEX [--die-at POINT --nth N] [--group NAME]``.

It is the worker of ``pipeline.worker``, unchanged, with wrappers round the seams that a crash may fall between. At the
named point it writes a line to ``--mark`` and kills itself with SIGKILL: nothing is flushed, closed or said.
"""

import argparse
import ctypes
import dataclasses
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import app, worker
from pipeline.agent import Agent, Keeper
from pipeline.app import CAMPAIGN_FACTS, FACTS
from pipeline.recovery import Recovery
from pipeline.sink import Sink
from pipeline.transport import BlockApp, BlockConsumer

POINTS = {
    "recovery": "between two questions of its recovery",
    "fold": "after a fold took a block",
    "letters": "after dead letters went to Kafka, before their rows",
    "log": "after facts went to the fan log, before the checkpoint",
    "moves": "after moves of fans went to Kafka, before their rows",
    "figures": "after figures went to the campaign log, before the checkpoint",
    "actions": "after actions of rules went to Kafka, before their rows",
    "part": "after part of a flush's tables",
    "state": "after moves of fans were stored, before the state of the fans",
    "decisions": "after decisions were stored, before the state of the rules",
    "rows": "after all tables, before the checkpoints",
    "checkpoint": "after the checkpoints, before the report",
    "report": "after the report",
    "commit": "before the commit to Kafka",
}
"""Where a worker can be made to die, in the order of its work."""

_PR_SET_PDEATHSIG = 1
_SENDS = {FACTS: "log", "lifecycle": "moves", CAMPAIGN_FACTS: "figures", "rules": "actions"}
"""Points after what agents send."""
_BEFORE_STATE = {"fan_transitions": "state", "rule_decisions": "decisions"}
"""Points after tables that come before the state that is gone on from."""
_ASKS = frozenset({"query", "query_arrow", "command", "insert_arrow"})


class Fate:
    """Ends the process the ``nth`` time that it comes by ``point``, having said so in the file ``mark``."""

    def __init__(self, point: str, nth: int, mark: Path) -> None:
        self._point = point
        self._left = nth
        self._mark = mark
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        """Called from any thread wherever the worker comes by a point."""
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                with self._mark.open("a") as file:
                    file.write(f"{point}\n")
                os.kill(os.getpid(), signal.SIGKILL)


class _Tables(threading.local):
    """How many tables of the flush under way this thread has stored."""

    stored = 0


def doom(fate: Fate) -> None:
    """Puts the fate into the worker of this process. Each class that ``pipeline.app`` makes is one that knows it."""
    _put(app, "Sink", _sink(fate))
    _put(app, "Agent", _agent(fate))
    _put(app, "Recovery", _recovery(fate))
    commit = BlockConsumer._commit

    async def dying_commit(self: BlockConsumer, offsets: Any) -> Any:
        fate.reach("commit")
        return await commit(self, offsets)

    _put(BlockConsumer, "_commit", dying_commit)


def join_group(name: str) -> None:
    """Makes the worker of this process a member of the consumer group ``name``."""

    class OtherGroup(BlockApp):
        def __init__(self, id: str, **options: Any) -> None:
            super().__init__(name, **options)

    _put(app, "BlockApp", OtherGroup)


def _sink(fate: Fate) -> type[Sink]:
    tables = _Tables()

    class DyingSink(Sink):
        def insert(self, table: str, *args: Any, **kwargs: Any) -> Any:
            if table != "checkpoints":
                if tables.stored:
                    fate.reach("part")
                done = super().insert(table, *args, **kwargs)
                tables.stored += 1
                if table in _BEFORE_STATE:
                    fate.reach(_BEFORE_STATE[table])
                return done
            tables.stored = 0
            fate.reach("rows")
            done = super().insert(table, *args, **kwargs)
            fate.reach("checkpoint")
            return done

    return DyingSink


def _agent(fate: Fate) -> type[Agent]:
    class DyingAgent(Agent):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = inspect.signature(Agent.__init__).bind(self, *args, **kwargs)
            given.apply_defaults()
            report: Callable[..., Any] = given.arguments["report"]
            keeper: Keeper | None = given.arguments["keeper"]

            def dying_report(*args: Any) -> None:
                report(*args)
                fate.reach("report")

            send: Callable[..., Any] = given.arguments["send"]
            point = _SENDS.get(given.arguments["spec"].name, "")

            async def dying_send(*args: Any) -> None:
                await send(*args)
                fate.reach(point)

            given.arguments["report"] = dying_report
            given.arguments["send"] = dying_send
            if keeper is not None:
                letters = keeper.dead_letters

                async def dying_letters(*args: Any) -> None:
                    await letters(*args)
                    fate.reach("letters")

                given.arguments["keeper"] = dataclasses.replace(keeper, dead_letters=dying_letters)
            super().__init__(*given.args[1:], **given.kwargs)

        def take(self, *args: Any) -> None:
            super().take(*args)
            fate.reach("fold")

    return DyingAgent


def _recovery(fate: Fate) -> type[Recovery]:
    class Asked:
        """A client of ClickHouse after each of whose answers the worker may die."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            own = getattr(self._client, name)
            if name not in _ASKS:
                return own

            def ask(*args: Any, **kwargs: Any) -> Any:
                answer = own(*args, **kwargs)
                fate.reach("recovery")
                return answer

            return ask

    class DyingRecovery(Recovery):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = inspect.signature(Recovery.__init__).bind(self, *args, **kwargs)
            connect = given.arguments["connect"]
            given.arguments["connect"] = lambda: Asked(connect())
            super().__init__(*given.args[1:], **given.kwargs)

    return DyingRecovery


def _put(where: Any, name: str, value: Any) -> None:
    assert hasattr(where, name), f"{where} has no {name}: the worker was built anew, and this file must follow"
    setattr(where, name, value)


def main() -> None:
    """Entry of the process."""
    if sys.platform == "linux":
        # Workers of a harness that is killed outright end with it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parser = argparse.ArgumentParser("python -m chaos.worker", description=__doc__)
    parser.add_argument("index", type=int)
    parser.add_argument("--die-at", choices=POINTS)
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--mark", type=Path)
    parser.add_argument("--group")
    given = parser.parse_args()
    if given.die_at:
        if given.mark is None:
            parser.error("--die-at needs --mark FILE")
        doom(Fate(given.die_at, given.nth, given.mark))
    if given.group:
        join_group(given.group)
    sys.argv = [sys.argv[0], str(given.index)]
    worker.main()


if __name__ == "__main__":
    main()
