"""What a bundle's encoder gives for audio without the new word, and the space it is judged in.

Made where the bundle is exported (`train/background.py`), read on the device. In the file the
windows, thousands of them in random order, are whole numbers from -127 to 127. A row of an
embedding, W numbers, becomes P by one linear step; rows become the parts of a word as
`stretches.py` says, R = PARTS * P numbers. Knows nothing of audio. S rows of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.enrollment.stretches import PARTS, part_means
from ssast_edge.errors import BundleError
from ssast_edge.npz import read_npz

__all__ = ["ARRAYS", "STEP", "Background", "packed", "read_background"]

FloatArray = NDArray[np.float32]

ARRAYS = (
    "mean",  # (W,)
    "basis",  # (W, P)
    "within",  # (R, R) covariance of recordings of one and the same word
    "windows",  # (N, S, P) int8, one embedding each, of speech and sounds
)
# (P,) what 1 stands for in the windows; files before wake-words 0.9.0 hold these as they are.
STEP = "step"

FEWEST_WINDOWS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Background:
    """The arrays of ARRAYS, in float32, the windows in what they stand for."""

    mean: FloatArray
    basis: FloatArray
    within: FloatArray
    windows: FloatArray

    def project(self, embeddings: FloatArray) -> FloatArray:
        """(N, S, W) to (N, S, P)."""
        return np.asarray((embeddings - self.mean) @ self.basis, np.float32)

    def along(self, direction: FloatArray, lengths: Sequence[float]) -> FloatArray:
        """(V, S, P) weights that give a direction (R,) of the parts at each of V lengths."""
        rows, size = self.windows.shape[1:]
        by_part = direction.reshape(PARTS, size)
        return np.stack([part_means(length, rows).T @ by_part for length in lengths])

    def unfold(self, along: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights (V, S, W) and biases (V,) for embeddings, of (V, S, P) and (V,) for rows."""
        weights = (along @ self.basis.T).astype(np.float32)
        return weights, (bias - (weights @ self.mean).sum(axis=1)).astype(np.float32)


def packed(background: Background) -> dict[str, Any]:
    """The arrays of ARRAYS and the step, as a file holds them."""
    largest = np.abs(background.windows).max(axis=(0, 1))
    # As the file has it, and never so small that it has nothing; rounded up, as 128 is no int8.
    step = np.nextafter(np.maximum(largest / 127, 1e-4).astype(np.float16), np.float16(np.inf))
    windows = np.round(background.windows / step.astype(np.float32)).astype(np.int8)
    plain = {"mean": background.mean, "basis": background.basis, "within": background.within}
    halved = {name: array.astype(np.float16) for name, array in plain.items()}
    return {**halved, "windows": windows, STEP: step}


def read_background(bundle: Bundle) -> Background:
    """The bundle's background. Raises BundleError, in one line, where it has none that fits."""
    config = bundle.embedding
    if config is None or not config.background:
        raise BundleError(
            f"bundle {bundle.name} {bundle.version} cannot be taught words: it holds no background "
            "embeddings; teach wake-words, or add them: python -m train background"
        )
    what = f"background {config.background}"
    try:
        arrays = read_npz(bundle.path / config.background, ARRAYS, what, optional=(STEP,))
        found = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        found.setdefault(STEP, np.ones(found["basis"].shape[-1:], np.float32))
        _check(found, config.segments, config.width, what)
    except (ValueError, TypeError) as error:
        raise BundleError(f"bundle {bundle.path}: {error}") from error
    step = found.pop(STEP)
    return Background(**{**found, "windows": found["windows"] * step})


def _check(found: dict[str, FloatArray], rows: int, width: int, what: str) -> None:
    size = found["basis"].shape[-1]
    wanted = {
        "mean": (width,),
        "basis": (width, size),
        "within": (PARTS * size, PARTS * size),
        "windows": (len(found["windows"]), rows, size),
        STEP: (size,),
    }
    if len(found["windows"]) < FEWEST_WINDOWS:
        raise ValueError(
            f"{what}: {len(found['windows'])} windows, wanted {FEWEST_WINDOWS} for a tail"
        )
    for name, shape in wanted.items():
        if found[name].shape != shape or not np.isfinite(found[name]).all():
            raise ValueError(f"{what}: {name} must be finite numbers of the shape {shape}")
