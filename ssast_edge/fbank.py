"""Kaldi-compatible log-mel filterbank in numpy, for a whole recording and for a stream.

Knows nothing of models, files or normalisation: what comes out is the raw log-mel. Follows Kaldi's
`compute-fbank-feats` as SSAST sets it (Hann window, no energy, no dither, only whole frames), which
is `torchaudio.compliance.kaldi.fbank`. It computes in float64: the float32 FFT of torchaudio has
rounding noise some 90 dB below the loudest bin of a frame, and this one has none.

A frame gets the same bits whatever frames are computed with it: every operation is elementwise or
within one row (no BLAS, whose sums depend on the number of rows). So a stream equals the whole
recording bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Fbank", "FbankConfig", "fbank", "num_frames"]

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

_ENERGY_FLOOR = np.array(np.finfo(np.float32).eps, np.float64)  # Kaldi's: its log is -15.942385
_BLOCK_FRAMES = 32  # frames at a time: more gain little and leave the cache of a small core
_FFT_TAKES_OUT = int(np.__version__.split(".")[0]) >= 2


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """Settings of the front end; they travel in the bundle."""

    sample_rate: int = 16000  # Hz
    num_mel_bins: int = 128
    window_ms: float = 25.0  # length of a frame
    hop_ms: float = 10.0  # from the start of a frame to the start of the next
    low_hz: float = 20.0  # lower edge of the first mel filter; the last one ends at Nyquist
    preemphasis: float = 0.97  # share of the sample before that is subtracted

    def __post_init__(self) -> None:
        """Refuse settings that leave no window, hop or filter."""
        if not (isinstance(self.sample_rate, int) and 1000 <= self.sample_rate <= 768000):
            raise ValueError(
                f"sample_rate must be a whole number from 1000 to 768000 Hz, "
                f"got {self.sample_rate!r}"
            )
        if not 0 < self.hop_ms <= self.window_ms <= 1000:
            raise ValueError(
                f"hop_ms and window_ms must be 0 < hop_ms <= window_ms <= 1000, "
                f"got {self.hop_ms} and {self.window_ms}"
            )
        if self.hop_samples < 1 or self.window_samples < 2:
            raise ValueError(
                f"hop_ms must hold 1 sample and window_ms 2, got {self.hop_ms} and "
                f"{self.window_ms} at {self.sample_rate} Hz"
            )
        most_bins = self.fft_size // 2
        if not (isinstance(self.num_mel_bins, int) and 1 <= self.num_mel_bins <= most_bins):
            raise ValueError(
                f"num_mel_bins must be a whole number from 1 to {most_bins} (half the FFT), "
                f"got {self.num_mel_bins!r}"
            )
        if not 0 <= self.low_hz < self.sample_rate / 2:
            raise ValueError(
                f"low_hz must be at least 0 and below Nyquist ({self.sample_rate / 2:g}), "
                f"got {self.low_hz}"
            )
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"preemphasis must be from 0 to 1, got {self.preemphasis}")

    @property
    def window_samples(self) -> int:
        """Samples in a frame."""
        return int(self.sample_rate * self.window_ms / 1000)

    @property
    def hop_samples(self) -> int:
        """Samples from the start of a frame to the start of the next."""
        return int(self.sample_rate * self.hop_ms / 1000)

    @property
    def fft_size(self) -> int:
        """The window's length, rounded up to a power of two."""
        return 1 << (self.window_samples - 1).bit_length()


_DEFAULT = FbankConfig()


def num_frames(num_samples: int, config: FbankConfig = _DEFAULT) -> int:
    """Whole frames in `num_samples` samples (Kaldi's snip_edges)."""
    return _whole_frames(num_samples, config.window_samples, config.hop_samples)


def fbank(samples: ArrayLike, config: FbankConfig = _DEFAULT) -> FloatArray:
    """Raw log-mel of a whole recording: (frames, num_mel_bins).

    samples: (N,) floats in [-1, 1] at config.sample_rate; fewer than one window give 0 frames.
    A sample that is not finite makes the frames around it NaN.

    Raises:
        ValueError: another shape, or whole numbers (PCM must be scaled first).
    """
    return Fbank(config).push(samples)


class Fbank:
    """The front end of one stream: samples in, frames out as soon as they are whole."""

    def __init__(self, config: FbankConfig = _DEFAULT) -> None:
        self.config = config
        self._window_samples = config.window_samples
        self._hop_samples = config.hop_samples
        self._block = _Block(config)
        self._num_pending = 0  # samples in the block, from the start of the next frame on

    def push(self, samples: ArrayLike) -> FloatArray:
        """The frames that these samples complete: (n, num_mel_bins), n may be 0.

        samples: (N,) floats in [-1, 1], N of any size; see `fbank`.
        """
        fresh = _checked(samples)
        hop, block = self._hop_samples, self._block
        count = _whole_frames(self._num_pending + len(fresh), self._window_samples, hop)
        frames = np.empty((count, self.config.num_mel_bins), dtype=np.float32)
        num_taken = num_done = 0
        while num_taken < len(fresh):
            space = block.samples[self._num_pending :]
            part = fresh[num_taken : num_taken + len(space)]
            space[: len(part)] = part
            num_taken += len(part)
            self._num_pending += len(part)
            count = _whole_frames(self._num_pending, self._window_samples, hop)
            if count:
                block.log_mel(frames[num_done : num_done + count])
                num_done += count
                rest = block.samples[count * hop : self._num_pending]
                self._num_pending = len(rest)
                block.samples[: len(rest)] = rest
        return frames

    def reset(self) -> None:
        """Forget the samples of the unfinished frame: a new stream begins."""
        self._num_pending = 0


class _Block:
    """Up to `_BLOCK_FRAMES` frames of samples, and the arithmetic from them to log-mel.

    Owns its scratch arrays, so one block serves one thread.
    """

    def __init__(self, config: FbankConfig) -> None:
        window, hop, rows = config.window_samples, config.hop_samples, _BLOCK_FRAMES
        self._config = config
        self._tables = _tables(config)
        self._preemphasis = np.array(config.preemphasis)
        # Of the mean, preemphasis leaves this share in every sample.
        self._mean_scale = np.array((1 - config.preemphasis) / window)
        self.samples: DoubleArray = np.zeros(window + (rows - 1) * hop)
        self._emphasised: DoubleArray = np.zeros(len(self.samples) - 1)
        # The padding after the window, and the window's first sample, stay 0.
        self._padded: DoubleArray = np.zeros((rows, config.fft_size))
        self._parts: DoubleArray = np.empty((rows, config.fft_size + 2))
        self._power: DoubleArray = np.empty((rows, config.fft_size // 2 + 1))
        self._weighted: DoubleArray = np.empty((rows, len(self._tables.weights)))
        self._energies: DoubleArray = np.empty((rows, config.num_mel_bins))
        self._scratch: dict[int, _Scratch] = {}  # by number of frames

    def log_mel(self, out: FloatArray) -> None:
        """Log-mel of the block's first frames into `out`, (count, num_mel_bins)."""
        tables, scratch = self._tables, self._scratch_of(len(out))
        # Kaldi preemphasises frame by frame, its first sample with itself; the Hann window is 0
        # there, so the samples of all frames can be preemphasised at once.
        np.multiply(scratch.earlier, self._preemphasis, out=scratch.emphasised)
        np.subtract(scratch.later, scratch.emphasised, out=scratch.emphasised)
        means = np.add.reduce(scratch.windows, axis=-1, keepdims=True)
        np.multiply(means, self._mean_scale, out=means)
        np.subtract(scratch.emphasised_windows, means, out=scratch.shaped)
        np.multiply(scratch.shaped, tables.window, out=scratch.shaped)
        if _FFT_TAKES_OUT:
            np.fft.rfft(scratch.padded, out=scratch.spectrum)
        else:
            scratch.spectrum[...] = np.fft.rfft(scratch.padded)
        np.square(scratch.parts, out=scratch.parts)
        np.add(scratch.real, scratch.imaginary, out=scratch.power)
        # "raise" would buffer `out`.
        scratch.power.take(tables.columns, axis=-1, out=scratch.weighted, mode="clip")
        np.multiply(scratch.weighted, tables.weights, out=scratch.weighted)
        energies = scratch.energies
        np.add.reduceat(scratch.weighted, tables.starts, axis=-1, out=energies)
        np.maximum(energies, _ENERGY_FLOOR, out=energies)
        out[:] = np.log(energies, out=energies)

    def _scratch_of(self, count: int) -> _Scratch:
        found = self._scratch.get(count)
        if found is None:
            found = self._scratch[count] = self._cut(count)
        return found

    def _cut(self, count: int) -> _Scratch:
        window, hop = self._config.window_samples, self._config.hop_samples
        rows = 0 if count == 1 else slice(count)  # numpy is quicker on one row without its axis
        used = window + (count - 1) * hop
        parts, padded = self._parts[rows], self._padded[rows]
        return _Scratch(
            earlier=self.samples[: used - 1],
            later=self.samples[1:used],
            windows=_windows(self.samples, count, window, hop)[rows],
            emphasised=self._emphasised[: used - 1],
            emphasised_windows=_windows(self._emphasised, count, window - 1, hop)[rows],
            padded=padded,
            shaped=padded[..., 1:window],
            spectrum=parts.view(np.complex128),
            parts=parts,
            real=parts[..., 0::2],
            imaginary=parts[..., 1::2],
            power=self._power[rows],
            weighted=self._weighted[rows],
            energies=self._energies[rows],
        )


@dataclass(frozen=True)
class _Scratch:
    """Views of a block's arrays for so many frames: cutting them anew costs as much as using them.

    Each has an axis of frames in front, but for one frame; the samples lie in one row.
    """

    earlier: DoubleArray  # samples: all but the last
    later: DoubleArray  # all but the first
    windows: DoubleArray  # (frames, window_samples)
    emphasised: DoubleArray
    emphasised_windows: DoubleArray  # (frames, window_samples - 1)
    padded: DoubleArray  # (frames, fft_size): what is transformed
    shaped: DoubleArray  # the part of it that is not padding
    spectrum: NDArray[np.complex128]  # (frames, fft_size // 2 + 1)
    parts: DoubleArray  # the same memory: real, imaginary, real, ...
    real: DoubleArray
    imaginary: DoubleArray
    power: DoubleArray
    weighted: DoubleArray  # (frames, entries of the filters)
    energies: DoubleArray  # (frames, num_mel_bins)


@dataclass(frozen=True)
class _Tables:
    """Constants of one configuration.

    The mel filters overlap by half, so a filter is a short run of FFT bins: the runs lie end to
    end, to be summed run by run. An empty filter is one bin of weight 0.
    """

    window: DoubleArray  # (window_samples - 1,): Hann without its first sample, which is 0
    columns: NDArray[np.intp]  # FFT bin of each entry
    weights: DoubleArray  # of each entry
    starts: NDArray[np.intp]  # (num_mel_bins,): first entry of each filter


@lru_cache(maxsize=8)
def _tables(config: FbankConfig) -> _Tables:
    phase = 2 * np.pi * np.arange(1, config.window_samples) / (config.window_samples - 1)
    filters = _mel_filters(config)
    filters[filters.max(axis=1) == 0, 0] = -1  # marks the empty ones, to keep one entry of each
    rows, columns = np.nonzero(filters)
    weights = np.maximum(filters[rows, columns], 0).astype(np.float64)
    starts = np.searchsorted(rows, np.arange(config.num_mel_bins))
    return _Tables(0.5 - 0.5 * np.cos(phase), columns, weights, starts)


def _mel_filters(config: FbankConfig) -> FloatArray:
    """Triangles in mel, (num_mel_bins, fft_size // 2): Kaldi leaves out the Nyquist bin.

    In float32 and in torchaudio's order: mel has few digits left there, and exact weights would
    differ from torchaudio's by up to 0.2 %.
    """
    low, high = (1127 * log(1 + hertz / 700) for hertz in (config.low_hz, config.sample_rate / 2))
    low_mel, step = np.float32(low), np.float32((high - low) / (config.num_mel_bins + 1))
    index = np.arange(config.num_mel_bins + 2, dtype=np.float32)
    edges = low_mel + index * step
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bin_hertz = np.float32(config.sample_rate / config.fft_size)
    hertz = bin_hertz * np.arange(config.fft_size // 2, dtype=np.float32)
    ratio = np.float32(1) + hertz / np.float32(700)
    # Through float64, for the nearest float32 on every processor.
    mels = np.float32(1127) * np.log(ratio.astype(np.float64)).astype(np.float32)
    rising, falling = (mels - left) / (centre - left), (right - mels) / (right - centre)
    filters: FloatArray = np.maximum(np.float32(0), np.minimum(rising, falling))
    return filters


def _windows(samples: DoubleArray, rows: int, window: int, hop: int) -> DoubleArray:
    """View of overlapping windows, (rows, window)."""
    strides = hop * samples.itemsize, samples.itemsize
    view: DoubleArray = np.ndarray((rows, window), np.float64, samples, strides=strides)
    return view


def _whole_frames(num_samples: int, window: int, hop: int) -> int:
    return 0 if num_samples < window else 1 + (num_samples - window) // hop


def _checked(samples: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise ValueError(
            f"samples must be floats in [-1, 1] of shape (N,), mono; "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array
