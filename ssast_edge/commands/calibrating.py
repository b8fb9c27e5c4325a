"""The work of `calibrate`: hears, solves, writes; tells on stderr how far it is."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np

from ssast_edge.bundle import Bundle, resolve_label
from ssast_edge.calibration.clips import ClipKeeper
from ssast_edge.calibration.expected import MissTable, table_of
from ssast_edge.calibration.hearing import Ear, Samples, audio_files
from ssast_edge.calibration.positives import hear_positives, positive_files
from ssast_edge.calibration.rewrite import record_of, triggers_before, write_calibrated
from ssast_edge.calibration.room import Room
from ssast_edge.calibration.said import read_said
from ssast_edge.calibration.solve import Goal, Solution, solve
from ssast_edge.calibration.state import State, header_of
from ssast_edge.clock import clock
from ssast_edge.commands.source import SourceConfig, open_source
from ssast_edge.errors import AudioError, SsastEdgeError

_TOLD_S = 600.0  # audio between two lines where stderr is no terminal
_DEAD = 1e-9  # mean power of a block, -90 dBFS: no microphone that works is so quiet
_DRAWN_S = 0.5  # wall time between two drawings of the line where it is one


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the options ask for."""

    out: Path
    audio: tuple[str, ...]
    device: str | None
    channel: int | None
    hours: float | None
    target: float
    per_keyword: bool
    strict: bool
    confidence: float
    keywords: tuple[str, ...]
    positives: Path | None
    said: Path | None
    state: Path | None
    only_solve: bool
    clips: Path | None

    @property
    def is_live(self) -> bool:
        """Whether a microphone is heard."""
        return not self.audio and not self.only_solve

    @property
    def folder(self) -> Path | None:
        """Where the state is kept; a night at the microphone always is."""
        if self.state is None and self.is_live:
            return self.out.parent / f"{self.out.resolve().name}.calibration"
        return self.state

    @property
    def limit_s(self) -> float:
        """Audio to hear in all."""
        return float("inf") if self.hours is None else 3600 * self.hours

    @property
    def goal(self) -> Goal:
        """For the solver."""
        return Goal(
            target=self.target,
            confidence=self.confidence,
            is_strict=self.strict,
            is_per_keyword=self.per_keyword,
        )

    def check(self) -> None:
        """Raise click.UsageError for options that contradict each other."""
        if self.audio and self.device is not None:
            raise click.UsageError(
                "--device is a microphone's and --audio are recordings: give one of them"
            )
        if self.only_solve and self.state is None:
            raise click.UsageError("--solve takes what --state holds: give --state DIR")
        if self.only_solve and (self.audio or self.device is not None):
            raise click.UsageError("--solve hears nothing: leave out --audio and --device")
        if self.only_solve and self.clips is not None:
            raise click.UsageError(
                "--clips are cut while audio is heard: leave it out with --solve"
            )
        if self.is_live and self.hours is None:
            raise click.UsageError(
                "give --hours, how long to hear the microphone, or --audio with recordings"
            )


@dataclass(frozen=True)
class Found:
    """What a calibration came to."""

    bundle: Bundle  # as it was written
    task: Task
    room: Room
    solution: Solution
    table: MissTable
    record: dict[str, Any]


def run(bundle: Bundle, task: Task, settings: dict[str, Any]) -> Found | None:
    """Hear, solve and write; None when it was stopped before the audio was all heard.

    settings: for the model, as `Spotter` takes them. Raises SsastEdgeError.
    """
    labels = _labels(bundle, task.keywords)
    files = [] if "-" in task.audio else audio_files(task.audio)
    said = {} if task.said is None else read_said(task.said)
    own = {} if task.positives is None else positive_files(task.positives, bundle)
    with State(header_of(bundle), task.folder) as state:
        if not task.only_solve and not _hear(bundle, state, task, files, settings):
            _tell_stopped(state, task)
            return None
        room = state.room(labels, said)
        heard = state.streams
    table = table_of(bundle)
    if own:
        table = table.with_curves(hear_positives(bundle, own, settings={**settings, **_SILENT}))
    before = triggers_before(bundle, heard)
    solution = solve(room, {label: before[label] for label in labels}, task.goal, table)
    record = record_of(solution, heard, before)
    triggers = {outcome.label: outcome.after for outcome in solution.outcomes}
    written = write_calibrated(bundle, task.out, triggers, record)
    return Found(written, task, room, solution, table, record)


_SILENT = {"on_choice": None, "on_note": None}  # the choice of the model is told once


def _labels(bundle: Bundle, keywords: tuple[str, ...]) -> tuple[str, ...]:
    known = [label for label in bundle.labels if label in bundle.triggers]
    wanted = {resolve_label(keyword, known) for keyword in keywords} or set(known)
    return tuple(label for label in known if label in wanted)


def _hear(
    bundle: Bundle, state: State, task: Task, files: list[Path], settings: dict[str, Any]
) -> bool:
    """Hear what is missing; False when Ctrl-C or SIGTERM came first."""
    if state.heard_s >= task.limit_s:
        return True
    clips = None
    if task.clips is not None:
        clips = ClipKeeper(task.clips, state.header.labels, bundle.fbank.sample_rate)
    with _stopping() as stop:
        progress = _Progress(state, task.limit_s)
        ear = Ear(
            bundle,
            state,
            on_audio=lambda samples, heard_s: _audio(ear, progress, clips, samples, heard_s),
            on_hop=None if clips is None else clips.hop,
            **settings,
        )
        try:
            if files:
                _hear_files(ear, state, task, files, clips, stop)
            elif not stop.is_set():
                _hear_live(ear, bundle, state, task, clips, stop)
        except SsastEdgeError as error:
            progress.end()
            raise _with_what_is_kept(error, state) from error
        finally:
            if clips is not None:
                clips.end()
        progress.end()
        return not stop.is_set() or state.heard_s >= task.limit_s


def _hear_files(
    ear: Ear,
    state: State,
    task: Task,
    files: list[Path],
    clips: ClipKeeper | None,
    stop: threading.Event,
) -> None:
    for path in files:
        left_s = task.limit_s - state.heard_s
        if left_s <= 0 or stop.is_set():
            return
        if clips is not None:
            clips.begin(path.stem)
        ear.hear_file(path, channel=task.channel, limit_s=left_s, is_stopped=stop.is_set)
        if clips is not None:
            clips.end()


def _hear_live(
    ear: Ear,
    bundle: Bundle,
    state: State,
    task: Task,
    clips: ClipKeeper | None,
    stop: threading.Event,
) -> None:
    config = SourceConfig(
        input="-" if task.audio else None, device=task.device, channel=task.channel
    )
    left_s = task.limit_s - state.heard_s
    with open_source(config, bundle.fbank.sample_rate) as source:
        click.echo(f"hearing {source.name}: say no keyword; Ctrl-C keeps what was heard", err=True)
        if clips is not None:
            clips.begin(source.name)
        ear.hear_live(source.name, source, limit_s=left_s, is_stopped=stop.is_set)


def _audio(
    ear: Ear, progress: "_Progress", clips: ClipKeeper | None, samples: Samples, heard_s: float
) -> None:
    if clips is not None:
        clips.audio(samples, ear.time_s)
    progress.show(samples, heard_s)


def _with_what_is_kept(error: SsastEdgeError, state: State) -> SsastEdgeError:
    """An error of the audio after which there is something to go on with says so."""
    if isinstance(error, AudioError) and state.folder is not None and state.heard_s > 0:
        return AudioError(
            f"{error}; {clock(state.heard_s, digits=0)} of audio are kept in {state.folder}: the "
            "same command goes on"
        )
    return error


def _tell_stopped(state: State, task: Task) -> None:
    heard = clock(state.heard_s, digits=0)
    if state.folder is None:
        click.echo(
            f"stopped after {heard} of audio, nothing written (--state DIR would keep it)", err=True
        )
        return
    wanted = "" if task.hours is None else f" of {clock(task.limit_s, digits=0)}"
    click.echo(
        f"stopped: {heard}{wanted} of audio are kept in {state.folder}; the same command goes on, "
        f"--state {state.folder} --solve takes what there is",
        err=True,
    )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the block at hand is finished. Again: at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python handles signals in the main thread only
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Progress:
    """How far it is, on stderr: a line that changes on a terminal, else one now and then."""

    def __init__(self, state: State, limit_s: float) -> None:
        self._limit_s = limit_s
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = time.monotonic(), state.heard_s
        self._drawn = -float("inf")
        self._told_s = state.heard_s
        self._width = 0
        self._samples = self._dead_samples = 0

    def show(self, samples: Samples, total_s: float) -> None:
        """Tell of a block; total_s: audio heard so far."""
        power = float(np.mean(samples**2))
        self._samples += len(samples)
        self._dead_samples += len(samples) if power < _DEAD else 0
        if not self._is_terminal:
            if total_s - self._told_s >= _TOLD_S:
                self._told_s = total_s
                click.echo(f"heard {self._how_far(total_s)}", err=True)
            return
        now = time.monotonic()
        if now - self._drawn < _DRAWN_S:
            return
        self._drawn = now
        level = 10 * np.log10(max(power, 1e-12))
        line = f"heard {self._how_far(total_s)}  {level:4.0f} dBFS"
        line += self._speed(total_s, now)
        self._width = max(self._width, len(line))
        click.echo(f"\r{line:<{self._width}}", err=True, nl=False)

    def end(self) -> None:
        """Leave the line as it is; tell of a microphone that was not on."""
        if self._width:
            click.echo(err=True)
            self._width = 0
        if self._dead_samples > self._samples / 10:
            click.echo(
                f"note: {100 * self._dead_samples / self._samples:.0f} % of what was heard now is "
                "digital silence, which shows nothing: is the microphone muted?",
                err=True,
            )

    def _how_far(self, total_s: float) -> str:
        shown = clock(total_s, digits=0)
        if self._limit_s == float("inf"):
            return shown
        return f"{shown} of {clock(self._limit_s, digits=0)}"

    def _speed(self, total_s: float, now: float) -> str:
        began, before_s = self._began
        speed = (total_s - before_s) / max(now - began, 1e-3)
        return f"  {speed:.0f} times real time" if speed > 2 else ""
