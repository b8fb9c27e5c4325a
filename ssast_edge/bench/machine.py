"""What a report must say of the machine: board, processor, power mode, versions."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ssast_edge.energy import SYSFS
from ssast_edge.errors import one_line

_PROC = Path("/proc")
_ETC = Path("/etc")
_LIBRARIES = ("ssast-edge", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda")
_TOOL_TIMEOUT_S = 10


def machine_facts(sysfs: Path = SYSFS, proc: Path = _PROC) -> dict[str, Any]:
    """Model, processor, cores, memory, system, GPU driver; None where the system does not tell."""
    return {
        "model": _model(sysfs, proc),
        "processor": _processor(proc),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory_mb": _memory_mb(proc),
        "system": _system(),
        "kernel": platform.release(),
        "is_virtual": " hypervisor" in _text(proc / "cpuinfo"),
        "gpu_driver": _first_match(proc / "driver/nvidia/version", r"\s(\d+\.\d+[.\d]*)\s"),
        "jetson_linux": jetson_linux(),
    }


def power_facts(sysfs: Path = SYSFS) -> dict[str, Any]:
    """What governs the clocks: nvpmodel's mode on a Jetson, governor, platform profile."""
    return {
        "mode": nvpmodel_mode(_run("nvpmodel", "-q")),
        "governor": _text(sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "platform_profile": _text(sysfs / "firmware/acpi/platform_profile") or None,
    }


def versions() -> dict[str, str]:
    """Python and the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine_key(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal for two reports to be from the same kind of machine."""
    return tuple(facts.get(key) for key in ("model", "processor", "architecture", "cores"))


def nvpmodel_mode(output: str) -> str | None:
    """The mode that `nvpmodel -q` names ("NV Power Mode: MAXN"), None without one."""
    match = re.search(r"^NV Power Mode:[ \t]*(\S.*)$", output, re.MULTILINE)
    return one_line(match[1]) if match else None


def jetson_linux(etc: Path = _ETC) -> str | None:
    """Release of Jetson Linux as "36.4.3", None elsewhere."""
    text = _text(etc / "nv_tegra_release")
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    return f"{match[1]}.{match[2]}" if match else None


def _model(sysfs: Path, proc: Path) -> str | None:
    board = _text(proc / "device-tree/model").rstrip("\0")
    dmi = sysfs / "class/dmi/id"
    maker = " ".join(filter(None, (_text(dmi / "sys_vendor"), _text(dmi / "product_name"))))
    return one_line(board or maker) or None


def _processor(proc: Path) -> str | None:
    name = _first_match(proc / "cpuinfo", r"^model name\s*:\s*(.+)$")
    return one_line(name or platform.processor()) or None


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _memory_mb(proc: Path) -> int | None:
    kibibytes = _first_match(proc / "meminfo", r"^MemTotal:\s*(\d+) kB")
    return int(kibibytes) // 1024 if kibibytes else None


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _first_match(path: Path, pattern: str) -> str | None:
    match = re.search(pattern, _text(path), re.MULTILINE)
    return match[1] if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout
