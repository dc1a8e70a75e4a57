"""The SQL of a panel as Grafana's ClickHouse plugin sends it: macros and variables replaced.

Only what the plugin understands the same way from 3.3 on is understood here, and everything else is refused, so that a
query that expands here does in Grafana. The macros and what they become are those of the plugin's documentation,
https://grafana.com/docs/plugins/grafana-clickhouse-datasource/latest/query-editor/#macros.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

ALL = "$__all"
"""Value of a variable for which everything is chosen."""

_VALUE = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z]\w*)(?::(?P<format>\w+))?\}|(?P<plain>[A-Za-z]\w*))")
_MACRO = re.compile(r"\$__(?P<name>\w+)")
_WHOLE = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_STRING = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)


class NotExpandable(ValueError):
    """A query uses what is not understood, or a variable holds what it may not: one line that says which."""


def expand(
    sql: str, begin_ms: int, end_ms: int, interval_s: int, variables: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The query that ClickHouse gets.

    Args:
        sql: ``rawSql`` of a target, or the query of a variable, annotation or alert.
        begin_ms: beginning of the time range, UTC ms; the macros cut it to seconds, as the plugin does.
        end_ms: its end, included; UTC ms.
        interval_s: length of the groups of ``$__timeInterval``, seconds, at least 1.
        variables: what is chosen of each, ``(ALL,)`` or nothing for everything. ``${name:singlequote}`` becomes the
            values as string literals, so that none of them can leave its quotes; ``${name:raw}`` a whole number.

    Raises:
        NotExpandable: an unknown macro or variable, one with other arguments, a variable outside
            ``$__conditionalAll`` for which everything is chosen, or a value that is empty, too long, or has control
            characters.
    """
    if begin_ms > end_ms:
        raise NotExpandable("the time range ends before it begins")
    return _Expansion(begin_ms // 1000, end_ms // 1000, max(interval_s, 1), variables or {}).of(sql)


def used_variables(sql: str) -> frozenset[str]:
    """Names of the variables in a query."""
    return frozenset(
        found["braced"] or found["plain"] for found in _VARIABLE.finditer(_STRING.sub("''", sql)) if found[0] != "$__"
    )


class _Expansion(NamedTuple):
    """Replaces from left to right, and never looks at what it has put in."""

    begin_s: int
    end_s: int
    interval_s: int
    variables: Mapping[str, Sequence[str]]

    def of(self, sql: str) -> str:
        out, at = [], 0
        while at < len(sql):
            if sql[at] == "'":
                text = _STRING.match(sql, at)
                if text is None:
                    raise NotExpandable("a string literal does not end")
                if "$" in text[0]:
                    raise NotExpandable(f"a $ inside of a string literal: {text[0]}")
                out.append(text[0])
                at = text.end()
            elif sql[at] != "$":
                out.append(sql[at])
                at += 1
            elif macro := _MACRO.match(sql, at):
                arguments, at = _arguments(sql, macro.end())
                out.append(self.macro(macro["name"], arguments))
            elif variable := _VARIABLE.match(sql, at):
                if variable["format"] not in ("singlequote", "raw"):
                    name = variable["braced"] or variable["plain"]
                    raise NotExpandable(f"{variable[0]}: write ${{{name}:singlequote}}, or :raw for a whole number")
                out.append(self.variable(variable["braced"], raw=variable["format"] == "raw"))
                at = variable.end()
            else:
                raise NotExpandable(f"a $ that begins neither macro nor variable: {sql[at : at + 20]}")
        return "".join(out)

    def macro(self, name: str, arguments: Sequence[str] | None) -> str:
        begin, end = f"toDateTime({self.begin_s})", f"toDateTime({self.end_s})"
        match name, arguments:
            case "fromTime", None:
                return begin
            case "toTime", None:
                return end
            case "interval_s", None:
                return str(self.interval_s)
            case "timeFilter", [column]:
                _must_be_column(name, column)
                return f"{column} >= {begin} AND {column} <= {end}"
            case "dateFilter", [column]:
                _must_be_column(name, column)
                first, last = (datetime.fromtimestamp(at, UTC).date() for at in (self.begin_s, self.end_s))
                return f"{column} >= toDate('{first}') AND {column} <= toDate('{last}')"
            case "timeInterval", [column]:
                _must_be_column(name, column)
                return f"toStartOfInterval(toDateTime({column}), INTERVAL {self.interval_s} second)"
            case "conditionalAll", [condition, variable]:
                found = _VARIABLE.fullmatch(variable.strip())
                if found is None or found["format"] is not None:
                    raise NotExpandable(f"the second argument of $__conditionalAll must be a variable: {variable}")
                return "1=1" if self.everything(found["braced"] or found["plain"]) else self.of(condition)
        raise NotExpandable(f"$__{name} with {len(arguments or ())} arguments is not understood")

    def variable(self, name: str, raw: bool) -> str:
        if self.everything(name):
            raise NotExpandable(f"everything is chosen of ${name}, and it stands outside of $__conditionalAll")
        values = self.variables[name]
        for value in values:
            if value == ALL or not _VALUE.fullmatch(value):
                raise NotExpandable(f"${name} cannot be {value[:140]!r}")
        if raw and not (len(values) == 1 and _WHOLE.fullmatch(values[0])):
            raise NotExpandable(f"${name} must be one whole number, not {', '.join(values)[:140]!r}")
        return values[0] if raw else ",".join(_literal(value) for value in values)

    def everything(self, name: str) -> bool:
        if name not in self.variables:
            raise NotExpandable(f"there is no variable ${name}")
        return list(self.variables[name]) in ([], [""], [ALL])


def _arguments(sql: str, at: int) -> tuple[list[str] | None, int]:
    """Arguments of a call that may begin here, and where it ends; None: it does not."""
    if not sql.startswith("(", at):
        return None, at
    depth, begin, found = 0, at + 1, []
    while at < len(sql):
        if text := _STRING.match(sql, at):
            at = text.end()
            continue
        if sql[at] == "(":
            depth += 1
        elif sql[at] == ")":
            depth -= 1
        if depth == 0 or (depth == 1 and sql[at] == ","):
            found.append(sql[begin:at])
            begin = at + 1
        at += 1
        if depth == 0:
            return found, at
    raise NotExpandable("the parentheses of a macro do not close")


def _must_be_column(macro: str, argument: str) -> None:
    # Older plugins find the end of the arguments by a pattern that nested parentheses deceive.
    if not _NAME.fullmatch(argument):
        raise NotExpandable(f"the argument of $__{macro} must be the name of a column: {argument}")


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
