"""What the runtime needs of CUDA's driver: one contract, run by cuda-bindings or by pycuda.

One GPU, one stream, the primary context, which TensorRT uses too. Addresses are plain numbers,
copies are asynchronous and host memory is page-locked. Knows nothing of models.
"""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.errors import BackendMissing
from ssast_edge.errors import CudaError as CudaError

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_INSTALL = "pip install cuda-bindings (CUDA 12: 'cuda-bindings<13'), or use JetPack's pycuda"

# What CUDA's names mean for whoever runs this, and what can be done.
MEANINGS = {
    "CUDA_ERROR_NO_DEVICE": "no GPU that CUDA can use on this machine",
    "CUDA_ERROR_STUB_LIBRARY": "no NVIDIA driver: libcuda here is a stub for compiling",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU has no memory left: close other programs that use it",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "driver and CUDA library do not fit: restart the machine",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "CUDA's forward compatibility is not for this GPU",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another program holds the GPU alone",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "the CUDA context was destroyed: start ssast-edge again",
    "CUDA_ERROR_INVALID_CONTEXT": "the CUDA context was destroyed: start ssast-edge again",
    "CUDA_ERROR_DEINITIALIZED": "the CUDA driver is shutting down",
    "CUDA_ERROR_DEVICE_NOT_LICENSED": "the GPU's licence is missing",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "GPU lost: a memory error that cannot be corrected",
    "CUDA_ERROR_CONTAINED": "GPU lost: a memory error that was contained",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE": "GPU lost: a link error",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "GPU lost: a kernel read or wrote where it must not",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "GPU lost: a kernel read or wrote at a crooked address",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "GPU lost: a kernel is not for this GPU",
    "CUDA_ERROR_LAUNCH_FAILED": "GPU lost: a kernel failed",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "GPU lost: a kernel took too long",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "GPU lost: a kernel overflowed its stack",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the plugin or engine was compiled for other GPUs",
    "CUDA_ERROR_UNKNOWN": "GPU lost, or its driver does not answer",
}


@dataclass(frozen=True)
class Gpu:
    """What an engine depends on."""

    name: str
    compute_capability: str  # "8.7"
    cuda_version: str  # the newest that the driver runs: "12.6"
    driver_version: str  # "" where the system does not tell
    memory_bytes: int


class Graph(Protocol):
    """Work that was recorded once."""

    def launch(self) -> None:
        """Put all of it on the stream."""

    def close(self) -> None:
        """Free it."""


class Cuda(Protocol):
    """One GPU with one stream. Every method raises CudaError, in one line, when CUDA fails."""

    name: str  # the Python package and its version
    gpu: Gpu
    stream: int  # the handle, for TensorRT
    can_capture: bool

    def make_current(self) -> None:
        """Use the context in the thread that calls."""

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of GPU memory."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A page-locked array of zeros; it lives as long as this object is open."""

    def upload(self, address: int, host: NDArray[Any]) -> None:
        """Copy a contiguous page-locked array to the GPU, asynchronously."""

    def download(self, host: NDArray[Any], address: int) -> None:
        """Copy GPU memory into a contiguous page-locked array, asynchronously."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within GPU memory, asynchronously."""

    def zero(self, address: int, size: int) -> None:
        """Set GPU memory to zero, asynchronously."""

    def synchronize(self) -> None:
        """Wait for everything on the stream."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` puts on the stream; nothing of it runs yet."""

    def event(self) -> Any:
        """A mark that can be put on the stream."""

    def record(self, event: Any) -> None:
        """Put the mark on the stream, or into the graph that is being recorded."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two marks, once the stream was waited for."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of GPU memory."""

    def close(self) -> None:
        """Free everything; nothing else may be called any more."""


def open_cuda() -> Cuda:
    """The GPU, by whichever Python package is installed: cuda-bindings, else pycuda.

    Raises BackendMissing when there is neither, CudaError when there is no usable GPU.
    """
    if _has("cuda.bindings"):
        from ssast_edge.cuda.bindings import BindingsCuda

        return BindingsCuda()
    _want_pycuda()
    from ssast_edge.cuda.pycuda import PycudaCuda

    return PycudaCuda()


def find_gpu() -> Gpu:
    """The first GPU, without a context on it; errors as for `open_cuda`."""
    if _has("cuda.bindings"):
        from ssast_edge.cuda import bindings

        return bindings.describe_gpu()
    _want_pycuda()
    from ssast_edge.cuda import pycuda

    return pycuda.describe_gpu()


def explain(call: str, name: str, text: str) -> str:
    """One line for a call that failed. name: CUDA's for the error; text: CUDA's own words."""
    return f"CUDA: {MEANINGS.get(name, text)} ({name} from {call})"


def spell_version(number: int) -> str:
    """CUDA's 12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def driver_version() -> str:
    """The NVIDIA driver's own version, "" where the system does not tell."""
    try:
        text = _DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return found[1] if found else ""


def contiguous_address(host: NDArray[Any]) -> int:
    """Where the array's bytes are. Raises ValueError when they do not lie in one piece."""
    if not host.flags.c_contiguous:
        raise ValueError("wanted a contiguous array")
    return int(host.ctypes.data)


def zeros_at(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array over host memory that somebody else owns, set to zero."""
    import ctypes

    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    memory = (ctypes.c_char * size).from_address(address)
    array = np.frombuffer(memory, kind).reshape(shape)
    array[...] = 0
    return array


def _want_pycuda() -> None:
    if not _has("pycuda"):
        raise BackendMissing(f"nothing here speaks to CUDA's driver: {_INSTALL}")


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
