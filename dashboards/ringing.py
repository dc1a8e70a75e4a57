"""Which alert rules ring, judged as Grafana judges them: for a machine that has none, and for drills.

Grafana asks every rule once a minute. Each set of labels that the answer has a number for is an instance, with a state
of its own:

- *normal*; *pending*, while the number is beyond the threshold for less than the ``for`` of the rule; then *alerting*,
  up to the first number that is not
  (https://grafana.com/docs/grafana/v12.2/alerting/fundamentals/alert-rule-evaluation/).
- Without any number there is no data. What the rule then takes it for, ``no_data``, holds for all of its instances. A
  query that fails is an instance without labels in state *error*, which does not wait for ``for``
  (https://grafana.com/docs/grafana/v12.2/alerting/fundamentals/alert-rule-evaluation/nodata-and-error-states/).
- An instance that an answer leaves out stays as it is; two evaluations later it is resolved, and forgotten
  (https://grafana.com/docs/grafana/v12.2/alerting/fundamentals/alert-rule-evaluation/stale-alert-instances/).

That is Grafana 12, which ``infra/compose.yaml`` starts. From 13 on errors wait for ``for``, too. No rule keeps a state
*no data*: each says that silence is OK or the alarm itself.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from dashboards.alerts import Rule
from dashboards.macros import NotExpandable, expand
from infra.connect import refusal
from infra.errors import InfraError

INTERVAL_S = 60
"""Seconds between two evaluations, the ``interval`` of ``alerting.yaml``."""
QUERY_S = 10
"""Seconds that the query of a rule may run."""

Labels = tuple[tuple[str, str], ...]
"""Names and values, ordered by name."""
State = Literal["normal", "pending", "alerting", "error"]

_MISSING = 2
_DURATION = re.compile(r"(\d+)([smhd])")
_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"\{\{ (.+?) \}\}")
_LABEL = re.compile(r"\$labels\.(\w+)")
_VALUE = re.compile(r'(?:(\w+) |printf "(%[^"]+)" )\$values\.A\.Value')


@dataclass(frozen=True)
class Answer:
    """What the query of a rule gave.

    Attributes:
        values: the number of each set of labels, None where it is NULL; empty: no data.
        error: why it could not be asked; None: it could.
    """

    values: Mapping[Labels, float | None] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Verdict:
    """How one instance of a rule is.

    Attributes:
        rule: which.
        labels: what it is about; empty: the rule as a whole.
        state: as Grafana has it.
        since_ms: when this state began, UTC ms.
        value: the number that was judged; None: there was none.
        said: a sentence with the number, or why there is none.
    """

    rule: Rule
    labels: Mapping[str, str]
    state: State
    since_ms: int
    value: float | None
    said: str

    @property
    def rings(self) -> bool:
        """Whether Grafana would tell somebody."""
        return self.state in ("alerting", "error")


class Ringing:
    """The states of rules, from evaluation to evaluation.

    Args:
        rules: which.
        faster: what waiting times, ages and the interval are divided by: a drill has no quarter of an hour. At least 1.
    """

    def __init__(self, rules: Iterable[Rule], faster: int = 1) -> None:
        self._rules = tuple(rules)
        self._faster = faster
        self._known: dict[str, dict[Labels, _Instance]] = {rule.uid: {} for rule in self._rules}

    @property
    def interval_s(self) -> float:
        """Seconds from one evaluation to the next."""
        return INTERVAL_S / self._faster

    def look(self, now_ms: int, answers: Mapping[str, Answer]) -> tuple[Verdict, ...]:
        """The states after another evaluation, by rule and labels; one that it resolves and forgets is there once more.

        Args:
            now_ms: when it is, UTC ms; later than before.
            answers: of every rule by uid.
        """
        verdicts = []
        for rule in self._rules:
            found = _evaluated(rule, self._known[rule.uid], answers[rule.uid], now_ms, self._faster)
            self._known[rule.uid] = {labels: each for labels, each in found.items() if not each.left_out}
            for labels, each in sorted(found.items()):
                verdicts.append(Verdict(rule, dict(labels), each.state, each.since_ms, each.value, each.said))
        return tuple(verdicts)


def ask(client_factory: Callable[[], Client], rules: Sequence[Rule], now_ms: int, zone: str) -> dict[str, Answer]:
    """The answers of all rules by uid. A server that is away is an answer, too.

    Args:
        client_factory: makes a client of the analyst, which is closed at the end; an ``InfraError`` of it is an answer.
        rules: which.
        now_ms: end of the time ranges, UTC ms.
        zone: time zone of local days.
    """
    answers: dict[str, Answer] = {}
    away = ""
    try:
        with contextlib.closing(client_factory()) as client:
            for rule in rules:
                answers[rule.uid] = _asked(client, rule, now_ms, zone)
    except InfraError as error:
        away = error.message
    except (ClickHouseError, HTTPError, OSError):
        # Not asked again for each of the others: a server that hangs would take the time limit every time.
        away = "ClickHouse does not answer; is it running? fanpulse status"
    return {rule.uid: answers.get(rule.uid, Answer(error=away)) for rule in rules}


@dataclass(frozen=True)
class _Instance:
    state: State
    since_ms: int
    looked_ms: int
    value: float | None
    said: str
    left_out: bool = False


def _evaluated(
    rule: Rule, known: Mapping[Labels, _Instance], answer: Answer, now_ms: int, faster: int
) -> dict[Labels, _Instance]:
    """All instances of a rule after an evaluation, among them those that are to be forgotten."""
    found = {}
    for labels, value in _judged(known, answer).items():
        before = known.get(labels)
        state = _state(rule, before, value, answer.error, now_ms, faster)
        since_ms = before.since_ms if before is not None and before.state == state else now_ms
        found[labels] = _Instance(state, since_ms, now_ms, value, _said(rule, labels, value, answer.error))
    for labels, old in known.items():
        if labels not in found:
            patience_ms = INTERVAL_S * 1000 / faster * (1 if old.state == "error" else _MISSING)
            stale = now_ms - old.looked_ms >= patience_ms
            gone = _Instance("normal", now_ms, now_ms, None, "It is not in the answer any more.", left_out=True)
            found[labels] = gone if stale else old
    return found


def _judged(known: Mapping[Labels, _Instance], answer: Answer) -> Mapping[Labels, float | None]:
    """The instances that an evaluation says something of, and their numbers."""
    if answer.error is not None:
        return {(): None}
    if any(value is not None for value in answer.values.values()):
        return answer.values
    # No data is true of all that there are.
    return dict.fromkeys(known or answer.values or [()])


def _state(
    rule: Rule, before: _Instance | None, value: float | None, error: str | None, now_ms: int, faster: int
) -> State:
    if error is not None:
        return "error"
    if not _beyond(rule, value, faster):
        return "normal"
    for_ms = _duration_ms(rule.against.for_) / faster
    if before is not None and before.state == "pending":
        return "alerting" if now_ms - before.since_ms >= for_ms else "pending"
    if before is not None and before.state == "alerting":
        return "alerting"
    return "pending" if for_ms > 0 else "alerting"


def _beyond(rule: Rule, value: float | None, faster: int) -> bool:
    if value is None:
        return rule.no_data == "Alerting"
    against = rule.against
    limit = against.limit / faster if against.unit == "s" else against.limit
    return value > limit if against.worse == "above" else value < limit


def _duration_ms(text: str | None) -> int:
    found = _DURATION.fullmatch(text or "0s")
    assert found is not None, text
    return int(found[1]) * _MS[found[2]]


def _asked(client: Client, rule: Rule, now_ms: int, zone: str) -> Answer:
    end_ms = now_ms - rule.delay_s * 1000
    try:
        sql = expand(rule.query(zone), end_ms - rule.over_s * 1000, end_ms, INTERVAL_S)
        result = client.query(sql, settings={"max_execution_time": QUERY_S})
    except NotExpandable as error:
        return Answer(error=str(error))
    except ClickHouseError as error:
        said = refusal(error)
        if said is None:
            raise
        return Answer(error=said)
    values: dict[Labels, float | None] = {}
    for row in result.named_results():
        labels = tuple(sorted((name, str(text)) for name, text in row.items() if name != "value"))
        if labels in values:
            return Answer(error=f"its query has two rows of {dict(labels)}")
        values[labels] = None if row["value"] is None else float(row["value"])
    return Answer(values)


def _said(rule: Rule, labels: Labels, value: float | None, error: str | None) -> str:
    if error is not None:
        return f"It cannot be asked: {error}"
    if value is None:
        return "There is no figure: its query found nothing."
    return _PART.sub(lambda part: _filled(part[1], dict(labels), value), rule.summary)


def _filled(part: str, labels: Mapping[str, str], value: float) -> str:
    """What a part of a summary stands for. What is understood is what rules use of Go's and Prometheus' functions,
    https://prometheus.io/docs/prometheus/latest/configuration/template_reference/#numbers."""
    if found := _LABEL.fullmatch(part):
        return labels.get(found[1], "[no value]")
    found = _VALUE.fullmatch(part)
    if found is None or (found[1] is not None and found[1] not in _WRITTEN):
        raise ValueError(f"a summary has {{{{ {part} }}}}, which is not understood")
    return str(found[2]) % value if found[1] is None else _WRITTEN[found[1]](value)


def _humanize(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:.4g}"
    steps, factor = (("kMGTPEZY", 1000), ("munpfazy", 1 / 1000))[abs(value) < 1]
    prefix = ""
    for step in steps:
        if (abs(value) < 1000) if factor > 1 else (abs(value) >= 1):
            break
        prefix, value = step, value / factor
    return f"{value:.4g}{prefix}"


def _humanize_duration(seconds: float) -> str:
    if not math.isfinite(seconds) or abs(seconds) < 60:
        return f"{_humanize(seconds)}s" if 0 < abs(seconds) < 1 else f"{seconds:.4g}s"
    left = int(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return ("-" if seconds < 0 else "") + " ".join(parts)


_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "humanize": _humanize,
    "humanizeDuration": _humanize_duration,
    "humanizePercentage": lambda value: f"{100 * value:.4g}%",
}
