"""The records that a feed sends: a made-up world in bad weather, and what a world does not do by itself."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson
from pydantic import BaseModel, ConfigDict, Field

from chaos.campaigns import CAMPAIGNS, GROUPS, platform
from generators.config import WorldConfig
from generators.weather import LABELS
from generators.world import World
from infra.settings import Settings
from schemas.topics import SOURCES

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LARGEST = 65_536
"""Bytes of the largest record that the contract takes."""
AHEAD_MS = 300_000
"""An event raises the newest event time at most so far beyond its append time, ms."""

HISTORY_DAYS = 45
"""Days of a history. With all else it stays within the 64 days that stages look back: no fact comes too late."""
_SHUFFLE_MS = 20_000
_KEPT = 300
_SEEN = 300
_GAPS = (1, 6, 7, 8, 13, 14, 15, 29, 30, 31)
"""Days away after which it matters most whether it is one more or less."""
_PROBE_FANS = 2_000
_MARGIN = 1.05
_CROWDED = 2_000_000


class Mix(BaseModel):
    """What a feed is made of.

    ``duplicates``, ``late``, ``malformed``: shares (0 to 1) of its events sent twice, sent late, and of broken
    records added. ``edge``: share of events added at the edges of the rules: exactly at the late horizon, one
    millisecond within and beyond it; ahead of the clock; ids that are nearly another's; every kind of event; odd
    spelling. ``lives``: share of events added that stages hang on: a fan seen before comes back after days, unfollows,
    does both on one day or in one millisecond, acts at the edge of a local day. ``wins``: share of events added that
    attribution hangs on: a fan follows or pays at the edge of a window after an advertisement, or is shown another in
    the same millisecond; orders are refunded, before or after. ``campaigns``: share of events added that budget rules
    hang on: advertisements of a few campaigns, cheap and dear by turns. ``idle_topics``, ``idle_partitions``:
    get no record. ``hours``: event time that the run spans, up to now. ``spread``: so many records fill those hours
    (None: as many as are sent), so minutes pass in a run that sends fewer; the last hour has room for any number.
    ``history``: about so many records come before that, of the 45 days before those hours: stages of fans change by
    absence too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicates: float = Field(0.05, ge=0, le=1)
    late: float = Field(0.05, ge=0, le=1)
    malformed: float = Field(0.02, ge=0, le=1)
    edge: float = Field(0.01, ge=0, le=1)
    lives: float = Field(0.02, ge=0, le=1)
    wins: float = Field(0.02, ge=0, le=1)
    campaigns: float = Field(0.06, ge=0, le=1)
    idle_topics: frozenset[str] = frozenset()
    idle_partitions: frozenset[int] = frozenset()
    hours: float = Field(6, gt=0, le=24 * 7)
    spread: int | None = Field(None, gt=0)
    history: int = Field(0, ge=0)


@dataclass(slots=True)
class _Seen:
    """What a fan did for a creator, and when last (UTC ms)."""

    record: "Record"
    at: int


class Record(NamedTuple):
    """One record to send, and what it is (``truth.Sent.label``)."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    label: str


def world_records(
    settings: Settings, events: int, mix: Mix, seed: int, clock: Callable[[], int] = lambda: int(time.time() * 1000)
) -> Iterator[Record]:
    """Records of a world in the order sent, without end: the mix's ``history``, and then about ``events`` until now.

    They are out of order by up to 20 seconds, within and across topics. ``clock``: now, UTC ms.
    """
    end = clock()
    start = end - int(mix.hours * HOUR_MS)
    # Both are made first: a pause between them would be taken for quiet.
    if mix.spread is None:
        hours = _world(settings, events, mix, seed, start, end)
    else:
        most = end - HOUR_MS
        hours = _world(settings, round(mix.spread * (most - start) / (end - start)), mix, seed, start, most, most)
    if mix.history:
        yield from _world(settings, mix.history, mix, seed, start - HISTORY_DAYS * DAY_MS, start, start)
    yield from hours
    if mix.spread is not None:
        # Whoever is slow sends many more: they must not come to what has not happened yet.
        yield from _world(settings, _CROWDED, mix, seed, end - HOUR_MS, end)


def _world(
    settings: Settings, events: int, mix: Mix, seed: int, start: int, end: int, until: float = math.inf
) -> Iterator[Record]:
    """About ``events`` records from ``start`` to ``end`` (UTC ms), and on like that ``until`` then."""
    fans = max(50, events // 40)
    config = WorldConfig(
        seed=seed,
        fans=fans,
        partitions=settings.partitions,
        time_zone=settings.time_zone,
        start_ms=start,
        duplicates=mix.duplicates,
        late=mix.late,
        malformed=mix.malformed,
    )
    busy = [partition for partition in range(config.partitions) if partition not in mix.idle_partitions]
    # How many events an hour brings depends on the hour: a calm world of other fans tells.
    probe = World(WorldConfig(seed=seed, fans=_PROBE_FANS, partitions=1, time_zone=settings.time_zone, start_ms=start))
    found = probe.events(0, start, end)
    usual = sum(len(found[topic]) for topic in SOURCES if topic not in mix.idle_topics)
    usual_here = max(1, usual) * (1 + mix.duplicates + mix.malformed) * fans / _PROBE_FANS
    factor = _MARGIN * events / (usual_here * max(1, len(busy)) / config.partitions)
    world = World(config.model_copy(update={"rate_factor": factor}))
    return _shuffled(world, mix, busy, seed, start, max(_SHUFFLE_MS, (end - start) // 200), until)


def _shuffled(
    world: World, mix: Mix, busy: list[int], seed: int, start: int, step: int, until: float
) -> Iterator[Record]:
    """Records of some partitions from ``start`` on, made a ``step`` (ms) at a time."""
    rng, at = Random(seed), start
    while at < until:
        due = []
        for partition in busy:
            for topic, records in world.records(partition, at, at + step).items():
                if topic in mix.idle_topics:
                    continue
                times = records.sent_ms.tolist()
                labels = records.labels.tolist()
                for ms, key, value, label in zip(times, records.keys, records.values, labels, strict=True):
                    due.append((ms + rng.random() * _SHUFFLE_MS, Record(topic, partition, key, value, LABELS[label])))
        due.sort(key=lambda row: row[0])
        for _, record in due:
            yield record
        at += step


class Additions:
    """What is added to the world: asked after each record, gives none or some more.

    Args:
        settings: horizons, partitions, topics.
        mix: shares.
        seed: of the choices.
        newest: newest event time of a topic and partition as its reader has it, UTC ms; None where it is not known.
        clock: wall clock, UTC ms.
    """

    def __init__(
        self,
        settings: Settings,
        mix: Mix,
        seed: int,
        newest: Callable[[str, int], int | None],
        clock: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._mix = mix
        self._newest = newest
        self._clock = clock
        self._rng = Random(seed + 1)
        self._behind = (settings.allowed_lateness + settings.late_horizon) * 1000
        self._topics = [topic for topic in SOURCES if topic not in mix.idle_topics]
        self._kept: dict[tuple[str, int], deque[Record]] = {}
        self._keys: dict[int, deque[bytes]] = {}
        self._ancient: deque[Record] = deque(maxlen=_KEPT)
        self._zone = ZoneInfo(settings.time_zone)
        self._windows = {
            "click": settings.click_window * HOUR_MS,
            "impression": settings.view_window * HOUR_MS,
        }
        self._fans: dict[int, list[_Seen]] = {}
        self._met = 0
        self._number = 0
        self._tag = f"x{seed}-{self._clock():x}-"
        self._edges: tuple[Callable[[Record], list[Record]], ...] = (
            self._horizon,
            self._horizon,
            self._ahead,
            self._near_ids,
            self._elsewhere,
            self._spelling,
            self._every_kind,
        )

    def after(self, record: Record) -> list[Record]:
        """What is sent after a record of the world."""
        accepted = record.label in ("event", "late", "duplicate")
        if accepted and self._rng.random() < 0.2:
            where = (record.topic, record.partition)
            self._kept.setdefault(where, deque(maxlen=_KEPT)).append(record)
            self._keys.setdefault(record.partition, deque(maxlen=_KEPT)).append(record.key)
            if record.topic == "interactions":
                self._see(record)
        mix = self._mix
        for share, make in (
            (mix.edge, self._edge),
            (mix.lives, self._life),
            (mix.wins, self._win),
            (mix.campaigns, self._advertise),
            (mix.duplicates / 10, self._repeat),
            (mix.late / 10, self._old),
            (mix.malformed / 4, self._broken),
        ):
            if self._rng.random() < share:
                return make(record)
        return []

    # At the edges of the rules.

    def _edge(self, record: Record) -> list[Record]:
        return self._rng.choice(self._edges)(record)

    def _horizon(self, record: Record) -> list[Record]:
        """Events exactly at the late horizon, one millisecond within and one beyond, in any order."""
        base, newest = self._some(record), self._newest(record.topic, record.partition)
        if base is None or newest is None:
            return []
        oldest = newest - self._behind
        times = [oldest, oldest + 1, oldest - 1]
        self._rng.shuffle(times)
        return [self._like(base, "late" if at < oldest else "event", event_time=at) for at in times]

    def _ahead(self, record: Record) -> list[Record]:
        """Events ahead of the clock, also about where they no longer raise the newest event time."""
        base, now = self._some(record), self._clock()
        newest = self._newest(record.topic, record.partition)
        # While the feed is far in the past, one such event would make all that follow late.
        if base is None or newest is None or now - newest > self._behind - 15 * 60_000:
            return []
        ahead = self._rng.choice((AHEAD_MS - 1, AHEAD_MS, AHEAD_MS + 1, AHEAD_MS + 5, HOUR_MS, 23 * HOUR_MS))
        return [self._like(base, "event", event_time=now + ahead)]

    def _near_ids(self, record: Record) -> list[Record]:
        """The id of another event at another time, and an id that differs by one character: new events."""
        base = self._some(record)
        if base is None:
            return []
        event = orjson.loads(base.value or b"")
        own = event["event_id"]
        other = own[:-1] + ("a" if own[-1] != "a" else "b") + self._rng.choice(("", "0"))
        return [
            self._like(base, "event", event_id=own, event_time=event["event_time"] + self._rng.choice((1, 1000))),
            self._like(base, "event", event_id=other[:64], event_time=event["event_time"]),
        ]

    def _elsewhere(self, record: Record) -> list[Record]:
        """The id and time of another event, in another partition or another topic: new events."""
        base = self._some(record)
        partitions = [partition for partition in self._keys if partition != record.partition]
        if base is None:
            return []
        event = orjson.loads(base.value or b"")
        same = {"event_id": event["event_id"], "event_time": event["event_time"]}
        made = []
        if partitions:
            partition = self._rng.choice(partitions)
            made.append(self._like(base, "event", self._rng.choice(self._keys[partition]), partition, **same))
        if topics := [topic for topic in self._topics if topic != record.topic]:
            topic = self._rng.choice(topics)
            made.append(self._example(topic, record, **same))
        return made

    def _spelling(self, record: Record) -> list[Record]:
        """Sound events spelt in ways that are read slowly."""
        base = self._some(record)
        if base is None:
            return []
        event = orjson.loads(base.value or b"") | {"event_id": self._id()}
        way = self._rng.randrange(6)
        if way == 0:
            more = {"watch_ms": -1, "order_id": None, "campaign_id": 7, "unknown": {"a": [1, "\n"]}}
            value = orjson.dumps({name: more[name] for name in more if name not in event} | event)
        elif way == 1:
            value = orjson.dumps({"device": None, "region": "", "interest": None} | event | {"gender": ""})
        elif way == 2:
            value = orjson.dumps(event, option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n\t")
        elif way == 3:
            value = b'{"creator_id":"first","event_time":1,' + orjson.dumps(event)[1:]
        elif way == 4:
            value = orjson.dumps(dict(reversed(event.items()))).replace(b'"platform"', b'"pl\\u0061tform"')
        else:
            value = orjson.dumps(event)
            value += b" " * (LARGEST - len(value))
        return [base._replace(value=value, label="event")]

    def _every_kind(self, record: Record) -> list[Record]:
        """An event of any kind, of those that the contract gives as examples."""
        return [self._example(self._rng.choice(self._topics), record)]

    # What the stages of fans follow from.

    def _see(self, record: Record) -> None:
        """Remembers who acts for whom: of all so far each with the same chance, so some are remembered for long."""
        fans = self._fans.setdefault(record.partition, [])
        self._met += 1
        place = len(fans) if len(fans) < _SEEN else self._rng.randrange(self._met)
        if place < _SEEN:
            seen = _Seen(record, orjson.loads(record.value or b"")["event_time"])
            fans[place : place + 1] = [seen]

    def _life(self, record: Record) -> list[Record]:
        """What one fan does now for a creator it knows, in any order."""
        fans = self._fans.get(record.partition)
        newest = self._newest("interactions", record.partition)
        if not fans or newest is None:
            return []
        rng, away = self._rng, self._rng.choice(_GAPS)
        at = newest - rng.randrange(self._behind // 2)
        today = self._date(at)
        some = rng.sample(fans, min(30, len(fans)))
        seen = next((each for each in some if (today - self._date(each.at)).days == away), some[0])
        seen.at = max(seen.at, at)
        base = seen.record
        way = rng.randrange(5)
        if way == 0:
            made = [self._act(base, at)]
        elif way == 1:
            made = [self._like(base, "event", event_time=at, kind="unfollow")]
        elif way == 2:
            # An action before, with, or after the unfollow, or on both sides of it.
            made = [self._like(base, "event", event_time=at, kind="unfollow")]
            for apart in rng.choice(((-1,), (0,), (1,), (-1, 1), (600_000,), (-600_000, 0))):
                made.append(self._act(base, at + apart))
        elif way == 3:
            midnight = int(datetime.combine(self._date(newest), datetime.min.time(), self._zone).timestamp() * 1000)
            label = "event" if midnight > newest - self._behind else "late"
            made = [self._act(base, midnight, label), self._act(base, midnight - 1, label)]
            made.append(self._like(base, label, event_time=midnight - rng.randrange(2), kind="unfollow"))
        else:
            made = [self._like(base, "event", event_time=at - n * 60_000, kind="unfollow") for n in range(2)]
        rng.shuffle(made)
        return made

    def _act(self, base: Record, at: int, label: str = "event") -> Record:
        """An action in any topic by the fan of ``base``, for the same creator."""
        topic = self._rng.choice(("interactions", "interactions", *self._topics))
        kept = self._kept.get((topic, base.partition))
        if topic == "interactions" or not kept:
            return self._like(base, label, event_time=at, kind="follow")
        event = orjson.loads(base.value or b"")
        own = {"creator_id": event["creator_id"], "platform": event["platform"], "event_time": at}
        return self._like(self._rng.choice(kept), label, base.key, base.partition, **own)

    def _date(self, at: int) -> date:
        return datetime.fromtimestamp(at / 1000, self._zone).date()

    # What attribution follows from.

    def _win(self, record: Record) -> list[Record]:
        """A conversion after an advertisement, about where its window ends or it begins, and what goes with that."""
        rng, shown = self._rng, self._kept.get(("ad_events", record.partition))
        topic = rng.choice([topic for topic in ("interactions", "orders") if topic in self._topics] or [""])
        newest = self._newest(topic, record.partition) if topic else None
        if not shown or newest is None:
            return []
        base = rng.choice(shown)
        ad = orjson.loads(base.value or b"")
        window = self._windows.get(ad["kind"], 0)
        after = (rng.choice((-1, 0, 1)), window + rng.choice((-1, 0, 1)), rng.randrange(window + 1))
        # What is ahead would make all that follows late.
        at = min(ad["event_time"] + rng.choice(after), newest)
        own = {"platform": ad["platform"], "creator_id": ad["creator_id"], "fan_id": ad["fan_id"]}
        label = "event" if at > newest - self._behind else "late"

        def told(kind: str, at: int, **fields: Any) -> Record:
            example = next(each for each in _examples(topic) if orjson.loads(each)["kind"] == kind)
            event = orjson.loads(example) | {"event_id": self._id(), "event_time": at, "kind": kind} | own | fields
            return Record(topic, base.partition, base.key, orjson.dumps(event), label)

        if topic == "interactions":
            made = [told("follow", at)]
        else:
            order, amount = self._id(), rng.randrange(10**9)
            made = [told("paid", at, order_id=order, amount_micros=amount)]
            for part in range(rng.choice((0, 0, 1, 2))):
                made.append(told("refunded", at - part * 1000, order_id=order, amount_micros=amount // 2 + part))
            if rng.random() < 0.1:
                made.append(told("paid", at - rng.randrange(2), order_id=order, amount_micros=1))
        if rng.random() < 0.3:
            kind = rng.choice(("click", "impression"))
            made.append(self._like(base, base.label, kind=kind, campaign_id=f"w{rng.randrange(3)}"))
        rng.shuffle(made)
        return made

    # What budget rules decide on.

    def _advertise(self, record: Record) -> list[Record]:
        """An event of a campaign that rules look at, out of order by less than the allowed lateness or more, perhaps
        twice. What its impressions cost changes every five minutes."""
        newest = self._newest("ad_events", record.partition)
        if newest is None or "ad_events" not in self._topics:
            return []
        rng = self._rng
        behind = rng.choice((*(rng.randrange(60_000) for _ in range(8)), rng.randrange(self._behind), self._behind + 1))
        number, at = rng.randrange(len(CAMPAIGNS)), newest - behind
        name, kind = CAMPAIGNS[number], rng.choice(("impression",) * 5 + ("click", "click", "play", "conversion"))
        example = next(each for each in _examples("ad_events") if orjson.loads(each)["kind"] == kind)
        event = orjson.loads(example) | {
            "event_id": self._id(),
            "event_time": at,
            "platform": platform(name),
            "fan_id": record.key.decode(),
            "creator_id": f"of-{name}",
            "campaign_id": name,
            "ad_group_id": rng.choice(GROUPS),
            "cost_micros": ((at // 300_000 + number) % 2 * 9_000 + rng.randrange(9_000)) * (kind == "impression"),
            "value_micros": rng.randrange(60_000) * (kind == "conversion"),
        }
        label = "late" if behind > self._behind else "event"
        made = [Record("ad_events", record.partition, record.key, orjson.dumps(event), label)]
        if rng.random() < self._mix.duplicates:
            made.append(made[0]._replace(label="duplicate"))
        return made

    # Repeats, old events, broken records.

    def _repeat(self, record: Record) -> list[Record]:
        """A repeat from far back, as it was; or with its id and time only: whatever else it says, it is a repeat."""
        base = self._some(record)
        if base is None:
            return []
        if self._rng.random() < 0.5:
            return [base._replace(label="duplicate")]
        event = orjson.loads(base.value or b"")
        changed = {"region": "elsewhere", "platform": "kuaishou" if event["platform"] == "douyin" else "douyin"}
        changed["creator_id"] = f"{event['creator_id'][:60]}-x"
        if "content_id" in event:
            changed["content_id"] = "another"
        return [base._replace(value=orjson.dumps(event | changed), label="duplicate")]

    def _old(self, record: Record) -> list[Record]:
        """Events of days ago, also about where minutes are no longer kept; and repeats of such."""
        if self._ancient and self._rng.random() < 0.3:
            return [self._rng.choice(self._ancient)._replace(label="duplicate")]
        base = self._some(record)
        if base is None:
            return []
        days = self._rng.choice((1, 2, 3, 3, 3, 5))
        moved = self._rng.choice((-60_000, -1, 0, 1, 60_000, self._rng.randrange(HOUR_MS)))
        newest = self._newest(record.topic, record.partition)
        at = self._rng.choice((self._clock(), newest or 0)) - days * DAY_MS + moved
        # While the feed is far in the past, some of them would be ahead of it, and all that follows late.
        if newest is None or at >= newest - self._behind:
            return []
        old = self._like(base, "late", event_time=at)
        self._ancient.append(old)
        return [old]

    def _broken(self, record: Record) -> list[Record]:
        """Records that the contract refuses: of its own examples, and some more."""
        if self._rng.random() < 0.5:
            topic = self._rng.choice(self._topics)
            reason, value = self._rng.choice(_refused_examples(topic))
            return [Record(topic, record.partition, record.key, value, f"refused:{reason}")]
        base = self._some(record)
        if base is None:
            return []
        label, damage = self._rng.choice(_DAMAGES)
        return [base._replace(value=damage(base.value or b""), label=label)]

    # Parts.

    def _some(self, record: Record) -> Record | None:
        """A record sent before to the same topic and partition."""
        kept = self._kept.get((record.topic, record.partition))
        return self._rng.choice(kept) if kept else None

    def _id(self) -> str:
        self._number += 1
        return f"{self._tag}{self._number}"

    def _like(
        self, base: Record, label: str, key: bytes | None = None, partition: int | None = None, **fields: Any
    ) -> Record:
        """A new event that differs from another in some fields."""
        event = orjson.loads(base.value or b"") | {"event_id": self._id()} | fields
        if key is not None and partition is not None:
            event["fan_id"] = key.decode()
            base = base._replace(key=key, partition=partition)
        return base._replace(value=orjson.dumps(event), label=label)

    def _example(self, topic: str, record: Record, **fields: Any) -> Record:
        event = orjson.loads(self._rng.choice(_examples(topic)))
        base = self._some(record)
        if base is None:
            # Of a topic that has had nothing: about where another is. Now would make all that follows late.
            about = self._newest(record.topic, record.partition) or self._clock()
        else:
            about = orjson.loads(base.value or b"")["event_time"]
        event |= {
            "event_id": self._id(),
            "event_time": about - self._rng.randrange(10 * 60_000),
            "fan_id": record.key.decode(),
            **fields,
        }
        return Record(topic, record.partition, record.key, orjson.dumps(event), "event")


def _edited(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda value: orjson.dumps(orjson.loads(value) | fields)


_DAMAGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("byte_too_many", lambda value: value + b" " * (LARGEST + 1 - len(value))),
    ("byte_order_mark", lambda value: b"\xef\xbb\xbf" + value),
    ("two_values", lambda value: value + value),
    ("half_surrogate", lambda value: value.replace(b'"event_id":"', b'"event_id":"\\ud800', 1)),
    ("empty_id", _edited(creator_id="")),
    ("control_character", _edited(device="a\x01b")),
    ("null_id", _edited(fan_id=None)),
    ("string_time", _edited(event_time="1750000000000")),
]

_FOUND: dict[str, list[bytes]] = {}
_FOUND_REFUSED: dict[str, list[tuple[str, bytes]]] = {}


def _examples(topic: str) -> list[bytes]:
    found = _FOUND.get(topic)
    if found is None:
        folder = files("schemas").joinpath("examples", topic)
        found = _FOUND[topic] = [path.read_bytes() for path in sorted(folder.iterdir(), key=lambda path: path.name)]
    return found


def _refused_examples(topic: str) -> list[tuple[str, bytes]]:
    found = _FOUND_REFUSED.get(topic)
    if found is None:
        folder = files("schemas").joinpath("examples", "refused", topic)
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
        found = _FOUND_REFUSED[topic] = [(path.name.partition(".")[0], path.read_bytes()) for path in paths]
    return found
