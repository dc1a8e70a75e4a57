"""The command, run as a user runs it."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from fanpulse.cli import COMMANDS, main
from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Result: ...


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process."""

    def call(*arguments: str, stdin: str = "", **variables: str) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(arguments)
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def sql(run: Run, migrated: Settings) -> Run:
    """``fanpulse sql`` in a database that is there."""

    def call(*arguments: str, stdin: str = "", **variables: str) -> Result:
        variables = {"FANPULSE_DATABASE": migrated.database, **variables}
        return run("sql", *arguments, "--home", str(migrated.home), stdin=stdin, **variables)

    return call


def _process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "fanpulse.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **variables})


@pytest.fixture
def migrated(settings: Settings) -> Settings:
    with contextlib.closing(clickhouse_client(settings, database="system")) as client:
        client.command(f"CREATE DATABASE {settings.database}")
    return settings


def _refused(run: Result | subprocess.CompletedProcess[str], said: str, code: int = 2) -> None:
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_help_is_quick() -> None:
    began = time.monotonic()
    result = _process("--help")
    assert time.monotonic() - began < 2
    assert result.returncode == 0
    for name, command in COMMANDS.items():
        assert name in result.stdout
        assert command.summary.split()[0] in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert "Examples:" in result.stdout
    assert f"fanpulse {name}" in result.stdout


def test_unknown_setting(run: Run) -> None:
    result = run("status", FANPULSE_PARTITOINS="3")
    _refused(result, "fanpulse: FANPULSE_PARTITOINS: there is no such setting; did you mean FANPULSE_PARTITIONS?")


def test_home_that_cannot_be_written(run: Run) -> None:
    _refused(run("up", "--home", "/proc/fanpulse"), "fanpulse: home /proc/fanpulse: cannot be written")


def test_kafka_that_is_named_and_away(tmp_path: Path) -> None:
    result = _process(
        "up",
        f"--home={tmp_path}",
        FANPULSE_KAFKA="127.0.0.1:1",
        FANPULSE_CLICKHOUSE="http://127.0.0.1:1",
        FANPULSE_CLICKHOUSE_USER="app",
    )
    _refused(result, "Kafka at 127.0.0.1:1 does not answer")


def test_status(run: Run, stack: Stack, tmp_path: Path) -> None:
    result = run("--home", str(stack.home.path), "status", "--json")
    assert result.returncode == 0
    rows = json.loads(result.stdout)
    assert [(row["service"], row["state"]) for row in rows] == [("kafka", "running"), ("clickhouse", "running")]
    table = run("status", "--home", str(stack.home.path)).stdout
    assert rows[0]["address"] in table
    stopped = run("status", "--home", str(tmp_path / "none"))
    assert stopped.returncode == 1
    assert stopped.stdout.count("stopped") == 2
    assert not (tmp_path / "none").exists()


def test_down_when_nothing_runs(run: Run, tmp_path: Path) -> None:
    result = run("down", "--home", str(tmp_path / "none"))
    assert (result.returncode, result.stdout) == (0, "nothing was running\n")


def test_doctor(run: Run, stack: Stack, tmp_path: Path) -> None:
    result = run("doctor", "--home", str(stack.home.path))
    assert result.returncode == 0, result.stdout
    bare = run("doctor", "--json", "--home", str(tmp_path), PATH=str(tmp_path), JAVA_HOME="")
    checks = {check["name"]: check for check in json.loads(bare.stdout)}
    assert bare.returncode == 1
    assert checks["java"]["state"] == "fail"
    assert checks["java"]["mend"].startswith("apt-get install openjdk-17")
    assert checks["kafka"] == {"name": "kafka", "state": "warn", "found": "not running", "mend": "fanpulse up"}


def test_sql_formats(sql: Run) -> None:
    query = "SELECT number AS a, toString(number) AS b FROM numbers(2)"
    assert sql(query, "--format", "csv").stdout == '"a","b"\n0,"0"\n1,"1"\n'
    assert sql(query, "-f", "tsv").stdout == "a\tb\n0\t0\n1\t1\n"
    assert sql(query, "-f", "jsonl").stdout == '{"a":0,"b":"0"}\n{"a":1,"b":"1"}\n'
    assert json.loads(sql(query, "-f", "json").stdout)["rows"] == 2
    assert sql(query, "-f", "Values").stdout == "(0,'0'),(1,'1')"
    assert sql("-", "-f", "tsv", stdin="SELECT 1 AS a;\n").stdout == "a\n1\n"
    assert sql("SELECT 1 AS a FORMAT JSONEachRow").stdout == '{"a":1}\n'
    pretty = sql(query).stdout
    assert "┌─a─┬─b─┐" in pretty
    assert "\x1b" not in pretty


def test_sql_errors(sql: Run) -> None:
    _refused(sql("SELEKT 1"), "fanpulse: sql: Syntax error", code=1)
    _refused(sql("SELECT * FROM nothing"), "nothing", code=1)
    _refused(sql("CREATE TABLE fanpulse_x.t (a Int8) ENGINE = Memory"), "privileges", code=1)
    _refused(sql("SELECT 1", "-f", "no-format"), "--format 'no-format' is no format")
    _refused(sql("-"), "the query is empty")
    result = sql("SELECT throwIf(number = 900000) FROM numbers(1000000)", "-f", "tsv")
    _refused(result, "what is printed above is incomplete", code=1)
    _refused(sql("SELECT 1", FANPULSE_DATABASE="fanpulse_none"), "fanpulse migrate")


def test_sql_streams_and_minds_a_closed_pipe(migrated: Settings) -> None:
    command = (
        f"{sys.executable} -m fanpulse.cli sql 'SELECT number FROM numbers(100000000)' -f tsv --home {migrated.home}"
    )
    began = time.monotonic()
    result = subprocess.run(
        ["bash", "-c", f"{command} | head -2"],
        capture_output=True,
        text=True,
        env={**os.environ, "FANPULSE_DATABASE": migrated.database},
    )
    assert (result.stdout, result.stderr) == ("number\n0\n", "")
    assert time.monotonic() - began < 10


def test_interrupt_ends_without_a_trace(migrated: Settings) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fanpulse.cli",
            "sql",
            "SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1",
            "--home",
            str(migrated.home),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FANPULSE_DATABASE": migrated.database},
    ) as process:
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
