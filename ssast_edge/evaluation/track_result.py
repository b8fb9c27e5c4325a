"""What one detector did on one track in one condition, as a dictionary for the report.

The keys of a result, all of them always there:

    detector, condition, hours       names of the two; length of the track
    setting                          of "at": 0.0 are a bundle's own thresholds; null: no setting
    at, at_by_keyword                counts, rates and exact 95 % intervals there (Point.to_json)
    curve                            the same for every setting: shifts of all thresholds in logits
    curves_by_keyword                the same without intervals, of one keyword alone
    operating                        for each of RATES: {per_hour, point, says}; point null: no
                                     setting gives so few false accepts
    operating_by_keyword             the same with one keyword's thresholds and events alone
    delay, delay_by_keyword          words, and p50, p90, p99 in s of total and of each stage
    infer_ms                         wall time of an inference: p50, p95, p99, max; null: external
    false_accepts                    label, time_s, score, playing (kind, pack, file, label, text),
                                     at_s (time in that file), snippet (path or "")
    misses                           label, file, pack, start_s, end_s, best (highest raw score;
                                     null: external), snippet
    confusables                      label, playing, count: the false accepts, summed up
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ssast_edge.bundle import Bundle
from ssast_edge.errors import one_line
from ssast_edge.evaluation import delays
from ssast_edge.evaluation.clips import known_label
from ssast_edge.evaluation.curves import (
    RATES,
    Point,
    best_within,
    label_curves,
    points_of_events,
    together,
)
from ssast_edge.evaluation.external import DetectorRun
from ssast_edge.evaluation.matching import TOLERANCE_S, Score, match
from ssast_edge.evaluation.runs import Run
from ssast_edge.evaluation.scores import replay
from ssast_edge.evaluation.snippets import AFTER_S, BEFORE_S
from ssast_edge.evaluation.track import Source, Track, Word
from ssast_edge.spotter import Detection

__all__ = ["Cut", "bundle_result", "external_result", "words_of"]

# Where a condition's audio is cut: from, to in s; the path of the snippet.
Cut = Callable[[float, float], str]

_MOST_SNIPPETS = 60  # of false accepts, and of misses, in one result
_EVIDENCE_S = 0.2  # what fired a detection was heard so long before it


def words_of(track: Track, labels: Iterable[str]) -> list[Word]:
    """The words of a track that a detector knows, under its own names for them."""
    known = list(labels)
    names = {word.label: known_label(word.label, known) for word in track.words}
    return [
        replace(word, label=name) for word in track.words if (name := names[word.label]) is not None
    ]


def bundle_result(
    name: str, condition: str, bundle: Bundle, run: Run, track: Track, cut: Cut
) -> dict[str, Any]:
    """A bundle at its own thresholds and at all others."""
    triggers = bundle.triggers
    words = words_of(track, triggers)
    events = replay(run.hops, triggers)
    curves = label_curves(run.hops, words, triggers, track.hours)
    times = delays.delays_of(run.hops, words, events, triggers)
    marks = {label: match(words, events, hours=track.hours, label=label) for label in triggers}
    return {
        **_figures(name, condition, track, curves, 0.0, marks),
        "delay": delays.summary(times),
        "delay_by_keyword": {
            label: delays.summary([delay for delay in times if delay.label == label])
            for label in triggers
        },
        "infer_ms": {key: round(value, 4) for key, value in run.infer_ms.items()},
        **_listings(track, words, events, cut, _best_scores(run)),
    }


def external_result(
    name: str, condition: str, run: DetectorRun, track: Track, labels: Sequence[str], cut: Cut
) -> dict[str, Any]:
    """Another program at all of its settings; listed at the one that suits one an hour."""
    words = words_of(track, labels)
    curves = points_of_events(run.events, words, labels, track.hours)
    curves = {label: curve for label, curve in curves.items() if curve}
    chosen = best_within(together(curves), RATES[-1]) if curves else None
    setting = chosen.setting if chosen else None
    events = run.events[setting] if setting is not None else ()
    marks = {label: match(words, events, hours=track.hours, label=label) for label in labels}
    late = {label: list(score.delays_s) for label, score in marks.items()}
    everything = [delay for values in late.values() for delay in values]
    return {
        **_figures(name, condition, track, curves, setting, marks),
        "delay": _total_alone(everything),
        "delay_by_keyword": {label: _total_alone(values) for label, values in late.items()},
        "infer_ms": None,
        "cpu_s_per_hour": round(run.cpu_seconds_per_hour, 3),
        **_listings(track, words, events, cut, lambda word: None),
    }


def _figures(
    name: str,
    condition: str,
    track: Track,
    curves: Mapping[str, Sequence[Point]],
    setting: float | None,
    marks: Mapping[str, Score],
) -> dict[str, Any]:
    at = {label: _point(score, setting or 0.0) for label, score in marks.items()}
    curve = together(curves)
    return {
        "detector": name,
        "condition": condition,
        "hours": round(track.hours, 6),
        "setting": setting,
        "at": together({label: [point] for label, point in at.items()})[0].to_json(),
        "at_by_keyword": {label: point.to_json() for label, point in at.items()},
        "curve": [point.to_json() for point in curve],
        "curves_by_keyword": {
            label: [point.counts() for point in points] for label, points in curves.items()
        },
        "operating": _operating(curve, track.hours),
        "operating_by_keyword": {
            label: _operating(points, track.hours) for label, points in curves.items()
        },
    }


def _point(score: Score, setting: float) -> Point:
    missed = score.words - score.hits
    return Point(setting, score.words, missed, score.false_accepts, score.duplicates, score.hours)


def _operating(points: Sequence[Point], hours: float) -> list[dict[str, Any]]:
    found = []
    for per_hour in RATES:
        point = best_within(points, per_hour)
        says = _says(point, per_hour, hours)
        found.append({"per_hour": per_hour, "point": point and point.to_json(), "says": says})
    return found


def _says(point: Point | None, per_hour: float, hours: float) -> str:
    """What the hours can show."""
    if point is None:
        return "no setting gives so few"
    count, most = point.false_accepts, point.at_most_per_hour
    said = f"{count or 'none'} in {hours:.2f} h: below {most:.3g} per hour at 95 %"
    if per_hour > 0 and most > per_hour:
        said += f"; {3 / per_hour:.0f} h without one would show {per_hour:g}"
    return said


def _total_alone(values: Sequence[float]) -> dict[str, Any]:
    empty = dict.fromkeys(delays.STAGES)
    return {"words": len(values), "total": delays.quantiles(values), **empty}


def _best_scores(run: Run) -> Callable[[Word], float | None]:
    times, scores, labels = run.hops.times_s, run.hops.scores, run.hops.labels

    def best(word: Word) -> float | None:
        first, last = np.searchsorted(times, [word.start_s, word.end_s + TOLERANCE_S])
        heard = scores[first:last, labels.index(word.label)]
        return round(float(heard.max()), 4) if len(heard) else None

    return best


def _listings(
    track: Track,
    words: Sequence[Word],
    events: Sequence[Detection],
    cut: Cut,
    best: Callable[[Word], float | None],
) -> dict[str, Any]:
    score = match(words, events, hours=track.hours)
    false_accepts: list[dict[str, Any]] = []
    for event in score.false_events:
        source = track.source_at(event.time_s - _EVIDENCE_S)
        false_accepts.append(
            {
                "label": event.label,
                "time_s": round(event.time_s, 3),
                "score": round(event.score, 4),
                "playing": _playing(source),
                "at_s": round(event.time_s - source.start_s, 3) if source else None,
                "snippet": _snippet(cut, event.time_s, event.time_s, len(false_accepts)),
            }
        )
    misses: list[dict[str, Any]] = []
    for word in score.missed:
        source = track.source_at(word.start_s)
        misses.append(
            {
                "label": word.label,
                "file": source.name if source else word.source,
                "pack": source.pack if source else "",
                "start_s": round(word.start_s, 3),
                "end_s": round(word.end_s, 3),
                "best": best(word),
                "snippet": _snippet(cut, word.start_s + 1.2, word.end_s, len(misses)),
            }
        )
    counts = Counter((one["label"], _named(one["playing"], one["label"])) for one in false_accepts)
    return {
        "false_accepts": false_accepts,
        "misses": misses,
        "confusables": [
            {"label": label, "playing": playing, "count": count}
            for (label, playing), count in counts.most_common()
        ],
    }


def _snippet(cut: Cut, start_s: float, end_s: float, number: int) -> str:
    if number >= _MOST_SNIPPETS:
        return ""
    return cut(max(0.0, start_s - BEFORE_S), end_s + AFTER_S)


def _playing(source: Source | None) -> dict[str, str]:
    if source is None:
        return {"kind": "quiet", "pack": "", "file": "", "label": "", "text": ""}
    return {
        "kind": source.kind,
        "pack": source.pack,
        "file": source.name,
        "label": source.label,
        "text": one_line(source.text),
    }


def _named(playing: Mapping[str, str], fired: str) -> str:
    """What people would call it: the words that are said, or the sound."""
    said = playing["text"] or playing["label"]
    if playing["kind"] in ("keyword", "sound"):
        said = playing["label"]
        if known_label(said, [fired]):
            said += " (the word itself, too early or too late to count)"
    return f"{playing['kind']}: {said}" if said else f"{playing['kind']} ({playing['file']})"
