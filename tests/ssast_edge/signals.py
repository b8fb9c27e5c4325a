"""Signals that tests make themselves: 0.4 s at 16 kHz, float32 in [-1, 1]."""

import numpy as np

LENGTH = 6400
TIME_S = np.arange(LENGTH) / 16000


def noise(level: float = 0.3) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(LENGTH)).clip(-1, 1).astype(np.float32)


def chirp() -> np.ndarray:
    return (0.8 * np.sin(2 * np.pi * (100 + 8000 * TIME_S) * TIME_S)).astype(np.float32)


def tone_on_dc() -> np.ndarray:
    return (0.2 + 0.5 * np.sin(2 * np.pi * 440 * TIME_S)).astype(np.float32)


def impulses() -> np.ndarray:
    samples = np.zeros(LENGTH, dtype=np.float32)
    samples[::700] = 1.0
    return samples


SIGNALS = {
    "noise": noise,
    "quiet": lambda: noise(1e-4),
    "chirp": chirp,
    "tone_on_dc": tone_on_dc,
    "impulses": impulses,
    "silence": lambda: np.zeros(LENGTH, dtype=np.float32),
}
