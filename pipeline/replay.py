"""Dead letters are looked at, mended, checked by the contract, and sent again as new records."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from pydantic import ValidationError

from infra.connect import kafka_admin, kafka_options, kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.topics import ensure_topics
from pipeline import checkpoint as checkpoints
from pipeline.decode import Decoder, FanHasher, Unreadable
from pipeline.log import BY_CLICKHOUSE
from pipeline.verdict import AHEAD_MS, NEVER, Horizon
from schemas.events import FUTURE_MS, KINDS
from schemas.topics import SOURCES, partition_for

REASONS = (
    "null_value", "too_large", "invalid_utf8", "broken_json", "wrong_type", "missing_field", "unknown_kind", "empty",
    "too_long", "bad_characters", "unknown_value", "out_of_range", "negative", "future", "invalid", BY_CLICKHOUSE,
)  # fmt: skip
"""Codes of refusals; a database may hold others of a newer worker."""
WRITTEN = 500
"""Records sent before they are written down: what a crash in between may send twice."""
_READ_S = 20.0
_SENT_S = 120.0
_ASKED = 500
_SKEW_MS = 60_000
_COLUMNS = ["topic", "partition", "offset", "to_partition", "to_offset", "replayed_at", "changed"]

_DECODERS = {topic: Decoder(topic, FanHasher(b"replay")) for topic in SOURCES}


class Address(NamedTuple):
    """Where a record stands in Kafka; written ``interactions:0:1234``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


def address(text: str) -> Address:
    """The address that a text names.

    Raises:
        FanpulseError: it has another form, or there is no such source topic.
    """
    topic, _, rest = text.strip().partition(":")
    numbers = rest.split(":")
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        raise FanpulseError(f"{text!r} is no address; write topic:partition:offset, such as interactions:0:1234")
    require_topic(topic)
    partition, offset = map(int, numbers)
    if partition > 65_535:
        raise FanpulseError(f"{text}: there is no partition {partition}")
    return Address(topic, partition, offset)


def require_topic(topic: str) -> None:
    """FanpulseError if it is no source topic."""
    if topic not in SOURCES:
        raise FanpulseError(f"there is no topic {topic!r}{_near(topic, SOURCES)}")


@dataclass(frozen=True, slots=True)
class Replay:
    """A letter was sent again as the record at ``to``, at ``at`` (UTC ms), ``changed`` or as it was."""

    to: Address
    at: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as the table has it: ``value`` are its first 64 KiB, ``size`` its full length in bytes;
    ``appended`` is when the broker took it, UTC ms."""

    address: Address
    appended: int
    reason: str
    detail: str
    value: bytes | None
    size: int
    replays: tuple[Replay, ...] = ()

    @property
    def cut(self) -> bool:
        """Whether the table has only the beginning."""
        return self.size > len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters: all that have what is given. ``since``: taken by the broker from then on, UTC ms; ``waiting``:
    never sent again."""

    topic: str | None = None
    reason: str | None = None
    since: int | None = None
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """The letters of one topic and reason: how many, of these sent again, and the first and last append (UTC ms)."""

    topic: str
    reason: str
    letters: int
    replayed: int
    first: int
    last: int


def require_known(client: Client, selection: Selection) -> None:
    """FanpulseError if the selection names a topic or reason that there is not."""
    if selection.topic is not None:
        require_topic(selection.topic)
    if selection.reason is not None and selection.reason not in REASONS:
        with _asked():
            held = {str(reason) for (reason,) in client.query("SELECT DISTINCT reason FROM dead_letters").result_rows}
        if selection.reason not in held:
            raise FanpulseError(
                f"there is no reason {selection.reason!r}{_near(selection.reason, sorted(held | set(REASONS)))}"
            )


def groups(client: Client, selection: Selection) -> list[Group]:
    """Letters counted by topic and reason, most first."""
    where, parameters = _condition(selection)
    query = f"""
        SELECT topic, reason, count(), countIf((topic, partition, `offset`) IN (SELECT topic, partition, `offset`
            FROM dead_letter_replays)),
            toUnixTimestamp64Milli(min(appended_at)), toUnixTimestamp64Milli(max(appended_at))
        FROM dead_letters FINAL WHERE {where}
        GROUP BY topic, reason ORDER BY count() DESC, topic, reason
    """
    with _asked():
        return [Group(*row) for row in client.query(query, parameters=parameters).result_rows]


def letters(
    client: Client, selection: Selection, limit: int | None = None, newest_first: bool = False
) -> Iterator[Letter]:
    """Letters in the order in which the broker took them; read as they are asked for.

    Raises:
        FanpulseError: ClickHouse does not answer, or lacks the tables.
    """
    where, parameters = _condition(selection)
    order = "DESC" if newest_first else "ASC"
    bound = "" if limit is None else " LIMIT {limit:UInt64}"
    ordered = f"ORDER BY appended_at {order}, topic, partition, `offset` {order}{bound}"
    yield from _letters(client, where, {**parameters, "limit": limit or 0}, ordered)


def find(client: Client, addresses: Sequence[Address]) -> list[Letter]:
    """The letters at these addresses, in this order.

    Raises:
        FanpulseError: there is no dead letter at one of them.
    """
    found: dict[Address, Letter] = {}
    for first in range(0, len(addresses), _ASKED):
        some = addresses[first : first + _ASKED]
        where = "(topic, partition, `offset`) IN {addresses:Array(Tuple(String, UInt16, Int64))}"
        for letter in _letters(client, where, {"addresses": [tuple(each) for each in some]}, "ORDER BY `offset`"):
            found[letter.address] = letter
    for each in addresses:
        if each not in found:
            raise FanpulseError(f"there is no dead letter at {each}{_neighbour(client, each)}")
    return [found[each] for each in addresses]


def _neighbour(client: Client, missing: Address) -> str:
    with _asked():
        rows = client.query(
            "SELECT `offset` FROM dead_letters WHERE topic = {topic:String} AND partition = {partition:UInt16} "
            "ORDER BY abs(`offset` - {offset:Int64}) LIMIT 1",
            parameters=missing._asdict(),
        ).result_rows
    if rows:
        return f"; the nearest one is {missing._replace(offset=int(rows[0][0]))}"
    return f", and none in {missing.topic}:{missing.partition}; fanpulse dead-letters list shows all"


def _condition(selection: Selection) -> tuple[str, dict[str, Any]]:
    conditions, parameters = ["1"], {}
    if selection.topic is not None:
        conditions.append("topic = {topic:String}")
        parameters["topic"] = selection.topic
    if selection.reason is not None:
        conditions.append("reason = {reason:String}")
        parameters["reason"] = selection.reason
    if selection.since is not None:
        conditions.append("appended_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')")
        parameters["since"] = str(selection.since)
    if selection.waiting:
        conditions.append(
            "(topic, partition, `offset`) NOT IN (SELECT topic, partition, `offset` FROM dead_letter_replays)"
        )
    return " AND ".join(conditions), parameters


def _letters(client: Client, where: str, parameters: dict[str, Any], ordered: str) -> Iterator[Letter]:
    query = f"""
        SELECT topic, partition, `offset`, toUnixTimestamp64Milli(appended_at), reason, detail, value, size, null_value,
            sent
        FROM (SELECT * FROM dead_letters FINAL WHERE {where}) AS letters
        LEFT JOIN
        (
            SELECT topic, partition, `offset`, arraySort(groupArray((toUnixTimestamp64Milli(replayed_at), to_partition,
                to_offset, changed))) AS sent
            FROM dead_letter_replays FINAL GROUP BY topic, partition, `offset`
        ) AS replays USING (topic, partition, `offset`)
        {ordered}
    """
    with (
        _asked(),
        client.query_row_block_stream(query, parameters=parameters, column_formats={"value": "bytes"}) as blocks,
    ):
        for block in blocks:
            for topic, partition, offset, appended, reason, detail, value, size, null, sent in block:
                yield Letter(
                    Address(topic, partition, offset),
                    appended,
                    reason,
                    detail,
                    None if null else bytes(value),
                    size,
                    tuple(Replay(Address(topic, p, o), at, bool(changed)) for at, p, o, changed in sent),
                )


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """Errors of ClickHouse as one line."""
    try:
        yield
    except ClickHouseError as error:
        if "UNKNOWN_TABLE" in str(error):
            raise FanpulseError(
                "the database has no table of dead letters sent again; make it: fanpulse migrate"
            ) from None
        raise


class Originals:
    """Whole records of letters that the table has cut, from Kafka while it has them. Connects when it is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: KafkaConsumer | None = None

    def __enter__(self) -> "Originals":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def whole(self, letter: Letter) -> tuple[bytes | None, str]:
        """The letter's bytes, and where they come from: ``table``, the source topic's name, ``dead_letters``.

        Where no topic has the whole record any more, the beginning that the table has, and ``""``.

        Raises:
            FanpulseError: the table has cut it, and Kafka does not answer.
        """
        if not letter.cut:
            return letter.value, "table"
        try:
            for source, read in ((letter.address.topic, self._at_source), ("dead_letters", self._as_letter)):
                value = read(letter)
                if value is not None and len(value) == letter.size and value.startswith(letter.value or b""):
                    return value, source
        except KafkaError as error:
            raise FanpulseError(
                f"{letter.address}: Kafka does not give the whole record ({type(error).__name__}); "
                "look: fanpulse status"
            ) from None
        return letter.value, ""

    def _connected(self) -> KafkaConsumer:
        if self._consumer is None:
            options = kafka_options(self._settings)
            self._consumer = KafkaConsumer(**options, client_id="fanpulse", enable_auto_commit=False)
        return self._consumer

    def _records(self, place: TopicPartition, first: int) -> Iterator[Any]:
        """Records from an offset to the present end; none where the topic begins later or ends before."""
        consumer = self._connected()
        if place.partition not in (consumer.partitions_for_topic(place.topic) or ()):
            return
        begin, end = consumer.beginning_offsets([place])[place], consumer.end_offsets([place])[place]
        if not begin <= first < end:
            return
        consumer.assign([place])
        consumer.seek(place, first)
        deadline = time.monotonic() + _READ_S
        while consumer.position(place) < end:
            polled = consumer.poll(timeout_ms=500)
            if not polled and time.monotonic() > deadline:
                return
            for record in polled.get(place, ()):
                deadline = time.monotonic() + _READ_S
                yield record

    def _at_source(self, letter: Letter) -> bytes | None:
        topic, partition, offset = letter.address
        for record in self._records(TopicPartition(self._settings.topic_prefix + topic, partition), offset):
            value: bytes | None = record.value
            return value if record.offset == offset else None
        return None

    def _as_letter(self, letter: Letter) -> bytes | None:
        place = TopicPartition(self._settings.topic_prefix + "dead_letters", 0)
        consumer = self._connected()
        if place.partition not in (consumer.partitions_for_topic(place.topic) or ()):
            return None
        # It was refused after the broker took it; the two append times may come from two brokers.
        found = consumer.offsets_for_times({place: max(letter.appended - _SKEW_MS, 0)}).get(place)
        if found is None:
            return None
        for each in self._records(place, found.offset):
            if each.key == str(letter.address).encode():
                value: bytes | None = each.value
                return value
        return None


def parsed(value: bytes | None) -> dict[str, Any] | None:
    """The JSON object that the bytes are, its numbers exact; None if they are none, by the rules of the contract."""
    try:
        # orjson is as strict as the contract, json keeps integers of any length.
        if isinstance(orjson.loads(value or b""), dict):
            record: dict[str, Any] = json.loads(value or b"")
            return record
    except (ValueError, RecursionError):
        pass
    return None


def encoded(record: Any) -> bytes:
    """Compact JSON of a record; half of a surrogate pair becomes bytes that are not UTF-8, which are refused."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def changed(before: bytes | None, after: bytes | None) -> bool:
    """Whether a record says something else than before: another order of white space is no change."""
    if before == after:
        return False
    old, new = parsed(before), parsed(after)
    return old is None or new is None or encoded(old) != encoded(new)


@dataclass(frozen=True, slots=True)
class Mended:
    """A record that the contract accepts, ready to be sent in place of a letter: its Kafka key, its partition, and
    its event time (UTC ms). ``changed``: it is not what was refused."""

    letter: Letter
    value: bytes
    key: bytes
    partition: int
    event_time: int
    changed: bool


def mend(settings: Settings, letter: Letter, original: bytes | None, value: bytes | None, now: int) -> Mended:
    """The record ``value`` in place of the letter whose bytes were ``original``, as a worker would read it at ``now``
    (UTC ms).

    Raises:
        Unreadable: it would be refused again; says why.
    """
    event, _ = _DECODERS[letter.address.topic].read(value)
    if event["event_time"] > now + FUTURE_MS:
        raise Unreadable("future", "event_time: more than a day ahead")
    assert value is not None
    other = changed(original, value)
    if not other and original is not None:
        value = original
    key = event["fan_id"].encode()
    partition = partition_for(key, settings.partitions)
    return Mended(letter, value, key, partition, event["event_time"], other)


class Hint(NamedTuple):
    """What is wrong with a field, and what would be accepted there."""

    field: str
    wrong: str
    accepted: str


def hints(topic: str, value: bytes | None) -> list[Hint]:
    """What is wrong with every field of a record; empty where it is no JSON object, or nothing is."""
    record = parsed(value)
    if record is None:
        return []
    kind = record.get("kind")
    model = KINDS[topic].get(kind) if isinstance(kind, str) else None
    if model is None:
        near = _near(kind, list(KINDS[topic])) if isinstance(kind, str) else ""
        wrong = f"{topic} has no such kind{near}" if isinstance(kind, str) else "it must be given, as a string"
        return [Hint("kind", wrong, "one of " + ", ".join(sorted(KINDS[topic])))]
    try:
        model.model_validate_json(value or b"")
    except ValidationError as error:
        found = {str(each["loc"][0]): each["msg"] for each in error.errors(include_url=False) if each["loc"]}
        return [Hint(field, wrong, accepted(topic, str(kind), field)) for field, wrong in found.items()]
    return []


def accepted(topic: str, kind: str, field: str) -> str:
    """What the contract takes in a field of a kind, in words."""
    model = KINDS[topic][kind]
    schema = model.model_json_schema()
    said: Mapping[str, Any] = schema["properties"][field]
    arm: Mapping[str, Any] = next((a for a in said.get("anyOf", ()) if a.get("type") != "null"), said)
    if "const" in arm or "enum" in arm:
        text = "one of " + ", ".join(map(str, arm.get("enum", [arm.get("const")])))
    elif arm.get("type") == "integer":
        text = f"an integer from {arm['minimum']} to {arm['maximum']}"
    else:
        text = f"a string of {arm['minLength']} to {arm['maxLength']} characters"
        if pattern := arm.get("pattern"):
            text += ", no space or invisible character" if r"\p{Z}" in pattern else ", no control character"
    need = "required" if field in schema["required"] else "may be left out"
    meaning = said.get("description") or arm.get("description")
    return f"{text}; {need}" + (f": {meaning}" if meaning else "")


def require_same_log(settings: Settings, client: Client) -> None:
    """Returns if the Kafka of the settings is the one that filled the database, with the same partitions.

    Raises:
        FanpulseError: another one, or one of them does not answer.
    """
    ensure_topics(settings)
    stored = checkpoints.read(client)
    checkpoints.require_same(settings, stored)
    with contextlib.closing(kafka_admin(settings)) as admin:
        here = str(admin.describe_cluster()["cluster_id"])
    for held in stored:
        if held.cluster_id != here:
            raise FanpulseError(
                f"the database was filled from Kafka cluster {held.cluster_id}, this is {here}: its dead letters "
                "belong there; set FANPULSE_KAFKA or FANPULSE_DATABASE",
                exit_code=3,
            )


def late(settings: Settings, client: Client, mended: Sequence[Mended], now: int) -> list[Mended]:
    """Those that the stream will call late, as far as the checkpoints tell: stored, and left to repair."""
    newest: dict[tuple[str, int], int] = {}
    for held in checkpoints.read(client):
        if held.agent == "archive":
            place = held.topic, held.partition
            newest[place] = max(newest.get(place, NEVER), held.newest)
    horizon = Horizon(settings.allowed_lateness * 1000, settings.late_horizon * 1000)
    found = []
    for each in mended:
        place = each.letter.address.topic, each.partition
        reached = max(newest.get(place, NEVER), min(each.event_time, now + AHEAD_MS))
        newest[place] = reached
        if each.event_time < horizon.oldest(reached):
            found.append(each)
    return found


def send(
    settings: Settings, client: Client, mended: Sequence[Mended], report: Callable[[Mended, Replay], None]
) -> None:
    """Sends the records in this order, and writes down each that the broker took before it is reported.

    A crash between the two leaves a record that was sent and not written down. Sent again it is a repeat, as its
    event_id and event_time are the same, so it counts once.

    Raises:
        FanpulseError: Kafka or ClickHouse did not take something; says how many are sent.
    """
    producer = kafka_producer(settings)
    done = 0
    try:
        for first in range(0, len(mended), WRITTEN):
            some = mended[first : first + WRITTEN]
            sent, failure = _send(settings, producer, some)
            if sent:
                try:
                    client.insert("dead_letter_replays", [_row(*each) for each in sent], column_names=_COLUMNS)
                except (ClickHouseError, OSError) as error:
                    raise FanpulseError(
                        f"{done + len(sent)} of {len(mended)} are sent, but the last {len(sent)} are not written down "
                        f"({_line(error)}); run it again when ClickHouse is back: what is sent twice counts once",
                        exit_code=1,
                    ) from None
                for each, replay in sent:
                    report(each, replay)
                done += len(sent)
            if failure is not None:
                raise FanpulseError(
                    f"Kafka took {done} of {len(mended)} ({_line(failure)}); look at it with: fanpulse status, then "
                    "run it again for the others",
                    exit_code=1,
                )
    finally:
        with contextlib.suppress(KafkaError):
            producer.close(timeout=5)


def _row(mended: Mended, replay: Replay) -> list[Any]:
    at = datetime.fromtimestamp(replay.at / 1000, UTC)
    return [*mended.letter.address, replay.to.partition, replay.to.offset, at, int(replay.changed)]


def _send(
    settings: Settings, producer: Any, mended: Sequence[Mended]
) -> tuple[list[tuple[Mended, Replay]], KafkaError | None]:
    """What the broker took, with where it stands now, and the first error."""
    sent: list[tuple[Mended, Replay]] = []
    futures, failure = [], None
    try:
        for each in mended:
            name = settings.topic_prefix + each.letter.address.topic
            futures.append(producer.send(name, value=each.value, key=each.key, partition=each.partition))
        producer.flush(timeout=_SENT_S)
    except KafkaError as error:
        failure = error
    for each, future in zip(mended, futures, strict=False):
        try:
            taken = future.get(timeout=_SENT_S)
        except KafkaError as error:
            failure = failure or error
            continue
        to = Address(each.letter.address.topic, int(taken.partition), int(taken.offset))
        sent.append((each, Replay(to, time.time_ns() // 1_000_000, each.changed)))
    return sent, failure if len(sent) < len(mended) else None


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
