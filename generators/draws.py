"""Random numbers as a function of where they are used, and the few distributions the world draws from."""

import zlib

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def stream(seed: int, name: str, *place: int) -> np.random.Generator:
    """Generator for one use (``name``) at one place (partition, slot, season, ...): the same at every call."""
    words = [seed, zlib.crc32(name.encode()), *(value & 0xFFFFFFFFFFFFFFFF for value in place)]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words)))


def choose(cumulative: Floats, uniform: Floats) -> Ints:
    """Indexes drawn by cumulative weights (last value = total), one per uniform number in [0, 1)."""
    picked: Ints = np.searchsorted(cumulative, uniform * cumulative[-1], side="right").astype(np.int64)
    return np.minimum(picked, len(cumulative) - 1)


def cumulate(*weights: float) -> Floats:
    """Cumulative sums of weights, for ``choose``."""
    return np.cumsum(np.asarray(weights, dtype=np.float64))


def whole(values: Floats | Ints | Mask) -> Ints:
    """Numbers rounded down to integers; True is 1."""
    return np.floor(values).astype(np.int64)


def hashed(values: Ints, salt: int) -> NDArray[np.uint64]:
    """splitmix64 of integers: a well mixed function of value and salt, 64 bits."""
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def unit(values: Ints, salt: int) -> Floats:
    """Integers mapped to well mixed floats in [0, 1), a function of value and salt."""
    return (hashed(values, salt) >> np.uint64(11)).astype(np.float64) / float(2**53)
