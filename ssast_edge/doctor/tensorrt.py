"""Checks of TensorRT: library, CUDA from Python, plugin and engines that were built before."""

import importlib.util
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ssast_edge.bundle import load_bundle
from ssast_edge.doctor import gpu
from ssast_edge.doctor.fatbin import device_code
from ssast_edge.doctor.finding import Check, Finding, Options, Skipped, ok, warning
from ssast_edge.engines.build import this_machine
from ssast_edge.engines.cache import SUFFIX, cache_folder, tensorrt_models
from ssast_edge.engines.manifest import (
    EngineError,
    Machine,
    check_file,
    differences,
    read_manifest,
)
from ssast_edge.engines.plugins import find_plugin, find_same_plugin
from ssast_edge.engines.tensorrt_library import load_tensorrt
from ssast_edge.errors import BackendMissing, SsastEdgeError
from ssast_edge.integrity import record_file

_CUDA_MODULES = {"cuda.bindings": "cuda-bindings", "pycuda": "pycuda"}
_BUILD_PLUGIN = "SSAST_NATIVE=1 TENSORRT_ROOT=/usr pip install --force-reinstall --no-deps PATH"


def check_tensorrt(options: Options) -> Iterator[Finding]:
    """The library; on a machine without a GPU it may be absent."""
    try:
        found = load_tensorrt()
    except BackendMissing as error:
        what, _, fix = str(error).partition("; ")
        if not gpu.has_nvidia() and what.startswith("no TensorRT: it is not installed"):
            raise Skipped("not installed, and this machine has no NVIDIA GPU for it") from error
        if not fix:
            what, _, fix = what.rpartition(": ")
        yield warning(what, fix)
        return
    yield ok(found.title)


def check_cuda_python(options: Options) -> Iterator[Finding]:
    """What moves memory to the GPU and back."""
    found = []
    for module, package in _CUDA_MODULES.items():
        with suppress(ImportError):  # the parent package is absent
            if importlib.util.find_spec(module) is not None:
                found.append(package)
    if found:
        yield ok(" and ".join(found))
    elif gpu.has_nvidia():
        yield warning(
            "neither cuda-bindings nor pycuda is installed: no engine can be run",
            "pip install 'cuda-bindings==12.*' (or 13.*, as the driver's CUDA)",
        )
    else:
        raise Skipped("neither cuda-bindings nor pycuda, and no NVIDIA GPU for them")


def check_plugin(options: Options) -> Iterator[Finding]:
    """The plugin library of the fused patch embedding, and for which GPUs it was compiled."""
    plugin = find_plugin()
    if plugin is None:
        if not gpu.has_nvidia():
            raise Skipped("not built, and this machine has no NVIDIA GPU for it")
        yield warning("not built: engines use TensorRT's own layers in its place", _BUILD_PLUGIN)
        return
    try:
        code = device_code(plugin.path)
    except (ValueError, OSError) as error:
        yield warning(f"{plugin.path}: its GPU architectures cannot be read ({error})", "")
        return
    text = f"{plugin.path}: {', '.join(map(str, code)) or 'no device code'}"
    try:
        gpus = gpu.read_driver().gpus
    except (OSError, RuntimeError):
        gpus = ()
    unfit = [found for found in gpus if not any(c.runs_on(found.capability) for c in code)]
    if unfit:
        number = unfit[0].capability
        yield warning(
            f"{text}: nothing for {unfit[0].name} ({number // 10}.{number % 10})",
            f"CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES={number} {_BUILD_PLUGIN}",
        )
    else:
        yield ok(text)


def check_engines(options: Options) -> Iterator[Finding]:
    """Engines that were built before: whether they fit this machine and the bundle."""
    engines = sorted(cache_folder().glob(f"*{SUFFIX}"))
    if not engines:
        if not gpu.has_nvidia():
            raise Skipped("none built, and this machine has no NVIDIA GPU for one")
        yield warning(
            f"none built in {cache_folder()}", f"ssast-edge build {shlex.quote(options.bundle)}"
        )
        return
    counted = f"{len(engines)} in {cache_folder()}"
    try:
        machine = this_machine()
    except SsastEdgeError as error:
        if not gpu.has_nvidia():
            raise Skipped(f"{counted}; no NVIDIA GPU to compare them with") from error
        yield warning(f"{counted}, which cannot be compared: {error}", "see GPU and TensorRT")
        return
    wanted = _onnx_hashes(options)
    for engine in engines:
        yield _judge_engine(engine, machine, wanted)


def _judge_engine(engine: Path, machine: Machine, wanted: set[str]) -> Finding:
    """wanted: SHA-256 of the ONNX files of the bundle that is asked for."""
    rebuild = "ssast-edge build BUNDLE --rebuild"
    try:
        manifest = read_manifest(engine)
        check_file(engine, manifest)
    except EngineError as error:
        return warning(str(error), f"rm {shlex.quote(str(engine))}, then {rebuild}")
    # Whichever model it is of: the others' engines are judged by the machine alone.
    plugin = None
    if manifest.plugin_sha256:
        plugin = find_same_plugin(manifest.plugin_sha256, [Path(manifest.plugin)])
    here = replace(machine, plugin=plugin)
    differing = differences(manifest, here, onnx_sha256=manifest.onnx_sha256)
    text = f"{engine.name}: {manifest.precision}, {manifest.engine.bytes / 1e6:.1f} MB"
    text += "" if manifest.onnx_sha256 in wanted else ", of another bundle"
    if differing:
        return warning(f"{text}: built for {'; '.join(map(str, differing))}", rebuild)
    return ok(f"{text}, fits this machine")


def _onnx_hashes(options: Options) -> set[str]:
    try:
        bundle = load_bundle(options.bundle)
    except SsastEdgeError:  # the bundle's own check says it
        return set()
    return {record_file(bundle.path / model.file).sha256 for model in tensorrt_models(bundle)}


CHECKS = (
    Check("TensorRT", check_tensorrt, limit_s=60),
    Check("CUDA for Python", check_cuda_python),
    Check("plugin", check_plugin, limit_s=30),
    Check("engines", check_engines, limit_s=60),
)
