"""``fanpulse demo``: the main job, from nothing to live figures."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

import generators
from dashboards.preview.server import serve
from fanpulse.boards import preview_port
from fanpulse.context import print_json, settings
from fanpulse.drill import Drill, Failed, Kind, Scene
from fanpulse.figures import Rate, read_board, read_health
from fanpulse.generate import duration
from fanpulse.interrupt import stopping
from fanpulse.outage_drill import OutageDrill
from fanpulse.screen import Step, View, line, lines, picture
from fanpulse.worker import given_up, worker_service
from fanpulse.world_drill import WorldDrill
from generators.config import DEFAULT_CREATORS, DEFAULT_DAYS, DEFAULT_FANS
from generators.market import campaigns
from generators.produce import Produced, backfill, live
from generators.progress import load_progress, open_world
from generators.world import World
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.stack import Stack
from infra.topics import end_offsets, ensure_topics
from pipeline import checkpoint as checkpoints
from pipeline.app import AGENTS
from pipeline.campaign_log import CampaignChange, RuleChange
from pipeline.control import send
from pipeline.migrate import migrate
from pipeline.verify import verify
from schemas.rule_files import read_rules
from schemas.topics import SOURCES

RULES = Path(generators.__file__).with_name("rules.yaml")
"""Rules of the made-up world."""
CREATORS_SHOWN = 12
DRAIN_S = 300.0
"""How long the end waits for workers to store what was sent, seconds without any progress."""


def demo(
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
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Live events/s on average instead of the natural rate: a load, not a comparison."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the world, in a new home. [default: 7]")] = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="End after so long live: 60s, 5m, 2h. [default: at Ctrl-C]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    incident: Annotated[
        Kind | None, typer.Option(help="Hold a drill: this goes wrong, the alert comes, and goes. It ends by itself.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, nothing else.")] = False,
) -> None:
    """Show fanpulse at work: real Kafka, real ClickHouse, a made-up world of creators and fans.

    Starts what is needed on this machine, sends the world's history, goes on live at the same rate, and shows the
    rolling figures as they change, here and on boards in a browser: the address is on the screen. Ctrl-C stops
    everything it started; a second run goes on where it was.

    With --incident it is a drill: docs/drills.md. It exits 1 if an alert did not come or did not go.

    \b
    Examples:
      fanpulse demo
      fanpulse demo --home ./trial --days 7 --fans 2000
      fanpulse demo --rate 2000
      fanpulse demo --for 60s --json
      fanpulse demo --incident cpm-spike --home ./drill
    """
    here = settings(ctx)
    drill = None if incident is None else _drill(incident)
    if drill is not None and (for_ is not None or (rate is not None and drill.rate is None)):
        raise FanpulseError(f"{incident} takes no {'--for' if for_ is not None else '--rate'}: leave it out")
    run = Demo(here, workers, rate, duration(for_) if for_ is not None else None, drill)
    options = {"seed": seed, "fans": fans, "creators": creators, "days": days}
    with stopping(run.stop) as asked:
        shown = _shown(run, as_json)
        with shown:
            result = run.run(options)
    if as_json:
        print_json(result)
    else:
        _summary(result)
    if run.interrupted_early or (drill is not None and asked.is_set()):
        raise typer.Exit(130)
    if drill is not None and result["drill"]["failed"]:
        raise FanpulseError(result["drill"]["failed"], exit_code=1)


def _drill(incident: Kind) -> Drill:
    if incident == "cpm-spike" or incident == "churn-wave":
        return WorldDrill(incident)
    return OutageDrill(incident)


class Demo:
    """One run. ``view`` is what the screen shows; ``stop`` ends the phase under way, and with it the run.

    Args:
        here: the home.
        workers: how many processes.
        rate: live events/s; None: the natural rate.
        seconds: how long it is live; None: until it is stopped, or the drill is over.
        drill: what goes wrong meanwhile.

    Raises:
        FanpulseError: the drill cannot be held in this home.
    """

    def __init__(
        self,
        here: Settings,
        workers: int = 1,
        rate: float | None = None,
        seconds: float | None = None,
        drill: Drill | None = None,
    ) -> None:
        if drill is not None:
            drill.refuse(here)
        self.settings = here
        self.view = View(zone=here.time_zone, drill=drill.kind if drill is not None else "")
        self._failure: FanpulseError | None = None
        self.stop = threading.Event()
        self.interrupted_early = False
        self._workers = workers
        self._worker = worker_service(here, workers)
        self._rate = rate
        self._seconds = seconds
        self._drill = drill
        self._drill_failed: Exception | None = None
        self._drill_over = False
        self._steps: list[Step] = []
        if drill is not None:
            self._worker = replace(self._worker, env=drill.changed(here))
            self._rate = drill.rate if rate is None else rate
        self._stored = Rate()
        self._spent: dict[str, float] = {}

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        """Everything, in order; returns what ``--json`` prints."""
        here, stack, drill = self.settings, Stack(self.settings), self._drill
        worker = self._worker
        if drill is not None and load_progress(here.home) is None:
            options = {name: drill.world.get(name) if value is None else value for name, value in options.items()}
        config = open_world(here, _now_ms(), **options)
        if drill is not None:
            config = drill.prepare(config, _now_ms())
        ran = {row.service for row in stack.status() if row.state == "running"}
        worked = worker.status().state == "running"
        pages = contextlib.ExitStack()
        try:
            with self._phase("starting Kafka and ClickHouse", "start"):
                stack.up()
            with self._phase("creating topics and tables", "prepare"):
                ensure_topics(here)
                migrate(here)
                before, self._taken_before = self._counts(), self._taken()
                self.view = replace(self.view, boards=pages.enter_context(self._serve()))
            with self._phase("starting the worker", "worker"):
                worker.start()
            watching = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(watching,), daemon=True)
            watcher.start()
            try:
                sent = self._send(config)
                if self._failure is not None:
                    raise self._failure
                with self._phase("storing what was sent", "drain"):
                    lag = self._drain()
                self.interrupted_early = self.stop.is_set() and self._seconds is not None and not self._timed_out
                if drill is not None and self._drill_over:
                    with self._phase("comparing every figure with its definition", "verify"):
                        self._verify(drill, before)
            finally:
                watching.set()
                watcher.join()
            return self._result(config, sent, before, lag)
        finally:
            self.view = replace(self.view, phase="stopping", done=None, boards="")
            pages.close()
            if not worked:
                worker.stop()
            if not ran & {"kafka", "clickhouse"}:
                stack.down()

    def _serve(self) -> contextlib.AbstractContextManager[str]:
        """The boards, and a bell."""
        faster = 1 if self._drill is None else self._drill.faster
        return serve(self.settings, preview_port(self.settings), faster=faster)

    def _send(self, config: Any) -> list[Produced]:
        here, world = self.settings, World(config)
        natural = world.natural_rate
        note = (
            f"{config.creators} creators, {config.fans:,} fans, seed {config.seed}: {natural:.2f} events/s on average"
        )
        notes: tuple[str, ...] = (note, f"home {here.home}   analyst: fanpulse sql 'SELECT * FROM engagement_rolling'")
        if self._rate is not None:
            notes += (
                f"live at {self._rate:g} events/s instead of the natural {natural:.2f} (--rate): "
                "comparisons with yesterday show the load, not the world",
            )
        self.view = replace(self.view, notes=notes)
        drill = self._drill
        with self._phase("history", "history"):
            self.view = replace(self.view, done=0.0)
            until = _now_ms() if drill is None else drill.begin_ms(_now_ms())
            history = backfill(here, config, config.start_ms, until, 2, self._progress, self.stop)
        sent = [history]
        self._timed_out = False
        if not self.stop.is_set():
            with self._phase("telling campaigns and budget rules", "rules"):
                self._tell_rules(world)
        if not self.stop.is_set():
            with self._phase("live", "live"):
                self._before = history.records
                self.view = replace(self.view, done=None)
                timer = threading.Timer(self._seconds, self._time_out) if self._seconds is not None else None
                if timer is not None:
                    timer.daemon = True
                    timer.start()
                with self._held():
                    sent += self._live(config)
                if timer is not None:
                    timer.cancel()
        return sent

    def _live(self, config: Any) -> list[Produced]:
        """What is sent live. Where a drill takes Kafka away for longer than a sender waits for it, another one begins
        where that one was: what is sent twice counts once."""
        here, drill = self.settings, self._drill
        if drill is None:
            return [live(here, config, self.stop, _now_ms, self._live_progress, self._rate)]
        told = False
        while True:
            try:
                return [live(here, config, self.stop, drill.clock, self._live_progress, self._rate)]
            except FanpulseError:
                if drill.kind != "broker-down":
                    raise
                if not told:
                    self._tell(drill.step("sender", "the sender has given up waiting for Kafka, and begins again"))
                told = True
            if self.stop.wait(1.0):
                return []

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """The drill, if there is one, is held meanwhile; its end is the end of the run."""
        drill = self._drill
        if drill is None:
            yield
            return
        if changed := drill.changed(self.settings):
            named = [f"{name}={value}" for name, value in changed.items()]
            self._tell(drill.step("settings", "for this drill the worker has other settings:", named))
        scene = Scene(self.settings, self.view.boards, self._tell, self.stop)
        holding = threading.Thread(target=self._hold, args=(drill, scene))
        holding.start()
        try:
            yield
        finally:
            self.stop.set()
            holding.join()

    def _hold(self, drill: Drill, scene: Scene) -> None:
        try:
            drill.hold(scene)
            self._drill_over = not self.stop.is_set()
        except Exception as error:
            self._drill_failed, self._drill_over = error, True
            said = error.message if isinstance(error, FanpulseError) else f"{type(error).__name__}: {error}"
            self._tell(drill.step("failed", said))
        finally:
            self.stop.set()

    def _tell(self, step: Step) -> None:
        self._steps.append(step)
        self.view = replace(self.view, steps=tuple(self._steps))

    def _verify(self, drill: Drill, before: dict[str, int]) -> None:
        """Sees that nothing that Kafka took was lost, and that every figure is right."""
        now = self._counts()
        stored = sum(now[name] - before[name] for name in ("accepted", "rejected"))
        wrong = [each.name for each in verify(self.settings) if each.differ]
        sent = self._taken() - self._taken_before
        if stored != sent:
            wrong.append(f"{sent:,} records were sent, {stored:,} are stored")
        if wrong:
            self._drill_failed = Failed(f"not as it should be: {', '.join(wrong)}")
            self._tell(drill.step("failed", str(self._drill_failed)))
        else:
            self._tell(drill.step("stored", f"all {stored:,} records that were sent are stored; every figure is right"))

    def _taken(self) -> int:
        """How many records Kafka has ever had."""
        return sum(end_offsets(self.settings).values())

    def _tell_rules(self, world: World) -> None:
        """Puts rules in force for the world's campaigns, in a new home; they hold from where its history ends."""
        client = clickhouse_client(self.settings)
        try:
            told = client.query("SELECT count() FROM campaign_changes").result_rows[0][0]
        finally:
            client.close()
        if told:
            return
        self._drain()
        rules = read_rules(RULES, self.settings.time_zone)
        database = self.settings.database
        send(self.settings, CampaignChange(database, "demo", tuple(campaigns(world, self._rate))))
        send(self.settings, RuleChange(database, "demo", rules))

    def _time_out(self) -> None:
        self._timed_out = True
        self.stop.set()

    def _progress(self, produced: Produced) -> None:
        self.view = replace(self.view, done=produced.fraction, sent=produced.records)

    def _live_progress(self, produced: Produced) -> None:
        self.view = replace(self.view, sent=self._before + produced.records)

    def _watch(self, ended: threading.Event) -> None:
        """Keeps the view up to date until told to end."""
        client = clickhouse_client(self.settings, "analyst")
        looked = 0.0
        while not ended.wait(0.5):
            health = read_health(self.settings, range(self._workers))
            now = time.time()
            # Sums over some of the workers would be wrong figures.
            rate = self._stored.add(health.records) if health.workers == self._workers else None
            view = replace(self.view, health=health, rate=rate, now=now)
            if self._failure is None and self._worker.status().state != "running":
                self._failure = given_up(self.settings)
                self.stop.set()
            if health.complete is not None and time.monotonic() - looked > 2.0:
                # During the history, and what a drill plays, the figures are those of the time that is reached.
                live = self.view.done is None and self._drill is None
                at = now if live else min(now, health.complete)
                with contextlib.suppress(Exception):
                    view = replace(view, board=read_board(client, at, CREATORS_SHOWN))
                looked = time.monotonic()
            # What others have changed meanwhile stays changed.
            last = self.view
            self.view = replace(view, phase=last.phase, done=last.done, sent=last.sent, steps=tuple(self._steps))
        client.close()

    def _drain(self) -> int:
        """Waits until every agent has stored all that Kafka has; returns the lag, 0."""
        ends = end_offsets(self.settings)
        client = clickhouse_client(self.settings)
        best, since = math.inf, time.monotonic()
        try:
            while True:
                lag = _lag(checkpoints.read(client), ends)
                if lag == 0:
                    return 0
                if self._failure is not None:
                    raise self._failure
                if lag < best:
                    best, since = lag, time.monotonic()
                if time.monotonic() - since > DRAIN_S:
                    raise FanpulseError(
                        f"{lag:,} records are sent but not stored, and nothing moves: see "
                        f"{self.settings.home / 'logs' / 'worker.log'}",
                        exit_code=1,
                    )
                time.sleep(0.2)
        finally:
            client.close()

    def _counts(self) -> dict[str, int]:
        client = clickhouse_client(self.settings)
        try:
            raw = " UNION ALL ".join(
                f"SELECT count() AS accepted, sum(duplicate) AS duplicates, sum(late) AS late FROM raw_{topic} FINAL"
                for topic in SOURCES
            )
            (accepted, duplicates, late), *_ = client.query(
                f"SELECT sum(accepted), sum(duplicates), sum(late) FROM ({raw})"
            ).result_rows
            refused = client.query("SELECT count() FROM dead_letters FINAL").result_rows[0][0]
        finally:
            client.close()
        return {"accepted": accepted, "rejected": refused, "duplicates": duplicates, "late": late}

    def _rows(self) -> dict[str, int]:
        client = clickhouse_client(self.settings)
        try:
            tables = client.query(
                "SELECT name, if(engine = 'MergeTree', '', ' FINAL') FROM system.tables "
                "WHERE database = currentDatabase() AND engine LIKE '%MergeTree' "
                "AND name NOT LIKE 'scratch%' ORDER BY name"
            ).result_rows
            return {
                name: int(client.query(f"SELECT count() FROM {name}{final}").result_rows[0][0])
                for name, final in tables
            }
        finally:
            client.close()

    def _result(self, config: Any, sent: list[Produced], before: dict[str, int], lag: int) -> dict[str, Any]:
        counts = self._counts()
        return {
            "events": {"generated": sum(each.records for each in sent)}
            | {name: counts[name] - before[name] for name in counts},
            "rows": self._rows(),
            "lag": lag,
            "seconds": {name: round(spent, 2) for name, spent in self._spent.items()},
            "world": {
                "seed": config.seed,
                "fans": config.fans,
                "creators": config.creators,
                "natural_rate": round(World(config).natural_rate, 3),
                "rate": self._rate,
            },
            "home": str(self.settings.home),
            **({"drill": self._told(self._drill)} if self._drill is not None else {}),
        }

    def _told(self, drill: Drill) -> dict[str, Any]:
        """How the drill went; ``seconds`` are those of the wall clock."""
        times = {
            name: [step.at for step in self._steps if step.name == name]
            for name in ("incident", "opened", "over", "resolved")
        }
        error = self._drill_failed
        return {
            "incident": drill.kind,
            "failed": None if error is None else getattr(error, "message", str(error)),
            "settings": drill.changed(self.settings),
            "seconds": {
                "incident_to_alert": _between(times["incident"][:1], times["opened"][:1]),
                "over_to_resolved": _between(times["over"][:1], times["resolved"][-1:]),
            },
            "steps": [asdict(step) for step in self._steps],
        }

    @contextlib.contextmanager
    def _phase(self, shown: str, name: str) -> Iterator[None]:
        self.view = replace(self.view, phase=shown)
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + time.monotonic() - began


def _between(begin: Sequence[float], end: Sequence[float]) -> float | None:
    return round(end[0] - begin[0], 1) if begin and end else None


def _lag(stored: list[checkpoints.Checkpoint], ends: dict[tuple[str, int], int]) -> int:
    """Records that some agent has not stored yet, summed over partitions."""
    own = {(c.agent, c.topic, c.partition): c.next_offset for c in stored}
    return sum(
        max(end - min(own.get((agent.name, topic, partition), 0) for agent in AGENTS if topic in agent.topics), 0)
        for (topic, partition), end in ends.items()
    )


def _summary(result: dict[str, Any]) -> None:
    events, seconds = result["events"], result["seconds"]
    typer.echo(
        f"{events['generated']:,} events sent: {events['accepted']:,} accepted, {events['rejected']:,} refused, "
        f"{events['duplicates']:,} repeats, {events['late']:,} late; lag {result['lag']}"
    )
    typer.echo("seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()))
    if drill := result.get("drill"):
        alert, resolved = drill["seconds"]["incident_to_alert"], drill["seconds"]["over_to_resolved"]
        if alert is not None and resolved is not None:
            times = f"alert {alert:.0f} s after it began, resolved {resolved:.0f} s after it was over"
            typer.echo(f"drill {drill['incident']}: {times}")
        typer.echo(f"everything is stored in {result['home']}; fanpulse demo --home {result['home']} goes on from here")
    else:
        typer.echo(f"everything is stored in {result['home']}; run the same command again to go on from here")


def _shown(run: Demo, as_json: bool) -> Any:
    if as_json:
        return contextlib.nullcontext()
    if sys.stdout.isatty():
        return _screen(run)
    return _lines(run)


@contextlib.contextmanager
def _screen(run: Demo) -> Iterator[None]:
    """A picture that changes in place."""
    with Live(get_renderable=lambda: picture(run.view), console=Console(), refresh_per_second=4, transient=False):
        yield


@contextlib.contextmanager
def _lines(run: Demo, every: float = 5.0) -> Iterator[None]:
    """A plain line every few seconds, and whenever another phase begins."""
    ended = threading.Event()

    def write() -> None:
        phase, last, boards, told, over = "", 0.0, "", 0, False
        while not over:
            over, view = ended.wait(0.1), run.view
            for step in view.steps[told:]:
                print("\n".join(lines(step, view.zone)), flush=True)
            told = len(view.steps)
            if view.boards and view.boards != boards:
                print(f"boards {view.boards}", flush=True)
                boards = view.boards
            if view.phase != phase or time.monotonic() - last >= every:
                print(line(view), flush=True)
                phase, last = view.phase, time.monotonic()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
