"""Settings of the world."""

from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

from generators.incidents import Incident
from schemas.topics import DAY_MS

DEFAULT_FANS = 10_000
DEFAULT_CREATORS = 40
DEFAULT_DAYS = 45


class WorldConfig(BaseModel):
    """Everything a world is made from. Two equal configurations produce the same bytes at the same time.

    ``start_ms``: nothing happens before it (UTC, ms); fans who are there at that moment had a life before it.
    ``fans``: about as many distinct fans as appear within 45 days; new ones keep arriving at an even rate afterwards.
    ``rate_factor``: multiplies how often fans come and advertisements are shown; 1.0 is the natural rate.
    ``duplicates``, ``late``, ``malformed``: shares of events sent twice, sent late, and of broken records added.
    ``incidents``: what goes wrong in it; before the first it is the world without them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(7, ge=0, lt=2**32)
    fans: int = Field(DEFAULT_FANS, ge=10, le=20_000_000)
    creators: int = Field(DEFAULT_CREATORS, ge=2, le=5_000)
    partitions: int = Field(4, ge=1, le=256)
    time_zone: str = "Asia/Shanghai"
    start_ms: int = Field(1_764_518_400_000, ge=1_000_000_000_000, le=4_000_000_000_000)
    rate_factor: float = Field(1.0, gt=0, le=1e7)
    duplicates: float = Field(0.0, ge=0, le=1)
    late: float = Field(0.0, ge=0, le=1)
    malformed: float = Field(0.0, ge=0, le=1)
    incidents: tuple[Incident, ...] = ()

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"unknown time zone {name!r}") from error
        return name

    @property
    def calm(self) -> bool:
        """True if neither duplicates, late nor malformed records are asked for."""
        return not (self.duplicates or self.late or self.malformed)


def history_start(now_ms: int, days: int) -> int:
    """Start of a history of so many days, rounded down to the hour so that it reads well, UTC ms."""
    return (now_ms - days * DAY_MS) // 3_600_000 * 3_600_000
