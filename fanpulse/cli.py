"""The command line: which subcommands there are, and how errors and signals end them."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from infra.errors import FanpulseError


class Command(NamedTuple):
    """A subcommand: ``module.function`` is its code, its docstring its help; a ``Typer`` is a group of subcommands."""

    module: str
    function: str
    summary: str
    """One line for ``fanpulse --help``; the module is imported only if the command is called."""


COMMANDS: dict[str, Command] = {
    "up": Command("fanpulse.stack", "up", "Start the local Kafka and ClickHouse."),
    "down": Command("fanpulse.stack", "down", "Stop the local Kafka and ClickHouse."),
    "status": Command("fanpulse.stack", "status", "Show which services run, and where."),
    "demo": Command("fanpulse.demo", "demo", "Show it all: a made-up world, its history, then live."),
    "topics": Command("fanpulse.topics", "topics", "Create and list the Kafka topics."),
    "migrate": Command("fanpulse.migrate", "migrate", "Create or update the ClickHouse tables."),
    "worker": Command("fanpulse.worker", "worker", "Run workers: Kafka in, figures out."),
    "load": Command("fanpulse.load", "load", "Send a file of your own events into the pipeline."),
    "verify": Command("fanpulse.verify", "verify", "Compare every figure with its definition in SQL."),
    "refresh": Command("fanpulse.refresh", "refresh", "Bring fan features, tiers and tags up to date now."),
    "fans": Command("fanpulse.fans", "fans", "Show how the fans of a creator are, and what to do."),
    "alerts": Command("fanpulse.alerts", "alerts", "Show what calls for somebody, and try the webhooks."),
    "experiments": Command("fanpulse.experiments", "experiments", "Compare ad groups: A/B tests with verdicts."),
    "rules": Command("fanpulse.rules", "rules", "Budget rules: check, try on past days, apply, ask why."),
    "campaigns": Command("fanpulse.campaigns", "campaigns", "Tell rules of campaigns: budgets, bids, states."),
    "boards": Command("fanpulse.boards", "boards", "Show boards in a browser; check and publish them."),
    "repair": Command("fanpulse.repair", "repair", "Take late events into the figures of their days."),
    "dead-letters": Command(
        "fanpulse.dead_letters", "dead_letters", "Look at refused records, mend them, and send them again."
    ),
    "generate": Command(
        "fanpulse.generate", "generate", "Make events of a world of creators and fans: history, then live."
    ),
    "sql": Command("fanpulse.sql", "sql", "Run a query as the read-only analyst."),
    "doctor": Command("fanpulse.doctor", "doctor", "Check this machine, and say what mends it."),
}

_SERVICES = {"clickhouse_connect": "ClickHouse", "kafka": "Kafka"}
"""Whose errors are told in one line, by the package that raises them."""

_HELP = """Live engagement, fans and ads of short-video creators, from Kafka to ClickHouse.

Settings are environment variables, FANPULSE_<NAME>; unknown ones are refused.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit the process: 0 done, 1 done and something is wrong with the result,
    2 the user must change something, 3 refused on purpose, 130 interrupted."""
    # What these log at errors we say in our own words; a handler that a subcommand sets up still gets it.
    for library in ("clickhouse_connect", "kafka"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    arguments = _home_first(list(sys.argv[1:] if argv is None else argv))
    try:
        code = _application(arguments)(arguments, prog_name="fanpulse", standalone_mode=True)
    except FanpulseError as error:
        print(f"fanpulse: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: that is its business. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        # Their modules are imported only by commands that need them, so these are known by name.
        service = _SERVICES.get(type(error).__module__.partition(".")[0])
        if service is None:
            raise
        print(f"fanpulse: {service} answered with an error: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code)


def _application(arguments: list[str]) -> Callable[..., Any]:
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_root)
    # Only what was asked for is imported: pipeline and generators would make every command slow.
    called = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, command in COMMANDS.items():
        if name == called:
            function = getattr(importlib.import_module(command.module), command.function)
            if isinstance(function, typer.Typer):
                app.add_typer(function, name=name)
            else:
                app.command(name)(function)
        else:
            app.command(name, help=command.summary)(_not_called)
    return app


def _root(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="State directory (also FANPULSE_HOME; default: fanpulse in the user's data directory).",
            show_default=False,
        ),
    ] = None,
) -> None:
    ctx.obj = home


def _not_called() -> None:
    raise AssertionError("another command was called")


def _home_first(arguments: list[str]) -> list[str]:
    """Take ``--home`` also after the subcommand."""
    before: list[str] = []
    rest: list[str] = []
    iterator = iter(arguments)
    for argument in iterator:
        if argument == "--":
            rest += [argument, *iterator]
        elif argument == "--home":
            before += [argument, *(value for value in [next(iterator, None)] if value is not None)]
        elif argument.startswith("--home="):
            before.append(argument)
        else:
            rest.append(argument)
    return before + rest


if __name__ == "__main__":
    main()
