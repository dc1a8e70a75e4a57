"""Alerts under faults: creators who lose followers and pay too much for advertisements, others who do not, and a
webhook server that fails at times.

Which alerts must come is known by how the fans were made; thresholds and figures are those of ``POLICY``.
"""

import contextlib
import http.server
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from kafka import KafkaConsumer

from chaos.tally import TableResult, Tally, log, stream
from chaos.truth import Sent
from infra.connect import clickhouse_client, kafka_options, kafka_producer
from infra.settings import Settings
from schemas.topics import partition_for

POLICY = '{"history_days": 3, "least_history_days": 2, "cpm_high": {"min_impressions": 100}}'
FANS, LEAVING, DAYS = 200, 60, 5
"""Fans of each creator, how many of those who lose some leave today, and how many days before today all were there."""
SHOWN, DEAR, CHEAP = 120, 80_000, 20_000
"""Impressions of each creator's campaign in an hour, and micros that one costs: of those who lose fans, and others."""
DAY_MS = 86_400_000
_HANGS = 4.0
"""Seconds: longer than a worker waits for an answer."""


@dataclass
class Followers:
    """Creators by name, and which of them lose followers today. ``at``: when that was sent, UTC ms."""

    creators: list[str]
    losing: frozenset[str]
    at: int = 0

    def wanted(self, settings: Settings) -> dict[str, tuple[str, int]]:
        """A figure of each alert, and what it must not exceed, by the alert's id."""
        moment = datetime.fromtimestamp(self.at / 1000, ZoneInfo(settings.time_zone))
        today, hour = moment.date(), moment.astimezone(UTC).strftime("%Y-%m-%dT%H00Z")
        found = {f"follower_loss:douyin:{creator}:{today}": ("unfollowed", LEAVING) for creator in sorted(self.losing)}
        return found | {
            f"cpm_high:douyin:{creator}:cmp_{creator}:{hour}": ("impressions", SHOWN) for creator in sorted(self.losing)
        }

    def send(self, settings: Settings) -> list[Sent]:
        """Sends what all of them did, each record once; what the broker took, as ground truth."""
        now = int(time.time() * 1000)
        self.at = now - 10_000
        days = [now - number * DAY_MS for number in range(DAYS, 0, -1)]
        events = [
            self._event(creator, fan, "like", at + fan)
            for at in days
            for creator in self.creators
            for fan in range(FANS)
        ]
        events += [
            self._event(creator, fan, "unfollow", self.at + fan)
            for creator in self.creators
            if creator in self.losing
            for fan in range(LEAVING)
        ]
        events += [
            self._event(creator, fan, "impression", self.at) | self._placed(creator)
            for creator in self.creators
            for fan in range(SHOWN)
        ]
        with contextlib.closing(kafka_producer(settings)) as producer:
            sent = []
            for event in events:
                key, value = str(event["fan_id"]).encode(), json.dumps(event).encode()
                partition = partition_for(key, settings.partitions)
                topic = "ad_events" if event["kind"] == "impression" else "interactions"
                answer = producer.send(settings.topic_prefix + topic, value, key, partition=partition)
                sent.append((answer, topic, partition, key, value))
            taken = [(answer.get(timeout=60), *others) for answer, *others in sent]
        return [
            Sent(topic, partition, answer.offset, answer.timestamp, key, value, "event")
            for answer, topic, partition, key, value in taken
        ]

    @staticmethod
    def _event(creator: str, fan: int, kind: str, at: int) -> dict[str, Any]:
        fan_id = f"{creator}-{fan}"
        own = {"event_id": f"{kind}-{fan_id}-{at}", "event_time": at, "platform": "douyin", "fan_id": fan_id}
        return {**own, "creator_id": creator, "kind": kind} | ({} if kind == "impression" else {"content_id": "v"})

    def _placed(self, creator: str) -> dict[str, Any]:
        place = {"campaign_id": f"cmp_{creator}", "ad_group_id": "g", "creative_id": "v", "audience": "all"}
        return {**place, "channel": "feed", "cost_micros": DEAR if creator in self.losing else CHEAP}


@dataclass
class Hook:
    """A webhook server: of its first ``failing`` requests it answers some with 500, hangs at some and cuts some off.

    ``taken``: bodies that it has answered with 200. ``failed``: how often it did not.
    """

    failing: int
    random: Random
    port: int = 0
    taken: list[bytes] = field(default_factory=list)
    failed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def _what(self) -> str:
        with self._lock:
            self.failing -= 1
            what = self.random.choice(("take", "take", "fail", "hang", "drop")) if self.failing >= 0 else "take"
            self.failed += what != "take"
            return what

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Listens on a free port of the loopback while the block runs."""
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                what = hook._what()
                if what == "hang":
                    hook._ending.wait(_HANGS)
                if what in ("hang", "drop"):
                    self.connection.close()
                    return
                if what == "take":
                    with hook._lock:
                        hook.taken.append(body)
                self.send_response(200 if what == "take" else 500)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            server.shutdown()
            thread.join()
            server.server_close()


def delivered(settings: Settings) -> int:
    """Messages that the topic and the webhook are known to have."""
    with contextlib.closing(clickhouse_client(settings)) as client:
        query = "SELECT count() FROM alert_deliveries FINAL WHERE outcome = 'delivered'"
        return int(client.query(query).result_rows[0][0])


_FIGURES = ("unfollowed", "impressions")
_ALERTS = (
    "SELECT id, toString(state) AS state, figures['unfollowed'] AS a, figures['impressions'] AS b FROM alerts FINAL"
)


def compare(settings: Settings, wanted: dict[str, tuple[str, int]], hook: Hook) -> list[TableResult]:
    """The table, the topic and what the webhook took, against the alerts that must be: each is there, open, and says
    the same wherever it is told and however often."""
    table, topic, told = Tally("alerts"), Tally("kafka_alerts"), Tally("webhook_alerts")
    rows: dict[str, float] = {}
    with contextlib.closing(clickhouse_client(settings)) as client:
        for name, state, *found in stream(client, _ALERTS):
            if name in rows or name not in wanted:
                table.double(name)
                continue
            figure, most = wanted[name]
            value = dict(zip(_FIGURES, found, strict=True))[figure]
            if state != "open" or not 0 < value <= most:
                table.differ(name, f"{state}, {figure}: {value:.0f} of {most}")
            rows[name] = value
    consumer = KafkaConsumer(**kafka_options(settings), enable_auto_commit=False)
    try:
        name = settings.topic_prefix + "alerts"
        records = [
            record.value or b""
            for partition in sorted(consumer.partitions_for_topic(name) or ())
            for record in log(consumer, name, partition)
        ]
    finally:
        consumer.close()
    for tally, bodies in ((topic, records), (told, hook.taken)):
        said: dict[str, set[bytes]] = defaultdict(set)
        for body in bodies:
            message = json.loads(body)
            said[message["id"]].add(body)
            figure, _ = wanted.get(message["id"], ("", 0))
            if message["state"] != "open" or message["figures"].get(figure) != rows.get(message["id"]):
                tally.differ(message["id"], "it says something else than the row")
        for each in said.keys() - wanted.keys():
            tally.double(each)
        for each, different in said.items():
            if len(different) > 1:
                tally.differ(each, f"told in {len(different)} ways")
        for each in wanted.keys() - said.keys():
            tally.lose(each)
    for each in wanted.keys() - rows.keys():
        table.lose(each)
    for tally in (table, topic, told):
        tally.rows = len(wanted)
    return [tally.result() for tally in (table, topic, told)]
