"""A block: the unit of work. What one fetch brought of one partition, without a Python object per record."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one partition, in offset order.

    ``start`` is the position the fetch began at and ``next`` the one it ended at: consecutive blocks chain
    (``start`` of one is ``next`` of the one before), also where offsets have gaps, so a lost block is noticed.
    ``offsets`` and ``appended`` (broker append time, UTC ms) are int64 arrays as long as ``values`` (raw bytes, or
    None for a null value).
    """

    topic: str
    partition: int
    start: int
    next: int
    offsets: Int64s
    appended: Int64s
    values: list[bytes | None]

    def __len__(self) -> int:
        return len(self.values)


def merge(blocks: Sequence[Block]) -> Block:
    """One block of consecutive blocks of a partition."""
    if len(blocks) == 1:
        return blocks[0]
    first, last = blocks[0], blocks[-1]
    values: list[bytes | None] = []
    for block in blocks:
        values.extend(block.values)
    return Block(
        first.topic,
        first.partition,
        first.start,
        last.next,
        np.concatenate([block.offsets for block in blocks]),
        np.concatenate([block.appended for block in blocks]),
        values,
    )
