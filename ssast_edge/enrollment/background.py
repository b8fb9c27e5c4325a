"""What a bundle's encoder gives for audio without the new word, and the space it is judged in.

Made where the bundle is exported (`train/background.py`), read on the device. An embedding, (S, W),
becomes R numbers in two linear steps: each segment by one basis, all segments by another.
Knows nothing of audio. S segments, W width, K numbers a segment, R numbers in all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.errors import BundleError
from ssast_edge.npz import read_npz

__all__ = ["ARRAYS", "Background", "read_background"]

FloatArray = NDArray[np.float32]

ARRAYS = (
    "segment_mean",  # (W,)
    "segment_basis",  # (W, K)
    "mean", "basis",  # (S * K,), (S * K, R)
    "centre", "covariance",  # (R,), (R, R) of speech, sounds and other words said alone
    "within",  # (R, R) of recordings of one and the same word
    "windows",  # (N, R), one hop each, of speech and sounds
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Background:
    """The arrays of ARRAYS, in float32."""

    segment_mean: FloatArray
    segment_basis: FloatArray
    mean: FloatArray
    basis: FloatArray
    centre: FloatArray
    covariance: FloatArray
    within: FloatArray
    windows: FloatArray

    def project(self, embeddings: FloatArray) -> FloatArray:
        """(N, S, W) to (N, R)."""
        segments = (embeddings - self.segment_mean) @ self.segment_basis
        flat = segments.reshape(len(embeddings), -1) - self.mean
        return np.asarray(flat @ self.basis, np.float32)

    def unfold(self, direction: FloatArray) -> tuple[FloatArray, float]:
        """Weights (S, W) and bias that give `project(embedding) @ direction` of an embedding."""
        size = self.segment_basis.shape[1]
        segments = (self.basis @ direction).reshape(-1, size)  # (S, K)
        weights = (segments @ self.segment_basis.T).astype(np.float32)
        bias = -float(weights.sum(axis=0) @ self.segment_mean)
        return weights, bias - float(self.mean @ segments.ravel())


def read_background(bundle: Bundle) -> Background:
    """The bundle's background. Raises BundleError, in one line, where it has none that fits."""
    config = bundle.embedding
    if config is None or not config.background:
        raise BundleError(
            f"bundle {bundle.name} {bundle.version} cannot be taught words: it holds no background "
            "embeddings; teach wake-words-windows, or add them: python -m train background"
        )
    what = f"background {config.background}"
    try:
        arrays = read_npz(bundle.path / config.background, ARRAYS, what)
        found = {name: np.asarray(arrays[name], np.float32) for name in ARRAYS}
        _check(found, config.segments, config.width, what)
    except (ValueError, TypeError) as error:
        raise BundleError(f"bundle {bundle.path}: {error}") from error
    return Background(**found)


def _check(found: dict[str, FloatArray], segments: int, width: int, what: str) -> None:
    size, rank = found["segment_basis"].shape[-1], found["basis"].shape[-1]
    wanted = {
        "segment_mean": (width,),
        "segment_basis": (width, size),
        "mean": (segments * size,),
        "basis": (segments * size, rank),
        "centre": (rank,),
        "covariance": (rank, rank),
        "within": (rank, rank),
        "windows": (len(found["windows"]), rank),
    }
    for name, shape in wanted.items():
        if found[name].shape != shape or not np.isfinite(found[name]).all():
            raise ValueError(f"{what}: {name} must be finite numbers of the shape {shape}")
