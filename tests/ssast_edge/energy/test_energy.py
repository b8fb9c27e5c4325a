"""Energy readers against recorded lines and trees of sysfs, whole, cut off and malformed.

The samples follow the public documentation of tegrastats, of the kernel's ina3221 and powercap
drivers and of nvidia-smi; none was recorded on a device of ours.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ssast_edge.bench.sampler import Counter, Sampler, cpu_clock_mhz, hottest_c
from ssast_edge.energy import MeterMissing, Reading, open_meters
from ssast_edge.energy.jetson import Ina3221, Tegrastats, parse_tegrastats, total_power
from ssast_edge.energy.nvidia import NvidiaSmi, parse_nvidia_smi
from ssast_edge.energy.process import LineStream
from ssast_edge.energy.rapl import Rapl

ORIN_NANO = (
    "03-11-2025 10:12:31 RAM 2318/7620MB (lfb 6x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [12%@1510,3%@1510,0%@1510,1%@1510,off,off] EMC_FREQ 1%@2133 GR3D_FREQ 14%@[624] "
    "NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@51.218C soc2@50.187C "
    "soc0@49.75C gpu@50.531C tj@51.218C soc1@51.062C "
    "VDD_IN 5028mW/4990mW VDD_CPU_GPU_CV 1180mW/1140mW VDD_SOC 1420mW/1420mW"
)
AGX_ORIN = (
    "RAM 4120/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
    "CPU [0%@729,0%@729,0%@729,2%@729,off,off,off,off,0%@729,0%@729,0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 7%@[305,306] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.5C Tboard@32C "
    "SOC2@40.1C Tdiode@33C SOC0@41.1C CV1@-256C GPU@-256C tj@44.3C SOC1@41.25C CV2@-256C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
THOR = (
    "10-02-2025 09:00:01 RAM 9120/125772MB (lfb 12x4MB) SWAP 0/0MB (cached 0MB) "
    "CPU [1%@972,0%@972] EMC_FREQ 0%@4266 GR3D_FREQ 0%@[1575,1575,1575] cpu@53.7C tj@55.1C "
    "soc012@55.1C soc345@53.7C VDD_GPU -392mW/0mW VDD_CPU_SOC_MSS 6510mW/6500mW "
    "VIN_SYS_5V0 6520mW/6500mW VIN 23010mW/22950mW"
)
NANO_JETPACK_4 = (
    "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [5%@1224,4%@1224,3%@1224,6%@1224] EMC_FREQ 0%@1600 GR3D_FREQ 0%@76 APE 25 PLL@37C "
    "CPU@40C PMIC@50C GPU@40C AO@45C thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 "
    "POM_5V_CPU 366/406"
)


@pytest.mark.parametrize(
    ("line", "power_w", "temperature_c", "clock_mhz", "memory_mb"),
    [
        (ORIN_NANO, 5.028, 51.218, 624, 2318),
        (AGX_ORIN, 2.340 + 0.390 + 4.025, 44.5, 306, 4120),
        (THOR, 23.010, 55.1, 1575, 9120),
        (NANO_JETPACK_4, 1.750, 50.0, 76, 1923),
    ],
)
def test_tegrastats_of_every_jetpack(
    line: str, power_w: float, temperature_c: float, clock_mhz: float, memory_mb: float
) -> None:
    reading = parse_tegrastats(line)
    assert reading.power_w == pytest.approx(power_w)
    assert reading.temperature_c == temperature_c
    assert reading.clock_mhz == clock_mhz
    assert reading.memory_mb == memory_mb


def test_tegrastats_without_clocks_of_the_gpu() -> None:
    assert parse_tegrastats("GR3D_FREQ 0% cpu@41C VDD_IN 4000mW").clock_mhz is None
    assert parse_tegrastats("GR3D_FREQ 0% cpu@41C VDD_IN 4000mW").power_w == 4


def test_a_line_that_was_cut_off_gives_what_is_whole() -> None:
    for length in range(len(ORIN_NANO)):
        reading = parse_tegrastats(ORIN_NANO[:length])
        # Digits that are missing must not make another number of it.
        assert reading.power_w in (None, 5.028)
        assert reading.temperature_c in (None, 51.218)
        assert reading.memory_mb in (None, 2318)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "RAM x/yMB VDD_IN mW",
        "VDD_IN 12.5mW/",
        "GR3D_FREQ 0%@[]",
        "cpu@C tj@--5C",
        "RAM 1923/3964",
        "\x00\x01VDD_IN",
        "VDD_IN 5028mWVDD_SOC",
    ],
)
def test_what_is_malformed_gives_nothing(line: str) -> None:
    assert parse_tegrastats(line) == Reading()


def test_a_rail_of_the_whole_input_goes_before_a_sum() -> None:
    assert total_power({"VDD_SOC": 1.0, "VDD_IN": 5.0}) == (5.0, ("VDD_IN",))
    assert total_power({"VDD_GPU_SOC": 2.0, "VDDQ_VDD2_1V8AO": 0.3}) == (2.0, ("VDD_GPU_SOC",))
    assert total_power({}) is None


def _tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


INA = {
    "class/hwmon/hwmon0/name": "tmp451",
    "class/hwmon/hwmon1/name": "ina3221",
    "class/hwmon/hwmon1/in1_label": "VDD_IN",
    "class/hwmon/hwmon1/in1_input": "4984",
    "class/hwmon/hwmon1/curr1_input": "1008",
    "class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "class/hwmon/hwmon1/in2_input": "4976",
    "class/hwmon/hwmon1/curr2_input": "240",
    "class/hwmon/hwmon1/in3_label": "NC",
    "class/hwmon/hwmon1/in3_input": "0",
    "class/hwmon/hwmon1/curr3_input": "0",
}


def test_ina3221_multiplies_millivolts_and_milliamperes(tmp_path: Path) -> None:
    meter = Ina3221(_tree(tmp_path, INA))
    reading = meter.read()
    assert reading.power_w == pytest.approx(4.984 * 1.008)
    assert meter.scope == "whole module (VDD_IN)"
    assert set(reading.rails_w) == {"VDD_IN", "VDD_CPU_GPU_CV"}


@pytest.mark.parametrize(
    ("file", "text"),
    [("in1_input", "n/a"), ("curr1_input", ""), ("in1_input", "4984.5.1")],
)
def test_a_malformed_sensor_is_a_reason(tmp_path: Path, file: str, text: str) -> None:
    tree = _tree(tmp_path, {**INA, f"class/hwmon/hwmon1/{file}": text})
    with pytest.raises(MeterMissing, match=f"{file} holds"):
        Ina3221(tree)


def test_a_sensor_without_its_current_is_a_reason(tmp_path: Path) -> None:
    tree = _tree(tmp_path, INA)
    (tree / "class/hwmon/hwmon1/curr1_input").unlink()
    with pytest.raises(MeterMissing, match="curr1_input cannot be read: No such file"):
        Ina3221(tree)


def test_no_sensor_at_all_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(MeterMissing, match="not a Jetson"):
        Ina3221(tmp_path)
    with pytest.raises(MeterMissing, match="no supply that is known"):
        Ina3221(_tree(tmp_path, {**INA, "class/hwmon/hwmon1/in1_label": "NC",
                                 "class/hwmon/hwmon1/in2_label": "odd"}))  # fmt: skip


RAPL = {
    "class/powercap/intel-rapl/enabled": "1",
    "class/powercap/intel-rapl:0/name": "package-0",
    "class/powercap/intel-rapl:0/energy_uj": "262143000000",
    "class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "class/powercap/intel-rapl:0:0/name": "core",
    "class/powercap/intel-rapl:0:0/energy_uj": "5",
    "class/powercap/intel-rapl:1/name": "psys",
    "class/powercap/intel-rapl:1/energy_uj": "7",
    "class/powercap/intel-rapl:1/max_energy_range_uj": "262143328850",
}


def test_rapl_counts_packages_once_and_over_the_wrap(tmp_path: Path) -> None:
    meter = Rapl(_tree(tmp_path, RAPL))
    assert meter.scope.startswith("processor package (package-0)")
    assert meter.read().energy_j == 0
    counter = tmp_path / "class/powercap/intel-rapl:0/energy_uj"
    counter.write_text("262143328850\n")
    assert meter.read().energy_j == pytest.approx(0.328850)
    counter.write_text("1000000\n")  # started again
    assert meter.read().energy_j == pytest.approx(1.328850)


def test_rapl_that_breaks_off_or_holds_rubbish_is_a_reason(tmp_path: Path) -> None:
    meter = Rapl(_tree(tmp_path, RAPL))
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("26214")
    meter.read()  # fewer digits are a wrap, as far as anyone can tell
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("")
    with pytest.raises(MeterMissing, match="energy_uj holds ''"):
        meter.read()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_rapl_for_root_alone_says_so(tmp_path: Path) -> None:
    _tree(tmp_path, RAPL)
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    with pytest.raises(MeterMissing, match="only root may"):
        Rapl(tmp_path)


def test_no_rapl_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(MeterMissing, match="no RAPL counters"):
        Rapl(tmp_path)


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ("68.31, 34, 1980, 1204",
         Reading(power_w=68.31, temperature_c=34, clock_mhz=1980, memory_mb=1204)),
        ("[N/A], 41, 624, [N/A]", Reading(temperature_c=41, clock_mhz=624)),
        ("[Not Supported], 41, [Unknown Error], 8", Reading(temperature_c=41, memory_mb=8)),
        ("68.31, 34", Reading()),
        ("", Reading()),
        ("inf, nan, x, ", Reading()),
        ("No devices were found", Reading()),
    ],
)  # fmt: skip
def test_nvidia_smi(line: str, reading: Reading) -> None:
    assert parse_nvidia_smi(line) == reading


def _tool(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that are found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_tegrastats_runs_until_it_is_closed(tools: Path) -> None:
    _tool(tools, "tegrastats", f"import time\nprint({ORIN_NANO!r}, flush=True)\ntime.sleep(60)")
    meter = Tegrastats()
    assert meter.read().power_w == pytest.approx(5.028)
    assert meter.scope == "whole module (VDD_IN)"
    began_s = time.monotonic()
    meter.close()
    assert time.monotonic() - began_s < 5


def test_tegrastats_without_power_is_a_reason(tools: Path) -> None:
    _tool(tools, "tegrastats", "print('RAM 1/2MB', flush=True)\nimport time\ntime.sleep(60)")
    with pytest.raises(MeterMissing, match="shows no power"):
        Tegrastats()


def test_a_tool_that_ends_at_once_is_a_reason(tools: Path) -> None:
    _tool(tools, "nvidia-smi", "raise SystemExit(9)")
    with pytest.raises(MeterMissing, match="nvidia-smi showed nothing"):
        NvidiaSmi()


def test_a_tool_that_fails_in_words_is_a_reason(tools: Path) -> None:
    _tool(tools, "nvidia-smi", "print('NVIDIA-SMI has failed', flush=True)")
    with pytest.raises(MeterMissing, match="shows no figures: NVIDIA-SMI has failed"):
        NvidiaSmi()


def test_a_tool_that_is_not_there_is_a_reason() -> None:
    with pytest.raises(MeterMissing, match="no-such-tool is not installed"):
        LineStream(["no-such-tool"])


def test_every_source_is_there_or_has_a_reason(tmp_path: Path) -> None:
    meters, absent = open_meters(_tree(tmp_path, {**INA, **RAPL}))
    names = [meter.name for meter in meters]
    assert names[0] == "INA3221"
    assert names[-1] == "RAPL"
    assert all(one.reason for one in absent)
    for meter in meters:
        meter.close()


class _Scripted:
    """A meter that reads what it was given, then fails."""

    name = "scripted"
    scope = "nothing"

    def __init__(self, *readings: Reading) -> None:
        self._readings = list(readings)

    def read(self) -> Reading:
        if not self._readings:
            raise MeterMissing("it has gone")
        return self._readings.pop(0)

    def close(self) -> None:
        pass


def test_power_is_summed_over_time_and_a_meter_that_fails_is_said() -> None:
    counter = Counter(_Scripted(Reading(power_w=10.0), Reading(power_w=30.0)))
    assert counter.sums_power
    began_s = time.perf_counter()
    time.sleep(0.05)
    counter.update()
    assert counter.energy_j == pytest.approx(20 * (time.perf_counter() - began_s), rel=0.1)
    with Sampler([_Scripted(Reading(energy_j=1.0), Reading(energy_j=4.0))]) as sampler:
        assert sampler.energy_j() == {"scripted": 3.0}
        assert sampler.energy_j() == {}
    assert sampler.failures == {"scripted": "it has gone"}


def test_temperature_and_clock_of_the_machine(tmp_path: Path) -> None:
    tree = _tree(
        tmp_path,
        {
            "class/thermal/thermal_zone0/temp": "51218",
            "class/thermal/thermal_zone1/temp": "-256000",
            "class/thermal/thermal_zone2/temp": "rubbish",
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400",
            "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1190400",
        },
    )
    assert hottest_c(tree) == pytest.approx(51.218)
    assert cpu_clock_mhz(tree) == pytest.approx(1350.4)
    assert hottest_c(tmp_path / "none") is None
    assert cpu_clock_mhz(tmp_path / "none") is None
