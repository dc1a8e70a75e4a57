"""Inserts: tried again while ClickHouse is away, given up when it refuses the rows."""

import threading
from typing import Any

import polars as pl
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, OperationalError, ProgrammingError
from urllib3.exceptions import ProtocolError

from infra.errors import InfraError
from pipeline.sink import RefusedByClickHouse, Sink, Stopped, error_code, transient

ROWS = pl.DataFrame({"a": [1, 2]})


class Client:
    """Raises what it is given, one after the other, then takes rows."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[tuple[str, int]] = []
        self.settings: dict[str, Any] = {}

    def insert_arrow(self, table: str, rows: Any, settings: dict[str, Any]) -> None:
        self.settings = settings
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append((table, rows.num_rows))


class Hurried(threading.Event):
    """Nobody waits in tests."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("Code: 252. DB::Exception: Too many parts"),
        DatabaseError("Code: 241. DB::Exception: Memory limit exceeded"),
        DatabaseError("Code: 243. DB::Exception: Not enough space"),
        OperationalError("Error executing HTTP request"),
        DatabaseError("HTTPDriver for http://127.0.0.1:1 received HTTP status 503"),
        ProtocolError("Connection aborted."),
        ConnectionResetError(),
        InfraError("ClickHouse does not answer"),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    client, waits = Client(error, error), []
    sink = Sink(lambda: client, Hurried(), lambda table, reason: waits.append((table, reason, sink.busy)))
    sink.insert("t", ROWS)
    assert client.taken == [("t", 2)]
    code = error_code(error)
    assert waits == [("t", f"code {code}" if code else type(error).__name__, True)] * 2
    assert not sink.busy


def test_a_client_that_cannot_be_made_yet_is_tried_again() -> None:
    client, tries = Client(), [InfraError("away"), InfraError("away")]

    def connect() -> Client:
        if tries:
            raise tries.pop()
        return client

    Sink(connect, Hurried()).insert("t", ROWS)
    assert client.taken == [("t", 2)]


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("Code: 16. DB::Exception: No such column\nb in table"),
        DatabaseError("Code: 60. DB::Exception: Table does not exist"),
        DataError("column a does not fit"),
        ProgrammingError("unknown setting"),
    ],
)
def test_what_will_not_pass_is_refused_in_one_line(error: Exception) -> None:
    client = Client(error)
    with pytest.raises(RefusedByClickHouse, match="^t: ") as refused:
        Sink(lambda: client, Hurried()).insert("t", ROWS)
    assert "\n" not in str(refused.value)
    assert client.taken == []
    assert not transient(error)


def test_stopping_ends_the_waiting() -> None:
    stopping = Hurried()
    stopping.set()
    client = Client(ConnectionResetError())
    with pytest.raises(Stopped):
        Sink(lambda: client, stopping).insert("t", ROWS)


def test_nothing_is_stored_once_it_is_stopping() -> None:
    """What comes after an insert that was given up would be stored beyond it."""
    stopping, client = Hurried(), Client()
    stopping.set()
    with pytest.raises(Stopped):
        Sink(lambda: client, stopping).insert("t", ROWS)
    assert client.taken == []


def test_a_server_that_comes_back_elsewhere_is_found() -> None:
    made = [Client(ConnectionResetError()), Client()]
    clients = iter(made)
    Sink(lambda: next(clients), Hurried()).insert("t", ROWS)
    assert [client.taken for client in made] == [[], [("t", 2)]]


def test_a_block_sent_twice_is_never_dropped_by_clickhouse() -> None:
    """Its first try may have reached the table and not the views that hang on it."""
    client = Client()
    Sink(lambda: client, Hurried()).insert("t", ROWS)
    assert client.settings["insert_deduplicate"] == 0
