"""What a scenario runs in: a database and topics of its own, load with a ground truth, and the verdict at the end."""

import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Self, TypeVar

from chaos import campaigns
from chaos.campaigns import Teller
from chaos.compare import compare
from chaos.feed import Feed, Mix
from chaos.fleet import AWAY, DEADLINE, Fleet, Recoveries, until
from chaos.report import Outcome
from chaos.truth import Sent, TruthLog
from infra.connect import clickhouse_client
from infra.home import Home
from infra.settings import Settings
from infra.stack import Stack
from infra.topics import ensure_topics
from pipeline.migrate import migrate
from pipeline.verify import verify

_T = TypeVar("_T")


class Scene:
    """One run of a scenario on a running stack.

    ``random`` decides what the seed decides. ``say`` is told what goes on. ``refused`` says of a valid record that
    ClickHouse refuses its row.
    """

    def __init__(
        self,
        stack: Stack,
        name: str,
        seed: int,
        quick: bool,
        say: Callable[[str], None] = lambda line: None,
        keep: bool = False,
    ) -> None:
        corner = secrets.token_hex(4)
        self.stack = stack
        self.quick = quick
        self.say = say
        self.settings = Settings(
            home=stack.home.path,
            database=f"fanpulse_{name.replace('-', '_')}_{corner}",
            topic_prefix=f"{name}.{corner}.",
            # A load of some hours has conversions on both sides of where they end.
            click_window=3,
            view_window=1,
        )
        self.folder = Home(self.settings.home).path / "chaos" / f"{name}-{corner}"
        self.truth = TruthLog(self.folder / "truth")
        self.outcome = Outcome(name, seed)
        self.random = Random(f"{name} {seed}")
        self.refused: Callable[[Sent], bool] = lambda sent: False
        self.recoveries = Recoveries(self.settings)
        self.teller = Teller(self.settings)
        self._seed = seed
        self._keep = keep
        self._feeds: list[Feed] = []
        self._parts = contextlib.ExitStack()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        ensure_topics(self.settings)
        migrate(self.settings)
        self.teller.begin()
        self._parts.enter_context(self.recoveries)
        return self

    def __exit__(self, *exc: object) -> None:
        for feed in self._feeds:
            feed.stop()
        self.teller.close()
        self._parts.close()
        self.outcome.seconds = time.monotonic() - self._began
        # A scenario that is cut off may leave ClickHouse away; then its database goes with the home.
        with contextlib.suppress(*AWAY):
            self._drop()

    def _drop(self) -> None:
        if not self._keep:
            with contextlib.closing(clickhouse_client(self.settings, database="system")) as client:
                client.command(f"DROP DATABASE IF EXISTS {self.settings.database} SYNC")

    @property
    def logs(self) -> Path:
        """Folder of the workers' logs."""
        return self.folder / "logs"

    @property
    def rate(self) -> float:
        """Records a second under which faults are injected: a part of what a worker holds, so that there is time to
        fail."""
        return self.pick(1000.0, 3000.0)

    def pick(self, quick: _T, full: _T) -> _T:
        """What is for a quick or a full run."""
        return quick if self.quick else full

    def load(self, events: int, rate: float | None = None, mix: Mix | None = None) -> Feed:
        """Starts to send; at most ``events`` records, ``rate`` a second."""
        mix = self.mix() if mix is None else mix
        feed = Feed(self.settings, self.truth, events, rate, mix, self._seed + len(self._feeds), self.teller)
        self._feeds.append(feed)
        feed.start()
        return feed

    def mix(self, **fields: Any) -> Mix:
        """A load of some hours, of which minutes pass in a run."""
        return Mix(spread=self.pick(400_000, 3_000_000), **fields)

    def days(self, events: int) -> Mix:
        """A load that begins with a history of so many records, so that fans fall silent, leave and come back."""
        return self.mix(history=events, lives=0.05)

    def enough(self, feed: Feed, events: int) -> None:
        """Waits until the feed has sent so many records, then ends it."""
        feed.resume()
        until(lambda: feed.sent >= events or feed.done, f"{events:,} records to be sent", deadline=20 * DEADLINE)
        feed.stop()
        feed.join()

    def hit(self, fault: str, began: float | None = None) -> None:
        """Counts a fault that has just been injected, and takes the time from now (or ``began``, monotonic seconds)
        until every partition has moved on from where it is now."""
        self.say(fault)
        own = self.outcome.fault(fault)
        own.times += 1
        self.recoveries.begin(own.recoveries, began)

    def recovered(self, *fleets: Fleet) -> None:
        """Waits until every partition has moved on since each fault so far."""
        self.recoveries.wait(*(fleet.check for fleet in fleets))

    def finish(self, *fleets: Fleet) -> None:
        """Drains, stops the workers (exit code 0) and judges: the end of a scenario."""
        self.drain(*fleets)
        self.say("stopping")
        for fleet in fleets:
            fleet.stop()
        self.judge()
        if all(fleet.events_only for fleet in fleets):
            # Else a pause of the machine may be taken for quiet, and the clock closes minutes before their events come.
            self.outcome.failures += campaigns.too_few(campaigns.made(self.settings))

    def drain(self, *fleets: Fleet) -> None:
        """Waits until all that was sent is stored, all load having ended."""
        self.say("draining")
        for feed in self._feeds:
            feed.join()
        self.recovered(*fleets)
        for fleet in fleets:
            fleet.stored()

    def judge(self, repaired: bool = False) -> None:
        """Compares every table with the ground truth and, a second opinion, with its twin in SQL."""
        self.say(f"comparing {self.truth.count:,} records with what is stored")
        self.outcome.events = self.truth.count
        self.outcome.tables += compare(self.settings, self.truth, repaired, self.refused, self.teller.told)
        self._note_decisions()
        self.say("verifying")
        for result in verify(self.settings):
            self.outcome.verified += result.rows
            if result.differ:
                self.outcome.differing.append(f"{result.name}: {result.differ} rows, such as {result.examples[:2]}")

    def _note_decisions(self) -> None:
        """Notes what rules decided."""
        counts = campaigns.made(self.settings)
        said = ", ".join(
            f"{number:,} {name.split()[1]}" for name, number in sorted(counts.items()) if "outcome" in name
        )
        note = f"rules: {said}; {len(self.teller.told)} messages told" if said else "rules: no decision"
        self.outcome.notes = [*(each for each in self.outcome.notes if not each.startswith("rules: ")), note]
