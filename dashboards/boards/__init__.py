"""The boards: every module here is one, its ``BOARD``."""

import importlib
import pkgutil

from dashboards.board import Board


def boards() -> tuple[Board, ...]:
    """All, in the order in which people read them."""
    found = (importlib.import_module(f"{__name__}.{each.name}").BOARD for each in pkgutil.iter_modules(__path__))
    return tuple(sorted(found, key=lambda board: (board.place, board.uid)))
