"""SQL that stands in files of ``schemas``."""

from functools import cache
from importlib.resources import files

SETTINGS: dict[str, int] = {
    # Beyond it the groups of a statement go to disk, bytes.
    "max_bytes_before_external_group_by": 2_000_000_000,
    # Keys never change the month, so versions of a row are in one partition.
    "do_not_merge_across_partitions_select_final": 1,
    "max_partitions_per_insert_block": 0,
    "async_insert": 0,
}
"""With which statements of ``schemas/refresh`` run."""


def statement(table: str) -> str:
    """The statement of ``schemas/refresh`` that writes rows of a table."""
    return text("refresh", table)


@cache
def text(folder: str, name: str) -> str:
    """What stands in a file, without its comment lines."""
    lines = files("schemas").joinpath(folder, f"{name}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
