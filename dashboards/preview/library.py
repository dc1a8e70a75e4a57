"""The boards that a folder of Grafana's JSON holds, and the queries in them: the only ones that are ever run."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from infra.errors import FanpulseError

_OPTION = re.compile(r"\s*((?:\\,|[^,])+)")


class Unknown(LookupError):
    """There is no such board, panel, variable or annotation: one line that says which there are."""


class Query(NamedTuple):
    """A query of a board: ``ref`` is its letter in the panel, ``series``: rows are to become series over time."""

    ref: str
    sql: str
    series: bool


class Board:
    """One board: Grafana's classic dashboard model.

    Args:
        model: the JSON object, with ``uid``, ``title`` and ``panels``.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model
        self.uid = str(model["uid"])
        self.title = str(model["title"])
        self.panels = {int(panel["id"]): panel for panel in _panels(model["panels"])}
        self.variables: dict[str, Mapping[str, Any]] = {
            str(each["name"]): each for each in model.get("templating", {}).get("list", ())
        }
        self.annotations: dict[str, Mapping[str, Any]] = {
            str(each["name"]): each for each in model.get("annotations", {}).get("list", ()) if _sql(each) is not None
        }

    def panel_queries(self, panel: int) -> list[Query]:
        """The queries of a panel, without those that are switched off.

        Raises:
            Unknown: the board has no such panel.
        """
        if panel not in self.panels:
            raise Unknown(f"board {self.uid} has no panel {panel}")
        return [
            Query(str(target.get("refId", "A")), str(target["rawSql"]), _is_series(target))
            for target in self.panels[panel].get("targets", ())
            if target.get("rawSql") and not target.get("hide")
        ]

    def annotation_query(self, name: str) -> Query:
        """The query of an annotation.

        Raises:
            Unknown: the board has no such annotation.
        """
        if name not in self.annotations:
            raise Unknown(f"board {self.uid} has no annotation {name!r}: {_listed(self.annotations)}")
        sql = _sql(self.annotations[name])
        assert sql is not None
        return Query("annotation", sql, False)

    def variable(self, name: str) -> Mapping[str, Any]:
        """A variable as the JSON describes it.

        Raises:
            Unknown: the board has no such variable.
        """
        if name not in self.variables:
            raise Unknown(f"board {self.uid} has no variable {name!r}: {_listed(self.variables)}")
        return self.variables[name]


class Library:
    """The boards of a folder; files that change are read again.

    Args:
        folder: with one ``*.json`` a board.
        places: of boards by uid, rising; others follow them.
    """

    def __init__(self, folder: Path, places: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._places = places or {}
        self._read: dict[Path, tuple[int, Board]] = {}

    def boards(self) -> list[Board]:
        """All of them, in the order of their places.

        Raises:
            FanpulseError: there is none, or a file is no board; the line says what to do.
        """
        files = sorted(self._folder.glob("*.json"))
        if not files:
            raise FanpulseError(f"{self._folder} holds no boards; write them: fanpulse boards build")
        last = max(self._places.values(), default=0) + 1
        return sorted(map(self._board, files), key=lambda board: (self._places.get(board.uid, last), board.title))

    def board(self, uid: str) -> Board:
        """The board of this uid.

        Raises:
            Unknown: there is none.
        """
        boards = {board.uid: board for board in self.boards()}
        if uid not in boards:
            raise Unknown(f"there is no board {uid!r}: {_listed(boards)}")
        return boards[uid]

    def _board(self, file: Path) -> Board:
        changed = file.stat().st_mtime_ns
        known = self._read.get(file)
        if known is not None and known[0] == changed:
            return known[1]
        try:
            board = Board(orjson.loads(file.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FanpulseError(
                f"{file}: is no board of Grafana ({error!r}); write it: fanpulse boards build"
            ) from None
        self._read[file] = changed, board
        return board


def variable_sql(variable: Mapping[str, Any]) -> str | None:
    """The query whose rows are what a variable may hold; None: its values are written down, or free."""
    if variable.get("type") != "query":
        return None
    query = variable.get("query")
    if isinstance(query, Mapping):
        query = query.get("rawSql") or query.get("query")
    return str(query) if query else None


def written_values(variable: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Values and texts that a variable of a written list may hold; None: it is no such variable."""
    query = variable.get("query")
    match variable.get("type"):
        case "custom" | "interval" if isinstance(query, str):
            parts = [part.strip().replace("\\,", ",") for part in _OPTION.findall(query)]
            pairs = [part.rpartition(" : ") for part in parts]
            return [(value, text or value) for text, _, value in pairs]
        case "constant":
            return [(str(query), str(query))]
    return None


def _panels(listed: Any) -> Iterator[Mapping[str, Any]]:
    for panel in listed:
        yield panel
        yield from _panels(panel.get("panels", ()))


def _is_series(target: Mapping[str, Any]) -> bool:
    # 0 and "timeseries" are the plugin's words for it, by version; it is also what a target without a word is.
    return target.get("format", target.get("queryType", 0)) in (0, "timeseries", "time_series", None)


def _sql(annotation: Mapping[str, Any]) -> str | None:
    target = annotation.get("target") or {}
    sql = target.get("rawSql") or annotation.get("rawQuery")
    return str(sql) if sql else None


def _listed(names: Mapping[str, Any]) -> str:
    return f"there are {', '.join(names)}" if names else "there are none"
