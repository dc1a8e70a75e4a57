"""What happens in one slot of time: visits, and everything that follows from each within hours.

A slot is a piece of time, [slot x length, (slot + 1) x length) UTC ms. What begins in a slot of a partition is a
function of (configuration, partition, slot) alone; its consequences reach at most ``REACH_MS`` beyond the slot.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from generators.cast import PLAN, PRODUCTS, SEASON_MS, SLOTS_A_DAY, Cast, Rooms, Videos, opponent_at, room_at
from generators.columns import LUCK, Columns, Draft
from generators.config import WorldConfig
from generators.draws import Floats, Ints, Mask, choose, cumulate, stream, whole
from generators.population import AD, FOLLOW, GROUP, LIVE, NEVER, PROFILE, RECOMMEND, SEARCH, Crowd, Population
from generators.rhythm import HABITS, HOUR_MS, MINUTE_MS, Clock, weights
from generators.texts import MOODS, RANGES
from schemas.topics import DAY_MS

REACH_MS = 6 * HOUR_MS
"""Stays in rooms and conversions end within so many ms after the slot in which they began."""
FEED, ROOM, CHAT = range(3)
GIFTS: tuple[tuple[str, int, float], ...] = (
    ("小心心", 100_000, 40.0),
    ("免费荧光棒", 0, 14.0),
    ("玫瑰", 100_000, 22.0),
    ("大啤酒", 200_000, 11.0),
    ("棒棒糖", 900_000, 6.0),
    ("比心兔兔", 29_900_000, 1.2),
    ("跑车", 120_000_000, 0.25),
    ("嘉年华", 3_000_000_000, 0.006),
)
"""Gifts: name, price in micros, how often."""
GUARDS: tuple[tuple[str, int], ...] = (("守护-月", 98_000_000), ("守护-季", 268_000_000), ("守护-年", 998_000_000))
MEMBERSHIPS: tuple[tuple[str, int], ...] = (("会员-月", 12_000_000), ("会员-年", 118_000_000))
GIFT_TYPES = [*(name for name, _, _ in GIFTS), *(name for name, _ in GUARDS), *(name for name, _ in MEMBERSHIPS)]
CONVERSIONS = ["follow", "order", "lead"]
WORDLESS = 0.04
"""Share of comments and messages without text: stickers and pictures."""
SHOWN_A_DAY = 0.42
"""Advertisements shown to a fan a day at the natural rate."""


@dataclass(frozen=True)
class Setting:
    """What a slot takes place in: the videos about, how much each is recommended, the rooms, the hours' weights."""

    videos: Videos
    first: Ints
    last: Ints
    pull: Floats
    bucket_ms: int
    rooms: Rooms
    hours: Floats
    cumulative: Floats


@dataclass(frozen=True)
class Orders:
    """Orders begun in a slot. ``amount`` and ``coupon`` in micros; ``*_ms`` UTC, ``NEVER`` where it does not happen."""

    bond: Ints
    visit_ms: Ints
    mode: Ints
    placement: Ints
    content: Ints
    live: Ints
    group: Ints
    product: Ints
    placed_ms: Ints
    paid_ms: Ints
    shipped_ms: Ints
    refunded_ms: Ints
    amount: Ints
    coupon: Ints
    plan: Mask


class Stage:
    """Makes what begins in a slot. Pure: the caches hold only what can be made again."""

    def __init__(self, config: WorldConfig, cast: Cast, population: Population, clock: Clock, slot_ms: int) -> None:
        self._config = config
        self._cast = cast
        self._population = population
        self._clock = clock
        self._slot_ms = slot_ms
        self._settings: OrderedDict[int, Setting] = OrderedDict()
        self._orders: OrderedDict[tuple[int, int], Orders] = OrderedDict()
        places = cast.placements
        self._auctions = np.cumsum(places.weight / places.shown)

    def season(self, slot: int) -> int:
        """Season of a slot."""
        return slot * self._slot_ms // SEASON_MS

    def setting(self, slot: int) -> Setting:
        """What a slot takes place in, the same for all partitions."""
        found = self._settings.get(slot)
        if found is None:
            start = slot * self._slot_ms
            bucket = min(15 * MINUTE_MS, self._slot_ms)
            starts = np.arange(start, start + self._slot_ms, bucket, dtype=np.int64)
            first_day, last_day = self._clock.day(start), self._clock.day(start + self._slot_ms - 1)
            videos = self._cast.catalogue(first_day, last_day)
            age = (starts[:, None] - videos.posted_ms[None, :]) / DAY_MS
            rising = np.maximum(age, 0.0)
            pull = videos.quality * (rising / (rising + 0.1) * np.exp(-rising / 2.6) + 2e-3) * (age > 0)
            creators = np.arange(self._cast.count)
            hours = weights(self._clock, starts) * (bucket / DAY_MS)
            found = Setting(
                videos,
                np.searchsorted(videos.creator, creators, side="left"),
                np.searchsorted(videos.creator, creators, side="right"),
                np.r_[0.0, np.cumsum(pull)],
                bucket,
                self._cast.rooms(first_day - 1, last_day + 1),
                hours,
                np.cumsum(hours.ravel()),
            )
            self._settings[slot] = found
            while len(self._settings) > 4:
                self._settings.popitem(last=False)
        return found

    def _draw_times(self, setting: Setting, habit: Ints, slot: int, rng: np.random.Generator) -> Ints:
        """Times within the slot, by habit."""
        buckets = setting.hours.shape[1]
        before = np.r_[0.0, setting.cumulative][habit * buckets]
        total = setting.hours.sum(axis=1)[habit]
        flat = np.searchsorted(setting.cumulative, before + rng.random(len(habit)) * total, side="right")
        bucket = np.clip(flat - habit * buckets, 0, buckets - 1)
        at: Ints = slot * self._slot_ms + bucket * setting.bucket_ms + whole(rng.random(len(habit)) * setting.bucket_ms)
        return at

    def _pick_videos(self, setting: Setting, creator: Ints, at_ms: Ints, slot: int, uniform: Floats) -> Ints:
        """Rows of ``setting.videos`` that a creator's visitors see at a time; always published by then."""
        count = len(setting.videos.code)
        bucket = np.clip((at_ms - slot * self._slot_ms) // setting.bucket_ms, 0, setting.hours.shape[1] - 1)
        low = setting.pull[bucket * count + setting.first[creator]]
        high = setting.pull[bucket * count + setting.last[creator]]
        row = np.searchsorted(setting.pull, low + uniform * (high - low), side="right") - 1 - bucket * count
        picked: Ints = np.clip(row, setting.first[creator], setting.last[creator] - 1)
        return picked

    def _visits(self, crowd: Crowd, setting: Setting, slot: int, pull: Floats, rng: np.random.Generator) -> Ints:
        """Rows of spells and times, both drawn by how often people come; returned as (2, n)."""
        cumulative = np.cumsum(pull)
        expected = float(cumulative[-1]) if len(cumulative) else 0.0
        drawn = int(rng.poisson(expected)) if expected > 0 else 0
        if drawn == 0:
            return np.empty((2, 0), dtype=np.int64)
        spell = choose(cumulative, rng.random(drawn))
        at = self._draw_times(setting, crowd.bonds.habit[crowd.spells.bond[spell]], slot, rng)
        inside = (at > crowd.spells.start_ms[spell]) & (at < crowd.spells.end_ms[spell])
        return np.stack((spell[inside], at[inside]))

    def _pull(self, crowd: Crowd, setting: Setting, slot: int) -> Floats:
        """Expected visits of each spell in the slot."""
        start = slot * self._slot_ms
        about = (crowd.spells.start_ms < start + self._slot_ms) & (crowd.spells.end_ms > start)
        bond = crowd.spells.bond
        rate = crowd.bonds.rate[bond] * setting.hours.sum(axis=1)[crowd.bonds.habit[bond]]
        pull: Floats = np.where(about, rate * self._config.rate_factor, 0.0)
        return pull

    def orders(self, partition: int, slot: int) -> Orders:
        """Orders whose visit begins in the slot."""
        found = self._orders.get((partition, slot))
        if found is not None:
            return found
        rng = stream(self._config.seed, "orders", partition, slot)
        cast, setting = self._cast, self.setting(slot)
        crowd = self._population.crowd(partition, self.season(slot))
        pull = self._pull(crowd, setting, slot) * crowd.bonds.spend[crowd.spells.bond]
        spell, at = self._visits(crowd, setting, slot, pull, rng)
        begun = at >= self._config.start_ms
        spell, at = spell[begun], at[begun]
        bond = crowd.spells.bond[spell]
        creator, n = crowd.bonds.creator[bond], len(bond)
        live, _, _ = room_at(setting.rooms, creator, at, cast.count)
        way = rng.random(n)
        placement = np.full(n, -1, dtype=np.int64)
        # Twice as many as an advertisement leads to as campaigns begin.
        for c in np.unique(creator[way > 0.8]).tolist():
            owned = cast.placements.by_creator[c]
            here = np.flatnonzero((creator == c) & (way > 0.8))
            if len(owned):
                worth = cast.placements.weight[owned] * cast.placements.convert[owned]
                placement[here] = owned[choose(np.cumsum(worth), rng.random(len(here)))]
        member = (crowd.bonds.join_ms[bond] <= at) & (at < crowd.bonds.quit_ms[bond])
        mode = np.where((live >= 0) & (way < 0.7), ROOM, np.where(member & (way < 0.5), CHAT, FEED))
        video = self._pick_videos(setting, creator, at, slot, rng.random(n))
        plan = rng.random(n) < 0.04
        number = choose(np.cumsum(1 / (1 + np.arange(PRODUCTS)) ** 0.9), rng.random(n))
        number = np.where(plan, PLAN, number)
        quantity = 1 + (rng.random(n) < 0.15) + (rng.random(n) < 0.04)
        full = cast.price[creator, number] * np.where(plan, 1, quantity)
        couponed = (rng.random(n) < 0.27) & ~plan
        coupon = np.where(couponed, np.minimum(full * 3 // 10, (1 + whole(rng.random(n) * 4)) * 5_000_000), 0)
        free = (rng.random(n) < 0.006) & ~plan
        amount = np.where(free, 0, full - coupon)
        coupon = np.where(free, full, coupon)
        placed = at + 60_000 + whole(rng.random(n) * 340_000)
        pays = (rng.random(n) < 0.9) & ~plan
        delay = np.minimum(np.exp(rng.normal(0.3, 1.0, n)), 29.0)
        paid = np.where(pays, placed + 2_000 + whole(delay * MINUTE_MS), NEVER)
        ships = pays & (rng.random(n) < 0.97)
        shipped = np.where(ships, paid + whole((2 + 46 * rng.random(n)) * HOUR_MS), NEVER)
        refunds = pays & (rng.random(n) < 0.08)
        later = whole((0.1 + np.minimum(rng.exponential(1.8, n), 8.0)) * DAY_MS)
        refunded = np.where(refunds, np.where(ships, shipped, paid) + later, NEVER)
        found = Orders(
            bond,
            at,
            mode,
            placement,
            np.where(mode == FEED, setting.videos.code[video], -1),
            np.where(mode == ROOM, live, -1),
            np.where(mode == CHAT, crowd.bonds.group[bond], -1),
            creator * 16 + number,
            placed,
            paid,
            shipped,
            refunded,
            amount,
            coupon,
            plan,
        )
        self._orders[(partition, slot)] = found
        while len(self._orders) > 4 * self._config.partitions:
            self._orders.popitem(last=False)
        return found

    def begin(self, partition: int, slot: int) -> dict[str, Columns]:
        """Everything of three topics that begins in a slot (orders' own steps: ``orders``), in no order of time."""
        rng = stream(self._config.seed, "visits", partition, slot)
        setting = self.setting(slot)
        crowd = self._population.crowd(partition, self.season(slot))
        made = {topic: Draft(topic) for topic in ("interactions", "gifts", "ad_events")}
        acts, bonds, spells = made["interactions"], crowd.bonds, crowd.spells
        start, end = slot * self._slot_ms, (slot + 1) * self._slot_ms
        since = self._config.start_ms

        spell, at = self._visits(crowd, setting, slot, self._pull(crowd, setting, slot), rng)
        begins = np.flatnonzero((spells.start_ms >= max(start, since)) & (spells.start_ms < end))
        arrival = begins[spells.first[begins]]
        comeback = begins[~spells.first[begins]]
        orders = self.orders(partition, slot)
        # Visits, then arrivals, then returns, then visits that end in an order.
        bond = np.concatenate((spells.bond[spell], spells.bond[arrival], spells.bond[comeback], orders.bond))
        advertised = bonds.placement[spells.bond[arrival]] >= 0
        wait = np.where(advertised, 8_000, 0)
        at = np.concatenate((at, spells.start_ms[arrival] + wait, spells.start_ms[comeback], orders.visit_ms))
        n, plain = len(bond), len(spell)
        new = np.zeros(n, dtype=np.bool_)
        new[plain : plain + len(arrival)] = True
        ordered = n - len(orders.bond)
        creator = bonds.creator[bond]
        live, _, _ = room_at(setting.rooms, creator, at, self._cast.count)
        member = (bonds.join_ms[bond] <= at) & (at < bonds.quit_ms[bond])
        way = rng.random(n)
        mode = np.where((live >= 0) & (way < 0.6), ROOM, np.where(member & (way > 0.62), CHAT, FEED))
        mode = np.where(new & (bonds.source[bond] != LIVE), FEED, mode)
        mode[ordered:] = orders.mode
        begun = at >= since
        keep = np.flatnonzero(begun)
        fixed = np.full(n, -1, dtype=np.int64)
        fixed[ordered:] = orders.content
        self._feed(acts, bond, at, new, crowd, setting, slot, fixed, keep[mode[keep] == FEED], rng)
        self._rooms(made, bond, at, new, live, crowd, setting, keep[mode[keep] == ROOM], rng)
        self._chats(acts, bond, at, crowd, keep[mode[keep] == CHAT], rng)
        self._ties(acts, crowd, setting, slot, rng)
        self._shopping(made, crowd, orders, rng)
        led = arrival[advertised]
        self._brought(made["ad_events"], crowd, spells.bond[led], spells.start_ms[led], rng)
        self._advertising(made["ad_events"], crowd, setting, slot, rng)
        return {topic: draft.columns(slot, since) for topic, draft in made.items()}

    def _texts(self, kind: str, size: int, rng: np.random.Generator) -> Ints:
        moods = MOODS[kind]
        mood = choose(cumulate(*moods.values()), rng.random(size))
        first = np.array([RANGES[name][0] for name in moods])[mood]
        count = np.array([RANGES[name][1] for name in moods])[mood]
        texts: Ints = np.where(rng.random(size) < WORDLESS, -1, first + whole(rng.random(size) * count))
        return texts

    def _feed(
        self,
        acts: Draft,
        bonds_of: Ints,
        visits_at: Ints,
        new: Mask,
        crowd: Crowd,
        setting: Setting,
        slot: int,
        fixed: Ints,
        rows: Ints,
        rng: np.random.Generator,
    ) -> None:
        """Videos watched one after the other, and what the fan does with them."""
        bonds = crowd.bonds
        many = np.minimum(rng.geometric(0.27, len(rows)), 25)
        visit = np.repeat(np.arange(len(rows)), many)
        opening = np.r_[True, visit[1:] != visit[:-1]] if len(visit) else np.empty(0, dtype=np.bool_)
        row = rows[visit]
        bond, came = bonds_of[row], visits_at[row]
        fan, creator, n = bonds.fan[bond], bonds.creator[bond], len(row)
        video = self._pick_videos(setting, creator, came, slot, rng.random(n))
        # A visit that ends in an order starts at the video that the order names.
        told = np.flatnonzero(opening & (fixed[row] >= 0))
        content, duration = setting.videos.code[video], setting.videos.duration_ms[video]
        if len(told):
            by_code = np.argsort(setting.videos.code)
            place = by_code[np.searchsorted(setting.videos.code[by_code], fixed[row[told]])]
            content[told] = setting.videos.code[place]
            duration[told] = setting.videos.duration_ms[place]
        mind = rng.random(n)
        part = np.where(mind < 0.3, 0.02 + 0.1 * rng.random(n), np.where(mind < 0.68, rng.random(n), 1.0))
        part = np.where(mind > 0.95, 1 + 2 * rng.random(n), part)
        watch = np.minimum(whole(duration * part) + 300, 900_000)
        spent = np.cumsum(watch + 700)
        first = np.maximum.accumulate(np.where(opening, np.arange(n), 0)) if n else np.empty(0, dtype=np.int64)
        at = came + spent - (spent[first] - watch[first] - 700 if n else 0)
        follower = (bonds.follow_ms[bond] <= came) & (came < bonds.unfollow_ms[bond])
        luck = rng.random(n)
        source = np.where(
            follower & (luck < 0.55),
            FOLLOW,
            np.where(luck < 0.85, RECOMMEND, np.where(luck < 0.95, SEARCH, PROFILE)),
        )
        source = np.where(new[row] & (bonds.source[bond] != LIVE), bonds.source[bond], source)
        acts.add("view", at, fan, creator, content_id=content, watch_ms=watch, duration_ms=duration, source=source)
        warmth = np.where(follower, 1.3, 0.8) * np.where(part >= 1, 1.6, 0.8)
        for kind, share in (("like", 0.13), ("favorite", 0.022), ("share", 0.014)):
            done = np.flatnonzero(rng.random(n) < share * warmth)
            when = at[done] - whole(rng.random(len(done)) * watch[done] * 0.5)
            acts.add(kind, when, fan[done], creator[done], content_id=content[done], source=source[done])
        done = np.flatnonzero(rng.random(n) < 0.024 * warmth * np.minimum(bonds.talks[bond], 4))
        acts.add(
            "comment",
            at[done] + whole(rng.random(len(done)) * 9_000),
            fan[done],
            creator[done],
            content_id=content[done],
            text=self._texts("comment", len(done), rng),
            source=source[done],
        )
        done = np.flatnonzero(rng.random(n) < 0.02)
        acts.add(
            "profile_visit",
            at[done] + 400,
            fan[done],
            creator[done],
            content_id=np.where(rng.random(len(done)) < 0.8, content[done], -1),
            source=source[done],
        )
        done = np.flatnonzero((rng.random(n) < 0.07) & self._cast.shop[creator])
        product = creator[done] * 16 + choose(np.cumsum(1 / (1 + np.arange(PRODUCTS)) ** 0.9), rng.random(len(done)))
        shown = {"product_id": product, "content_id": content[done], "source": source[done]}
        acts.add("product_exposure", at[done] - watch[done] // 2, fan[done], creator[done], **shown)
        click = np.flatnonzero(rng.random(len(done)) < 0.12)
        acts.add(
            "product_click",
            at[done[click]] - watch[done[click]] // 4,
            fan[done[click]],
            creator[done[click]],
            **{name: column[click] for name, column in shown.items()},
        )
        done = np.flatnonzero(opening & follower & (rng.random(n) < 0.006 * bonds.talks[bond]))
        acts.add(
            "dm_sent",
            at[done] + 20_000,
            fan[done],
            creator[done],
            text=self._texts("dm_sent", len(done), rng),
        )

    def _rooms(
        self,
        made: dict[str, Draft],
        bonds_of: Ints,
        visits_at: Ints,
        new: Mask,
        lives: Ints,
        crowd: Crowd,
        setting: Setting,
        rows: Ints,
        rng: np.random.Generator,
    ) -> None:
        """Stays in live rooms: enter, comments, likes, badges, product cards, gifts, leave."""
        bonds, acts, count, rooms = crowd.bonds, made["interactions"], self._cast.count, setting.rooms
        bond, at, live, n = bonds_of[rows], visits_at[rows], lives[rows], len(rows)
        fan, creator = bonds.fan[bond], bonds.creator[bond]
        _, begun, closes = room_at(rooms, creator, at, count)
        follower = (bonds.follow_ms[bond] <= at) & (at < bonds.unfollow_ms[bond])
        minutes = np.exp(rng.normal(1.1, 1.2, n)) * np.where(follower, 1.6, 0.8)
        stay = np.minimum(whole(np.minimum(minutes, 170) * MINUTE_MS) + 2_000, closes - at)
        luck = rng.random(n)
        source = np.where(follower & (luck < 0.6), FOLLOW, np.where(luck < 0.9, RECOMMEND, SEARCH))
        source = np.where(new[rows], LIVE, source)

        def rival(picked: Ints, when: Ints) -> Ints:
            return opponent_at(rooms, live[picked], begun[picked], when, count)

        everyone = np.arange(n)
        acts.add("live_enter", at, fan, creator, live_id=live, pk_opponent=rival(everyone, at), source=source)
        acts.add(
            "live_leave",
            at + stay,
            fan,
            creator,
            live_id=live,
            pk_opponent=rival(everyone, at + stay),
            stay_ms=stay,
            source=source,
        )
        length = stay / MINUTE_MS
        for kind, rate in (("live_comment", 0.10 * bonds.talks[bond]), ("live_like", np.full(n, 0.4))):
            who = np.repeat(everyone, np.minimum(rng.poisson(rate * length), 40))
            when = at[who] + whole(rng.random(len(who)) * stay[who])
            fields: dict[str, Ints | int] = {"live_id": live[who], "pk_opponent": rival(who, when)}
            if kind == "live_comment":
                fields["text"] = self._texts(kind, len(who), rng)
            acts.add(kind, when, fan[who], creator[who], **fields)
        who = np.flatnonzero(follower & (rng.random(n) < 0.05))
        when = at[who] + stay[who] // 2
        acts.add("fan_badge_lit", when, fan[who], creator[who], live_id=live[who], pk_opponent=rival(who, when))
        who = np.repeat(everyone, rng.poisson(np.where(self._cast.shop[creator], np.minimum(length, 30) * 0.05, 0.0)))
        product = creator[who] * 16 + choose(np.cumsum(1 / (1 + np.arange(PRODUCTS)) ** 0.9), rng.random(len(who)))
        when = at[who] + whole(rng.random(len(who)) * stay[who])
        acts.add("product_exposure", when, fan[who], creator[who], product_id=product, live_id=live[who], source=LIVE)
        hit = np.flatnonzero(rng.random(len(who)) < 0.13)
        acts.add(
            "product_click",
            when[hit] + 1_500,
            fan[who[hit]],
            creator[who[hit]],
            product_id=product[hit],
            live_id=live[who[hit]],
            source=LIVE,
        )

        who = np.repeat(everyone, np.minimum(rng.poisson(bonds.gives[bond] * length), 60))
        when = at[who] + whole(rng.random(len(who)) * stay[who])
        gift = choose(np.cumsum([often for _, _, often in GIFTS]), rng.random(len(who)))
        price = np.array([price for _, price, _ in GIFTS])[gift]
        # Quantities follow a power law, but nobody sends a hundred of the dearest.
        quantity = np.minimum(whole((1 - rng.random(len(who))) ** -0.8), np.where(price > 10**8, 3, 99))
        made["gifts"].add(
            "gift",
            when,
            fan[who],
            creator[who],
            live_id=live[who],
            gift_type=gift,
            quantity=quantity,
            value_micros=price * quantity,
            pk_opponent=rival(who, when),
        )
        base = len(GIFTS)
        for paid, table, share in (("guard", GUARDS, 0.012), ("membership", MEMBERSHIPS, 0.02)):
            who = np.flatnonzero(follower & (rng.random(n) < share * np.minimum(bonds.gives[bond] * 25, 2)))
            level = choose(np.array([0.8, 0.95, 1.0])[: len(table)], rng.random(len(who)))
            when = at[who] + stay[who] * 2 // 3
            made["gifts"].add(
                paid,
                when,
                fan[who],
                creator[who],
                live_id=live[who],
                gift_type=base + level,
                quantity=1,
                value_micros=np.array([price for _, price in table])[level],
                pk_opponent=rival(who, when),
            )
            base += len(table)

    def _chats(
        self, acts: Draft, bonds_of: Ints, visits_at: Ints, crowd: Crowd, rows: Ints, rng: np.random.Generator
    ) -> None:
        """Visits to a fan group."""
        bonds = crowd.bonds
        bond, at, n = bonds_of[rows], visits_at[rows], len(rows)
        fan, creator, group = bonds.fan[bond], bonds.creator[bond], bonds.group[bond]
        who = np.repeat(np.arange(n), np.minimum(rng.poisson(0.9 * bonds.talks[bond]), 12))
        when = at[who] + whole(rng.random(len(who)) * 8 * MINUTE_MS)
        other = rng.integers(0, max(n, 1), len(who))
        answers = (rng.random(len(who)) < 0.5) & (group[other] == group[who]) & (fan[other] != fan[who])
        acts.add(
            "group_message",
            when,
            fan[who],
            creator[who],
            group_id=group[who],
            text=self._texts("group_message", len(who), rng),
            reply_to=np.where(answers, fan[other], -1),
        )
        first = choose(np.cumsum(1 / (1 + np.arange(PRODUCTS)) ** 0.9), rng.random(n))
        product = np.where(self._cast.shop[creator], creator * 16 + first, -1)
        for kind, share in (
            ("group_checkin", 0.55),
            ("group_vote", 0.16),
            ("group_welfare_claim", 0.2),
            ("group_link_click", 0.22),
        ):
            who = np.flatnonzero(rng.random(n) < share)
            when = at[who] + whole(rng.random(len(who)) * 5 * MINUTE_MS)
            fields: dict[str, Ints | int] = {"group_id": group[who]}
            if kind in ("group_welfare_claim", "group_link_click"):
                fields["product_id"] = product[who]
            acts.add(kind, when, fan[who], creator[who], **fields)

    def _ties(self, acts: Draft, crowd: Crowd, setting: Setting, slot: int, rng: np.random.Generator) -> None:
        """Follows, unfollows, joining and leaving groups: at the times that a bond has for them."""
        bonds = crowd.bonds
        start, end = slot * self._slot_ms, (slot + 1) * self._slot_ms
        who = np.flatnonzero((bonds.follow_ms >= start) & (bonds.follow_ms < end))
        at, creator = bonds.follow_ms[who], bonds.creator[who]
        video = setting.videos.code[self._pick_videos(setting, creator, at, slot, rng.random(len(who)))]
        live, _, _ = room_at(setting.rooms, creator, at, self._cast.count)
        source = bonds.source[who]
        in_room = (live >= 0) & (source == LIVE)
        from_video = ~in_room & (source != PROFILE) & (source != GROUP)
        acts.add(
            "follow",
            at,
            bonds.fan[who],
            creator,
            content_id=np.where(from_video, video, -1),
            live_id=np.where(in_room, live, -1),
            source=source,
        )
        who = np.flatnonzero((bonds.unfollow_ms >= start) & (bonds.unfollow_ms < end))
        acts.add("unfollow", bonds.unfollow_ms[who], bonds.fan[who], bonds.creator[who], source=PROFILE)
        for kind, times in (("group_join", bonds.join_ms), ("group_leave", bonds.quit_ms)):
            who = np.flatnonzero((times >= start) & (times < end))
            where: dict[str, Ints | int] = {"group_id": bonds.group[who]}
            if kind == "group_join":
                where["source"] = np.where(rng.random(len(who)) < 0.6, LIVE, PROFILE)
            acts.add(kind, times[who], bonds.fan[who], bonds.creator[who], **where)

    def _shopping(self, made: dict[str, Draft], crowd: Crowd, orders: Orders, rng: np.random.Generator) -> None:
        """What leads up to an order: the advertisement where there was one, the card shown, the card clicked."""
        bonds, n = crowd.bonds, len(orders.bond)
        fan, creator = bonds.fan[orders.bond], bonds.creator[orders.bond]
        gap = orders.placed_ms - orders.visit_ms
        source = np.where(orders.live >= 0, LIVE, np.where(orders.group >= 0, GROUP, RECOMMEND))
        source = np.where(orders.placement >= 0, AD, source)
        fields = {
            "product_id": orders.product,
            "content_id": orders.content,
            "live_id": orders.live,
            "source": source,
        }
        made["interactions"].add("product_exposure", orders.visit_ms + gap // 4, fan, creator, **fields)
        made["interactions"].add("product_click", orders.visit_ms + gap // 3, fan, creator, **fields)
        rows = np.flatnonzero(orders.placement >= 0)
        late = rng.random(n)[rows]
        self._funnel(
            made["ad_events"],
            orders.placement[rows],
            fan[rows],
            orders.visit_ms[rows],
            rng,
            kind=CONVERSIONS.index("order"),
            value=orders.amount[rows],
            converted_ms=orders.placed_ms[rows] + 1_000 + whole(late**3 * 4 * HOUR_MS),
            shown=0.5,
        )

    def _brought(self, ads: Draft, crowd: Crowd, bond: Ints, at: Ints, rng: np.random.Generator) -> None:
        """The advertisement that brought a new fan: shown, clicked, and a conversion for those who follow."""
        bonds = crowd.bonds
        follows = bonds.follow_ms[bond] < at + 2 * HOUR_MS
        when = np.where(follows, bonds.follow_ms[bond] + whole(rng.random(len(bond)) * 20 * MINUTE_MS), NEVER)
        kind = np.where(rng.random(len(bond)) < 0.1, CONVERSIONS.index("lead"), CONVERSIONS.index("follow"))
        self._funnel(ads, bonds.placement[bond], bonds.fan[bond], at, rng, kind, np.full(len(bond), -1), when, 1.0)

    def _funnel(
        self,
        ads: Draft,
        placement: Ints,
        fan: Ints,
        at: Ints,
        rng: np.random.Generator,
        kind: Ints | int,
        value: Ints,
        converted_ms: Ints,
        shown: float,
    ) -> None:
        """Advertisements that were clicked, from impression to conversion (where ``converted_ms`` is a time), if they
        are shown: such a part of them is as campaigns begin, more or less as the campaign is shown more or less."""
        places = self._cast.placements
        creator, n = places.creator[placement], len(placement)
        mille = places.mille[placement]
        bid, search = places.bid[placement], places.channel[placement] == 2
        cost = _cost(mille, search, rng)
        luck = whole(rng.random(n) * places.shown[placement] / shown * LUCK)
        ads.add(
            "impression",
            at,
            fan,
            creator,
            placement=placement,
            bid_micros=bid,
            cost_micros=cost,
            shown_ms=at,
            luck=luck,
        )
        clicked = at + 1_500 + whole(rng.random(n) * 4_000)
        charge = np.where(search, whole(bid * (0.05 + 0.1 * rng.random(n))), -1)
        ads.add(
            "click",
            clicked,
            fan,
            creator,
            placement=placement,
            bid_micros=bid,
            cost_micros=charge,
            shown_ms=at,
            luck=luck,
        )
        played = np.flatnonzero(rng.random(n) < 0.7)
        ads.add(
            "play",
            clicked[played] + 1_000,
            fan[played],
            creator[played],
            placement=placement[played],
            shown_ms=at[played],
            luck=luck[played],
        )
        done = np.flatnonzero(converted_ms < NEVER)
        ads.add(
            "conversion",
            converted_ms[done],
            fan[done],
            creator[done],
            placement=placement[done],
            conversion_type=np.broadcast_to(kind, n)[done],
            value_micros=value[done],
            shown_ms=at[done],
            luck=luck[done],
        )

    def _advertising(self, ads: Draft, crowd: Crowd, setting: Setting, slot: int, rng: np.random.Generator) -> None:
        """Advertisements in every auction that they may win; some are clicked, a few of those convert within hours.

        Which of them are shown, and at what price, is for the market to say."""
        places = self._cast.placements
        if len(places) == 0 or len(crowd.fans) == 0:
            return
        day = float(setting.hours.mean(axis=0).sum())
        many = SHOWN_A_DAY * self._config.rate_factor * self._auctions[-1] / places.weight.sum()
        shown = int(rng.poisson(many * len(crowd.fans) * day))
        placement = choose(self._auctions, rng.random(shown))
        platform = self._cast.platform[places.creator[placement]]
        exact = rng.random(shown) < 0.88
        # The first audience is everyone; it also stands in for one that reaches nobody here.
        lists = [r if len(r) else crowd.audiences[n % 2] for n, r in enumerate(crowd.audiences)]
        sizes = np.array([len(reached) for reached in lists])
        offsets = np.cumsum(sizes) - sizes
        target = np.where(exact, places.audience[placement], 0) * 2 + platform
        somebody = np.flatnonzero(sizes[target] > 0)
        placement, exact, target = placement[somebody], exact[somebody], target[somebody]
        shown = len(placement)
        fan = np.concatenate(lists)[offsets[target] + whole(rng.random(shown) * sizes[target])]
        at = self._draw_times(setting, whole(rng.random(shown) * len(HABITS)), slot, rng)
        creator, search = places.creator[placement], places.channel[placement] == 2
        bid, cost = places.bid[placement], _cost(places.mille[placement], places.channel[placement] == 2, rng)
        luck = whole(rng.random(shown) * LUCK)
        clicks = rng.random(shown) < places.click[placement] * np.where(exact, 1.0, 0.5)
        # Real logs lose a few: a click whose impression is missing, a cost that arrives on the click alone.
        lost = clicks & (rng.random(shown) < 0.02)
        seen = np.flatnonzero(~lost)
        ads.add(
            "impression",
            at[seen],
            fan[seen],
            creator[seen],
            placement=placement[seen],
            bid_micros=bid[seen],
            cost_micros=cost[seen],
            shown_ms=at[seen],
            luck=luck[seen],
        )
        plays = np.flatnonzero(rng.random(shown) < 0.22)
        ads.add(
            "play",
            at[plays] + 1_200,
            fan[plays],
            creator[plays],
            placement=placement[plays],
            shown_ms=at[plays],
            luck=luck[plays],
        )
        done = np.flatnonzero(clicks)
        clicked = at[done] + 1_500 + whole(rng.random(len(done)) * 9_000)
        charge = np.where(
            search[done],
            whole(bid[done] * (0.05 + 0.1 * rng.random(len(done)))),
            np.where(lost[done], cost[done], -1),
        )
        ads.add(
            "click",
            clicked,
            fan[done],
            creator[done],
            placement=placement[done],
            bid_micros=bid[done],
            cost_micros=charge,
            shown_ms=at[done],
            luck=luck[done],
        )
        # A few convert without ever having clicked.
        converts = np.where(clicks, places.convert[placement], 0.0006 * np.where(exact, 1.0, 0.3))
        done = np.flatnonzero(rng.random(shown) < converts)
        delay = np.minimum(np.exp(rng.normal(3.2, 1.1, len(done))), 320.0)
        kind = choose(cumulate(0.3, 0.3, 0.4), rng.random(len(done)))
        worth = self._cast.price[creator[done], whole(rng.random(len(done)) * PRODUCTS)]
        ads.add(
            "conversion",
            at[done] + 12_000 + whole(delay * MINUTE_MS),
            fan[done],
            creator[done],
            placement=placement[done],
            conversion_type=kind,
            value_micros=np.where(kind == CONVERSIONS.index("order"), worth, np.where(kind == 0, -1, 0)),
            shown_ms=at[done],
            luck=luck[done],
        )


def _cost(mille: Ints, search: Mask, rng: np.random.Generator) -> Ints:
    """Cost of impressions, micros: a thousandth of the price per thousand, unevenly; search is paid by the click."""
    return np.where(search, 0, whole(mille * (0.6 + 0.8 * rng.random(len(mille))) / 1000))


__all__ = ["CONVERSIONS", "GIFT_TYPES", "REACH_MS", "SLOTS_A_DAY", "Orders", "Setting", "Stage"]
