"""A worker gives large allocations back to the system."""

import subprocess
import sys

import pytest

PROBE = """
import ctypes
import sys

import numpy as np

from pipeline.worker import give_back


class Figures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


figures = ctypes.CDLL(None).mallinfo2
figures.restype = Figures
if sys.argv[1] == "given back":
    give_back()
# Freeing one makes glibc keep the next of up to its size.
np.ones(3 * 2**20)
before = figures().hblkhd
kept = np.ones(2 * 2**20)
print(figures().hblkhd - before >= kept.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize(("how", "apart"), [("given back", "True"), ("as it is", "False")])
def test_a_table_that_is_freed_leaves_the_process(how: str, apart: str) -> None:
    run = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == apart
