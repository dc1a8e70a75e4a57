"""What a Grafana must hold for boards and alert rules to work: as values for its API, and as files it is started with.

Both say the same. Everything has an id of its own that never changes, so whatever is sent again replaces itself.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.alerts import RULES, Rule
from dashboards.boards import boards
from dashboards.render import ZONE, dashboard, panel_id
from dashboards.variables import PLUGIN

Kind = Literal["data source", "folder", "board", "contact point", "policy", "alert rule"]

FOLDER, SOURCE, CONTACT, GROUP = "fanpulse", "fanpulse-clickhouse", "fanpulse-contact", "fanpulse"

_ROUTE = {
    "receiver": CONTACT,
    "object_matchers": [["team", "=", "fanpulse"]],
    "group_by": ["alertname", "platform"],
    "group_wait": "30s",
    "group_interval": "5m",
    "repeat_interval": "4h",
}
"""Which alerts go to the contact point, and how they are put together."""


@dataclass(frozen=True)
class Item:
    """One thing in Grafana.

    Attributes:
        kind: what it is.
        uid: its id there.
        title: how people call it.
        body: what is sent; of a board the dashboard, of a policy the one route that is ours.
        secret: what is sent beside it and never read back.
    """

    kind: Kind
    uid: str
    title: str
    body: Mapping[str, Any]
    secret: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ClickHouse:
    """Where Grafana finds the figures: URL with port as it reaches it, database, and the read-only user."""

    url: str
    database: str
    user: str
    password: str


def items(clickhouse: ClickHouse, zone: str, contact: str | None, runbooks: str) -> list[Item]:
    """Everything, in the order in which it must be made.

    Args:
        clickhouse: for the data source.
        zone: time zone of local days, as in ``FANPULSE_TIME_ZONE``.
        contact: URL that alerts are posted to; None: no contact point and no policy.
        runbooks: what stands before the name of a page for alerts.
    """
    found = [
        Item("data source", SOURCE, "ClickHouse", _source(clickhouse), {"password": clickhouse.password}),
        Item("folder", FOLDER, "fanpulse", {"uid": FOLDER, "title": "fanpulse"}),
    ]
    for board in boards():
        body = json.loads(json.dumps(dashboard(board, zone), cls=JSONEncoder))
        del body["version"]
        found.append(Item("board", board.uid, board.title, body))
    if contact is not None:
        found.append(Item("contact point", CONTACT, CONTACT, _contact(contact)))
        found.append(Item("policy", CONTACT, "alerts of team fanpulse", _ROUTE))
    found += [
        Item("alert rule", rule.uid, rule.title, {**_rule(rule, zone, runbooks), "folderUID": FOLDER}) for rule in RULES
    ]
    return found


def changes(now: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Where what Grafana holds differs from what is wanted; what it holds beside that is its own business."""
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            here = f"{path}.{name}" if path else name
            if not isinstance(now, Mapping) or name not in now:
                if value not in (None, [], {}, ""):
                    yield here
            else:
                yield from changes(now[name], value, here)
    elif isinstance(wanted, list):
        if not isinstance(now, Sequence) or len(now) != len(wanted):
            yield path
        else:
            for number, (old, new) in enumerate(zip(now, wanted, strict=True)):
                name = new.get("title") or new.get("name") or new.get("refId") if isinstance(new, Mapping) else None
                yield from changes(old, new, f"{path}[{name or number}]")
    elif now != wanted:
        yield path


def files(zone: str = ZONE) -> dict[str, str]:
    """Files that Grafana is started with, by name: data source, boards and alert rules. Passwords stay variables of its
    environment, FANPULSE_CLICKHOUSE_ANALYST_PASSWORD, FANPULSE_GRAFANA_CONTACT and FANPULSE_GRAFANA_RUNBOOKS."""
    source = {
        "uid": SOURCE,
        **_source(ClickHouse("http://clickhouse:8123", "fanpulse", "analyst", "")),
        "secureJsonData": {"password": "$FANPULSE_CLICKHOUSE_ANALYST_PASSWORD"},
        "editable": False,
    }
    provider = {
        "name": "fanpulse",
        "folder": "fanpulse",
        "folderUid": FOLDER,
        "type": "file",
        "allowUiUpdates": False,
        "options": {"path": "/etc/fanpulse/boards"},
    }
    rules = [_escaped(_rule(rule, zone, "")) for rule in RULES]
    for rule in rules:
        del rule["ruleGroup"]
        rule["annotations"]["runbook_url"] = f"${{FANPULSE_GRAFANA_RUNBOOKS}}{rule['annotations']['runbook_url']}"
    contact = {"uid": CONTACT, "type": "webhook", "settings": {"url": "$FANPULSE_GRAFANA_CONTACT"}}
    alerting = {
        "apiVersion": 1,
        "groups": [{"orgId": 1, "name": GROUP, "folder": "fanpulse", "interval": "1m", "rules": rules}],
        "contactPoints": [{"orgId": 1, "name": CONTACT, "receivers": [contact]}],
        "policies": [{"orgId": 1, "receiver": CONTACT, "group_by": ["alertname"], "routes": [_ROUTE]}],
    }
    return {
        "datasources.yaml": _yaml({"apiVersion": 1, "datasources": [source]}),
        "dashboards.yaml": _yaml({"apiVersion": 1, "providers": [provider]}),
        "alerting.yaml": _yaml(alerting),
    }


def _source(clickhouse: ClickHouse) -> dict[str, Any]:
    parts = urlsplit(clickhouse.url)
    return {
        "name": "fanpulse ClickHouse",
        "type": PLUGIN,
        "uid": SOURCE,
        "access": "proxy",
        "isDefault": False,
        "jsonData": {
            # The plugin calls it host from version 4 on, and server before.
            "host": parts.hostname,
            "server": parts.hostname,
            "port": parts.port,
            "protocol": "http",
            "secure": parts.scheme == "https",
            "username": clickhouse.user,
            "defaultDatabase": clickhouse.database,
        },
    }


def _contact(url: str) -> dict[str, Any]:
    return {"uid": CONTACT, "name": CONTACT, "type": "webhook", "settings": {"url": url, "httpMethod": "POST"}}


def _rule(rule: Rule, zone: str, runbooks: str) -> dict[str, Any]:
    against = rule.against
    board = next(board for board in boards() if board.uid == rule.board)
    panel = next(panel for panel in board.panels if panel.title == rule.panel)
    assert against.for_ is not None
    return {
        "uid": rule.uid,
        "title": rule.title,
        "ruleGroup": GROUP,
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "datasourceUid": SOURCE,
                "queryType": "sql",
                "relativeTimeRange": {"from": rule.over_s + rule.delay_s, "to": rule.delay_s},
                "model": {
                    "refId": "A",
                    "datasource": {"type": PLUGIN, "uid": SOURCE},
                    "queryType": "sql",
                    "editorType": "sql",
                    "rawSql": rule.query(zone),
                    "format": 1,
                },
            },
            {
                "refId": "B",
                "datasourceUid": "__expr__",
                "relativeTimeRange": {"from": 0, "to": 0},
                "model": {
                    "refId": "B",
                    "datasource": {"type": "__expr__", "uid": "__expr__"},
                    "type": "threshold",
                    "expression": "A",
                    "conditions": [
                        {
                            "type": "query",
                            "evaluator": {
                                "type": "gt" if against.worse == "above" else "lt",
                                "params": [against.limit],
                            },
                        }
                    ],
                },
            },
        ],
        "noDataState": rule.no_data,
        "execErrState": "Error",
        "for": against.for_,
        "annotations": {
            "summary": rule.summary,
            "runbook_url": runbooks + rule.page,
            "__dashboardUid__": board.uid,
            "__panelId__": str(panel_id(panel)),
        },
        "labels": {"team": "fanpulse", "severity": rule.severity},
        "isPaused": False,
    }


def _escaped(value: Any) -> Any:
    """As a file has it: there a $ begins a variable of the environment, unless it is there twice."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {name: _escaped(each) for name, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value


def _yaml(value: Any) -> str:
    head = "# Written by fanpulse boards build; change dashboards/, then run that.\n"
    return head + yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
