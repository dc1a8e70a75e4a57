"""Attribution by its definition in SQL: the twin ``attributions``, and the events that it is made of."""

from dataclasses import dataclass
from typing import Any

from infra.settings import Settings
from pipeline.checkpoint import Checkpoint
from pipeline.fan_log import read_inputs
from pipeline.touch_log import AD_COLUMNS, HOUR_MS, KINDS, TOPIC
from pipeline.twin import twin

AGENT = "attribution"
KEY = ("partition", "kind", "`offset`")
"""What names a conversion."""
KEYS = ", ".join(KEY)
VALUES = (
    *("platform", "creator_id", "fan", "converted_at", "order_id", "amount_micros"),
    *("touch", "touched_at", "touch_offset", *AD_COLUMNS),
)
"""What is told of it."""
SETTLED = "late = 1 AND repaired = 1 AND duplicate = 0"
"""Condition: a late record that a repair has taken in."""
CONVERSIONS = {
    "partition": "UInt16",
    "kind": "LowCardinality(String)",
    "`offset`": "Int64",
    "platform": "LowCardinality(String)",
    "creator_id": "String",
    "fan": "UInt64",
    "converted_at": "DateTime64(3, 'UTC')",
    "order_id": "String",
    "amount_micros": "Int64",
}
"""Columns of the twin's conversions."""
TOUCHES = {
    "partition": "UInt16",
    "`offset`": "Int64",
    "platform": "LowCardinality(String)",
    "creator_id": "String",
    "fan": "UInt64",
    "touched_at": "DateTime64(3, 'UTC')",
    "touch": "LowCardinality(String)",
    **dict.fromkeys(AD_COLUMNS, "String"),
}
"""Columns of its touches."""


@dataclass(frozen=True)
class AttributionCut:
    """What the checkpoints of agent ``attribution`` say, by partition: the next offset in the touch log, and of each
    source topic the next offset there."""

    version: int
    next_offset: dict[int, int]
    inputs: dict[int, dict[str, int]]

    def upto(self, topic: str) -> dict[int, int]:
        """The first offset of a source topic that is not counted in, by partition."""
        return {partition: inputs.get(topic, 0) for partition, inputs in self.inputs.items()}


def attribution_cut(stored: list[Checkpoint]) -> AttributionCut | None:
    """Where attributions are compared: at the checkpoints of their agent. None if it has none."""
    own = [c for c in stored if c.agent == AGENT and c.topic == TOPIC]
    if not own:
        return None
    version = max(c.fold_version for c in own)
    own = [c for c in own if c.fold_version == version]
    return AttributionCut(
        version,
        {c.partition: c.next_offset for c in own},
        {c.partition: {topic: each.next for topic, each in read_inputs(c.inputs).items()} for c in own},
    )


def told(topic: str, records: str) -> str:
    """Conversions or touches, from records of a topic: a table, and what they must be. The topic's other kinds of event
    are left out."""
    kinds = ", ".join(repr(kind) for kind in KINDS[topic])
    if topic == "ad_events":
        what = {"touched_at": "event_time", "touch": "toString(kind)"}
        what |= {name: f"toString({name})" for name in AD_COLUMNS}
    else:
        what = {"kind": "multiIf(kind = 'paid', 'order', kind = 'refunded', 'refund', toString(kind))"}
        what |= {"converted_at": "event_time"}
        what |= {"order_id": "''", "amount_micros": "toInt64(0)"} if topic == "interactions" else {}
    columns = TOUCHES if topic == "ad_events" else CONVERSIONS
    shown = ", ".join(f"{what.get(name, _PLAIN.get(name, name))} AS {name}" for name in columns)
    return f"SELECT {shown} FROM (SELECT * FROM {records}) AS record WHERE record.kind IN ({kinds})"


_PLAIN = {"platform": "toString(platform)"}


def wanted(conversions: str, touches: str) -> str:
    """What the twin makes of two queries; ``windows`` gives its parameters."""
    shown = ", ".join((*KEY, *VALUES))
    return f"WITH conversions AS ({conversions}), touches AS ({touches}) SELECT {shown} FROM ({twin('attributions')})"


def windows(settings: Settings) -> dict[str, Any]:
    """Parameters of the twin."""
    return {"click_ms": settings.click_window * HOUR_MS, "view_ms": settings.view_window * HOUR_MS}
