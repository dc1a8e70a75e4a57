"""Drills in which a server of this home goes away, and Grafana's alert rules say so.

There need not be a Grafana: ``dashboards.ringing`` judges as it does, with waiting times and ages divided, since its
own take a quarter of an hour.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from dashboards.alerts import RULES, Rule
from dashboards.ringing import Ringing, Verdict, ask
from fanpulse.drill import PATIENCE_S, Drill, Failed, Scene, runbook
from infra.clickhouse import clickhouse_service, start_clickhouse
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.home import Home
from infra.kafka import kafka_service, start_kafka
from infra.settings import Settings

FASTER = 20
"""What waiting times and ages of the rules are divided by."""
HOLD_S = 30.0
"""Seconds that the server stays away once its alert has come, so that people can look."""
RATE = 50.0
"""Live events/s: in a small world nothing comes for minutes, which by these ages would be an alarm."""
JUDGED: tuple[Rule, ...] = tuple(rule for rule in RULES if rule.uid in ("fanpulse-freshness", "fanpulse-lag"))
"""The rules that ring when nothing is stored."""


class OutageDrill(Drill):
    """A drill whose incident is that a server is stopped, and started again.

    Args:
        kind: which one.
        hold_s: seconds that it stays away once the alert has come.
    """

    world: Mapping[str, int] = {"days": 2, "fans": 3_000, "creators": 12}
    rate = RATE
    faster = FASTER

    def __init__(self, kind: Literal["clickhouse-down", "broker-down"], hold_s: float = HOLD_S) -> None:
        self.kind = kind
        self._hold_s = hold_s
        self._server = "ClickHouse" if kind == "clickhouse-down" else "Kafka"
        self._ringing = Ringing(JUDGED, self.faster)
        self._states: dict[tuple[str, str], str] = {}
        self._rang: set[tuple[str, str]] = set()

    def refuse(self, here: Settings) -> None:
        if (here.clickhouse if self.kind == "clickhouse-down" else here.kafka) is not None:
            raise FanpulseError(
                f"FANPULSE_{self._server.upper()} names a {self._server} that is not this home's, and a drill stops "
                "none but its own: unset it"
            )

    def changed(self, here: Settings) -> dict[str, str]:
        return {"FANPULSE_TELEMETRY_INTERVAL": "2"}

    def hold(self, scene: Scene) -> None:
        home = Home(scene.settings.home)
        service, start = (
            (clickhouse_service(home), start_clickhouse)
            if self.kind == "clickhouse-down"
            else (kafka_service(home), start_kafka)
        )
        if not self._until(scene, _well, "rings before anything is wrong"):
            return
        every = f"every {self._ringing.interval_s:g} s, at waiting times and ages divided by {self.faster}"
        scene.tell(self.step("calm", f"nothing rings; rules are judged as Grafana would, {every}"))
        scene.tell(self.step("incident", f"{self._server} is stopped", self._shown(scene)))
        try:
            service.stop()
            rang = self._until(scene, lambda found: any(each.rings for each in found), "does not ring")
            if rang:
                scene.stop.wait(self._hold_s)
        finally:
            start(home)
        scene.tell(self.step("over", f"{self._server} is started again; what had waited is stored now"))
        if rang:
            self._until(scene, _well, "still rings")

    def _until(self, scene: Scene, wanted: Callable[[Sequence[Verdict]], bool], said: str) -> bool:
        """Evaluates the rules until their verdicts are as wanted; False if people want to end it before that."""
        deadline, here = time.monotonic() + PATIENCE_S, scene.settings
        while not scene.stop.wait(self._ringing.interval_s):
            now_ms = super().clock()
            answers = ask(lambda: clickhouse_client(here, "analyst", timeout=10), JUDGED, now_ms, here.time_zone)
            found = self._ringing.look(now_ms, answers)
            for verdict in found:
                self._tell(scene, verdict)
            if wanted(found):
                return True
            if time.monotonic() > deadline:
                rules = ", ".join(sorted({each.rule.title for each in found if not said.startswith("does")}))
                raise Failed(f"{self.kind}: {rules or 'no rule'} {said} after {PATIENCE_S:.0f} s")
        return False

    def _tell(self, scene: Scene, verdict: Verdict) -> None:
        """A step, where the state of a rule has changed."""
        labels = " ".join(verdict.labels.values())
        where = verdict.rule.uid, labels
        changed = verdict.state != self._states.get(where, "normal")
        self._states[where] = verdict.state
        title = f"{verdict.rule.title} ({labels})" if labels else verdict.rule.title
        said = f"rule {title} is {verdict.state}: {verdict.said}"
        if changed and verdict.rings and where not in self._rang:
            self._rang.add(where)
            scene.tell(self.step("opened", said, [runbook(verdict.rule.page.removesuffix(".md"))]))
        elif changed and verdict.state == "normal" and where in self._rang:
            self._rang.discard(where)
            scene.tell(self.step("resolved", said))
        elif changed and verdict.state != "normal":
            scene.tell(self.step(verdict.state, said))

    def _shown(self, scene: Scene) -> list[str]:
        """What to look at."""
        board = scene.board("pipeline", "now-15m", "now")
        if self.kind == "clickhouse-down":
            return [f"figures stay, greyed: {board}", "no SQL runs now: fanpulse status", runbook("clickhouse-away")]
        return [f"Freshness by topic goes up: {board}", "and: fanpulse status", runbook("kafka-away")]


def _well(found: Sequence[Verdict]) -> bool:
    return all(each.state == "normal" for each in found)
