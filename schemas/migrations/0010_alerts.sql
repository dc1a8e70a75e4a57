-- Alerts: what was found at creators, what became of telling others, and the thresholds in force. Written by the worker
-- that holds partition 0 of fan_facts; docs/alerts.md explains every kind. Read the tables FINAL.

CREATE TABLE IF NOT EXISTS alerts
(
    id String COMMENT 'Identifier: kind, platform, creator, subject if there is one, and day; an alert is opened once and resolved once',
    kind LowCardinality(String) COMMENT 'Kind of alert, as docs/alerts.md lists them',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    subject String COMMENT 'What of the creator it speaks of, such as a campaign; empty: all of it',
    day Date COMMENT 'Local calendar day that it was opened for',
    state Enum8('open' = 1, 'resolved' = 2) COMMENT 'open, or resolved: no longer so',
    at DateTime64(3, 'UTC') COMMENT 'Event time that the figures are true of: the local midnight that ends the day, or how far the running day had got',
    title LowCardinality(String) COMMENT 'The kind in words',
    said String COMMENT 'What was found, with its figures, in a sentence',
    advice Array(String) COMMENT 'What to do about it',
    figures Map(LowCardinality(String), Float64) COMMENT 'Figures of the day by name: counts, rates from 0 to 1, standard deviations; docs/alerts.md has the formulas',
    thresholds Map(LowCardinality(String), Float64) COMMENT 'Thresholds that it was opened by',
    resolved_day Date COMMENT 'Local calendar day whose figures showed that it is no longer so; 1970-01-01: it is open',
    resolved_at DateTime64(3, 'UTC') COMMENT 'The local midnight that ended this day; 1970-01-01: it is open',
    resolved_said String COMMENT 'What was found then, in a sentence; empty: it is open',
    resolved_figures Map(LowCardinality(String), Float64) COMMENT 'Figures of that day',
    version UInt8 COMMENT '1 open, 2 resolved; of rows with one id the highest is right',
    written_at DateTime64(3, 'UTC') COMMENT 'When the row was written; wall clock of the worker'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
-- Of two workers that find the same, the first one to write is right: the block of the second is dropped by its token.
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Every alert, open or resolved, with the figures it was opened and resolved by. Open ones: alerts_now.';

CREATE TABLE IF NOT EXISTS alert_deliveries
(
    id String COMMENT 'Alert',
    state Enum8('open' = 1, 'resolved' = 2) COMMENT 'Which of its two messages',
    target LowCardinality(String) COMMENT 'Whom it is for: kafka, the topic alerts; or a webhook, by its host and six digits that tell URLs of one host apart',
    outcome Enum8('retrying' = 1, 'too_old' = 2, 'gave_up' = 3, 'delivered' = 4) COMMENT 'retrying: will be tried again; too_old: never tried, for what it says was over for longer than FANPULSE_WEBHOOK_RETRY; gave_up: tried in vain for that long; delivered: the target took it',
    attempts UInt32 COMMENT 'Tries so far',
    status UInt16 COMMENT 'HTTP status of the last answer; 0: none, or not asked over HTTP',
    answer String COMMENT 'What the target said to the last try, or why there was no answer',
    tried_at DateTime64(3, 'UTC') COMMENT 'When it was last tried or given up; wall clock of the worker',
    version UInt64 COMMENT 'Grows with outcome and attempts; of rows with one id, state and target the highest is right'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (id, state, target)
COMMENT 'What became of telling others about alerts: a row for each alert, message and target.';

CREATE TABLE IF NOT EXISTS alert_thresholds
(
    kind LowCardinality(String) COMMENT 'Kind of alert',
    name LowCardinality(String) COMMENT 'Threshold, as docs/alerts.md lists them',
    value Float64 COMMENT 'Its value in force',
    meaning String COMMENT 'What it bounds',
    enabled UInt8 COMMENT '0: the kind is switched off',
    written_at DateTime64(3, 'UTC') COMMENT 'When a worker found this value; of rows with one kind and name the newest is right'
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (kind, name)
COMMENT 'Thresholds of alerts in force, for boards that draw them. Workers write it; to change one set FANPULSE_ALERT_POLICY.';

CREATE OR REPLACE VIEW alerts_now
(
    id String COMMENT 'Identifier',
    kind LowCardinality(String) COMMENT 'Kind of alert, as docs/alerts.md lists them',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    subject String COMMENT 'What of the creator it speaks of; empty: all of it',
    day Date COMMENT 'Local calendar day that it was opened for',
    at DateTime64(3, 'UTC') COMMENT 'Event time that the figures are true of',
    title LowCardinality(String) COMMENT 'The kind in words',
    said String COMMENT 'What was found, with its figures, in a sentence',
    advice Array(String) COMMENT 'What to do about it',
    figures Map(LowCardinality(String), Float64) COMMENT 'Figures of the day by name',
    undelivered UInt64 COMMENT 'Targets that have not got its message so far'
)
AS SELECT
    id,
    kind,
    platform,
    creator_id,
    subject,
    day,
    at,
    title,
    said,
    advice,
    figures,
    ifNull(waiting.targets, 0) AS undelivered
FROM (SELECT * FROM alerts FINAL WHERE state = 'open') AS found
LEFT JOIN
(
    SELECT id, countIf(outcome != 'delivered') AS targets
    FROM alert_deliveries FINAL
    WHERE state = 'open'
    GROUP BY id
) AS waiting USING (id)
COMMENT 'Alerts that are open now.';
