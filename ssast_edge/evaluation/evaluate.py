"""Bundles and other detectors over one track in every condition: the report as a dictionary.

    schema            "ssast-edge eval 1"; a change that breaks readers raises the number
    created, command  when (UTC), and what was typed
    data              source, split, seed, protocol, protocol_says, recordings (by kind), hours,
                      words (by label, as the data spells them), hours_by_kind, hours_by_pack (a
                      recording with the pause after it), noise_minutes, unreadable (file, reason),
                      counts (what the protocol tells), key (a hash of the track)
    conditions        name, says
    tolerance_s       after a word's end in which a detection of it counts
    detectors         name, kind ("bundle" or "external"), labels (that the track has words of),
                      without_words (labels it has none of), as_speech (labels of the data's
                      keywords that it does not know, played as speech that must not fire) and, of a
                      bundle, version, backend, hop_ms, triggers, rule (of a label: smoothing,
                      minimum hits, rearming, refractory time, in words); of an external, command
    results           one for each detector and condition: see track_result.py
    sections          further parts by their key: see section.py
    warnings          lines

Runs that are finished are kept in the folder `scores` beside the report.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.errors import AudioError, SsastEdgeError
from ssast_edge.evaluation.clips import known_label
from ssast_edge.evaluation.conditions import describe, needs_noise
from ssast_edge.evaluation.external import DetectorRun, run_detector
from ssast_edge.evaluation.matching import TOLERANCE_S
from ssast_edge.evaluation.noise import is_steady
from ssast_edge.evaluation.protocols import PROTOCOLS
from ssast_edge.evaluation.recordings import KINDS, Recording
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.runs import Run, RunCache, Runner, run_together
from ssast_edge.evaluation.snippets import Snippets
from ssast_edge.evaluation.track import SAMPLE_RATE, Track
from ssast_edge.evaluation.track_result import bundle_result, external_result
from ssast_edge.spotter import Detection
from ssast_edge.trigger import TriggerConfig

__all__ = ["SCHEMA", "EvaluationConfig", "Progress", "evaluate_track"]

Samples = NDArray[np.float32]

SCHEMA = "ssast-edge eval 1"
_NOISE_MINUTES = 20.0  # of noise that is held in memory, at most
_NOISE_S = 60.0  # of one recording of noise


class Progress(Protocol):
    """Tells a person how far a long piece of work is."""

    def __call__(
        self, title: str, total: float
    ) -> AbstractContextManager[Callable[[float], object]]:
        """Begin a piece; what `with` gives is called with each amount that is done."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to run. externals: NAME -> command. out: the report's folder, for what is kept."""

    source: str
    out: Path
    split: str | None = None
    protocol: str = "strict"
    conditions: tuple[str, ...] = ()
    hours: float | None = None
    seed: int = 0
    externals: Mapping[str, str] = field(default_factory=dict)


def evaluate_track(
    runners: Mapping[str, Runner],
    recordings: Sequence[Recording],
    config: EvaluationConfig,
    *,
    progress: Progress,
    warn: Callable[[str], object],
) -> dict[str, Any]:
    """The report on the bundles (by name) and the externals. warn: told each warning, too.

    Raises SsastEdgeError for data in which no bundle has a word, or that lacks speech, sounds or
    noise that is needed.
    """
    warnings: list[str] = []

    def tell(text: str) -> None:
        warnings.append(text)
        warn(text)

    protocol = PROTOCOLS[config.protocol]
    conditions = config.conditions or protocol.conditions
    labels = _known_labels(runners, recordings, tell)
    _check_background(recordings, config.source)
    played = [recording for recording in recordings if recording.kind != "noise"]
    unreadable: list[dict[str, str]] = []
    with progress("reading the recordings", len(played)) as step:
        track = protocol.build(
            played,
            seed=config.seed,
            hours=config.hours,
            on_unreadable=lambda r, why: unreadable.append({"file": str(r.path), "reason": why}),
            progress=step,
        )
    if not track.words:
        reason = unreadable[0]["reason"] if unreadable else "the track has none"
        raise SsastEdgeError(f"no recording of a keyword can be played: {reason}")
    noise = _read_noise(recordings, config.seed, unreadable) if _noisy(conditions) else []
    if unreadable:
        tell(f"{len(unreadable)} recordings cannot be read, the first: {unreadable[0]['reason']}")
    audio = {name: protocol.hear(name, track, noise, config.seed) for name in conditions}
    work = _Work(track, audio, noise, config, progress)
    results = []
    for condition in conditions:
        results += work.bundles(condition, runners)
        results += work.externals(condition, labels)
    work.finish()
    return {
        "schema": SCHEMA,
        "data": _data_part(config, recordings, track, noise, unreadable, protocol.says)
        | {"counts": dict(protocol.told(played, track))},
        "conditions": [{"name": name, "says": describe(name)} for name in conditions],
        "tolerance_s": TOLERANCE_S,
        "detectors": [
            *(_bundle_part(name, runner, track) for name, runner in runners.items()),
            *(
                {"name": name, "kind": "external", "command": command, **_heard(track, labels)}
                for name, command in config.externals.items()
            ),
        ],
        "results": results,
        "sections": {},
        "warnings": warnings,
    }


class _Work:
    """The runs of one track, kept and taken up again."""

    def __init__(
        self,
        track: Track,
        audio: Mapping[str, Audio],
        noise: Sequence[Samples],
        config: EvaluationConfig,
        progress: Progress,
    ) -> None:
        self._track, self._audio, self._config, self._progress = track, audio, config, progress
        self._kept = config.out / "scores"
        self._cache = RunCache(self._kept)
        self._snippets = Snippets(config.out / "snippets", track.key)
        self._noise_key = hashlib.sha256(b"".join(clip.tobytes() for clip in noise)).hexdigest()

    def bundles(self, condition: str, runners: Mapping[str, Runner]) -> list[dict[str, Any]]:
        """Results of all bundles; those that were not kept run together."""
        keys = {name: self._key(condition, runner.key) for name, runner in runners.items()}
        runs: dict[str, Run | None] = {
            name: self._cache.load(keys[name], runner.bundle.labels)
            for name, runner in runners.items()
        }
        missing = [name for name, run in runs.items() if run is None]
        if missing:
            audio = self._audio[condition]
            hours = len(audio) / SAMPLE_RATE / 3600
            title = f"{condition}: {', '.join(missing)} over {hours:.2f} h"
            with self._progress(title, len(audio)) as step:
                found = run_together([runners[name] for name in missing], audio, step)
            for name, run in zip(missing, found, strict=True):
                self._cache.save(keys[name], run)
                runs[name] = run
        return [
            bundle_result(
                name, condition, runners[name].bundle, run, self._track, self._cut(condition)
            )
            for name, run in runs.items()
            if run is not None
        ]

    def externals(self, condition: str, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Results of all other programs."""
        found = []
        for name, command in self._config.externals.items():
            path = self._kept / f"{self._key(condition, f'{command} {sorted(labels)}')}.json"
            run = _load_external(name, path)
            if run is None:
                with self._progress(f"{condition}: {name}", 1.0) as step:
                    done = 0.0

                    def tell(share: float, step: Callable[[float], object] = step) -> None:
                        nonlocal done
                        step(share - done)
                        done = share

                    run = run_detector(
                        name, command, self._audio[condition], labels=labels, progress=tell
                    )
                _save_external(run, path)
            cut = self._cut(condition)
            found.append(external_result(name, condition, run, self._track, labels, cut))
        return found

    def finish(self) -> None:
        """Leave no snippet that no report names."""
        self._snippets.finish()

    def _cut(self, condition: str) -> Callable[[float, float], str]:
        return lambda start_s, end_s: self._snippets.cut(
            condition, start_s, end_s, lambda: self._audio[condition]
        )

    def _key(self, condition: str, detector: str) -> str:
        noise = self._noise_key if needs_noise(condition) else ""
        parts = (self._config.protocol, self._track.key, condition, self._config.seed, noise)
        return hashlib.sha256(repr((detector, *parts)).encode()).hexdigest()[:24]


def _known_labels(
    runners: Mapping[str, Runner], recordings: Sequence[Recording], tell: Callable[[str], object]
) -> list[str]:
    """Labels that some bundle can fire and the data has; all keywords of the data without one."""
    said = list(dict.fromkeys(r.label for r in recordings if r.kind == "keyword"))
    heard = list(dict.fromkeys([*said, *(r.label for r in recordings if r.kind == "sound")]))
    known: dict[str, None] = {}
    for name, runner in runners.items():
        labels = list(runner.bundle.triggers)
        if not labels:
            raise SsastEdgeError(f"bundle {name}: no label of it has a trigger: it never fires")
        found = {label for one in heard if one and (label := known_label(one, labels))}
        lost = [label for label in labels if label not in found]
        if not found:
            raise SsastEdgeError(
                f"bundle {name}: the data has no recording of {_some(labels)}; its keywords are "
                f"{_some(said)}"
            )
        if lost:
            tell(f"{name}: no recording of {_some(lost)}: only false accepts of it are counted")
        other = [one for one in said if known_label(one, labels) is None]
        if other:
            tell(f"{name}: does not know {_some(other)}: played as speech that must not fire")
        known |= dict.fromkeys(label for label in labels if label in found)
    return list(known) or said


def _check_background(recordings: Sequence[Recording], source: str) -> None:
    kinds = Counter(recording.kind for recording in recordings)
    if not kinds["keyword"] and not any(r.kind == "sound" and r.label for r in recordings):
        raise SsastEdgeError(f"{source}: has no recording of a keyword")
    if not kinds["speech"] and not kinds["sound"]:
        raise SsastEdgeError(
            f"{source}: has no speech or sound without a keyword: false accepts per hour need "
            "hours of it"
        )


def _noisy(conditions: Sequence[str]) -> bool:
    return any(needs_noise(name) for name in conditions)


def _read_noise(
    recordings: Sequence[Recording], seed: int, unreadable: list[dict[str, str]]
) -> list[Samples]:
    """Steady noise, the first minute of each recording, in random order, until there is enough."""
    clips = [recording for recording in recordings if recording.kind == "noise"]
    found: list[Samples] = []
    for index in np.random.default_rng([seed, 7]).permutation(len(clips)).tolist():
        try:
            samples = read_audio(clips[index].path)[: int(_NOISE_S * SAMPLE_RATE)]
        except AudioError as error:
            unreadable.append({"file": str(clips[index].path), "reason": str(error)})
            continue
        if len(samples) >= SAMPLE_RATE // 10 and is_steady(samples):
            found.append(samples)
        if sum(map(len, found)) > 60 * _NOISE_MINUTES * SAMPLE_RATE:
            break
    return found


def _data_part(
    config: EvaluationConfig,
    recordings: Sequence[Recording],
    track: Track,
    noise: Sequence[Samples],
    unreadable: Sequence[Mapping[str, str]],
    says: str,
) -> dict[str, Any]:
    kinds = Counter(recording.kind for recording in recordings)
    by_kind: dict[str, float] = defaultdict(float)
    by_pack: dict[str, float] = defaultdict(float)
    for source, samples in zip(track.sources, np.diff(track.bounds).tolist(), strict=True):
        by_kind[source.kind] += samples / SAMPLE_RATE / 3600
        by_pack[source.pack or "(none)"] += samples / SAMPLE_RATE / 3600
    return {
        "source": config.source,
        "split": config.split,
        "seed": config.seed,
        "protocol": config.protocol,
        "protocol_says": says,
        "recordings": {kind: kinds[kind] for kind in KINDS},
        "hours": round(track.hours, 6),
        "words": dict(Counter(w.label for w in track.words if w.kind == "keyword").most_common()),
        "hours_by_kind": {kind: round(by_kind[kind], 4) for kind in sorted(by_kind)},
        "hours_by_pack": {pack: round(by_pack[pack], 4) for pack in sorted(by_pack)},
        "noise_minutes": round(sum(map(len, noise)) / SAMPLE_RATE / 60, 2),
        "unreadable": list(unreadable),
        "key": track.key,
    }


def _bundle_part(name: str, runner: Runner, track: Track) -> dict[str, Any]:
    bundle = runner.bundle
    return {
        "name": name,
        "kind": "bundle",
        "version": bundle.version,
        "backend": runner.backend.name,
        "hop_ms": bundle.hop_ms,
        **_heard(track, list(bundle.triggers)),
        "triggers": {label: asdict(trigger) for label, trigger in bundle.triggers.items()},
        "rule": {
            label: _rule(trigger, bundle.hop_ms) for label, trigger in bundle.triggers.items()
        },
    }


def _heard(track: Track, labels: Sequence[str]) -> dict[str, list[str]]:
    said = dict.fromkeys(word.label for word in track.words)
    found = {known_label(label, labels) for label in said}
    spoken = dict.fromkeys(word.label for word in track.words if word.kind == "keyword")
    return {
        "labels": [label for label in labels if label in found],
        "without_words": [label for label in labels if label not in found],
        "as_speech": [label for label in spoken if known_label(label, labels) is None],
    }


def _rule(trigger: TriggerConfig, hop_ms: int) -> str:
    mean = f"the mean score of the last {trigger.smoothing_ms:g} ms"
    smoothed = mean if trigger.smoothing_ms > hop_ms else "the score of a hop"
    hits = f"{trigger.min_hits} hops in a row" if trigger.min_hits > 1 else "one hop"
    return (
        f"fires when {smoothed} is {trigger.threshold:g} or more at {hits} of {hop_ms} ms; not "
        f"again before it was below {trigger.rearm * trigger.threshold:.3g}, nor within "
        f"{trigger.refractory_s:g} s"
    )


def _load_external(name: str, path: Path) -> DetectorRun | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        events = {
            setting: tuple(Detection(*event) for event in found)
            for setting, found in kept["events"]
        }
        return DetectorRun(
            name, tuple(events), events, kept["cpu_seconds"], kept["hours"], kept["passes"]
        )
    return None


def _save_external(run: DetectorRun, path: Path) -> None:
    kept = {
        "events": [
            [setting, [[d.label, d.time_s, d.score] for d in run.events[setting]]]
            for setting in run.settings
        ],
        "cpu_seconds": run.cpu_seconds,
        "hours": run.hours,
        "passes": run.passes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(kept), encoding="utf-8")
    partial.replace(path)


def _some(names: Sequence[str]) -> str:
    more = len(names) - 12
    return ", ".join(names[:12]) + (f" and {more} more" if more > 0 else "") or "none"
