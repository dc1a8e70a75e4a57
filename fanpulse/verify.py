"""``fanpulse verify``."""

from dataclasses import asdict
from typing import Annotated

import typer

from fanpulse.context import print_json, print_table, progress, settings
from pipeline.migrate import require_migrated
from pipeline.verify import verify as compare


def verify(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Compare every figure with its definition in SQL, computed anew from the raw records, exactly.

    Works while workers run and events come. Exits 1 if a single row differs, and shows the first of them.

    \b
    Examples:
      fanpulse verify
      fanpulse verify --json | jq '.[] | select(.differ > 0)'
    """
    here = settings(ctx)
    require_migrated(here)
    with progress("reading checkpoints") as report:
        found = compare(here, report)
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        print_table(
            ["TABLE", "ROWS COMPARED", "DIFFERENT"],
            [[each.name, f"{each.rows:,}", f"{each.differ:,}"] for each in found],
        )
        for each in found:
            for example in each.examples:
                typer.echo(f"{each.name}: " + "  ".join(f"{name}={value}" for name, value in example.items()))
        rows, differ = sum(each.rows for each in found), sum(each.differ for each in found)
        typer.echo(f"{rows:,} rows compared, {differ:,} differ" if differ else f"{rows:,} rows compared, all equal")
    if any(each.differ for each in found):
        raise typer.Exit(1)
