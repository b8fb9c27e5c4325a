"""Which trigger classes of sounds want: missed and confused in a stream, and fired at by speech.

    python -m benchmarks.sound_triggers --folds runs/sounds-folds --out runs/sound_triggers.json

Takes the bundles that `benchmarks.sounds_folds` left. Each hears, as one stream, the fold of ESC-10
that it did not train on among the validation speech of the packs. All classes get one trigger: it
is chosen by what all folds miss together, and no class has enough clips for one of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from benchmarks.output import write_json
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.evaluation.intervals import rate_interval
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import THRESHOLDS, HopScores, replay, run_bundle
from ssast_edge.evaluation.track import SAMPLE_RATE, Track, build_track
from ssast_edge.trigger import TriggerConfig
from train.errors import one_line_errors
from train.packs import read_packs
from train.triggers import SOUND_TRIGGER, as_recording

SPEECH_PACKS = ("librispeech", "speechocean", "speech_commands", "wake_words")
SMOOTHINGS_MS = (480.0, 960.0, 1440.0)
# One event in an hour of speech counts as much as missing this share of all sounds: a tagger is
# looked at, and starts nothing.
SPEECH_PRICE = 0.01
COARSE = THRESHOLDS[4::4]  # half a logit apart
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@dataclass(frozen=True)
class Heard:
    """What a bundle gave on a track, and for how long somebody spoke in it."""

    hops: HopScores
    track: Track
    speech_hours: float


@dataclass(frozen=True)
class Counts:
    """Of all tracks together. fired_at: by label, in speech."""

    sounds: int
    missed: int
    confused: int  # events beside speech that are not of what sounds, or too late
    fired_at: Mapping[str, int]
    speech_hours: float

    @property
    def cost(self) -> float:
        """Share of the sounds missed, plus events at none, and a price on speech that fires."""
        per_hour = sum(self.fired_at.values()) / self.speech_hours
        return (self.missed + self.confused) / self.sounds + SPEECH_PRICE * per_hour

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        fired = sum(self.fired_at.values())
        return {
            "sounds": self.sounds,
            "missed": self.missed,
            "taken_for_another": self.confused,
            "fired_in_speech": fired,
            "per_hour_of_speech": round(fired / self.speech_hours, 2),
            "per_hour_95": [round(x, 2) for x in rate_interval(fired, self.speech_hours)],
            "fired_at": dict(sorted(self.fired_at.items(), key=lambda item: -item[1])),
            "cost": round(self.cost, 4),
        }


def fold_track(data: Path, fold: int, *, seed: int) -> Track:
    """The sounds of a fold of ESC-10 among what people say in validation recordings."""
    sounds = [c for c in read_packs(data, ("esc10",), esc10_test_fold=fold) if c.split == "test"]
    spoken = [c for c in read_packs(data, SPEECH_PACKS) if c.split == "val" and c.kind != "silence"]
    recordings = [
        *(as_recording(clip) for clip in sounds),
        *(replace(as_recording(clip), kind="speech") for clip in spoken),
    ]
    return build_track(recordings, seed=seed, sounds=True)


def listen(bundle: Bundle, track: Track, title: str) -> Heard:
    """The bundle's scores on a track."""
    with tqdm(total=len(track.samples), desc=title, unit="sample", unit_scale=True) as progress:
        hops = run_bundle(bundle, track.samples, progress.update)
    spans = zip(track.sources, np.diff(track.bounds).tolist(), strict=True)
    seconds = sum(size for source, size in spans if source.kind == "speech") / SAMPLE_RATE
    return Heard(hops, replace(track, samples=track.samples[:0]), seconds / 3600)


def count(heard: Sequence[Heard], labels: Sequence[str], trigger: TriggerConfig) -> Counts:
    """What happens where all labels have one trigger."""
    sounds = missed = confused = 0
    fired_at: dict[str, int] = {}
    for one in heard:
        events = replay(one.hops, dict.fromkeys(labels, trigger))
        score = match(one.track.words, events, hours=1.0)
        sounds, missed = sounds + score.words, missed + len(score.missed)
        for event in score.false_events:
            source = one.track.source_at(event.time_s)
            if source is not None and source.kind == "speech":
                fired_at[event.label] = fired_at.get(event.label, 0) + 1
            else:
                confused += 1
    return Counts(sounds, missed, confused, fired_at, sum(one.speech_hours for one in heard))


def tried(heard: Sequence[Heard], labels: Sequence[str]) -> list[tuple[TriggerConfig, Counts]]:
    """Every trigger of the grid with what it gives, the best first."""
    grid = [
        replace(SOUND_TRIGGER, smoothing_ms=smoothing_ms, threshold=round(float(threshold), 3))
        for smoothing_ms, threshold in itertools.product(SMOOTHINGS_MS, COARSE)
    ]
    found = [(trigger, count(heard, labels, trigger)) for trigger in tqdm(grid, desc="triggers")]
    return sorted(found, key=lambda pair: pair[1].cost)


@click.command()
@click.option("--folds", "folder", type=FOLDER, required=True, help="Of benchmarks.sounds_folds.")
@click.option("--fold", "folds", type=click.IntRange(1, 4), multiple=True, default=(1, 2, 3),
              show_default=True)  # fmt: skip
@click.option("--data", type=FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Keep the figures.")
def main(folder: Path, folds: tuple[int, ...], data: Path, out: Path | None) -> None:
    """Try triggers."""
    with one_line_errors():
        esc10 = {clip.word for clip in read_packs(data, ("esc10",))}
        heard = []
        for fold in folds:
            bundle = load_bundle(folder / f"fold-{fold}" / "bundle")
            heard.append(listen(bundle, fold_track(data, fold, seed=0), f"fold {fold}"))
        labels = [label for label in bundle.labels if label in esc10]
        write_json(
            {
                "folds": list(folds),
                "speech_hours": round(sum(one.speech_hours for one in heard), 3),
                "ships": count(heard, labels, SOUND_TRIGGER).to_json(),
                "tried": [
                    {"threshold": t.threshold, "smoothing_ms": t.smoothing_ms, **c.to_json()}
                    for t, c in tried(heard, labels)
                ],
            },
            out,
        )


if __name__ == "__main__":
    main()
