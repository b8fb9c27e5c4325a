"""Finds and loads the TensorRT plugin of `ssast_edge::FusedPatchEmbed`.

A library built into the wheel (SSAST_NATIVE=1) is found by itself, another is named by its path.
"""

import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssast_edge.engines.tensorrt_library import CollectedLog, TensorRt
from ssast_edge.errors import BackendMissing
from ssast_edge.integrity import record_file

LIBRARY = "libssast_edge_plugin.so"
NAMESPACE = "ssast_edge"
FUSED_PATCH_EMBED = "FusedPatchEmbed"
VERSION = "1"


@dataclass(frozen=True)
class Plugin:
    """A plugin library: where it is, and which one."""

    path: Path
    sha256: str


def find_plugin(path: Path | None = None) -> Plugin | None:
    """The library at `path`, else the one of this package; None when the package has none.

    Raises BackendMissing when there is no file at `path`.
    """
    if path is None:
        path = Path(str(importlib.resources.files("ssast_edge"))) / "plugins" / LIBRARY
        if not path.is_file():
            return None
    elif not path.is_file():
        raise BackendMissing(
            f"no plugin library at {path}: build it (native/README.md), or leave --plugin out"
        )
    return Plugin(path.resolve(), record_file(path).sha256)


def find_same_plugin(sha256: str, paths: Iterable[Path]) -> Plugin | None:
    """The first library among `paths` and the package's own that is exactly that one."""
    own = find_plugin()
    for path in (*paths, *([own.path] if own else [])):
        if path.is_file() and record_file(path).sha256 == sha256:
            return Plugin(path.resolve(), sha256)
    return own


def load_plugin(library: TensorRt, plugin: Plugin, log: CollectedLog) -> None:
    """Register the library's creators with TensorRT; a second time does nothing.

    Raises BackendMissing when it is no such library or TensorRT does not take it.
    """
    registry = library.module.get_plugin_registry()
    if _is_registered(registry):
        return
    try:
        handle = registry.load_library(str(plugin.path))
    except Exception as error:  # which classes TensorRT raises differs between versions
        raise BackendMissing(f"{plugin.path} cannot be loaded as a plugin: {error}") from error
    if handle is None or not _is_registered(registry):
        raise BackendMissing(
            f"{plugin.path}: {library.title} does not take it as a plugin: {log.take_errors()}"
        )


def _is_registered(registry: Any) -> bool:
    # Not by get_creator, which complains of what it does not find.
    wanted = (FUSED_PATCH_EMBED, VERSION, NAMESPACE)
    return any(
        (creator.name, creator.plugin_version, creator.plugin_namespace) == wanted
        for creator in registry.all_creators
    )
