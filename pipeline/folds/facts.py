"""Facts: what the events of one source topic say about fans, for the fan log."""

from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline import fan_log
from pipeline.block import Int64s
from pipeline.fold import Fold, Output
from pipeline.pairs import Pairs
from pipeline.verdict import NEVER
from schemas.events import KINDS

INTERACTIONS = tuple(KINDS["interactions"])
_KEYS = ("platform", "creator_id", "fan", "day")
_COMPACT = 4
"""How often state is compacted while the late horizon passes once."""


class Facts(Fold):
    """Selects what agents on the fan log need to know; late events and repeats are left out.

    Of gifts and orders that is every event, of advertisements all but impressions. Of interactions, per fan, creator
    and local day: the first action (and one that turns out to be earlier), the last unfollow, and one action after that
    if there is any. So from the log follow exactly: the days with an action, the time of the first, the time of the
    last unfollow, and whether an action came after it. That needs each such day's first and last action and last
    unfollow, for as long as an event of that time may still be on time.

    An unfollow that is late is a repair's to tell; but that an action came after it will matter then, so such an action
    is told as well, if it is known here or comes later. Those of before are a repair's to tell, too.

    ``no_activity`` are the kinds that are no action of the fan.
    """

    def __init__(self, database: str, topic: str, partition: int, time_zone: str, no_activity: tuple[str, ...]) -> None:
        self._database = database
        self._topic = topic
        self._partition = partition
        self._time_zone = time_zone
        self._actions = [kind for kind in INTERACTIONS if kind not in no_activity]
        self._pending: list[tuple[int, pl.DataFrame]] = []
        self._days = PairDays()
        self._zone = ZoneInfo(time_zone)
        self._told: int | None = None

    def due(self, reached: int | None) -> bool:
        """Whether readers of the fan log must be told that this event time is reached (UTC ms; None: the topic has had
        no event): it is another local day, or they have not heard of the topic from here yet."""
        if self._told is None:
            return True
        return reached is not None and fan_log.local_day(reached, self._zone) > self._told

    def __len__(self) -> int:
        return len(self._days)

    def apply(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        end = int(rows["offset"][-1]) + 1
        late_unfollow = (pl.col("kind") == "unfollow") & (pl.col("late") == 1)
        rows = rows.filter((pl.col("late") == 0) & (pl.col("duplicate") == 0) | late_unfollow)
        if self._topic == "ad_events":
            rows = rows.filter(pl.col("kind") != "impression")
        if len(rows):
            at = pl.col("event_time").alias("at")
            facts = rows.select("offset", "platform", "creator_id", "fan", at, "kind", "late")
            facts = self._few(facts) if self._topic == "interactions" else facts.drop("late")
            if len(facts):
                self._pending.append((end, facts.select(*fan_log.SCHEMA)))

    def take(self) -> dict[str, pl.DataFrame]:
        return {}

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        facts, self._pending = self._pending, []
        if next_offset < start:
            return []
        self._told = NEVER if reached is None else fan_log.local_day(reached, self._zone)
        messages = fan_log.encode(self._database, self._topic, start, next_offset, reached, facts)
        return [Output(fan_log.TOPIC, None, message, self._partition) for message in messages]

    def evict(self, oldest: int) -> None:
        self._days.evict(oldest)

    def remember(self, days: pl.DataFrame) -> None:
        """Takes what is stored of the days that are still open: columns ``platform``, ``creator_id``, ``fan``, ``day``
        (Int32, days since epoch), ``first``, ``last``, ``unfollow`` (Int64, UTC ms; null: none), ``last_kind``."""
        self._days.merge(days)

    def _few(self, events: pl.DataFrame) -> pl.DataFrame:
        """Of interactions, those that must be told. All that are late are unfollows."""
        at, offset, kind, late = pl.col("at"), pl.col("offset"), pl.col("kind"), pl.col("late") == 1
        day = at.cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._time_zone).dt.date().to_physical()
        action, unfollow = kind.is_in(self._actions), (kind == "unfollow") & ~late
        order = at.filter(action)
        found = (
            events.lazy()
            .filter(action | unfollow | late)
            .with_columns(day.cast(pl.Int32).alias("day"))
            .group_by(_KEYS)
            .agg(
                order.min().alias("first"),
                offset.filter(action).get(order.arg_min()).alias("first_offset"),
                kind.filter(action).get(order.arg_min()).alias("first_kind"),
                order.max().alias("last"),
                kind.filter(action).get(order.arg_max()).alias("last_kind"),
                at.filter(unfollow).max().alias("unfollow"),
                offset.filter(unfollow).get(at.filter(unfollow).arg_max()).alias("unfollow_offset"),
                at.filter(late).max().alias("late_unfollow"),
                offset.max().alias("upto"),
            )
            .collect()
        )
        before, after = self._days.merge(found)
        pair = ["platform", "creator_id", "fan"]
        first = found["first"].fill_null(_NONE_FIRST).to_numpy() < before.first
        left = after.unfollow > before.unfollow
        followed = (after.unfollow > NEVER) & (after.last > after.unfollow)
        told = ~left & (before.last > before.unfollow) & (before.unfollow > NEVER)
        left_late = found["late_unfollow"].fill_null(NEVER).to_numpy()
        followed_late = (left_late > NEVER) & (after.last > left_late)
        # No action that is known came after it, so the next one must be told: as if it were the first.
        self._days.reopen(found.filter((left_late > NEVER) & ~followed_late))
        parts = [
            found.filter(first).select(
                pl.col("first_offset").alias("offset"),
                *pair,
                pl.col("first").alias("at"),
                pl.col("first_kind").alias("kind"),
            ),
            found.filter(left).select(
                pl.col("unfollow_offset").alias("offset"),
                *pair,
                pl.col("unfollow").alias("at"),
                pl.lit("unfollow").alias("kind"),
            ),
            # At the offset that made it known, for it may have happened before what was told last.
            found.with_columns(
                pl.col("upto").alias("offset"), pl.Series("at", after.last), pl.Series("kind", after.kinds(), pl.String)
            )
            .filter(followed & ~told | followed_late)
            .select("offset", *pair, "at", "kind"),
        ]
        return pl.concat(parts).select(*fan_log.SCHEMA).sort("offset", "at", "kind")


_NONE_FIRST = 1 << 62
"""First action of a day that has had none."""


class _State:
    """First and last action, kind of the last, and last unfollow of some pair-days (UTC ms)."""

    def __init__(self, size: int) -> None:
        self.first: Int64s = np.full(size, _NONE_FIRST, np.int64)
        self.last: Int64s = np.full(size, NEVER, np.int64)
        self.unfollow: Int64s = np.full(size, NEVER, np.int64)
        self.kind: npt.NDArray[np.int8] = np.full(size, -1, np.int8)

    def at(self, rows: Int64s) -> "_State":
        """These rows, copied."""
        found = _State(0)
        found.first, found.last, found.unfollow, found.kind = (
            self.first[rows], self.last[rows], self.unfollow[rows], self.kind[rows],
        )  # fmt: skip
        return found

    def put(self, rows: Int64s, state: "_State") -> None:
        """Sets these rows, which are distinct."""
        self.first[rows], self.last[rows], self.unfollow[rows], self.kind[rows] = (
            state.first, state.last, state.unfollow, state.kind,
        )  # fmt: skip

    def grow(self, size: int) -> None:
        """Makes room for so many rows."""
        grown = _State(size)
        grown.put(np.arange(len(self.first)), self)
        self.first, self.last, self.unfollow, self.kind = grown.first, grown.last, grown.unfollow, grown.kind

    def kinds(self) -> list[str | None]:
        """Names of the kinds of the last actions."""
        return [INTERACTIONS[kind] if kind >= 0 else None for kind in self.kind.tolist()]


class PairDays:
    """What is known of each fan, creator and local day that an on-time event may still reach."""

    def __init__(self) -> None:
        self._pairs = Pairs()
        self._numbers: dict[tuple[str, str, int], int] = {}
        self._state = _State(1024)
        self._compacted = NEVER
        self._width = 0

    def __len__(self) -> int:
        return len(self._pairs)

    def merge(self, found: pl.DataFrame) -> tuple[_State, _State]:
        """Takes in distinct pair-days (see ``Facts.remember``); what was known of them before, and is now."""
        rows = self._rows(found)
        before = self._state.at(rows)
        after = self._state.at(rows)
        last = found["last"].fill_null(NEVER).to_numpy()
        kind = found["last_kind"].replace_strict(
            INTERACTIONS, range(len(INTERACTIONS)), default=-1, return_dtype=pl.Int8
        )
        after.kind = np.where(last > before.last, kind.to_numpy(), before.kind)
        after.first = np.minimum(before.first, found["first"].fill_null(_NONE_FIRST).to_numpy())
        after.last = np.maximum(before.last, last)
        after.unfollow = np.maximum(before.unfollow, found["unfollow"].fill_null(NEVER).to_numpy())
        self._state.put(rows, after)
        return before, after

    def reopen(self, found: pl.DataFrame) -> None:
        """Forgets the first actions of these pair-days."""
        if len(found):
            self._state.first[self._rows(found)] = _NONE_FIRST

    def evict(self, oldest: int) -> None:
        """Forgets pair-days whose last event is before this event time; done once in a while, for all at once."""
        size = len(self._pairs)
        if not size or oldest <= self._compacted:
            return
        newest = max(int(self._state.last[:size].max()), int(self._state.unfollow[:size].max()))
        if oldest - self._compacted < max(newest - oldest, 1) // _COMPACT and self._compacted > NEVER:
            return
        self._compacted = oldest
        live = np.flatnonzero(np.maximum(self._state.last[:size], self._state.unfollow[:size]) >= oldest)
        fans, numbers = self._pairs.keys(live)
        used = np.unique(numbers)
        renamed = np.full(len(self._numbers), -1, np.int64)
        renamed[used] = np.arange(len(used))
        names = {int(renamed[number]): name for name, number in self._numbers.items() if renamed[number] >= 0}
        self._numbers = {names[number]: number for number in range(len(used))}
        state = self._state.at(live)
        self._pairs, self._state = Pairs(), _State(max(1024, 2 * len(live)))
        if len(live):
            self._state.put(self._pairs.rows(fans, renamed[numbers]), state)

    def _rows(self, found: pl.DataFrame) -> Int64s:
        names = found.select("platform", "creator_id", "day").rows()
        numbers = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], np.int64)
        rows = self._pairs.rows(found["fan"].to_numpy(), numbers)
        if len(self._pairs) > len(self._state.first):
            self._state.grow(2 * len(self._pairs))
        return rows
