-- What the pipeline keeps about itself: how far each agent is, and what it refused.

CREATE TABLE IF NOT EXISTS checkpoints
(
    agent LowCardinality(String) COMMENT 'Agent of the worker whose rows are stored up to here',
    topic LowCardinality(String) COMMENT 'Source topic',
    partition UInt16 COMMENT 'Kafka partition',
    fold_version UInt16 COMMENT 'Version of the definition the rows were computed with',
    next_offset Int64 COMMENT 'Kafka offset of the first record that is not yet in the tables; the highest is the truth',
    newest DateTime64(3, 'UTC') COMMENT 'Newest event time below that offset; the watermark is the allowed lateness behind it',
    topic_id String COMMENT 'Kafka id of the topic: a topic deleted and made anew has another',
    cluster_id String COMMENT 'Kafka id of the cluster',
    parameters String COMMENT 'Settings that decide what is late, in which day an event falls, and how many partitions there are, with a digest of the fan key (JSON)',
    written_at DateTime64(3, 'UTC') COMMENT 'Wall clock of the worker that wrote it'
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (agent, topic, partition, fold_version)
COMMENT 'How far each agent of the pipeline is in each partition: where a worker goes on after a stop or a crash.';

CREATE TABLE IF NOT EXISTS dead_letters
(
    topic LowCardinality(String) COMMENT 'Source topic',
    partition UInt16 COMMENT 'Kafka partition',
    `offset` Int64 COMMENT 'Kafka offset of the refused record',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    reason LowCardinality(String) COMMENT 'Why it was refused, as a code',
    detail String COMMENT 'Why it was refused, as a sentence that names the field',
    value String COMMENT 'Its bytes as they came; longer ones than 64 KiB are cut here and whole in the Kafka topic',
    size UInt32 COMMENT 'Its full length, bytes',
    null_value UInt8 COMMENT '1: the record had no value at all'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (topic, partition, `offset`)
COMMENT 'Records that are no events: malformed, of unknown kind, or out of range. The Kafka topic dead_letters has them too.';
