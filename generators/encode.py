"""Columns to JSON records, a column at a time: compact, in the contracts' field order, absent fields left out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from generators.cast import AUDIENCES, CHANNELS, Cast
from generators.columns import FIELDS, KIND_NAMES, Columns
from generators.draws import Ints
from generators.population import SOURCES, Population
from generators.stage import CONVERSIONS, GIFT_TYPES
from generators.texts import TEXTS

Name = Callable[[int], str]


@dataclass(frozen=True)
class Encoded:
    """Records of one topic: ``times`` UTC ms, ``kinds`` by index, ``keys`` (fan identifiers), ``values`` (JSON)."""

    times: Ints
    kinds: Ints
    keys: list[bytes]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.values)


class Encoder:
    """Writes events as JSON. ``tag`` tells the worlds apart in identifiers, so two worlds never share one."""

    def __init__(self, cast: Cast, population: Population, tag: str) -> None:
        self._cast = cast
        self._population = population
        self._tag = tag
        places = cast.placements
        creators = cast.ids
        self._creators = pl.Series(creators, dtype=pl.String)
        self._kinds = {topic: pl.Series([f',"kind":"{kind}"' for kind in kinds]) for topic, kinds in KIND_NAMES.items()}
        self._tables: dict[str, pl.Series] = {
            "text": _pieces("text", [_escaped(text) for text in TEXTS]),
            "source": _pieces("source", SOURCES),
            "pk_opponent": _pieces("pk_opponent", creators),
            "gift_type": _pieces("gift_type", GIFT_TYPES),
            "conversion_type": _pieces("conversion_type", CONVERSIONS),
            "placement": pl.Series(
                [
                    f',"campaign_id":"{places.campaign_id[n]}","ad_group_id":"{places.ad_group_id[n]}"'
                    f',"creative_id":"{places.creative_id[n]}","audience":"{AUDIENCES[audience].label}"'
                    f',"channel":"{CHANNELS[channel]}"'
                    for n, (audience, channel) in enumerate(
                        zip(places.audience.tolist(), places.channel.tolist(), strict=True)
                    )
                ]
                + [None],
                dtype=pl.String,
            ),
        }
        self._names: dict[str, Name] = {
            "content_id": cast.content_id,
            "live_id": cast.live_id,
            "product_id": cast.product_id,
            "group_id": cast.group_id,
            "order_id": self._order_id,
        }

    def _order_id(self, code: int) -> str:
        slot, rest = divmod(code, 2**28)
        partition, number = divmod(rest, 2**20)
        return f"o{self._tag}{slot}-{partition}-{number}"

    def encode(self, columns: Columns, partition: int) -> Encoded:
        """Events of one partition to records, in the order given."""
        n = len(columns)
        if n == 0:
            return Encoded(columns["event_time"], columns["kind"], [], [])
        numbers, place = np.unique(columns["fan"], return_inverse=True)
        fans = self._population.attributes(numbers).with_columns(
            before=pl.format(',"platform":"{}","fan_id":"{}","creator_id":"', "platform", "fan_id"),
            after=pl.concat_str(
                [
                    pl.lit('"'),
                    *(
                        pl.format(',"' + name + '":"{}"', name)
                        for name in ("region", "age_band", "gender", "interest", "device")
                    ),
                ],
                ignore_nulls=True,
            ),
        )
        parts: dict[str, pl.Series] = {
            "a": pl.Series(columns["slot"]).cast(pl.String),
            "b": pl.Series(columns["number"]).cast(pl.String),
            "c": pl.Series(columns["event_time"]).cast(pl.String),
            "d": fans["before"].gather(place),
            "e": self._creators.gather(columns["creator"]),
            "f": fans["after"].gather(place),
            "g": self._kinds[columns.topic].gather(columns["kind"]),
        }
        for name in FIELDS[columns.topic]:
            piece = self._field(name, columns[name])
            if piece is not None:
                parts[name] = piece
        head = f'{{"event_id":"{self._tag}-{partition}{columns.topic[0]}'
        expression = pl.concat_str(
            [
                pl.lit(head),
                pl.col("a"),
                pl.lit("-"),
                pl.col("b"),
                pl.lit('","event_time":'),
                *(pl.col(name) for name in list(parts)[2:]),
                pl.lit("}"),
            ],
            ignore_nulls=True,
        )
        values = pl.DataFrame(parts).select(expression.cast(pl.Binary))[:, 0].to_list()
        keys = np.array(fans["fan_id"].cast(pl.Binary).to_list(), dtype=object)[place].tolist()
        return Encoded(columns["event_time"], columns["kind"], keys, values)

    def _field(self, name: str, codes: Ints) -> pl.Series | None:
        """The pieces of JSON of one field, null where absent; None if it is absent everywhere."""
        absent = codes < 0
        if bool(absent.all()):
            return None
        table = self._tables.get(name)
        if table is not None:
            return table.gather(np.where(absent, len(table) - 1, codes))
        if name == "reply_to":
            numbers, place = np.unique(codes, return_inverse=True)
            known = numbers >= 0
            fans = self._population.attributes(numbers[known])["fan_id"]
            named = pl.concat([pl.Series([None] * int((~known).sum()), dtype=pl.String), ',"reply_to":"' + fans + '"'])
            return named.gather(place)
        if name in self._names:
            numbers, place = np.unique(codes, return_inverse=True)
            naming = self._names[name]
            named = pl.Series(
                [None if code < 0 else f',"{name}":"{naming(code)}"' for code in numbers.tolist()], dtype=pl.String
            )
            return named.gather(place)
        shown = pl.Series(codes).cast(pl.String)
        if bool(absent.any()):
            shown = pl.select(pl.when(pl.Series(~absent)).then(shown).otherwise(None))[:, 0]
        return f',"{name}":' + shown


def _pieces(name: str, values: list[str]) -> pl.Series:
    """Pieces of JSON of each value, with null at the end for "absent"."""
    return pl.Series([f',"{name}":"{value}"' for value in values] + [None], dtype=pl.String)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
