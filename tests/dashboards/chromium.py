"""A real Chromium without a window, steered by its DevTools protocol through a pair of pipes."""

import base64
import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

DEADLINE = 90.0
"""Seconds that anything may take; a busy machine needs a fraction of it."""

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def chromium_path() -> str | None:
    """Where Chromium is on this machine; None: nowhere."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Navigated(Exception):
    """The page was left while it was asked."""


class Browser:
    """One window. ``problems`` are errors of the console, exceptions, and files that could not be loaded."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._number = 0
        self._left = b""
        self.problems: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, url: str, width: int = 1920, height: int = 1080) -> None:
        """Goes to an address, in a window of that many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, what: str, deadline: float = DEADLINE) -> Any:
        """Waits for an expression in the page to be true, and returns its value."""
        end = time.monotonic() + deadline
        while True:
            with contextlib.suppress(Navigated):
                if value := self.evaluate(script):
                    return value
            assert time.monotonic() < end, f"still waiting for {what}; problems: {self.problems}"
            time.sleep(0.05)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Writes a PNG of the window, or of the whole page."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(made["data"]))

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event: mousePressed, mouseMoved or mouseReleased, of the left button."""
        pressed = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def call(self, method: str, **parameters: Any) -> Any:
        """Sends a command and returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, orjson.dumps(message) + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer and "navigated" in answer["error"]["message"]:
                    raise Navigated
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _next(self) -> Any:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], DEADLINE)
            assert ready, "Chromium does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return orjson.loads(message)

    def _note(self, event: Any) -> None:
        given = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = given["exceptionDetails"]
                self.problems.append(str(details.get("exception", {}).get("description", details["text"])))
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                self.problems.append(" ".join(str(each.get("value", each)) for each in given["args"]))
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}".strip())


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium that ends with the block.

    Args:
        folder: for its profile; nothing of the user's is touched.
    """
    path = chromium_path()
    assert path is not None
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        # The protocol is spoken on descriptors 3 and 4; plain sh knows none above 9 to make them of.
        ["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash", path, *_OPTIONS, f"--user-data-dir={folder}"],
        pass_fds=(in_read, out_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(in_read)
    os.close(out_write)
    try:
        yield Browser(out_read, in_write)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(in_write)
        os.close(out_read)
