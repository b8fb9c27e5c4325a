"""The golden pair of a bundle: an input, and what its model must give for it on every machine."""

from pathlib import Path
from typing import Protocol

import numpy as np

from ssast_edge.bundle.contents import Bundle, FloatArray, Golden, GoldenFile
from ssast_edge.errors import BundleError
from ssast_edge.npz import read_npz

ARRAYS = ("fbank", "logits")


class Model(Protocol):
    """What `replay_golden` needs of a backend."""

    def infer(self, fbank: FloatArray) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel."""


def read_golden(folder: Path, golden: GoldenFile) -> Golden:
    """The pair of a bundle's folder. Raises ValueError, in one line, for a file that holds none."""
    arrays = read_npz(folder / golden.file, ARRAYS, f"golden file {golden.file}")
    fbank, logits = arrays.values()
    for array in (fbank, logits):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"golden file {golden.file} must hold finite float32 numbers")
    return Golden(fbank=fbank, logits=logits, tolerance=golden.tolerance)


def replay_golden(bundle: Bundle, model: Model, tolerance: float = 0.0) -> None:
    """Raise BundleError unless the model gives the bundle's golden output for its golden input.

    tolerance: largest difference of a logit; 0: the golden pair's own.
    """
    allowed = tolerance or bundle.golden.tolerance
    try:
        logits = np.asarray(model.infer(bundle.golden.fbank))
    except Exception as error:  # each backend has exception classes of its own
        raise BundleError(f"bundle {bundle.path}: the model cannot be run: {error}") from error
    wanted = bundle.golden.logits
    if logits.shape != wanted.shape:
        raise BundleError(
            f"bundle {bundle.path}: the model gives shape {logits.shape}, "
            f"wanted {wanted.shape}, one logit for each label"
        )
    difference = float(np.max(np.abs(logits - wanted)))
    # `not <=`: a logit that is not a number must not pass.
    if not difference <= allowed:
        raise BundleError(
            f"bundle {bundle.path}: the model does not give its golden output (differs by "
            f"{difference:.3g}, allowed {allowed:g}): another model, or a "
            "runtime that computes wrongly on this machine"
        )
