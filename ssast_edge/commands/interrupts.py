"""Ctrl-C and SIGTERM: both end `listen` normally, and neither breaks off an import."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """End what is within `with` at Ctrl-C or SIGTERM, by a KeyboardInterrupt that stops here."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def held_signals() -> Iterator[None]:
    """Let signals that Python handles wait until the end of `with`.

    An import of compiled code that a KeyboardInterrupt breaks off raises ImportError, as if the
    library were not installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = {number: handler for number, handler in previous.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        for waiting in held:
            signal.raise_signal(waiting)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
