"""What a board is: values that say what is shown, and nothing of how Grafana writes it (``render.py``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dashboards.thresholds import Steps

Kind = Literal["stat", "series", "bars", "bar_gauge", "pie", "table", "heat_map", "timeline", "text"]

LIVE_S = 10
"""A board that refreshes at most so many seconds apart is live: it reads no raw table."""


@dataclass(frozen=True)
class Link:
    """To another board, with its time range and variables.

    Attributes:
        board: uid of it.
        title: what is read at it.
        variables: what is chosen there, by variable: the column of the row that says so.
    """

    board: str
    title: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """How one column of the answer is shown, where it is not as the panel says.

    Attributes:
        unit: Grafana's id.
        decimals: digits behind the point.
        steps: colours by value.
        link: where a click leads.
        texts: words for values, each with a colour.
        bar: in a table, a bar behind the number.
        width: of it in a table, pixels.
        color: of its line, instead of one by turns.
        dashed: the line is a comparison.
        plain: its cells are not coloured where those of the table are.
    """

    unit: str | None = None
    decimals: int | None = None
    steps: Steps | None = None
    link: Link | None = None
    texts: Mapping[str, tuple[str, str]] | None = None
    bar: bool = False
    width: int | None = None
    color: str | None = None
    dashed: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture and its query.

    Attributes:
        kind: which picture.
        title: of it; no other panel of the board has the same.
        description: what it says, its formula, and what to do about it.
        sql: the query, with macros and variables; empty for text.
        unit: Grafana's id; ``none`` for numbers without.
        width: of the 24 columns of a board.
        height: rows of 30 pixels.
        columns: how single columns of the answer are shown, by name.
        steps: colours by value.
        series: column whose values name the lines, where the answer has a line a row; else the columns name them.
        decimals: digits behind the point.
        least: the scale begins here, or lower where a value does.
        most: the scale ends here.
        stacked: lines or bars add up.
        total: beneath it or beside it, one figure a line: which, as Grafana names it.
        colored: stats or cells are coloured as a whole.
        may_be_empty: there may be nothing to show, such as no open alert.
        texts: words for values, each with a colour.
        of_now: it shows what holds now whatever the time range, for its view knows nothing else.
        held: a value of a line holds until the next one.
        text: Markdown of a text panel.
        interval_s: shortest time between two points, seconds.
    """

    kind: Kind
    title: str
    description: str
    sql: str = ""
    unit: str = "short"
    width: int = 8
    height: int = 8
    columns: Mapping[str, Column] = field(default_factory=dict)
    steps: Steps | None = None
    series: str | None = None
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    stacked: bool = False
    total: str = "lastNotNull"
    colored: bool = False
    may_be_empty: bool = False
    texts: Mapping[str, tuple[str, str]] | None = None
    of_now: bool = False
    held: bool = False
    text: str = ""
    interval_s: int = 60


@dataclass(frozen=True)
class Row:
    """Panels under a title; folded rows ask nothing until they are opened."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True)
class Board:
    """One question and its answer, from the general to the specific.

    Attributes:
        uid: part of its address; never changed, or links break.
        title: what it is called.
        question: what it answers.
        place: of it among the boards, rising.
        rows: what it shows, the most general first.
        since: begin of the time range it opens with, such as now-3h.
        refresh_s: seconds between two looks.
        variables: which it offers beside the data source: platform, creator, campaign, window.
        annotations: what is marked on its time axes, names of ``queries.ANNOTATIONS``.
        rows_read: rows that one of its queries reads at most.
        needs: table without whose rows it has nothing to show; None: it always has.
    """

    uid: str
    title: str
    question: str
    place: int
    rows: tuple[Row, ...]
    since: str = "now-3h"
    refresh_s: int = 5
    variables: tuple[str, ...] = ("platform", "creator")
    annotations: tuple[str, ...] = ("alerts", "rules")
    rows_read: int = 10_000_000
    needs: str | None = None

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def live(self) -> bool:
        """Whether it is refreshed so often that it must be cheap."""
        return self.refresh_s <= LIVE_S
