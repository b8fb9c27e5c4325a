"""The report as Markdown, for a README or a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssast_edge.bench.wording import (
    command_line,
    energy,
    machine_line,
    megabytes,
    milliseconds,
    percent,
    percentile,
    power_line,
    ratio,
    seconds,
    stages_line,
    versions_line,
)

_PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9", "max", "jitter")


def to_markdown(report: Mapping[str, Any]) -> str:
    """Tables of the figures, and what they were measured on."""
    lines = ["# Bench", ""]
    if report["is_partial"]:
        lines += ["**Partial: it was ended before its time.**", ""]
    lines += [
        f"    {command_line(report)}",
        "",
        f"- machine: {machine_line(report)}",
        f"- power: {power_line(report)}",
        f"- versions: {versions_line(report)}",
        *(
            f"- bundle: {bundle['name']} {bundle['version']}, sha256 {bundle['sha256'][:12]}, "
            f"hop {bundle['hop_ms']} ms, {bundle['window_frames']} frames"
            for bundle in report["bundles"]
        ),
        f"- measured: {report['created']}, {report['rounds']} interleaved rounds in "
        f"{report['duration_s']:.0f} s",
        "",
        "Inference, ms (log-mel to logits; ratio: time a window against the first case, median "
        "over the rounds with 95 % interval; -: too few were measured to tell):",
        "",
        *_table(
            ("case", *_PERCENTILES, "measured", "windows/s", "ratio"),
            (
                (case["name"], *_percentiles(case["engine"]), *_throughput(case))
                for case in report["cases"]
            ),
        ),
    ]
    hops = [case for case in report["cases"] if case["hop"]]
    if hops:
        lines += ["", "A hop, ms (audio to trigger, all work):", ""]
        lines += _table(
            ("case", "p50", "p99", "max", "missed", "rtf", "CPU", "stages at p50"),
            (_hop_row(case) for case in hops),
        )
        lines += ["", "Memory and start, a process each:", ""]
        lines += _table(
            ("case", "resident", "peak", "GPU", "start to first inference"),
            (_memory_row(case) for case in hops),
        )
    lines += _energy(report) + _streaming(report) + _unavailable(report)
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Padded, so that it can be read in a terminal too."""
    lines = [[cell.replace("|", "/") for cell in line] for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(f'{c:<{w}}' for c, w in zip(line, widths, strict=True))} |"
        for line in lines
    ]


def _percentiles(part: Mapping[str, Any]) -> list[str]:
    return [*(percentile(part, name) for name in _PERCENTILES), f"{part['count']}"]


def _throughput(case: Mapping[str, Any]) -> list[str]:
    return [f"{case['engine']['windows_per_s']:.0f}", ratio(case["engine"]["ratio"])]


def _hop_row(case: Mapping[str, Any]) -> list[str]:
    hop = case["hop"]
    return [
        case["name"],
        *(percentile(hop, name) for name in ("p50", "p99", "max")),
        f"{hop['missed_deadlines']} of {hop['count']}",
        f"{hop['real_time_factor']:.3f}",
        percent(hop["cpu_percent"]),
        stages_line(hop),
    ]


def _memory_row(case: Mapping[str, Any]) -> list[str]:
    memory = case["memory"]
    return [
        case["name"],
        megabytes(memory.get("resident_mb")),
        megabytes(memory.get("peak_mb")),
        megabytes(memory["gpu_mb"]),
        seconds(memory.get("start_s")),
    ]


def _energy(report: Mapping[str, Any]) -> list[str]:
    meters = report["energy"]["meters"]
    lines = ["", "Energy:", ""]
    for meter in meters:
        lines.append(f"- {meter['name']}: {meter['scope']}, idle {meter['idle_w'] or 0:.2f} W")
    rows = [
        [
            case["name"],
            part["meter"],
            energy(part["j_per_inference"]),
            energy(part["j_per_hop"]),
            "-"
            if part["wh_per_hour_of_listening"] is None
            else f"{part['wh_per_hour_of_listening']:.2f} Wh",
        ]
        for case in report["cases"]
        for part in case["energy"]
    ]
    if rows:
        head = ("case", "meter", "an inference", "a hop", "an hour of listening")
        lines += ["", *_table(head, rows), ""]
    lines += [f"- no {one['name']}: {one['reason']}" for one in report["energy"]["absent"]]
    return lines


def _streaming(report: Mapping[str, Any]) -> list[str]:
    part = report["streaming"]
    if part is None:
        return []
    pace = "at real time" if part["is_realtime"] else "as fast as it can be read"
    lines = [
        "",
        f"Streaming {part['source']} {pace} with {part['name']}: {part['audio_s']:.1f} s of audio, "
        f"{part['hops']} hops, {part['skipped_hops']} skipped, {part['missed_deadlines']} "
        f"deadlines missed, {part['dropped_s']:.2f} s of audio lost, "
        f"real-time factor {part['real_time_factor']:.4f}, CPU {percent(part['cpu_percent'])} of "
        "a core.",
    ]
    if part["cost"]:
        lines.append(f"Cost of a hop: {_spread(part['cost'])}. {stages_line(part)}.")
    if part["latency"]:
        lines.append(f"From the last sample to the trigger: {_spread(part['latency'])}.")
    return lines


def _spread(summary: Mapping[str, Any]) -> str:
    return f"p50 {milliseconds(summary['p50_ms'])}, p99 {milliseconds(summary['p99_ms'])} ms"


def _unavailable(report: Mapping[str, Any]) -> list[str]:
    if not report["unavailable"]:
        return []
    lines = [f"- {one['name']}: {one['reason']}" for one in report["unavailable"]]
    return ["", "Not measured here:", "", *lines]
