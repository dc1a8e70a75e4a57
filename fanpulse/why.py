"""A decision of a rule in words: what it looked at, what came out, and why."""

from collections.abc import Iterable
from datetime import UTC, datetime

from fanpulse.control import Moment
from pipeline.decisions import Tally
from pipeline.rules import REASONS, Decision, Guard
from schemas.quantities import MINUTE_MS, UNIT_MS, Length, Unit, show_money
from schemas.rules import METRICS, Rule, show

_OUTCOMES = {
    "fired": "fired",
    "clamped": "fired, but clamped",
    "notified": "told people",
    "dry_run": "would have fired",
    "skipped": "did not fire",
}
_STEPS = {"budget": "daily budget", "bid": "bid"}


def headline(decision: Decision) -> str:
    """What came out, and why."""
    said = _OUTCOMES[decision.outcome]
    if decision.reason:
        said += f": {REASONS.get(decision.reason, decision.reason)}"
    if decision.by:
        said += f" ({decision.by})"
    return said


def details(decision: Decision, rule: Rule | None, moment: Moment) -> list[tuple[str, str]]:
    """What it rests on, a name and a text each. ``rule``: as it was then; None: that is not known."""
    told = [("window", f"{_at(decision.window.start, moment)} to {_at(decision.window.end, moment)}")]
    if rule is not None:
        told.append(("conditions", _conditions(rule)))
    told.append(("figures", ", ".join(f"{name} {_figure(name, value)}" for name, value in decision.figures.items())))
    told += [("guard", _guard(guard)) for guard in decision.guards]
    if decision.kind in _STEPS and decision.before is not None:
        before, after = decision.before, decision.after
        changed = f"{show_money(before)} -> {show_money(after)}" if after not in (None, before) else show_money(before)
        told.append((_STEPS[decision.kind], changed))
    told.append(("rule", f"version {decision.rule_version}, {decision.mode}"))
    return [(name, text) for name, text in told if text]


def paragraph(decision: Decision, rule: Rule | None, moment: Moment) -> list[str]:
    """A decision in lines: when, whom it is about and what came out, then what it rests on."""
    found = details(decision, rule, moment)
    width = max(len(name) for name, _ in found)
    head = f"{_at(decision.closed_at, moment)}  {decision.entity}  {headline(decision)}"
    return [head, *(f"  {name.ljust(width)}  {text}" for name, text in found)]


def summary(tally: Tally, moment: Moment) -> str:
    """What came out in a day, in a line."""
    parts: dict[str, int] = {}
    for (outcome, reason), number in tally.numbers.items():
        name = reason if outcome == "skipped" else outcome
        parts[name] = parts.get(name, 0) + number
    said = []
    for name, number in parts.items():
        failed = [f"{guard} {count:,}" for guard, count in tally.guards.items() if count] if name == "guards" else []
        said.append(f"{name} {number:,}" + (f" ({', '.join(failed)})" if failed else ""))
    total = sum(parts.values())
    decisions = "decision" if total == 1 else "decisions"
    return f"{total:,} {decisions} in the 24 hours up to {moment(tally.until)}: {', '.join(said)}"


def as_json(decision: Decision) -> dict[str, object]:
    """All of it, amounts in micros and times in UTC ms."""
    return {
        "key": decision.key,
        "closed_at": decision.closed_at,
        "window": decision.window._asdict(),
        "rule_id": decision.rule_id,
        "rule_version": decision.rule_version,
        "mode": decision.mode,
        **decision.entity._asdict(),
        "action": decision.kind,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "said": headline(decision),
        "figures": decision.figures,
        "guards": [guard._asdict() for guard in decision.guards],
        "before_micros": decision.before,
        "after_micros": decision.after,
        "outranked_by": decision.by,
    }


def _conditions(rule: Rule) -> str:
    return " and ".join(_or(map(str, group)) for group in rule.when)


def _or(choices: Iterable[str]) -> str:
    found = list(choices)
    return found[0] if len(found) == 1 else f"({' or '.join(found)})"


def _figure(name: str, value: int | None) -> str:
    if value is None:
        return "has no figure"
    return show(name, value) if name in METRICS else f"{value:,}"


def _guard(guard: Guard) -> str:
    bound = "at most" if guard.name == "staleness" else "at least"
    found = "not known" if guard.found is None else _amount(guard.name, guard.found)
    verdict = "holds" if guard.holds else "does not hold"
    return f"{guard.name} {found}, wants {bound} {_amount(guard.name, guard.wants)}: {verdict}"


def _amount(name: str, value: int) -> str:
    if name in ("age", "staleness"):
        return lasting(value)
    return show(name, value) if name in METRICS else f"{value:,}"


def lasting(ms: int) -> str:
    """A time in its two largest units, cut off below: ``2 days 3 hours``."""
    rest, parts = max(ms, 0) // MINUTE_MS * MINUTE_MS, []
    units: tuple[Unit, ...] = ("day", "hour", "minute")
    for unit in units:
        number, rest = divmod(rest, UNIT_MS[unit])
        if number:
            parts.append(str(Length(number, unit)))
    return " ".join(parts[:2]) or ("less than a minute" if ms > 0 else "0 minutes")


def _at(ms: int, moment: Moment) -> str:
    return moment(datetime.fromtimestamp(ms // 1000, UTC))
