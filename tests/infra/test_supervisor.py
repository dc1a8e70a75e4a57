"""The supervisor: restarts what fails, obeys what gives up, leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra.supervisor import Child, Supervisor


def _child(code: str, name: str = "w0") -> Child:
    return Child(name, [sys.executable, "-c", code])


_FOREVER = "import time; time.sleep(60)"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_all_done() -> None:
    assert Supervisor([_child("pass"), _child("pass", "w1")]).run() == 0


def test_failure_is_restarted_with_growing_pauses(tmp_path: Path) -> None:
    code = f"import sys; f = open({str(tmp_path / 'runs')!r}, 'a'); f.write('x'); f.close(); sys.exit(1)"
    said: list[str] = []
    supervisor = Supervisor([_child(code)], say=said.append, backoff=(0.02, 0.08))
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    _until(lambda: supervisor.restarts >= 4)
    supervisor.stop()
    thread.join(10)
    assert len((tmp_path / "runs").read_text()) >= 4
    assert said[0].startswith("w0 failed (exit code 1); starting it again in 0.0 s")
    assert "again in 0.1 s" in said[3]


@pytest.mark.parametrize("code", [2, 3])
def test_one_that_gives_up_stops_all(code: int) -> None:
    said: list[str] = []
    supervisor = Supervisor([_child(_FOREVER), _child(f"import sys; sys.exit({code})", "w1")], say=said.append)
    assert supervisor.run() == code
    assert said == [f"w1 gave up (exit code {code}); stopping"]
    assert supervisor.pids == {}


def test_killed_child_comes_back() -> None:
    said: list[str] = []
    supervisor = Supervisor([_child(_FOREVER)], say=said.append, backoff=(0.01, 0.01))
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    _until(lambda: "w0" in supervisor.pids)
    first = supervisor.pids["w0"]
    os.kill(first, signal.SIGKILL)
    _until(lambda: supervisor.pids.get("w0", first) != first)
    second = supervisor.pids["w0"]
    supervisor.stop()
    thread.join(10)
    assert not psutil.pid_exists(second)
    assert "SIGKILL" in said[0]


def test_stubborn_child_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    supervisor = Supervisor([_child(code)], say=lambda _: None, stop_timeout=0.3)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    _until(lambda: "w0" in supervisor.pids)
    time.sleep(0.3)
    supervisor.stop()
    thread.join(10)
    assert not thread.is_alive()


_RUN = (
    "import sys; from infra.supervisor import *\n"
    "code = 'import time; time.sleep(60)'\n"
    "s = Supervisor([Child('w0', [sys.executable, '-c', code])], say=print)\n"
    "import threading; t = threading.Timer(0.5, lambda: print(s.pids['w0'], flush=True)); t.start()\n"
    "sys.exit(s.run())"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_children(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _RUN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not psutil.pid_exists(child)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a signal at the parent's death")
def test_children_do_not_outlive_a_killed_supervisor() -> None:
    with subprocess.Popen([sys.executable, "-c", _RUN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait(10)
    _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_missing_program_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor([Child("w0", [str(tmp_path / "none")])], say=said.append)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    _until(lambda: bool(said))
    supervisor.stop()
    thread.join(10)
    assert "w0 cannot be started" in said[0]
