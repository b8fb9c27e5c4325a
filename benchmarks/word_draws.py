"""Words of bundles on several draws of the validation track, as their triggers are chosen on it.

    python -m benchmarks.word_draws wake-words BUNDLE --synthetic runs/synthetic-commands \
        --out runs/word-draws.json

Each draw has an order and noise of its own and is heard at three speeds, clean and at 10 dB. The
thresholds that a bundle ships with are moved together, in logits. Which of two bundles hears the
words better is told at the same number of false accepts; those of a bundle were chosen on one such
track, which favours it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.output import write_json
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import HopScores, replay
from ssast_edge.evaluation.track import Track
from ssast_edge.trigger import TriggerConfig
from train.errors import one_line_errors
from train.options import DATA, FILE, SEED, SYNTHETIC
from train.triggers import CONDITIONS, hear_draws, other_words

OFFSETS = np.arange(-1.5, 1.51, 0.125)  # logits


def counts(
    runs: Mapping[str, tuple[HopScores, Track]], triggers: Mapping[str, TriggerConfig]
) -> dict[str, int]:
    """Words, misses by condition and false accepts of all runs together."""
    found = {f"{kind}_{name}": 0 for name in CONDITIONS for kind in ("words", "missed")}
    false_accepts = 0
    for title, (hops, track) in runs.items():
        name = max((name for name in CONDITIONS if title.startswith(name)), key=len)
        score = match(track.words, replay(hops, triggers), hours=track.hours)
        found[f"words_{name}"] += score.words
        found[f"missed_{name}"] += len(score.missed)
        false_accepts += score.false_accepts
    return {**found, "false_accepts": false_accepts}


def stricter(trigger: TriggerConfig, offset: float) -> TriggerConfig:
    """With a threshold so many logits higher."""
    logit = np.log(trigger.threshold / (1 - trigger.threshold)) + offset
    return replace(trigger, threshold=float(1 / (1 + np.exp(-logit))))


def words_of(bundles: Sequence[Bundle], wanted: Sequence[str]) -> tuple[str, ...]:
    """The labels wanted, else all that have a trigger in every bundle."""
    shared = [k for k in bundles[0].triggers if all(k in bundle.triggers for bundle in bundles)]
    missing = [label for label in wanted if label not in shared]
    if missing or not shared:
        names = ", ".join(bundle.name for bundle in bundles)
        raise ValueError(
            f"no trigger of {missing[0] if missing else 'the same word'} in all of {names}; "
            f"shared: {', '.join(shared) or 'none'}"
        )
    return tuple(wanted or shared)


def measure(
    bundle: Bundle, labels: Sequence[str], data: Path, synthetic: Sequence[Path], draws: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """A bundle's counts at every setting."""
    runs = hear_draws(bundle, data, labels, other_words(synthetic, labels), seed=seed, draws=draws)
    curve = [
        {
            "offset": round(float(offset), 3),
            **counts(runs, {k: stricter(bundle.triggers[k], offset) for k in labels}),
        }
        for offset in OFFSETS
    ]
    hours = sum(track.hours for _, track in runs.values())
    return {
        "bundle": bundle.name, "version": bundle.version, "labels": list(labels), "draws": draws,
        "seed": seed, "hours": round(hours, 2), "curve": curve,
    }  # fmt: skip


@click.command()
@click.argument("bundles", nargs=-1, required=True)
@click.option("--label", "labels", multiple=True, help="A word.  [default: all that are shared]")
@DATA
@SYNTHETIC
@click.option("--draws", type=click.IntRange(min=1), default=3, show_default=True)
@SEED
@click.option("--out", type=FILE, help="Keep the figures.")
def main(
    bundles: tuple[str, ...],
    labels: tuple[str, ...],
    data: Path,
    synthetic: tuple[Path, ...],
    draws: int,
    seed: int,
    out: Path | None,
) -> None:
    """Hear validation with BUNDLES."""
    with one_line_errors():
        loaded = [load_bundle(name) for name in bundles]
        words = words_of(loaded, labels)
        found = [measure(bundle, words, data, synthetic, draws, seed) for bundle in loaded]
        write_json({"bundles": found}, out)


if __name__ == "__main__":
    main()
