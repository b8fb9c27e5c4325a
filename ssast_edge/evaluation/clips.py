"""Whole recordings through the streaming runtime, and one table of scores a clip.

A clip is run as a stream that begins with it: the context that is missing is zeros, as on the
device, and what a clip comes to is told from the scores of its hops by one of three stated rules.
`classification.py` and `tagging.py` make figures of the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.backends import Backend
from ssast_edge.bundle import Bundle, resolve_label
from ssast_edge.errors import AudioError, SsastEdgeError
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.spotter import Spotter

__all__ = [
    "RULES",
    "SILENCE_LABEL",
    "UNKNOWN_LABEL",
    "WORD_TAIL_S",
    "ClipScores",
    "LabelledClips",
    "Rule",
    "known_label",
    "labelled_clips",
    "score_clips",
]

Floats = NDArray[np.float32]
Rule = Literal["last", "max", "mean"]

# What each says of a clip, and of the silence that goes on after a word's; "heard enough": half a
# window, or half of a clip shorter than one.
RULES: Mapping[Rule, str] = {
    "last": "the scores of the last hop",
    "max": "each label's highest score over the hops that have heard enough",
    "mean": "each label's mean score over the hops that have heard enough",
}
UNKNOWN_LABEL, SILENCE_LABEL = "_unknown_", "_silence_"

WORD_TAIL_S = 0.16  # many a clip ends with its word, and a model tells a word when it is over
_MOST_WINDOWS = 50_000  # in all: intervals over more take minutes
_WINDOWS_A_CLIP = 20
_LOUD = 0.01  # of the clip's loudest window: 20 dB below
_FAINTEST = 1e-9  # mean power, -90 dBFS: below is digital silence and its dither
_EPSILON_S = 1e-6


@dataclass(frozen=True)
class LabelledClips:
    """Recordings that a bundle can be asked about, with the bundle's own labels for them.

    targets: of each clip, indices among `labels`, one or more. left_out: labels of recordings
    that no label of the bundle stands for, with their numbers.
    """

    labels: tuple[str, ...]
    recordings: tuple[Recording, ...]
    targets: tuple[tuple[int, ...], ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class ClipScores:
    """tables: by rule (N, labels); windows: (W, labels) of hops full of loud enough audio.

    kept: (N,) indices of the clips that could be scored; window_clips: (W,) rows of the tables.
    unreadable: the others, with the reason. is_short: no clip is longer than a window and a hop.
    """

    kept: NDArray[np.intp]
    tables: Mapping[Rule, Floats]
    windows: Floats
    window_clips: NDArray[np.intp]
    unreadable: tuple[tuple[str, str], ...]
    audio_s: float
    is_short: bool


def labelled_clips(
    bundle: Bundle, recordings: Iterable[Recording], *, sounds: bool, labels: Sequence[str] = ()
) -> LabelledClips:
    """The recordings to tag (sounds) or else to classify, and the labels that compete for them.

    labels: of the bundle that compete, all where none is given. Several labels of a sound are
    separated by ";". To classify are keywords, and speech that has a label; a word that the bundle
    lacks counts as `_unknown_` where the bundle has that. Of noise, which lies under tracks, only
    what is labelled `_silence_` counts. Raises SsastEdgeError for a label that the bundle lacks.
    """
    if labels:
        wanted = {resolve_label(label, bundle.labels) for label in labels}
        choices = tuple(label for label in bundle.labels if label in wanted)
    else:
        choices = bundle.labels
    index = {label: i for i, label in enumerate(choices)}
    chosen: list[Recording] = []
    targets: list[tuple[int, ...]] = []
    left_out: Counter[str] = Counter()
    known = lru_cache(lambda name: known_label(name, choices))
    for recording in recordings:
        if not recording.label or (recording.kind == "sound") != sounds:
            continue
        if recording.kind == "noise" and recording.label != SILENCE_LABEL:
            continue
        names = [recording.label]
        if sounds:
            names = [part.strip() for part in recording.label.split(";") if part.strip()]
        found = {index[label] for name in names if (label := known(name))}
        is_word = recording.kind in ("keyword", "speech")
        if not found and is_word and UNKNOWN_LABEL in index:
            found = {index[UNKNOWN_LABEL]}
        if found:
            chosen.append(recording)
            targets.append(tuple(sorted(found)))
        else:
            left_out[recording.label] += 1
    return LabelledClips(choices, tuple(chosen), tuple(targets), dict(left_out.most_common()))


def known_label(name: str, labels: Iterable[str]) -> str | None:
    """The label that `name` means, in any of its spellings; None where there is none."""
    try:
        return resolve_label(name, labels)
    except SsastEdgeError:
        return None


def score_clips(
    bundle: Bundle,
    clips: LabelledClips,
    *,
    backend: Backend | None = None,
    with_windows: bool = False,
    tail_s: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> ClipScores:
    """Run every clip through the streaming runtime, each as a stream of its own.

    backend: an open model of the bundle, else its first that can be run. tail_s: of silence after
    the clip, as a stream goes on: `WORD_TAIL_S` for words. progress: called with 1 after each clip.
    Clips that cannot be read, are shorter than a hop or get scores that are no
    numbers are left out and listed.
    """
    hops: list[tuple[float, Floats]] = []
    spotter = Spotter(
        bundle, backend=backend, keywords=(), on_scores=lambda t, s: hops.append((t, s.copy()))
    )
    columns = [bundle.labels.index(label) for label in clips.labels]
    rows: list[Floats] = []
    windows: list[Floats] = []
    owners: list[NDArray[np.intp]] = []
    kept: list[int] = []
    unreadable: list[tuple[str, str]] = []
    most = max(1, min(_WINDOWS_A_CLIP, _MOST_WINDOWS // max(1, len(clips.recordings))))
    audio_s = longest_s = 0.0
    tail = np.zeros(round(tail_s * bundle.fbank.sample_rate), np.float32)
    for number, recording in enumerate(clips.recordings):
        hops.clear()
        spotter.reset()
        reason = ""
        try:
            samples = read_audio(recording.path, bundle.fbank.sample_rate)
            spotter.push(samples)
            clip_s = spotter.time_s
            if hops:
                spotter.push(tail)
            if not hops:
                reason = f"{recording.path}: {clip_s:.3f} s long, shorter than one hop"
            elif not all(np.isfinite(scores).all() for _, scores in hops):
                reason = f"{recording.path}: the model gives scores that are no numbers"
        except AudioError as error:
            reason = str(error)
        if reason:
            unreadable.append((str(recording.path), reason))
        else:
            times_s = np.array([time_s for time_s, _ in hops])
            scores = np.array([values for _, values in hops], np.float32)[:, columns]
            rows.append(_rows(bundle, times_s, scores, clip_s))
            if with_windows:
                chosen = _loud_windows(bundle, times_s, samples, most)
                windows.append(scores[chosen])
                owners.append(np.full(len(chosen), len(kept), np.intp))
            kept.append(number)
            audio_s += clip_s
            longest_s = max(longest_s, clip_s)
        if progress is not None:
            progress(1)
    size = len(clips.labels)
    table = np.array(rows, np.float32).reshape(-1, len(RULES), size)
    return ClipScores(
        kept=np.array(kept, np.intp),
        tables={rule: table[:, i] for i, rule in enumerate(RULES)},
        windows=np.concatenate([*windows, np.zeros((0, size), np.float32)]),
        window_clips=np.concatenate([*owners, np.zeros(0, np.intp)]),
        unreadable=tuple(unreadable),
        audio_s=audio_s,
        is_short=longest_s <= _window_s(bundle) + bundle.hop_ms / 1000,
    )


def _window_s(bundle: Bundle) -> float:
    frames = (bundle.window_frames - 1) * bundle.fbank.hop_samples + bundle.fbank.window_samples
    return frames / bundle.fbank.sample_rate


def _rows(bundle: Bundle, times_s: NDArray[np.float64], scores: Floats, clip_s: float) -> Floats:
    """(rules, labels)."""
    enough = times_s >= min(_window_s(bundle), clip_s) / 2 - _EPSILON_S
    enough[-1] = True
    heard = scores[enough]
    by_rule = {"last": scores[-1], "max": heard.max(axis=0), "mean": heard.mean(axis=0)}
    return np.array([by_rule[rule] for rule in RULES], np.float32)


def _loud_windows(
    bundle: Bundle, times_s: NDArray[np.float64], samples: Floats, most: int
) -> NDArray[np.intp]:
    """Hops whose window lies within the clip (else the last), loud enough; at most so many."""
    window_s = _window_s(bundle)
    clip_s = len(samples) / bundle.fbank.sample_rate
    inside = np.flatnonzero((times_s >= window_s - _EPSILON_S) & (times_s <= clip_s + _EPSILON_S))
    if not len(inside):
        inside = np.array([len(times_s) - 1])
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    ends = np.round(times_s[inside] * bundle.fbank.sample_rate).astype(int)
    starts = np.maximum(ends - round(window_s * bundle.fbank.sample_rate), 0)
    power = (energy[ends] - energy[starts]) / (ends - starts)
    loud = inside[(power >= _LOUD * power.max()) & (power > _FAINTEST)]
    spread = np.linspace(0, len(loud) - 1, min(most, len(loud)))
    chosen: NDArray[np.intp] = loud[np.round(spread).astype(np.intp)]
    return chosen
