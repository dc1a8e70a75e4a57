-- What was sent again of the dead letters: the letter stays where it is, and its mended record is a new one.

CREATE TABLE IF NOT EXISTS dead_letter_replays
(
    topic LowCardinality(String) COMMENT 'Source topic of the dead letter, and of the record sent again',
    partition UInt16 COMMENT 'Kafka partition of the dead letter',
    `offset` Int64 COMMENT 'Kafka offset of the dead letter',
    to_partition UInt16 COMMENT 'Kafka partition of the record sent again: that of its fan',
    to_offset Int64 COMMENT 'Kafka offset of the record sent again',
    replayed_at DateTime64(3, 'UTC') COMMENT 'When the broker took it; wall clock of the program that sent it',
    changed UInt8 COMMENT '1: it was mended before; 0: the same bytes again'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, partition, `offset`, to_partition, to_offset)
COMMENT 'Dead letters that were mended and sent again: one row per sending. The record sent is stored, or refused, like any other.';
