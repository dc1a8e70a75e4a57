"""Checkpoints: the most advanced is the truth, and says of which log and settings."""

from dataclasses import replace

import orjson
import polars as pl
import pytest
from rig import database

from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.checkpoint import Checkpoint
from pipeline.migrate import migrate
from pipeline.verdict import NEVER

ONE = Checkpoint("archive", "interactions", 3, 1, 50, 1_750_000_000_123, "topic", "cluster", "{}")


def store(settings: Settings, *made: Checkpoint) -> None:
    with database(settings) as client:
        rows = checkpoints.frame(list(made), 1_750_000_000_000)
        client.insert_arrow("checkpoints", rows.to_arrow(compat_level=pl.CompatLevel.oldest()))


@pytest.mark.stack
def test_the_most_advanced_of_each_is_read_whatever_came_last(settings: Settings) -> None:
    migrate(settings)
    others = [replace(ONE, agent="engagement"), replace(ONE, partition=4), replace(ONE, fold_version=2)]
    empty = replace(ONE, topic="gifts", next_offset=7, newest=NEVER)
    far = replace(ONE, topic="orders", next_offset=2**62)
    store(settings, replace(ONE, next_offset=60, newest=5), *others, empty, far)
    store(settings, ONE, replace(ONE, next_offset=2))
    with database(settings) as client:
        found = checkpoints.read(client)
    assert set(found) == {replace(ONE, next_offset=60, newest=5), *others, empty, far}


def test_parameters_name_what_figures_depend_on_and_hide_the_key(settings: Settings) -> None:
    said = orjson.loads(checkpoints.parameters(settings, "archive"))
    assert set(said) == {"allowed_lateness", "late_horizon", "partitions", "time_zone", "fan_key"}
    keyed = settings.model_copy(update={"fan_key": Settings(fan_key="ab" * 16).fan_key})
    assert checkpoints.parameters(keyed, "archive") != checkpoints.parameters(settings, "archive")
    assert "abab" not in checkpoints.parameters(keyed, "archive")
    assert checkpoints.parameters(settings.model_copy(update={"flush_rows": 1}), "archive") == checkpoints.parameters(
        settings, "archive"
    )


def test_other_windows_of_attribution_are_refused(settings: Settings) -> None:
    made = replace(ONE, agent="attribution", parameters=checkpoints.parameters(settings, "attribution"))
    checkpoints.require_same(settings, [made])
    other = settings.model_copy(update={"click_window": 72})
    message = (
        r"made with \{'click_window': 168\}, now the settings are \{'click_window': 72\}: set them back, or use a new"
    )
    with pytest.raises(FanpulseError, match=message):
        checkpoints.require_same(other, [made])
    archive = replace(ONE, parameters=checkpoints.parameters(settings, "archive"))
    checkpoints.require_same(other, [archive])
