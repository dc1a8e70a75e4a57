"""``fanpulse doctor``."""

from dataclasses import asdict
from typing import Annotated

import typer

from fanpulse.context import print_json, settings
from infra.doctor import check_machine


def doctor(
    ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False
) -> None:
    """Check this machine: tools, packages, disk, memory, ports, services. Exits 1 if something must be mended.

    \b
    Examples:
      fanpulse doctor
      fanpulse doctor --json | jq -r '.[] | select(.state == "fail").mend'
    """
    checks = check_machine(settings(ctx))
    if json:
        print_json([asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            typer.echo(f"{check.state:<4}  {check.name:<{width}}  {check.found}")
            if check.mend:
                typer.echo(f"{'':<{width + 8}}-> {check.mend}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)
