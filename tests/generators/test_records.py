"""What is sent keeps the contracts, to the byte."""

from collections import defaultdict

import orjson
import polars as pl
import pytest
from made_worlds import START_MS, config, history, world
from pydantic import ValidationError

from generators.columns import FIELDS, KIND_NAMES
from generators.population import Population, partitions_of
from generators.weather import DAMAGES, LABELS
from generators.world import World
from schemas.events import CONTRACTS, FUTURE_MS, KINDS, MAX_RECORD_BYTES, MODELS
from schemas.topics import DAY_MS, SOURCES, partition_for

WEEK = (START_MS + 10 * DAY_MS, START_MS + 17 * DAY_MS)


def test_every_kind_is_produced_and_every_record_is_its_models_own_bytes():
    made = world()
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for partition in (0, 1):
        for topic, records in made.records(partition, *WEEK).items():
            for key, value, kind in zip(records.keys, records.values, records.kinds.tolist(), strict=True):
                name = KIND_NAMES[topic][kind]
                seen[topic, name] += 1
                if seen[topic, name] > 150:
                    continue
                event = CONTRACTS[topic].validate_json(value)
                assert orjson.dumps(event.model_dump(exclude_none=True)) == value
                assert event.fan_id.encode() == key
                assert event.kind == name
    assert {(topic, kind) for topic, kinds in KINDS.items() for kind in kinds} == set(seen)


def test_field_order_agrees_with_every_model():
    common = len(MODELS["gifts"][0].__mro__[1].model_fields)
    for topic, models in MODELS.items():
        order = {name: place for place, name in enumerate(FIELDS[topic])}
        for model in models:
            own = [name for name in list(model.model_fields)[common:] if name in order]
            assert own == sorted(own, key=order.__getitem__), model


def test_no_optional_field_is_forgotten():
    for topic, frame in history().items():
        fields = {name for model in MODELS[topic] for name in model.model_fields}
        assert set(frame.columns) == fields


def test_all_of_a_fan_is_in_the_partition_of_its_key():
    made = world()
    for partition in (0, 1):
        for records in made.records(partition, *WEEK).values():
            assert {partition_for(key, 2) for key in set(records.keys)} <= {partition}


def test_fan_identifiers_hash_as_kafka_does_and_do_not_repeat():
    population: Population = world().population
    ids = []
    for season in (318, 319, 320):
        fans = population.fans(season)
        numbers = season * population.a_season + pl.Series(range(population.a_season)).to_numpy()
        names = population.attributes(numbers)["fan_id"].to_list()
        ids += names
        for partitions in (1, 4, 7):
            found = partitions_of(numbers, fans.platform, 11, partitions)
            assert found.tolist() == [partition_for(name.encode(), partitions) for name in names]
    assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def storm() -> World:
    return World(config(duplicates=0.04, late=0.06, malformed=0.05))


def test_bad_weather_has_the_shares_asked_for_and_truthful_labels(storm):
    calm = dict.fromkeys(SOURCES, 0)
    first: dict[bytes, bytes] = {}
    counts: dict[str, int] = defaultdict(int)
    delays = []
    for partition in (0, 1):
        for topic, columns in storm.events(partition, *WEEK).items():
            calm[topic] += len(columns)
        for topic, records in storm.records(partition, *WEEK).items():
            assert (records.sent_ms[1:] >= records.sent_ms[:-1]).all()
            rows = zip(records.sent_ms.tolist(), records.values, records.labels.tolist(), strict=True)
            for sent, value, code in rows:
                label = LABELS[code]
                counts[label] += 1
                if label in ("event", "late", "duplicate"):
                    if counts[label] < 3_000:
                        event = CONTRACTS[topic].validate_json(value)
                        assert sent >= event.event_time
                        assert (sent > event.event_time) or label == "event"
                    time = int(value.split(b'"event_time":')[1].split(b",")[0])
                    if label == "late":
                        delays.append(sent - time)
                    if label == "duplicate" and time > WEEK[0] + DAY_MS:
                        assert first[value.split(b'"')[3]] == value
                    first.setdefault(value.split(b'"')[3], value)
                else:
                    assert refused(topic, value, sent), (label, value)
    total = sum(calm.values())
    assert counts["late"] == pytest.approx(0.06 * total, rel=0.15)
    assert counts["duplicate"] == pytest.approx(0.04 * total, rel=0.15)
    assert sum(counts[reason] for reason in DAMAGES) == pytest.approx(0.05 * total, rel=0.15)
    assert set(DAMAGES) <= set(counts)
    assert min(delays) < 20_000
    assert max(delays) > 2 * 3_600_000
    assert counts["event"] + counts["late"] == pytest.approx(total, abs=0.02 * total)


def refused(topic: str, value: bytes | None, sent_ms: int) -> bool:
    """Whether the contract, or the rules round it, refuse a record that arrives at a time."""
    if value is None or len(value) > MAX_RECORD_BYTES:
        return True
    try:
        event = CONTRACTS[topic].validate_json(value)
    except ValidationError:
        return True
    return bool(event.event_time > sent_ms + FUTURE_MS)


def test_late_and_repeated_events_are_none_that_calm_weather_would_not_send(storm):
    calm = {value for r in world().records(0, START_MS, WEEK[1]).values() for value in r.values}
    for records in storm.records(0, START_MS + DAY_MS, WEEK[0]).values():
        good = (value for value, label in zip(records.values, records.labels.tolist(), strict=True) if label < 3)
        assert calm.issuperset(good)
