"""A drill: something goes wrong on purpose, the boards show it, an alert comes, and goes when it is over."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

from fanpulse.screen import Step
from generators.config import WorldConfig
from infra.errors import FanpulseError
from infra.settings import Settings

Kind = Literal["cpm-spike", "churn-wave", "clickhouse-down", "broker-down"]
"""What can go wrong."""
PATIENCE_S = 180.0
"""How long an alert may take to come, and to go, after the moment at which it should have; seconds."""
LOOK_S = 0.5
"""Seconds between two looks at what alerts do."""


class Failed(FanpulseError):
    """An alert did not come, or did not go."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=1)


@dataclass(frozen=True)
class Scene:
    """Where a drill is held. ``boards``: their address; ``tell`` takes its steps; ``stop``: people want it to end."""

    settings: Settings
    boards: str
    tell: Callable[[Step], None]
    stop: threading.Event

    def board(self, name: str, since: int | str, until: int | str, **chosen: str) -> str:
        """Address of a board with its time range (UTC ms, or as Grafana writes it) and variables."""
        variables = {f"var-{variable}": value for variable, value in chosen.items()}
        asked = {"from": since, "to": until, **variables, "refresh": "5s"}
        return f"{self.boards}d/fanpulse-{name}?{urlencode(asked)}"


class Drill(ABC):
    """Held beside a demo, which sends a world's history, and is live then.

    Attributes:
        kind: what goes wrong.
        world: size of the world in a new home where nobody says another: ``days``, ``fans``, ``creators``.
        rate: live events/s; None: the natural rate.
        faster: what waiting times and ages of Grafana's rules are divided by.
    """

    kind: Kind
    world: Mapping[str, int]
    rate: float | None = None
    faster: int = 1

    @abstractmethod
    def refuse(self, here: Settings) -> None:
        """FanpulseError where it cannot be held; asked before anything is started."""

    @abstractmethod
    def hold(self, scene: Scene) -> None:
        """Holds it while the world is live. Returns when it is over, or soon after people want it to end.

        Raises:
            Failed: an alert did not come, or did not go.
        """

    def changed(self, here: Settings) -> dict[str, str]:
        """Settings of the worker that are others for it, by variable."""
        return {}

    def prepare(self, config: WorldConfig, now_ms: int) -> WorldConfig:
        """The world in which it is held."""
        return config

    def begin_ms(self, now_ms: int) -> int:
        """Up to when all is history, UTC ms."""
        return now_ms

    def clock(self) -> int:
        """What time it is where it is held, UTC ms."""
        return time.time_ns() // 1_000_000

    def step(self, name: str, said: str, more: Sequence[str] = ()) -> Step:
        """A step that is taken now."""
        return Step(name, time.time(), self.clock() / 1000, said, tuple(more))


def runbook(name: str) -> str:
    """Where the page of an alert is: ``cpm-high`` is in docs/runbooks/cpm-high.md."""
    return f"docs/runbooks/{name}.md"
