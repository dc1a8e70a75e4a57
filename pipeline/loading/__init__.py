"""A user's own logs into the pipeline: read, mapped to events, sorted, judged, sent, and repaired where late."""
