"""Features, tiers and tags of fans, and the views over them, held to plain Python over the same events."""

import contextlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as effort
from hypothesis import strategies as st
from rig import ask, until

import pipeline.refresh as module
from infra.connect import clickhouse_client
from infra.errors import FanpulseError, SettingsError
from infra.settings import Settings, load
from pipeline.checkpoint import Checkpoint, frame, parameters
from pipeline.migrate import migrate
from pipeline.refresh import Refreshed, Refresher, refresh
from schemas.value import Features, ValuePolicy, classify, expressions, rule

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS = {
    "interactions": (
        "view", "view", "view", "like", "comment", "share", "favorite", "follow", "unfollow", "profile_visit",
        "live_enter", "live_leave", "live_comment", "live_like", "fan_badge_lit", "group_message", "group_vote",
        "group_checkin", "group_link_click", "group_welfare_claim", "dm_sent", "product_exposure", "product_click",
    ),
    "gifts": ("gift", "guard", "membership"),
    "orders": ("placed", "paid", "shipped", "refunded", "membership"),
    "ad_events": ("impression", "impression", "click", "play", "conversion"),
}  # fmt: skip
ATTRIBUTES = ("gender", "age_band", "region", "interest")
VALUES = {"gender": ("", "女", "男"), "age_band": ("", "18-23"), "region": ("广东", "浙江"), "interest": ("", "美妆")}

Pair = tuple[str, str, int]


@dataclass(frozen=True)
class Event:
    """An event, with the columns of its raw table that differ from the default."""

    topic: str
    at: datetime
    pair: Pair
    kind: str
    columns: dict[str, Any]
    late: int = 0
    duplicate: int = 0
    repaired: int = 0

    @property
    def counts(self) -> bool:
        return not self.duplicate and (not self.late or bool(self.repaired))

    def __getitem__(self, name: str) -> Any:
        return self.columns.get(name, "")


def made(rng: Random, begin: datetime, days: int, count: int) -> list[Event]:
    """Events of a few fans of three creators in so many days, times often the same."""
    pairs: list[Pair] = [
        (platform, creator, fan)
        for platform, creator in (("douyin", "c1"), ("kuaishou", "c1"), ("douyin", "c2"))
        for fan in range(1, 7)
    ]
    # Nobody is there every day.
    present = {pair: sorted(rng.sample(range(days), rng.randint(1, max(1, days // 3)))) for pair in pairs}
    found = []
    for _ in range(count):
        pair = rng.choice(pairs)
        hour = rng.choice((0, 1, 2, 3, 12, 22, 23, rng.randrange(24)))
        minute = rng.choice((0, 0, 30, 59))
        at = begin + timedelta(days=rng.choice(present[pair]), hours=hour, minutes=minute)
        topic = rng.choices(list(KINDS), weights=(6, 1, 2, 3))[0]
        kind = rng.choice(KINDS[topic])
        columns: dict[str, Any] = {name: rng.choice(VALUES[name]) for name in ATTRIBUTES}
        if topic == "interactions":
            columns |= {"content_id": rng.choice(("", "v1", "v2")), "source": rng.choice(("", "recommend", "search"))}
            columns |= {"watch_ms": rng.choice((None, 0, 5000)), "stay_ms": rng.choice((None, 7000))}
        elif topic == "gifts":
            columns |= {"value_micros": rng.choice((0, 1_000_000, 29_000_000, 10**9)), "quantity": 1}
        elif topic == "orders":
            columns |= {"amount_micros": rng.choice((0, 1_000_000, 60_000_000, 5 * 10**8))}
            columns |= {"content_id": rng.choice(("", "v3"))}
        else:
            columns |= {"campaign_id": rng.choice(("k1", "k2")), "audience": rng.choice(("a1", "a2"))}
        late = rng.random() < 0.1
        found.append(
            Event(topic, at, pair, kind, columns, int(late), int(rng.random() < 0.05), int(late and rng.random() < 0.5))
        )
    return found


class Raw:
    """Writes events into the raw tables as workers and repair do."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._offset = 0

    def add(self, events: list[Event], twice: float = 0.0, rng: Random | None = None) -> None:
        """Stores events; a share of the records twice, as after a crash."""
        for topic in KINDS:
            rows = []
            for event in events:
                if event.topic == topic:
                    self._offset += 1
                    platform, creator, fan = event.pair
                    row = {
                        "partition": fan % 4, "offset": self._offset, "appended_at": event.at,
                        "event_id": f"e{self._offset}", "event_time": event.at, "platform": platform, "fan": fan,
                        "creator_id": creator, "kind": event.kind, "late": event.late, "duplicate": event.duplicate,
                        "repaired": event.repaired, **event.columns,
                    }  # fmt: skip
                    rows += [row] * (2 if rng is not None and rng.random() < twice else 1)
            names = sorted({name for row in rows for name in row})
            for part in (rows[::2], rows[1::2]):
                if part:
                    self._client.insert(
                        f"raw_{topic}", [[row.get(name) for name in names] for row in part], column_names=names
                    )


class Oracle:
    """Everything again from the events that count, one after the other."""

    def __init__(self, settings: Settings, events: list[Event], now: datetime) -> None:
        self.settings = settings
        self.zone = ZoneInfo(settings.time_zone)
        self.events = [event for event in events if event.counts]
        self.today = now.astimezone(self.zone).date()
        self.no_activity = settings.no_activity.split(",")
        self.by_day: dict[tuple[Pair, date], list[Event]] = defaultdict(list)
        for event in self.events:
            if event.kind != "impression" or "impression" not in self.no_activity:
                self.by_day[event.pair, self.day(event)].append(event)

    def day(self, event: Event) -> date:
        return event.at.astimezone(self.zone).date()

    def own(self, event: Event) -> bool:
        return event.kind not in self.no_activity

    def money(self, event: Event) -> int:
        if event.topic == "gifts":
            return int(event["value_micros"])
        if event.topic == "orders" and event.kind in ("paid", "membership", "refunded"):
            return int(event["amount_micros"]) * (-1 if event.kind == "refunded" else 1)
        return 0

    def first(self, events: list[Event]) -> tuple[datetime, str, str]:
        """First action: time, source, content."""
        found = []
        for event in filter(self.own, events):
            source = "ad" if event.topic == "ad_events" else event["source"]
            found.append((event.at, checksum(source + event["content_id"]), source, event["content_id"]))
        at, _, source, content = min(found)
        return at, source, content

    def advertised(self, pair: Pair, at: datetime) -> tuple[str, str]:
        """Campaign and audience of the latest click or play in the 24 hours up to a moment."""
        touches = [
            (event.at, event["campaign_id"], event["audience"])
            for event in self.events
            if event.pair == pair and event.kind in ("click", "play") and at - DAY <= event.at <= at
        ]
        return max(touches)[1:] if touches else ("", "")

    def latest(self, events: list[Event], name: str) -> str:
        known = [(event.at, checksum(event[name]), event[name]) for event in events if event[name]]
        return str(max(known)[2]) if known else ""

    def features(self) -> dict[tuple[Pair, date], tuple[Any, ...]]:
        """Rows of fan_days, by pair and day."""
        found = {}
        for (pair, day), events in self.by_day.items():
            own = [event for event in events if self.own(event)]

            def count(*kinds: str, topic: str = "", events: list[Event] = events) -> int:
                return sum(event.kind in kinds and topic in ("", event.topic) for event in events)

            def total(name: str, *kinds: str, topic: str = "", events: list[Event] = events) -> int:
                return sum(event[name] or 0 for event in events if event.kind in kinds and topic in ("", event.topic))

            begun = self.first(own) if own else (EPOCH, "", "")
            hours = Counter(event.at.astimezone(self.zone).hour for event in own)
            found[pair, day] = (
                len(own),
                sum(event.kind in rule()["interactions"] for event in own),
                count("view"),
                total("watch_ms", "view"),
                count("like"),
                count("comment"),
                count("share"),
                count("favorite"),
                count("follow"),
                count("unfollow"),
                count("live_enter"),
                total("stay_ms", "live_leave"),
                count("live_comment"),
                count("group_message"),
                count("group_vote", "group_checkin", "group_welfare_claim", "group_link_click"),
                count("product_click"),
                count("click", "play"),
                count(*KINDS["gifts"], topic="gifts"),
                total("value_micros", *KINDS["gifts"], topic="gifts"),
                count("paid"),
                total("amount_micros", "paid"),
                count("membership", topic="orders"),
                total("amount_micros", "membership", topic="orders"),
                count("refunded"),
                total("amount_micros", "refunded"),
                begun[0],
                max((event.at for event in own), default=EPOCH),
                max((event.at for event in events if event.kind == "unfollow"), default=EPOCH),
                begun[2],
                begun[1],
                *(self.advertised(pair, begun[0]) if own else ("", "")),
                *(self.latest(events, name) for name in ATTRIBUTES),
                [hour for hour, _ in sorted(hours.items())],
                [actions for _, actions in sorted(hours.items())],
                len(events),
            )
        return found

    def pairs(self) -> list[Pair]:
        return sorted({pair for pair, _ in self.by_day})

    def active_days(self, pair: Pair) -> list[date]:
        return sorted(
            day for (of, day), events in self.by_day.items() if of == pair and any(self.own(e) for e in events)
        )

    def rated(self, pair: Pair, day: date) -> Features | None:
        """What the rule looks at, at the end of a day; None: no fan yet."""
        policy = self.settings.value_policy
        past = [event for (of, at), events in self.by_day.items() if of == pair and at <= day for event in events]
        own = [event for event in past if self.own(event)]
        if not own:
            return None
        days = {self.day(event) for event in own}
        window = {day - n * DAY for n in range(policy.window_days)}
        left = max((event.at for event in past if event.kind == "unfollow"), default=EPOCH)
        return Features(
            recency_days=(day - max(days)).days,
            active_days=len(days & window),
            interactions=sum(event.kind in rule()["interactions"] and self.day(event) in window for event in own),
            money_micros=sum(map(self.money, past)),
            tenure_days=(day - min(days)).days,
            staying=int((day - max(days)).days < self.settings.active_interval and max(e.at for e in own) > left),
        )

    def values(self) -> dict[tuple[Pair, date], tuple[Any, ...]]:
        """Rows of fan_values: tier, tags, points, features."""
        found = {}
        for pair in self.pairs():
            before = None
            for day in days_between(min(day for of, day in self.by_day if of == pair), self.today):
                features = self.rated(pair, day)
                if features is None:
                    continue
                value = classify(features, self.settings.value_policy)
                if before != (value.tier, value.tags):
                    scores = (value.recency_score, value.frequency_score, value.money_score)
                    found[pair, day] = (value.tier, list(value.tags), *scores, *astuple(features))
                before = value.tier, value.tags
        return found

    def profiles(self) -> dict[Pair, tuple[Any, ...]]:
        found: dict[Pair, tuple[Any, ...]] = {}
        for pair in self.pairs():
            events = [event for (of, _), events in self.by_day.items() if of == pair for event in events]
            days = self.active_days(pair)
            if days:
                at, source, content = self.first([event for event in events if self.own(event)])
                features = self.rated(pair, self.today)
                found[pair] = (
                    days[0],
                    days[-1],
                    len(days),
                    sum(map(self.own, events)),
                    content,
                    source,
                    *self.advertised(pair, at),
                    *(self.latest_by_day(pair, name) for name in ATTRIBUTES),
                    features.staying if features else 0,
                )
        return found

    def latest_by_day(self, pair: Pair, name: str) -> str:
        known = {day: self.latest(events, name) for (of, day), events in self.by_day.items() if of == pair}
        return next((known[day] for day in sorted(known, reverse=True) if known[day]), "")

    def contributions(self) -> dict[Pair, tuple[Any, ...]]:
        found = {}
        for pair in sorted({event.pair for event in self.events}):
            own = [e for e in self.events if e.pair == pair]
            gifts = [e["value_micros"] for e in own if e.topic == "gifts"]
            steps = {
                kind: [e["amount_micros"] for e in own if e.topic == "orders" and e.kind == kind]
                for kind in ("paid", "membership", "refunded")
            }
            paid = [
                e.at for e in own if e.topic == "gifts" or (e.topic == "orders" and e.kind in ("paid", "membership"))
            ]
            if paid or steps["refunded"]:
                total = sum(gifts) + sum(steps["paid"]) + sum(steps["membership"]) - sum(steps["refunded"])
                found[pair] = (
                    total,
                    sum(total >= threshold for threshold in self.settings.value_policy.badge_micros),
                    len(gifts),
                    sum(gifts),
                    *(n for amounts in steps.values() for n in (len(amounts), sum(amounts))),
                    min(paid, default=None),
                    max(paid, default=None),
                )
        return found

    def cohorts(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        members: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
        profiles = self.profiles()
        for pair, (first_day, _, _, _, content, source, campaign, audience, *_) in profiles.items():
            week = first_day - timedelta(days=first_day.weekday())
            for by, value in (
                ("all", ""), ("source", source), ("content", content), ("campaign", campaign), ("audience", audience)
            ):  # fmt: skip
                members[*pair[:2], week, by, value].append(pair)
        found = {}
        for key, pairs in members.items():
            retained: list[int | None] = []
            returning: list[float | None] = []
            for n in (1, 7, 14, 30):
                closed = key[2] + timedelta(days=6 + n) < self.today
                stayed = [(self.active_days(pair), profiles[pair][0] + timedelta(days=n)) for pair in pairs]
                retained.append(sum(day in days for days, day in stayed) if closed else None)
                returning.append(sum(days[-1] >= day for days, day in stayed) / len(pairs) if closed else None)
            shares = [None if kept is None else kept / len(pairs) for kept in retained]
            found[key] = (len(pairs), *retained, *shares, *returning)
        return found

    def portrait(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        fans: Counter[tuple[str, ...]] = Counter()
        active: Counter[tuple[str, ...]] = Counter()
        totals: Counter[tuple[str, ...]] = Counter()
        actives: Counter[tuple[str, ...]] = Counter()
        for (platform, creator, _), profile in self.profiles().items():
            totals[platform, creator] += 1
            actives[platform, creator] += profile[12]
            for name, value in zip(ATTRIBUTES, profile[8:12], strict=True):
                fans[platform, creator, name, value] += 1
                active[platform, creator, name, value] += profile[12]
        return {
            key: (n, n / totals[key[:2]], active[key], active[key] / actives[key[:2]] if actives[key[:2]] else None)
            for key, n in fans.items()
        }

    def arrivals(self) -> dict[tuple[Any, ...], tuple[int]]:
        found: Counter[tuple[Any, ...]] = Counter()
        for (platform, creator, _), profile in self.profiles().items():
            for name, value in zip(ATTRIBUTES, profile[8:12], strict=True):
                found[platform, creator, profile[0], name, value] += 1
        return {key: (n,) for key, n in found.items()}

    def heat(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        cells: Counter[tuple[Any, ...]] = Counter()
        for event in self.events:
            day = self.day(event)
            if self.own(event) and self.today - 28 * DAY <= day < self.today:
                cells[*event.pair[:2], day.isoweekday(), event.at.astimezone(self.zone).hour] += 1
        totals: Counter[tuple[Any, ...]] = Counter()
        for key, n in cells.items():
            totals[key[:2]] += n
        return {
            (*creator, weekday, hour): (cells[*creator, weekday, hour], cells[*creator, weekday, hour] / total)
            for creator, total in totals.items()
            for weekday in range(1, 8)
            for hour in range(24)
        }


def checksum(text: str) -> int:
    """By which one of several events in a millisecond is taken."""
    return zlib.crc32(text.encode()) % 2**20


def days_between(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days + 1)]


def table(client: Client, query: str, keys: int) -> dict[Any, tuple[Any, ...]]:
    """Rows of a query by their first columns; each key once."""
    rows = [
        tuple(cell.replace(tzinfo=UTC) if isinstance(cell, datetime) else cell for cell in row)
        for row in client.query(query).result_rows
    ]
    found = {row[:keys]: row[keys:] for row in rows}
    assert len(found) == len(rows), query
    return found


def columns(client: Client, name: str) -> list[str]:
    query = (
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {name:String} ORDER BY position"
    )
    return [row[0] for row in client.query(query, {"name": name}).result_rows]


def compare(settings: Settings, client: Client, events: list[Event], now: datetime) -> None:
    """Every table and view against the oracle, exactly."""
    oracle = Oracle(settings, events, now)

    def of_pairs(rows: dict[Any, tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
        return {((key[0], key[1], key[2]), *key[3:]): row for key, row in rows.items()}

    features = {key: row for key, row in oracle.features().items() if key[1] <= oracle.today}
    assert of_pairs(table(client, "SELECT * FROM fan_days FINAL", 4)) == features
    values = "SELECT * EXCEPT (unchanged, events) FROM fan_values FINAL WHERE unchanged = 0"
    assert of_pairs(table(client, values, 4)) == oracle.values()
    latest: dict[Pair, tuple[Any, ...]] = {}
    for (pair, day), row in sorted(oracle.values().items()):
        latest[pair] = (row[0], row[1], day)
    assert table(client, "SELECT * FROM fan_value_now", 3) == latest
    assert table(client, "SELECT * FROM fan_contribution", 3) == oracle.contributions()
    assert table(client, "SELECT * FROM fan_profiles", 3) == oracle.profiles()
    assert table(client, "SELECT * FROM fan_cohorts", 5) == oracle.cohorts()
    assert table(client, "SELECT * FROM fan_portrait", 4) == oracle.portrait()
    assert table(client, "SELECT * FROM fan_growth_portrait", 5) == oracle.arrivals()
    assert table(client, "SELECT * FROM fan_heat_map", 4) == oracle.heat()


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of the migrated database."""
    migrate(settings)
    with contextlib.closing(clickhouse_client(settings)) as opened:
        yield opened


SMALL = ValuePolicy(
    window_days=6, recency_high_days=1, recency_middle_days=4, frequency_high_days=3, frequency_middle_days=2,
    money_middle_micros=1_000_000, money_high_micros=60_000_000, high_value_micros=5 * 10**8, iron_tenure_days=9,
    iron_active_days=2, iron_interactions=2, potential_active_days=2, badge_micros=(1, 10**6, 6 * 10**7),
)  # fmt: skip


@pytest.mark.stack
@pytest.mark.parametrize(
    ("number", "zone", "begin", "days", "count", "changed"),
    [
        (1, "Asia/Shanghai", datetime(2026, 1, 1, tzinfo=UTC), 45, 260, {"value_policy": SMALL}),
        # The clock goes forward on 8 March, and back on 5 April by half an hour.
        (2, "America/New_York", datetime(2026, 3, 3, tzinfo=UTC), 12, 200, {"value_policy": SMALL}),
        (3, "Australia/Lord_Howe", datetime(2026, 3, 31, tzinfo=UTC), 10, 200, {"no_activity": "unfollow"}),
        (4, "Asia/Kathmandu", datetime(2026, 2, 24, tzinfo=UTC), 8, 150, {"no_activity": "click,play,unfollow,view"}),
    ],
)
def test_every_table_and_view_is_what_plain_python_says(
    settings: Settings,
    client: Client,
    number: int,
    zone: str,
    begin: datetime,
    days: int,
    count: int,
    changed: dict[str, Any],
) -> None:
    """Events come in any order of days, in three parts with a refresh after each, some records twice."""
    rng = Random(number)
    here = settings.model_copy(update={"time_zone": zone, **changed})
    events = made(rng, begin, days, count)
    raw = Raw(client)
    parts = [[event for event in events if rng.random() < share] for share in (0.5, 0.7)]
    parts = [parts[0], [event for event in parts[1] if event not in parts[0]]]
    parts.append([event for event in events if event not in parts[0] and event not in parts[1]])
    moments = (begin + days / 2 * DAY, begin + days * DAY, begin + (days + 3) * DAY)
    for part, now in zip(parts, moments, strict=True):
        raw.add(part, 0.2, rng)
        refresh(here, client, now)
    compare(here, client, events, moments[-1])
    again = refresh(here, client, moments[-1])
    assert list(again.days) == [Oracle(here, [], moments[-1]).today], "nothing else is due"
    # A fan who comes again makes retention of old cohorts known.
    later = begin + (days + 33) * DAY
    refresh(here, client, later)
    compare(here, client, events, later)


@st.composite
def policies(draw: st.DrawFn) -> ValuePolicy:
    """Policies of small numbers, so that features fall on thresholds."""
    recency = sorted(draw(st.lists(st.integers(0, 9), min_size=2, max_size=2)))
    frequency = sorted(draw(st.lists(st.integers(0, 9), min_size=2, max_size=2)))
    money = sorted(draw(st.lists(st.integers(0, 5), min_size=2, max_size=2)))
    score = sorted(draw(st.lists(st.integers(3, 9), min_size=2, max_size=2)))
    return ValuePolicy(
        recency_high_days=recency[0],
        recency_middle_days=recency[1],
        frequency_middle_days=frequency[0],
        frequency_high_days=frequency[1],
        money_middle_micros=money[0],
        money_high_micros=money[1],
        tier_middle_score=score[0],
        tier_high_score=score[1],
        high_value_micros=draw(st.integers(0, 6)),
        potential_active_days=draw(st.integers(0, 6)),
        potential_below_micros=draw(st.integers(0, 6)),
        iron_tenure_days=draw(st.integers(0, 6)),
        iron_active_days=draw(st.integers(0, 6)),
        iron_interactions=draw(st.integers(0, 6)),
    )


FEATURES = st.builds(
    Features,
    recency_days=st.integers(0, 10),
    active_days=st.integers(0, 10),
    interactions=st.integers(0, 7),
    money_micros=st.integers(-6, 7) | st.sampled_from([-(10**17), 10**17]),
    tenure_days=st.integers(0, 7),
    staying=st.integers(0, 1),
)


@pytest.mark.stack
def test_the_rule_says_the_same_in_python_and_in_sql(settings: Settings) -> None:
    names = [each.name for each in fields(Features)]
    with contextlib.closing(clickhouse_client(settings, database="system")) as opened:

        @seed(5)
        @effort(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(policies(), st.lists(FEATURES, min_size=1, max_size=60))
        def agree(policy: ValuePolicy, found: list[Features]) -> None:
            made = ", ".join(f"{text} AS {name}" for name, text in expressions(policy).items())
            columns = ", ".join(f"row.{number} AS {name}" for number, name in enumerate(names, start=1))
            rows = ", ".join(str(tuple(map(int, astuple(each)))) for each in found)
            kind = f"Array(Tuple({', '.join(['Int64'] * len(names))}))"
            query = (
                "SELECT tier, tags, recency_score, frequency_score, money_score FROM "
                f"(SELECT *, {made} FROM (SELECT {columns} FROM (SELECT arrayJoin(CAST([{rows}], '{kind}')) AS row)))"
            )
            said = [classify(each, policy) for each in found]
            assert [tuple(row) for row in opened.query(query).result_rows] == [
                (value.tier, list(value.tags), value.recency_score, value.frequency_score, value.money_score)
                for value in said
            ]

        agree()


def test_the_rule_in_words() -> None:
    """The default thresholds on fans that anyone would judge so."""
    policy = ValuePolicy()
    yuan = 1_000_000
    buyer = Features(1, 20, 200, 2000 * yuan, 90, 1)
    assert classify(buyer, policy).tier == "high"
    assert classify(buyer, policy).tags == ("active", "high_value", "iron")
    regular = Features(0, 15, 80, 0, 12, 1)
    assert (classify(regular, policy).tier, classify(regular, policy).tags) == ("middle", ("active", "potential"))
    gone = Features(29, 1, 0, 0, 29, 0)
    assert (classify(gone, policy).tier, classify(gone, policy).tags) == ("low", ())
    refunded = Features(0, 1, 1, -5 * yuan, 0, 1)
    assert (classify(refunded, policy).tier, classify(refunded, policy).money_score) == ("middle", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"high_value": 1}', "high_value is no threshold; did you mean high_value_micros?"),
        ('{"recency_high_days": 20}', "recency_high_days must not be above recency_middle_days"),
        ('{"window_days": 0}', "window_days: Input should be greater than or equal to 1"),
        ('{"badge_micros": [5, 5]}', "badge_micros must rise"),
        ("{", "invalid JSON"),
    ],
)
def test_bad_thresholds_are_one_line(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("FANPULSE_VALUE_POLICY", text)
    with pytest.raises(SettingsError) as refused:
        load()
    assert refused.value.message.startswith(f"FANPULSE_VALUE_POLICY={text}: {said}")
    assert "\n" not in refused.value.message


def test_thresholds_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANPULSE_VALUE_POLICY", '{"high_value_micros": 7}')
    assert load().value_policy == ValuePolicy(high_value_micros=7)
    assert str(load().value_policy) == '{"high_value_micros":7}'


def test_every_threshold_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fans.md").read_text(encoding="utf-8")
    for name, threshold in ValuePolicy.model_fields.items():
        assert f"| `{name}` | `{str(threshold.default).strip('()')}` | {threshold.description} |" in page


def view(pair: Pair, at: datetime, **columns: Any) -> Event:
    return Event("interactions", at, pair, "view", {"content_id": "v1", **columns})


NOON = datetime(2026, 1, 10, 4, tzinfo=UTC)
"""Noon of a Saturday in Shanghai."""
FAN: Pair = ("douyin", "c1", 7)


@pytest.mark.stack
def test_without_fans_everything_is_empty(settings: Settings, client: Client) -> None:
    done = refresh(settings, client, NOON)
    assert done == Refreshed({NOON.date(): 0}, {NOON.date(): 0})
    views = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE 'fan_%'"
    for (name,) in client.query(views).result_rows:
        if name not in ("fan_refreshes", "fan_settings", "fan_snapshots"):
            assert client.query(f"SELECT * FROM {name}").result_rows == [], name


@pytest.mark.stack
def test_badges_are_there_at_once_and_follow_the_settings(settings: Settings, client: Client) -> None:
    """Refunds above payments are below zero, gifts of nothing are gifts; only refunds are no payment."""
    money = [
        Event("gifts", NOON, FAN, "gift", {"value_micros": 0}),
        Event("orders", NOON, FAN, "paid", {"amount_micros": 2_000_000}),
        Event("orders", NOON + DAY, FAN, "refunded", {"amount_micros": 5_000_000}),
        Event("orders", NOON, ("douyin", "c1", 8), "refunded", {"amount_micros": 1}),
        Event("orders", NOON, ("douyin", "c1", 9), "membership", {"amount_micros": 60_000_000}),
        Event("orders", NOON, ("douyin", "c1", 10), "placed", {"amount_micros": 60_000_000}),
    ]
    Raw(client).add(money)
    query = "SELECT fan, contribution_micros, badge_level, gifts, first_at IS NULL FROM fan_contribution ORDER BY fan"
    assert ask(settings, query) == [(7, -3_000_000, 0, 1, 0), (8, -1, 0, 0, 1), (9, 60_000_000, 0, 0, 0)]
    refresh(settings, client, NOON)
    assert ask(settings, query)[2] == (9, 60_000_000, 3, 0, 0)
    other = settings.model_copy(update={"value_policy": ValuePolicy(badge_micros=(60_000_001,))})
    refresh(other, client, NOON + DAY)
    assert ask(settings, query)[2] == (9, 60_000_000, 0, 0, 0)
    assert ask(settings, "SELECT count() FROM fan_settings") == [(2,)]
    refresh(other, client, NOON + DAY)
    assert ask(settings, "SELECT count() FROM fan_settings") == [(2,)], "written only when something changed"


@pytest.mark.stack
def test_an_advertisement_counts_for_exactly_a_day(settings: Settings, client: Client) -> None:
    """Where clicks are no actions; those of the second before do not count any more, those after the action never."""
    here = settings.model_copy(update={"no_activity": "click,impression,unfollow"})
    touches = {7: NOON - DAY, 8: NOON - DAY - timedelta(milliseconds=1), 9: NOON, 10: NOON + timedelta(milliseconds=1)}
    pairs: dict[int, Pair] = {fan: ("douyin", "c1", fan) for fan in touches}
    clicks = [
        Event("ad_events", at, pairs[fan], "click", {"campaign_id": f"k{fan}", "audience": "a"})
        for fan, at in touches.items()
    ]
    Raw(client).add([*(view(pair, NOON) for pair in pairs.values()), *clicks])
    refresh(here, client, NOON + DAY)
    assert ask(settings, "SELECT fan, campaign_id FROM fan_profiles ORDER BY fan") == [
        (7, "k7"), (8, ""), (9, "k9"), (10, "")
    ]  # fmt: skip


@pytest.mark.stack
def test_a_click_of_the_day_before_that_comes_late_is_still_found(settings: Settings, client: Client) -> None:
    here, raw = settings.model_copy(update={"no_activity": "click,unfollow"}), Raw(client)
    raw.add([view(FAN, NOON)])
    refresh(here, client, NOON + 5 * DAY)
    raw.add([Event("ad_events", NOON - timedelta(hours=23), FAN, "click", {"campaign_id": "k", "audience": "a"})])
    refresh(here, client, NOON + 5 * DAY)
    assert ask(settings, "SELECT campaign_id FROM fan_profiles") == [("k",)]


@pytest.mark.stack
def test_the_heat_map_is_of_four_whole_weeks(settings: Settings, client: Client) -> None:
    Raw(client).add([view(FAN, NOON + n * DAY) for n in (0, 1, 28, 29)])
    refresh(settings, client, NOON + 29 * DAY)
    cells = ask(settings, "SELECT weekday, hour, actions FROM fan_heat_map WHERE actions > 0")
    assert cells == [(6, 12, 1), (7, 12, 1)], "the 1st and the 28th day, a Sunday and a Saturday"


@pytest.mark.stack
def test_who_acts_and_leaves_in_one_moment_has_left(settings: Settings, client: Client) -> None:
    later: Pair = ("douyin", "c1", 8)
    left = [Event("interactions", NOON, pair, "unfollow", {"content_id": ""}) for pair in (FAN, later)]
    Raw(client).add([view(FAN, NOON), view(later, NOON + timedelta(milliseconds=1)), *left])
    refresh(settings, client, NOON)
    assert ask(settings, "SELECT fan, active FROM fan_profiles ORDER BY fan") == [(7, 0), (8, 1)]
    assert ask(settings, "SELECT fan, tags FROM fan_value_now ORDER BY fan") == [(7, []), (8, ["active"])]


@pytest.mark.stack
@pytest.mark.parametrize("n", [1, 7, 14, 30])
def test_retention_is_known_once_the_day_is_over_for_the_whole_week(settings: Settings, client: Client, n: int) -> None:
    """The fan comes on a Saturday; who came on the Sunday could still act on the day after n days."""
    sunday = NOON + DAY
    Raw(client).add([view(FAN, NOON), view(FAN, NOON + n * DAY)])
    figures = f"SELECT retained_{n}, retention_{n}, returning_{n} FROM fan_cohorts WHERE by = 'all'"
    refresh(settings, client, sunday + n * DAY)
    assert ask(settings, figures) == [(None, None, None)]
    refresh(settings, client, sunday + (n + 1) * DAY)
    assert ask(settings, figures) == [(1, 1.0, 1.0)]


@pytest.mark.stack
def test_what_repair_takes_in_makes_its_day_due(settings: Settings, client: Client) -> None:
    raw = Raw(client)
    old = view(FAN, NOON, late=0)
    late = Event("interactions", NOON, FAN, "like", {"content_id": "v1"}, late=1)
    raw.add([old, late])
    now = NOON + 5 * DAY
    assert list(refresh(settings, client, now).days) == [NOON.date(), now.date()]
    assert list(refresh(settings, client, now).days) == [now.date()]
    client.command(
        "INSERT INTO raw_interactions SELECT * REPLACE (1 AS repaired) FROM raw_interactions FINAL WHERE late = 1"
    )
    assert list(refresh(settings, client, now).days) == [NOON.date(), now.date()]
    assert ask(settings, "SELECT actions, likes FROM fan_days FINAL") == [(2, 1)]


@pytest.mark.stack
def test_other_thresholds_judge_everybody_from_their_day_on(settings: Settings, client: Client) -> None:
    """What was before stays as it was; fans who have long been away are judged anew too."""
    away: Pair = ("douyin", "c1", 8)
    Raw(client).add([view(FAN, NOON + 40 * DAY), view(away, NOON)])
    refresh(settings, client, NOON + 40 * DAY)
    kept = "SELECT fan, day, tier, tags FROM fan_values FINAL WHERE unchanged = 0 ORDER BY fan, day"
    before = ask(settings, kept)
    generous = settings.model_copy(update={"value_policy": ValuePolicy(high_value_micros=0)})
    day = (NOON + 41 * DAY).date()
    refresh(generous, client, NOON + 41 * DAY)
    assert [row for row in ask(settings, kept) if row[1] < day] == before
    assert [row[:2] for row in ask(settings, kept) if row[1] == day] == [(7, day), (8, day)]
    assert ask(settings, "SELECT fan FROM fan_value_now WHERE has(tags, 'high_value') ORDER BY fan") == [(7,), (8,)]
    refresh(settings, client, NOON + 42 * DAY)
    assert ask(settings, "SELECT fan FROM fan_value_now WHERE has(tags, 'high_value')") == []
    wanted = refresh(settings, client, NOON + 42 * DAY, first=NOON.date())
    assert NOON.date() in wanted.days, "asked for, though nothing has changed"
    assert [row for row in ask(settings, kept) if row[1] < day] == before


@pytest.mark.stack
@pytest.mark.parametrize("step", ["_features", "_values"])
def test_a_refresh_cut_off_is_finished_by_the_next(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    events = made(Random(11), NOON, 6, 60)
    Raw(client).add(events)
    now = NOON + 8 * DAY
    here = settings.model_copy(update={"value_policy": SMALL})
    right, calls = getattr(module, step), []

    def cut_off(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise ConnectionResetError
        return right(*arguments)

    monkeypatch.setattr(module, "TOGETHER", 1)
    monkeypatch.setattr(module, step, cut_off)
    with pytest.raises(ConnectionResetError):
        refresh(here, client, now)
    refresh(here, client, now)
    compare(here, client, events, now)


@pytest.mark.stack
def test_one_worker_refreshes_and_the_others_see_it(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed days that changed make it due again soon; otherwise it is not before the interval is over."""
    here = settings.model_copy(update={"refresh_interval": 1000.0})
    clock = [datetime(2026, 1, 20, 4, tzinfo=UTC).timestamp()]
    raw = Raw(client)
    raw.add([view(FAN, NOON)])
    workers = [Refresher(here, index, clock=lambda: clock[0]) for index in range(2)]

    def look(index: int) -> int:
        """Whether this worker refreshed."""
        before = ask(settings, "SELECT max(written_at) FROM fan_refreshes")
        workers[index]._look(client)
        return int(ask(settings, "SELECT max(written_at) FROM fan_refreshes") != before)

    monkeypatch.setattr(module, "_now", lambda: datetime.fromtimestamp(clock[0], UTC))
    assert [look(0), look(1)] == [1, 0]
    clock[0] += 101
    assert [look(1), look(0)] == [1, 0], "a closed day was refreshed lately"
    clock[0] += 999
    assert look(1) == 0
    clock[0] += 2
    assert look(1) == 1
    assert ask(settings, "SELECT DISTINCT worker FROM fan_refreshes FINAL WHERE day = '2026-01-20'")[0][0].endswith(
        "-1"
    )


@pytest.mark.stack
def test_a_worker_refreshes_by_itself_and_waits_for_clickhouse(settings: Settings, client: Client) -> None:
    Raw(client).add([view(FAN, NOON)])
    here = settings.model_copy(update={"refresh_interval": 1.0})
    failures = iter([True, True])

    def connect() -> Client:
        if next(failures, False):
            raise ConnectionRefusedError
        return clickhouse_client(settings)

    refresher = Refresher(here, 0, connect)
    refresher.start()
    try:
        until(lambda: ask(settings, "SELECT 1 FROM fan_value_now"), "a tier")
    finally:
        refresher.stop()
        refresher._thread.join(30)
    assert not refresher._thread.is_alive()


@pytest.mark.stack
def test_figures_made_with_other_settings_are_left_alone(settings: Settings, client: Client) -> None:
    stored = Checkpoint("archive", "gifts", 0, 1, 5, 0, "t", "c", parameters(settings, "archive"))
    client.insert_arrow("checkpoints", frame([stored], 0).to_arrow())
    refresh(settings, client, NOON)
    other = settings.model_copy(update={"time_zone": "UTC"})
    with pytest.raises(FanpulseError, match="set them back"):
        refresh(other, client, NOON)
    refresher = Refresher(other, 0)
    refresher.start()
    refresher._thread.join(30)
    assert not refresher._thread.is_alive(), "it does not try again"
    assert ask(settings, "SELECT DISTINCT time_zone FROM fan_settings") == [("Asia/Shanghai",)]


def moves(rng: Random, first: date, days: int) -> list[tuple[Pair, date, int, str, str, str]]:
    """Moves of some fans of two creators: any stage to any other, none of a fan twice in one step of a day."""
    stages = ("new", "active", "retained", "silent", "churned")
    found = []
    for platform, creator in (("douyin", "c1"), ("kuaishou", "c2")):
        for fan in range(15):
            stage, when = "none", sorted(rng.sample([(d, s) for d in range(days) for s in range(3)], rng.randint(0, 9)))
            for day, step in when:
                to = "new" if stage == "none" else rng.choice([each for each in stages if each != stage])
                reason = "arrived" if stage == "none" else "unfollowed" if step == 2 else "absent"
                found.append(((platform, creator, fan), first + day * DAY, step, stage, to, reason))
                stage = to
    return found


@pytest.mark.stack
@pytest.mark.parametrize("number", [1, 2])
def test_growth_is_what_the_moves_add_up_to(settings: Settings, client: Client, number: int) -> None:
    rng = Random(number)
    first = NOON.date() - timedelta(days=rng.randrange(7))
    made_moves = moves(rng, first, 24)
    names = ["partition", "platform", "creator_id", "fan", "day", "step", "from_stage", "to_stage", "at", "reason"]
    names += ["resurrected", "withdrawn", "fold_version", "applied"]
    rows = [(0, *m[0], m[1], m[2], m[3], m[4], NOON, m[5], 0, 0, 1, 5) for m in made_moves]
    # What is withdrawn, older or of another definition is no move.
    rows += [(*row[:7], "silent", *row[8:-1], 4) for row in rng.sample(rows, 5)]
    rows += [(0, "douyin", "c1", fan, first, 0, "new", "active", NOON, "aged", 0, 1, 1, 5) for fan in range(50, 53)]
    client.insert("fan_transitions", rows, column_names=names)
    relations = [
        Event("interactions", NOON + rng.randrange(20) * DAY, ("douyin", "c1", fan), kind, {})
        for fan in range(9)
        for kind in ("follow", "unfollow", "view")
    ]
    Raw(client).add(relations)
    refresh(settings, client, NOON + 30 * DAY)

    days: dict[Any, tuple[Any, ...]] = {}
    weeks: dict[Any, tuple[Any, ...]] = {}
    for creator in {m[0][:2] for m in made_moves}:
        own = sorted(m[1:] for m in made_moves if m[0][:2] == creator)
        for day in days_between(own[0][0], max(m[1] for m in made_moves)):
            past = [m for m in own if m[0] <= day]
            today = [m for m in own if m[0] == day]
            ever = sum(m[2] == "none" for m in past)
            fans = ever + sum((m[2] == "churned") - (m[3] == "churned") for m in past)
            arrived = sum(m[2] == "none" for m in today)
            recovered = sum(m[2] == "churned" for m in today)
            churned = sum(m[3] == "churned" for m in today)
            related = [
                sum(e.kind == kind and e.pair[:2] == creator and e.at.date() == day for e in relations)
                for kind in ("follow", "unfollow")
            ]
            days[*creator, day] = (fans, ever, arrived, recovered, churned, arrived + recovered - churned, *related)
    assert table(client, "SELECT * FROM fan_growth_days", 3) == days
    assert sum(row[5] for row in days.values()) == sum(
        row[0] for key, row in days.items() if key[2] == max(day for *creator, day in days if tuple(creator) == key[:2])
    )
    for (*creator, day), row in sorted(days.items(), key=lambda item: item[0][2]):
        key = (*creator, day - timedelta(days=day.weekday()))
        count, *sums = weeks.get(key, (0, 0, 0, 0, 0, 0, 0, 0, 0))
        weeks[key] = (count + 1, row[0], row[1], *(a + b for a, b in zip(sums[2:], row[2:], strict=True)))
    assert table(client, "SELECT * FROM fan_growth_weeks", 3) == weeks
