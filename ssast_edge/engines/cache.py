"""Where engines lie, and which of a bundle's models they are built from. Loads nothing heavy."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

from ssast_edge.bundle import MANIFEST, Bundle, ModelFile
from ssast_edge.errors import EngineError
from ssast_edge.integrity import record_file
from ssast_edge.manifest import read_json

SUFFIX = ".engine"


def tensorrt_models(bundle: Bundle) -> tuple[ModelFile, ...]:
    """The models that an engine can be built from, in the bundle's order.

    A bundle that names none for TensorRT still has its fp32 graph for ONNX Runtime.
    """
    named = tuple(model for model in bundle.models if model.backend == "tensorrt")
    fallback = tuple(
        replace(model, backend="tensorrt")
        for model in bundle.models
        if (model.backend, model.precision) == ("onnx", "fp32")
    )
    known = {model.precision for model in named}
    return named + tuple(model for model in fallback[:1] if model.precision not in known)


def choose_model(bundle: Bundle, precision: str = "auto") -> ModelFile:
    """The bundle's model of that precision for TensorRT; "auto" is its first.

    Raises EngineError, naming those that it has.
    """
    models = tensorrt_models(bundle)
    for model in models:
        if precision in ("auto", model.precision):
            return model
    held = ", ".join(model.precision for model in models) or "none"
    raise EngineError(
        f"bundle {bundle.path}: no model in {precision} to build an engine from, it has: {held}"
    )


def models_for(bundle: Bundle, precision: str = "auto") -> list[ModelFile]:
    """The bundle's models that an engine of that precision can be built from."""
    return [m for m in tensorrt_models(bundle) if precision in ("auto", m.precision)]


def has_engine(bundle: Bundle, precision: str = "auto") -> bool:
    """Whether an engine was ever built for one of the models, fitting or not."""
    if not cache_folder().is_dir():
        return False
    return any(
        engine_path(onnx_sha256(bundle, model), model.precision).exists()
        for model in models_for(bundle, precision)
    )


def cache_folder() -> Path:
    """Where engines and timing caches lie: $XDG_CACHE_HOME or ~/.cache, ssast-edge/engines."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard: a path that is not absolute is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "ssast-edge" / "engines"


def engine_path(onnx_sha256: str, precision: str) -> Path:
    """Where the engine of an ONNX file lies when nothing else is asked for."""
    return cache_folder() / f"{onnx_sha256[:16]}.{precision}{SUFFIX}"


def onnx_sha256(bundle: Bundle, model: ModelFile) -> str:
    """SHA-256 of a model's file: as bundle.json has it, against which it was checked."""
    files = read_json(bundle.path / MANIFEST)["files"]
    if model.file not in files:  # a bundle that was put together in memory
        return record_file(bundle.path / model.file).sha256
    return str(files[model.file]["sha256"])


def build_command(bundle: Bundle, precision: str) -> str:
    """What to type to build an engine."""
    command = f"ssast-edge build {shlex.quote(str(bundle.path))}"
    return command if precision == "auto" else f"{command} --precision {precision}"
