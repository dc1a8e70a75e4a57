"""``fanpulse worker``."""

import sys
from typing import Annotated

import typer

from fanpulse.context import settings
from fanpulse.figures import read_health
from infra.errors import FanpulseError
from infra.home import Home
from infra.process import Service
from infra.settings import Settings
from infra.supervisor import Child, Supervisor
from infra.topics import ensure_topics
from pipeline.migrate import migrate


def worker(
    ctx: typer.Context,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; at most one a partition does work.")] = 1,
    first: Annotated[int, typer.Option(min=0, help="Number of the first; others count on. Unique per machine.")] = 0,
) -> None:
    """Run workers in the foreground: they read Kafka and keep the figures in ClickHouse up to date.

    Topics and tables are made where they are missing. A worker that fails is started again; nothing is lost or
    counted twice. Ctrl-C stops them.

    \b
    Examples:
      fanpulse worker
      fanpulse worker --workers 4
      FANPULSE_KAFKA=kafka1:9092 fanpulse worker --workers 2
    """
    here = settings(ctx)
    ensure_topics(here)
    migrate(here)
    raise typer.Exit(Supervisor(children(here, workers, first)).run())


def children(here: Settings, workers: int, first: int = 0) -> list[Child]:
    """The worker processes of a home."""
    return [
        Child(
            f"worker-{index}", [sys.executable, "-m", "pipeline.worker", str(index)], {"FANPULSE_HOME": str(here.home)}
        )
        for index in range(first, first + workers)
    ]


def given_up(here: Settings) -> FanpulseError:
    """Why the background worker of a home ended: what it said last, as an error of exit code 3."""
    log = worker_service(here, 1).log
    said = [line for line in log.read_text(errors="replace").splitlines()[-5:] if line.startswith("fanpulse: ")]
    why = said[-1].removeprefix("fanpulse: ") if said else f"it gave no reason; see {log}"
    return FanpulseError(f"the worker ended: {why}", exit_code=3)


def worker_service(here: Settings, workers: int) -> Service:
    """The workers of a home as one background service, ready when each answers its health address."""
    home = Home(here.home)

    def ready() -> bool:
        return read_health(here, range(workers)).workers == workers

    argv = [sys.executable, "-m", "fanpulse.cli", "worker", "--workers", str(workers), "--home", str(here.home)]
    return Service(home, "worker", argv, ready, timeout=60.0)
