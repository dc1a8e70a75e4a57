"""One figure against its definition: what is said of the rows that were compared."""

from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

SHOWN = 10
"""Differing rows that are shown of each table."""


@dataclass(frozen=True)
class Comparison:
    """One figure against its twin: rows compared, how many differ, and some of those (key columns, theirs, ours)."""

    name: str
    rows: int
    differ: int
    examples: list[dict[str, Any]]


def compare_rows(
    client: Client,
    name: str,
    stored: str,
    wanted: str,
    keys: tuple[str, ...],
    values: tuple[str, ...],
    parameters: dict[str, Any],
) -> Comparison:
    """Compares two queries that give the same columns, row by row and value by value.

    ``keys`` are the columns that name a row, ``values`` those compared; of an example only the values that differ are
    shown, as ``stored_*`` and ``wanted_*``.
    """
    joined = f"""
        FROM (SELECT 1 AS there, * FROM ({stored})) AS stored
        FULL OUTER JOIN (SELECT 1 AS there, * FROM ({wanted})) AS wanted USING ({", ".join(keys)})
    """
    differs = " OR ".join(f"stored.{value} != wanted.{value}" for value in values)
    wrong = f"stored.there != wanted.there OR {differs}"
    (rows, differ), *_ = client.query(f"SELECT count(), countIf({wrong}) {joined}", parameters=parameters).result_rows
    shown = ", ".join(f"stored.{value} AS stored_{value}, wanted.{value} AS wanted_{value}" for value in values)
    query = f"SELECT {', '.join(keys)}, {shown} {joined} WHERE {wrong}"
    found = examples(client, query, parameters) if differ else []
    return Comparison(name, int(rows), int(differ), [_narrow(example, values) for example in found])


def examples(client: Client, query: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The first rows of a query."""
    found = client.query(f"{query} LIMIT {SHOWN}", parameters=parameters)
    return [dict(zip(found.column_names, row, strict=True)) for row in found.result_rows]


def _narrow(example: dict[str, Any], values: tuple[str, ...]) -> dict[str, Any]:
    """Only the values that differ."""
    same = [name for name in values if example[f"stored_{name}"] == example[f"wanted_{name}"]]
    dropped = {f"{side}_{name}" for name in same for side in ("stored", "wanted")}
    return {name: value for name, value in example.items() if name not in dropped}
