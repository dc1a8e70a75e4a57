"""The services that fanpulse needs, taken together: started, stopped, looked at."""

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from infra.clickhouse import clickhouse_service, start_clickhouse
from infra.connect import clickhouse_address, clickhouse_client, kafka_address, kafka_admin
from infra.errors import InfraError
from infra.home import Home
from infra.kafka import kafka_service, start_kafka
from infra.process import Service
from infra.settings import Settings, load


@dataclass(frozen=True)
class ServiceRow:
    """One line of ``fanpulse status``."""

    service: str
    state: Literal["running", "stopped", "crashed", "silent"]
    """``silent``: it should be there (a process is, or the settings name it) and does not answer."""
    address: str | None
    pid: int | None
    since: datetime | None
    """Start of the local process, UTC."""
    detail: str


class Stack:
    """Kafka and ClickHouse of one home; one that the settings name is used as it is and never started or stopped."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = Home(settings.home)

    def up(self) -> list[ServiceRow]:
        """Start what does not run, and return when everything answers.

        Raises:
            InfraError: something did not start, or one that is named in the settings does not answer.
        """
        self.home.create()
        with self.home.exclusive("stack", wait=True), ThreadPoolExecutor(2) as pool:
            kafka = pool.submit(self._up_kafka)
            clickhouse = pool.submit(self._up_clickhouse)
            kafka.result()
            clickhouse.result()
        return self.status()

    def down(self) -> list[str]:
        """Stop the local services; returns the names of those that ran."""
        if not self.home.path.is_dir():
            return []
        with self.home.exclusive("stack", wait=True), ThreadPoolExecutor(2) as pool:
            services = [kafka_service(self.home), clickhouse_service(self.home)]
            stopped = list(pool.map(Service.stop, services))
        return [service.name for service, ran in zip(services, stopped, strict=True) if ran]

    def status(self) -> list[ServiceRow]:
        """What is known of each service, asked now."""
        with ThreadPoolExecutor(2) as pool:
            kafka = pool.submit(self._kafka_row)
            clickhouse = pool.submit(self._clickhouse_row)
            return [kafka.result(), clickhouse.result()]

    def _up_kafka(self) -> None:
        if self.settings.kafka is None:
            start_kafka(self.home)
        else:
            self._ask_kafka()

    def _up_clickhouse(self) -> None:
        if self.settings.clickhouse is None:
            start_clickhouse(self.home)
        self._ask_clickhouse()

    def _ask_kafka(self) -> str:
        with contextlib.closing(kafka_admin(self.settings)) as admin:
            brokers = len(admin.describe_cluster()["brokers"])
        return f"{brokers} broker{'s' if brokers != 1 else ''}"

    def _ask_clickhouse(self) -> str:
        with contextlib.closing(clickhouse_client(self.settings, database="system", timeout=10)) as client:
            return f"version {client.server_version}"

    def _kafka_row(self) -> ServiceRow:
        if self.settings.kafka is None:
            return self._local_row(kafka_service(self.home), lambda: kafka_address(self.settings), self._ask_kafka)
        return _named_row("kafka", self.settings.kafka, self._ask_kafka)

    def _clickhouse_row(self) -> ServiceRow:
        if self.settings.clickhouse is None:
            service = clickhouse_service(self.home)
            return self._local_row(service, lambda: clickhouse_address(self.settings), self._ask_clickhouse)
        return _named_row("clickhouse", clickhouse_address(self.settings), self._ask_clickhouse)

    def _local_row(self, service: Service, address: Callable[[], str], ask: Callable[[], str]) -> ServiceRow:
        status = service.status()
        if status.state == "stopped":
            return ServiceRow(service.name, "stopped", None, None, None, "start it: fanpulse up")
        if status.state == "crashed":
            return ServiceRow(service.name, "crashed", None, None, None, f"see {service.log}; start it: fanpulse up")
        try:
            return ServiceRow(service.name, "running", address(), status.pid, status.since, ask())
        except InfraError:
            detail = f"does not answer yet; if it stays so see {service.log}, then: fanpulse down && fanpulse up"
            return ServiceRow(service.name, "silent", None, status.pid, status.since, detail)


def _named_row(name: str, address: str, ask: Callable[[], str]) -> ServiceRow:
    try:
        return ServiceRow(name, "running", address, None, None, f"named in the settings, {ask()}")
    except InfraError as error:
        return ServiceRow(name, "silent", address, None, None, error.message)


@contextlib.contextmanager
def temporary(prefix: str, keep: bool = False) -> Iterator[Stack]:
    """A running stack in a new home in the temporary folder, stopped at the end, however that comes; then the home is
    removed, unless it is to be kept."""
    stack = Stack(load(Path(tempfile.mkdtemp(prefix=prefix))))
    try:
        stack.up()
        yield stack
    finally:
        with _uninterrupted():
            stack.down()
            if not keep:
                shutil.rmtree(stack.home.path, ignore_errors=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave a broker behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
