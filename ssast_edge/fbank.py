"""Kaldi-compatible log-mel filterbank in numpy, for a whole recording and for a stream.

Knows nothing of models, files or normalisation: what comes out is the raw log-mel. Follows Kaldi's
`compute-fbank-feats` as SSAST sets it (Hann window, no energy, no dither, frames only where they
are whole), the same numbers as `torchaudio.compliance.kaldi.fbank`.

Every operation gives a frame the same bits whatever other frames are computed with it (no BLAS, no
sums across frames), so that a stream equals the whole recording bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Fbank", "FbankConfig", "fbank", "num_frames"]

Samples = NDArray[np.float32]
FloatArray = NDArray[np.float32]

_ENERGY_FLOOR = np.float32(np.finfo(np.float32).eps)  # Kaldi's: log gives -15.942385
_BLOCK_FRAMES = 64  # frames at a time: the intermediate arrays stay in the L2 cache


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """Settings of the front end; they travel in the bundle."""

    sample_rate: int = 16000  # Hz
    num_mel_bins: int = 128
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0  # lower edge of the first mel filter; the last one ends at Nyquist
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        """Refuse settings that leave no window, hop or filter."""
        if self.sample_rate < 1000 or self.num_mel_bins < 1:
            raise ValueError(
                f"sample_rate must be at least 1000 Hz and num_mel_bins at least 1, "
                f"got {self.sample_rate} and {self.num_mel_bins}"
            )
        if self.window_samples < 2 or self.hop_samples < 1:
            raise ValueError(
                f"window_ms and hop_ms must hold samples, got {self.window_ms} and {self.hop_ms}"
            )
        if not 0 <= self.low_hz < self.sample_rate / 2:
            raise ValueError(f"low_hz must be from 0 to Nyquist, got {self.low_hz}")
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"preemphasis must be from 0 to 1, got {self.preemphasis}")

    @property
    def window_samples(self) -> int:
        """Samples in a frame."""
        return int(self.sample_rate * self.window_ms / 1000)

    @property
    def hop_samples(self) -> int:
        """Samples between the starts of two frames."""
        return int(self.sample_rate * self.hop_ms / 1000)

    @property
    def fft_size(self) -> int:
        """Next power of two of the window."""
        return 1 << (self.window_samples - 1).bit_length()


def num_frames(num_samples: int, config: FbankConfig) -> int:
    """Whole frames in `num_samples` samples (Kaldi's snip_edges)."""
    if num_samples < config.window_samples:
        return 0
    return 1 + (num_samples - config.window_samples) // config.hop_samples


def fbank(samples: ArrayLike, config: FbankConfig = FbankConfig()) -> FloatArray:  # noqa: B008
    """Raw log-mel of a whole recording: (frames, num_mel_bins).

    samples: (N,) in [-1, 1] at config.sample_rate. Raises ValueError for another shape.
    """
    checked = _checked(samples)
    count = num_frames(len(checked), config)
    out = np.empty((count, config.num_mel_bins), dtype=np.float32)
    if count:
        kernel = _kernel(config)
        windows = np.lib.stride_tricks.sliding_window_view(checked, config.window_samples)
        frames = windows[:: config.hop_samples]
        for first in range(0, count, _BLOCK_FRAMES):
            out[first : first + _BLOCK_FRAMES] = kernel.log_mel(frames[first : first + _BLOCK_FRAMES])
    return out


class Fbank:
    """The front end of a stream: samples in, frames out as soon as they are whole."""

    def __init__(self, config: FbankConfig = FbankConfig()) -> None:  # noqa: B008
        self.config = config
        self._pending: Samples = np.empty(0, dtype=np.float32)

    def push(self, samples: ArrayLike) -> FloatArray:
        """The frames that these samples complete: (n, num_mel_bins), n may be 0.

        samples: (N,) of any length. Raises ValueError for another shape.
        """
        pending = np.concatenate((self._pending, _checked(samples)))
        frames = fbank(pending, self.config)
        self._pending = pending[len(frames) * self.config.hop_samples :]
        return frames

    def reset(self) -> None:
        """Forget the samples of an unfinished frame: a new stream begins."""
        self._pending = np.empty(0, dtype=np.float32)


class _Kernel:
    """Constants of one configuration, and the arithmetic from windows to log-mel."""

    def __init__(self, config: FbankConfig) -> None:
        self._preemphasis = np.float32(config.preemphasis)
        self._fft_size = config.fft_size
        phase = 2 * np.pi * np.arange(config.window_samples) / (config.window_samples - 1)
        self._window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        filters = _mel_filters(config)  # (num_mel_bins, fft_size // 2)
        # The triangles overlap by half, so a filter is a short run of FFT bins: they are laid end
        # to end and summed run by run.
        runs = [np.flatnonzero(row) for row in filters]
        self._filled = np.flatnonzero([len(run) > 0 for run in runs])
        self._columns = np.concatenate(runs)
        self._weights = np.concatenate([row[run] for row, run in zip(filters, runs, strict=True)])
        lengths = np.array([len(runs[i]) for i in self._filled])
        self._starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        self._num_mel_bins = config.num_mel_bins

    def log_mel(self, windows: FloatArray) -> FloatArray:
        """(n, window_samples) -> (n, num_mel_bins)."""
        centred = windows - windows.mean(axis=1, keepdims=True)
        shaped = centred.copy()
        shaped[:, 1:] -= self._preemphasis * centred[:, :-1]
        shaped[:, 0] -= self._preemphasis * centred[:, 0]
        shaped *= self._window
        spectrum = np.fft.rfft(shaped, self._fft_size)
        power = spectrum.real**2 + spectrum.imag**2
        weighted = power.take(self._columns, axis=1).astype(np.float32, copy=False) * self._weights
        energies = np.zeros((len(windows), self._num_mel_bins), dtype=np.float32)
        energies[:, self._filled] = np.add.reduceat(weighted, self._starts, axis=1)
        return np.log(np.maximum(energies, _ENERGY_FLOOR))


@lru_cache(maxsize=8)
def _kernel(config: FbankConfig) -> _Kernel:
    return _Kernel(config)


def _mel_filters(config: FbankConfig) -> FloatArray:
    """Triangles in mel, (num_mel_bins, fft_size // 2). Kaldi leaves out the Nyquist bin."""
    low, high = _mel(np.array([config.low_hz, config.sample_rate / 2]))
    edges = low + (high - low) / (config.num_mel_bins + 1) * np.arange(config.num_mel_bins + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = _mel(config.sample_rate / config.fft_size * np.arange(config.fft_size // 2))
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(hertz / 700))


def _checked(samples: ArrayLike) -> Samples:
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim != 1:
        raise ValueError(f"samples must have shape (N,), mono, got shape {array.shape}")
    return array
