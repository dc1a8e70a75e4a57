"""``fanpulse generate``."""

import re
import sys
import threading
import time
from collections import defaultdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fanpulse.context import print_json, settings
from fanpulse.interrupt import stopping
from generators.config import DEFAULT_CREATORS, DEFAULT_DAYS, DEFAULT_FANS
from generators.market import campaigns
from generators.produce import Produced, backfill, live
from generators.progress import keep_world, open_world
from generators.weather import LABELS
from generators.world import World
from infra.errors import FanpulseError
from infra.topics import ensure_topics
from schemas.written import document

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LINE_EVERY_S = 5.0


def duration(text: str) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``5m``, ``1.5h``.

    Raises:
        FanpulseError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text.strip())
    if found is None or float(found[1]) <= 0:
        raise FanpulseError(f"{text!r} is no duration; write for example 60s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]


def generate(
    ctx: typer.Context,
    days: Annotated[
        int | None, typer.Option(min=1, max=400, help=f"Days of history, in a new home. [default: {DEFAULT_DAYS}]")
    ] = None,
    fans: Annotated[
        int | None, typer.Option(min=10, help=f"Fans within 45 days, in a new home. [default: {DEFAULT_FANS}]")
    ] = None,
    creators: Annotated[
        int | None, typer.Option(min=2, help=f"Creators, in a new home. [default: {DEFAULT_CREATORS}]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the world, in a new home. [default: 7]")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Live events/s on average, instead of the world's natural rate.")
    ] = None,
    go_live: Annotated[bool, typer.Option("--live/--no-live", help="Go on live after the history.")] = True,
    for_: Annotated[
        str | None, typer.Option("--for", help="Stop after so long live: 60s, 5m, 2h. [default: at Ctrl-C]")
    ] = None,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of events sent twice.")] = 0.0,
    late: Annotated[float, typer.Option(min=0, max=1, help="Share of events sent late, by 5 s to 6 h.")] = 0.0,
    malformed: Annotated[float, typer.Option(min=0, max=1, help="Share of broken records added.")] = 0.0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that send the history.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, nothing else.")] = False,
    list_campaigns: Annotated[
        bool, typer.Option("--campaigns", help="Print the world's campaigns as they begin, and send nothing.")
    ] = False,
) -> None:
    """Send a made-up world's events to Kafka: its history, then live as it happens.

    The home remembers the world and how far it was sent: a second run goes on there, and fills the gap first.
    Ctrl-C sends what is under way and stops. Live, its advertisements answer to what budget rules do: to budgets,
    bids and pauses. --campaigns says how they begin, with --rate for a world of that rate.

    \b
    Examples:
      fanpulse generate
      fanpulse generate --days 7 --fans 2000 --creators 20 --no-live
      fanpulse generate --rate 5000 --for 60s
      fanpulse generate --duplicates 0.01 --late 0.02 --malformed 0.001 --for 5m --json
      fanpulse generate --campaigns > campaigns.yaml
    """
    here = settings(ctx)
    seconds = duration(for_) if for_ is not None else None
    config = open_world(
        here,
        _now_ms(),
        seed=seed,
        fans=fans,
        creators=creators,
        days=days,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
    )
    if list_campaigns:
        # The next run sends this very world.
        keep_world(here.home, config)
        typer.echo(document("campaigns", *campaigns(World(config), rate)), nl=False)
        return
    show = _Silent() if as_json else _Bar() if sys.stdout.isatty() else _Lines()
    stop = threading.Event()
    spent: dict[str, float] = {}
    parts: list[Produced] = []
    interrupted = False
    ensure_topics(here)
    end_ms = _now_ms()
    show.say(
        f"world: seed {config.seed}, {config.fans} fans, {config.creators} creators, "
        f"about {World(config).natural_rate:.2f} events/s on average"
    )
    begun = time.monotonic()
    try:
        with show, stopping(stop):
            history = backfill(here, config, config.start_ms, end_ms, processes, show.history, stop)
        parts.append(history)
        spent["history"] = time.monotonic() - begun
        show.say(f"history: {_rate(history, spent['history'])}")
        if go_live and not stop.is_set():
            if rate is not None:
                show.say(f"live: {rate:g} events/s on average instead of the natural rate (--rate)")
            begun = time.monotonic()
            timer = threading.Timer(seconds, stop.set) if seconds is not None else None
            if timer is not None:
                timer.daemon = True
                timer.start()
            with show, stopping(stop) as asked:
                now = live(here, config, stop, _now_ms, show.live, rate)
            parts.append(now)
            if timer is not None:
                timer.cancel()
            spent["live"] = time.monotonic() - begun
            interrupted = asked.is_set() and seconds is not None
            show.say(f"live: {_rate(now, spent['live'])}")
        else:
            interrupted = stop.is_set()
    finally:
        show.end()
    if as_json:
        print_json(summary(parts, spent))
    if interrupted:
        raise typer.Exit(130)


def summary(parts: list[Produced], spent: dict[str, float]) -> dict[str, Any]:
    """What ``--json`` prints: records by topic and kind, by label, seconds and records/s of each phase."""
    kinds: dict[str, dict[str, int]] = defaultdict(dict)
    labels: dict[str, int] = {}
    for part in parts:
        for (topic, kind), count in sorted(part.kinds.items()):
            kinds[topic][kind] = kinds[topic].get(kind, 0) + count
        for label, count in part.labels.items():
            labels[label] = labels.get(label, 0) + count
    records = sum(part.records for part in parts)
    seconds = sum(spent.values())
    return {
        "records": records,
        "valid": sum(labels.get(label, 0) for label in LABELS[:3]),
        "late": labels.get("late", 0),
        "duplicates": labels.get("duplicate", 0),
        "malformed": {label: labels[label] for label in LABELS[3:] if label in labels},
        "topics": kinds,
        "until_ms": parts[-1].until_ms if parts else {},
        "seconds": {phase: round(value, 3) for phase, value in spent.items()},
        "records_per_second": round(records / seconds, 1) if seconds > 0 else 0.0,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _rate(produced: Produced, seconds: float) -> str:
    return f"{produced.records:,} records in {seconds:.1f} s, {produced.records / max(seconds, 1e-9):,.0f}/s"


class _Silent:
    """Shows nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        """A line about what is done."""

    def history(self, produced: Produced) -> None:
        """Progress of the history."""

    def live(self, produced: Produced) -> None:
        """Progress of the live part."""

    def end(self) -> None:
        """Nothing more is shown."""


class _Lines(_Silent):
    """Plain lines, one every few seconds: for pipes and log files."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        print(line, flush=True)

    def history(self, produced: Produced) -> None:
        if self._due() or produced.fraction >= 1:
            self.say(f"history {produced.fraction:6.1%}  {produced.records:,} records")

    def live(self, produced: Produced) -> None:
        if self._due():
            self.say(f"live  {produced.records:,} records")

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return False
        self._last = now
        return True


class _Bar(_Silent):
    """A progress bar on a terminal."""

    def __init__(self) -> None:
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[records]:,} records"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("history", total=1.0, records=0)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False)

    def history(self, produced: Produced) -> None:
        self._progress.update(self._task, completed=produced.fraction, records=produced.records)

    def live(self, produced: Produced) -> None:
        self._progress.update(self._task, description="live", total=None, records=produced.records)

    def end(self) -> None:
        self._progress.stop()
