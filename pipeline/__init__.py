"""The worker: Kafka blocks become columns, columns become exact rows in ClickHouse."""
