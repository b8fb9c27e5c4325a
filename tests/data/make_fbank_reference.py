"""Writes fbank_reference.npz: torchaudio's Kaldi filterbank on signals that the test makes itself.

    python tests/data/make_fbank_reference.py

In float64, because torchaudio's float32 FFT is off by up to 0.009 where a loud tone leaves a mel
filter near the floor. Run with torchaudio 2.11.
"""

from pathlib import Path

import numpy as np
import torch
from torchaudio.compliance import kaldi

from tests.ssast_edge.signals import SIGNALS


def reference(samples: np.ndarray) -> np.ndarray:
    """(frames, 128) float32 as SSAST calls it."""
    fbank = kaldi.fbank(
        torch.from_numpy(samples.astype(np.float64))[None],
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    return fbank.numpy().astype(np.float32)


if __name__ == "__main__":
    arrays = {name: reference(make()) for name, make in SIGNALS.items()}
    np.savez_compressed(Path(__file__).with_name("fbank_reference.npz"), **arrays)
