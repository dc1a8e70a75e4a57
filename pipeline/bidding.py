"""Bidding towards a target cost per conversion: from figures of closed windows to steps of bids. As in
``pipeline.rules``, all numbers are whole, and nothing here knows a database, a market or a clock.

The controller integrates in the logarithm of the bid (docs/bidding.md says why): half of the error of a window is
taken away, less while conversions are few, and never more than ``most_step``.
"""

from collections.abc import Iterable, Mapping
from math import isqrt

from pipeline.rules import (
    FRESH,
    NOTHING,
    Act,
    Decision,
    Entity,
    Evaluation,
    Guard,
    Key,
    Memories,
    Memory,
    Outcome,
    Reason,
    Span,
    Sums,
    due,
    scheduled,
    span,
)
from schemas.rules import FULL, TARGET_CPA, Bidding, Campaign


def steered(campaigns: Iterable[Campaign]) -> dict[Key, Bidding]:
    """Whose bid moves, and how: campaigns with bidding and a bid, and ad groups with a bid of their own and bidding of
    their own or of their campaign."""
    found = {}
    for each in campaigns:
        if each.bidding is not None and each.bid is not None:
            found[Key(each.platform, each.campaign_id)] = each.bidding
        for group in each.ad_groups:
            bidding = group.bidding or each.bidding
            if bidding is not None and group.bid is not None:
                found[Key(each.platform, each.campaign_id, group.ad_group_id)] = bidding
    return found


def looked_at(bidding: Mapping[Key, Bidding], found: Iterable[Entity], closed_at: int) -> dict[Span, set[Key]]:
    """Whose figures ``bid`` looks at, by window, at a moment at which some close."""
    known = list(found)
    own_bids = _own_bids(known)
    wanted: dict[Span, set[Key]] = {}
    for entity in known:
        settings = bidding.get(entity.key)
        if settings is not None and due(settings, closed_at):
            wanted.setdefault(span(settings, closed_at), set()).update((entity.key, *own_bids.get(entity.key, ())))
    return wanted


def step(bidding: Bidding, bid: int, target: int, sums: Sums) -> tuple[int, Reason]:
    """The next bid, micros, and what clamped it, or why it stays: then it is the bid as it was.

    With ``n`` = ``bidding.conversions``, of a window with ``conversions`` at ``cost``::

        next = bid * sqrt(target * (conversions + n) / (cost + n * target))

    rounded down, within ``most_step`` of the bid, then within floor and ceiling; a bid that is beyond them goes no
    further.
    """
    cost, wanted = sums.cost, target * sums.conversions
    if abs(cost - wanted) * FULL <= wanted * bidding.dead_band:
        return bid, "on_target"
    mixed = target * bidding.conversions
    goal = isqrt(bid * bid * (wanted + mixed) // (cost + mixed))
    most = bid * bidding.most_step // FULL
    after = min(max(goal, bid - most), bid + most)
    high, low = max(bid, bidding.ceiling), min(bid, bidding.floor)
    if after > high:
        return high, "ceiling"
    if after < low:
        return low, "floor"
    return after, "too_small" if after == bid else ""


def bid(
    bidding: Mapping[Key, Bidding],
    found: Iterable[Entity],
    figures: Mapping[Span, Mapping[Key, Sums]],
    memories: Memories,
    closed_at: int,
    now: int,
    done: Iterable[Act] = (),
) -> Evaluation:
    """Every bid that moves towards a target and of which a window closes. The order of entities does not matter.

    Figures of a campaign count without those of its ad groups that have a bid of their own: its bid does not decide
    them. A bid rests after every change, whoever made it. What rules do at the same closing comes first: a pause of
    the entity or its campaign, or another bid. Of the ``Memory``, ``fired_at`` is when the bid was seen to change,
    and ``base`` what it was then, micros.

    Args:
        bidding: as ``steered`` has it.
        found: campaigns and ad groups as they are when the window closes, each once.
        figures: for every window, sums of whom it ``looked_at``; who is not in it had nothing.
        memories: of the evaluations before, by ``TARGET_CPA`` and entity; of rules, too, if it is handy.
        closed_at: the moment at which windows close, UTC ms of event time, a whole minute.
        now: when this is done, UTC ms, for ``staleness``; from the log, where a replay must decide the same.
        done: what rules do at this closing.
    """
    known = sorted(found, key=lambda entity: entity.key)
    own_bids = _own_bids(known)
    first: dict[tuple[Key, str], Act] = {}
    for act in sorted(done, key=lambda act: act.rule_id):
        first.setdefault((act.entity, act.kind), act)
    evaluation = Evaluation([], [], {})
    for entity in known:
        settings = bidding.get(entity.key)
        if settings is None or not due(settings, closed_at):
            continue
        window = span(settings, closed_at)
        sums = _without(figures[window], entity.key, own_bids.get(entity.key, []))
        memory = memories.get((TARGET_CPA, entity.key), FRESH)
        pause = first.get((entity.key, "pause")) or first.get((entity.key._replace(ad_group_id=""), "pause"))
        decision, remembered = _decide(
            settings, entity, window, sums, memory, closed_at, now, pause, first.get((entity.key, "bid"))
        )
        evaluation.decisions.append(decision)
        evaluation.memories[TARGET_CPA, entity.key] = remembered
        if decision.outcome in ("fired", "clamped"):
            evaluation.acts.append(
                Act(
                    decision.key,
                    TARGET_CPA,
                    decision.rule_version,
                    entity.key,
                    closed_at,
                    "bid",
                    decision.before,
                    decision.after,
                )
            )
    return evaluation


def _own_bids(found: Iterable[Entity]) -> dict[Key, list[Key]]:
    """Ad groups with a bid of their own, by campaign."""
    own: dict[Key, list[Key]] = {}
    for entity in found:
        if entity.key.ad_group_id and entity.bid is not None:
            own.setdefault(entity.key._replace(ad_group_id=""), []).append(entity.key)
    return own


def _without(sums: Mapping[Key, Sums], key: Key, parts: Iterable[Key]) -> Sums:
    found = sums.get(key, NOTHING)
    for part in parts:
        found = Sums(*(whole - of for whole, of in zip(found, sums.get(part, NOTHING), strict=True)))
    return found


def _decide(
    settings: Bidding,
    entity: Entity,
    window: Span,
    sums: Sums,
    memory: Memory,
    closed_at: int,
    now: int,
    pause: Act | None,
    other: Act | None,
) -> tuple[Decision, Memory]:
    again = closed_at <= memory.evaluated
    if not again:
        changed = memory.evaluated > 0 and entity.bid != memory.base
        memory = Memory(closed_at, True, closed_at if changed else memory.fired_at, base=entity.bid or 0)
    guards = _guards(settings, entity, sums, closed_at, now)
    reason: Reason = "evaluated" if again else _refusal(settings, entity, memory, guards, closed_at, now)
    before = after = None
    outcome: Outcome = "skipped"
    by = ""
    if not reason and entity.bid is not None and entity.target_cpa:
        before = entity.bid
        after, reason = step(settings, before, entity.target_cpa, sums)
        winner = pause or other
        if after != before and winner is not None:
            after, reason, by = before, "outranked", winner.rule_id
        elif after != before and settings.mode == "act":
            outcome = "clamped" if reason else "fired"
            memory = memory._replace(fired_at=closed_at, base=after)
        elif after != before:
            outcome = "dry_run"
            memory = memory._replace(fired_at=closed_at)
    if other is not None and not again:
        memory = memory._replace(fired_at=closed_at, base=other.after or 0)
    return Decision(
        f"{TARGET_CPA}:{entity.key}:{closed_at}",
        TARGET_CPA,
        settings.version,
        settings.mode,
        entity.key,
        window,
        closed_at,
        "bid",
        outcome,
        reason,
        {
            "bid": entity.bid,
            "conversions": sums.conversions,
            "cpa": sums.cost // sums.conversions if sums.conversions > 0 else None,
            "spend": sums.cost,
            "target_cpa": entity.target_cpa,
        },
        guards,
        before,
        after,
        by,
    ), memory


def _guards(settings: Bidding, entity: Entity, sums: Sums, closed_at: int, now: int) -> tuple[Guard, ...]:
    """``conversions``: those that there were, or those that the spend should have brought, if that is more."""
    enough = max(sums.conversions, sums.cost // entity.target_cpa) if entity.target_cpa else None
    found = [
        Guard("conversions", settings.conversions, enough, enough is not None and enough >= settings.conversions),
    ]
    if settings.staleness is not None:
        late = now - closed_at
        found.append(Guard("staleness", settings.staleness, late, late <= settings.staleness))
    return tuple(found)


def _refusal(
    settings: Bidding, entity: Entity, memory: Memory, guards: tuple[Guard, ...], closed_at: int, now: int
) -> Reason:
    """Why the bid is not even looked at."""
    if entity.state != "active":
        return "ended" if entity.state == "ended" else "not_active"
    if not scheduled(settings, closed_at):
        return "schedule"
    if settings.staleness is not None and now - closed_at > settings.staleness:
        return "stale"
    if not entity.bid:
        return "no_bid"
    if not entity.target_cpa:
        return "no_figure"
    if not all(guard.holds for guard in guards):
        return "guards"
    if memory.fired_at and closed_at - memory.fired_at < settings.rest:
        return "cool_down"
    return ""
