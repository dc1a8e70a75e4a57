"""The main job as its user runs it: the demo command, with a worker killed on the way, then verify."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

FANPULSE = [sys.executable, "-m", "fanpulse.cli"]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fp-", ignore_cleanup_errors=True) as path:
        try:
            yield Path(path)
        finally:
            run("down", "--home", path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANPULSE_")}
    return subprocess.run([*FANPULSE, *arguments], capture_output=True, text=True, env=environment, timeout=240)


def worker_pid(home: Path) -> int | None:
    """The worker process under the demo's supervisor."""
    try:
        supervisor = psutil.Process(json.loads((home / "run" / "worker.json").read_text())["pid"])
        return next((child.pid for child in supervisor.children()), None)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


@pytest.mark.timeout(300)
@pytest.mark.long
def test_demo_with_workers_killed_on_the_way_ends_exact(home: Path) -> None:
    arguments = ["demo", "--home", str(home), "--days", "4", "--fans", "3000", "--for", "20s", "--json"]
    demo = subprocess.Popen([*FANPULSE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: set[int] = set()
    while demo.poll() is None:
        # Each worker is killed once it has had time to store something.
        time.sleep(4)
        pid = worker_pid(home)
        if pid is not None and pid not in killed and len(killed) < 3:
            psutil.Process(pid).kill()
            killed.add(pid)
    out, err = demo.communicate()

    assert demo.returncode == 0, err
    result = json.loads(out)
    events = result["events"]
    assert len(killed) == 3
    assert events["generated"] == events["accepted"] > 10_000
    assert (events["rejected"], events["duplicates"], events["late"], result["lag"]) == (0, 0, 0, 0)
    raw = sum(rows for table, rows in result["rows"].items() if table.startswith("raw_"))
    assert raw == events["accepted"]

    assert run("up", "--home", str(home)).returncode == 0
    verified = run("verify", "--home", str(home), "--json")
    compared = {each["name"]: each for each in json.loads(verified.stdout)}
    assert verified.returncode == 0, verified.stdout
    assert compared["raw_interactions"]["rows"] == result["rows"]["raw_interactions"]
    assert all(compared[name]["rows"] > 100 for name in compared if name.startswith(("engagement", "viewers")))

    again = run("demo", "--home", str(home), "--for", "3s", "--json")
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert second["events"]["accepted"] == second["events"]["generated"]
    assert second["rows"]["raw_interactions"] >= result["rows"]["raw_interactions"]
