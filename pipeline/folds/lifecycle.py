"""Lifecycle: the stage of every fan of every creator, and every move from stage to stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.block import Int64s
from pipeline.dedupe import UInt64s
from pipeline.fold import Fold, Output
from pipeline.pairs import Pairs, longer
from pipeline.stages import (
    NEVER,
    NO_DAY,
    NO_TIME,
    REASONS,
    STAGES,
    WINDOW,
    Bools,
    Days,
    Moves,
    News,
    Present,
    StagePolicy,
    absence_reasons,
    chosen,
    joined,
    known,
    next_move,
    so_far,
    stages_as_of,
    told,
)

TRANSITIONS = "fan_transitions"
"""The table of moves, and the Kafka topic of them."""
RECORD_MOVES = 2_000
"""Moves in a record of the topic at most; each is a line of JSON of some 300 bytes."""
STATE = "fan_state"
"""The table that it is restored from."""

DAY_MS = 86_400_000
_TOLD_AT_ONCE = 1 << 14
"""Facts taken in at once: as many as stay in the cache."""
_RESTORED_AT_ONCE = 1 << 17
_VERSIONS = 16
"""Messages at most that tell a pair something and are worked out at once."""
_SHIFT = 2 * DAY_MS
"""Added to a time within its local day, so that it is above 0 in every time zone."""
_MESSAGE_BITS = 44
_ENTRY = 16
"""Bytes of a day as held: its number, and first and last action and unfollow within it, 32 bits each."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts by row of their pair, by day, and then in the order of the log."""

    row: Int64s
    applied: Int64s
    day: Int64s
    at: Int64s
    action: Bools

    def of(self, which: Int64s | Bools | slice) -> "_Facts":
        return _Facts(self.row[which], self.applied[which], self.day[which], self.at[which], self.action[which])


class Lifecycle(Fold):
    """State and moves of the pairs of fan and creator of one partition of the fan log (see ``stages``).

    It reads the rows of ``fan_log``; a message is never cut in two. The moves are a function of the facts and the as-of
    day, in whatever order they came. Every message that changes a move makes a row of it, also where a message of the
    same block changes it back: another worker may have stored what holds between the two.

    A pair's days are held as far back as the stages of the last 64 days may depend on. Facts of a day further back than
    63 days are counted, and change nothing.

    Pairs that only time moves are moved when they are next told something, by ``settle``, or when their rows are taken;
    when that is makes no difference to the rows.
    """

    version: ClassVar[int] = 1
    # A row of the state that is stored says that its moves are: a replay passes what it holds.
    order: ClassVar[tuple[str, ...]] = (TRANSITIONS, STATE)

    def __init__(self, partition: int, time_zone: str, policy: StagePolicy) -> None:
        self._partition = partition
        self._time_zone = time_zone
        self._policy = policy
        self._midnights = _Midnights(time_zone)
        self._as_of: int | None = None
        self._ticks: list[tuple[int, int]] = []
        self._creators: dict[tuple[str, str], int] = {}
        self._pairs = Pairs()
        self._details: npt.NDArray[np.object_] = np.empty(1024, object)
        self._first_at: Int64s = np.empty(1024, np.int64)
        self._first_day: npt.NDArray[np.int32] = np.empty(1024, np.int32)
        self._last_day: npt.NDArray[np.int32] = np.empty(1024, np.int32)
        self._due: npt.NDArray[np.int32] = np.empty(1024, np.int32)
        self._bits: UInt64s = np.empty(1024, np.uint64)
        self._too_old: npt.NDArray[np.uint32] = np.empty(1024, np.uint32)
        self._applied: Int64s = np.empty(1024, np.int64)
        self._changed: Bools = np.empty(1024, bool)
        self._moves: list[Moves] = []
        self._unstored: list[pl.DataFrame] = []
        self._unsent: list[Output] = []

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def as_of(self) -> int | None:
        """The local day reached, days since 1970-01-01; None before the first tick."""
        return self._as_of

    def apply(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        kinds = rows["kind"]
        ticks = np.flatnonzero((kinds == "").to_numpy())
        action = ~kinds.is_in(["", *self._policy.no_activity]).to_numpy()
        which = np.flatnonzero(action | (kinds == "unfollow").to_numpy())
        applied, day = (rows[name].to_numpy().astype(np.int64, copy=False) for name in ("applied", "day"))
        pair_rows = self._rows(rows[which])
        # A torn flush may have stored rows that hold these facts already.
        new = applied[which] > self._applied[pair_rows]
        which, pair_rows = which[new], pair_rows[new]
        facts = _Facts(pair_rows, applied[which], day[which], rows["at"].to_numpy()[which], action[which])
        begin = 0
        for tick in ticks.tolist():
            if self._as_of is None or day[tick] > self._as_of:
                end = int(np.searchsorted(which, tick))
                self._tell(facts.of(slice(begin, end)))
                begin = end
                self._as_of = int(day[tick])
                self._ticks.append((self._as_of, int(applied[tick])))
        self._tell(facts.of(slice(begin, None)))

    def settle(self, limit: int | None = None) -> bool:
        """Moves pairs by the time that has passed, at most ``limit`` of them, and makes rows and records of that;
        whether that was all. Called over and over before rows are taken, it spreads the work of a midnight."""
        done = True
        if self._ticks:
            behind = np.flatnonzero(self._due[: len(self)] <= self._reached)
            self._pass_time(behind[:limit])
            done = limit is None or len(behind) <= limit
            if done:
                self._ticks.clear()
        self._collect()
        return done

    def take(self) -> dict[str, pl.DataFrame]:
        self.settle()
        moves, self._unstored = self._unstored, []
        changed = np.flatnonzero(self._changed[: len(self)])
        self._changed[changed] = False
        taken = {TRANSITIONS: pl.concat(moves)} if moves else {}
        return taken | ({STATE: self._state(changed)} if len(changed) else {})

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        self.settle()
        unsent, self._unsent = self._unsent, []
        return unsent

    def restore_state(self, rows: pl.DataFrame, as_of: int | None) -> None:
        """Takes stored rows of ``fan_state`` of this partition as the state, as at a checkpoint where ``as_of`` was the
        day reached. May be called several times; of several rows of one pair the highest ``applied`` stays."""
        self._as_of = as_of
        rows = rows.with_columns(
            pl.col("first_at").cast(pl.Datetime("ms", "UTC")).cast(pl.Int64),
            pl.col("days").cast(pl.List(pl.Int32)),
            pl.col("firsts", "lasts", "unfollows").cast(pl.List(pl.Datetime("ms", "UTC"))).cast(pl.List(pl.Int64)),
        )
        for first in range(0, len(rows), _RESTORED_AT_ONCE):
            self._restore(rows.slice(first, _RESTORED_AT_ONCE))

    def _restore(self, rows: pl.DataFrame) -> None:
        pair_rows, applied = self._rows(rows), rows["applied"].to_numpy()
        order = np.lexsort((applied, pair_rows))
        last = np.append(pair_rows[order][1:] != pair_rows[order][:-1], True)
        kept = np.sort(order[last])
        kept = kept[applied[kept] > self._applied[pair_rows[kept]]]
        rows, pair_rows, applied = rows[kept], pair_rows[kept], applied[kept]
        sizes = rows["days"].list.len().to_numpy().astype(np.int64)
        lists = rows.filter(pl.col("days").list.len() > 0)
        day, first, last, unfollow = (
            lists[name].explode().to_numpy().astype(np.int64, copy=False)
            for name in ("days", "firsts", "lasts", "unfollows")
        )
        days = Days(np.repeat(np.arange(len(rows)), sizes), day, first, last, unfollow)
        times = rows["first_at"]
        dates = times.cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._time_zone).dt.date().to_physical()
        first_at = times.to_numpy()
        self._first_at[pair_rows] = first_at
        self._applied[pair_rows] = applied
        self._too_old[pair_rows] = rows["too_old"].to_numpy()
        self._pack(pair_rows, days)
        first_day = np.where(first_at > 0, dates.to_numpy().astype(np.int64), NEVER)
        self._note(pair_rows, known(days, first_day, self._reached))

    @property
    def _reached(self) -> int:
        return NO_DAY if self._as_of is None else self._as_of

    def _rows(self, keys: pl.DataFrame) -> Int64s:
        """Rows of the pairs in columns ``platform``, ``creator_id`` and ``fan``; new ones are empty."""
        names = keys.select("platform", "creator_id").unique()
        numbers = [self._creators.setdefault(name, len(self._creators)) for name in names.rows()]
        names = names.with_columns(pl.Series("number", numbers, pl.Int64))
        found = keys.select("platform", "creator_id").join(
            names, on=["platform", "creator_id"], how="left", maintain_order="left"
        )
        before = len(self._pairs)
        rows = self._pairs.rows(keys["fan"].to_numpy(), found["number"].to_numpy())
        after = len(self._pairs)
        if after > len(self._applied):
            room = max(after, len(self._applied) * 3 // 2)
            self._details, self._changed = longer(self._details, room), longer(self._changed, room)
            self._first_at, self._first_day = longer(self._first_at, room), longer(self._first_day, room)
            self._last_day, self._bits = longer(self._last_day, room), longer(self._bits, room)
            self._due, self._too_old = longer(self._due, room), longer(self._too_old, room)
            self._applied = longer(self._applied, room)
        new = slice(before, after)
        self._details[new], self._changed[new] = b"", False
        self._first_at[new], self._first_day[new], self._last_day[new] = 0, NEVER, NO_DAY
        self._bits[new], self._due[new], self._too_old[new], self._applied[new] = 0, NEVER, 0, -1
        return rows

    def _tell(self, facts: _Facts) -> None:
        """Takes in facts, in the order of the log, between two ticks."""
        if not len(facts.row):
            return
        facts = facts.of(np.argsort(facts.row << 21 | facts.day, kind="stable"))
        pairs = np.flatnonzero(_begins(facts.row))
        cuts = pairs[np.searchsorted(pairs, np.arange(0, len(facts.row), _TOLD_AT_ONCE), "right") - 1]
        for begin, end in pairwise([*np.unique(cuts).tolist(), len(facts.row)]):
            left = facts.of(slice(begin, end))
            while len(left.row):
                left = self._tell_first(left)

    def _tell_first(self, facts: _Facts) -> _Facts:
        """Takes in facts, of a pair with very many messages only those of the first ones; returns the others."""
        reached, oldest = self._reached, self._reached - WINDOW + 1
        begins = _begins(facts.row)
        pair = np.cumsum(begins) - 1
        rows = facts.row[begins]
        count = len(rows)
        self._pass_time(rows[self._due[rows] <= reached])
        kept = facts.day >= oldest
        news, news_pair = facts.of(kept), pair[kept]
        days, where = _with_days(self._unpack(rows, oldest - self._policy.reach), news_pair, news.day)
        tells = _telling(days, where, news_pair, news)
        version, versions, applied = _versions(news_pair[tells], news.applied[tells], count)
        messages = np.cumsum(versions) - versions
        if versions.max(initial=0) > _VERSIONS:
            many = versions > _VERSIONS
            upto = np.full(count, facts.applied.max())
            upto[many] = applied[messages[many] + _VERSIONS - 1]
            first = facts.applied <= upto[pair]
            self._tell_first(facts.of(first))
            return facts.of(~first)
        moved = np.flatnonzero(versions)
        if len(moved):
            theirs = versions[days.pair] > 0
            moves, present = told(
                self._policy,
                Days(
                    (np.cumsum(versions > 0) - 1)[days.pair[theirs]],
                    days.day[theirs],
                    days.first[theirs],
                    days.last[theirs],
                    days.unfollow[theirs],
                ),
                News((np.cumsum(theirs) - 1)[where[tells]], version, news.at[tells], news.action[tells]),
                self._first_day[rows[moved]].astype(np.int64),
                versions[moved],
                reached,
            )
            by = applied[messages[moved][moves.pair] + moves.applied - 1]
            self._moves.append(replace(moves, pair=rows[moved][moves.pair], applied=by))
            self._note(rows[moved], present)
        action = news.action
        first_at = self._first_at[rows]
        first_at[first_at == 0] = NO_TIME
        np.minimum.at(first_at, news_pair[action], news.at[action])
        self._first_at[rows] = np.where(first_at < NO_TIME, first_at, 0)
        earliest = np.where(days.first > 0, days.first, NO_TIME)
        np.minimum.at(earliest, where[action], news.at[action])
        np.maximum.at(days.last, where[action], news.at[action])
        np.maximum.at(days.unfollow, where[~action], news.at[~action])
        self._pack(rows, replace(days, first=np.where(earliest < NO_TIME, earliest, 0)))
        self._too_old[rows] += np.bincount(pair[~kept], minlength=count).astype(np.uint32)
        self._applied[rows] = np.maximum.reduceat(facts.applied, np.flatnonzero(begins))
        self._changed[rows] = True
        return facts.of(slice(0, 0))

    def _note(self, rows: Int64s, present: Present) -> None:
        """Keeps what pairs have come to, all of whose moves up to ``present.end`` are made."""
        self._first_day[rows], self._last_day[rows] = present.first_day, present.last_day
        self._bits[rows] = present.bits
        self._due[rows] = next_move(
            self._policy, present.first_day, present.last_day, present.bits, present.left, present.end
        )

    def _pass_time(self, rows: Int64s) -> None:
        """Makes the moves of pairs that the as-of day has brought."""
        tick_days = np.array([day for day, _ in self._ticks], np.int64)
        tick_applied = np.array([applied for _, applied in self._ticks], np.int64)
        while len(rows):
            day, first_day, last_day = (
                column[rows].astype(np.int64) for column in (self._due, self._first_day, self._last_day)
            )
            bits, none, zero = self._bits[rows], np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
            shared = (first_day, last_day, bits, last_day, none)
            before, after = stages_as_of(self._policy, day - 1, *shared), stages_as_of(self._policy, day, *shared)
            applied = np.maximum(self._applied[rows], tick_applied[np.searchsorted(tick_days, day)])
            step, reason = np.zeros(len(rows), np.uint8), absence_reasons(before, after)
            self._moves.append(Moves(rows, day, step, before, after, zero, reason, none, none, applied))
            due = next_move(self._policy, first_day, last_day, bits, none, day)
            self._due[rows] = due
            rows = rows[due <= self._reached]

    def _collect(self) -> None:
        """Makes rows and records of the moves made."""
        moves, self._moves = [part for part in self._moves if len(part.pair)], []
        if not moves:
            return
        every = joined(moves)
        key = (every.pair << 21 | every.day) << 2 | every.step
        order = np.argsort(key, kind="stable")
        # Of several in one place the last stands.
        rows = self._transitions(chosen(every, order[np.append(_begins(key[order])[1:], True)]))
        self._unstored.append(rows)
        self._unsent += [Output(TRANSITIONS, key, value) for key, value in records(rows)]

    def _transitions(self, moves: Moves) -> pl.DataFrame:
        at = np.where(moves.step == 0, self._midnights.at(moves.day), moves.at)
        return pl.DataFrame(
            [
                *self._keys(moves.pair),
                pl.Series("day", moves.day).cast(pl.Int32).cast(pl.Date),
                pl.Series("step", moves.step),
                _named("from_stage", STAGES, moves.before),
                _named("to_stage", STAGES, moves.after),
                pl.Series("at", at).cast(pl.Datetime("ms", "UTC")),
                _named("reason", REASONS, moves.reason),
                pl.Series("resurrected", moves.resurrected).cast(pl.UInt8),
                pl.Series("withdrawn", moves.withdrawn).cast(pl.UInt8),
                pl.Series("fold_version", np.full(len(at), self.version, np.uint16)),
                pl.Series("applied", moves.applied),
            ]
        )

    def _state(self, rows: Int64s) -> pl.DataFrame:
        days = self._unpack(rows, NO_DAY)
        ends = np.cumsum(np.bincount(days.pair, minlength=len(rows)))
        offsets = pa.array(np.append(0, ends), pa.int64())
        time = pa.timestamp("ms", "UTC")
        lists = (
            ("days", pa.array(days.day.astype(np.int32)).view(pa.date32())),
            ("firsts", pa.array(days.first).view(time)),
            ("lasts", pa.array(days.last).view(time)),
            ("unfollows", pa.array(days.unfollow).view(time)),
        )
        return pl.DataFrame(
            [
                *self._keys(rows),
                pl.Series("first_at", self._first_at[rows]).cast(pl.Datetime("ms", "UTC")),
                *(pl.Series(name, pa.LargeListArray.from_arrays(offsets, values)) for name, values in lists),
                pl.Series("too_old", self._too_old[rows]),
                pl.Series("fold_version", np.full(len(rows), self.version, np.uint16)),
                pl.Series("applied", self._applied[rows]),
            ]
        )

    def _keys(self, rows: Int64s) -> list[pl.Series]:
        fans, numbers = self._pairs.keys(rows)
        used, which = np.unique(numbers, return_inverse=True)
        names = list(self._creators)
        platforms, creators = zip(*(names[number] for number in used.tolist()), strict=True)
        return [
            _named("platform", platforms, which),
            _named("creator_id", creators, which),
            pl.Series("fan", fans),
        ]

    def _unpack(self, rows: Int64s, oldest: int) -> Days:
        """The days held of these pairs, from ``oldest`` on."""
        details = self._details[rows].tolist()
        entries = np.frombuffer(b"".join(details), np.uint32).reshape(-1, 4)
        sizes = np.fromiter(map(len, details), np.int64, len(details)) // _ENTRY
        pair = np.repeat(np.arange(len(rows)), sizes)
        if len(entries) and int(entries[:, 0].min()) < oldest:
            held = entries[:, 0] >= oldest
            entries, pair = entries[held], pair[held]
        day = entries[:, 0].astype(np.int64)
        begin = day * DAY_MS - _SHIFT
        first, last, unfollow = (np.where(entries[:, n] > 0, entries[:, n] + begin, 0) for n in (1, 2, 3))
        return Days(pair, day, first, last, unfollow)

    def _pack(self, rows: Int64s, days: Days) -> None:
        """Keeps the days of these pairs."""
        begin = days.day * DAY_MS - _SHIFT
        entries = np.empty((len(days.day), 4), np.uint32)
        entries[:, 0] = days.day
        for column, times in enumerate((days.first, days.last, days.unfollow), 1):
            within = np.where(times > 0, times - begin, 0)
            if len(within) and not 0 <= int(within.min()) <= int(within.max()) < 2 * _SHIFT:
                raise ValueError(
                    f"fan log, partition {self._partition}: an event is not on the day it is said to be on"
                )
            entries[:, column] = within
        ends = (np.cumsum(np.bincount(days.pair, minlength=len(rows))) * _ENTRY).tolist()
        whole = entries.tobytes()
        details = np.empty(len(rows), object)
        details[:] = [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        self._details[rows] = details


def records(moves: pl.DataFrame) -> list[tuple[bytes, bytes]]:
    """Rows of ``fan_transitions`` as records of the Kafka topic, key and value: of each creator, in their order."""
    number = pl.int_range(pl.len()).over("creator_id") // RECORD_MOVES
    found = (
        moves.select("creator_id", _json(moves).alias("line"), number.alias("number"))
        .group_by("creator_id", "number", maintain_order=True)
        .agg(pl.col("line").str.join("\n"))
    )
    keys, values = (found[name].cast(pl.Binary).to_list() for name in ("creator_id", "line"))
    return list(zip(keys, values, strict=True))


class _Midnights:
    """When local days begin."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._known: dict[int, int] = {}

    def at(self, days: Int64s) -> Int64s:
        """The first moment of each local day, UTC ms; of a day that the zone left out, that of the next."""
        distinct, which = np.unique(days, return_inverse=True)
        begins = [self._known.get(day) or self._known.setdefault(day, self._begin(day)) for day in distinct.tolist()]
        return np.array(begins, np.int64)[which]

    def _begin(self, day: int) -> int:
        wanted = datetime(1970, 1, 1) + timedelta(days=day)  # noqa: DTZ001
        # Where clocks are put back, fold 0 is the earlier of two such times.
        found = int(wanted.replace(tzinfo=self._zone).timestamp())
        if datetime.fromtimestamp(found, self._zone).replace(tzinfo=None) == wanted:
            return found * 1000
        # Clocks are put forward over midnight: by the offset before it lies behind that, by the one after it before.
        before, after = int(wanted.replace(tzinfo=self._zone, fold=1).timestamp()), found
        while after - before > 1:
            middle = (before + after) // 2
            if datetime.fromtimestamp(middle, self._zone).replace(tzinfo=None) < wanted:
                before = middle
            else:
                after = middle
        return after * 1000


def _begins(values: Int64s) -> Bools:
    """Where a run of equal values begins."""
    return np.append(np.ones(min(len(values), 1), bool), values[1:] != values[:-1])


def _with_days(days: Days, pair: Int64s, day: Int64s) -> tuple[Days, Int64s]:
    """The days with those of some facts among them, and the index of each fact's. Facts are by pair and day."""
    keys = days.pair << 21 | days.day
    wanted = pair << 21 | day
    begins = _begins(wanted)
    distinct = wanted[begins]
    at = np.searchsorted(keys, distinct)
    new = np.append(keys, -1)[at] != distinct
    if new.any():
        old = np.ones(len(keys) + np.count_nonzero(new), bool)
        old[at[new] + np.arange(np.count_nonzero(new))] = False
        merged = np.empty(len(old), np.int64)
        merged[old], merged[~old] = keys, distinct[new]
        columns = [np.zeros(len(old), np.int64) for _ in range(3)]
        for column, values in zip(columns, (days.first, days.last, days.unfollow), strict=True):
            column[old] = values
        days = Days(merged >> 21, merged & ((1 << 21) - 1), *columns)
        at += np.cumsum(new) - new
    return days, at[np.cumsum(begins) - 1]


def _telling(days: Days, where: Int64s, pair: Int64s, facts: _Facts) -> Bools:
    """Which facts may change moves: first actions of a day, or earlier ones; and all of pairs with an unfollow."""
    begins = _begins(where)
    earlier = so_far(np.cumsum(begins), np.where(facts.action, NO_TIME - facts.at, 0))
    earlier = np.where(begins, 0, np.append(0, earlier[:-1]))
    held = days.first[where]
    first = facts.action & (facts.at < np.minimum(NO_TIME - earlier, np.where(held > 0, held, NO_TIME)))
    unfollowed = np.zeros(int(max(days.pair.max(initial=0), pair.max(initial=0))) + 1, bool)
    unfollowed[days.pair[days.unfollow > 0]] = True
    unfollowed[pair[~facts.action]] = True
    return first | unfollowed[pair]


def _versions(pair: Int64s, applied: Int64s, count: int) -> tuple[Int64s, Int64s, Int64s]:
    """Numbers the messages of each of ``count`` pairs from 1 on: the number of each fact's; how many each pair has;
    and the offsets of the messages, by pair and number."""
    base = int(applied.min(initial=np.iinfo(np.int64).max))
    messages, which = np.unique(pair << _MESSAGE_BITS | applied - base, return_inverse=True)
    versions = np.bincount(messages >> _MESSAGE_BITS, minlength=count)
    version = which - (np.cumsum(versions) - versions)[pair] + 1
    return version, versions, (messages & ((1 << _MESSAGE_BITS) - 1)) + base


def _named(name: str, names: Sequence[str], numbers: npt.NDArray[np.integer[Any]]) -> pl.Series:
    """A column of names, by their numbers."""
    return pl.Series(name, names, dtype=pl.String).gather(pl.Series(numbers)).rename(name)


def _json(moves: pl.DataFrame) -> pl.Series:
    """The moves as lines of the Kafka topic."""
    fan, day = pl.col("fan").cast(pl.String), pl.col("day").cast(pl.String)
    record = pl.struct(
        pl.format("{}:{}:{}:{}:{}", "platform", "creator_id", fan, day, "step").alias("id"),
        pl.col("applied").alias("version"),
        "platform",
        "creator_id",
        fan,
        day,
        "step",
        pl.col("from_stage").alias("from"),
        pl.col("to_stage").alias("to"),
        pl.col("at").dt.epoch("ms"),
        "reason",
        "resurrected",
        "withdrawn",
    )
    return moves.select(record.struct.json_encode()).to_series()
