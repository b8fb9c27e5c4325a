"""Finds the engine of a bundle's model that fits this machine, and opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.backends.tensorrt import TensorrtBackend
from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.cuda import open_cuda
from ssast_edge.engines.build import BuildOptions, build_engine, this_machine
from ssast_edge.engines.cache import (
    build_command,
    engine_path,
    models_for,
    onnx_sha256,
    tensorrt_models,
)
from ssast_edge.engines.manifest import (
    EngineError,
    EngineManifest,
    Machine,
    check_file,
    differences,
    read_manifest,
)
from ssast_edge.engines.plugins import Plugin, find_same_plugin, load_plugin
from ssast_edge.engines.tensorrt_library import CollectedLog, TensorRt, make_logger


@dataclass(frozen=True)
class FoundEngine:
    """An engine that fits this machine."""

    model: ModelFile
    path: Path
    manifest: EngineManifest
    library: TensorRt
    plugin: Plugin | None  # what must be loaded for it


def find_engine(
    bundle: Bundle,
    *,
    precision: str = "auto",
    rebuild: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
) -> FoundEngine:
    """The engine of the bundle's first model, of that precision, that has one which fits.

    rebuild: build the first model's when none fits; `on_note` is told. Raises BackendMissing
    without TensorRT, CudaError without a GPU, and EngineError, with what differs and the command
    that builds, when no engine fits.
    """
    models = models_for(bundle, precision)
    if not models:
        held = ", ".join(model.precision for model in tensorrt_models(bundle)) or "none"
        raise EngineError(
            f"bundle {bundle.path}: no model in {precision} for TensorRT, it has: {held}"
        )
    machine = this_machine()
    complaints = []
    for model in models:
        try:
            return _fitting(bundle, model, machine)
        except EngineError as error:
            complaints.append(error)
    if not rebuild:
        raise _advised(bundle, complaints, models[0].precision)
    on_note(f"building the {models[0].precision} engine of {bundle.name}: {complaints[0]}")
    build_engine(bundle, models[0], BuildOptions(rebuild=True))
    return _fitting(bundle, models[0], machine)


def open_engine(bundle: Bundle, found: FoundEngine, *, embeds: bool = False) -> TensorrtBackend:
    """Load the engine onto the GPU. embeds: `infer_both` will be called."""
    log = CollectedLog()
    if found.plugin is not None:
        # A runtime first: it tells TensorRT, and so the plugin registry, of our logger.
        runtime = found.library.module.Runtime(make_logger(found.library.module, log))
        load_plugin(found.library, found.plugin, log)
        del runtime
    cuda = open_cuda()
    try:
        return TensorrtBackend(
            found.path.read_bytes(),
            found.library,
            cuda,
            input_shape=(bundle.window_frames, bundle.fbank.num_mel_bins),
            num_labels=len(bundle.model_labels),
            embedding=bundle.embedding_shape,
            embeds=embeds,
            precision=found.model.precision,
            max_batch=found.manifest.batch[-1],
            log=log,
        )
    except BaseException:
        cuda.close()
        raise


def _fitting(bundle: Bundle, model: ModelFile, machine: Machine) -> FoundEngine:
    source = onnx_sha256(bundle, model)
    path = engine_path(source, model.precision)
    manifest = read_manifest(path)
    plugin = None
    if manifest.plugin_sha256:
        plugin = find_same_plugin(manifest.plugin_sha256, [Path(manifest.plugin)])
    here = Machine(machine.tensorrt, machine.compute_capability, machine.gpu, plugin)
    differing = differences(manifest, here, onnx_sha256=source)
    if differing:
        shown = ", ".join(map(str, differing))
        raise EngineError(f"the {model.precision} engine does not fit: built for {shown}")
    check_file(path, manifest)
    return FoundEngine(model, path, manifest, machine.tensorrt, plugin)


def _advised(bundle: Bundle, complaints: list[EngineError], precision: str) -> EngineError:
    said = "; ".join(str(complaint) for complaint in complaints)
    return EngineError(f"{said}; build it: {build_command(bundle, precision)}, or add --rebuild")
