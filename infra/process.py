"""One detached local process: started once, recognised later, stopped cleanly."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

from infra.errors import InfraError
from infra.home import Home, write_private

_LOG_LIMIT = 16 * 1024 * 1024
_LOG_TAIL = 600

# A child of a process that lives on must be kept referenced until it is reaped, or subprocess warns when it forgets it.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class ServiceStatus:
    """What is known of a service now."""

    state: Literal["running", "stopped", "crashed"]
    """``crashed``: a pid file is there and its process is gone, or is another one that took the number."""
    pid: int | None = None
    since: datetime | None = None
    """Start of the process, UTC."""


@dataclass(frozen=True)
class Service:
    """A process of this home that outlives the command that starts it.

    Args:
        home: whose ``run/`` and ``logs/`` are used.
        name: names ``run/<name>.json`` and ``logs/<name>.log``.
        argv: the command; it must name the home or its content, as it helps to recognise the process.
        ready: true as soon as the service answers; asked about 20 times a second.
        env: added to this process's environment.
        cwd: working directory.
        timeout: seconds within which it must be ready.
        stop_timeout: seconds between SIGTERM and SIGKILL.
    """

    home: Home
    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    timeout: float = 30.0
    stop_timeout: float = 15.0

    @property
    def log(self) -> Path:
        """File of its standard output and error."""
        return self.home.logs / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """File that says which process it is."""
        return self.home.run / f"{self.name}.json"

    def status(self) -> ServiceStatus:
        """Whether it runs; a pid that was given to another process since does not count."""
        try:
            record = json.loads(self.pid_file.read_bytes())
            pid, created, argv = int(record["pid"]), float(record["create_time"]), list(record["argv"])
        except FileNotFoundError:
            return ServiceStatus("stopped")
        except (OSError, ValueError, KeyError, TypeError):
            return ServiceStatus("crashed")
        process = _find(pid, created, argv)
        if process is None:
            return ServiceStatus("crashed")
        return ServiceStatus("running", pid, datetime.fromtimestamp(created, UTC))

    def start(self) -> bool:
        """Start it and wait until it is ready.

        Returns:
            False if it was running already (then it is only waited for).

        Raises:
            InfraError: it died or was not ready in time; the line ends with the last lines of its log.
        """
        self.home.create()
        with self.home.exclusive(self.name, wait=True):
            status = self.status()
            if status.state == "running" and status.pid is not None:
                self._await(status.pid)
                return False
            _rotate(self.log)
            process = self._spawn()
            try:
                self._await(process.pid)
            except BaseException:
                self._stop()
                raise
            return True

    def stop(self) -> bool:
        """Stop it: SIGTERM, after ``stop_timeout`` SIGKILL. Returns False if it was not running."""
        if not self.pid_file.exists():
            return False
        with self.home.exclusive(self.name, wait=True):
            return self._stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            os.chmod(self.log, 0o600)
            try:
                process = subprocess.Popen(
                    list(self.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.env},
                    cwd=self.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise InfraError(f"{self.name}: cannot start {self.argv[0]} ({error.strerror})") from None
        _CHILDREN[process.pid] = process
        try:
            created = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:
            created = time.time()
        record = {"pid": process.pid, "create_time": created, "argv": list(self.argv)}
        write_private(self.pid_file, json.dumps(record) + "\n")
        return process

    def _await(self, pid: int) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            if not _alive(pid):
                raise InfraError(f"{self.name} stopped while it was starting; see {self.log}{_tail(self.log)}")
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise InfraError(
                    f"{self.name} was not ready within {self.timeout:.0f} s; see {self.log}{_tail(self.log)}"
                )
            time.sleep(0.05)

    def _stop(self) -> bool:
        status = self.status()
        running = status.state == "running" and status.pid is not None
        if running:
            assert status.pid is not None
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(status.pid)
                process.terminate()
                try:
                    process.wait(self.stop_timeout)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(10)
            child = _CHILDREN.pop(status.pid, None)
            if child is not None:
                child.wait(1)
        self.pid_file.unlink(missing_ok=True)
        return running


def _find(pid: int, created: float, argv: list[str]) -> psutil.Process | None:
    """The process if it is still the one that was started: by its start time, or, as that moves when the
    machine's clock is set, by its command."""
    if not _alive(pid):
        return None
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 1.0 or process.cmdline() == argv:
            return process
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    return None


def _alive(pid: int) -> bool:
    child = _CHILDREN.get(pid)
    if child is not None:
        if child.poll() is None:
            return True
        del _CHILDREN[pid]
        return False
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT:
            os.replace(log, log.with_suffix(".log.1"))


def _tail(log: Path) -> str:
    """The last lines of a log, in one line."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8192))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    text = " | ".join(line.strip() for line in lines[-6:] if line.strip())
    return f": {text[-_LOG_TAIL:]}" if text else ""
