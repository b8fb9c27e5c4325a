"""As much of TensorRT's Python API as the backend uses, over the stand-in driver.

An engine's plan is JSON: {"batch": most, "frames", "bins", "labels"}, "fails" for one that does not
run, and "embedding": [segments, width] for one with a second output. It gives the window itself as
logits, so labels = frames * bins, and again as the embedding.
"""

import ctypes
import enum
import json
from typing import Any

import numpy as np

__version__ = "10.3.0"


class IPluginV3:
    """Only its name is asked for."""


class ILogger:
    """Base of the backend's logger."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


class TensorIOMode(enum.Enum):
    """What a tensor is."""

    INPUT = 1
    OUTPUT = 2


def nptype(kind: Any) -> Any:
    """The numpy type of a data type; here they are the same."""
    return kind


class Runtime:
    """Loads engines."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        """None, and a message, for anything else than a plan."""
        try:
            return Engine(json.loads(plan), self._logger)
        except ValueError:
            self._logger.log(ILogger.ERROR, "Magic tag does not match")
            return None


class Engine:
    """One engine."""

    def __init__(self, plan: dict[str, Any], logger: Any) -> None:
        self.plan, self.logger = plan, logger
        self.names: tuple[str, ...] = ("fbank", "logits")
        if "embedding" in plan:
            self.names += ("embedding",)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "fbank" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name == "fbank":
            return (-1, self.plan["frames"], self.plan["bins"])
        if name == "embedding":
            return (-1, *self.plan["embedding"])
        return (-1, self.plan["labels"])

    def get_tensor_dtype(self, name: str) -> Any:
        return np.float32

    def create_execution_context(self) -> "Context | None":
        return None if self.plan.get("fails") == "memory" else Context(self)


class Context:
    """Runs an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._size = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._size = shape[0]
        return 1 <= shape[0] <= int(self._engine.plan["batch"])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.names

    def execute_async_v3(self, stream: int) -> bool:
        plan = self._engine.plan
        driver = ctypes.CDLL(None)
        if plan.get("fails") == "run":
            self._engine.logger.log(ILogger.ERROR, "enqueueV3: Error Code 1: Cuda Runtime")
            return False
        if plan.get("fails") == "record":  # an engine that waits while it runs
            driver.cuStreamSynchronize(ctypes.c_void_p(stream))
        run = driver.stand_in_engine
        size = self._size * plan["frames"] * plan["bins"] * 4
        for output in self._engine.names[1:]:
            pointers = (stream, self._addresses["fbank"], self._addresses[output])
            if not run(*map(ctypes.c_void_p, pointers), ctypes.c_size_t(size)):
                return False
        return True
