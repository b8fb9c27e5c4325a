"""Power of a Jetson: its INA3221 sensors in sysfs, or NVIDIA's tegrastats.

The rails that a module has differ. Where one of them carries the whole input (Orin NX and Nano:
VDD_IN; Thor: VIN; older boards: POM_5V_IN, VDD_SYS_IN) that one counts. AGX modules have no such
rail: there the supplies are summed, and VDDQ_VDD2_1V8AO, which VIN_SYS_5V0 feeds, is left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ssast_edge.energy import SYSFS, MeterMissing, Reading, read_number, read_text
from ssast_edge.energy.process import LineStream

_TOTAL_RAILS = ("VDD_IN", "VIN", "POM_5V_IN", "VDD_SYS_IN")
_FED_BY_OTHERS = ("VDDQ_VDD2_1V8AO", "VDDRQ", "NC")
_SUPPLY = re.compile(r"(VDD|VIN|POM|SYS|CPU|GPU|SOC|CV)\w*")

# "VDD_IN 4988mW/4990mW", and without a unit in JetPack 4: "POM_5V_IN 1750/1628", unlike "RAM 1/2".
_RAIL = re.compile(
    r"(?<!\S)([A-Z]\w*(?= -?\d+mW)|[A-Z][A-Z0-9]*_\w+) (-?\d+)(?:mW(?:/-?\d+mW)?|/-?\d+)(?=\s|$)"
)
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?=\s|$)")
# "GR3D_FREQ 0%@[0,0]" on Orin, "GR3D_FREQ 12%@1300" before; the clock may be absent.
_GPU_CLOCK = re.compile(r"(?<!\S)GR3D_FREQ \d+%@(?:\[(\d+(?:,\d+)*)\]|(\d+))(?=\s|$)")
_MEMORY = re.compile(r"(?<!\S)RAM (\d+)/(\d+)MB(?=\s|$)")
_NO_SENSOR_C = -200.0  # a block that is switched off shows -256


def total_power(rails_w: Mapping[str, float]) -> tuple[float, tuple[str, ...]] | None:
    """Watts of the whole module and the rails that they come from; None without such a rail."""
    for name in _TOTAL_RAILS:
        if name in rails_w:
            return rails_w[name], (name,)
    supplies = tuple(
        name for name in rails_w if name not in _FED_BY_OTHERS and _SUPPLY.fullmatch(name)
    )
    if not supplies:
        return None
    return sum(rails_w[name] for name in supplies), supplies


def parse_tegrastats(line: str) -> Reading:
    """One line of tegrastats of JetPack 4 to 7. What is absent or malformed stays None."""
    rails = {name: int(milliwatts) / 1000 for name, milliwatts in _RAIL.findall(line)}
    total = total_power(rails)
    temperatures = [float(value) for _, value in _TEMPERATURE.findall(line)]
    temperatures = [value for value in temperatures if value > _NO_SENSOR_C]
    clock = _GPU_CLOCK.search(line)
    memory = _MEMORY.search(line)
    clocks = [int(value) for value in (clock[1] or clock[2]).split(",")] if clock else []
    return Reading(
        power_w=total[0] if total else None,
        temperature_c=max(temperatures, default=None),
        clock_mhz=max(clocks, default=None),
        memory_mb=float(memory[1]) if memory else None,
        rails_w=rails,
    )


class Tegrastats:
    """NVIDIA's tool as a meter: two lines a second. Its memory is that of the whole module."""

    name = "tegrastats"

    def __init__(self) -> None:
        self._lines = LineStream(["tegrastats", "--interval", "500"])
        try:
            total = total_power(self.read().rails_w)
            if total is None:
                raise MeterMissing("tegrastats shows no power (some boards only do for root)")
        except MeterMissing:
            self.close()
            raise
        self.scope = _scope(total[1])

    def read(self) -> Reading:
        """What the newest line says."""
        return parse_tegrastats(self._lines.newest())

    def close(self) -> None:
        """End the tool."""
        self._lines.close()


class Ina3221:
    """The power sensors on the module: millivolts times milliamperes of each labelled channel."""

    name = "INA3221"

    def __init__(self, sysfs: Path = SYSFS) -> None:
        self._channels: dict[str, tuple[Path, Path]] = {}
        for chip in sorted((sysfs / "class/hwmon").glob("hwmon*")):
            try:
                is_ina = read_text(chip / "name") in ("ina3221", "ina3221x")
            except MeterMissing:
                continue  # a sensor that went between listing and reading
            if not is_ina:
                continue
            for number in (1, 2, 3):
                label = chip / f"in{number}_label"
                if label.is_file() and (name := read_text(label)) != "NC":
                    self._channels[name] = chip / f"in{number}_input", chip / f"curr{number}_input"
        if not self._channels:
            raise MeterMissing("no INA3221 sensor in /sys/class/hwmon: not a Jetson")
        total = total_power(self._rails_w())
        if total is None:
            names = ", ".join(self._channels)
            raise MeterMissing(f"the INA3221 sensors show no supply that is known: {names}")
        self.scope = _scope(total[1])

    def read(self) -> Reading:
        """Power now."""
        rails = self._rails_w()
        total = total_power(rails)
        return Reading(power_w=total[0] if total else None, rails_w=rails)

    def close(self) -> None:
        """Nothing is open between two readings."""

    def _rails_w(self) -> dict[str, float]:
        return {
            name: read_number(millivolts) * read_number(milliamperes) / 1e6
            for name, (millivolts, milliamperes) in self._channels.items()
        }


def _scope(rails: tuple[str, ...]) -> str:
    return f"whole module ({' + '.join(rails)})"
