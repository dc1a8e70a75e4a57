"""Rules of the proxy: which INSERTs are held back."""

import asyncio
import threading

from chaos.proxy import STORED, Answer, Insert


class Tear:
    """A rule: of one flush of an agent the table ``first`` is stored, ``second`` is held, and no more of it comes.

    Workers store the tables of a flush one after the other. Where ``second`` would come before ``first`` the worker is
    told that it is stored, so that any order is tried; but no checkpoint is stored before its rows.
    """

    def __init__(self, agent: str, tables: frozenset[str], first: str, second: str) -> None:
        self.name = f"{first} stored, {second} held"
        self.torn = threading.Event()
        self.held: Insert | None = None
        self._agent = agent.encode()
        self._tables = tables
        self._first = first
        self._second = second
        self._stored_first = False
        self._kept: Insert | None = None
        self._tasks: list[asyncio.Task[Answer]] = []

    async def __call__(self, insert: Insert) -> Answer:
        if insert.table not in self._tables and not (insert.table == "checkpoints" and self._agent in insert.body):
            return await insert.forward()
        if self.torn.is_set():
            # The worker is about to be killed; this never reaches ClickHouse.
            await asyncio.Event().wait()
        if insert.table == self._second:
            if self._stored_first:
                self._hold(insert)
                return await self._tasks[-1]
            if self._second != "checkpoints":
                if self._kept is not None:
                    await self._kept.forward()
                self._kept = insert
                return STORED
        if insert.table == "checkpoints":
            # The flush had no row for one of the two tables: as if nothing had been.
            self._stored_first = False
            if self._kept is not None:
                answer = await self._kept.forward()
                self._kept = None
                if answer.status != 200:
                    return answer
            return await insert.forward()
        answer = await insert.forward()
        if insert.table == self._first and answer.status == 200:
            self._stored_first = True
            if self._kept is not None:
                self._hold(self._kept)
        return answer

    def _hold(self, insert: Insert) -> None:
        self.held = insert
        self._tasks.append(asyncio.ensure_future(insert.hold()))
        self.torn.set()


class Stall:
    """A rule: while it is ``on``, every INSERT of a flush hangs (``held``); ``end`` lets all of them land."""

    def __init__(self) -> None:
        self.held: list[Insert] = []
        self.on = False

    async def __call__(self, insert: Insert) -> Answer:
        if not self.on or insert.table == "pipeline_metrics":
            return await insert.forward()
        self.held.append(insert)
        return await insert.hold()

    def end(self) -> None:
        """Lets all that hang land."""
        self.on = False
        for insert in self.held:
            insert.land()
