from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import CONTRACTS, KINDS, MODELS, kinds
from schemas.topics import SOURCES, TOPICS, partition_for


@given(st.text(min_size=1, max_size=64), st.integers(1, 64))
def test_a_fan_is_in_the_partition_that_clients_choose(fan_id: str, partitions: int) -> None:
    every = list(range(partitions))
    assert partition_for(fan_id.encode(), partitions) == DefaultPartitioner()(fan_id.encode(), every, every)


def test_known_partitions_stay() -> None:
    """Computed by the Java client's formula; another result would scatter fans over partitions."""
    keys = [b"21", b"foobar", b"a-little-bit-long-string", b"abc"]
    assert [partition_for(key, 2**31) for key in keys] == [
        value & 0x7FFFFFFF for value in (-973932308, -790332482, -985981536, 479470107)
    ]


def test_source_topics_are_those_of_the_models() -> None:
    assert set(SOURCES) == set(MODELS) == set(CONTRACTS) == set(KINDS)
    for name in SOURCES:
        assert TOPICS[name].key == "fan_id"
        assert TOPICS[name].config()["message.timestamp.type"] == "LogAppendTime"


def test_a_kind_belongs_to_one_model_of_a_topic() -> None:
    for topic, models in MODELS.items():
        named = [kind for model in models for kind in kinds(model)]
        assert len(named) == len(set(named))
        assert set(named) == set(KINDS[topic])
