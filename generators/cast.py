"""The creators: who they are, what they publish and sell, when they are live, where they advertise."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from generators.config import WorldConfig
from generators.draws import Floats, Ints, choose, cumulate, stream, unit, whole
from generators.rhythm import HOUR_MS, MINUTE_MS, Clock
from schemas.topics import DAY_MS

PLATFORMS = ["douyin", "kuaishou"]
INTERESTS = ["美食", "美妆", "服饰", "游戏", "音乐", "知识", "母婴", "运动", "三农", "数码"]
_SLUGS = ["food", "beauty", "fashion", "game", "music", "edu", "baby", "sport", "farm", "tech"]
AGES = ["18-23", "24-30", "31-40", "41-50", "51+"]
GENDERS = ["female", "male"]
CHANNELS = ["feed", "dou_plus", "search", "live"]
SLOTS_A_DAY = 8
"""Most videos that a creator publishes on one day."""
PRODUCTS = 12
PLAN = 15
"""Number of the membership plan among a creator's products."""
GROUPS = 4
WON = 0.5
"""Part of the auctions that a campaign wins with the bid that it begins with."""
LIFE_DAYS = 21
"""A video is recommended for so many days."""


@dataclass(frozen=True)
class Audience:
    """A targeting label, whom it reaches, and how good those people truly are (multipliers round 1)."""

    label: str
    gender: int | None
    ages: tuple[int, ...] | None
    interest: int | None
    clicks: float
    converts: float
    stays: float


AUDIENCES: tuple[Audience, ...] = (
    Audience("通投", None, None, None, 0.7, 0.6, 0.4),
    Audience("女18-30 美妆兴趣", 0, (0, 1), 1, 1.6, 1.4, 1.1),
    Audience("女24-40 母婴兴趣", 0, (1, 2), 6, 1.3, 1.7, 2.2),
    Audience("男18-30 游戏兴趣", 1, (0, 1), 3, 1.5, 0.7, 1.2),
    Audience("美食兴趣", None, None, 0, 1.2, 1.1, 1.0),
    Audience("服饰兴趣", 0, None, 2, 1.3, 1.3, 0.8),
    Audience("41岁以上", None, (3, 4), None, 0.8, 0.9, 2.6),
    Audience("数码兴趣", None, None, 9, 1.1, 0.9, 0.9),
    Audience("相似达人粉丝", None, None, 4, 1.4, 1.2, 1.5),
    Audience("18-23 学生", None, (0,), None, 1.5, 0.5, 0.4),
)


@dataclass(frozen=True)
class Placements:
    """Creatives within ad groups, one row each. Money in micros, probabilities in [0, 1].

    ``campaign``, ``group``: numbers of its campaign and ad group. ``bid``, ``budget`` and ``aim`` are of the campaign
    as it begins: what it bids, its daily budget as a share of what it could spend, and its target cost per conversion
    as a share of what one then costs. ``mille``: cost of a thousand impressions at that bid; ``shown``: the part of
    its auctions that it then wins and has the budget for; ``weight``: how often it is then shown.
    """

    creator: Ints
    audience: Ints
    channel: Ints
    bid: Ints
    mille: Ints
    campaign: Ints
    group: Ints
    click: Floats
    convert: Floats
    stays: Floats
    weight: Floats
    budget: Floats
    aim: Floats
    shown: Floats
    by_creator: tuple[Ints, ...]
    campaign_id: list[str]
    ad_group_id: list[str]
    creative_id: list[str]

    def __len__(self) -> int:
        return len(self.creator)


@dataclass(frozen=True)
class Videos:
    """Videos of one or more days, sorted by creator. ``code`` = (local day x creators + creator) x 8 + number."""

    code: Ints
    creator: Ints
    posted_ms: Ints
    duration_ms: Ints
    quality: Floats


@dataclass(frozen=True)
class Rooms:
    """Live rooms of consecutive local days. Arrays of shape (days, creators); start 0 where there is no room."""

    first_day: int
    midnights: Ints
    start_ms: Ints
    end_ms: Ints
    opponent: Ints


class Cast:
    """All creators of a world. Arrays hold one value a creator."""

    def __init__(self, config: WorldConfig, clock: Clock) -> None:
        self._seed = config.seed
        self._clock = clock
        count = config.creators
        rng = stream(config.seed, "cast")
        self.count = count
        self.platform: Ints = np.where(np.arange(count) < 2, np.arange(count), whole(rng.random(count) < 0.4)).astype(
            np.int64
        )
        self.interest: Ints = (np.arange(count, dtype=np.int64) * 7 + whole(rng.random(count) * 3)) % len(INTERESTS)
        self.weight: Floats = (1.0 + rng.permutation(count).astype(np.float64)) ** -0.95
        self.stays: Floats = np.exp(rng.normal(0, 0.45, count))
        self.trend: Floats = rng.normal(0, 0.5, count)
        self.phase: Floats = rng.random(count)
        self.posts_a_day: Floats = 0.25 + 2.2 * rng.random(count) ** 1.6
        self.live_share: Floats = 0.35 + 0.6 * rng.random(count)
        self.live_start_min: Ints = whole(18.75 * 60 + rng.random(count) * 150)
        self.live_length_min: Ints = whole(60 + rng.random(count) * 150)
        self.shop: np.ndarray[tuple[int], np.dtype[np.bool_]] = (rng.random(count) < 0.75) | (np.arange(count) < 2)
        self.price: Ints = whole(np.exp(rng.normal(3.9, 0.9, (count, 16)))) * 1_000_000 + 900_000
        self.price[:, PLAN] = 15_000_000 + whole(rng.random(count) * 4) * 10_000_000
        self.ids = [
            f"{'dy' if p == 0 else 'ks'}_{_SLUGS[i]}_{n:03d}"
            for n, (p, i) in enumerate(zip(self.platform.tolist(), self.interest.tolist(), strict=True))
        ]
        self.placements = self._advertise(rng)
        self._videos: OrderedDict[int, Videos] = OrderedDict()

    def _advertise(self, rng: np.random.Generator) -> Placements:
        rows: list[tuple[int, int, int, int, int, int, int, float, float, float, float]] = []
        campaigns: list[str] = []
        groups: list[str] = []
        creatives: list[str] = []
        runs_before, groups_before = 0, 0
        for creator in range(self.count):
            runs = 1 + int(rng.random() < 0.4) if creator < 2 or rng.random() < 0.55 else 0
            for campaign in range(runs):
                budget = float(np.exp(rng.normal(0, 0.6)))
                fitting = [n for n, a in enumerate(AUDIENCES) if a.interest in (None, int(self.interest[creator]))]
                picked = rng.permutation(len(fitting))[:3]
                bids = 0
                for group, choice in enumerate(picked.tolist()):
                    audience = AUDIENCES[fitting[choice]]
                    channel = int(choose(cumulate(0.55, 0.2, 0.13, 0.12), rng.random(1))[0])
                    luck = rng.random()
                    bids = bids or 2_000_000 + int(luck * 8) * 1_000_000
                    mille = 3_500_000 + int(rng.random() * 260) * 137_000
                    for creative in range(2):
                        appeal = float(np.exp(rng.normal(0, 0.35)))
                        rows.append(
                            (
                                creator,
                                fitting[choice],
                                channel,
                                bids,
                                mille,
                                runs_before,
                                groups_before,
                                min(0.25, 0.035 * audience.clicks * appeal),
                                min(0.5, 0.09 * audience.converts),
                                audience.stays,
                                budget * (0.5 + float(rng.random())) / 2,
                            )
                        )
                        campaigns.append(f"cmp_{creator:03d}_{campaign + 1}")
                        groups.append(f"ag_{creator:03d}_{campaign + 1}_{group + 1}")
                        creatives.append(f"cr_{creator:03d}_{campaign + 1}_{group + 1}{'ab'[creative]}")
                    groups_before += 1
                runs_before += 1
        columns = list(zip(*rows, strict=True))
        ints = [np.array(column, dtype=np.int64) for column in columns[:7]]
        floats = [np.array(column, dtype=np.float64) for column in columns[7:]]
        share = 0.5 + 1.2 * unit(ints[5], self._seed * 8 + 5)
        aim = 0.7 + 0.6 * unit(ints[5], self._seed * 8 + 6)
        floats += [share, aim, WON * np.minimum(1.0, share)]
        owned = tuple(np.flatnonzero(ints[0] == creator) for creator in range(self.count))
        return Placements(*ints, *floats, owned, campaigns, groups, creatives)  # type: ignore[call-arg,arg-type]

    def videos(self, day: int) -> Videos:
        """What was published on a local day."""
        found = self._videos.get(day)
        if found is None:
            rng = stream(self._seed, "videos", day)
            creators = np.arange(self.count, dtype=np.int64)
            posts = np.minimum(rng.poisson(self.posts_a_day), SLOTS_A_DAY)
            posts = np.maximum(posts, (day + creators) % 4 == 0)
            creator = np.repeat(creators, posts)
            number = np.arange(len(creator)) - np.repeat(np.cumsum(posts) - posts, posts)
            hours = np.array([7.5, 11.5, 12.2, 17.5, 18.2, 19.0, 20.5, 21.5])
            hour = hours[whole(rng.random(len(creator)) * len(hours))] + rng.random(len(creator)) * 0.9
            found = Videos(
                (day * self.count + creator) * SLOTS_A_DAY + number,
                creator,
                self._clock.midnight_ms(day) + whole(hour * HOUR_MS),
                whole(np.clip(np.exp(rng.normal(3.5, 0.7, len(creator))), 7, 600)) * 1000,
                np.exp(rng.normal(0, 1.0, len(creator))) * np.where(rng.random(len(creator)) < 0.03, 12.0, 1.0),
            )
            self._videos[day] = found
            while len(self._videos) > 64:
                self._videos.popitem(last=False)
        return found

    def catalogue(self, first_day: int, last_day: int) -> Videos:
        """Videos that may still be recommended between two local days, sorted by creator."""
        days = [self.videos(day) for day in range(first_day - LIFE_DAYS, last_day + 1)]
        creator = np.concatenate([v.creator for v in days])
        order = np.argsort(creator, kind="stable")
        return Videos(
            np.concatenate([v.code for v in days])[order],
            creator[order],
            np.concatenate([v.posted_ms for v in days])[order],
            np.concatenate([v.duration_ms for v in days])[order],
            np.concatenate([v.quality for v in days])[order],
        )

    def rooms(self, first_day: int, last_day: int) -> Rooms:
        """Live rooms that start on local days ``first_day`` to ``last_day``."""
        days = range(first_day, last_day + 1)
        creators = np.arange(self.count, dtype=np.int64)
        starts, ends, opponents = [], [], []
        for day in days:
            keys = day * self.count + creators
            weekend = 0.15 if (day + 3) % 7 >= 5 else 0.0
            on = unit(keys, self._seed * 8 + 1) < self.live_share + weekend
            minute = self.live_start_min + whole(unit(keys, self._seed * 8 + 2) * 30)
            start = np.where(on, self._clock.midnight_ms(day) + minute * MINUTE_MS, 0)
            length = self.live_length_min + whole(unit(keys, self._seed * 8 + 3) * 40)
            starts.append(start)
            ends.append(np.where(on, start + length * MINUTE_MS, 0))
            opponent = np.full(self.count, -1, dtype=np.int64)
            for platform in (0, 1):
                live = np.flatnonzero(on & (self.platform == platform))
                live = live[np.argsort(unit(live, self._seed * 8 + 4 + day * 16), kind="stable")]
                pairs = len(live) // 2 * 2
                opponent[live[0:pairs:2]] = live[1:pairs:2]
                opponent[live[1:pairs:2]] = live[0:pairs:2]
            opponents.append(opponent)
        midnights = np.array([self._clock.midnight_ms(day) for day in days], dtype=np.int64)
        return Rooms(first_day, midnights, np.array(starts), np.array(ends), np.array(opponents))

    def content_id(self, code: int) -> str:
        """Identifier of a video."""
        rest, number = divmod(code, SLOTS_A_DAY)
        day, creator = divmod(rest, self.count)
        return f"v{_stamp(day)}_{creator:03d}_{number}"

    def live_id(self, code: int) -> str:
        """Identifier of a live room session; ``code`` = local day x creators + creator."""
        day, creator = divmod(code, self.count)
        return f"live{_stamp(day)}_{creator:03d}"

    @staticmethod
    def product_id(code: int) -> str:
        """Identifier of a product; ``code`` = creator x 16 + number."""
        creator, number = divmod(code, 16)
        return f"plan_{creator:03d}" if number == PLAN else f"p{creator:03d}_{number:02d}"

    @staticmethod
    def group_id(code: int) -> str:
        """Identifier of a fan group; ``code`` = creator x 8 + number."""
        creator, number = divmod(code, 8)
        return f"g{creator:03d}_{number + 1}"


def room_at(rooms: Rooms, creators: Ints, at_ms: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """The room open at each creator and time: live code or -1, its start and its end, UTC ms."""
    row = np.searchsorted(rooms.midnights, at_ms, side="right") - 1
    live = np.full(len(at_ms), -1, dtype=np.int64)
    start, end = live.copy(), live.copy()
    for back in (1, 0):
        r = np.clip(row - back, 0, len(rooms.midnights) - 1)
        s, e = rooms.start_ms[r, creators], rooms.end_ms[r, creators]
        open_ = (s > 0) & (at_ms >= s) & (at_ms < e)
        live = np.where(open_, (rooms.first_day + r) * count + creators, live)
        start = np.where(open_, s, start)
        end = np.where(open_, e, end)
    return live, start, end


def opponent_at(rooms: Rooms, live: Ints, start: Ints, at_ms: Ints, count: int) -> Ints:
    """The opposing creator while a PK runs (ten minutes in every thirty of a room), else -1."""
    day, creator = np.divmod(np.maximum(live, 0), count)
    row = np.clip(day - rooms.first_day, 0, len(rooms.midnights) - 1)
    minute = (at_ms - start) // MINUTE_MS % 30
    running = (live >= 0) & (minute >= 15) & (minute < 25)
    return np.where(running, rooms.opponent[row, creator], -1)


def _stamp(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).strftime("%y%m%d")


SEASON_MS = 64 * DAY_MS
"""New fans are drawn a season at a time; a fan's life ends within three seasons."""
