"""One worker process: ``python -m pipeline.worker INDEX``, started by ``fanpulse worker``."""

import ctypes
import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

# Each worker is one core's work; polars' own threads would only compete with ClickHouse and Kafka. Read at import.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import mode

from infra.errors import FanpulseError, InfraError
from infra.home import Home
from infra.settings import Settings, load
from pipeline.app import Worker
from pipeline.metrics import Metrics
from pipeline.refresh import Refresher

log = logging.getLogger("fanpulse")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 1024 * 1024
"""Allocations of so many bytes are given back to the system when they are freed."""


def run(settings: Settings, index: int) -> None:
    """Runs worker ``index`` until SIGTERM or SIGINT, or until it stops itself; ends the process.

    Exit codes: 0 told to stop, 1 failed (start it again), 2 something to be mended first, 3 going on would be wrong.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout, force=True
    )
    logging.getLogger().handlers[0].addFilter(_once_in_a_while())
    log.setLevel(logging.INFO)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    give_back()
    home = Home(settings.home)
    home.create()
    lock = _only_one(home.run / f"worker-{index}.lock", index)
    worker = Worker(settings, index, Metrics(), _leave)
    log.info("worker %d: starting", index)
    Refresher(settings, index).start()
    process = mode.Worker(
        worker.app, loglevel=None, logfile=None, daemon=True, redirect_stdouts=False, override_logging=False
    )
    try:
        process.execute_from_commandline()
    finally:
        lock.close()


def give_back() -> None:
    """Has the C library give large allocations back when they are freed, where it is glibc.

    By itself it soon keeps up to 32 MB of each for later. The tables of event ids come and go every few minutes in
    such sizes, and what lies between them makes the process grow for hours.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, LARGE)


def _once_in_a_while(seconds: float = 10.0) -> Callable[[logging.LogRecord], bool]:
    """A filter that lets the same warning of a library pass only so often: aiokafka says ten times a second that
    Kafka is away."""
    said: dict[tuple[str, str], float] = {}

    def passes(record: logging.LogRecord) -> bool:
        if record.name.startswith(("fanpulse", "pipeline")):
            return True
        what, now = (record.name, str(record.msg)), time.monotonic()
        if now - said.get(what, -seconds) < seconds:
            return False
        said[what] = now
        return True

    return passes


def _leave(code: int, reason: str) -> None:
    """Ends the process at once: every moment is as good as a crash, and none loses or doubles anything."""
    log.error("stopping: %s", reason)
    print(f"fanpulse: {reason}", file=sys.stderr, flush=True)
    logging.shutdown()
    os._exit(code)


def _only_one(path: Path, index: int) -> TextIO:
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FanpulseError(f"worker {index} of this home is already running") from None
    return lock


def main() -> None:
    """Entry of the process."""
    try:
        run(load(None), int(sys.argv[1]))
    except FanpulseError as error:
        print(f"fanpulse: {error.message}", file=sys.stderr)
        # A service that is away may come back: 1 lets the supervisor try again.
        sys.exit(1 if isinstance(error, InfraError) else error.exit_code)


if __name__ == "__main__":
    main()
