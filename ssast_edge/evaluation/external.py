"""A detector that is another program, run over the same audio as a bundle.

The program gets the path of a WAV file (16 kHz, mono, 16 bits) as its last argument and prints JSON
lines: {"setting": 0.5, "label": "computer", "time_s": 12.34, "score": 0.9}, in any order, times in
seconds of audio, the score optional (1 where there is none). {"settings": [0.3, 0.5]} as its first
line declares settings, so that one without any event is known; "passes" in it says how many times
the program goes over the audio (one setting at a time), for the cost of one. {"progress": 0.4}
tells how far it is.
"""

import json
import math
import os
import resource
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import wave
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssast_edge.errors import DetectorError, one_line
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.track import SAMPLE_RATE
from ssast_edge.spotter import Detection

__all__ = ["DetectorRun", "check_command", "run_detector"]

_BLOCK = SAMPLE_RATE * 60
_MAX_SAMPLES = (2**32 - 4096) // 2  # of what a WAV file can hold
_PADDING_S = 0.5  # a detector may fill its last block with silence
_LINE_BYTES = 4096
_SHOWN = 120  # characters of a bad line
_LEAST_LIMIT_S, _LIMIT_OF_AUDIO = 600.0, 4.0  # time limit: so many times as long as the audio


@dataclass(frozen=True)
class DetectorRun:
    """What a detector found in one recording.

    settings: as declared, else in order of appearance. events: of each setting, in time order.
    cpu_seconds: of the program and its children, over all passes. hours: of the audio.
    """

    name: str
    settings: tuple[float, ...]
    events: Mapping[float, tuple[Detection, ...]]
    cpu_seconds: float
    hours: float
    passes: int = 1

    @property
    def cpu_seconds_per_hour(self) -> float:
        """Of audio and pass: what listening with one setting costs."""
        return self.cpu_seconds / self.passes / self.hours


def check_command(name: str, command: str) -> None:
    """Raise DetectorError where the program of a command is not there: before hours of audio."""
    _split(name, command)


def run_detector(
    name: str,
    command: str,
    audio: Audio,
    *,
    labels: Collection[str],
    limit_s: float | None = None,
    progress: Callable[[float], object] | None = None,
) -> DetectorRun:
    """Run `command` (split as a shell would, but without one) over the audio.

    labels: that it may name. limit_s: of the run, default ten minutes or four times the audio.
    progress: called with the share that is done, as far as the program tells it. The program is
    ended, with all that it started, when this is interrupted.

    Raises DetectorError for a command that cannot be run, fails, or prints anything else.
    """
    duration_s = len(audio) / SAMPLE_RATE
    if limit_s is None:
        limit_s = max(_LEAST_LIMIT_S, _LIMIT_OF_AUDIO * duration_s)
    arguments = _split(name, command)
    with tempfile.TemporaryDirectory(prefix="ssast-edge-") as folder:
        path = Path(folder) / "audio.wav"
        _write_wav(name, path, audio)
        lines = _Lines(name, frozenset(labels), duration_s + _PADDING_S, progress)
        with (Path(folder) / "stderr").open("w+b") as errors:
            cpu_seconds = _run(name, [*arguments, str(path)], errors, lines, limit_s)
    events = {s: tuple(sorted(lines.events[s], key=lambda d: d.time_s)) for s in lines.settings}
    return DetectorRun(
        name, tuple(lines.settings), events, cpu_seconds, duration_s / 3600, lines.passes
    )


def _split(name: str, command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise DetectorError(f"{name}: the command {command!r} cannot be split: {error}") from error
    if not arguments:
        raise DetectorError(f"{name}: has no command, wanted NAME=COMMAND")
    if shutil.which(arguments[0]) is None:
        raise DetectorError(f"{name}: no program {arguments[0]!r} is found")
    return arguments


def _write_wav(name: str, path: Path, audio: Audio) -> None:
    """The audio rounded to 16 bits, what is louder than full scale clipped."""
    if not 0 < len(audio) <= _MAX_SAMPLES:
        raise DetectorError(
            f"{name}: {len(audio) / SAMPLE_RATE / 3600:.1f} h of audio do not fit a WAV file: "
            "wanted more than 0 and less than 37 h"
        )
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, len(audio), "NONE", ""))
        for first in range(0, len(audio), _BLOCK):
            block = np.round(audio[first : first + _BLOCK] * np.float32(32768))
            file.writeframesraw(np.clip(block, -32768, 32767).astype("<i2").tobytes())


def _run(
    name: str, arguments: list[str], errors: IO[bytes], lines: "_Lines", limit_s: float
) -> float:
    """Run the program, feed its output to `lines`; its CPU seconds."""
    with _started(name, arguments, errors) as process:
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            _end(process)

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            while line := process.stdout.readline(_LINE_BYTES):
                lines.feed(line)
            status, usage = _wait(process)
        finally:
            timer.cancel()
        if is_late.is_set():
            raise DetectorError(f"{name}: was ended after {limit_s:g} s, the time limit")
        if status:
            raise DetectorError(f"{name}: {_how_it_ended(status)}; {_last_words(errors)}")
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _started(
    name: str, arguments: list[str], errors: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """The running program, a process group of its own; ended, whatever happens."""
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument
        reason = getattr(error, "strerror", None) or error
        raise DetectorError(f"{name}: {arguments[0]!r} cannot be run: {reason}") from error
    try:
        yield process
    finally:
        _end(process)
        if process.returncode is None:
            _wait(process)
        if process.stdout is not None:
            process.stdout.close()


def _wait(process: "subprocess.Popen[bytes]") -> tuple[int, resource.struct_rusage]:
    """Wait for the end: exit status, below 0 a signal, and what this one program used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: only zombies are left
        os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    if status > 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # one of the many real-time signals
        return f"was ended by signal {-status}"


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LINE_BYTES))
    printed = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f"it said: {one_line(printed[-1])}" if printed else "it said nothing"


class _Lines:
    """Reads the lines of a program's output."""

    def __init__(
        self,
        name: str,
        labels: Collection[str],
        last_s: float,
        progress: Callable[[float], object] | None,
    ) -> None:
        self.settings: list[float] = []
        self.events: dict[float, list[Detection]] = defaultdict(list)
        self.passes = 1
        self._name = name
        self._labels = labels
        self._last_s = last_s
        self._progress = progress
        self._is_declared = False
        self._number = 0

    def feed(self, line: bytes) -> None:
        """Take one line. Raises DetectorError where it is none of the protocol."""
        self._number += 1
        if not line.strip():
            return
        try:
            self._take(_parse(line))
        except ValueError as error:
            shown = line[:_SHOWN].decode("utf-8", "replace").strip()
            raise DetectorError(
                f"{self._name}: line {self._number} of its output: {error}: {shown}"
            ) from error

    def _take(self, row: dict[str, Any]) -> None:
        if "settings" in row:
            self._declare(row)
        elif "label" in row:
            self._event(row)
        elif row.keys() == {"progress"}:
            share = _number(row, "progress")
            if self._progress is not None:
                self._progress(min(max(share, 0.0), 1.0))
        else:
            raise ValueError('wanted "settings", or "setting", "label" and "time_s"')

    def _declare(self, row: dict[str, Any]) -> None:
        _only(row, "settings", "passes")
        if self._is_declared or self.settings:
            raise ValueError("settings are declared once, before any event")
        if not isinstance(row["settings"], list):
            raise ValueError("settings must be a list of numbers")
        self.settings = [_finite(value, "a setting") for value in row["settings"]]
        if len(set(self.settings)) < len(self.settings):
            raise ValueError("a setting is declared twice")
        self.passes = row.get("passes", 1)
        if type(self.passes) is not int or self.passes < 1:
            raise ValueError("passes must be a whole number of 1 or more")
        self._is_declared = bool(self.settings)

    def _event(self, row: dict[str, Any]) -> None:
        _only(row, "setting", "label", "time_s", "score")
        setting, time_s = _number(row, "setting"), _number(row, "time_s")
        label = row["label"]
        if not isinstance(label, str) or label not in self._labels:
            raise ValueError(f"unknown label, known: {', '.join(sorted(self._labels))}")
        if not 0 <= time_s <= self._last_s:
            raise ValueError(f"the time is outside of the audio, 0 to {self._last_s:.2f} s")
        if setting not in self.settings:
            if self._is_declared:
                raise ValueError("the setting was not declared")
            self.settings.append(setting)
        score = _number(row, "score") if "score" in row else 1.0
        self.events[setting].append(Detection(label, time_s, score))


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) >= _LINE_BYTES:
        raise ValueError(f"longer than {_LINE_BYTES} bytes")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _only(row: dict[str, Any], *known: str) -> None:
    unknown = row.keys() - set(known)
    if unknown:
        raise ValueError(f"unknown {sorted(unknown)[0]!r}, known: {', '.join(known)}")


def _number(row: dict[str, Any], key: str) -> float:
    if key not in row:
        raise ValueError(f"without {key!r}")
    return _finite(row[key], key)


def _finite(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise ValueError(f"{what} must be a number")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
