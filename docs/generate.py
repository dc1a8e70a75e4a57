"""Writes what pages of docs/ say of the code: settings.md, metrics.md, tables.md, and the kinds of alerts.md.

python docs/generate.py [--home HOME]

The tables are read from ClickHouse, so a migrated one must run: fanpulse up && fanpulse migrate.
"""

import sys
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le
from clickhouse_connect.driver.client import Client

from infra.connect import clickhouse_client
from infra.settings import PREFIX, Settings, load
from pipeline.metrics import METRICS
from pipeline.metrics import PREFIX as METRIC_PREFIX
from schemas.alerts import Kind, alert_policy

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; change the code it describes, then run that. -->"

KINDS = ("<!-- Kinds: written by docs/generate.py from schemas/alerts.json. -->", "<!-- End of the kinds. -->")

STAGES = ("fan_stage_now", "fan_stage_days", "fan_churn_days", "fan_moves", "fan_transitions", "fan_state")
"""What is said of the stages of fans, views first."""

Columns = dict[str, tuple[str, str]]
"""Type and comment of each column, by name."""


def settings_page() -> str:
    """docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        bounds = {type(constraint): constraint for constraint in field.metadata}
        limits = [
            f"{word} {getattr(bounds[kind], attribute):,}"
            for kind, attribute, word in ((Ge, "ge", "from"), (Gt, "gt", "above"), (Le, "le", "to"))
            if kind in bounds
        ]
        choices = _choices(field.annotation)
        rows.append(
            (
                f"`{PREFIX}{name.upper()}`",
                _default(name, field.default),
                ", ".join(f"`{choice}`" for choice in choices) or " ".join(limits),
                field.description or "",
            )
        )
    return f"""{NOTE}
# Settings

Settings are environment variables. One that does not exist or has a bad value stops every command with one line that
names it, and exit code 2. `--home` goes before `{PREFIX}HOME`.

Figures depend on `{PREFIX}PARTITIONS`, `{PREFIX}TIME_ZONE`, `{PREFIX}ALLOWED_LATENESS` and `{PREFIX}LATE_HORIZON`:
they are fixed once a database holds something, and a worker refuses to start with others. So is `{PREFIX}FAN_KEY`, or
the key in `secrets.json` of the home: keep a copy, without it no worker can go on with that database.

{_table(("variable", "default", "allowed", "meaning"), rows)}
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        (f"`{METRIC_PREFIX}{m.name}`", m.kind, m.unit, ", ".join(m.labels), m.meaning, m.todo.replace("|", "\\|"))
        for m in METRICS
    ]
    return f"""{NOTE}
# Metrics of a worker

Every worker answers `GET /metrics` in Prometheus' format, and `GET /health`, on 127.0.0.1;
[operations.md](operations.md#health) says on which port. Counters begin at zero when a worker starts.

{_table(("metric", "kind", "unit", "labels", "meaning", "what to do"), rows)}
"""


def alerts_page() -> str:
    """docs/alerts.md: what is written by hand there, with the kinds as ``schemas/alerts.json`` has them."""
    before, after = (DOCS / "alerts.md").read_text(encoding="utf-8").split(KINDS[0])
    parts = []
    for name, kind in alert_policy({}).kinds.items():
        conditions = " and ".join(f"`{condition}`" for condition in kind.fires)
        thresholds = [
            (f"`{threshold}`", f"{each.value:.15g}", f"{each.meaning}") for threshold, each in kind.thresholds.items()
        ]
        advice = [
            f"- {each.say}" + (f" (where {' and '.join(f'`{c}`' for c in each.when)})" if each.when else "")
            for each in kind.advice
        ]
        parts.append(
            f"### `{name}`: {kind.title}\n\n{kind.means}\n\n- Formula: {kind.formula}.\n- Fires where {conditions}"
            f"{_period(kind)}.\n\n"
            f"{_table(('threshold', 'default', 'bounds'), thresholds)}\n\nWhat to do:\n\n{chr(10).join(advice)}\n"
        )
    return f"{before}{KINDS[0]}\n\n{chr(10).join(parts)}\n{KINDS[1]}{after.split(KINDS[1])[1]}"


def _period(kind: Kind) -> str:
    looked_at = {"day": ", also on the running day", "hour": ", also in the running hour"}[kind.period]
    over = ". It is over with its day" if kind.passing else ""
    return (" in an hour" if kind.period == "hour" else "") + (looked_at if kind.running else "") + over


def tables_page(client: Client) -> str:
    """docs/tables.md, from a migrated database."""
    comments = dict(
        client.query(
            "SELECT name, comment FROM system.tables "
            "WHERE database = currentDatabase() AND name NOT LIKE 'scratch%' ORDER BY name"
        ).result_rows
    )
    columns: dict[str, Columns] = {name: {} for name in comments}
    for table, column, kind, comment in client.query(
        "SELECT table, name, type, comment FROM system.columns WHERE database = currentDatabase() "
        "AND table NOT LIKE 'scratch%' ORDER BY table, position"
    ).result_rows:
        columns[table][column] = (kind, comment)
    events = [name for name in comments if name.startswith("events_")]
    common = {
        name: said
        for name, said in columns[events[0]].items()
        if all(columns[each].get(name) == said for each in events)
    }
    groups: list[tuple[str, str, list[str]]] = [
        (
            "Rolling engagement",
            "Views; begin here. Each event counts once. The `_at` views have the columns of the plain ones.",
            [name for name in comments if name.startswith(("engagement_rolling", "engagement_by_content"))],
        ),
        (
            "Events that count",
            "Views of single events, without repeats. All have the columns of the first table.",
            events,
        ),
        (
            "Engagement by minute, hour and day",
            "Read them `FINAL` with `fold_version = 1`, and `sum` over partition and origin.",
            [name for name in comments if name.startswith(("engagement_content_", "engagement_creator_"))],
        ),
        (
            "Advertisements",
            "[ads.md](ads.md) explains them. Views first; read the tables `FINAL` with `fold_version = 1`, and `sum` "
            "over partition and origin.",
            sorted((name for name in comments if name.startswith("ads_")), key=lambda name: name.endswith("_minute")),
        ),
        ("Distinct viewers", "", [name for name in comments if name.startswith("viewers_")]),
        (
            "Stages of fans",
            "A fan is a fan of one creator on one platform. Begin with the views.",
            [name for name in STAGES if name in comments],
        ),
        (
            "Value, cohorts and portrait of fans",
            "[fans.md](fans.md) explains them.",
            [name for name in comments if name.startswith("fan_") and name not in STAGES],
        ),
        (
            "Everything that was accepted",
            "Repeats and late events too. Each has the columns of its `events_` view and the flags. Read them `FINAL`.",
            [name for name in comments if name.startswith("raw_")],
        ),
    ]
    groups.append(("Alerts", "", [name for name in comments if name.startswith("alert")]))
    named = {name for _, _, names in groups for name in names}
    groups.append(("The pipeline itself", "", [name for name in comments if name not in named]))
    parts = []
    for title, note, names in groups:
        parts.append(f"## {title}\n")
        if note:
            parts.append(f"{note}\n")
        if names is events:
            parts.append(_columns(common) + "\n")
        for name in names:
            own = columns[name]
            if name.startswith("events_"):
                own = {column: said for column, said in own.items() if column not in common}
            elif name.startswith("raw_"):
                view = columns[name.replace("raw_", "events_")]
                own = {column: said for column, said in own.items() if column not in view}
            parts.append(f"### `{name}`\n\n{comments[name]}\n")
            if own and not name.endswith(("_mv", "_at")):
                parts.append(_columns(own) + "\n")
    return f"""{NOTE}
# Tables and views

What the read-only analyst sees (`fanpulse sql`). Times are UTC; money is in millionths of a yuan (`*_micros`).
[sql.md](sql.md) has worked questions.

{chr(10).join(parts)}"""


def main() -> None:
    """Writes the pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    (DOCS / "alerts.md").write_text(alerts_page(), encoding="utf-8")
    here = load(Path(sys.argv[2]) if sys.argv[1:2] == ["--home"] else None)
    (DOCS / "tables.md").write_text(tables_page(clickhouse_client(here)), encoding="utf-8")


def _choices(annotation: Any) -> list[str]:
    arms = get_args(annotation)
    found = [arm for arm in arms if isinstance(arm, str)]
    return found or [choice for arm in arms for choice in _choices(arm) if get_args(arm)]


def _default(name: str, default: Any) -> str:
    if name == "home":
        return "`fanpulse` in the user's data directory"
    if default is None:
        return "unset"
    if default == "":
        return "empty"
    return f"`{default}`"


def _columns(columns: Columns) -> str:
    return _table(
        ("column", "type", "meaning"), [(f"`{name}`", f"`{kind}`", said) for name, (kind, said) in columns.items()]
    )


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main()
