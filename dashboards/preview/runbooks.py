"""The pages of docs/runbooks, which say what to do when something rings. A wheel is without them."""

from pathlib import Path

from dashboards.preview.library import Unknown

_FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"


def names(folder: Path = _FOLDER) -> frozenset[str]:
    """Names of the pages that are here, such as ``freshness.md``."""
    return frozenset(file.name for file in folder.glob("*.md"))


def page(name: str, folder: Path = _FOLDER) -> str:
    """A page, Markdown.

    Raises:
        Unknown: it is not here.
    """
    if name not in names(folder):
        raise Unknown(f"docs/runbooks/{name[:80]} is not here: it is in the repository of fanpulse")
    return (folder / name).read_text("utf-8")
