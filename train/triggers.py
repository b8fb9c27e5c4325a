"""Chooses a bundle's triggers on a validation track, clean and at 10 dB, never on test clips.

The packs have one hour of speech to validate on, and a rate of one false accept in five hours does
not show in one. So the track is also heard slower and faster, by which every voice becomes others:
no new hours, but three times as many chances to fire falsely.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.calibration.expected import detection_curves
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.noise import mix_noise
from ssast_edge.evaluation.recordings import Kind, Recording
from ssast_edge.evaluation.scores import THRESHOLDS, HopScores, replay, run_bundle, sweep
from ssast_edge.evaluation.track import SAMPLE_RATE, Track, build_track
from ssast_edge.trigger import TriggerConfig
from train.packs import Clip, Split, read_packs, says
from train.training_set import read_wanted_synthetic
from train.windows import SILENCE, UNKNOWN

__all__ = [
    "CONDITIONS",
    "EVALUATION_PACKS",
    "FALSE_ACCEPT_PRICE",
    "SPEEDS",
    "TRACK_PACKS",
    "as_recording",
    "at_speed",
    "choose_trigger",
    "choose_triggers",
    "expected_false_accepts",
    "hear_draws",
    "make_conditions",
    "other_words",
    "track_clips",
    "track_noise",
]

TRACK_PACKS = ("wake_words", "speech_commands", "esc10", "librispeech", "speechocean", "wuw")
# Non-commercial recordings may measure what ships; they choose nothing about it.
EVALUATION_PACKS = (*TRACK_PACKS, "esc50_nc")
CONDITIONS: dict[str, float | None] = {"clean": None, "10 dB": 10.0}  # SNR

SPEEDS = (1.0, 0.88, 1.12)  # the first is what reports tell of; within what training has heard

# One false accept per hour counts as much as missing this share of all keywords.
FALSE_ACCEPT_PRICE = 0.05
MOST_IN_TAIL, FEWEST_IN_TAIL, FEWEST_COUNTED = 60, 10, 3  # false accepts
SMOOTHINGS_MS = (0.0, 160.0, 240.0, 320.0)  # the longer, the later a word is told
RESERVED = (UNKNOWN, SILENCE)
# Of classes of sounds; by benchmarks.sound_triggers, on sounds of ESC-10 held out by fold.
SOUND_TRIGGER = TriggerConfig(threshold=0.82, smoothing_ms=1440.0, refractory_s=4.0)
_SEEDS_PER_DRAW = 100  # one for each speed and condition
_KINDS: dict[str, Kind] = {"keyword": "keyword", "sound": "sound"}  # of clips; others are speech


def make_conditions(
    data: Path, split: Split, labels: tuple[str, ...], *, seed: int
) -> tuple[Track, dict[str, NDArray[np.float32]]]:
    """The track of a split and its samples in every condition.

    Noise is the split's own: a Speech Commands background and the steady sounds of its ESC-10
    fold. Speech Commands' clips of silence are cut from the background noises, those of training
    too: they are left out.
    """
    clips = track_clips(data, split, labels)
    track = build_track([as_recording(c, labels) for c in clips], seed=seed)
    noise = track_noise(data, split)
    return track, {
        name: track.samples[:] if snr is None else mix_noise(track, noise, snr_db=snr, seed=seed)[:]
        for name, snr in CONDITIONS.items()
    }


def at_speed(track: Track, speed: float) -> Track:
    """The track played so many times as fast, pitch and all."""
    if speed == 1.0:
        return track
    samples = soxr.resample(track.samples[:], SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ")
    words = (
        replace(word, start_s=word.start_s / speed, end_s=word.end_s / speed)
        for word in track.words
    )
    sources = (replace(source, start_s=source.start_s / speed) for source in track.sources)
    return Track(
        samples.astype(np.float32), tuple(words), tuple(sources), f"{track.key} at {speed:g}"
    )


def track_clips(data: Path, split: Split, labels: tuple[str, ...]) -> list[Clip]:
    """The clips of a split's track: each once, nothing that may say a label and does not tell."""
    clips = [c for c in read_packs(data, TRACK_PACKS) if c.split == split and c.kind != "silence"]
    clips = [c for c in clips if c.kind != "keyword" or c.word in labels]
    spoken = {c.word for c in clips if c.kind == "word"} & set(labels)
    # The words of Speech Commands are common: speech without a transcript may say them.
    return [
        c for c in clips
        if not spoken or c.kind != "speech"
        or (c.word and not says(c.word, spoken))
    ]  # fmt: skip


def other_words(synthetic: Sequence[Path], labels: Sequence[str]) -> list[Clip]:
    """What synthetic validation voices say that is none of the labels.

    No recording of the packs says what is nearly a wake word, and few say single common words.
    """
    return [
        c for c in (read_wanted_synthetic(synthetic) if synthetic else ())
        if c.split == "val" and c.kind in ("near-miss", "speech") and not says(c.word, labels)
    ]  # fmt: skip


def track_noise(data: Path, split: Split) -> list[NDArray[np.float32]]:
    """What may lie under a split's track: its own background noise and sounds."""
    sounds = read_packs(data, ("background_noise", "esc10"))
    return [read_audio(c.path) for c in sounds if c.split == split]


def _has_sounds(data: Path) -> bool:
    return (data / "esc_meta.csv").is_file()


def choose_triggers(
    folder: Path,
    data: Path,
    *,
    seed: int,
    price: float = FALSE_ACCEPT_PRICE,
    synthetic: Sequence[Path] = (),
    longest_smoothing_ms: float = SMOOTHINGS_MS[-1],
    draws: int = 1,
    kept: Mapping[str, TriggerConfig] | None = None,
) -> tuple[Mapping[str, TriggerConfig], dict[str, Any]]:
    """A trigger per label and what they give on the validation track.

    synthetic: folders of `train.synthesize`; what their validation voices say that is no label is
    heard too. longest_smoothing_ms: that a trigger may have. draws: orders of the track, each with
    its noise; what one draw of the noise covers is chance. kept: triggers of labels that score as
    in another model, which stay.
    Other classes of sounds all get `SOUND_TRIGGER`; `_unknown_` and `_silence_` never fire.
    """
    bundle = load_bundle(folder)
    sounds = {c.word for c in read_packs(data, ("esc10",))} if _has_sounds(data) else set()
    stay = {label: trigger for label, trigger in (kept or {}).items() if label in bundle.labels}
    triggers = {label: stay.get(label, SOUND_TRIGGER) for label in bundle.labels if label in sounds}
    spoken = [label for label in bundle.labels if label not in sounds and label not in RESERVED]
    if not spoken:
        return triggers, {"triggers": {k: asdict(v) for k, v in triggers.items()}}
    others = other_words(synthetic, spoken)
    runs = hear_draws(bundle, data, spoken, others, seed=seed, draws=draws)
    chosen = {
        label: stay.get(label)
        or choose_trigger(
            list(runs.values()),
            label,
            of=len(spoken),
            price=price,
            longest_smoothing_ms=longest_smoothing_ms,
            draws=draws,
        )[0]
        for label in tqdm(spoken, desc="triggers")
    }
    hours = sum(heard.hours for _, heard in runs.values())
    report: dict[str, Any] = {
        "track_hours": round(runs["clean"][1].hours, 3), "heard_hours": round(hours, 3),
        "seed": seed, "draws": draws,
        "synthetic_other_words": len(others), "kept": list(stay),
    }  # fmt: skip
    for name, (hops, heard) in runs.items():
        score = match(heard.words, replay(hops, chosen), hours=heard.hours)
        report[name] = score.summary()
    plain = {name: runs[name] for name in CONDITIONS}  # of the first draw
    report["detection_curves"] = detection_curves(bundle, plain, chosen)
    triggers |= chosen
    report["triggers"] = {k: asdict(v) for k, v in triggers.items()}
    return triggers, report


def hear_draws(
    bundle: Bundle,
    data: Path,
    spoken: Sequence[str],
    others: Sequence[Clip] = (),
    *,
    seed: int,
    draws: int = 1,
) -> dict[str, tuple[HopScores, Track]]:
    """Scores of validation tracks that say the labels `spoken`, by speed, condition and draw.

    others: synthetic speech that is heard too. Each draw has an order and noise of its own. Raises
    ValueError where a label is never said.
    """
    clips = [*track_clips(data, "val", bundle.labels), *others]
    recordings = [as_recording(c, bundle.labels) for c in clips]
    unsaid = set(spoken) - {one.label for one in recordings if one.kind == "keyword"}
    if unsaid:
        raise ValueError(
            f"no validation recording of {', '.join(sorted(unsaid))}: no trigger can be chosen"
        )
    noise = track_noise(data, "val")
    runs: dict[str, tuple[HopScores, Track]] = {}
    for draw in range(draws):
        track = build_track(recordings, seed=seed + draw)
        runs |= _heard(bundle, track, noise, seed=seed + _SEEDS_PER_DRAW * draw, draw=draw)
    return runs


def _heard(
    bundle: Bundle, track: Track, noise: list[NDArray[np.float32]], *, seed: int, draw: int
) -> dict[str, tuple[HopScores, Track]]:
    """Scores of a track at every speed, in every condition, by what a report calls them."""
    runs: dict[str, tuple[HopScores, Track]] = {}
    for speed in SPEEDS:
        heard = at_speed(track, speed)
        # What is kept of it is its words and its length, not an hour of samples.
        told = replace(heard, samples=np.broadcast_to(np.float32(0), len(heard.samples)))
        for name, snr in CONDITIONS.items():
            audio = heard.samples
            if snr is not None:
                audio = mix_noise(heard, noise, snr_db=snr, seed=seed + len(runs))
            title = name if speed == 1.0 else f"{name} at speed {speed:g}"
            title += f", draw {draw + 1}" if draw else ""
            with tqdm(total=len(audio), desc=title, unit="sample", unit_scale=True) as progress:
                runs[title] = run_bundle(bundle, audio, progress.update), told
    return runs


def choose_trigger(
    tracks: list[tuple[HopScores, Track]],
    label: str,
    *,
    of: int = 0,
    price: float = FALSE_ACCEPT_PRICE,
    longest_smoothing_ms: float = SMOOTHINGS_MS[-1],
    draws: int = 1,
) -> tuple[TriggerConfig, float]:
    """Smoothing, hits and threshold with the least cost on the average of validation tracks.

    of: how many labels share the misses, all of the model's where not given. Cost: the label's part
    of the overall miss rate plus `price` for every expected false accept per hour; of the
    thresholds that tie, the middle one. draws: how often the tracks hold the same recordings, which
    make no more different sounds; false accepts are those of a mean draw. Returns the trigger and
    its mean cost.
    """
    best: tuple[float, TriggerConfig] = (math.inf, TriggerConfig())
    smoothings = [ms for ms in SMOOTHINGS_MS if ms <= longest_smoothing_ms]
    for smoothing_ms, min_hits in itertools.product(smoothings, (1, 2)):
        base = TriggerConfig(smoothing_ms=smoothing_ms, min_hits=min_hits)
        misses, counts = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
        for hops, track in tracks:
            for i, (_, score) in enumerate(sweep(hops, track, label, base)):
                misses[i] += score.miss_rate / (of or len(hops.labels))
                counts[i] += score.false_accepts
        hours = sum(track.hours for _, track in tracks) / draws
        expected = expected_false_accepts(counts / draws)
        costs = misses / len(tracks) + price * expected / hours
        tied = np.flatnonzero(costs <= costs.min() + 1e-9)
        if costs.min() < best[0] - 1e-9:
            threshold = round(float(THRESHOLDS[tied[len(tied) // 2]]), 4)
            best = float(costs.min()), replace(base, threshold=threshold)
    return best[1], best[0]


def expected_false_accepts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of counts at `THRESHOLDS`, what they let expect where hardly any is left.

    Above the highest peak of some hours the count is 0, and that of other hours is not. Peaks thin
    out exponentially in the logit, by the mean excess of the MOST_IN_TAIL highest; where fewer than
    FEWEST_COUNTED are left, so many are expected, or those that were counted. As counted where
    fewer than FEWEST_IN_TAIL peaks tell of it.
    """
    logits = np.log(THRESHOLDS / (1 - np.asarray(THRESHOLDS)))
    # At low thresholds peaks run into one another: the tail begins above the last of many.
    many = np.flatnonzero(counts > MOST_IN_TAIL)
    start = int(many[-1]) + 1 if len(many) else int(np.argmax(counts))
    if start == len(counts) or counts[start] < FEWEST_IN_TAIL:
        return counts
    excess = float(counts[start:-1] @ np.diff(logits[start:])) / counts[start]
    going_on = counts[start] * np.exp(-(logits - logits[start]) / max(excess, 1e-9))
    hardly_any = np.arange(len(counts)) > start
    hardly_any &= counts < FEWEST_COUNTED
    return np.where(hardly_any, np.maximum(counts, going_on), counts)


def as_recording(clip: Clip, labels: tuple[str, ...] = ()) -> Recording:
    """What an evaluation wants to know of a clip: words that are no keywords are speech.

    labels: of the bundle; a word of Speech Commands among them is a keyword.
    """
    kind = _KINDS.get(clip.kind, "speech")
    if clip.kind == "word" and clip.word in labels:
        kind = "keyword"
    return Recording(
        clip.path, kind, label=clip.word, pack=clip.pack, speaker=clip.speaker, split=clip.split
    )
