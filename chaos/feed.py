"""Load with a ground truth: records go to Kafka, and each is written down as the broker took it."""

import contextlib
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from chaos.campaigns import Teller
from chaos.records import AHEAD_MS, HOUR_MS, Additions, Mix, Record, world_records
from chaos.truth import Sent, TruthLog
from infra.connect import kafka_options, kafka_producer
from infra.settings import Settings

__all__ = ["Feed", "Mix"]

_WAITING = 30_000
"""Records that may be on their way at one time."""
_PATIENCE_S = 900.0
"""How long Kafka may be away before the feed asks the log itself what it took."""
_TIME = re.compile(rb'"event_time":\s*(\d+)')
_SOUND = ("event", "late", "duplicate")


class BrokenFeed(Exception):
    """Kafka holds a record that this feed did not send: the topics are not its own."""


@dataclass
class _Newest:
    """Newest event time of a topic and partition, UTC ms: of what was sent, and of what was acknowledged. Both are the
    same until an event was ahead of the clock: how far that raises it depends on when the broker took it."""

    sent: int = 0
    taken: int = 0
    ahead: bool = False


class Feed:
    """Sends ``events`` records, all labels together, in a thread of its own.

    ``rate``: records a second; None: as fast as it goes. ``teller`` is given its turn between records, so nothing is
    told while the feed pauses; of minutes where the mix has a ``spread`` and the history is over. The topics must have
    no other sender, and no record yet that is not in ``truth``.

    A record without an answer (Kafka was away longer than 15 minutes) is looked up in the log: found, it is in the
    truth; not found, it is sent again.
    """

    def __init__(
        self,
        settings: Settings,
        truth: TruthLog,
        events: int,
        rate: float | None = None,
        mix: Mix = Mix(),  # noqa: B008
        seed: int = 1,
        teller: Teller | None = None,
    ) -> None:
        self._settings = settings
        self._truth = truth
        self._events = events
        self._rate = rate
        self._mix = mix
        self._seed = seed
        self._teller = teller
        self._sent = 0
        self._begun = 0
        self._asked = 0
        self._producer: KafkaProducer | None = None
        self._waiting: deque[tuple[Any, Record, int]] = deque()
        self._names: dict[str, str] = {}
        self._newest: dict[tuple[str, int], _Newest] = defaultdict(_Newest)
        self._ends: dict[tuple[str, int], int] = defaultdict(int)
        for topic, partition in truth.partitions():
            self._ends[topic, partition] = sum(1 for _ in truth.partition(topic, partition))
        self._running = threading.Event()
        self._running.set()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    @property
    def sent(self) -> int:
        """Records acknowledged so far."""
        return self._sent

    @property
    def done(self) -> bool:
        """Whether it has ended, all sent or not."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def pause(self) -> None:
        """Sends nothing more until ``resume``; what is on its way still arrives."""
        self._running.clear()

    def resume(self) -> None:
        """Goes on after ``pause``."""
        self._running.set()

    def stop(self) -> None:
        """Ends early; everything acknowledged is in the truth when ``join`` returns."""
        self._stopping.set()
        self._running.set()

    def join(self) -> None:
        """Waits for the end. Raises what the feed raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._producer = self._connect()
            try:
                for record in self._records():
                    self._send(record)
                self._settle(0)
                if self._teller is not None:
                    self._teller.end()
            finally:
                self._producer.close(timeout=10)
        except BaseException as error:
            self._failure = error

    def _connect(self) -> KafkaProducer:
        return kafka_producer(
            self._settings,
            batch_size=1024 * 1024,
            linger_ms=50,
            delivery_timeout_ms=int(_PATIENCE_S * 1000),
            max_block_ms=int(_PATIENCE_S * 1000),
        )

    def _records(self) -> Iterator[Record]:
        """Records in the order sent, at the rate asked for, until there are enough."""
        mix = self._mix
        additions = Additions(self._settings, mix, self._seed, self._newest_of)
        began, number, hours_from = time.monotonic(), 0, time.time() * 1000 - mix.hours * HOUR_MS
        for record in world_records(self._settings, self._events, mix, self._seed):
            for each in (record, *additions.after(record)):
                if number >= self._events:
                    return
                if self._rate is not None and number % 20 == 0:
                    self._stopping.wait(max(0.0, began + number / self._rate - time.monotonic()))
                if self._teller is not None and number % 20 == 0:
                    newest = max(
                        (each.sent for (topic, _), each in self._newest.items() if topic == "ad_events"), default=0
                    )
                    self._teller.turn(mix.spread is not None and newest >= hours_from)
                if not self._running.is_set():
                    paused = time.monotonic()
                    self._settle(0)
                    self._running.wait()
                    began += time.monotonic() - paused
                if self._stopping.is_set():
                    return
                yield each
                number += 1

    def _newest_of(self, topic: str, partition: int) -> int | None:
        """Newest event time of a topic and partition as whoever reads it has it; None: not known. Where it depends on
        when Kafka took a record, all answers are awaited; that is slow, so it is done one time in ten."""
        newest = self._newest[topic, partition]
        if not newest.ahead:
            return newest.sent or None
        self._asked += 1
        if self._asked % 10:
            return None
        self._settle(0)
        return newest.taken or None

    def _send(self, record: Record) -> None:
        topic, partition, key, value, label = record
        at = 0
        if label in _SOUND and value is not None:
            # Of two equal fields the last counts.
            at, newest = int(_TIME.findall(value)[-1]), self._newest[topic, partition]
            if at > newest.sent:
                newest.sent = at
                newest.ahead = newest.ahead or at > time.time() * 1000
        name = self._names.get(topic) or self._names.setdefault(topic, self._settings.topic_prefix + topic)
        try:
            assert self._producer is not None
            future = self._producer.send(name, value, key, None, partition)
        except KafkaError:
            # It is not on its way; what Kafka has is asked as of those without an answer.
            future = None
        self._waiting.append((future, record, at))
        self._begun += 1
        if future is None or self._begun % 2000 == 0:
            self._settle(_WAITING)

    def _settle(self, leave: int) -> None:
        """Writes down what Kafka has answered, and waits until no more than ``leave`` have no answer."""
        waiting = self._waiting
        if leave == 0 and waiting and self._producer is not None:
            # Only hurries: whether each was taken is asked below.
            with contextlib.suppress(KafkaError):
                self._producer.flush(timeout=_PATIENCE_S)
        taken: list[Sent] = []
        while waiting and (len(waiting) > leave or waiting[0][0] is None or waiting[0][0].is_done):
            future, record, at = waiting[0]
            answer = _answer(future)
            if answer is None:
                self._note(taken)
                self._look_up()
                self._settle(leave)
                return
            waiting.popleft()
            taken.append(self._taken(record, at, answer.offset, answer.timestamp))
        self._note(taken)

    def _taken(self, record: Record, at: int, offset: int, appended: int) -> Sent:
        """A record that Kafka has; ``at`` is its event time, 0 if it has none that counts."""
        topic, partition, key, value, label = record
        newest = self._newest[topic, partition]
        newest.taken = max(newest.taken, min(at, appended + AHEAD_MS))
        self._ends[topic, partition] = max(self._ends[topic, partition], offset + 1)
        return Sent(topic, partition, offset, appended, key, value, label)

    def _note(self, taken: list[Sent]) -> None:
        self._truth.append(taken)
        self._sent += len(taken)

    def _look_up(self) -> None:
        """Finds in the log what was sent without an answer, and sends again what is not there."""
        assert self._producer is not None
        # Nothing of the old producer's may arrive once the log is read: what can be answered is, the rest is cut off.
        with contextlib.suppress(KafkaError):
            self._producer.flush(timeout=30)
        self._producer.close(timeout=0)
        begin = dict(self._ends)
        pending: dict[tuple[str, int], list[tuple[Record, int]]] = defaultdict(list)
        answered = []
        for future, record, at in self._waiting:
            answer = _answer(future) if future is not None and future.is_done else None
            if answer is None:
                pending[record.topic, record.partition].append((record, at))
            else:
                answered.append(self._taken(record, at, answer.offset, answer.timestamp))
        self._waiting.clear()
        known = {(sent.topic, sent.partition, sent.offset) for sent in answered}
        self._note(answered)
        for (topic, partition), records in pending.items():
            found = []
            for place in self._log(topic, partition, begin.get((topic, partition), 0)):
                if (topic, partition, place.offset) in known:
                    continue
                same = next((r for r in records if (r[0].key, r[0].value) == (place.key, place.value)), None)
                if same is None:
                    raise BrokenFeed(f"{topic}[{partition}] offset {place.offset}: this feed did not send it")
                records.remove(same)
                found.append(self._taken(*same, place.offset, place.timestamp))
            self._note(found)
        self._producer = self._connect()
        for records in pending.values():
            for record, _ in records:
                self._send(record)

    def _log(self, topic: str, partition: int, begin: int) -> Iterator[Any]:
        """What a partition holds from an offset on."""
        here = TopicPartition(self._settings.topic_prefix + topic, partition)
        consumer = KafkaConsumer(**kafka_options(self._settings), enable_auto_commit=False, auto_offset_reset="none")
        with contextlib.closing(consumer):
            consumer.assign([here])
            end = consumer.end_offsets([here])[here]
            consumer.seek(here, begin)
            at = begin
            while at < end:
                for record in consumer.poll(1000).get(here, ()):
                    at = record.offset + 1
                    yield record


def _answer(future: Any) -> Any:
    """Kafka's word on a record: its metadata; None where there is none that tells its place."""
    if future is None:
        return None
    if not future.is_done:
        try:
            future.get(timeout=_PATIENCE_S)
        except KafkaError:
            return None
    if future.exception is not None or future.value.offset < 0:
        return None
    return future.value
