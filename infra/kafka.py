"""The local Kafka broker: its jars, its configuration, and the service that runs it."""

import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

import platformdirs

from infra.errors import InfraError
from infra.home import Home, write_private
from infra.process import Service

KAFKA_VERSION = "4.1.0"
JAVA_NEEDED = 17
MEND_JAVA = "apt-get install openjdk-17-jre-headless (macOS: brew install openjdk@17)"
MEND_MAVEN = "apt-get install maven (macOS: brew install maven)"

_RESOURCES = files("infra") / "resources"


class Java(NamedTuple):
    """A Java that was found."""

    path: str
    version: int
    """Major version, such as 17."""


def find_java() -> Java:
    """The Java of ``JAVA_HOME``, else of ``PATH``.

    Raises:
        InfraError: there is none, or it is too old.
    """
    java_home = os.environ.get("JAVA_HOME")
    candidate = shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else None
    path = candidate or shutil.which("java")
    if path is None:
        raise InfraError(f"Java {JAVA_NEEDED} or later is needed for Kafka and not installed: {MEND_JAVA}")
    try:
        run = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30)
        found = re.search(r'version "(\d+)(?:\.(\d+))?', run.stderr + run.stdout)
    except (OSError, subprocess.TimeoutExpired):
        found = None
    if found is None:
        raise InfraError(f"Java {JAVA_NEEDED} or later is needed for Kafka, and {path} does not run: {MEND_JAVA}")
    version = int(found[2] or 0) if found[1] == "1" else int(found[1])
    if version < JAVA_NEEDED:
        raise InfraError(f"Java {JAVA_NEEDED} or later is needed for Kafka, {path} is Java {version}: {MEND_JAVA}")
    return Java(path, version)


def jars_directory() -> Path:
    """Where the jars are kept for all homes of this user, there or not."""
    return Path(platformdirs.user_cache_dir("fanpulse", appauthor=False)) / f"kafka-{KAFKA_VERSION}"


def kafka_jars() -> Path:
    """The directory of Kafka's jars; fetched with Maven at the first call (43 MB), no Maven needed afterwards.

    Raises:
        InfraError: Maven is missing, or could not fetch them.
    """
    target = jars_directory()
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise InfraError(f"Maven is needed once, to fetch Kafka's jars, and not installed: {MEND_MAVEN}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                _fetch_jars(maven, target)
    except OSError as error:
        raise InfraError(f"{target.parent}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from None
    return target


def _fetch_jars(maven: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kafka-", dir=target.parent) as temporary:
        jars = Path(temporary) / "jars"
        # Maven writes a target directory beside the POM, so it works on a copy.
        pom = Path(temporary) / "pom.xml"
        pom.write_text((_RESOURCES / "kafka-pom.xml").read_text("utf-8"), "utf-8")
        command = [maven, "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if run.returncode != 0 or not any(jars.glob("kafka_2.13-*.jar")):
            errors = [line for line in (run.stdout + run.stderr).splitlines() if "ERROR" in line] or ["no output"]
            raise InfraError(
                f"Maven could not fetch Kafka's jars: {errors[0].strip()[:400]}; "
                "check the network and the proxy and mirror in ~/.m2/settings.xml"
            )
        os.replace(jars, target)


def kafka_service(home: Home) -> Service:
    """The service of this home's Kafka, on the ports written down (none yet: port 0, never ready)."""
    port = home.ports().get("kafka", 0)
    java = shutil.which("java") or "java"
    if java_home := os.environ.get("JAVA_HOME"):
        java = shutil.which("java", path=str(Path(java_home) / "bin")) or java
    return Service(
        home=home,
        name="kafka",
        argv=[
            java,
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={home.kafka / 'log4j2.properties'}",
            "-cp",
            f"{jars_directory()}/*",
            "kafka.Kafka",
            str(home.kafka / "server.properties"),
        ],
        cwd=home.kafka,
        env={"LC_ALL": "C.UTF-8"},
        ready=lambda: _answers(port),
        timeout=60.0,
        stop_timeout=20.0,
    )


def start_kafka(home: Home) -> None:
    """Start Kafka if it does not run, and wait until it answers.

    Raises:
        InfraError: no Java, no Maven, or it did not come up; the line carries the end of its log.
    """
    if kafka_service(home).status().state != "running":
        java = find_java()
        jars = kafka_jars()
        ports = home.choose_ports("kafka", "kafka_controller")
        values = {"broker": ports["kafka"], "controller": ports["kafka_controller"]}
        properties = Template((_RESOURCES / "kafka-server.properties").read_text("utf-8")).substitute(values)
        write_private(home.kafka / "server.properties", properties)
        write_private(home.kafka / "log4j2.properties", (_RESOURCES / "kafka-log4j2.properties").read_text("utf-8"))
        if not (home.kafka / "data" / "meta.properties").exists():
            _format(home, java, jars)
    kafka_service(home).start()


def _format(home: Home, java: Java, jars: Path) -> None:
    # 16 random bytes in URL-safe base64 is Kafka's form of an id; one that begins with '-' reads as an option.
    cluster = "f" + secrets.token_urlsafe(16)[1:22]
    command = [java.path, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jars}/*"]
    command += ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(home.kafka / "server.properties")]
    run = subprocess.run(command, cwd=home.kafka, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode != 0:
        lines = (run.stderr + run.stdout).strip().splitlines() or ["no output"]
        raise InfraError(f"kafka: cannot prepare {home.kafka / 'data'}: {lines[-1][:400]}")


def _answers(port: int) -> bool:
    """Whether the broker answers an ApiVersions request (it accepts connections well before that)."""
    request = bytes.fromhex("00000011 0012 0000 00000001 0007") + b"doctor1"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.settimeout(5)
            sock.sendall(request)
            return len(sock.recv(4)) == 4
    except OSError:
        return False
