"""The newest line of a program that reports every half second."""

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence

from ssast_edge.energy import MeterMissing

_FIRST_LINE_S = 3.0
_STALE_S = 5.0  # ten reports that did not come: the program hangs or has ended


class LineStream:
    """Runs the program, reads its lines in a thread and keeps the newest.

    Raises MeterMissing when it is not installed or shows no line within a few seconds.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise MeterMissing(f"{command[0]} is not installed")
        self._command = command[0]
        self._line = ""
        self._time_s = 0.0
        self._has_line = threading.Event()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise MeterMissing(f"{command[0]} cannot be run: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if not self._has_line.wait(_FIRST_LINE_S) or not self._line:
            self.close()
            raise MeterMissing(f"{command[0]} showed nothing within {_FIRST_LINE_S:g} s")

    def newest(self) -> str:
        """The newest line. Raises MeterMissing when none came for some seconds."""
        if time.monotonic() - self._time_s > _STALE_S:
            raise MeterMissing(f"{self._command} has stopped reporting")
        return self._line

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(timeout=2)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._line, self._time_s = line.strip(), time.monotonic()
                self._has_line.set()
        self._has_line.set()  # it ended: whoever waits need not wait longer
