"""Keyword variants on a long streaming track: misses, false accepts, and misses at equal ones.

Each runs through the device's own streaming runtime, once a condition; everything else is replayed
from its scores, which `cache` keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.comparison.clips import decisions, logit_differences
from optimize.comparison.variants import Variant
from ssast_edge.bundle import Bundle
from ssast_edge.evaluation.bootstrap import Estimate, Interval, paired_bootstrap
from ssast_edge.evaluation.det import DetPoint, det_curve, miss_rate_at, shifted
from ssast_edge.evaluation.intervals import miss_interval
from ssast_edge.evaluation.matching import TOLERANCE_S, Score, match
from ssast_edge.evaluation.scores import HopScores, replay, run_bundle
from ssast_edge.evaluation.track import Track
from ssast_edge.fbank import fbank
from ssast_edge.trigger import TriggerConfig
from train.packs import Split
from train.triggers import make_conditions

__all__ = ["HeldOutTrack", "clips_right", "compare_on_track", "open_track"]

Samples = NDArray[np.float32]
_WINDOWS = 512  # whose logits are compared
_SAMPLE_RATE = 16000


@dataclass(frozen=True, eq=False)
class HeldOutTrack:
    """A track and its samples in each condition."""

    track: Track
    conditions: Mapping[str, Samples]


def open_track(
    data: Path, split: Split, labels: tuple[str, ...], conditions: Sequence[str], *, seed: int
) -> HeldOutTrack:
    """The streaming track of a split, in the named conditions ("clean", "10 dB")."""
    track, made = make_conditions(data, split, labels, seed=seed)
    unknown = [name for name in conditions if name not in made]
    if unknown or not conditions:
        raise ValueError(f"conditions {list(conditions)}: wanted some of {', '.join(made)}")
    if not track.words:
        raise ValueError(f"{data}: no recording of {', '.join(labels)} in split {split!r}")
    return HeldOutTrack(track, {name: made[name] for name in conditions})


def compare_on_track(
    variants: Sequence[Variant],
    held_out: HeldOutTrack,
    *,
    cache: Path | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """By variant and condition: detections at its own triggers, and misses at equal false accepts.

    Equal: at most as many an hour as the first variant gives at its own triggers. What does not
    run natively here is slow: of it only windows are run, half with a word at their end.
    """
    track, first = held_out.track, variants[0].bundle
    windows, said = _windows(first, held_out, seed)
    logits = [np.stack([v.backend.infer(window) for window in windows]) for v in variants]
    result: dict[str, dict[str, Any]] = {}
    reference: dict[str, _Run] = {}
    for variant, values in zip(variants, logits, strict=True):
        found: dict[str, Any] = {}
        for condition, samples in held_out.conditions.items() if variant.is_native else ():
            hops = _hops(variant, samples, condition, cache)
            run = _Run.of(hops, track, variant.bundle.triggers)
            reference.setdefault(condition, run)
            found[condition] = run.compared_with(reference[condition], seed)
        right = decisions(values, first.activation) == said
        result[variant.name] = {
            "track_hours": round(track.hours, 3),
            "words": len(track.words),
            "track": found,
            "window_accuracy": _share(right).to_json(),
            "logits": logit_differences(logits[0], values, first.activation),
        }
    return result


def clips_right(track: Track, score: Score) -> NDArray[np.float64]:
    """(clips of the track,) 1 where its word, or nothing, was detected from its start to the next.

    A detection that belongs to a word counts for that word's clip, however late it came.
    """
    starts = np.array([source.start_s for source in track.sources])
    right = np.ones(len(starts))
    wrong = [word.start_s for word in score.missed] + list(score.false_times_s)
    for time_s in wrong:
        right[max(0, int(np.searchsorted(starts, time_s, side="right")) - 1)] = 0
    return right


@dataclass(frozen=True, eq=False)
class _Run:
    """What one variant detects in one condition."""

    hops: HopScores
    track: Track
    triggers: Mapping[str, TriggerConfig]
    shipped: Score
    curve: Sequence[DetPoint]

    @classmethod
    def of(cls, hops: HopScores, track: Track, triggers: Mapping[str, TriggerConfig]) -> _Run:
        shipped = match(track.words, replay(hops, triggers), hours=track.hours)
        return cls(hops, track, triggers, shipped, det_curve([(hops, track)], triggers))

    def compared_with(self, first: _Run, seed: int) -> dict[str, Any]:
        level = first.shipped.false_accepts_per_hour
        right, its = clips_right(self.track, self.shipped), clips_right(first.track, first.shipped)
        missed, others = self._missed_at(level), first._missed_at(level)
        return {
            **self.shipped.summary(),
            "clips": len(right),
            "accuracy": _share(right).to_json(),
            "lost": paired_bootstrap(its, right, seed=seed).to_json(),
            "equal_false_accepts_per_hour": round(level, 3),
            "miss_rate_at_equal": None if missed is None else round(float(missed.mean()), 4),
            "lost_at_equal": None
            if missed is None or others is None
            else paired_bootstrap(missed, others, seed=seed).to_json(),
            "curve": [[p.shift, p.false_accepts_per_hour, p.miss_rate] for p in self.curve],
        }

    def _missed_at(self, level: float) -> NDArray[np.float64] | None:
        """(words,) 1 where missed, at the shift that misses least within the level; None: none."""
        least = miss_rate_at(self.curve, level)
        for point in self.curve:
            if point.miss_rate == least and point.false_accepts_per_hour <= level + 1e-9:
                moved = shifted(self.triggers, point.shift)
                score = match(self.track.words, replay(self.hops, moved), hours=self.track.hours)
                return np.array([float(word in score.missed) for word in self.track.words])
        return None


def _hops(variant: Variant, samples: Samples, condition: str, cache: Path | None) -> HopScores:
    """The variant's scores on a track; kept in `cache` by what they depend on."""
    bundle = variant.bundle
    digest = hashlib.sha256(variant.path.read_bytes())
    digest.update(np.ascontiguousarray(samples).tobytes())
    digest.update(f"{bundle.fbank} {bundle.hop_ms} {bundle.activation} {bundle.labels}".encode())
    digest.update(variant.backend.name.encode())
    path = cache / f"scores-{digest.hexdigest()[:16]}.npz" if cache is not None else None
    if path is not None and path.is_file():
        with np.load(path) as kept:
            return HopScores(bundle.labels, kept["times_s"], kept["scores"])
    title = f"{variant.name}, {condition}"
    with tqdm(total=len(samples), desc=title, unit="sample", unit_scale=True) as progress:
        hops = run_bundle(bundle, samples, progress.update, backend=variant.backend)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.tmp.npz")
        np.savez(partial, times_s=hops.times_s, scores=hops.scores)
        partial.replace(path)
    return hops


def _share(right: NDArray[Any]) -> Estimate:
    """Share of those that are right, with its exact interval."""
    wrong = int(len(right) - np.count_nonzero(right))
    low, high = miss_interval(wrong, len(right))
    return Estimate(1 - wrong / len(right), Interval(1 - high, 1 - low))


def _windows(
    bundle: Bundle, held_out: HeldOutTrack, seed: int
) -> tuple[list[Samples], NDArray[np.intp]]:
    """(T, F) raw log-mel windows, and the number of the label at the end of each, -1 for none.

    Half of them end with a word, as many where none is said.
    """
    words = held_out.track.words
    samples = next(iter(held_out.conditions.values()))
    rng = np.random.default_rng(seed)
    length = (bundle.window_frames - 1) * 160 + 400
    chosen = [words[i] for i in rng.permutation(len(words))[: _WINDOWS // 2]]
    ends = [round(word.end_s * _SAMPLE_RATE) for word in chosen]
    said = [bundle.labels.index(word.label) for word in chosen]
    for _ in range(20 * len(chosen)):  # tries: a track might be nothing but words
        if len(ends) == 2 * len(chosen):
            break
        end = int(rng.integers(min(length, len(samples) - 1), len(samples)))
        if not any(w.start_s < end / _SAMPLE_RATE < w.end_s + TOLERANCE_S for w in words):
            ends.append(end)
            said.append(-1)
    windows = []
    for end in ends:
        features = fbank(samples[max(0, end - length) : end], bundle.fbank)
        window = np.zeros((bundle.window_frames, bundle.fbank.num_mel_bins), dtype=np.float32)
        features = features[-bundle.window_frames :]
        window[len(window) - len(features) :] = features
        windows.append(window)
    return windows, np.array(said, dtype=np.intp)
