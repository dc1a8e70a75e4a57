"""Compares what Kafka and ClickHouse hold of the life of fans with what follows from the ground truth.

Of the fan log (topic ``fan_facts``) it is asked whether it suffices: whether from its facts, read by the rules of
schemas/README.md, follows what the events say. Of the tables, the views and the topic ``fan_transitions`` every row is
compared.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, NamedTuple

import orjson
import polars as pl
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer

from chaos.fans import STAGES, WINDOW, Calendar, Day, Fans, Move, Pair, Rules, first_at
from chaos.oracle import AHEAD_MS, FOLD_VERSION, Judged
from chaos.tally import Tally, log, short, stream
from infra.settings import Settings
from schemas.topics import SOURCES

COMPARED = ("fan_state", "fan_transitions", "fan_moves", "fan_stage_now", "fan_stage_days", "fan_churn_days")
"""Tables and views that are compared here."""
REPAIR = "repair"
"""Source of late events in the fan log, once a repair has taken them in."""
_NEVER = -(1 << 62)

Known = tuple[int, str, str, int | str]
"""A pair as the tables have it: partition, platform, creator, and the hash of the fan (an id that no raw row tells the
hash of stays as it is)."""


class Fact(NamedTuple):
    """A row of the fan log; ``offset`` is that of the source."""

    source: str
    offset: int
    platform: str
    creator_id: str
    fan: int
    at: int
    kind: str


@dataclass
class FanLog:
    """One partition of the fan log, read message by message.

    ``facts``: those that a reader takes. ``inputs``: next offset and event time reached (UTC ms; None: none) of every
    source heard of. ``day``: the local day that all sources have reached; it never goes back.
    """

    calendar: Calendar
    facts: list[Fact] = field(default_factory=list)
    inputs: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    day: int | None = None

    def read(self, value: bytes) -> list[Fact]:
        """All facts of the next message. ValueError if it is none, or does not follow."""
        head, _, body = value.partition(b"\n")
        line = orjson.loads(head)
        source, start, following, reached = (line[name] for name in ("source", "start", "next", "reached"))
        rows = pl.read_ipc_stream(body).rows(named=True) if body else []
        facts = [Fact(source, **row) for row in rows]
        if source == REPAIR:
            self.facts += facts
            return facts
        known, before = self.inputs.get(source, (0, None))
        if start > known:
            raise ValueError(f"a gap: {source} goes on at {start}, {known} was to come")
        # A message that covers nothing tells ahead what one after it covers.
        most = following if following > start or not facts else max(fact.offset for fact in facts) + 1
        if any(not start <= fact.offset < most for fact in facts) or following < start:
            raise ValueError(f"{source}: a fact that is not from {start} to before {following}")
        self.facts += [fact for fact in facts if fact.offset >= known]
        times = [at for at in (before, reached) if at is not None]
        if before is None and reached is not None and self.day is not None:
            # It begins with the past: for the day, it is where the others are.
            times.append(min(at for _, at in self.inputs.values() if at is not None))
        self.inputs[source] = (max(known, following), max(times, default=None))
        self._pass()
        return facts

    def _pass(self) -> None:
        if all(source in self.inputs for source in SOURCES):
            day = self.lowest()
            if day is not None and (self.day is None or day > self.day):
                self.day = day

    def lowest(self) -> int | None:
        """The local day of the least event time reached, of sources that have had an event."""
        times = [at for _, at in self.inputs.values() if at is not None]
        return self.calendar.day(min(times)) if times else None


@dataclass
class _Stand:
    """A lifecycle checkpoint: next offset in the fan log, and what it says of the sources."""

    following: int
    inputs: str


class Lives:
    """One comparison: reads the fan log when it is made, is given the events that count, and then compares.

    Nothing may write meanwhile but the passing of time, from sources that are idle.
    """

    def __init__(self, settings: Settings, client: Client, consumer: KafkaConsumer) -> None:
        self._settings = settings
        self._client = client
        self._consumer = consumer
        kinds = frozenset(settings.no_activity.split(","))
        self._rules = Rules(settings.time_zone, settings.active_interval, settings.churn_after, kinds)
        self._fans = Fans(self._rules)
        self._told: dict[tuple[Any, ...], int] = {}
        self._log = Tally("kafka_fan_facts")
        # In this order: the log may only have gone on since the checkpoint.
        self._stands = self._read_stands()
        self._ends: dict[int, FanLog] = {}
        self._reached: dict[int, FanLog] = {}
        for partition in range(settings.partitions):
            self._read_log(partition)
        self._pairs: dict[Known, dict[int, Day]] = {}
        self._moves: dict[Known, list[Move]] = {}

    def _read_stands(self) -> dict[int, _Stand]:
        return {
            partition: _Stand(following, inputs)
            for partition, following, inputs in stream(
                self._client,
                "SELECT partition, next_offset, inputs FROM checkpoints FINAL "
                "WHERE agent = 'lifecycle' AND topic = 'fan_facts' AND fold_version = {version:UInt16}",
                {"version": FOLD_VERSION},
            )
        }

    def _read_log(self, partition: int) -> None:
        """Reads a partition of the fan log; keeps it as at the checkpoint, and as at its end."""
        found = FanLog(self._fans.calendar)
        stand = self._stands.get(partition)
        following = stand.following if stand is not None else 0
        reached = replace(found)
        for record in log(self._consumer, self._settings.topic_prefix + "fan_facts", partition):
            try:
                facts = found.read(record.value or b"")
            except Exception as error:
                self._log.differ(f"[{partition}] offset {record.offset}", f"{type(error).__name__}: {error}")
                continue
            for fact in facts:
                key = (partition, fact.source, *fact[2:])
                self._told[key] = min(fact.offset, self._told.get(key, fact.offset))
            if record.offset < following:
                reached = replace(found, facts=[], inputs=dict(found.inputs))
            elif facts:
                self._log.differ(f"[{partition}] offset {record.offset}", "facts that lifecycle has not read")
        self._ends[partition], self._reached[partition] = found, reached

    def add(self, judged: Judged, fan: int | None) -> None:
        """Takes in a record; ``fan`` is the hash of its fan, None where no raw row tells it."""
        self._fans.add(judged)
        event, sent = judged.event, judged.sent
        if event is None or not judged.counts:
            return
        what = (event["platform"], event["creator_id"], fan, event["event_time"], event["kind"])
        # A repair tells of late events, and of actions that came after a late unfollow.
        self._told.pop((sent.partition, REPAIR, *what), None)
        if not judged.late and self._told.get((sent.partition, sent.topic, *what), -1) >= sent.offset:
            # It may be told later than it came, when it begins to matter.
            del self._told[sent.partition, sent.topic, *what]

    def results(
        self,
        hashes: Mapping[str, int],
        ends: Mapping[tuple[str, int], int],
        newest: Mapping[tuple[str, int], int | None],
    ) -> list[Tally]:
        """Compares, all records having been added.

        Args:
            hashes: hash of each fan id.
            ends: end of each source topic and partition that has records.
            newest: newest event time there, UTC ms; None: no event.
        """
        for pair, days in self._fans.days.items():
            known: Known = (*pair[:3], hashes.get(pair[3], pair[3]))
            self._pairs[known] = days
            day = self._reached[pair[0]].day
            self._moves[known] = self._fans.moves(pair, _NEVER if day is None else day)
        topic = self._facts()
        checkpoints = self._checkpoints(ends, newest)
        return [topic, checkpoints, self._state(), self._transitions(), self._topic(), *self._views()]

    # The fan log.

    def _facts(self) -> Tally:
        """Whether the log has facts of events only, and enough of them."""
        tally = self._log
        for where in self._told:
            tally.double(where, "a fact that is no event that counts")
        told = Fans(self._rules)
        for partition, found in self._ends.items():
            for fact in found.facts:
                told.note(_pair(partition, fact), fact.kind, fact.at)
        for known, days in self._pairs.items():
            tally.rows += len(days)
            own = told.days.pop((*known[:3], str(known[3])), {})
            for day, want in days.items():
                have = own.pop(day, None)
                where = (*known, str(_date(day)))
                if have is None:
                    tally.lose(where)
                elif _essence(have) != _essence(want):
                    tally.compare(where, ("first", "unfollow", "followed"), _essence(have), _essence(want))
            for day in own:
                tally.double((*known, str(_date(day))))
        for pair in told.days:
            tally.double(pair)
        return tally

    def _checkpoints(self, ends: Mapping[tuple[str, int], int], newest: Mapping[tuple[str, int], int | None]) -> Tally:
        """Whether lifecycle has read all facts, and knows how far that is in each source."""
        tally = Tally("checkpoints_lifecycle", self._settings.partitions)
        now = self._fans.calendar.day(int(time.time() * 1000) + AHEAD_MS)
        for partition in range(self._settings.partitions):
            stand, at = self._stands.get(partition), self._reached[partition]
            if stand is None:
                tally.lose(f"[{partition}]")
                continue
            said = orjson.loads(stand.inputs or "{}")
            have = {source: (each["next"], each["reached"]) for source, each in said.items()}
            following = {source: each[0] for source, each in at.inputs.items() if each[0]}
            wanted = {topic: end for (topic, number), end in ends.items() if number == partition and end}
            times = [newest.get((topic, partition)) for topic in SOURCES]
            marks = [time - self._settings.allowed_lateness * 1000 for time in times if time is not None]
            least = self._fans.calendar.day(min(marks)) if marks else _NEVER
            if at.day is None:
                allowed = not marks or any(source not in at.inputs for source in SOURCES)
            else:
                allowed = least <= at.day <= now
            tally.compare(
                f"[{partition}] at {stand.following}",
                ("inputs", "next of sources", "day of inputs", f"day {at.day and _date(at.day)} can be"),
                (have, following, at.lowest() if at.day is not None else None, allowed),
                (at.inputs, wanted, at.day, True),
            )
        return tally

    # Tables and topic.

    def _state(self) -> Tally:
        tally = Tally("fan_state", len(self._pairs))
        missing = set(self._pairs)
        names = ("first_at", "days", "firsts", "unfollows", "lasts in place", "too_old")
        for *key, version, first, days, firsts, lasts, unfollows, too_old, applied in stream(
            self._client,
            "SELECT partition, platform, creator_id, fan, fold_version, toUnixTimestamp64Milli(first_at), "
            "arrayMap(x -> toInt32(x), days), arrayMap(x -> toUnixTimestamp64Milli(x), firsts), "
            "arrayMap(x -> toUnixTimestamp64Milli(x), lasts), arrayMap(x -> toUnixTimestamp64Milli(x), unfollows), "
            "too_old, applied FROM fan_state FINAL",
        ):
            known: Known = (key[0], key[1], key[2], key[3])
            if known not in missing or version != FOLD_VERSION:
                tally.double(known, "there twice" if version == FOLD_VERSION and known in self._pairs else "nobody's")
                continue
            missing.discard(known)
            own, reached = self._pairs[known], self._reached[known[0]].day
            # Earlier days go when the row is next written, so they may be there.
            oldest = _NEVER if reached is None else reached - WINDOW + 1
            want = [day for day in sorted(own) if day >= oldest or day in days]
            lengths = {len(each) for each in (days, firsts, lasts, unfollows)}
            if len(lengths) > 1:
                tally.differ(known, f"arrays of lengths {sorted(lengths)}")
                continue
            placed = [_placed(own.get(day, Day()), *times) for day, *times in zip(days, lasts, unfollows, strict=True)]
            tally.compare(
                known,
                names,
                (first, list(days), list(firsts), list(unfollows), all(placed), too_old),
                (
                    first_at(own) or 0,
                    want,
                    [own[day].first or 0 for day in want],
                    [own[day].unfollow or 0 for day in want],
                    True,
                    0,
                ),
            )
            self._stamp(tally, known, applied)
        for each in missing:
            tally.lose(each)
        return tally

    def _transitions(self) -> Tally:
        tally = Tally("fan_transitions")
        wanted = {(known, move.day, move.step): move for known, found in self._moves.items() for move in found}
        tally.rows = len(wanted)
        left = dict(wanted)
        for *key, day, step, before, after, at, reason, resurrected, withdrawn, version, applied in stream(
            self._client,
            "SELECT partition, platform, creator_id, fan, toInt32(day), step, toString(from_stage), "
            "toString(to_stage), toUnixTimestamp64Milli(at), reason, resurrected, withdrawn, fold_version, applied "
            "FROM fan_transitions FINAL",
        ):
            known: Known = (key[0], key[1], key[2], key[3])
            where = (known, day, step)
            shown = (*known, str(_date(day)), step)
            self._stamp(tally, shown, applied)
            if withdrawn and version == FOLD_VERSION:
                if before != after:
                    tally.differ(shown, f"withdrawn, and yet from {before} to {after}")
                # One that is wanted stays in ``left``.
                continue
            want = left.pop(where, None)
            if want is None or version != FOLD_VERSION:
                tally.double(shown, "there twice" if where in wanted else f"nobody's: {before} to {after}, {reason}")
                continue
            have = Move(day, step, before, after, at, reason, resurrected)
            if have != want:
                tally.compare(shown, Move._fields, have, want)
        for known, day, step in left:
            tally.lose((*known, str(_date(day)), step))
        return tally

    def _stamp(self, tally: Tally, where: object, applied: int) -> None:
        """A row is of the log below the checkpoint."""
        assert isinstance(where, tuple)
        stand = self._stands.get(where[0])
        if not 0 <= applied < (stand.following if stand is not None else 0):
            tally.differ(where, f"applied is {applied}, the checkpoint {stand and stand.following}")

    def _topic(self) -> Tally:
        """The topic of moves: for who keeps the highest version of each id."""
        tally = Tally("kafka_fan_transitions")
        versions: dict[tuple[str, int], tuple[Any, ...]] = {}
        latest: dict[str, int] = {}
        for partition in range(self._settings.partitions):
            for record in log(self._consumer, self._settings.topic_prefix + "fan_transitions", partition):
                for line in (record.value or b"").split(b"\n"):
                    try:
                        name, version, content = _told(record.key, line)
                    except Exception as error:
                        tally.differ(f"[{partition}] offset {record.offset}", f"{type(error).__name__}: {error}")
                        continue
                    if (known := versions.setdefault((name, version), content)) != content:
                        tally.differ(name, f"version {version} is {short(known)} and {short(content)}")
                    latest[name] = max(version, latest.get(name, version))
        wanted = {_id(known, move): move for known, found in self._moves.items() for move in found}
        tally.rows = len(wanted)
        for name, version in latest.items():
            withdrawn, *have = versions[name, version]
            if withdrawn:
                continue
            want = wanted.pop(name, None)
            if want is None:
                tally.double(name, f"nobody's: {have}")
            elif have != list(want[2:]):
                tally.compare(name, Move._fields[2:], have, want[2:])
        for name in wanted:
            tally.lose(name)
        return tally

    # Views.

    def _views(self) -> list[Tally]:
        counts: Counter[tuple[Any, ...]] = Counter()
        for (_, platform, creator, _), found in self._moves.items():
            for move in found:
                counts[platform, creator, move.day, move.step, *move[2:4], *move[5:]] += 1
        now = {
            known[1:]: (found[-1].to_stage, found[-1].at, *found[-1][5:])
            for known, found in self._moves.items()
            if found
        }
        return [
            self._view(
                "fan_moves",
                "platform, creator_id, toInt32(day), step, toString(from_stage), toString(to_stage), reason, "
                "resurrected",
                ("fans",),
                {key: (fans,) for key, fans in counts.items()},
            ),
            self._view(
                "fan_stage_now",
                "platform, creator_id, fan",
                ("toString(stage)", "toUnixTimestamp64Milli(since)", "reason", "resurrected"),
                now,
            ),
            self._view(
                "fan_stage_days", "platform, creator_id, toInt32(day), toString(stage)", ("fans",), _stage_days(counts)
            ),
            self._view("fan_churn_days", "platform, creator_id, toInt32(day)", _CHURN, _churn_days(counts)),
        ]

    def _view(
        self, view: str, keys: str, values: tuple[str, ...], wanted: dict[tuple[Any, ...], tuple[Any, ...]]
    ) -> Tally:
        tally = Tally(view, len(wanted))
        left = dict(wanted)
        split = len(next(iter(wanted), ()))
        where = "WHERE fans != 0" if view == "fan_stage_days" else ""
        for row in stream(self._client, f"SELECT {keys}, {', '.join(values)} FROM {view} {where}"):
            key, have = row[:split], row[split:]
            want = left.pop(key, None)
            if want is None:
                tally.double(key, "there twice" if key in wanted else "nobody wants it")
            else:
                tally.compare(key, values, have, want)
        for key in left:
            tally.lose(key)
        return tally


_CHURN = (
    "fans_at_start",
    "churned",
    "unfollowed",
    "arrived",
    "returned",
    "idle_at_start",
    "churn_rate",
    "reactivation_rate",
)
_IDLE = ("silent", "churned")


def _by_creator(counts: Counter[tuple[Any, ...]]) -> dict[tuple[str, str], dict[int, list[tuple[Any, ...]]]]:
    """Moves of each (platform, creator) by day, every day from its first to the last of all, each as
    (from, to, reason, fans)."""
    found: dict[tuple[str, str], dict[int, list[tuple[Any, ...]]]] = {}
    for (platform, creator, day, _, before, after, reason, _), fans in counts.items():
        found.setdefault((platform, creator), {}).setdefault(day, []).append((before, after, reason, fans))
    last = max((max(days) for days in found.values()), default=0)
    return {creator: {day: days.get(day, []) for day in range(min(days), last + 1)} for creator, days in found.items()}


def _stage_days(counts: Counter[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Fans by (platform, creator, day, stage) at the end of the day, where there are any."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for creator, days in _by_creator(counts).items():
        fans = dict.fromkeys(STAGES, 0)
        for day, moved in days.items():
            for before, after, _, number in moved:
                fans[before] -= number
                fans[after] += number
            found |= {(*creator, day, stage): (fans[stage],) for stage in STAGES[1:] if fans[stage]}
    return found


def _churn_days(counts: Counter[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Churn and return by (platform, creator, day), in the order of ``_CHURN``."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for creator, days in _by_creator(counts).items():
        fans = dict.fromkeys(STAGES, 0)
        for day, moved in days.items():
            here = sum(fans[stage] for stage in STAGES[1:] if stage != "churned")
            idle = sum(fans[stage] for stage in _IDLE)
            churned = sum(number for _, after, _, number in moved if after == "churned")
            by_reason = Counter[str]()
            for before, after, reason, number in moved:
                by_reason[reason] += number
                fans[before] -= number
                fans[after] += number
            found[(*creator, day)] = (
                here,
                churned,
                *(by_reason[reason] for reason in ("unfollowed", "arrived", "returned")),
                idle,
                churned / here if here else None,
                by_reason["returned"] / idle if idle else None,
            )
    return found


def _pair(partition: int, fact: Fact) -> Pair:
    return (partition, fact.platform, fact.creator_id, str(fact.fan))


def _essence(day: Day) -> tuple[Any, ...]:
    """What stages follow from: the first action, the last unfollow, and whether an action followed that."""
    return day.first, day.unfollow, day.followed


def _placed(day: Day, last: int, unfollow: int) -> bool:
    """Whether the latest action that is told is one that could be, on the right side of the unfollow."""
    if day.first is None or day.last is None:
        return last == 0
    return day.first <= last <= day.last and (unfollow > 0 and last > unfollow) == day.followed


def _told(key: bytes | None, line: bytes) -> tuple[str, int, tuple[Any, ...]]:
    """Id and version of a line of the topic of moves, and what it says: whether it is withdrawn, and the move.
    Raises any exception if it is none."""
    move = orjson.loads(line)
    if move["id"] != ":".join(str(move[name]) for name in ("platform", "creator_id", "fan", "day", "step")):
        raise ValueError(f"{move['id']} is not the id of this move")
    if key != move["creator_id"].encode():
        raise ValueError("the key is not the creator")
    says = ("withdrawn", "from", "to", "at", "reason", "resurrected")
    return move["id"], int(move["version"]), tuple(move[name] for name in says)


def _id(known: Known, move: Move) -> str:
    return ":".join(str(each) for each in (*known[1:], _date(move.day), move.step))


def _date(day: int) -> date:
    return date.fromordinal(day + date(1970, 1, 1).toordinal())
