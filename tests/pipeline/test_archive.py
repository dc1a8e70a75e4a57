from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import NOW_MS, block, record

from pipeline.decode import Decoder, FanHasher
from pipeline.folds.archive import Archive
from pipeline.verdict import Horizon, Verdicts
from schemas.events import KINDS

TOPICS = sorted(KINDS)
DECODERS = {topic: Decoder(topic, FanHasher(b"k")) for topic in TOPICS}


def judged(topic: str, seed: int) -> pl.DataFrame:
    rng = Random(seed)
    values = [record(rng, topic) for _ in range(30)]
    rows = DECODERS[topic].decode(block([*values, *values[:9]], topic)).rows
    return Verdicts(Horizon(0, rng.choice([0, 3_600_000, 10**9]))).judge(rows)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(TOPICS), st.integers(0, 2**63), st.lists(st.tuples(st.integers(0, 39), st.booleans()), max_size=4)
)
def test_every_row_passes_through_once_and_unchanged(topic: str, seed: int, cuts: list[tuple[int, bool]]) -> None:
    rows = judged(topic, seed)
    archive, parts, at = Archive(topic), [], 0
    for cut, take in [*sorted(cuts), (len(rows), True)]:
        archive.apply(rows[at : max(at, cut)])
        archive.evict(NOW_MS * 2)
        at = max(at, cut)
        if take:
            taken = archive.take()
            assert set(taken) <= {f"raw_{topic}"}
            parts += taken.values()
    assert archive.take() == {}
    if rows.is_empty():
        assert parts == []
        return
    stored = pl.concat(parts)
    times = stored.select(pl.col("event_time").cast(pl.Int64), pl.col("appended_at").cast(pl.Int64).alias("appended"))
    back = stored.drop("appended_at").with_columns(times)
    assert back.select(rows.columns).equals(rows)
    assert {stored.schema[name] for name in ("event_time", "appended_at")} == {pl.Datetime("ms", "UTC")}


@pytest.mark.parametrize("topic", TOPICS)
def test_nothing_applied_stores_nothing(topic: str) -> None:
    archive = Archive(topic)
    archive.apply(judged(topic, 1)[:0])
    assert archive.take() == {}
    assert archive.tables == ()
