"""Stages of fans and their moves, for many pairs of fan and creator at once.

A local day is a number, days since 1970-01-01. Of a pair everything follows from its days: first and last action of
each, and the latest unfollow. DESIGN.md has the definitions. As of a day, by the active days known:

    left                               churned   (an unfollow, and no action later than it)
    day - last active day >= C         churned
    day - last active day >= I         silent
    day - first active day < I         new
    an active day in day-2I+1..day-I   retained
    else                               active

Each day has three steps, each at most one move: 0 at its midnight, by the passing of time; 1 at its first action; 2 at
its latest unfollow, if no action follows on that day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.block import Int64s
from pipeline.dedupe import UInt64s

Bools = npt.NDArray[np.bool_]
Stages = npt.NDArray[np.uint8]

STAGES = ("none", "new", "active", "retained", "silent", "churned")
"""Stages by number. A pair without any action is no fan yet: ``none``."""
NONE, NEW, ACTIVE, RETAINED, SILENT, CHURNED = range(6)
REASONS = ("", "arrived", "returned", "unfollowed", "absent", "aged", "faded")
"""Why a pair moves, by number; empty: it does not."""
UNMOVED, ARRIVED, RETURNED, UNFOLLOWED, ABSENT, AGED, FADED = range(7)

WINDOW = 64
"""Days up to the as-of day in which facts count; also the most that two intervals may span."""
NO_DAY = -(1 << 20)
"""Stands for a day that there is not, where days are compared from above; earlier than all."""
NEVER = 1 << 20
"""The same from below; later than all."""
NO_TIME = 1 << 42
"""Stands for a time (UTC ms) that there is not, where the earliest is looked for; later than all."""

_TIME_BITS = 42
_CELLS = 1 << 17
"""About so many cells (days of a pair, by version) are worked out at once; bounds memory, and keeps it in the cache."""


class StagePolicy(BaseModel):
    """What stages hang on. ``interval`` (I) and ``churn_after`` (C) in days; ``no_activity``: kinds of events that are
    no action of the fan, ``unfollow`` among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval: int = Field(7, ge=1, le=WINDOW // 2)
    churn_after: int = Field(30, ge=2, le=WINDOW - 1)
    no_activity: tuple[str, ...] = ("unfollow", "refunded", "impression")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.churn_after <= self.interval:
            raise ValueError(f"churn_after={self.churn_after} must be above interval={self.interval}")
        if "unfollow" not in self.no_activity:
            raise ValueError("no_activity must name unfollow: a fan who leaves would count as active")
        return self

    @property
    def reach(self) -> int:
        """Days before a day that its stage may depend on, and that of the day before it."""
        return max(self.churn_after, 2 * self.interval)


def stages_as_of(
    policy: StagePolicy, day: Int64s, first_day: Int64s, last_day: Int64s, bits: UInt64s, anchor: Int64s, left: Bools
) -> Stages:
    """The stage of pairs as of a day, by the active days up to ``anchor``, with none after that up to ``day``.

    ``bits``: bit i is set if ``anchor - i`` was active. ``last_day``: the last active day; ``NO_DAY``: further back
    than ``policy.reach``. Pairs are fans, since ``first_day``.
    """
    interval = policy.interval
    back = np.clip(interval - (day - anchor), 0, WINDOW - 1).astype(np.uint64)
    before = (bits >> back) & np.uint64((1 << interval) - 1) != 0
    stage = np.where(before, RETAINED, ACTIVE).astype(np.uint8)
    stage[day - first_day < interval] = NEW
    gap = day - last_day
    stage[gap >= interval] = SILENT
    stage[(gap >= policy.churn_after) | left] = CHURNED
    return stage


def next_move(
    policy: StagePolicy, first_day: Int64s, last_day: Int64s, bits: UInt64s, left: Bools, after: Int64s
) -> Int64s:
    """The first day later than ``after`` whose midnight moves a pair if it does nothing more; ``NEVER``: none does.

    ``bits`` as in ``stages_as_of``, anchored at ``last_day``; ``after`` is not before it.
    """
    interval, churn = policy.interval, policy.churn_after
    silent, churned = last_day + interval, last_day + churn
    due = np.where(churned > after, churned, NEVER)
    due = np.where(silent > after, silent, due)
    # Bit y of `retained`: whether the stage is retained I - y days after the last active day. Where it differs from the
    # bit above it, the day before was otherwise; the highest such bit is the first such day.
    retained, width = bits, 1
    while width < interval:
        step = min(width, interval - width)
        retained = retained | (retained >> np.uint64(step))
        width += step
    flips = retained ^ (retained >> np.uint64(1))
    aged = first_day + interval
    # Bits from 1 up to this one are of days later than `after` on which the fan is no longer new.
    upper = np.clip(interval - 1 - (np.maximum(after, aged) - last_day), 0, interval)
    flips &= (np.uint64(1) << (upper + 1).astype(np.uint64)) - np.uint64(2)
    highest = np.frexp(flips.astype(np.float64))[1].astype(np.int64) - 1
    due = np.where(flips > 0, silent - highest, due)
    due = np.where((aged > after) & (first_day < last_day), aged, due)
    due[left | (last_day == NO_DAY)] = NEVER
    return due


def absence_reasons(before: Stages, after: Stages) -> Stages:
    """Reasons of moves by the passing of time, from stage to stage."""
    kept = np.where(before == NEW, AGED, FADED)
    return np.where(after >= SILENT, ABSENT, kept).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Days:
    """What is known of the days of n pairs: arrays over all days, by pair and then by day.

    ``pair``: 0 to n-1. ``first`` and ``last`` action, latest ``unfollow``: UTC ms, 0: none.
    """

    pair: Int64s
    day: Int64s
    first: Int64s
    last: Int64s
    unfollow: Int64s


@dataclass(frozen=True, slots=True)
class News:
    """What pairs are told, in the order of ``where``, the index of the fact's day in ``Days``.

    Version 0 of a pair is what was known before; version v adds the v-th message. ``version`` is that of the message of
    a fact, from 1 on; ``at``: UTC ms; ``action``: otherwise it is an unfollow.
    """

    where: Int64s
    version: Int64s
    at: Int64s
    action: Bools


@dataclass(frozen=True, slots=True)
class Moves:
    """Moves; one that is ``withdrawn`` is no longer true, so ``before`` equals ``after``.

    ``pair`` is its number, or its row; ``at`` (UTC ms) is 0 for step 0: the midnight of ``day``; ``reason`` is a number
    of ``REASONS``; ``applied`` is a version, or an offset.
    """

    pair: Int64s
    day: Int64s
    step: Stages
    before: Stages
    after: Stages
    at: Int64s
    reason: Stages
    resurrected: Bools
    withdrawn: Bools
    applied: Int64s


@dataclass(frozen=True, slots=True)
class Present:
    """What n pairs have come to: first and last active day (``NEVER``, ``NO_DAY``: none, or none that is held), active
    days up to the last (see ``stages_as_of``), whether they have left, and the last day that moves are made for."""

    first_day: Int64s
    last_day: Int64s
    bits: UInt64s
    left: Bools
    end: Int64s


def told(
    policy: StagePolicy, days: Days, news: News, first_day: Int64s, versions: Int64s, reached: int
) -> tuple[Moves, Present]:
    """Every move that a version of a pair has and the one before has not, or otherwise, and every one that it has no
    more; and what the last versions come to.

    Args:
        policy: what stages hang on.
        days: of n pairs, as known before the news; those that only the news has are there, with nothing on them.
            Days further than ``policy.reach`` before every fact may be left out.
        news: at least one fact for each pair and version.
        first_day: of each pair, the earliest active day known before; ``NEVER``: no fan yet.
        versions: of each pair, how many the news makes.
        reached: the as-of day: moves are made up to it, or to the pair's last day if that is later. ``NO_DAY``: none.
    """
    count = len(first_day)
    per_pair = np.bincount(days.pair, minlength=count)
    cost = np.cumsum((versions + 1) * (per_pair + 2))
    if not count or cost[-1] <= _CELLS:
        return _told(policy, days, news, first_day, versions, reached)
    cuts = np.unique(np.searchsorted(cost, np.arange(_CELLS, cost[-1], _CELLS)))
    bounds = [0, *cuts[cuts > 0].tolist(), count]
    day_bounds = np.searchsorted(days.pair, bounds).tolist()
    fact_bounds = np.searchsorted(news.where, day_bounds).tolist()
    made, come_to = [], []
    for number, (low, high) in enumerate(pairwise(bounds)):
        here, facts = slice(*day_bounds[number : number + 2]), slice(*fact_bounds[number : number + 2])
        moves, present = _told(
            policy,
            Days(days.pair[here] - low, days.day[here], days.first[here], days.last[here], days.unfollow[here]),
            News(news.where[facts] - here.start, news.version[facts], news.at[facts], news.action[facts]),
            first_day[low:high],
            versions[low:high],
            reached,
        )
        made.append(replace(moves, pair=moves.pair + low))
        come_to.append(present)
    return joined(made), Present(*(np.concatenate(each) for each in zip(*map(_columns, come_to), strict=True)))


def known(days: Days, first_day: Int64s, reached: int) -> Present:
    """What pairs have come to by these days. ``first_day`` and ``reached`` as in ``told``."""
    sums = _Sums(days, len(first_day))
    end = np.full(len(first_day), reached)
    np.maximum.at(end, days.pair, days.day)
    left = (sums.unfollow > 0) & (sums.last <= sums.unfollow)
    return Present(first_day, sums.last_day, sums.bits, left, end)


def joined(moves: Sequence[Moves]) -> Moves:
    """Moves one after the other; at least one part."""
    return Moves(*(np.concatenate(each) for each in zip(*map(_columns, moves), strict=True)))


def chosen(moves: Moves, which: Int64s | Bools) -> Moves:
    """Some of the moves."""
    return Moves(*(column[which] for column in _columns(moves)))


def _columns(of: Days | Moves | Present) -> list[npt.NDArray[Any]]:
    return [getattr(of, field.name) for field in fields(of)]


def _told(
    policy: StagePolicy, days: Days, news: News, first_day: Int64s, versions: Int64s, reached: int
) -> tuple[Moves, Present]:
    count = len(first_day)
    earliest = np.full(count, NEVER)
    np.minimum.at(earliest, days.pair[news.where], days.day[news.where])
    held = (days.first > 0) | (days.unfollow > 0)
    end = np.full(count, reached)
    np.maximum.at(end, days.pair[held], days.day[held])
    # Before this day no move changes.
    since = np.where(end == NO_DAY, earliest, np.minimum(earliest, end + 1))
    cells = _Cells(days, news, since, versions)
    first_day = np.minimum(first_day[cells.group_pair], cells.first_active)
    end = np.maximum(end[cells.group_pair], cells.last_known)

    # The days that are looked at, the same for each version of a pair: from each cell's on, until the next or until
    # nothing more can follow from it.
    final = np.cumsum(versions + 1) - 1
    begin = np.maximum(cells.pattern_day, since[cells.pattern_pair])
    stop = np.minimum(end[final][cells.pattern_pair], cells.pattern_day + policy.churn_after)
    within = cells.pattern_pair[1:] == cells.pattern_pair[:-1]
    stop[:-1][within] = np.minimum(stop[:-1][within], cells.pattern_day[1:][within] - 1)
    lengths = np.maximum(stop - begin + 1, 0)
    of_cell, later = _spread(lengths)
    looked_at = begin[of_cell] + later
    looked_pair = cells.pattern_pair[of_cell]
    looks = np.bincount(looked_pair, minlength=count)
    group, later = _spread(looks[cells.group_pair])
    pair = cells.group_pair[group]
    look = _starts(looks)[pair] + later
    day = looked_at[look]
    cell = cells.starts[group] + of_cell[look] - cells.heads[pair]

    first = first_day[group]
    own = day == cells.day[cell]
    before = cell - own
    fan = first < day
    shared = (first, cells.last_day[before], cells.bits[before], cells.day[before], cells.left[before])
    at_end = stages_as_of(policy, day - 1, *shared)
    at_midnight = stages_as_of(policy, day, *shared)
    at_end[~fan] = NONE
    at_midnight[~fan] = NONE
    acted = own & cells.active[cell]
    nobody = np.zeros(len(day), bool)
    active = stages_as_of(policy, day, first, cells.last_day[cell], cells.bits[cell], cells.day[cell], nobody)
    by_day = np.where(acted, active, at_midnight)
    gone = own & (cells.unfollow[cell] > 0) & cells.left[cell] & (by_day != NONE)
    by_night = np.where(gone, np.uint8(CHURNED), by_day)
    back = acted & fan & (day - cells.last_day[before] >= policy.interval)

    in_time = day <= end[group]
    reasons = absence_reasons(at_end, at_midnight)
    arrived = np.where(at_midnight == NONE, np.uint8(ARRIVED), np.uint8(RETURNED))
    left = np.full(len(day), UNFOLLOWED, np.uint8)
    nothing = np.zeros(len(day), np.int64)
    version = cells.version[group]
    earlier = np.arange(len(day)) - looks[pair]
    made = []
    for step, (old, new, at, reason, resurrected) in enumerate(
        (
            (at_end, at_midnight, nothing, reasons, nobody),
            (at_midnight, by_day, cells.first[cell], arrived, back),
            (by_day, by_night, cells.unfollow[cell], left, nobody),
        )
    ):
        moved = (old != new) & in_time
        content = np.where(moved, ((at << 3 | old) << 3 | new) << 1 | resurrected, 0)
        changed = np.flatnonzero((version > 0) & (content != content[earlier]))
        withdrawn = ~moved[changed]
        made.append(
            Moves(
                pair[changed],
                day[changed],
                np.full(len(changed), step, np.uint8),
                np.where(withdrawn, new[changed], old[changed]),
                new[changed],
                at[changed],
                np.where(withdrawn, np.uint8(UNMOVED), reason[changed]),
                resurrected[changed] & ~withdrawn,
                withdrawn,
                version[changed],
            )
        )
    last = cells.starts[final] + cells.sizes[final] - 1
    last_day = cells.last_day[last]
    shift = np.clip(cells.day[last] - last_day, 0, WINDOW).astype(np.uint64)
    # Shifting by all 64 bits is left undefined.
    bits = np.where(shift < WINDOW, cells.bits[last] >> (shift & np.uint64(WINDOW - 1)), np.uint64(0))
    return joined(made), Present(first_day[final], last_day, bits, cells.left[last], end[final])


class _Cells:
    """What is true at the end of each day that counts, by version of each pair.

    A pair has a pattern of cells: its head sums up what was before day ``since``; each day from then on is a cell that
    follows. A group is a version of a pair: a copy of the pattern, with the news up to that version.
    """

    def __init__(self, days: Days, news: News, since: Int64s, versions: Int64s) -> None:
        count = len(since)
        tail = days.day >= since[days.pair]
        cells = np.bincount(days.pair[tail], minlength=count) + 1
        self.heads = _starts(cells)
        self.pattern_pair, _ = _spread(cells)
        place = np.full(len(days.pair), -1)
        place[tail] = days.pair[tail] + 1 + np.arange(len(self.pattern_pair) - count)
        day, first, last, unfollow, bits = self._patterns(days, since, place)
        self.pattern_day = day

        self.group_pair, self.version = _spread(versions + 1)
        self.sizes = cells[self.group_pair]
        self.starts = _starts(self.sizes)
        group, in_group = _spread(self.sizes)
        copied = self.heads[self.group_pair][group] + in_group
        self.day, self.first, self.unfollow = day[copied], first[copied], unfollow[copied]
        last, self.bits = last[copied], bits[copied]
        pair = days.pair[news.where]
        fact, later = _spread(versions[pair] + 1 - news.version)
        cell = self.starts[(_starts(versions + 1)[pair] + news.version)[fact] + later]
        cell += (place[news.where] - self.heads[pair])[fact]
        at, action = news.at[fact], news.action[fact]
        np.minimum.at(self.first, cell[action], at[action])
        np.maximum.at(last, cell[action], at[action])
        np.maximum.at(self.unfollow, cell[~action], at[~action])

        self.active = self.first < NO_TIME
        unfollowed = so_far(group, self.unfollow)
        self.left = (unfollowed > 0) & (so_far(group, last) <= unfollowed)
        self.last_day = so_far(group, np.where(self.active, self.day - NO_DAY, 0)) + NO_DAY
        self._spread_bits(in_group)
        inner = self.active & (in_group > 0)
        self.first_active = np.minimum.reduceat(np.where(inner, self.day, NEVER), self.starts)
        known = inner | (self.unfollow > 0) & (in_group > 0)
        self.last_known = np.maximum.reduceat(np.where(known, self.day, NO_DAY), self.starts)

    def _patterns(self, days: Days, since: Int64s, place: Int64s) -> tuple[Int64s, Int64s, Int64s, Int64s, UInt64s]:
        """Days, firsts (``NO_TIME``: none), lasts and unfollows of the pattern's cells, and bits of the heads."""
        tail, past = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
        sums = _Sums(Days(*(column[past] for column in _columns(days))), len(since))
        total = len(self.pattern_pair)
        day, last, unfollow = (np.zeros(total, np.int64) for _ in range(3))
        first = np.full(total, NO_TIME)
        bits = np.zeros(total, np.uint64)
        known = sums.last_day > NO_DAY
        day[self.heads] = np.where(known, sums.last_day, since - 1)
        first[self.heads] = np.where(known, 1, NO_TIME)
        last[self.heads], unfollow[self.heads], bits[self.heads] = sums.last, sums.unfollow, sums.bits
        cell = place[tail]
        day[cell], last[cell], unfollow[cell] = days.day[tail], days.last[tail], days.unfollow[tail]
        first[cell] = np.where(days.first[tail] > 0, days.first[tail], NO_TIME)
        return day, first, last, unfollow, bits

    def _spread_bits(self, in_group: Int64s) -> None:
        """Sets the bits of every cell, from its group's cells up to it."""
        inner = in_group > 0
        self.bits[inner] = self.active[inner]
        distance = 1
        while distance < int(self.sizes.max()):
            # Twice as many cells in each round; that some come in twice does not matter.
            here = np.flatnonzero(in_group >= distance)
            shift = self.day[here] - self.day[here - distance]
            near = shift < WINDOW
            here = here[near]
            self.bits[here] |= self.bits[here - distance] << shift[near].astype(np.uint64)
            distance *= 2


class _Sums:
    """Last active day (``NO_DAY``: none), active days up to it (see ``stages_as_of``), and latest action and unfollow
    (UTC ms, 0: none) of each of ``count`` pairs."""

    def __init__(self, days: Days, count: int) -> None:
        active = np.flatnonzero(days.first)
        pair = days.pair[active]
        self.last_day = np.full(count, NO_DAY)
        np.maximum.at(self.last_day, pair, days.day[active])
        back = self.last_day[pair] - days.day[active]
        near = back < WINDOW
        self.bits = np.zeros(count, np.uint64)
        np.bitwise_or.at(self.bits, pair[near], np.uint64(1) << back[near].astype(np.uint64))
        self.last, self.unfollow = np.zeros(count, np.int64), np.zeros(count, np.int64)
        np.maximum.at(self.last, days.pair, days.last)
        np.maximum.at(self.unfollow, days.pair, days.unfollow)


def so_far(group: Int64s, values: Int64s) -> Int64s:
    """The highest value up to here in each group; values from 0 to below ``NO_TIME``."""
    highest: Int64s = np.maximum.accumulate(group << _TIME_BITS | values) & (NO_TIME - 1)
    return highest


def _starts(sizes: Int64s) -> Int64s:
    """Where each of consecutive runs begins."""
    starts: Int64s = np.cumsum(sizes) - sizes
    return starts


def _spread(sizes: Int64s) -> tuple[Int64s, Int64s]:
    """Of each member of consecutive runs: the number of its run, and its place in it from 0 on."""
    run = np.repeat(np.arange(len(sizes)), sizes)
    return run, np.arange(len(run)) - _starts(sizes)[run]
