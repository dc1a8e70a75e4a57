"""A quick run of some scenarios on the real stack; and that the harness says what it finds, and leaves nothing."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from chaos.__main__ import run
from chaos.report import Outcome, rows, show
from chaos.scene import Scene
from chaos.tally import TableResult
from chaos.worker import POINTS
from infra.stack import Stack

# kafka-python leaves sockets to the garbage collector whose broker was killed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        "kills",
        "input",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("dead-hand", "zombies", "rebalances", "poison")),
    ],
)
def test_nothing_is_lost_doubled_or_wrong(own: Stack, name: str) -> None:
    outcome = run(own, name, 7, True, print)
    assert outcome.ok, "\n".join(outcome.lines())
    assert all(fault.times > 0 for fault in outcome.faults.values())
    assert outcome.faults
    if name == "kills":
        assert {f"kill: {where}" for where in POINTS.values()} <= set(outcome.faults)


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--quick", "--only", "clickhouse-away", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if "ClickHouse is away" in line:
                process.send_signal(signal.SIGINT)
        assert json.loads(process.stdout.read())["ok"] is False
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_an_unknown_scenario_is_one_line() -> None:
    command = [sys.executable, "-m", "chaos", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("python -m chaos: error: no scenario 'nothing'; there are kills, ")


@pytest.mark.stack
def test_a_scenario_that_breaks_is_a_failure_with_its_place(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Scene) -> Scene:
        raise KeyError("of the harness")

    monkeypatch.setattr(Scene, "__enter__", broken)
    outcome = run(stack, "kills", 1, True, print)
    assert not outcome.ok
    assert outcome.failures[0].startswith("KeyError: 'of the harness' at __main__.py:")


def sound() -> Outcome:
    outcome = Outcome("kills", 1, events=1000, verified=10, seconds=2.5)
    outcome.tables.append(TableResult("raw_gifts", 50, 0, 0, 0, ()))
    fault = outcome.fault("kill")
    fault.times = 3
    fault.recoveries += [1.0, 4.0, 2.0]
    return outcome


def test_an_outcome_is_ok_only_if_all_was_compared_and_equal() -> None:
    assert sound().ok
    for table in (
        TableResult("t", 9, 1, 0, 0, ("a",)),
        TableResult("t", 9, 0, 1, 0, ()),
        TableResult("t", 9, 0, 0, 1, ()),
    ):
        outcome = sound()
        outcome.tables.append(table)
        assert not outcome.ok
    for change in ({"events": 0}, {"verified": 0}, {"tables": []}, {"failures": ["x"]}, {"differing": ["x"]}):
        outcome = sound()
        for name, value in change.items():
            setattr(outcome, name, value)
        assert not outcome.ok, change


def test_the_table_has_a_line_a_fault_and_examples_of_what_is_wrong() -> None:
    outcome = sound()
    assert rows(outcome) == [
        ("kills", "3", "1,000", "0", "0", "0", "2.0", "4.0"),
        ("  kill", "3", "", "", "", "", "2.0", "4.0"),
    ]
    outcome.tables.append(TableResult("raw_orders", 9, 2, 1, 3, ("partition 0 offset 7: [lost]",)))
    for terminal in (False, True):
        text = io.StringIO()
        show([outcome], Console(file=text, force_terminal=terminal, width=200, color_system=None))
        said = text.getvalue()
        assert "kills: FAILED; seed 1" in said
        assert "raw_orders: 2 lost, 1 doubled, 3 wrong" in said
        assert "partition 0 offset 7: [lost]" in said
    assert outcome.as_json()["lost"] == 2
    assert outcome.as_json()["faults"] == [
        {"name": "kill", "times": 3, "recovery_median_seconds": 2.0, "recovery_worst_seconds": 4.0}
    ]
