import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.block import Block, merge


def made(gaps: list[int], start: int, tail: int) -> Block:
    offsets = start + np.cumsum(np.array([0, *gaps], np.int64))[: len(gaps)]
    end = int(offsets[-1]) + 1 + tail if len(gaps) else start + tail
    return Block("gifts", 3, start, end, offsets, offsets + 1_000, [b"%d" % offset for offset in offsets.tolist()])


blocks = st.builds(made, st.lists(st.integers(1, 4), max_size=8), st.integers(0, 50), st.integers(0, 3))


def assert_equal(left: Block, right: Block) -> None:
    assert (left.topic, left.partition, left.start, left.next) == (
        right.topic,
        right.partition,
        right.start,
        right.next,
    )
    assert left.offsets.tolist() == right.offsets.tolist()
    assert left.appended.tolist() == right.appended.tolist()
    assert left.values == right.values
    assert left.offsets.dtype == left.appended.dtype == np.int64


@given(blocks, st.lists(st.integers(0, 90), max_size=4))
def test_parts_merge_into_the_whole(block: Block, cuts: list[int]) -> None:
    edges = sorted({block.start, *(cut for cut in cuts if block.start < cut < block.next)})
    parts = []
    for low, high in zip(edges, [*edges[1:], block.next], strict=True):
        here = slice(*np.searchsorted(block.offsets, [low, high]).tolist())
        parts.append(
            Block(
                block.topic, block.partition, low, high, block.offsets[here], block.appended[here], block.values[here]
            )
        )
    assert_equal(merge(parts), block)
