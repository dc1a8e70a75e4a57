"""From the world into Kafka: history by several processes, then live at the world's own rate."""

import contextlib
import gc
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np

from generators.actions import Actions
from generators.columns import KIND_NAMES
from generators.config import WorldConfig
from generators.market import Change, Market
from generators.population import NEVER
from generators.progress import Progress, load_progress, save_progress
from generators.weather import LABELS
from generators.world import World
from infra.errors import FanpulseError
from infra.home import Home
from infra.outbox import Outbox, check_topics
from infra.settings import Settings

CHUNK_MS = 6 * 3_600_000
"""History goes out in pieces of so many ms of a partition; progress is saved between them."""
TICK_MS = 1_000
"""Live events go out at least this often, ms."""
_BACKFILL_OPTIONS = {"batch_size": 1024 * 1024, "linger_ms": 100}
_LIVE_OPTIONS = {"batch_size": 1024 * 1024, "linger_ms": 5}


class StopFlag(Protocol):
    """What tells ``live`` and ``backfill`` to stop: a ``threading.Event`` will do."""

    def is_set(self) -> bool:
        """Whether to stop now."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits so many seconds or until it is set."""
        ...


@dataclass
class Produced:
    """What has been sent, and how far.

    ``kinds``: records that a contract accepts (repeats and late ones too), by (topic, kind). ``labels``: all records,
    by label of ``weather.LABELS``. ``until_ms``: of each partition, UTC ms. ``start_ms``, ``end_ms``: what was asked.
    """

    start_ms: int
    end_ms: int
    until_ms: dict[int, int]
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """Records sent."""
        return self.labels.total()

    @property
    def fraction(self) -> float:
        """Part of the time asked for that is done, 0 to 1."""
        span = max(1, (self.end_ms - self.start_ms) * len(self.until_ms))
        done = sum(min(until, self.end_ms) - self.start_ms for until in self.until_ms.values())
        return min(1.0, max(0.0, done / span))


OnProgress = Callable[[Produced], None]


def remaining(settings: Settings, config: WorldConfig, start_ms: int) -> dict[int, int]:
    """Where each partition goes on, UTC ms: where the home's world has got to, else ``start_ms``."""
    known = load_progress(settings.home)
    return {
        partition: max(start_ms, known.until_ms.get(partition, start_ms)) if known is not None else start_ms
        for partition in range(config.partitions)
    }


def _known(settings: Settings) -> tuple[Change, ...]:
    """What has been done in the market of the home's world so far."""
    known = load_progress(settings.home)
    return known.changes if known is not None else ()


def _new(known: Sequence[Change], found: Sequence[Change], span_ms: tuple[int, int], scale: float) -> list[Change]:
    """Changes that are not known yet, each once, none before what has been sent nor after what time it is: ``span_ms``;
    with budgets of one of ``scale``."""
    reached, now = span_ms
    ids = {change.id for change in known}
    new: dict[str, Change] = {}
    for change in _scaled(found, 1 / scale):
        if change.id not in ids:
            new.setdefault(change.id, change.model_copy(update={"at_ms": max(min(change.at_ms, now), reached)}))
    return list(new.values())


def _scaled(changes: Sequence[Change], factor: float) -> list[Change]:
    """Changes with budgets so many times as large."""
    return [
        change.model_copy(update={"after": round(change.after * factor)})
        if change.kind == "budget" and change.after is not None
        else change
        for change in changes
    ]


def backfill(
    settings: Settings,
    config: WorldConfig,
    start_ms: int,
    end_ms: int,
    processes: int = 2,
    on_progress: OnProgress | None = None,
    stop_event: StopFlag | None = None,
) -> Produced:
    """Sends the history [start_ms, end_ms): partitions are shared out to processes, each goes through time in order.

    Goes on where an earlier call for this home stopped. Returns early, all flushed, if ``stop_event`` is set.

    Args:
        settings: home and Kafka.
        config: the world.
        start_ms: begin of the history, UTC ms.
        end_ms: its end, UTC ms.
        processes: how many; at most one a partition is used.
        on_progress: called with what has been sent so far, about once per chunk.
        stop_event: set it to stop.

    Raises:
        FanpulseError: Kafka is away or refuses a record; what was flushed is remembered.
    """
    produced = Produced(start_ms, end_ms, remaining(settings, config, start_ms))
    open_ = [partition for partition, until in produced.until_ms.items() if until < end_ms]
    if not open_:
        return produced
    with Home(settings.home).exclusive("generator"):
        check_topics(settings, config.partitions)
        changes = _known(settings)
        crew = _Crew(settings, config, changes, produced.until_ms, end_ms, min(max(1, processes), len(open_)))
        try:
            for partition, until, kinds, labels in crew.reports(stop_event):
                produced.kinds.update(kinds)
                produced.labels.update(labels)
                produced.until_ms[partition] = until
                save_progress(settings.home, Progress(config=config, until_ms=produced.until_ms, changes=changes))
                if on_progress is not None:
                    on_progress(produced)
        finally:
            crew.end()
    return produced


def live(
    settings: Settings,
    config: WorldConfig,
    stop_event: StopFlag,
    clock: Callable[[], int],
    on_progress: OnProgress | None = None,
    rate: float | None = None,
) -> Produced:
    """Sends what happens as it happens, until ``stop_event`` is set; a gap since the last run goes out first.

    What budget rules do (topic ``budget_actions``) holds from the next events on.

    Args:
        settings: home and Kafka.
        config: the world, at its natural rate.
        stop_event: set it to stop; everything sent is flushed by then.
        clock: wall clock, UTC ms, or one that is behind and may run faster.
        on_progress: called after each tick with what has been sent so far.
        rate: events/s on an average day instead of the natural rate, from now on. Above it the world goes on and more
            of the same fans' life is added, below it only so much of it.

    Raises:
        FanpulseError: Kafka is away or refuses a record; what was flushed is remembered.
    """
    with Home(settings.home).exclusive("generator"), contextlib.closing(Actions(settings)) as actions:
        until = remaining(settings, config, config.start_ms)
        begin = clock()
        produced = Produced(min(until.values()), begin, until)
        check_topics(settings, config.partitions)
        changes = _known(settings)
        worlds = _worlds(config, begin, rate)
        scale = sum(each.part for each in worlds if each.to_ms == NEVER)
        for each in worlds:
            each.learn(changes)
        outbox = Outbox(settings, **_LIVE_OPTIONS)
        try:
            while not stop_event.is_set():
                now = clock()
                if new := _new(changes, actions.new(), (max(until.values()), now), scale):
                    changes = (*changes, *new)
                    for each in worlds:
                        each.learn(new)
                produced.end_ms = max(produced.end_ms, now)
                for partition, since in list(until.items()):
                    upto = min(now, since + CHUNK_MS)
                    if upto > since:
                        for each in worlds:
                            span = max(since, each.from_ms), min(upto, each.to_ms)
                            if span[0] < span[1]:
                                _count(produced, _send(each.world, each.market, outbox, partition, *span))
                        until[partition] = upto
                outbox.flush()
                save_progress(settings.home, Progress(config=config, until_ms=until, changes=changes))
                if on_progress is not None:
                    on_progress(produced)
                if min(until.values()) >= now:
                    stop_event.wait(max(0.0, (now + TICK_MS - clock()) / 1000))
        finally:
            outbox.close()
    return produced


@dataclass
class _Sent:
    """A world to send: its market, its rate over that of the home's world, and its time [from, to), UTC ms."""

    world: World
    market: Market
    part: float = 1.0
    from_ms: int = 0
    to_ms: int = NEVER

    def learn(self, changes: Sequence[Change]) -> None:
        """Takes changes, with budgets of the home's world, into the market."""
        self.market = self.market.after(_scaled(changes, self.part))


def _worlds(config: WorldConfig, begin_ms: int, rate: float | None) -> list[_Sent]:
    world = World(config)
    natural = world.natural_rate
    if rate is None or rate == natural:
        return [_Sent(world, world.market())]
    factor = rate / natural if rate < natural else (rate - natural) / natural
    more = World(WorldConfig.model_validate({**config.model_dump(), "start_ms": begin_ms, "rate_factor": factor}))
    return [
        _Sent(world, world.market(), to_ms=begin_ms if rate < natural else NEVER),
        _Sent(more, more.market(), factor, from_ms=begin_ms),
    ]


Counts = tuple[Counter[tuple[str, str]], Counter[str]]


def _send(world: World, market: Market, outbox: Outbox, partition: int, start_ms: int, end_ms: int) -> Counts:
    """Sends a partition's records of a time to all four topics in order of time."""
    kinds: Counter[tuple[str, str]] = Counter()
    labels: Counter[str] = Counter()
    made = world.records(partition, start_ms, end_ms, market)
    for topic, records in made.items():
        labels.update(records.counts())
        accepted = records.kinds[records.labels < LABELS.index("duplicate") + 1]
        found = np.bincount(accepted, minlength=len(KIND_NAMES[topic])).tolist()
        kinds.update({(topic, kind): n for kind, n in zip(KIND_NAMES[topic], found, strict=True) if n})
    # One run in order of time over all four topics.
    times = np.concatenate([records.sent_ms for records in made.values()])
    order = np.argsort(times, kind="stable").tolist()
    topics = [topic for topic, records in made.items() for _ in range(len(records))]
    keys = [key for records in made.values() for key in records.keys]
    values = [value for records in made.values() for value in records.values]
    outbox.send(partition, [topics[n] for n in order], [keys[n] for n in order], [values[n] for n in order])
    return kinds, labels


def _count(produced: Produced, counts: Counts) -> None:
    produced.kinds.update(counts[0])
    produced.labels.update(counts[1])


Report = tuple[int, int, Counter[tuple[str, str]], Counter[str]]


@dataclass(frozen=True)
class _Failure:
    message: str
    exit_code: int


class _Crew:
    """Processes that backfill. Each reports over a pipe of its own; a closed pipe without "done" is a failure."""

    def __init__(
        self,
        settings: Settings,
        config: WorldConfig,
        changes: Sequence[Change],
        until_ms: dict[int, int],
        end_ms: int,
        processes: int,
    ) -> None:
        # spawn: a forked child would share locks and sockets of whatever threads the caller has.
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pipes: dict[Connection, Any] = {}
        todo = sorted(partition for partition, until in until_ms.items() if until < end_ms)
        for number in range(processes):
            mine = {partition: until_ms[partition] for partition in todo[number::processes]}
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(settings, config, changes, mine, end_ms, self._stop, theirs, os.getpid()),
                name=f"backfill-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes[ours] = process

    def reports(self, stop_event: StopFlag | None) -> Iterator[Report]:
        """Reports as they come, until all processes are done."""
        open_ = set(self._pipes)
        while open_:
            if stop_event is not None and stop_event.is_set():
                self._stop.set()
            for pipe in wait(list(open_), timeout=0.2):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except EOFError:
                    raise FanpulseError(
                        f"{self._pipes[pipe].name} ended unexpectedly; run the same command again to go on", 1
                    ) from None
                if message == "done":
                    open_.discard(pipe)
                elif isinstance(message, _Failure):
                    raise FanpulseError(message.message, message.exit_code)
                else:
                    yield message

    def end(self) -> None:
        """Asks all processes to stop, and sees that they do."""
        self._stop.set()
        for pipe, process in self._pipes.items():
            # A process must not block on a pipe that nobody reads any more.
            pipe.close()
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def _work(
    settings: Settings,
    config: WorldConfig,
    changes: Sequence[Change],
    until_ms: dict[int, int],
    end_ms: int,
    stop: Any,
    pipe: Connection,
    parent: int,
) -> None:
    # The parent decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        world = World(config)
        outbox = Outbox(settings, **_BACKFILL_OPTIONS)
        # Tens of thousands of records are always on their way: collecting at the default pace costs a fifth of the CPU.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        try:
            market = world.market().after(changes)
            _chunks(world, market, outbox, until_ms, end_ms, lambda: stop.is_set() or os.getppid() != parent, pipe)
        finally:
            outbox.close()
        pipe.send("done")
    except BrokenPipeError:
        pass
    except FanpulseError as error:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(_Failure(error.message, error.exit_code))
    finally:
        pipe.close()


def _chunks(
    world: World,
    market: Market,
    outbox: Outbox,
    until_ms: dict[int, int],
    end_ms: int,
    stopped: Callable[[], bool],
    pipe: Connection,
) -> None:
    unflushed: list[Report] = []
    size = 0
    while not stopped():
        partition, since = min(until_ms.items(), key=lambda item: item[1])
        if since >= end_ms:
            break
        upto = min(end_ms, (since // CHUNK_MS + 1) * CHUNK_MS)
        counts = _send(world, market, outbox, partition, since, upto)
        until_ms[partition] = upto
        unflushed.append((partition, upto, *counts))
        size += counts[1].total()
        # A flush waits for Kafka: not after every small chunk.
        if size >= 20_000:
            _report(outbox, unflushed, pipe)
            size = 0
    _report(outbox, unflushed, pipe)


def _report(outbox: Outbox, unflushed: list[Report], pipe: Connection) -> None:
    outbox.flush()
    for report in unflushed:
        pipe.send(report)
    unflushed.clear()
