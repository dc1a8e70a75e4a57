"""The wiring: which agents there are, and how blocks, folds, ClickHouse and Kafka's offsets hang together."""

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, cast

import mode
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError
from faust.types import TP

from infra.connect import broker_url, clickhouse_client, faust_credentials, kafka_admin
from infra.errors import FanpulseError, InfraError
from infra.home import Home, fan_key
from infra.settings import Settings
from infra.topics import consumer_group
from pipeline import campaign_log, dead_letters, fan_log, touch_log
from pipeline import checkpoint as checkpoints
from pipeline.agent import Agent, FlushPolicy, Keeper
from pipeline.alerting import Alerter
from pipeline.decode import Refused, reasons
from pipeline.dedupe import DedupeFull
from pipeline.fold import Output
from pipeline.folds.ads import Ads
from pipeline.folds.archive import Archive
from pipeline.folds.attribution import Attribution, AttributionPolicy
from pipeline.folds.campaign_facts import CampaignFacts
from pipeline.folds.engagement import Engagement
from pipeline.folds.facts import Facts
from pipeline.folds.lifecycle import Lifecycle
from pipeline.folds.rules import ACTIONS, Rules
from pipeline.folds.touches import Touches
from pipeline.health import Health
from pipeline.log import Batch, Log, PartitionLog
from pipeline.metrics import Metrics
from pipeline.recovery import ARCHIVE, AgentSpec, Cluster, Partition, Recovery
from pipeline.sink import LONGEST_WAIT, Sink, Stopped, transient
from pipeline.stages import StagePolicy
from pipeline.telemetry import Telemetry
from pipeline.transport import BlockApp, BlockConsumer, Delivery
from pipeline.verdict import NEVER
from schemas.topics import LOGS, SOURCES

log = logging.getLogger(__name__)

FACTS = "facts"
"""The agent that writes the fan log."""
TOUCHES = "touches"
"""The agent that writes the touch log."""
CAMPAIGN_FACTS = "campaign_facts"
"""The agent that writes the campaign log."""


def _facts(settings: Settings, topic: str, partition: int) -> Facts:
    return Facts(settings.database, topic, partition, settings.time_zone, tuple(settings.no_activity.split(",")))


def _lifecycle(settings: Settings, topic: str, partition: int) -> Lifecycle:
    return Lifecycle(
        partition,
        settings.time_zone,
        StagePolicy(
            interval=settings.active_interval,
            churn_after=settings.churn_after,
            no_activity=tuple(settings.no_activity.split(",")),
        ),
    )


def _touches(settings: Settings, topic: str, partition: int) -> Touches:
    return Touches(settings.database, topic, partition)


def _attribution(settings: Settings, topic: str, partition: int) -> Attribution:
    return Attribution(
        AttributionPolicy(
            click_window=settings.click_window * touch_log.HOUR_MS,
            view_window=settings.view_window * touch_log.HOUR_MS,
            late=settings.late_horizon * 1000,
        )
    )


def _campaign_facts(settings: Settings, topic: str, partition: int) -> CampaignFacts:
    return CampaignFacts(settings.database, partition, settings.partitions)


def _rules(settings: Settings, topic: str, partition: int) -> Rules:
    return Rules(settings.database, partition, settings.partitions)


AGENTS: tuple[AgentSpec, ...] = (
    AgentSpec(ARCHIVE, SOURCES, lambda settings, topic, partition: Archive(topic)),
    AgentSpec("engagement", ("interactions",), lambda settings, *where: Engagement(settings.time_zone), ARCHIVE),
    AgentSpec("ads", ("ad_events",), lambda settings, *where: Ads(), ARCHIVE),
    AgentSpec(FACTS, SOURCES, _facts, ARCHIVE),
    AgentSpec("lifecycle", (fan_log.TOPIC,), _lifecycle),
    AgentSpec(TOUCHES, tuple(touch_log.KINDS), _touches, ARCHIVE),
    AgentSpec("attribution", (touch_log.TOPIC,), _attribution),
    AgentSpec(CAMPAIGN_FACTS, ("ad_events",), _campaign_facts, ARCHIVE),
    AgentSpec("rules", (campaign_log.TOPIC,), _rules),
)
"""Every agent of a worker, the archive first: it is closed before those that follow it."""
READ = (*SOURCES, *LOGS)
"""Topics that agents read."""

TICK = 0.05
"""Seconds between looks at what is due."""
LOOK = 1.0
"""Seconds between looks at whether anything comes, and whether anything is stored."""
ANSWER = 60.0
"""Seconds that Kafka may take to say where a log ends."""
FAREWELL = 8.0
"""Seconds that a worker that has stored everything takes to leave Kafka at most."""
SENT_TOGETHER = 10_000
"""Records for other systems that are on their way at once."""


class Worker:
    """One worker: the Faust application, its agents, and what they share.

    Blocks come from ``BlockTransport``; each agent folds them and stores rows, then a checkpoint, then reports; the
    lowest report of a partition is committed to Kafka. Where to start is asked of ClickHouse at every assignment.

    ``leave(exit code, reason)`` ends the process at once.
    """

    def __init__(self, settings: Settings, index: int, metrics: Metrics, leave: Callable[[int, str], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        # Before anything else may fail: a start is seen even if it comes to nothing.
        self._telemetry = Telemetry(settings, index, metrics)
        self._telemetry.start()
        self._leave = self._telemetry.leaving(leave)
        self._prefix = settings.topic_prefix
        try:
            self._cluster = cluster(settings)
        except FanpulseError as error:
            self._telemetry.stop(1 if isinstance(error, InfraError) else error.exit_code)
            raise
        self._logs: dict[Partition, Log] = {}
        self._quiet: dict[Partition, tuple[int, float]] = {}
        self._reports: dict[TP, dict[str, int]] = {}
        self._ends: dict[Partition, int] = {}
        self._appended: dict[Partition, deque[tuple[int, int]]] = {}
        self._refused_rows: dict[Partition, dict[int, str]] = {}
        self._told_at = -math.inf
        self._assignment = 0
        self._restoring = asyncio.Lock()
        self._progress_at = time.monotonic()
        self._blocked_at = -math.inf
        self._seen = self._refused = 0
        self._stopping = threading.Event()
        self._sink = sink = Sink(self._connect, self._stopping, self._on_wait)
        self._recovery = Recovery(settings, AGENTS, self._cluster, fan_key(settings), self._connect, self._on_batch)
        self.app = application(settings, index)
        self.app.offsets = self
        self._dead_letters = self._topic("dead_letters")
        policy = FlushPolicy(settings.flush_interval, settings.flush_rows)
        self._agents = []
        for spec in AGENTS:
            keeper = Keeper(self._send_dead_letters, self._set_aside) if spec.name == ARCHIVE else None
            agent = Agent(spec, self._logs, sink, policy, metrics, self._identity, self._report, self._send, keeper)
            self._agents.append(agent)
            self.app.agent(self._topic(*spec.topics), name=spec.name, concurrency=1)(self._runner(agent))
        self.app.on_partitions_revoked.connect(cast(Any, self._revoked))
        self.app.on_before_shutdown.connect(cast(Any, self._shutting_down))
        self.app.task(self._watch)
        self.app.service(_service(Health(settings, index, metrics, self.status), self._leave))
        self._alerter = Alerter(settings, metrics, lambda: (fan_log.TOPIC, 0) in self._logs)
        self._alerter.start()

    def _topic(self, *names: str) -> Any:
        return self.app.topic(
            *(self._prefix + name for name in names), key_serializer="raw", value_serializer="raw", acks=False
        )

    # What the consumer asks for.

    async def positions(self, consumer: BlockConsumer) -> dict[TP, int]:
        """Where to read on in every assigned partition, restored; empty if the assignment changes meanwhile."""
        async with self._restoring:
            assignment, began = self._assignment, time.monotonic()
            held = {tp: self._partition(tp) for tp in consumer.assignment() if self._partition(tp)[0] in READ}
            fresh = {tp: where for tp, where in held.items() if where not in self._logs}
            if fresh:
                earliest = await consumer.earliest_offsets(*fresh)
                loop, end = asyncio.get_running_loop(), {}

                def ends() -> dict[Partition, int]:
                    asked = asyncio.run_coroutine_threadsafe(consumer.highwaters(*fresh), loop).result(ANSWER)
                    end.update({self._partition(TP(*tp)): offset for tp, offset in asked.items()})
                    return end

                begin = {self._partition(TP(*tp)): offset for tp, offset in earliest.items()}
                logs = await self._restore(set(fresh.values()), begin, ends)
                if assignment != self._assignment:
                    return {}
                self._logs.update(logs)
                # Until the first fetch, what lags is known from here: a fetch that never comes is noticed.
                self._ends.update(end)
                for partition_log in logs.values():
                    for agent, offset in partition_log.checkpoints.items():
                        self._set_report(agent, partition_log, offset)
                    self._set_newest(partition_log, max(partition_log.newest.values()))
                self._metrics.count("assignments_total", 1)
                self._metrics.set("recovery_seconds", time.monotonic() - began)
                log.info("restored %d partitions in %.2f s", len(logs), time.monotonic() - began)
            elif not held:
                log.info("restored 0 partitions: other workers have them all")
            self._progress_at = time.monotonic()
            return {tp: self._logs[where].position for tp, where in held.items()}

    async def _restore(
        self, held: set[Partition], earliest: dict[Partition, int], ends: Callable[[], dict[Partition, int]]
    ) -> dict[Partition, Log]:
        """The logs of partitions, from ClickHouse, waiting for it where it is away."""
        while True:
            try:
                return await asyncio.to_thread(self._recovery.load, held, earliest, ends, self._refused_rows)
            except Exception as error:
                if not transient(error):
                    log.exception("cannot restore")
                    code = error.exit_code if isinstance(error, FanpulseError) else 1
                    self._leave(code, " ".join(str(error).split())[:600])
                    raise
                self._on_wait("checkpoints", type(error).__name__)
                log.warning("cannot restore yet: %s", error)
                await asyncio.sleep(1.0)

    def reader(self, tp: TP) -> Log | None:
        """The log of a partition that is held now."""
        return self._logs.get(self._partition(tp))

    def reported(self) -> Iterable[TP]:
        """Partitions that agents have reported for."""
        return list(self._reports)

    def committable(self, tp: TP) -> int | None:
        """The lowest offset that all agents of the topic have stored; None if one has not reported."""
        reports = self._reports.get(tp, {})
        expected = sum(self._partition(tp)[0] in agent.topics for agent in AGENTS)
        return min(reports.values()) if len(reports) == expected else None

    # What happens.

    def _runner(self, agent: Agent) -> Callable[[AsyncIterable[Delivery]], Any]:
        async def run(stream: AsyncIterable[Delivery]) -> None:
            # Faust counts an event whose agent raised as done, so nothing may be raised to it.
            try:
                await agent.run(stream)
            except DedupeFull as error:
                self._leave(3, str(error))
            except Exception as error:
                log.exception("agent %s failed", agent.name)
                self._leave(1, f"agent {agent.name} failed: {error}")

        return run

    async def _revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        # Faust empties every queue at a rebalance, also those of partitions that stay: all begin anew.
        self._forget()

    def _forget(self) -> None:
        self._assignment += 1
        self._logs.clear()
        self._reports.clear()
        self._appended.clear()
        self._quiet.clear()
        self._metrics.forget_partitions()

    async def _set_aside(self, refused: Mapping[Partition, Mapping[int, str]]) -> None:
        """Reads on from the checkpoints, with records that ClickHouse refuses taken for dead letters: what was judged
        after them counted them in."""
        assignment = self._assignment
        for where, offsets in refused.items():
            self._refused_rows.setdefault(where, {}).update(offsets)
            log.warning("%s[%d]: %d records are set aside, for %s", *where, len(offsets), next(iter(offsets.values())))
        # Else agents that follow would stand still for as long as this happens again and again.
        await asyncio.gather(*(agent.flush() for agent in self._agents if agent.name != ARCHIVE))
        if assignment == self._assignment:
            self._forget()
            cast(BlockConsumer, self.app.consumer).begin_anew()

    async def _shutting_down(self, app: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(5.0):
                for agent in self._agents:
                    await agent.flush()
            self._measure()
        except (TimeoutError, Exception) as error:
            log.warning("stopped without a last flush (%s); the next start computes it again", type(error).__name__)
        self._stopping.set()
        self._alerter.stop()
        await asyncio.to_thread(self._telemetry.stop, int(self.app.crashed))
        # What is left is to take leave of Kafka, which may be away; nothing depends on it.
        end = threading.Timer(FAREWELL, self._leave, (int(self.app.crashed), "Kafka does not take our leave"))
        end.daemon = True
        end.start()

    async def _watch(self) -> None:
        """Starts what is due, and ends the worker when it fails or makes no progress."""
        checked = 0.0
        while not self.app.should_stop:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            try:
                for agent in self._agents:
                    agent.tick(now)
            except Exception as error:
                log.exception("flush failed")
                self._leave(1, f"a flush failed: {error}")
                return
            if now - checked < LOOK:
                continue
            checked = now
            self._tell_time(now)
            lag = self._measure()
            reading = cast(BlockConsumer, self.app.consumer).reading
            if (not lag and reading) or self._sink.busy or now - self._blocked_at < 2 * LONGEST_WAIT:
                self._progress_at = now
            elif self._logs and now - self._progress_at > self._settings.watchdog:
                self._leave(
                    1,
                    f"{lag} records wait, none was stored for {self._settings.watchdog:.0f} s: leaving to be restarted",
                )
                return

    def _measure(self) -> int:
        """Sets the gauges; returns the whole lag."""
        total = 0
        consumer = self.app.consumer
        for (topic, partition), partition_log in list(self._logs.items()):
            tp = TP(self._prefix + topic, partition)
            stored = self.committable(tp) or 0
            try:
                end = consumer.highwater(tp)
            except AssertionError:
                # aiokafka's word for a partition that a rebalance has just taken away.
                continue
            lag = max((end or 0) - stored, self._ends[topic, partition] - stored, 0)
            total += lag
            self._metrics.set("lag", lag, topic, partition)
            if not isinstance(partition_log, PartitionLog):
                continue
            self._metrics.set("dedupe_ids", len(partition_log.verdicts.index), topic, partition)
            if partition_log.verdicts.newest > NEVER:
                self._metrics.set("watermark_seconds", partition_log.verdicts.watermark / 1000, topic, partition)
        self._metrics.set("partitions", len(self._logs))
        return total

    def _tell_time(self, now: float) -> None:
        """Where everything of a source is stored and nothing comes any more, the wall clock says how far time is: as it
        was when Kafka last said that nothing had come, for while Kafka is away nobody knows."""
        if now - self._told_at > max(self._settings.idle_after, 2 * LOOK):
            # The process stood still, and who knows what came meanwhile.
            self._quiet.clear()
        self._told_at = now
        consumer = cast(BlockConsumer, self.app.consumer)
        for where, partition_log in list(self._logs.items()):
            if not isinstance(partition_log, PartitionLog):
                continue
            position, since = self._quiet.get(where, (-1, now))
            if position != partition_log.position:
                position, since = self._quiet[where] = partition_log.position, now
            tp = TP(self._prefix + where[0], where[1])
            try:
                # In this order: an answer that comes between them is of later.
                heard, end = consumer.heard_at(tp), consumer.highwater(tp)
            except AssertionError:
                # aiokafka's word for a partition that a rebalance has just taken away.
                continue
            if heard is None:
                continue
            wall = int((heard - self._settings.allowed_lateness) * 1000)
            for agent in self._agents:
                fold = partition_log.folds.get(agent.name)
                if not isinstance(fold, Facts | Touches | CampaignFacts):
                    continue
                behind = partition_log.stored[agent.name] < max(position, end or 0, self._ends[where])
                if behind or now - since < self._settings.idle_after:
                    continue
                if isinstance(fold, Touches):
                    if fold.quiet(wall):
                        agent.pass_time(partition_log, None)
                    continue
                newest = partition_log.newest[agent.name]
                reached = max(wall, partition_log.reached(newest) or NEVER) if newest > NEVER else None
                if fold.due(reached):
                    agent.pass_time(partition_log, reached)

    def _on_batch(self, partition_log: Log, batch: Batch, seconds: float) -> None:
        where = (partition_log.topic, partition_log.partition)
        count = self._metrics.count
        count("stage_seconds_total", seconds, "decode")
        if not isinstance(partition_log, PartitionLog):
            count("facts_total", len(batch.rows), partition_log.partition)
            return
        count("records_total", len(batch.rows) + len(batch.refused), *where)
        if len(batch.rows):
            count("events_total", len(batch.rows), *where)
            count("duplicates_total", int(batch.rows["duplicate"].sum()), *where)
            count("late_total", int(batch.rows["late"].sum()), *where)
        count("extra_fields_total", batch.extra_fields, *where)
        count("slow_path_total", batch.slow, *where)
        for reason, number in reasons(batch.refused).items():
            count("dead_letters_total", number, *where, reason)
        if len(batch.rows) or batch.refused:
            ends = [int(batch.rows["appended"][-1])] if len(batch.rows) else []
            ends += [record.appended for record in batch.refused[-1:]]
            self._appended.setdefault(where, deque()).append((batch.next, max(ends)))
        self._guard(batch)
        held = [each for each in self._logs.values() if isinstance(each, PartitionLog)]
        remembered = sum(len(each.verdicts.index) for each in held)
        if remembered > self._settings.dedupe_limit:
            raise DedupeFull(
                f"{remembered:,} event ids are within the late horizon, more than FANPULSE_DEDUPE_LIMIT="
                f"{self._settings.dedupe_limit}: add workers, raise the limit, or use a shorter FANPULSE_LATE_HORIZON"
            )

    def _guard(self, batch: Batch) -> None:
        """Ends the worker when too large a share is refused: then it is more likely us, or a producer gone wrong."""
        self._seen += len(batch.rows) + len(batch.refused)
        self._refused += len(batch.refused)
        if self._seen < self._settings.dead_letter_window:
            return
        share, self._seen, self._refused = self._refused / self._seen, 0, 0
        if share > self._settings.dead_letter_limit:
            last = batch.refused[-1].detail if batch.refused else "earlier ones"
            self._leave(
                3,
                f"{share:.0%} of the last records were refused, more than FANPULSE_DEAD_LETTER_LIMIT="
                f"{self._settings.dead_letter_limit}: last {last}. Mend the producer, or raise the limit",
            )

    def _report(self, agent: str, partition_log: Log, next_offset: int, newest: int) -> None:
        self._progress_at = time.monotonic()
        self._set_report(agent, partition_log, next_offset)
        self._set_newest(partition_log, newest)
        where = (partition_log.topic, partition_log.partition)
        if agent == ARCHIVE and (aside := self._refused_rows.get(where)):
            # They are dead letters now, which every recovery reads.
            self._refused_rows[where] = {offset: why for offset, why in aside.items() if offset >= next_offset}
        fold = partition_log.folds[agent]
        self._metrics.set("state_rows", len(fold), agent, *where)
        stored = self.committable(TP(self._prefix + partition_log.topic, partition_log.partition)) or 0
        waiting, appended = self._appended.get(where, deque()), None
        while waiting and waiting[0][0] <= stored:
            appended = waiting.popleft()[1]
        if appended is not None:
            self._metrics.set("delay_seconds", max(time.time() - appended / 1000, 0.0), *where)

    def _set_newest(self, partition_log: Log, newest: int) -> None:
        if newest > NEVER and isinstance(partition_log, PartitionLog):
            self._metrics.set("newest_event_seconds", newest / 1000, partition_log.topic, partition_log.partition)

    def _set_report(self, agent: str, partition_log: Log, next_offset: int) -> None:
        tp = TP(self._prefix + partition_log.topic, partition_log.partition)
        self._reports.setdefault(tp, {})[agent] = next_offset
        self._metrics.set("stored_offset", next_offset, agent, partition_log.topic, partition_log.partition)

    async def _send_dead_letters(self, topic: str, partition: int, refused: list[Refused]) -> None:
        sent = [
            await self._dead_letters.send(
                key=dead_letters.key(topic, partition, record),
                value=dead_letters.value(record),
                headers=dead_letters.headers(topic, partition, record),
            )
            for record in refused
        ]
        await asyncio.gather(*sent)

    async def _send(self, outputs: list[Output]) -> None:
        """Sends records in order, and again those that Kafka did not take, for ever; Stopped when the worker stops.

        On a log of agents no record may pass the one before it in its partition, nor an action the one before it of its
        campaign; else they are sent many at a time.
        """
        producer = await self.app.maybe_start_producer()
        at, wait = 0, 0.1
        while at < len(outputs):
            part = _together(outputs[at : at + SENT_TOGETHER])
            try:
                sent = [
                    await producer.send(self._prefix + o.topic, o.key, o.value, o.partition, None, None) for o in part
                ]
                await asyncio.gather(*sent)
                at, wait = at + len(part), 0.1
            except (KafkaError, ProducerSendError) as error:
                if isinstance(error, MessageSizeTooLargeError):
                    raise
                self._on_wait(outputs[at].topic, type(error).__name__)
                log.warning("Kafka did not take %s (%s); trying again", outputs[at].topic, type(error).__name__)
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            if self._stopping.is_set():
                raise Stopped

    def _on_wait(self, table: str, reason: str) -> None:
        self._blocked_at = time.monotonic()
        self._metrics.count("retries_total", 1, table, reason)

    def status(self) -> dict[str, Any]:
        """What health says: partitions held and seconds since something was stored or there was nothing to store."""
        return {
            "partitions": sorted(f"{topic}[{partition}]" for topic, partition in self._logs),
            "seconds_since_progress": round(time.monotonic() - self._progress_at, 1),
            "clickhouse_waiting": time.monotonic() - self._blocked_at < 2 * TICK + 10,
        }

    def _connect(self) -> Any:
        return clickhouse_client(self._settings)

    def _identity(self, agent: str, topic: str) -> tuple[str, str, str]:
        return (
            self._cluster.topic_ids[topic],
            self._cluster.cluster_id,
            checkpoints.parameters(self._settings, agent),
        )

    def _partition(self, tp: TP) -> Partition:
        return tp.topic.removeprefix(self._prefix), tp.partition


def _together(outputs: list[Output]) -> list[Output]:
    """The first outputs, as many as may be on their way at once."""
    seen: set[tuple[str, int | bytes | None]] = set()
    for count, output in enumerate(outputs):
        # Of a campaign's actions the last one holds, so they are in order, too.
        place = output.topic, output.key if output.topic == ACTIONS else output.partition
        if output.topic in (*LOGS, ACTIONS) and place in seen:
            return outputs[:count]
        seen.add(place)
    return outputs


def application(settings: Settings, index: int) -> BlockApp:
    """The Faust application of worker ``index``, configured; it has no agents yet."""
    return BlockApp(
        consumer_group(settings),
        broker=broker_url(settings),
        broker_credentials=faust_credentials(settings),
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=settings.session_timeout / 4,
        broker_commit_interval=1.0,
        # Time without a fetch says nothing: while ClickHouse is away there is none, and a worker that was then sent out
        # of the group would never fetch again, so never come back. The watchdog looks after a worker that hangs.
        broker_max_poll_interval=1e9,
        broker_request_timeout=max(90.0, settings.session_timeout + 1),
        consumer_group_instance_id=f"{os.uname().nodename}-{index}" if settings.static_membership else None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_bytes,
        producer_max_request_size=8 * 1024 * 1024,
        # A buffer smaller than twice the partitions can make agents wait for each other for ever.
        stream_buffer_maxsize=max(settings.buffer_blocks, 2 * len(READ) * settings.partitions),
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        agent_supervisor=mode.CrashingSupervisor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        web_enabled=False,
        autodiscover=False,
        datadir=str(Home(settings.home).run / f"faust-{index}"),
        canonical_url=f"http://worker-{index}.invalid",
    )


def _service(health: Health, leave: Callable[[int, str], None]) -> type[mode.Service]:
    class HealthService(mode.Service):
        async def on_start(self) -> None:
            try:
                await health.start()
            except FanpulseError as error:
                leave(error.exit_code, error.message)

        async def on_stop(self) -> None:
            await health.stop()

    return HealthService


def cluster(settings: Settings) -> Cluster:
    """The Kafka in use. Raises InfraError if it does not answer, FanpulseError if a topic that is read is missing or
    has another number of partitions than the setting."""
    admin = kafka_admin(settings)
    try:
        names = [settings.topic_prefix + topic for topic in READ]
        found = {topic["name"]: topic for topic in admin.describe_topics(names) if not topic["error_code"]}
        if missing := [name for name in names if name not in found]:
            raise FanpulseError(f"Kafka has no topic {missing[0]}: create the topics with: fanpulse topics")
        partitions = {topic: len(found[settings.topic_prefix + topic]["partitions"]) for topic in READ}
        for topic, number in partitions.items():
            if number != settings.partitions:
                raise FanpulseError(
                    f"topic {topic} has {number} partitions, but FANPULSE_PARTITIONS={settings.partitions}: set it to "
                    f"{number}; growing means new topics (FANPULSE_TOPIC_PREFIX) and another FANPULSE_DATABASE",
                    exit_code=3,
                )
        topic_ids = {topic: str(found[settings.topic_prefix + topic]["topic_id"]) for topic in READ}
        return Cluster(str(admin.describe_cluster()["cluster_id"]), topic_ids, partitions)
    finally:
        admin.close()
