"""The process of the embedded ClickHouse server: ``python clickhouse_server.py DIRECTORY``.

Serves HTTP and TCP on the ports of DIRECTORY/config.xml until it gets SIGTERM. It is run as a script by its path,
imports nothing of fanpulse, and loads only the extension module of the chdb wheel: importing ``chdb`` itself starts and
stops a server of its own first, which costs half a second and leaves the logger of the second one dead.
"""

import os
import sys
from importlib.util import find_spec

# The endless select keeps the server up. Any other output format breaks the handshake of clients.
_SERVE = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(1) FROM system.numbers FORMAT Null SETTINGS max_block_size = 1"
)


def main(directory: str) -> None:
    """Serve until killed. Committed rows are on disk at once, so that a kill loses none of them."""
    spec = find_spec("chdb")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("the chdb package is not installed; run: make venv")
    sys.path.append(spec.submodule_search_locations[0])
    import _chdb  # type: ignore[import-not-found]

    os.chdir(directory)
    _chdb.query(_SERVE, "TabSeparated", path="data")


if __name__ == "__main__":
    main(sys.argv[1])
