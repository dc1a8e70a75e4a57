"""Drills: event time that is played, what must happen when, and the four of them as their users hold them."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from datetime import date, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fanpulse import world_drill
from fanpulse.cli import main
from fanpulse.demo import Demo
from fanpulse.drill import Drill, Failed, Scene
from fanpulse.outage_drill import OutageDrill
from fanpulse.screen import Step, View, lines, picture
from fanpulse.world_drill import Plan, WorldDrill, plan_spike, plan_wave
from generators.config import WorldConfig
from generators.progress import Progress, save_progress
from generators.world import World
from infra.errors import FanpulseError
from infra.settings import Settings
from infra.stack import Stack
from pipeline.alerts import Alert
from schemas.alerts import alert_policy

HOUR = 3_600_000
DAY = 24 * HOUR
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = 1_772_000_000_000


@cache
def world() -> World:
    return World(WorldConfig(fans=2_000, creators=6, start_ms=NOW - 20 * DAY))


moments = st.integers(NOW - DAY, NOW + DAY)
plans = st.builds(lambda make, now: (make(world(), now), now), st.sampled_from([plan_spike, plan_wave]), moments)


def hour(at: int) -> int:
    return datetime.fromtimestamp(at / 1000, SHANGHAI).hour


@given(plans, st.floats(0.5, 20.0), st.lists(st.floats(0.0, 400.0), min_size=2, max_size=20).map(sorted))
@examples(deadline=None)
def test_event_time_goes_on_passes_every_piece_and_is_never_beyond_the_wall_clock(
    made: tuple[Plan, int], faster: float, seconds: list[float]
) -> None:
    plan, now = made
    course = plan.course(now, faster)
    clock = [now + int(1000 * each) for each in seconds]
    times = [course.at(each, wall) for each, wall in zip(seconds, clock, strict=True)]
    assert times == sorted(times)
    assert all(plan.begin_ms <= at <= wall for at, wall in zip(times, clock, strict=True))
    assert all(at == wall for at, wall, each in zip(times, clock, seconds, strict=True) if each >= course.seconds)
    after = 0.0
    for until, spent in plan.pieces:
        after += spent / faster
        assert course.at(after, now) == pytest.approx(until, abs=2)
    assert course.seconds == pytest.approx((sum(spent for _, spent in plan.pieces) + 15) / faster)


@given(moments)
@examples(deadline=None)
def test_a_spike_is_on_an_evening_and_an_hour_as_ever_follows_it(now: int) -> None:
    plan = plan_spike(world(), now)
    spike = plan.incident
    assert hour(spike.start_ms) in (18, 19)
    begin = spike.start_ms // HOUR * HOUR
    assert spike.end_ms == begin + 2 * HOUR
    assert plan.begin_ms < spike.start_ms
    # One more hour is over a minute's lateness before the course leaves its pace, and that is in the past.
    assert begin + 3 * HOUR + 60_000 < plan.pieces[-1][0] < now
    assert now - begin < DAY + 3 * HOUR


@given(moments)
@examples(deadline=None)
def test_a_wave_is_on_an_evening_and_the_day_after_it_is_over(now: int) -> None:
    plan = plan_wave(world(), now)
    wave = plan.incident
    assert hour(wave.start_ms) == 19
    assert hour(wave.end_ms - 1) == 21
    # Two evenings on gifts have come, so that every topic is in the third day.
    assert wave.start_ms + 2 * DAY < plan.pieces[-1][0] < now
    assert now - wave.start_ms < 3 * DAY + 2 * HOUR
    following = world().followers(wave.start_ms)
    assert following[wave.creator_id] >= 0.95 * max(following.values())


def test_whose_prices_rise_was_not_dear_and_will_be() -> None:
    spike = plan_spike(world(), NOW).incident
    ads = world().events(0, NOW - 15 * DAY, NOW - DAY)["ad_events"]
    own = ads["creator"] == world().creator_ids.index(spike.creator_id)
    cpm = 1000 * ads["cost_micros"][own].clip(0).sum() / (own & (ads["kind"] == 0)).sum()
    limit = alert_policy({}).kinds["cpm_high"].limits["above_micros"]
    assert cpm < 0.8 * limit < limit < 5 * cpm


def test_a_short_history_and_a_home_with_a_world_are_refused(tmp_path: Path) -> None:
    short = WorldConfig(fans=100, creators=2, start_ms=NOW - DAY)
    with pytest.raises(FanpulseError, match="needs a longer history, such as --days 6"):
        WorldDrill("cpm-spike").prepare(short, NOW)
    here = Settings(home=tmp_path)
    save_progress(tmp_path, Progress(config=short, until_ms={}))
    with pytest.raises(FanpulseError, match="has a world already.*--home"):
        Demo(here, drill=WorldDrill("churn-wave"))


def test_a_server_of_others_is_not_stopped() -> None:
    with pytest.raises(FanpulseError, match="FANPULSE_CLICKHOUSE names a ClickHouse that is not this home's"):
        OutageDrill("clickhouse-down").refuse(Settings(clickhouse="http://clickhouse.example", clickhouse_user="app"))
    with pytest.raises(FanpulseError, match="FANPULSE_KAFKA names a Kafka"):
        OutageDrill("broker-down").refuse(Settings(kafka="kafka.example:9092"))
    OutageDrill("broker-down").refuse(Settings(clickhouse="http://clickhouse.example", clickhouse_user="app"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--incident", "cpm-spike", "--rate", "5"], "takes no --rate"),
        (["--incident", "clickhouse-down", "--for", "5s"], "takes no --for"),
    ],
)
def test_options_that_a_drill_does_not_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--home", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_thresholds_of_the_user_hold_in_a_drill() -> None:
    own = {"cpm_high": {"min_impressions": 500, "above_micros": 1}, "churn_high": {"above": 0.5}}
    changed = WorldDrill("cpm-spike").changed(Settings(alert_policy=own))
    policy = json.loads(changed["FANPULSE_ALERT_POLICY"])
    assert policy == own | {"cpm_rise": {"min_impressions": 20}}
    assert "FANPULSE_ALERT_POLICY" not in WorldDrill("churn-wave").changed(Settings())


def test_steps_are_shown_with_both_times() -> None:
    step = Step("opened", 1_772_000_000, 1_771_990_000, "alert cpm_high: it is dear", ("do: wait",))
    assert lines(step, "Asia/Shanghai") == [
        "14:13:20  event time 02-25 11:26  alert cpm_high: it is dear",
        "          do: wait",
    ]
    live = Step("over", 1_772_000_000, 1_772_000_000, "it is over")
    assert lines(live, "UTC") == ["06:13:20  it is over"]
    assert picture(View(drill="cpm-spike", steps=(step, live))) is not None


def alert(kind: str, drill: WorldDrill, state: str = "open") -> Alert:
    """An alert of the creator of a drill."""
    plan = drill.plan
    return Alert(
        f"{kind}:1", kind, "douyin", plan.incident.creator_id, "cmp", date(2026, 3, 1), state, plan.incident.start_ms,
        kind, "it is dear", ("wait",), {}, {}, resolved_said="it is not",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([], "cpm_high did not come; cpm_rise did not come"),
        ([("cpm_high", "open"), ("cpm_rise", "resolved")], "cpm_high:1 was not resolved"),
        ([("cpm_high", "resolved"), ("cpm_rise", "resolved"), ("rule_fired", "open")], None),
    ],
)
def test_alerts_that_do_not_come_or_go_are_named(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[str, str]], said: str | None
) -> None:
    now = time.time_ns() // 1_000_000
    drill = WorldDrill("cpm-spike", faster=1e6)
    drill.prepare(WorldConfig(fans=500, creators=4, start_ms=now - 20 * DAY), now)
    found = [alert(kind, drill, state) for kind, state in seen]
    monkeypatch.setattr(world_drill, "clickhouse_client", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(world_drill, "read_alerts", lambda *_: found)
    monkeypatch.setattr(world_drill, "LOOK_S", 0.01)
    monkeypatch.setattr(world_drill, "PATIENCE_S", 1.0)
    told: list[Step] = []
    scene = Scene(Settings(), "http://127.0.0.1:1/", told.append, threading.Event())
    with contextlib.nullcontext() if said is None else pytest.raises(Failed, match=said) as failed:
        drill.hold(scene)
    assert failed is None or failed.value.exit_code == 1
    names = [step.name for step in told]
    assert [name for name in names if name in ("play", "incident", "over")] == ["play", "incident", "over"]
    assert (names.count("opened"), names.count("resolved")) == (
        len(seen),
        [state for _, state in seen].count("resolved"),
    )
    assert any("/d/fanpulse-ads?from=" in line for step in told for line in step.more)


def steps(result: dict[str, object]) -> list[str]:
    return [step["name"] for step in result["drill"]["steps"]]


def held(home: Path, drill: Drill, **options: int) -> dict[str, object]:
    """Holds a drill in a home of its own, and stops what it started."""
    here = Settings(home=home)
    try:
        return Demo(here, drill=drill).run({"seed": None, "fans": None, "creators": None, "days": None, **options})
    finally:
        Stack(here).down()


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_spike_of_prices_rings_and_is_over(tmp_path: Path) -> None:
    result = held(tmp_path, WorldDrill("cpm-spike", faster=8), days=5, fans=8_000, creators=3)
    assert result["drill"]["failed"] is None
    found = steps(result)
    assert found[:3] == ["settings", "play", "incident"]
    assert found[-1] == "stored"
    assert found.index("incident") < found.index("opened") < found.index("resolved")
    assert found.count("opened") == found.count("resolved") >= 2
    assert result["events"]["accepted"] == result["events"]["generated"]
    assert result["lag"] == 0


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(900)
def test_fans_who_leave_ring_and_are_over(tmp_path: Path) -> None:
    result = held(tmp_path, WorldDrill("churn-wave", faster=2))
    assert result["drill"]["failed"] is None
    opened = [step["said"].split(":")[0] for step in result["drill"]["steps"] if step["name"] == "opened"]
    assert {"alert follower_loss", "alert churn_high"} <= set(opened)
    assert steps(result)[-1] == "stored"


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["clickhouse-down", "broker-down"])
def test_a_server_that_is_away_rings_and_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-m", "fanpulse.cli", "demo", "--incident", kind, "--home", str(tmp_path), "--json"]
    try:
        ran = subprocess.run([*command, "--days", "1", "--fans", "1000"], capture_output=True, text=True, timeout=580)
    finally:
        Stack(Settings(home=tmp_path)).down()
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["drill"]["failed"] is None
    found = steps(result)
    for before, after in (("calm", "incident"), ("incident", "opened"), ("opened", "over"), ("over", "resolved")):
        assert found.index(before) < found.index(after)
    assert found[-1] == "stored"
