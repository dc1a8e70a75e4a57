"""Folds: one pure module a metric. ``(state, rows of one log) -> state``, the rows to store, and how to restore."""
