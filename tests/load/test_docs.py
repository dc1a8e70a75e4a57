"""The examples of docs/load.md do what it says."""

import re
import shlex
from datetime import datetime
from pathlib import Path

import orjson
import polars as pl
import pytest
from kafka import KafkaConsumer

from fanpulse.cli import main
from infra.connect import kafka_options
from infra.settings import Settings

DOCS = (Path(__file__).parents[2] / "docs" / "load.md").read_text(encoding="utf-8")


@pytest.mark.stack
def test_three_logs(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = dict(re.findall(r"```(csv|json)\n(.*?)```", DOCS, re.DOTALL))
    (tmp_path / "comments.csv").write_text(blocks["csv"], encoding="utf-8")
    (tmp_path / "ads.jsonl").write_text(blocks["json"], encoding="utf-8")
    pl.DataFrame(
        {
            "paid_at": [datetime(2025, 6, 15, 20, 31, 5)],  # noqa: DTZ001
            "buyer_id": [70012],
            "shop_id": ["creator-01"],
            "order_id": ["o1"],
            "sku": ["p1"],
            "amount": [19.9],
            "coupon": [None],
        },
        schema_overrides={"coupon": pl.Float64},
    ).write_parquet(tmp_path / "orders.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FANPULSE_HOME", str(settings.home))
    monkeypatch.setenv("FANPULSE_DATABASE", settings.database)
    monkeypatch.setenv("FANPULSE_TOPIC_PREFIX", settings.topic_prefix)
    for command in re.findall(r"```sh\n(.*?)```", DOCS.replace("\\\n", ""), re.DOTALL):
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command)[1:])
        assert not ended.value.code, capsys.readouterr()
    names = [settings.topic_prefix + topic for topic in ("interactions", "orders", "ad_events")]
    consumer = KafkaConsumer(
        *names, **kafka_options(settings), auto_offset_reset="earliest", enable_auto_commit=False,
        consumer_timeout_ms=3000, group_id=None,
    )  # fmt: skip
    found = [orjson.loads(record.value) for record in consumer]
    consumer.close()
    assert sorted((event["kind"], event["event_time"]) for event in found) == [
        ("comment", 1_749_990_658_000),
        ("comment", 1_749_990_665_000),
        ("impression", 1_749_999_990_000),
        ("impression", 1_750_000_000_250),
        ("paid", 1_749_990_665_000),
    ]
    money = {event["event_time"]: event.get("amount_micros", event.get("cost_micros")) for event in found}
    assert money[1_750_000_000_250] == 3800
    (order,) = (event for event in found if event["kind"] == "paid")
    assert (order["amount_micros"], order["fan_id"], "coupon_micros" in order) == (19_900_000, "70012", False)
