"""Services: started once, recognised by more than a number, stopped for good."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import InfraError
from infra.home import Home
from infra.process import Service

_SLEEPER = "import sys, time, pathlib; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _SLEEPER


def _service(home: Path, code: str = _SLEEPER, timeout: float = 10) -> Service:
    ready = home / "ready"
    return Service(
        home=Home(home),
        name="sleeper",
        argv=[sys.executable, "-c", code, str(ready)],
        ready=ready.exists,
        timeout=timeout,
        stop_timeout=0.5,
    )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = _service(tmp_path)
    yield service
    service.stop()


def test_start_status_stop(service: Service) -> None:
    assert service.status().state == "stopped"
    assert service.start() is True
    first = service.status()
    assert first.state == "running"
    assert first.pid is not None
    assert first.since is not None
    assert service.start() is False
    assert service.status() == first
    assert service.stop() is True
    assert not psutil.pid_exists(first.pid)
    assert service.status().state == "stopped"
    assert service.stop() is False


def test_killed_one_is_crashed_and_starts_again(service: Service) -> None:
    service.start()
    pid = service.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert service.status().state == "crashed"
    assert service.start() is True
    assert service.status().pid != pid


def test_reused_pid_is_not_ours(service: Service) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        service.start()
        record = json.loads(service.pid_file.read_bytes())
        service.stop()
        service.pid_file.write_text(json.dumps({**record, "pid": stranger.pid, "create_time": 1.0}))
        assert service.status().state == "crashed"
        assert service.stop() is False
        assert stranger.poll() is None
        assert not service.pid_file.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_own_process_is_known_after_the_clock_was_set(service: Service) -> None:
    service.start()
    record = json.loads(service.pid_file.read_bytes())
    service.pid_file.write_text(json.dumps({**record, "create_time": record["create_time"] - 3600}))
    assert service.status().state == "running"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x"}'])
def test_broken_pid_file(service: Service, content: str) -> None:
    service.home.create()
    service.pid_file.write_text(content)
    assert service.status().state == "crashed"
    assert service.start() is True


def test_crash_at_start_shows_the_log(tmp_path: Path) -> None:
    service = _service(tmp_path, "import sys; print('no such disk'); sys.exit(7)")
    with pytest.raises(InfraError, match=r"sleeper stopped while it was starting; see .*sleeper\.log: no such disk"):
        service.start()
    assert service.status().state == "stopped"


def test_never_ready_is_stopped(tmp_path: Path) -> None:
    service = _service(tmp_path, "import time; print('still thinking', flush=True); time.sleep(60)", timeout=0.5)
    with pytest.raises(InfraError, match=r"not ready within 0 s.*still thinking|not ready within"):
        service.start()
    assert service.status().state == "stopped"


def test_stubborn_one_is_killed(tmp_path: Path) -> None:
    service = _service(tmp_path, _STUBBORN)
    service.start()
    began = time.monotonic()
    assert service.stop() is True
    assert 0.4 < time.monotonic() - began < 5
    assert service.status().state == "stopped"


def test_missing_program(tmp_path: Path) -> None:
    service = Service(home=Home(tmp_path), name="none", argv=[str(tmp_path / "none")], ready=lambda: True)
    with pytest.raises(InfraError, match="none: cannot start .*No such file"):
        service.start()


def test_log_is_private_and_rotated(service: Service) -> None:
    service.home.create()
    service.log.write_bytes(b"x" * (17 * 1024 * 1024))
    service.start()
    assert service.log.with_suffix(".log.1").stat().st_size == 17 * 1024 * 1024
    assert service.log.stat().st_mode & 0o777 == 0o600
