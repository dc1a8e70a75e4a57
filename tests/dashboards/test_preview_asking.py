"""What a browser may ask for: queries of the boards, with values that variables may hold, and nothing else."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gallery import gallery
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dashboards.macros import ALL
from dashboards.preview.asking import Asked, Refused, expanded, options
from dashboards.preview.library import Board, Library, Query, Unknown, written_values
from infra.errors import FanpulseError

_BOARD = Board(gallery())
_HELD = ["c1", "c2", "it's", "</b>"]
_CREATORS = Query("A", "SELECT 1 WHERE $__conditionalAll(creator_id IN (${creator:singlequote}), $creator)", False)


def _creators(sql: str) -> list[Sequence[Any]]:
    assert sql == "SELECT arrayJoin(['c1', 'c2', 'it''s', '</b>']) AS value"
    return [[value] for value in _HELD]


def _asked(**variables: Sequence[str]) -> Asked:
    return Asked(begin=0, end=60_000, variables={name: tuple(values) for name, values in variables.items()})


def _board(*variables: dict[str, Any]) -> Board:
    return Board({"uid": "b", "title": "B", "panels": [], "templating": {"list": list(variables)}})


@given(st.lists(st.one_of(st.sampled_from([*_HELD, ALL, ""]), st.text(max_size=12)), max_size=4))
def test_only_values_that_a_variable_may_hold_get_into_a_query(values: list[str]) -> None:
    try:
        sql = expanded(_BOARD, _CREATORS, _asked(creator=values), _creators)
    except Refused:
        assert not set(values) <= set(_HELD)
        return
    if values in ([], [ALL]):
        assert sql == "SELECT 1 WHERE 1=1"
    else:
        assert set(values) <= set(_HELD)
        literals = ",".join("'" + value.replace("'", "\\'") + "'" for value in values)
        assert sql == f"SELECT 1 WHERE creator_id IN ({literals})"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["begin", "end", "interval", "variables"]), inner)
        ),
        max_leaves=12,
    )
)
def test_whatever_is_sent_is_a_question_or_refused(sent: Any) -> None:
    try:
        asked = Asked.model_validate_json(json.dumps(sent))
    except ValidationError:
        return
    assert asked.begin >= 0
    assert asked.interval >= 1


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        ({"begin": 0}, "end"),
        ({"begin": "0", "end": 1}, "begin"),
        ({"begin": 0, "end": 1, "sql": "SELECT 1"}, "sql"),
        ({"begin": 0, "end": 1, "interval": 0}, "interval"),
        ({"begin": -1, "end": 1}, "begin"),
        ({"begin": 0, "end": 10**15}, "end"),
        ({"begin": 0, "end": 1, "variables": {"creator": "c1"}}, "creator"),
        ({"begin": 0, "end": 1, "variables": {"creator": ["c" * 129]}}, "creator"),
    ],
)
def test_a_question_has_a_time_range_and_values_and_no_more(sent: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        Asked.model_validate_json(json.dumps(sent))


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(Refused, match="ends before it begins"):
        expanded(_BOARD, Query("A", "SELECT $__fromTime", False), Asked(begin=5000, end=0), _creators)


def test_a_variable_holds_one_value_or_everything_only_where_it_may() -> None:
    window = Query("A", "SELECT ${window:raw}", False)
    assert expanded(_BOARD, window, _asked(window=["60"]), _creators) == "SELECT 60"
    for values, why in ((["1", "60"], "holds one value"), ([ALL], "choose a value"), ([], "choose a value")):
        with pytest.raises(Refused, match=f"{why}.* window|window {why}"):
            expanded(_BOARD, window, _asked(window=values), _creators)
    with pytest.raises(Refused, match="window cannot be '61'"):
        expanded(_BOARD, window, _asked(window=["61"]), _creators)


def test_a_constant_is_what_the_board_says_whatever_is_sent() -> None:
    zone = Query("A", "SELECT ${zone:singlequote}", False)
    assert expanded(_BOARD, zone, _asked(zone=["UTC"]), _creators) == "SELECT 'Asia/Shanghai'"


def test_values_of_a_variable_follow_what_is_chosen_of_another() -> None:
    board = _board(
        {"name": "platform", "type": "custom", "query": "douyin,kuaishou", "includeAll": True},
        {"name": "creator", "type": "query", "query": {"rawSql": "SELECT c, t WHERE p = ${platform:singlequote}"}},
    )

    def run(sql: str) -> list[Sequence[Any]]:
        assert sql == "SELECT c, t WHERE p = 'douyin'"
        return [["c1", "Creator 1"], [None, "nobody"]]

    assert options(board, "creator", _asked(platform=["douyin"]), run) == [("c1", "Creator 1")]
    with pytest.raises(Refused, match="platform cannot be 'x'"):
        options(board, "creator", _asked(platform=["x"]), run)


def test_variables_that_hang_on_each_other_are_refused() -> None:
    one = {"name": "one", "type": "query", "query": "SELECT ${two:singlequote}"}
    other = {"name": "two", "type": "query", "query": "SELECT ${one:singlequote}"}
    with pytest.raises(Refused, match="hangs on itself"):
        options(_board(one, other), "one", _asked(one=["a"], two=["b"]), _creators)


def test_written_values_have_texts_of_their_own() -> None:
    assert written_values({"type": "custom", "query": "1m : 1, 1h : 60,plain, a\\,b"}) == [
        ("1", "1m"),
        ("60", "1h"),
        ("plain", "plain"),
        ("a,b", "a,b"),
    ]
    assert written_values({"type": "query", "query": "SELECT 1"}) is None


def test_what_a_board_has_not_is_unknown() -> None:
    with pytest.raises(Unknown, match="no panel 77"):
        _BOARD.panel_queries(77)
    with pytest.raises(Unknown, match=re.escape("no annotation 'x': there are Alerts")):
        _BOARD.annotation_query("x")
    with pytest.raises(Unknown, match="no variable 'x': there are datasource, platform, creator, window, zone"):
        options(_BOARD, "x", _asked(), _creators)


def test_panels_of_folded_rows_can_be_asked() -> None:
    assert [query.sql for query in _BOARD.panel_queries(99)] == ["SELECT 1 AS one"]


def test_boards_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with pytest.raises(FanpulseError, match="fanpulse boards build"):
        library.boards()
    file = tmp_path / "gallery.json"
    file.write_text(json.dumps(gallery()))
    assert library.board("gallery").title == "Gallery"
    assert library.board("gallery") is library.board("gallery")
    file.write_text(json.dumps(gallery() | {"title": "Another, longer"}))
    assert library.board("gallery").title == "Another, longer"
    with pytest.raises(Unknown, match="no board 'x': there are gallery"):
        library.board("x")
    file.write_text("{")
    with pytest.raises(FanpulseError, match="gallery.json: is no board"):
        library.boards()
