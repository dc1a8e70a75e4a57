"""What is read from a YAML file, on which lines, and how a bad one is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from infra.errors import FanpulseError
from schemas.yaml_file import LARGEST, YamlFile, load


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    x: int
    y: dict[str, list[int]] = {}


class Items(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[Item | int]
    only: list[Item] = []


def loaded(tmp_path: Path, text: str | bytes) -> YamlFile:
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def test_values_are_what_they_look_like(tmp_path: Path) -> None:
    text = "{a: [1, -2, 1.5, true, null, ~], b: [no, 007, 1e5, 12:30, 2026-03-01, 0x1f, 1_000, '1', 5 %], c: , <<: 男}"
    assert loaded(tmp_path, text).value == {
        "a": [1, -2, 1.5, True, None, None],
        "b": ["no", "007", "1e5", "12:30", "2026-03-01", "0x1f", "1_000", "1", "5 %"],
        "c": None,
        "<<": "男",
    }


def test_lines_are_those_of_keys_and_items(tmp_path: Path) -> None:
    found = loaded(tmp_path, "\ufeff# head\na:\n  - b: 1\n    c:\n      - x\n  - 2\nd: >\n  long\n  text\ne: 1\n")
    assert found.line(("a",)) == 2
    assert found.line(("a", 0)) == found.line(("a", 0, "b")) == 3
    assert found.line(("a", 0, "c")) == 4
    assert found.line(("a", 0, "c", 0)) == 5
    assert found.line(("a", 1)) == 6
    assert found.line(("e",)) == 10
    assert found.line(("a", 0, "missing")) == 3
    assert found.line(("missing",)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "a.yaml:4: b.c is there already, in line 3"),
        ("a: &x 1\nb: *x\n", "a.yaml:2: *x: write the value out instead"),
        ("a:\n  !mine b\n", "a.yaml:2: !mine: leave the tag out"),
        ("a: !!python/object/apply:os.getcwd []\n", "a.yaml:1: tag:yaml.org,2002:python"),
        ("a: [1,\nb: 2\n", "got '<stream end>' (it began in line 1)"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2: expected a single document"),
        ("? [a]\n: b\n", "a.yaml:1: a key must be a word"),
        ("a: 1\nb: \x01\n", "a.yaml:2: the character 0x1 must not be in YAML"),
        (b"a: 1\nb: \xff\n", "a.yaml:2: not UTF-8"),
        ("[" * 3000, "a.yaml: nested too deeply"),
        ("a: " + "x" * LARGEST, "a.yaml: larger than 1,048,576 bytes"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(FanpulseError) as refused:
        loaded(tmp_path, text)
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FanpulseError, match="none.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(FanpulseError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("items:\n  - x: 1\n  - x: b\n", "a.yaml:3: items[2].x: input should be a valid integer"),
        ("items:\n  - 1\n  - y: {}\n", "a.yaml:3: items[2].x: is missing"),
        ("only:\n  - x: 1\n    z: 2\n", "a.yaml:1: items: is missing (and 1 more)"),
        ("items: []\nonly:\n  - x: 1\n    z: 2\n", "a.yaml:4: only[1].z: is not known here; look for a misspelling"),
        ("items: []\nonly:\n- x: 1\n  y:\n    a:\n      - 1\n      - b\n", "a.yaml:7: only[1].y.a[2]: input should be"),
        ("items: 3\n", "a.yaml:1: items: must be a list: [one, other]"),
        ("", "a.yaml:1: must have keys with values, a line each: key: value"),
    ],
)
def test_what_is_no_model_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FanpulseError) as refused:
        loaded(tmp_path, text).read(Items)
    assert says in refused.value.message


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    said = "read"
    try:
        loaded(tmp_path_factory.getbasetemp(), raw)
    except FanpulseError as error:
        said = error.message
    assert len(said.splitlines()) == 1
