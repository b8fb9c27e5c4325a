"""The forms of a model that are compared: a bundle's model files, each open and named.

A model for TensorRT is run by TensorRT where that and a GPU are; elsewhere ONNX Runtime runs the
same graph on the CPU, which tells its accuracy and not its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.backends import Backend, open_backend
from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.errors import BundleError, SsastEdgeError

__all__ = ["Variant", "variants_of"]


@dataclass(frozen=True, eq=False)
class Variant:
    """One model file of one bundle. Close `backend` when done."""

    name: str  # "wake-words onnx int8"
    bundle: Bundle
    model: ModelFile
    backend: Backend
    is_native: bool  # what runs it here is what will run it on the device

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.bundle.path / self.model.file


def variants_of(bundles: Sequence[tuple[str, Bundle]]) -> list[Variant]:
    """Every model of the bundles, opened; names are "<given name> <backend> <precision>".

    Raises BundleError, in one line, for bundles that cannot be compared: other labels, another
    window or front end.
    """
    _check_alike([bundle for _, bundle in bundles])
    found: list[Variant] = []
    for title, bundle in bundles:
        for model in bundle.models:
            backend, is_native = _open(bundle, model)
            name = f"{title} {model.backend} {model.precision}"
            if any(other.name == name for other in found):
                name += f" ({model.file})"
            found.append(Variant(name, bundle, model, backend, is_native))
    return found


def _open(bundle: Bundle, model: ModelFile) -> tuple[Backend, bool]:
    if model.backend != "onnx":
        try:
            return open_backend(bundle, kind=model.backend, precision=model.precision), True
        except SsastEdgeError:  # no TensorRT, no GPU, or no engine on this machine
            pass
    from ssast_edge.backends.onnx import open_onnx

    opened = open_onnx(
        bundle.path / model.file,
        input_shape=(bundle.window_frames, bundle.fbank.num_mel_bins),
        num_labels=len(bundle.model_labels),
        embedding=bundle.embedding_shape,
        precision=model.precision,
        threads=1,
    )
    return opened, model.backend == "onnx"


def _check_alike(bundles: Sequence[Bundle]) -> None:
    first = bundles[0]
    for other in bundles[1:]:
        for field in ("labels", "window_frames", "fbank", "activation", "task"):
            ours, its = getattr(first, field), getattr(other, field)
            if ours != its:
                raise BundleError(
                    f"{other.path} cannot be compared with {first.path}: its {field} is {its}, "
                    f"wanted {ours}"
                )
