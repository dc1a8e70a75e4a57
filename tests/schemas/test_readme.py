import re
from pathlib import Path

import pytest

from pipeline import decode
from pipeline.log import BY_CLICKHOUSE
from schemas.events import KINDS, MAX_DURATION_MS, MAX_MICROS, MAX_RECORD_BYTES, Event, Source
from schemas.topics import SOURCES

README = (Path(__file__).parents[2] / "schemas" / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[1:]]


def coded(cell: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", cell)


@pytest.mark.parametrize("topic", list(KINDS))
def test_every_kind_is_there_with_its_fields(topic: str) -> None:
    said: dict[str, tuple[set[str], set[str]]] = {}
    names = {name for model in KINDS[topic].values() for name in model.model_fields}
    for kinds, _, required, optional in rows(f"Kinds of `{topic}`"):
        for kind in coded(kinds):
            said[kind] = (set(coded(required)) & names, set(coded(optional)) & names)
    assert set(said) == set(KINDS[topic])
    for kind, model in KINDS[topic].items():
        own = {name: field for name, field in model.model_fields.items() if name not in {*Event.model_fields, "kind"}}
        assert said[kind][0] == {name for name, field in own.items() if field.is_required()}, kind
        assert said[kind][1] == {name for name, field in own.items() if not field.is_required()}, kind


def test_common_fields_are_there() -> None:
    said = {coded(name)[0]: required == "yes" for name, _, required, _ in rows("Common fields")}
    assert said == {name: field.is_required() for name, field in Event.model_fields.items()} | {"kind": True}


def test_topics_are_there_with_their_number_of_kinds() -> None:
    said = {coded(name)[0]: int(kinds) for name, _, kinds in rows("Topics")}
    assert said == {topic: len(KINDS[topic]) for topic in SOURCES}


def test_every_reason_is_there_and_no_other() -> None:
    source = Path(decode.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'Unreadable\(\s*"(\w+)"', source)) | set(decode._REASONS.values())
    codes |= set(re.findall(r'reason = "(\w+)"', source)) | {"missing_field", "invalid", "future"}
    assert {coded(reason)[0] for reason, _ in rows("What is refused")} == codes | {BY_CLICKHOUSE}
    for code in codes:
        assert f'"{code}"' in source


def test_limits_are_those_of_the_models() -> None:
    assert f"{MAX_RECORD_BYTES:,} bytes" in README
    assert f"0 to {MAX_DURATION_MS} " in README
    assert MAX_MICROS == 10**15
    assert "0 to 10^15" in README
    for source in Source.__args__:
        assert f"`{source}`" in section("Common fields")
