"""Bad weather: records sent twice, sent late, and records that no contract accepts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from generators.config import WorldConfig
from generators.draws import Ints, stream, whole
from generators.encode import Encoded
from schemas.events import FUTURE_MS
from schemas.topics import SOURCES

LATEST_MS = 6 * 3_600_000
"""The latest that a late event is sent after it happened, ms."""

LABELS: list[str] = ["event", "late", "duplicate"]
"""Labels of records that a contract accepts; the reasons of ``DAMAGES`` follow."""


@dataclass(frozen=True)
class Records:
    """Records of one topic and partition in the order sent.

    ``sent_ms``: the producer's time, UTC. ``keys``, ``values``: what crosses Kafka (a value may be None).
    ``labels``: index into ``LABELS``, what each record is. ``kinds``: index into ``columns.KIND_NAMES``, the kind of
    the event that the record is or was made from.
    """

    sent_ms: Ints
    keys: list[bytes]
    values: list[bytes | None]
    labels: Ints
    kinds: Ints

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def plain(encoded: Encoded) -> "Records":
        """Every event sent when it happens."""
        labels = np.zeros(len(encoded), dtype=np.int64)
        return Records(encoded.times, encoded.keys, list(encoded.values), labels, encoded.kinds)

    def between(self, low: int, high: int) -> "Records":
        """Records ``low`` to ``high`` (exclusive). Arrays are copied: a view would keep all of the others in memory."""
        if low == 0 and high == len(self):
            return self
        return Records(
            self.sent_ms[low:high].copy(),
            self.keys[low:high],
            self.values[low:high],
            self.labels[low:high].copy(),
            self.kinds[low:high].copy(),
        )

    def in_order(self) -> "Records":
        """Sorted by the time of sending; what is sent at the same time stays as it was."""
        order = np.argsort(self.sent_ms, kind="stable")
        rows = order.tolist()
        return Records(
            self.sent_ms[order],
            [self.keys[r] for r in rows],
            [self.values[r] for r in rows],
            self.labels[order],
            self.kinds[order],
        )

    def counts(self) -> dict[str, int]:
        """Number of records of each label that occurs."""
        found = np.bincount(self.labels, minlength=len(LABELS)).tolist()
        return {label: count for label, count in zip(LABELS, found, strict=True) if count}


def empty() -> Records:
    """No records."""
    nothing = np.empty(0, dtype=np.int64)
    return Records(nothing, [], [], nothing, nothing)


def merge(parts: list[Records]) -> Records:
    """Several runs of records, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return empty()
    return Records(
        np.concatenate([p.sent_ms for p in parts]),
        [key for p in parts for key in p.keys],
        [value for p in parts for value in p.values],
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.kinds for p in parts]),
    )


def _edited(change: Callable[[dict[str, Any], int], None]) -> Callable[[bytes, int], bytes]:
    def edit(value: bytes, sent_ms: int) -> bytes:
        event = json.loads(value)
        change(event, sent_ms)
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()

    return edit


def _wrong_type(event: dict[str, Any], sent_ms: int) -> None:
    event["event_time"] = str(event["event_time"])


def _missing_field(event: dict[str, Any], sent_ms: int) -> None:
    del event["fan_id"]


def _future_time(event: dict[str, Any], sent_ms: int) -> None:
    event["event_time"] = sent_ms + 400 * FUTURE_MS


def _negative_amount(event: dict[str, Any], sent_ms: int) -> None:
    names = ("amount_micros", "value_micros", "cost_micros", "bid_micros", "watch_ms")
    amount = next((name for name in names if name in event), "event_time")
    event[amount] = -1 - abs(event[amount])


def _huge_text(event: dict[str, Any], sent_ms: int) -> None:
    event["text"] = "长" * 350_000


def _unknown_kind(event: dict[str, Any], sent_ms: int) -> None:
    event["kind"] = "teleport"


def _fractional_time(event: dict[str, Any], sent_ms: int) -> None:
    event["event_time"] = event["event_time"] + 0.5


def _seconds_for_ms(event: dict[str, Any], sent_ms: int) -> None:
    event["event_time"] = event["event_time"] // 1000


def _unknown_platform(event: dict[str, Any], sent_ms: int) -> None:
    event["platform"] = "DOUYIN"


def _space_in_id(event: dict[str, Any], sent_ms: int) -> None:
    event["creator_id"] = "two words"


def _long_id(event: dict[str, Any], sent_ms: int) -> None:
    event["fan_id"] = "f" * 65


DAMAGES: dict[str, Callable[[bytes, int], bytes | None]] = {
    "broken_json": lambda value, _: value.replace(b":", b";", 1),
    "truncated": lambda value, _: value[: len(value) * 2 // 3],
    "wrong_type": _edited(_wrong_type),
    "missing_field": _edited(_missing_field),
    "future_time": _edited(_future_time),
    "negative_amount": _edited(_negative_amount),
    "huge_text": _edited(_huge_text),
    "invalid_utf8": lambda value, _: value.replace(b'"platform":"', b'"platform":"\xff\xfe', 1),
    "null_value": lambda value, _: None,
    "empty_value": lambda value, _: b"",
    "unknown_kind": _edited(_unknown_kind),
    "deep_nesting": lambda value, _: b"[" * 20_000 + b"]" * 20_000,
    "not_an_object": lambda value, _: b"[" + value + b"]",
    "fractional_time": _edited(_fractional_time),
    "seconds_for_ms": _edited(_seconds_for_ms),
    "unknown_platform": _edited(_unknown_platform),
    "space_in_id": _edited(_space_in_id),
    "long_id": _edited(_long_id),
}
"""How a good value is spoilt, by reason: (value, time of sending in UTC ms) to what is sent instead."""

LABELS.extend(DAMAGES)
_SPOILT = list(DAMAGES.items())
# A megabyte is sent seldom: at equal shares these records alone would fill the log.
_HUGE_SHARE = 0.05


class Weather:
    """Spoils records by the shares of a configuration."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config

    def spoil(self, encoded: Encoded, topic: str, partition: int, slot: int, rows: Ints, of: int) -> Records:
        """Records of all events of a slot, with the repeats and the broken ones; not in order of sending.

        ``encoded`` is all of the slot in order of time: the ``rows`` of ``of`` events that there may be. What happens
        to one depends neither on who asks nor on which of the others there are.
        """
        config = self._config
        rng = stream(config.seed, "weather", SOURCES.index(topic), partition, slot)
        luck = rng.random((7, of))[:, rows]
        late = luck[0] < config.late
        # Seconds for most, hours for some: even on the logarithm, 5 s to 6 h.
        delay = whole(np.exp(np.log(5_000) + luck[1] * (np.log(LATEST_MS - 600_000) - np.log(5_000))))
        sent = encoded.times + np.where(late, delay, 0)
        again = np.flatnonzero(luck[2] < config.duplicates)
        wait = 200 + whole(np.exp(luck[3][again] * np.log(590_000)))
        spoilt = np.flatnonzero(luck[4] < config.malformed)
        which = whole(luck[5][spoilt] * len(_SPOILT))
        huge = list(DAMAGES).index("huge_text")
        rare = (which == huge) & (luck[6][spoilt] >= _HUGE_SHARE)
        which = np.where(rare, 0, which)
        broken_at = sent[spoilt] + 1
        values: list[bytes | None] = list(encoded.values)
        values += [encoded.values[row] for row in again.tolist()]
        for row, damage, at in zip(spoilt.tolist(), which.tolist(), broken_at.tolist(), strict=True):
            values.append(_SPOILT[damage][1](encoded.values[row], at))
        keys = encoded.keys + [encoded.keys[row] for row in (*again.tolist(), *spoilt.tolist())]
        return Records(
            np.concatenate((sent, sent[again] + wait, broken_at)),
            keys,
            values,
            np.concatenate((late.astype(np.int64), np.full(len(again), 2), 3 + which)).astype(np.int64),
            np.concatenate((encoded.kinds, encoded.kinds[again], encoded.kinds[spoilt])),
        )
