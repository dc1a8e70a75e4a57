"""What the tables must hold, worked out from the ground truth: one record after the other, in plain Python.

Written from DESIGN.md ("Late and repeated"), schemas/README.md and the comments of schemas/migrations. It shares no
code with the pipeline: who checks with the checked one's code checks nothing. So the kinds, their fields and the rules
are spelt out here once more.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from chaos.truth import Sent

ACCEPTED = frozenset({"event", "late", "duplicate"})
"""Labels of records that the contract takes."""
REASONS: dict[str, frozenset[str]] = {
    label: frozenset(reasons.split())
    for label, reasons in {
        "broken_json": "broken_json",
        # The cut may fall within a character.
        "truncated": "broken_json invalid_utf8",
        "wrong_type": "wrong_type",
        "missing_field": "missing_field",
        "future_time": "future",
        # Of a kind without amounts it is the time that is negative.
        "negative_amount": "negative out_of_range",
        "huge_text": "too_large",
        "invalid_utf8": "invalid_utf8",
        "null_value": "null_value",
        "empty_value": "broken_json",
        "unknown_kind": "unknown_kind",
        "deep_nesting": "broken_json",
        "not_an_object": "wrong_type",
        "fractional_time": "wrong_type",
        "seconds_for_ms": "out_of_range",
        "unknown_platform": "unknown_value",
        "space_in_id": "bad_characters",
        "long_id": "too_long",
        "byte_too_many": "too_large",
        "byte_order_mark": "broken_json",
        "two_values": "broken_json",
        "half_surrogate": "broken_json",
        "empty_id": "empty",
        "control_character": "bad_characters",
        "null_id": "wrong_type",
        "string_time": "wrong_type",
    }.items()
}
"""Reasons with which a record may be refused, by the name of its damage. A label ``refused:REASON`` is that of an
example in schemas/examples/refused, which is refused with that reason."""
REFUSED_BY_CLICKHOUSE = frozenset({"clickhouse"})
"""The reason where ClickHouse itself does not take the row."""

AHEAD_MS = 300_000
"""An event raises the newest event time at most so far beyond its append time, ms."""
RECENT_MS = 3 * 86_400_000
"""Minutes of videos and their viewers hold only events that reached the broker sooner than so long after, ms."""
FOLD_VERSION = 1
"""Version of the definitions that are spelt out here."""

_FAN = ("region", "age_band", "gender", "interest", "device")
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "interactions": {
        "view": ("content_id", "watch_ms", "duration_ms", "source"),
        "like": ("content_id", "source"),
        "share": ("content_id", "source"),
        "favorite": ("content_id", "source"),
        "comment": ("content_id", "text", "source"),
        "follow": ("content_id", "live_id", "source"),
        "unfollow": ("content_id", "live_id", "source"),
        "profile_visit": ("content_id", "live_id", "source"),
        "live_enter": ("live_id", "pk_opponent", "source"),
        "live_leave": ("live_id", "pk_opponent", "stay_ms", "source"),
        "live_comment": ("live_id", "text", "pk_opponent"),
        "live_like": ("live_id", "pk_opponent"),
        "fan_badge_lit": ("live_id", "pk_opponent"),
        "group_join": ("group_id", "source"),
        "group_leave": ("group_id", "source"),
        "group_message": ("group_id", "text", "reply_to"),
        "dm_sent": ("group_id", "text", "reply_to"),
        "group_vote": ("group_id", "product_id"),
        "group_checkin": ("group_id", "product_id"),
        "group_welfare_claim": ("group_id", "product_id"),
        "group_link_click": ("group_id", "product_id"),
        "product_exposure": ("product_id", "content_id", "live_id", "source"),
        "product_click": ("product_id", "content_id", "live_id", "source"),
    },
    "gifts": dict.fromkeys(
        ("gift", "guard", "membership"), ("live_id", "gift_type", "quantity", "value_micros", "pk_opponent")
    ),
    "orders": dict.fromkeys(
        ("placed", "paid", "shipped", "refunded", "membership"),
        ("order_id", "product_id", "amount_micros", "coupon_micros", "content_id", "live_id", "group_id"),
    ),
    "ad_events": dict.fromkeys(
        ("impression", "click", "play", "conversion"),
        (
            "campaign_id",
            "ad_group_id",
            "creative_id",
            "audience",
            "channel",
            "bid_micros",
            "cost_micros",
            "conversion_type",
            "value_micros",
        ),
    ),
}
_NUMBERS = frozenset(
    {
        "watch_ms",
        "duration_ms",
        "stay_ms",
        "quantity",
        "value_micros",
        "amount_micros",
        "coupon_micros",
        "bid_micros",
        "cost_micros",
    }
)
_PEOPLE = {"fan_id": "fan", "reply_to": "reply_to_fan"}
_COMMON = ("event_id", "event_time", "platform", "fan_id", "creator_id", *_FAN, "kind")


def _columns(topic: str) -> tuple[str, ...]:
    own: dict[str, None] = {}
    for fields in _FIELDS[topic].values():
        own |= dict.fromkeys(fields)
    names = (_PEOPLE.get(name, name) for name in (*_COMMON, *own))
    return ("appended_at", *names, "late", "duplicate", "repaired")


COLUMNS: dict[str, tuple[str, ...]] = {topic: _columns(topic) for topic in _FIELDS}
"""Columns of each raw table beside partition and offset, in the order of ``raw_row``."""

_COUNTS = {
    "view": "plays",
    "like": "likes",
    "comment": "comments",
    "share": "shares",
    "favorite": "favorites",
    "follow": "follows",
    "unfollow": "unfollows",
    "profile_visit": "profile_visits",
    "product_exposure": "product_exposures",
    "product_click": "product_clicks",
}
_CREATOR_COUNTS = _COUNTS | {
    "live_enter": "live_entries",
    "live_leave": "live_exits",
    "live_comment": "live_comments",
    "live_like": "live_likes",
    "fan_badge_lit": "badges_lit",
    "group_join": "group_joins",
    "group_leave": "group_leaves",
    "group_message": "group_messages",
    "group_vote": "group_votes",
    "group_checkin": "group_checkins",
    "group_welfare_claim": "welfare_claims",
    "group_link_click": "group_link_clicks",
    "dm_sent": "private_messages",
}
CONTENT_VALUES = (*_COUNTS.values(), "watch_ms", "completions", "applied")
CREATOR_VALUES = (*_CREATOR_COUNTS.values(), "watch_ms", "completions", "stay_ms", "applied")

_AD_COUNTS = {"impression": "impressions", "click": "clicks", "play": "plays", "conversion": "conversions"}
AD_VALUES = (*_AD_COUNTS.values(), "cost_micros", "conversion_value_micros", "applied")
_AD_KEYS = ("platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel")
_AD_PEOPLE_KEYS = ("platform", "campaign_id", "region", "age_band", "gender")

SNAPSHOTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "engagement_creator_minute": (("platform", "creator_id", "minute"), CREATOR_VALUES),
    "engagement_content_minute": (("platform", "creator_id", "content_id", "minute"), CONTENT_VALUES),
    "engagement_content_hour": (("platform", "creator_id", "content_id", "hour"), CONTENT_VALUES),
    "engagement_content_day": (("platform", "creator_id", "content_id", "day"), CONTENT_VALUES),
    "ads_minute": ((*_AD_KEYS, "minute"), AD_VALUES),
    "ads_people_minute": ((*_AD_PEOPLE_KEYS, "minute"), AD_VALUES),
}
"""Key columns (partition and origin follow them) and value columns of each table of counts, in the order of rows."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A record and what becomes of it. ``event``: its fields, None if it is refused; ``reasons``: those that may be
    given for that."""

    sent: Sent
    event: dict[str, Any] | None
    late: bool = False
    duplicate: bool = False
    repaired: bool = False
    reasons: frozenset[str] = frozenset()

    @property
    def counts(self) -> bool:
        """Whether it is in the figures."""
        return self.event is not None and not self.duplicate and (not self.late or self.repaired)


class Judge:
    """Says of the records of one topic and partition, given in offset order, what each is.

    ``newest``: newest event time so far, UTC ms; None before the first event.

    Args:
        lateness: how far the watermark runs behind the newest event, ms.
        horizon: how far behind the watermark is late, ms.
        repaired: whether a repair has taken in what was late.
        refused: whether ClickHouse refuses the row of a valid record.
    """

    def __init__(
        self, lateness: int, horizon: int, repaired: bool = False, refused: Callable[[Sent], bool] = lambda sent: False
    ) -> None:
        self.newest: int | None = None
        self._behind = lateness + horizon
        self._repaired = repaired
        self._refused = refused
        # True: an event that was not late was among those of this identity.
        self._seen: dict[tuple[str, int], bool] = {}

    def judge(self, sent: Sent) -> Judged:
        """The next record. Raises KeyError for a label that nobody knows."""
        if sent.label not in ACCEPTED:
            return Judged(sent, None, reasons=_reasons(sent.label))
        if self._refused(sent):
            return Judged(sent, None, reasons=REFUSED_BY_CLICKHOUSE)
        assert sent.value is not None
        event = orjson.loads(sent.value)
        at = event["event_time"]
        reach = min(at, sent.appended + AHEAD_MS)
        if self.newest is None or reach > self.newest:
            self.newest = reach
        late = at < self.newest - self._behind
        identity = (event["event_id"], at)
        before = self._seen.get(identity)
        if late:
            # Whom it repeats is settled by the repair only: any earlier one, late or not.
            self._seen[identity] = before or False
            return Judged(sent, event, True, self._repaired and before is not None, self._repaired)
        self._seen[identity] = True
        return Judged(sent, event, duplicate=before is True)


def _reasons(label: str) -> frozenset[str]:
    example, _, reason = label.partition(":")
    return frozenset({reason}) if example == "refused" else REASONS[label]


_Plan = tuple[tuple[str, bool], ...]
_PLANS: dict[tuple[str, str], _Plan] = {}


def _plan(topic: str, kind: str) -> _Plan:
    """Fields of a kind in the order of the topic's columns ('': the kind has none there), and whether numbers."""
    plan = _PLANS.get((topic, kind))
    if plan is None:
        back = {column: name for name, column in _PEOPLE.items()}
        known = {*_COMMON, *_FIELDS[topic][kind]}
        names = [back.get(column, column) for column in COLUMNS[topic][1:-3]]
        plan = tuple((name if name in known else "", name in _NUMBERS) for name in names)
        _PLANS[topic, kind] = plan
    return plan


def raw_row(judged: Judged) -> tuple[Any, ...]:
    """The row of an accepted record as the raw table has it (``COLUMNS``), but for fans: their ids, not hashes.

    Absent strings are "", absent numbers None; fields that the kind does not have are dropped.
    """
    sent, event = judged.sent, judged.event
    assert event is not None
    values: list[Any] = [sent.appended]
    for name, number in _plan(sent.topic, event["kind"]):
        value = event.get(name) if name else None
        values.append((None if value == "" else value) if number else (value or ""))
    values += (int(judged.late), int(judged.duplicate), int(judged.repaired))
    return tuple(values)


Key = tuple[Any, ...]
"""Of a row of counts: its key columns, then partition and origin. Minutes and hours are UTC seconds; days are days
since 1970-01-01."""


@dataclass
class Figures:
    """Everything that is counted, as the tables must have it.

    ``tables``: rows by table of ``SNAPSHOTS`` and key; each row its values in order. ``viewers``: distinct fans of
    (platform, creator, content, minute in UTC seconds), by fan id, of events of ``viewers_minute``;
    ``later_viewers``: those that only ``viewers_hour`` holds.
    """

    time_zone: str
    tables: dict[str, dict[Key, list[int]]] = field(default_factory=lambda: {name: {} for name in SNAPSHOTS})
    viewers: dict[Key, set[int]] = field(default_factory=dict)
    later_viewers: dict[Key, set[int]] = field(default_factory=dict)
    _days: dict[int, int] = field(default_factory=dict)
    _fans: dict[str, int] = field(default_factory=dict)

    def add(self, judged: Judged) -> None:
        """Counts one record of ``interactions`` or ``ad_events``, if it counts; others are in no table of counts.
        Records of a partition come in offset order."""
        event, sent = judged.event, judged.sent
        if event is None or not judged.counts:
            return
        if sent.topic == "ad_events":
            self._advertise(event, sent, "repair" if judged.late else "stream")
        elif sent.topic == "interactions":
            self._engage(event, sent, "repair" if judged.late else "stream")

    def _engage(self, event: dict[str, Any], sent: Sent, origin: str) -> None:
        kind, platform, creator = event["kind"], event["platform"], event["creator_id"]
        at = event["event_time"]
        minute = at // 60_000 * 60
        hour = minute // 3600 * 3600
        content = (event.get("content_id") or "") if "content_id" in _FIELDS["interactions"][kind] else ""
        watched = event["watch_ms"] if kind == "view" else 0
        complete = int(kind == "view" and event["duration_ms"] > 0 and watched >= event["duration_ms"])
        row = self._row("engagement_creator_minute", (platform, creator, minute, sent.partition, origin))
        row[_CREATOR_INDEX[kind]] += 1
        row[-4] += watched
        row[-3] += complete
        row[-2] += (event.get("stay_ms") or 0) if kind == "live_leave" else 0
        row[-1] = sent.offset
        if not content:
            return
        recent = sent.appended - at < RECENT_MS
        buckets = [("engagement_content_hour", hour), ("engagement_content_day", self._day(minute))]
        if recent:
            buckets.append(("engagement_content_minute", minute))
        for table, bucket in buckets:
            row = self._row(table, (platform, creator, content, bucket, sent.partition, origin))
            row[_CONTENT_INDEX[kind]] += 1
            row[-3] += watched
            row[-2] += complete
            row[-1] = sent.offset
        if kind == "view":
            fan = self._fans.setdefault(event["fan_id"], len(self._fans))
            sets = self.viewers if recent else self.later_viewers
            sets.setdefault((platform, creator, content, minute), set()).add(fan)

    def _advertise(self, event: dict[str, Any], sent: Sent, origin: str) -> None:
        minute = event["event_time"] // 60_000 * 60
        for table, names in (("ads_minute", _AD_KEYS), ("ads_people_minute", _AD_PEOPLE_KEYS)):
            row = self._row(table, (*(event.get(name) or "" for name in names), minute, sent.partition, origin))
            row[_AD_INDEX[event["kind"]]] += 1
            row[-3] += event.get("cost_micros") or 0
            row[-2] += event.get("value_micros") or 0
            row[-1] = sent.offset

    def viewers_by_hour(self) -> Iterator[tuple[Key, int]]:
        """Distinct viewers of each (platform, creator, content, hour in UTC seconds)."""
        hours: dict[Key, set[int]] = {}
        for sets in (self.viewers, self.later_viewers):
            for (platform, creator, content, minute), fans in sets.items():
                hours.setdefault((platform, creator, content, minute // 3600 * 3600), set()).update(fans)
        for key, fans in hours.items():
            yield key, len(fans)

    def _row(self, table: str, key: Key) -> list[int]:
        rows = self.tables[table]
        row = rows.get(key)
        if row is None:
            row = rows[key] = [0] * len(SNAPSHOTS[table][1])
        return row

    def _day(self, minute: int) -> int:
        day = self._days.get(minute)
        if day is None:
            local = datetime.fromtimestamp(minute, ZoneInfo(self.time_zone))
            day = self._days[minute] = local.date().toordinal() - _EPOCH_DAY
        return day


_EPOCH_DAY = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001
_CREATOR_INDEX = {kind: CREATOR_VALUES.index(name) for kind, name in _CREATOR_COUNTS.items()}
_CONTENT_INDEX = {kind: CONTENT_VALUES.index(name) for kind, name in _COUNTS.items()}
_AD_INDEX = {kind: AD_VALUES.index(name) for kind, name in _AD_COUNTS.items()}


@dataclass(slots=True)
class Span:
    """A row of a rolling view: sums of counts in a window, and in the same window a day before.

    ``viewers``: distinct fans who played in the window.
    """

    now: list[int]
    before: list[int]
    viewers: set[int]


SPANS = {"1m": 60, "5m": 300, "1h": 3600, "24h": 86_400}
"""Windows of the rolling views, seconds."""
DAY_S = 86_400


def rolling(
    minutes: Iterable[tuple[Key, int, list[int]]], viewers: Iterable[tuple[Key, int, set[int]]], at: int
) -> dict[tuple[Key, str], Span]:
    """Rows of a rolling view by key and window: those that something was counted in, now or the day before.

    Args:
        minutes: (key, minute in UTC seconds, counts of it).
        viewers: (key, minute in UTC seconds, fans who played then).
        at: the moment that the windows end at, a whole minute in UTC seconds.
    """
    found: dict[tuple[Key, str], Span] = {}
    for key, minute, counts in minutes:
        for name, span in SPANS.items():
            for day_before in (False, True):
                upto = at - DAY_S if day_before else at
                if upto - span <= minute < upto:
                    row = found.get((key, name))
                    if row is None:
                        row = found[key, name] = Span([0] * len(counts), [0] * len(counts), set())
                    sums = row.before if day_before else row.now
                    for index, count in enumerate(counts):
                        sums[index] += count
    for key, minute, fans in viewers:
        for name, span in SPANS.items():
            if at - span <= minute < at:
                found[key, name].viewers |= fans
    return found
