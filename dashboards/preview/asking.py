"""What a browser may ask: a time range and values of variables for a query that is in a board, never SQL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from dashboards.macros import ALL, NotExpandable, expand, used_variables
from dashboards.preview.library import Board, Query, variable_sql, written_values

_LATEST_MS = 4_102_444_800_000
_Time = Annotated[int, Field(ge=0, le=_LATEST_MS)]
_Name = Annotated[str, Field(max_length=64)]
_Values = Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=1000)]


class Refused(ValueError):
    """Something else was asked: one line that says what."""


class Asked(BaseModel):
    """What the browser sends."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    begin: _Time
    """UTC ms."""
    end: _Time
    """UTC ms, included."""
    interval: Annotated[int, Field(ge=1, le=366 * 86_400)] = 60
    """Length of the groups of ``$__timeInterval``, seconds."""
    variables: Annotated[dict[_Name, _Values], Field(max_length=40)] = {}
    """What is chosen of each variable; ``$__all`` alone: everything."""


class Option(NamedTuple):
    """One of the values that a variable may hold, and how it is shown."""

    value: str
    text: str


Options = Callable[[str], Sequence[Sequence[Any]]]
"""Runs the query of a variable: rows of one column, or of value and text."""


def options(board: Board, name: str, asked: Asked, run: Options) -> list[Option]:
    """What a variable may hold, without the choice of everything; of a free one nothing.

    Raises:
        Unknown: the board has no such variable.
        Refused: a variable that its query uses holds what it may not.
    """
    return _options(board, name, asked, run, (name,))


def expanded(board: Board, query: Query, asked: Asked, run: Options) -> str:
    """A query of the board as ClickHouse gets it.

    Raises:
        Refused: a variable holds what it may not, or the time range is none.
    """
    chosen = _checked(board, used_variables(query.sql), asked, run, ())
    return _expanded(query.sql, asked, chosen)


def _checked(
    board: Board, names: frozenset[str], asked: Asked, run: Options, within: tuple[str, ...]
) -> Mapping[str, Sequence[str]]:
    """What is chosen of these variables, seen to be among what each may hold."""
    for name in names & set(within):
        raise Refused(f"variable {name} hangs on itself")
    return {name: _chosen(board, name, asked, run, (*within, name)) for name in sorted(names)}


def _chosen(board: Board, name: str, asked: Asked, run: Options, within: tuple[str, ...]) -> Sequence[str]:
    variable = board.variable(name)
    values = asked.variables.get(name, ())
    if variable.get("type") == "constant":
        return [str(variable.get("query", ""))]
    if not values or values == (ALL,):
        if not variable.get("includeAll") and variable.get("type") != "textbox":
            raise Refused(f"choose a value of variable {name}")
        return [ALL]
    if len(values) > 1 and not variable.get("multi"):
        raise Refused(f"variable {name} holds one value, not {len(values)}")
    if variable.get("type") == "textbox":
        return values
    held = {option.value for option in _options(board, name, asked, run, within)}
    for value in values:
        if value not in held:
            raise Refused(f"variable {name} cannot be {value!r}: choose one that the board offers")
    return values


def _options(board: Board, name: str, asked: Asked, run: Options, within: tuple[str, ...]) -> list[Option]:
    variable = board.variable(name)
    written = written_values(variable)
    if written is not None:
        return [Option(value, text) for value, text in written]
    sql = variable_sql(variable)
    if sql is None:
        return []
    chosen = _checked(board, used_variables(sql), asked, run, within)
    rows = run(_expanded(sql, asked, chosen))
    return [Option(str(row[0]), str(row[1] if len(row) > 1 else row[0])) for row in rows if row[0] not in (None, "")]


def _expanded(sql: str, asked: Asked, chosen: Mapping[str, Sequence[str]]) -> str:
    try:
        return expand(sql, asked.begin, asked.end, asked.interval, chosen)
    except NotExpandable as error:
        raise Refused(str(error)) from None
