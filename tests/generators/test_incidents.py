"""An incident is part of the world: nothing is other before it, nor ever but what it concerns."""

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_worlds import START_MS, config, same, world
from pydantic import ValidationError

from generators.columns import CODES, Columns
from generators.config import WorldConfig
from generators.incidents import ChurnWave, CpmSpike, Incident
from generators.market import campaigns
from generators.progress import Progress
from generators.world import World
from schemas.topics import DAY_MS, SOURCES

HOUR = 3_600_000
STORM = {"duplicates": 0.05, "late": 0.05, "malformed": 0.03}
SMALL = {"fans": 400, "creators": 4, "rate_factor": 5.0}
AT = START_MS + 2 * DAY_MS + 13 * HOUR
"""When incidents begin: at 13:00 of the third day."""
IDS = world(**SMALL).creator_ids
LARGE = max(world(**SMALL).followers(AT).items(), key=lambda each: each[1])[0]
SPIKE = CpmSpike(creator_id=IDS[0], start_ms=AT, end_ms=AT + 3 * HOUR)
WAVE = ChurnWave(creator_id=LARGE, start_ms=AT, end_ms=AT + 3 * HOUR)
KINDS = CODES["interactions"]

incidents = st.sampled_from([(SPIKE,), (WAVE,), (SPIKE, WAVE)])
weather = st.sampled_from([{}, STORM])


def where(columns: Columns, rows: np.ndarray) -> dict[str, object]:
    """Some events of a topic, for ``same``."""
    return {columns.topic: columns.take(np.flatnonzero(rows))}


@cache
def ads(*found: Incident) -> Columns:
    """Advertisements of the days about the incident, in a world with many."""
    made = world(fans=400, creators=4, partitions=1, rate_factor=150.0, incidents=found)
    return made.events(0, AT - DAY_MS, AT + 2 * DAY_MS)["ad_events"]


@given(incidents, weather, st.integers(0, 1), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_before_it_the_world_is_the_one_without_it(
    found: tuple[Incident, ...], spoilt: dict[str, float], partition: int, since: int, length: int
) -> None:
    begin = AT - since * HOUR
    span = begin, min(begin + length * HOUR, AT)
    plain, made = world(**SMALL, **spoilt), world(**SMALL, **spoilt, incidents=found)
    assert same(plain.records(partition, *span), made.records(partition, *span))
    assert same(plain.events(partition, *span), made.events(partition, *span))


@given(incidents, weather, st.integers(0, 1), st.lists(st.integers(-6, 40), min_size=3, max_size=5).map(sorted))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_split_gives_the_same_records(
    found: tuple[Incident, ...], spoilt: dict[str, float], partition: int, cuts: list[int]
) -> None:
    made, fresh = world(**SMALL, **spoilt, incidents=found), World(config(**SMALL, **spoilt, incidents=found))
    times = [AT + cut * HOUR // 2 for cut in cuts]
    parts = [made.records(partition, *span) for span in reversed(list(itertools.pairwise(times)))]
    whole = fresh.records(partition, times[0], times[-1])
    for topic in SOURCES:
        values = [value for part in reversed(parts) for value in part[topic].values]
        assert values == whole[topic].values
        assert list(whole[topic].sent_ms) == sorted(whole[topic].sent_ms)
    events = fresh.events(partition, times[0], times[-1])
    if not spoilt:
        assert [len(events[topic]) for topic in SOURCES] == [len(whole[topic]) for topic in SOURCES]


def test_a_spike_makes_the_advertisements_of_its_creator_dear_and_nothing_else() -> None:
    made, plain = world(**SMALL, incidents=(SPIKE,)), world(**SMALL)
    for partition in (0, 1):
        now, before = (each.events(partition, AT, AT + DAY_MS) for each in (made, plain))
        assert all(same({t: now[t]}, {t: before[t]}) for t in SOURCES if t != "ad_events")
    now, before = ads(SPIKE), ads()
    own = 0
    assert same(where(now, now["creator"] != own), where(before, before["creator"] != own))
    # From the next midnight on all is as ever, except what comes of what was shown before.
    later = START_MS + 3 * DAY_MS
    assert same(where(now, now["shown_ms"] >= later), where(before, before["shown_ms"] >= later))

    def cpm(columns: Columns, since: int, until: int) -> float:
        shown = (columns["event_time"] >= since) & (columns["event_time"] < until) & (columns["creator"] == own)
        impressions = shown & (columns["kind"] == CODES["ad_events"]["impression"])
        return float(np.maximum(columns["cost_micros"], 0)[shown].sum() / impressions.sum())

    assert cpm(now, AT, AT + 3 * HOUR) / cpm(before, AT, AT + 3 * HOUR) == pytest.approx(5.0, rel=0.1)
    assert cpm(now, AT + 4 * HOUR, later) / cpm(before, AT + 4 * HOUR, later) == pytest.approx(1.0, rel=0.1)
    during = (before["shown_ms"] >= AT) & (before["shown_ms"] < AT + 3 * HOUR) & (before["creator"] == own)
    still = (now["shown_ms"] >= AT) & (now["shown_ms"] < AT + 3 * HOUR) & (now["creator"] == own)
    assert 0.1 < still.sum() / during.sum() < 0.85


def test_budgets_are_kept_in_a_spike_too() -> None:
    made = world(fans=400, creators=4, partitions=1, rate_factor=150.0, incidents=(SPIKE,))
    day = START_MS + 2 * DAY_MS
    names = np.array(made.cast.placements.campaign_id)
    now = ads(SPIKE)
    today = (now["event_time"] >= day) & (now["event_time"] < day + DAY_MS)
    for each in campaigns(made):
        spent = np.maximum(now["cost_micros"], 0)[today & (names[now["placement"]] == each.campaign_id)].sum()
        assert spent < 1.25 * (each.daily_budget or 1), each.campaign_id


@given(st.floats(0.1, 1.0), st.integers(1, 30))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_who_leaves_in_a_wave_unfollows_once_and_is_gone(share: float, hours: int) -> None:
    wave = ChurnWave(creator_id=LARGE, start_ms=AT, end_ms=AT + hours * HOUR, share=share)
    made, plain = World(config(**SMALL, incidents=(wave,))), world(**SMALL)
    own, gone = IDS.index(LARGE), 0
    for partition in (0, 1):
        span = AT, AT + 4 * DAY_MS
        now, before = made.events(partition, *span), plain.events(partition, *span)
        acts = now["interactions"]
        added = (acts["kind"] == KINDS["unfollow"]) & (acts["number"] >= 2**32)
        assert (acts["creator"][added] == own).all()
        assert ((acts["event_time"][added] >= wave.start_ms) & (acts["event_time"][added] < wave.end_ms)).all()
        leavers = dict(zip(acts["fan"][added].tolist(), acts["event_time"][added].tolist(), strict=True))
        assert len(leavers) == added.sum()
        gone += len(leavers)
        for topic in SOURCES:
            then = before[topic]
            left = np.array(
                [
                    creator == own and at >= leavers.get(fan, 2**62)
                    for fan, creator, at in zip(then["fan"], then["creator"], then["event_time"], strict=True)
                ],
                dtype=np.bool_,
            )
            kept = now[topic] if topic != "interactions" else acts.take(np.flatnonzero(~added))
            assert same({topic: kept}, where(then, ~left))
    followers = plain.followers(AT)[LARGE]
    assert gone <= followers
    assert gone == pytest.approx(share * followers, abs=4 * followers**0.5)


def test_records_of_leaving_are_told_apart_and_accepted() -> None:
    made = world(**SMALL, incidents=(WAVE, WAVE.model_copy(update={"start_ms": AT + HOUR, "share": 1.0})))
    ids: list[bytes] = []
    for partition in (0, 1):
        records = made.records(partition, AT - HOUR, AT + DAY_MS)["interactions"]
        ids += [value.split(b'"')[3] for value in records.values if value is not None]
        leaving = [value for value in records.values if value is not None and b'"unfollow"' in value]
        assert leaving
        assert all(b'"source":"profile"' in value for value in leaving)
    assert len(ids) == len(set(ids))


def test_it_is_kept_with_the_world() -> None:
    here = config(incidents=(SPIKE, WAVE))
    progress = Progress(config=here, until_ms={0: AT})
    assert Progress.model_validate_json(progress.model_dump_json()) == progress


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "cpm-spike", "creator_id": "x", "start_ms": 2, "end_ms": 2}, "ends after its start"),
        ({"kind": "churn-wave", "creator_id": "x", "start_ms": 1, "end_ms": 2, "share": 1.5}, "share"),
        ({"kind": "flood", "creator_id": "x", "start_ms": 1, "end_ms": 2}, "kind"),
    ],
)
def test_what_is_no_incident_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WorldConfig.model_validate({"incidents": [given]})


def test_a_creator_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no creator nobody"):
        World(config(incidents=(SPIKE.model_copy(update={"creator_id": "nobody"}),)))
