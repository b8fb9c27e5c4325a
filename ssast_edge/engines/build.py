"""Builds a TensorRT engine from a bundle on the machine that is to run it.

TensorRT 10.3 to 11 and TensorRT for RTX go the same way. Engines lie in a cache folder, never in
the bundle; an engine that is there and fits is not built again.
"""

import glob
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any

from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.cuda import find_gpu
from ssast_edge.engines.cache import cache_folder, engine_path
from ssast_edge.engines.manifest import (
    EngineError,
    EngineManifest,
    Machine,
    check_file,
    differences,
    read_manifest,
    write_engine,
)
from ssast_edge.engines.plugins import Plugin, find_plugin
from ssast_edge.engines.process import run_build
from ssast_edge.engines.tensorrt_library import load_tensorrt
from ssast_edge.engines.worker import BuildRequest
from ssast_edge.integrity import record_file

_log = logging.getLogger(__name__)

_ABANDONED_S = 24 * 3600
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build; the defaults suit a model that listens."""

    out: Path | None = None  # the engine's file; None: in the cache folder
    plugin: Path | None = None  # a library in place of the one of this package
    use_plugin: bool = True
    workspace_mb: int = 0  # memory that TensorRT may use for scratch; 0: its own limit
    timing_cache: Path | None = None  # None: in the cache folder
    compute_capability: str = ""  # "8.6": TensorRT for RTX builds for a GPU that is not here
    batch: tuple[int, int, int] = (1, 1, 8)  # fewest, usual, most; for a model of any batch
    rebuild: bool = False  # also when an engine that fits is there

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.workspace_mb < 0:
            raise ValueError(f"workspace_mb must be 0 or more, got {self.workspace_mb}")
        if self.compute_capability and not _CAPABILITY.fullmatch(self.compute_capability):
            raise ValueError(
                f"compute_capability must look like 8.6, got {self.compute_capability!r}"
            )
        if list(self.batch) != sorted(self.batch) or self.batch[0] < 1:
            raise ValueError(f"batch must be fewest, usual, most from 1, got {self.batch}")


@dataclass(frozen=True)
class BuildProgress:
    """How far one phase of TensorRT's build is; phases overlap."""

    phase: str
    step: int
    steps: int


def this_machine(plugin: Plugin | None = None, compute_capability: str = "") -> Machine:
    """What an engine must fit here, or on a GPU of that compute capability.

    Raises BackendMissing without TensorRT and CudaError without a GPU.
    """
    library = load_tensorrt()
    if compute_capability:
        return Machine(library, compute_capability, None, plugin)
    gpu = find_gpu()
    return Machine(library, gpu.compute_capability, gpu, plugin)


def build_engine(
    bundle: Bundle,
    model: ModelFile,
    options: BuildOptions | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> Path:
    """Build the engine of one model and write it with its manifest; where it lies.

    Nothing is built when an engine that fits is there already (unless options.rebuild). Raises
    EngineError, BackendMissing or CudaError, in one line; an engine that was there stays.
    """
    options = options or BuildOptions()
    source = (bundle.path / model.file).resolve()
    source_sha256 = record_file(source).sha256
    target = (options.out or engine_path(source_sha256, model.precision)).absolute()
    plugin = find_plugin(options.plugin) if options.use_plugin else None
    machine = this_machine(plugin, options.compute_capability)
    if not options.rebuild and _is_current(target, machine, source_sha256, options):
        return target
    if target.is_dir():
        raise EngineError(f"{target} is a folder: give a file for the engine")
    request = BuildRequest(
        model=str(source),
        engine="",  # in a folder that is made below
        precision=model.precision,
        frames=bundle.window_frames,
        bins=bundle.fbank.num_mel_bins,
        labels=len(bundle.model_labels),
        embedding=bundle.embedding_shape or (),
        batch=options.batch,
        plugin=str(plugin.path) if plugin else "",
        plugin_sha256=plugin.sha256 if plugin else "",
        compute_capability=options.compute_capability,
        workspace_mb=options.workspace_mb,
        timing_cache=str((options.timing_cache or _timing_cache(machine)).absolute()),
    )
    try:
        _build(request, target, source_sha256, on_progress)
    except EngineError as error:
        kept = "; the engine that was there is kept" if target.exists() else ""
        raise EngineError(f"{model.precision} engine not built: {error}{kept}") from error
    except OSError as error:
        raise EngineError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _build(
    request: BuildRequest,
    target: Path,
    source: str,
    on_progress: Callable[[BuildProgress], None] | None,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    began_s = perf_counter()
    # A sibling, so that the last step is a rename within one file system.
    with TemporaryDirectory(".tmp", f".{target.name}.", target.parent) as temporary:
        folder = Path(temporary)
        request = replace(request, engine=str(folder / "engine"))
        found = run_build(asdict(request), folder, _listener(on_progress))
        manifest = _manifest(folder / "engine", found, source, request.precision, began_s)
        write_engine(target, folder / "engine", manifest)


def _remove_leftovers(target: Path) -> None:
    """Remove what builds left that were killed; one that still runs is not so old."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):
            if time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder)


def _is_current(target: Path, machine: Machine, source: str, options: BuildOptions) -> bool:
    try:
        manifest = read_manifest(target)
        check_file(target, manifest)
    except EngineError:
        return False
    # The plugin has come or gone since.
    if manifest.patch_embed == ("plugin" if machine.plugin is None else "function"):
        return False
    return not differences(manifest, machine, onnx_sha256=source, batch=options.batch[0])


def _timing_cache(machine: Machine) -> Path:
    """One for each library and kind of GPU: TensorRT refuses another's."""
    return cache_folder() / f"{machine.tensorrt.flavour}-{machine.compute_capability}.timing"


def _listener(
    on_progress: Callable[[BuildProgress], None] | None,
) -> Callable[[dict[str, Any]], None]:
    def listen(message: dict[str, Any]) -> None:
        if message["type"] == "progress" and on_progress is not None:
            on_progress(BuildProgress(message["phase"], message["step"], message["steps"]))
        elif message["type"] == "log":
            level = logging.INFO if message["severity"] == "warning" else logging.DEBUG
            _log.log(level, "TensorRT: %s", message["text"])

    return listen


def _manifest(
    engine: Path, found: dict[str, Any], source: str, precision: str, began_s: float
) -> EngineManifest:
    from importlib.metadata import version

    facts = {key: value for key, value in found.items() if key != "type"}
    facts["batch"] = tuple(facts["batch"])
    return EngineManifest(
        engine=record_file(engine),
        onnx_sha256=source,
        precision=precision,
        ssast_edge_version=version("ssast-edge"),
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        build_s=round(perf_counter() - began_s, 3),
        **facts,
    )
