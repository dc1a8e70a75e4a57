"""``python -m chaos``: injects faults into real workers and compares every table with what was sent."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

# As in a worker: one core's work. Read when polars is imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from rich.console import Console

from chaos.fleet import Wrong
from chaos.report import Outcome, show
from chaos.scenarios import SCENARIOS
from chaos.scene import Scene
from infra.errors import FanpulseError
from infra.settings import PREFIX
from infra.stack import Stack, temporary


def run(stack: Stack, name: str, seed: int, quick: bool, say: Callable[[str], None], keep: bool = False) -> Outcome:
    """Runs a scenario; whatever goes wrong on the way is in the outcome, and the next one can run."""
    scene = Scene(stack, name, seed, quick, say, keep)
    try:
        # A scenario may have left a service dead.
        stack.up()
        with scene:
            SCENARIOS[name].run(scene)
    except Exception as error:
        where = "" if isinstance(error, Wrong) else " at " + _place(error)
        scene.outcome.failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}{where}")
        scene.outcome.events = scene.truth.count
    return scene.outcome


def _place(error: Exception) -> str:
    """Files and lines that an exception came through."""
    return " < ".join(f"{Path(each.filename).name}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__))


def main() -> None:
    """Exit code 0: all held; 1: something was lost, doubled, wrong or unexplained; 2: cannot run; 130: interrupted."""
    parser = argparse.ArgumentParser(
        "python -m chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:18}{scenario.line}" for name, scenario in SCENARIOS.items()),
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a scenario; may be given more than once")
    parser.add_argument("--seed", type=int, default=1, help="decides the load and when what fails (default 1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few faults of each kind (about three minutes)")
    size.add_argument("--full", action="store_false", dest="quick", help="all of them (the default)")
    parser.add_argument("--keep", action="store_true", help="keep the home: databases, logs, ground truth")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args()
    for name in given.only or ():
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, _terminate)
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    # Libraries would say of every service that we kill that it is away.
    logging.basicConfig(level=logging.CRITICAL)
    logging.disable(logging.CRITICAL - 1)
    progress = Console(stderr=True)
    outcomes: list[Outcome] = []
    code = 0
    try:
        with temporary("fanpulse-chaos-", given.keep) as stack:
            if given.keep:
                print(
                    f"chaos: keeps {stack.home.path}; look with: fanpulse up --home {stack.home.path}", file=sys.stderr
                )
            for name in given.only or SCENARIOS:
                with _saying(progress, name) as say:
                    outcomes.append(run(stack, name, given.seed, given.quick, say, given.keep))
    except FanpulseError as error:
        print(f"chaos: {error.message}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("chaos: interrupted", file=sys.stderr)
        code = 130
    ok = code == 0 and all(outcome.ok for outcome in outcomes)
    if given.json:
        print(json.dumps({"ok": ok, "scenarios": [each.as_json() for each in outcomes]}, indent=2, ensure_ascii=False))
    elif outcomes:
        show(outcomes, Console())
    sys.exit(code or (0 if ok else 1))


@contextlib.contextmanager
def _saying(progress: Console, name: str) -> Iterator[Callable[[str], None]]:
    """Where to say what goes on: one line that changes on a terminal, else a line each with its second."""
    if progress.is_terminal:
        with progress.status(name) as status:
            yield lambda line: status.update(f"{name}: {line}")
    else:
        began = time.monotonic()
        yield lambda line: print(f"{name} {time.monotonic() - began:6.1f} s: {line}", file=sys.stderr, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM as Ctrl-C: what was started is stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
