"""Chooses a bundle's triggers on a validation track, clean and at 10 dB, never on test clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.bundle import load_bundle
from ssast_edge.trigger import TriggerConfig
from train.detection_metrics import match
from train.packs import Split, read_packs
from train.streaming import HopScores, choose_trigger, replay, run_bundle
from train.track import Track, build_track, mix_noise

__all__ = ["CONDITIONS", "TRACK_PACKS", "choose_triggers", "make_conditions"]

TRACK_PACKS = ("wake_words", "speech_commands", "esc10", "librispeech", "speechocean", "wuw")
CONDITIONS: dict[str, float | None] = {"clean": None, "10 dB": 10.0}  # SNR


def make_conditions(
    data: Path, split: Split, labels: tuple[str, ...], *, seed: int
) -> tuple[Track, dict[str, NDArray[np.float32]]]:
    """The track of a split and its samples in every condition.

    Noise is the split's own: a Speech Commands background and the steady sounds of its ESC-10
    fold. Speech Commands' clips of silence are cut from the background noises, those of training
    too: they are left out.
    """
    clips = [c for c in read_packs(data, TRACK_PACKS) if c.split == split]
    clips = [c for c in clips if c.kind != "silence"]
    clips = [c for c in clips if c.kind != "keyword" or c.word in labels]
    track = build_track(clips, seed=seed)
    sounds = read_packs(data, ("background_noise", "esc10"))
    noise = [read_audio(c.path) for c in sounds if c.split == split]
    return track, {
        name: track.samples if snr is None else mix_noise(track, noise, snr_db=snr, seed=seed)
        for name, snr in CONDITIONS.items()
    }


def choose_triggers(
    folder: Path, data: Path, *, seed: int
) -> tuple[Mapping[str, TriggerConfig], dict[str, Any]]:
    """A trigger per label and what they give on the validation track."""
    bundle = load_bundle(folder)
    track, conditions = make_conditions(data, "val", bundle.labels, seed=seed)
    unsaid = set(bundle.labels) - {word.label for word in track.words}
    if unsaid:
        raise ValueError(
            f"no validation recording of {', '.join(sorted(unsaid))}: no trigger can be chosen"
        )
    runs: list[tuple[HopScores, Track]] = []
    for name, samples in conditions.items():
        title = f"validation track, {name}"
        with tqdm(total=len(samples), desc=title, unit="sample", unit_scale=True) as progress:
            runs.append((run_bundle(bundle, samples, progress.update), track))
    triggers = {
        label: choose_trigger(runs, label)[0] for label in tqdm(bundle.labels, desc="triggers")
    }
    report: dict[str, Any] = {"track_hours": round(track.hours, 3), "seed": seed}
    for name, (hops, _) in zip(conditions, runs, strict=True):
        score = match(track.words, replay(hops, triggers), hours=track.hours)
        report[name] = score.summary()
    report["triggers"] = {k: dataclasses.asdict(v) for k, v in triggers.items()}
    return triggers, report
