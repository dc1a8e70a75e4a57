"""Event contracts of the four source topics, one pydantic model per shape of event.

Money is an integer number of millionths of a yuan (``*_micros``); time is UTC milliseconds since the epoch;
durations are milliseconds. Models are strict (a number is not taken for a string, nor the other way round).
Fields that a model does not name are tolerated, counted and dropped; a kind that no model names is a dead letter.

Evolution: a field may be added, and only as optional with default ``None``. Nothing is renamed, removed, narrowed or
made required (``tests/schemas/test_evolution.py`` holds every released example and field list to that).
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

EARLIEST_EVENT_MS = 946_684_800_000
"""2000-01-01 UTC. An older event time is almost always seconds sent as milliseconds: refused."""
FUTURE_MS = 86_400_000
"""An event time further than this beyond the broker's append time is refused (a day, in milliseconds)."""
MAX_RECORD_BYTES = 65_536
"""A larger record is refused unread, bytes."""
MAX_MICROS = 10**15
"""Largest amount in one event: a thousand million yuan, in micros. Sums of 9,000 such still fit 64 bits."""
MAX_DURATION_MS = 7 * 86_400_000
"""Longest stay or play in one event: a week, in milliseconds."""

# An id is 1-64 characters without separators, control and format characters, so that ids that look empty or equal but
# for a space or an invisible mark do not exist; a label may hold spaces; text may hold anything.
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\p{Z}\p{Cc}\p{Cf}]+$")]
Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Micros = Annotated[int, Field(ge=0, le=MAX_MICROS)]
Duration = Annotated[int, Field(ge=0, le=MAX_DURATION_MS)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
EventTime = Annotated[int, Field(ge=EARLIEST_EVENT_MS, le=4_102_444_800_000)]

Platform = Literal["douyin", "kuaishou"]
Source = Literal["recommend", "follow", "search", "profile", "live", "group", "ad"]
Channel = Literal["feed", "dou_plus", "search", "live"]

T = TypeVar("T")


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


EMPTY_IS_ABSENT = BeforeValidator(_none_if_empty)
"""Producers send ``""`` for what they do not know."""
Maybe = Annotated[T | None, EMPTY_IS_ABSENT]
"""Type of every optional field: left out, ``null`` and ``""`` all mean absent, whatever the type."""


class Event(BaseModel):
    """What every event carries. ``event_id`` and ``event_time`` together identify it: the same pair is a repeat."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    event_id: Id = Field(description="Identifier given by the producer, the same at every re-send")
    event_time: EventTime = Field(description="When it happened, UTC, milliseconds since the epoch")
    platform: Platform = Field(description="Platform it happened on")
    fan_id: Id = Field(description="The fan; also the Kafka key, so that one fan's events stay in order")
    creator_id: Id = Field(description="The creator whose content, room, group, shop or advertisement it is")
    region: Maybe[Label] = Field(None, description="Province or region of the fan, as the platform gives it")
    age_band: Maybe[Label] = Field(None, description="Age band of the fan, as the platform gives it")
    gender: Maybe[Label] = Field(None, description="Gender of the fan, as the platform gives it")
    interest: Maybe[Label] = Field(None, description="Main interest of the fan, as the platform gives it")
    device: Maybe[Label] = Field(None, description="Device or operating system")


class View(Event):
    """A play of a video."""

    kind: Literal["view"]
    content_id: Id = Field(description="Video")
    watch_ms: Duration = Field(description="Watched, milliseconds; may exceed the duration when looped")
    duration_ms: Duration = Field(
        description="Length of the video, milliseconds; 0: unknown, the play never counts as complete"
    )
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class ContentAction(Event):
    """A reaction to a video."""

    kind: Literal["like", "share", "favorite"]
    content_id: Id = Field(description="Video")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class Comment(Event):
    """A comment under a video."""

    kind: Literal["comment"]
    content_id: Id = Field(description="Video")
    text: Maybe[Text] = Field(None, description="What was written; absent from stickers and pictures")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class Relation(Event):
    """A fan follows, leaves, or looks at the creator's page; the content or room it came from where known."""

    kind: Literal["follow", "unfollow", "profile_visit"]
    content_id: Maybe[Id] = Field(None, description="Video it came from")
    live_id: Maybe[Id] = Field(None, description="Live room it came from")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class LiveEnter(Event):
    """A fan enters a live room."""

    kind: Literal["live_enter"]
    live_id: Id = Field(description="Live room session")
    pk_opponent: Maybe[Id] = Field(None, description="Opposing creator while a PK runs")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class LiveLeave(Event):
    """A fan leaves a live room."""

    kind: Literal["live_leave"]
    live_id: Id = Field(description="Live room session")
    pk_opponent: Maybe[Id] = Field(None, description="Opposing creator while a PK runs")
    stay_ms: Maybe[Duration] = Field(None, description="Stay in the room, milliseconds")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class LiveComment(Event):
    """A comment in a live room."""

    kind: Literal["live_comment"]
    live_id: Id = Field(description="Live room session")
    text: Maybe[Text] = Field(None, description="What was written; absent from stickers and pictures")
    pk_opponent: Maybe[Id] = Field(None, description="Opposing creator while a PK runs")


class LiveAction(Event):
    """A like in a live room, or the fan lights the creator's badge."""

    kind: Literal["live_like", "fan_badge_lit"]
    live_id: Maybe[Id] = Field(None, description="Live room session")
    pk_opponent: Maybe[Id] = Field(None, description="Opposing creator while a PK runs")


class GroupPresence(Event):
    """A fan joins or leaves a fan group."""

    kind: Literal["group_join", "group_leave"]
    group_id: Id = Field(description="Fan group")
    source: Maybe[Source] = Field(None, description="Where the fan came from")


class GroupMessage(Event):
    """A message in a fan group, or to the creator in private."""

    kind: Literal["group_message", "dm_sent"]
    group_id: Maybe[Id] = Field(None, description="Fan group; absent in private messages")
    text: Maybe[Text] = Field(None, description="What was written; absent from stickers and pictures")
    reply_to: Maybe[Id] = Field(None, description="Fan whose message it answers")


class GroupAction(Event):
    """A vote, check-in, welfare claim or click on a link in a fan group."""

    kind: Literal["group_vote", "group_checkin", "group_welfare_claim", "group_link_click"]
    group_id: Id = Field(description="Fan group")
    product_id: Maybe[Id] = Field(None, description="Product behind the link or welfare, where there is one")


class ProductAction(Event):
    """A product card was shown to, or clicked by, a fan."""

    kind: Literal["product_exposure", "product_click"]
    product_id: Id = Field(description="Product")
    content_id: Maybe[Id] = Field(None, description="Video that carried the card")
    live_id: Maybe[Id] = Field(None, description="Live room that carried the card")
    source: Maybe[Source] = Field(None, description="Traffic source that brought the fan")


class Gift(Event):
    """A gift in a live room, or a guard or membership bought there."""

    kind: Literal["gift", "guard", "membership"]
    live_id: Id = Field(description="Live room session")
    gift_type: Label = Field(description="Name of the gift, or level of the guard or membership")
    quantity: Count = Field(description="How many")
    value_micros: Micros = Field(description="Value of all of them together, millionths of a yuan; may be 0")
    pk_opponent: Maybe[Id] = Field(None, description="Opposing creator while a PK runs")


class Order(Event):
    """A step in the life of an order, or a membership bought in the shop."""

    kind: Literal["placed", "paid", "shipped", "refunded", "membership"]
    order_id: Id = Field(description="Order; its steps share it")
    product_id: Id = Field(description="Product, or membership plan")
    amount_micros: Micros = Field(
        description="Amount of this step, millionths of a yuan; that of a refund is positive too"
    )
    coupon_micros: Maybe[Micros] = Field(None, description="Part paid by a coupon, millionths of a yuan")
    content_id: Maybe[Id] = Field(None, description="Video it came from")
    live_id: Maybe[Id] = Field(None, description="Live room it came from")
    group_id: Maybe[Id] = Field(None, description="Fan group it came from")


class Ad(Event):
    """An advertisement was shown, clicked or played, or led to a conversion. Any of them may carry a cost."""

    kind: Literal["impression", "click", "play", "conversion"]
    campaign_id: Id = Field(description="Campaign")
    ad_group_id: Id = Field(description="Ad group")
    creative_id: Id = Field(description="Creative")
    audience: Label = Field(description="Targeting label")
    channel: Channel = Field(description="Where it ran")
    bid_micros: Maybe[Micros] = Field(None, description="Bid, millionths of a yuan")
    cost_micros: Maybe[Micros] = Field(None, description="Cost of this event, millionths of a yuan")
    conversion_type: Maybe[Label] = Field(None, description="What the conversion is: follow, order, lead, ...")
    value_micros: Maybe[Micros] = Field(None, description="Value of the conversion, millionths of a yuan")


Interaction = Annotated[
    View
    | ContentAction
    | Comment
    | Relation
    | LiveEnter
    | LiveLeave
    | LiveComment
    | LiveAction
    | GroupPresence
    | GroupMessage
    | GroupAction
    | ProductAction,
    Field(discriminator="kind"),
]

MODELS: dict[str, tuple[type[Event], ...]] = {
    "interactions": (
        View,
        ContentAction,
        Comment,
        Relation,
        LiveEnter,
        LiveLeave,
        LiveComment,
        LiveAction,
        GroupPresence,
        GroupMessage,
        GroupAction,
        ProductAction,
    ),
    "gifts": (Gift,),
    "orders": (Order,),
    "ad_events": (Ad,),
}
"""Models of each source topic."""

CONTRACTS: dict[str, TypeAdapter[Any]] = {
    "interactions": TypeAdapter(Interaction),
    "gifts": TypeAdapter(Gift),
    "orders": TypeAdapter(Order),
    "ad_events": TypeAdapter(Ad),
}
"""Validator of each source topic: ``CONTRACTS[topic].validate_json(bytes)`` gives the event or a ValidationError."""


def kinds(model: type[Event]) -> tuple[str, ...]:
    """Kinds of event that a model describes."""
    values: tuple[str, ...] = model.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    return values


KINDS: dict[str, dict[str, type[Event]]] = {
    topic: {kind: model for model in models for kind in kinds(model)} for topic, models in MODELS.items()
}
"""Model of each kind, by topic."""
