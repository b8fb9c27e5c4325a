"""Audio through the bundle's own streaming runtime, its scores into the state.

A file that was broken off goes on where its last record ends, with the scores of an uninterrupted
run to the bit: the runtime is fed the audio that its window then holds once more.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import Block, file_blocks
from ssast_edge.bundle import Bundle
from ssast_edge.calibration.room import Keeper
from ssast_edge.calibration.state import Hops, Progress, State
from ssast_edge.errors import AudioError
from ssast_edge.spotter import Spotter

RECORD_S = 30.0  # audio between two records of the state
_EXTENSIONS = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64"}
_SAME_S = 1e-6
_FINGERPRINT_BYTES = 1 << 20

Samples = NDArray[np.float32]
# After each block: samples, audio heard in all streams so far.
OnAudio = Callable[[Samples, float], None]
# After each inference: audio time, scores of the labels that have a trigger.
OnHop = Callable[[float, Samples], None]


class Ear:
    """A spotter whose scores go into a state.

    on_hop and on_audio: told of everything that is new, never of audio that is only heard again.
    record_s: audio between two records of the state. settings: for the model, as `Spotter` takes
    them.
    """

    def __init__(
        self,
        bundle: Bundle,
        state: State,
        *,
        on_audio: OnAudio | None = None,
        on_hop: OnHop | None = None,
        record_s: float = RECORD_S,
        **settings: Any,
    ) -> None:
        self._bundle = bundle
        self._record_s = record_s
        self._state = state
        self._columns = [bundle.labels.index(label) for label in state.header.labels]
        self._on_audio = on_audio or (lambda samples, heard_s: None)
        self._on_hop = on_hop or (lambda time_s, scores: None)
        self._spotter = Spotter(bundle, keywords=(), on_scores=self._hop, **settings)
        self._keeper = Keeper(state.header.reach)
        self._progress = state.begin("", begun="", identity="")
        self._has_gap = False
        self._lost_s = 0.0
        self._others_s = 0.0  # heard in the other streams

    @property
    def time_s(self) -> float:
        """Audio time in the stream that is heard, gaps included."""
        return self._spotter.time_s

    def hear_file(
        self,
        path: Path,
        *,
        channel: int | None,
        limit_s: float,
        is_stopped: Callable[[], bool],
    ) -> None:
        """Hear a file, from where it was left if the state knows it; nothing if it is done.

        limit_s: no more audio of it than this. is_stopped: asked after each block; what was heard
        since the last record is then heard again the next time.
        """
        rate = self._bundle.fbank.sample_rate
        identity = fingerprint(path)
        known = [stream for stream in self._state.streams if stream.identity == identity]
        progress = known[0] if known else None
        if progress is not None and progress.is_done:
            return
        progress = progress or self._state.begin(path.name, begun="", identity=identity)
        start = self._begin(progress)
        at = 0  # samples of the file so far
        for block in file_blocks(path, sample_rate=rate, channel=channel):
            samples = block.samples[max(0, start - at) :]
            at += len(block.samples)
            if not len(samples):
                continue
            self._spotter.push(samples)
            heard_s = self._spotter.time_s
            if heard_s > self._progress.heard_s:
                self._on_audio(samples, self._others_s + heard_s)
            if is_stopped():
                return
            if heard_s >= limit_s:
                self._note(is_done=False)
                return
        self._note(is_done=True, heard_s=self._spotter.time_s)

    def hear_live(
        self,
        name: str,
        blocks: Iterable[Block],
        *,
        limit_s: float,
        is_stopped: Callable[[], bool],
    ) -> None:
        """Hear a microphone or a pipe until it ends; what was heard is kept whatever happens.

        limit_s and is_stopped: as in hear_file. Lost audio is not counted as heard.
        """
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._begin(self._state.begin(name, begun=now, identity=f"{name} {now}"))
        heard_s = 0.0
        try:
            for block in blocks:
                if block.dropped_s:
                    self._spotter.skip(block.dropped_s)
                    self._has_gap = True
                    self._lost_s += block.dropped_s
                self._spotter.push(block.samples)
                heard_s = self._spotter.time_s - self._lost_s
                self._on_audio(block.samples, self._others_s + heard_s)
                if is_stopped() or heard_s >= limit_s:
                    return
        finally:
            if heard_s:
                self._note(is_done=True, heard_s=heard_s)

    def _begin(self, progress: Progress) -> int:
        """Take up a stream; the sample from which on the runtime must hear it."""
        self._progress = progress
        self._keeper = Keeper(self._state.header.reach, progress.after)
        self._has_gap, self._lost_s = False, 0.0
        self._others_s = self._state.heard_s - progress.heard_s
        self._spotter.reset()
        fbank = self._bundle.fbank
        if not progress.last_s:
            return 0
        last_sample = round(progress.last_s * fbank.sample_rate)
        frames = (last_sample - fbank.window_samples) // fbank.hop_samples + 1
        hop_frames = round(self._bundle.hop_ms / fbank.hop_ms)
        first = max(0, frames - self._bundle.window_frames) // hop_frames * hop_frames
        start = first * fbank.hop_samples
        self._spotter.skip(start / fbank.sample_rate)
        return start

    def _hop(self, time_s: float, scores: Samples) -> None:
        before_s = self._progress.last_s
        if time_s <= before_s + _SAME_S:
            return  # heard again, to fill the window
        columns = scores[self._columns]
        self._keeper.add(time_s, columns, self._has_gap)
        self._has_gap = False
        self._progress = replace(self._progress, last_s=time_s)
        self._on_hop(time_s, columns)
        # At multiples of audio time, wherever the audio was cut: each run writes the same records.
        if int(time_s / self._record_s) > int(before_s / self._record_s):
            self._note(is_done=False, heard_s=time_s - self._lost_s)

    def _note(self, *, is_done: bool, heard_s: float | None = None) -> None:
        """Write down how far the stream was heard, up to the last hop if nothing else is known."""
        self._progress = replace(
            self._progress,
            heard_s=self._progress.last_s if heard_s is None else heard_s,
            after=self._keeper.after,
            is_done=is_done,
        )
        self._state.add(self._progress, Hops(*self._keeper.take()))


def audio_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files, and those in folders, in order.

    Raises AudioError for one that is missing, a folder without audio, the same recording twice.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [
            file
            for file in sorted(path.rglob("*") if path.is_dir() else ())
            if file.suffix.lower() in _EXTENSIONS
        ]
        if path.is_dir() and not inside:
            raise AudioError(f"{path}: holds no audio file, wanted WAV, FLAC, Ogg or MP3")
        found += inside or [path]
    seen: dict[str, Path] = {}
    for file in found:
        other = seen.setdefault(fingerprint(file), file)
        if other is not file:
            raise AudioError(f"{file}: is the same recording as {other}: it would count twice")
    return found


def fingerprint(path: Path) -> str:
    """Tells recordings apart by their size, their first and their last megabyte."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        if path.is_file():
            with path.open("rb") as file:
                digest.update(file.read(_FINGERPRINT_BYTES))
                file.seek(max(0, size - _FINGERPRINT_BYTES))
                digest.update(file.read(_FINGERPRINT_BYTES))
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:32]
