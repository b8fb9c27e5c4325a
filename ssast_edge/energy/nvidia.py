"""Power, temperature, clock and memory of an NVIDIA GPU: by NVML, or by nvidia-smi.

The first GPU counts, the one that CUDA gives a program that asks for none.
"""

from importlib import import_module
from typing import Any

from ssast_edge.energy import MeterMissing, Reading
from ssast_edge.energy.process import LineStream

_FIELDS = ("power.draw", "temperature.gpu", "clocks.sm", "memory.used")
_SCOPE = "GPU board"


class Nvml:
    """The driver's own library, through nvidia-ml-py (`import pynvml`)."""

    name = "NVML"
    scope = _SCOPE

    def __init__(self) -> None:
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError as error:
            raise MeterMissing("pynvml is not installed: pip install nvidia-ml-py") from error
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except self._nvml.NVMLError as error:
            raise MeterMissing(f"NVML finds no GPU: {error}") from error

    def read(self) -> Reading:
        """What the driver tells now; what this GPU does not have is None."""
        nvml = self._nvml
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return Reading(
            energy_j=None if millijoules is None else millijoules / 1000,
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_mb=None if memory is None else memory.used / 2**20,
        )

    def close(self) -> None:
        """Let the library go."""
        self._nvml.nvmlShutdown()

    def _ask(self, function: str, *arguments: int) -> Any:
        try:
            return getattr(self._nvml, function)(self._gpu, *arguments)
        except self._nvml.NVMLError:
            return None  # not supported on this GPU, as energy before Volta


def parse_nvidia_smi(line: str) -> Reading:
    """One line of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits` with _FIELDS.

    "[N/A]" and whatever else is no number stays None, and so does a line of another shape.
    """
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_FIELDS):
        return Reading()
    power, temperature, clock, memory = (_number(cell) for cell in cells)
    return Reading(power_w=power, temperature_c=temperature, clock_mhz=clock, memory_mb=memory)


class NvidiaSmi:
    """The driver's tool: two lines a second."""

    name = "nvidia-smi"
    scope = _SCOPE

    def __init__(self) -> None:
        query = f"--query-gpu={','.join(_FIELDS)}"
        self._lines = LineStream(
            ["nvidia-smi", "-i", "0", query, "--format=csv,noheader,nounits", "-lms", "500"]
        )
        if self.read() == Reading():
            line = self._lines.newest()
            self.close()
            raise MeterMissing(f"nvidia-smi shows no figures: {line[:80]}")

    def read(self) -> Reading:
        """What the newest line says."""
        return parse_nvidia_smi(self._lines.newest())

    def close(self) -> None:
        """End the tool."""
        self._lines.close()


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
