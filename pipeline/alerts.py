"""Alerts, decided: from figures by day or hour to alerts that are opened once and resolved once. Nothing here knows a
database.

An alert is about totals over all partitions, which no log has, so it is decided from what is stored. Figures of closed
periods and the alerts known so far go in, and what changes comes out; whoever asks again with that known gets nothing.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from schemas.alerts import AlertPolicy, Kind, Values, write

State = Literal["open", "resolved"]
Entity = tuple[str, str, str]
"""Platform, creator, subject."""
DAY = timedelta(days=1)
WEEK = 7
NEVER = date(1970, 1, 1)
"""Stands for the day on which an open alert was resolved."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is looked at: figures of a creator, or of a ``subject`` of it, for a local day, or for the local hour of it
    that begins at ``hour`` (UTC ms). ``closed``: that is over in every partition. ``at`` (UTC ms): the event time that
    they are true of, after the begin. ``words`` are for sentences, beside the figures."""

    platform: str
    creator_id: str
    subject: str
    day: date
    closed: bool
    at: int
    values: Values
    hour: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def entity(self) -> Entity:
        return self.platform, self.creator_id, self.subject

    def spoken_of(self, alert: "Alert") -> bool:
        """Whether an alert speaks of this period already, or of a later one."""
        if self.hour is None:
            return self.day <= max(alert.day, alert.resolved_day)
        return self.hour < max(alert.at, alert.resolved_at)

    def before(self, alert: "Alert") -> bool:
        """Whether this is an earlier period than the one that an alert was opened for."""
        return self.day < alert.day if self.hour is None else self.at < alert.at


class Closed(NamedTuple):
    """The last period of a source that is over in every partition: its local day, and when it ended (UTC ms)."""

    day: date
    at: int


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: what was found when it was opened, and once it is resolved, what was found then. ``at`` and
    ``resolved_at`` as in ``Figures``; a figure that there was not is left out."""

    id: str
    kind: str
    platform: str
    creator_id: str
    subject: str
    day: date
    state: State
    at: int
    title: str
    said: str
    advice: tuple[str, ...]
    figures: Mapping[str, float]
    thresholds: Mapping[str, float]
    resolved_day: date = NEVER
    resolved_at: int = 0
    resolved_said: str = ""
    resolved_figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def entity(self) -> Entity:
        return self.platform, self.creator_id, self.subject

    def resolved_as(self, other: "Alert") -> "Alert":
        """What this one was opened with, resolved as the other is."""
        return replace(
            self,
            state="resolved",
            resolved_day=other.resolved_day,
            resolved_at=other.resolved_at,
            resolved_said=other.resolved_said,
            resolved_figures=other.resolved_figures,
        )

    def message(self, state: State) -> dict[str, Any]:
        """What others are told when it was opened, or resolved: the same whenever it is asked for."""
        told: dict[str, Any] = {
            "id": self.id,
            "state": state,
            "kind": self.kind,
            "title": self.title,
            "platform": self.platform,
            "creator_id": self.creator_id,
            "subject": self.subject,
            "day": self.day.isoformat(),
            "at": self.at,
            "said": self.said,
            "advice": list(self.advice),
            "figures": dict(self.figures),
            "thresholds": dict(self.thresholds),
        }
        if state == "resolved":
            told |= {
                "resolved_day": self.resolved_day.isoformat(),
                "resolved_at": self.resolved_at,
                "resolved_said": self.resolved_said,
                "resolved_figures": dict(self.resolved_figures),
            }
        return told


def evaluate(
    policy: AlertPolicy,
    figures: Mapping[str, Iterable[Figures]],
    known: Iterable[Alert],
    closed: Mapping[str, Closed],
) -> list[Alert]:
    """Alerts that are opened and resolved, in order; one that does both is there twice.

    ``figures`` by the name that kinds call them: all closed periods of a span up to the last one that is ``closed``, in
    any order, and the running one if there are figures of it. ``known``: all alerts that are open, or were opened or
    resolved in the span or later. A period up to one that an alert speaks of opens none, so of each kind and entity at
    most one stays open. An open alert of earlier than the end of the last closed period, without figures of that, is
    resolved: nobody looks at it any more. Alerts about figures of which no period is ``closed`` stay as they are.
    """
    series: dict[str, dict[Entity, list[Figures]]] = {}
    for source, found in figures.items():
        own = series[source] = defaultdict(list)
        for each in sorted(found, key=lambda each: (each.day, each.at)):
            own[each.entity].append(each)
    latest: dict[tuple[str, Entity], Alert] = {}
    changes: list[Alert] = []
    for alert in sorted(known, key=lambda alert: alert.at):
        earlier = latest.get((alert.kind, alert.entity))
        if earlier is not None and earlier.state == "open":
            changes.append(_ended(earlier, alert.day, alert.at, f"It goes on as {alert.id}."))
        latest[alert.kind, alert.entity] = alert
    for name, kind in policy.kinds.items():
        for entity, periods in sorted(series.get(kind.figures, {}).items() if kind.enabled else ()):
            changes += _walk(name, kind, policy.hysteresis, periods, latest.get((name, entity)))
            if any(each.closed and each.at == closed[kind.figures].at for each in periods):
                latest.pop((name, entity), None)
    changed = {alert.id for alert in changes}
    for alert in sorted(latest.values(), key=lambda alert: alert.id):
        if alert.kind in policy.kinds:
            last = closed.get(policy.kinds[alert.kind].figures)
        else:
            last = min(closed.values(), default=None)
        if last is not None and alert.state == "open" and alert.at < last.at and alert.id not in changed:
            changes.append(_ended(alert, last.day, last.at, "It is no longer looked at."))
    return changes


def _walk(
    name: str, kind: Kind, hysteresis: float, periods: Sequence[Figures], latest: Alert | None
) -> Iterable[Alert]:
    """What changes for one kind and entity, over periods in order."""
    for each in periods:
        if latest is None or latest.state == "resolved":
            spoken_of = latest is not None and each.spoken_of(latest)
            if spoken_of or not (each.closed or kind.running) or not kind.firing(each.values):
                continue
            latest = _open(name, kind, each)
            yield latest
        over = kind.passing or not kind.staying(each.values, hysteresis)
        if each.closed and over and not each.before(latest):
            said = _sentence(kind.resolved, kind, each)
            latest = _ended(latest, each.day, each.at, said, _known(each.values))
            yield latest


def _open(name: str, kind: Kind, figures: Figures) -> Alert:
    return Alert(
        id=alert_id(name, figures),
        kind=name,
        platform=figures.platform,
        creator_id=figures.creator_id,
        subject=figures.subject,
        day=figures.day,
        state="open",
        at=figures.at,
        title=kind.title,
        said=_sentence(kind.say, kind, figures),
        advice=kind.advise(figures.values),
        figures=_known(figures.values),
        thresholds=kind.limits,
    )


def _ended(alert: Alert, day: date, at: int, said: str, figures: Mapping[str, float] | None = None) -> Alert:
    return replace(
        alert, state="resolved", resolved_day=day, resolved_at=at, resolved_said=said, resolved_figures=figures or {}
    )


def alert_id(kind: str, figures: Figures) -> str:
    """``kind:platform:creator:day``, or ``kind:platform:creator:subject:day``; a colon within a part is ``%3A``. For an
    hour its begin is in place of the day, as UTC: ``2026-03-01T0600Z``."""
    parts = (kind, figures.platform, figures.creator_id, *([figures.subject] if figures.subject else ()))
    period = figures.day.isoformat()
    if figures.hour is not None:
        period = datetime.fromtimestamp(figures.hour / 1000, UTC).strftime("%Y-%m-%dT%H%MZ")
    return ":".join([*(part.replace("%", "%25").replace(":", "%3A") for part in parts), period])


def _sentence(template: str, kind: Kind, figures: Figures) -> str:
    known = {**kind.limits, **figures.values, **figures.words, "day": figures.day, "subject": figures.subject}
    return write(template, known)


def _known(values: Values) -> dict[str, float]:
    return {name: float(value) for name, value in sorted(values.items()) if value is not None}


def end_of(day: date, zone: ZoneInfo) -> int:
    """When a local day is over (UTC ms)."""
    return int(datetime.combine(day + DAY, time(), zone).timestamp() * 1000)


class FanDay(NamedTuple):
    """Fans of a creator on a local day, as in the view ``fan_churn_days``. ``settled``: the first fan is known for so
    long that fans can have churned by staying away, so what happened on the day says what is usual."""

    fans_at_start: int
    churned: int
    unfollowed: int
    arrived: int
    returned: int
    idle_at_start: int
    settled: bool = True


def fan_figures(days: Sequence[FanDay], policy: AlertPolicy) -> dict[str, float | None]:
    """Figures of the last of some days in a row, by the history that the others are. Formulas: docs/alerts.md."""
    day, before = days[-1], days[-1 - policy.history_days : -1]
    rate = ratio(day.churned, day.fans_at_start)
    rates = [ratio(each.churned, each.fans_at_start) for each in before if each.settled]
    usual, spread = _usual([each for each in rates if each is not None], policy)
    chance = math.sqrt(max(usual or 0.0, 1 / day.fans_at_start) / day.fans_at_start) if day.fans_at_start else None
    left, left_spread = _usual([each.unfollowed for each in before if each.fans_at_start], policy)
    return {
        **{name: value for name, value in day._asdict().items() if name != "settled"},
        "churn_rate": rate,
        "churn_usual": usual,
        "churn_rise": _minus(rate, usual),
        "churn_deviations": _deviations(rate, usual, spread, chance),
        "unfollowed_share": ratio(day.unfollowed, day.churned),
        "unfollow_rate": ratio(day.unfollowed, day.fans_at_start),
        "unfollowed_usual": left,
        "unfollow_deviations": _deviations(day.unfollowed, left, left_spread, math.sqrt(max(left or 0.0, 1.0))),
        **_returns(days, policy),
    }


def _returns(days: Sequence[FanDay], policy: AlertPolicy) -> dict[str, float | None]:
    """How many come back in a week, against the history before it."""
    week, before = days[-WEEK:], [each for each in days[-WEEK - policy.history_days : -WEEK] if each.settled]
    idle, returned = sum(each.idle_at_start for each in week), sum(each.returned for each in week)
    rate = ratio(returned, idle)
    enough = len([each for each in before if each.idle_at_start]) >= policy.least_history_days
    was = ratio(sum(each.returned for each in before), sum(each.idle_at_start for each in before)) if enough else None
    return {
        "returned_week": returned,
        "reactivation": rate,
        "reactivation_usual": was,
        "reactivation_change": rate / was - 1 if rate is not None and was else None,
        "expected_returns": was * idle if was is not None else None,
    }


def ratio(part: float, whole: float) -> float | None:
    """A share; None of nothing."""
    return part / whole if whole else None


def _usual(figures: Sequence[float], policy: AlertPolicy) -> tuple[float | None, float | None]:
    """Mean and standard deviation of a history; None where it is too short."""
    if len(figures) < policy.least_history_days:
        return None, None
    return fmean(figures), stdev(figures)


def _minus(one: float | None, other: float | None) -> float | None:
    return one - other if one is not None and other is not None else None


def _deviations(figure: float | None, usual: float | None, spread: float | None, least: float | None) -> float | None:
    """By how many standard deviations a figure is above the usual one; ``least``: what chance alone makes of them."""
    if figure is None or usual is None or spread is None or least is None:
        return None
    return (figure - usual) / max(spread, least)
