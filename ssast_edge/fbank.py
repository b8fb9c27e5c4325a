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

_ENERGY_FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's: log gives -15.942385
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
    kernel = _kernel(config)
    hop, window = config.hop_samples, config.window_samples
    for first in range(0, count, _BLOCK_FRAMES):
        block = min(_BLOCK_FRAMES, count - first)
        part = checked[first * hop : (first + block - 1) * hop + window]
        out[first : first + block] = kernel.log_mel(part, block)
    return out


class Fbank:
    """The front end of a stream: samples in, frames out as soon as they are whole."""

    def __init__(self, config: FbankConfig = FbankConfig()) -> None:  # noqa: B008
        self.config = config
        self._kernel = _kernel(config)
        self._window_samples, self._hop_samples = config.window_samples, config.hop_samples
        self._pending: Samples = np.empty(0, dtype=np.float32)

    def push(self, samples: ArrayLike) -> FloatArray:
        """The frames that these samples complete: (n, num_mel_bins), n may be 0.

        samples: (N,) of any length. Raises ValueError for another shape.
        """
        checked = _checked(samples)
        pending = np.concatenate((self._pending, checked)) if len(self._pending) else checked
        if len(pending) < self._window_samples + self._hop_samples:
            frames = self._one_or_none(pending)  # the usual case of a live stream
        else:
            frames = fbank(pending, self.config)
        # A copy: the caller may reuse its block, and a view would keep a long one alive.
        self._pending = pending[len(frames) * self._hop_samples :].copy()
        return frames

    def _one_or_none(self, pending: Samples) -> FloatArray:
        if len(pending) < self._window_samples:
            return self._kernel.nothing
        return self._kernel.log_mel(pending[: self._window_samples], 1)

    def reset(self) -> None:
        """Forget the samples of an unfinished frame: a new stream begins."""
        self._pending = np.empty(0, dtype=np.float32)


class _Kernel:
    """Constants of one configuration, and the arithmetic from windows to log-mel."""

    def __init__(self, config: FbankConfig) -> None:
        self._fft_size, self._hop = config.fft_size, config.hop_samples
        phase = 2 * np.pi * np.arange(config.window_samples) / (config.window_samples - 1)
        self._window = 0.5 - 0.5 * np.cos(phase)
        # Pre-emphasis is folded into the window: w[n] * (x[n] - c * x[n - 1]). The first sample
        # has no one before it, and a Hann window's weight for it is zero.
        self._late_window = self._window[1:] * config.preemphasis
        filters = _mel_filters(config)  # (num_mel_bins, fft_size // 2)
        # The triangles overlap by half, so a filter is a short run of FFT bins: they are laid end
        # to end and summed run by run.
        # One that lies between two FFT bins is empty; it takes bin 0 with its weight of zero.
        runs = [np.flatnonzero(row) if row.any() else np.array([0]) for row in filters]
        self._columns = np.concatenate(runs)
        self._weights = np.concatenate([row[run] for row, run in zip(filters, runs, strict=True)])
        lengths = [len(run) for run in runs]
        self._starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        self.nothing: FloatArray = np.empty((0, config.num_mel_bins), dtype=np.float32)

    def log_mel(self, samples: Samples, count: int) -> FloatArray:
        """`count` frames from just the samples that they cover -> (count, num_mel_bins)."""
        windows = np.ndarray(
            (count, len(self._window)),
            dtype=np.float32,
            buffer=samples,
            strides=(self._hop * samples.itemsize, samples.itemsize),
        )
        # float64 inside: beside a loud tone, float32 sums put an error of 1 % on quiet filters.
        wide = windows.astype(np.float64)
        centred = wide - np.add.reduce(wide, axis=1, keepdims=True) / len(self._window)
        shaped = centred * self._window
        shaped[:, 1:] -= centred[:, :-1] * self._late_window
        spectrum = np.fft.rfft(shaped, self._fft_size)
        power = spectrum.real**2 + spectrum.imag**2
        weighted = power.take(self._columns, axis=1) * self._weights
        energies = np.add.reduceat(weighted, self._starts, axis=1)
        return np.log(np.maximum(energies, _ENERGY_FLOOR)).astype(np.float32)


@lru_cache(maxsize=8)
def _kernel(config: FbankConfig) -> _Kernel:
    return _Kernel(config)


def _mel_filters(config: FbankConfig) -> NDArray[np.float64]:
    """Triangles in mel, (num_mel_bins, fft_size // 2). Kaldi leaves out the Nyquist bin."""
    low, high = _mel(np.array([config.low_hz, config.sample_rate / 2]))
    edges = low + (high - low) / (config.num_mel_bins + 1) * np.arange(config.num_mel_bins + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = _mel(config.sample_rate / config.fft_size * np.arange(config.fft_size // 2))
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(hertz / 700))


def _checked(samples: ArrayLike) -> Samples:
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim != 1:
        raise ValueError(f"samples must have shape (N,), mono, got shape {array.shape}")
    return np.ascontiguousarray(array)
