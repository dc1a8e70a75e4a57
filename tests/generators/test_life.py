"""What happens in the world looks like what happens on the platforms."""

import polars as pl
import pytest
from made_worlds import DAYS, START_MS, history, world

from generators.cast import Cast

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture(scope="module")
def acts() -> pl.DataFrame:
    local = pl.col("event_time") + 8 * HOUR_MS
    return history()["interactions"].with_columns(
        hour=local // HOUR_MS % 24, day=local // DAY_MS, weekday=(local // DAY_MS + 3) % 7
    )


def test_evenings_peak_nights_are_quiet_and_weekends_busier(acts):
    hours = dict(acts.group_by("hour").len().iter_rows())
    assert min(hours[h] for h in (19, 20, 21)) > 2 * max(hours[h] for h in range(1, 6))
    assert max(hours, key=hours.__getitem__) in (19, 20, 21)
    weekdays = dict(acts.group_by("weekday").len().iter_rows())
    assert (weekdays[5] + weekdays[6]) / 2 > 1.1 * sum(weekdays[d] for d in range(5)) / 5


def test_creators_and_videos_follow_a_power_law(acts):
    plays = acts.filter(pl.col("kind") == "view")
    creators = plays.group_by("creator_id").len().sort("len", descending=True)["len"].to_list()
    assert creators[0] > 3 * creators[len(creators) // 2]
    videos = plays.group_by("content_id").len().sort("len", descending=True)["len"].to_list()
    assert sum(videos[: len(videos) // 10]) > 0.3 * sum(videos)


def test_a_video_rises_within_hours_and_fades_over_days(acts):
    first = pl.col("event_time").min().over("content_id")
    plays = acts.filter(pl.col("kind") == "view").with_columns(age=(pl.col("event_time") - first) // DAY_MS)
    plays = plays.filter(first > START_MS + 3 * DAY_MS, first < START_MS + (DAYS - 15) * DAY_MS)
    ages = dict(plays.group_by("age").len().iter_rows())
    assert ages[0] > 2 * ages[5] > 4 * ages[12]


def test_no_video_is_seen_before_it_is_published(acts):
    cast: Cast = world().cast
    days = range(START_MS // DAY_MS - 25, START_MS // DAY_MS + DAYS + 2)
    posted = {
        cast.content_id(int(code)): int(at)
        for day in days
        for code, at in zip(cast.videos(day).code, cast.videos(day).posted_ms, strict=True)
    }
    plays = acts.filter(pl.col("kind") == "view")
    assert all(at >= posted[content] for content, at in plays.select("content_id", "event_time").iter_rows())


def test_fans_fall_silent_churn_return_and_unfollow(acts):
    own = acts.filter(pl.col("kind") != "unfollow").select("fan_id", "creator_id", "day").unique()
    own = own.sort("fan_id", "creator_id", "day")
    gap = pl.col("day").diff().over("fan_id", "creator_id")
    gaps = own.with_columns(gap=gap).filter(pl.col("gap").is_not_null())
    assert gaps.filter(pl.col("gap").is_between(7, 29)).height > 100
    assert gaps.filter(pl.col("gap") >= 30).height > 3
    last = own.group_by("fan_id", "creator_id").agg(pl.col("day").max(), first=pl.col("day").min())
    end = own["day"].max()
    silent = last.filter((end - pl.col("day")) >= 7).height / last.height
    churned = last.filter((end - pl.col("day")) >= 30).height / last.height
    assert 0.2 < silent < 0.8
    assert 0.05 < churned < 0.6
    kinds = dict(acts.group_by("kind").len().iter_rows())
    assert 0.05 * kinds["follow"] < kinds["unfollow"] < 0.6 * kinds["follow"]
    weekly = last.group_by(pl.col("first") // 7).len().sort("first")["len"].to_list()
    assert min(weekly[2:-1]) > 20


def test_an_unfollow_ends_a_follow_and_groups_are_joined_before_they_are_left(acts):
    for begins, ends in (("follow", "unfollow"), ("group_join", "group_leave")):
        pairs = acts.filter(pl.col("kind").is_in([begins, ends])).sort("event_time")
        per = pairs.group_by("fan_id", "creator_id", maintain_order=True).agg("kind")["kind"].to_list()
        assert all(kinds in ([begins], [ends], [begins, ends]) for kinds in per)


def test_rooms_are_entered_before_they_are_left_and_hold_their_visitors(acts):
    room = acts.filter(pl.col("live_id").is_not_null(), pl.col("kind").str.starts_with("live_"))
    leaves = room.filter(pl.col("kind") == "live_leave")
    assert (leaves["stay_ms"] > 0).all()
    enters = room.filter(pl.col("kind") == "live_enter").select(
        "fan_id", "live_id", at=pl.col("event_time").cast(pl.Int64)
    )
    joined = leaves.with_columns(at=pl.col("event_time") - pl.col("stay_ms")).join(
        enters, on=["fan_id", "live_id", "at"], how="anti"
    )
    # Who came in before the world began has only the leaving.
    assert joined.filter(pl.col("at") >= START_MS).height == 0
    assert room.filter(pl.col("pk_opponent").is_not_null()).height > 0.1 * room.height
    assert room["hour"].is_in(range(18, 24)).mean() > 0.85


def test_orders_go_from_placed_to_paid_to_shipped_to_refunded():
    orders = history()["orders"].sort("event_time")
    steps = orders.group_by("order_id", maintain_order=True).agg(
        "kind", "event_time", "fan_id", "product_id", "amount_micros"
    )
    allowed = (
        ["placed"],
        ["placed", "paid"],
        ["placed", "paid", "shipped"],
        ["placed", "paid", "refunded"],
        ["placed", "paid", "shipped", "refunded"],
        ["membership"],
    )
    seen = set()
    for order in steps.iter_rows(named=True):
        assert order["kind"] in allowed
        seen.add(tuple(order["kind"]))
        assert len(set(order["fan_id"])) == len(set(order["product_id"])) == len(set(order["amount_micros"])) == 1
        if len(order["kind"]) > 1:
            assert order["event_time"][1] - order["event_time"][0] < 30 * 60_000
    assert len(seen) == len(allowed)
    assert orders.filter(pl.col("amount_micros") == 0).height > 0
    assert orders["coupon_micros"].is_not_null().any()


def test_money_is_integer_micros_and_gifts_have_a_few_great_givers():
    for topic, frame in history().items():
        for name in frame.columns:
            if name.endswith(("_micros", "_ms", "_time")) or name == "quantity":
                assert frame.schema[name] == pl.Int64, (topic, name)
    gifts = history()["gifts"].filter(pl.col("kind") == "gift")
    givers = gifts.group_by("fan_id").agg(pl.col("value_micros").sum()).sort("value_micros", descending=True)
    top = givers["value_micros"].head(givers.height // 20).sum()
    assert top > 0.4 * givers["value_micros"].sum()
    assert gifts.filter(pl.col("value_micros") == 0).height > 0


def test_advertisements_are_as_odd_as_real_ones():
    ads = history()["ad_events"].with_row_index()
    at = {kind: ads.filter(pl.col("kind") == kind) for kind in ("impression", "click", "play", "conversion")}
    keys = ["fan_id", "creative_id"]
    assert at["click"].join(at["impression"], on=keys, how="anti").height > 0
    assert at["conversion"].join(at["click"], on=keys, how="anti").height > 0
    assert at["click"]["cost_micros"].is_not_null().any()
    assert (at["impression"]["cost_micros"] % 10_000 != 0).any()
    assert 0.01 < at["click"].height / at["impression"].height < 0.12
    assert set(at["conversion"]["conversion_type"]) == {"follow", "order", "lead"}
    same = ads.join(
        history()["interactions"].select("creator_id", creators=pl.col("platform")).unique(), on="creator_id"
    )
    assert (same["platform"] == same["creators"]).all()


def test_audiences_bring_fans_who_stay_differently(acts):
    follows = acts.filter(pl.col("kind") == "follow", pl.col("source") == "ad")
    assert follows.height > 30
    ads = history()["ad_events"].filter(pl.col("kind") == "conversion", pl.col("conversion_type") == "follow")
    brought = follows.join(ads.select("fan_id", "creator_id", "audience"), on=["fan_id", "creator_id"])
    assert brought["audience"].n_unique() > 2


def test_growth_differs_between_creators(acts):
    first = acts.group_by("fan_id", "creator_id").agg(day=pl.col("day").min())
    start = first["day"].min()
    early = dict(first.filter((pl.col("day") - start).is_between(8, 25)).group_by("creator_id").len().iter_rows())
    late = dict(first.filter((pl.col("day") - start) > 25).group_by("creator_id").len().iter_rows())
    growth = sorted(late.get(creator, 0) / count for creator, count in early.items() if count >= 20)
    assert growth[-1] > 1.5 * growth[0]


def test_some_write_complaints_calls_for_help_and_offers(acts):
    written = acts.filter(pl.col("kind").is_in(["comment", "live_comment", "group_message", "dm_sent"]))
    assert 0.01 < written["text"].null_count() / written.height < 0.1
    texts = acts["text"].drop_nulls().unique()
    for word in ("退款", "求助", "合作", "失望", "链接"):
        assert texts.str.contains(word).any(), word
    assert acts["reply_to"].is_not_null().any()
