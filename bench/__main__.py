"""``python -m bench``: all measurements, or those that are named."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# As in a worker: one core's work. Read when polars is imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

from rich.console import Console

from bench import boards, decisions, dedupe, experiments, generate, lifecycle, moves, recovery, rules, stages, worker
from bench.result import Result, Wrong, show
from infra.errors import FanpulseError

Say = Callable[[str], None]

BENCHES: dict[str, tuple[str, Callable[[argparse.Namespace, Say], Result]]] = {
    "worker": (
        "one worker, Kafka to ClickHouse, beside a plain Faust agent (about 2 minutes)",
        lambda given, say: worker.bench(given.events, given.runs, say, given.plain, given.strangers),
    ),
    "stages": ("the stages of the work in this process, by size of block", lambda given, say: stages.bench(say)),
    "dedupe": ("memory and rebuilding of what a worker remembers", lambda given, say: dedupe.bench(say)),
    "lifecycle": (
        "the lifecycle fold: memory, restoring, a midnight, the cost of a fact",
        lambda given, say: lifecycle.bench(say),
    ),
    "recovery": (
        "the state of 1 and of 3 million fans from a real ClickHouse, as a worker starts",
        lambda given, say: recovery.bench(say),
    ),
    "moves": ("from an event to its move in ClickHouse, under load", lambda given, say: moves.bench(say)),
    "rules": ("budget rules: 20 for 1,000 campaigns, as a window closes", lambda given, say: rules.bench(say)),
    "decisions": (
        "budget rules: from a closing to rows and records, a closing of 1,000 campaigns, a restart (4 minutes)",
        lambda given, say: decisions.bench(say),
    ),
    "experiments": (
        "A/B tests whose truth is known: wrong verdicts, and how soon right ones come (about 2 minutes)",
        lambda given, say: experiments.bench(say),
    ),
    "boards": (
        "the query of every panel of every board, on about a million raw rows, or --rows of them",
        lambda given, say: boards.bench(given.rows, given.home, say),
    ),
    "generate": ("the generators, on one core", lambda given, say: generate.bench()),
}
"""What there is: a line of help, and how to run it."""


def main() -> None:
    """Runs, prints; exit code 1 if something was computed wrong, 2 if something is missing, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        "python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:13}{line}" for name, (line, _) in BENCHES.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; all if none is named")
    parser.add_argument("--events", type=int, default=1_000_000, help="events in the topic (worker)")
    parser.add_argument("--runs", type=int, default=3, help="runs of the worker; the median is printed")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="without the plain agent (worker)")
    parser.add_argument("--strangers", action="store_true", help="a load in which nobody is anybody's fan (worker)")
    parser.add_argument("--rows", type=int, default=boards.ROWS, help="raw rows of the database (boards)")
    parser.add_argument("--home", type=Path, help="measure the database of this home instead (boards)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHES]:
        parser.error(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    if given.events < 1000 or given.rows < 1000 or given.runs < 1:
        parser.error("at least 1000 events and one run")
    signal.signal(signal.SIGTERM, _terminate)
    progress = Console(stderr=True)
    results = []
    code = 0
    try:
        for name in given.names or BENCHES:
            with progress.status(name) as status:
                say = status.update if sys.stderr.isatty() else _silent
                result = BENCHES[name][1](given, say)
            results.append(result)
            if not given.json:
                show(result)
    except Wrong as error:
        print(f"bench: {error}", file=sys.stderr)
        code = 1
    except FanpulseError as error:
        print(f"bench: {error.message}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        code = 130
    ok = code == 0 and all(result.ok for result in results)
    if given.json:
        print(json.dumps({"ok": ok, "benches": [result.as_json() for result in results]}, indent=2, ensure_ascii=False))
    sys.exit(code or (0 if ok else 1))


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM as Ctrl-C: what was started is stopped."""
    raise KeyboardInterrupt


def _silent(line: str) -> None:
    """Where nobody watches."""


if __name__ == "__main__":
    main()
