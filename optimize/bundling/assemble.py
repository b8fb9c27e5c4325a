"""Puts a bundle together from another one and more model files: flavours, order, triggers.

Knows files and golden outputs; runs each new graph once, in ONNX Runtime, to say by how much it may
differ from the golden output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optimize.quantization.judge import run_windows
from ssast_edge.bundle import (
    GOLDEN_TOLERANCE,
    Bundle,
    ModelFile,
    bundle_parts,
    write_bundle,
)
from ssast_edge.trigger import TriggerConfig

__all__ = ["Flavour", "assemble", "golden_tolerance"]

# How much farther from the golden logits another processor or library may be than this one:
# INT8 rounds a value to the other side of a step where float sums differ in the last bit.
_SLACK = {"onnx": 2.0, "tensorrt": 4.0}
_LEAST = {"fp32": GOLDEN_TOLERANCE, "fp16": 0.02, "int8": 0.05}


@dataclass(frozen=True)
class Flavour:
    """A model file for a bundle; path None: a file that the bundle has already."""

    backend: str
    precision: str
    file: str
    path: Path | None = None


def assemble(
    base: Bundle,
    target: Path,
    flavours: Sequence[Flavour],
    *,
    triggers: Mapping[str, TriggerConfig] | None = None,
    provenance: Mapping[str, Any] | None = None,
    model_card: str | None = None,
    version: str = "",
) -> Bundle:
    """Write `target`: the base with these models, in this order, instead of its own.

    provenance is added to the base's. Raises BundleError, and leaves `target` as it was, when it
    would not load.
    """
    manifest, kept = bundle_parts(base)
    files = {f.file: f.path or base.path / f.file for f in flavours}
    models = [
        ModelFile(
            backend=f.backend,
            precision=f.precision,
            file=f.file,
            tolerance=golden_tolerance(base, files[f.file], f.backend, f.precision),
        )
        for f in flavours
    ]
    manifest["models"] = [dataclasses.asdict(model) for model in models]
    if triggers is not None:
        manifest["triggers"] = {k: dataclasses.asdict(v) for k, v in triggers.items()}
    manifest["provenance"] = {**manifest["provenance"], **(provenance or {})}
    if version:
        manifest["version"] = version
    if model_card is None and base.model_card:
        model_card = (base.path / base.model_card).read_text(encoding="utf-8")
    replaced = {model.file for model in base.models}
    return write_bundle(
        target,
        manifest,
        {**{name: path for name, path in kept.items() if name not in replaced}, **files},
        golden_fbank=base.golden.fbank,
        golden_logits=base.golden.logits,
        golden_tolerance=base.golden.tolerance,
        model_card=model_card,
    )


def golden_tolerance(bundle: Bundle, model: Path, backend: str, precision: str) -> float:
    """Largest difference of a golden logit that is allowed; 0 for float: the bundle's own.

    Some times what this graph differs by here, and never less than what its precision is known to.
    """
    if (backend, precision) == ("onnx", "fp32"):
        return 0.0
    logits = run_windows(onnx.load(model), bundle.golden.fbank[np.newaxis])[0]
    found = float(np.abs(logits - bundle.golden.logits).max())
    return round(max(_LEAST[precision], _SLACK[backend] * found), 4)
