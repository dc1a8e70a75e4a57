"""The state directory: everything that one fanpulse installation keeps on this machine."""

import contextlib
import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

from infra.errors import InfraError
from infra.settings import Settings

_LONGEST_PATH = 512
# Below the range that Linux and macOS hand out to outgoing connections: those would take a port of ours now and then.
_PORTS = range(20_000, 32_000)


class Secrets(BaseModel):
    """The passwords and keys of this home; generated once, kept in ``secrets.json`` (mode 0600)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_password: SecretStr
    analyst_password: SecretStr
    fan_key: SecretStr
    """32 bytes, hexadecimal."""


class Home:
    """Layout of the state directory.

    ``run/`` pid files and locks, ``logs/`` one file a service, ``kafka/`` and ``clickhouse/`` their data and
    configuration, ``secrets.json``, ``ports.json``. Nothing is made before :meth:`create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.logs = path / "logs"
        self.kafka = path / "kafka"
        self.clickhouse = path / "clickhouse"

    def create(self) -> None:
        """Make the directories (mode 0700); nothing happens if they are there.

        Raises:
            InfraError: the path is too long, or cannot be written.
        """
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            raise InfraError(
                f"home {str(self.path)[:60]}...: the path is longer than {_LONGEST_PATH} bytes; "
                "set a shorter one with --home or FANPULSE_HOME"
            )
        try:
            for directory in (self.path, self.run, self.logs, self.kafka, self.clickhouse):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(directory))
        except OSError as error:
            raise InfraError(
                f"home {self.path}: cannot be written ({error.strerror}); "
                "set another directory with --home or FANPULSE_HOME"
            ) from None

    def secrets(self) -> Secrets:
        """The passwords of this home, generated at the first call.

        Raises:
            InfraError: the file is there but broken.
        """
        file = self.path / "secrets.json"
        if not file.exists():
            self.create()
            with self.exclusive("secrets", wait=True):
                if not file.exists():
                    _write_json(
                        file,
                        {
                            "app_password": secrets.token_urlsafe(24),
                            "analyst_password": secrets.token_urlsafe(24),
                            "fan_key": secrets.token_hex(32),
                        },
                    )
        try:
            return Secrets.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            raise InfraError(
                f"{file}: cannot be read as this home's passwords; restore it from a backup, "
                "or remove it and run fanpulse down && fanpulse up (new passwords, and a new key to hash fan ids with)"
            ) from None

    def ports(self) -> dict[str, int]:
        """The ports written down so far, by name."""
        try:
            ports: dict[str, int] = json.loads((self.path / "ports.json").read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise InfraError(f"{self.path / 'ports.json'}: cannot be read; remove it, new ports are chosen") from None
        return ports

    def choose_ports(self, *names: str) -> dict[str, int]:
        """Ports for services that are not running now: those written down if they are free, else new free ones.

        The choice is written to ``ports.json`` before it is returned.
        """
        self.create()
        with self.exclusive("ports", wait=True):
            ports = self.ports()
            taken = {port for name, port in ports.items() if name not in names}
            for name in names:
                if name not in ports or not self.is_free(ports[name]):
                    ports[name] = self._free_port(taken)
                taken.add(ports[name])
            _write_json(self.path / "ports.json", ports)
        return {name: ports[name] for name in names}

    def write_port(self, name: str, port: int) -> None:
        """Write down a port that a service has bound by itself."""
        self.create()
        with self.exclusive("ports", wait=True):
            _write_json(self.path / "ports.json", {**self.ports(), name: port})

    @staticmethod
    def is_free(port: int) -> bool:
        """Whether nothing listens on this port of 127.0.0.1."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True

    def _free_port(self, taken: set[int]) -> int:
        for port in random.sample(_PORTS, 500):
            if port not in taken and self.is_free(port):
                return port
        raise InfraError(
            f"no free port found on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}; stop what listens there"
        )

    @contextlib.contextmanager
    def exclusive(self, what: str, *, wait: bool = False, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock ``run/<what>.lock``: one process of this home at a time; freed even by kill -9.

        Args:
            what: name of the operation.
            wait: wait for the other one to finish instead of refusing.
            on_wait: called once if it must be waited for.

        Raises:
            InfraError: another process holds it (and ``wait`` is false).
        """
        self.create()
        file = self.run / f"{what}.lock"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise InfraError(
                        f"{what}: already running in this home (pid {holder}, {self.path}); "
                        "wait for it, stop it, or use another --home"
                    ) from None
                if on_wait is not None:
                    on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)


def fan_key(settings: Settings) -> bytes:
    """The secret that fan ids are hashed with: that of the settings, else this home's own."""
    key = settings.fan_key or Home(settings.home).secrets().fan_key
    return bytes.fromhex(key.get_secret_value())


def write_private(file: Path, content: str) -> None:
    """Write a file (mode 0600) so that a reader sees the old content or the new, never half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_private(file, json.dumps(content, indent=1) + "\n")
