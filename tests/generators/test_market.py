"""The ad market answers to bids, budgets and pauses, and to nothing else; and rules that act on it come to rest."""

import itertools
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_worlds import START_MS, config, same, world

from generators.columns import CODES, Columns
from generators.market import Change, Market, campaigns, price, won
from generators.world import World
from pipeline.bidding import bid, steered
from pipeline.rules import Entity, Key, Memory, Span, Sums, apply, due, entities, evaluate, span
from schemas.rules import Bidding, Campaign, Rule
from schemas.topics import DAY_MS

HOUR = 3_600_000
YUAN = 1_000_000
KINDS = CODES["ad_events"]


@cache
def busy(rate: float = 150.0) -> World:
    """Few fans and creators with many advertisements."""
    return World(config(fans=400, creators=4, partitions=1, rate_factor=rate))


@cache
def declared(rate: float = 150.0) -> tuple[Campaign, ...]:
    """Its campaigns."""
    return tuple(campaigns(busy(rate)))


RUSH = 600.0
"""A rate at which the large campaigns have some conversions in every hour."""


def change(kind: str, at_ms: int, campaign_id: str, after: int | None = None, group: str = "", id: str = "") -> Change:
    return Change.model_validate(
        {
            "id": id or f"{kind}{at_ms}{campaign_id}{group}{after}",
            "at_ms": at_ms,
            "campaign_id": campaign_id,
            "ad_group_id": group,
            "kind": kind,
            "after": after,
        }
    )


def figures(ads: Columns) -> dict[Key, Sums]:
    """Sums of campaigns."""
    found: dict[Key, Sums] = {}
    names = np.array(busy().cast.placements.campaign_id)[ads["placement"]]
    for each in declared():
        here = names == each.campaign_id
        kinds = np.bincount(ads["kind"][here], minlength=len(KINDS))
        found[Key(each.platform, each.campaign_id)] = Sums(
            impressions=int(kinds[KINDS["impression"]]),
            clicks=int(kinds[KINDS["click"]]),
            plays=int(kinds[KINDS["play"]]),
            conversions=int(kinds[KINDS["conversion"]]),
            cost=int(np.maximum(ads["cost_micros"][here], 0).sum()),
            value=int(np.maximum(ads["value_micros"][here], 0).sum()),
        )
    return found


def of(market: Market | None, since: int, until: int) -> dict[str, Sums]:
    found = figures(busy().events(0, since, until, market)["ad_events"])
    return {key.campaign_id: sums for key, sums in found.items()}


def test_more_is_won_at_a_higher_price_and_ever_less_of_both() -> None:
    times = np.geomspace(1e-4, 1e4, 200)
    for rising in (won(times), price(times)):
        assert (np.diff(rising) > 0).all()
        # Less than in proportion to the bid.
        assert (np.diff(rising / times) < 1e-9).all()
    assert won(np.array([1.0])) == pytest.approx(0.5)
    assert price(np.array([1.0])) == pytest.approx(1.0)
    assert price(np.array([0.99e-3, 1.01e-3])) == pytest.approx(
        np.array([0.99, 1.01]) * price(np.array([1e-3])), rel=1e-2
    )


def test_campaigns_are_those_of_the_events_and_their_bids() -> None:
    ads = busy().events(0, START_MS, START_MS + 6 * HOUR)["ad_events"]
    places, here = busy().cast.placements, {each.campaign_id: each for each in declared()}
    assert {places.campaign_id[row] for row in np.unique(ads["placement"]).tolist()} == set(here)
    made = [here[name] for name in np.array(places.campaign_id)[ads["placement"]].tolist()]
    bids = ads["bid_micros"]
    assert all(shown in (-1, each.bid) for shown, each in zip(bids.tolist(), made, strict=True))
    for each in here.values():
        assert each.creator_id in busy().creator_ids
        assert {group.ad_group_id for group in each.ad_groups} <= set(places.ad_group_id)
        assert None not in (each.daily_budget, each.target_cpa, each.bid)
        assert each.created_at == START_MS
    assert any(each.bidding for each in here.values())
    tenfold = campaigns(busy(), 10 * busy().natural_rate)
    assert [each.daily_budget for each in tenfold] == [10 * (each.daily_budget or 0) for each in here.values()]


def test_daily_budgets_are_spent_and_not_exceeded_but_by_chance() -> None:
    for day in range(2):
        spent = of(None, START_MS + day * DAY_MS, START_MS + (day + 1) * DAY_MS)
        shares = [spent[each.campaign_id].cost / (each.daily_budget or 1) for each in declared()]
        assert all(share < 1.25 for share in shares), shares
        assert sum(share > 0.85 for share in shares) >= 2


def test_a_pause_holds_from_its_moment_on_and_conversions_of_before_still_come() -> None:
    name = declared()[0].campaign_id
    noon = START_MS + 12 * HOUR
    paused = busy().market().after([change("pause", noon, name), change("resume", noon + 6 * HOUR, name)])
    before, now = (busy().events(0, START_MS, START_MS + DAY_MS, market)["ad_events"] for market in (None, paused))
    mine = np.array(busy().cast.placements.campaign_id)[now["placement"]] == name
    shown = now["kind"] == KINDS["impression"]
    inside = (now["event_time"] >= noon) & (now["event_time"] < noon + 6 * HOUR)
    assert not (mine & shown & inside).any()
    assert (mine & (now["kind"] == KINDS["conversion"]) & inside & (now["shown_ms"] < noon)).any()
    assert (mine & shown & (now["event_time"] >= noon + 6 * HOUR)).any()
    others = np.array(busy().cast.placements.campaign_id)[before["placement"]] != name
    assert same({"ad_events": now.take(np.flatnonzero(~mine))}, {"ad_events": before.take(np.flatnonzero(others))})
    earlier = before["event_time"] < noon
    assert same(
        {"ad_events": now.take(np.flatnonzero(now["event_time"] < noon))},
        {"ad_events": before.take(np.flatnonzero(earlier))},
    )


def test_spend_follows_the_budget_within_the_day_and_prices_the_bid() -> None:
    largest = max(declared(), key=lambda each: each.daily_budget or 0)
    name, budget, offered = largest.campaign_id, largest.daily_budget or 0, largest.bid or 0
    noon = START_MS + 12 * HOUR
    plain = of(None, noon, START_MS + DAY_MS)[name]
    cut = of(busy().market().after([change("budget", noon, name, budget // 2)]), noon, START_MS + DAY_MS)[name]
    none = of(busy().market().after([change("budget", noon, name, budget // 20)]), noon, START_MS + DAY_MS)[name]
    assert cut.cost < 0.7 * plain.cost
    assert none.impressions == 0
    rich = [change("budget", noon, each, 1000 * budget) for each in (name,)]
    free = of(busy().market().after(rich), noon, START_MS + DAY_MS)[name]
    double = of(busy().market().after([*rich, change("bid", noon, name, 2 * offered)]), noon, START_MS + DAY_MS)[name]
    assert double.impressions / free.impressions == pytest.approx(4 / 3, rel=0.08)
    ratio = (double.cost / double.impressions) / (free.cost / free.impressions)
    assert ratio == pytest.approx(float(price(np.array([2.0]))[0]), rel=0.08)


def test_an_ad_group_is_paused_and_bids_apart() -> None:
    one = declared()[0]
    first, second = (group.ad_group_id for group in one.ad_groups[:2])
    noon = START_MS + 12 * HOUR
    market = (
        busy()
        .market()
        .after(
            [change("pause", noon, one.campaign_id, group=first), change("bid", noon, one.campaign_id, YUAN, second)]
        )
    )
    ads = busy().events(0, noon, noon + 6 * HOUR, market)["ad_events"]
    ads = ads.take(np.flatnonzero(ads["shown_ms"] >= noon))
    groups = np.array(busy().cast.placements.ad_group_id)[ads["placement"]]
    assert first not in groups
    assert set(ads["bid_micros"][groups == second].tolist()) <= {-1, YUAN}
    assert YUAN in ads["bid_micros"][groups == second]


STORM = {"fans": 300, "duplicates": 0.05, "late": 0.05, "malformed": 0.03}
_CAMPAIGNS = [each.campaign_id for each in campaigns(world(**STORM))]
changes = st.lists(
    st.builds(
        change,
        st.sampled_from(["budget", "bid", "pause", "resume"]),
        st.integers(START_MS, START_MS + 2 * DAY_MS),
        st.sampled_from([*_CAMPAIGNS, "nobody"]),
        st.integers(1, 20 * YUAN),
    ),
    max_size=6,
    unique_by=lambda each: each.id,
)


@given(changes, st.lists(st.integers(START_MS, START_MS + 3 * DAY_MS), min_size=3, max_size=4).map(sorted))
@settings(max_examples=15, deadline=None)
def test_a_world_goes_on_with_the_changes_that_are_known_as_if_it_had_known_them_all(
    done: list[Change], cuts: list[int]
) -> None:
    here = world(**STORM)
    whole = here.market().after(done)
    assert same(
        dict(here.events(0, cuts[0], cuts[-1], whole)),
        dict(World(config(**STORM)).events(0, cuts[0], cuts[-1], whole)),
    )
    asked = here.records(1, cuts[0], cuts[-1], whole)
    got: dict[str, list[bytes | None]] = defaultdict(list)
    for since, until in itertools.pairwise(cuts):
        known = here.market().after([each for each in done if each.at_ms < until])
        known = known.after(done[:1] if done and done[0].at_ms < until else [])
        for topic, records in here.records(1, since, until, known).items():
            got[topic] += records.values
    assert got == {topic: records.values for topic, records in asked.items()}


def test_a_change_counts_once() -> None:
    name = declared()[0].campaign_id
    one, again = change("bid", START_MS, name, YUAN, id="k"), change("bid", START_MS + HOUR, name, 9 * YUAN, id="k")
    market = busy().market().after([one])
    assert market.after([again]) is market
    assert busy().market().after([one, again]).changes == (one,)


# The closed loop: rules and bidding decide on what the market shows, and the market answers.


def rule(**changed: Any) -> Rule:
    made = {"owner": "lin", "mode": "act", "level": "campaign", "window": {"last": "6 hours"}, "cool_down": "6 hours"}
    return Rule.model_validate(made | {"name": changed["id"], "most_per_day": 24} | changed)


def run(
    made: list[Campaign], rules: list[Rule], hours: int
) -> tuple[list[list[Entity]], list[dict[Key, Sums]], set[str]]:
    """Entities and figures hour by hour, and the rules that fired."""
    known, how = entities(made), steered(made)
    market, memories = busy(RUSH).market(), dict[tuple[str, Key], Memory]()
    states: list[list[Entity]] = []
    course: list[dict[Key, Sums]] = []
    fired: set[str] = set()
    for hour in range(hours):
        closed_at = START_MS + (hour + 1) * HOUR
        course.append(figures(busy(RUSH).events(0, closed_at - HOUR, closed_at, market)["ad_events"]))

        def window(each: Rule | Bidding, closed_at: int = closed_at) -> tuple[Span, dict[Key, Sums]]:
            here = span(each, closed_at)
            rows = course[max(0, (here.start - START_MS) // HOUR) : (here.end - START_MS) // HOUR]
            return here, {key: Sums(*map(sum, zip(*(row[key] for row in rows), strict=True))) for key in course[0]}

        looked = dict(window(each) for each in [*rules, *how.values()] if due(each, closed_at))
        ruled = evaluate(rules, known, looked, memories, closed_at, closed_at)
        moved = bid(how, known, looked, memories, closed_at, closed_at, ruled.acts)
        memories |= ruled.memories | moved.memories
        acts = [*ruled.acts, *moved.acts]
        fired |= {act.rule_id for act in acts}
        known = apply(known, acts)
        states.append(known)
        market = market.after([change(a.kind, closed_at, a.entity.campaign_id, a.after, id=a.key) for a in acts])
    return states, course, fired


def test_rules_and_bidding_come_to_rest_in_the_market() -> None:
    hours, half = 144, 72
    ads = busy(RUSH).events(0, START_MS, START_MS + DAY_MS)["ad_events"]
    plain = {key.campaign_id: sums for key, sums in figures(ads).items()}
    # The largest of those that want for budget is made cheap by a high target, the next two dear by low ones.
    large = sorted(declared(RUSH), key=lambda each: -(each.daily_budget or 0))
    cheap = next(each for each in large if plain[each.campaign_id].cost > 0.97 * (each.daily_budget or 0))
    moved, bad = [each for each in large if each is not cheap][:2]
    towards = {
        "mode": "act",
        "window": {"last": "24 hours", "skip": "1 hour"},
        "floor": "0.50 yuan",
        "ceiling": "50 yuan",
        "most_step": "15%",
    }
    aims = ((cheap, 1.6), (moved, 0.65), (bad, 0.4))
    made = [
        each.model_copy(
            update={
                "target_cpa": round(plain[each.campaign_id].cost / plain[each.campaign_id].conversions * aim),
                "bidding": Bidding.model_validate(towards) if each is moved else None,
            }
        )
        for each, aim in aims
    ]
    budget, target = cheap.daily_budget or 0, made[1].target_cpa or 0
    cap = budget * 17 // 10
    rules = [
        rule(
            id="more",
            when=["cpa < 80% of target_cpa"],
            guards={"conversions": 15},
            action={"do": "budget", "by": "+20%", "ceiling": f"{cap} micros"},
            scope={"campaigns": [cheap.campaign_id]},
        ),
        rule(
            id="bad",
            when=["cpa > 150% of target_cpa"],
            guards={"conversions": 10},
            action={"do": "pause"},
            scope={"campaigns": [bad.campaign_id]},
        ),
    ]
    states, course, fired = run(made, rules, hours)
    assert fired == {"more", "bad", "target_cpa"}

    def course_of(each: Campaign) -> tuple[list[Entity], list[Sums]]:
        key = Key(each.platform, each.campaign_id)
        return [entity for state in states for entity in state if entity.key == key], [row[key] for row in course]

    # The cheap one: steps of exactly 20 %, the last up to the ceiling; spend follows; then it stays.
    entities_, sums = course_of(cheap)
    budgets = [budget, *(entity.daily_budget or 0 for entity in entities_)]
    assert list(dict.fromkeys(budgets)) == [budget, budget * 120 // 100, budget * 120 // 100 * 120 // 100, cap]
    assert turns(budgets[half:]) == 0
    days = [sum(each.cost for each in sums[hour : hour + 24]) for hour in range(0, hours, 24)]
    assert min(days[3:]) > 1.35 * plain[cheap.campaign_id].cost
    assert max(days[3:]) < 1.1 * cap

    # The bad one: paused for good, and spends nothing from then on.
    entities_, sums = course_of(bad)
    paused = [entity.state for entity in entities_].index("paused")
    assert paused < 24
    assert {entity.state for entity in entities_[paused:]} == {"paused"}
    assert all(each.impressions == 0 for each in sums[paused + 1 :])

    # The moved one: its cost comes to its target and stays there; its bid does not go to and fro.
    entities_, sums = course_of(moved)
    late = Sums(*map(sum, zip(*sums[half:], strict=True)))
    assert late.cost / late.conversions / target == pytest.approx(1.0, abs=0.12)
    bids = [entity.bid or 0 for entity in entities_]
    assert bids[-1] < 0.9 * (moved.bid or 0)
    assert turns(bids[half:]) <= 2
    assert max(bids[half:]) < 1.2 * min(bids[half:])


def turns(values: list[int]) -> int:
    """How often a course changes its direction."""
    signs = [np.sign(after - before) for before, after in itertools.pairwise(values) if after != before]
    return sum(one != other for one, other in itertools.pairwise(signs))
