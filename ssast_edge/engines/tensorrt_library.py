"""Finds TensorRT or TensorRT for RTX, whichever is installed, and its messages.

What a version can do is asked of the module itself (`hasattr`), never looked up by its number.
"""

import ctypes
import importlib
import importlib.util
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssast_edge.errors import BackendMissing

_log = logging.getLogger(__name__)

# Python modules in the order in which they are tried, and what each is.
FLAVOURS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx", "tensorrt_rtx_bindings": "rtx"}
TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
# A wheel that carries the libraries of TensorRT for RTX, for bindings that come without.
_RTX_WHEEL = "onnxruntime_ep_nv_tensorrt_rtx"
_RTX_LIBRARIES = ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")
_INSTALL = (
    "on a Jetson it comes with JetPack 6.1 or newer (apt install python3-libnvinfer, and a "
    "virtual environment with --system-site-packages), elsewhere: pip install tensorrt"
)
_MAX_ERRORS = 4  # in one line
SEVERITIES = ("internal error", "error", "warning", "info", "verbose")


@dataclass(frozen=True)
class TensorRt:
    """The library that was found."""

    module: Any  # TensorRT's Python API
    flavour: str  # "tensorrt" or "rtx"
    version: str

    @property
    def title(self) -> str:
        """Name and version for people."""
        return f"{TITLES[self.flavour]} {self.version}"


@dataclass(frozen=True)
class LogLine:
    """One message of TensorRT."""

    severity: str  # one of SEVERITIES
    text: str


def is_installed() -> bool:
    """Whether any TensorRT can be imported, without doing so."""
    return any(importlib.util.find_spec(name) is not None for name in FLAVOURS)


def load_tensorrt() -> TensorRt:
    """Import TensorRT. Raises BackendMissing when there is none, or only one that is too old."""
    broken = ""
    for name, flavour in FLAVOURS.items():
        try:
            if name == "tensorrt_rtx_bindings":
                _preload_rtx()
            module = importlib.import_module(name)
        except ImportError as error:
            if importlib.util.find_spec(name) is not None:
                broken = broken or f"{name} cannot be imported ({error})"
            continue
        except OSError as error:
            broken = broken or f"{name} cannot be imported ({error})"
            continue
        found = TensorRt(module, flavour, str(getattr(module, "__version__", "without a version")))
        _refuse_old(found)
        return found
    raise BackendMissing(f"no TensorRT: {broken or 'it is not installed'}; {_INSTALL}")


def make_logger(trt: Any, log: "CollectedLog") -> Any:
    """The logger for TensorRT, which from now on hands every message to `log`.

    One a process, never freed: TensorRT keeps the first that it is given, whatever comes after.
    """
    logger = _LOGGERS.get(trt)
    if logger is None:
        logger = _LOGGERS[trt] = _new_logger(trt)
    logger.target = log
    return logger


_LOGGERS: dict[Any, Any] = {}  # by TensorRT module


def _new_logger(trt: Any) -> Any:
    names = {
        trt.ILogger.INTERNAL_ERROR: "internal error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
        trt.ILogger.INFO: "info",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.target = CollectedLog()

        def log(self, severity: Any, msg: str) -> None:
            self.target.add(LogLine(names.get(severity, "verbose"), msg))

    return Logger()


class CollectedLog:
    """What TensorRT said: its errors, all of them; its warnings; and the last lines."""

    def __init__(self, size: int = 200) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.last: deque[LogLine] = deque(maxlen=size)  # verbose lines left out

    def add(self, line: LogLine) -> None:
        """Take one line."""
        if line.severity == "verbose":
            return
        level = logging.INFO if line.severity == "warning" else logging.DEBUG
        _log.log(level, "TensorRT: %s", line.text)  # errors are raised by whoever asked
        self.last.append(line)
        if line.severity in ("error", "internal error"):
            self.errors.append(line.text)
        elif line.severity == "warning":
            self.warnings.append(line.text)

    def take_errors(self) -> str:
        """The first errors, joined, each once; all are then forgotten."""
        errors = list(dict.fromkeys(self.errors))
        text = "; ".join(errors[:_MAX_ERRORS]) or "TensorRT gave no reason"
        if len(errors) > _MAX_ERRORS:
            text += f"; and {len(errors) - _MAX_ERRORS} more"
        self.errors.clear()
        return text


@contextmanager
def library_environment() -> Iterator[Mapping[str, str]]:
    """Environment for a process that is to run TensorRT, valid within `with`.

    After it has created a plugin, the parser of TensorRT for RTX opens "libtensorrt_rtx.so" by
    that name and ends the process when it is not found; a wheel has only the versioned name. Such
    a process gets a folder of links on LD_LIBRARY_PATH.
    """
    environment = dict(os.environ)
    real = _rtx_libraries()
    if not real:
        yield environment
        return
    with TemporaryDirectory(prefix="ssast-edge-") as folder:
        link_rtx(Path(folder))
        paths = [folder, *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        yield environment


def link_rtx(folder: Path) -> None:
    """Links to the wheel's libraries in `folder`, by the names that are asked for."""
    for name, real in _rtx_libraries().items():
        for link in (name, f"{name}.1"):
            (folder / link).symlink_to(real)


def _rtx_libraries() -> dict[str, Path]:
    """Unversioned name -> library in the wheel; empty without it."""
    spec = importlib.util.find_spec(_RTX_WHEEL)  # found, not imported: its import changes paths
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent
    found = {name: sorted(folder.glob(f"{name}.*")) for name in _RTX_LIBRARIES}
    return {name: paths[-1] for name, paths in found.items() if paths}


def _preload_rtx() -> None:
    for path in _rtx_libraries().values():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _refuse_old(found: TensorRt) -> None:
    # IPluginV3 and the tensor-address interface came together, with 10.0.
    if hasattr(found.module, "IPluginV3"):
        return
    raise BackendMissing(
        f"{found.title} is too old (it has no IPluginV3): 10.3 or newer is wanted. JetPack 5 and "
        "6.0 ship 8.x: install JetPack 6.1 or newer, or run with --backend onnx"
    )
