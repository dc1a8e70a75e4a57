"""Where figures turn from good to bad: ``thresholds.json``, for boards, Grafana's alert rules and the stream's.

What alerts of the stream have a threshold for (``schemas/alerts.json``) is taken from there by name, not written again.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.alerts import AlertPolicy, alert_policy

Steps = tuple[tuple[float | None, str], ...]
"""Colours by value, as Grafana has them: each holds from its value on, the first (None) below all."""


class Threshold(BaseModel):
    """A figure's two thresholds in the unit that boards show it in; immutable.

    Attributes:
        unit: Grafana's id of the unit.
        worse: on which side it is bad.
        warning: from where somebody should look.
        critical: from where somebody must; None where there is only one.
        rings: which of the two an alert rule of Grafana rings at; None: no rule uses it.
        for_: how long it must be so before an alert rule of Grafana fires, as Grafana writes it; None: no rule uses it.
        least: of less than so many nothing is said; None: there is no such bound.
        of: of what, such as impressions.
        meaning: what is measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str
    worse: Literal["above", "below"]
    warning: float
    critical: float | None = None
    rings: Literal["warning", "critical"] | None = None
    for_: str | None = Field(None, alias="for")
    least: int | None = None
    of: str | None = None
    meaning: str

    @model_validator(mode="after")
    def _ordered(self) -> "Threshold":
        if self.critical is not None and (self.critical > self.warning) != (self.worse == "above"):
            raise ValueError("critical must be beyond warning")
        return self

    @property
    def limit(self) -> float:
        """The number beyond which a rule rings."""
        found = self.critical if self.rings == "critical" else self.warning
        assert found is not None
        return found

    @property
    def steps(self) -> Steps:
        """Green, yellow, red."""
        if self.critical is None:
            return ((None, "green"), (self.warning, "red"))
        if self.worse == "above":
            return ((None, "green"), (self.warning, "yellow"), (self.critical, "red"))
        return ((None, "red"), (self.critical, "yellow"), (self.warning, "green"))


@cache
def thresholds(policy: AlertPolicy | None = None) -> dict[str, Threshold]:
    """All by name; of alerts of the stream those of the policy, by default of ``schemas/alerts.json``."""
    policy = policy or alert_policy({})
    found = {}
    for name, entry in json.loads(files("dashboards").joinpath("thresholds.json").read_text("utf-8")).items():
        if "alert" in entry:
            alert = entry.pop("alert")
            limits, per = policy.kinds[alert.pop("kind")].limits, alert.pop("per", 1)
            entry |= {name: limits[of] if name == "least" else limits[of] / per for name, of in alert.items()}
        found[name] = Threshold.model_validate(entry)
    return found
