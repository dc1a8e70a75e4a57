"""A worker without the agents of fans, to tell what they cost: ``python -m bench.without_fans INDEX``."""

from pipeline import app, worker

LEFT_OUT = ("facts", "lifecycle", "touches", "attribution")


def main() -> None:
    """Entry of the process."""
    app.AGENTS = tuple(agent for agent in app.AGENTS if agent.name not in LEFT_OUT)
    worker.main()


if __name__ == "__main__":
    main()
