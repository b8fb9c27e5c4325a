"""The table of misses: against the trigger itself, and through a bundle."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssast_edge.bundle import Bundle
from ssast_edge.calibration.expected import MissTable, detection_curves, table_of
from ssast_edge.calibration.grid import families, threshold_of
from ssast_edge.errors import BundleError
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import HopScores, replay, run_bundle
from ssast_edge.evaluation.track import Track, Word
from ssast_edge.trigger import TriggerConfig

LABELS = ("alexa", "computer")
WORDS = 40


def _track(seed: int) -> tuple[HopScores, Track]:
    """Words of random clearness every 5 s; (scores, track)."""
    rng = np.random.default_rng(seed)
    hops = round(5 * WORDS / 0.08)
    logits = rng.normal(-7, 1, (hops, 2))
    words = []
    for index in range(WORDS):
        start_s = 5 * index + float(rng.uniform(1, 3))
        end_s = start_s + float(rng.uniform(0.4, 0.8))
        column = int(rng.integers(2))
        first, last = round(start_s / 0.08) + 2, round(end_s / 0.08) + 2
        logits[first:last, column] = rng.normal(rng.uniform(-2, 7), 1, last - first)
        words.append(Word(LABELS[column], start_s, end_s, ""))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    times_s = 0.08 * (1 + np.arange(hops))
    track = Track(np.zeros(16_000 * 5 * WORDS, np.float32), tuple(words), ())
    return HopScores(LABELS, times_s, scores), track


def test_it_says_what_the_trigger_misses(tone_bundle: Bundle) -> None:
    hops, track = _track(1)
    triggers = {label: TriggerConfig(smoothing_ms=80, min_hits=2) for label in LABELS}
    held = detection_curves(replace(tone_bundle, hop_ms=80), {"clean": (hops, track)}, triggers)
    table = MissTable(table_of(_carrying(tone_bundle, held, 80)).curves)
    differing = 0
    for family in families(triggers.values()):
        for logit in (-2.0, 0.0, 1.0, 2.5, 4.0):
            config = TriggerConfig(
                threshold=threshold_of(logit),
                smoothing_ms=family.smoothing_ms,
                min_hits=family.min_hits,
            )
            for label in LABELS:
                score = match(
                    track.words, replay(hops, {label: config}), hours=track.hours, label=label
                )
                (expected,) = table.expected(label, config)
                assert expected.words == score.words
                missed = score.words - score.hits
                # Rounding a word's threshold down may only lose it.
                assert missed <= expected.missed <= missed + 1
                differing += expected.missed - missed
    assert differing <= 3


def _carrying(bundle: Bundle, held: Any, hop_ms: int) -> Bundle:
    return replace(bundle, provenance={"validation": {"detection_curves": held}}, hop_ms=hop_ms)


def test_a_bundle_carries_it_through_the_disk(
    write_tones: Callable[..., Bundle],
    tone_bundle: Bundle,
    tone_audio: Callable[..., Any],
    tmp_path: Path,
) -> None:
    samples = tone_audio(8.0, (1.0, 1.5, 440.0), (3.0, 3.5, 440.0), (5.0, 5.05, 3000.0))
    words = (
        Word("low_tone", 1.0, 1.5, ""),
        Word("low_tone", 3.0, 3.5, ""),
        Word("high_tone", 5.0, 5.05, ""),
    )
    runs = {"clean": (run_bundle(tone_bundle, samples), Track(samples, words, ()))}
    held = detection_curves(tone_bundle, runs, tone_bundle.triggers)
    validation = {"validation": {"seed": 1, "detection_curves": held}}
    bundle = write_tones(tmp_path / "tones", provenance=validation)
    table = table_of(bundle)
    trigger = bundle.triggers["low_tone"]
    assert [(e.condition, e.missed, e.words) for e in table.expected("low_tone", trigger)] == [
        ("clean", 0, 2)
    ]
    high = replace(trigger, threshold=0.9999, smoothing_ms=320.0, min_hits=3)
    assert [(e.missed, e.words) for e in table.expected("high_tone", high)] == [(1, 1)]
    assert table.expected("other", trigger) == ()
    assert table.miss_rate("other", trigger) is None


def test_another_hop_has_no_table(tone_bundle: Bundle) -> None:
    hops, track = _track(2)
    held = detection_curves(tone_bundle, {"clean": (hops, track)}, {"alexa": TriggerConfig()})
    assert table_of(_carrying(tone_bundle, held, 40)).curves
    assert table_of(_carrying(tone_bundle, held, 80)).curves == []
    assert table_of(tone_bundle).curves == []


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        (None, "curves must be a list"),
        ([{"label": "x"}], "is missing"),
        ([{"label": 3}], "curves[0]"),
    ],
)
def test_a_broken_table_is_one_line(tone_bundle: Bundle, curves: Any, said: str) -> None:
    held = {"format": 1, "hop_ms": tone_bundle.hop_ms, "curves": curves}
    with pytest.raises(BundleError, match="its detection_curves: ") as caught:
        table_of(_carrying(tone_bundle, held, tone_bundle.hop_ms))
    assert said in str(caught.value)
