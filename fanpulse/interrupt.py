"""Ctrl-C as a request: what is under way is finished, and nothing is left behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopping(stop: threading.Event) -> Iterator[threading.Event]:
    """While this lasts Ctrl-C and SIGTERM set ``stop``, and a second one interrupts at once.

    Gives an event that is set only by such a signal, where ``stop`` may be set for other reasons too.
    """
    asked = threading.Event()

    def handle(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
