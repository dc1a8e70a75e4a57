"""The ground that fanpulse stands on: settings, state directory, processes, Kafka, ClickHouse, clients."""
