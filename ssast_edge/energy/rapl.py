"""Energy counters of x86 processors (Intel, and AMD from Zen on) through Linux' powercap."""

import re
from dataclasses import dataclass
from pathlib import Path

from ssast_edge.energy import SYSFS, MeterMissing, Reading, read_number, read_text

_PACKAGE = re.compile(r"intel-rapl:\d+")  # intel-rapl:0:0 is a part of it and would count twice


@dataclass
class _Counter:
    """One package's counter, which starts again at 0 after `range_uj`."""

    path: Path
    range_uj: float
    last_uj: float
    total_uj: float = 0.0

    def update(self) -> float:
        """Microjoules since it was opened."""
        now_uj = read_number(self.path)
        step = now_uj - self.last_uj
        self.total_uj += step if step >= 0 else step + self.range_uj
        self.last_uj = now_uj
        return self.total_uj


class Rapl:
    """The sum over all processor packages.

    A counter wraps after some minutes to hours, so it must be read more often than that.
    Raises MeterMissing where there are none or only root may read them.
    """

    name = "RAPL"

    def __init__(self, sysfs: Path = SYSFS) -> None:
        root = sysfs / "class/powercap"
        zones = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
        packages = [zone for zone in zones if _PACKAGE.fullmatch(zone.name)]
        if not packages:
            raise MeterMissing("this machine shows no RAPL counters (virtual machine or not x86)")
        self._counters: list[_Counter] = []
        names = []
        for zone in packages:
            label = read_text(zone / "name")
            if label == "psys":
                continue  # the whole platform: it would count the packages twice
            energy = zone / "energy_uj"
            range_uj = read_number(zone / "max_energy_range_uj")
            self._counters.append(_Counter(energy, range_uj, read_number(energy)))
            names.append(label)
        if not self._counters:
            raise MeterMissing("RAPL shows no processor package")
        self.scope = f"processor package ({', '.join(names)}), without memory and the rest"

    def read(self) -> Reading:
        """Energy since it was opened."""
        return Reading(energy_j=sum(counter.update() for counter in self._counters) / 1e6)

    def close(self) -> None:
        """Nothing is open between two readings."""
