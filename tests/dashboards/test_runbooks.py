"""Every alert and outage has a page that says what it means and what to do, and no page is of none."""

from pathlib import Path

import pytest

from dashboards.alerts import RULES
from dashboards.boards import boards
from dashboards.preview.bell import AWAY
from schemas.alerts import alert_policy

_FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
_OUTAGES = {AWAY, "kafka-away.md"}
_PAGES = {
    *(rule.page for rule in RULES),
    *(f"{kind.replace('_', '-')}.md" for kind in alert_policy({}).kinds),
    *_OUTAGES,
}


def test_every_alert_has_a_page_and_every_page_an_alert_or_an_outage() -> None:
    assert {path.name for path in _FOLDER.iterdir()} == _PAGES


def test_pages_of_rules_about_the_pipeline_lead_to_those_of_outages() -> None:
    for name in ("freshness.md", "lag.md"):
        text = (_FOLDER / name).read_text("utf-8")
        assert all(f"]({outage})" in text for outage in _OUTAGES), name


@pytest.mark.parametrize("name", sorted(_PAGES))
def test_a_page_says_what_to_look_at_and_what_to_do(name: str) -> None:
    text = (_FOLDER / name).read_text("utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == ["## Look at", "## Do", "## When it is over"]


def test_panels_that_pages_name_exist() -> None:
    known = {panel.title for board in boards() for panel in board.panels}
    for path in _FOLDER.iterdir():
        look = path.read_text("utf-8").split("## Look at")[1].split("```")[0]
        for named in look.split("**")[1::2]:
            assert " ".join(named.split()) in known, (path.name, named)


def test_rules_name_a_board_and_a_panel_that_are_there() -> None:
    panels = {board.uid: {panel.title for panel in board.panels} for board in boards()}
    for rule in RULES:
        assert rule.panel in panels[rule.board], rule.uid
