"""The day and the week: when people are on their phones."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from generators.draws import Floats, Ints
from schemas.topics import DAY_MS

HOUR_MS = 3_600_000
MINUTE_MS = 60_000

# Relative activity by local hour. All peak 19-22; they differ in the rest of the day.
_OFFICE = [4, 2, 1, 1, 1, 2, 6, 12, 11, 7, 7, 9, 18, 15, 8, 8, 9, 12, 20, 34, 42, 40, 26, 12]
_STUDENT = [5, 2, 1, 1, 1, 2, 6, 8, 6, 5, 5, 9, 22, 16, 6, 6, 8, 16, 22, 32, 38, 42, 32, 14]
_PARENT = [2, 1, 1, 1, 1, 4, 8, 9, 12, 15, 15, 13, 13, 17, 14, 11, 9, 9, 13, 26, 38, 36, 18, 6]
_NIGHT = [20, 13, 7, 4, 2, 1, 2, 4, 5, 6, 7, 9, 12, 11, 10, 10, 11, 12, 16, 24, 30, 34, 36, 30]
_EARLY = [1, 1, 1, 1, 3, 10, 18, 18, 14, 10, 9, 11, 13, 11, 9, 9, 10, 13, 20, 32, 34, 25, 8, 2]
HABITS: Floats = np.array([[w / sum(row) * 24 for w in row] for row in (_OFFICE, _STUDENT, _PARENT, _NIGHT, _EARLY)])
"""Weight of each local hour for each habit, mean 1 over the day. Shape (5, 24)."""
WEEK: Floats = np.array([0.90, 0.90, 0.92, 0.94, 1.04, 1.24, 1.20]) / (7.14 / 7)
"""Weight of each weekday, Monday first, mean 1 over the week."""


class Clock:
    """Local time of a zone. Offsets are looked up once per UTC quarter hour."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._offsets: dict[int, int] = {}

    def offset_ms(self, at_ms: int) -> int:
        """What to add to UTC ms to get local ms, at a moment."""
        quarter = at_ms // (15 * MINUTE_MS)
        found = self._offsets.get(quarter)
        if found is None:
            if len(self._offsets) > 100_000:
                self._offsets.clear()
            delta = datetime.fromtimestamp(quarter * 900, UTC).astimezone(self._zone).utcoffset()
            found = 0 if delta is None else int(delta.total_seconds() * 1000)
            self._offsets[quarter] = found
        return found

    def day(self, at_ms: int) -> int:
        """Local calendar day, counted from 1970-01-01."""
        return (at_ms + self.offset_ms(at_ms)) // DAY_MS

    def midnight_ms(self, day: int) -> int:
        """UTC ms at which a local calendar day begins."""
        guess = day * DAY_MS - self.offset_ms(day * DAY_MS)
        return day * DAY_MS - self.offset_ms(guess)


def weights(clock: Clock, starts_ms: Ints) -> Floats:
    """Activity weight of each habit at each bucket start. Shape (habits, buckets), mean about 1 over a week."""
    local = np.array([at + clock.offset_ms(at) for at in starts_ms.tolist()], dtype=np.int64)
    days, rest = np.divmod(local, DAY_MS)
    result: Floats = HABITS[:, rest // HOUR_MS] * WEEK[(days + 3) % 7]
    return result
