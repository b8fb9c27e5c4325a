"""A TensorRT engine on the GPU, for one window at a time of a stream of windows.

The window stays on the GPU, in two buffers that take turns: a hop copies what is kept from one
into the other, uploads only its new frames behind it, runs the engine there and downloads the
logits. All addresses are fixed, so the whole hop is one CUDA graph, launched and waited for once.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.cuda import Cuda, CudaError, Graph
from ssast_edge.engines.manifest import EngineError
from ssast_edge.engines.tensorrt_library import CollectedLog, TensorRt, make_logger

FloatArray = NDArray[np.float32]

INPUT = "fbank"
OUTPUT = "logits"
EMBEDDING = "embedding"
_MAX_BATCH = 256  # more would only take memory
_STAGES = ("upload", "inference", "download")


@dataclass(frozen=True)
class _Buffers:
    """GPU memory and its page-locked counterpart for calls of one batch size."""

    windows: tuple[int, ...]  # addresses of whole inputs
    staging: NDArray[np.float32]  # what is uploaded
    output: int  # address of the logits
    logits: NDArray[Any]  # what is downloaded
    embedding_output: int  # address of the embedding, 0: the engine has none
    embedding: NDArray[Any] | None  # None: it stays on the GPU


class TensorrtBackend:
    """A built engine with one input "fbank" (batch, frames, bins) and one output "logits".

    plan: the engine's bytes. input_shape: (frames, bins). embedding: (segments, width) of a second
    output "embedding", None for an engine without; embeds: it is downloaded with every single
    window, for `infer_both`. max_batch: of the engine. The plugin
    that the engine needs must be loaded already. `cuda` is closed with the backend. Raises
    EngineError when TensorRT does not take the engine, CudaError when the GPU fails.
    """

    hop_frames = 1  # any number of frames may be new

    def __init__(
        self,
        plan: bytes,
        library: TensorRt,
        cuda: Cuda,
        *,
        input_shape: tuple[int, int],
        num_labels: int,
        precision: str,
        embedding: tuple[int, int] | None = None,
        embeds: bool = False,
        max_batch: int = 1,
        log: CollectedLog | None = None,
    ) -> None:
        """Load the engine, allocate everything and run it once."""
        self.name = f"tensorrt ({precision})"
        self.max_batch = min(max_batch, _MAX_BATCH)
        self._cuda = cuda
        self._trt = library.module
        self._log = log or CollectedLog()
        self._shape = input_shape
        self._num_labels = num_labels
        self._embedding, self._embeds = embedding, embeds
        self._row_bytes = input_shape[1] * np.dtype(np.float32).itemsize
        cuda.make_current()
        # TensorRT wants its logger and runtime to outlive the engine, the engine its context.
        self._logger = make_logger(self._trt, self._log)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"{library.title} cannot load the engine: {self._log.take_errors()}")
        self._check_ports()
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"{library.title} has no room for the engine on the GPU: {self._log.take_errors()}"
            )
        self._one = self._allocate(1, windows=2)
        self._many: _Buffers | None = None
        self._held = 0  # which of the two windows is the newest
        self._hop = 0  # new frames that were last told of
        self._edges: tuple[FloatArray, FloatArray] | None = None  # None: no window is held
        self._graphs: dict[tuple[int, int], Graph] = {}  # (new frames, target)
        self._sizes: set[int] = set()  # of new frames that are recorded
        self._marks: list[Any] = []  # around the stages, once anyone asks
        self._has_run = False
        self._can_capture = cuda.can_capture
        self._set_batch(1, self._one)
        self._record(input_shape[0])

    @property
    def uses_graphs(self) -> bool:
        """Whether a hop is one CUDA graph."""
        return bool(self._graphs)

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel (frames, bins).

        new_frames: only so many rows, the last, are new since the call before. Raises CudaError
        or EngineError when the GPU fails; the next call then uploads the whole window.
        """
        self._run(fbank, new_frames)
        logits: FloatArray = self._one.logits[0].astype(np.float32)
        return logits

    def infer_both(
        self, fbank: FloatArray, *, new_frames: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (labels,) and embedding (segments, width); else as `infer`."""
        if self._one.embedding is None:
            raise ValueError("the engine was not opened for its embedding")
        self._run(fbank, new_frames)
        logits: FloatArray = self._one.logits[0].astype(np.float32)
        return logits, self._one.embedding[0].astype(np.float32)

    def _run(self, fbank: FloatArray, new_frames: int | None) -> None:
        """One hop: its results lie in the page-locked memory."""
        if self._context is None:
            raise ValueError("the backend is closed")
        fresh = self._fresh_frames(fbank, new_frames)
        self._edges = None  # should this fail, nothing is held
        self._cuda.make_current()
        if fresh not in self._sizes:
            self._record(fresh)
        target = 1 - self._held
        self._one.staging[0, -fresh:] = fbank[-fresh:]
        graph = self._graphs.get((fresh, target))
        if graph is not None:
            graph.launch()
        else:
            self._enqueue(fresh, target)
        self._cuda.synchronize()
        self._held = target
        if self._hop:
            self._edges = fbank[self._hop].copy(), fbank[-1].copy()
        self._has_run = True

    def infer_batch(self, fbank: FloatArray) -> FloatArray:
        """Logits (batch, labels) for up to max_batch windows (batch, frames, bins)."""
        if self._context is None:
            raise ValueError("the backend is closed")
        size = len(fbank)
        if not 1 <= size <= self.max_batch:
            raise ValueError(f"the engine takes 1 to {self.max_batch} windows, got {size}")
        self._cuda.make_current()
        if self._many is None:
            self._many = self._allocate(self.max_batch, windows=1)
        buffers = self._many
        if self._graphs and size > 1:
            # Recorded for one window; what another shape leaves of it in the engine, TensorRT
            # does not say.
            self._forget_graphs()
        self._set_batch(size, buffers)
        try:
            buffers.staging[:size] = fbank
            self._cuda.upload(buffers.windows[0], buffers.staging[:size])
            self._execute(buffers.windows[0], buffers)
            self._cuda.download(buffers.logits[:size], buffers.output)
            self._cuda.synchronize()
        finally:
            self._set_batch(1, self._one)
        return buffers.logits[:size].astype(np.float32)

    def stages_ms(self) -> Mapping[str, float]:
        """Milliseconds of upload, inference and download of the last `infer`.

        The first call turns the measuring on and returns nothing.
        """
        if self._context is None:
            raise ValueError("the backend is closed")
        if not self._marks:
            self._cuda.make_current()
            self._marks = [self._cuda.event() for _ in range(len(_STAGES) + 1)]
            self._forget_graphs()
            self._has_run = False
            return {}
        if not self._has_run:
            return {}
        return {
            stage: self._cuda.elapsed_ms(start, end)
            for stage, start, end in zip(_STAGES, self._marks, self._marks[1:], strict=False)
        }

    def close(self) -> None:
        """Free the engine and the GPU."""
        if self._context is None:
            return
        # First, as they hold the engine's kernels. A GPU that is lost refuses.
        with suppress(CudaError):
            self._forget_graphs()
        self._graphs.clear()
        self._context = self._engine = self._runtime = None  # in this order
        self._cuda.close()

    def _fresh_frames(self, fbank: FloatArray, new_frames: int | None) -> int:
        """How many rows must be uploaded."""
        frames = self._shape[0]
        if fbank.shape != self._shape:
            raise ValueError(f"the window must have the shape {self._shape}, got {fbank.shape}")
        if new_frames is None or not 0 < new_frames < frames:
            return frames
        edges = self._edges if new_frames == self._hop else None
        self._hop = new_frames
        if edges is None:
            return frames
        # A call by somebody else in between, or rows that nobody told of, must not go unnoticed.
        is_moved = np.array_equal(fbank[0], edges[0]) and np.array_equal(
            fbank[-1 - new_frames], edges[1]
        )
        return new_frames if is_moved else frames

    def _record(self, fresh: int) -> None:
        """Record the graphs of so many new frames, if that can be; run the engine once first."""
        self._sizes.add(fresh)
        for target in (0, 1):
            # Once outside: TensorRT finishes its set-up in the first call.
            self._execute(self._one.windows[target], self._one)
            self._cuda.synchronize()
            if not self._can_capture or len(self._sizes) > 2:
                continue
            try:
                graph = self._cuda.capture(partial(self._enqueue, fresh, target))
                self._graphs[fresh, target] = graph
            except (CudaError, EngineError):
                # An engine that synchronises or allocates while it runs: without graphs, then.
                self._can_capture = False
                self._log.take_errors()
                self._forget_graphs()

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._sizes.clear()

    def _enqueue(self, fresh: int, target: int) -> None:
        """Put one hop on the stream."""
        frames, buffers = self._shape[0], self._one
        window, source = buffers.windows[target], buffers.windows[1 - target]
        kept_bytes = (frames - fresh) * self._row_bytes
        self._mark(0)
        if kept_bytes:
            self._cuda.copy(window, source + fresh * self._row_bytes, kept_bytes)
        self._cuda.upload(window + kept_bytes, buffers.staging[0, -fresh:])
        self._mark(1)
        self._execute(window, buffers)
        self._mark(2)
        self._cuda.download(buffers.logits, buffers.output)
        if buffers.embedding is not None:
            self._cuda.download(buffers.embedding, buffers.embedding_output)
        self._mark(3)

    def _mark(self, number: int) -> None:
        if self._marks:
            self._cuda.record(self._marks[number])

    def _execute(self, window: int, buffers: _Buffers) -> None:
        context = self._context
        is_set = context.set_tensor_address(INPUT, window)
        is_set = context.set_tensor_address(OUTPUT, buffers.output) and is_set
        if buffers.embedding_output:
            # TensorRT wants a place for each output, also for one that nobody reads.
            is_set = context.set_tensor_address(EMBEDDING, buffers.embedding_output) and is_set
        if not (is_set and context.execute_async_v3(self._cuda.stream)):
            raise EngineError(f"TensorRT cannot run the engine: {self._log.take_errors()}")

    def _set_batch(self, size: int, buffers: _Buffers) -> None:
        if not self._context.set_input_shape(INPUT, (size, *self._shape)):
            raise EngineError(
                f"TensorRT does not take {size} windows at once: {self._log.take_errors()}"
            )

    def _allocate(self, batch: int, *, windows: int) -> _Buffers:
        cuda, shape = self._cuda, (batch, *self._shape)
        size = batch * self._shape[0] * self._row_bytes
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(OUTPUT)))
        address, embedding = 0, None
        if self._embedding is not None:
            own = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(EMBEDDING)))
            address = cuda.allocate(batch * math.prod(self._embedding) * own.itemsize)
            if self._embeds and batch == 1:
                embedding = cuda.pinned((1, *self._embedding), own)
        made = _Buffers(
            windows=tuple(cuda.allocate(size) for _ in range(windows)),
            staging=cuda.pinned(shape, np.float32),
            output=cuda.allocate(batch * self._num_labels * kind.itemsize),
            logits=cuda.pinned((batch, self._num_labels), kind),
            embedding_output=address,
            embedding=embedding,
        )
        for window in made.windows:  # the first run reads them
            cuda.zero(window, size)
        return made

    def _embedding_wanted(self) -> str:
        return f" and {EMBEDDING} {self._embedding}" if self._embedding is not None else ""

    def _check_ports(self) -> None:
        engine, trt = self._engine, self._trt
        found = {}
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found[name] = (is_input, tuple(engine.get_tensor_shape(name))[1:])
        wanted: dict[str, tuple[bool, tuple[int, ...]]] = {
            INPUT: (True, self._shape),
            OUTPUT: (False, (self._num_labels,)),
        }
        if self._embedding is not None:
            wanted[EMBEDDING] = (False, self._embedding)
        if found != wanted:
            shown = ", ".join(f"{name} {shape}" for name, (_, shape) in found.items())
            raise EngineError(
                f"the engine has {shown}; the bundle wants {INPUT} {self._shape} and {OUTPUT} "
                f"{(self._num_labels,)}{self._embedding_wanted()}: build it again"
            )
        kind = engine.get_tensor_dtype(INPUT)
        if np.dtype(trt.nptype(kind)) != np.float32:
            raise EngineError(f"the engine's {INPUT} is {kind}, wanted float32: build it again")
