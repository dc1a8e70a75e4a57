"""Metrics of the pipeline itself: each declared once, with its unit, its meaning, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True)
class Metric:
    """A metric: Prometheus name (with the prefix ``fanpulse_``), kind, unit, labels, meaning, what to do."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    todo: str


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
)
"""All metrics, in the order in which they are documented."""

PREFIX = "fanpulse_"


class Metrics:
    """The metrics of one worker, by name: ``metrics["lag"].labels(...).set(...)``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._by_name: dict[str, Counter | Gauge | Histogram] = {}
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
