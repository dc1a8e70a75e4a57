import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from pipeline.folds.archive import Archive
from pipeline.verdict import Horizon, Verdicts
from schemas.events import KINDS

ROOT = Path(__file__).parents[2] / "schemas"
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))
RAW = (ROOT / "migrations" / "0001_raw.sql").read_text(encoding="utf-8")
COLUMN = re.compile(r"    `?(\w+)`? (.+?)(?: COMMENT '((?:[^'\\]|''|\\.)+)')?,?")


def columns(sql: str, head: str) -> dict[str, tuple[str, str | None]]:
    """Type and comment of each column of a table or view, in order."""
    body = sql.split(f"{head}\n(\n")[1].split("\n)\n")[0]
    found = {}
    for line in body.splitlines():
        match = COLUMN.fullmatch(line)
        assert match, f"{head}: {line}"
        found[match[1]] = (match[2], match[3])
    return found


def statements(sql: str) -> list[str]:
    """Statements without comment lines; a semicolon inside quotes ends none."""
    sql = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [part.strip() for part in re.findall(r"(?:'(?:[^'\\]|''|\\.)*'|[^';])+", sql) if part.strip()]


def archived(topic: str) -> pl.DataFrame:
    folder = ROOT / "examples" / topic
    values: list[bytes | None] = [path.read_bytes() for path in sorted(folder.iterdir())]
    size = len(values)
    block = Block(topic, 0, 0, size, np.arange(size), np.full(size, 1_750_000_000_000), values)
    archive = Archive(topic)
    archive.apply(Verdicts(Horizon(0, 0)).judge(Decoder(topic, FanHasher(b"k")).decode(block).rows))
    return archive.take()[f"raw_{topic}"]


@pytest.mark.parametrize("topic", list(KINDS))
def test_a_raw_table_has_the_columns_that_are_archived(topic: str) -> None:
    """The partition is known to who stores the rows; only repair sets ``repaired``."""
    table, rows = columns(RAW, f"CREATE TABLE IF NOT EXISTS raw_{topic}"), archived(topic)
    assert set(table) == {*rows.columns, "partition", "repaired"}
    types = {pl.UInt64: "UInt64", pl.UInt8: "UInt8", pl.Datetime("ms", "UTC"): "DateTime64(3, 'UTC')"}
    for name, dtype in rows.schema.items():
        said = table[name][0]
        if dtype == pl.String:
            assert said in {"String", "LowCardinality(String)"}, name
        elif dtype == pl.Int64:
            known = [model for model in KINDS[topic].values() if name in model.model_fields]
            everywhere = len(known) == len(KINDS[topic]) and all(m.model_fields[name].is_required() for m in known)
            assert said == ("Int64" if everywhere or name == "offset" else "Nullable(Int64)"), name
        else:
            assert said == types[dtype], name


@pytest.mark.parametrize("topic", list(KINDS))
def test_the_view_of_events_lists_the_same_columns(topic: str) -> None:
    table = columns(RAW, f"CREATE TABLE IF NOT EXISTS raw_{topic}")
    view = columns(RAW, f"CREATE OR REPLACE VIEW events_{topic}")
    shown = {name: kind for name, kind in table.items() if name not in {"late", "duplicate", "repaired"}}
    assert list(view.items()) == list(shown.items())
    select = RAW.split(f"CREATE OR REPLACE VIEW events_{topic}\n")[1].split("AS SELECT\n")[1].split("\nFROM ")[0]
    assert [name.strip(" `") for name in select.replace("\n", " ").split(",")] == list(view)


@pytest.mark.parametrize("topic", list(KINDS))
def test_the_comment_of_kind_names_every_kind(topic: str) -> None:
    comment = columns(RAW, f"CREATE TABLE IF NOT EXISTS raw_{topic}")["kind"][1] or ""
    assert comment.removeprefix("What happened: ").split(", ") == sorted(KINDS[topic])


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.name)
def test_every_table_and_column_has_a_comment(path: Path) -> None:
    sql = path.read_text(encoding="utf-8")
    made = [each for each in statements(sql) if re.match(r"CREATE TABLE|CREATE OR REPLACE VIEW", each)]
    for statement in made:
        head = statement.split("\n")[0].strip()
        assert re.search(r"\nCOMMENT '(?:[^'\\]|''|\\.)+'$", statement), f"{head} has no comment"
        if f"{head}\n(\n" in sql:
            for name, (_, comment) in columns(sql, head).items():
                assert comment, f"{head}: {name} has no comment"


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.name)
def test_quotes_are_closed_on_their_line(path: Path) -> None:
    """An apostrophe in a comment would end it."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            assert not re.sub(r"'(?:[^'\\]|''|\\.)*'", "", line).count("'"), line
