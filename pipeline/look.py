"""A look: what figures are asked for, to decide on alerts."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from clickhouse_connect.driver.client import Client

from infra.settings import Settings


@dataclass(frozen=True)
class Look:
    """What figures are asked for: days from ``first`` to ``closed``, and the one after it as far as it was ``reached``
    (UTC ms). ``watched``: creators with an open alert, however few fans they have."""

    client: Client
    settings: Settings
    first: date
    closed: date
    reached: int
    watched: frozenset[str]

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.settings.time_zone)

    def looks_at(self, figures: str) -> bool:
        """Whether any kind that is switched on looks at these."""
        return any(kind.enabled and kind.figures == figures for kind in self.settings.alert_policy.kinds.values())
