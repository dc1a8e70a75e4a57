"""Metrics of the pipeline itself: each declared once, with its unit, its meaning, and what to do about it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True)
class Metric:
    """A metric: name (in Prometheus with the prefix ``fanpulse_``), kind, unit, labels, meaning, what to do."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    todo: str

    @property
    def stored(self) -> tuple[str, ...]:
        """Its names in the table ``pipeline_metrics``: a histogram has a count, a sum and a highest observation."""
        return tuple(self.name + part for part in _PARTS) if self.kind == "histogram" else (self.name,)


_PARTS = ("_count", "_sum", "_max")
_TP = ("topic", "partition")

METRICS: tuple[Metric, ...] = (
    Metric("records_total", "counter", "records", _TP, "Records read from Kafka.", "Flat while lag grows: see lag."),
    Metric(
        "events_total",
        "counter",
        "events",
        _TP,
        "Events accepted: stored, with repeats and late ones.",
        "Compare with records.",
    ),
    Metric(
        "duplicates_total",
        "counter",
        "events",
        _TP,
        "Events seen before at a lower offset.",
        "Harmless to figures. A rise means a producer sends again: look at its retries.",
    ),
    Metric(
        "late_total",
        "counter",
        "events",
        _TP,
        "Events beyond the late horizon: stored, not in the figures yet.",
        "Run fanpulse repair for their days; find out which producer is behind.",
    ),
    Metric(
        "dead_letters_total",
        "counter",
        "records",
        (*_TP, "reason"),
        "Records refused, by reason.",
        "Read them in the table dead_letters; tell whoever sends them.",
    ),
    Metric(
        "extra_fields_total",
        "counter",
        "fields",
        _TP,
        "Fields that no contract names; dropped.",
        "A producer is ahead of the contracts: add the field as optional, or tell them.",
    ),
    Metric(
        "facts_total",
        "counter",
        "facts",
        ("partition",),
        "Facts about fans read from the fan log, ticks among them.",
        "None while interactions come: see the lag of fan_facts.",
    ),
    Metric(
        "slow_path_total",
        "counter",
        "records",
        _TP,
        "Records read one by one because their form was not canonical.",
        "Only a matter of speed: send compact JSON without nulls and unknown fields.",
    ),
    Metric(
        "rows_total",
        "counter",
        "rows",
        ("agent", "table"),
        "Rows written to ClickHouse.",
        "None while records come: see retries.",
    ),
    Metric(
        "flush_seconds",
        "histogram",
        "seconds",
        ("agent",),
        "Time to store one flush, rows and checkpoint.",
        "Above a few seconds: ClickHouse is loaded or merging; look at its parts and memory.",
    ),
    Metric(
        "retries_total",
        "counter",
        "tries",
        ("table", "reason"),
        "Inserts that ClickHouse did not take and that were tried again.",
        "A rising count: ClickHouse is away or overloaded. Nothing is lost meanwhile, lag grows.",
    ),
    Metric(
        "lag",
        "gauge",
        "records",
        _TP,
        "Records in Kafka that are not yet in ClickHouse.",
        "Growing for minutes: add workers (up to the number of partitions), or see flush time and retries.",
    ),
    Metric(
        "stored_offset",
        "gauge",
        "offset",
        ("agent", *_TP),
        "Next offset that is not yet in ClickHouse.",
        "Standing still while lag grows: the worker hangs; its watchdog will restart it.",
    ),
    Metric(
        "newest_event_seconds",
        "gauge",
        "seconds",
        _TP,
        "Newest event time stored, seconds since the epoch, UTC.",
        "Far behind the clock with no lag: nothing is sent.",
    ),
    Metric(
        "watermark_seconds",
        "gauge",
        "seconds",
        _TP,
        "Event time up to which the partition is taken to be complete, seconds since the epoch, UTC.",
        "Standing still while records come: their event times are behind; look at the late events.",
    ),
    Metric(
        "delay_seconds",
        "gauge",
        "seconds",
        _TP,
        "From the broker's taking a record to its being in the tables of all agents, of the newest one stored.",
        "Normally the flush interval and a flush. More: there is lag, or there was.",
    ),
    Metric(
        "dedupe_ids",
        "gauge",
        "ids",
        _TP,
        "Event ids remembered to tell repeats.",
        "Near FANPULSE_DEDUPE_LIMIT: add workers.",
    ),
    Metric(
        "state_rows",
        "gauge",
        "rows",
        ("agent", *_TP),
        "Snapshot rows in memory that may still change.",
        "Growing without end: event times are scattered, or the watermark stands still.",
    ),
    Metric(
        "stage_seconds_total",
        "counter",
        "seconds",
        ("stage",),
        "CPU time by stage of the work: decode, the fold of each agent, and flush (rows to ClickHouse).",
        "Shows where the CPU goes; what is missing to the process's own is Kafka, Faust and polars' thread.",
    ),
    Metric(
        "recovery_seconds",
        "gauge",
        "seconds",
        (),
        "How long the last recovery from ClickHouse took.",
        "Seconds; grows with state.",
    ),
    Metric(
        "partitions",
        "gauge",
        "partitions",
        (),
        "Partitions that the worker holds, over all topics.",
        "0 for long: there are more workers than partitions, or it cannot restore them; see its log.",
    ),
    Metric(
        "assignments_total",
        "counter",
        "assignments",
        (),
        "Times that the worker was given partitions: at its start and at every rebalance.",
        "Rising by itself: workers come and go, or are silent for longer than FANPULSE_SESSION_TIMEOUT.",
    ),
    Metric(
        "started_seconds",
        "gauge",
        "seconds",
        (),
        "When the process started, seconds since the epoch, UTC.",
        "Changes by itself: it was started again; its log and pipeline_restarts say why.",
    ),
    Metric(
        "memory_bytes",
        "gauge",
        "bytes",
        (),
        "Resident memory of the process.",
        "Growing without end: see dedupe_ids and state_rows; more workers share them.",
    ),
    Metric(
        "cpu_seconds_total",
        "counter",
        "seconds",
        (),
        "CPU time of the process, user and system, without loading the program.",
        "Near a second a second with lag: add workers.",
    ),
    Metric(
        "alerts_total",
        "counter",
        "alerts",
        ("kind", "state"),
        "Alerts opened and resolved.",
        "fanpulse alerts shows them. Many at once: look at the figures of that day as a whole, then at the thresholds.",
    ),
    Metric(
        "alerts_open",
        "gauge",
        "alerts",
        ("kind",),
        "Alerts that are open, as the worker knows that looks for them; 0 of others.",
        "Each says what to do: fanpulse alerts.",
    ),
    Metric(
        "alerts_waiting",
        "gauge",
        "messages",
        (),
        "Messages about alerts that webhooks have not taken yet.",
        "Above 0 for minutes: the table alert_deliveries has what they answer; fanpulse alerts test tries them.",
    ),
    Metric(
        "alert_deliveries_total",
        "counter",
        "messages",
        ("target", "outcome"),
        "What became of messages about alerts, every try: delivered, retrying, gave_up, too_old.",
        "gave_up: nobody was told. Mend the webhook, and look at fanpulse alerts.",
    ),
    Metric(
        "alert_look_seconds",
        "gauge",
        "seconds",
        (),
        "How long the last look for alerts took, with telling others.",
        "Near FANPULSE_ALERT_INTERVAL: ClickHouse is loaded, or a webhook hangs.",
    ),
    Metric(
        "exits_total",
        "counter",
        "exits",
        ("code",),
        "The worker leaves, with an exit code. In the table alone: the process is gone before anyone could ask it.",
        "1: its log says what failed. 2 and 3: it waits for you.",
    ),
)
"""All metrics, in the order in which they are documented."""

PREFIX = "fanpulse_"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a series at a moment; ``counter``: it only grows while the process lives."""

    name: str
    labels: dict[str, str]
    value: float
    counter: bool


class Metrics:
    """The metrics of one worker, by name. Safe from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._by_name: dict[str, Counter | Gauge | Histogram] = {}
        self._highest: dict[tuple[str, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        make = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        for metric in METRICS:
            help_text = f"{metric.meaning} Unit: {metric.unit}. {metric.todo}"
            self._by_name[metric.name] = make[metric.kind](
                PREFIX + metric.name, help_text, metric.labels, registry=self.registry
            )

    def count(self, name: str, amount: float, *labels: object) -> None:
        """Adds to a counter."""
        metric = self._by_name[name]
        assert isinstance(metric, Counter)
        (metric.labels(*labels) if labels else metric).inc(amount)

    def set(self, name: str, value: float, *labels: object) -> None:
        """Sets a gauge."""
        metric = self._by_name[name]
        assert isinstance(metric, Gauge)
        (metric.labels(*labels) if labels else metric).set(value)

    def observe(self, name: str, value: float, *labels: object) -> None:
        """Adds an observation to a histogram."""
        metric = self._by_name[name]
        assert isinstance(metric, Histogram)
        (metric.labels(*labels) if labels else metric).observe(value)
        series = name, tuple(map(str, labels))
        with self._lock:
            self._highest[series] = max(value, self._highest.get(series, value))

    def forget_partitions(self) -> None:
        """Drops the gauges of partitions: who holds them now says what they are."""
        for metric in METRICS:
            if metric.kind == "gauge" and "partition" in metric.labels:
                self._by_name[metric.name].clear()

    def samples(self) -> Iterator[Sample]:
        """Every value now, under its name in ``pipeline_metrics``; the highest observation of a histogram is that
        since the last call, so only one may call it."""
        with self._lock:
            highest, self._highest = self._highest, {}
        for metric in METRICS:
            for family in self._by_name[metric.name].collect():
                for sample in family.samples:
                    name = sample.name.removeprefix(PREFIX)
                    if name in metric.stored:
                        yield Sample(name, sample.labels, sample.value, metric.kind != "gauge")
        for (name, labels), value in highest.items():
            metric = next(metric for metric in METRICS if metric.name == name)
            yield Sample(f"{name}_max", dict(zip(metric.labels, labels, strict=True)), value, False)
