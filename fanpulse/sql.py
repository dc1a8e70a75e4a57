"""``fanpulse sql``."""

import contextlib
import re
import sys
from typing import Annotated

import typer
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from fanpulse.context import settings
from infra.connect import clickhouse_client
from infra.errors import FanpulseError, InfraError

_CHUNK = 256 * 1024
_FORMATS = {
    "pretty": "PrettyCompact",
    "json": "JSON",
    "jsonl": "JSONEachRow",
    "csv": "CSVWithNames",
    "tsv": "TSVWithNames",
}


def sql(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="The query, or - to read it from standard input.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="pretty, json, jsonl, csv, tsv, or any format of ClickHouse.")
    ] = "pretty",
    timeout: Annotated[float, typer.Option(min=1, max=600, help="Seconds that the query may run.")] = 60,
) -> None:
    """Run a query as the read-only analyst, in the database of the settings.

    Results are streamed: any size will do. A query's own FORMAT goes before --format.
    Exits 1 if ClickHouse refuses the query.

    \b
    Examples:
      fanpulse sql 'SHOW TABLES'
      fanpulse sql 'SELECT * FROM engagement_rolling LIMIT 10'
      fanpulse sql 'SELECT * FROM events_interactions' --format parquet > events.parquet
      echo 'SELECT 1 AS one' | fanpulse sql - --format jsonl
    """
    text = (sys.stdin.read() if query == "-" else query).strip().rstrip(";").rstrip()
    if not text:
        raise InfraError("sql: the query is empty; write one, such as 'SHOW TABLES'")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", format):
        raise InfraError(f"sql: --format {format!r} is no format; use pretty, json, jsonl, csv, tsv or ClickHouse's")
    name = _FORMATS.get(format.lower(), format)
    if name == "PrettyCompact" and not sys.stdout.isatty():
        name = "PrettyCompactNoEscapes"
    options = {"default_format": name, "max_execution_time": int(timeout)}
    with contextlib.closing(clickhouse_client(settings(ctx), "analyst", timeout=timeout + 10)) as client:
        try:
            with client.raw_stream(text, settings=options) as stream:
                while chunk := stream.read(_CHUNK):
                    sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except (ClickHouseError, HTTPError, OSError) as error:
            raise FanpulseError(f"sql: {_reason(error)}", exit_code=1) from None


def _reason(error: Exception) -> str:
    """ClickHouse's message in one line, without the wrapping of the client and the version."""
    text = " ".join(str(error).split())
    found = re.search(r"(?:Code: \d+\. )?DB::Exception: (.*?)(?: \(version [^)]*\).*)?$", text)
    if found is None and isinstance(error, HTTPError):
        return "ClickHouse ended the query midway, what is printed above is incomplete (out of time, out of memory?)"
    return found[1] if found else text or type(error).__name__
