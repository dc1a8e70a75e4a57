"""The boards in a browser page without Grafana: the same JSON, the same macros, read only."""
