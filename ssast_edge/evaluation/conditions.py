"""What a track is heard through: noise, a room, a telephone line. Made while it is read.

Rooms and telephone leave the words where they are: the direct sound comes first, filters have no
delay.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.noise import is_steady, mix_noise
from ssast_edge.evaluation.reel import Audio, bounds_of
from ssast_edge.evaluation.track import SAMPLE_RATE, Track

__all__ = [
    "DEFAULT_CONDITIONS",
    "Reverberant",
    "Telephone",
    "condition_name",
    "describe",
    "heard_through",
    "needs_noise",
    "room_response",
]

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]

DEFAULT_CONDITIONS = ("clean", "20dB", "10dB", "5dB", "0dB", "reverb", "telephone")

_SNR = re.compile(r"([+-]?\d+(?:\.\d+)?) ?dB", re.IGNORECASE)
_ROOMS_RT60_S = (0.3, 0.45, 0.6, 0.8)
_DIRECT_DB = (6.0, 3.0, 0.0, -3.0)  # direct to reverberant, of each room
_BAND_HZ = (300.0, 3400.0)
_TAPS = 401
_MU = 255.0


def condition_name(text: str) -> str:
    """The name of a condition as reports write it; raises SsastEdgeError for an unknown one."""
    wanted = text.strip()
    if wanted.lower() in ("clean", "reverb", "telephone"):
        return wanted.lower()
    found = _SNR.fullmatch(wanted)
    if found:
        return f"{float(found[1]):g}dB"
    raise SsastEdgeError(
        f"unknown condition {text!r}, wanted clean, reverb, telephone or noise of so many dB "
        "below the voice, as 10dB"
    )


def needs_noise(name: str) -> bool:
    """Whether the condition mixes noise."""
    return name.endswith("dB")


def describe(name: str) -> str:
    """What a condition is, in words."""
    if needs_noise(name):
        return f"steady noise {name[:-2]} dB below the active level of each recording"
    return {
        "clean": "as recorded",
        "reverb": "a synthetic room for each recording, RT60 0.3 to 0.8 s, direct sound +6 to "
        "-3 dB over the reverberation",
        "telephone": "300 to 3400 Hz at 8 kHz, mu-law of 8 bits",
    }[name]


def heard_through(name: str, track: Track, noise: Sequence[Samples], *, seed: int) -> Audio:
    """The track in a condition. noise: recordings for those that mix noise.

    Raises SsastEdgeError for noise that is missing or pauses.
    """
    if name == "clean":
        return track.samples
    if name == "reverb":
        rng = np.random.default_rng([seed, 1])
        rooms = [
            room_response(rng, rt60_s, direct_db)
            for rt60_s, direct_db in zip(_ROOMS_RT60_S, _DIRECT_DB, strict=True)
        ]
        return Reverberant(track.samples, track.bounds, rooms, seed=seed)
    if name == "telephone":
        return Telephone(track.samples)
    steady = [clip for clip in noise if is_steady(clip)]
    if not steady:
        had = f"none of {len(noise)} goes on without a pause" if noise else "there is none"
        raise SsastEdgeError(
            f"condition {name} needs recordings of kind noise, and {had}: add some, or leave the "
            "condition out"
        )
    return mix_noise(track, steady, snr_db=float(name[:-2]), seed=seed)


def room_response(rng: np.random.Generator, rt60_s: float, direct_db: float) -> Floats:
    """(N,) direct sound 1, some early reflections, and a diffuse tail that decays by rt60_s.

    direct_db: of the direct sound over all the rest.
    """
    length = int(rt60_s * SAMPLE_RATE)
    decay = 10 ** (-3 * np.arange(length) / length)
    response = rng.standard_normal(length) * decay
    response[: int(rng.uniform(0.002, 0.008) * SAMPLE_RATE)] = 0
    early = rng.integers(40, 800, size=6)
    response[early] += 4 * rng.uniform(-1, 1, size=6) * decay[early]
    response *= np.sqrt(10 ** (-direct_db / 10) / np.sum(response**2))
    response[0] = 1.0
    return response


class Reverberant:
    """Audio whose stretches each lie in a room; what rings on rings into the next.

    bounds: of the stretches, from 0 to the end. rooms: impulse responses, drawn by the seed.
    """

    def __init__(
        self, base: Audio, bounds: Sequence[int], rooms: Sequence[Floats], *, seed: int
    ) -> None:
        self._base = base
        self._bounds = np.array(bounds)
        self._rooms = rooms
        rng = np.random.default_rng([seed, 2])
        self._room = rng.integers(len(rooms), size=len(bounds) - 1)
        self._reach = max(map(len, rooms)) - 1

    def __len__(self) -> int:
        """How many samples."""
        return len(self._base)

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last."""
        first, last = bounds_of(cut, len(self._base))
        out = np.zeros(last - first, np.float64)
        before = max(0, first - self._reach)
        heard = self._base[before:last]
        index = int(np.searchsorted(self._bounds, before, side="right")) - 1
        while index < len(self._room) and self._bounds[index] < last:
            begin = max(before, int(self._bounds[index]))
            stop = min(last, int(self._bounds[index + 1]))
            rung = _convolve(heard[begin - before : stop - before], self._rooms[self._room[index]])
            # `rung` begins at `begin` and goes on beyond `stop`.
            start, end = max(first, begin), min(last, begin + len(rung))
            if start < end:
                out[start - first : end - first] += rung[start - begin : end - begin]
            index += 1
        return out.astype(np.float32)


class Telephone:
    """Audio through a telephone line: its band, 8000 samples a second, mu-law of 8 bits."""

    def __init__(self, base: Audio) -> None:
        self._base = base
        self._band = _lowpass(_BAND_HZ[1]) - _lowpass(_BAND_HZ[0])
        self._smooth = 2 * _lowpass(_BAND_HZ[1])  # half of the samples are zeros

    def __len__(self) -> int:
        """How many samples."""
        return len(self._base)

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last."""
        first, last = bounds_of(cut, len(self._base))
        reach = _TAPS - 1  # of both filters together
        start, end = max(0, first - reach), min(len(self._base), last + reach)
        line = _filtered(self._base[start:end].astype(np.float64), self._band)
        line[1 - start % 2 :: 2] = 0  # every second sample is left out, the same of any cut
        line = _mu_law(line)
        return _filtered(line, self._smooth)[first - start : last - start].astype(np.float32)


def _mu_law(samples: Floats) -> Floats:
    """Through 8 bits and back; zeros stay."""
    clipped = np.clip(samples, -1, 1)
    code = np.sign(clipped) * np.log1p(_MU * np.abs(clipped)) / np.log1p(_MU)
    steps = np.round(code * 127) / 127
    return np.asarray(np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU)


def _lowpass(hertz: float) -> Floats:
    """(taps,) windowed sinc."""
    time = np.arange(_TAPS) - _TAPS // 2
    taps = np.sinc(2 * hertz / SAMPLE_RATE * time) * np.blackman(_TAPS)
    return np.asarray(taps / taps.sum())


def _filtered(samples: Floats, taps: Floats) -> Floats:
    """Without delay, as long as the input."""
    half = len(taps) // 2
    return _convolve(samples, taps)[half : half + len(samples)]


def _convolve(samples: NDArray[np.floating], response: Floats) -> Floats:
    """All of the convolution, by the Fourier transform."""
    length = len(samples) + len(response) - 1
    size = 1 << (length - 1).bit_length()
    product = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.asarray(np.fft.irfft(product, size)[:length])
