"""Decisions of rules, as they are stored: read back, and counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from pipeline.rules import Decision, Guard, Key, Span

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Firings:
    """How often a rule fired, or would have: ``last``: when the window of the last one closed; ``lately``: in the 24
    hours before a moment."""

    last: datetime
    lately: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What came out in the 24 hours up to the last window: ``numbers`` by outcome and reason, ``guards`` by guard that
    failed where that was why."""

    until: datetime
    numbers: Mapping[tuple[str, str], int]
    guards: Mapping[str, int]


def read_decisions(client: Client, rule_id: str, key: Key, last: int, any_group: bool) -> list[Decision]:
    """The last decisions, newest first.

    Args:
        key: campaign or ad group.
        last: how many at most.
        any_group: those of the campaign's ad groups, too.
    """
    parameters = {**_of(rule_id, key, any_group), "last": last}
    return [
        Decision(
            key=row[0],
            rule_id=row[1],
            rule_version=row[2],
            mode=row[3],
            entity=Key(*row[4:7]),
            window=Span(_ms(row[7]), _ms(row[8])),
            closed_at=_ms(row[9]),
            kind=row[10],
            outcome=row[11],
            reason=row[12],
            figures=dict(zip(row[13], row[14], strict=True)),
            guards=tuple(
                Guard(name, wants, found, bool(holds)) for name, wants, found, holds in zip(*row[15:19], strict=True)
            ),
            before=row[19],
            after=row[20],
            by=row[21],
        )
        for row in client.query(_LAST, parameters=parameters).result_rows
    ]


def read_tally(client: Client, rule_id: str, key: Key, until: datetime, any_group: bool) -> Tally:
    """What came out in the 24 hours of event time up to a moment."""
    parameters = {**_of(rule_id, key, any_group), "until": until}
    numbers: dict[tuple[str, str], int] = {}
    guards: dict[str, int] = {}
    for outcome, reason, number, failed in client.query(_TALLY, parameters=parameters).result_rows:
        numbers[outcome, reason] = number
        if reason == "guards":
            guards = dict(failed)
    return Tally(until, numbers, guards)


def read_firings(client: Client, now: datetime) -> dict[str, Firings]:
    """By rule, of those that have fired; ``lately``: before ``now``."""
    rows = client.query(_FIRINGS, parameters={"since": int(now.timestamp()) - DAY_S}).result_rows
    return {rule_id: Firings(last.replace(tzinfo=UTC), lately) for rule_id, last, lately in rows}


_WHERE = """
FROM rule_decisions FINAL
WHERE fold_version = 1
    AND rule_id = {rule_id:String}
    AND platform = {platform:String}
    AND campaign_id = {campaign_id:String}
    AND ({any_group:Bool} OR ad_group_id = {ad_group_id:String})
"""
_LAST = f"""
SELECT
    key,
    rule_id,
    rule_version,
    mode,
    platform,
    campaign_id,
    ad_group_id,
    window_start,
    window_end,
    closed_at,
    action,
    outcome,
    reason,
    metrics,
    metric_values,
    guards,
    guard_wants,
    guard_found,
    guard_holds,
    before_micros,
    after_micros,
    outranked_by
{_WHERE}
ORDER BY closed_at DESC, ad_group_id
LIMIT {{last:UInt32}}
"""
_TALLY = f"""
SELECT
    outcome,
    reason,
    count() AS decisions,
    sumMap(mapFromArrays(guards, arrayMap(holds -> toUInt64(holds = 0), guard_holds))) AS failed
{_WHERE}
    AND closed_at > {{until:DateTime('UTC')}} - INTERVAL 1 DAY
GROUP BY outcome, reason
ORDER BY decisions DESC, outcome, reason
"""
_FIRINGS = """
SELECT rule_id, max(closed_at), uniqExactIf(key, closed_at > fromUnixTimestamp({since:Int64}))
FROM rule_decisions
WHERE fold_version = 1 AND outcome != 'skipped'
GROUP BY rule_id
"""


def _of(rule_id: str, key: Key, any_group: bool) -> dict[str, object]:
    return {"rule_id": rule_id, **key._asdict(), "any_group": any_group}


def _ms(at: datetime) -> int:
    return int(at.replace(tzinfo=UTC).timestamp()) * 1000
