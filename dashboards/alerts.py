"""Alert rules of Grafana: what rings without a worker, too, such as that there is none."""

from dataclasses import dataclass
from typing import Literal

from dashboards.thresholds import Threshold, thresholds


@dataclass(frozen=True)
class Rule:
    """One alert rule: a query whose numbers are held against a threshold, a line of them each an alert of its own.

    Attributes:
        uid: of the rule in Grafana, and the name of its page in docs/runbooks; never changed.
        title: what it is called.
        sql: query with columns of text, which become labels, and one number.
        threshold: name in ``thresholds.json``.
        severity: which of its two values; critical is for what cannot wait.
        over_s: length of the time range of the query, seconds.
        summary: what is said, a Go template of Grafana.
        board: uid of the board that shows it.
        panel: title of the panel there.
        no_data: what it means if there is nothing: silence is OK or itself the alarm.
    """

    uid: str
    title: str
    sql: str
    threshold: str
    severity: Literal["warning", "critical"]
    over_s: int
    summary: str
    board: str
    panel: str
    no_data: Literal["OK", "Alerting"] = "OK"

    @property
    def may_be_empty(self) -> bool:
        """Whether an answer without rows is nothing unusual."""
        return self.no_data == "OK"

    @property
    def against(self) -> Threshold:
        """The threshold it is held against."""
        return thresholds()[self.threshold]

    @property
    def limit(self) -> float:
        """The number beyond which it rings."""
        found = self.against
        return found.warning if self.severity == "warning" or found.critical is None else found.critical


RULES: tuple[Rule, ...] = ()
