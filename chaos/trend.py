"""Does a measured value grow? A straight line by least squares, with an uncertainty that knows of waves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trend:
    """Growth of a value an hour, and its standard error; both NaN where there are fewer than four points."""

    per_hour: float
    error: float

    def exceeds(self, bound: float) -> bool:
        """Whether the growth is above a bound (an hour) by more than two standard errors."""
        return self.per_hour - 2 * self.error > bound


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of values measured at these moments (seconds, rising).

    What is left beside the line is seldom independent: memory goes up and down in waves. So the standard error of
    least squares is widened by the correlation of each residual with the next, as if there were fewer points.
    """
    if len(seconds) < 4:
        return Trend(math.nan, math.nan)
    hours = np.asarray(seconds, float) / 3600
    measured = np.asarray(values, float)
    from_mean = hours - hours.mean()
    spread = float(from_mean @ from_mean)
    slope = float(from_mean @ measured) / spread
    left = measured - measured.mean() - slope * from_mean
    squares = float(left @ left)
    if squares <= 1e-18 * max(1.0, float(measured @ measured)):
        return Trend(slope, 0.0)
    alike = min(max(float(left[1:] @ left[:-1]) / squares, 0.0), 0.99)
    error = math.sqrt(squares / (len(measured) - 2) / spread * (1 + alike) / (1 - alike))
    return Trend(slope, error)
