"""The preview's pages in a real Chromium: every panel shows its figures or says why not, and everything can be used."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from chromium import Browser, browser, chromium_path
from clickhouse_connect.driver.client import Client
from gallery import gallery

from dashboards.preview.server import JSON_FOLDER, serve
from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack
from pipeline.fan_sums import SUMS, sum_features
from pipeline.migrate import migrate

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium here: apt-get install chromium"),
]

_DATABASE = "fanpulse_preview"
_DRAWN = """(() => {
    const panels = [...document.querySelectorAll(".panel")];
    const quiet = (panel) => panel.dataset.state !== "waiting" && !panel.classList.contains("asking");
    return panels.length > 0 && panels.every(quiet);
})()"""
_STATES = """[...document.querySelectorAll(".panel")].map((panel) => [
    panel.querySelector("h2").textContent, panel.dataset.state, panel.querySelector(".body").textContent])"""


class Shown(NamedTuple):
    """A browser, and the address of the preview that it looks at."""

    browser: Browser
    address: str

    def board(self, uid: str, query: str = "", height: int = 2600) -> dict[str, tuple[str, str]]:
        """Opens a board and waits for all of its panels; state and text of each by title."""
        self.browser.problems.clear()
        self.browser.open(f"{self.address}d/{uid}?{query}", 1600, height)
        return self.panels(f"[...document.querySelectorAll('#boards button')].length && {_DRAWN}")

    def panels(self, when: str = _DRAWN) -> dict[str, tuple[str, str]]:
        self.browser.until(when, "panels")
        return {title: (state, text) for title, state, text in self.browser.evaluate(_STATES)}

    def panel(self, number: int, script: str) -> Any:
        """An expression of a panel, which it calls ``panel``."""
        return self.browser.evaluate(f"((panel) => {script})(document.querySelector('[data-panel=\"{number}\"]'))")

    def asked(self) -> dict[str, list[str]]:
        """What the address asks for."""
        return parse_qs(urlsplit(self.browser.evaluate("location.href")).query)


@pytest.fixture(scope="module")
def shown(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """All boards and the gallery, with something in every table."""
    settings = Settings(home=stack.home.path, database=_DATABASE)
    folder = tmp_path_factory.mktemp("boards")
    shutil.copytree(JSON_FOLDER, folder, dirs_exist_ok=True)
    (folder / "gallery.json").write_text(json.dumps(gallery()))
    with ExitStack() as running:
        running.callback(_drop, settings)
        migrate(settings)
        with closing(clickhouse_client(settings)) as client:
            _fill(client)
        address = running.enter_context(serve(settings, 0, folder))
        profile = running.enter_context(browser(tmp_path_factory.mktemp("profile")))
        yield Shown(profile, address)


def _fill(client: Client) -> None:
    """Rows in every table but the raw ones: columns of one name agree, so boards have something to draw."""
    tables = client.query(
        "SELECT table, groupArray((name, type)) FROM system.columns WHERE database = currentDatabase() AND table IN "
        "(SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree') "
        "AND table NOT LIKE 'raw%' AND default_kind = '' AND type NOT LIKE '%AggregateFunction%' GROUP BY table"
    ).result_rows
    for table, columns in tables:
        if table not in ("migrations", "fan_snapshots", *SUMS) and not table.startswith("fan_move_"):
            values = ", ".join(_VALUES.get(name) or _value(kind) for name, kind in columns)
            names = ", ".join(f"`{name}`" for name, _ in columns)
            client.command(f"INSERT INTO {table} ({names}) SELECT {values} FROM (SELECT arrayJoin(range(1500)) AS n)")
    sum_features(client, datetime.now(UTC).date(), datetime.now(UTC))


def _value(kind: str) -> str:
    if words := re.findall(r"'(\w*)' = ", kind):
        return f"{words}[n % {len(words)} + 1]"
    plain = kind.replace("Nullable(", "").replace("LowCardinality(", "")
    for begin, value in (
        ("DateTime64", "now64(3) - INTERVAL n MINUTE"),
        ("DateTime", "toStartOfMinute(now()) - INTERVAL n MINUTE"),
        ("Date", "today() - n % 20"),
        ("String", "concat('x', toString(n % 3))"),
        ("Float", "n % 50 / 50"),
        ("Array", "[]"),
        ("Map", "map()"),
        ("Bool", "n % 2"),
    ):
        if plain.startswith(begin):
            return value
    return "n % 50"


_STAGES = "['new', 'active', 'retained', 'silent', 'churned']"
_VALUES = {
    "platform": "['douyin', 'kuaishou'][n % 2 + 1]",
    "creator_id": "concat('creator', toString(n % 4))",
    "campaign_id": "concat('campaign', toString(n % 4))",
    "partition": "n % 4",
    "origin": "'stream'",
    "fold_version": "1",
    "fan": "n % 200",
    "stage": f"{_STAGES}[n % 5 + 1]",
    "from_stage": f"{_STAGES}[n % 5 + 1]",
    "to_stage": f"{_STAGES}[(n + 1) % 5 + 1]",
    "withdrawn": "0",
    "state": "['open', 'resolved'][n % 2 + 1]",
    "time_zone": "'Asia/Shanghai'",
    "name": "['records_total', 'events_total', 'lag', 'newest_event_seconds', 'delay_seconds', 'flush_seconds_max', "
    "'flush_seconds_count', 'rows_total', 'partitions'][intHash32(n) % 9 + 1]",
    "value": "if(intHash32(n) % 9 = 3, toUnixTimestamp(now()) - 5, n % 50)",
    "increase": "n % 50",
    "topic": "['interactions', 'gifts', 'orders', 'ad_events'][n % 4 + 1]",
}
"""Of columns by name, from the number ``n`` of the row."""


def _drop(settings: Settings) -> None:
    with closing(clickhouse_client(settings, database="system")) as client:
        client.command(f"DROP DATABASE IF EXISTS {settings.database} SYNC")


def test_every_panel_of_every_board_shows_its_figures_or_says_why_not(shown: Shown) -> None:
    boards = [json.loads(file.read_text()) for file in sorted(JSON_FOLDER.glob("*.json"))]
    assert len(boards) >= 7
    for board in boards:
        panels = shown.board(board["uid"])
        faults = {title: each for title, each in panels.items() if each[0] not in ("data", "empty")}
        assert faults == {}, board["uid"]
        assert all(text for state, text in panels.values() if state == "empty")
        drawn = sum(state == "data" for state, _ in panels.values())
        assert drawn > len(panels) * 0.6, (board["uid"], panels)
        assert shown.browser.problems == []
        assert shown.browser.evaluate("document.getElementById('notice').hidden")


def test_every_kind_of_panel_is_drawn_as_its_board_says(shown: Shown) -> None:
    panels = shown.board("gallery")
    states = {title: state for title, (state, _) in panels.items()}
    assert {title for title, state in states.items() if state != "data"} == {"Empty", "Broken", "Only Grafana's"}
    assert panels["Empty"] == ("empty", "none today")
    assert panels["Broken"][0] == "error"
    assert "nowhere" in panels["Broken"][1]
    assert panels["Only Grafana's"] == ("unsupported", "Only Grafana draws panels of type geomap.")
    assert len(shown.browser.problems) == 1, "only the broken panel"

    assert "vs yesterday25%" in panels["Figure"][1]
    assert panels["Chosen"][1] == "1 hour"
    assert panels["Gauge"][1] == "72%"
    assert panels["Bar gauge"][1] == "first100%second60%third40%"
    assert panels["Pie"][1] == "first550%second330%third220%"
    assert panels["Words"][1] == "Hello\none there\ntwo\n<b>no tag</b>".replace("\n", "")
    assert shown.panel(7, "[...panel.querySelectorAll('tbody td')].slice(0, 4).map((cell) => cell.textContent)") == [
        "</b> & c1",
        "1.23 Mil",
        "12.3%",
        "up",
    ]
    colors = (
        "[...panel.querySelectorAll('tbody tr')].map((row) => row.cells[2].style.background + row.cells[3].style.color)"
    )
    assert shown.panel(7, colors) == ["rgb(242, 73, 92)rgb(115, 191, 105)", "rgb(242, 73, 92)"]
    for number in (2, 3, 4, 6, 8, 9):
        assert shown.panel(number, "panel.querySelector('canvas').width") > 100
    assert shown.panel(2, "[...panel.querySelectorAll('.legend span')].map((name) => name.textContent)") == [
        "douyin",
        "kuaishou",
    ]


def test_variables_links_and_rows_lead_where_they_say(shown: Shown) -> None:
    shown.board("gallery", "refresh=")
    click = shown.browser.evaluate
    click("document.querySelector('[data-variable=platform] button').click()")
    click("[...document.querySelectorAll('.menu button')].find(({textContent}) => textContent === 'douyin').click()")
    title = "document.querySelector('[data-panel=\"2\"] h2').textContent"
    shown.browser.until(f"{title} === 'Lines of douyin'", "the choice")
    shown.panels()
    assert shown.asked()["var-platform"] == ["douyin"]
    assert shown.panel(2, "[...panel.querySelectorAll('.legend span')].map((name) => name.textContent)") == ["douyin"]

    click("document.querySelector('.row.folded').click()")
    assert shown.panels()["Unfolded"][0] == "data"

    shown.panel(7, "panel.querySelector('tbody a').click()")
    shown.browser.until("location.search.includes('var-creator')", "the link")
    shown.panels()
    asked = shown.asked()
    assert (asked["var-creator"], asked["var-platform"], asked["from"]) == (["</b> & c1"], ["douyin"], ["now-30m"])
    # What no variable may hold is not asked for.
    assert click("document.querySelector('[data-variable=creator] > button').textContent") == "All"


def test_a_range_is_drawn_a_query_inspected_and_the_theme_turned(shown: Shown) -> None:
    shown.board("gallery", height=1000)
    box = shown.panel(
        2, "(({x, y, width, height}) => ({x, y, width, height}))(panel.querySelector('canvas').getBoundingClientRect())"
    )
    for kind, part in (("mousePressed", 0.4), ("mouseMoved", 0.5), ("mouseMoved", 0.6), ("mouseReleased", 0.6)):
        shown.browser.mouse(kind, box["x"] + box["width"] * part, box["y"] + box["height"] * 0.5)
    shown.browser.until("/from=\\d+/.test(location.search)", "the range")
    shown.panels()
    begin, end = (int(shown.asked()[name][0]) for name in ("from", "to"))
    assert 3 * 60_000 < end - begin < 12 * 60_000
    shown.browser.mouse("mouseMoved", box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    shown.browser.until("document.querySelectorAll('.tip div').length === 2", "the tooltip")
    shown.browser.until(
        "document.querySelectorAll('.cursor:not([hidden])').length === 1", "the other panel's crosshair"
    )

    shown.panel(1, "panel.querySelector('header button').click()")
    assert "$__toTime" in shown.browser.evaluate("document.querySelector('dialog[open] pre').textContent")
    shown.browser.evaluate("document.querySelector('dialog').close()")
    shown.browser.evaluate("[...document.querySelectorAll('#controls button')].at(-1).click()")
    assert shown.browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 245)"
    shown.browser.evaluate("[...document.querySelectorAll('#controls button')].at(-1).click()")


_RUNG = {
    "kind": "rule",
    "state": "alerting",
    "severity": "critical",
    "title": "Nothing arrives",
    "labels": {},
    "since_ms": 1_772_582_400_000,
    "said": "The newest event stored is <b>old</b>.",
    "advice": [],
    "panel": "Unfolded",
    "link": "/d/gallery?var-platform=douyin#panel-99",
    "page": "freshness.md",
}
_ALERT = _RUNG | {
    "kind": "alert",
    "state": "open",
    "severity": "warning",
    "title": "CPM is high",
    "labels": {"campaign": "c1"},
    "advice": ["Lower the bid."],
    "page": "nowhere.md",
}
_QUIET = {
    "looked_ms": 1,
    "alerts_ms": 1,
    "every_s": 60,
    "faster": 1,
    "zone": "Asia/Shanghai",
    "rules": [],
    "alerts": [],
    "pages": ["freshness.md"],
}


@contextmanager
def _ringing(shown: Shown, seen: dict[str, Any]) -> Iterator[None]:
    """Pages that are opened meanwhile hear this in the place of what rings; just looked at."""
    source = (
        f"const asked = window.fetch, seen = {json.dumps(seen)}; window.fetch = (path, ...more) => "
        "path === '/api/ringing' ? Promise.resolve(Response.json({...seen, looked_ms: Date.now()})) "
        ": asked(path, ...more)"
    )
    number = shown.browser.call("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        yield
    finally:
        shown.browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=number)


def _bell(shown: Shown, path: str) -> tuple[str, str]:
    """What the bell of a page shows, and how it is coloured."""
    shown.browser.open(f"{shown.address}{path}", 1600, 1000)
    shown.browser.until(
        f"location.href.endsWith({json.dumps(path)}) && /\\d/.test(document.querySelector('#bell b')?.textContent)",
        "the bell",
    )
    bell = shown.browser.evaluate(
        "(({textContent, dataset}) => [textContent, dataset.rings])(document.getElementById('bell'))"
    )
    return bell[0], bell[1]


def test_a_bell_on_every_page_says_how_much_rings(shown: Shown) -> None:
    # As the server sees it, whatever that is on this database.
    assert re.match(r"\d+", _bell(shown, "d/fanpulse-overview")[0])
    with _ringing(shown, _QUIET):
        for path in ("", "d/gallery?kiosk", "runbooks/lag"):
            assert _bell(shown, path) == ("0", "none")
    pending = _RUNG | {"state": "pending"}
    with _ringing(shown, _QUIET | {"rules": [pending], "alerts": [_ALERT]}):
        assert _bell(shown, "d/gallery?kiosk") == ("1CPM is high", "warning")
    with _ringing(shown, _QUIET | {"rules": [_RUNG, pending], "alerts": [_ALERT]}):
        assert _bell(shown, "d/gallery?kiosk&theme=light") == ("2Nothing arrives", "critical")
        assert shown.browser.evaluate("document.getElementById('bell').getBoundingClientRect().width") > 100


def test_the_list_of_what_rings_leads_to_panels_and_to_pages_of_what_to_do(shown: Shown) -> None:
    others = [_RUNG | {"title": title, "state": "error", "said": "Away."} for title in ("First", "Second", "Third")]
    with _ringing(shown, _QUIET | {"rules": [_RUNG, *others], "alerts": [_ALERT], "faster": 20}):
        assert _bell(shown, "d/gallery")[0] == "5Nothing arrives"
        click = shown.browser.evaluate
        click("document.getElementById('bell').click()")
        texts = click("[...document.querySelectorAll('dialog[open] article')].map(({textContent}) => textContent)")
        assert len(texts) == 3
        # 2026-03-04 08:00 in Shanghai.
        assert texts[0].startswith("Nothing arrivesringing since 2026-03-04 08:00:00, ")
        assert "The newest event stored is <b>old</b>." in texts[0]
        assert "Nor can Second, Third." in texts[1]
        assert "campaign c1" in texts[2]
        assert "Lower the bid." in texts[2]
        # There is no such page here: its name must do.
        assert texts[2].endswith("What to do: docs/runbooks/nowhere.md")
        said = click("document.querySelector('dialog[open]').textContent")
        assert "ages and waiting times are a 20th of theirs" in said
        assert "Open alerts of the stream as of 1970-01-01 08:00:00" in said

        click("document.querySelector('dialog[open] article a').click()")
        pointed = "document.querySelector('.panel.pointed[data-panel=\"99\"]')?.dataset.state === 'data'"
        shown.browser.until(pointed, "the panel, which was folded")
        assert shown.asked()["var-platform"] == ["douyin"]

        click("document.getElementById('bell').click()")
        click("document.querySelectorAll('dialog[open] article a')[1].click()")
        shown.browser.until("document.querySelector('.runbook h1')?.textContent === 'Nothing arrives'", "the page")
        assert click("location.pathname") == "/runbooks/freshness"
        links = click("[...document.querySelectorAll('.runbook a')].map((link) => link.getAttribute('href'))")
        assert "/runbooks/lag" in links
        assert all(re.fullmatch(r"/runbooks/[a-z-]+", link) for link in links)
        assert "[" not in click("document.querySelector('.runbook').textContent")
        click("document.querySelector('#bell').click()")
        assert click("document.querySelectorAll('dialog[open] article').length") == 3


def test_a_wall_has_no_controls_and_goes_from_board_to_board(shown: Shown) -> None:
    shown.browser.open(f"{shown.address}d/gallery?kiosk&cycle=1s", 1600, 400)
    shown.browser.until("location.pathname === '/d/fanpulse-overview'", "the next board")
    shown.browser.until("document.querySelectorAll('.panel').length", "its panels")
    assert {"kiosk", "cycle"} <= set(shown.browser.evaluate("[...new URLSearchParams(location.search).keys()]"))
    assert shown.browser.evaluate("getComputedStyle(document.getElementById('variables')).display") == "none"


def test_values_are_written_as_grafana_writes_them(shown: Shown) -> None:
    shown.browser.open(shown.address)
    shown.browser.until("document.querySelectorAll('.cards a').length > 6", "the list of boards")
    expected = {
        (0.0024, "ms", 4): "0.0024 ms",
        (1250, "ms", 2): "1.25 s",
        (1200, "ms", 0): "1 s",
        (10000086.123, "ms", 1): "2.8 hour",
        (0.25, "s", None): "250 ms",
        (90, "s", None): "1.5 min",
        (7200, "s", None): "2 hour",
        (1532.82, "currencyUSD", 2): "$1.53K",
        (-1532.82, "currency:¥", 2): "-¥1.53K",
        (25, "currencyCNY", 2): "¥25.00",
        (1234567, "short", None): "1.23 Mil",
        (98765, "short", 0): "99 K",
        (999, "short", None): "999",
        (1000, "short", None): "1 K",
        (0, "short", None): "0",
        (0.1234, "percentunit", 1): "12.3%",
        (0.5, "percentunit", None): "50%",
        (12.5, "percent", 0): "13%",
        (1536, "bytes", None): "1.5 KiB",
        (1500, "decbytes", None): "1.5 kB",
        (12.3456, "none", None): "12.3",
        (100, "none", 1): "100.0",
        (5, "cps", None): "5 c/s",
        (1500, "reqps", 1): "1.5K req/s",
        (3, "suffix:fans", None): "3 fans",
        (3, "fans", None): "3 fans",
        (1, "bool:yes/no", None): "yes",
        (3661, "dthms", None): "01:01:01",
        (1234567.891, "locale", None): "1,234,567.891",
    }
    asked = json.dumps([list(key) for key in expected])
    script = f"import('/units.js').then(({{inUnit}}) => {asked}.map((each) => inUnit(...each).join('')))"
    assert shown.browser.evaluate(script) == list(expected.values())


def test_ranges_are_those_of_the_boards_time_zone(shown: Shown) -> None:
    shown.browser.open(shown.address)
    shown.browser.until("document.querySelectorAll('.cards a').length > 6", "the list of boards")
    now = "Date.parse('2026-03-04T01:30:00Z')"
    expected = {
        ("now-6h", "Asia/Shanghai", False): "2026-03-03T19:30:00.000Z",
        ("now/d", "Asia/Shanghai", False): "2026-03-03T16:00:00.000Z",
        ("now/d", "UTC", False): "2026-03-04T00:00:00.000Z",
        ("now-1d/d", "Asia/Shanghai", True): "2026-03-03T15:59:59.999Z",
        ("now/w", "Asia/Shanghai", False): "2026-03-01T16:00:00.000Z",
        ("now/M", "Asia/Shanghai", False): "2026-02-28T16:00:00.000Z",
        ("now-1M", "UTC", False): "2026-02-04T01:30:00.000Z",
        ("2026-03-04 08:00", "Asia/Shanghai", False): "2026-03-04T00:00:00.000Z",
        ("1772586000000", "Asia/Shanghai", False): "2026-03-04T01:00:00.000Z",
        # An hour is left out in Berlin on that night.
        ("2026-03-29 12:00", "Europe/Berlin", False): "2026-03-29T10:00:00.000Z",
    }
    asked = json.dumps([list(key) for key in expected])
    script = (
        f"import('/time.js').then(({{moment}}) => {asked}.map(([text, zone, end]) => "
        f"new Date(moment(text, {now}, zone, end)).toISOString()))"
    )
    assert shown.browser.evaluate(script) == list(expected.values())
    ranges = [[0, 3e6, 200, 1], [0, 108e5, 200, 60], [0, 864e5, 200, 60], [0, 3e9, 200, 60]]
    steps = f"import('/time.js').then(({{groupSeconds}}) => {ranges}.map((each) => groupSeconds(...each)))"
    assert shown.browser.evaluate(steps) == [15, 60, 300, 10_800]


def test_rows_become_series_and_fields_get_names_as_in_grafana(shown: Shown) -> None:
    shown.browser.open(shown.address)
    shown.browser.until("document.querySelectorAll('.cards a').length > 6", "the list of boards")
    given = {
        "time": ("DateTime('UTC')", ["2026-03-04T00:01:00Z", "2026-03-04T00:00:00Z", "2026-03-04T00:01:00Z"]),
        "one": ("LowCardinality(String)", ["a", "a", "b"]),
        "two": ("String", ["x", "x", "y"]),
        "plays": ("Nullable(Int64)", [2, 1, None]),
    }

    def fields(columns: tuple[str, ...], series: bool) -> Any:
        """Name, type, values and unit of each field of a frame of these columns."""
        meta = [{"name": name, "type": given[name][0]} for name in columns]
        data = list(zip(*(given[name][1] for name in columns), strict=True))
        answer = json.dumps({"ref": "A", "series": series, "result": {"meta": meta, "data": data}})
        override = {"matcher": {"id": "byName", "options": "plays b"}, "properties": [{"id": "unit", "value": "ms"}]}
        panel = json.dumps({"fieldConfig": {"defaults": {"unit": "short"}, "overrides": [override]}})
        return shown.browser.evaluate(
            f"import('/frames.js').then(({{frameOf, configured}}) => configured([frameOf({answer})], {panel}, "
            "{zone: 'UTC', lookup: () => undefined})[0].fields.map(({display, type, values, config}) => "
            "[display, type, values, config.unit]))"
        )

    first, last = 1_772_582_400_000, 1_772_582_460_000
    assert fields(("time", "one", "plays"), True) == [
        ["time", "time", [first, last], "short"],
        ["plays a", "number", [1, 2], "short"],
        ["plays b", "number", [None, None], "ms"],
    ]
    several = fields(("time", "one", "two", "plays"), True)
    assert [name for name, *_ in several] == ["time", 'plays {one="a", two="x"}', 'plays {one="b", two="y"}']
    assert [kind for _, kind, *_ in fields(("time", "one", "plays"), False)] == ["time", "string", "number"]


def test_figures_of_many_values_are_grafanas(shown: Shown) -> None:
    calcs = {
        "lastNotNull": 3,
        "last": None,
        "first": 4,
        "firstNotNull": 4,
        "min": 1,
        "max": 4,
        "sum": 8,
        "mean": 8 / 3,
        "count": 4,
        "range": 3,
        "diff": -1,
        "diffperc": -0.25,
    }
    script = f"import('/frames.js').then(({{reduced}}) => {list(calcs)}.map((calc) => reduced([4, 1, 3, null], calc)))"
    assert shown.browser.evaluate(script) == list(calcs.values())


def test_a_server_that_is_gone_is_said_and_old_figures_are_greyed(shown: Shown) -> None:
    shown.board("gallery")
    shown.browser.evaluate("window.fetch = () => Promise.reject(new TypeError('gone'))")
    shown.browser.evaluate("document.querySelector('[title=\"Ask anew now\"]').click()")
    shown.browser.until("!document.getElementById('notice').hidden", "the notice")
    assert "fanpulse boards preview" in shown.browser.evaluate("document.getElementById('notice').textContent")
    shown.browser.until("document.querySelectorAll('.panel.stale').length > 5", "old figures to be greyed")
    shown.browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    shown.browser.until("document.getElementById('bell').classList.contains('stale')", "the bell to be greyed")
