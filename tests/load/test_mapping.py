"""What columns and values become, without any server."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import FanpulseError
from pipeline.decode import Decoder, FanHasher
from pipeline.loading.load import judge
from pipeline.loading.mapping import Rows, Unfit, _converter, parse

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW_MS = 1_760_000_000_000
ORDER: dict[str, Any] = {
    "event_id": "e1",
    "event_time": 1_750_000_000_000,
    "platform": "douyin",
    "fan_id": "f1",
    "creator_id": "c1",
    "kind": "paid",
    "order_id": "o1",
    "product_id": "p1",
    "amount_micros": 12_500_000,
}


def convert(field: str, value: Any, unit: str | None = None, topic: str = "orders", zone: str = "Asia/Shanghai") -> Any:
    return _converter(field, unit, topic, ZoneInfo(zone))(value)


@pytest.mark.parametrize(
    ("value", "unit", "ms"),
    [
        (1_750_000_000_123, None, 1_750_000_000_123),
        ("1750000000123", None, 1_750_000_000_123),
        (1_750_000_000_123.0, None, 1_750_000_000_123),
        (1_750_000_000, "s", 1_750_000_000_000),
        ("1750000000.1239", "s", 1_750_000_000_123),
        (1_750_000_000.001, "s", 1_750_000_000_001),
        ("2025-06-15T20:31:05.250+08:00", None, 1_749_990_665_250),
        ("2025-06-15T12:31:05.250Z", None, 1_749_990_665_250),
        ("2025-06-15 20:31:05", None, 1_749_990_665_000),
        ("2025-06-15 20:31:05", "s", 1_749_990_665_000),
        (datetime(2025, 6, 15, 20, 31, 5, 250_999), None, 1_749_990_665_250),  # noqa: DTZ001
        (datetime(2025, 6, 15, 12, 31, 5, 250_999, UTC), None, 1_749_990_665_250),
        (datetime(2025, 6, 15, 14, 31, 5, tzinfo=timezone(timedelta(hours=2))), "s", 1_749_990_665_000),
        ("", None, None),
        (None, "s", None),
        (float("nan"), "s", None),
    ],
)
def test_times(value: Any, unit: str | None, ms: int | None) -> None:
    assert convert("event_time", value, unit) == ms


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "2025-06-15",
        date(2025, 6, 15),
        "2025-13-01 00:00:00",
        "1750000000.5",
        1.5,
        True,
        [1],
        b"1",
        "１７５",
    ],
)
def test_no_times(value: Any) -> None:
    with pytest.raises(Unfit):
        convert("event_time", value)


def test_clocks_that_change() -> None:
    def berlin(text: str) -> int:
        ms: int = convert("event_time", text, zone="Europe/Berlin")
        return ms

    with pytest.raises(Unfit, match="does not exist in Europe/Berlin"):
        berlin("2025-03-30 02:30:00")
    assert berlin("2025-10-26 02:30:00") == berlin("2025-10-26 02:30:00+02:00"), (
        "of an hour that comes twice, the first"
    )


@pytest.mark.parametrize(
    ("value", "unit", "micros"),
    [
        (12_500_000, None, 12_500_000),
        ("12500000", "micros", 12_500_000),
        ("12.50", "yuan", 12_500_000),
        (19.9, "yuan", 19_900_000),
        (0.1 + 0.2, "yuan", 300_000),
        (1e-7, "yuan", 0),
        ("0.0000005", "yuan", 0),
        ("0.0000015", "yuan", 2),
        (Decimal("0.010001"), "yuan", 10_001),
        (1990, "fen", 19_900_000),
        ("0.5", "fen", 5000),
        (0, "yuan", 0),
        ("-3", "yuan", -3_000_000),
        ("", "yuan", None),
        (None, "fen", None),
    ],
)
def test_money(value: Any, unit: str | None, micros: int | None) -> None:
    assert convert("amount_micros", value, unit) == micros


@given(st.integers(0, 10**15))
def test_yuan_as_floats_are_exact(micros: int) -> None:
    # Up to 15 digits, the shortest decimal of a float is the number that was stored.
    yuan = micros / 10**6
    assert convert("amount_micros", yuan, "yuan") == micros
    assert convert("amount_micros", f"{Decimal(micros) / 10**6:f}", "yuan") == micros


@pytest.mark.parametrize("value", ["¥12", "1,234.5", "12.5x", "0x10", "1e999", "NaN", True, "9" * 40, float("inf")])
def test_no_money(value: Any) -> None:
    with pytest.raises(Unfit):
        convert("amount_micros", value, "yuan")


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("fan_id", 12345678901234567890, "12345678901234567890"),
        ("fan_id", Decimal("42"), "42"),
        ("fan_id", "007", "007"),
        ("fan_id", "", None),
        ("age_band", 24, "24"),
        ("coupon_micros", "15200.0", 15200),
        ("coupon_micros", 15200.0, 15200),
        ("coupon_micros", float("nan"), None),
    ],
)
def test_strings_and_integers(field: str, value: Any, wanted: Any) -> None:
    assert convert(field, value) == wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [("fan_id", 1.5e18), ("fan_id", True), ("fan_id", ["x"]), ("fan_id", {"a": 1}), ("coupon_micros", "1.5")],
)
def test_no_strings_and_integers(field: str, value: Any) -> None:
    with pytest.raises(Unfit):
        convert(field, value)


def test_seconds_of_a_duration() -> None:
    assert convert("watch_ms", "12.3456", "s", "interactions") == 12_345


def encode(
    rows: list[dict[str, Any]], topic: str = "orders", maps: tuple[str, ...] = (), sets: tuple[str, ...] = ()
) -> Any:
    there = {name for row in rows for name in row}
    encoder = parse(topic, maps, sets, SHANGHAI).bind(there, True)
    columns = {name: [row.get(name) for row in rows] for name in encoder.columns}
    return encoder.encode(Rows(list(range(2, 2 + len(rows))), columns, []))


def test_a_row_becomes_a_record() -> None:
    source = {**ORDER, "shop": "x", "money": 12.5, "coupon_micros": None, "fan_id": 17}
    del source["platform"], source["amount_micros"]
    encoded = encode([source], maps=("amount_micros=money:yuan",), sets=("platform=kuaishou",))
    (value,) = encoded.values
    assert b" " not in value
    assert json.loads(value) == {**ORDER, "platform": "kuaishou", "fan_id": "17"}
    assert (encoded.keys, encoded.numbers, encoded.refused) == ([b"17"], [2], [])


def test_missing_ids_come_from_content_and_row() -> None:
    row = {name: value for name, value in ORDER.items() if name != "event_id"}
    first, second, other = (json.loads(v)["event_id"] for v in encode([row, row, {**row, "fan_id": "f2"}]).values)
    assert len({first, second, other}) == 3
    assert [json.loads(v)["event_id"] for v in encode([row, row]).values] == [first, second]
    assert [json.loads(v)["event_id"] for v in encode([{**row, "event_id": ""}]).values] == [first]


def test_fields_of_other_kinds_are_left_out() -> None:
    row = {**ORDER, "kind": "follow", "content_id": "v1", "live_id": None, "watch_ms": 5, "text": "x"}
    record = json.loads(encode([row], "interactions").values[0])
    assert "watch_ms" not in record
    assert "text" not in record
    assert record["content_id"] == "v1"


def test_refused_as_a_worker_would() -> None:
    rows = [
        ORDER,
        {**ORDER, "kind": "lost"},
        {**ORDER, "amount_micros": -1},
        {**ORDER, "amount_micros": "a lot"},
        {**ORDER, "event_time": NOW_MS + 86_400_001},
        {**ORDER, "event_time": 1_750_000_000},
        {**ORDER, "fan_id": ""},
        {**ORDER, "product_id": "p 1"},
        {**ORDER, "region": "\udcff"},
        {**ORDER, "coupon_micros": 10**40},
    ]
    sound, refused = judge(Decoder("orders", FanHasher(b"k")), encode(rows), NOW_MS)
    assert sound == [(0, ORDER["event_time"])]
    assert {each.row: each.reason for each in refused} == {
        3: "unknown_kind",
        4: "negative",
        5: "wrong_type",
        6: "future",
        7: "out_of_range",
        8: "missing_field",
        9: "bad_characters",
        10: "invalid_utf8",
        11: "out_of_range",
    }


@pytest.mark.parametrize(
    ("maps", "sets", "said"),
    [
        (["fanid=x"], [], "--map fanid=x: orders have no field fanid; did you mean fan_id?"),
        (["watch_ms=x"], [], "--map watch_ms=x: orders have no field watch_ms"),
        (["fan_id"], [], "--map fan_id: write --map FIELD=COLUMN"),
        (["fan_id="], [], "write --map FIELD=COLUMN"),
        (["event_time=:s"], [], "no column is named"),
        (["fan_id=a", "fan_id=b"], [], "fan_id is mapped twice"),
        (["fan_id=a"], ["fan_id=b"], "fan_id is given twice"),
        (["amount_micros=a:s"], [], "amount_micros is not in s; its units are micros, fen, yuan"),
        (["fan_id=a:yuan"], [], "fan_id is not in yuan; it has no units"),
        ([], ["kind=payed"], "--set kind=payed: orders have no such kind; did you mean placed?"),
        ([], ["amount_micros=many"], "--set amount_micros=many: 'many' is no number"),
    ],
)
def test_mappings_that_are_wrong(maps: list[str], sets: list[str], said: str) -> None:
    with pytest.raises(FanpulseError) as error:
        parse("orders", maps, sets, SHANGHAI)
    assert said in error.value.message
    assert error.value.exit_code == 2
    assert "\n" not in error.value.message


def test_what_a_file_lacks() -> None:
    with pytest.raises(FanpulseError, match="--map fan_id=usr: the file has no column usr; did you mean user\\?"):
        parse("orders", ["fan_id=usr"], [], SHANGHAI).bind({"user", *ORDER}, True)
    there = set(ORDER) - {"order_id"}
    with pytest.raises(FanpulseError, match="nothing gives order_id, which membership and paid and .* need"):
        parse("orders", [], [], SHANGHAI).bind(there, True)
    with pytest.raises(FanpulseError, match="nothing gives order_id, which paid need"):
        parse("orders", [], ["kind=paid"], SHANGHAI).bind(there, True)
    with pytest.raises(FanpulseError, match="nothing gives content_id, which comment need"):
        parse("interactions", [], ["kind=comment"], SHANGHAI).bind({*there, "text"}, True)
    parse("interactions", [], [], SHANGHAI).bind(there, True)
    parse("orders", ["order_id=later"], [], SHANGHAI).bind(there, False)


def test_a_column_with_a_colon() -> None:
    mapping = parse("orders", ["fan_id=user:id", "amount_micros=sum:total:fen"], [], SHANGHAI)
    assert mapping.columns == {"fan_id": ("user:id", None), "amount_micros": ("sum:total", "fen")}
