"""Figures of budget rules that fired and tell, by day, that alerts look at."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.alerts import DAY, Figures, end_of
from pipeline.campaign_figures import read_creators
from pipeline.look import Look
from schemas.quantities import show_money


class RuleFigures:
    """Firings of every rule that tells, for each campaign and local day: those of mode notify, and those that act and
    name in ``notify`` who is told. The subject is ``campaign/rule``."""

    def __call__(self, look: Look) -> list[Figures]:
        if not look.looks_at("rules"):
            return []
        rules = {rule: (name, told) for rule, name, told in look.client.query(_RULES).result_rows}
        parameters = {
            "zone": look.settings.time_zone,
            "since": datetime.fromtimestamp(end_of(look.first - DAY, look.zone) / 1000, UTC),
            "telling": [rule for rule, (_, told) in rules.items() if told],
        }
        rows = look.client.query(_FIRINGS, parameters).result_rows
        creators = read_creators(look) if rows else {}
        running = look.reached > end_of(look.closed, look.zone)
        found: list[Figures] = []
        for platform, campaign, rule, day, firings, last in rows:
            creator, over = creators.get((platform, campaign)), day <= look.closed
            # A campaign's row may come a moment after its decisions.
            if creator is None or not (over or (running and day == look.closed + DAY)):
                continue
            action, outcome, group, closed_at, before, after = last
            name, told = rules.get(rule, (rule, []))
            values = {"firings": firings, "before_micros": before, "after_micros": after}
            words = {
                "campaign": campaign,
                "rule": name,
                "did": describe(action, outcome, group, before, after),
                "at": f"{datetime.fromtimestamp(closed_at, look.zone):%H:%M}",
                "tell": f" For {', '.join(told)}." if told else "",
            }
            at = end_of(day, look.zone) if over else look.reached
            found.append(Figures(platform, creator, f"{campaign}/{rule}", day, over, at, values, words=words))
        return found


def describe(action: str, outcome: str, group: str, before: int | None, after: int | None) -> str:
    """What a rule did, in words; amounts are micros."""
    said = action
    if before is not None and after is not None:
        said = f"{action} from {show_money(before)} to {show_money(after)}"
    notes: Sequence[str] = [
        *([f"ad group {group}"] if group else []),
        *(["it only tells"] if outcome == "notified" else []),
        *(["within a bound"] if outcome == "clamped" else []),
    ]
    return said + (f" ({', '.join(notes)})" if notes else "")


_RULES = "SELECT rule_id, name, JSONExtract(text, 'notify', 'Array(String)') FROM rules"
# Who decides again writes the same row again, so keys are counted, and the table needs no FINAL.
_FIRINGS = """
SELECT
    platform,
    campaign_id,
    rule_id,
    toDate(closed_at, {zone:String}) AS day,
    uniqExact(key),
    argMax(
        (action, outcome, ad_group_id, toUnixTimestamp(closed_at), before_micros, after_micros),
        (closed_at, ad_group_id)
    )
FROM rule_decisions
WHERE fold_version = 1 AND closed_at >= {since:DateTime('UTC')}
    AND (outcome = 'notified' OR outcome IN ('fired', 'clamped') AND rule_id IN {telling:Array(String)})
GROUP BY platform, campaign_id, rule_id, day
"""
