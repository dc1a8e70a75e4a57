"""The state directory: private files, ports that stay, locks that hold."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import InfraError
from infra.home import Home, fan_key
from infra.settings import Settings


def test_secrets_are_generated_once_and_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    secrets = home.secrets()
    assert Home(tmp_path / "home").secrets() == secrets
    assert stat.S_IMODE((home.path / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert len(fan_key(Settings(home=home.path))) == 32
    assert fan_key(Settings(home=home.path, fan_key="0a" * 16)) == b"\n" * 16
    assert Home(tmp_path / "other").secrets().app_password != secrets.app_password


def test_broken_secrets_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(InfraError, match=r"secrets.json: cannot be read"):
        Home(tmp_path).secrets()
    assert (tmp_path / "secrets.json").read_text() == "{}"


def test_ports_stay_until_something_else_takes_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    chosen = home.choose_ports("a", "b")
    assert len(set(chosen.values())) == 2
    assert home.choose_ports("b", "a") == chosen == home.ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen["a"]))
        other.listen()
        assert not home.is_free(chosen["a"])
        again = home.choose_ports("a", "b")
    assert again["a"] != chosen["a"]
    assert again["b"] == chosen["b"]
    home.write_port("health", 1234)
    assert home.ports() == {**again, "health": 1234}


def test_path_too_long(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="longer than 512 bytes; set a shorter one"):
        Home(tmp_path / ("x" * 250) / ("y" * 250)).create()


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match="cannot be written .*; set another directory"):
        Home(tmp_path / "file" / "home").create()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.exclusive("demo"):
        with pytest.raises(InfraError, match=rf"demo: already running in this home \(pid {os.getpid()}, "):
            home.exclusive("demo").__enter__()
        with home.exclusive("other"):
            pass
    with home.exclusive("demo"):
        pass


def test_lock_is_freed_by_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from infra.home import Home\n"
        "with Home(Path(sys.argv[1])).exclusive('demo'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    waited = []
    with Home(tmp_path).exclusive("demo", wait=True, on_wait=lambda: waited.append(True)):
        assert not waited


def test_ports_file_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(InfraError, match=r"ports.json: cannot be read; remove it"):
        Home(tmp_path).ports()
