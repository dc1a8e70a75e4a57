"""The contracts: events, topics, row columns, ClickHouse migrations, SQL twins and golden examples."""
