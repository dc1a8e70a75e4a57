"""What a measurement says, and how it is printed."""

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


class Wrong(Exception):
    """A measured run computed something wrong, or did not finish: its figures mean nothing."""


@dataclass(frozen=True)
class Figure:
    """One measured number. ``note`` says how to read it, where its name does not."""

    name: str
    value: float
    unit: str
    note: str = ""

    @property
    def text(self) -> str:
        """The value with as many digits as mean something."""
        size = abs(self.value)
        return f"{self.value:,.0f}" if size >= 100 or self.value == int(self.value) else f"{self.value:,.3g}"


@dataclass
class Result:
    """What one bench found. ``ok``: what was computed on the way was checked and is right; ``checks`` say how."""

    bench: str
    command: str
    ok: bool = True
    figures: list[Figure] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Adds a figure."""
        self.figures.append(Figure(name, value, unit, note))

    def check(self, good: bool, what: str) -> None:
        """Notes a check; one that fails makes the whole result wrong."""
        self.checks.append(f"{'ok' if good else 'WRONG'}: {what}")
        self.ok &= good

    def as_json(self) -> dict[str, Any]:
        """The result as plain values; figures by name."""
        found = asdict(self)
        found["figures"] = {
            figure.name: {"value": figure.value, "unit": figure.unit, "note": figure.note} for figure in self.figures
        }
        return found


def show(result: Result) -> None:
    """Prints a result: a table on a terminal, else one line a figure."""
    if sys.stdout.isatty():
        table = Table(title=f"{result.bench}   [dim]{result.command}[/dim]", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right")
        table.add_column("")
        table.add_column("", style="dim")
        for figure in result.figures:
            table.add_row(figure.name, figure.text, figure.unit, figure.note)
        console = Console()
        console.print(table)
        for line in result.checks:
            console.print(line, style="green" if line.startswith("ok") else "bold red", markup=False)
    else:
        print(f"{result.bench}: {result.command}")
        width = max((len(figure.name) for figure in result.figures), default=0)
        for figure in result.figures:
            note = f"   {figure.note}" if figure.note else ""
            print(f"  {figure.name:<{width}}  {figure.text:>11} {figure.unit}{note}")
        for line in result.checks:
            print(f"  {line}")
    if result.conditions:
        print("  " + "  ".join(f"{name}={value}" for name, value in result.conditions.items()))
    sys.stdout.flush()
