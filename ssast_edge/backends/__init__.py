"""What runs the model: one small protocol, and which backend opens which model file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle, ModelFile, replay_golden
from ssast_edge.engines.cache import build_command, has_engine, models_for
from ssast_edge.errors import BackendMissing, CudaError, EngineError

FloatArray = NDArray[np.float32]


class Backend(Protocol):
    """A model that is open and ready."""

    name: str  # for people: "onnx (fp32)"
    hop_frames: int  # new frames come in multiples of it

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel (window_frames, num_mel_bins).

        fbank: float32, C-contiguous; read during the call only. The result is the caller's.
        new_frames: only so many rows, the last, are new since the call before, and the others
        moved up; None: all may be. A backend that keeps the window on a device uploads no more.
        """

    def infer_both(
        self, fbank: FloatArray, *, new_frames: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """The logits and the embedding, shape (segments, width); else as `infer`.

        Only of a model that was opened with `embeds`.
        """

    def close(self) -> None:
        """Free the model; `infer` may not be called any more."""


def next_hop(backend: Backend, window: FloatArray) -> Callable[[], FloatArray]:
    """A call that costs what a hop of a stream costs, for measuring.

    Of a model that computes whole windows: all of the window is new, and none of it on a device
    yet. Of one that goes on hop by hop: its last hop is.
    """
    new_frames = backend.hop_frames if backend.hop_frames > 1 else None
    return lambda: backend.infer(window, new_frames=new_frames)


@dataclass(frozen=True)
class Choice:
    """Which backend was taken, and why."""

    name: str  # the backend's
    reason: str
    is_notable: bool  # False where nothing could have been chosen otherwise

    def __str__(self) -> str:
        """One line for people."""
        return f"backend {self.name}: {self.reason}"


def open_backend(
    bundle: Bundle,
    *,
    kind: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    rebuild: bool = False,
    embeds: bool = False,
    on_choice: Callable[[Choice], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Backend:
    """Open one of the bundle's models and check it against the golden pair.

    kind: "onnx", "tensorrt", or "auto": TensorRT when it, a GPU and an engine that fits are there,
    else ONNX Runtime; `on_choice` is told once. precision: "auto" for the bundle's first model
    that can be run, or that of one of them. threads: of the CPU. rebuild: build the engine for
    TensorRT when none fits (`on_note` is told that it takes a while). embeds: `infer_both` will be
    called, of a bundle with an embedding.

    Raises BundleError for a model that does not fit the bundle or computes wrongly here, and
    BackendMissing, EngineError or CudaError when what was asked for cannot be had: asked for
    TensorRT, nothing else is taken.
    """
    backend, model, choice = _open(bundle, kind, precision, threads, rebuild, embeds, on_note)
    try:
        replay_golden(bundle, backend, model.tolerance)
    except BaseException:
        backend.close()
        raise
    if on_choice is not None:
        on_choice(choice)
    return backend


def _open(
    bundle: Bundle,
    kind: str,
    precision: str,
    threads: int,
    rebuild: bool,
    embeds: bool,
    on_note: Callable[[str], None] | None,
) -> tuple[Backend, ModelFile, Choice]:
    reason, is_notable = "asked for", False
    why_not = _no_engine(bundle, precision) if kind == "auto" and not rebuild else None
    if why_not is not None:
        reason, is_notable = why_not
    elif kind in ("auto", "tensorrt"):
        try:
            return _open_tensorrt(bundle, precision, rebuild, embeds, on_note)
        except (BackendMissing, CudaError, EngineError) as error:
            if kind == "tensorrt" or rebuild:
                raise
            # An engine was built, and yet it is not used.
            reason, is_notable = str(error), True
    try:
        model = _first_onnx(bundle, kind, precision)
    except BackendMissing as error:
        if kind != "auto":
            raise
        raise BackendMissing(f"{error}; {reason}") from error
    backend = _open_onnx(bundle, model, threads)
    return backend, model, Choice(backend.name, reason, is_notable)


def _no_engine(bundle: Bundle, precision: str) -> tuple[str, bool] | None:
    """Reason, and whether it is worth telling, when no engine was ever built; None: one was.

    TensorRT itself, which takes time and memory to load, is not loaded for it.
    """
    if not models_for(bundle, precision):
        return f"the bundle has no model in {precision} for TensorRT", False
    if has_engine(bundle, precision):
        return None
    return f"no engine was built for TensorRT: {build_command(bundle, precision)}", _can_build()


def _can_build() -> bool:
    """Whether NVIDIA's driver and TensorRT seem to be here; neither is loaded for it."""
    from ssast_edge.cuda import driver_version

    if not driver_version():
        return False
    from ssast_edge.engines.tensorrt_library import is_installed

    return is_installed()


def _open_tensorrt(
    bundle: Bundle,
    precision: str,
    rebuild: bool,
    embeds: bool,
    on_note: Callable[[str], None] | None,
) -> tuple[Backend, ModelFile, Choice]:
    from ssast_edge.backends.engines import find_engine, open_engine

    found = find_engine(
        bundle, precision=precision, rebuild=rebuild, on_note=on_note or (lambda note: None)
    )
    backend = open_engine(bundle, found, embeds=embeds)
    return backend, found.model, Choice(backend.name, f"{found.path.name} fits", True)


def _first_onnx(bundle: Bundle, kind: str, precision: str) -> ModelFile:
    for model in bundle.models:
        is_wanted = precision in ("auto", model.precision)
        if model.backend == "onnx" and kind in ("auto", "onnx") and is_wanted:
            return model
    held = ", ".join(f"{model.backend} {model.precision}" for model in bundle.models)
    wanted = "onnx" if kind == "auto" else kind
    wanted += f" in {precision}" if precision != "auto" else ""
    raise BackendMissing(
        f"bundle {bundle.path}: no model for the backend {wanted}, the bundle holds: {held}"
    )


def _open_onnx(bundle: Bundle, model: ModelFile, threads: int) -> Backend:
    from ssast_edge.backends.onnx import open_onnx

    return open_onnx(
        bundle.path / model.file,
        input_shape=(bundle.window_frames, bundle.fbank.num_mel_bins),
        num_labels=len(bundle.model_labels),
        embedding=bundle.embedding_shape,
        precision=model.precision,
        threads=threads,
    )
