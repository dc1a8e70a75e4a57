"""The pages of documentation, and what is in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "schemas" / "README.md"])

RARE = {
    "Who needs attention?",
    "Which alerts ring most, and how long are they open?",
    "Which fans are about to be lost?",
    "What did the rules change yesterday?",
    "What became of CPM and CPA after it?",
    "Who changed the rules themselves?",
    "Which content brought iron fans?",
}
"""Questions of docs/sql.md that two days of a world without rules in force have no answer to."""


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def under_headings(page: Path, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a language, each with the heading above it."""
    heading, found = "", []
    for part in re.finditer(r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        if part[1]:
            heading = part[1]
        elif part[2] == language:
            found.append((heading, part[3]))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchor(title: str) -> str:
    """The name of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
