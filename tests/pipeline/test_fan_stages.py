"""Stages of fans through real workers: from four topics over the fan log to moves, equal to their twins."""

import re
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fan_lives import FANS, life, moves_in_clickhouse, moves_in_kafka, today
from rig import DAY, WorkerProcess, ask, await_stored, event, now_ms, prepare, send, until, verified

from fanpulse.cli import main
from infra.settings import Settings
from pipeline.repair import repair

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]


def test_moves_are_those_of_the_definition_whatever_is_killed(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    settings = Settings(**{**settings.model_dump(exclude_unset=True), "idle_after": 2.0})
    rng, now = Random(4), now_ms()
    made = life(rng, 60, 300, now - 60_000)
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    for third in range(3):
        with WorkerProcess(settings, logs[0]) as first, WorkerProcess(settings, logs[1], 1) as second:
            for topic, events in made.items():
                send(settings, topic, events[third * len(events) // 3 : (third + 1) * len(events) // 3])
            if third < 2:
                time.sleep(rng.uniform(3, 8))
                first.kill()
                second.kill()
                continue
            await_stored(settings, [first, second])
            until(lambda: today(settings), "the wall clock to move quiet topics on")
            await_stored(settings, [first, second])
            compared = verified(settings)
            assert (first.stop(), second.stop()) == (0, 0)
    assert set(FANS) <= set(compared)
    reasons = Counter(dict(ask(settings, "SELECT reason, sum(fans) FROM fan_moves GROUP BY reason")))
    assert min(reasons[reason] for reason in ("arrived", "returned", "absent", "aged", "faded", "unfollowed")) > 0
    stored = moves_in_clickhouse(settings)
    names = ("platform", "creator_id", "fan", "day", "step", "from", "to", "at", "reason", "resurrected")
    sent = moves_in_kafka(settings).values()
    assert {tuple(move[name] for name in names) for move in sent if not move["withdrawn"]} == stored


def test_an_arrival_is_seen_at_once_and_a_late_event_after_a_repair(settings: Settings, tmp_path: Path) -> None:
    prepare(settings)
    now = now_ms()
    stage = "SELECT stage FROM fan_stage_now"
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", [event(Random(1), 1, now - DAY, fan_id="f", creator_id="c", platform="douyin")])
        until(lambda: ask(settings, stage) == [("new",)], "the fan to be new")
        left = {"event_id": "u", "event_time": now, "platform": "douyin", "fan_id": "f", "creator_id": "c"}
        send(settings, "interactions", [left | {"kind": "unfollow"}])
        until(lambda: ask(settings, stage) == [("churned",)], "the fan to have gone")
        # Far beyond the late horizon: a fan who was there long before.
        send(
            settings, "interactions", [left | {"kind": "profile_visit", "event_id": "v", "event_time": now - 20 * DAY}]
        )
        await_stored(settings, [worker])
        assert ask(settings, "SELECT count() FROM fan_transitions FINAL WHERE reason = 'returned'") == [(0,)]
        day = ask(settings, "SELECT toDate(event_time, 'Asia/Shanghai') FROM raw_interactions WHERE late")[0][0]
        for _ in range(2):
            assert repair(settings, day, day).facts == 1
        returned = "SELECT count() FROM fan_transitions FINAL WHERE reason = 'returned' AND NOT withdrawn"
        until(lambda: ask(settings, returned) == [(1,)], "the late event to make a return of the arrival")
        await_stored(settings, [worker])
        assert set(FANS) <= set(verified(settings))
        assert worker.stop() == 0


def test_an_action_after_a_late_unfollow_keeps_the_fan(settings: Settings, tmp_path: Path) -> None:
    """Nothing but a repair tells of that action: it was neither the day's first, nor after an unfollow yet."""
    prepare(settings)
    now = now_ms()
    noon = now // DAY * DAY - 3 * DAY
    on = ZoneInfo(settings.time_zone)

    def at(minutes: int, kind: str) -> dict[str, Any]:
        own = {"event_id": f"{minutes}", "event_time": noon + minutes * 60_000, "kind": kind}
        return own | {"platform": "douyin", "fan_id": "f", "creator_id": "c"}

    with WorkerProcess(settings, tmp_path / "log") as worker:
        send(settings, "interactions", [at(0, "profile_visit"), at(60, "profile_visit"), at(2 * 24 * 60, "follow")])
        await_stored(settings, [worker])
        send(settings, "interactions", [at(30, "unfollow")])
        await_stored(settings, [worker])
        day = datetime.fromtimestamp(noon / 1000, on).date()
        for _ in range(2):
            assert repair(settings, day, day, patience=30).facts == 2
        await_stored(settings, [worker])
        assert set(FANS) <= set(verified(settings))
        assert ask(settings, "SELECT count() FROM fan_transitions FINAL WHERE to_stage = 'churned'") == [(0,)]
        assert worker.stop() == 0


CDNOW = Path(__file__).parents[1] / "load" / "data" / "cdnow_sample.csv"
"""Purchases of one in ten of the customers who first bought at CDNOW in the first quarter of 1997, until June 1998: the
public sample of Fader and Hardie, "Forecasting Repeat Sales at CDNOW: A Case Study" (2001)."""
MAP = [
    *("--set=creator_id=cdnow", "--set=product_id=cd", "--map=event_time=date", "--map=fan_id=customer"),
    *("--map=order_id=customer", "--map=amount_micros=dollars:yuan"),
]


def test_a_public_log_of_purchases_gives_the_figures_counted_by_hand(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(settings)
    # 28 years later the calendar is the same, to the day of the week.
    text = CDNOW.read_text().replace(",1997-", ",2025-").replace(",1998-", ",2026-")
    (tmp_path / "cdnow.csv").write_text(re.sub(r"(\d-\d\d-\d\d)", r"\1 12:00", text))
    settings = Settings(**{**settings.model_dump(exclude_unset=True), "idle_after": 2.0})
    for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
        monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))
    with WorkerProcess(settings, tmp_path / "log") as worker:
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "load",
                    str(tmp_path / "cdnow.csv"),
                    "--topic=orders",
                    "--set=kind=paid",
                    "--set=platform=douyin",
                    *MAP,
                ]
            )
        assert ended.value.code == 0, capsys.readouterr()
        until(lambda: today(settings), "the wall clock to move quiet topics on")
        await_stored(settings, [worker])
        assert set(FANS) <= set(verified(settings))
    assert ask(settings, "SELECT count(), sum(amount_micros) FROM events_orders") == [(6919, 244_091_940_000)]
    # Of 2,357 customers 781, 857 and 719 came in January, February and March. On 6,696 days someone bought; 3,706 of
    # them were at least 7 days after the day before, 2,311 at least 30. Nobody bought since June.
    arrived = "SELECT toMonth(day), sum(arrived) FROM fan_churn_days WHERE arrived GROUP BY 1 ORDER BY 1"
    assert ask(settings, arrived) == [(1, 781), (2, 857), (3, 719)]
    moves = dict(ask(settings, "SELECT reason, sum(fans) FROM fan_moves GROUP BY reason"))
    assert (moves["arrived"], moves["returned"]) == (2357, 3706)
    to = dict(ask(settings, "SELECT toString(to_stage), sum(fans) FROM fan_moves GROUP BY to_stage"))
    assert (to["silent"], to["churned"]) == (3706 + 2357, 2311 + 2357)
    assert ask(settings, "SELECT stage, count() FROM fan_stage_now GROUP BY stage") == [("churned", 2357)]
    # The first customer bought on 1 January, 18 January, 2 August and 12 December.
    first = ask(settings, "SELECT min(event_time), any(fan) FROM events_orders WHERE order_id = '0001'")[0][1]
    assert ask(
        settings,
        f"SELECT toString(day), toString(from_stage), toString(to_stage), reason FROM fan_transitions FINAL "
        f"WHERE fan = {first} AND NOT withdrawn ORDER BY day, step",
    ) == [
        ("2025-01-01", "none", "new", "arrived"),
        ("2025-01-08", "new", "silent", "absent"),
        ("2025-01-18", "silent", "active", "returned"),
        ("2025-01-25", "active", "silent", "absent"),
        ("2025-02-17", "silent", "churned", "absent"),
        ("2025-08-02", "churned", "active", "returned"),
        ("2025-08-09", "active", "silent", "absent"),
        ("2025-09-01", "silent", "churned", "absent"),
        ("2025-12-12", "churned", "active", "returned"),
        ("2025-12-19", "active", "silent", "absent"),
        ("2026-01-11", "silent", "churned", "absent"),
    ]
