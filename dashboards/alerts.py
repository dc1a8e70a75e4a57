"""Alert rules of Grafana: what rings without a worker, too, such as that there is none."""

from dataclasses import dataclass
from typing import Literal

from dashboards.thresholds import Threshold, thresholds


@dataclass(frozen=True)
class Rule:
    """One alert rule: a query whose numbers are held against a threshold, a line of them each an alert of its own.

    Attributes:
        uid: of the rule in Grafana, and the name of its page in docs/runbooks; never changed.
        title: what it is called.
        sql: query with columns of text, which become labels, and one number.
        threshold: name in ``thresholds.json``.
        severity: critical is for what cannot wait.
        over_s: length of the time range of the query, seconds; it ends ``delay_s`` ago.
        summary: what is said, a Go template of Grafana.
        board: uid of the board that shows it.
        panel: title of the panel there.
        no_data: what it means if there is nothing: silence is OK or itself the alarm.
        delay_s: newest seconds that are left out, for what is still on its way.
    """

    uid: str
    title: str
    sql: str
    threshold: str
    severity: Literal["warning", "critical"]
    over_s: int
    summary: str
    board: str
    panel: str
    no_data: Literal["OK", "Alerting"] = "OK"
    delay_s: int = 0

    @property
    def may_be_empty(self) -> bool:
        """Whether an answer without rows is nothing unusual."""
        return self.no_data == "OK"

    @property
    def against(self) -> Threshold:
        """The threshold it is held against."""
        return thresholds()[self.threshold]

    @property
    def page(self) -> str:
        """Name of its page in docs/runbooks."""
        return f"{self.uid.removeprefix('fanpulse-')}.md"

    def query(self, zone: str) -> str:
        """Its query for a time zone: alert rules of Grafana have no variables, only macros."""
        return self.sql.replace("${zone:singlequote}", f"'{zone}'")


_T = thresholds()
_HOUR = 3600


def _of_campaigns(value: str, least: str) -> str:
    return f"""\
SELECT platform, campaign_id AS campaign, {value} AS value
FROM ads_minute FINAL
WHERE fold_version = 1 AND $__timeFilter(minute)
GROUP BY platform, campaign
HAVING {least}"""


RULES: tuple[Rule, ...] = (
    Rule(
        "fanpulse-freshness",
        "Nothing arrives",
        """\
SELECT min(freshness_seconds) AS value
FROM pipeline_partitions
WHERE last_seen >= $__fromTime - INTERVAL 1 DAY
HAVING count() > 0""",
        "freshness",
        "critical",
        600,
        "The newest event stored is {{ humanizeDuration $values.A.Value }} old.",
        "fanpulse-pipeline",
        "Freshness by topic",
        no_data="Alerting",
    ),
    Rule(
        "fanpulse-lag",
        "Figures are behind",
        """\
SELECT topic, sum(lag) AS value
FROM pipeline_partitions
WHERE last_seen >= $__fromTime - INTERVAL 1 DAY
GROUP BY topic""",
        "lag",
        "warning",
        600,
        "{{ humanize $values.A.Value }} records of {{ $labels.topic }} are in Kafka and not yet in all tables.",
        "fanpulse-pipeline",
        "Lag by topic",
        no_data="Alerting",
    ),
    Rule(
        "fanpulse-dead-letters",
        "Records are refused",
        """\
SELECT topic, sum(records) AS value
FROM pipeline_dead_letters
WHERE $__timeFilter(minute)
GROUP BY topic""",
        "dead_letters",
        "warning",
        900,
        "{{ humanize $values.A.Value }} records of {{ $labels.topic }} were refused in 15 minutes.",
        "fanpulse-pipeline",
        "Dead letters by reason",
    ),
    Rule(
        "fanpulse-churn-high",
        "Churn is high",
        f"""\
SELECT platform, creator_id AS creator, churn_rate AS value
FROM fan_churn_days
WHERE fans_at_start >= {_T["churn_rate"].least} AND day = toDate($__toTime, ${{zone:singlequote}}) - 1""",
        "churn_rate",
        "warning",
        86_400,
        "{{ humanizePercentage $values.A.Value }} of the fans of {{ $labels.creator }} churned yesterday.",
        "fanpulse-lifecycle",
        "Churn and return a day",
    ),
    Rule(
        "fanpulse-cpm-high",
        "CPM is high",
        _of_campaigns(
            "1000 * sum(cost_micros) / sum(impressions) / 1e6", f"sum(impressions) >= {_T['cpm_high'].least}"
        ),
        "cpm_high",
        "warning",
        _HOUR,
        'The CPM of {{ $labels.campaign }} was {{ printf "%.2f" $values.A.Value }} yuan over an hour.',
        "fanpulse-ads",
        "CPM over time",
        delay_s=60,
    ),
    Rule(
        "fanpulse-cpm-low",
        "CPM is low",
        _of_campaigns("1000 * sum(cost_micros) / sum(impressions) / 1e6", f"sum(impressions) >= {_T['cpm_low'].least}"),
        "cpm_low",
        "warning",
        _HOUR,
        'The CPM of {{ $labels.campaign }} was {{ printf "%.2f" $values.A.Value }} yuan over an hour.',
        "fanpulse-ads",
        "CPM over time",
        delay_s=60,
    ),
    Rule(
        "fanpulse-cvr-low",
        "CVR is low",
        _of_campaigns(
            "sum(conversions) / sum(clicks)", f"sum(clicks) >= {_T['cvr_low'].least} AND sum(conversions) > 0"
        ),
        "cvr_low",
        "warning",
        24 * _HOUR,
        "{{ humanizePercentage $values.A.Value }} of the clicks on {{ $labels.campaign }} converted over 24 hours.",
        "fanpulse-ads",
        "CTR and CVR",
        delay_s=60,
    ),
    Rule(
        "fanpulse-spend-without-conversions",
        "Spend without conversions",
        _of_campaigns("sum(cost_micros) / 1e6", "sum(conversions) = 0"),
        "spend_without_conversions",
        "warning",
        24 * _HOUR,
        'Campaign {{ $labels.campaign }} spent {{ printf "%.2f" $values.A.Value }} yuan in 24 hours for nothing.',
        "fanpulse-ads",
        "Campaigns",
        delay_s=60,
    ),
)
"""Every rule. Their pages are docs/runbooks/<uid without fanpulse->.md."""
