"""CUDA by pycuda, which many Jetson images bring compiled. It cannot record graphs."""

import atexit
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from ssast_edge.cuda import (
    CudaError,
    Gpu,
    Graph,
    contiguous_address,
    driver_version,
    explain,
    spell_version,
)

# pycuda keeps CUDA's words for an error and not its name.
NAMES = {
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "no CUDA-capable device is detected": "CUDA_ERROR_NO_DEVICE",
    "driver shutting down": "CUDA_ERROR_DEINITIALIZED",
    "invalid device context": "CUDA_ERROR_INVALID_CONTEXT",
    "context is destroyed": "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "uncorrectable ECC error encountered": "CUDA_ERROR_ECC_UNCORRECTABLE",
    "an illegal memory access was encountered": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "misaligned address": "CUDA_ERROR_MISALIGNED_ADDRESS",
    "an illegal instruction was encountered": "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "unspecified launch failure": "CUDA_ERROR_LAUNCH_FAILED",
    "the launch timed out and was terminated": "CUDA_ERROR_LAUNCH_TIMEOUT",
    "unknown error": "CUDA_ERROR_UNKNOWN",
}


class PycudaCuda:
    """The first GPU; `ssast_edge.cuda.Cuda` says what each method does. For one thread only."""

    can_capture = False

    def __init__(self) -> None:
        """Take the primary context and make a stream."""
        self._driver = _import_driver()
        self.name = f"pycuda {import_module('pycuda').VERSION_TEXT}"
        self.gpu = describe_gpu()
        self._thread = threading.get_ident()
        self._allocations: dict[int, Any] = {}
        self._pinned: list[NDArray[Any]] = []
        self._context = self._call(self._driver.Device(0).retain_primary_context)
        self._call(self._context.push)
        self._is_open = True
        # pycuda ends the process with abort() when a context is current at its exit.
        atexit.register(self.close)
        try:
            self._stream = self._call(self._driver.Stream)
        except BaseException:
            self.close()
            raise
        self.stream = int(self._stream.handle)

    def make_current(self) -> None:
        """Check that the thread is the one that has the context: pycuda keeps it there."""
        if threading.get_ident() != self._thread:
            raise CudaError(
                "pycuda serves only the thread that opened it: open the model in the thread "
                "that runs it, or install cuda-bindings"
            )

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of GPU memory."""
        allocation = self._call(self._driver.mem_alloc, size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        if address not in self._allocations:
            raise ValueError(f"no memory was allocated at {address:#x}")
        self._call(self._allocations.pop(address).free)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A page-locked array of zeros; it lives as long as this object is open."""
        array: NDArray[Any] = self._call(self._driver.pagelocked_empty, shape, dtype)
        array[...] = 0
        self._pinned.append(array)
        return array

    def upload(self, address: int, host: NDArray[Any]) -> None:
        """Copy a contiguous page-locked array to the GPU, asynchronously."""
        contiguous_address(host)
        self._call(self._driver.memcpy_htod_async, address, host, self._stream)

    def download(self, host: NDArray[Any], address: int) -> None:
        """Copy GPU memory into a contiguous page-locked array, asynchronously."""
        contiguous_address(host)
        self._call(self._driver.memcpy_dtoh_async, host, address, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within GPU memory, asynchronously."""
        self._call(self._driver.memcpy_dtod_async, target, source, size, self._stream)

    def zero(self, address: int, size: int) -> None:
        """Set GPU memory to zero, asynchronously."""
        self._call(self._driver.memset_d8_async, address, 0, size, self._stream)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self._call(self._stream.synchronize)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Not with pycuda."""
        raise CudaError("pycuda cannot record CUDA graphs: install cuda-bindings for them")

    def event(self) -> Any:
        """A mark that can be put on the stream."""
        return self._call(self._driver.Event)

    def record(self, event: Any) -> None:
        """Put the mark on the stream."""
        self._call(event.record, self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two marks, once the stream was waited for."""
        return float(self._call(end.time_since, start))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of GPU memory."""
        free, total = self._call(self._driver.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        """Free everything; nothing else may be called any more."""
        if not self._is_open:
            return
        self._is_open = False
        atexit.unregister(self.close)
        for memory in (*self._allocations.values(), *(array.base for array in self._pinned)):
            try:
                memory.free()
            except self._driver.Error:  # a GPU that is lost: its memory went with it
                break
        self._allocations.clear()
        self._pinned.clear()
        self._stream = None
        # Said here: left to its destructor, pycuda gives the primary context back the wrong way.
        context, self._context = self._context, None
        try:
            context.detach()
        except self._driver.Error:
            return

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _call(self._driver, function, *arguments)


def describe_gpu() -> Gpu:
    """The first GPU, without a context on it."""
    driver = _import_driver()
    _call(driver, driver.init)
    device = _call(driver, driver.Device, 0)
    major, minor = _call(driver, device.compute_capability)
    return Gpu(
        name=str(_call(driver, device.name)),
        compute_capability=f"{major}.{minor}",
        cuda_version=spell_version(int(_call(driver, driver.get_driver_version))),
        driver_version=driver_version(),
        memory_bytes=int(_call(driver, device.total_memory)),
    )


def _import_driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ImportError as error:  # also where libcuda is missing
        raise CudaError(f"CUDA: pycuda cannot be imported ({error})") from error


def _call(driver: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except driver.Error as error:
        # "cuMemAlloc failed: out of memory", sometimes with more after " - ".
        routine, _, words = str(error).partition(" failed: ")
        text = words.split(" - ")[0]
        name = NAMES.get(text, type(error).__name__)
        raise CudaError(explain(routine, name, text or str(error))) from error
