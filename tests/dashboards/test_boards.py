"""Boards as they are written: complete, without faults, and the committed JSON is what they become."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dashboards.board import Board
from dashboards.boards import boards
from dashboards.check import faults
from dashboards.publication import files as started_with
from dashboards.render import as_json
from dashboards.variables import CHOICES, PLUGIN
from fanpulse.boards import boards as commands

_BOARDS = boards()


def _panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for panel in board["panels"] for inner in [panel, *panel.get("panels", [])] if inner["type"] != "row"]


def test_nothing_is_wrong_with_them() -> None:
    assert list(faults(_BOARDS)) == []


@pytest.mark.parametrize("board", _BOARDS, ids=lambda board: board.uid)
def test_the_committed_file_is_fresh(board: Board) -> None:
    committed = files("dashboards").joinpath("json", f"{board.uid}.json").read_text("utf-8")
    assert committed == as_json(board), "write them anew: fanpulse boards build"


def test_the_files_that_grafana_is_started_with_are_fresh() -> None:
    folder = files("dashboards").joinpath("grafana")
    committed = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir()}
    assert committed == started_with(), "write them anew: fanpulse boards build"


def test_files_for_another_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_TIME_ZONE", "Europe/Berlin")
    assert CliRunner().invoke(commands, ["build", "--to", str(tmp_path)]).exit_code == 0
    written = {path.relative_to(tmp_path): path.read_text("utf-8") for path in tmp_path.rglob("*.*")}
    assert len(written) == len(_BOARDS) + len(started_with())
    for path, text in written.items():
        assert "Shanghai" not in text, path
    assert json.loads(written[Path("json/fanpulse-lifecycle.json")])["timezone"] == "Europe/Berlin"


def test_no_committed_file_without_a_board() -> None:
    names = {entry.name for entry in files("dashboards").joinpath("json").iterdir()}
    assert names == {f"{board.uid}.json" for board in _BOARDS}


@pytest.mark.parametrize("board", _BOARDS, ids=lambda board: board.uid)
def test_it_opens_in_old_and_new_plugins(board: Board) -> None:
    written = json.loads(as_json(board))
    panels = _panels(written)
    ids = [panel["id"] for panel in written["panels"]] + [
        inner["id"] for panel in written["panels"] for inner in panel.get("panels", [])
    ]
    assert len(ids) == len(set(ids))
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        if panel["type"] == "text":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"]
        (target,) = panel["targets"]
        assert target["datasource"] == {"type": PLUGIN, "uid": "${datasource}"}
        assert target["queryType"] == "sql"
        assert target["rawSql"]
        assert target["format"] in (0, 1)
        assert target["format"] == 1 or "ORDER BY time" in target["rawSql"]
    for annotation in written["annotations"]["list"]:
        assert {"rawSql", "format"} <= annotation["target"].keys()


def test_panels_lie_side_by_side() -> None:
    for board in _BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(as_json(board))["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24, (board.uid, panel["title"])
            assert not cells & taken, (board.uid, panel["title"])
            taken |= cells


def test_links_lead_to_boards_and_keep_what_is_chosen() -> None:
    offered = {board.uid: set(board.variables) for board in _BOARDS}
    for board in _BOARDS:
        for panel in board.panels:
            for column in panel.columns.values():
                if column.link is not None:
                    assert column.link.board in offered, panel.title
                    assert set(column.link.variables) <= offered[column.link.board], panel.title


def test_the_variables_are_known() -> None:
    for board in _BOARDS:
        assert set(board.variables) <= CHOICES.keys()
