"""The loudest moments of each keyword as sound files, for the user to listen to.

As they are heard, so that it works at a microphone: only so many a keyword are ever kept, a
louder one takes the place of the faintest. Nothing of this happens unless it is asked for.
"""

import math
import re
import wave
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssast_edge.errors import SsastEdgeError

Samples = NDArray[np.float32]

CLIPS = 10  # of each keyword
BEFORE_S, AFTER_S = 2.0, 1.0  # around the loudest hop
_FAINTEST = 0.1  # score
_NAME = re.compile(r"_(0\.\d{4}|1\.0000)_[^_]*_\d\dh\d\dm\d\ds(?:-\d+)?\.wav$")


class ClipKeeper:
    """Keeps the loudest moments of a stream in a folder, one folder for all streams."""

    def __init__(self, folder: Path, labels: Sequence[str], sample_rate: int) -> None:
        """Those that are in the folder already count. Raises SsastEdgeError if it is no folder."""
        self._folder = folder
        self._labels = labels
        self._sample_rate = sample_rate
        self._stream = ""
        self._recent: deque[Samples] = deque()
        self._recent_samples = 0
        self._end_s = 0.0  # audio time after the samples in `_recent`
        self._peaks: dict[str, tuple[float, float]] = {}  # label -> score, time of one that lasts
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._kept = {label: sorted(_held(folder, label)) for label in labels}
        except OSError as error:
            raise SsastEdgeError(f"{folder}: {error.strerror or error}") from error

    def begin(self, stream: str) -> None:
        """A new stream begins at audio time 0."""
        self._stream = re.sub(r"[^A-Za-z0-9.-]+", "-", stream)[:40]
        self._recent.clear()
        self._recent_samples, self._end_s = 0, 0.0
        self._peaks.clear()

    def hop(self, time_s: float, scores: Samples) -> None:
        """Take the scores of all labels at a hop, shape (labels,)."""
        for label, score in zip(self._labels, scores.tolist(), strict=True):
            kept = self._kept[label]
            bar = kept[0][0] if len(kept) >= CLIPS else _FAINTEST
            score = round(score, 4) if math.isfinite(score) else 0.0
            if score > max(bar, self._peaks.get(label, (0.0, 0.0))[0]):
                self._peaks[label] = score, time_s

    def audio(self, samples: Samples, end_s: float) -> None:
        """Take the samples that the last hops were made of; they end at audio time `end_s`."""
        self._recent.append(samples)
        self._recent_samples += len(samples)
        self._end_s = end_s
        for label, (score, time_s) in list(self._peaks.items()):
            if end_s >= time_s + AFTER_S:
                del self._peaks[label]
                self._write(label, score, time_s)
        most = round((BEFORE_S + 2 * AFTER_S) * self._sample_rate)
        while self._recent_samples - len(self._recent[0]) >= most:
            self._recent_samples -= len(self._recent.popleft())

    def end(self) -> None:
        """The stream is over."""
        for label, (score, time_s) in self._peaks.items():
            self._write(label, score, time_s)
        self._peaks.clear()

    def _write(self, label: str, score: float, time_s: float) -> None:
        if not self._recent:
            return
        samples = np.concatenate(self._recent)
        start_s = self._end_s - len(samples) / self._sample_rate
        first = max(0, round((time_s - BEFORE_S - start_s) * self._sample_rate))
        last = round((time_s + AFTER_S - start_s) * self._sample_rate)
        minutes, seconds = divmod(int(time_s), 60)
        when = f"{minutes // 60:02d}h{minutes % 60:02d}m{seconds:02d}s"
        path = self._folder / f"{label}_{score:.4f}_{self._stream}_{when}.wav"
        kept = self._kept[label]
        try:
            _write_wav(path, samples[first:last], self._sample_rate)
            kept.append((score, path))
            kept.sort()
            while len(kept) > CLIPS:
                kept.pop(0)[1].unlink(missing_ok=True)
        except OSError as error:
            raise SsastEdgeError(f"{path}: cannot be written: {error.strerror or error}") from error


def _held(folder: Path, label: str) -> list[tuple[float, Path]]:
    """Score and file of each clip of a keyword that is there."""
    found = []
    for path in folder.glob("*.wav"):
        name = _NAME.search(path.name)
        if name and path.name[: name.start()] == label:
            found.append((float(name[1]), path))
    return found


def _write_wav(path: Path, samples: Samples, sample_rate: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    temporary.replace(path)
