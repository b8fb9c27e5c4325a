"""Where energy, temperature and clocks can be read on this machine, and why they cannot.

Each meter is one source: INA3221 sensors or tegrastats on a Jetson, NVML or nvidia-smi for a GPU,
RAPL for a processor. Knows nothing of models; nothing here needs root, but what the kernel keeps
for root is said to be absent with that reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ssast_edge.errors import SsastEdgeError

SYSFS = Path("/sys")


class MeterMissing(SsastEdgeError):
    """This source of energy cannot be read here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a meter shows at one moment; None where it does not tell."""

    energy_j: float | None = None  # counted since some moment in the past, never falling
    power_w: float | None = None
    temperature_c: float | None = None  # the hottest of what it watches
    clock_mhz: float | None = None  # of the GPU
    memory_mb: float | None = None  # of the GPU, in use by all processes; 2**20 bytes
    rails_w: dict[str, float] = field(default_factory=dict)  # power by rail, as the source names it


class Meter(Protocol):
    """One source that is open."""

    name: str  # "RAPL", "INA3221", ...
    scope: str  # what its power covers: "processor package", "whole module (VDD_IN)"

    def read(self) -> Reading:
        """The present values. Raises MeterMissing when the source has gone."""

    def close(self) -> None:
        """Let go of the source."""


@dataclass(frozen=True, kw_only=True)
class AbsentMeter:
    """A source that is not here."""

    name: str
    reason: str


def open_meters(sysfs: Path = SYSFS) -> tuple[list[Meter], list[AbsentMeter]]:
    """Every source that can be read, and the others with the reason; close what is given.

    tegrastats is only asked where the sensors themselves cannot be read, nvidia-smi where NVML
    cannot: they show the same figures and cost a process.
    """
    from ssast_edge.energy.jetson import Ina3221, Tegrastats
    from ssast_edge.energy.nvidia import NvidiaSmi, Nvml
    from ssast_edge.energy.rapl import Rapl

    found: list[Meter] = []
    absent: list[AbsentMeter] = []
    groups: Sequence[Sequence[tuple[str, Callable[[], Meter]]]] = (
        (("INA3221", lambda: Ina3221(sysfs)), ("tegrastats", Tegrastats)),
        (("NVML", Nvml), ("nvidia-smi", NvidiaSmi)),
        (("RAPL", lambda: Rapl(sysfs)),),
    )
    for group in groups:
        for name, opener in group:
            try:
                found.append(opener())
                break
            except MeterMissing as error:
                absent.append(AbsentMeter(name=name, reason=str(error)))
    return found, absent


def read_text(path: Path) -> str:
    """A small file of sysfs. Raises MeterMissing, saying why, when it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        hint = " (only root may)" if isinstance(error, PermissionError) else ""
        reason = error.strerror or error
        raise MeterMissing(f"{path} cannot be read: {reason}{hint}") from error


def read_number(path: Path) -> float:
    """A number of sysfs. Raises MeterMissing for anything else."""
    text = read_text(path)
    try:
        return float(int(text))
    except ValueError as error:
        raise MeterMissing(f"{path} holds {text[:40]!r}, wanted a whole number") from error
