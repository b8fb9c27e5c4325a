"""ONNX Runtime on the CPU: the default backend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.errors import BackendMissing, BundleError

FloatArray = NDArray[np.float32]

INPUT = "fbank"
OUTPUT = "logits"
MAX_BATCH = 1024  # of a model that takes any number of windows


class OnnxBackend:
    """An ONNX model with one input "fbank" (1, frames, bins) and one output "logits" (1, labels).

    The 1 may be a named dimension: such a model also takes several windows at once.
    input_shape: (frames, bins). Raises BundleError when the file is no such model and
    BackendMissing when ONNX Runtime is not installed.

    Graph optimisation, memory arena and memory pattern keep ONNX Runtime's defaults: turning
    arena or pattern off had no repeatable effect on the memory of a 10 MB model, and without
    optimisation (prepacking) an inference took 9 % (16 %) longer.
    """

    def __init__(
        self,
        path: Path,
        *,
        input_shape: tuple[int, int],
        num_labels: int,
        precision: str = "fp32",
        threads: int = 1,
    ) -> None:
        """Open the model and check its input and output."""
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
            session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exception classes share no other base
            raise BundleError(f"{path}: ONNX Runtime cannot open the model: {error}") from error
        self.name = f"onnx ({precision})"
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [OUTPUT]
        self.max_batch = MAX_BATCH if _takes_any_batch(session.get_inputs()) else 1
        _check_ports(path, "input", session.get_inputs(), INPUT, (1, *input_shape))
        _check_ports(path, "output", session.get_outputs(), OUTPUT, (1, num_labels))

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel (frames, bins)."""
        if self._session is None:
            raise ValueError("the backend is closed")
        # A contiguous array is read where it lies: 4 us a call, less than binding costs.
        logits: FloatArray = self._session.run(self._outputs, {INPUT: fbank[np.newaxis]})[0][0]
        return logits

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


def _takes_any_batch(ports: Sequence[Any]) -> bool:
    """Whether the first dimension has a name in place of a number."""
    return all(len(port.shape) > 0 and isinstance(port.shape[0], str) for port in ports)


def _check_ports(
    path: Path, role: str, ports: Sequence[Any], name: str, shape: tuple[int, ...]
) -> None:
    found = [(port.name, tuple(port.shape), port.type) for port in ports]
    wanted = (name, shape, "tensor(float)")
    any_batch = (name, (*found[0][1][:1], *shape[1:]), "tensor(float)") if found else wanted
    if found != [wanted] and not (found == [any_batch] and _takes_any_batch(ports)):
        shown = ", ".join(f"{name} {shape} {kind}" for name, shape, kind in found) or "none"
        raise BundleError(
            f"{path}: the model's {role} is {shown}; the bundle wants "
            f"{wanted[0]} {wanted[1]} {wanted[2]}"
        )
