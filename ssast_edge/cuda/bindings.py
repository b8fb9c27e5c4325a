"""CUDA by NVIDIA's cuda-bindings, the driver API as Python functions."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.cuda import (
    CudaError,
    Gpu,
    contiguous_address,
    driver_version,
    explain,
    spell_version,
    zeros_at,
)
from ssast_edge.errors import BackendMissing

_NAME_BYTES = 256


class BindingsCuda:
    """The first GPU; `ssast_edge.cuda.Cuda` says what each method does."""

    can_capture = True

    def __init__(self) -> None:
        """Take the primary context and make a stream."""
        from importlib.metadata import version

        self.name = f"cuda-bindings {version('cuda-bindings')}"
        self._driver = _import_driver()
        self.gpu = describe_gpu()
        self._device = self._call("cuDeviceGet", 0)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._owned: list[tuple[str, Any]] = []  # how to free it, what; in order of creation
        self._is_open = True
        self._is_capturing = False
        try:
            self.make_current()
            # Not the default stream, on which TensorRT would synchronise more than once.
            flags = int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
            self._stream = self._call("cuStreamCreate", flags)
            self._owned.append(("cuStreamDestroy", self._stream))
        except BaseException:
            self.close()
            raise
        self.stream = int(self._stream)

    def make_current(self) -> None:
        """Use the context in the thread that calls."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of GPU memory."""
        address = self._call("cuMemAlloc", size)
        self._owned.append(("cuMemFree", address))
        return int(address)

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        for entry in self._owned:
            if entry[0] == "cuMemFree" and int(entry[1]) == address:
                self._owned.remove(entry)
                self._call(*entry)
                return
        raise ValueError(f"no memory was allocated at {address:#x}")

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A page-locked array of zeros; it lives as long as this object is open."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        address = self._call("cuMemAllocHost", size)
        self._owned.append(("cuMemFreeHost", address))
        return zeros_at(int(address), shape, dtype)

    def upload(self, address: int, host: NDArray[Any]) -> None:
        """Copy a contiguous page-locked array to the GPU, asynchronously."""
        source = contiguous_address(host)
        self._call("cuMemcpyHtoDAsync", address, source, host.nbytes, self._stream)

    def download(self, host: NDArray[Any], address: int) -> None:
        """Copy GPU memory into a contiguous page-locked array, asynchronously."""
        target = contiguous_address(host)
        self._call("cuMemcpyDtoHAsync", target, address, host.nbytes, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within GPU memory, asynchronously."""
        self._call("cuMemcpyDtoDAsync", target, source, size, self._stream)

    def zero(self, address: int, size: int) -> None:
        """Set GPU memory to zero, asynchronously."""
        self._call("cuMemsetD8Async", address, 0, size, self._stream)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> "BindingsGraph":
        """Record what `work` puts on the stream; nothing of it runs yet."""
        # Thread-local: what other threads of the program do with CUDA stays their affair.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        self._is_capturing = True
        try:
            work()
        except BaseException:
            self._end_failed_capture()
            raise
        finally:
            self._is_capturing = False
        recorded = self._call("cuStreamEndCapture", self._stream)
        try:
            executable = self._call("cuGraphInstantiate", recorded, 0)
        finally:
            self._call("cuGraphDestroy", recorded)
        self._owned.append(("cuGraphExecDestroy", executable))
        return BindingsGraph(self, executable)

    def event(self) -> Any:
        """A mark that can be put on the stream."""
        event = self._call("cuEventCreate", 0)
        self._owned.append(("cuEventDestroy", event))
        return event

    def record(self, event: Any) -> None:
        """Put the mark on the stream, or into the graph that is being recorded."""
        kinds = self._driver.CUevent_record_flags
        # Without the flag a recorded graph would only take it for an order among its parts.
        kind = (
            kinds.CU_EVENT_RECORD_EXTERNAL if self._is_capturing else kinds.CU_EVENT_RECORD_DEFAULT
        )
        self._call("cuEventRecordWithFlags", event, self._stream, int(kind))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two marks, once the stream was waited for."""
        return float(self._call("cuEventElapsedTime", start, end))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of GPU memory."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        """Free everything; nothing else may be called any more."""
        if not self._is_open:
            return
        self._is_open = False
        # A GPU that is lost refuses these too: its memory went with it.
        for function, handle in reversed(self._owned):
            getattr(self._driver, function)(handle)
        self._owned.clear()
        self._driver.cuDevicePrimaryCtxRelease(self._device)

    def launch(self, executable: Any) -> None:
        """Put a recorded graph on the stream."""
        self._call("cuGraphLaunch", executable, self._stream)

    def release(self, executable: Any) -> None:
        """Free a recorded graph."""
        if self._is_open:
            self._owned.remove(("cuGraphExecDestroy", executable))
            self._call("cuGraphExecDestroy", executable)

    def _end_failed_capture(self) -> None:
        # Ends the recording whatever became of it: the stream must be usable afterwards.
        status, recorded = self._driver.cuStreamEndCapture(self._stream)
        if int(status) == 0 and int(recorded):
            self._driver.cuGraphDestroy(recorded)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._driver, function, *arguments)


class BindingsGraph:
    """Work that was recorded once."""

    def __init__(self, cuda: BindingsCuda, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def launch(self) -> None:
        """Put all of it on the stream."""
        self._cuda.launch(self._executable)

    def close(self) -> None:
        """Free it."""
        self._cuda.release(self._executable)


def describe_gpu() -> Gpu:
    """The first GPU, without a context on it."""
    driver = _import_driver()
    _call(driver, "cuInit", 0)
    device = _call(driver, "cuDeviceGet", 0)
    attributes = driver.CUdevice_attribute
    major, minor = (
        int(_call(driver, "cuDeviceGetAttribute", attribute, device))
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    name = bytes(_call(driver, "cuDeviceGetName", _NAME_BYTES, device))
    return Gpu(
        name=name.split(b"\0")[0].decode("utf-8", "replace"),
        compute_capability=f"{major}.{minor}",
        cuda_version=spell_version(int(_call(driver, "cuDriverGetVersion"))),
        driver_version=driver_version(),
        memory_bytes=int(_call(driver, "cuDeviceTotalMem", device)),
    )


def _import_driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ImportError as error:
        raise BackendMissing(
            f"cuda-bindings cannot be imported ({error}): pip install cuda-bindings"
        ) from error


def _call(driver: Any, function: str, *arguments: Any) -> Any:
    """Result of a driver function: nothing, one value, or a tuple of several."""
    try:
        status, *results = getattr(driver, function)(*arguments)
    except (RuntimeError, OSError) as error:  # libcuda cannot be found, or lacks the function
        raise CudaError("CUDA: no NVIDIA driver on this machine, or one that is too old") from error
    if int(status) != 0:
        raise CudaError(_failure(driver, function, status))
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def _failure(driver: Any, function: str, status: Any) -> str:
    _, text = driver.cuGetErrorString(status)
    words = text.decode("utf-8", "replace") if text else "unknown error"
    return explain(function, getattr(status, "name", str(int(status))), words)
