"""The Faust application: what its settings are chosen for."""

from pathlib import Path

import pytest

from infra.settings import Settings
from infra.topics import consumer_group
from pipeline.app import _together as together
from pipeline.app import application
from pipeline.fold import Output


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
