"""Mean and standard deviation of the log-mel features, which normalise a model's input."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from ssast_edge.fbank import FbankConfig, fbank
from train.data.source import ClipSource, DecodeError

__all__ = ["fbank_statistics"]


def fbank_statistics(
    source: ClipSource, config: FbankConfig, *, sample: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Over all frames of up to `sample` recordings, drawn by the seed; raw log-mel.

    Padding is no audio and does not count. Recordings that do not decode are passed over.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(source))[:sample]
    count, total, squares = 0, 0.0, 0.0
    for index in tqdm(chosen, desc="statistics", unit="clip", mininterval=2, leave=False):
        try:
            features = fbank(source.samples(int(index)), config).astype(np.float64)
        except DecodeError:
            continue
        count += features.size
        total += float(features.sum())
        squares += float(np.square(features).sum())
    if not count:
        raise ValueError(f"none of {len(chosen)} recordings can be read: no statistics")
    mean = total / count
    return mean, float(np.sqrt(max(squares / count - mean * mean, 1e-12)))
