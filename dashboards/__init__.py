"""Boards and alert rules as code: Grafana's, and those of the preview, from one description."""
