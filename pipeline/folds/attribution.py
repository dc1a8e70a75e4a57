"""Attribution: which advertisement won each follow and each order."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from pipeline.block import Int64s
from pipeline.fold import Fold
from pipeline.pairs import Pairs, longer
from pipeline.touch_log import AD_COLUMNS
from pipeline.verdict import NEVER

ATTRIBUTIONS = "attributions"
"""The table of conversions with the touch that won each."""
LATE_TOUCHES = "late_touches"
"""The table of touches that came too late to be looked at here."""
CONVERSIONS = {"follow": "follow", "paid": "order", "refunded": "refund"}
"""Kinds of event that are told, and what they are called in the table."""

Bools = npt.NDArray[np.bool_]

_DEEP = 64
"""Touches or conversions of a pair beyond which all of the pair are looked at together, sorted."""
_SPARE = 1 << 16
"""Rows by which state may grow, beyond twice what it was, before it is compacted."""
_TIME_BITS = 42
"""Event times are below 2^42 ms: see ``schemas.events.EventTime``."""


class AttributionPolicy(BaseModel):
    """How long a touch may win a conversion after it, ms: a click and an impression. ``late``: how far behind the time
    that a source has reached an event may be that still comes from there, ms."""

    model_config = ConfigDict(frozen=True, strict=True)

    click_window: int = Field(ge=0)
    view_window: int = Field(ge=0)
    late: int = Field(ge=0)


class Attribution(Fold):
    """The touch that won each conversion of one partition of the touch log, last touch within its window.

    A conversion is won by the latest touch of the same platform, fan and creator that is not after it: a click at most
    ``click_window`` before, an impression at most ``view_window``. Of several at one time a click is before an
    impression, then the higher offset. So the winner is a maximum, and the order in which facts come changes nothing.

    A conversion is open while a touch may still come that is not after it: ``ad_events`` tells how far it is. Of the
    touches those are kept that may still win a conversion to come: of those before all such conversions the latest
    click and the latest impression of a pair.

    What comes for a source that had been given up (``missed``) is not looked at: touches go to a table of their own,
    which views look at; conversions are marked, and a repair says who won them.
    """

    version: ClassVar[int] = 1
    order: ClassVar[tuple[str, ...]] = (LATE_TOUCHES, ATTRIBUTIONS)

    def __init__(self, policy: AttributionPolicy) -> None:
        self.policy = policy
        self._reached: dict[str, int | None] = dict.fromkeys(("ad_events", "interactions", "orders"))
        self._creators = _Numbers()
        self._ads = _Numbers()
        self._pairs = Pairs()
        self._touches = _Columns(_TOUCH)
        self._conversions = _Columns(_CONVERSION)
        self._touches_of, self._conversions_of = _Chains(), _Chains()
        self._compacted = 0
        self._rows: list[pl.DataFrame] = []
        self._late: list[pl.DataFrame] = []

    def __len__(self) -> int:
        return len(self._touches) + len(self._conversions)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes; without texts."""
        chains = self._touches_of.nbytes + self._conversions_of.nbytes
        return self._pairs.nbytes + self._touches.nbytes + self._conversions.nbytes + chains

    def apply(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        ticks = rows.filter(pl.col("kind") == "")
        self._reached |= dict(zip(ticks["source"].to_list(), ticks["at"].to_list(), strict=True))
        missed = rows.filter(pl.col("missed") == 1)
        rows = rows.filter((pl.col("missed") == 0) & (pl.col("kind") != ""))
        of_ads = rows["source"] == "ad_events"
        touches, told = rows.filter(of_ads), rows.filter(~of_ads)
        if len(missed):
            of_ads = missed["source"] == "ad_events"
            self._late.append(missed.filter(of_ads).select(*_PAIR, "at", "kind", "offset", *AD_COLUMNS))
            self._rows.append(_without_touch(missed.filter(~of_ads)))
        self._rows.append(_without_touch(told.filter(pl.col("kind") == "refunded")))
        self._tell(touches, told.filter(pl.col("kind") != "refunded"))

    def take(self) -> dict[str, pl.DataFrame]:
        changed = np.flatnonzero(self._conversions["changed"])
        self._conversions["changed"][changed] = False
        rows = pl.concat([*self._rows, self._frame(changed)])
        late = pl.concat([pl.DataFrame(schema=_LATE), *self._late])
        self._rows, self._late = [], []
        version = pl.lit(self.version, pl.UInt16).alias("fold_version")
        taken = {
            LATE_TOUCHES: late.select(
                *_PAIR, _moment("at").alias("touched_at"), pl.col("kind").alias("touch"), "offset", *AD_COLUMNS
            ),
            ATTRIBUTIONS: rows.with_columns(
                _moment("converted_at"), _moment("touched_at"), pl.lit("stream").alias("origin"), version
            ),
        }
        return {name: frame for name, frame in taken.items() if len(frame)}

    def evict(self, oldest: int) -> None:
        # By the times that the log tells.
        if len(self) > 2 * self._compacted + _SPARE:
            self.compact()

    def restore_state(
        self, touches: pl.DataFrame, conversions: pl.DataFrame, reached: Mapping[str, int | None]
    ) -> None:
        """Takes the state as at a checkpoint where sources had reached these times (UTC ms).

        ``touches``: those that may still win, with columns as in ``touch_log.SCHEMA``. ``conversions``: those that are
        open, rows of the table with ``converted_at`` and ``touched_at`` in UTC ms.
        """
        self._reached |= dict(reached)
        self._add_touches(touches)
        conversions = conversions.filter(~pl.col("beyond").cast(pl.Boolean))
        none = (conversions["touch"] == "none").to_numpy()
        ads = self._ads.of(conversions.select(*AD_COLUMNS))
        self._add_conversions(
            conversions,
            at=conversions["converted_at"].to_numpy(),
            order=(conversions["kind"] == "order").to_numpy(),
            touched_at=np.where(none, NEVER, conversions["touched_at"].to_numpy()),
            click=(conversions["touch"] == "click").to_numpy(),
            touch_offset=conversions["touch_offset"].to_numpy(),
            ad=np.where(none, -1, ads),
            told=-1,
            applied=-1,
            changed=False,
        )
        self.compact()

    def compact(self) -> None:
        """Forgets what can win, or be won, no more."""
        touches, conversions = self._touches, self._conversions
        open_from = self._still_to_come("ad_events")
        if open_from is not None:
            conversions.keep(np.flatnonzero((conversions["at"] >= open_from) | conversions["changed"]))
        to_come = [self._still_to_come(source) for source in ("interactions", "orders")]
        times = [at for at in to_come if at is not None]
        if len(times) == len(to_come):
            touches.keep(self._may_win(min(times)))
        used = np.unique(np.concatenate([touches["pair"], conversions["pair"]]))
        fans, numbers = self._pairs.keys(used)
        self._pairs = Pairs()
        renamed = self._pairs.rows(fans, numbers)
        self._touches_of, self._conversions_of = _Chains(), _Chains()
        for columns, chains in ((touches, self._touches_of), (conversions, self._conversions_of)):
            columns["pair"][:] = renamed[np.searchsorted(used, columns["pair"])]
            chains.add(columns["pair"], 0)
        self._compacted = len(self)

    def _still_to_come(self, source: str) -> int | None:
        """The oldest event time that may still come from a source, UTC ms; None: any."""
        reached = self._reached[source]
        return None if reached is None else reached - self.policy.late

    def _may_win(self, oldest: int) -> Int64s:
        """Touches that may win a conversion at ``oldest`` or later."""
        at, click = self._touches["at"], self._touches["click"]
        kept = np.flatnonzero(at + self._windows(click) >= oldest)
        before = at[kept] <= oldest
        ahead, behind = kept[~before], kept[before]
        latest = behind[np.lexsort((self._touches["offset"][behind], at[behind], click[behind]))]
        pair, kind = self._touches["pair"][latest], click[latest]
        order = np.argsort(pair, kind="stable")
        latest, pair, kind = latest[order], pair[order], kind[order]
        last = np.append((pair[1:] != pair[:-1]) | (kind[1:] != kind[:-1]), True)[: len(pair)]
        latest, pair, kind = latest[last], pair[last], kind[last]
        # Impressions come before clicks here.
        outdone = np.zeros(len(latest), bool)
        if self.policy.click_window >= self.policy.view_window and len(latest):
            outdone[:-1] = ~kind[:-1] & (pair[1:] == pair[:-1]) & (at[latest[1:]] >= at[latest[:-1]])
        found: Int64s = np.sort(np.concatenate([ahead, latest[~outdone]]))
        return found

    def _windows(self, click: Bools) -> Int64s:
        return np.where(click, self.policy.click_window, self.policy.view_window)

    def _tell(self, touches: pl.DataFrame, conversions: pl.DataFrame) -> None:
        """Takes in facts, and gives each conversion that they have to do with the touch that wins it."""
        old_touches, old_conversions = len(self._touches), len(self._conversions)
        pairs = self._add_touches(touches)
        applied = touches["applied"].to_numpy()
        told = conversions["applied"].to_numpy()
        self._add_conversions(
            conversions,
            at=conversions["at"].to_numpy(),
            order=(conversions["kind"] == "paid").to_numpy(),
            touched_at=NEVER,
            click=False,
            touch_offset=-1,
            ad=-1,
            told=told,
            applied=told,
            changed=True,
        )
        told_by = _Told(old_touches, applied)
        # New conversions and all touches; then new touches and the conversions of before.
        new = np.arange(old_conversions, len(self._conversions))
        deep = self._follow(new, self._touches_of, self._conversions["pair"][new], told_by, of_touches=True)
        new = np.arange(old_touches, len(self._touches))
        deep = np.union1d(deep, self._follow(new, self._conversions_of, pairs, told_by, of_touches=False))
        if len(deep):
            self._sort_out(deep, told_by)

    def _follow(self, items: Int64s, chains: "_Chains", pairs: Int64s, told: "_Told", of_touches: bool) -> Int64s:
        """Goes through what a chain has for each item; pairs whose chains are longer than ``_DEEP``."""
        at = chains.first(pairs)
        for _ in range(_DEEP):
            there = at >= 0
            if not there.any():
                return np.empty(0, np.int64)
            items, pairs, at = items[there], pairs[there], at[there]
            self._offer(*((items, at) if of_touches else (at, items)), told)
            at = chains.following[at].astype(np.int64)
        return np.unique(pairs[at >= 0])

    def _sort_out(self, pairs: Int64s, told: "_Told") -> None:
        """Looks at all conversions and touches of these pairs, each against the latest touches that are not after."""
        number = np.full(len(self._pairs), -1, np.int64)
        number[pairs] = np.arange(len(pairs))
        touches, conversions = self._touches, self._conversions
        won = np.flatnonzero(number[conversions["pair"]] >= 0)
        wanted = (number[conversions["pair"][won]] << _TIME_BITS) + conversions["at"][won]
        theirs = np.flatnonzero(number[touches["pair"]] >= 0)
        for kind in (False, True):
            some = theirs[touches["click"][theirs] == kind]
            key = (number[touches["pair"][some]] << _TIME_BITS) + touches["at"][some]
            order = np.lexsort((touches["offset"][some], key))
            some, key = some[order], key[order]
            found = np.searchsorted(key, wanted, "right") - 1
            there = found >= 0
            there[there] = touches["pair"][some[found[there]]] == conversions["pair"][won[there]]
            self._offer(won[there], some[found[there]], told)

    def _offer(self, conversions: Int64s, touches: Int64s, told: "_Told") -> None:
        """Each conversion is won by the touch beside it, if that may win it and no better one has."""
        own, by = self._conversions, self._touches
        age = own["at"][conversions] - by["at"][touches]
        may = (age >= 0) & (age <= self._windows(by["click"][touches]))
        conversions, touches = conversions[may], touches[may]
        at, click, offset = by["at"][touches], by["click"][touches], by["offset"][touches]
        best_at, best_click = own["touched_at"][conversions], own["click"][conversions]
        same = at == best_at
        ahead = (at > best_at) | same & (click > best_click)
        ahead |= same & (click == best_click) & (offset > own["touch_offset"][conversions])
        # Where a conversion stands several times, the last assignment stays.
        order = np.lexsort((offset[ahead], click[ahead], at[ahead]))
        conversions, touches = conversions[ahead][order], touches[ahead][order]
        for name, column in (("touched_at", "at"), ("click", "click"), ("touch_offset", "offset"), ("ad", "ad")):
            own[name][conversions] = by[column][touches]
        own["applied"][conversions] = np.maximum(own["told"][conversions], told.of(touches))
        own["changed"][conversions] = True

    def _add_touches(self, facts: pl.DataFrame) -> Int64s:
        """Keeps touches; the rows of their pairs."""
        pairs = self._rows_of(facts)
        first = self._touches.append(
            len(facts),
            pair=pairs,
            at=facts["at"].to_numpy(),
            click=(facts["kind"] == "click").to_numpy(),
            offset=facts["offset"].to_numpy(),
            ad=self._ads.of(facts.select(*AD_COLUMNS)),
        )
        self._touches_of.add(pairs, first)
        return pairs

    def _add_conversions(self, rows: pl.DataFrame, **columns: Any) -> None:
        pairs = self._rows_of(rows)
        first = self._conversions.append(
            len(rows),
            pair=pairs,
            offset=rows["offset"].to_numpy(),
            order_id=rows["order_id"].to_numpy(),
            amount=rows["amount_micros"].to_numpy(),
            **columns,
        )
        self._conversions_of.add(pairs, first)

    def _rows_of(self, facts: pl.DataFrame) -> Int64s:
        return self._pairs.rows(facts["fan"].to_numpy(), self._creators.of(facts.select("platform", "creator_id")))

    def _frame(self, which: Int64s) -> pl.DataFrame:
        """Rows of the table for conversions, times in UTC ms."""
        own = {name: self._conversions[name][which] for name in _CONVERSION}
        fans, creators = self._pairs.keys(own["pair"].astype(np.int64))
        none = own["ad"] < 0
        return pl.DataFrame(
            {
                **self._creators.columns(creators, ("platform", "creator_id")),
                "fan": fans,
                "kind": np.where(own["order"], "order", "follow"),
                "converted_at": own["at"],
                "offset": own["offset"],
                "order_id": own["order_id"].tolist(),
                "amount_micros": own["amount"],
                "beyond": np.zeros(len(which), np.uint8),
                "touch": np.where(none, "none", np.where(own["click"], "click", "impression")),
                "touched_at": np.where(none, 0, own["touched_at"]),
                "touch_offset": own["touch_offset"],
                **self._ads.columns(own["ad"], AD_COLUMNS),
                "applied": own["applied"],
            },
            schema=_ROW,
        )


_PAIR = ("platform", "creator_id", "fan")
_TOUCH = {"pair": np.int32, "at": np.int64, "click": np.bool_, "offset": np.int64, "ad": np.int32}
_CONVERSION = {
    "pair": np.int32,
    "at": np.int64,
    "order": np.bool_,
    "offset": np.int64,
    "order_id": np.object_,
    "amount": np.int64,
    "touched_at": np.int64,
    "click": np.bool_,
    "touch_offset": np.int64,
    "ad": np.int32,
    "told": np.int64,
    "applied": np.int64,
    "changed": np.bool_,
}
_ROW = {
    "platform": pl.String,
    "creator_id": pl.String,
    "fan": pl.UInt64,
    "kind": pl.String,
    "converted_at": pl.Int64,
    "offset": pl.Int64,
    "order_id": pl.String,
    "amount_micros": pl.Int64,
    "beyond": pl.UInt8,
    "touch": pl.String,
    "touched_at": pl.Int64,
    "touch_offset": pl.Int64,
    **dict.fromkeys(AD_COLUMNS, pl.String),
    "applied": pl.Int64,
}
_LATE = {
    "platform": pl.String,
    "creator_id": pl.String,
    "fan": pl.UInt64,
    "at": pl.Int64,
    "kind": pl.String,
    "offset": pl.Int64,
    **dict.fromkeys(AD_COLUMNS, pl.String),
}


def _moment(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("ms", "UTC"))


def _without_touch(facts: pl.DataFrame) -> pl.DataFrame:
    """Rows of the table for facts of which no touch is told here."""
    return facts.select(
        *_PAIR,
        pl.col("kind").replace_strict(CONVERSIONS, return_dtype=pl.String),
        pl.col("at").alias("converted_at"),
        "offset",
        "order_id",
        "amount_micros",
        ((pl.col("missed") == 1) & (pl.col("kind") != "refunded")).cast(pl.UInt8).alias("beyond"),
        pl.lit("none").alias("touch"),
        pl.lit(0, pl.Int64).alias("touched_at"),
        pl.lit(-1, pl.Int64).alias("touch_offset"),
        *(pl.lit("").alias(name) for name in AD_COLUMNS),
        "applied",
    )


class _Told:
    """At which offset of the log touches were told; of those of before the present facts: before."""

    def __init__(self, first: int, applied: Int64s) -> None:
        self._first = first
        self._applied = np.append(applied, -1)

    def of(self, touches: Int64s) -> Int64s:
        own = np.where(touches >= self._first, touches - self._first, len(self._applied) - 1)
        found: Int64s = self._applied[own]
        return found


class _Numbers:
    """Numbers tuples of texts from 0 on."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], int] = {}

    def of(self, rows: pl.DataFrame) -> Int64s:
        """The number of each row, given now where it had none."""
        names = rows.unique()
        numbers = [self._known.setdefault(name, len(self._known)) for name in names.rows()]
        names = names.with_columns(pl.Series("number", numbers, pl.Int64))
        return rows.join(names, on=rows.columns, how="left", maintain_order="left")["number"].to_numpy()

    def columns(self, numbers: Int64s, names: tuple[str, ...]) -> dict[str, list[str]]:
        """The texts of these numbers, by column; empty for -1."""
        distinct, which = np.unique(numbers, return_inverse=True)
        known = list(self._known) if len(distinct) else []
        found = [known[number] if number >= 0 else ("",) * len(names) for number in distinct.tolist()]
        rows = [found[number] for number in which.tolist()]
        return {name: [row[index] for row in rows] for index, name in enumerate(names)}


class _Columns:
    """Arrays of one length, by name, that grow together."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._arrays = {name: np.empty(1024, dtype) for name, dtype in types.items()}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name][: self._size]

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return sum(array.nbytes for array in self._arrays.values())

    def append(self, count: int, **columns: Any) -> int:
        """Adds rows; the first of them."""
        first, self._size = self._size, self._size + count
        for name, values in columns.items():
            if self._size > len(self._arrays[name]):
                self._arrays[name] = longer(self._arrays[name], max(self._size, first * 3 // 2))
            self._arrays[name][first : self._size] = values
        return first

    def keep(self, which: Int64s) -> None:
        """Forgets all rows but these."""
        self._arrays = {name: self[name][which] for name in self._arrays}
        self._size = len(which)


class _Chains:
    """The items of each pair, one after the other."""

    def __init__(self) -> None:
        self._heads: npt.NDArray[np.int32] = np.full(1024, -1, np.int32)
        self.following: npt.NDArray[np.int32] = np.empty(1024, np.int32)

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return self._heads.nbytes + self.following.nbytes

    def first(self, pairs: Int64s) -> Int64s:
        """The first item of each pair, -1 where it has none; others follow."""
        found = np.full(len(pairs), -1, np.int64)
        there = pairs < len(self._heads)
        found[there] = self._heads[pairs[there]]
        return found

    def add(self, pairs: Int64s, first: int) -> None:
        """Adds items from ``first`` on, of these pairs."""
        if not len(pairs):
            return
        upto, highest = first + len(pairs), int(pairs.max()) + 1
        if upto > len(self.following):
            self.following = longer(self.following, max(upto, len(self.following) * 3 // 2))
        if highest > len(self._heads):
            before = len(self._heads)
            self._heads = longer(self._heads, max(highest, before * 3 // 2))
            self._heads[before:] = -1
        order = np.argsort(pairs, kind="stable")
        items, own = first + order, pairs[order]
        begins = np.append(True, own[1:] != own[:-1])
        self.following[items[:-1]] = np.where(begins[1:], -1, items[1:])
        ends = np.append(begins[1:], True)
        self.following[items[ends]] = self._heads[own[ends]]
        self._heads[own[begins]] = items[begins]
