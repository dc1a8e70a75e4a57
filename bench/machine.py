"""CPU seconds of processes while something is measured, read from outside."""

import os
import threading
import time
from bisect import bisect_left
from types import TracebackType

import psutil

PERIOD = 0.05
"""Seconds between two looks."""


class CpuSampler:
    """Notes the CPU seconds of some processes, by name, 20 times a second, in a thread of its own."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._times: list[float] = []
        self._used: list[dict[str, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu", daemon=True)

    def __enter__(self) -> "CpuSampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def used(self, since: float, until: float) -> dict[str, float]:
        """CPU seconds (user and system) of each process between two moments (``time.time()``)."""
        if not self._times:
            return dict.fromkeys(self._processes, 0.0)
        first, last = self._at(since), self._at(until)
        return {name: last[name] - first[name] for name in self._processes}

    def _at(self, moment: float) -> dict[str, float]:
        return self._used[min(bisect_left(self._times, moment), len(self._times) - 1)]

    def _run(self) -> None:
        while not self._done.is_set():
            used = {}
            for name, process in self._processes.items():
                try:
                    times = process.cpu_times()
                    used[name] = times.user + times.system
                except psutil.NoSuchProcess:
                    used[name] = self._used[-1][name] if self._used else 0.0
            self._times.append(time.time())
            self._used.append(used)
            self._done.wait(PERIOD)


def conditions() -> dict[str, str | float]:
    """What else bears on a measurement: cores, and the load average of the last minute."""
    return {"cores": os.cpu_count() or 0, "load_average": round(os.getloadavg()[0], 2)}
