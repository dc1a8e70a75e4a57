"""Checks of this machine: what fanpulse needs, whether it is there, and the command that mends it."""

import re
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from infra.clickhouse import clickhouse_service
from infra.errors import FanpulseError
from infra.home import Home
from infra.kafka import JAVA_NEEDED, KAFKA_VERSION, MEND_MAVEN, find_java, jars_directory, kafka_service
from infra.settings import Settings
from infra.stack import Stack

_GIB = 1024**3
_LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    state: Literal["ok", "warn", "fail"]
    """``warn``: it works now and may not later, or only in part."""
    found: str
    mend: str = ""
    """What to do; empty if ok."""


def check_machine(settings: Settings) -> list[Check]:
    """Make every check; none of them changes anything but an empty home, which is created."""
    checks: list[Check] = []
    for check in (_python, _packages, _java, _jars, _home, _disk, _memory, _open_files, _ports, _services):
        try:
            checks += check(settings)
        except FanpulseError as error:
            checks.append(Check(check.__name__.strip("_"), "fail", error.message, "see the message"))
    return checks


def _python(_: Settings) -> Iterator[Check]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] == (3, 11):
        yield Check("python", "ok", found)
    else:
        mend = "apt-get install python3.11 python3.11-venv && make clean venv PYTHON=python3.11"
        yield Check("python", "fail", f"{found}, and 3.11 is what the locked packages are for", mend)


def _packages(_: Settings) -> Iterator[Check]:
    if not _LOCK.is_file():
        yield Check("packages", "ok", "installed without a lock file beside it, nothing to compare with")
        return
    wrong = []
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)([^\n\\]*)", _LOCK.read_text("utf-8"), re.M)
    for name, wanted, marker in pinned:
        if "sys_platform" in marker or "platform_" in marker:
            continue
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name} {found} instead of {wanted}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        yield Check("packages", "fail", ", ".join(wrong[:3]) + more, "touch requirements.lock && make venv")
    else:
        yield Check("packages", "ok", f"{len(pinned)} as locked")


def _java(settings: Settings) -> Iterator[Check]:
    if settings.kafka is not None:
        yield Check("java", "ok", "not needed, Kafka is named in the settings")
        return
    try:
        java = find_java()
    except FanpulseError as error:
        found, _, mend = error.message.partition(": ")
        yield Check("java", "fail", found, mend)
        return
    yield Check("java", "ok", f"{java.version} at {java.path} ({JAVA_NEEDED} or later is needed)")


def _jars(settings: Settings) -> Iterator[Check]:
    if settings.kafka is not None:
        yield Check("kafka jars", "ok", "not needed, Kafka is named in the settings")
    elif jars_directory().is_dir():
        yield Check("kafka jars", "ok", f"{KAFKA_VERSION} in {jars_directory()}")
    elif maven := shutil.which("mvn"):
        yield Check("kafka jars", "ok", f"not fetched yet; {maven} will")
    else:
        yield Check("kafka jars", "fail", "not fetched yet, and there is no Maven to do it", MEND_MAVEN)


def _home(settings: Settings) -> Iterator[Check]:
    try:
        home = Home(settings.home)
        home.create()
        home.secrets()
    except FanpulseError as error:
        yield Check("home", "fail", error.message, "export FANPULSE_HOME=<a directory that you can write>")
        return
    yield Check("home", "ok", str(settings.home))


def _disk(settings: Settings) -> Iterator[Check]:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free / _GIB
    mend = "free some space, or set FANPULSE_HOME to a larger disk"
    yield _limits("disk", free, 2, 10, f"{free:.0f} GiB free at {place}", mend)


def _memory(_: Settings) -> Iterator[Check]:
    free = psutil.virtual_memory().available / _GIB
    mend = "close other programs; a worker, Kafka and ClickHouse want 4 GiB together"
    yield _limits("memory", free, 1.5, 4, f"{free:.1f} GiB available", mend)


def _open_files(_: Settings) -> Iterator[Check]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
    number = float("inf") if limit == resource.RLIM_INFINITY else float(limit)
    yield _limits("open files", number, 1024, 4096, f"limit {found}", "ulimit -n 65536")


def _ports(settings: Settings) -> Iterator[Check]:
    home = Home(settings.home)
    ports = home.ports()
    services = {"kafka": kafka_service(home), "clickhouse": clickhouse_service(home)}
    for name, port_names in (("kafka", ("kafka",)), ("clickhouse", ("clickhouse_http", "clickhouse_tcp"))):
        if services[name].status().state == "running":
            continue
        for port_name in port_names:
            if port_name in ports and not home.is_free(ports[port_name]):
                found = f"{ports[port_name]} of {port_name} is taken by another program"
                yield Check("ports", "warn", found, "fanpulse up (it chooses another)")
                return
    listed = ", ".join(f"{name} {port}" for name, port in sorted(ports.items())) or "none chosen yet"
    yield Check("ports", "ok", listed)


def _services(settings: Settings) -> Iterator[Check]:
    for row in Stack(settings).status():
        if row.state == "running":
            yield Check(row.service, "ok", f"{row.detail} at {row.address}")
        elif row.state == "stopped":
            yield Check(row.service, "warn", "not running", "fanpulse up")
        elif row.state == "crashed":
            # The other service goes on; a down would stop it, too.
            yield Check(row.service, "fail", f"crashed: {row.detail}", "fanpulse up")
        else:
            yield Check(row.service, "fail", f"{row.state}: {row.detail}", "fanpulse down && fanpulse up")


def _limits(name: str, value: float, least: float, enough: float, found: str, mend: str) -> Check:
    if value < least:
        return Check(name, "fail", found, mend)
    return Check(name, "ok", found) if value >= enough else Check(name, "warn", found, mend)
