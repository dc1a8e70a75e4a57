"""``fanpulse rules``: budget rules checked, read back as sentences, and tried on what was."""

from pathlib import Path
from typing import Annotated

import typer

from fanpulse.context import settings
from schemas.rule_files import Refused, read_rules
from schemas.rule_files import template as text_of
from schemas.rules import Rule, sentence

rules = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The group of subcommands."""

RulesFile = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of rules.", show_default=False)]


@rules.callback()
def group() -> None:
    """Budget rules: check a file of them, try it on past days, or begin with a ready one.

    docs/rules.md has the format.

    \b
    Examples:
      fanpulse rules template e-commerce > rules.yaml
      fanpulse rules check rules.yaml
    """


@rules.command(short_help="Check a file of rules, and read each back as a sentence.")
def check(ctx: typer.Context, file: RulesFile) -> None:
    """Check a file of rules, and read each one back as a sentence.

    Exits 2 if anything is wrong: all of it is said, with file, line, field, and what to write.

    \b
    Examples:
      fanpulse rules check rules.yaml
    """
    found = _read(file, settings(ctx).time_zone)
    for rule in found:
        typer.echo(f"{rule.id} v{rule.version}, {rule.name} ({rule.owner})\n  {sentence(rule)}")
    typer.echo(f"{file}: {len(found)} {'rule' if len(found) == 1 else 'rules'}, nothing wrong")


@rules.command(short_help="Print a ready file of rules.")
def template(
    name: Annotated[str, typer.Argument(help="e-commerce, education or local-services.", show_default=False)],
) -> None:
    """Print a ready file of rules. All of them are dry runs: they only say what they would do.

    \b
    Examples:
      fanpulse rules template local-services > rules.yaml
    """
    typer.echo(text_of(name), nl=False)


def _read(file: Path, time_zone: str) -> tuple[Rule, ...]:
    """The rules; of a file that is refused, every fault on a line of its own, and exit code 2."""
    try:
        return read_rules(file, time_zone)
    except Refused as refused:
        for fault in refused.faults:
            typer.echo(f"fanpulse: {fault}", err=True)
        raise typer.Exit(2) from None
