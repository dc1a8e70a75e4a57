"""Alerts, carried out: by one worker, from what ClickHouse holds to rows, to the topic ``alerts`` and to webhooks.

The worker that holds partition 0 of the fan log looks every ``alert_interval`` seconds. What it decides is a row first;
what others are told is built from the row that is stored, and what became of it is a row too. So whoever crashes, or
looks beside another, at worst says the same thing twice in the same words, under the same id and state.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import orjson
from clickhouse_connect.driver.client import Client
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_producer
from infra.errors import FanpulseError, InfraError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline import fan_log
from pipeline.alerts import DAY, WEEK, Alert, Closed, Entity, FanDay, Figures, State, end_of, evaluate, fan_figures
from pipeline.campaign_figures import CampaignFigures, hour_of
from pipeline.checkpoint import Checkpoint
from pipeline.folds.ads import Ads
from pipeline.look import Look
from pipeline.metrics import Metrics
from pipeline.rule_figures import RuleFigures
from pipeline.sink import FAILURES
from pipeline.webhook import Answer, Webhook, webhooks
from schemas.alerts import Period
from schemas.topics import SOURCES

log = logging.getLogger(__name__)

TOPIC = "alerts"
LIFECYCLE = "lifecycle"
"""The agent whose moves are looked at."""
ADS = "ads"
"""The agent that counts advertisements."""
KAFKA = "kafka"
"""Target of deliveries that stands for the topic."""
TIMEOUT = 60.0
"""Seconds that ClickHouse may take to answer."""
ACKNOWLEDGED = 30.0
"""Seconds that Kafka may take to acknowledge a message."""
SOON = 1.0
"""Seconds between asking whether it is this worker that looks."""
CATCH_UP = 31 * DAY
"""How far back a worker that begins to look does so."""
CORRECTED = 3 * DAY
"""How far back it looks each time after: late events may have changed figures."""
AGAIN = 600.0
"""Seconds after which figures of closed days are read again, though no day has closed."""
A_MINUTE = 18
"""Messages a minute to a robot; DingTalk and WeCom take 20."""
BACK_OFF, LONGEST_BACK_OFF = 5.0, 900.0
"""Seconds after the first failed try, doubled with every other, and at most."""
LOOKED_AT = timedelta(days=7)
"""How long a delivery whose time is over may still wait to be written off, such as while no worker ran."""
TOGETHER = 1_000
"""Messages to Kafka, or rows, at once."""
_STATES: tuple[State, ...] = get_args(State)


class FanFigures:
    """Figures of the fans of every creator who is large enough for a kind. Closed days are read when one more has
    closed, and now and then for what late events change; the running day every time."""

    def __init__(self) -> None:
        self._read: tuple[date, float] | None = None
        self._days: dict[Entity, list[FanDay]] = {}
        self._closed: list[Figures] = []

    def __call__(self, look: Look) -> list[Figures]:
        now = time.monotonic()
        if self._read is None or self._read[0] != look.closed or now - self._read[1] > AGAIN:
            self._days = self._load(look)
            self._closed = [each for entity, days in self._days.items() for each in self._figures(look, entity, days)]
            self._read = look.closed, now
        running = look.settings.alert_policy.kinds.values()
        if not any(kind.running and kind.enabled and kind.figures == "fans" for kind in running):
            return self._closed
        return self._closed + self._running(look)

    def _load(self, look: Look) -> dict[Entity, list[FanDay]]:
        """Fans of each creator on every closed day of the look and of the history before it; a day without moves too.
        The last of each is the running day, on which nothing has happened."""
        policy = look.settings.alert_policy
        first = look.first - (policy.history_days + WEEK) * DAY
        kinds = [kind for kind in policy.kinds.values() if kind.figures == "fans" and kind.enabled]
        least = min(
            (limit for kind in kinds for name, limit in kind.limits.items() if name in ("min_fans", "min_idle")),
            default=0,
        )
        rows = look.client.query(
            _FANS,
            {"first": first, "last": look.closed, "least": least, "watched": sorted(look.watched)},
        ).result_rows
        found: dict[Entity, dict[date, Sequence[int]]] = defaultdict(dict)
        begun: dict[Entity, date] = {}
        for platform, creator, day, begin, *figures in rows:
            found[platform, creator, ""][day] = figures
            begun[platform, creator, ""] = begin
        span = [first + n * DAY for n in range((look.closed - first).days + 2)]
        settled_after = look.settings.churn_after * DAY
        days: dict[Entity, list[FanDay]] = {}
        for entity, own in found.items():
            fans, idle = own.get(first - DAY, (0, 0))[:2]
            days[entity] = []
            for day in span:
                end_fans, end_idle, *flows = own.get(day, (fans, idle, 0, 0, 0, 0))
                churned, unfollowed, arrived, returned = flows
                settled = day > begun[entity] + settled_after
                days[entity].append(FanDay(fans, churned, unfollowed, arrived, returned, idle, settled))
                fans, idle = end_fans, end_idle
        return days

    def _figures(self, look: Look, entity: Entity, days: list[FanDay]) -> Iterable[Figures]:
        policy = look.settings.alert_policy
        before = policy.history_days + WEEK
        for number in range(before, len(days) - 1):
            day = look.first + (number - before) * DAY
            values = fan_figures(days[number - before : number + 1], policy)
            yield Figures(*entity, day=day, closed=True, at=end_of(day, look.zone), values=values)

    def _running(self, look: Look) -> list[Figures]:
        today = look.closed + DAY
        found: list[Figures] = []
        for platform, creator, *flows in look.client.query(_RUNNING, {"day": today}).result_rows:
            days = self._days.get((platform, creator, ""))
            if days is not None:
                churned, unfollowed, arrived, returned = flows
                day = days[-1]._replace(churned=churned, unfollowed=unfollowed, arrived=arrived, returned=returned)
                values = fan_figures([*days[:-1], day], look.settings.alert_policy)
                found.append(Figures(platform, creator, "", day=today, closed=False, at=look.reached, values=values))
        return found


_FLOWS = """
    toInt64(sumIf(fans, to_stage = 'churned')) AS churned,
    toInt64(sumIf(fans, reason = 'unfollowed')) AS unfollowed,
    toInt64(sumIf(fans, reason = 'arrived')) AS arrived,
    toInt64(sumIf(fans, reason = 'returned')) AS returned
"""
_IDLE = "('silent', 'churned')"
_FANS = f"""
SELECT platform, creator_id, upto, begun, present, idle, churned, unfollowed, arrived, returned
FROM
(
    SELECT
        *,
        min(begin) OVER (PARTITION BY platform, creator_id) AS begun,
        sum(came) OVER (PARTITION BY platform, creator_id) AS seen,
        sum(present_change) OVER (PARTITION BY platform, creator_id ORDER BY upto) AS present,
        sum(idle_change) OVER (PARTITION BY platform, creator_id ORDER BY upto) AS idle
    FROM
    (
        SELECT
            platform,
            creator_id,
            greatest(day, {{first:Date}} - 1) AS upto,
            min(day) AS begin,
            sumIf(fans, from_stage = 'none') AS came,
            sum(toInt64(fans) * ((to_stage != 'churned') - (from_stage NOT IN ('none', 'churned')))) AS present_change,
            sum(toInt64(fans) * (to_stage IN {_IDLE})) - sum(toInt64(fans) * (from_stage IN {_IDLE})) AS idle_change,
            {_FLOWS}
        FROM fan_moves
        WHERE day <= {{last:Date}}
        GROUP BY platform, creator_id, upto
    )
)
WHERE seen >= {{least:Float64}} OR has({{watched:Array(String)}}, creator_id)
"""
"""What moved by day, and how many fans there were at its end; the days before the first in one row."""
_RUNNING = (
    f"SELECT platform, creator_id, {_FLOWS} FROM fan_moves WHERE day = {{day:Date}} GROUP BY platform, creator_id"
)


@dataclass(frozen=True)
class Source:
    """Where figures come from: what computes them, and whether they are of days or of hours."""

    make: Callable[[], Callable[[Look], list[Figures]]]
    period: Period = "day"

    def closed(self, look: Look) -> Closed:
        """The last period that is closed."""
        if self.period == "day":
            return Closed(look.closed, end_of(look.closed, look.zone))
        at = hour_of(look.reached, look.zone)
        return Closed(datetime.fromtimestamp((at - 1) / 1000, look.zone).date(), at)


FIGURES = {
    "fans": Source(FanFigures),
    "campaigns": Source(CampaignFigures, "hour"),
    "rules": Source(RuleFigures),
}
"""Sources of figures, by the name that kinds of ``schemas/alerts.json`` call them."""


def reached(stored: Iterable[Checkpoint], partitions: int) -> int | None:
    """The event time (UTC ms) that every partition has reached in all stored moves; None while one is not known."""
    inputs = {c.partition: fan_log.read_inputs(c.inputs) for c in stored if c.agent == LIFECYCLE}
    times: list[int] = []
    for partition in range(partitions):
        own = inputs.get(partition, {})
        if any(source not in own for source in SOURCES):
            return None
        times += [each.reached for each in own.values() if each.reached is not None]
    return min(times, default=None)


def reached_by_rules(client: Client, stored: Iterable[Checkpoint], partitions: int) -> int | None:
    """The event time (UTC ms) up to which rules have decided in every partition of the campaign log; None while one is
    not known, or while agent ``ads`` has not stored what they decided on."""
    closed: list[int] = []
    inputs: dict[int, int] = {}
    for kind, source, number in client.query(_DECIDED).result_rows:
        if kind == "closed":
            closed.append(number)
        else:
            inputs[source] = max(number, inputs.get(source, 0))
    counted = {c.partition: c.next_offset for c in stored if c.agent == ADS and c.fold_version == Ads.version}
    behind = any(counted.get(source, 0) < offset for source, offset in inputs.items())
    return min(closed) if len(closed) == partitions and not behind else None


_DECIDED = """
SELECT kind, source, numbers[1]
FROM rule_state FINAL
WHERE kind IN ('closed', 'input') AND fold_version = 1
"""


class Alerter:
    """Looks every ``alert_interval`` seconds from a thread of its own while ``held`` says so, until the process ends.

    It never holds the worker up and never ends it. While ClickHouse or Kafka are away it waits; a webhook that fails is
    tried again later and later, and given up ``webhook_retry`` hours after the moment that the alert speaks of.

    ``clock`` (seconds since the epoch) can be another for tests.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        held: Callable[[], bool] = lambda: True,
        hooks: Sequence[Webhook] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._held = held
        self._hooks = webhooks(settings) if hooks is None else hooks
        self._clock = clock
        self._patience = timedelta(hours=settings.webhook_retry)
        self._sources = {name: source.make() for name, source in FIGURES.items()}
        self._since: dict[str, date] = {}
        self._settled = False
        self._posted: dict[str, deque[float]] = defaultdict(deque)
        self._said: set[str] = set()
        self._client: Client | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Begins nothing more; what is under way may still land, which is harmless."""
        self._ending.set()

    def _work(self) -> None:
        wait = SOON
        while not self._ending.wait(wait):
            wait = SOON
            if self._held():
                self.look()
                wait = self._settings.alert_interval
            elif self._since:
                self._forget()

    def look(self) -> None:
        """Decides, and tells others, once."""
        began = time.monotonic()
        try:
            client = self._client = self._client or clickhouse_client(self._settings, timeout=TIMEOUT)
            if not self._settled:
                store_thresholds(self._settings, client, self._now())
                self._settled = True
            for step in (self.decide, self.publish, self.notify):
                self._try(step, client)
        except (*FAILURES, InfraError) as error:
            self._warn("ClickHouse", error)
            if self._client is not None:
                self._client.close()
            self._client = None
        except Exception:
            log.exception("looking for alerts failed")
        else:
            self._said.discard("ClickHouse")
        self._metrics.set("alert_look_seconds", time.monotonic() - began)

    def decide(self, client: Client) -> list[Alert]:
        """Stores what is to be opened and resolved now; returns it. Of figures nothing is, until every partition has
        reached a time."""
        stored = checkpoints.read(client)
        times = {"fans": reached(stored, self._settings.partitions)}
        times |= dict.fromkeys(("campaigns", "rules"), reached_by_rules(client, stored, self._settings.partitions))
        looks = {name: self._look(client, name, at) for name, at in times.items() if at is not None}
        if not looks:
            return []
        first = min(look.first for look in looks.values())
        known = read_alerts(
            client, "state = 'open' OR day >= {first:Date} OR resolved_day >= {first:Date}", {"first": first}
        )
        watched = frozenset(alert.creator_id for alert in known if alert.state == "open")
        policy = self._settings.alert_policy
        figures, closed = {}, {}
        for name, look in looks.items():
            found = self._sources[name](replace(look, watched=watched))
            figures[name] = [each for each in found if each.day >= look.first]
            closed[name] = FIGURES[name].closed(look)
        changes = evaluate(policy, figures, known, closed)
        opened = set()
        for alert in changes:
            if alert.state == "open":
                opened.add(alert.id)
            elif alert.id in opened:
                # Another worker may have opened it first, in other words; those are told already.
                for other in read_alerts(client, "id = {id:String}", {"id": alert.id}):
                    alert = other.resolved_as(alert)
            store(client, alert, self._now())
            self._metrics.count("alerts_total", 1, alert.kind, alert.state)
            log.info("alert %s %s: %s", alert.id, alert.state, alert.resolved_said or alert.said)
        self._since |= {name: look.closed for name, look in looks.items()}
        state = {alert.id: alert for alert in (*known, *changes)}
        for name in policy.kinds:
            number = sum(alert.kind == name and alert.state == "open" for alert in state.values())
            self._metrics.set("alerts_open", number, name)
        return changes

    def _look(self, client: Client, name: str, at: int) -> Look:
        """What a source is asked for, where time is at ``at`` (UTC ms)."""
        closed = datetime.fromtimestamp(at / 1000, ZoneInfo(self._settings.time_zone)).date() - DAY
        since = self._since.get(name)
        begin = closed - CATCH_UP if since is None else min(since, closed) - CORRECTED
        return Look(client, self._settings, max(begin, closed - CATCH_UP), closed, at, frozenset())

    def publish(self, client: Client) -> None:
        """Sends to Kafka what it has not had. KafkaError or InfraError where it does not take it."""
        waiting = [
            (alert, state)
            for alert, told in _untold(client, KAFKA, datetime(1970, 1, 1, tzinfo=UTC))
            for state in _messages(alert)
            if state not in told
        ]
        if not waiting:
            return
        producer = kafka_producer(self._settings, max_block_ms=int(ACKNOWLEDGED * 1000))
        try:
            for begin in range(0, len(waiting), TOGETHER):
                part = waiting[begin : begin + TOGETHER]
                sent = [
                    producer.send(
                        self._settings.topic_prefix + TOPIC,
                        key=alert.creator_id.encode(),
                        value=orjson.dumps(alert.message(state)),
                    )
                    for alert, state in part
                ]
                for each in sent:
                    each.get(timeout=ACKNOWLEDGED)
                self._write(client, [_Delivery(alert.id, state, KAFKA, "delivered", 1) for alert, state in part])
        finally:
            producer.close(timeout=1)

    def notify(self, client: Client) -> None:
        """Posts to webhooks what is due, in order; one that fails is left alone until the next look."""
        waiting = 0
        for hook in self._hooks:
            waiting += self._notify(client, hook)
        self._metrics.set("alerts_waiting", waiting)

    def _notify(self, client: Client, hook: Webhook) -> int:
        """How many messages still wait for a webhook."""
        now, waiting, failed = self._now(), 0, False
        written_off: list[_Delivery] = []
        for alert, told in _untold(client, hook.name, now - self._patience - LOOKED_AT):
            states = _messages(alert)
            for number, state in enumerate(states):
                delivery = told.get(state, _Delivery(alert.id, state, hook.name))
                if delivery.over:
                    continue
                if lost := self._lost(alert, delivery, told.get("open"), now):
                    told[state] = lost
                    written_off.append(lost)
                    continue
                if not failed and delivery.due(now) and self._may_post(hook):
                    delivery = told[state] = self._post(client, hook, alert, delivery)
                    failed = not delivery.over
                if not delivery.over:
                    waiting += len(states) - number
                    break
        self._write(client, written_off)
        return waiting

    def _lost(
        self, alert: Alert, delivery: "_Delivery", opening: "_Delivery | None", now: datetime
    ) -> "_Delivery | None":
        """The end of a delivery that is not tried any more; None: it is."""
        if delivery.state == "resolved" and opening is not None and opening.outcome in ("too_old", "gave_up"):
            return delivery.then(opening.outcome, Answer(False, 0, "it was not told that it was opened"), now)
        if now <= _moment(alert.at if delivery.state == "open" else alert.resolved_at) + self._patience:
            return None
        last = Answer(False, delivery.status, delivery.answer)
        return delivery.then("gave_up" if delivery.attempts else "too_old", last, now)

    def _post(self, client: Client, hook: Webhook, alert: Alert, delivery: "_Delivery") -> "_Delivery":
        self._posted[hook.name].append(time.monotonic())
        answer = hook.post(alert.message(delivery.state))
        outcome = "delivered" if answer.taken else "retrying"
        made = delivery.then(outcome, answer, self._now(), delivery.attempts + 1)
        self._write(client, [made])
        if not answer.taken:
            log.warning("%s did not take %s: %d %s", hook.name, alert.id, answer.status, answer.text)
        return made

    def _may_post(self, hook: Webhook) -> bool:
        if not hook.robot:
            return True
        posted, since = self._posted[hook.name], time.monotonic() - 60
        while posted and posted[0] < since:
            posted.popleft()
        return len(posted) < A_MINUTE

    def _write(self, client: Client, deliveries: list["_Delivery"]) -> None:
        for begin in range(0, len(deliveries), TOGETHER):
            client.insert(
                "alert_deliveries",
                [each.row() for each in deliveries[begin : begin + TOGETHER]],
                column_names=_DELIVERY,
                settings={"async_insert": 0},
            )
        for each in deliveries:
            self._metrics.count("alert_deliveries_total", 1, each.target, each.outcome)

    def _try(self, step: Callable[[Client], Any], client: Client) -> None:
        """Kafka being away holds nothing up but its own messages."""
        try:
            step(client)
            self._said.discard(step.__name__)
        except (KafkaError, FanpulseError) as error:
            self._warn(step.__name__, error)

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._said:
            log.warning("alerts wait (%s): %s", what, " ".join(str(error).split())[:300] or type(error).__name__)
        self._said.add(what)

    def _forget(self) -> None:
        """Another worker looks now."""
        self._since = {}
        self._sources = {name: source.make() for name, source in FIGURES.items()}
        for name in self._settings.alert_policy.kinds:
            self._metrics.set("alerts_open", 0, name)
        self._metrics.set("alerts_waiting", 0)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


_ALERT = (
    "id",
    "kind",
    "platform",
    "creator_id",
    "subject",
    "day",
    "state",
    "at",
    "title",
    "said",
    "advice",
    "figures",
    "thresholds",
    "resolved_day",
    "resolved_at",
    "resolved_said",
    "resolved_figures",
)
_TIMES = ("at", "resolved_at")
_SELECTED = ", ".join(f"toUnixTimestamp64Milli({name})" if name in _TIMES else name for name in _ALERT)


def read_alerts(client: Client, where: str = "1", parameters: Mapping[str, Any] | None = None) -> list[Alert]:
    """Alerts as they are stored, oldest first; ``where`` is SQL over the columns of the table."""
    query = f"SELECT {_SELECTED} FROM (SELECT * FROM alerts FINAL) WHERE {where} ORDER BY at, id"
    rows = client.query(query, dict(parameters or {})).result_rows
    return [_alert(row) for row in rows]


def store(client: Client, alert: Alert, now: datetime) -> None:
    """Stores an alert, unless it is stored in this state: who finds the same a moment later changes nothing."""
    row = {name: getattr(alert, name) for name in _ALERT}
    row |= {name: _moment(row[name]) for name in _TIMES}
    row |= {"advice": list(alert.advice), "figures": dict(alert.figures), "thresholds": dict(alert.thresholds)}
    row |= {"resolved_figures": dict(alert.resolved_figures), "version": _STATES.index(alert.state) + 1}
    client.insert(
        "alerts",
        [[*row.values(), now]],
        column_names=[*row, "written_at"],
        settings={"async_insert": 0, "insert_deduplication_token": f"{alert.id} {alert.state}"},
    )


def store_thresholds(settings: Settings, client: Client, now: datetime) -> None:
    """Writes ``alert_thresholds`` where it says something else."""
    names = "kind, name, value, meaning, enabled"
    there = {tuple(row) for row in client.query(f"SELECT {names} FROM alert_thresholds FINAL").result_rows}
    rows = [
        (kind_name, name, threshold.value, threshold.meaning, int(kind.enabled))
        for kind_name, kind in settings.alert_policy.kinds.items()
        for name, threshold in kind.thresholds.items()
    ]
    new = [(*row, now) for row in rows if row not in there]
    if new:
        client.insert("alert_thresholds", new, column_names=[*names.split(", "), "written_at"])


_OVER = ("too_old", "gave_up", "delivered")
"""Outcomes after which nothing more is tried; of two the later one here is right."""
_DELIVERY = ("id", "state", "target", "outcome", "attempts", "status", "answer", "tried_at", "version")


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A row of ``alert_deliveries``; before the first try there is none."""

    id: str
    state: State
    target: str
    outcome: str = "retrying"
    attempts: int = 0
    status: int = 0
    answer: str = ""
    tried_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def over(self) -> bool:
        return self.outcome in _OVER

    def due(self, now: datetime) -> bool:
        """Whether it may be tried again."""
        wait = min(BACK_OFF * 2 ** min(self.attempts - 1, 20), LONGEST_BACK_OFF) if self.attempts else 0.0
        return (now - self.tried_at).total_seconds() >= wait

    def then(self, outcome: str, answer: Answer, now: datetime, attempts: int | None = None) -> "_Delivery":
        tried = self.attempts if attempts is None else attempts
        return _Delivery(self.id, self.state, self.target, outcome, tried, answer.status, answer.text, now)

    def row(self) -> list[Any]:
        rank = _OVER.index(self.outcome) + 1 if self.over else 0
        version = rank * 2**32 + self.attempts
        said = (self.id, self.state, self.target, self.outcome, self.attempts, self.status, self.answer, self.tried_at)
        return [*said, version]


def _untold(client: Client, target: str, since: datetime) -> list[tuple[Alert, dict[State, _Delivery]]]:
    """Alerts that a target has not had all messages of, oldest first, with what became of those so far; of them those
    that speak of a moment since then."""
    columns = ", ".join((*_DELIVERY[:-2], "toUnixTimestamp64Milli(tried_at)"))
    parameters = {"target": target, "since": since}
    rows = client.query(
        f"SELECT {_SELECTED} FROM (SELECT * FROM alerts FINAL) AS found LEFT ANTI JOIN ("
        "SELECT id, max(state) AS state FROM alert_deliveries FINAL "
        "WHERE target = {target:String} AND outcome != 'retrying' GROUP BY id"
        ") AS told USING (id, state) WHERE greatest(at, resolved_at) >= {since:DateTime64(3, 'UTC')} ORDER BY at, id",
        parameters,
    ).result_rows
    alerts = [_alert(row) for row in rows]
    told: dict[str, dict[State, _Delivery]] = defaultdict(dict)
    for row in client.query(
        f"SELECT {columns} FROM alert_deliveries FINAL "
        "WHERE target = {target:String} AND has({ids:Array(String)}, id)",
        {"target": target, "ids": [alert.id for alert in alerts]},
    ).result_rows:
        *values, tried_at = row
        delivery = _Delivery(*[*values, _moment(tried_at)])
        told[delivery.id][delivery.state] = delivery
    return [(alert, told[alert.id]) for alert in alerts]


def _messages(alert: Alert) -> tuple[State, ...]:
    """What there is to tell about an alert, in order."""
    return _STATES[: _STATES.index(alert.state) + 1]


def _alert(row: Sequence[Any]) -> Alert:
    values = dict(zip(_ALERT, row, strict=True))
    return Alert(**(values | {"advice": tuple(values["advice"])}))


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)
