"""``fanpulse rules`` as a user runs it: what it prints, and how it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fanpulse.cli import main
from schemas.rule_files import template

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, standard output and error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["rules", *arguments])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return int(ended.value.code or 0), out, error

    return call


def test_a_file_without_faults_is_read_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    code, out, error = run("template", "local-services")
    assert (code, out, error) == (0, template("local-services"), "")
    file.write_text(out, encoding="utf-8")
    code, out, error = run("check", str(file))
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == "town-raise-cheap-reach v1, More budget while reach is cheap (ads-buyer)"
    assert out.splitlines()[1].startswith(
        "  Every minute from 10:00 to 21:00 (Asia/Shanghai), for every campaign: if over"
    )
    assert out.splitlines()[-1] == f"{file}: 3 rules, nothing wrong"


def test_every_fault_is_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    text = template("local-services").replace("cpm < 12.50 yuan", "cpm < 12.50").replace("{do: pause}", "{do: stop}")
    file.write_text(text, encoding="utf-8")
    code, out, error = run("check", str(file))
    assert (code, out) == (2, "")
    one, other = error.splitlines()
    assert one.startswith(
        f"fanpulse: {file}:10: rules[1].when[1]: `12.50` is a bare number: is it yuan or micros? Write"
    )
    assert other.startswith(f"fanpulse: {file}:44: rules[3].action.do: `stop` must be budget, bid, pause or resume")


def test_what_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, error = run("check", str(tmp_path / "none.yaml"))
    assert (code, out) == (2, "")
    assert error == f"fanpulse: {tmp_path / 'none.yaml'}: cannot be read: No such file or directory\n"
    (tmp_path / "bad.yaml").write_text("rules:\n  - id: [\n", encoding="utf-8")
    code, _, error = run("check", str(tmp_path / "bad.yaml"))
    assert (code, error.count("\n")) == (2, 1)
    assert f"{tmp_path / 'bad.yaml'}:3: " in error
    code, _, error = run("template", "shops")
    assert (code, error.count("\n")) == (2, 1)
