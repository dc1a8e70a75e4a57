"""``fanpulse load``."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fanpulse.context import print_json, settings
from fanpulse.interrupt import stopping
from infra.errors import FanpulseError
from pipeline.loading.load import Job, Loaded, Report
from pipeline.loading.load import load as run
from pipeline.loading.mapping import parse

_LINE_EVERY_S = 5.0
Topic = Literal["interactions", "gifts", "orders", "ad_events"]
FileFormat = Literal["jsonl", "csv", "parquet"]


def load(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(help="The log: .jsonl, .csv (also .gz, .zst) or .parquet; - is standard input.")
    ],
    topic: Annotated[Topic, typer.Option(help="What the rows are.", show_default=False)],
    form: Annotated[
        FileFormat | None, typer.Option("--format", help="Format. [default: by the file's name; of -: jsonl]")
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN[:UNIT]", help="Column of a field, and its unit. May be repeated."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="The same value in all rows. May be repeated."),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option("--time-zone", help="Of times without an offset. [default: the setting FANPULSE_TIME_ZONE]"),
    ] = None,
    sort: Annotated[
        bool, typer.Option("--sort/--no-sort", help="Sort by event time; not needed if the file is sorted.")
    ] = True,
    rejects: Annotated[
        Path | None, typer.Option(help="File for refused rows, a line of JSON each: row, reason, detail.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, nothing else.")] = False,
) -> None:
    """Send a file of your own events into the pipeline.

    Columns named like a field are taken as they are; --map names the others, --set gives a field one value in all
    rows, and columns that are no field are ignored. Fields and kinds: schemas/README.md.

    \b
    What is converted:
      time    milliseconds since 1970; with :s seconds; ISO 8601, without an offset in --time-zone; Parquet timestamps
      money   micros (millionths of a yuan); with :yuan or :fen in those, exactly; beyond a micro rounded half to even
      *_ms    milliseconds; with :s seconds
      ids     integers become strings; empty strings and cells are no value

    Every row is judged as a worker would, before it is sent. Rows without event_id get one made of what they say and
    their place in the file: loading the same file again adds nothing.
    Rows older than what a live pipeline still takes are folded in at the end by a repair of their days; this needs a
    running worker. Exits 1 if a row was refused, or could not be repaired.

    \b
    Examples:
      fanpulse load events.jsonl --topic interactions
      fanpulse load comments.csv.gz --topic interactions --set kind=comment --set platform=douyin \\
          --map event_time=time --map fan_id=user_id --map text=content
      fanpulse load orders.parquet --topic orders --map amount_micros=amount:yuan --map event_time=paid_at
      zcat ads.gz | fanpulse load - --topic ad_events --map event_time=ts:s --rejects refused.jsonl
    """
    here = settings(ctx)
    mapping = parse(topic, maps or [], sets or [], _zone(zone or here.time_zone))
    stop = threading.Event()
    with stopping(stop), _progress(as_json) as report:
        done = run(here, Job(file, mapping, form, sort, rejects), report, stop)
    if as_json:
        print_json(summary(done))
    else:
        _print(done)
    if done.interrupted:
        raise typer.Exit(130)
    if done.refused or _unrepaired(done):
        raise typer.Exit(1)


def summary(done: Loaded) -> dict[str, Any]:
    """What ``--json`` prints."""
    spent = sum(done.seconds.get(phase, 0.0) for phase in ("read", "send"))
    return {
        "topic": done.topic,
        "rows": done.rows,
        "sent": done.sent,
        "refused": dict(done.refused.most_common()),
        "examples": [{"row": row.row, "reason": row.reason, "detail": row.detail} for row in done.examples],
        "ignored_columns": done.ignored_columns,
        "late": done.late,
        "late_days": [day.isoformat() for day in done.days] if done.days else None,
        "repaired": None if done.repaired is None else done.repaired.events[done.topic],
        "repeats": None if done.repaired is None else done.repaired.repeats[done.topic],
        "interrupted": done.interrupted,
        "seconds": {phase: round(value, 3) for phase, value in done.seconds.items()},
        "rows_per_second": round(done.rows / spent, 1) if spent > 0 else 0.0,
    }


def _unrepaired(done: Loaded) -> bool:
    return done.late > 0 and done.repaired is None


def _print(done: Loaded) -> None:
    spent = sum(done.seconds.get(phase, 0.0) for phase in ("read", "send"))
    typer.echo(f"{done.sent:,} of {done.rows:,} rows sent to {done.topic} in {spent:.1f} s")
    if done.ignored_columns:
        typer.echo(f"ignored columns: {', '.join(done.ignored_columns)}")
    if done.refused:
        total = sum(done.refused.values())
        typer.echo(
            f"{total:,} rows refused: " + ", ".join(f"{reason} {n:,}" for reason, n in done.refused.most_common())
        )
        for row in done.examples:
            typer.echo(f"  row {row.row}: {row.reason}: {row.detail}")
        if total > len(done.examples):
            typer.echo(f"  and {total - len(done.examples):,} more; --rejects FILE writes them all")
    if done.interrupted:
        typer.echo("stopped before the end; the same command again sends the rest, and what was sent counts once")
        return
    if done.repaired is not None and done.days is not None:
        first, last = done.days
        typer.echo(
            f"{done.late:,} rows were too late for the stream: {first} to {last} are repaired, "
            f"with {done.repaired.events[done.topic]:,} late events and {done.repaired.repeats[done.topic]:,} repeats"
        )
    elif _unrepaired(done) and done.days is not None:
        first, last = done.days
        typer.echo(
            f"fanpulse: {done.late:,} rows are too late for the stream, and no worker reads them: start one (fanpulse "
            f"worker), wait until it has read them, then: fanpulse repair --from {first} --to {last}",
            err=True,
        )
    elif done.unread:
        typer.echo("no worker has read them yet; start one: fanpulse worker")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise FanpulseError(
            f"--time-zone {name}: there is no such time zone; write for example Asia/Shanghai"
        ) from None


@contextlib.contextmanager
def _progress(silent: bool) -> Iterator[Report]:
    """A bar on a terminal, a line every few seconds elsewhere; on standard error."""
    if silent:
        yield lambda doing, fraction, rows: None
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=1.0, rows=0)
        yield lambda doing, fraction, rows: bar.update(
            task, description=doing, total=None if fraction is None else 1.0, completed=fraction or 0.0, rows=rows
        )


def _lines() -> Report:
    last = time.monotonic()

    def line(doing: str, fraction: float | None, rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            share = "" if fraction is None else f"{fraction:7.1%}"
            print(f"{doing}{share}  {rows:,} rows", file=sys.stderr, flush=True)

    return line
