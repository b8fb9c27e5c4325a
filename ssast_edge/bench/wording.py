"""Numbers and facts of a report as people read them; all forms of it speak alike."""

import shlex
from collections.abc import Mapping
from typing import Any

STAGE_NAMES = {
    "front_end": "front end",
    "upload": "upload",
    "inference": "inference",
    "download": "download",
    "trigger": "trigger",
}


def milliseconds(value: float | None) -> str:
    """Three significant digits: "0.0123", "4.56", "123"."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}" if value >= 0.01 else f"{value:.2g}"


def percentile(part: Mapping[str, Any], name: str) -> str:
    """Of durations: "p99.9", or "max"; a dash where too few were measured to tell it."""
    share = float(name[1:]) if name.startswith("p") else 0.0
    is_told = share <= 50 or round(part["count"] * (100 - share), 6) >= 100
    return milliseconds(part[f"{name}_ms"]) if is_told else "-"


def percent(value: float | None, digits: int = 1) -> str:
    """With its sign."""
    return "-" if value is None else f"{value:.{digits}f} %"


def ratio(value: Mapping[str, float] | None) -> str:
    """As 1.23 (1.19 to 1.28); a dash where there is none."""
    if value is None:
        return "-"
    if value["low"] == value["high"] == 1:
        return "1 (the first)"
    middle, low, high = (milliseconds(value[name]) for name in ("value", "low", "high"))
    return f"{middle} ({low} to {high})"


def megabytes(value: float | None) -> str:
    """Whole MB."""
    return "-" if value is None else f"{value:.0f} MB"


def seconds(value: float | None) -> str:
    """Of a start: "0.23 s"."""
    return "-" if value is None else f"{value:.2f} s"


def energy(value: float | None) -> str:
    """Of an inference: "1.2 mJ"."""
    if value is None:
        return "-"
    return f"{1000 * value:.3g} mJ" if value < 1 else f"{value:.3g} J"


def machine_line(report: Mapping[str, Any]) -> str:
    """Board, processor, cores, memory, system."""
    machine = report["machine"]
    parts = [
        machine["model"],
        machine["processor"] or machine["architecture"],
        f"{machine['usable_cores'] or machine['cores']} cores",
        f"{machine['memory_mb'] / 1024:.1f} GB" if machine["memory_mb"] else None,
        machine["system"],
        f"Jetson Linux {machine['jetson_linux']}" if machine["jetson_linux"] else None,
        f"GPU driver {machine['gpu_driver']}" if machine["gpu_driver"] else None,
        "virtual machine" if machine["is_virtual"] else None,
    ]
    return ", ".join(part for part in parts if part)


def power_line(report: Mapping[str, Any]) -> str:
    """Power mode and governor, or that the system tells neither."""
    power = report["power"]
    known = [f"{name.replace('_', ' ')} {value}" for name, value in power.items() if value]
    return ", ".join(known) or "the system tells no power mode"


def versions_line(report: Mapping[str, Any]) -> str:
    """Name and version of each library."""
    return ", ".join(f"{name} {version}" for name, version in report["versions"].items())


def command_line(report: Mapping[str, Any]) -> str:
    """The command as one could type it."""
    return shlex.join(report["command"])


def stages_line(part: Mapping[str, Any]) -> str:
    """Median and share of each stage."""
    return " · ".join(
        f"{STAGE_NAMES.get(name, name)} {milliseconds(stage['p50_ms'])} ms "
        f"({percent(100 * stage['share'])})"
        for name, stage in part["stages"].items()
    )
