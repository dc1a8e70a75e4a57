from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pairs import Pairs, longer

WORD = 2**64

Keys = list[tuple[int, int]]


class Model:
    """What pairs say, with a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], int] = {}

    def check(self, pairs: Pairs, keys: Keys) -> None:
        found = asked(pairs, keys)
        for key, row in zip(keys, found, strict=True):
            assert self.rows.setdefault(key, row) == row
        assert len(pairs) == len(self.rows)
        assert sorted(self.rows.values()) == list(range(len(self.rows)))
        fans, numbers = pairs.keys(np.array(found, np.int64))
        assert list(zip(fans.tolist(), numbers.tolist(), strict=True)) == keys


def asked(pairs: Pairs, keys: Keys) -> list[int]:
    fans = np.array([fan for fan, _ in keys], np.uint64)
    return pairs.rows(fans, np.array([number for _, number in keys], np.int64)).tolist()


fans = st.one_of(
    st.integers(0, 6),
    st.integers(0, 6).map(lambda n: WORD - 1 - n),
    st.integers(0, 6).map(lambda n: n << 60),
    st.integers(0, WORD - 1),
)
numbers = st.one_of(st.integers(0, 3), st.integers(2**32 - 3, 2**32 - 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(fans, numbers), max_size=30), max_size=12))
def test_pairs_agree_with_a_dict(steps: list[Keys]) -> None:
    pairs, model = Pairs(), Model()
    for keys in steps:
        model.check(pairs, keys)


def test_rows_stay_while_it_grows() -> None:
    rng = Random(1)
    known = [(rng.randrange(WORD), rng.randrange(1000)) for _ in range(9_000)]
    pairs, model = Pairs(), Model()
    for size in (1, 7, 500, 3_000, 1, 6_000, 20_000):
        model.check(pairs, rng.choices(known, k=size))


def test_many_more_than_are_looked_up_at_once() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.integers(0, WORD, 300_000, np.uint64)
    numbers = rng.integers(0, 3, 300_000)
    pairs = Pairs()
    rows = pairs.rows(wanted, numbers)
    assert len(pairs) == len(np.unique(rows)) == 300_000
    assert 20 * len(pairs) <= pairs.nbytes <= 34 * len(pairs)
    assert (pairs.rows(wanted[::-1], numbers[::-1]) == rows[::-1]).all()
    found, found_numbers = pairs.keys(rows)
    assert (found == wanted).all()
    assert (found_numbers == numbers).all()


def test_pairs_that_want_one_slot_are_told_apart() -> None:
    """The mixed keys of one fan with numbers of all kinds, and of one number with fans that differ in the lowest and in
    the highest bits, many times each in one batch."""
    keys = [(5, number) for number in range(400)] + [(bit, 7) for bit in range(400)]
    keys += [(WORD - 1 - (bit << 52), 7) for bit in range(400)]
    pairs, model = Pairs(), Model()
    model.check(pairs, keys * 3)
    model.check(pairs, keys[::-1])


def test_without_keys() -> None:
    pairs = Pairs()
    assert asked(pairs, []) == []
    assert len(pairs) == 0


def test_longer_keeps_the_values() -> None:
    made = longer(np.array([3, 1], np.uint32), 5)
    assert (made[:2].tolist(), len(made), made.dtype) == ([3, 1], 5, np.uint32)
