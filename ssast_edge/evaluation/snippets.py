"""Short WAV files of what was playing, to be listened to in a report."""

import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.track import SAMPLE_RATE

__all__ = ["Snippets"]

BEFORE_S, AFTER_S = 1.7, 0.3  # of a moment
_QUIET, _LOUD = 0.02, 0.5  # peaks below the first are raised to the second


class Snippets:
    """Snippets in a folder, cut once; `finish` takes away those that nothing names any more."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key[:8]
        self._named: set[str] = set()

    def cut(self, condition: str, start_s: float, end_s: float, audio: Callable[[], Audio]) -> str:
        """The path of a stretch of a condition's audio, relative to the report's folder."""
        name = f"{self._key}-{condition}-{round(1000 * start_s)}-{round(1000 * end_s)}.wav"
        self._named.add(name)
        path = self._folder / name
        if not path.is_file():
            heard = audio()
            first = max(0, round(start_s * SAMPLE_RATE))
            last = min(len(heard), round(end_s * SAMPLE_RATE))
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".tmp")
            partial.write_bytes(_wav(heard[first:last]))
            partial.replace(path)
        return f"{self._folder.name}/{name}"

    def finish(self) -> None:
        """Delete snippets of earlier reports in the same folder."""
        for path in self._folder.glob("*-*-*-*.wav"):
            if path.name not in self._named:
                path.unlink(missing_ok=True)


def _wav(samples: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> bytes:
    peak = float(np.abs(samples).max(initial=0.0))
    gain = _LOUD / peak if 0 < peak < _QUIET else min(1.0, 1 / max(peak, 1e-9))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, len(samples), "NONE", ""))
        out.writeframes(np.round(samples * gain * 32767).astype("<i2").tobytes())
    return file.getvalue()
