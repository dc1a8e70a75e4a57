"""The fans: who they are, whom they like, when they come, fall silent, return and leave."""

from collections import OrderedDict
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from generators.cast import AUDIENCES, GROUPS, INTERESTS, PLATFORMS, SEASON_MS, Audience, Cast
from generators.config import WorldConfig
from generators.draws import Floats, Ints, Mask, choose, cumulate, stream, whole
from generators.rhythm import HABITS, HOUR_MS
from schemas.topics import DAY_MS

NEVER = 2**62
"""A time that does not come, UTC ms."""
SOURCES = ["recommend", "follow", "search", "profile", "live", "group", "ad"]
RECOMMEND, FOLLOW, SEARCH, PROFILE, LIVE, GROUP, AD = range(7)
REGIONS = [
    "广东",
    "山东",
    "河南",
    "四川",
    "江苏",
    "河北",
    "湖南",
    "浙江",
    "安徽",
    "湖北",
    "广西",
    "云南",
    "江西",
    "辽宁",
    "福建",
    "陕西",
    "黑龙江",
    "山西",
    "贵州",
    "重庆",
    "吉林",
    "甘肃",
    "内蒙古",
    "新疆",
    "上海",
    "北京",
    "天津",
    "海南",
    "宁夏",
    "青海",
    "西藏",
]
DEVICES = ["Android", "iOS", "HarmonyOS", "iPad", "Web"]
MAX_SPELLS = 5


@dataclass(frozen=True)
class Fans:
    """Fans of one season. One value a fan; attribute codes are -1 where the platform does not know."""

    platform: Ints
    region: Ints
    age: Ints
    gender: Ints
    interest: Ints
    device: Ints
    partition: Ints


@dataclass(frozen=True)
class Bonds:
    """What ties a fan to a creator; one row a pair.

    Times in UTC ms, ``NEVER`` where it does not happen; ``rate`` visits an active day; ``spend`` orders a visit;
    ``gives`` gifts a minute in a live room; ``placement`` the advertisement that brought the fan, or -1.
    """

    fan: Ints
    creator: Ints
    habit: Ints
    source: Ints
    placement: Ints
    follow_ms: Ints
    unfollow_ms: Ints
    group: Ints
    join_ms: Ints
    quit_ms: Ints
    rate: Floats
    spend: Floats
    gives: Floats
    talks: Floats


@dataclass(frozen=True)
class Spells:
    """Times during which a fan is active with a creator: row of the bond, start and end in UTC ms, first or not."""

    bond: Ints
    start_ms: Ints
    end_ms: Ints
    first: Mask


@dataclass(frozen=True)
class Crowd:
    """All who may be active in one partition during one season, from this and the two seasons before.

    ``audiences``: numbers of the fans whom an audience reaches on a platform, at audience x 2 + platform.
    """

    bonds: Bonds
    spells: Spells
    fans: Ints
    audiences: tuple[Ints, ...]


def fan_id(number: int, platform: int, seed: int) -> str:
    """Identifier of a fan, always 12 ASCII characters."""
    return f"{'dy' if platform == 0 else 'ks'}{(number * 7_368_787 + seed * 104_729) % 10**10:010d}"


def partitions_of(numbers: Ints, platforms: Ints, seed: int, partitions: int) -> Ints:
    """Kafka partition of fans by number: murmur2 of their identifiers, as ``schemas.topics.partition_for``."""
    digits = (numbers * 7_368_787 + seed * 104_729) % 10**10
    letters = np.empty((len(numbers), 12), dtype=np.uint8)
    letters[:, 0] = np.where(platforms == 0, ord("d"), ord("k"))
    letters[:, 1] = np.where(platforms == 0, ord("y"), ord("s"))
    for place in range(11, 1, -1):
        digits, digit = np.divmod(digits, 10)
        letters[:, place] = digit + ord("0")
    words = letters.view("<u4")
    m = np.uint32(0x5BD1E995)
    with np.errstate(over="ignore"):
        h = np.full(len(numbers), 0x9747B28C ^ 12, dtype=np.uint32)
        for word in words.T:
            k = word * m
            k = (k ^ (k >> np.uint32(24))) * m
            h = (h * m) ^ k
        h = (h ^ (h >> np.uint32(13))) * m
        h = h ^ (h >> np.uint32(15))
    return (h & np.uint32(0x7FFFFFFF)).astype(np.int64) % partitions


def _maybe(values: Ints, missing: float, rng: np.random.Generator) -> Ints:
    return np.where(rng.random(len(values)) < missing, -1, values)


class Population:
    """Fans of any season and partition, made when asked for; the newest seasons and crowds are kept."""

    def __init__(self, config: WorldConfig, cast: Cast) -> None:
        self._config = config
        self._cast = cast
        self.a_season = max(4, round(config.fans * 0.6))
        self._fans: OrderedDict[int, Fans] = OrderedDict()
        self._ties: OrderedDict[int, tuple[Bonds, Spells]] = OrderedDict()
        self._crowds: OrderedDict[tuple[int, int], Crowd] = OrderedDict()

    def fans(self, season: int) -> Fans:
        """Fans who first appear in a season, over all partitions. Fan number = season x ``a_season`` + row."""
        found = self._fans.get(season)
        if found is None:
            n = self.a_season
            rng = stream(self._config.seed, "fans", season)
            platform = whole(rng.random(n) < 0.42)
            region = choose(np.cumsum(1 / (1 + np.arange(len(REGIONS))) ** 0.55), rng.random(n))
            age = choose(cumulate(0.24, 0.27, 0.26, 0.14, 0.09), rng.random(n))
            gender = whole(rng.random(n) < 0.47)
            interest = choose(cumulate(15, 12, 12, 11, 9, 9, 8, 8, 8, 8), rng.random(n))
            device = choose(cumulate(52, 24, 18, 4, 2), rng.random(n))
            numbers = season * n + np.arange(n, dtype=np.int64)
            found = Fans(
                platform,
                _maybe(region, 0.02, rng),
                _maybe(age, 0.06, rng),
                _maybe(gender, 0.08, rng),
                _maybe(interest, 0.04, rng),
                _maybe(device, 0.01, rng),
                partitions_of(numbers, platform, self._config.seed, self._config.partitions),
            )
            self._fans[season] = found
            while len(self._fans) > 5:
                self._fans.popitem(last=False)
        return found

    def attributes(self, numbers: Ints) -> pl.DataFrame:
        """Identifier and attributes of fans by number, as the platform gives them; null where it does not know."""
        seasons, rows = np.divmod(numbers, self.a_season)
        columns = {field.name: np.empty(len(numbers), dtype=np.int64) for field in fields(Fans)}
        for season in np.unique(seasons).tolist():
            here = seasons == season
            fans = self.fans(season)
            for name, column in columns.items():
                column[here] = getattr(fans, name)[rows[here]]
        digits = (numbers * 7_368_787 + self._config.seed * 104_729) % 10**10
        platform = _named(columns["platform"], PLATFORMS)
        prefix = _named(columns["platform"], ["dy", "ks"])
        return pl.DataFrame(
            {
                "platform": platform,
                "fan_id": prefix + pl.Series(digits).cast(pl.String).str.zfill(10),
                "region": _named(columns["region"], REGIONS),
                "age_band": _named(columns["age"], ["18-23", "24-30", "31-40", "41-50", "51+"]),
                "gender": _named(columns["gender"], ["female", "male"]),
                "interest": _named(columns["interest"], INTERESTS),
                "device": _named(columns["device"], DEVICES),
            }
        )

    def crowd(self, partition: int, season: int) -> Crowd:
        """Who may be active in a partition during a season."""
        found = self._crowds.get((partition, season))
        if found is None:
            bonds: list[Bonds] = []
            spells: list[Spells] = []
            numbers: list[Ints] = []
            base = 0
            for born in range(season - 2, season + 1):
                all_bonds, all_spells = self._life(born)
                mine = self.fans(born).partition == partition
                if born >= season - 1:
                    numbers.append(born * self.a_season + np.flatnonzero(mine))
                kept = mine[all_bonds.fan - born * self.a_season]
                place = np.cumsum(kept) - 1 + base
                bonds.append(Bonds(*(getattr(all_bonds, field.name)[kept] for field in fields(Bonds))))
                alive = kept[all_spells.bond] & (all_spells.end_ms >= season * SEASON_MS)
                spells.append(
                    Spells(
                        place[all_spells.bond[alive]],
                        all_spells.start_ms[alive],
                        all_spells.end_ms[alive],
                        all_spells.first[alive],
                    )
                )
                base += int(kept.sum())
            fans = np.concatenate(numbers)
            found = Crowd(
                Bonds(*(np.concatenate([getattr(b, field.name) for b in bonds]) for field in fields(Bonds))),
                Spells(*(np.concatenate([getattr(s, field.name) for s in spells]) for field in fields(Spells))),
                fans,
                tuple(self._reached(number, fans, platform) for number in range(len(AUDIENCES)) for platform in (0, 1)),
            )
            self._crowds[(partition, season)] = found
            while len(self._crowds) > max(4, 2 * self._config.partitions):
                self._crowds.popitem(last=False)
        return found

    def _reached(self, audience: int, numbers: Ints, platform: int) -> Ints:
        wanted = AUDIENCES[audience]
        seasons, rows = np.divmod(numbers, self.a_season)
        fits = np.ones(len(numbers), dtype=np.bool_)
        for season in np.unique(seasons).tolist():
            here = seasons == season
            fans = self.fans(season)
            fit = (fans.platform[rows[here]] == platform) & _fit(wanted, fans, rows[here])
            fits[here] = fit
        return numbers[fits]

    def _life(self, season: int) -> tuple[Bonds, Spells]:
        found = self._ties.get(season)
        if found is None:
            found = self._live(season)
            self._ties[season] = found
            while len(self._ties) > 4:
                self._ties.popitem(last=False)
        return found

    def _likes(self, season: int, rng: np.random.Generator, fan: Ints, arrive: Ints) -> Ints:
        """Creators that fans take to: of their platform, by size, interest and how the creator grows just then."""
        fans, cast = self.fans(season), self._cast
        week = np.minimum((arrive - season * SEASON_MS) // (8 * DAY_MS), 11)
        creator = np.empty(len(fan), dtype=np.int64)
        uniform = rng.random(len(fan))
        for w in range(12):
            turn = (season * 8 + w) / 13 + cast.phase
            grown = cast.weight * np.exp(cast.trend * np.sin(2 * np.pi * turn))
            for platform in (0, 1):
                for interest in range(-1, len(INTERESTS)):
                    here = np.flatnonzero(
                        (week == w) & (fans.platform[fan] == platform) & (fans.interest[fan] == interest)
                    )
                    if len(here):
                        fit = grown * (cast.platform == platform) * np.where(cast.interest == interest, 4.0, 1.0)
                        creator[here] = choose(np.cumsum(fit), uniform[here])
        return creator

    def _live(self, season: int) -> tuple[Bonds, Spells]:
        cast, n = self._cast, self.a_season
        rng = stream(self._config.seed, "bonds", season)
        start = season * SEASON_MS
        limit = start + 3 * SEASON_MS
        eager = np.exp(rng.normal(0, 0.6, n))
        purse = np.exp(rng.normal(0, 1.1, n))
        chatty = np.exp(rng.normal(0, 0.9, n))
        habit = whole(rng.random(n) * len(HABITS))
        came = start + whole(rng.random(n) * SEASON_MS)
        liked = np.minimum(1 + rng.geometric(0.42, n) - 1 + (rng.random(n) < 0.25), 10)
        fan = np.repeat(np.arange(n), liked)
        once = np.r_[True, fan[1:] != fan[:-1]]
        later = whole(rng.exponential(14, len(fan)) * DAY_MS)
        arrive = came[fan] + np.where(once, 0, np.minimum(later, 60 * DAY_MS))
        creator = self._likes(season, rng, fan, arrive)
        # A fan and a creator have one bond: the one of the earlier draw.
        _, unique = np.unique(fan * cast.count + creator, return_index=True)
        unique.sort()
        fan, arrive, creator = fan[unique], arrive[unique], creator[unique]
        m = len(fan)

        source = choose(cumulate(0.36, 0.0, 0.12, 0.06, 0.12, 0.04, 0.30), rng.random(m))
        placement = np.full(m, -1, dtype=np.int64)
        pick = rng.random(m)
        fans, places = self.fans(season), cast.placements
        # The same money shows more to each person of a narrow audience than to each of a broad one.
        reach = np.array([max(0.01, float(_fit(a, fans, np.arange(n)).mean())) for a in AUDIENCES])
        paid = places.weight * places.click * places.convert / reach[places.audience]
        for c, owned in enumerate(places.by_creator):
            here = np.flatnonzero((creator == c) & (source == AD))
            if len(owned) == 0:
                source[here] = RECOMMEND
                continue
            if len(here):
                # Only advertisements that were targeted at such a fan can have brought it.
                fits = np.stack([_fit(AUDIENCES[a], fans, fan[here]) for a in places.audience[owned].tolist()], axis=1)
                worth = fits * paid[owned]
                total = np.cumsum(worth, axis=1)
                chosen = (total <= (pick[here] * total[:, -1])[:, None]).sum(axis=1)
                reached = total[:, -1] > 0
                placement[here[reached]] = owned[chosen[reached]]
                source[here[~reached]] = RECOMMEND
        keeps = np.array([0.8, 1.0, 1.4, 1.3, 1.2, 1.8, 0.7])[source]
        keeps = keeps * np.where(placement >= 0, cast.placements.stays[placement], 1.0) * cast.stays[creator]
        loyal = np.clip(keeps, 0.5, 1.5)
        warm = rng.random(m)
        follows = warm < np.array([0.3, 1.0, 0.5, 0.55, 0.5, 0.7, 0.6])[source]
        at_once = rng.random(m) < 0.7
        follow = arrive + whole(np.where(at_once, 60 + rng.exponential(120, m), rng.exponential(3, m) * 86_400) * 1000)
        follow = np.where(follows, follow, NEVER)

        bond_rows, starts, ends, firsts = [], [], [], []
        unfollow = np.full(m, NEVER, dtype=np.int64)
        last = np.zeros(m, dtype=np.int64)
        alive = np.arange(m)
        at = arrive.copy()
        for turn in range(MAX_SPELLS):
            size = len(alive)
            fleeting = (rng.random(size) < np.where(follows[alive], 0.12, 0.55)) & (turn == 0)
            days = rng.exponential(1, size) * 13 * keeps[alive] * np.where(follows[alive], 1.6, 0.5)
            length = whole(np.where(fleeting, 0.02, np.minimum(days + 0.2, 150)) * DAY_MS)
            end = np.minimum(at[alive] + length, limit - 1)
            bond_rows.append(alive)
            starts.append(at[alive])
            ends.append(end)
            firsts.append(np.full(size, turn == 0))
            last[alive] = end
            leaves = follows[alive] & (unfollow[alive] == NEVER) & (rng.random(size) < 0.14)
            leaves &= follow[alive] < end - HOUR_MS
            unfollow[alive[leaves]] = end[leaves]
            gap = whole(np.clip(np.exp(rng.normal(2.45, 0.75, size)), 1.2, 90) * DAY_MS)
            back = rng.random(size) < np.where(leaves, 0.2, np.where(follows[alive], 0.58, 0.25)) * loyal[alive]
            at[alive] = end + gap
            alive = alive[back & (at[alive] < limit - DAY_MS)]
        # Who would follow only after the first spell does not come to it.
        first_end = ends[0]
        follow = np.where(follow < np.maximum(first_end, arrive + HOUR_MS), follow, NEVER)
        unfollow = np.where(follow == NEVER, NEVER, unfollow)

        joins = (follow < NEVER) & (rng.random(m) < 0.2)
        join = np.where(joins, follow + whole(rng.exponential(1.5, m) * DAY_MS) + 60_000, NEVER)
        joins &= join < last
        join = np.where(joins, join, NEVER)
        quit_ = np.where(joins & (rng.random(m) < 0.3), np.maximum(last, join + HOUR_MS), NEVER)
        bonds = Bonds(
            season * n + fan,
            creator,
            habit[fan],
            source,
            placement,
            follow,
            unfollow,
            creator * 8 + whole(rng.random(m) * GROUPS),
            join,
            quit_,
            np.clip(1.0 * eager[fan] * np.exp(rng.normal(0, 0.5, m)), 0.05, 12),
            np.where(cast.shop[creator], np.clip(0.036 * purse[fan] * np.exp(rng.normal(0, 0.6, m)), 0, 0.6), 0.0),
            np.clip(0.03 * (rng.pareto(1.1, m) + 0.05), 0, 2.5),
            np.clip(chatty[fan] * np.exp(rng.normal(0, 0.4, m)), 0.05, 12),
        )
        spells = Spells(*(np.concatenate(part) for part in (bond_rows, starts, ends, firsts)))
        return bonds, spells


def _named(codes: Ints, names: list[str]) -> pl.Series:
    """Names of codes; null for -1."""
    return pl.Series([*names, None], dtype=pl.String).gather(np.where(codes < 0, len(names), codes))


def _fit(audience: Audience, fans: Fans, rows: Ints) -> Mask:
    """Whether fans belong to an audience, as far as the platform knows them."""
    fit = np.ones(len(rows), dtype=np.bool_)
    if audience.gender is not None:
        fit &= fans.gender[rows] == audience.gender
    if audience.ages is not None:
        fit &= np.isin(fans.age[rows], audience.ages)
    if audience.interest is not None:
        fit &= fans.interest[rows] == audience.interest
    return fit
