"""The proxy before ClickHouse: bytes pass unchanged, and an INSERT is held as long as its rule says."""

import asyncio
import gzip
import http.client
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from chaos.fleet import until
from chaos.proxy import STORED, Answer, Insert, Proxy
from chaos.rules import Stall, Tear


class Upstream:
    """A server that writes down what it is asked, byte by byte, and answers compressed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, dict(self.headers.items()), body))
                answer = gzip.compress(b"answer")
                self.send_response(404 if "missing" in self.path else 200)
                self.send_header("Content-Encoding", "gzip")
                self.send_header("X-ClickHouse-Summary", '{"written_rows":"1"}')
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy(lambda: upstream.url) as running:
        yield running


def speak(url: str, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any, bytes]:
    """One request: status, headers and bytes of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given, encode_chunked=given.get("Transfer-Encoding") == "chunked")
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def insert(table: str) -> str:
    return f"/?database=d&query={quote(f'INSERT INTO d.`{table}` (a, b) FORMAT Arrow')}&async_insert=0"


def test_bytes_pass_as_they_are(upstream: Upstream, proxy: Proxy) -> None:
    url = proxy.open("one")
    body = zlib.compress(bytes(range(256)) * 5000)
    path = "/?query=SELECT%201%2B%31&param_x=%E5%A5%BD&empty=&a%20b=c+d"
    status, headers, answer = speak(url, path, body, Content_Encoding="deflate", X_ClickHouse_User="app")
    assert (status, gzip.decompress(answer)) == (200, b"answer")
    assert headers["Content-Encoding"] == "gzip"
    assert headers["X-ClickHouse-Summary"] == '{"written_rows":"1"}'
    (method, asked, sent, arrived), *_ = upstream.asked
    assert (method, asked, arrived) == ("POST", path, body)
    assert sent["Content-Encoding"] == "deflate"
    assert sent["X-ClickHouse-User"] == "app"
    assert int(sent["Content-Length"]) == len(body)

    assert speak(url, "/ping?missing", method="GET")[0] == 404
    assert upstream.asked[1][:2] == ("GET", "/ping?missing")
    assert proxy.seen == {"one": set()}


def test_chunked_bodies_stay_chunked(upstream: Upstream, proxy: Proxy) -> None:
    pieces = [b"INSERT INTO t FORMAT Arrow\n", b"x" * 70_000, b"y"]
    status, _, _ = speak(proxy.open("one"), "/", iter(pieces), Transfer_Encoding="chunked")
    assert status == 200
    _, _, sent, arrived = upstream.asked[0]
    assert arrived == b"".join(pieces)
    assert sent["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in sent
    assert proxy.seen == {"one": {"t"}}


def test_a_held_insert_lands_when_its_sender_is_gone(upstream: Upstream, proxy: Proxy) -> None:
    held: list[Insert] = []

    async def hold(each: Insert) -> Answer:
        held.append(each)
        return await each.hold()

    one, two = proxy.open("one", hold), proxy.open("two")
    connection = http.client.HTTPConnection(urlsplit(one).netloc, timeout=30)
    connection.request("POST", insert("rows"), b"first")
    until(lambda: held, "the insert to be held")
    connection.close()
    assert (held[0].speaker, held[0].table, held[0].body) == ("one", "rows", b"first")
    speak(two, insert("rows"), b"second")
    speak(one, "/?query=SELECT%201")
    assert [body for *_, body in upstream.asked] == [b"second", b""]
    assert held[0].land().status == 200
    assert held[0].landed
    assert [body for *_, body in upstream.asked] == [b"second", b"", b"first"]


def test_a_clickhouse_that_is_away_is_a_bad_gateway() -> None:
    with Proxy(lambda: "http://127.0.0.1:1") as proxy:
        status, _, answer = speak(proxy.open("one"), insert("t"), b"x")
    assert status == 502
    assert b"127.0.0.1" in answer


def test_a_stall_holds_every_insert_until_it_ends(upstream: Upstream, proxy: Proxy) -> None:
    stall = Stall()
    url = proxy.open("one", stall)
    assert speak(url, insert("a"), b"before")[0] == 200
    stall.on = True
    answers: list[int] = []
    threads = [threading.Thread(target=lambda t=t: answers.append(speak(url, insert(t), b"x")[0])) for t in "ab"]
    for thread in threads:
        thread.start()
    until(lambda: len(stall.held) == 2, "both to hang")
    assert answers == []
    stall.end()
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    assert speak(url, insert("a"), b"after")[0] == 200
    assert len(upstream.asked) == 4


class Flushes:
    """Inserts as a worker makes them, to a rule; ``landed`` are the tables in the order in which they were stored."""

    def __init__(self, rule: Tear) -> None:
        self.rule = rule
        self.landed: list[str] = []

    async def send(self, *tables: str, agent: str = "archive") -> None:
        for table in tables:

            async def forward(table: str = table) -> Answer:
                self.landed.append(table)
                return Answer(200, STORED.headers, b"")

            await self.rule(Insert("one", table, f"{agent} rows".encode(), forward))


TABLES = frozenset({"a", "b", "c"})


def test_a_flush_is_torn_with_the_second_table_held() -> None:
    async def torn() -> None:
        flushes = Flushes(Tear("archive", TABLES, "a", "b"))
        await flushes.send("a", "c", "checkpoints")
        assert not flushes.rule.torn.is_set()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(flushes.send("c", "a", "b", "checkpoints"), 0.05)
        assert flushes.rule.torn.is_set()
        assert flushes.rule.held is not None
        assert flushes.rule.held.table == "b"
        assert flushes.landed == ["a", "c", "checkpoints", "c", "a"]
        # The other agent goes on, this one does not.
        await flushes.send("others", "checkpoints", agent="engagement")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(flushes.send("a"), 0.05)
        assert flushes.landed[-2:] == ["others", "checkpoints"]

    asyncio.run(torn())


def test_a_table_that_comes_before_the_one_to_be_stored_is_kept_back() -> None:
    async def torn() -> None:
        flushes = Flushes(Tear("archive", TABLES, "b", "a"))
        await flushes.send("a", "c", "checkpoints")
        assert flushes.landed == ["c", "a", "checkpoints"], "without a row of b: stored, before its checkpoint"
        await flushes.send("a", "b")
        assert flushes.rule.torn.is_set()
        assert flushes.landed[3:] == ["b"]
        held = flushes.rule.held
        assert held is not None
        held._released.set()
        await asyncio.sleep(0)
        assert flushes.landed[3:] == ["b", "a"]

    asyncio.run(torn())


def test_a_held_checkpoint_is_torn_from_its_rows() -> None:
    async def torn() -> None:
        flushes = Flushes(Tear("archive", TABLES, "c", "checkpoints"))
        await flushes.send("a", "b", "checkpoints")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(flushes.send("a", "c", "checkpoints"), 0.05)
        assert flushes.rule.held is not None
        assert flushes.rule.held.table == "checkpoints"
        assert flushes.landed == ["a", "b", "checkpoints", "a", "c"]

    asyncio.run(torn())
