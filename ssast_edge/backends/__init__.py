"""What runs the model: one small protocol, and which backend opens which model file."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle, ModelFile, replay_golden
from ssast_edge.errors import BackendMissing

FloatArray = NDArray[np.float32]


class Backend(Protocol):
    """A model that is open and ready."""

    name: str  # for people: "onnx (fp32)"

    def infer(self, fbank: FloatArray) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel (window_frames, num_mel_bins).

        fbank: float32, C-contiguous; read during the call only. The result is the caller's.
        """

    def close(self) -> None:
        """Free the model; `infer` may not be called any more."""


def open_backend(
    bundle: Bundle, *, kind: str = "auto", precision: str = "auto", threads: int = 1
) -> Backend:
    """Open the bundle's first model of that kind and check it against the golden pair.

    kind: "auto" for the first model that can be run, or the name of a backend. precision: "auto"
    or that of one of the bundle's models. Raises BundleError for a model that does not fit the
    bundle, BackendMissing when nothing can run it.
    """
    for model in bundle.models:
        is_wanted = kind in ("auto", model.backend) and precision in ("auto", model.precision)
        if model.backend in _OPENERS and is_wanted:
            backend = _OPENERS[model.backend](bundle, model, threads)
            replay_golden(bundle, backend, model.tolerance)
            return backend
    held = ", ".join(f"{model.backend} {model.precision}" for model in bundle.models)
    wanted = ", ".join(_OPENERS) if kind == "auto" else kind
    wanted += f" in {precision}" if precision != "auto" else ""
    raise BackendMissing(
        f"bundle {bundle.path}: no model for the backend {wanted}, the bundle holds: {held}"
    )


def _open_onnx(bundle: Bundle, model: ModelFile, threads: int) -> Backend:
    from ssast_edge.backends.onnx import OnnxBackend

    return OnnxBackend(
        bundle.path / model.file,
        input_shape=(bundle.window_frames, bundle.fbank.num_mel_bins),
        num_labels=len(bundle.labels),
        precision=model.precision,
        threads=threads,
    )


# Each imports its library only when it is used.
_OPENERS: dict[str, Callable[[Bundle, ModelFile, int], Backend]] = {"onnx": _open_onnx}
