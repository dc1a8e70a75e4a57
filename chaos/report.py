"""What a scenario found, and the table of all of them."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.tally import TableResult


@dataclass
class Fault:
    """A kind of fault: how often it was injected, and the seconds until every partition had moved on."""

    name: str
    times: int = 0
    recoveries: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.recoveries) if self.recoveries else None

    @property
    def worst(self) -> float | None:
        return max(self.recoveries, default=None)


@dataclass
class Outcome:
    """What a scenario found.

    ``tables``: every comparison with the ground truth. ``differing``: tables that ``fanpulse verify`` found to
    differ. ``failures``: what went wrong beside the figures, one line each. ``notes``: what was measured on the way.
    """

    scenario: str
    seed: int
    events: int = 0
    seconds: float = 0.0
    faults: dict[str, Fault] = field(default_factory=dict)
    tables: list[TableResult] = field(default_factory=list)
    verified: int = 0
    differing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def fault(self, name: str) -> Fault:
        """The kind of fault of this name, counted from here on."""
        return self.faults.setdefault(name, Fault(name))

    @property
    def lost(self) -> int:
        return sum(table.lost for table in self.tables)

    @property
    def doubled(self) -> int:
        return sum(table.doubled for table in self.tables)

    @property
    def wrong(self) -> int:
        return sum(table.wrong for table in self.tables)

    @property
    def ok(self) -> bool:
        """Whether everything was compared and nothing was lost, doubled, wrong or unexplained."""
        compared = bool(self.tables) and self.verified > 0 and self.events > 0
        return compared and not (self.lost or self.doubled or self.wrong or self.differing or self.failures)

    def lines(self) -> list[str]:
        """What is wrong, and what was noted, a line each."""
        found = [f"FAILED: {line}" for line in self.failures]
        for table in self.tables:
            if table.lost or table.doubled or table.wrong:
                found.append(f"{table.table}: {table.lost} lost, {table.doubled} doubled, {table.wrong} wrong")
                found += [f"    {example}" for example in table.examples]
        found += [f"verify differs: {line}" for line in self.differing]
        return found + self.notes

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "seed": self.seed,
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "rows_compared": sum(table.rows for table in self.tables),
            "rows_verified": self.verified,
            "faults": [
                {
                    "name": fault.name,
                    "times": fault.times,
                    "recovery_median_seconds": _rounded(fault.median),
                    "recovery_worst_seconds": _rounded(fault.worst),
                }
                for fault in self.faults.values()
            ],
            "lines": self.lines(),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


HEADINGS = ("scenario, fault", "times", "events", "lost", "doubled", "wrong", "median s", "worst s")


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """Lines of the table: one of the scenario, and one of each kind of fault."""
    every = [seconds for fault in outcome.faults.values() for seconds in fault.recoveries]
    whole = Fault(outcome.scenario, sum(fault.times for fault in outcome.faults.values()), every)
    figures = (f"{outcome.events:,}", f"{outcome.lost:,}", f"{outcome.doubled:,}", f"{outcome.wrong:,}")
    found: list[tuple[str, ...]] = [
        (outcome.scenario, f"{whole.times:,}", *figures, _seconds(whole.median), _seconds(whole.worst))
    ]
    for fault in outcome.faults.values():
        found.append(
            (f"  {fault.name}", f"{fault.times:,}", "", "", "", "", _seconds(fault.median), _seconds(fault.worst))
        )
    return found


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show(outcomes: list[Outcome], console: Console) -> None:
    """Prints the table and what is to be said of each scenario: with colours on a terminal, plain on a pipe."""
    if console.is_terminal:
        table = Table(caption="seconds: from a fault until every partition had moved on", caption_justify="left")
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if number == 0 else "right")
        for outcome in outcomes:
            for number, row in enumerate(rows(outcome)):
                style = "dim" if number else "bold" if outcome.ok else "bold red"
                table.add_row(*row, style=style)
        console.print(table)
    else:
        lines = [HEADINGS, *(row for outcome in outcomes for row in rows(outcome))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
        for each in lines:
            cells = [each[0].ljust(widths[0]), *(cell.rjust(widths[at + 1]) for at, cell in enumerate(each[1:]))]
            console.print("  ".join(cells).rstrip(), markup=False, highlight=False, soft_wrap=True)
    for outcome in outcomes:
        verdict = "ok" if outcome.ok else "FAILED"
        compared = sum(table.rows for table in outcome.tables)
        console.print(
            f"{outcome.scenario}: {verdict}; seed {outcome.seed}, {outcome.seconds:.0f} s, {compared:,} rows compared "
            f"with the ground truth, {outcome.verified:,} verified",
            style="green" if outcome.ok else "bold red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        for line in outcome.lines():
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
