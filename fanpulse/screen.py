"""How the demo looks: rich tables from figures, nothing else."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fanpulse.figures import WINDOWS, Board, Health

_STALE_S = 90.0
_BEHIND_S = 5.0
_RECENT = 4
_STYLES = {"opened": "bold red", "pending": "yellow", "incident": "bold magenta", "failed": "bold red"}


@dataclass(frozen=True)
class Step:
    """A step of a drill. ``name``: which, for scripts; ``at``: when it was taken; ``event_at``: what time it was in the
    world then (both UTC seconds); ``said``: what happened; ``more``: what to look at, what to do."""

    name: str
    at: float
    event_at: float
    said: str
    more: tuple[str, ...] = ()


@dataclass
class View:
    """All that one picture needs. ``phase``: what goes on; ``done``: part of the history sent, 0 to 1, or None when
    live; ``sent``: records sent in this run; ``rate``: records/s into ClickHouse, None while not every worker says how
    it is; ``now``: wall clock, UTC seconds; ``zone``: time zone of times shown;
    ``boards``: address of the boards, or nothing while nobody serves them; ``drill``: what goes wrong in it, and
    ``steps``: how it goes."""

    phase: str = "starting"
    done: float | None = None
    sent: int = 0
    rate: float | None = None
    now: float = 0.0
    health: Health = field(default_factory=Health)
    board: Board | None = None
    notes: tuple[str, ...] = ()
    zone: str = "UTC"
    boards: str = ""
    drill: str = ""
    steps: tuple[Step, ...] = ()


def picture(view: View) -> RenderableType:
    """The whole screen: what goes on, is it healthy, the figures."""
    parts: list[RenderableType] = [_head(view), _strip(view)]
    if view.drill:
        parts.append(_drill(view))
    elif view.board is not None:
        parts += [_totals(view.board, view.zone), _creators(view.board)]
    if view.boards:
        parts.append(Text.assemble("boards in the browser: ", (view.boards, f"bold cyan link {view.boards}")))
    parts += [Text(note, style="dim") for note in view.notes]
    return Group(*parts)


def line(view: View) -> str:
    """The same in one plain line, for pipes and log files."""
    health = view.health
    done = f" {view.done:.0%}" if view.done is not None else ""
    board = "" if view.board is None else "  plays " + " ".join(f"{w} {view.board.plays[w]:,}" for w in WINDOWS)
    return (
        f"{view.phase}{done}  sent {view.sent:,}  stored {_rate(view)}/s  lag {_said(view, health.lag)}  "
        f"freshness {_freshness(view)}  late {_said(view, health.late)}  repeats {_said(view, health.duplicates)}  "
        f"refused {_said(view, health.refused)}{board}"
    )


def lines(step: Step, zone: str) -> list[str]:
    """A step of a drill in plain lines."""
    return [f"{_times(step, zone)}  {step.said}", *(f"          {each}" for each in step.more)]


def _drill(view: View) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for step in view.steps:
        style = "green" if step.name in ("resolved", "stored") else _STYLES.get(step.name, "")
        table.add_row(_times(step, view.zone), Text(step.said, style=style))
        # What to do about the last ones; of all there is no room.
        for each in step.more if step in view.steps[-_RECENT:] else ():
            table.add_row("", Text(each, style="dim"))
    return Panel(table, title=f"drill: {view.drill}", border_style="magenta", padding=(0, 1))


def _times(step: Step, zone: str) -> str:
    """When a step was taken, and what time it was in the world if that was another."""
    at, event_at = (datetime.fromtimestamp(each, UTC).astimezone(ZoneInfo(zone)) for each in (step.at, step.event_at))
    behind = step.at - step.event_at > _BEHIND_S
    return f"{at:%H:%M:%S}" + (f"  event time {event_at:%m-%d %H:%M}" if behind else "")


def _head(view: View) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    title = Text.assemble(("fanpulse", "bold"), "  ", (view.phase, "bold cyan"))
    if view.done is None:
        grid.add_row(title, f"{view.sent:,} events sent in this run")
    else:
        bar = ProgressBar(total=1.0, completed=view.done, width=36)
        grid.add_row(title, bar, f"{view.done:4.0%}", f"{view.sent:,} events")
    return grid


def _strip(view: View) -> RenderableType:
    health = view.health
    cells = [
        ("events/s", _rate(view), ""),
        ("lag", _said(view, health.lag), "" if health.lag < 10_000 or view.done is not None else "yellow"),
        ("freshness", _freshness(view), ""),
        ("late", _said(view, health.late), "yellow" if health.late else ""),
        ("repeats", _said(view, health.duplicates), ""),
        ("refused", _said(view, health.refused), "red" if health.refused else ""),
        ("workers", str(health.workers), "" if health.workers else "red"),
    ]
    if health.retries:
        cells.append(("retries", f"{health.retries:,}", "yellow"))
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in cells:
        table.add_column(justify="center")
    table.add_row(*(Text(name, style="dim") for name, _, _ in cells))
    table.add_row(*(Text(value, style=f"bold {style}".strip()) for _, value, style in cells))
    return Panel(table, title="health", border_style="green" if health.workers else "red", padding=(0, 1))


def _rate(view: View) -> str:
    if view.rate is None:
        return "-"
    return f"{view.rate:,.1f}" if view.rate < 100 else f"{view.rate:,.0f}"


def _said(view: View, count: int) -> str:
    """A sum over the workers, if all of them said theirs."""
    return "-" if view.rate is None else f"{count:,}"


def _freshness(view: View) -> str:
    newest = view.health.newest
    if newest is None or view.rate is None:
        return "-"
    behind = max(view.now - newest, 0.0)
    if behind < _STALE_S:
        return f"{behind:.0f} s"
    if behind < 2 * 3600:
        return f"{behind / 60:.0f} min"
    return f"{behind / 86_400:.1f} days" if behind >= 2 * 86_400 else f"{behind / 3600:.1f} h"


def _totals(board: Board, zone: str) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in WINDOWS:
        table.add_column(justify="center")
    table.add_row(*(Text(f"plays, last {window}", style="dim") for window in WINDOWS))
    table.add_row(*(Text.assemble((f"{board.plays[w]:,}", "bold"), "  ", _change(board.change[w])) for w in WINDOWS))
    local = board.at.astimezone(ZoneInfo(zone))
    return Panel(
        table,
        title=f"all creators, {local:%Y-%m-%d %H:%M} {zone}",
        subtitle="against the same window a day before",
        border_style="cyan",
        padding=(0, 1),
    )


def _creators(board: Board) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim", padding=(0, 1), title="top creators by plays in 24 h")
    table.add_column("creator", no_wrap=True)
    table.add_column("platform", no_wrap=True)
    for window in WINDOWS:
        table.add_column(window, justify="right", no_wrap=True)
    for name in ("24h change", "viewers", "engagement", "completed", "follows"):
        table.add_column(name, justify="right", no_wrap=True)
    for creator in board.creators:
        table.add_row(
            creator.creator_id,
            creator.platform,
            *(f"{creator.plays.get(window, 0):,}" for window in WINDOWS),
            _change(creator.change.get("24h")),
            "-" if creator.viewers is None else f"{creator.viewers:,}",
            _percent(creator.engagement_rate),
            _percent(creator.completion_rate),
            f"{creator.follows:,}",
        )
    if not board.creators:
        table.add_row("no plays in these windows yet")
    return table


def _change(ratio: float | None) -> Text:
    if ratio is None:
        return Text("-", style="dim")
    return Text(f"{ratio:+.0%}", style="green" if ratio >= 0 else "red")


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"
