"""The server of the preview: pages, boards, and the answers to the queries in them.

It listens on 127.0.0.1 only and asks ClickHouse as the read-only analyst. A browser names board, panel, time range and
values of variables; SQL comes from the boards alone. Pages of other sites can ask nothing: the ``Host`` must be this
machine, a request with an ``Origin`` must come from here, and questions must be JSON.
"""

import contextlib
import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import ValidationError
from urllib3.exceptions import HTTPError

from dashboards import ringing
from dashboards.boards import boards
from dashboards.preview import runbooks
from dashboards.preview.asking import Asked, Refused, expanded, options
from dashboards.preview.bell import Bell
from dashboards.preview.library import Library, Query, Unknown
from dashboards.render import ZONE, as_json
from infra.connect import clickhouse_client, refusal
from infra.errors import FanpulseError, InfraError
from infra.settings import Settings

JSON_FOLDER = Path(__file__).parent.parent / "json"
QUERY_S = 15
"""Seconds that a query may run."""
ROWS = 20_000
"""Rows that an answer may have; more make no picture."""
AT_ONCE = 4
"""Queries that ClickHouse is given at a time."""
OPTIONS_S = 20.0
"""How long the values of a variable are taken to be the same, seconds."""
_ASKED_BYTES = 256 * 1024
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE = re.compile(r"/$|/d/|/runbooks/")
_HERE = ("127.0.0.1", "localhost", "::1")
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@contextlib.contextmanager
def serve(settings: Settings, port: int, folder: Path | None = None, faster: int = 1) -> Iterator[str]:
    """Serves the boards while this lasts, in threads of its own; gives the address.

    ClickHouse may come and go meanwhile: a page says that it does not answer, and goes on when it does. Alert rules are
    looked at once an interval from the beginning, whether anybody has a page open or not.

    Args:
        settings: whose ClickHouse.
        port: of 127.0.0.1; 0 chooses one.
        folder: the boards' JSON; None: the boards of fanpulse, with local days of the settings' time zone.
        faster: what waiting times and ages of alert rules are divided by; 1 but for drills.

    Raises:
        FanpulseError: the port is taken, or there are no boards.
    """
    with _folder(settings) if folder is None else contextlib.nullcontext(folder) as files:
        library = Library(files, {board.uid: board.place for board in boards()})
        library.boards()
        try:
            server = _Server(port, settings, library, faster)
        except OSError as error:
            raise FanpulseError(f"port {port} of 127.0.0.1: {error.strerror}; choose another with --port") from None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        server.bell.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.bell.stop()
            server.shutdown()
            thread.join()
            server.server_close()


class _Page(NamedTuple):
    content: bytes
    type: str
    tag: str


class _Answer(NamedTuple):
    status: HTTPStatus
    content: bytes
    type: str = "application/json"
    tag: str | None = None


class _Unanswered(Exception):
    """Why there is no answer, for the user, and the status that says whose fault it is."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Database:
    """ClickHouse as the analyst, asked by several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._options: dict[str, tuple[float, list[Sequence[Any]]]] = {}

    def ask(self, sql: str) -> bytes:
        """The answer in ClickHouse's JSONCompact: names and types, rows, and what it took.

        Times are ISO 8601 in UTC, integers are numbers, NaN is null.
        """
        with self._places:
            try:
                return self._connected().raw_query(
                    sql,
                    fmt="JSONCompact",
                    settings={
                        "max_execution_time": QUERY_S,
                        "max_result_rows": ROWS,
                        "result_overflow_mode": "throw",
                        "date_time_output_format": "iso",
                        "output_format_json_quote_64bit_integers": 0,
                        "output_format_json_quote_denormals": 0,
                        "wait_end_of_query": 1,
                    },
                )
            except InfraError as error:
                raise _Unanswered(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from None
            except (ClickHouseError, HTTPError, OSError) as error:
                raise self._failure(error) from None

    def options(self, sql: str) -> list[Sequence[Any]]:
        """Rows of the query of a variable, remembered for a while."""
        now = time.monotonic()
        known = self._options.get(sql)
        if known is None or now - known[0] > OPTIONS_S:
            for old in [each for each, (asked, _) in list(self._options.items()) if now - asked > OPTIONS_S]:
                self._options.pop(old, None)
            known = self._options[sql] = now, orjson.loads(self.ask(sql))["data"]
        return known[1]

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = clickhouse_client(self._settings, "analyst", timeout=QUERY_S + 10)
            return self._client

    def _failure(self, error: Exception) -> _Unanswered:
        said = refusal(error)
        if said is not None:
            return _Unanswered(HTTPStatus.UNPROCESSABLE_ENTITY, said)
        # The server may come back on another port.
        with self._lock:
            self._client = None
        return _Unanswered(HTTPStatus.SERVICE_UNAVAILABLE, "ClickHouse does not answer; is it running? fanpulse status")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, settings: Settings, library: Library, faster: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.library = library
        self.database = _Database(settings)
        self.bell = Bell(
            lambda: clickhouse_client(settings, "analyst", timeout=ringing.QUERY_S + 2), settings.time_zone, faster
        )
        self.pages = _pages()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers hang up whenever they like: nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "fanpulse"
    sys_version = ""
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        self._send(self._answered(self._get))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._send(self._answered(self._post))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        self._send(_refusal(HTTPStatus(code), message or explain or HTTPStatus(code).phrase))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: a board asks every few seconds."""

    def _answered(self, answer: Callable[[str], _Answer]) -> _Answer:
        try:
            self._must_be_from_here()
            return answer(urlsplit(self.path).path)
        except _Unanswered as error:
            status, message = error.status, str(error)
        except Unknown as error:
            status, message = HTTPStatus.NOT_FOUND, str(error)
        except Refused as error:
            status, message = HTTPStatus.BAD_REQUEST, str(error)
        except FanpulseError as error:
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, error.message
        except Exception as error:
            # A panel that cannot be answered for must not take the others along.
            status, message = HTTPStatus.INTERNAL_SERVER_ERROR, f"the preview failed: {error!r}"
        # A body may be left unread, and would be taken for the next request.
        self.close_connection = True
        return _refusal(status, message)

    def _get(self, path: str) -> _Answer:
        library = self.server.library
        if path == "/api/boards":
            return _json([_summary(board.model) for board in library.boards()])
        if found := re.fullmatch(r"/api/boards/([^/]+)", path):
            return _json(library.board(unquote(found[1])).model)
        if path == "/api/ringing":
            return _json(self.server.bell.seen() | {"pages": sorted(runbooks.names())})
        if found := re.fullmatch(r"/api/runbooks/([^/]+)", path):
            name = unquote(found[1])
            return _json({"name": name, "text": runbooks.page(name)})
        page = self.server.pages.get("/index.html" if _PAGE.match(path) else path)
        if page is None:
            raise _Unanswered(HTTPStatus.NOT_FOUND, f"there is no page {path[:200]}")
        if self.headers.get("If-None-Match") == page.tag:
            return _Answer(HTTPStatus.NOT_MODIFIED, b"", page.type, page.tag)
        return _Answer(HTTPStatus.OK, page.content, page.type, page.tag)

    def _post(self, path: str) -> _Answer:
        found = re.fullmatch(r"/api/boards/([^/]+)/(panels|variables|annotations)/([^/]+)", path)
        body = self._body()
        if found is None:
            raise _Unanswered(HTTPStatus.NOT_FOUND, f"nothing can be asked at {path[:200]}")
        board, name, database = self.server.library.board(unquote(found[1])), unquote(found[3]), self.server.database
        asked = _asked(body)
        if found[2] == "variables":
            held = options(board, name, asked, database.options)
            return _json({"options": [option._asdict() for option in held]})
        if found[2] == "annotations":
            queries = [board.annotation_query(name)]
        elif re.fullmatch(r"\d{1,9}", name):
            queries = board.panel_queries(int(name))
        else:
            raise Unknown(f"panels have numbers: {name[:40]!r} is none")
        results = [(query, database.ask(expanded(board, query, asked, database.options))) for query in queries]
        return _Answer(HTTPStatus.OK, b'{"frames":[' + b",".join(_frame(*each) for each in results) + b"]}")

    def _must_be_from_here(self) -> None:
        # A name that some site has pointed at 127.0.0.1 is still in the header.
        host = self.headers.get("Host", "")
        name = urlsplit("//" + host).hostname if re.fullmatch(r"[\w.:\[\]-]{1,255}", host) else None
        if name not in _HERE:
            raise _Unanswered(HTTPStatus.MISDIRECTED_REQUEST, "ask for 127.0.0.1 or localhost")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _Unanswered(HTTPStatus.FORBIDDEN, "pages of other sites cannot ask")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _ASKED_BYTES:
            raise _Unanswered(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {_ASKED_BYTES} bytes, with their length"
            )
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise _Unanswered(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "ask in application/json")
        return body

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in _SECURITY.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.type)
        self.send_header("Cache-Control", "no-store" if answer.tag is None else "no-cache")
        if answer.tag is not None:
            self.send_header("ETag", answer.tag)
        if self.close_connection:
            self.send_header("Connection", "close")
        if answer.status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """The boards' JSON for the time zone of the settings."""
    if settings.time_zone == ZONE:
        yield JSON_FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="fanpulse-boards-") as name:
        for board in boards():
            (Path(name) / f"{board.uid}.json").write_text(as_json(board, settings.time_zone), "utf-8")
        yield Path(name)


def _pages() -> dict[str, _Page]:
    """The files of the page by path, read once: no other file can be asked for."""
    pages = {}
    for folder in ("page", "static"):
        for file in sorted((Path(__file__).parent / folder).iterdir()):
            content = file.read_bytes()
            kind = _TYPES.get(file.suffix, "text/plain") + "; charset=utf-8"
            pages[f"/{file.name}"] = _Page(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return pages


def _asked(body: bytes) -> Asked:
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(f"{where}: {first['msg']}" if where else str(first["msg"])) from None


def _summary(model: Any) -> dict[str, Any]:
    return {
        "uid": model["uid"],
        "title": model["title"],
        "description": model.get("description", ""),
        "tags": model.get("tags", []),
    }


def _frame(query: Query, content: bytes) -> bytes:
    head = orjson.dumps({"ref": query.ref, "series": query.series})
    return head[:-1] + b',"result":' + content + b"}"


def _json(value: Any) -> _Answer:
    return _Answer(HTTPStatus.OK, orjson.dumps(value))


def _refusal(status: HTTPStatus, message: str) -> _Answer:
    return _Answer(status, orjson.dumps({"error": message}))
