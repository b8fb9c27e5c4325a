"""Tells systemd that a service is ready, alive and what it does (sd_notify(3)).

A datagram on the unix socket that $NOTIFY_SOCKET names. Without it, as in a terminal, nothing
happens. Never raises and never waits: a service manager that has gone must not stop the service.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from ssast_edge.errors import one_line

STATUS_S = 5.0  # between two STATUS= lines

_log = logging.getLogger(__name__)


class ServiceManager:
    """The service manager that started this process, or nobody.

    watchdog_s: it ends the process when `alive` was not called for so long; None if it does not
    watch.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.watchdog_s = _watchdog_s(environ)
        self._socket = _connect(environ.get("NOTIFY_SOCKET", ""))
        # Twice per interval is what sd_watchdog_enabled(3) asks for; thrice survives a late one.
        self._alive_s = self.watchdog_s / 3 if self.watchdog_s else STATUS_S
        self._is_ready = False
        self._next_alive_s = self._next_status_s = 0.0  # by the monotonic clock

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def alive(self, describe: Callable[[], str]) -> None:
        """The service has just done its work: ready the first time, then the watchdog's sign.

        describe: called every STATUS_S seconds for a line about what the service does.
        """
        if self._socket is None:
            return
        now_s = time.monotonic()
        fields = []
        if not self._is_ready:
            self._is_ready = True
            fields.append("READY=1")
        if now_s >= self._next_alive_s:
            self._next_alive_s = now_s + self._alive_s
            fields.append("WATCHDOG=1")
        if now_s >= self._next_status_s:
            self._next_status_s = now_s + STATUS_S
            fields.append(f"STATUS={one_line(describe())}")
        if fields:
            self._send("\n".join(fields))

    def stopping(self, status: str) -> None:
        """The service ends; nothing is sent after it."""
        self._send(f"STOPPING=1\nSTATUS={one_line(status)}")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(message.encode())
        except OSError as error:  # gone, or its queue is full: the next one may arrive
            _log.debug("the service manager does not answer: %s", error)


def _connect(address: str) -> socket.socket | None:
    # A path, or @name in Linux's abstract namespace; anything else (vsock:) is not for us.
    if not address.startswith(("/", "@")):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    connection.setblocking(False)
    try:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
    except (OSError, ValueError) as error:
        connection.close()
        _log.debug("NOTIFY_SOCKET=%s cannot be used: %s", address, error)
        return None
    return connection


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Seconds, None when no watchdog is set, or one for another process."""
    try:
        seconds = int(environ.get("WATCHDOG_USEC", "")) / 1e6
        process = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return seconds if seconds > 0 and process == os.getpid() else None
