"""Temperature, clocks, memory and energy while something else is measured.

Everything is read between two slices of the measurement. A meter that shows power and no counter of
energy is read by a thread too, five times a second, so that its power can be summed over time.
"""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ssast_edge.bench.series import Series
from ssast_edge.energy import SYSFS, Meter, MeterMissing, Reading

_INTERVAL_S = 0.2
_KELVIN_ZERO_C = -100.0  # zones that are switched off show less
COLUMNS = (
    "time_s",
    "temperature_c",
    "gpu_temperature_c",
    "cpu_clock_mhz",
    "gpu_clock_mhz",
    "power_w",
    "resident_mb",
    "gpu_memory_mb",
    "load",
)


class Counter:
    """Joules of one meter since it was first read: its own counter, or power summed over time."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.energy_j = 0.0
        self.failure = ""  # why it could not be read any more
        self.reading = meter.read()
        self._time_s = time.perf_counter()

    @property
    def sums_power(self) -> bool:
        """Whether the meter has no counter of its own."""
        return self.reading.energy_j is None

    def update(self) -> None:
        """Read the meter."""
        if self.failure:
            return
        try:
            reading = self.meter.read()
        except MeterMissing as error:
            self.failure = str(error)
            return
        now_s = time.perf_counter()
        before, elapsed_s = self.reading, now_s - self._time_s
        if reading.energy_j is not None and before.energy_j is not None:
            self.energy_j += reading.energy_j - before.energy_j
        elif reading.power_w is not None and before.power_w is not None:
            self.energy_j += elapsed_s * (reading.power_w + before.power_w) / 2
        self.reading, self._time_s = reading, now_s


class Sampler:
    """Owns the meters and the timeline of the machine; use it in `with`."""

    def __init__(self, meters: Sequence[Meter], sysfs: Path = SYSFS) -> None:
        self.series = Series(COLUMNS, by_max=("temperature_c", "gpu_temperature_c"))
        self.counters: list[Counter] = []
        self.failures: dict[str, str] = {}
        for meter in meters:
            try:
                self.counters.append(Counter(meter))
            except MeterMissing as error:
                self.failures[meter.name] = str(error)
        self._sysfs = sysfs
        self._began_s = time.perf_counter()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Sampler":
        """Begin to sum power where there is no counter."""
        if any(counter.sums_power for counter in self.counters):
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and close the meters."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        for counter in self.counters:
            if counter.failure:
                self.failures[counter.meter.name] = counter.failure
            counter.meter.close()

    @property
    def time_s(self) -> float:
        """Seconds since the sampler was made."""
        return time.perf_counter() - self._began_s

    def restart_clock(self) -> None:
        """The timeline begins now."""
        self._began_s = time.perf_counter()

    def energy_j(self) -> dict[str, float]:
        """Joules so far, by the name of the meter."""
        with self._lock:
            for counter in self.counters:
                counter.update()
            return {c.meter.name: c.energy_j for c in self.counters if not c.failure}

    def sample(self) -> None:
        """Add the present state to the timeline."""
        with self._lock:
            readings = [counter.reading for counter in self.counters if not counter.failure]
        self.series.add(
            {
                "time_s": self.time_s,
                "temperature_c": hottest_c(self._sysfs),
                "cpu_clock_mhz": cpu_clock_mhz(self._sysfs),
                "gpu_temperature_c": _first(readings, "temperature_c"),
                "gpu_clock_mhz": _first(readings, "clock_mhz"),
                "power_w": _first(readings, "power_w"),
                "gpu_memory_mb": _first(readings, "memory_mb"),
                "resident_mb": memory_mb("VmRSS"),
                "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            }
        )

    def gpu_memory_mb(self) -> float | None:
        """GPU memory that all processes hold, as the meters show it."""
        self.energy_j()
        return _first([c.reading for c in self.counters if not c.failure], "memory_mb")

    def _run(self) -> None:
        while not self._is_over.wait(_INTERVAL_S):
            self.energy_j()


def hottest_c(sysfs: Path = SYSFS) -> float | None:
    """The hottest thermal zone, degrees Celsius."""
    zones = [_number(path) for path in (sysfs / "class/thermal").glob("thermal_zone*/temp")]
    known = [zone / 1000 for zone in zones if zone is not None and zone / 1000 > _KELVIN_ZERO_C]
    return max(known, default=None)


def cpu_clock_mhz(sysfs: Path = SYSFS) -> float | None:
    """Mean clock of the cores, MHz; None where the kernel does not govern it."""
    paths = (sysfs / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [clock / 1000 for path in paths if (clock := _number(path)) is not None]
    return sum(clocks) / len(clocks) if clocks else None


def memory_mb(field: str) -> float | None:
    """This process's "VmRSS" (resident) or "VmHWM" (its peak), 2**20 bytes; Linux only."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # a zone that is switched off cannot be read


def _first(readings: Sequence[Reading], field: str) -> float | None:
    values = (getattr(reading, field) for reading in readings)
    return next((value for value in values if value is not None), None)
