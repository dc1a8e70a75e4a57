"""Dead letters, mended and sent again: what is checked before, and what the figures are after."""

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from rig import (
    DAY,
    MINUTE,
    WorkerProcess,
    ask,
    await_stored,
    database,
    event,
    events,
    now_ms,
    prepare,
    send_raw,
    verified,
)
from rig import send as send_events

from fanpulse.cli import main
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline.dead_letters import SHOWN_BYTES
from pipeline.decode import Decoder, FanHasher, Unreadable
from pipeline.repair import repair
from pipeline.replay import (
    REASONS,
    Address,
    Hint,
    Letter,
    Originals,
    accepted,
    address,
    changed,
    encoded,
    find,
    hints,
    mend,
    parsed,
)
from schemas.events import FUTURE_MS, KINDS
from schemas.topics import SOURCES, partition_for

ROOT = Path(__file__).parents[2]
REFUSED = sorted(path for topic in SOURCES for path in (ROOT / "schemas/examples/refused" / topic).glob("*"))
GIFT = ROOT / "schemas/examples/gifts/gift.json"
HERE = Settings(home=Path("/nowhere"), partitions=4)


def letter(value: bytes | None, topic: str = "interactions", size: int | None = None) -> Letter:
    return Letter(Address(topic, 0, 7), 0, "wrong_type", "", value, len(value or b"") if size is None else size)


def sound(**fields: Any) -> dict[str, Any]:
    return event(Random(1), 1, now_ms(), kind="like", content_id="v1") | fields


def test_the_reasons_are_those_of_the_contract() -> None:
    page = (ROOT / "schemas" / "README.md").read_text(encoding="utf-8")
    table = page.split("## What is refused")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) <= set(REASONS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interaction:0:1", "did you mean interactions?"),
        ("interactions:0", "is no address"),
        ("interactions:0:-1", "is no address"),
        ("interactions:٣:1", "is no address"),
        ("gifts:70000:1", "there is no partition 70000"),
    ],
)
def test_what_is_no_address_is_refused(text: str, said: str) -> None:
    with pytest.raises(FanpulseError, match=re.escape(said)):
        address(text)
    assert str(address("gifts:3:12")) == "gifts:3:12"


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_refused_example_is_refused_again_unless_mended(path: Path) -> None:
    value, topic = path.read_bytes(), path.parent.name
    with pytest.raises(Unreadable) as refused:
        mend(HERE, letter(value, topic), value, value, 1_750_000_000_000)
    reason = path.stem.split(".")[0]
    assert refused.value.reason == reason
    found = hints(topic, value)
    if parsed(value) is None or reason == "too_large":
        return
    if refused.value.reason != "future":
        # Half of a surrogate pair and the like are told before fields are looked at.
        assert found or reason == "broken_json"
    for hint in found:
        assert hint.wrong
        assert hint.accepted


def test_a_mended_record_goes_to_the_partition_of_its_fan() -> None:
    before = encoded(sound(creator_id=""))
    for fan in ("a", "粉丝", "x" * 64):
        after = encoded(sound(fan_id=fan))
        made = mend(HERE, letter(before), before, after, now_ms())
        assert (made.value, made.key, made.changed) == (after, fan.encode(), True)
        assert made.partition == partition_for(fan.encode(), 4)


def test_an_event_of_the_future_can_be_sent_once_its_time_has_come() -> None:
    now = now_ms()
    value = encoded(sound(event_time=now + FUTURE_MS + 1))
    with pytest.raises(Unreadable, match="future"):
        mend(HERE, letter(value), value, value, now)
    assert not mend(HERE, letter(value), value, value, now + 1).changed


def test_white_space_is_no_change_and_the_old_bytes_are_sent() -> None:
    value = json.dumps(sound(), indent=3).encode()
    made = mend(HERE, letter(value), value, encoded(sound() | {"event_time": parsed(value)["event_time"]}), now_ms())  # type: ignore[index]
    assert (made.value, made.changed) == (value, False)
    for before, after in [(b'{"a":1}', b'{"a":1.0}'), (b'{"a":1}', b'{"a":true}'), (b"x", b"y"), (None, b"")]:
        assert changed(before, after)
    assert not changed(b'{"a":1, "b":"\\u4e2d"}', '{"a":1,"b":"中"}'.encode())


def test_numbers_keep_all_their_digits() -> None:
    for number in (b"123456789012345678901234567890", b"9223372036854775808", b"1.5", b"-1"):
        record = parsed(b'{"a":%s}' % number)
        assert record is not None
        assert encoded(record) == b'{"a":%s}' % number
    for value in (
        None,
        b"",
        b"[]",
        b'{"a":NaN}',
        b'{"a":1e400}',
        b'{"a":"\\ud800"}',
        b"\xff",
        b'{"a":' * 2000,
        b"\xef\xbb\xbf{}",
    ):
        assert parsed(value) is None
    with pytest.raises(Unreadable, match="out_of_range"):
        Decoder("gifts", FanHasher(b"k")).read(
            encoded(
                {**orjson.loads((ROOT / "schemas/examples/gifts/gift.minimal.json").read_bytes()), "quantity": 10**30}
            )
        )


def test_hints_name_every_wrong_field_and_what_it_takes() -> None:
    value = encoded(sound(creator_id="", event_time="1", platform="tiktok", source="tv"))
    found = {hint.field: hint.accepted for hint in hints("interactions", value)}
    assert list(found) == ["event_time", "platform", "creator_id", "source"]
    assert found["event_time"].startswith("an integer from 946684800000 to 4102444800000; required: ")
    assert found["platform"].startswith("one of douyin, kuaishou; required")
    assert found["creator_id"].startswith("a string of 1 to 64 characters, no space or invisible character; required")
    assert "; may be left out: " in found["source"]
    assert hints("interactions", b'{"kind":"lik"}')[0].wrong.endswith("did you mean like?")
    assert hints("gifts", b'{"kind":7}') == [
        Hint("kind", "it must be given, as a string", "one of gift, guard, membership")
    ]
    assert hints("gifts", encoded(orjson.loads((ROOT / "schemas/examples/gifts/gift.json").read_bytes()))) == []


@pytest.mark.parametrize("topic", SOURCES)
def test_what_every_field_takes_can_be_said(topic: str) -> None:
    for kind, model in KINDS[topic].items():
        for field in model.model_fields:
            assert re.match(r"one of |an integer from |a string of ", accepted(topic, kind, field))


class Command:
    """``fanpulse dead-letters`` in this process."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        for name, value in settings.model_dump(exclude_unset=True, mode="json").items():
            monkeypatch.setenv(f"FANPULSE_{name.upper()}", str(value))

    def __call__(self, *arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *arguments])
        self.out, self.error = self._capsys.readouterr()
        assert int(ended.value.code or 0) == code, self.error
        assert "Traceback" not in self.error
        return self.out


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(settings, monkeypatch, capsys)


@pytest.mark.stack
@pytest.mark.slow
def test_letters_are_mended_sent_again_and_counted_once(
    settings: Settings, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings)
    now = now_ms()
    on_time = events(Random(2), 200, now - 3 * 60 * MINUTE, now)
    bad: list[tuple[str, bytes | None]] = [
        ("empty", encoded(sound(event_id="b0", creator_id=""))),
        ("unknown_value", encoded(sound(event_id="b1", platform="tiktok"))),
        ("unknown_value", encoded(sound(event_id="b2", platform="tiktok"))),
        ("broken_json", encoded(sound(event_id="b3"))[:-1]),
        ("invalid_utf8", b"\xff\xfe"),
        ("null_value", None),
        ("too_large", encoded(sound(event_id="b6", more="x" * 70_000))),
        ("out_of_range", encoded(sound(event_id="b7", event_time=now // 1000))),
    ]
    with WorkerProcess(settings, tmp_path / "log") as worker:
        send_events(settings, "interactions", on_time)
        send_raw(settings, "interactions", [(b"one", value) for _, value in bad])
        await_stored(settings, [worker])
        lines = [json.loads(each) for each in command("list", "--format", "jsonl").splitlines()]
        assert [each["reason"] for each in lines] == [reason for reason, _ in bad]
        where = [each["address"] for each in lines]
        assert all(each.get("whole", True) for each in lines)

        # Shown, and its exact bytes, also where the table has only the beginning.
        assert "one of douyin, kuaishou" in command("show", where[1])
        shown = command("show", where[6])
        assert f"the Kafka topic {settings.topic_prefix}interactions" in shown
        with database(settings) as client, Originals(settings) as originals:
            for place, (_, value) in zip(where, bad, strict=True):
                (found,) = find(client, [address(place)])
                assert originals.whole(found)[0] == value
                assert found.cut == (len(value or b"") > SHOWN_BYTES)
            monkeypatch.setattr(Originals, "_at_source", lambda self, each: None)
            (found,) = find(client, [address(where[6])])
            assert originals.whole(found) == (bad[6][1], "dead_letters")
            monkeypatch.setattr(Originals, "_as_letter", lambda self, each: None)
            assert originals.whole(found) == ((bad[6][1] or b"")[:SHOWN_BYTES], "")
            monkeypatch.undo()
        command = type(command)(settings, monkeypatch, command._capsys)

        # One refused record keeps all back; a dry run sends nothing.
        command("replay", where[0], where[1], "--set", "creator_id=c1", code=2)
        assert "unknown_value: platform" in command.error
        assert "none is sent" in command.error
        assert "1 would be sent again" in command("replay", where[0], "--set", "creator_id=c1", "--dry-run")
        command("replay", where[0], "--set", "region=x", code=2)
        assert ask(settings, "SELECT count() FROM dead_letter_replays") == [(0,)]

        # By --set, by a selection, by a file, by an editor.
        command("replay", where[0], "--set", "creator_id=c1")
        command("replay", "--reason", "unknown_value", "--set", "platform=douyin", "--yes")
        assert "2 sent again" in command.out
        lines = [json.loads(each) for each in command("list", "--format", "jsonl").splitlines()]
        assert [each["address"] for each in lines] == where[3:]
        lines[0]["text"] += "}"
        for index, name in enumerate(("base64", "record"), start=1):
            del lines[index][name]
            lines[index]["record"] = sound(event_id=f"b{index + 3}")
        lines[3]["record"]["more"] = ""
        file = tmp_path / "letters.jsonl"
        file.write_text("".join(json.dumps(each) + "\n" for each in lines[:4]), encoding="utf-8")
        command("replay", "--file", str(file))
        assert "4 sent again" in command.out
        editor = tmp_path / "editor.py"
        editor.write_text(
            "import json, sys\npath = sys.argv[1]\nrecord = json.load(open(path))\n"
            f"record['event_time'] = {now - 2 * DAY}\njson.dump(record, open(path, 'w'))\n"
        )
        monkeypatch.setenv("VISUAL", f"{sys.executable} {editor}")
        command("replay", where[7], "--edit")
        day = datetime.fromtimestamp((now - 2 * DAY) / 1000, ZoneInfo(settings.time_zone)).date()
        assert f"fanpulse repair --from {day} --to {day}" in command.error
        await_stored(settings, [worker])
        verified(settings)

        # The letters stay, say what became of them, and are not sent twice by mistake.
        assert "all of them were sent again" in command("list")
        assert "mended" in command("show", where[0])
        command("replay", where[0], "--set", "creator_id=c1", code=2)
        assert "--again sends it once more" in command.error
        made = {str(n) for (n,) in ask(settings, "SELECT event_id FROM events_interactions WHERE event_id LIKE 'b%'")}
        assert made == {f"b{n}" for n in range(7)}
        assert ask(settings, "SELECT late FROM raw_interactions FINAL WHERE event_id = 'b7'") == [(1,)]
        command("replay", where[0], "--set", "creator_id=c1", "--again")
        await_stored(settings, [worker])
        verified(settings)
        assert ask(settings, "SELECT count(), sum(duplicate) FROM raw_interactions FINAL WHERE event_id = 'b0'") == [
            (2, 1)
        ]
        for _ in range(2):
            repair(settings, day, day, patience=60)
        verified(settings)
        assert ask(settings, "SELECT count() FROM events_interactions WHERE event_id LIKE 'b%'") == [(8,)]
        assert ask(settings, "SELECT count() FROM dead_letters FINAL") == [(8,)]
        assert ask(settings, "SELECT count(), min(changed) FROM dead_letter_replays FINAL") == [(9, 1)]
        assert worker.stop() == 0, worker.output()
