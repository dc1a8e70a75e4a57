"""The life of fans on cases small enough to work out by hand, and against the definitions at their most literal."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chaos.fans import STAGES, Calendar, Day, Fans, Move, Rules, first_at
from chaos.oracle import Judge
from chaos.truth import Sent

HOUR = 3_600_000
DAY = 24 * HOUR
RULES = Rules("UTC")
PAIR = (2, "douyin", "c1", "f1")
BEGIN = 20_000
"""The local day that the cases count from."""


def history(did: str, reached: int = 0, rules: Rules = RULES) -> list[tuple[int, int, str, str, str, int]]:
    """Moves as (day, step, from, to, reason, resurrected) of a pair that did ``did``: the days and what was done
    then, such as ``0:a 3:ua 9:x``: an action, an unfollow and then an action, both in the same millisecond."""
    fans = Fans(rules)
    last = 0
    for entry in did.split():
        day, _, acts = entry.partition(":")
        last = int(day)
        for number, act in enumerate(acts):
            at = (BEGIN + last) * DAY + (8 + number) * HOUR
            for kind in {"a": ("view",), "u": ("unfollow",), "x": ("unfollow", "view")}[act]:
                fans.note(PAIR, kind, at)
    return [
        (move.day - BEGIN, move.step, move.from_stage, move.to_stage, move.reason, move.resurrected)
        for move in fans.moves(PAIR, BEGIN + max(reached, last))
    ]


ARRIVED = (0, 1, "none", "new", "arrived", 0)


def test_a_fan_who_comes_once_ages_into_silence_and_is_gone() -> None:
    assert history("0:a", 6) == [ARRIVED]
    assert history("0:a", 7) == [ARRIVED, (7, 0, "new", "silent", "absent", 0)]
    assert history("0:a", 29) == history("0:a", 7)
    assert history("0:a", 60) == [*history("0:a", 7), (30, 0, "silent", "churned", "absent", 0)]


def test_a_new_fan_who_goes_on_becomes_retained_or_active() -> None:
    # On day 7 the last seven days are 1 to 7, the seven before them -6 to 0.
    assert history("0:a 1:a", 7) == [ARRIVED, (7, 0, "new", "retained", "aged", 0)]
    assert history("0:a 7:a", 7) == [
        ARRIVED,
        (7, 0, "new", "silent", "absent", 0),
        (7, 1, "silent", "retained", "returned", 1),
    ]


def test_retained_fades_to_active_when_the_days_before_are_empty() -> None:
    found = history("0:a 6:a 12:a", 13)
    assert found == [ARRIVED, (7, 0, "new", "retained", "aged", 0)]
    # On day 14 the seven days before are 1 to 7: day 6 is among them. On day 19 they are 6 to 12.
    assert history("0:a 6:a 12:a", 18) == found
    assert history("0:a 6:a 12:a", 19) == [*found, (19, 0, "retained", "silent", "absent", 0)]
    assert history("0:a 1:a 13:a", 20)[1:] == [
        (7, 0, "new", "retained", "aged", 0),
        (8, 0, "retained", "silent", "absent", 0),
        (13, 1, "silent", "retained", "returned", 1),
        (15, 0, "retained", "active", "faded", 0),
        (20, 0, "active", "silent", "absent", 0),
    ]


def test_who_comes_back_and_stays_is_active_then_retained() -> None:
    assert history("0:a 40:a 42:a", 48)[3:] == [
        (40, 1, "churned", "active", "returned", 1),
        (47, 0, "active", "retained", "faded", 0),
    ]


def test_edges_of_the_interval_and_of_churn() -> None:
    assert history("0:a 6:a")[-1] == ARRIVED
    assert history("0:a 29:a")[-1] == (29, 1, "silent", "active", "returned", 1)
    assert history("0:a 30:a")[-2:] == [
        (30, 0, "silent", "churned", "absent", 0),
        (30, 1, "churned", "active", "returned", 1),
    ]
    # Thirteen days back is in the interval before, fourteen is not.
    assert history("0:a 13:a")[-1] == (13, 1, "silent", "retained", "returned", 1)
    assert history("0:a 14:a")[-1] == (14, 1, "silent", "active", "returned", 1)


def test_leaving_is_a_move_unless_an_action_follows_on_the_same_day() -> None:
    left = (3, 2, "new", "churned", "unfollowed", 0)
    assert history("0:a 3:u") == [ARRIVED, left]
    assert history("0:a 3:ua") == [ARRIVED]
    assert history("0:a 3:au") == [ARRIVED, left]
    assert history("0:a 3:uau") == [ARRIVED, left]
    # In one millisecond: left.
    assert history("0:a 3:x") == [ARRIVED, left]
    assert history("0:x") == [ARRIVED, (0, 2, "new", "churned", "unfollowed", 0)]


def test_who_left_is_back_with_the_next_action() -> None:
    left = (3, 2, "new", "churned", "unfollowed", 0)
    assert history("0:a 3:u 4:a") == [ARRIVED, left, (4, 1, "churned", "new", "returned", 0)]
    assert history("0:a 3:u", 50) == [ARRIVED, left]
    assert history("0:a 3:u 5:u", 50) == [ARRIVED, left]
    assert history("0:a 3:u 12:ua")[2:] == [(12, 1, "churned", "retained", "returned", 1)]
    assert history("0:a 3:u 12:au")[2:] == [
        (12, 1, "churned", "retained", "returned", 1),
        (12, 2, "retained", "churned", "unfollowed", 0),
    ]
    assert history("0:a 9:u")[1:] == [
        (7, 0, "new", "silent", "absent", 0),
        (9, 2, "silent", "churned", "unfollowed", 0),
    ]
    assert history("0:a 31:u")[-1] == (30, 0, "silent", "churned", "absent", 0)


def test_leaving_and_coming_back_thrice() -> None:
    found = history("0:au 1:au 2:au")
    assert [move[2:5] for move in found] == [
        ("none", "new", "arrived"),
        ("new", "churned", "unfollowed"),
        *[("churned", "new", "returned"), ("new", "churned", "unfollowed")] * 2,
    ]


def test_an_unfollow_before_any_action_is_no_move() -> None:
    assert history("0:u", 50) == []
    assert history("0:u 2:a") == [(2, 1, "none", "new", "arrived", 0)]
    assert history("0:ua") == [ARRIVED]


def test_days_beyond_the_day_reached_are_counted_as_well() -> None:
    assert history("0:a 9:a", -5) == history("0:a 9:a", 9)
    assert history("0:a 9:u", -5) == history("0:a 9:u", 9)


def test_moves_carry_the_moment_that_made_them_true() -> None:
    at = (BEGIN + 3) * DAY
    fans = Fans(Rules("Asia/Shanghai"))
    for kind, moment in (("like", at + 5), ("view", at), ("like", at + DAY), ("unfollow", at + 4), ("unfollow", at)):
        fans.note(PAIR, kind, moment)
    assert fans.moves(PAIR, 0) == [Move(BEGIN + 3, 1, "none", "new", at, "arrived", 0)]
    midnights = [(BEGIN + day) * DAY - 8 * HOUR for day in (10, 11)]
    assert [move.at for move in fans.moves(PAIR, BEGIN + 11)] == [at, *midnights]
    fans.note(PAIR, "unfollow", at + DAY + 1)
    assert [move.at for move in fans.moves(PAIR, BEGIN + 4)] == [at, at + DAY + 1]


@pytest.mark.parametrize(
    ("zone", "day", "first"),
    [
        ("Asia/Shanghai", "2026-03-05", "2026-03-04T16:00"),
        ("Asia/Kolkata", "2026-03-05", "2026-03-04T18:30"),
        ("America/New_York", "2026-03-09", "2026-03-09T04:00"),
        # Clocks go from 23:59 to 1:00 at once.
        ("America/Santiago", "2026-09-06", "2026-09-06T04:00"),
        # Clocks go from 23:59 back to 23:00, and from 0:59 back to 0:00: it is midnight twice.
        ("Asia/Beirut", "2026-10-25", "2026-10-24T22:00"),
        ("America/Havana", "2026-11-01", "2026-11-01T04:00"),
    ],
)
def test_a_day_begins_with_its_first_moment(zone: str, day: str, first: str) -> None:
    calendar = Calendar(zone)
    number = date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()
    begin = calendar.begin(number)
    assert datetime.fromtimestamp(begin / 1000, UTC).isoformat()[:16] == first
    assert (calendar.day(begin), calendar.day(begin - 1)) == (number, number - 1)
    assert datetime.fromtimestamp(begin / 1000, ZoneInfo(zone)).date().isoformat() == day


def record(offset: int, at: int, topic: str, kind: str, event_id: str = "", fan: str = "f1") -> Sent:
    event = {
        "event_id": event_id or f"e{offset}",
        "event_time": at,
        "platform": "douyin",
        "fan_id": fan,
        "creator_id": "c1",
        "kind": kind,
    }
    return Sent(topic, 2, offset, at, fan.encode(), orjson.dumps(event), "event")


def test_events_of_every_topic_that_count_are_taken_in_and_no_others() -> None:
    noon = BEGIN * DAY + 12 * HOUR
    fans = Fans(RULES)
    for topic, records in {
        "interactions": [
            record(0, noon, "interactions", "unfollow"),
            record(1, noon + 5, "interactions", "follow"),
            record(2, noon + 5, "interactions", "follow", "e1"),
            record(3, noon - 5 * HOUR, "interactions", "view"),
            Sent("interactions", 2, 4, noon, b"f1", b"{", "broken_json"),
        ],
        "gifts": [record(0, noon - 7, "gifts", "gift")],
        "orders": [record(0, noon - 10, "orders", "refunded"), record(1, noon + DAY, "orders", "refunded")],
        "ad_events": [record(0, noon - 20, "ad_events", "impression"), record(1, noon + 20, "ad_events", "click")],
    }.items():
        assert all(each.topic == topic for each in records)
        judge = Judge(60_000, 2 * HOUR)
        for each in records:
            fans.add(judge.judge(each))
    assert fans.days == {PAIR: {BEGIN: Day(noon - 7, noon + 20, noon)}}
    assert fans.days[PAIR][BEGIN].followed
    assert first_at(fans.days[PAIR]) == noon - 7
    assert first_at({1: Day(unfollow=5)}) is None
    settled = Fans(RULES)
    judge = Judge(60_000, 2 * HOUR, repaired=True)
    for each in (record(0, noon, "gifts", "gift"), record(1, noon - 5 * HOUR, "gifts", "gift")):
        settled.add(judge.judge(each))
    assert first_at(settled.days[PAIR]) == noon - 5 * HOUR


def test_what_is_no_activity_is_a_setting() -> None:
    fans = Fans(Rules("UTC", no_activity=frozenset({"unfollow", "view"})))
    fans.note(PAIR, "impression", 5)
    fans.note(PAIR, "view", 7)
    assert fans.days == {PAIR: {0: Day(5, 5)}}


Did = list[tuple[int, int, bool]]
"""What a pair did: (day, millisecond of it, whether it was an unfollow)."""


def literal(did: Did, day: int, upto: int, rules: Rules) -> str:
    """The stage as of ``day`` by all that was done before ``upto`` (UTC ms): the definition, word by word."""
    known = [(d * DAY + ms, unfollow) for d, ms, unfollow in did if d * DAY + ms < upto]
    actions = [at for at, unfollow in known if not unfollow]
    if not actions:
        return "none"
    unfollows = [at for at, unfollow in known if unfollow]
    if unfollows and not any(at > max(unfollows) for at in actions):
        return "churned"
    days = {at // DAY for at in actions}
    gap = day - max(days)
    if gap >= rules.churn_after:
        return "churned"
    if gap >= rules.interval:
        return "silent"
    if day - min(days) < rules.interval:
        return "new"
    window = set(range(day - 2 * rules.interval + 1, day - rules.interval + 1))
    return "retained" if days & window else "active"


SHORT = Rules("UTC", interval=2, churn_after=5)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.booleans()), min_size=1, max_size=14),
    st.integers(0, 20),
)
@examples(max_examples=300, deadline=None)
def test_moves_lead_from_stage_to_stage_as_the_definitions_say(did: Did, reached: int) -> None:
    def made(order: Iterable[tuple[int, int, bool]]) -> list[Move]:
        fans = Fans(SHORT)
        for day, ms, unfollow in order:
            fans.note(PAIR, "unfollow" if unfollow else "view", day * DAY + ms)
        assert fans.days[PAIR].keys() == {day for day, _, _ in did}
        return fans.moves(PAIR, reached)

    found = made(did)
    assert found == made(sorted(did)) == made(reversed(did))
    # Each goes on where the one before ended, and moves.
    stage = "none"
    for move in found:
        assert move.from_stage == stage != move.to_stage
        stage = move.to_stage
        assert {stage, move.from_stage} <= set(STAGES)
    assert found == sorted(found, key=lambda move: (move.day, move.step))
    # After the midnight, and at the end, of each day.
    for day in range(max(reached, *(day for day, _, _ in did)) + 1):
        before = [move.to_stage for move in found if (move.day, move.step) <= (day, 0)]
        assert (before or ["none"])[-1] == literal(did, day, day * DAY, SHORT)
        after = [move.to_stage for move in found if move.day <= day]
        assert (after or ["none"])[-1] == literal(did, day, (day + 1) * DAY, SHORT)
