"""Macros become what the plugin's documentation says; variables cannot leave their quotes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.macros import ALL, NotExpandable, expand, used_variables

_BEGIN, _END = 1_415_792_726_123, 1_447_328_726_456

_DOCUMENTED = {
    "$__timeFilter(time)": "time >= toDateTime(1415792726) AND time <= toDateTime(1447328726)",
    "$__fromTime": "toDateTime(1415792726)",
    "$__toTime": "toDateTime(1447328726)",
    "$__interval_s": "20",
    "$__timeInterval(column)": "toStartOfInterval(toDateTime(column), INTERVAL 20 second)",
}
"""From the table of macros in the documentation, with its own moments."""


@pytest.mark.parametrize(("macro", "becomes"), _DOCUMENTED.items())
def test_macros_become_what_the_documentation_says(macro: str, becomes: str) -> None:
    assert expand(macro, _BEGIN, _END, 20) == becomes


def test_date_filter_as_the_documentation_has_it() -> None:
    begin, end = 1_666_310_400_000, 1_666_483_200_000
    expected = "date >= toDate('2022-10-21') AND date <= toDate('2022-10-23')"
    assert expand("$__dateFilter(date)", begin, end, 1) == expected


def test_conditional_all_keeps_the_condition_or_drops_it() -> None:
    sql = "SELECT count() FROM t WHERE $__conditionalAll(creator IN (${creator:singlequote}), $creator) AND a = 1"
    assert expand(sql, 0, 0, 1, {"creator": ["a", "b"]}) == (
        "SELECT count() FROM t WHERE creator IN ('a','b') AND a = 1"
    )
    for everything in ([], [""], [ALL]):
        assert expand(sql, 0, 0, 1, {"creator": everything}) == "SELECT count() FROM t WHERE 1=1 AND a = 1"


def test_a_condition_may_hold_calls_strings_and_macros() -> None:
    sql = "$__conditionalAll(has([${a:singlequote}], concat(x, ',)')) AND $__timeFilter(t), ${a})"
    assert expand(sql, 1000, 2000, 1, {"a": ["v"]}) == (
        "has(['v'], concat(x, ',)')) AND t >= toDateTime(1) AND t <= toDateTime(2)"
    )


def test_a_whole_number_may_stand_without_quotes() -> None:
    assert expand("${w:raw}", 0, 0, 1, {"w": ["60"]}) == "60"
    for values in (["60", "5"], ["1 OR 1"], ["-1"], ["1.5"]):
        with pytest.raises(NotExpandable):
            expand("${w:raw}", 0, 0, 1, {"w": values})


def test_an_interval_is_at_least_a_second() -> None:
    assert expand("$__interval_s", 0, 0, 0) == "1"


@pytest.mark.parametrize(
    "sql",
    [
        "$__nothing(x)",
        "$__timeFilter",
        "$__timeFilter(toDateTime(x))",
        "$__timeFilter(x, y)",
        "$__timeFilter(x",
        "$__conditionalAll(1, 2)",
        "$__conditionalAll(a = 1, ${a:singlequote})",
        "$a",
        "${a}",
        "${a:csv}",
        "${b:singlequote}",
        "${all:singlequote}",
        "'$a'",
        "'open",
        "$ 1",
    ],
)
def test_what_grafana_would_take_otherwise_is_refused(sql: str) -> None:
    with pytest.raises(NotExpandable):
        expand(sql, 0, 0, 1, {"a": ["x"], "all": [ALL]})


@pytest.mark.parametrize("value", ["", "x\n", "x\x00", "x" * 129, ALL])
def test_values_that_no_variable_may_hold_are_refused(value: str) -> None:
    with pytest.raises(NotExpandable):
        expand("${a:singlequote}", 0, 0, 1, {"a": ["x", value]})


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(NotExpandable):
        expand("1", 2, 1, 1)


@given(st.lists(st.text(st.characters(exclude_categories=["Cc"]), min_size=1, max_size=40), min_size=1, max_size=3))
def test_values_stay_inside_of_their_quotes(values: list[str]) -> None:
    if ALL in values or values == [""]:
        return
    found = expand("IN (${a:singlequote})", 0, 0, 1, {"a": values})
    literals = re.findall(r"'((?:[^'\\]|\\.)*)'", found)
    assert [re.sub(r"\\(.)", r"\1", each, flags=re.DOTALL) for each in literals] == values
    assert re.fullmatch(r"IN \('(?:[^'\\]|\\.)*'(?:,'(?:[^'\\]|\\.)*')*\)", found)


def test_variables_of_a_query() -> None:
    sql = "$__conditionalAll(a IN (${creator:singlequote}), $creator) AND w = ${window:singlequote} AND $__toTime"
    assert used_variables(sql) == {"creator", "window"}
