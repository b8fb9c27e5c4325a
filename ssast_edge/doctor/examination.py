"""Runs the checks: each area in a process of its own, each check with its time limit.

A check whose process crashes or does not answer is a problem of its own; the checks after it go
on in a new process. Nothing that a driver does can hang or end the doctor.
"""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from ssast_edge.doctor.finding import Check, Finding, Options
from ssast_edge.errors import one_line

START_S = 40.0  # for a process to start and import, on a busy small board
_POLL_S = 0.2
_KILL_S = 1.0  # a process inside a hanging driver may not even be killed

# The parent's import path, so that both run the same ssast_edge.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from ssast_edge.doctor.child import main; main(sys.argv[1])"
)


@dataclass(frozen=True)
class Line:
    """One line of the report."""

    area: str
    check: str
    finding: Finding
    decides: bool  # a problem here keeps `listen` from working

    @property
    def stops_listen(self) -> bool:
        """Whether `listen` does not work because of it."""
        return self.decides and self.finding.status == "problem"


def examine(areas: Mapping[str, Sequence[Check]], options: Options) -> Iterator[Line]:
    """Every finding, area by area, each area as soon as it and those before it are done."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(areas)) as pool:
        try:
            running = {
                area: pool.submit(_examine_area, checks, options, stop)
                for area, checks in areas.items()
            }
            for area, future in running.items():
                for check, finding in future.result():
                    yield Line(area, check.name, finding, check.decides)
        finally:  # Ctrl-C: the pool waits for its threads
            stop.set()


def _examine_area(
    checks: Sequence[Check], options: Options, stop: threading.Event
) -> list[tuple[Check, Finding]]:
    found: list[tuple[Check, Finding]] = []
    failed: set[str] = set()
    child: _Child | None = None
    try:
        for check in checks:
            if stop.is_set():
                break
            if check.needs in failed:
                findings = [Finding("skipped", f"see {check.needs}")]
            else:
                child = child or _Child(options, stop)
                findings = child.ask(check)
                if not child.is_alive:
                    child.close()
                    child = None
            found += [(check, finding) for finding in findings]
            if not findings or any(f.status in ("problem", "skipped") for f in findings):
                failed.add(check.name)
    finally:
        if child is not None:
            child.close()
    return found


class _Child:
    """A process that answers for one check after another, until one hangs or crashes it."""

    def __init__(self, options: Options, stop: threading.Event) -> None:
        self.is_alive = True
        self._stop = stop
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        given = json.dumps(dataclasses.asdict(options))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, given, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._received = b""
        self._is_ready = False

    def ask(self, check: Check) -> list[Finding]:
        """Its findings; one of our own when there is no answer, and the process is done with."""
        is_ready = self._is_ready or self._line(START_S) == b'"ready"'
        self._is_ready = is_ready
        limit_s = check.limit_s if is_ready else START_S
        line = None
        if is_ready:
            with suppress(BrokenPipeError):
                self._stdin.write(f"{_question(check)}\n".encode())
                self._stdin.flush()
            line = self._line(limit_s)
        if line:
            return [Finding(**finding) for finding in json.loads(line)]
        self.is_alive = False
        if line is None and self._process.poll() is None:
            what = f"no answer within {limit_s:g} s: its driver or library hangs"
            return [Finding("problem", what, "connect the device anew, or restart the machine")]
        return [Finding("problem", self._last_words(), "install the library that it names anew")]

    def close(self) -> None:
        """End it; one that hangs in a driver may stay behind."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._stderr.close()

    def _line(self, limit_s: float) -> bytes | None:
        """The next line; empty when the process has ended, None when it is too late."""
        end_s = time.monotonic() + limit_s
        while b"\n" not in self._received:
            remaining_s = end_s - time.monotonic()
            if remaining_s <= 0 or self._stop.is_set():
                return None
            if not select.select([self._stdout], [], [], min(remaining_s, _POLL_S))[0]:
                continue
            piece = os.read(self._stdout.fileno(), 1 << 16)
            if not piece:
                return b""
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        status = self._process.returncode
        if status is not None and status < 0:
            with suppress(ValueError):
                return f"the process crashed ({signal.Signals(-status).name}){self._said()}"
        return f"the process ended with status {status}{self._said()}"

    def _said(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {one_line(lines[-1])[:200]}" if lines else ""


def _question(check: Check) -> str:
    run = f"{check.run.__module__}:{check.run.__name__}"
    return json.dumps({"name": check.name, "run": run, "decides": check.decides})
