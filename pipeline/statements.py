"""Statements of ``schemas/refresh``, that make tables from tables."""

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
"""With which they run."""


@cache
def statement(table: str) -> str:
    """The statement that writes rows of a table, without its comment lines."""
    lines = files("schemas").joinpath("refresh", f"{table}.sql").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
