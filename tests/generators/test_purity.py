"""The world is a function of configuration and time: however it is asked, in whatever process."""

import hashlib
import itertools
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_worlds import START_MS, config, same, world

from generators.columns import Columns, join
from generators.weather import Records, merge
from generators.world import World
from schemas.topics import DAY_MS, SOURCES

STORM = {"duplicates": 0.05, "late": 0.05, "malformed": 0.03}
moments = st.lists(st.integers(START_MS - DAY_MS, START_MS + 6 * DAY_MS), min_size=3, max_size=5).map(sorted)
calm_or_storm = st.sampled_from([{}, STORM])


@given(st.integers(0, 1), moments, calm_or_storm)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_split_of_a_span_gives_the_same_events_and_records(partition, cuts, weather):
    here = world(fans=300, **weather)
    parts = list(itertools.pairwise(cuts))
    whole = here.events(partition, cuts[0], cuts[-1])
    # Asked backwards too, so that nothing hangs on the order of calls.
    events = {span: here.events(partition, *span) for span in reversed(parts)}
    joined: dict[str, Columns] = {topic: join(topic, [events[span][topic] for span in parts]) for topic in SOURCES}
    assert same(whole, joined)
    sent = here.records(partition, cuts[0], cuts[-1])
    records = {span: here.records(partition, *span) for span in parts}
    assert same(sent, {topic: merge([records[span][topic] for span in parts]) for topic in SOURCES})


def test_a_span_asked_for_after_a_later_one_is_whole():
    hour = 3_600_000
    asked, fresh = World(config(fans=300)), World(config(fans=300))
    for day in (2, 4):
        asked.events(0, START_MS + day * DAY_MS, START_MS + day * DAY_MS + hour)
    for day in (3, 2, 4):
        span = START_MS + day * DAY_MS - 6 * hour, START_MS + day * DAY_MS
        assert same(asked.events(0, *span), fresh.events(0, *span))


@given(st.integers(0, 1), st.integers(0, 20 * DAY_MS), calm_or_storm)
@settings(max_examples=4, deadline=None)
def test_a_world_started_anywhere_goes_on_as_one_that_ran_from_the_start(partition, at, weather):
    running, fresh = world(fans=300, **weather), World(config(fans=300, **weather))
    span = START_MS + at, START_MS + at + 3_600_000
    running.records(partition, START_MS, span[0])
    assert same(running.records(partition, *span), fresh.records(partition, *span))


def test_short_slots_split_as_well():
    start = START_MS + 12 * 3_600_000
    busy = config(fans=60, rate_factor=12_000.0, start_ms=start, duplicates=0.05, late=0.05)
    here, again = World(busy), World(busy)
    assert here.slot_ms < 3_600_000
    start += 1_200_000
    whole = here.records(0, start, start + 400_000)
    halves = [again.records(0, start + n * 100_000, start + (n + 1) * 100_000) for n in range(4)]
    joined: dict[str, Records] = {topic: merge([half[topic] for half in halves]) for topic in SOURCES}
    assert len(whole["interactions"]) > 1_000
    assert same(whole, joined)


_DIGEST = """
import hashlib
from test_purity import digest
print(digest())
"""


def digest() -> str:
    """A digest of two days of records in bad weather."""
    made = World(config(fans=300, **STORM))
    found = hashlib.sha256()
    for partition in (0, 1):
        for records in made.records(partition, START_MS + 3 * DAY_MS, START_MS + 5 * DAY_MS).values():
            found.update(repr((records.sent_ms.tolist(), records.keys, records.values)).encode())
    return found.hexdigest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_makes_the_same_bytes(hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.stdout.strip() == digest()


def test_events_are_sorted_inside_their_span_and_never_before_the_start():
    here = world()
    events = here.events(0, START_MS - 5 * DAY_MS, START_MS + 2 * DAY_MS)
    for columns in events.values():
        times = columns["event_time"]
        assert len(times)
        assert (times[1:] >= times[:-1]).all()
        assert times[0] >= START_MS
        assert times[-1] < START_MS + 2 * DAY_MS
    assert all(len(columns) == 0 for columns in here.events(0, START_MS + DAY_MS, START_MS + DAY_MS).values())


def test_an_unknown_partition_is_refused():
    with pytest.raises(ValueError, match="partition 2"):
        world().events(2, START_MS, START_MS + 1)


def test_seeds_and_rates_never_share_an_event_id():
    ids = []
    for made in (world(), world(seed=12), world(rate_factor=2.0), world(start_ms=START_MS + 1)):
        records = made.records(0, START_MS + 60_000, START_MS + DAY_MS)["interactions"]
        ids.append({value.split(b'"')[3] for value in records.values})
        assert len(ids[-1]) == len(records)
    assert sum(map(len, ids)) == len(set().union(*ids))
