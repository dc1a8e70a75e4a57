"""A time zone in which local days neither begin nor end while something is tried."""

from datetime import UTC, datetime

START_HOUR = 14
"""The local hour, early afternoon: the made-up world is even for three hours from then on."""


def even_zone(now: datetime) -> str:
    """A time zone in which it is now ``START_HOUR``: the world's day is even then, at any hour of the real day."""
    offset = START_HOUR - now.astimezone(UTC).hour
    # The signs of these names are those of POSIX: west is plus.
    return f"Etc/GMT{-offset:+d}" if offset else "Etc/GMT"
