from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import stages
from pipeline.block import Int64s
from pipeline.stages import (
    NEVER,
    NO_DAY,
    REASONS,
    STAGES,
    WINDOW,
    Days,
    News,
    StagePolicy,
    absence_reasons,
    known,
    next_move,
    so_far,
    stages_as_of,
    told,
)

POLICIES = st.sampled_from([(1, 2), (2, 3), (3, 8), (7, 8), (7, 30), (20, 21), (32, 33), (32, 63)]).map(
    lambda days: StagePolicy(interval=days[0], churn_after=days[1])
)
HISTORIES = st.lists(st.integers(0, 80), min_size=1, max_size=25, unique=True).map(sorted)


def stage(policy: StagePolicy, day: int, active: Sequence[int], left: bool) -> str:
    """The definition."""
    gap = day - max(active)
    if left or gap >= policy.churn_after:
        return "churned"
    if gap >= policy.interval:
        return "silent"
    if day - min(active) < policy.interval:
        return "new"
    before = range(day - 2 * policy.interval + 1, day - policy.interval + 1)
    return "retained" if set(before) & set(active) else "active"


def bits(active: Sequence[int], anchor: int) -> int:
    return sum(1 << (anchor - day) for day in active if anchor - day < WINDOW)


def column(*values: int) -> Int64s:
    return np.array(values, np.int64)


def as_of(policy: StagePolicy, day: int, active: Sequence[int], left: bool, anchor: int) -> str:
    found = stages_as_of(
        policy,
        column(day),
        column(min(active)),
        column(max(active)),
        np.array([bits(active, anchor)], np.uint64),
        column(anchor),
        np.array([left]),
    )
    return STAGES[int(found[0])]


@settings(max_examples=300, deadline=None)
@given(POLICIES, HISTORIES, st.integers(0, 70), st.booleans(), st.integers(0, 3))
def test_a_stage_is_that_of_the_definition(
    policy: StagePolicy, active: list[int], later: int, left: bool, anchor: int
) -> None:
    """The bits may be anchored at the last active day, or at a later one up to the day asked about."""
    day = max(active) + later
    assert as_of(policy, day, active, left, min(day, max(active) + anchor)) == stage(policy, day, active, left)


@settings(max_examples=300, deadline=None)
@given(POLICIES, HISTORIES, st.integers(0, 70), st.booleans())
def test_the_next_move_is_the_next_day_with_another_stage(
    policy: StagePolicy, active: list[int], later: int, left: bool
) -> None:
    after = max(active) + later
    found = next_move(
        policy,
        column(min(active)),
        column(max(active)),
        np.array([bits(active, max(active))], np.uint64),
        np.array([left]),
        column(after),
    )
    days = range(after + 1, after + 70)
    moves = [day for day in days if stage(policy, day, active, left) != stage(policy, day - 1, active, left)]
    assert int(found[0]) == (moves[0] if moves else NEVER)


def test_who_has_no_active_day_that_is_held_does_not_move() -> None:
    none = np.zeros(2, bool)
    moves = next_move(
        StagePolicy(), column(NEVER, 3), column(NO_DAY, NO_DAY), np.zeros(2, np.uint64), none, column(9, 200)
    )
    assert moves.tolist() == [NEVER, NEVER]


def test_reasons_of_absence() -> None:
    pairs = [
        ("new", "silent"),
        ("silent", "churned"),
        ("new", "retained"),
        ("active", "retained"),
        ("retained", "active"),
    ]
    before, after = (np.array([STAGES.index(pair[side]) for pair in pairs], np.uint8) for side in (0, 1))
    reasons = [REASONS[number] for number in absence_reasons(before, after).tolist()]
    assert reasons == ["absent", "absent", "aged", "faded", "faded"]


@pytest.mark.parametrize(
    ("given_policy", "says"),
    [
        ({"interval": 0}, "greater than or equal to 1"),
        ({"interval": 33, "churn_after": 40}, "less than or equal to 32"),
        ({"churn_after": 64}, "less than or equal to 63"),
        ({"interval": 7, "churn_after": 7}, "churn_after=7 must be above interval=7"),
        ({"no_activity": ("refunded",)}, "must name unfollow"),
        ({"churn": 3}, "Extra inputs"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given_policy: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        StagePolicy.model_validate(given_policy)


def test_a_policy_is_frozen_and_says_how_far_a_stage_looks_back() -> None:
    policy = StagePolicy()
    with pytest.raises(ValidationError, match="frozen"):
        policy.interval = 3  # type: ignore[misc]
    assert (policy.interval, policy.churn_after, policy.reach) == (7, 30, 30)
    assert StagePolicy(interval=30, churn_after=31).reach == 60


def made_news(rng: Random, pairs: int) -> tuple[Days, News, Int64s, Int64s]:
    rows = [
        (pair, day) for pair in range(pairs) for day in sorted(rng.sample(range(20_000, 20_060), rng.randint(1, 9)))
    ]
    pair, day = (np.array(side) for side in zip(*rows, strict=True))
    first = (day * 1000 + 500) * (np.array([rng.random() < 0.5 for _ in rows]))
    unfollow = (day * 1000 + 400) * (np.array([rng.random() < 0.2 for _ in rows]))
    versions = column(*(rng.randint(1, 3) for _ in range(pairs)))
    facts = []
    for index, (owner, on) in enumerate(rows):
        for _ in range(rng.randint(0, 2)):
            facts.append((index, rng.randint(1, versions[owner]), on * 1000 + rng.randint(1, 999), rng.random() < 0.7))
    starts = np.searchsorted(pair, np.arange(pairs)).tolist()
    facts += [
        (start, version, 10**8, True) for start, v in zip(starts, versions, strict=True) for version in range(1, v + 1)
    ]
    where, version, at, action = (np.array(side) for side in zip(*sorted(facts), strict=True))
    first_day = np.full(pairs, NEVER)
    np.minimum.at(first_day, pair[first > 0], day[first > 0])
    return Days(pair, day, first, first, unfollow), News(where, version, at, action), first_day, versions


def test_many_pairs_are_worked_out_in_pieces_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    days, news, first_day, versions = made_news(Random(2), 300)
    whole = told(StagePolicy(), days, news, first_day, versions, 20_061)
    order = np.lexsort((whole[0].applied, whole[0].step, whole[0].day, whole[0].pair))
    for cells in (1, 50, 1000):
        monkeypatch.setattr(stages, "_CELLS", cells)
        parts = told(StagePolicy(), days, news, first_day, versions, 20_061)
        sort = np.lexsort((parts[0].applied, parts[0].step, parts[0].day, parts[0].pair))
        for name in type(whole[0]).__slots__:
            assert (getattr(parts[0], name)[sort] == getattr(whole[0], name)[order]).all(), name
        for name in type(whole[1]).__slots__:
            assert (getattr(parts[1], name) == getattr(whole[1], name)).all(), name


def test_what_is_known_is_what_telling_it_comes_to() -> None:
    days, news, first_day, versions = made_news(Random(3), 200)
    _, present = told(StagePolicy(), days, news, first_day, versions, 20_030)
    first = np.where(days.first > 0, days.first, 10**9)
    np.minimum.at(first, news.where[news.action], news.at[news.action])
    np.maximum.at(days.last, news.where[news.action], news.at[news.action])
    np.maximum.at(days.unfollow, news.where[~news.action], news.at[~news.action])
    held = (first < 10**9) | (days.unfollow > 0)
    now = Days(
        days.pair[held], days.day[held], np.where(first < 10**9, first, 0)[held], days.last[held], days.unfollow[held]
    )
    found = known(now, present.first_day, 20_030)
    for name in type(found).__slots__:
        assert (getattr(found, name) == getattr(present, name)).all(), name


def test_the_highest_so_far_is_of_the_own_group() -> None:
    assert so_far(column(0, 0, 0, 1, 1, 3), column(0, 5, 2, 0, 1, 0)).tolist() == [0, 5, 5, 0, 1, 0]
