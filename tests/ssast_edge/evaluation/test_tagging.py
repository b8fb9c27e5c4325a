"""Tagging of clips and of streaming windows, against the definitions by brute force."""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.evaluation.clips import (
    ClipScores,
    LabelledClips,
    labelled_clips,
    score_clips,
)
from ssast_edge.evaluation.clips_evaluation import evaluate_clips
from ssast_edge.evaluation.clips_report import clip_sections
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.tagging import evaluate_tagging

Audio = Callable[..., NDArray[np.float32]]
LOW_HZ, HIGH_HZ = 440.0, 3000.0
LABELS = ("dog", "rain", "sea")


def brute_ap(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Mean over the positives of the precision among all that score no lower."""
    hits = [positive[scores >= score].mean() for score in scores[positive]]
    return float(np.mean(hits))


def brute_auc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    return float(np.mean(pairs))


def drawn(
    targets: list[tuple[int, ...]], windows_each: int = 3
) -> tuple[LabelledClips, ClipScores]:
    rng = np.random.default_rng(3)
    count = len(targets)
    recordings = tuple(
        Recording(Path(f"{i}.wav"), "sound", ";".join(LABELS[t] for t in target))
        for i, target in enumerate(targets)
    )

    def table(rows: int) -> NDArray[np.float32]:
        return np.round(rng.random((rows, 3)), 1).astype(np.float32)  # one decimal: many ties

    tables = {"last": table(count), "max": table(count), "mean": table(count)}
    owners = np.repeat(np.arange(count), windows_each)
    scores = ClipScores(np.arange(count), tables, table(len(owners)), owners, (), 1.0, True)  # type: ignore[arg-type]
    return LabelledClips(LABELS, recordings, tuple(targets), {}), scores


@pytest.mark.parametrize("multilabel", [False, True])
def test_figures_of_clips_and_windows_are_their_definitions(multilabel: bool) -> None:
    targets: list[tuple[int, ...]] = [(i % 3,) for i in range(24)]
    if multilabel:
        targets[0] = (0, 2)
    clips, scores = drawn(targets)
    found = evaluate_tagging(clips, scores, samples=60)
    hot = np.array([[label in target for label in range(3)] for target in targets])
    for name, table, truth in (
        ("mean", scores.tables["mean"], hot),
        ("max", scores.tables["max"], hot),
        ("window", scores.windows, hot[scores.window_clips]),
    ):
        part = found.evaluations[name]
        ap = [brute_ap(table[:, i], truth[:, i]) for i in range(3)]
        auc = [brute_auc(table[:, i], truth[:, i]) for i in range(3)]
        assert part.metrics["mAP"].value == pytest.approx(np.mean(ap), abs=1e-6)
        assert part.metrics["mAUC"].value == pytest.approx(np.mean(auc), abs=1e-6)
        assert [c.average_precision.value for c in part.per_class] == pytest.approx(ap, abs=1e-6)
        assert part.num_units == 24  # the windows of a clip are drawn together
        assert ("accuracy" in part.metrics) != multilabel
    best = scores.tables["mean"].argmax(axis=1)
    assert found.right.tolist() == [
        label in target for label, target in zip(best.tolist(), targets, strict=True)
    ]


def test_the_same_seed_gives_the_same_intervals() -> None:
    clips, scores = drawn([(i % 3,) for i in range(24)])
    one, same, other = (evaluate_tagging(clips, scores, seed=s, samples=60) for s in (1, 1, 2))
    assert one.to_json() == same.to_json()
    assert one.evaluations["window"].metrics["mAP"] != other.evaluations["window"].metrics["mAP"]


def test_only_windows_within_the_clip_that_are_loud_enough_count(
    tone_bundle: Bundle, tmp_path: Path, tone_audio: Audio
) -> None:
    path = tmp_path / "late.wav"
    soundfile.write(path, tone_audio(2.0, (1.0, 1.5, HIGH_HZ)), 16000, subtype="FLOAT")
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(16000), 16000)
    short = tmp_path / "short.wav"  # shorter than a window
    soundfile.write(short, tone_audio(0.15, (0.0, 0.15, HIGH_HZ)), 16000, subtype="FLOAT")
    sounds = [Recording(p, "sound", "high_tone") for p in (path, silent, short)]
    clips = labelled_clips(tone_bundle, sounds, sounds=True)
    found = score_clips(tone_bundle, clips, with_windows=True)
    owners = found.window_clips.tolist()
    # Windows of 215 ms that hold some of the tone, every 40 ms; the edges hold little of it.
    assert 15 <= owners.count(0) <= 18
    assert owners.count(1) == 0
    assert owners.count(2) == 1
    assert (found.windows[found.window_clips == 0, 1] > 0.4).sum() >= 14


def test_a_long_clip_gives_no_more_windows_than_others(
    tone_bundle: Bundle, tmp_path: Path, tone_audio: Audio
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tone_audio(8.0, (0.0, 8.0, LOW_HZ)), 16000, subtype="FLOAT")
    clips = labelled_clips(tone_bundle, [Recording(path, "sound", "low_tone")], sounds=True)
    found = score_clips(tone_bundle, clips, with_windows=True)
    assert len(found.windows) == 20


@pytest.fixture
def sounds(tmp_path: Path, tone_audio: Audio) -> list[Recording]:
    made = []
    for number in range(6):
        label, hz = (("low_tone", LOW_HZ), ("high_tone", HIGH_HZ))[number % 2]
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone_audio(1.0, (0.3, 0.9, hz)), 16000)
        made.append(Recording(path, "sound", label))
    return made


def test_sounds_are_tagged_and_reported(tone_bundle: Bundle, sounds: list[Recording]) -> None:
    found = evaluate_clips(tone_bundle, sounds, samples=50)
    assert found.classification is None
    assert found.tagging is not None
    assert found.tagging.evaluations["mean"].metrics["mAP"].value == 1
    assert found.tagging.evaluations["mean"].classes_without_positive == ("other",)
    (section,) = clip_sections([found])
    assert ElementTree.fromstring(f"<main>{section.html}</main>").find(".//svg") is not None
    assert "In no mean, for no clip has them: other." in section.markdown
    kept = json.loads(json.dumps(section.json, allow_nan=False))
    assert kept[0]["evaluations"]["window"]["metrics"]["d_prime"]["value"] is None  # inf


def test_several_labels_of_a_sound(tone_bundle: Bundle, sounds: list[Recording]) -> None:
    both = Recording(sounds[0].path, "sound", "low_tone; other;tree")
    found = evaluate_clips(tone_bundle, [*sounds[1:], both], samples=50)
    assert found.tagging is not None
    assert found.tagging.evaluations["mean"].multilabel
    assert found.tagging.evaluations["mean"].confusion is None
    assert found.tagging.right.all()
    (section,) = clip_sections([found])
    assert "<svg" not in section.html
    assert "| clip, scores averaged | 6 | 100.0 % |" in section.markdown
    assert section.json[0]["left_out"] == {}


def test_words_and_sounds_of_one_bundle_do_not_compete(
    tone_bundle: Bundle, sounds: list[Recording]
) -> None:
    low = [Recording(sounds[0].path, "keyword", "low_tone")]
    found = evaluate_clips(tone_bundle, [*low, *sounds[1::2]], samples=50)
    assert found.classification is not None
    assert found.tagging is not None
    assert found.classification.labels == ("low_tone", "other")
    assert found.tagging.labels == ("high_tone", "other")
    assert [section.key for section in clip_sections([found])] == ["classification", "tagging"]
    alike = evaluate_clips(tone_bundle, low, labels=["Low tone", "high-tone"], samples=50)
    assert alike.classification is not None
    assert alike.classification.labels == ("low_tone", "high_tone")


def test_one_clip_gives_figures_without_intervals(
    tone_bundle: Bundle, sounds: list[Recording]
) -> None:
    found = evaluate_clips(tone_bundle, sounds[:1], samples=50)
    assert found.tagging is not None
    assert found.tagging.evaluations["mean"].metrics["mAP"].value == 1
    assert math.isnan(found.tagging.evaluations["mean"].metrics["mAP"].interval.low)
    (section,) = clip_sections([found])
    json.dumps(section.json, allow_nan=False)
