"""Which advertisement won each follow and order, worked out from the ground truth in plain Python.

Written from docs/attribution.md and the comments of schemas/migrations; it shares no code with the pipeline.
"""

from collections.abc import Mapping
from typing import Any

from clickhouse_connect.driver.client import Client

from chaos.oracle import Judged
from chaos.tally import Tally, stream
from infra.settings import Settings

COMPARED = ("attributions", "late_touches", "attributed_conversions")
"""Tables and views that this compares: the view shows all that is in the tables."""
_HOUR_MS = 3_600_000
_NAMES = (
    *("platform", "creator_id", "fan", "converted_at", "order_id", "revenue_micros", "refunded_micros", "net_micros"),
    *("touch", "touched_at", "campaign_id", "ad_group_id", "creative_id", "audience", "channel"),
)
_AD = ("campaign_id", "ad_group_id", "creative_id", "audience", "channel")

_Fan = tuple[int, str, str, str]
"""Partition, platform, creator and id of a fan."""


class Wins:
    """Gathers touches, conversions and refunds, and compares what follows from them."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._client = client
        self._windows = {"click": settings.click_window * _HOUR_MS, "impression": settings.view_window * _HOUR_MS}
        self._touches: dict[_Fan, list[tuple[int, bool, int, dict[str, Any]]]] = {}
        self._conversions: dict[tuple[str, int, int], tuple[_Fan, dict[str, Any]]] = {}
        self._refunds: dict[tuple[_Fan, str], int] = {}
        self._first: dict[tuple[_Fan, str], tuple[int, int]] = {}

    def add(self, judged: Judged) -> None:
        """Takes a record, if it counts."""
        event, sent = judged.event, judged.sent
        if event is None or not judged.counts:
            return
        fan = (sent.partition, event["platform"], event["creator_id"], event["fan_id"])
        kind, at = event["kind"], event["event_time"]
        if sent.topic == "ad_events" and kind in self._windows:
            self._touches.setdefault(fan, []).append((at, kind == "click", sent.offset, event))
        elif sent.topic == "interactions" and kind == "follow":
            self._conversions["follow", sent.partition, sent.offset] = fan, event
        elif sent.topic == "orders" and kind in ("paid", "refunded"):
            order = (fan, event["order_id"])
            if kind == "refunded":
                self._refunds[order] = self._refunds.get(order, 0) + event["amount_micros"]
                return
            self._conversions["order", sent.partition, sent.offset] = fan, event
            self._first[order] = min(self._first.get(order, (at, sent.offset)), (at, sent.offset))

    def result(self, hashes: Mapping[str, int]) -> Tally:
        """The view against what it must show; ``hashes``: the hash of each fan id, as the raw tables tell it."""
        tally = Tally("attributed_conversions", len(self._conversions))
        missing = set(self._conversions)
        columns = ", ".join(
            f"toUnixTimestamp64Milli({name})" if name in ("converted_at", "touched_at") else name for name in _NAMES
        )
        for kind, partition, offset, *have in stream(
            self._client, f"SELECT kind, partition, `offset`, {columns} FROM attributed_conversions", {}
        ):
            place = (kind, partition, offset)
            if place not in missing:
                known = place in self._conversions
                tally.double(place, "there twice" if known else "nobody wants it")
                continue
            missing.discard(place)
            tally.compare(place, _NAMES, have, self._wanted(place, hashes))
        for place in sorted(missing):
            tally.lose(place)
        return tally

    def _wanted(self, place: tuple[str, int, int], hashes: Mapping[str, int]) -> list[Any]:
        fan, event = self._conversions[place]
        at, order = event["event_time"], event.get("order_id", "") if place[0] == "order" else ""
        amount = event["amount_micros"] if order else 0
        first = order and self._first[fan, order] == (at, place[2])
        refunded = self._refunds.get((fan, order), 0) if first else 0
        may = [
            (*touch[:3], index)
            for index, touch in enumerate(self._touches.get(fan, ()))
            if 0 <= at - touch[0] <= self._windows["click" if touch[1] else "impression"]
        ]
        shown: list[Any] = ["none", None, "", "", "", "", ""]
        if may:
            touched_at, click, _, index = max(may)
            touch = self._touches[fan][index][3]
            shown = ["click" if click else "impression", touched_at, *(touch[name] for name in _AD)]
        own = [fan[1], fan[2], hashes.get(fan[3]), at, order, amount, refunded, amount - refunded]
        return own + shown
