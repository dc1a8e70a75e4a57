"""The pages that are written by a program say what the code says."""

import contextlib
import runpy

import pytest
from pages import ROOT

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.migrate import migrate

WRITE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
STALE = "run: fanpulse up && fanpulse migrate && python docs/generate.py"


@pytest.mark.parametrize("page", ["settings", "metrics", "alerts"])
def test_a_page_is_fresh(page: str) -> None:
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == WRITE[f"{page}_page"](), STALE


@pytest.mark.stack
def test_tables_are_those_of_the_migrations(settings: Settings) -> None:
    migrate(settings)
    with contextlib.closing(clickhouse_client(settings)) as client:
        assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == WRITE["tables_page"](client), STALE
