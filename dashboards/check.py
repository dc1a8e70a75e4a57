"""Whether boards and alert rules work on a database: every query is run as the analyst, and what is wrong is said."""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from dashboards.alerts import Rule
from dashboards.board import Board
from dashboards.macros import ALL, NotExpandable, expand, used_variables
from dashboards.queries import ANNOTATIONS
from dashboards.variables import CHOICES

POINTS = 200
"""Points that a panel asks for, as its width in Grafana would."""

ZONE = "zone"
_RAW = re.compile(r"ReadFromMergeTree \([^)]*\braw_\w+")
_STAR = re.compile(r"\bSELECT\s+(?:DISTINCT\s+)?\*", re.IGNORECASE)
_BOUNDED = re.compile(r"\$__(?:timeFilter|dateFilter|fromTime|toTime)\b|\b(?:now|today)\(\)")
_NESTED = re.compile(r"\$__\w+\([\w.]*\)\)")
_RANGES = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITLESS = ("none", "")


@dataclass(frozen=True)
class Query:
    """A query that is run for a board or a rule.

    Attributes:
        where: what it belongs to, for people: board and panel.
        sql: with macros and variables.
        span_ms: length of the time range that it is asked for at first.
        interval_s: shortest time between two points.
        may_be_empty: an answer without rows is as good as any.
        rows_read: rows that it may read at most.
        live: it is asked so often that it must not read raw tables.
        needs: table that must have rows before an answer without any is wrong; None: there is none.
    """

    where: str
    sql: str
    span_ms: int
    interval_s: int = 60
    may_be_empty: bool = False
    rows_read: int = 10_000_000
    live: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class Ran:
    """How a query went once: what is wrong with it, or None; milliseconds, and rows read and answered."""

    query: Query
    chosen: Mapping[str, Sequence[str]]
    wrong: str | None
    took_ms: float = 0.0
    read: int = 0
    rows: int = 0


def queries(boards: Sequence[Board], rules: Sequence[Rule], zone: str) -> list[Query]:
    """Every query of panels, variables, annotations and alert rules, for a time zone of local days."""
    found = [
        Query(
            f"{board.uid}: {panel.title}",
            panel.sql,
            span_ms(board.since),
            panel.interval_s,
            panel.may_be_empty,
            board.rows_read,
            board.live,
            board.needs,
        )
        for board in boards
        for panel in board.panels
        if panel.sql
    ]
    found += [
        Query(f"variable {name}", choice.sql, _RANGES["h"], may_be_empty=False)
        for name, choice in CHOICES.items()
        if choice.sql is not None and any(name in board.variables for board in boards)
    ]
    marks = {
        ANNOTATIONS[name].of(board.variables): ANNOTATIONS[name].name for board in boards for name in board.annotations
    }
    found += [Query(f"annotation {name}", sql, _RANGES["d"], may_be_empty=True) for sql, name in marks.items()]
    found += [
        Query(f"alert {rule.uid}", rule.query("UTC"), rule.over_s * 1000, may_be_empty=rule.may_be_empty)
        for rule in rules
    ]
    return found


def faults(boards: Sequence[Board]) -> Iterator[str]:
    """What is wrong with boards as they are written, before anything is run; a sentence each."""
    for board in boards:
        titles = [panel.title for panel in board.panels]
        for title in sorted({title for title in titles if titles.count(title) > 1}):
            yield f"{board.uid}: two panels are called {title}"
        for panel in board.panels:
            where = f"{board.uid}: {panel.title or 'a panel'}"
            if not panel.title or not panel.description:
                yield f"{where}: it has no title or no description"
            if panel.kind == "text":
                continue
            if panel.unit in _UNITLESS:
                yield f"{where}: it has no unit"
            if _STAR.search(panel.sql):
                yield f"{where}: it selects *, so its columns change with the table"
            if not panel.of_now and not _BOUNDED.search(panel.sql):
                yield f"{where}: nothing bounds the time that it reads"
            if _NESTED.search(panel.sql):
                yield f"{where}: a macro is closed by two parentheses, which older plugins misread"
            if strange := used_variables(panel.sql) - {*board.variables, ZONE}:
                yield f"{where}: it uses ${sorted(strange)[0]}, which the board does not offer"


def run(
    client: Client,
    query: Query,
    end_ms: int,
    zone: str,
    values: Mapping[str, Sequence[str]],
    thorough: bool = True,
    tell: Callable[[Ran], None] = lambda ran: None,
) -> list[Ran]:
    """Runs a query as a board opens, then with what may be chosen.

    Args:
        client: of the analyst.
        query: which.
        end_ms: end of the time range, UTC ms.
        zone: time zone of local days.
        values: what each variable may be.
        thorough: every value of every variable that the query uses once, and pairs of values; else only as it opens.
        tell: is told of each.

    Returns:
        How each went; only the first, with everything chosen, must have rows.
    """
    used = used_variables(query.sql) - {ZONE}
    found = []
    for number, chosen in enumerate(choices({name: values[name] for name in sorted(used)}, thorough)):
        ran = _run(client, query, end_ms, zone, chosen, first=number == 0)
        tell(ran)
        found.append(ran)
        if ran.wrong is not None:
            break
    return found


def options(client: Client) -> dict[str, list[str]]:
    """What may be chosen of every variable on this database."""
    found = {}
    for name, choice in CHOICES.items():
        if choice.sql is None:
            found[name] = [value for _, value in choice.options]
        else:
            found[name] = [str(row[0]) for row in client.query(expand(choice.sql, 0, 0, 1)).result_rows]
    return found


def _run(client: Client, query: Query, end_ms: int, zone: str, chosen: Mapping[str, Sequence[str]], first: bool) -> Ran:
    begin_ms = end_ms - query.span_ms
    interval_s = max(query.interval_s, query.span_ms // 1000 // POINTS)
    try:
        sql = expand(query.sql, begin_ms, end_ms, interval_s, {**chosen, ZONE: [zone]})
    except NotExpandable as error:
        return Ran(query, chosen, str(error))
    began = time.perf_counter()
    try:
        answer = client.query(sql)
    except ClickHouseError as error:
        return Ran(query, chosen, " ".join(str(error).split())[:300])
    took_ms = 1000 * (time.perf_counter() - began)
    read = int(answer.summary.get("read_rows", 0))
    wrong = None
    if first and query.live and (raw := _RAW.search(str(client.command(f"EXPLAIN {sql}")))):
        wrong = f"it reads {raw[0].rpartition('.')[2]}, and is asked every few seconds"
    elif read > query.rows_read:
        wrong = f"it reads {read:,} rows, more than its {query.rows_read:,}"
    elif first and not query.may_be_empty and not _has_data(answer.result_rows) and _needed(client, query):
        wrong = "it shows nothing"
    return Ran(query, chosen, wrong, took_ms, read, len(answer.result_rows))


def _needed(client: Client, query: Query) -> bool:
    return query.needs is None or bool(client.query(f"SELECT 1 FROM {query.needs} LIMIT 1").result_rows)


def _has_data(rows: Sequence[Sequence[object]]) -> bool:
    return any(value is not None for row in rows for value in row[1:] or row)


def choices(values: Mapping[str, Sequence[str]], thorough: bool) -> Iterator[dict[str, list[str]]]:
    """What to choose of variables one time after the other.

    Args:
        values: what each may be; names of ``variables.CHOICES``.
        thorough: after what a board opens with also every value of each once, and every pair of values of two once; not
            in as few times as there could be, but in as few as a greedy search finds.
    """
    default = {name: [ALL] if CHOICES[name].many else [CHOICES[name].default] for name in values}
    yield default
    if not thorough:
        return
    names = list(values)
    if len(names) == 1:
        yield from ({names[0]: [value]} for value in values[names[0]])
        return
    open_pairs = {
        ((one, first), (other, second))
        for one, other in itertools.combinations(names, 2)
        for first in values[one]
        for second in values[other]
    }
    while open_pairs:
        chosen = dict(min(open_pairs))
        for name in names:
            if name not in chosen:
                chosen[name] = max(values[name], key=lambda value: _covered({**chosen, name: value}, names, open_pairs))
        open_pairs -= set(itertools.combinations([(name, chosen[name]) for name in names], 2))
        yield {name: [value] for name, value in chosen.items()}


def _covered(
    chosen: Mapping[str, str], names: Sequence[str], pairs: set[tuple[tuple[str, str], tuple[str, str]]]
) -> int:
    known = [(name, chosen[name]) for name in names if name in chosen]
    return sum(pair in pairs for pair in itertools.combinations(known, 2))


def span_ms(since: str) -> int:
    """Length of the time range that a board opens with, such as ``now-6h``."""
    found = re.fullmatch(r"now-(\d+)([mhd])", since)
    assert found is not None, since
    return int(found[1]) * _RANGES[found[2]]
