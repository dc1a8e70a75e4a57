"""Alerts carried out on a real Kafka and ClickHouse, told to a webhook server that fails, hangs and then answers."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

import orjson
import pytest
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError
from pydantic import SecretStr
from rig import DEADLINE, WorkerProcess, ask, database, now_ms, prepare, send, until

from chaos.zone import even_zone
from infra.connect import kafka_options
from infra.errors import SettingsError
from infra.settings import Settings, WebhookFormat, load
from pipeline import alerting
from pipeline.alerting import Alerter, FanFigures, reached, read_alerts, store
from pipeline.alerts import DAY, Alert, end_of
from pipeline.checkpoint import Checkpoint, frame
from pipeline.fan_log import Input, write_inputs
from pipeline.look import Look
from pipeline.metrics import Metrics
from pipeline.migrate import migrate
from pipeline.webhook import MOST_BYTES, SIGNATURE, Webhook, body, webhooks
from schemas.alerts import alert_policy
from schemas.topics import SOURCES

ALERT = Alert(
    id="churn_high:douyin:dy_1:2026-03-01",
    kind="churn_high",
    platform="douyin",
    creator_id="dy_1",
    subject="",
    day=date(2026, 3, 1),
    state="resolved",
    at=1_772_380_800_000,
    title="Churn is high",
    said="5.0% of 1,000 fans churned.",
    advice=("Recall them.", "Hold an event."),
    figures={"churn_rate": 0.05, "churned": 50.0},
    thresholds={"above": 0.03},
    resolved_day=date(2026, 3, 2),
    resolved_at=1_772_467_200_000,
    resolved_said="1.0% of 1,000 fans churned.",
    resolved_figures={"churn_rate": 0.01},
)


@dataclass
class Received:
    """A request to the webhook server."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hook:
    """A webhook server: does what it is told with each request, then takes all."""

    port: int = 0
    todo: list[str] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    taken: list[Received] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/robot/send?access_token=0123456789abcdef"

    def messages(self) -> dict[tuple[str, str], set[bytes]]:
        """What was taken, by id and state: a receiver that knows what it has had keeps one of each."""
        found: dict[tuple[str, str], set[bytes]] = {}
        for each in self.taken:
            found.setdefault((each.message["id"], each.message["state"]), set()).add(each.body)
        return found


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            request = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, content)
            made.requests.append(request)
            what = made.todo.pop(0) if made.todo else "take"
            if what == "hang":
                made.free.wait(10)
            elif what == "drop":
                self.connection.close()
            elif what == "redirect":
                self.answer(302, b"", {"Location": f"http://127.0.0.1:{made.port}/elsewhere"})
            elif what == "endless":
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not made.free.wait(0.05):
                        self.wfile.write(b"x")
            elif what.isdigit():
                self.answer(int(what), b"not now, 0123456789abcdef\x1b[2J")
            elif what.startswith("{"):
                self.answer(200, what.encode())
            else:
                made.taken.append(request)
                self.answer(200, b'{"errcode":0,"errmsg":"ok"}')

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.free.set()
    server.shutdown()
    thread.join()
    server.server_close()


def webhook(hook: Hook, form: WebhookFormat = "json", secret: str | None = None, timeout: float = 2.0) -> Webhook:
    return Webhook(SecretStr(hook.url), form, SecretStr(secret) if secret else None, timeout, lambda: 1_772_380_800.5)


# What is sent.


def test_json_is_the_alert_itself_signed(hook: Hook) -> None:
    assert webhook(hook, secret="geheim").post(ALERT.message("open")).taken
    (request,) = hook.taken
    assert request.message == {
        "id": "churn_high:douyin:dy_1:2026-03-01",
        "state": "open",
        "kind": "churn_high",
        "title": "Churn is high",
        "platform": "douyin",
        "creator_id": "dy_1",
        "subject": "",
        "day": "2026-03-01",
        "at": 1_772_380_800_000,
        "said": "5.0% of 1,000 fans churned.",
        "advice": ["Recall them.", "Hold an event."],
        "figures": {"churn_rate": 0.05, "churned": 50.0},
        "thresholds": {"above": 0.03},
    }
    signed = hmac.new(b"geheim", request.body, hashlib.sha256).hexdigest()
    assert request.headers[SIGNATURE.lower()] == f"sha256={signed}"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert json.loads(body("json", ALERT.message("resolved"))) == request.message | {
        "state": "resolved",
        "resolved_day": "2026-03-02",
        "resolved_at": 1_772_467_200_000,
        "resolved_said": "1.0% of 1,000 fans churned.",
        "resolved_figures": {"churn_rate": 0.01},
    }


def test_dingtalk_gets_markdown_and_a_signature(hook: Hook) -> None:
    assert webhook(hook, "dingtalk", "SEC1").post(ALERT.message("open")).taken
    assert webhook(hook, "dingtalk").post(ALERT.message("resolved")).taken
    opened, resolved = hook.taken
    assert opened.message == {
        "msgtype": "markdown",
        "markdown": {
            "title": "Alert: Churn is high",
            "text": "### Alert: Churn is high\n\n**dy_1** (douyin), 2026-03-01\n\n5.0% of 1,000 fans churned.\n\n"
            "- Recall them.\n- Hold an event.\n\nfanpulse churn_high:douyin:dy_1:2026-03-01",
        },
    }
    assert resolved.message["markdown"] == {
        "title": "Resolved: Churn is high",
        "text": "### Resolved: Churn is high\n\n**dy_1** (douyin), 2026-03-01\n\n1.0% of 1,000 fans churned.\n\n"
        "fanpulse churn_high:douyin:dy_1:2026-03-01",
    }
    asked = parse_qs(urlsplit(opened.path).query, strict_parsing=True)
    wanted = base64.b64encode(hmac.new(b"SEC1", b"1772380800500\nSEC1", hashlib.sha256).digest()).decode()
    assert asked == {"access_token": ["0123456789abcdef"], "timestamp": ["1772380800500"], "sign": [wanted]}
    assert "sign=" in opened.path
    assert unquote(opened.path.split("sign=")[1]) == wanted
    assert "sign=" not in resolved.path


def test_wecom_gets_markdown(hook: Hook) -> None:
    assert webhook(hook, "wecom").post(ALERT.message("open")).taken
    assert webhook(hook, "wecom").post(ALERT.message("resolved")).taken
    assert [each.message for each in hook.taken] == [
        {
            "msgtype": "markdown",
            "markdown": {
                "content": '### <font color="warning">Alert: Churn is high</font>\n**dy_1** (douyin), 2026-03-01\n'
                "> 5.0% of 1,000 fans churned.\n- Recall them.\n- Hold an event.\n"
                '<font color="comment">fanpulse churn_high:douyin:dy_1:2026-03-01</font>'
            },
        },
        {
            "msgtype": "markdown",
            "markdown": {
                "content": '### <font color="info">Resolved: Churn is high</font>\n**dy_1** (douyin), 2026-03-01\n'
                "> 1.0% of 1,000 fans churned.\n"
                '<font color="comment">fanpulse churn_high:douyin:dy_1:2026-03-01</font>'
            },
        },
    ]


@pytest.mark.parametrize("form", ["dingtalk", "wecom"])
def test_a_text_is_no_longer_than_a_robot_takes_and_names_are_no_markup(form: WebhookFormat) -> None:
    long = replace(
        ALERT,
        creator_id="[x](http://evil)@all<b>" + "流" * 40,
        said="5.0% of 1,000 fans of [y](http://evil) (@all) churned.",
        advice=tuple("流失" * 300 for _ in range(20)),
    )
    text = json.loads(body(form, long.message("open")))["markdown"][{"dingtalk": "text", "wecom": "content"}[form]]
    assert len(text.encode()) <= MOST_BYTES[form]
    assert "［x］（http://evil）＠all＜b＞" in text
    assert "5.0% of 1,000 fans of ［y］(http://evil) (＠all) churned." in text


@pytest.mark.parametrize(
    ("form", "what", "status", "said"),
    [
        ("json", "500", 500, "not now, *** [2J"),
        ("json", "404", 404, "not now"),
        ("json", "redirect", 302, ""),
        ("json", "hang", 0, "no answer: ReadTimeoutError"),
        ("json", "drop", 0, "no answer: ProtocolError"),
        ("json", "endless", 200, "the answer does not end"),
        ("dingtalk", '{"errcode":310000,"errmsg":"sign not match"}', 200, "sign not match"),
        ("wecom", '{"errcode":45009,"errmsg":"api freq out of limit"}', 200, "freq"),
        ("wecom", "{}", 200, ""),
        ("wecom", "{", 200, ""),
    ],
)
def test_what_is_not_taken_is_told_without_secrets(
    hook: Hook, form: WebhookFormat, what: str, status: int, said: str
) -> None:
    hook.todo = [what]
    target = webhook(hook, form, timeout=0.5)
    answer = target.post(ALERT.message("open"))
    assert (answer.taken, answer.status) == (False, status)
    assert said in answer.text
    assert len(hook.requests) == 1
    for text in (answer.text, target.name, repr(answer)):
        assert "0123456789abcdef" not in text
    assert target.post(ALERT.message("open")).taken


def test_where_nobody_is() -> None:
    nobody = Webhook(SecretStr("http://127.0.0.1:9/secret-token"), "json", timeout=1.0)
    answer = nobody.post(ALERT.message("open"))
    assert (answer.taken, answer.status, answer.text) == (False, 0, "no answer: NewConnectionError")


def test_a_server_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path) -> None:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl makes the certificate")
    make = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 -keyout k -out c"
    )
    subprocess.run([openssl, *make.split()], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    heard: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as plain, context.wrap_socket(plain, True) as secure:
            heard.append(secure.recv(1000))

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/hook/0123456789abcdef"
        answer = Webhook(SecretStr(url), "json", timeout=2.0).post(ALERT.message("open"))
        thread.join()
    assert (answer.taken, answer.text, heard) == (False, "no answer: SSLError", [])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"URLS": "ftp://x/geheim"}, "FANPULSE_WEBHOOK_URLS: must be URLs such as"),
        ({"URLS": "https://a/1,https://u:geheim@b/"}, "number 2 has one"),
        ({"URLS": "https://a/geheim,https://a/geheim"}, "names a URL twice"),
        ({"URLS": "http://a/geheim", "FORMAT": "dingtalk"}, "must be https:// for dingtalk"),
        ({"URLS": "https://a/geheim", "FORMAT": "slack"}, "FANPULSE_WEBHOOK_FORMAT=slack"),
        ({"URLS": "https://a/geheim", "FORMAT": "wecom", "SECRET": "geheim"}, "WeCom has no signature"),
        ({"URLS": "https://a/1,https://a/2,https://a/3", "SECRET": "a,b"}, "has 2 secrets for 3 URLs"),
    ],
)
def test_a_bad_webhook_setting_is_one_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FANPULSE_WEBHOOK_{name}", value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert said in refused.value.message
    assert "geheim" not in refused.value.message


def test_webhooks_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhooks(load()) == []
    monkeypatch.setenv("FANPULSE_WEBHOOK_URLS", " https://a.example/1 , https://a.example/2,")
    found = webhooks(load())
    assert len({each.name for each in found}) == 2
    assert all(each.name.startswith("a.example#") for each in found)
    assert "example" not in repr(load())


# What is decided, on a real ClickHouse.

ZONE = ZoneInfo("Asia/Shanghai")
TODAY = datetime.now(ZONE).date()
NOON = end_of(TODAY - DAY, ZONE) / 1000 + 12 * 3600
MOVES = (
    "partition", "platform", "creator_id", "fan", "day", "step", "from_stage", "to_stage", "at", "reason",
    "resurrected", "withdrawn", "fold_version", "applied",
)  # fmt: skip


class Moves:
    """Writes moves of fans as workers do, and how far they are."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.settings = settings
        self.client = client

    def add(self, moves: list[tuple[str, int, date, int, str, str, str]], withdrawn: int = 0, applied: int = 1) -> None:
        """Moves: creator, fan, day, step, from, to, reason."""
        rows = []
        for creator, fan, day, step, former, latter, reason in moves:
            at = datetime.fromtimestamp(end_of(day - DAY, ZONE) / 1000, UTC)
            move = (fan % 4, "douyin", creator, fan, day, step, former, latter, at, reason)
            rows.append([*move, 0, withdrawn, 1, applied])
        self.client.insert("fan_transitions", rows, column_names=MOVES)

    def arrive(self, creator: str, fans: int, day: date) -> None:
        self.add([(creator, fan, day, 1, "none", "new", "arrived") for fan in range(fans)])

    def churn(self, creator: str, fans: range, day: date, **options: int) -> None:
        self.add([(creator, fan, day, 0, "silent", "churned", "absent") for fan in fans], **options)

    def leave(self, creator: str, fans: range, day: date, **options: int) -> None:
        self.add([(creator, fan, day, 2, "new", "churned", "unfollowed") for fan in fans], **options)

    def reach(self, day: date, hour: int = 1, slowest: int | None = None) -> None:
        """All partitions have reached a time of a local day."""
        at = end_of(day - DAY, ZONE) + hour * 3_600_000
        number = now_ms()
        for partition in range(self.settings.partitions):
            own = at - (86_400_000 if partition == slowest else 0)
            inputs = {source: Input(number, own) for source in SOURCES}
            made = Checkpoint("lifecycle", "fan_facts", partition, 1, number, own, "", "", "{}", write_inputs(inputs))
            self.client.insert_arrow("checkpoints", frame([made], number).to_arrow())


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    migrate(settings)
    with database(settings) as made:
        yield made


def rows(client: Client) -> dict[str, Alert]:
    return {alert.id: alert for alert in read_alerts(client)}


@pytest.mark.stack
def test_figures_are_those_of_the_view(settings: Settings, client: Client) -> None:
    """Random moves of fans; days without any; a creator of whom nothing is heard any more."""
    rng, moves = Random(7), []
    first = TODAY - 60 * DAY
    for creator, last in (("c1", 59), ("c2", 50), ("c3", 3)):
        for fan in range(40):
            stage = "none"
            for number in sorted(rng.sample(range(last + 1), min(rng.randrange(1, 8), last + 1))):
                to = rng.choice([each for each in ("new", "active", "retained", "silent", "churned") if each != stage])
                back = stage in ("silent", "churned") and to not in ("silent", "churned")
                reason = "arrived" if stage == "none" else "returned" if back else "absent"
                reason = "unfollowed" if to == "churned" and rng.random() < 0.5 else reason
                moves.append((creator, fan, first + number * DAY, 1, stage, to, reason))
                stage = to
    Moves(settings, client).add(moves)
    closed = TODAY - DAY
    look = Look(client, settings, closed - 10 * DAY, closed, 0, frozenset({"c1", "c2", "c3"}))
    found = {(each.creator_id, each.day): each.values for each in FanFigures()(look) if each.closed}
    assert set(found) == {(creator, closed - n * DAY) for creator in ("c1", "c2", "c3") for n in range(11)}
    names = ("fans_at_start", "churned", "unfollowed", "arrived", "returned", "idle_at_start")
    wanted = {
        (row[0], row[1]): dict(zip((*names, "churn_rate"), row[2:], strict=True))
        for row in client.query(
            f"SELECT creator_id, day, {', '.join(names)}, churn_rate FROM fan_churn_days"
        ).result_rows
    }
    compared = 0
    for where, values in found.items():
        if where in wanted:
            compared += 1
            assert {name: values[name] for name in wanted[where]} == wanted[where], where
        else:
            assert [values[name] for name in names[1:5]] == [0, 0, 0, 0]
            query = (
                "SELECT sumIf(fans, stage != 'churned'), sumIf(fans, stage IN ('silent', 'churned')) "
                "FROM fan_stage_days WHERE creator_id = {creator:String} "
                "AND day = (SELECT max(day) FROM fan_stage_days WHERE creator_id = {creator:String})"
            )
            stages = client.query(query, {"creator": where[0]}).result_rows[0]
            assert (values["fans_at_start"], values["idle_at_start"]) == stages
    assert compared >= 11
    few = FanFigures()(replace(look, watched=frozenset()))
    assert few == []


@pytest.mark.stack
def test_a_day_is_looked_at_once_every_partition_is_beyond_it(settings: Settings, client: Client) -> None:
    world, alerter = Moves(settings, client), Alerter(settings, Metrics())
    assert alerter.decide(client) == []
    world.arrive("c1", 1000, TODAY - 25 * DAY)
    world.churn("c1", range(60), TODAY - DAY)
    world.reach(TODAY, slowest=2)
    assert alerter.decide(client) == []
    world.reach(TODAY)
    made = alerter.decide(client)
    assert [(each.id, each.state) for each in made] == [(f"churn_high:douyin:c1:{TODAY - DAY}", "open")]
    assert made[0].at == end_of(TODAY - DAY, ZONE)
    assert rows(client) == {each.id: each for each in made}
    assert alerter.decide(client) == []
    assert Alerter(settings, Metrics()).decide(client) == []
    world.reach(TODAY + DAY)
    (over,) = alerter.decide(client)
    assert (over.state, over.resolved_day) == ("resolved", TODAY)
    assert rows(client) == {over.id: over}
    assert ask(settings, "SELECT count() FROM alerts_now") == [(0,)]


@pytest.mark.stack
def test_a_worker_that_was_away_finds_the_days_between(settings: Settings, client: Client) -> None:
    world = Moves(settings, client)
    world.arrive("c1", 1000, TODAY - 60 * DAY)
    world.churn("c1", range(100), TODAY - 20 * DAY)
    world.churn("c1", range(100, 200), TODAY - 10 * DAY)
    world.reach(TODAY)
    found = Counter(
        (each.day, each.state) for each in Alerter(settings, Metrics()).decide(client) if "high" in each.kind
    )
    days = (TODAY - 20 * DAY, TODAY - 10 * DAY)
    assert found == {(day, state): 1 for day in days for state in ("open", "resolved")}


@pytest.mark.stack
def test_lost_followers_ring_on_the_running_day(settings: Settings, client: Client) -> None:
    world, alerter = Moves(settings, client), Alerter(settings, Metrics())
    world.arrive("c1", 1000, TODAY - 20 * DAY)
    for number in range(1, 15):
        world.leave("c1", range(2 * number, 2 * number + 2), TODAY - number * DAY)
    world.reach(TODAY, hour=9)
    assert alerter.decide(client) == []
    world.leave("c1", range(100, 120), TODAY)
    (made,) = alerter.decide(client)
    assert (made.kind, made.at) == ("follower_loss", end_of(TODAY - DAY, ZONE) + 9 * 3_600_000)
    assert made.figures["unfollowed"] == 20
    assert made.figures["unfollowed_usual"] == 2
    # They come back on that day: nothing more is said until it is over.
    world.leave("c1", range(100, 118), TODAY, withdrawn=1, applied=2)
    assert alerter.decide(client) == []
    world.reach(TODAY + DAY)
    (over,) = alerter.decide(client)
    assert (over.id, over.state) == (made.id, "resolved")
    assert over.message("open") == made.message("open")


@pytest.mark.stack
def test_the_first_to_write_is_right(settings: Settings, client: Client) -> None:
    """Two workers that both think they hold the partition, with figures of different moments; in any order."""
    now = datetime.now(UTC)
    opened = replace(
        ALERT, state="open", resolved_day=date(1970, 1, 1), resolved_at=0, resolved_said="", resolved_figures={}
    )
    store(client, opened, now)
    store(client, replace(opened, said="what the second found"), now + timedelta(seconds=1))
    store(client, replace(opened, said="what one with a clock behind found"), now - timedelta(hours=1))
    client.command("OPTIMIZE TABLE alerts FINAL")
    assert rows(client) == {opened.id: opened}
    store(client, ALERT, now)
    store(client, replace(ALERT, resolved_said="what the second found"), now)
    store(client, replace(opened, said="an insert that was held back"), now)
    client.command("OPTIMIZE TABLE alerts FINAL")
    assert rows(client) == {ALERT.id: ALERT}
    # A lost answer: it is written again, and there is no second row.
    assert ask(settings, "SELECT count() FROM alerts") == [(1,)]


@pytest.mark.stack
def test_opened_by_another_worker_in_other_words_it_is_resolved_in_those(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ends after the row; late events change the figures; the second opens and resolves it at one look."""
    world = Moves(settings, client)
    world.arrive("c1", 1000, TODAY - 60 * DAY)
    world.churn("c1", range(100), TODAY - 20 * DAY)
    world.reach(TODAY)
    told: dict[str, bytes] = {}

    class Killed(Exception):
        """The first worker."""

    def dying(client: Client, alert: Alert, now: datetime) -> None:
        store(client, alert, now)
        if alert.kind == "churn_high":
            raise Killed

    def looking(client: Client, where: str, parameters: dict[str, Any]) -> list[Alert]:
        known = read_alerts(client, where, parameters)
        monkeypatch.setattr(alerting, "read_alerts", read_alerts)
        with monkeypatch.context() as patch:
            patch.setattr(alerting, "store", dying)
            with pytest.raises(Killed):
                Alerter(settings, Metrics(), hooks=[]).decide(client)
        told.update({alert.id: orjson.dumps(alert.message("open")) for alert in rows(client).values()})
        world.churn("c1", range(10), TODAY - 20 * DAY, withdrawn=1, applied=2)
        return known

    monkeypatch.setattr(alerting, "read_alerts", looking)
    Alerter(settings, Metrics(), hooks=[]).decide(client)
    found = rows(client)
    assert told
    assert {name: orjson.dumps(found[name].message("open")) for name in told} == told
    assert {found[name].state for name in told} == {"resolved"}


@pytest.mark.stack
def test_thresholds_are_in_the_database(settings: Settings, client: Client) -> None:
    def stored() -> dict[tuple[str, str], float]:
        return {
            (kind, name): value
            for kind, name, value in client.query("SELECT kind, name, value FROM alert_thresholds FINAL").result_rows
        }

    Alerter(settings, Metrics(), hooks=[]).look()
    policy = settings.alert_policy
    assert stored() == {
        (kind, name): limit for kind in policy.kinds for name, limit in policy.kinds[kind].limits.items()
    }
    changed = settings.model_copy(update={"alert_policy": alert_policy({"churn_high": {"above": 0.07}})})
    Alerter(changed, Metrics(), hooks=[]).look()
    assert stored()["churn_high", "above"] == 0.07
    assert ask(settings, "SELECT count() FROM alert_thresholds") == [(len(stored()) + 1,)]


def test_what_every_partition_has_reached() -> None:
    def made(partition: int, **times: int | None) -> Checkpoint:
        inputs = write_inputs({source: Input(1, at) for source, at in times.items()})
        return Checkpoint("lifecycle", "fan_facts", partition, 1, 1, 0, "", "", "{}", inputs)

    everything = dict.fromkeys(SOURCES, 500)
    assert reached([], 1) is None
    assert reached([made(0, **everything)], 2) is None
    assert reached([made(0, **everything), made(1, interactions=300)], 2) is None
    assert reached([made(0, **everything), made(1, **{**everything, "orders": 300, "gifts": None})], 2) == 300
    assert reached([made(0, **everything), made(1, **dict.fromkeys(SOURCES))], 2) == 500


# What others are told.


def sent(settings: Settings) -> list[dict[str, Any]]:
    """Every message in the topic, having seen that it is keyed by its creator."""
    options = {**kafka_options(settings), "consumer_timeout_ms": 2000, "auto_offset_reset": "earliest"}
    with contextlib.closing(KafkaConsumer(settings.topic_prefix + "alerts", group_id=None, **options)) as consumer:
        found = []
        for record in consumer:
            found.append(orjson.loads(record.value))
            assert record.key.decode() == found[-1]["creator_id"]
        return found


def deliveries(settings: Settings, target: str = "127.0.0.1") -> dict[tuple[str, str], tuple[str, int]]:
    """Outcome and tries by id and state."""
    query = f"SELECT id, state, outcome, attempts FROM alert_deliveries FINAL WHERE startsWith(target, '{target}')"
    return {(row[0], row[1]): (row[2], row[3]) for row in ask(settings, query)}


class Killed(Exception):
    """As by kill -9 at this point."""


def killed(*args: Any, **named: Any) -> Any:
    raise Killed


@pytest.mark.stack
@pytest.mark.parametrize("form", ["json", "dingtalk", "wecom"])
def test_it_is_killed_anywhere_and_the_webhook_fails_and_nothing_is_lost(
    settings: Settings, hook: Hook, monkeypatch: pytest.MonkeyPatch, form: WebhookFormat
) -> None:
    """Between row, topic and webhook, and between each of these and the row that says so."""
    prepare(settings)
    with database(settings) as client:
        world, now = Moves(settings, client), [NOON]

        def worker() -> Alerter:
            """The worker started again."""
            return Alerter(settings, Metrics(), hooks=[webhook(hook, form, timeout=1.0)], clock=lambda: now[0])

        def cut_off(step: Callable[[Client], Any], what: str) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(alerting if what == "store" else Alerter, what, killed)
                with pytest.raises(Killed):
                    step(client)

        world.arrive("c1", 1000, TODAY - 25 * DAY)
        world.churn("c1", range(60), TODAY - DAY)
        world.reach(TODAY)
        cut_off(worker().decide, "store")
        (opened,) = worker().decide(client)
        assert worker().decide(client) == []
        cut_off(worker().publish, "_write")
        worker().publish(client)
        hook.todo = ["500", "hang", "redirect", "drop", '{"errcode":130101}' if form != "json" else "429"]
        for _ in range(5):
            worker().notify(client)
            assert deliveries(settings)[opened.id, "open"][0] == "retrying"
            worker().notify(client)
            now[0] += 200
        assert len(hook.requests) == 5
        assert hook.taken == []
        cut_off(worker().notify, "_write")
        # It is resolved before anybody noted that its opening was told.
        world.reach(TODAY + DAY)
        (over,) = worker().decide(client)
        cut_off(worker().publish, "_write")
        now[0] += 200
        cut_off(worker().notify, "_write")
        worker().look()
        worker().look()
        worker().look()
        assert deliveries(settings) == {(over.id, "open"): ("delivered", 6), (over.id, "resolved"): ("delivered", 1)}
        assert deliveries(settings, "kafka") == {
            (over.id, "open"): ("delivered", 1),
            (over.id, "resolved"): ("delivered", 1),
        }
    if form == "json":
        # Sent more than once, each time in the same words.
        assert {where: len(bodies) for where, bodies in hook.messages().items()} == {
            (over.id, "open"): 1,
            (over.id, "resolved"): 1,
        }
    bodies = [each.body for each in hook.taken]
    assert bodies == [body(form, over.message("open"))] * 3 + [body(form, over.message("resolved"))]
    messages = sent(settings)
    assert messages == [opened.message("open")] * 2 + [over.message("resolved")] * 2


@pytest.mark.stack
def test_it_is_given_up_visibly_and_of_what_was_not_opened_nothing_is_resolved(
    settings: Settings, hook: Hook, client: Client
) -> None:
    world, now = Moves(settings, client), [NOON]
    metrics = Metrics()
    alerter = Alerter(settings, metrics, hooks=[webhook(hook)], clock=lambda: now[0])
    world.arrive("c1", 1000, TODAY - 25 * DAY)
    world.churn("c1", range(100), TODAY - 20 * DAY)
    world.churn("c1", range(100, 150), TODAY - 2 * DAY)
    world.reach(TODAY - DAY)
    now[0] = end_of(TODAY - 2 * DAY, ZONE) / 1000 + 60
    alerter.decide(client)
    hook.todo = ["500"] * 100
    for _ in range(12):
        alerter.notify(client)
        now[0] += 3 * 3600
    tried = deliveries(settings)
    outcomes = {where: outcome for where, (outcome, _) in tried.items()}
    late = f"churn_high:douyin:c1:{TODAY - 2 * DAY}"
    assert all(outcome == "gave_up" for (alert, _), outcome in outcomes.items() if str(TODAY - 2 * DAY) in alert)
    assert outcomes[late, "open"] == "gave_up"
    # An old one, as of a history that is loaded, is never tried.
    assert not any(str(TODAY - 20 * DAY) in alert for alert, _ in outcomes)
    assert 3 <= tried[late, "open"][1] <= 9
    world.reach(TODAY)
    alerter.decide(client)
    before = len(hook.requests)
    alerter.notify(client)
    assert deliveries(settings)[late, "resolved"] == ("gave_up", 0)
    assert len(hook.requests) == before
    said = [s for s in metrics.samples() if s.name == "alert_deliveries_total" and s.labels["outcome"] == "gave_up"]
    assert said[0].value >= 2
    assert [s.value for s in metrics.samples() if s.name == "alerts_waiting"] == [0]


@pytest.mark.stack
def test_nothing_is_resolved_before_it_was_opened(settings: Settings, hook: Hook, client: Client) -> None:
    world, now = Moves(settings, client), [NOON]
    alerter = Alerter(settings, Metrics(), hooks=[webhook(hook)], clock=lambda: now[0])
    world.arrive("c1", 1000, TODAY - 25 * DAY)
    world.churn("c1", range(60), TODAY - DAY)
    world.reach(TODAY)
    (opened,) = alerter.decide(client)
    hook.todo = ["500"]
    alerter.notify(client)
    world.reach(TODAY + DAY)
    alerter.decide(client)
    alerter.notify(client)
    assert deliveries(settings) == {(opened.id, "open"): ("retrying", 1)}
    assert len(hook.requests) == 1
    now[0] += 10
    alerter.notify(client)
    assert [each.message["state"] for each in hook.taken] == ["open", "resolved"]


@pytest.mark.stack
def test_one_bad_message_holds_no_other_up_and_a_robot_is_not_flooded(
    settings: Settings, hook: Hook, client: Client
) -> None:
    world, now = Moves(settings, client), [NOON]
    for number in range(25):
        world.arrive(f"c{number:02}", 200, TODAY - 25 * DAY)
        world.churn(f"c{number:02}", range(50), TODAY - DAY)
    world.reach(TODAY)
    alerter = Alerter(settings, Metrics(), hooks=[webhook(hook, "wecom")], clock=lambda: now[0])
    made = [each for each in alerter.decide(client) if each.state == "open"]
    assert len(made) == 25
    hook.todo = ['{"errcode":40008}']
    alerter.notify(client)
    assert len(hook.requests) == 1
    alerter.notify(client)
    assert len(hook.requests) == alerting.A_MINUTE
    assert Counter(outcome for outcome, _ in deliveries(settings).values()) == {"delivered": 17, "retrying": 1}
    now[0] += 10
    again = Alerter(settings, Metrics(), hooks=[webhook(hook, "wecom")], clock=lambda: now[0])
    again.notify(client)
    assert Counter(outcome for outcome, _ in deliveries(settings).values()) == {"delivered": 25}
    assert len(hook.taken) == 25


@pytest.mark.stack
def test_without_kafka_or_clickhouse_it_waits_and_webhooks_are_told_all_the_same(
    settings: Settings, hook: Hook, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = Moves(settings, client)
    world.arrive("c1", 1000, TODAY - 25 * DAY)
    world.churn("c1", range(60), TODAY - DAY)
    world.reach(TODAY)

    def away(*args: Any, **named: Any) -> Any:
        raise KafkaTimeoutError("away")

    alerter = Alerter(settings, Metrics(), hooks=[webhook(hook)], clock=lambda: NOON)
    with monkeypatch.context() as patch:
        patch.setattr(alerting, "clickhouse_client", lambda *args, **named: (_ for _ in ()).throw(OSError("away")))
        alerter.look()
        alerter.look()
        assert caplog.text.count("alerts wait (ClickHouse): away") == 1
    monkeypatch.setattr(alerting, "kafka_producer", away)
    alerter.look()
    alerter.look()
    assert caplog.text.count("alerts wait (publish)") == 1
    assert [each.message["state"] for each in hook.taken] == ["open"]
    assert deliveries(settings, "kafka") == {}


@pytest.mark.stack
@pytest.mark.slow
def test_a_worker_tells_of_lost_followers_and_of_a_dear_campaign(
    settings: Settings, hook: Hook, tmp_path: Path
) -> None:
    """From events to the webhook, by a real worker."""
    own = settings.model_copy(update={"time_zone": even_zone(datetime.now(UTC))})
    prepare(own)
    now = now_ms()

    def event(kind: str, fan: int, at: int) -> dict[str, Any]:
        made = {"event_id": f"{kind}{fan}-{at}", "event_time": at, "platform": "douyin", "fan_id": f"fan{fan}"}
        return {**made, "creator_id": "dy_1", "kind": kind, **({"content_id": "v"} if kind == "like" else {})}

    days = [now - number * 86_400_000 for number in range(5, 0, -1)]
    send(own, "interactions", (event("like", fan, at + fan) for at in days for fan in range(200)))
    send(own, "interactions", (event("unfollow", fan, now - 10_000 + fan) for fan in range(60)))
    placed = {"campaign_id": "cmp_1", "ad_group_id": "g", "creative_id": "v", "audience": "all", "channel": "feed"}
    shown = [event("impression", fan, now - 10_000) | placed | {"cost_micros": 80_000} for fan in range(1200)]
    send(own, "ad_events", shown)
    environment = {
        "time_zone": own.time_zone,
        "idle_after": 1,
        "alert_interval": 0.3,
        "alert_policy": '{"history_days": 3, "least_history_days": 2}',
        "webhook_urls": hook.url,
    }
    with WorkerProcess(settings, tmp_path / "log", **environment) as worker:
        until(lambda: len(hook.taken) == 2 or worker.process.poll() is not None, "two alerts", deadline=1.5 * DEADLINE)
        assert len(hook.taken) == 2, worker.output()
        assert worker.stop() == 0
        assert "0123456789abcdef" not in (tmp_path / "log").read_text()
    campaign, message = sorted((each.message for each in hook.taken), key=lambda each: str(each["kind"]))
    day = datetime.fromtimestamp(now / 1000, ZoneInfo(own.time_zone)).date()
    assert (message["id"], message["state"]) == (f"follower_loss:douyin:dy_1:{day}", "open")
    assert message["figures"]["unfollowed"] == 60
    assert (campaign["kind"], campaign["subject"], campaign["state"]) == ("cpm_high", "cmp_1", "open")
    assert campaign["figures"]["cpm_micros"] == 80_000_000
    assert {each["id"] for each in sent(settings)} == {message["id"], campaign["id"]}
