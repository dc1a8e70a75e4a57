"""``fanpulse dead-letters list | show | replay``."""

import base64
import binascii
import contextlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import click
import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fanpulse.context import print_table, settings
from fanpulse.generate import duration
from infra.connect import Role, clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import replay as core
from pipeline.decode import Unreadable
from pipeline.grammar import grammar
from pipeline.loading.mapping import parse
from pipeline.replay import Address, Letter, Mended, Originals, Replay, Selection

dead_letters = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The group of subcommands."""

ListFormat = Literal["pretty", "jsonl"]
NEWEST = 20
"""Letters that ``list`` shows without ``--limit``."""
_BEGINNING = 40
_SHOWN = 8192
_DUMPED = 512

TopicOption = Annotated[str | None, typer.Option("--topic", help="Only those of this topic.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only those refused for this reason.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="2h|DATE", help="Only those that the broker took in this time, or since this day."),
]


@dead_letters.callback()
def group() -> None:
    """Look at refused records, mend them, and send them again.

    \b
    Examples:
      fanpulse dead-letters list
      fanpulse dead-letters show interactions:0:1234
      fanpulse dead-letters replay interactions:0:1234 --set creator_id=c1
    """


@dead_letters.command("list", short_help="Count dead letters, and list the newest.")
def list_(
    ctx: typer.Context,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    waiting: Annotated[
        bool, typer.Option("--waiting/--all", help="Only letters never sent again, or all of them.")
    ] = True,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Newest letters to print. [default: {NEWEST}; of jsonl: all]")
    ] = None,
    format: Annotated[ListFormat, typer.Option("--format", "-f", help="jsonl: a letter a line, oldest first.")] = (
        "pretty"
    ),
) -> None:
    """Count dead letters by topic and reason, and list the newest.

    A line of jsonl has the letter's address and its record: as "record" where it is a JSON object, else as "text" or
    "base64". Mended in an editor, the file is what replay --file takes. "whole": false says that only the first
    64 KiB are there, as Kafka has the rest no more or does not answer.

    \b
    Examples:
      fanpulse dead-letters list --since 2h
      fanpulse dead-letters list --topic orders --reason missing_field --all
      fanpulse dead-letters list --reason wrong_type --format jsonl > letters.jsonl
    """
    here = settings(ctx)
    chosen = Selection(topic, reason, _since(since, here), waiting)
    with _client(here, "analyst") as client:
        core.require_known(client, chosen)
        if format == "jsonl":
            found: Iterable[Letter] = core.letters(client, chosen, limit, newest_first=limit is not None)
            with Originals(here) as originals:
                for letter in reversed(list(found)) if limit is not None else found:
                    try:
                        value, source = originals.whole(letter)
                    except FanpulseError:
                        value, source = letter.value, ""
                    typer.echo(json.dumps(line(letter, value, source), ensure_ascii=False))
            return
        groups = core.groups(client, Selection(chosen.topic, chosen.reason, chosen.since))
        if not groups:
            typer.echo("there are no dead letters" + (" of these" if topic or reason or since else ""))
            return
        _table(
            ["TOPIC", "REASON", "LETTERS", "SENT AGAIN", "FIRST", "LAST"],
            [
                [g.topic, g.reason, f"{g.letters:,}", f"{g.replayed:,}", _moment(g.first), _moment(g.last)]
                for g in groups
            ],
        )
        typer.echo()
        letters = list(core.letters(client, chosen, limit or NEWEST, newest_first=True))
        if not letters:
            typer.echo("all of them were sent again; --all lists them")
            return
        _table(
            ["ADDRESS", "RECEIVED", "REASON", "DETAIL", "SENT AGAIN AS", "BEGINS"],
            [
                [
                    str(each.address),
                    _moment(each.appended),
                    each.reason,
                    printable(each.detail),
                    ", ".join(str(replay.to) for replay in each.replays) or "-",
                    "(no value)" if each.value is None else printable(_decoded(each.value[:_BEGINNING])),
                ]
                for each in letters
            ],
        )
        total = sum(g.letters - (g.replayed if waiting else 0) for g in groups)
        if total > len(letters):
            typer.echo(f"and {total - len(letters):,} older ones; --limit N lists more")


@dead_letters.command(short_help="Show all that is known of one.")
def show(
    ctx: typer.Context,
    where: Annotated[str, typer.Argument(metavar="ADDRESS", help="Its address, as list shows it.", show_default=False)],
    raw: Annotated[bool, typer.Option("--raw", help="Write its exact bytes to standard output, nothing else.")] = False,
) -> None:
    """Show all that is known of one dead letter, and what would be accepted in its place.

    The table keeps the first 64 KiB; a longer record is read whole from its topic in Kafka, or from the topic
    dead_letters, while they have it.

    \b
    Examples:
      fanpulse dead-letters show interactions:0:1234
      fanpulse dead-letters show interactions:0:1234 --raw | jq .
    """
    here = settings(ctx)
    address = core.address(where)
    with _client(here, "analyst") as client:
        (letter,) = core.find(client, [address])
    with Originals(here) as originals:
        if raw:
            value, source = originals.whole(letter)
            if not source:
                raise FanpulseError(_gone(letter))
            sys.stdout.buffer.write(value or b"")
            sys.stdout.buffer.flush()
            return
        problem = ""
        try:
            value, source = originals.whole(letter)
        except FanpulseError as error:
            value, source, problem = letter.value, "", f" ({error.message})"
    known = len(value or b"")
    places = {"": f"the table dead_letters, only the first {known:,} bytes{problem}", "table": "the table dead_letters"}
    rows = [
        ("address", str(letter.address)),
        ("received", _moment(letter.appended)),
        ("reason", letter.reason),
        ("detail", printable(letter.detail)),
        ("size", "no value" if letter.value is None else f"{letter.size:,} bytes"),
        *(("sent again", _said(each)) for each in letter.replays),
        *([] if letter.replays else [("sent again", "never")]),
        ("bytes from", places.get(source, f"the Kafka topic {here.topic_prefix}{source}")),
    ]
    if source:
        try:
            core.mend(here, letter, value, value, _now())
            rows.append(("now", "the contract accepts it as it is; replay --unchanged sends it again"))
        except Unreadable as why:
            if (why.reason, why.detail) != (letter.reason, letter.detail):
                rows.append(("now", printable(f"{why.reason}: {why.detail}")))
    for hint in core.hints(letter.address.topic, value):
        rows.append((printable(hint.field), printable(hint.wrong)))
        rows.append(("", "accepted: " + hint.accepted))
    width = max(len(name) for name, _ in rows)
    for name, said in rows:
        typer.echo(f"{name.ljust(width)}  {said}".rstrip())
    if value:
        typer.echo()
        typer.echo(readable(value))


@dead_letters.command(short_help="Mend them and send them again.")
def replay(
    ctx: typer.Context,
    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDRESS", help="Letters, as list shows them.", show_default=False),
    ] = None,
    topic: TopicOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Give a field a value; FIELD= takes it out. May be repeated.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="Mended records, a line of JSON each; - is standard input."),
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Mend one letter in $VISUAL or $EDITOR.")] = False,
    unchanged: Annotated[
        bool, typer.Option("--unchanged", help="Send also what was not mended, if the contract accepts it now.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Send also letters that were sent again before.")] = False,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out what cannot be sent, rather than send nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending a selection.")] = False,
) -> None:
    """Mend dead letters and send them again, as new records of their topic.

    Letters are named by addresses, by --topic, --reason and --since, or by the lines of --file. Every record is
    checked by the contract first; if one is refused, none is sent. The letter stays; what was sent is written down in
    the table dead_letter_replays. A record sent twice counts once, as long as event_id and event_time stay the same.

    \b
    Lines of --file:
      {"address": "interactions:0:1234", "record": {...}}   as list --format jsonl writes them; other keys are ignored
      {...}                                                 the records alone, in the order of the addresses given

    Values of --set are converted as by fanpulse load: event_time takes milliseconds or 2026-01-31T20:15:00+08:00.
    Exits 2 if nothing is sent because a record is refused, 1 if --skip-refused left some out.

    \b
    Examples:
      fanpulse dead-letters replay interactions:0:1234 --set creator_id=c1
      fanpulse dead-letters replay --reason unknown_value --topic orders --set platform=douyin --dry-run
      fanpulse dead-letters replay --file letters.jsonl
      fanpulse dead-letters replay interactions:0:1234 --edit
      fanpulse dead-letters replay --reason clickhouse --unchanged --yes
    """
    here = settings(ctx)
    named = [core.address(text) for text in addresses or []]
    _no_twice(named)
    chosen = None if not (topic or reason or since) else Selection(topic, reason, _since(since, here), not again)
    lines = None if file is None else _read_lines(file)
    if chosen is not None and (named or lines is not None):
        raise FanpulseError("replay: give addresses or --file, or --topic, --reason and --since, not both")
    if not named and chosen is None and lines is None:
        raise FanpulseError("replay: name letters: ADDRESS ..., --reason, --topic, --since, or --file")
    if edit and (chosen is not None or lines is not None or len(named) != 1):
        raise FanpulseError("replay: --edit mends one letter: give its address; for many use --file")
    if not (sets or edit or unchanged or lines is not None):
        raise FanpulseError("replay: mend them with --set, --edit or --file, or send them as they are with --unchanged")
    if chosen is not None and not (yes or dry_run) and not sys.stdin.isatty():
        raise FanpulseError(
            "replay: a selection is sent only with --yes where nobody can be asked; try --dry-run first"
        )
    with _client(here, "app") as client, Originals(here) as originals:
        if chosen is not None:
            core.require_known(client, chosen)
            letters = list(core.letters(client, chosen))
        else:
            named = _addressed(lines, named) if lines is not None else named
            letters = core.find(client, named)
        if not letters:
            typer.echo("there are no dead letters of these" + ("" if again else " that were never sent again"))
            return
        changes = {name: _changes(here, name, sets or []) for name in {letter.address.topic for letter in letters}}
        core.require_same_log(here, client)
        ready: list[Mended] = []
        left = 0
        for index, letter in enumerate(letters):
            place = f"{file}:{lines[index].number}: " if lines is not None else ""
            try:
                if letter.replays and not again:
                    raise Unreadable("sent again", f"{_said(letter.replays[-1])}; --again sends it once more")
                ready.append(
                    _mended(
                        here,
                        letter,
                        originals,
                        lines[index] if lines is not None else None,
                        changes[letter.address.topic],
                        edit,
                        unchanged,
                    )
                )
            except Unreadable as why:
                left += 1
                typer.echo(printable(f"fanpulse: {place}{letter.address}: {why.reason}: {why.detail}"), err=True)
        if left and not skip_refused:
            raise FanpulseError(
                f"{left:,} of {len(letters):,} cannot be sent, so none is sent; mend them, or leave them out with "
                "--skip-refused"
            )
        late = core.late(here, client, ready, _now())
        if dry_run:
            for each in ready:
                typer.echo(
                    f"{each.letter.address} -> {each.letter.address.topic}:{each.partition}: {_how(each.changed)}"
                )
            typer.echo(f"{len(ready):,} would be sent again, {left:,} left out")
        elif ready:
            if chosen is not None and not yes and not typer.confirm(f"send {len(ready):,} records again?", err=True):
                typer.echo("nothing is sent", err=True)
                raise typer.Exit(1)
            core.send(
                here,
                client,
                ready,
                lambda each, made: typer.echo(f"{each.letter.address} -> {made.to}  {_how(made.changed)}"),
            )
            typer.echo(f"{len(ready):,} sent again" + (f", {left:,} left out" if left else ""))
        _warn_of_late(here, late)
    if left:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Line:
    """A line of a file of mended records: its number, the letter it is for (None: as given), and the record's bytes."""

    number: int
    address: Address | None
    value: bytes | None


def line(letter: Letter, value: bytes | None, source: str) -> dict[str, Any]:
    """What ``list --format jsonl`` prints of a letter whose bytes ``value`` are from ``source``."""
    said: dict[str, Any] = {
        "address": str(letter.address),
        "appended_at": datetime.fromtimestamp(letter.appended / 1000, UTC).isoformat(timespec="milliseconds"),
        "reason": letter.reason,
        "detail": letter.detail,
        "size": letter.size,
        "replayed_as": [str(each.to) for each in letter.replays],
    }
    if not source:
        said["whole"] = False
    record = core.parsed(value)
    if value is None or record is not None:
        return {**said, "record": record}
    try:
        return {**said, "text": value.decode()}
    except UnicodeDecodeError:
        return {**said, "base64": base64.b64encode(value).decode()}


def read_line(text: bytes, place: str, number: int) -> Line:
    """A line of ``--file``: one that ``line`` made, mended or not, or a record alone.

    Raises:
        FanpulseError: it is neither.
    """
    try:
        given = json.loads(text)
    except UnicodeDecodeError:
        raise FanpulseError(f"{place}: the line is not UTF-8") from None
    except RecursionError:
        raise FanpulseError(f"{place}: the line is nested too deep") from None
    except ValueError as error:
        # Also an integer of thousands of digits, which json leaves to int().
        said = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise FanpulseError(f"{place}: not JSON: {said}") from None
    if not isinstance(given, dict):
        raise FanpulseError(f"{place}: a JSON object is wanted, one a line")
    if "address" not in given:
        return Line(number, None, core.encoded(given))
    try:
        address = core.address(str(given["address"]))
    except FanpulseError as error:
        raise FanpulseError(f"{place}: {error.message}") from None
    forms = [name for name in ("record", "text", "base64") if name in given]
    if len(forms) != 1:
        raise FanpulseError(f'{place}: give one of "record", "text" and "base64"; there are {len(forms)}')
    content = given[forms[0]]
    if forms[0] == "record":
        return Line(number, address, None if content is None else core.encoded(content))
    if not isinstance(content, str):
        raise FanpulseError(f'{place}: "{forms[0]}" must be a string')
    try:
        if forms[0] == "base64":
            return Line(number, address, base64.b64decode(content, validate=True))
        return Line(number, address, content.encode(errors="surrogatepass"))
    except binascii.Error:
        raise FanpulseError(f'{place}: "base64" is not base64') from None


def readable(value: bytes) -> str:
    """Bytes for people: JSON indented, other text escaped, anything else in hexadecimal."""
    record = core.parsed(value)
    if record is not None:
        text = json.dumps(record, indent=2, ensure_ascii=False)
    else:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            rows = [
                f"{at:08x}  {value[at : at + 16].hex(' '):<47}  {_ascii(value[at : at + 16])}"
                for at in range(0, min(len(value), _DUMPED), 16)
            ]
            if len(value) > _DUMPED:
                rows.append(f"... {len(value) - _DUMPED:,} more bytes; --raw writes all")
            return "\n".join(rows)
    if len(text) > _SHOWN:
        return printable(text[:_SHOWN], "\n") + f"\n... {len(text) - _SHOWN:,} more characters; --raw writes all"
    return printable(text, "\n")


def printable(text: str, kept: str = "") -> str:
    """Text with what a terminal would not print, or would obey, as escapes; ``kept`` are let through."""
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode() for each in text
    )


def _mended(
    here: Settings,
    letter: Letter,
    originals: Originals,
    given: Line | None,
    changes: dict[str, Any],
    edit: bool,
    unchanged: bool,
) -> Mended:
    """The record that takes the letter's place. Unreadable: it cannot be sent."""
    original, source = letter.value, "table"
    if letter.cut and (given is None or core.parsed(given.value) is None):
        original, source = originals.whole(letter)
    if not source and given is None:
        raise Unreadable("cut", _gone(letter))
    value = original if given is None else given.value
    if changes:
        value = _changed(value, changes)
    if edit:
        return _edited(here, letter, original, value, unchanged)
    return _sendable(core.mend(here, letter, original, value, _now()), unchanged)


def _sendable(mended: Mended, unchanged: bool) -> Mended:
    if not mended.changed and not unchanged:
        raise Unreadable(
            "unchanged", "nothing was mended; the contract accepts it now, so --unchanged sends it as it is"
        )
    return mended


def _edited(here: Settings, letter: Letter, original: bytes | None, value: bytes | None, unchanged: bool) -> Mended:
    """The record as the editor leaves it; on a terminal, edited on until it can be sent or the user gives up."""
    record = core.parsed(value)
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False) if record is not None else (value or b"").decode()
    except UnicodeDecodeError:
        raise Unreadable(
            "invalid_utf8", "not text that can be edited; write it with show --raw, mend it, and use --file"
        ) from None
    while True:
        try:
            text = click.edit(text, extension=".json", require_save=False) or ""
        except click.ClickException as error:
            raise FanpulseError(f"replay: {error.message}; set VISUAL or EDITOR to an editor") from None
        raw = text.encode(errors="surrogatepass")
        record = core.parsed(raw)
        try:
            new = raw if record is None else core.encoded(record)
            return _sendable(core.mend(here, letter, original, new, _now()), unchanged)
        except Unreadable as why:
            if not sys.stdin.isatty():
                raise
            typer.echo(printable(f"fanpulse: {letter.address}: {why.reason}: {why.detail}"), err=True)
            if not typer.confirm("edit it again?", default=True, err=True):
                raise


def _changes(here: Settings, topic: str, sets: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` says for a topic; None takes a field out."""
    removed: dict[str, Any] = {}
    given = []
    for text in sets:
        name, equals, value = text.partition("=")
        if equals and name and not value:
            if name not in {column.name for column in grammar(topic).columns}:
                raise FanpulseError(f"--set {text}: {topic} have no field {name}")
            removed[name] = None
        else:
            given.append(text)
    constants = parse(topic, [], given, ZoneInfo(here.time_zone)).constants
    if both := sorted(removed.keys() & constants.keys()):
        raise FanpulseError(f"--set {both[0]}=: {both[0]} is given twice")
    return {**constants, **removed}


def _changed(value: bytes | None, changes: dict[str, Any]) -> bytes:
    record = core.parsed(value)
    if record is None:
        raise Unreadable("broken_json", "it is no JSON object, so --set cannot mend it; use --edit or --file")
    record |= changes
    return core.encoded({name: new for name, new in record.items() if new is not None or name not in changes})


def _addressed(lines: list[Line], named: list[Address]) -> list[Address]:
    """The letter of each line."""
    own = [each.address for each in lines if each.address is not None]
    if own and len(own) < len(lines):
        number = next(each.number for each in lines if each.address is None)
        raise FanpulseError(f'--file: line {number} has no "address", others have one')
    if own and named:
        raise FanpulseError("--file: its lines have addresses; give none beside them")
    if not own and len(named) != len(lines):
        raise FanpulseError(
            f'--file: {len(lines)} records without "address" and {len(named)} addresses: give one for each, in order'
        )
    _no_twice(own)
    return own or named


def _no_twice(addresses: Sequence[Address]) -> None:
    seen: set[Address] = set()
    for each in addresses:
        if each in seen:
            raise FanpulseError(f"{each} is given twice")
        seen.add(each)


def _read_lines(name: str) -> list[Line]:
    try:
        if name == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                content = file.read()
    except OSError as error:
        raise FanpulseError(f"--file {name}: cannot be read ({error.strerror})") from None
    lines = [
        read_line(text, f"{name}:{number}", number)
        for number, text in enumerate(content.split(b"\n"), start=1)
        if text.strip()
    ]
    if not lines:
        raise FanpulseError(f"--file {name}: there is nothing in it")
    return lines


def _warn_of_late(here: Settings, late: list[Mended]) -> None:
    if not late:
        return
    zone = ZoneInfo(here.time_zone)
    days = sorted(datetime.fromtimestamp(each.event_time / 1000, zone).date() for each in late)
    typer.echo(
        f"fanpulse: {len(late):,} of them are beyond the late horizon: stored, but not in the figures until you run, "
        f"once a worker has read them: fanpulse repair --from {days[0]} --to {days[-1]}",
        err=True,
    )


def _since(text: str | None, here: Settings) -> int | None:
    """UTC ms of a duration before now, or of a local day or time."""
    if text is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?\s*(s|m|h|d)", text.strip()):
        return max(int(_now() - duration(text) * 1000), 0)
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(here.time_zone))
        return max(int(moment.timestamp() * 1000), 0)
    except (ValueError, OverflowError):
        raise FanpulseError(f"--since {text}: write a duration such as 2h or 3d, or a day: 2026-01-31") from None


@contextlib.contextmanager
def _client(here: Settings, role: Role) -> Iterator[Client]:
    with contextlib.closing(clickhouse_client(here, role, timeout=600)) as client:
        yield client


def _table(header: list[str], rows: list[list[str]]) -> None:
    """Plain columns on a pipe, a table on a terminal."""
    if not _on_terminal():
        print_table(header, rows)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name in ("LETTERS", "SENT AGAIN") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _gone(letter: Letter) -> str:
    return (
        f"{letter.address}: Kafka has it no more, and the table only the first {len(letter.value or b''):,} of "
        f"{letter.size:,} bytes"
    )


def _said(made: Replay) -> str:
    return f"as {made.to} at {_moment(made.at)}, {_how(made.changed)}"


def _how(changed: bool) -> str:
    return "mended" if changed else "as it was"


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _decoded(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _ascii(value: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in value)


def _now() -> int:
    return time.time_ns() // 1_000_000
