"""Keeps several child processes running in the foreground until it is told to stop."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

# A child that ends with one of these says that another try would end the same way.
FINAL_CODES = (2, 3)
_POLL = 0.05
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Child:
    """A process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""
    log: Path | None = None
    """File that its output is appended to; None: the output of this process."""


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    restarts: int = 0
    done: bool = False


class Supervisor:
    """Runs children and restarts those that fail, with a growing pause.

    A child that exits with 0 is done; with 2 (the user must change something) or 3 (refused on purpose) everything
    is stopped and that code is returned; with any other it is restarted. SIGTERM and SIGINT to this process stop all
    children with SIGTERM and, after ``stop_timeout``, SIGKILL. Should this process be killed outright, its children
    are terminated too (Linux).

    Args:
        children: what to run.
        say: gets one line for each event.
        backoff: shortest and longest pause before a restart, seconds; doubled at each failure in a row.
        healthy_after: seconds of running after which earlier failures are forgotten.
        stop_timeout: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        backoff: tuple[float, float] = (0.5, 30.0),
        healthy_after: float = 60.0,
        stop_timeout: float = 20.0,
    ) -> None:
        self._all = [_Running(child) for child in children]
        self._say = say
        self._backoff = backoff
        self._healthy_after = healthy_after
        self._stop_timeout = stop_timeout
        self._stopping = threading.Event()

    @property
    def restarts(self) -> int:
        """How often children were restarted so far."""
        return sum(each.restarts for each in self._all)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now, by name."""
        return {each.child.name: each.process.pid for each in self._all if each.process is not None}

    def stop(self) -> None:
        """Make :meth:`run` stop the children and return; may be called from any thread or signal handler."""
        self._stopping.set()

    def run(self) -> int:
        """Run until every child is done, one gives up, or :meth:`stop` or a signal; returns the exit code.

        Called in the main thread it handles SIGTERM and SIGINT itself, and gives them back afterwards.
        """
        with self._signals():
            try:
                while not self._stopping.is_set():
                    code = self._step()
                    if code is not None:
                        return code
                    self._stopping.wait(_POLL)
                return 0
            finally:
                self._end()

    def _step(self) -> int | None:
        now = time.monotonic()
        for each in self._all:
            if each.done:
                continue
            if each.process is None:
                if now >= each.due:
                    self._spawn(each)
                continue
            code = each.process.poll()
            if code is None:
                continue
            each.process = None
            if code in FINAL_CODES:
                self._say(f"{each.child.name} gave up (exit code {code}); stopping")
                return code
            if code == 0:
                each.done = True
                continue
            each.failures = 1 if now - each.started >= self._healthy_after else each.failures + 1
            pause = min(self._backoff[1], self._backoff[0] * 2 ** (each.failures - 1))
            each.due = now + pause
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._say(f"{each.child.name} failed ({reason}); starting it again in {pause:.1f} s")
        return 0 if all(each.done for each in self._all) else None

    def _spawn(self, each: _Running) -> None:
        each.restarts += each.started > 0
        each.started = time.monotonic()
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(each.child.log.open("ab")) if each.child.log is not None else None
            try:
                # A session of its own: Ctrl-C reaches the children through us alone, once.
                each.process = subprocess.Popen(
                    list(each.child.argv),
                    env={**os.environ, **each.child.env},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            except OSError as error:
                each.failures += 1
                each.due = each.started + self._backoff[1]
                self._say(f"{each.child.name} cannot be started: {each.child.argv[0]} ({error.strerror})")

    def _end(self) -> None:
        running = [each.process for each in self._all if each.process is not None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + self._stop_timeout
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"pid {process.pid} did not stop within {self._stop_timeout:.0f} s; killing it")
                process.kill()
                process.wait()
        for each in self._all:
            each.process = None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopping.set()

        former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    # Runs in the child between fork and exec: nothing here may take a lock or import.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
