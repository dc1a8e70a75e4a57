"""The campaign log: figures of campaigns by minute, how far time is, and changes of rules and campaigns, in one order.

Agent ``campaign_facts`` and the commands of people write it, agent ``rules`` reads it. A message is a line of JSON and,
if there are figures, an Arrow stream. Its line has ``database`` (whose workers or people sent it) and either what one
partition of ``ad_events`` says, or a change.

``partition``, ``start``, ``next``: the offsets of that partition that it covers; ``reached``: the event time that the
partition has got to (UTC ms; null: it has had no event); ``oldest``: the oldest event time that may still change a
figure (UTC ms; null: nothing is known of that). Columns of the figures: ``FIGURES``; they are absolute, of all events
below ``next``, and of every ad group and minute that was changed since ``start``. A message goes to the partition of
its campaigns; every partition is told of time.

``change``: ``rules`` (with ``rules``, a list), ``campaigns`` (with ``campaigns``) or ``switch`` (with ``rule_id`` and
``enabled``), and ``by``, who it is from. Changes go to every partition.
"""

import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import orjson
import polars as pl

from pipeline.block import Block
from pipeline.fold import Fold
from pipeline.log import Batch, Broken, Log, sender
from pipeline.verdict import AHEAD_MS, NEVER
from schemas.rules import Campaign, Rule
from schemas.topics import partition_for

TOPIC = "campaign_facts"
MEASURES = ("impressions", "clicks", "plays", "conversions", "cost_micros", "conversion_value_micros")
"""Sums of a minute, in the order of ``rules.Sums``."""
FIGURES = {
    "platform": pl.String,
    "creator_id": pl.String,
    "campaign_id": pl.String,
    "ad_group_id": pl.String,
    "minute": pl.Int64,
    **dict.fromkeys(MEASURES, pl.Int64),
}
"""Columns of figures. ``minute`` is its begin, UTC ms."""
ROWS = {
    "applied": pl.Int64,
    "appended": pl.Int64,
    "kind": pl.String,
    "source": pl.Int64,
    "next": pl.Int64,
    "reached": pl.Int64,
    "oldest": pl.Int64,
    "text": pl.String,
    **FIGURES,
}
"""Columns of what folds read, where a row has them. ``applied`` is the offset on the campaign log, ``appended`` when
the broker took the message (UTC ms), ``source`` a partition of ``ad_events``. Of a message with figures a row each, of
kind ``figures``, and then one of kind ``time``; of a change one of kind ``change``, with the message as ``text``."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a partition of ``ad_events`` says (see above)."""

    database: str
    partition: int
    start: int
    next: int
    reached: int | None
    oldest: int | None
    figures: pl.DataFrame


@dataclass(frozen=True, slots=True)
class RuleChange:
    """Rules that hold from here on, each in place of that with its id; all are switched on."""

    database: str
    by: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    """A rule is switched on or off."""

    database: str
    by: str
    rule_id: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class CampaignChange:
    """Campaigns as the market has them from here on."""

    database: str
    by: str
    campaigns: tuple[Campaign, ...]


Message = Figures | RuleChange | Switch | CampaignChange


def partition_of(platform: str, campaign_id: str, partitions: int) -> int:
    """Partition of the campaign log, and of ``budget_actions``, that a campaign is in."""
    return partition_for(campaign_key(platform, campaign_id), partitions)


def campaign_key(platform: str, campaign_id: str) -> bytes:
    """Key of a campaign's records in Kafka."""
    return f"{platform}:{campaign_id}".encode()


def encode(message: Message) -> bytes:
    """A message as it is sent. Figures have the columns ``FIGURES``."""
    match message:
        case Figures(database, partition, start, next_offset, reached, oldest, figures):
            head = {"database": database, "partition": partition, "start": start, "next": next_offset}
            body = io.BytesIO()
            if len(figures):
                figures.select(*FIGURES).write_ipc_stream(body, compression="lz4")
            return orjson.dumps(head | {"reached": reached, "oldest": oldest}) + b"\n" + body.getvalue()
        case RuleChange(database, by, rules):
            return _change(database, by, "rules", {"rules": _dumped(rules)})
        case Switch(database, by, rule_id, enabled):
            return _change(database, by, "switch", {"rule_id": rule_id, "enabled": enabled})
        case CampaignChange(database, by, campaigns):
            return _change(database, by, "campaigns", {"campaigns": _dumped(campaigns)})


def decode(value: bytes | None) -> Message:
    """A message. ValueError if ``value`` is none."""
    head, _, body = (value or b"").partition(b"\n")
    try:
        line = orjson.loads(head)
        database = str(line["database"])
        match line.get("change"):
            case None:
                return _figures(database, line, body)
            case "rules":
                return RuleChange(database, str(line["by"]), tuple(map(Rule.model_validate, line["rules"])))
            case "switch":
                return Switch(database, str(line["by"]), str(line["rule_id"]), bool(line["enabled"]))
            case "campaigns":
                found = tuple(map(Campaign.model_validate, line["campaigns"]))
                return CampaignChange(database, str(line["by"]), found)
            case other:
                raise ValueError(f"there is no change {other!r}")
    except (KeyError, OSError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def text(model: Rule | Campaign) -> str:
    """A rule or campaign as canonical JSON, as it may be written in a file: without what is not set."""
    return orjson.dumps(model.model_dump(mode="json", exclude_none=True), option=orjson.OPT_SORT_KEYS).decode()


class CampaignLog(Log):
    """One partition of the campaign log, for as long as this worker holds it. ``on_batch(log, batch, seconds)`` as in
    ``log.PartitionLog``."""

    place: ClassVar[str] = "applied"

    def __init__(
        self,
        partition: int,
        database: str,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        on_batch: Callable[[Any, Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        super().__init__(TOPIC, partition, folds, checkpoints, position)
        self._database = database
        self._on_batch = on_batch

    def oldest(self, newest: int) -> int:
        return NEVER

    def _judge(self, block: Block) -> Batch:
        began, parts, newest = time.thread_time(), [pl.DataFrame(schema=ROWS)], NEVER
        records = zip(block.offsets.tolist(), block.appended.tolist(), block.values, strict=True)
        for offset, appended, value in records:
            if sender(value) != self._database:
                continue
            try:
                message = decode(value)
            except ValueError as error:
                where = f"{TOPIC}[{self.partition}]: offset {offset}"
                raise Broken(
                    f"{where} is a message that this version of fanpulse cannot read ({error}): it was told by another "
                    "one; start workers of that version"
                ) from None
            if isinstance(message, Figures):
                if message.reached is not None and message.reached > appended + AHEAD_MS:
                    # Told by a worker whose clock was far ahead.
                    message = replace(message, reached=appended + AHEAD_MS)
                newest = max(newest, NEVER if message.reached is None else message.reached)
            parts.append(_rows(message, offset, appended, value or b""))
        batch = Batch(pl.concat(parts), [], block.start, block.next, newest, 0, 0)
        self._on_batch(self, batch, time.thread_time() - began)
        return batch


def _rows(message: Message, applied: int, appended: int, value: bytes) -> pl.DataFrame:
    place = {"applied": applied, "appended": appended}
    if not isinstance(message, Figures):
        return pl.DataFrame([{**place, "kind": "change", "text": value.decode()}], schema=ROWS)
    told = {"source": message.partition, "next": message.next, "reached": message.reached, "oldest": message.oldest}
    at_end = pl.DataFrame([{**place, "kind": "time", **told}], schema=ROWS)
    if message.figures.is_empty():
        return at_end
    columns = {**place, "kind": "figures", "source": message.partition, "next": message.next}
    figures = message.figures.with_columns(
        *(pl.lit(columns.get(name), dtype).alias(name) for name, dtype in ROWS.items() if name not in FIGURES)
    )
    return pl.concat([figures.select(*ROWS), at_end])


def _figures(database: str, line: Mapping[str, Any], body: bytes) -> Figures:
    figures = pl.read_ipc_stream(body) if body else pl.DataFrame(schema=FIGURES)
    if dict(figures.schema) != FIGURES:
        raise ValueError("it has other columns")
    reached, oldest = (None if line[name] is None else int(line[name]) for name in ("reached", "oldest"))
    numbers: tuple[int, int, int] = (int(line["partition"]), int(line["start"]), int(line["next"]))
    return Figures(database, *numbers, reached, oldest, figures)


def _change(database: str, by: str, change: Literal["rules", "switch", "campaigns"], told: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"database": database, "change": change, "by": by, **told}) + b"\n"


def _dumped(models: Iterable[Rule | Campaign]) -> list[Any]:
    return [each.model_dump(mode="json", exclude_none=True) for each in models]
