"""The ground truth: every record that the broker took, in files of their own."""

import struct
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEAD = struct.Struct("<qqHiH")
_NULL = -1


class BrokenTruth(Exception):
    """The log of what was sent contradicts itself: an offset is missing or repeated, or a file is cut off."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One record as the broker acknowledged it.

    ``topic`` is without prefix. ``appended``: the broker's append time, UTC ms. ``label``: what the sender knows it
    to be: ``event``, ``late``, ``duplicate``, or the name of the damage.
    """

    topic: str
    partition: int
    offset: int
    appended: int
    key: bytes
    value: bytes | None
    label: str


class TruthLog:
    """Records in a folder, one file a topic and partition, only ever appended to. A folder that has records is
    gone on with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._count = sum(len(_places(path)) for path in folder.glob("*.sent"))

    @property
    def count(self) -> int:
        """Records in the log."""
        return self._count

    def append(self, records: Iterable[Sent]) -> None:
        """Adds records, of any partitions and in any order. Threads may call it at the same time."""
        parts: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        number = 0
        for sent in records:
            label = sent.label.encode()
            value = sent.value if sent.value is not None else b""
            size = _NULL if sent.value is None else len(value)
            head = _HEAD.pack(sent.offset, sent.appended, len(sent.key), size, len(label))
            parts[sent.topic, sent.partition] += (head, sent.key, value, label)
            number += 1
        with self._lock:
            for where, pieces in parts.items():
                with self._path(*where).open("ab") as file:
                    file.write(b"".join(pieces))
            self._count += number

    def partitions(self) -> list[tuple[str, int]]:
        """Topics and partitions that have records, in order."""
        found = (path.stem.rpartition("-") for path in self._folder.glob("*.sent"))
        return sorted((topic, int(partition)) for topic, _, partition in found)

    def records(self) -> Iterator[Sent]:
        """All records by topic, partition and offset.

        Raises:
            BrokenTruth: the offsets of a partition are not 0, 1, 2, ... each once.
        """
        for topic, partition in self.partitions():
            yield from self.partition(topic, partition)

    def partition(self, topic: str, partition: int) -> Iterator[Sent]:
        """The records of one partition by offset. Raises BrokenTruth as ``records`` does."""
        path = self._path(topic, partition)
        places = _places(path)
        places = places[np.argsort(places[:, 0], kind="stable")]
        wrong = np.flatnonzero(places[:, 0] != np.arange(len(places)))
        if len(wrong):
            at = int(wrong[0])
            found = int(places[at, 0])
            what = f"offset {found} is there twice" if at and found == places[at - 1, 0] else f"offset {at} is missing"
            raise BrokenTruth(f"{topic}[{partition}]: {what} among {len(places)} records sent")
        with path.open("rb") as file:
            at = -1
            for offset, place in places.tolist():
                if place != at:
                    file.seek(place)
                head = file.read(_HEAD.size)
                _, appended, keys, size, labels = _HEAD.unpack(head)
                body = file.read(keys + max(size, 0) + labels)
                at = place + len(head) + len(body)
                value = None if size == _NULL else body[keys : keys + size]
                label = body[keys + max(size, 0) :].decode()
                yield Sent(topic, partition, offset, appended, body[:keys], value, label)

    def _path(self, topic: str, partition: int) -> Path:
        return self._folder / f"{topic}-{partition}.sent"


def _places(path: Path) -> npt.NDArray[np.int64]:
    """Offset and place in the file of each record, in the order written: shape (records, 2)."""
    places: list[tuple[int, int]] = []
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise BrokenTruth(f"{path.name} ends in the middle of a record")
            offset, _, keys, values, labels = _HEAD.unpack(head)
            places.append((offset, at))
            at += _HEAD.size + keys + max(values, 0) + labels
            if at > size:
                raise BrokenTruth(f"{path.name} ends in the middle of a record")
            file.seek(keys + max(values, 0) + labels, 1)
    return np.array(places, dtype=np.int64).reshape(-1, 2)
