-- Budget rules and campaigns: what is in force, every decision and what was done. Written by agent rules, a function of its
-- log campaign_facts alone: a repeated write changes nothing. Read the tables FINAL; docs/rules.md explains the words.

CREATE TABLE IF NOT EXISTS rule_decisions
(
    rule_id LowCardinality(String) COMMENT 'Rule; target_cpa: bidding towards the target cost of a conversion',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    closed_at DateTime('UTC') COMMENT 'Moment of event time at which the window closed, UTC',
    rule_version UInt32 COMMENT 'Version of the rule that was in force then',
    mode LowCardinality(String) COMMENT 'Mode of the rule: dry_run, notify or act',
    window_start DateTime('UTC') COMMENT 'Begin of the window looked at, UTC',
    window_end DateTime('UTC') COMMENT 'End of it, not included, UTC; before closed_at where the newest part is left out',
    action LowCardinality(String) COMMENT 'What the rule does: budget, bid, pause or resume',
    outcome LowCardinality(String) COMMENT 'fired; clamped: fired, within a bound; notified; dry_run: would have fired; skipped: did not fire',
    reason LowCardinality(String) COMMENT 'Why it did not fire, or what clamped it, as docs/rules.md lists them; empty: it fired',
    metrics Array(LowCardinality(String)) COMMENT 'Metrics that the rule looked at',
    metric_values Array(Nullable(Int64)) COMMENT 'Their figures in the window: counts, millionths of a yuan, rates in millionths, rounded down; NULL: no figure, its divisor is 0 or nothing is set',
    figures Map(LowCardinality(String), Nullable(Int64)) ALIAS mapFromArrays(metrics, metric_values) COMMENT 'The same by metric, such as figures[''cpm'']',
    guards Array(LowCardinality(String)) COMMENT 'Guards of the rule',
    guard_wants Array(Int64) COMMENT 'What each guard wants: staleness at most (milliseconds), others at least (counts, millionths of a yuan, milliseconds)',
    guard_found Array(Nullable(Int64)) COMMENT 'What there was of it; NULL: not known',
    guard_holds Array(UInt8) COMMENT '1: the guard holds',
    before_micros Nullable(Int64) COMMENT 'Daily budget or bid before, millionths of a yuan; NULL: none was to be changed',
    after_micros Nullable(Int64) COMMENT 'What it is set to, millionths of a yuan; of a dry run what it would have been; NULL: none was to be changed',
    outranked_by LowCardinality(String) COMMENT 'Rule that wanted the same and came first; empty: none',
    decided_at DateTime64(3, 'UTC') COMMENT 'When the log said that the window was closed: append time of that record, UTC',
    key String COMMENT 'Rule, entity and closing as one: what is done under a key is done once',
    partition UInt16 COMMENT 'Partition of campaign_facts that the campaign is in',
    fold_version UInt16 COMMENT 'Version of the definition',
    applied Int64 COMMENT 'Offset of the record of campaign_facts that closed the window; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(closed_at)
ORDER BY (rule_id, platform, campaign_id, ad_group_id, closed_at, fold_version)
COMMENT 'Every evaluation of a rule for a campaign or ad group and a window, fired or not, with the figures it was decided on.';

CREATE TABLE IF NOT EXISTS budget_actions
(
    key String COMMENT 'Rule, entity and closing as one: what is done under a key is done once',
    rule_id LowCardinality(String) COMMENT 'Rule; target_cpa: bidding towards the target cost of a conversion',
    rule_version UInt32 COMMENT 'Version of the rule that was in force then',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    closed_at DateTime('UTC') COMMENT 'Moment of event time at which the window closed, UTC',
    action LowCardinality(String) COMMENT 'What is done: budget, bid, pause or resume',
    clamped_by LowCardinality(String) COMMENT 'Bound that made the step smaller; empty: none did',
    before_micros Nullable(Int64) COMMENT 'Daily budget or bid before, millionths of a yuan; NULL for a pause or its end',
    after_micros Nullable(Int64) COMMENT 'What it is set to, millionths of a yuan; NULL for a pause or its end',
    decided_at DateTime64(3, 'UTC') COMMENT 'When the log said that the window was closed: append time of that record, UTC',
    partition UInt16 COMMENT 'Partition of campaign_facts that the campaign is in',
    fold_version UInt16 COMMENT 'Version of the definition',
    applied Int64 COMMENT 'Offset of the record of campaign_facts that closed the window; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(closed_at)
ORDER BY (closed_at, platform, campaign_id, ad_group_id, rule_id, fold_version)
COMMENT 'What rules did: each a record of the Kafka topic budget_actions, too.';

CREATE TABLE IF NOT EXISTS rule_changes
(
    rule_id String COMMENT 'Rule',
    partition UInt16 COMMENT 'Partition of campaign_facts that was told; a change is told to all of them',
    applied Int64 COMMENT 'Offset of the record of campaign_facts that tells it: the rule holds from there on',
    version UInt32 COMMENT 'Version of the rule',
    name String COMMENT 'Name that people read',
    owner String COMMENT 'Who answers for it',
    mode LowCardinality(String) COMMENT 'Mode: dry_run, notify or act',
    level LowCardinality(String) COMMENT 'What it is evaluated for: campaign or ad_group',
    enabled UInt8 COMMENT '0: it is switched off',
    sentence String COMMENT 'The rule as one sentence',
    text String COMMENT 'The rule as JSON, as it may be written in a file of rules',
    changed_by String COMMENT 'Who told the change',
    changed_at DateTime64(3, 'UTC') COMMENT 'When the log took it: append time, UTC'
)
ENGINE = ReplacingMergeTree
ORDER BY (rule_id, partition, applied)
COMMENT 'Every change of a rule, by partition of the log. What is in force: view rules.';

CREATE TABLE IF NOT EXISTS campaign_changes
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    partition UInt16 COMMENT 'Partition of campaign_facts that the campaign is in',
    applied Int64 COMMENT 'Offset of the record of campaign_facts that tells it: it holds from there on',
    text String COMMENT 'The campaign as JSON, as it may be written in a file of campaigns',
    changed_by String COMMENT 'Who told the change',
    changed_at DateTime64(3, 'UTC') COMMENT 'When the log took it: append time, UTC'
)
ENGINE = ReplacingMergeTree
ORDER BY (platform, campaign_id, partition, applied)
COMMENT 'Campaigns as they were told by fanpulse campaigns apply. What rules made of them since: view campaigns.';

CREATE TABLE IF NOT EXISTS rule_state
(
    partition UInt16 COMMENT 'Partition of campaign_facts',
    kind LowCardinality(String) COMMENT 'What the row holds: minute, entity, memory, rule, input or closed; docs/rules.md has what the numbers of each mean',
    minute DateTime('UTC') COMMENT 'Minute of event time (kind minute), UTC; else 1970-01-01',
    platform LowCardinality(String) COMMENT 'Platform; empty where the kind has none',
    campaign_id String COMMENT 'Campaign; empty where the kind has none',
    ad_group_id String COMMENT 'Ad group; empty where the kind has none',
    rule_id LowCardinality(String) COMMENT 'Rule; empty where the kind has none',
    source UInt16 COMMENT 'Partition of ad_events that the row is of (kinds minute and input); else 0',
    numbers Array(Nullable(Int64)) COMMENT 'Its numbers',
    text String COMMENT 'Its text, JSON; empty: it has none',
    fold_version UInt16 COMMENT 'Version of the definition',
    applied Int64 COMMENT 'Offset of the last record of campaign_facts that changed it; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
-- A flush is one part of each partition, so it is there whole or not at all.
PARTITION BY partition
ORDER BY (kind, minute, platform, campaign_id, ad_group_id, rule_id, source, fold_version)
COMMENT 'What agent rules remembers, to go on from after a restart. Figures for people are in other tables.';

CREATE OR REPLACE VIEW rules
(
    rule_id String COMMENT 'Rule',
    version UInt32 COMMENT 'Version in force',
    name String COMMENT 'Name that people read',
    owner String COMMENT 'Who answers for it',
    mode LowCardinality(String) COMMENT 'Mode: dry_run, notify or act',
    level LowCardinality(String) COMMENT 'What it is evaluated for: campaign or ad_group',
    enabled UInt8 COMMENT '0: it is switched off',
    sentence String COMMENT 'The rule as one sentence',
    text String COMMENT 'The rule as JSON, as it may be written in a file of rules',
    changed_by String COMMENT 'Who told the last change',
    changed_at DateTime64(3, 'UTC') COMMENT 'When the log took the last change, UTC'
)
AS SELECT
    rule_id,
    version,
    name,
    owner,
    mode,
    level,
    enabled,
    sentence,
    text,
    changed_by,
    changed_at
FROM rule_changes
ORDER BY changed_at DESC, applied DESC
LIMIT 1 BY rule_id
COMMENT 'Rules that are known, as they are now.';

CREATE OR REPLACE VIEW campaigns
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    creator_id String COMMENT 'Creator that it advertises',
    state LowCardinality(String) COMMENT 'active, paused or ended',
    daily_budget_micros Nullable(Int64) COMMENT 'Most to spend in a local day, millionths of a yuan; NULL: not known, or of an ad group that has none of its own',
    total_budget_micros Nullable(Int64) COMMENT 'Most to spend in all, millionths of a yuan; NULL: not known',
    bid_micros Nullable(Int64) COMMENT 'Bid, millionths of a yuan; NULL: not known, or of an ad group that has none of its own',
    target_cpa_micros Nullable(Int64) COMMENT 'Cost of a conversion to aim at, millionths of a yuan; NULL: none',
    created_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was made, UTC; of one that was never told, the first minute with an event of it',
    told UInt8 COMMENT '1: told by fanpulse campaigns apply; 0: known by its events only'
)
AS SELECT
    platform,
    campaign_id,
    ad_group_id,
    JSONExtractString(text, 'creator_id') AS creator_id,
    JSONExtractString(text, 'state') AS state,
    numbers[1] AS daily_budget_micros,
    numbers[2] AS total_budget_micros,
    numbers[3] AS bid_micros,
    numbers[4] AS target_cpa_micros,
    fromUnixTimestamp64Milli(numbers[5], 'UTC') AS created_at,
    ifNull(numbers[6], 0) AS told
FROM rule_state FINAL
WHERE kind = 'entity' AND fold_version = 1
COMMENT 'Campaigns and ad groups as they are now: as they were told, and what rules made of them since.';
