"""Events as columns of integers: what the world computes with, before it becomes text."""

from dataclasses import dataclass

import numpy as np

from generators.draws import Ints
from schemas.events import KINDS

FIELDS: dict[str, tuple[str, ...]] = {
    "interactions": (
        "group_id",
        "product_id",
        "content_id",
        "live_id",
        "text",
        "reply_to",
        "pk_opponent",
        "watch_ms",
        "duration_ms",
        "stay_ms",
        "source",
    ),
    "gifts": ("live_id", "gift_type", "quantity", "value_micros", "pk_opponent"),
    "orders": ("order_id", "product_id", "amount_micros", "coupon_micros", "content_id", "live_id", "group_id"),
    "ad_events": ("placement", "bid_micros", "cost_micros", "conversion_type", "value_micros"),
}
"""Fields of each topic beyond the common ones, in an order that agrees with every contract of the topic."""

UNSEEN: dict[str, tuple[str, ...]] = {"ad_events": ("shown_ms", "luck")}
"""Columns that no record has, by topic. Of advertisements: when the one that led to the event was shown (UTC ms), and
the draw that decides whether it was, in parts of ``LUCK`` (``generators.market``)."""
LUCK = 2**32
"""The draws are from 0 to this, not included."""

KIND_NAMES: dict[str, list[str]] = {topic: list(kinds) for topic, kinds in KINDS.items()}
"""Kinds of each topic; a kind is its index here."""

CODES: dict[str, dict[str, int]] = {
    topic: {kind: code for code, kind in enumerate(kinds)} for topic, kinds in KIND_NAMES.items()
}
"""Index of each kind in ``KIND_NAMES``."""

COMMON = ("event_time", "fan", "creator", "kind", "slot", "number")
"""Columns of every topic."""


@dataclass(frozen=True)
class Columns:
    """Events of one topic; one integer array a column, all of one length, -1 where a field is absent.

    ``event_time`` UTC ms; ``fan``, ``creator``, ``kind`` and the identifiers are numbers that ``encode`` names;
    ``slot`` and ``number`` say where the event was made and are what its ``event_id`` is built from.
    """

    topic: str
    values: dict[str, Ints]

    def __len__(self) -> int:
        return len(self.values["event_time"])

    def __getitem__(self, name: str) -> Ints:
        return self.values[name]

    def take(self, rows: Ints | slice) -> "Columns":
        """Some rows, in the order given."""
        return Columns(self.topic, {name: column[rows] for name, column in self.values.items()})

    def kinds(self) -> dict[str, int]:
        """Number of events of each kind that occurs."""
        counts = np.bincount(self.values["kind"], minlength=len(KIND_NAMES[self.topic])).tolist()
        return {kind: count for kind, count in zip(KIND_NAMES[self.topic], counts, strict=True) if count}


def names(topic: str) -> tuple[str, ...]:
    """All columns of a topic."""
    return (*COMMON, *FIELDS[topic], *UNSEEN.get(topic, ()))


def join(topic: str, parts: list[Columns]) -> Columns:
    """Several columns, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Columns(topic, {name: np.empty(0, dtype=np.int64) for name in names(topic)})
    return Columns(topic, {name: np.concatenate([p.values[name] for p in parts]) for name in parts[0].values})


class Draft:
    """Collects events of one topic, piece by piece."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._parts: list[dict[str, Ints | int]] = []
        self._sizes: list[int] = []

    def add(self, kind: str | Ints, event_time: Ints, fan: Ints, creator: Ints, **fields: Ints | int) -> None:
        """Adds events; fields not given are absent. A single integer stands for all rows."""
        if len(event_time):
            code = CODES[self._topic][kind] if isinstance(kind, str) else kind
            self._parts.append({"event_time": event_time, "fan": fan, "creator": creator, "kind": code, **fields})
            self._sizes.append(len(event_time))

    def columns(self, slot: int, from_ms: int) -> Columns:
        """All events from ``from_ms`` on, numbered in the order in which they were added."""
        total = sum(self._sizes)
        values: dict[str, Ints] = {}
        born = {"slot": np.full(total, slot, dtype=np.int64), "number": np.arange(total, dtype=np.int64)}
        for name in names(self._topic):
            if name in born:
                values[name] = born[name]
                continue
            column = np.full(total, -1, dtype=np.int64)
            at = 0
            for part, size in zip(self._parts, self._sizes, strict=True):
                if name in part:
                    column[at : at + size] = part[name]
                at += size
            values[name] = column
        made = Columns(self._topic, values)
        begun = values["event_time"] >= from_ms
        return made if bool(begun.all()) else made.take(np.flatnonzero(begun))
