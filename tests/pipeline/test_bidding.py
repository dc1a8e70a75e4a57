"""Bids that move towards a target: what they never do, over any figures; and that they get there, and stay."""

import itertools
import math
import random
import re
import statistics
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bidding import bid, looked_at, steered, step
from pipeline.rules import Act, Entity, Evaluation, Key, Memory, Span, Sums, apply, entities
from schemas.rule_files import Refused, read_campaigns, read_rules
from schemas.rules import TARGET_CPA, AdGroup, Bidding, Campaign

HOUR = 3_600_000
YUAN = 1_000_000
BEGIN = 1_768_795_200_000
"""Noon of a Monday in Shanghai."""
KEY = Key("douyin", "c1")
DEAR, CHEAP = Sums(conversions=20, cost=800 * YUAN), Sums(conversions=20, cost=100 * YUAN)


def bidding(**changed: Any) -> Bidding:
    made = {"mode": "act", "window": {"last": "6 hours", "skip": "1 hour"}, "floor": "0.20 yuan", "ceiling": "5 yuan"}
    return Bidding.model_validate(made | changed)


def campaign(**changed: Any) -> Campaign:
    made = {"campaign_id": "c1", "platform": "douyin", "creator_id": "a", "bid": "1 yuan", "target_cpa": "20 yuan"}
    return Campaign.model_validate(made | {"bidding": bidding().model_dump(mode="json")} | changed)


def closing(
    found: Sequence[Campaign | Entity],
    sums: dict[Key, Sums],
    closed_at: int = BEGIN,
    memories: dict[tuple[str, Key], Memory] | None = None,
    done: Sequence[Act] = (),
    late: int = 0,
    settings: dict[Key, Bidding] | None = None,
) -> Evaluation:
    known = [each for each in found if isinstance(each, Entity)]
    known = known or entities([each for each in found if isinstance(each, Campaign)])
    how = steered([each for each in found if isinstance(each, Campaign)]) if settings is None else settings
    figures = {
        window: {key: sums[key] for key in keys & sums.keys()}
        for window, keys in looked_at(how, known, closed_at).items()
    }
    return bid(how, known, figures, memories or {}, closed_at, closed_at + late, done)


# A step

amounts = st.integers(1, 10**12)
counts = st.integers(0, 10**6)


@st.composite
def any_bidding(draw: st.DrawFn) -> Bidding:
    low, high = sorted((draw(st.integers(1, 10**9)), draw(st.integers(1, 10**9))))
    return bidding(
        floor=f"{low} micros",
        ceiling=f"{high} micros",
        conversions=draw(st.integers(1, 1000)),
        most_step=f"{draw(st.integers(1, 50))}%",
        dead_band=f"{draw(st.integers(1, 99))}%",
    )


@given(any_bidding(), st.integers(1, 10**9), amounts, counts, amounts)
def test_a_step_is_bounded_and_towards_the_target(
    how: Bidding, before: int, target: int, conversions: int, cost: int
) -> None:
    after, reason = step(how, before, target, Sums(conversions=conversions, cost=cost))
    assert abs(after - before) <= Fraction(before * how.most_step, 10_000)
    if how.floor <= before <= how.ceiling:
        assert how.floor <= after <= how.ceiling
    if after > before:
        assert cost < target * conversions
        assert after <= how.ceiling
    if after < before:
        assert cost > target * conversions
        assert after >= how.floor
    band = Fraction(how.dead_band, 10_000)
    near = conversions > 0 and abs(Fraction(cost, target * conversions) - 1) <= band
    assert (reason == "on_target") is near
    if near:
        assert after == before
    if after == before:
        assert reason in ("on_target", "floor", "ceiling", "too_small")


@given(any_bidding(), st.integers(1, 10**9), amounts, counts, amounts, st.integers(0, 10**12))
def test_what_is_dearer_is_never_bid_more(
    how: Bidding, before: int, target: int, conversions: int, cost: int, more: int
) -> None:
    one, _ = step(how, before, target, Sums(conversions=conversions, cost=cost))
    dearer, _ = step(how, before, target, Sums(conversions=conversions, cost=cost + more))
    assert dearer <= one


@given(st.integers(10**4, 10**8), st.integers(10**6, 10**9), st.integers(1, 10**4), st.integers(1, 10**4))
def test_a_step_takes_half_of_the_error_away_less_while_conversions_are_few(
    before: int, target: int, conversions: int, enough: int
) -> None:
    how = bidding(floor="1 micros", ceiling="1000000 yuan", conversions=enough, most_step="50%", dead_band="1%")
    cost = target * conversions * 5 // 4
    after, _ = step(how, before, target, Sums(conversions=conversions, cost=cost))
    error = math.log((conversions + enough) / (1.25 * conversions + enough))
    assert math.log(after / before) == pytest.approx(error / 2, abs=3 / before + 1e-5)
    assert abs(error) <= math.log(1.25) + 1e-9


# A closing


def test_what_is_dear_is_bid_less_and_the_decision_says_all() -> None:
    found = closing([campaign()], {KEY: DEAR})
    [decision] = found.decisions
    assert (decision.outcome, decision.reason, decision.before, decision.after) == ("fired", "", YUAN, 900_000)
    assert decision.key == f"target_cpa:douyin:c1:{BEGIN}"
    assert (decision.rule_id, decision.rule_version, decision.mode, decision.kind) == (TARGET_CPA, 1, "act", "bid")
    assert decision.window == Span(BEGIN - 7 * HOUR, BEGIN - HOUR)
    assert decision.figures == {
        "bid": YUAN,
        "conversions": 20,
        "cpa": 40 * YUAN,
        "spend": 800 * YUAN,
        "target_cpa": 20 * YUAN,
    }
    assert found.acts == [Act(decision.key, TARGET_CPA, 1, KEY, BEGIN, "bid", YUAN, 900_000)]
    assert found.memories == {(TARGET_CPA, KEY): Memory(BEGIN, fired_at=BEGIN, base=900_000)}


@pytest.mark.parametrize(
    ("changed", "sums", "outcome", "reason"),
    [
        ({}, CHEAP, "fired", ""),
        ({"bid": "4.90 yuan"}, CHEAP, "clamped", "ceiling"),
        ({"bid": "5 yuan"}, CHEAP, "skipped", "ceiling"),
        ({"bid": "0.21 yuan"}, DEAR, "clamped", "floor"),
        ({"bid": "0.20 yuan"}, DEAR, "skipped", "floor"),
        ({}, Sums(conversions=20, cost=419 * YUAN), "skipped", "on_target"),
        ({}, Sums(conversions=9, cost=199 * YUAN), "skipped", "guards"),
        ({}, Sums(conversions=10, cost=199 * YUAN), "skipped", "on_target"),
        ({}, Sums(conversions=10, cost=1), "fired", ""),
        ({}, Sums(conversions=0, cost=200 * YUAN), "fired", ""),
        ({}, Sums(), "skipped", "guards"),
        ({"state": "paused"}, DEAR, "skipped", "not_active"),
        ({"state": "ended"}, DEAR, "skipped", "ended"),
    ],
)
def test_why_a_bid_stays(changed: dict[str, Any], sums: Sums, outcome: str, reason: str) -> None:
    found = closing([campaign(**changed)], {KEY: sums})
    [decision] = found.decisions
    assert (decision.outcome, decision.reason) == (outcome, reason)
    assert bool(found.acts) is (outcome != "skipped")


def test_an_entity_that_has_lost_its_bid_or_target_stays() -> None:
    how = {KEY: bidding(staleness="15 minutes", schedule={"hours": "08:00-13:00"})}
    for entity, late, closed_at, reason in (
        (Entity(KEY, "a", target_cpa=YUAN), 0, BEGIN, "no_bid"),
        (Entity(KEY, "a", bid=YUAN), 0, BEGIN, "no_figure"),
        (Entity(KEY, "a", bid=YUAN, target_cpa=YUAN), 16 * 60_000, BEGIN, "stale"),
        (Entity(KEY, "a", bid=YUAN, target_cpa=YUAN), 0, BEGIN + HOUR, "schedule"),
    ):
        [decision] = closing([entity], {KEY: DEAR}, closed_at, late=late, settings=how).decisions
        assert decision.reason == reason
        assert decision.after is None


def test_a_dry_run_says_and_does_nothing_but_rests_like_one_that_acts() -> None:
    made = campaign(bidding=bidding(mode="dry_run").model_dump(mode="json"))
    found = closing([made], {KEY: DEAR})
    assert [each.outcome for each in found.decisions] == ["dry_run"]
    assert found.acts == []
    for hours, reason in ((1, "cool_down"), (6, "cool_down"), (7, "")):
        again = closing([made], {KEY: DEAR}, BEGIN + hours * HOUR, found.memories)
        assert [each.reason for each in again.decisions] == [reason]
        found.memories.update(again.memories if hours < 7 else {})


def test_a_bid_rests_after_any_change_for_its_window_with_what_is_left_out() -> None:
    made = campaign()
    found = closing([made], {KEY: DEAR})
    memories, known = dict(found.memories), apply(entities([made]), found.acts)
    for hours in range(1, 7):
        later = closing(known, {KEY: DEAR}, BEGIN + hours * HOUR, memories, settings=steered([made]))
        assert [each.reason for each in later.decisions] == ["cool_down"]
        memories |= later.memories
    # Somebody else sets the bid: the rest begins anew, when that is seen.
    other = apply(known, [Act("k", "r", 1, KEY, BEGIN, "bid", None, 3 * YUAN)])
    for hours, reason in ((7, "cool_down"), (13, "cool_down"), (14, "")):
        later = closing(other, {KEY: DEAR}, BEGIN + hours * HOUR, memories, settings=steered([made]))
        assert [each.reason for each in later.decisions] == [reason]
        memories |= later.memories


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 2_000 * YUAN)), max_size=30))
def test_what_was_evaluated_does_nothing_again_and_steps_are_never_nearer_than_the_rest(
    closings: list[tuple[int, int, int]],
) -> None:
    made = campaign()
    known, memories = entities([made]), dict[tuple[str, Key], Memory]()
    fired: list[tuple[int, int, int]] = []
    for hour, conversions, cost in closings:
        closed_at = BEGIN + hour * HOUR
        sums = {KEY: Sums(conversions=conversions, cost=cost)}
        before = memories.get((TARGET_CPA, KEY), Memory())
        found = closing(known, sums, closed_at, memories, settings=steered([made]))
        memories |= found.memories
        known = apply(known, found.acts)
        if closed_at <= before.evaluated:
            assert found.acts == []
            assert found.memories[TARGET_CPA, KEY] == before
        replay = closing(known, sums, closed_at, memories, settings=steered([made]))
        assert [each.reason for each in replay.decisions] == ["evaluated"]
        assert replay.memories == {(TARGET_CPA, KEY): memories[TARGET_CPA, KEY]}
        fired += [(act.closed_at, act.before or 0, act.after or 0) for act in found.acts]
    assert all(later[0] - earlier[0] >= 7 * HOUR for earlier, later in itertools.pairwise(fired))
    assert all(later[1] == earlier[2] for earlier, later in itertools.pairwise(fired))
    assert all(200_000 <= after <= 5 * YUAN for _, _, after in fired)


GROUPS = [{"ad_group_id": "g1", "bid": "2 yuan"}, {"ad_group_id": "g2"}, {"ad_group_id": "g3", "bid": "1 yuan"}]


def test_ad_groups_with_a_bid_of_their_own_move_apart_and_their_figures_are_not_the_campaigns() -> None:
    own = bidding(version=4, window={"last": "1 hour"}, ceiling="1 yuan").model_dump(mode="json")
    made = campaign(ad_groups=[GROUPS[0], GROUPS[1], GROUPS[2] | {"bidding": own, "target_cpa": "5 yuan"}])
    assert set(steered([made])) == {KEY, KEY._replace(ad_group_id="g1"), KEY._replace(ad_group_id="g3")}
    part = Sums(conversions=15, cost=100 * YUAN)
    groups = [KEY._replace(ad_group_id=name) for name in ("g1", "g3")]
    found = closing([made], {KEY: Sums(conversions=40, cost=1_000 * YUAN)} | dict.fromkeys(groups, part))
    campaign_, first, third = found.decisions
    assert campaign_.figures["conversions"] == 10
    assert campaign_.figures["spend"] == 800 * YUAN
    # The last: 1 yuan x sqrt(5 x (15 + 10) / (100 + 10 x 5)).
    assert [each.after for each in found.decisions] == [900_000, 2_200_000, 912_870]
    assert [each.rule_version for each in found.decisions] == [1, 1, 4]
    assert (first.window, third.window) == (campaign_.window, Span(BEGIN - HOUR, BEGIN))


def test_what_rules_do_at_the_same_closing_comes_first() -> None:
    made = campaign(ad_groups=GROUPS[:1])
    group = KEY._replace(ad_group_id="g1")
    pause = Act("p", "bad", 1, KEY, BEGIN, "pause", None, None)
    found = closing([made], {KEY: DEAR, group: DEAR}, done=[pause])
    assert [(each.outcome, each.reason, each.by) for each in found.decisions] == [
        ("skipped", "guards", ""),
        ("skipped", "outranked", "bad"),
    ]
    assert found.memories[TARGET_CPA, group] == Memory(BEGIN, base=2 * YUAN)
    other = Act("b", "cut", 1, group, BEGIN, "bid", 2 * YUAN, 1_500_000)
    found = closing([made], {KEY: DEAR, group: DEAR}, done=[other])
    assert found.decisions[1].by == "cut"
    assert found.acts == []
    # Its rest begins with what the rule did.
    assert found.memories[TARGET_CPA, group] == Memory(BEGIN, fired_at=BEGIN, base=1_500_000)
    budget = Act("b", "more", 1, KEY, BEGIN, "budget", YUAN, 2 * YUAN)
    assert len(closing([made], {group: DEAR}, done=[budget]).acts) == 1


# It gets there, and stays


def poisson(rng: random.Random, mean: float) -> int:
    return (
        max(0, round(rng.gauss(mean, math.sqrt(mean))))
        if mean > 40
        else sum(1 for _ in range(4_000) if rng.random() < mean / 4_000)
    )


def simulated(elasticity: float, off: float, volume: float, seed: int, steps: int = 60) -> list[float]:
    """True cost per conversion over its target, window after window, in a market in which it is the bid to the power
    of ``elasticity``; ``volume``: conversions a window at the target."""
    rng = random.Random(seed)
    how, target = bidding(floor="0.01 yuan", ceiling="1000 yuan"), 20 * YUAN
    good = 10 * YUAN
    now, course = round(good * off ** (1 / elasticity)), []
    for _ in range(steps):
        ratio = (now / good) ** elasticity
        course.append(ratio)
        cost = round(volume * target)
        sums = Sums(conversions=poisson(rng, volume / ratio), cost=cost)
        if max(sums.conversions, sums.cost // target) >= how.conversions:
            now, _ = step(how, now, target, sums)
    return course


@pytest.mark.parametrize("elasticity", [0.4, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("off", [0.5, 2.0])
@pytest.mark.parametrize(("volume", "spread"), [(12, 0.2), (40, 0.15), (400, 0.1)])
def test_costs_come_to_their_target_and_do_not_swing(
    elasticity: float, off: float, volume: float, spread: float
) -> None:
    courses = [simulated(elasticity, off, volume, seed) for seed in range(8)]
    late = [math.log(ratio) for course in courses for ratio in course[30:]]
    assert statistics.fmean(late) == pytest.approx(0, abs=0.06)
    assert statistics.pstdev(late) < spread
    # An oscillation would show as neighbours that err in opposite directions.
    pairs = [(math.log(a), math.log(b)) for course in courses for a, b in itertools.pairwise(course[30:])]
    assert statistics.fmean(a * b for a, b in pairs) > -0.001


# What is refused

FILE = """\
campaigns:
  - campaign_id: c1
    platform: douyin
    creator_id: a
    bid: 0.80 yuan
    target_cpa: 20 yuan
    bidding:
      window: {last: 6 hours, skip: 1 hour}
      floor: 0.20 yuan
      ceiling: 5 yuan
    ad_groups:
      - {ad_group_id: g1, bid: 0.90 yuan}
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("    bid: 0.80 yuan\n", "", None),
        ("    target_cpa: 20 yuan\n", "", "2: campaigns[1].target_cpa: bidding has no target to move to; write it"),
        ("bid: 0.80", "bid: 0.10", "5: campaigns[1].bid: 0.10 yuan is not from 0.20 yuan to 5.00 yuan, the floor and"),
        ("bid: 0.90", "bid: 6", "12: campaigns[1].ad_groups[1].bid: 6.00 yuan is not from 0.20 yuan to 5.00 yuan, th"),
        ("bid: 0.90 yuan", "bidding: {window: {last: 1 day}, floor: 1 yuan, ceiling: 2 yuan}",
         "12: campaigns[1].ad_groups[1].bidding: the ad group has no bid of its own to move; write it like"),
        ("ceiling: 5", "ceiling: 0.10", "9: campaigns[1].bidding.floor: 0.20 yuan is above the ceiling, 0.10 yuan"),
        ("      ceiling: 5 yuan\n", "", "7: campaigns[1].bidding.ceiling: is missing; write it like `ceiling: 5 yuan`"),
        ("floor: 0.20", "floor: 0", "9: campaigns[1].bidding.floor: a bid of 0.00 yuan never rises again; write it"),
        ("floor:", "most_step: 60%\n      floor:", "9: campaigns[1].bidding.most_step: 60% is more than half of the"),
        ("floor:", "dead_band: 100%\n      floor:", "9: campaigns[1].bidding.dead_band: 100% never lets a bid rise; "),
        ("floor:", "cool_down: 6 hours\n      floor:", "9: campaigns[1].bidding.cool_down: 6 hours is shorter than "),
        ("floor:", "mode: notify\n      floor:", "9: campaigns[1].bidding.mode: `notify` must be dry_run or act"),
        ("floor:", "conversion: 3\n      floor:", "9: campaigns[1].bidding.conversion: is not known here; did you m"),
        ("skip: 1 hour", "skip: 5 minutes", "8: campaigns[1].bidding.window.skip: 5 minutes is in another unit than"),
        ("{last: 6 hours, skip: 1 hour}\n", "{last: 1 day}\n      schedule: {hours: 08:00-23:00}\n",
         "9: campaigns[1].bidding.schedule.hours: a window of 1 day never closes within 08:00-23:00; one closes at"),
    ],
)  # fmt: skip
def test_bidding_that_is_wrong(tmp_path: Path, old: str, new: str, fault: str | None) -> None:
    file = tmp_path / "campaigns.yaml"
    assert old in FILE
    file.write_text(FILE.replace(old, new), encoding="utf-8")
    if fault is None:
        assert set(steered(read_campaigns(file))) == {KEY._replace(ad_group_id="g1")}
        return
    with pytest.raises(Refused) as refused:
        read_campaigns(file)
    assert refused.value.faults[0].startswith(f"{file}:{fault}"), refused.value.faults


def test_bidding_without_any_bid_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "campaigns.yaml"
    file.write_text(FILE.replace("    bid: 0.80 yuan\n", "").replace(", bid: 0.90 yuan", ""), encoding="utf-8")
    with pytest.raises(Refused, match="there is no bid to move"):
        read_campaigns(file)


def test_no_rule_has_the_name_of_bidding(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n  - {id: target_cpa, name: n, owner: o, level: campaign, when: [clicks < 1], window: {last: 1 hour}, "
        "action: {do: pause}}\n",
        encoding="utf-8",
    )
    with pytest.raises(Refused, match="`target_cpa` is the name of bidding towards a target"):
        read_rules(file, "Asia/Shanghai")


@given(any_bidding())
def test_bidding_reads_back_as_it_was_written(how: Bidding) -> None:
    assert Bidding.model_validate(how.model_dump(mode="json")) == Bidding.model_validate(how.model_dump()) == how


def test_the_page_has_every_field_and_its_campaigns_are_campaigns(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bidding.md").read_text(encoding="utf-8")
    assert [name for name in Bidding.model_fields if f"`{name}`" not in page] == []
    file = tmp_path / "campaigns.yaml"
    for text in re.findall(r"^```yaml\n(campaigns:.*?)^```$", page, re.MULTILINE | re.DOTALL):
        file.write_text(text, encoding="utf-8")
        assert steered(read_campaigns(file))
    assert "bidding" in AdGroup.model_fields
