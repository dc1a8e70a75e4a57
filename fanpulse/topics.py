"""``fanpulse topics``."""

import typer

from fanpulse.context import print_table, settings
from infra.topics import ensure_topics


def topics(ctx: typer.Context) -> None:
    """Create the Kafka topics that are missing, check the others, and list them.

    \b
    Examples:
      fanpulse topics
      FANPULSE_PARTITIONS=12 FANPULSE_REPLICATION=3 fanpulse topics
    """
    rows = [
        [state.name, str(state.partitions), "created" if state.created else "there", state.meaning]
        for state in ensure_topics(settings(ctx))
    ]
    print_table(["TOPIC", "PARTITIONS", "STATE", "HOLDS"], rows)
