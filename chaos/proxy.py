"""A proxy before ClickHouse that can hold an INSERT back: the hand of a worker that lets go late."""

import asyncio
import io
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

_INSERT = re.compile(rb"^\s*INSERT\s+INTO\s+(?:TABLE\s+)?([\w.`\"]+)", re.IGNORECASE)
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "upgrade"}
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """What ClickHouse said, as it said it."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


STORED = Answer(200, CIMultiDict(), b"")
"""What ClickHouse says to an insert that it has stored."""


class Insert:
    """An INSERT on its way: who sent it, into which table, and its rows as sent.

    A rule forwards it, holds it (``await hold()`` returns when another thread calls ``land``), or both.
    """

    def __init__(self, speaker: str, table: str, body: bytes, forward: Callable[[], Awaitable[Answer]]) -> None:
        self.speaker = speaker
        self.table = table
        self.body = body
        self.landed = False
        self._forward = forward
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self._landing: Future[Answer] = Future()

    async def forward(self) -> Answer:
        """Sends it to ClickHouse; returns the answer."""
        answer = await self._forward()
        self.landed = answer.status == 200
        return answer

    async def hold(self) -> Answer:
        """Waits until it is let go, then forwards it."""
        await self._released.wait()
        try:
            answer = await self.forward()
        except BaseException as error:
            self._landing.set_exception(error)
            raise
        self._landing.set_result(answer)
        return answer

    def land(self, timeout: float = 60.0) -> Answer:
        """Lets a held one go, from another thread; returns ClickHouse's answer to it."""
        self._loop.call_soon_threadsafe(self._released.set)
        return self._landing.result(timeout)


Rule = Callable[[Insert], Awaitable[Answer]]
"""What becomes of an INSERT; the answer goes to the worker, if it still lives."""


async def at_once(insert: Insert) -> Answer:
    """The rule of a speaker that has none."""
    return await insert.forward()


class Proxy:
    """Listens on a port of 127.0.0.1 for each speaker and forwards all that it says to ``upstream``, unchanged:
    method, path and query, headers, and bodies as they are encoded. INSERTs go by the speaker's rule.

    A request is finished also when its speaker is gone. Runs in a thread of its own, as long as its ``with`` block.
    ``seen`` are the tables that each speaker's INSERTs went to.
    """

    def __init__(self, upstream: Callable[[], str]) -> None:
        self._upstream = upstream
        self._rules: dict[str, Rule] = {}
        self.seen: dict[str, set[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._managers: list[web.Server] = []
        self._requests: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._begin())
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, speaker: str, rule: Rule = at_once) -> str:
        """The URL of ClickHouse for a speaker."""
        self._rules[speaker] = rule
        self.seen[speaker] = set()
        return self._run(self._listen(speaker))

    def rule(self, speaker: str, rule: Rule) -> None:
        """Gives a speaker another rule, for the INSERTs that come from now on."""
        self._rules[speaker] = rule

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _begin(self) -> None:
        self._session = ClientSession(
            connector=TCPConnector(limit=0),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=ClientTimeout(total=None),
        )

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._requests):
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        for manager in self._managers:
            await manager.shutdown(1.0)
        await self._session.close()

    async def _listen(self, speaker: str) -> str:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            task = asyncio.ensure_future(self._answer(speaker, request))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
            return await asyncio.shield(task)

        # A listener bound here: its port cannot be taken by another process between choosing and use.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        manager = web.Server(answer, auto_decompress=False, access_log=None)
        self._managers.append(manager)
        self._servers.append(await self._loop.create_server(manager, sock=sock))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def _answer(self, speaker: str, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()

        async def forward() -> Answer:
            return await self._forward(request, body)

        try:
            table = _table(request, body)
            if table is None:
                answer = await forward()
            else:
                self.seen[speaker].add(table)
                answer = await self._rules[speaker](Insert(speaker, table, body, forward))
        except (ClientError, OSError) as error:
            # As a proxy says it whose ClickHouse is away; the client takes it for a network that fails.
            return web.Response(status=502, text=f"{type(error).__name__}: {error}")
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> Answer:
        headers = _end_to_end(request.headers)
        chunked = headers.pop("Transfer-Encoding", None) is not None
        headers.pop("Content-Length", None)
        url = URL(self._upstream() + request.raw_path, encoded=True)
        async with self._session.request(
            request.method,
            url,
            data=_pieces(body) if chunked else io.BytesIO(body) if body else None,
            headers=headers,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            allow_redirects=False,
        ) as response:
            found = _end_to_end(response.headers)
            found.pop("Transfer-Encoding", None)
            found.pop("Content-Length", None)
            return Answer(response.status, found, await response.read())


async def _pieces(body: bytes) -> Any:
    yield body


def _end_to_end(headers: Any) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def _table(request: web.BaseRequest, body: bytes) -> str | None:
    """The table of an INSERT, without its database; None if the request is none."""
    query = request.query.get("query", "").encode()
    found = _INSERT.match(query or body[:4096])
    if found is None:
        return None
    return found[1].decode().replace("`", "").replace('"', "").rpartition(".")[2]
