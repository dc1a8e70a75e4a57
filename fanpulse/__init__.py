"""The ``fanpulse`` command."""
