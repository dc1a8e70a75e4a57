"""What the pages point to is there: files, headings, tests, commands, options, settings."""

import re
from pathlib import Path

import pytest
import typer.main
from pages import PAGES, ROOT, anchor, blocks, prose

from chaos.scenarios import SCENARIOS
from fanpulse.cli import COMMANDS, _application
from infra.settings import PREFIX, Settings

EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """Names of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {anchor(title) for title in titles}


def options(command: str) -> set[str]:
    """Options of a subcommand, and of those below it."""
    group = typer.main.get_command(_application([command]))
    top = group.commands[command]
    parts = [top, *getattr(top, "commands", {}).values()]
    own = {name for part in parts for each in part.params for name in [*each.opts, *each.secondary_opts]}
    return own | {"--home", "--help", "-h"}


@EVERY
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(page)):
        path, _, name = (target[0] or target[1]).partition("#")
        if re.match(r"https?:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if name:
            assert name in anchors(file), target


@EVERY
def test_named_tests_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        if name:
            assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
                name
            )


@EVERY
def test_tests_and_scenarios_named_alone_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in [
            file.name,
            *re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE),
        ]
    }
    assert set(re.findall(r"`(test_\w+(?:\.py)?)`", text)) <= known
    for named in re.findall(r"`chaos: ([^`]+)`", text):
        assert named in SCENARIOS, named


@EVERY
def test_named_settings_exist(page: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    # Variables of the compose file alone.
    known |= {"FANPULSE_WORKERS", "FANPULSE_IMAGE"}
    for name in re.findall(r"\bFANPULSE_[A-Z_]*[A-Z]\b(?!_?<)", page.read_text(encoding="utf-8")):
        assert name in known, name


@EVERY
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"`([^`\n]+)`", prose(page)) + blocks(page, "sh"))
    for line in re.sub(r"'[^']*'|\"[^\"]*\"", "''", shown).splitlines():
        for command, rest in re.findall(r"\bfanpulse ([a-z]+(?:-[a-z]+)*)\b([^;&|#]*)", line):
            if command in COMMANDS:
                for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
                    assert option in options(command), line
            else:
                assert f"fanpulse {command}" not in shown, line
    for target in re.findall(r"^\s*make ([a-z]+)\b", shown, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
    assert text.endswith("\n")


def test_the_table_of_commands_is_whole() -> None:
    table = re.findall(r"^\| `fanpulse ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(table) == sorted(COMMANDS)
