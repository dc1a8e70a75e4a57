"""Drills in which something goes wrong in the world, and alerts of the stream say so.

Those are about hours and days, and a drill has minutes: all before the incident is sent as history, then event time is
played faster than it passes, up to now.
"""

import contextlib
import math
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from fanpulse.drill import LOOK_S, PATIENCE_S, Drill, Failed, Scene, runbook
from fanpulse.screen import Step
from generators.config import WorldConfig
from generators.incidents import ChurnWave, CpmSpike, Incident
from generators.progress import load_progress
from generators.world import World
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.alerting import read_alerts
from pipeline.alerts import Alert
from schemas.alerts import AlertPolicy, alert_policy

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
DAY_MS = 24 * HOUR_MS
LEAST = 20
"""Impressions of an hour from which on a price rings; made-up campaigns have few."""
CATCH_UP_S = 15.0
"""Seconds that it takes from the last piece of a plan to now."""
_STILL_S = 0.5
_DEAREST = 0.7
"""A campaign is dear without a spike above so much of the threshold."""
_CLEARLY = 1.3


class Course:
    """How event time goes: at the pace of its pieces, then as the wall clock.

    Args:
        knots: event times (UTC ms), each with the seconds after the begin at which it is reached; both ascend.
    """

    def __init__(self, knots: Sequence[tuple[int, float]]) -> None:
        self._times, self._seconds = [at for at, _ in knots], [after for _, after in knots]

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self._seconds[-1]

    def at(self, seconds: float, now_ms: int) -> int:
        """The event time after so many seconds; never beyond ``now_ms``, what the wall clock shows then."""
        if seconds >= self.seconds:
            return now_ms
        place = max(bisect_right(self._seconds, seconds), 1)
        since, until = self._times[place - 1], self._times[place]
        begun, ends = self._seconds[place - 1], self._seconds[place]
        return min(now_ms, since + int((until - since) * max(0.0, seconds - begun) / (ends - begun)))


@dataclass(frozen=True)
class Plan:
    """What happens when; times in UTC ms.

    Attributes:
        incident: what goes wrong.
        begin_ms: all before it is history.
        pieces: times up to which it is played, each with the seconds that this takes from the one before.
        expected: kinds of alerts that must come and go.
    """

    incident: Incident
    begin_ms: int
    pieces: tuple[tuple[int, float], ...]
    expected: tuple[str, ...]

    def course(self, now_ms: int, faster: float = 1.0) -> Course:
        """The course from a moment on, so many times as fast."""
        knots, after = [(self.begin_ms, 0.0)], 0.0
        for until, seconds in (*self.pieces, (now_ms, CATCH_UP_S)):
            after += seconds / faster
            knots.append((until, after))
        return Course(knots)


def plan_spike(world: World, now_ms: int) -> Plan:
    """Two hours of an evening, when a small world shows enough, and one that is as ever after them."""
    start = _last(now_ms - 3 * HOUR_MS - 10 * MINUTE_MS, (18, 19), ZoneInfo(world.config.time_zone))
    spike = CpmSpike(creator_id=_advertiser(world), start_ms=start + 5 * MINUTE_MS, end_ms=start + 2 * HOUR_MS)
    pieces = (
        (spike.start_ms, 10.0),
        (spike.start_ms + 40 * MINUTE_MS, 30.0),
        (spike.end_ms, 25.0),
        (start + 3 * HOUR_MS + 5 * MINUTE_MS, 30.0),
    )
    return Plan(spike, start - 30 * MINUTE_MS, pieces, ("cpm_high", "cpm_rise"))


def plan_wave(world: World, now_ms: int) -> Plan:
    """An evening on which many unfollow, and the day after it. A day is over once all topics are in the next one, and
    gifts come in the evening."""
    evening = _last(now_ms - 49 * HOUR_MS - 30 * MINUTE_MS, (19,), ZoneInfo(world.config.time_zone))
    following = world.followers(evening)
    creator = max(following, key=lambda each: following[each])
    wave = ChurnWave(creator_id=creator, start_ms=evening + 30 * MINUTE_MS, end_ms=evening + 3 * HOUR_MS)
    pieces = (
        (wave.start_ms, 10.0),
        (wave.start_ms + 45 * MINUTE_MS, 30.0),
        (wave.end_ms, 30.0),
        (evening + 23 * HOUR_MS, 15.0),
        (evening + 26 * HOUR_MS, 25.0),
        (evening + 47 * HOUR_MS, 15.0),
        (evening + 49 * HOUR_MS + 30 * MINUTE_MS, 20.0),
    )
    return Plan(wave, evening - HOUR_MS, pieces, ("follower_loss", "churn_high"))


def _last(latest_ms: int, hours: Collection[int], zone: ZoneInfo) -> int:
    """When the last local hour began, of some hours of the day, that had begun by then; UTC ms."""
    day = datetime.fromtimestamp(latest_ms / 1000, zone).date()
    while not (begun := [at for hour in hours if (at := _at(day, hour, zone)) <= latest_ms]):
        day -= timedelta(days=1)
    return max(begun)


def _at(day: date, hour: int, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, clock_time(hour), zone).timestamp() * 1000)


def _advertiser(world: World) -> str:
    """Of the creators whose price rings if it rises, and does not before, the one with the most impressions."""
    places = world.cast.placements
    # A click of a search costs a tenth of the bid.
    cost = np.where(places.channel == 2, 1000 * places.click * places.bid * 0.1, places.mille)
    shown = np.bincount(places.creator, places.weight, world.cast.count)
    mille = np.bincount(places.creator, places.weight * cost, world.cast.count) / np.maximum(shown, 1e-9)
    limit = alert_policy({}).kinds["cpm_high"].limits["above_micros"]
    price = CpmSpike.model_fields["price"].default
    fits = (mille * price > _CLEARLY * limit) & (mille < _DEAREST * limit)
    return world.cast.ids[int(np.argmax(np.where(fits, 1.0, 1e-6) * shown))]


class WorldDrill(Drill):
    """A drill whose incident is part of the world.

    Args:
        kind: what goes wrong.
        faster: it is played so many times as fast.
    """

    def __init__(self, kind: Literal["cpm-spike", "churn-wave"], faster: float = 1.0) -> None:
        self.kind = kind
        self.world = (
            {"days": 6, "fans": 30_000, "creators": 6}
            if kind == "cpm-spike"
            else {"days": 21, "fans": 6_000, "creators": 8}
        )
        self._faster = faster
        self._plan: Plan | None = None
        self._course: Course | None = None
        self._begun = math.inf

    @property
    def plan(self) -> Plan:
        """What happens when; known once it is prepared."""
        assert self._plan is not None
        return self._plan

    def refuse(self, here: Settings) -> None:
        if load_progress(here.home) is not None:
            raise FanpulseError(
                f"the home {here.home} has a world already, and {self.kind} happens in the past of a new one: "
                f"fanpulse demo --incident {self.kind} --home ./drill"
            )

    def changed(self, here: Settings) -> dict[str, str]:
        # While a history is stored, or a slow machine thinks, the wall clock must not move days on.
        changed = {"FANPULSE_ALERT_INTERVAL": "1", "FANPULSE_IDLE_AFTER": "600"}
        if self.kind == "cpm-spike":
            changed["FANPULSE_ALERT_POLICY"] = _with_few(here.alert_policy)
        return changed

    def prepare(self, config: WorldConfig, now_ms: int) -> WorldConfig:
        self._plan = (plan_spike if self.kind == "cpm-spike" else plan_wave)(World(config), now_ms)
        if self._plan.begin_ms - config.start_ms < 3 * DAY_MS:
            raise FanpulseError(f"{self.kind} needs a longer history, such as --days {self.world['days']}")
        return config.model_copy(update={"incidents": (self._plan.incident,)})

    def begin_ms(self, now_ms: int) -> int:
        return self.plan.begin_ms

    def clock(self) -> int:
        now, seconds = super().clock(), time.monotonic()
        if self._course is None:
            return min(now, self.plan.begin_ms)
        # It stands still in between, so that each piece that is sent is worth its while.
        return self._course.at((seconds - self._begun) // _STILL_S * _STILL_S, now)

    def hold(self, scene: Scene) -> None:
        incident, told = self.plan.incident, _Told(self, scene)
        self._course, self._begun = self.plan.course(super().clock(), self._faster), time.monotonic()
        took = f"{self._course.seconds:.0f} s"
        scene.tell(self.step("play", f"event time is played from here on, and reaches the wall clock in {took}"))
        deadline = self._begun + self._course.seconds + PATIENCE_S
        begun = over = False
        with contextlib.closing(clickhouse_client(scene.settings, "analyst")) as client:
            while not scene.stop.wait(LOOK_S):
                now = self.clock()
                if not begun and now >= incident.start_ms:
                    begun = True
                    scene.tell(self.step("incident", _happens(incident), self._shown(scene)))
                if not over and now >= incident.end_ms:
                    over = True
                    scene.tell(self.step("over", "it is over; alerts go with the first hour or day that is better"))
                since = datetime.fromtimestamp(incident.start_ms / 1000, UTC)
                where = "creator_id = {creator:String} AND at >= {since:DateTime64(3, 'UTC')}"
                found = read_alerts(client, where, {"creator": incident.creator_id, "since": since})
                told.tell(found)
                missing = _missing(found, self.plan.expected)
                if over and not missing:
                    return
                if time.monotonic() > deadline:
                    raise Failed(f"{self.kind}: {'; '.join(missing)}")

    def _shown(self, scene: Scene) -> list[str]:
        """What to look at."""
        incident, begin, end = self.plan.incident, self.plan.begin_ms, self.plan.pieces[-1][0]
        creator = incident.creator_id
        if isinstance(incident, CpmSpike):
            return ["CPM over time goes up: " + scene.board("ads", begin - 2 * HOUR_MS, end, creator=creator)]
        return [
            "Came and went, and the churn rate: " + scene.board("lifecycle", begin - 14 * DAY_MS, end, creator=creator)
        ]

    def board(self, scene: Scene, alert: Alert) -> str:
        """The board that shows what an alert of the drill speaks of."""
        if isinstance(self.plan.incident, ChurnWave):
            return scene.board("engagement", alert.at - 9 * HOUR_MS, alert.at, creator=alert.creator_id)
        campaign = {"campaign": alert.subject} if alert.subject else {}
        # What happens next is to be seen, too.
        until = alert.at + HOUR_MS
        return scene.board("ads", alert.at - 3 * HOUR_MS, until, creator=alert.creator_id, **campaign)


class _Told:
    """Tells what alerts do, each once."""

    def __init__(self, drill: WorldDrill, scene: Scene) -> None:
        self._drill, self._scene = drill, scene
        self._known: set[tuple[str, str]] = set()

    def tell(self, found: Sequence[Alert]) -> None:
        """Alerts as they are now."""
        for alert in found:
            for step in self._steps(alert):
                self._scene.tell(step)

    def _steps(self, alert: Alert) -> list[Step]:
        steps = []
        if self._new(alert, "open"):
            page = runbook(alert.kind.replace("_", "-"))
            more = [*(f"do: {advice}" for advice in alert.advice), page, self._drill.board(self._scene, alert)]
            steps.append(self._drill.step("opened", f"alert {alert.kind}: {alert.said}", more))
        if alert.state == "resolved" and self._new(alert, "resolved"):
            steps.append(self._drill.step("resolved", f"alert {alert.kind} is resolved: {alert.resolved_said}"))
        return steps

    def _new(self, alert: Alert, state: str) -> bool:
        new = (alert.id, state) not in self._known
        self._known.add((alert.id, state))
        return new


def _with_few(policy: AlertPolicy) -> str:
    """A policy by which prices ring at few impressions, unless it says at how many; as FANPULSE_ALERT_POLICY has it."""
    changed: dict[str, Any] = orjson.loads(str(policy))
    for kind in ("cpm_high", "cpm_rise"):
        changed[kind] = {"min_impressions": LEAST, **changed.get(kind, {})}
    return orjson.dumps(changed).decode()


def _happens(incident: Incident) -> str:
    if isinstance(incident, CpmSpike):
        return (
            f"rivals outbid {incident.creator_id}: impressions of its campaigns cost {incident.price:g} times as much"
        )
    return f"something offends the fans of {incident.creator_id}: {incident.share:.0%} of its followers leave"


def _missing(found: Sequence[Alert], expected: Sequence[str]) -> list[str]:
    """What alerts have not done yet."""
    missing = [f"{kind} did not come" for kind in expected if not any(alert.kind == kind for alert in found)]
    still = [alert for alert in found if alert.kind in expected and alert.state == "open"]
    return missing + [f"{alert.id} was not resolved" for alert in still]
