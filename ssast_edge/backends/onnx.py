"""ONNX Runtime on the CPU: the default backend. A window at a time, or hop by hop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends.hops import EMBEDDING, INPUT, HopByHop, NotStreaming, is_streaming
from ssast_edge.backends.hops import LOGITS as OUTPUT
from ssast_edge.errors import BackendMissing, BundleError

FloatArray = NDArray[np.float32]

MAX_BATCH = 1024  # of a model that takes any number of windows


def open_onnx(
    path: Path,
    *,
    input_shape: tuple[int, int],
    num_labels: int,
    embedding: tuple[int, int] | None = None,
    precision: str = "fp32",
    threads: int = 1,
) -> "OnnxBackend | OnnxStreamBackend":
    """The backend for an ONNX file: of its graph's inputs one may be what came before.

    input_shape: (frames, bins) of a window. embedding: (segments, width) of a second output
    "embedding", None for a model without. Raises BundleError when the file is no model of that
    shape and BackendMissing when ONNX Runtime is not installed.
    """
    session = _open(path, threads)
    opened = OnnxStreamBackend if is_streaming(session) else OnnxBackend
    return opened(
        session, path, input_shape=input_shape, num_labels=num_labels, embedding=embedding,
        precision=precision,
    )  # fmt: skip


def _open(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime.

    Graph optimisation, memory arena and memory pattern keep ONNX Runtime's defaults: turning
    arena or pattern off had no repeatable effect on the memory of a 10 MB model, and without
    optimisation (prepacking) an inference took 9 % (16 %) longer.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning pool burns a core between hops and starves whatever else runs here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors come as exceptions
    try:
        # The bytes and not the path: a graph that points to weights in another file, which
        # no bundle has checked, does not open.
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exception classes share no other base
        raise BundleError(f"{path}: ONNX Runtime cannot open the model: {error}") from error


class OnnxBackend:
    """An ONNX model with one input "fbank" (1, frames, bins) and one output "logits" (1, labels).

    The 1 may be a named dimension: such a model also takes several windows at once. Arguments as
    of `open_onnx`.
    """

    hop_frames = 1  # any number of frames may be new

    def __init__(
        self,
        session: Any,
        path: Path,
        *,
        input_shape: tuple[int, int],
        num_labels: int,
        embedding: tuple[int, int] | None = None,
        precision: str = "fp32",
    ) -> None:
        """Check the model's input and outputs."""
        self.name = f"onnx ({precision})"
        self._session: Any = session
        self._outputs = [OUTPUT]
        self.max_batch = MAX_BATCH if _takes_any_batch(session.get_inputs()) else 1
        _check_ports(path, "input", session.get_inputs(), {INPUT: (1, *input_shape)})
        outputs: dict[str, tuple[int, ...]] = {OUTPUT: (1, num_labels)}
        if embedding is not None:
            outputs[EMBEDDING] = (1, *embedding)
        _check_ports(path, "output", session.get_outputs(), outputs)
        self._both = list(outputs)

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel (frames, bins)."""
        if self._session is None:
            raise ValueError("the backend is closed")
        # A contiguous array is read where it lies: 4 us a call, less than binding costs.
        logits: FloatArray = self._session.run(self._outputs, {INPUT: fbank[np.newaxis]})[0][0]
        return logits

    def infer_both(
        self, fbank: FloatArray, *, new_frames: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (labels,) and embedding (segments, width) of one window (frames, bins)."""
        if self._session is None:
            raise ValueError("the backend is closed")
        logits, embedding = self._session.run(self._both, {INPUT: fbank[np.newaxis]})
        return logits[0], embedding[0]

    def infer_batch(self, fbank: FloatArray) -> FloatArray:
        """Logits (batch, labels) for up to max_batch windows (batch, frames, bins)."""
        if self._session is None:
            raise ValueError("the backend is closed")
        if len(fbank) > self.max_batch:
            raise ValueError(f"the model takes {self.max_batch} windows at once, got {len(fbank)}")
        logits: FloatArray = self._session.run(self._outputs, {INPUT: fbank})[0]
        return logits

    def close(self) -> None:
        """Free the model."""
        self._session = None


class OnnxStreamBackend:
    """A model of one hop, with what it heard before (`ssast_edge.backends.hops`).

    A window that is not known to follow the one before is heard from its first frame on. Arguments
    as of `open_onnx`.
    """

    def __init__(
        self,
        session: Any,
        path: Path,
        *,
        input_shape: tuple[int, int],
        num_labels: int,
        embedding: tuple[int, int] | None = None,
        precision: str = "fp32",
    ) -> None:
        """Check the model's inputs and outputs."""
        try:
            self._hops: HopByHop | None = HopByHop(session, input_shape[0])
        except NotStreaming as error:
            raise BundleError(f"{path}: {error}") from error
        found = self._hops.input_shape, self._hops.num_labels, self._hops.embedding_shape
        wanted = input_shape, num_labels, embedding or self._hops.embedding_shape
        if found != wanted:
            raise BundleError(
                f"{path}: the model's window, labels and embedding are {found}; the bundle wants "
                f"{wanted}"
            )
        self.name = f"onnx ({precision})"
        self.hop_frames = self._hops.hop_frames

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits, shape (labels,), after a window of raw log-mel (frames, bins)."""
        return self._open.infer(fbank, new_frames=new_frames)

    def infer_both(
        self, fbank: FloatArray, *, new_frames: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (labels,) and embedding (segments, width) after a window (frames, bins)."""
        hops = self._open
        return hops.infer(fbank, new_frames=new_frames, embeds=True), hops.embedding

    @property
    def _open(self) -> HopByHop:
        if self._hops is None:
            raise ValueError("the backend is closed")
        return self._hops

    def close(self) -> None:
        """Free the model."""
        self._hops = None


def _takes_any_batch(ports: Sequence[Any]) -> bool:
    """Whether the first dimension has a name in place of a number."""
    return all(len(port.shape) > 0 and isinstance(port.shape[0], str) for port in ports)


def _check_ports(
    path: Path, role: str, ports: Sequence[Any], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    kind = "tensor(float)"
    found = [(port.name, tuple(port.shape), port.type) for port in ports]
    named = found[0][1][:1] if found else ()
    exact = [(name, shape, kind) for name, shape in wanted.items()]
    any_batch = [(name, (*named, *shape[1:]), kind) for name, shape in wanted.items()]
    if found != exact and not (found == any_batch and _takes_any_batch(ports)):
        raise BundleError(
            f"{path}: the model's {role} is {_shown(found)}; the bundle wants {_shown(exact)}"
        )


def _shown(ports: Sequence[tuple[str, tuple[Any, ...], str]]) -> str:
    return ", ".join(f"{name} {shape} {kind}" for name, shape, kind in ports) or "none"
