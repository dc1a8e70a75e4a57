"""A worker without the agents of fans, to tell what they cost: ``python -m bench.without_fans INDEX``."""

from typing import Any, cast

from pipeline import app, worker
from pipeline.app import Worker

LEFT_OUT = ("facts", "lifecycle")


def main() -> None:
    """Entry of the process."""
    app.AGENTS = tuple(agent for agent in app.AGENTS if agent.name not in LEFT_OUT)
    # Nobody is there to tell the fan log of the time.
    cast(Any, Worker)._tell_time = lambda self, now: None
    worker.main()


if __name__ == "__main__":
    main()
