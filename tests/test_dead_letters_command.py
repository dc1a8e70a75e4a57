"""``fanpulse dead-letters`` as a user runs it: what it prints, what it refuses, and with which exit code."""

import base64
import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from fanpulse.cli import main
from fanpulse.dead_letters import line, printable, read_line, readable
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.topics import end_offsets, ensure_topics
from pipeline.dead_letters import dead_letter_rows
from pipeline.decode import Decoder, FanHasher, Refused, Unreadable
from pipeline.migrate import migrate
from pipeline.replay import Address, Letter
from schemas.topics import SOURCES, partition_for

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "schemas" / "examples"
APPENDED = 1_750_000_000_000


class Command:
    """The command in this process, in a corner of the stack."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
            monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))

    def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *arguments])
        out, error = self._capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    def refused(self, said: str, *arguments: str, stdin: bytes = b"") -> None:
        """It exits 2, with one last line that says so."""
        code, _, error = self(*arguments, stdin=stdin)
        assert code == 2, error
        assert said in error


def keep(settings: Settings, letters: list[tuple[str, bytes | None, str | None]]) -> list[str]:
    """Writes records (topic, value, reason; None: the contract's) as a worker writes what it refuses."""
    rows = []
    for offset, (topic, value, reason) in enumerate(letters):
        detail = "refused by ClickHouse"
        if reason is None:
            try:
                Decoder(topic, FanHasher(b"k")).read(value)
                reason, detail = "future", "event_time is more than a day after the broker received it"
            except Unreadable as why:
                reason, detail = why.reason, why.detail
        rows.append((topic, 0, Refused(offset, APPENDED + offset, reason, detail, value)))
    with contextlib.closing(clickhouse_client(settings)) as client:
        client.insert_arrow("dead_letters", dead_letter_rows(rows).to_arrow())
    return [f"{topic}:0:{record.offset}" for topic, _, record in rows]


def minimal(topic: str, name: str, **fields: Any) -> dict[str, Any]:
    return {**orjson.loads((EXAMPLES / topic / f"{name}.minimal.json").read_bytes()), **fields}


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    ensure_topics(settings)
    migrate(settings)
    return Command(settings, monkeypatch, capsys)


def letter(value: bytes | None) -> Letter:
    return Letter(Address("gifts", 1, 2), APPENDED, "wrong_type", "why", value, len(value or b""))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (b'{"a": 1.0, "b": 123456789012345678901}', "record"),
        (b'{"a": "\\u4e2d"}', "record"),
        (None, "record"),
        (b"", "text"),
        (b'{"a": 1', "text"),
        (b"[1]\x00\n", "text"),
        (b"\xff\xfe\x00", "base64"),
    ],
)
def test_a_listed_letter_reads_back_as_it_was(value: bytes | None, form: str) -> None:
    said = line(letter(value), value, "table")
    assert form in said
    back = read_line(json.dumps(said, ensure_ascii=False).encode(), "f:1", 1)
    assert back.address == Address("gifts", 1, 2)
    if form == "record" and value is not None:
        assert json.loads(back.value or b"") == json.loads(value)
    else:
        assert back.value == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a":', "f:3: not JSON: Expecting value at character 6"),
        (b"\xff", "f:3: the line is not UTF-8"),
        (b"[]", "f:3: a JSON object is wanted"),
        (b"[" * 100_000, "f:3: the line is nested too deep"),
        (b'{"a":%s}' % (b"9" * 5000), "f:3: not JSON: "),
        (b'{"address":"gift:0:1","record":{}}', "f:3: there is no topic 'gift'; did you mean gifts?"),
        (b'{"address":"gifts:0:1"}', 'f:3: give one of "record", "text" and "base64"; there are 0'),
        (b'{"address":"gifts:0:1","record":{},"text":""}', "there are 2"),
        (b'{"address":"gifts:0:1","text":{}}', 'f:3: "text" must be a string'),
        (b'{"address":"gifts:0:1","base64":"%"}', 'f:3: "base64" is not base64'),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: bytes, said: str) -> None:
    with pytest.raises(FanpulseError) as refused:
        read_line(text, "f:3", 3)
    assert said in refused.value.message
    assert "\n" not in refused.value.message


def test_bytes_are_shown_without_obeying_them() -> None:
    assert printable("a\x1b[2J\u202e中\n") == "a\\x1b[2J\\u202e中\\n"
    assert readable(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert readable(b"a\n\x1bb") == "a\n\\x1bb"
    assert readable(b"\xff\x00ab").split() == ["00000000", "ff", "00", "61", "62", "..ab"]
    assert "more bytes; --raw writes all" in readable(b"\xff" * 2000)


@pytest.mark.stack
def test_every_refused_example_is_listed_and_shown(settings: Settings, command: Command) -> None:
    assert command("list") == (0, "there are no dead letters\n", "")
    paths = [path for topic in SOURCES for path in sorted((EXAMPLES / "refused" / topic).glob("*"))]
    where = keep(settings, [(path.parent.name, path.read_bytes(), None) for path in paths])
    code, out, _ = command("list", "--limit", "3")
    assert code == 0
    assert f"and {len(paths) - 3:,} older ones" in out
    listed = [json.loads(each) for each in command("list", "--format", "jsonl")[1].splitlines()]
    assert [each["address"] for each in listed] == where
    assert [each["reason"] for each in listed] == [path.stem.split(".")[0] for path in paths]
    assert len(command("list", "--topic", "orders", "--format", "jsonl")[1].splitlines()) == 5
    assert command("list", "--reason", "clickhouse")[1] == "there are no dead letters of these\n"
    assert command("list", "--since", "2h")[1] == "there are no dead letters of these\n"
    assert command("list", "--since", "2025-06-15")[1].count("\n") > 20
    for place, path in zip(where, paths, strict=True):
        if path.stem == "too_large":
            continue  # Cut in the table, and never in this Kafka.
        code, out, error = command("show", place)
        assert (code, error) == (0, ""), path
        assert path.stem.split(".")[0] in out
        assert re.search(r"^sent again +never$", out, re.MULTILINE)


@pytest.mark.stack
def test_what_is_wrong_with_the_call_is_said(settings: Settings, command: Command, tmp_path: Path) -> None:
    (place, other) = keep(settings, [("gifts", b"{}", None), ("gifts", b'{"kind":"gift"}', None)])
    command.refused("there is no dead letter at gifts:0:9; the nearest one is gifts:0:1", "show", "gifts:0:9")
    command.refused("and none in orders:2", "show", "orders:2:1")
    command.refused("there is no topic 'gift'; did you mean gifts?", "list", "--topic", "gift")
    command.refused("there is no reason 'misssing'; did you mean missing_field?", "list", "--reason", "misssing")
    command.refused("--since yesterday: write a duration", "list", "--since", "yesterday")
    command.refused("name letters", "replay", "--set", "quantity=1")
    command.refused("mend them with --set", "replay", place)
    command.refused("is given twice", "replay", place, place, "--unchanged")
    command.refused("not both", "replay", place, "--topic", "gifts", "--unchanged")
    command.refused("only with --yes", "replay", "--topic", "gifts", "--unchanged")
    command.refused("gifts have no field quantum; did you mean quantity?", "replay", place, "--set", "quantum=1")
    command.refused("gifts have no field quantum", "replay", place, "--set", "quantum=")
    command.refused("--edit mends one letter", "replay", place, other, "--edit")
    command.refused("cannot be read (No such file", "replay", "--file", str(tmp_path / "none"))
    command.refused("there is nothing in it", "replay", "--file", "-", stdin=b"\n \n")
    command.refused("-:2: not JSON", "replay", "--file", "-", stdin=b'{"a":1}\n{\n')
    command.refused('2 records without "address" and 1 addresses', "replay", place, "--file", "-", stdin=b"{}\n{}\n")
    mixed = b'{"address":"gifts:0:0","record":{}}\n{}\n'
    command.refused('line 2 has no "address"', "replay", "--file", "-", stdin=mixed)
    command.refused("fanpulse: -:1: gifts:0:0: missing_field", "replay", "--file", "-", stdin=mixed.splitlines()[0])


@pytest.mark.stack
def test_unchanged_records_are_sent_only_on_demand(settings: Settings, command: Command) -> None:
    sound = orjson.dumps(minimal("gifts", "gift"))
    place, broken = keep(settings, [("gifts", sound, "clickhouse"), ("gifts", b"{", None)])
    assert "the contract accepts it as it is" in command("show", place)[1]
    command.refused("nothing was mended", "replay", place, "--set", "quantity=" + str(json.loads(sound)["quantity"]))
    command.refused("broken_json", "replay", place, broken, "--unchanged")
    code, out, error = command("replay", place, broken, "--unchanged", "--skip-refused")
    assert (code, out.splitlines()[-1]) == (1, "1 sent again, 1 left out")
    assert "as it was" in out
    assert broken in error
    assert "1 would be sent again" in command("replay", "--topic", "gifts", "--again", "--unchanged", "--skip-refused",
                                              "--dry-run")[1]  # fmt: skip


class Terminal(io.TextIOWrapper):
    """Standard input with a person behind it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.stack
def test_a_selection_is_asked_about_on_a_terminal(
    settings: Settings, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(settings, [("gifts", orjson.dumps(minimal("gifts", "gift")), "clickhouse")] * 3)
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    code, out, error = command("replay", "--reason", "clickhouse", "--unchanged", stdin=b"n\n")
    assert (code, out.strip()) == (1, "")
    assert "send 3 records again? [y/N]" in error
    assert "nothing is sent" in error
    code, out, _ = command("replay", "--reason", "clickhouse", "--unchanged", stdin=b"y\n")
    assert (code, out.splitlines()[-1]) == (0, "3 sent again")


@pytest.mark.stack
def test_a_terminal_gets_the_same_letters(
    settings: Settings, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = keep(settings, [("gifts", b"[bold]\x1b[31m", None), ("orders", b"{}", None)])
    monkeypatch.setattr("fanpulse.dead_letters._on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command("list")
    assert code == 0
    assert all(place in out for place in places)
    assert "[bold]\\x1b[31m" in out


@pytest.mark.stack
def test_records_alone_go_by_the_order_of_the_addresses(settings: Settings, command: Command) -> None:
    places = keep(settings, [("gifts", b"{", None), ("orders", b"\xff", None)])
    made = [minimal("gifts", "gift", fan_id="a"), minimal("orders", "paid", fan_id="b")]
    content = b"\n".join(orjson.dumps(each) for each in reversed(made))
    code, out, error = command("replay", *reversed(places), "--file", "-", stdin=content)
    assert code == 0, error
    assert [each.split(" -> ")[0] for each in out.splitlines()[:2]] == places[::-1]
    command.refused("--again sends it once more", "replay", places[0], "--file", "-", stdin=orjson.dumps(made[0]))


@pytest.mark.stack
def test_what_was_sent_is_said_when_kafka_or_clickhouse_fails_midway(
    settings: Settings, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = [("gifts", orjson.dumps(minimal("gifts", "gift", event_id=f"e{n}")), "clickhouse") for n in range(4)]
    places = keep(settings, sound)
    send, calls = KafkaProducer.send, 0

    def failing(self: KafkaProducer, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KafkaTimeoutError("no room")
        return send(self, *arguments, **named)

    def away(self: Client, *arguments: Any, **named: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr("pipeline.replay.WRITTEN", 2)
    with monkeypatch.context() as patch:
        patch.setattr(KafkaProducer, "send", failing)
        code, out, error = command("replay", *places, "--unchanged")
    assert code == 1
    assert "Kafka took 3 of 4 (" in error
    assert [each.split(" -> ")[0] for each in out.splitlines()] == places[:3]
    waiting = command("list", "--format", "jsonl")[1].splitlines()
    assert [json.loads(each)["address"] for each in waiting] == places[3:]
    with monkeypatch.context() as patch:
        patch.setattr(Client, "insert", away)
        code, out, error = command("replay", places[3], "--unchanged")
    assert (code, out) == (1, "")
    assert "1 of 1 are sent, but the last 1 are not written down (away)" in error
    assert command("replay", places[3], "--unchanged")[0] == 0
    assert end_offsets(settings)[("gifts", partition_for(b"fan-000123", settings.partitions))] == 5


@pytest.mark.stack
def test_exact_bytes_are_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    migrate(settings)
    for name in ("home", "database", "topic_prefix"):
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(getattr(settings, name)))
    value = base64.b64decode("/wD+Cg0KeyI=")
    (place,) = keep(settings, [("gifts", value, None)])
    with pytest.raises(SystemExit):
        main(["dead-letters", "show", place, "--raw"])
    assert capfdbinary.readouterr().out == value


@pytest.mark.stack
def test_a_record_that_is_nowhere_whole_is_not_taken_for_whole(settings: Settings, command: Command) -> None:
    (place,) = keep(settings, [("gifts", b"x" * 70_000, None)])
    gone = "Kafka has it no more, and the table only the first 65,536 of 70,000 bytes"
    command.refused(gone, "show", place, "--raw")
    command.refused(gone, "replay", place, "--unchanged")
    assert "only the first 65,536 bytes" in command("show", place)[1]
    (listed,) = command("list", "--format", "jsonl")[1].splitlines()
    assert json.loads(listed)["whole"] is False
    good = orjson.dumps({"address": place, "record": minimal("gifts", "gift")})
    assert command("replay", "--file", "-", stdin=good)[0] == 0


@pytest.mark.stack
def test_without_services_or_tables_one_line_says_what_to_do(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Command(Settings(home=tmp_path), monkeypatch, capsys)
    away.refused("ClickHouse is not running", "list")
    here = Command(settings, monkeypatch, capsys)
    here.refused("fanpulse migrate", "list")
