"""The TensorRT backend over the stand-ins: python backend.py bindings|pycuda. JSON on stdout.

The engine gives the window that it finds on the "GPU" as its logits, so what they are is what the
backend has put there.
"""

import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from ssast_edge.backends.tensorrt import TensorrtBackend  # noqa: E402
from ssast_edge.cuda import Cuda, CudaError  # noqa: E402
from ssast_edge.engines.manifest import EngineError  # noqa: E402
from ssast_edge.engines.tensorrt_library import TensorRt  # noqa: E402
from tests.ssast_edge.cuda_driver import tensorrt_stand_in  # noqa: E402
from tests.ssast_edge.cuda_driver.checks import (  # noqa: E402
    count,
    fail,
    raises,
    run,
    stand_in,
)

FRAMES, BINS = 12, 4
LIBRARY = TensorRt(tensorrt_stand_in, "tensorrt", tensorrt_stand_in.__version__)
RNG = np.random.default_rng(0)


def opened(cuda: Cuda, batch: int = 1, fails: str = "", labels: int = FRAMES * BINS) -> Any:
    plan = {"frames": FRAMES, "bins": BINS, "labels": labels, "batch": batch, "fails": fails}
    return TensorrtBackend(
        json.dumps(plan).encode(),
        LIBRARY,
        cuda,
        input_shape=(FRAMES, BINS),
        num_labels=FRAMES * BINS,
        precision="fp16",
        max_batch=batch,
    )


class Stream:
    """Random frames, as a spotter would hand them over."""

    def __init__(self) -> None:
        self.window = np.zeros((FRAMES, BINS), np.float32)

    def push(self, count: int) -> Any:
        fresh = RNG.normal(size=(count, BINS)).astype(np.float32)
        self.window = np.ascontiguousarray(np.concatenate([self.window, fresh])[-FRAMES:])
        return self.window


def infers(backend: Any, window: Any, new_frames: int | None) -> None:
    kept = window.copy()
    logits = backend.infer(window, new_frames=new_frames)
    np.testing.assert_array_equal(logits, kept.ravel())
    np.testing.assert_array_equal(window, kept)


def check_the_window_on_the_gpu_is_the_window(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    for hop in (*20 * [3], *5 * [5], 1, 1, 12, 3, 3, 13, 3, 3):
        infers(backend, stream.push(hop), min(hop, FRAMES))
    assert backend.uses_graphs == cuda.can_capture


def check_the_embedding_is_of_the_window(cuda: Cuda) -> None:
    shape, size = (FRAMES // 2, 2 * BINS), FRAMES * BINS
    plan = {"frames": FRAMES, "bins": BINS, "labels": size, "batch": 2, "embedding": shape}

    def open_engine(**settings: Any) -> Any:
        return TensorrtBackend(
            json.dumps(plan).encode(),
            LIBRARY,
            cuda,
            input_shape=(FRAMES, BINS),
            num_labels=size,
            precision="fp16",
            max_batch=2,
            **settings,
        )

    backend, stream = open_engine(embedding=shape, embeds=True), Stream()
    for hop in (3, 3, 3, 5, 5, 12, 1, 1):
        window = stream.push(hop)
        logits, embedding = backend.infer_both(window, new_frames=hop)
        np.testing.assert_array_equal(logits, window.ravel())
        np.testing.assert_array_equal(embedding, window.reshape(shape))
        infers(backend, stream.push(hop), hop)
    windows = np.stack([stream.push(3), stream.push(3)])
    np.testing.assert_array_equal(backend.infer_batch(windows), windows.reshape(2, -1))
    # An output that nobody reads has a place all the same.
    silent = open_engine(embedding=shape)
    infers(silent, stream.push(3), None)
    said = raises(ValueError, lambda: silent.infer_both(stream.push(3)))
    assert "was not opened for its embedding" in said, said
    said = raises(EngineError, open_engine)
    assert "embedding (6, 8)" not in said.split("wants")[1], said
    said = raises(EngineError, lambda: open_engine(embedding=(1, 2)))
    assert "and embedding (1, 2)" in said, said


def check_random_hops_gaps_and_jumps(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    for _ in range(300):
        kind = RNG.integers(5)
        hop = 3 if kind < 3 else int(RNG.integers(1, 14))
        window = stream.push(hop)
        infers(backend, window, None if kind == 3 else min(hop, FRAMES))
        if RNG.integers(20) == 0:
            stream = Stream()
            infers(backend, stream.window, None)


def check_a_window_that_is_not_what_was_said_is_uploaded_whole(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    for _ in range(4):
        infers(backend, stream.push(3), 3)
    for _ in range(4):
        infers(backend, Stream().push(12), 3)  # somebody else's window


def check_a_hop_uploads_its_new_frames_alone(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    for _ in range(5):
        infers(backend, stream.push(3), 3)
    names = ("cuStreamSynchronize", "cuMemAlloc_v2", "cuMemAllocHost_v2", "cuMemHostAlloc")
    before = [count(name) for name in names]
    launched, uploaded = count("cuGraphLaunch"), count("cuMemcpyHtoDAsync_v2")
    for _ in range(10):
        infers(backend, stream.push(3), 3)
    assert [count(name) for name in names] == [before[0] + 10, *before[1:]]
    # In a graph nothing but the launch is called.
    assert count("cuGraphLaunch") - launched == (10 if cuda.can_capture else 0)
    assert count("cuMemcpyHtoDAsync_v2") - uploaded == (0 if cuda.can_capture else 10)


def check_results_are_the_callers(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    first = backend.infer(stream.push(3))
    kept = first.copy()
    backend.infer(stream.push(3))
    np.testing.assert_array_equal(first, kept)


def check_a_batch_in_between(cuda: Cuda) -> None:
    backend, stream = opened(cuda, batch=4), Stream()
    assert backend.max_batch == 4
    for size in (4, 1, 3):
        infers(backend, stream.push(3), 3)
        windows = RNG.normal(size=(size, FRAMES, BINS)).astype(np.float32)
        np.testing.assert_array_equal(backend.infer_batch(windows), windows.reshape(size, -1))
    infers(backend, stream.push(3), 3)
    assert "1 to 4 windows, got 5" in raises(
        ValueError, lambda: backend.infer_batch(np.zeros((5, FRAMES, BINS), np.float32))
    )


def check_stages_are_measured_once_asked_for(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    infers(backend, stream.push(3), 3)
    assert backend.stages_ms() == {}
    for _ in range(3):
        infers(backend, stream.push(3), 3)
        stages = backend.stages_ms()
        assert list(stages) == ["upload", "inference", "download"]
        assert all(0 <= value < 1000 for value in stages.values())
    assert backend.uses_graphs == cuda.can_capture


def check_an_engine_that_cannot_be_recorded_runs_without_graphs(cuda: Cuda) -> None:
    backend, stream = opened(cuda, fails="record"), Stream()
    assert not backend.uses_graphs
    for _ in range(5):
        infers(backend, stream.push(3), 3)


def check_a_lost_gpu_is_one_line_and_the_next_window_is_whole(cuda: Cuda) -> None:
    backend, stream = opened(cuda), Stream()
    for _ in range(3):
        infers(backend, stream.push(3), 3)
    fail("cuStreamSynchronize", 700)
    said = raises(CudaError, lambda: backend.infer(stream.push(3), new_frames=3))
    assert said.startswith("CUDA: GPU lost")
    fail("", 0)
    for _ in range(3):
        infers(backend, stream.push(3), 3)


def check_an_engine_that_does_not_run_says_why(cuda: Cuda) -> None:
    said = raises(EngineError, lambda: opened(cuda, fails="run"))
    assert said == "TensorRT cannot run the engine: enqueueV3: Error Code 1: Cuda Runtime"
    assert "has no room for the engine" in raises(EngineError, lambda: opened(cuda, fails="memory"))


def check_another_engine_is_refused(cuda: Cuda) -> None:
    said = raises(EngineError, lambda: opened(cuda, labels=7))
    assert "the engine has fbank (12, 4), logits (7,); the bundle wants" in said
    build = lambda: TensorrtBackend(  # noqa: E731
        b"no plan", LIBRARY, cuda, input_shape=(1, 1), num_labels=1, precision="fp16"
    )
    said = raises(EngineError, build)
    assert said == "TensorRT 10.3.0 cannot load the engine: Magic tag does not match"


def check_a_closed_backend_has_freed_everything(cuda: Cuda) -> None:
    backend = opened(cuda)
    freed: list[int] = []
    before = count("cuGraphExecDestroy")
    weakref.finalize(backend._engine, lambda: freed.append(count("cuGraphExecDestroy") - before))
    backend.close()
    backend.close()
    assert stand_in().stand_in_blocks() == 0
    assert freed == [2 if cuda.can_capture else 0]  # graphs before the engine that they run
    window = np.zeros((FRAMES, BINS), np.float32)
    assert raises(ValueError, lambda: backend.infer(window)) == "the backend is closed"


def check_a_window_of_another_shape_is_refused(cuda: Cuda) -> None:
    backend = opened(cuda)
    said = raises(ValueError, lambda: backend.infer(np.zeros((1, 1), np.float32)))
    assert said == "the window must have the shape (12, 4), got (1, 1)"


def main(implementation: str) -> None:
    """Check the backend over one implementation of the CUDA layer."""
    if implementation == "pycuda":
        sys.setdlopenflags(os.RTLD_LAZY)
        from ssast_edge.cuda.pycuda import PycudaCuda as Implementation
    else:
        from ssast_edge.cuda.bindings import BindingsCuda as Implementation  # type: ignore[assignment]
    run(globals(), Implementation)


if __name__ == "__main__":
    main(sys.argv[1])
