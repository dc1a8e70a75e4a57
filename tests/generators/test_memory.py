"""What a world remembers does not grow with the time that it goes on."""

from made_worlds import config

from generators.world import World


def test_of_late_records_only_those_still_to_be_sent_are_remembered() -> None:
    start = 1_767_326_400_000
    busy = World(config(fans=60, rate_factor=12_000.0, start_ms=start, duplicates=0.05, late=0.05))
    sent = 0
    for minute in range(40):
        since = start + minute * 60_000
        sent += sum(len(records) for records in busy.records(0, since, since + 60_000).values())
    last = (start + 40 * 60_000 - 1) // busy.slot_ms
    kept = [
        (due, records)
        for _, ahead in busy._spread.values()
        for targets in ahead.targets.values()
        for due, records in targets.items()
    ]
    assert sent > 20_000
    assert {due for due, _ in kept} <= set(range(last - 1, last + 6 * 3_600_000 // busy.slot_ms + 2))
    behind = sum(len(records) for due, records in kept if due > last)
    assert 0 < behind < 0.06 * sent
    # Each holds its own few values, not a view of the slot that it came from.
    assert all(records.sent_ms.base is None or len(records.sent_ms.base) == len(records) for _, records in kept)
