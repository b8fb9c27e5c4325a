"""Noises made by rule: hums, hisses, engines, crackle, tones and chords, no two alike.

The packs hold a handful of background noises, and a detector that trains on these alone learns
them; these have random spectra and envelopes instead, so that no single one can be learnt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter
from tqdm import tqdm

__all__ = ["make_noise", "write_noises"]

SAMPLE_RATE = 16000
SECONDS = 6

Samples = NDArray[np.float32]


def make_noise(seed: int, number: int) -> Samples:
    """(6 s,) of noise `number`, peak 0.5: one to three layers, each at a level of its own."""
    rng = np.random.default_rng([seed, number])
    layers = rng.choice(len(_LAYERS), size=int(rng.integers(1, 4)), replace=False)
    total = np.zeros(SECONDS * SAMPLE_RATE)
    for layer in layers:
        signal = _LAYERS[layer](rng) * _envelope(rng)
        total += 10 ** rng.uniform(-1, 0) * signal / (np.sqrt(np.mean(signal**2)) + 1e-9)
    scaled: Samples = (0.5 * total / np.abs(total).max()).astype(np.float32)
    return scaled


def write_noises(out: Path, count: int, *, seed: int = 0) -> list[str]:
    """Write the noises that are not there yet; their names below `out`."""
    (out / "noise").mkdir(parents=True, exist_ok=True)
    names = [f"noise/{seed}-{number:04d}.flac" for number in range(count)]
    for number, name in enumerate(tqdm(names, desc="noises", unit="clip", mininterval=2)):
        path = out / name
        if not path.exists():
            partial = path.with_name(f".{path.name}.tmp")
            samples = make_noise(seed, number)
            soundfile.write(partial, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            partial.rename(path)
    return names


def _time() -> NDArray[np.float64]:
    return np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE


def _hiss(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise with a random smooth spectrum, up to three resonances in it."""
    count = SECONDS * SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    octave = np.log2(np.maximum(frequency, 40) / 40)
    knots = np.cumsum(rng.normal(-0.35, 0.9, size=9))  # mostly falling, like most noise
    gain = np.interp(octave, np.arange(9), knots)
    for _ in range(int(rng.integers(0, 4))):
        centre, width = rng.uniform(1, 7.5), rng.uniform(0.03, 0.5)
        gain += rng.uniform(0.5, 2.5) * np.exp(-(((octave - centre) / width) ** 2))
    return np.asarray(np.fft.irfft(spectrum * np.exp(gain), count))


def _engine(rng: np.random.Generator) -> NDArray[np.float64]:
    """Harmonics of a slowly wandering tone, as of motors, fans and mains."""
    base = 2 ** rng.uniform(4.5, 8.5)
    drift = np.interp(_time(), np.linspace(0, SECONDS, 7), rng.normal(0, rng.uniform(0, 0.06), 7))
    phase = 2 * np.pi * np.cumsum(base * 2**drift) / SAMPLE_RATE
    partials = range(1, int(min(24, 7000 // base)) + 1)
    slope = rng.uniform(0.3, 1.6)
    return np.asarray(
        np.sum([rng.normal() * np.sin(n * phase) / n**slope for n in partials], axis=0)
    )


def _crackle(rng: np.random.Generator) -> NDArray[np.float64]:
    """Clicks and knocks through one resonance: rain, fire, keyboards, dishes."""
    count = SECONDS * SAMPLE_RATE
    clicks = (rng.random(count) < 10 ** rng.uniform(-4.3, -2.2)) * rng.standard_normal(count)
    frequency, decay = 2 ** rng.uniform(7.5, 12.5), rng.uniform(0.001, 0.05)
    pole = np.exp(-1 / (decay * SAMPLE_RATE))
    angle = 2 * np.pi * frequency / SAMPLE_RATE
    filtered = lfilter([1.0], [1.0, -2 * pole * np.cos(angle), pole**2], clicks)
    return np.asarray(filtered) + 1e-4 * rng.standard_normal(count)


def _chords(rng: np.random.Generator) -> NDArray[np.float64]:
    """Notes of a scale that fade, a few a second: something like music."""
    total = np.zeros(SECONDS * SAMPLE_RATE)
    root, at = 2 ** rng.uniform(6.5, 8), 0.0
    brightness, length = rng.uniform(0.5, 2.5), rng.uniform(0.15, 1.5)
    while at < SECONDS:
        for step in rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 14, 16], size=int(rng.integers(1, 4))):
            pitch = root * 2 ** (step / 12)
            first = int(at * SAMPLE_RATE)
            time = np.arange(len(total) - first) / SAMPLE_RATE
            fade = np.exp(-time / length) * np.minimum(1, time / 0.01)
            for n in range(1, int(min(10, 7000 // pitch)) + 1):
                total[first:] += fade * np.sin(2 * np.pi * n * pitch * time) / n**brightness
        at += rng.uniform(0.1, 0.8)
    return total


def _sirens(rng: np.random.Generator) -> NDArray[np.float64]:
    """A tone that sweeps or beeps."""
    low = 2 ** rng.uniform(8, 11)
    shape = rng.choice([1.0, 8.0])  # a sine, or nearly two tones in turn
    wave = np.tanh(shape * np.sin(2 * np.pi * rng.uniform(0.2, 6) * _time()))
    pitch = low * 2 ** (rng.uniform(0.05, 0.9) * wave)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    return np.asarray(np.tanh(rng.uniform(0.5, 4) * tone))


def _envelope(rng: np.random.Generator) -> NDArray[np.float64]:
    """Steady, wandering, or coming and going."""
    kind = rng.random()
    if kind < 0.4:
        return np.ones(SECONDS * SAMPLE_RATE)
    points = int(rng.integers(4, 40))
    times = np.linspace(0, SECONDS, points)
    if kind < 0.8:
        decibels = np.cumsum(rng.normal(0, 3, points))
    else:
        decibels = np.where(rng.random(points) < 0.5, 0.0, -30.0)
    return np.asarray(10 ** (np.interp(_time(), times, decibels - decibels.max()) / 20))


_LAYERS = (_hiss, _hiss, _engine, _crackle, _chords, _sirens)
