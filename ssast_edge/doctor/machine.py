"""Checks of the machine itself: versions, processor, memory, disk, temperature."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ssast_edge.doctor.finding import Check, Finding, Options, Skipped, ok, warning
from ssast_edge.engines.cache import cache_folder

# A listening process takes 80 to 110 MB with ONNX Runtime (docs/results.md).
MIN_MEMORY_MB = 200
MIN_DISK_MB = 500  # for engines: tens of MB each, and a build writes twice

# /proc/cpuinfo's flags -> what INT8 and float kernels use of them, the best first.
_INT8_FLAGS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "int8 matrix products",
    "asimddp": "int8 dot products",
}
_FLOAT_FLAGS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
# Bits of a Raspberry Pi's get_throttled that are about the present.
_PI_THROTTLED = {0: "too little voltage", 1: "clock capped", 2: "throttled", 3: "hot"}


def version() -> str:
    """Of this package; of a checkout that is not installed, only that."""
    from importlib import metadata

    try:
        return metadata.version("ssast-edge")
    except metadata.PackageNotFoundError:
        return "from a checkout, not installed"


def check_versions(options: Options) -> Iterator[Finding]:
    """ssast-edge, Python, system."""
    system = _os_release() or platform.system()
    yield ok(
        f"{version()}, Python {platform.python_version()} ({sys.executable}), "
        f"{system}, {platform.machine()}"
    )


def check_processor(options: Options) -> Iterator[Finding]:
    """Instructions that decide how fast float and INT8 models are."""
    name, flags = cpu_info(Path("/proc/cpuinfo").read_text(errors="replace"))
    integer = [text for flag, text in _INT8_FLAGS.items() if flag in flags]
    floating = [text for flag, text in _FLOAT_FLAGS.items() if flag in flags]
    cores = len(os.sched_getaffinity(0))
    text = f"{name or platform.machine()}, {cores} core{'' if cores == 1 else 's'}"
    if not floating:
        yield warning(
            f"{text}: neither AVX2 nor NEON: every model is slow here", "use a newer processor"
        )
        return
    text += f", {floating[0]}"
    if integer:
        yield ok(f"{text}, {integer[0]}: INT8 models are worth trying")
    else:
        yield ok(f"{text}, no VNNI or dot product: INT8 models may be slower than float ones")


def cpu_info(text: str) -> tuple[str, set[str]]:
    """Name and feature flags of the first core in /proc/cpuinfo; Arm has no name there."""
    name = ""
    flags: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = set(value.split())
    return name, flags


def check_memory(options: Options) -> Iterator[Finding]:
    """What is left."""
    sizes = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        sizes[key] = int(value.split()[0]) // 1024  # kB to MB
    available = sizes.get("MemAvailable", sizes.get("MemFree", 0))
    text = f"{available} MB of {sizes['MemTotal']} MB available"
    if available < MIN_MEMORY_MB:
        yield warning(f"{text}: listening takes about 100 MB", "end other programs")
    else:
        yield ok(text)


def check_disk(options: Options) -> Iterator[Finding]:
    """Room where engines are kept."""
    folder = cache_folder()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < MIN_DISK_MB:
        yield warning(f"{free} MB free in {folder}: engines may not fit", f"make room in {folder}")
    elif not os.access(folder, os.W_OK):
        yield warning(
            f"{folder} cannot be written to: engines have no place",
            "set XDG_CACHE_HOME to a folder of yours",
        )
    else:
        yield ok(f"{free / 1000:.1f} GB free in {folder}")


def check_temperature(options: Options) -> Iterator[Finding]:
    """The hottest sensor, and whether the clocks are held down for it."""
    zones = thermal_zones(Path("/sys/class/thermal"))
    throttled = _pi_throttling()
    if throttled:
        yield warning(
            f"the board holds its clocks down: {throttled}",
            "a better power supply, or a cooler",
        )
    if not zones:
        if not throttled:
            raise Skipped("no temperature sensor can be read")
        return
    name, celsius, limit = max(zones, key=lambda zone: zone[1])
    if limit is not None and celsius >= limit:
        yield warning(
            f"{celsius:.0f} C at {name}: clocks are held down from {limit:.0f} C on",
            "a fan, a heat sink, or a lower power mode",
        )
    else:
        until = f", slowed down from {limit:.0f} C on" if limit is not None else ""
        yield ok(f"{celsius:.0f} C at {name}, the hottest of {len(zones)}{until}")


def thermal_zones(folder: Path) -> list[tuple[str, float, float | None]]:
    """Name, degrees Celsius and first passive or hot trip point of each zone that can be read."""
    found = []
    for zone in sorted(folder.glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text().strip()
            celsius = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # a Jetson's zone of a block that is off: EAGAIN
            continue
        limits = []
        for kind in sorted(zone.glob("trip_point_*_type")):
            try:
                if kind.read_text().strip() in ("passive", "hot"):
                    limit = kind.with_name(kind.name.replace("_type", "_temp")).read_text()
                    limits.append(int(limit) / 1000)
            except (OSError, ValueError):
                continue
        plausible = [limit for limit in limits if limit > 0]
        found.append((name, celsius, min(plausible, default=None)))
    return found


def _pi_throttling() -> str:
    """What a Raspberry Pi's firmware says, empty elsewhere."""
    if shutil.which("vcgencmd") is None:
        return ""
    ran = subprocess.run(
        ["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False
    )
    return throttling(ran.stdout)


def throttling(answer: str) -> str:
    """What `throttled=0x50005` means for the present; empty for nothing."""
    _, _, number = answer.strip().partition("=")
    try:
        bits = int(number, 16)
    except ValueError:
        return ""
    return ", ".join(text for bit, text in _PI_THROTTLED.items() if bits >> bit & 1)


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


CHECKS = (
    Check("ssast-edge", check_versions),
    Check("processor", check_processor),
    Check("memory", check_memory),
    Check("disk", check_disk),
    Check("temperature", check_temperature),
)
