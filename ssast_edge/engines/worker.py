"""The process that runs TensorRT's builder: `python -m ssast_edge.engines.worker REQUEST FD`.

REQUEST is the JSON file of a BuildRequest; JSON lines go to the file descriptor FD: "log",
"progress", and "done" or "error" at the end. The engine is written only when it is complete.
"""

import json
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssast_edge.cuda import Gpu, find_gpu
from ssast_edge.engines.manifest import EngineError
from ssast_edge.engines.onnx_wire import NotOnnx, has_functions, node_types, strip_functions
from ssast_edge.engines.plugins import FUSED_PATCH_EMBED, NAMESPACE, Plugin, load_plugin
from ssast_edge.engines.tensorrt_library import (
    CollectedLog,
    LogLine,
    TensorRt,
    load_tensorrt,
    make_logger,
)
from ssast_edge.errors import SsastEdgeError
from ssast_edge.manifest import from_json, read_json

_MAX_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build. Empty texts and zeros mean: none, or TensorRT's own choice."""

    model: str  # ONNX file
    engine: str  # where to write it
    precision: str
    frames: int
    bins: int
    labels: int
    batch: tuple[int, ...]  # fewest, usual, most; used when the model takes any batch
    plugin: str = ""
    plugin_sha256: str = ""
    compute_capability: str = ""  # "8.6": for a GPU that need not be here
    workspace_mb: int = 0
    timing_cache: str = ""
    embedding: tuple[int, ...] = ()  # segments, width of a second output; none


class Messages:
    """JSON lines to the process that asked; several threads of TensorRT may write."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        """Send one; when nobody listens any more, this process ends."""
        with self._lock:
            try:
                self._file.write(json.dumps({"type": kind, **fields}) + "\n")
                self._file.flush()
            except OSError:
                os._exit(1)


class SentLog(CollectedLog):
    """TensorRT's messages, sent on as they come."""

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages = messages

    def add(self, line: LogLine) -> None:
        """Take one line."""
        super().add(line)
        if line.severity != "verbose":
            self._messages.send("log", severity=line.severity, text=line.text)


def build(request: BuildRequest, messages: Messages) -> dict[str, Any]:
    """Build and write the engine; what there is to say of it."""
    library, log = load_tensorrt(), SentLog(messages)
    trt = library.module
    gpu = _find_gpu(request)
    model, patch_embed, plugin = _choose_plugin(request)
    logger = make_logger(trt, log)
    builder = _made(trt.Builder(logger), "a builder", log)
    if plugin is not None:
        load_plugin(library, plugin, log)
    network = _made(builder.create_network(_network_flags(trt)), "a network", log)
    _parse(trt.OnnxParser(network, logger), model, request, log)
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    config = _made(builder.create_builder_config(), "a builder configuration", log)
    monitor = _make_monitor(trt, messages)
    if monitor is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = monitor
    if request.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    if request.precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are not what fp32 says
    if hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS"):
        # TensorRT looks whether weights have two zeros in four, and uses it where that is faster.
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    capability = _set_target(trt, config, request, gpu, library)
    batch = _set_batch(builder, network, config, request)
    cache = _read_timing_cache(config, request)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{library.title} cannot build the engine: {log.take_errors()}")
    Path(request.engine).write_bytes(plan)
    if cache is not None:
        _write_timing_cache(cache, Path(request.timing_cache))
    return {
        "tensorrt_version": library.version,
        "flavour": library.flavour,
        "cuda_version": gpu.cuda_version if gpu else "",
        "driver_version": gpu.driver_version if gpu else "",
        # For another machine the GPU here says nothing.
        "gpu": gpu.name if gpu and not request.compute_capability else "",
        "compute_capability": capability,
        "plugin": str(plugin.path) if plugin else "",
        "plugin_sha256": plugin.sha256 if plugin else "",
        "layers": dict(layers),
        "patch_embed": patch_embed,
        "batch": batch,
    }


def _find_gpu(request: BuildRequest) -> Gpu | None:
    try:
        return find_gpu()
    except SsastEdgeError:
        if request.compute_capability:
            return None
        raise


def _choose_plugin(request: BuildRequest) -> tuple[bytes, str, Plugin | None]:
    """The model as TensorRT is to see it, one of PATCH_EMBED, and the plugin to load."""
    model = Path(request.model).read_bytes()
    try:
        is_fused = (NAMESPACE, FUSED_PATCH_EMBED) in node_types(model)
        if not is_fused:
            return model, "layers", None
        if request.plugin:
            # Without the function, or TensorRT before 10.7 would run it instead of the plugin.
            stripped = strip_functions(model)
            return stripped, "plugin", Plugin(Path(request.plugin), request.plugin_sha256)
        if not has_functions(model):
            raise EngineError(
                f"{request.model}: its node {FUSED_PATCH_EMBED} needs the plugin library, and "
                "there is none: give it with --plugin"
            )
    except NotOnnx as error:
        raise EngineError(f"{request.model}: {error}") from error
    return model, "function", None


def _network_flags(trt: Any) -> int:
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    # The types in the graph are final; where the flag is gone they always are.
    strongly_typed = getattr(flags, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


def _parse(parser: Any, model: bytes, request: BuildRequest, log: CollectedLog) -> None:
    if parser.parse(model):
        return
    errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    shown = "; ".join(errors[:_MAX_ERRORS]) or log.take_errors()
    if len(errors) > _MAX_ERRORS:
        shown += f"; and {len(errors) - _MAX_ERRORS} more"
    raise EngineError(f"{Path(request.model).name}: TensorRT cannot read the graph: {shown}")


def _parser_error(error: Any) -> str:
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = " ".join(filter(None, [operator, f"{name!r}" if name else ""]))
    return f"node {where}: {error.desc()}" if where else str(error.desc())


def _make_monitor(trt: Any, messages: Messages) -> Any:
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            messages.send("progress", phase=phase_name, step=0, steps=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._steps.get(phase_name, step + 1)
            messages.send("progress", phase=phase_name, step=step + 1, steps=steps)
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 1)
            messages.send("progress", phase=phase_name, step=steps, steps=steps)

    return Monitor()


def _set_target(
    trt: Any, config: Any, request: BuildRequest, gpu: Gpu | None, library: TensorRt
) -> str:
    """The compute capability that is built for."""
    if not request.compute_capability:
        assert gpu is not None  # _find_gpu has raised otherwise
        return gpu.compute_capability
    if not hasattr(config, "set_compute_capability"):
        raise EngineError(
            f"{library.title} builds for the GPU here only: leave --compute-capability out"
        )
    name = "SM" + request.compute_capability.replace(".", "")
    names = [key for key in trt.ComputeCapability.__members__ if key.startswith("SM")]
    known = sorted(names, key=lambda key: int(key[2:]))
    if name not in known:
        raise EngineError(
            f"{library.title} does not build for compute capability "
            f"{request.compute_capability}, only for {', '.join(map(_spell_capability, known))}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    return request.compute_capability


def _spell_capability(name: str) -> str:
    return f"{name[2:-1]}.{name[-1]}"


def _set_batch(builder: Any, network: Any, config: Any, request: BuildRequest) -> list[int]:
    """Check inputs and outputs; fewest, usual and most windows of a call."""
    ports = {
        "inputs": [network.get_input(i) for i in range(network.num_inputs)],
        "outputs": [network.get_output(i) for i in range(network.num_outputs)],
    }
    wanted: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        "inputs": [("fbank", (request.frames, request.bins))],
        "outputs": [("logits", (request.labels,))],
    }
    if request.embedding:
        wanted["outputs"].append(("embedding", request.embedding))
    for role, tensors in ports.items():
        found = [(tensor.name, tuple(tensor.shape)[1:]) for tensor in tensors]
        if found != wanted[role]:
            raise EngineError(
                f"{Path(request.model).name}: the {role} are {found}, the bundle wants "
                f"{wanted[role]}"
            )
    fbank = ports["inputs"][0]
    size = int(fbank.shape[0])
    if size != -1:
        return [size, size, size]
    profile = builder.create_optimization_profile()
    shapes = [(batch, request.frames, request.bins) for batch in request.batch]
    profile.set_shape(fbank.name, *shapes)
    config.add_optimization_profile(profile)
    return list(request.batch)


def _read_timing_cache(config: Any, request: BuildRequest) -> Any:
    """The cache that the build goes on with; None where there is none."""
    if not request.timing_cache or not hasattr(config, "create_timing_cache"):
        return None
    path = Path(request.timing_cache)
    old = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, False):
        # Of another GPU or version: begin a new one.
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None
    return cache


def _write_timing_cache(cache: Any, path: Path) -> None:
    serialized = cache.serialize()
    if serialized is None or not serialized.nbytes:  # TensorRT for RTX keeps none
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(serialized)
    temporary.replace(path)


def _made(thing: Any, what: str, log: CollectedLog) -> Any:
    if thing is None:
        raise EngineError(f"TensorRT cannot make {what}: {log.take_errors()}")
    return thing


def main(path: str, descriptor: str) -> int:
    """Run one request; the status of the process."""
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as file:
        messages = Messages(file)
        try:
            request = from_json(read_json(Path(path)), BuildRequest)
            messages.send("done", **build(request, messages))
        except SsastEdgeError as error:
            messages.send("error", message=str(error))
            return 1
        except MemoryError:
            messages.send("error", message="memory ran out while TensorRT built the engine")
            return 1
        except OSError as error:
            where = error.filename or "the engine cannot be written"
            messages.send("error", message=f"{where}: {error.strerror or error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
