"""The report as one HTML page: no script, no reference to anything outside, light and dark."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from ssast_edge.bench.charts import COLOURS, Line, Mark, colour, curves, histogram, stacked_bars
from ssast_edge.bench.page_style import STAGE_COLOURS, STYLE
from ssast_edge.bench.wording import (
    STAGE_NAMES,
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

# Column of the machine's timeline -> what the chart says.
_MACHINE_SERIES = {
    "temperature_c": "temperature, °C",
    "gpu_temperature_c": "GPU temperature, °C",
    "cpu_clock_mhz": "CPU clock, MHz",
    "gpu_clock_mhz": "GPU clock, MHz",
    "power_w": "power, W",
    "resident_mb": "resident memory of this process, MB",
    "gpu_memory_mb": "GPU memory in use, MB",
    "load": "load average of the machine",
}


def to_html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    cases = report["cases"]
    sections = [
        _header(report),
        _tiles(cases[0], report) if cases else "",
        _section("Inference", _INFERENCE_NOTE, _legend(cases), _inference_table(cases)),
        _section(
            "Distribution",
            "Share of all inferences that took no longer. What is steep is steady; a long tail to "
            "the right is what a listener waits for.",
            _cdf(cases),
            _histograms(cases),
        ),
        _section("A hop, audio to trigger", _HOP_NOTE, _stages(cases), _hop_table(cases)),
        _timeline(report),
        _section("Memory and start", _MEMORY_NOTE, _memory_table(cases)),
        _energy(report),
        _streaming(report),
        _unavailable(report),
    ]
    body = "\n".join(part for part in sections if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>ssast-edge bench: {escape(_bundle_names(report))}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_INFERENCE_NOTE = (
    "Log-mel to logits, without a pause. The cases take turns in short rounds, so that what "
    "disturbs the machine disturbs each alike; the ratio is the time a window takes against the "
    "first case, median over the rounds with its 95 % interval. A dash: too few were measured to "
    "tell."
)
_HOP_NOTE = (
    "All work between two inferences of a stream: log-mel of the new audio in blocks of 80 ms, "
    "inference, triggers. A cost above the hop is a missed deadline. Latency: from the last block "
    "of audio to the triggers. CPU: of one core, when listening at real time. Bars are medians."
)
_MEMORY_NOTE = (
    "Each case in processes of its own: resident after some inferences, the peak since the start, "
    "and the time from the start of the process to the end of its first inference."
)


def _bundle_names(report: Mapping[str, Any]) -> str:
    return ", ".join(bundle["name"] for bundle in report["bundles"])


def _header(report: Mapping[str, Any]) -> str:
    partial = (
        '<p class="warn">Partial: the run was ended before its time.</p>'
        if report["is_partial"]
        else ""
    )
    facts = [
        ("machine", machine_line(report)),
        ("power", power_line(report)),
        ("versions", versions_line(report)),
        *(
            (
                "bundle",
                f"{b['name']} {b['version']}, {b['labels']} labels, window {b['window_frames']} "
                f"frames, hop {b['hop_ms']} ms, sha256 {b['sha256'][:16]}",
            )
            for b in report["bundles"]
        ),
        (
            "measured",
            f"{report['created']}, {report['rounds']} rounds in {report['duration_s']:.0f} s",
        ),
    ]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    return (
        f"<header><h1>Bench <span>{escape(_bundle_names(report))}</span></h1>{partial}"
        f"<p><code>{escape(command_line(report))}</code></p><dl>{rows}</dl></header>"
    )


def _tiles(case: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    engine, hop, memory = case["engine"], case["hop"], case["memory"]
    tiles = [
        (f"{milliseconds(engine['p50_ms'])} ms", "inference, median"),
        (f"{percentile(engine, 'p99')} ms", "inference, 99 %"),
    ]
    if hop:
        missed = f"{hop['missed_deadlines']} of {hop['count']}"
        tiles += [
            (percent(hop["cpu_percent"]), "of one core while listening"),
            (missed, f"deadlines of {hop['deadline_ms']} ms missed"),
        ]
    if memory.get("resident_mb") is not None:
        tiles.append((megabytes(memory["resident_mb"]), "resident"))
    if case["energy"]:
        part = case["energy"][0]
        tiles.append((energy(part["j_per_inference"]), f"an inference ({part['meter']})"))
    elif memory.get("start_s") is not None:
        tiles.append((seconds(memory["start_s"]), "start to first inference"))
    shown = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for v, k in tiles)
    return f'<section class="tiles" aria-label="{escape(case["name"])}">{shown}</section>' + (
        f'<p class="note">{escape(case["name"])}</p>' if len(report["cases"]) > 1 else ""
    )


def _section(title: str, note: str, *parts: str) -> str:
    shown = "".join(part for part in parts if part)
    if not shown:
        return ""
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>{shown}</section>'


def _legend(cases: Sequence[Mapping[str, Any]]) -> str:
    if len(cases) < 2:
        return ""
    items = "".join(
        f'<li><i style="background:{colour(index)}"></i>{escape(case["name"])}</li>'
        for index, case in enumerate(cases)
    )
    more = (
        f'<p class="note">Colours repeat after {COLOURS} cases.</p>' if len(cases) > COLOURS else ""
    )
    return f'<ul class="legend">{items}</ul>{more}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _inference_table(cases: Sequence[Mapping[str, Any]]) -> str:
    names = ("p50", "p90", "p95", "p99", "p99.9", "max", "jitter")
    rows = [
        [
            case["name"],
            *(percentile(case["engine"], name) for name in names),
            f"{case['engine']['windows_per_s']:.0f}",
            ratio(case["engine"]["ratio"]),
            f"{case['engine']['count']}",
        ]
        for case in cases
    ]
    head = ("ms", *names, "windows/s", "ratio to the first", "measured")
    return _table(head, rows)


def _cdf(cases: Sequence[Mapping[str, Any]]) -> str:
    # Up to p99.5: one straggler would squeeze everything else into a corner.
    lines = [
        Line(
            case["name"],
            [(ms, share) for share, ms in case["engine"]["curve"] if share <= 0.995],
            index,
        )
        for index, case in enumerate(cases)
    ]
    return curves(
        lines,
        x_name="ms an inference (a batch, where there is one), up to p99.5",
        y_name="share of inferences",
        y_range=(0, 1),
        y_shown=lambda share: f"{100 * share:.0f} %",
        is_logarithmic=True,
        title="Cumulative distribution",
    )


def _histograms(cases: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for index, case in enumerate(cases):
        engine = case["engine"]
        bins = engine["histogram"]
        marks = [Mark(engine[f"{name}_ms"], name) for name in ("p50", "p95", "p99")]
        picture = histogram(
            bins["edges_ms"],
            bins["counts"],
            colour_index=index,
            marks=marks,
            x_name="ms",
            title=f"Histogram of {case['name']}",
        )
        figures.append(f"<figure><figcaption>{escape(case['name'])}</figcaption>{picture}</figure>")
    return f'<div class="pair">{"".join(figures)}</div>'


def _stage_legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<li><i style="background:{STAGE_COLOURS[name]}"></i>{escape(STAGE_NAMES[name])}</li>'
        for name in names
    )
    return f'<ul class="legend">{items}</ul>'


def _stages(cases: Sequence[Mapping[str, Any]]) -> str:
    hops = [case for case in cases if case["hop"]]
    if not hops:
        return ""
    present = [name for name in STAGE_NAMES if any(name in c["hop"]["stages"] for c in hops)]
    absent = hops[0]["hop"]["absent_stages"]
    why = "".join(
        f'<p class="note">No {escape(" and ".join(absent))}: {escape(reason)}.</p>'
        for reason in dict.fromkeys(absent.values())
    )
    # A scale for each bundle: a wake word beside ten seconds of tagging would not be seen.
    bundles = dict.fromkeys(case["bundle"] for case in hops)
    bars = "".join(
        stacked_bars(
            [_stage_row(case) for case in hops if case["bundle"] == bundle],
            x_name="ms a hop",
            title=f"Stages of a hop of {bundle}",
        )
        for bundle in bundles
    )
    return _stage_legend(present) + bars + why


def _stage_row(case: Mapping[str, Any]) -> tuple[str, list[tuple[str, float, str]]]:
    return (
        f"{case['name']}:  {stages_line(case['hop'])}",
        [
            (STAGE_NAMES[name], stage["p50_ms"], STAGE_COLOURS[name])
            for name, stage in case["hop"]["stages"].items()
        ],
    )


def _hop_table(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            case["name"],
            *(percentile(hop, name) for name in ("p50", "p95", "p99", "p99.9", "max")),
            milliseconds(hop["latency"]["p50_ms"]),
            f"{hop['missed_deadlines']} of {hop['count']}",
            f"{hop['real_time_factor']:.4f}",
            percent(hop["cpu_percent"]),
            ratio(hop["ratio"]),
        ]
        for case in cases
        if (hop := case["hop"])
    ]
    head = ("ms", "p50", "p95", "p99", "p99.9", "max", "latency p50", "missed", "rtf", "CPU")
    return _table((*head, "ratio to the first"), rows)


def _timeline(report: Mapping[str, Any]) -> str:
    lines = [
        Line(
            case["name"],
            list(zip(case.get("time_s", []), case.get("engine_ms", []), strict=False)),
            index,
        )
        for index, case in enumerate(report["timeline"]["cases"])
    ]
    charts = [
        curves(lines, x_name="s", y_name="ms an inference, median of a round", title="Latency")
    ]
    machine = report["timeline"]["machine"]
    time_s = machine.get("time_s", [])
    for index, (column, name) in enumerate(_MACHINE_SERIES.items()):
        if column in machine:
            line = Line(name, list(zip(time_s, machine[column], strict=False)), index)
            charts.append(curves([line], x_name="s", y_name=name, height=150, title=name))
    silent = [name for column, name in _MACHINE_SERIES.items() if column not in machine and time_s]
    note = "A machine that throttles shows rising latency under a falling clock."
    if silent:
        note += f" This machine does not tell: {'; '.join(n.split(',')[0] for n in silent)}."
    return _section("Over time", note, *charts)


def _memory_table(cases: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            case["name"],
            megabytes(case["memory"].get("resident_mb")),
            megabytes(case["memory"].get("peak_mb")),
            megabytes(case["memory"]["gpu_mb"]),
            seconds(case["memory"].get("start_s")),
        ]
        for case in cases
        if case["batch"] == 1
    ]
    return _table(("case", "resident", "peak", "GPU", "start to first inference"), rows)


def _energy(report: Mapping[str, Any]) -> str:
    rows = [
        [
            case["name"],
            part["meter"],
            energy(part["j_per_inference"]),
            _or_dash(part["mean_w"], lambda watts: f"{watts:.2f} W"),
            energy(part["j_per_hop"]),
            _or_dash(part["wh_per_hour_of_listening"], lambda wh: f"{wh:.2f} Wh"),
        ]
        for case in report["cases"]
        for part in case["energy"]
    ]
    head = ("case", "meter", "an inference", "mean power", "a hop", "an hour of listening")
    meters = [
        f"{meter['name']}: {meter['scope']}, idle {_or_dash(meter['idle_w'], '{:.2f} W'.format)}"
        for meter in report["energy"]["meters"]
    ]
    absent = [f"no {one['name']}: {one['reason']}" for one in report["energy"]["absent"]]
    items = "".join(f"<li>{escape(text)}</li>" for text in meters + absent)
    note = (
        "Of everything that the meter covers, idle power included; an hour of listening is idle "
        "power and what the hops took above it."
        if rows
        else "This machine has no meter that could be read."
    )
    return _section("Energy", note, _table(head, rows), f'<ul class="plain">{items}</ul>')


def _streaming(report: Mapping[str, Any]) -> str:
    part = report["streaming"]
    if part is None:
        return ""
    pace = "at real time" if part["is_realtime"] else "as fast as it can be read"
    note = f"{part['source']} {pace}, with {part['name']}."
    cost, latency = part["cost"] or {}, part["latency"] or {}
    rows = [
        ["audio", f"{part['audio_s']:.1f} s"],
        ["hops", f"{part['hops']}, {part['skipped_hops']} skipped"],
        ["deadlines missed", f"{part['missed_deadlines']} (of {part['deadline_ms']} ms)"],
        ["audio lost", f"{part['dropped_s']:.2f} s, {part['overflows']} overflows"],
        ["detections", str(part["detections"])],
        ["real-time factor", f"{part['real_time_factor']:.4f}"],
        ["CPU of one core", percent(part["cpu_percent"])],
        *(
            [label, f"{milliseconds(values['p50_ms'])} / {milliseconds(values['p99_ms'])} ms"]
            for label, values in (
                ("cost of a hop, p50 / p99", cost),
                ("last sample to trigger, p50 / p99", latency),
            )
            if values
        ),
    ]
    bars = stacked_bars(
        [
            (
                stages_line(part),
                [
                    (STAGE_NAMES[name], stage["p50_ms"], STAGE_COLOURS[name])
                    for name, stage in part["stages"].items()
                ],
            )
        ],
        x_name="ms a hop",
        title="Stages of a hop while streaming",
    )
    return _section("Streaming", note, bars, _table(("", ""), rows))


def _unavailable(report: Mapping[str, Any]) -> str:
    rows = [[one["name"], one["reason"]] for one in report["unavailable"]]
    return _section(
        "Not measured here", "What was asked for and cannot run.", _table(("case", "why"), rows)
    )


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)
