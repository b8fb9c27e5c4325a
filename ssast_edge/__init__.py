"""Spot keywords and tag sounds in a stream of audio, on small devices.

    from ssast_edge import Spotter, load_bundle
    detections = Spotter(load_bundle("wake-words")).push(samples)

Names are loaded when they are first used: `import ssast_edge` alone imports nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssast_edge.bundle import load_bundle
    from ssast_edge.spotter import Detection, Spotter

__all__ = ["Detection", "Spotter", "__version__", "load_bundle"]

_MODULES = {
    "Detection": "ssast_edge.spotter",
    "Spotter": "ssast_edge.spotter",
    "load_bundle": "ssast_edge.bundle",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ssast-edge")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
