"""What every implementation of `ssast_edge.cuda.Cuda` must do: python contract.py bindings|pycuda.

On the stand-in driver when it is preloaded, else on the machine's GPU. JSON on stdout.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from ssast_edge.cuda import Cuda, CudaError  # noqa: E402
from tests.ssast_edge.cuda_driver.checks import fail, raises, run, stand_in  # noqa: E402

ILLEGAL_ADDRESS, CONTEXT_IS_DESTROYED, NO_DEVICE = 700, 709, 100


def numbers(cuda: Cuda, *values: float) -> Any:
    array = cuda.pinned((len(values),), np.float32)
    array[:] = values
    return array


def check_pinned_memory_is_zero_and_contiguous(cuda: Cuda) -> None:
    array = cuda.pinned((3, 5), np.float32)
    assert array.shape == (3, 5)
    assert array.flags.c_contiguous
    assert not array.any()


def check_bytes_go_there_and_back(cuda: Cuda) -> None:
    there, back = cuda.allocate(16), cuda.pinned((4,), np.float32)
    cuda.upload(there, numbers(cuda, 1, 2, 3, 4))
    cuda.download(back, there)
    cuda.synchronize()
    assert back.tolist() == [1, 2, 3, 4]


def check_copies_take_offsets(cuda: Cuda) -> None:
    first, second = cuda.allocate(16), cuda.allocate(16)
    back, source = cuda.pinned((4,), np.float32), numbers(cuda, 1, 2, 3, 4)
    cuda.upload(first, source)
    cuda.copy(second, first + 4, 12)
    cuda.upload(second + 12, source[:1])
    cuda.download(back, second)
    cuda.synchronize()
    assert back.tolist() == [2, 3, 4, 1]


def check_memory_can_be_zeroed(cuda: Cuda) -> None:
    there, back = cuda.allocate(16), numbers(cuda, 9, 9, 9, 9)
    cuda.upload(there, back)
    cuda.zero(there, 8)
    cuda.download(back, there)
    cuda.synchronize()
    assert back.tolist() == [0, 0, 9, 9]


def check_arrays_with_holes_are_refused(cuda: Cuda) -> None:
    there, array = cuda.allocate(64), cuda.pinned((4, 4), np.float32)
    assert "contiguous" in raises(ValueError, lambda: cuda.upload(there, array[:, :2]))


def check_memory_is_counted(cuda: Cuda) -> None:
    free, total = cuda.memory()
    assert 0 < free <= total == cuda.gpu.memory_bytes or not stand_in()
    size = 64 << 20
    address = cuda.allocate(size)
    assert cuda.memory()[0] <= free
    cuda.free(address)
    assert "no memory" in raises(ValueError, lambda: cuda.free(address))
    assert cuda.memory()[0] == free or not stand_in()


def check_too_much_memory_is_one_line(cuda: Cuda) -> None:
    said = raises(CudaError, lambda: cuda.allocate(1 << 50))
    assert "the GPU has no memory left" in said
    assert "CUDA_ERROR_OUT_OF_MEMORY from cuMemAlloc" in said
    assert cuda.allocate(64)


def check_a_graph_replays_what_was_recorded(cuda: Cuda) -> None:
    there, back, source = (
        cuda.allocate(16),
        cuda.pinned((4,), np.float32),
        numbers(cuda, 1, 2, 3, 4),
    )

    def work() -> None:
        cuda.upload(there, source)
        cuda.download(back, there)

    if not cuda.can_capture:
        assert "cannot record" in raises(CudaError, lambda: cuda.capture(work))
        return
    graph = cuda.capture(work)
    cuda.synchronize()
    assert back.tolist() == [0, 0, 0, 0]
    for value in (5.0, 6.0):
        source[:] = value
        graph.launch()
        cuda.synchronize()
        assert back.tolist() == 4 * [value]
    graph.close()


def check_a_failed_recording_leaves_the_stream_usable(cuda: Cuda) -> None:
    if not cuda.can_capture:
        return

    def work() -> None:
        raise KeyError("in between")

    assert "in between" in raises(KeyError, lambda: cuda.capture(work))
    if stand_in():  # waiting while it is recorded breaks a recording
        assert "CUDA" in raises(CudaError, lambda: cuda.capture(cuda.synchronize))
    check_bytes_go_there_and_back(cuda)
    check_a_graph_replays_what_was_recorded(cuda)


def check_marks_measure_time(cuda: Cuda) -> None:
    start, end = cuda.event(), cuda.event()
    there, source = cuda.allocate(16), numbers(cuda, 1, 2, 3, 4)

    def work() -> None:
        cuda.record(start)
        cuda.upload(there, source)
        cuda.record(end)

    work()
    cuda.synchronize()
    assert 0 <= cuda.elapsed_ms(start, end) < 1000
    if cuda.can_capture:
        graph = cuda.capture(work)
        graph.launch()
        cuda.synchronize()
        assert 0 <= cuda.elapsed_ms(start, end) < 1000


def check_the_gpu_is_described(cuda: Cuda) -> None:
    assert cuda.gpu.name
    assert float(cuda.gpu.compute_capability) > 2
    assert float(cuda.gpu.cuda_version) > 10
    assert cuda.stream > 0


def check_a_lost_gpu_is_one_line(cuda: Cuda) -> None:
    if not stand_in():
        return
    fail("cuStreamSynchronize", ILLEGAL_ADDRESS)
    said = raises(CudaError, cuda.synchronize)
    assert said.startswith("CUDA: GPU lost")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS from cuStreamSynchronize" in said
    assert "\n" not in said


def check_a_destroyed_context_is_one_line(cuda: Cuda) -> None:
    if not stand_in():
        return
    fail("cuMemcpyDtoDAsync_v2", CONTEXT_IS_DESTROYED)
    address = cuda.allocate(64)
    said = raises(CudaError, lambda: cuda.copy(address, address + 32, 16))
    assert "the CUDA context was destroyed: start ssast-edge again" in said


def check_another_thread(cuda: Cuda) -> None:
    said: list[str] = []

    def elsewhere() -> None:
        try:
            cuda.make_current()
            check_bytes_go_there_and_back(cuda)
        except Exception as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not said if cuda.can_capture else "only the thread that opened it" in said[0]


def check_closing_frees_everything_and_may_be_repeated(cuda: Cuda) -> None:
    cuda.allocate(64)
    cuda.pinned((4,), np.float32)
    cuda.close()
    cuda.close()
    if stand_in():
        assert stand_in().stand_in_blocks() == 0


def check_no_gpu_is_one_line(cuda: Cuda) -> None:
    if not stand_in():
        return
    fail("cuInit", NO_DEVICE)
    said = raises(CudaError, type(cuda))
    assert said.startswith("CUDA: no GPU that CUDA can use on this machine (CUDA_ERROR_NO_DEVICE")


def main(implementation: str) -> None:
    """Check one implementation."""
    if implementation == "pycuda":
        # It names functions that the stand-in lacks and that nothing here calls.
        sys.setdlopenflags(os.RTLD_LAZY)
        from ssast_edge.cuda.pycuda import PycudaCuda as Implementation
    else:
        from ssast_edge.cuda.bindings import BindingsCuda as Implementation  # type: ignore[assignment]
    run(globals(), Implementation)


if __name__ == "__main__":
    main(sys.argv[1])
