"""The parts of a report on a track, in words, tables, curves and sounds."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssast_edge.bench.charts import COLOURS, colour
from ssast_edge.evaluation.delays import STAGES
from ssast_edge.evaluation.det_chart import DetLine, det_chart
from ssast_edge.evaluation.section import Section, SectionWriter

__all__ = ["track_sections"]

Report = Mapping[str, Any]
Result = Mapping[str, Any]

_LISTED = 60  # of each listing; report.json has all
_CONFUSABLES = 15
_SHIFTS = {"eager": -1.0, "shipped": 0.0, "strict": 1.0}  # of all thresholds, as logits


def track_sections(report: Report) -> list[Section]:
    """All of them, in order."""
    parts = [
        _overall(report),
        _curves(report),
        _operating(report),
        _keywords(report),
        _keyword_curves(report),
        _delays(report),
        _settings(report),
        _confusables(report),
        _false_accepts(report),
        _misses(report),
        _rules(report),
        _track(report),
    ]
    return [part for part in parts if part is not None]


def share_95(point: Mapping[str, Any]) -> str:
    """A miss rate with its interval."""
    low, high = point["miss_rate_95"]
    return f"{100 * point['miss_rate']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def rate_95(point: Mapping[str, Any]) -> str:
    """False accepts an hour with their interval."""
    low, high = point["false_accepts_per_hour_95"]
    return f"{point['false_accepts_per_hour']:.2f} ({low:.2f} to {high:.2f})"


def _overall(report: Report) -> Section:
    page = SectionWriter()
    page.say(
        f"A word is detected when its label fires from its start to {report['tolerance_s']:g} s "
        "after its end; the first time counts, more are duplicates, and whatever fires elsewhere "
        f"is a false accept. Counted over all {report['data']['hours']:.2f} h of the track. In "
        "brackets: exact 95 % intervals (Clopper-Pearson, Poisson). Bundles are as they ship; "
        "other programs at the setting that misses least within 1 false accept an hour."
    )
    rows = [
        [
            result["detector"],
            result["condition"],
            f"{result['at']['missed']} of {result['at']['words']}",
            share_95(result["at"]),
            f"{result['at']['false_accepts']}",
            rate_95(result["at"]),
            f"{result['at']['duplicates']}",
            _milliseconds(result["delay"], "total", "p50"),
            _milliseconds(result["delay"], "total", "p99"),
        ]
        for result in report["results"]
        if result["setting"] is not None
    ]
    head = ["detector", "condition", "missed", "miss rate", "false accepts", "per hour"]
    page.table([*head, "duplicates", "delay p50, ms", "p99, ms"], rows)
    return page.section("overall", "As it ships", None)


def _curves(report: Report) -> Section:
    page = SectionWriter()
    page.say(
        "Each dot is a setting: of a bundle, all thresholds moved together by the same logit; "
        "settings that another beats in both are left out. The cross is the bundle as it ships, "
        "with its 95 % intervals. Lower left is better."
    )
    _legend(page, report)
    charts = []
    for condition in report["conditions"]:
        name = condition["name"]
        lines = [
            _det_line(report, result, result["curve"], result["at"])
            for result in _of(report, name)
            if result["curve"]
        ]
        if lines:
            hours = report["data"]["hours"]
            chart = det_chart(lines, hours=hours, title=f"missed words, {name}")
            charts.append((chart, f"{name}: {condition['says']}"))
    page.pictures(charts)
    return page.section("curves", "Misses against false accepts", None)


def _keyword_curves(report: Report) -> Section | None:
    first = report["conditions"][0]["name"]
    labels = _labels(report)
    if len(labels) < 2:
        return None
    page = SectionWriter()
    page.say(
        f"One keyword's threshold, words and false accepts alone, condition {first}. Of few words "
        "a curve is coarse: one missed is a step."
    )
    _legend(page, report)
    charts = []
    for label in labels:
        lines = [
            _det_line(
                report, result, result["curves_by_keyword"][label], result["at_by_keyword"][label]
            )
            for result in _of(report, first)
            if label in result["curves_by_keyword"] and result["at_by_keyword"][label]["words"]
        ]
        if lines:
            marks = [result["at_by_keyword"].get(label) for result in _of(report, first)]
            words = max(mark["words"] for mark in marks if mark is not None)
            chart = det_chart(lines, hours=report["data"]["hours"], title=label)
            charts.append((chart, f"{label}, {words} word{'s' * (words != 1)}"))
    page.pictures(charts)
    return page.section("keyword_curves", "Keyword by keyword", None)


def _operating(report: Report) -> Section:
    page = SectionWriter()
    hours = report["data"]["hours"]
    page.say(
        "The setting that misses least among those with at most so many false accepts per hour. It "
        "is chosen on the very track that it is measured on, so a little is flattery; thresholds "
        f"for your own room: ssast-edge calibrate. {hours:.2f} h without any false accept show a "
        f"rate below {3 / hours:.2g} per hour at 95 %, no less; to show 0.1 takes 30 h. Per hour, "
        "below: what the hours exclude at 95 %, one-sided."
    )
    rows = [
        [
            result["detector"],
            result["condition"],
            f"{entry['per_hour']:g}",
            *_operating_cells(entry["point"]),
        ]
        for result in report["results"]
        for entry in result["operating"]
    ]
    head = ["detector", "condition", "per hour, at most", "missed", "miss rate", "setting"]
    page.table([*head, "false accepts", "per hour, below"], rows)
    return page.section("operating", "Operating points", None)


def _operating_cells(point: Mapping[str, Any] | None) -> list[str]:
    if point is None:
        return ["-", "no setting gives so few", "-", "-", "-"]
    return [
        f"{point['missed']} of {point['words']}",
        share_95(point),
        f"{point['setting']:+g}",
        f"{point['false_accepts']}",
        f"{point['below_per_hour_at_95']:.3g}",
    ]


def _keywords(report: Report) -> Section:
    page = SectionWriter()
    rows = [
        [
            result["detector"],
            result["condition"],
            label,
            f"{point['missed']} of {point['words']}",
            share_95(point) if point["words"] else "-",
            f"{point['false_accepts']}",
            rate_95(point),
            f"{point['duplicates']}",
            _milliseconds(result["delay_by_keyword"].get(label, {}), "total", "p50"),
            _milliseconds(result["delay_by_keyword"].get(label, {}), "total", "p99"),
        ]
        for result in report["results"]
        if result["setting"] is not None
        for label, point in result["at_by_keyword"].items()
    ]
    head = ["detector", "condition", "keyword", "missed", "miss rate", "false accepts", "per hour"]
    page.table([*head, "duplicates", "delay p50, ms", "p99, ms"], rows)
    return page.section("keywords", "Each keyword, as it ships", None)


def _delays(report: Report) -> Section:
    page = SectionWriter()
    page.say(
        "From a word's end to its detection, in audio time; negative: before the word was over. "
        + "; ".join(f"{stage.replace('_', ' ')}: {says}" for stage, says in STAGES.items())
        + ". The parts add up for each word, their percentiles do not. To them comes the wall time "
        "that this machine took for an inference (a busy one: long p99). Words' ends are found by "
        "energy to about 50 ms."
    )
    rows = []
    for result in report["results"]:
        delay = result["delay"]
        if not delay["words"]:
            continue
        infer = result["infer_ms"]
        rows.append(
            [
                result["detector"],
                result["condition"],
                f"{delay['words']}",
                _three(delay, "total"),
                *(_three(delay, stage) for stage in STAGES),
                f"{infer['p50']:.2f} / {infer['p99']:.2f}" if infer else "-",
            ]
        )
    head = ["detector", "condition", "words", "delay p50 / p90 / p99, ms"]
    stages = [f"{stage.replace('_', ' ')}, ms" for stage in STAGES]
    page.table([*head, *stages, "inference p50 / p99, ms"], rows)
    return page.section("delays", "How late", None)


def _settings(report: Report) -> Section | None:
    bundles = {d["name"] for d in report["detectors"] if d["kind"] == "bundle"}
    if not bundles:
        return None
    page = SectionWriter()
    page.say("All thresholds of a bundle moved by one logit to either side.")
    rows = []
    for result in report["results"]:
        if result["detector"] not in bundles:
            continue
        for name, shift in _SHIFTS.items():
            point = next(p for p in result["curve"] if abs(p["setting"] - shift) < 1e-9)
            rows.append(
                [
                    result["detector"],
                    result["condition"],
                    name,
                    f"{point['missed']} of {point['words']}",
                    share_95(point),
                    f"{point['false_accepts']}",
                    rate_95(point),
                ]
            )
    head = ["detector", "condition", "setting", "missed", "miss rate", "false accepts", "per hour"]
    page.table(head, rows)
    return page.section("settings", "Eager, shipped, strict", None)


def _confusables(report: Report) -> Section | None:
    page = SectionWriter()
    rows = [
        [result["detector"], result["condition"], one["label"], one["playing"], f"{one['count']}"]
        for result in report["results"]
        for one in result["confusables"][:_CONFUSABLES]
    ]
    if not rows:
        return None
    page.say(
        "What was playing when something fired that should not have, the most frequent first, "
        f"{_CONFUSABLES} for each detector and condition at most."
    )
    page.table(["detector", "condition", "fired", "while this was playing", "times"], rows)
    return page.section("confusables", "What is confused", None)


def _false_accepts(report: Report) -> Section | None:
    page = SectionWriter()
    rows, paths = [], []
    for result in report["results"]:
        for one in result["false_accepts"][:_LISTED]:
            playing = one["playing"]
            said = playing["text"] or playing["label"] or "-"
            rows.append(
                [
                    f"{result['detector']}, {result['condition']}",
                    one["label"],
                    f"{one['score']:.3f}",
                    f"{one['time_s']:.2f}",
                    f"{playing['kind']}: {said}",
                    f"{playing['pack']} {playing['file']}".strip(),
                ]
            )
            paths.append(one["snippet"])
    if not rows:
        return None
    page.say(
        "Each with the two seconds before it (quiet ones made louder). report.json has all, and "
        "what came after."
    )
    page.sounds(["detector", "fired", "score", "at, s", "playing", "recording"], rows, paths)
    return page.section("false_accepts", "False accepts, to listen to", None)


def _misses(report: Report) -> Section | None:
    page = SectionWriter()
    rows, paths = [], []
    for result in report["results"]:
        for one in result["misses"][:_LISTED]:
            rows.append(
                [
                    f"{result['detector']}, {result['condition']}",
                    one["label"],
                    "-" if one["best"] is None else f"{one['best']:.3f}",
                    f"{one['start_s']:.2f}",
                    f"{one['pack']} {one['file']}".strip(),
                ]
            )
            paths.append(one["snippet"])
    if not rows:
        return None
    page.say("Score: the highest raw one from the word's start to the end of the tolerance.")
    page.sounds(["detector", "missed", "score", "at, s", "recording"], rows, paths)
    return page.section("misses", "Misses, to listen to", None)


def _rules(report: Report) -> Section:
    page = SectionWriter()
    page.say("When a score becomes a detection, of each bundle and keyword as it ships.")
    rows = [
        [detector["name"], label, rule]
        for detector in report["detectors"]
        if detector["kind"] == "bundle"
        for label, rule in detector["rule"].items()
    ]
    rows += [
        [detector["name"], "all", f"events as the program gives them: {detector['command']}"]
        for detector in report["detectors"]
        if detector["kind"] == "external"
    ]
    page.table(["detector", "keyword", "rule"], rows)
    return page.section("rules", "When it fires", None)


def _track(report: Report) -> Section:
    data = report["data"]
    page = SectionWriter()
    page.say(
        f"{data['source']}, seed {data['seed']}"
        + (f", split {data['split']}" if data["split"] else "")
        + f", protocol {data['protocol']}: {data['protocol_says']}. {data['hours']:.2f} h in all, "
        f"track {data['key'][:12]}; noise from {data['noise_minutes']:g} minutes of steady "
        "recordings. Every detector hears the same samples through the streaming runtime."
    )
    page.table(
        ["what", "hours"],
        [
            *([f"kind {kind}", f"{hours:.2f}"] for kind, hours in data["hours_by_kind"].items()),
            *([f"pack {pack}", f"{hours:.2f}"] for pack, hours in data["hours_by_pack"].items()),
        ],
    )
    page.table(["keyword", "times said"], [[k, f"{n}"] for k, n in data["words"].items()])
    if data["counts"]:
        page.table(
            ["of the protocol", "number"],
            [[name.replace("_", " "), f"{count}"] for name, count in data["counts"].items()],
        )
    if data["unreadable"]:
        page.head("Recordings that could not be read")
        rows = [[one["file"], one["reason"]] for one in data["unreadable"][:_LISTED]]
        page.table(["file", "reason"], rows)
    return page.section("track", "The track", None)


def _of(report: Report, condition: str) -> list[Result]:
    return [result for result in report["results"] if result["condition"] == condition]


def _labels(report: Report) -> list[str]:
    names = [label for detector in report["detectors"] for label in detector["labels"]]
    return list(dict.fromkeys(names))


def _number(report: Report, name: str) -> int:
    names = [detector["name"] for detector in report["detectors"]]
    return names.index(name) % COLOURS


def _det_line(
    report: Report, result: Result, curve: Sequence[Mapping[str, Any]], at: Mapping[str, Any]
) -> DetLine:
    points = [(p["false_accepts_per_hour"], p["miss_rate"]) for p in curve]
    is_bundle = result["infer_ms"] is not None
    return DetLine(
        result["detector"],
        points,
        _number(report, result["detector"]),
        mark=(at["false_accepts_per_hour"], at["miss_rate"]) if is_bundle else None,
        per_hour_95=tuple(at["false_accepts_per_hour_95"]),
        miss_95=tuple(at["miss_rate_95"]),
    )


def _legend(page: SectionWriter, report: Report) -> None:
    names = [detector["name"] for detector in report["detectors"]]
    page.legend([(name, colour(number)) for number, name in enumerate(names)])


def _milliseconds(delay: Mapping[str, Any], part: str, percentile: str) -> str:
    found = delay.get(part)
    return "-" if not found else f"{1000 * found[percentile]:.0f}"


def _three(delay: Mapping[str, Any], part: str) -> str:
    found = delay.get(part)
    return "-" if not found else " / ".join(f"{1000 * value:.0f}" for value in found.values())
