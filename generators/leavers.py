"""Who leaves in churn waves, and what becomes of their events."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from generators.columns import CODES, Columns, names
from generators.draws import Ints, Mask, unit, whole
from generators.incidents import ChurnWave
from generators.population import PROFILE, Crowd
from schemas.topics import DAY_MS

WARM_MS = 30 * DAY_MS
"""Who follows but was not there for so long is gone already."""
_NUMBERS = 2**32
"""The events of waves are numbered from here on, above those of any slot."""
_A_WAVE = 2**24


@dataclass(frozen=True)
class Leavers:
    """Fans of a partition who leave in waves; one row each, sorted by ``pair``.

    ``pair`` = fan x creators + creator; ``at``: when, UTC ms; ``number``: tells the events of leaving apart.
    """

    creators: int
    pair: Ints
    at: Ints
    number: Ints

    def stay(self, columns: Columns) -> Mask:
        """Which events still happen: those of others, and those of before."""
        if len(self.pair) == 0:
            return np.ones(len(columns), dtype=np.bool_)
        pair = columns["fan"] * self.creators + columns["creator"]
        place = np.minimum(np.searchsorted(self.pair, pair), len(self.pair) - 1)
        left: Mask = (self.pair[place] == pair) & (columns["event_time"] >= self.at[place])
        return ~left

    def unfollows(self, start_ms: int, end_ms: int, slot_ms: int) -> Columns:
        """The events of leaving in [start_ms, end_ms), in order of time."""
        here = np.flatnonzero((self.at >= start_ms) & (self.at < end_ms))
        here = here[np.argsort(self.at[here], kind="stable")]
        fan, creator = np.divmod(self.pair[here], self.creators)
        values = {name: np.full(len(here), -1, dtype=np.int64) for name in names("interactions")}
        values["event_time"] = self.at[here]
        values["fan"] = fan
        values["creator"] = creator
        values["kind"] = np.full(len(here), CODES["interactions"]["unfollow"], dtype=np.int64)
        values["slot"] = self.at[here] // slot_ms
        values["number"] = self.number[here]
        values["source"] = np.full(len(here), PROFILE, dtype=np.int64)
        return Columns("interactions", values)


def leavers(waves: Sequence[tuple[ChurnWave, int, Crowd]], creators: int, seed: int) -> Leavers:
    """Who leaves; whom two waves would take, leaves in the earlier.

    Args:
        waves: each with the number of its creator, and the crowd of the partition when it begins.
        creators: how many there are.
        seed: of the world.
    """
    pairs, times, numbers = [], [], []
    for turn, (wave, creator, crowd) in enumerate(waves):
        bonds, rows = crowd.bonds, _followers(crowd, wave.start_ms)
        rows = rows[bonds.creator[rows] == creator]
        pair, salt = bonds.fan[rows] * creators + creator, (seed * 8 + 7) * 2**16 + turn * 2
        span = wave.end_ms - wave.start_ms
        at = wave.start_ms + np.minimum(whole(unit(pair, salt) ** 1.7 * span), span - 1)
        leaves = (unit(pair, salt + 1) < wave.share) & (at < bonds.unfollow_ms[rows])
        pairs.append(pair[leaves])
        times.append(at[leaves])
        numbers.append(_NUMBERS + turn * _A_WAVE + np.arange(int(leaves.sum()), dtype=np.int64))
    pair, at, number = (np.concatenate([np.empty(0, dtype=np.int64), *parts]) for parts in (pairs, times, numbers))
    order = np.lexsort((at, pair))
    first = order[np.diff(pair[order], prepend=-1) != 0]
    return Leavers(creators, pair[first], at[first], number[first])


def followers(crowd: Crowd, creators: int, at_ms: int) -> Ints:
    """How many of a crowd follow each creator at a time (UTC ms) and were there of late."""
    found: Ints = np.bincount(crowd.bonds.creator[_followers(crowd, at_ms)], minlength=creators).astype(np.int64)
    return found


def _followers(crowd: Crowd, at_ms: int) -> Ints:
    """Rows of bonds of those who follow at a time and were there within ``WARM_MS`` before it."""
    bonds, spells = crowd.bonds, crowd.spells
    about = np.unique(spells.bond[(spells.start_ms <= at_ms) & (spells.end_ms > at_ms - WARM_MS)])
    rows: Ints = about[(bonds.follow_ms[about] <= at_ms) & (at_ms < bonds.unfollow_ms[about])]
    return rows
