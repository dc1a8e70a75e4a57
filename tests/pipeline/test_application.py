"""The Faust application: what its settings are chosen for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from infra.settings import Settings
from infra.topics import consumer_group
from pipeline.app import Worker, application
from pipeline.app import _together as together
from pipeline.fold import Fold, Output
from pipeline.folds.campaign_facts import CampaignFacts
from pipeline.log import Log, PartitionLog
from pipeline.verdict import Horizon, Verdicts


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, kafka="127.0.0.1:1", topic_prefix="t.")


def test_a_worker_is_never_sent_away_for_not_fetching(settings: Settings) -> None:
    """It fetches nothing while ClickHouse is away; sent out of the group then, it would never fetch again."""
    assert application(settings, 0).conf.broker_max_poll_interval > 365 * 86_400


def test_every_database_has_a_group_of_its_own(settings: Settings) -> None:
    other = settings.model_copy(update={"database": "fanpulse_other"})
    assert consumer_group(settings) == "t.fanpulse"
    assert application(settings, 0).conf.id != application(other, 0).conf.id


def test_members_have_fixed_names_unless_they_shall_not(settings: Settings) -> None:
    names = [application(settings, index).conf.consumer_group_instance_id for index in (0, 1)]
    assert names[0] != names[1]
    assert names[0] == application(settings, 0).conf.consumer_group_instance_id
    without = settings.model_copy(update={"static_membership": False})
    assert application(without, 0).conf.consumer_group_instance_id is None


def test_an_action_waits_for_the_one_before_it_of_its_campaign() -> None:
    """Sent at once, the first might fail and come after the second; whoever drops repeats would end with the first."""
    campaigns = [b"douyin:k", b"douyin:l", b"douyin:k", b"douyin:m"]
    outputs = [Output("budget_actions", key, b"%d" % number) for number, key in enumerate(campaigns)]
    assert together(outputs) == outputs[:2]
    assert together(outputs[2:]) == outputs[2:]
    moves = [Output("fan_transitions", b"k", b"") for _ in range(3)]
    assert together(moves) == moves
    facts = [Output("fan_facts", None, b"", partition) for partition in (0, 1, 0)]
    assert together(facts) == facts[:2]


class Quiet:
    """Kafka, of which all was read by now; and the agent that is told of time."""

    name = "campaign_facts"

    def __init__(self) -> None:
        self.heard: float | None = None
        self.end = 7
        self.told: list[int | None] = []

    def heard_at(self, tp: TP) -> float | None:
        return self.heard

    def highwater(self, tp: TP) -> int:
        return self.end

    def pass_time(self, partition_log: Log, reached: int | None) -> None:
        self.told.append(reached)
        partition_log.folds[self.name].outputs(7, 7, reached)


def test_while_kafka_is_away_no_time_passes(settings: Settings) -> None:
    """Else windows would be closed without the events that wait in Kafka, at the look before they come."""
    quiet, horizon = Quiet(), Horizon(60_000, 7_200_000)
    fold: dict[str, Fold] = {quiet.name: CampaignFacts("d", 0, 1)}
    own = PartitionLog(
        "ad_events", 0, cast(Any, None), Verdicts(horizon, 1_000_000), fold, {quiet.name: 7}, 7, {quiet.name: 1_000_000}
    )
    worker = cast(Any, Worker.__new__(Worker))
    worker._settings, worker._prefix, worker.app = settings, "t.", SimpleNamespace(consumer=quiet)
    worker._logs, worker._ends, worker._agents = {("ad_events", 0): own}, {("ad_events", 0): 7}, [quiet]
    worker._quiet, worker._told_at = {}, 0.0

    def look(second: int) -> None:
        worker._tell_time(float(second))

    for second in range(0, 61, 2):
        look(second)
    assert quiet.told == []
    quiet.heard = 5_000.0
    look(62)
    assert quiet.told == [4_940_000]
    # It is away for ten minutes, by the clock.
    for second in range(64, 664, 2):
        look(second)
    assert quiet.told == [4_940_000]
    # It is back, and has more; then that is read, and an hour later it is quiet again.
    quiet.heard, quiet.end = 5_610.0, 9
    look(664)
    assert quiet.told == [4_940_000]
    own.position, own.stored[quiet.name], quiet.heard = 9, 9, 9_000.0
    for second in range(666, 728, 2):
        look(second)
    assert quiet.told == [4_940_000, 8_940_000]
