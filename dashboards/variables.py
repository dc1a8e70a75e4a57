"""Variables that boards offer, as Grafana has them."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

PLUGIN = "grafana-clickhouse-datasource"
"""Id of the ClickHouse plugin of Grafana."""

SOURCE = model.DataSourceRef(type_val=PLUGIN, uid="${datasource}")
"""The data source that is chosen on the board."""


@dataclass(frozen=True)
class Choice:
    """A variable that people choose.

    Attributes:
        label: its name on the board.
        description: what it chooses.
        sql: query of what there is; None: ``options``.
        options: what there is, value by text.
        many: more than one may be chosen, and everything is at first.
        default: what is chosen at first, where not many may be.
    """

    label: str
    description: str
    sql: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    many: bool = True
    default: str = ""


CHOICES: dict[str, Choice] = {
    "platform": Choice(
        "Platform", "Douyin, Kuaishou, or both", options=(("douyin", "douyin"), ("kuaishou", "kuaishou"))
    ),
    "creator": Choice(
        "Creator",
        "Creators with plays in the last 60 days",
        "SELECT creator_id FROM engagement_content_day WHERE day >= today() - 60 "
        "GROUP BY creator_id ORDER BY sum(plays) DESC LIMIT 1000",
    ),
    "campaign": Choice(
        "Campaign",
        "Campaigns with events in the last 60 days",
        "SELECT campaign_id FROM ads_minute WHERE minute >= now() - INTERVAL 60 DAY "
        "GROUP BY campaign_id ORDER BY max(minute) DESC LIMIT 1000",
    ),
    "window": Choice(
        "Window",
        "Over how long key figures are taken, up to each moment",
        options=(("1m", "1"), ("5m", "5"), ("1h", "60"), ("24h", "1440")),
        many=False,
        default="60",
    ),
}
"""Every variable by name; what a value may be is what its query or its options give."""


def variable(name: str) -> build.QueryVariable | build.CustomVariable:
    """The builder of one of ``CHOICES``."""
    choice = CHOICES[name]
    if choice.sql is not None:
        return (
            build.QueryVariable(name)
            .label(choice.label)
            .description(choice.description)
            .datasource(SOURCE)
            .query(choice.sql)
            .refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
            .sort(model.VariableSort.DISABLED)
            .multi(True)
            .include_all(True)
            .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    custom = (
        build.CustomVariable(name)
        .label(choice.label)
        .description(choice.description)
        .values(",".join(text if text == value else f"{text} : {value}" for text, value in choice.options))
    )
    options = [
        model.VariableOption(selected=not choice.many and value == choice.default, text=text, value=value)
        for text, value in choice.options
    ]
    if choice.many:
        everything = model.VariableOption(selected=True, text="All", value="$__all")
        chosen = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        return custom.multi(True).include_all(True).current(chosen).options([everything, *options])
    chosen = next(option for option in options if option.selected)
    return custom.current(chosen).options(options)


def source() -> build.DatasourceVariable:
    """The variable that chooses the data source."""
    return (
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("A ClickHouse with the tables of fanpulse, read as the analyst")
        .type(PLUGIN)
    )


def constant(name: str, value: str) -> build.ConstantVariable:
    """A hidden variable that is always the same."""
    return build.ConstantVariable(name).value(value)
