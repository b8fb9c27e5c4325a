"""Augmentation of waveforms (room, speed, band, clipping) and of log-mel (level, noise, masks).

Waveform steps are dear and run once, when the feature pool is made; log-mel steps are cheap and run
on every batch. Two facts carry the second half: a gain is a constant added to the log-mel, and
uncorrelated signals add their mel powers. Everything random comes from the generator passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor

from ssast_edge.fbank import FbankConfig

__all__ = [
    "LogMelAugmentConfig",
    "WaveformAugmentConfig",
    "add_noise",
    "augment_waveform",
    "random_level",
    "room_impulse_response",
    "spec_augment",
    "warp_frequencies",
]

Samples = NDArray[np.float32]
SAMPLE_RATE = 16000
_WARPED_TO_HZ = 4800.0  # frequencies above take what is left up to Nyquist
_MEL, _MEL_HZ = 1127.0, 700.0  # Kaldi's: mel = 1127 ln(1 + Hz / 700)
LOG_FLOOR = float(np.log(np.finfo(np.float32).eps))  # the front end's floor


@dataclass(frozen=True, kw_only=True)
class WaveformAugmentConfig:
    """Chances and ranges of the waveform steps; a clip's first rendering is left as it is."""

    speed: tuple[float, float] = (0.85, 1.15)  # factor; pitch goes with it
    reverb_chance: float = 0.5
    rt60_s: tuple[float, float] = (0.1, 0.7)
    telephone_chance: float = 0.08
    clipping_chance: float = 0.1


@dataclass(frozen=True, kw_only=True)
class LogMelAugmentConfig:
    """Ranges of the steps on batches of raw log-mel windows."""

    level_db: tuple[float, float] = (-20.0, 10.0)
    tilt_db: float = 6.0  # standard deviation of a smooth random equaliser's end points
    noise_chance: float = 0.75
    snr_db: tuple[float, float] = (-2.0, 30.0)
    mask_bins: int = 20  # widest frequency mask; two are drawn
    mask_frames: int = 12  # widest time mask; two are drawn
    mask_chance: float = 0.5


def room_impulse_response(rng: np.random.Generator, rt60_s: float) -> Samples:
    """A direct path, a few early reflections and an exponentially decaying diffuse tail."""
    length = max(int(rt60_s * SAMPLE_RATE), 400)
    time = np.arange(length) / SAMPLE_RATE
    tail = rng.standard_normal(length) * 10 ** (-3 * time / rt60_s)
    predelay = int(rng.uniform(0.001, 0.01) * SAMPLE_RATE)
    tail[:predelay] = 0
    early = rng.integers(20, min(length, 800), size=6)
    tail[early] += rng.uniform(-2, 2, size=6) * 10 ** (-3 * time[early] / rt60_s) * 3
    direct_to_reverberant = 10 ** (rng.uniform(-3, 12) / 10)
    tail *= np.sqrt(1 / (direct_to_reverberant * np.sum(tail**2) + 1e-12))
    tail[0] = 1.0
    return tail.astype(np.float32)


def augment_waveform(
    samples: Samples, config: WaveformAugmentConfig, rng: np.random.Generator
) -> tuple[Samples, float]:
    """(N,) -> (M,) samples and the speed factor; times in the clip divide by the factor."""
    speed = float(rng.uniform(*config.speed))
    out = soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ")
    if rng.random() < config.reverb_chance:
        response = room_impulse_response(rng, float(rng.uniform(*config.rt60_s)))
        out = fftconvolve(out, response)[: len(out)]
    if rng.random() < config.telephone_chance:
        band = butter(
            4,
            [rng.uniform(200, 350), rng.uniform(3000, 3600)],
            "bandpass",
            fs=SAMPLE_RATE,
            output="sos",
        )
        out = sosfilt(band, out)
    if rng.random() < config.clipping_chance:
        limit = np.abs(out).max() * rng.uniform(0.1, 0.6)
        out = np.clip(out, -limit, limit)
    return np.asarray(out, dtype=np.float32), speed


def warp_frequencies(
    fbank: Tensor, front_end: FbankConfig, factors: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """(B, T, F) log-mel with all frequencies times a random factor: throats of another length.

    Up to 4.8 kHz, and piecewise linear to Nyquist (Jaitly and Hinton, 2013).
    """
    low, high = factors
    factor = low + (high - low) * torch.rand(len(fbank), 1, generator=generator)
    nyquist = front_end.sample_rate / 2
    lowest, highest = (_MEL * math.log1p(hz / _MEL_HZ) for hz in (front_end.low_hz, nyquist))
    mels = torch.linspace(lowest, highest, front_end.num_mel_bins + 2)[None, 1:-1]
    hertz = _MEL_HZ * torch.expm1(mels / _MEL)
    # Where a bin's content came from.
    knee = _WARPED_TO_HZ * factor.clamp_max(1)
    came_to = knee / factor
    beyond = nyquist - (nyquist - came_to) / (nyquist - knee) * (nyquist - hertz)
    source = torch.where(hertz <= knee, hertz / factor, beyond)
    step = float(mels[0, 1] - mels[0, 0])
    at = (_MEL * torch.log1p(source / _MEL_HZ) - float(mels[0, 0])) / step
    at = at.clamp(0, front_end.num_mel_bins - 1)
    below = at.floor().long().clamp_max(front_end.num_mel_bins - 2)
    share = (at - below)[:, None]
    index = below[:, None].expand_as(fbank)
    return torch.lerp(fbank.gather(2, index), fbank.gather(2, index + 1), share)


def random_level(fbank: Tensor, config: LogMelAugmentConfig, generator: torch.Generator) -> Tensor:
    """(B, T, F) raw log-mel at another gain, through a smooth random equaliser."""
    batch, _, bins = fbank.shape
    low, high = config.level_db
    level = low + (high - low) * torch.rand(batch, 1, 1, generator=generator)
    knots = config.tilt_db * torch.randn(batch, 1, 5, generator=generator)
    curve = torch.nn.functional.interpolate(knots, size=bins, mode="linear", align_corners=True)
    db_to_log = float(np.log(10) / 10)
    return (fbank + db_to_log * (level + curve)).clamp_min(LOG_FLOOR)


def add_noise(
    fbank: Tensor, noise: Tensor, config: LogMelAugmentConfig, generator: torch.Generator
) -> Tensor:
    """Mix noise windows (B, T, F) into signal windows (B, T, F) at random SNR, by mel power.

    The signal's level is the mean power of its louder half of frames, the noise's its mean power.
    """
    batch = fbank.shape[0]
    signal_power = fbank.exp().mean(dim=2)  # (B, T)
    loud = signal_power.topk(signal_power.shape[1] // 2, dim=1).values.mean(dim=1)
    noise_power = noise.exp().mean(dim=(1, 2))
    low, high = config.snr_db
    snr_db = low + (high - low) * torch.rand(batch, generator=generator)
    gain = torch.log(loud + 1e-7) - torch.log(noise_power + 1e-7) - snr_db * float(np.log(10) / 10)
    mixed = torch.logaddexp(fbank, noise + gain[:, None, None])
    chosen = torch.rand(batch, 1, 1, generator=generator) < config.noise_chance
    return torch.where(chosen, mixed, fbank)


def spec_augment(
    fbank: Tensor, fill: float, config: LogMelAugmentConfig, generator: torch.Generator
) -> Tensor:
    """Two frequency and two time masks on (B, T, F), set to `fill` (the data's mean)."""
    batch, frames, bins = fbank.shape
    mask = torch.zeros(batch, frames, bins, dtype=torch.bool)
    for _ in range(2):
        for size, widest, shape in (
            (bins, config.mask_bins, (batch, 1, bins)),
            (frames, config.mask_frames, (batch, frames, 1)),
        ):
            width = torch.randint(0, widest + 1, (batch, 1, 1), generator=generator)
            start = (torch.rand(batch, 1, 1, generator=generator) * (size - width)).long()
            place = torch.arange(size).reshape(1, *((1, -1) if shape[1] == 1 else (-1, 1)))
            mask |= (place >= start) & (place < start + width)
    mask &= torch.rand(batch, 1, 1, generator=generator) < config.mask_chance
    return fbank.masked_fill(mask, fill)
