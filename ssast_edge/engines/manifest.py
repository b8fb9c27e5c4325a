"""What is known of a built engine, as a JSON file beside it, and whether it fits a machine."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.cuda import Gpu
from ssast_edge.engines.plugins import Plugin
from ssast_edge.engines.tensorrt_library import TITLES, TensorRt
from ssast_edge.errors import EngineError as EngineError
from ssast_edge.integrity import FileRecord, record_file
from ssast_edge.manifest import ManifestError, from_json, read_json

SCHEMA_VERSION = 1
SUFFIX = ".json"  # after the engine's whole name
# Our plugin; its function, for want of the plugin; or layers, in a graph without that node.
PATCH_EMBED = ("plugin", "function", "layers")


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """One engine: what it was built from, with what, on what."""

    engine: FileRecord  # the file beside this one
    onnx_sha256: str  # of the bundle's file
    precision: str
    batch: tuple[int, ...]  # fewest, usual and most windows a call
    tensorrt_version: str
    flavour: str  # "tensorrt" or "rtx"
    cuda_version: str  # the newest that the driver ran; "" when built without a GPU
    driver_version: str
    gpu: str  # its name; "" when built for a compute capability alone
    compute_capability: str  # "8.7"
    plugin: str  # path of the library when it was built; "" when no plugin runs in it
    plugin_sha256: str
    layers: dict[str, int]  # kind -> how many, before TensorRT fused them
    patch_embed: str  # one of PATCH_EMBED: what normalises and cuts the window into patches
    ssast_edge_version: str
    built: str  # date and time, UTC
    build_s: float
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Machine:
    """What an engine must fit."""

    tensorrt: TensorRt
    compute_capability: str
    gpu: Gpu | None = None  # None: the engine is for another machine
    plugin: Plugin | None = None


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    what: str
    built: str
    here: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.what} {self.built}, here {self.here}"


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine lies."""
    return engine.with_name(engine.name + SUFFIX)


def read_manifest(engine: Path) -> EngineManifest:
    """The manifest beside an engine; the engine's own file is not looked at.

    Raises EngineError when there is none or it is not one of this version.
    """
    path = manifest_path(engine)
    try:
        table = read_json(path)
        version = table.get("schema_version") if isinstance(table, dict) else None
        if type(version) is int and version != SCHEMA_VERSION:
            raise ManifestError(f"schema_version is {version}, wanted {SCHEMA_VERSION}")
        return from_json(table, EngineManifest)
    except FileNotFoundError as error:
        raise EngineError(f"no engine at {engine}") from error
    except (ManifestError, OSError) as error:
        raise EngineError(f"{path}: {error}") from error


def write_engine(target: Path, built: Path, manifest: EngineManifest) -> None:
    """Move a built engine (same file system) to `target` and its manifest beside it.

    Cut off between the two, the manifest left does not know the engine: `check_file` tells.
    """
    temporary = built.with_name(built.name + SUFFIX)
    text = json.dumps(dataclasses.asdict(manifest), indent=2, sort_keys=True) + "\n"
    temporary.write_text(text, encoding="utf-8")
    for path in (built, temporary):
        with path.open("rb") as file:  # on the disk before the names point at them
            os.fsync(file.fileno())
    built.replace(target)
    temporary.replace(manifest_path(target))


def check_file(engine: Path, manifest: EngineManifest) -> None:
    """Raise EngineError unless the engine's file is the one that the manifest describes."""
    try:
        found = record_file(engine)
    except OSError as error:
        raise EngineError(f"{engine}: {error.strerror or error}") from error
    if found != manifest.engine:
        raise EngineError(f"{engine} is not the file that was built: altered, or cut off")


def differences(
    manifest: EngineManifest, machine: Machine, *, onnx_sha256: str, batch: int = 1
) -> list[Difference]:
    """What keeps the engine from running on the machine; empty when it fits.

    onnx_sha256: of the model that is to run. Driver and CUDA may differ: TensorRT sees to those.
    """
    library = machine.tensorrt
    compared: Mapping[str, tuple[str, str]] = {
        "library": (TITLES.get(manifest.flavour, manifest.flavour), TITLES[library.flavour]),
        "TensorRT": (manifest.tensorrt_version, library.version),
        "compute capability": (manifest.compute_capability, machine.compute_capability),
        "ONNX file": (_short(manifest.onnx_sha256), _short(onnx_sha256)),
    }
    found = [Difference(name, *pair) for name, pair in compared.items() if pair[0] != pair[1]]
    if manifest.gpu and machine.gpu is not None and manifest.gpu != machine.gpu.name:
        found.append(Difference("GPU", manifest.gpu, machine.gpu.name))
    if manifest.plugin_sha256:
        here = machine.plugin.sha256 if machine.plugin is not None else ""
        if manifest.plugin_sha256 != here:
            found.append(Difference("plugin", _short(manifest.plugin_sha256), _short(here)))
    if not manifest.batch[0] <= batch <= manifest.batch[-1]:
        span = f"{manifest.batch[0]} to {manifest.batch[-1]}"
        found.append(Difference("batch", span, str(batch)))
    return found


def _short(sha256: str) -> str:
    return f"{sha256[:12]}..." if sha256 else "none"
