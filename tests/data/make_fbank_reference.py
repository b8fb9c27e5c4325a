"""Makes fbank_reference.npz: what torchaudio's Kaldi fbank gives for generated signals.

    python tests/data/make_fbank_reference.py

Needs torch and torchaudio; the file was made with 2.11.0. Signals are stored as 16-bit PCM, so that
no rounding of the generator matters. torchaudio computes in float64 here: its float32 FFT has
rounding noise of its own, up to 0.01 in the log of a bin 90 dB below the loudest of its frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.compliance import kaldi

SAMPLE_RATE = 16000
NUM_SAMPLES = 3400  # 19 frames and 120 samples that fill none

DEFAULTS = {
    "htk_compat": True,
    "sample_frequency": SAMPLE_RATE,
    "use_energy": False,
    "window_type": "hanning",
    "num_mel_bins": 128,
    "dither": 0.0,
    "frame_shift": 10,
}
# Other settings, of the noise only.
OTHER_SETTINGS = {
    "40_bins_at_8_khz": {
        "sample_frequency": 8000,
        "num_mel_bins": 40,
        "preemphasis_coefficient": 0.9,
        "low_freq": 60.0,
    },
    "32_ms_window": {"num_mel_bins": 64, "frame_length": 32.0, "frame_shift": 12.5},
}


def signals() -> dict[str, NDArray[np.int16]]:
    """Signals that differ in what they strain: level, dynamic range, DC, silence, onsets."""
    rng = np.random.default_rng(20)
    time_s = np.arange(NUM_SAMPLES) / SAMPLE_RATE
    noise = rng.standard_normal(NUM_SAMPLES)
    harmonics = sum(np.sin(2 * np.pi * 130 * k * time_s + k * k) / k for k in range(1, 50))
    clicks = np.zeros(NUM_SAMPLES)
    clicks[rng.integers(0, NUM_SAMPLES, 6)] = rng.uniform(-1, 1, 6)
    waves = {
        "noise": 0.2 * noise,
        "faint_noise": 1e-4 * noise,
        "chirp": 0.9 * np.sin(2 * np.pi * (100 * time_s + 18000 * time_s**2)),
        "voice": 0.2 * np.asarray(harmonics) * (time_s > 0.05),
        "tone_on_dc": 0.4 + 0.3 * np.sin(2 * np.pi * 440 * time_s),
        "clicks": clicks,
        "silence": np.zeros(NUM_SAMPLES),
    }
    return {
        name: np.clip(np.round(32767 * wave), -32768, 32767).astype(np.int16)
        for name, wave in waves.items()
    }


def reference(pcm: NDArray[np.int16], **settings: float) -> NDArray[np.float32]:
    """What torchaudio gives, (frames, num_mel_bins)."""
    wave = torch.from_numpy(pcm.astype(np.float64) / 32768)[None]
    frames: NDArray[np.float32] = kaldi.fbank(wave, **{**DEFAULTS, **settings}).float().numpy()
    return frames


def main() -> None:
    """Write the file."""
    waves = signals()
    arrays: dict[str, Any] = {}
    for name, pcm in waves.items():
        arrays[f"{name}_pcm"] = pcm
        arrays[f"{name}_fbank"] = reference(pcm)
    for name, settings in OTHER_SETTINGS.items():
        arrays[f"{name}_fbank"] = reference(waves["noise"], **settings)
    path = Path(__file__).with_name("fbank_reference.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
