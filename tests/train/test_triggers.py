"""Choosing triggers on a validation track."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import THRESHOLDS, HopScores, replay
from ssast_edge.evaluation.track import Source, Track, Word
from train.recipe import RecipeError
from train.triggers import (
    at_speed,
    choose_trigger,
    choose_triggers,
    expected_false_accepts,
    other_words,
)

HOP_S = 0.08


def track_with(*words: tuple[str, float]) -> Track:
    """Five minutes of nothing, with words of half a second."""
    said = tuple(Word(label, at, at + 0.5, "x.ogg") for label, at in words)
    return Track(np.zeros(300 * 16000, dtype=np.float32), said, ())


def scores_with(*bumps: tuple[float, float, int]) -> HopScores:
    """Scores of one label: 0.01 but for (time, height, hops)."""
    times = np.array(0.1 + HOP_S * np.arange(3750), dtype=np.float64)
    scores = np.full((len(times), 1), 0.01, dtype=np.float32)
    for at, height, hops in bumps:
        first = int(np.searchsorted(times, at))
        scores[first : first + hops] = height
    return HopScores(("alexa",), times, scores)


def test_the_threshold_lies_between_words_and_what_sounds_like_them() -> None:
    track = track_with(("alexa", 20.0), ("alexa", 90.0), ("alexa", 150.0))
    hops = scores_with(
        (20.3, 0.9, 6), (90.3, 0.9, 6), (150.3, 0.9, 6), (50.0, 0.5, 6), (200.0, 0.5, 6)
    )
    trigger, cost = choose_trigger([(hops, track)], "alexa")
    assert cost == 0
    score = match(track.words, replay(hops, {"alexa": trigger}), hours=track.hours)
    assert (score.hits, score.false_accepts, score.duplicates) == (3, 0, 0)


def test_a_blip_is_smoothed_away_where_words_last_longer() -> None:
    track = track_with(("alexa", 20.0), ("alexa", 90.0))
    hops = scores_with((20.1, 0.8, 8), (90.1, 0.8, 8), (50.0, 0.99, 1), (200.0, 0.99, 1))
    trigger, cost = choose_trigger([(hops, track)], "alexa")
    assert cost == 0
    assert trigger.min_hits > 1 or trigger.smoothing_ms > 0


def test_false_accepts_outweigh_a_word_that_few_would_miss() -> None:
    # Hearing the third word at 0.3 would cost 24 false accepts in five minutes.
    track = track_with(("alexa", 20.0), ("alexa", 90.0), ("alexa", 150.0))
    noises = [(180.0 + 4 * i, 0.35, 6) for i in range(24)]
    hops = scores_with((20.3, 0.9, 6), (90.3, 0.9, 6), (150.3, 0.3, 6), *noises)
    trigger, cost = choose_trigger([(hops, track)], "alexa")
    assert trigger.threshold > 0.35
    assert cost >= 1 / 3


def test_no_false_accept_in_some_hours_is_not_none_in_others() -> None:
    logits = np.log(THRESHOLDS / (1 - np.asarray(THRESHOLDS)))
    counts = np.floor(40 * np.exp(-1.5 * (logits - logits[0])))
    expected = expected_false_accepts(counts)
    seen = counts >= 3
    np.testing.assert_array_equal(expected[seen], counts[seen])
    unseen = counts == 0
    assert (expected[unseen] > 0).all()
    assert (expected[unseen] < 2).all()
    assert (np.diff(expected[~seen]) <= 0).all()
    merged = np.where(np.arange(len(logits)) < 8, 20.0 * np.arange(len(logits)), counts)
    assert (expected_false_accepts(merged)[unseen] < 2).all()
    few = np.where(np.arange(len(logits)) < 3, 5.0, 0.0)
    np.testing.assert_array_equal(expected_false_accepts(few), few)


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_a_track_of_few_hops_is_replayed(hops: int) -> None:
    times = np.array(HOP_S * np.arange(hops), dtype=np.float64)
    scores = HopScores(("alexa",), times, np.full((hops, 1), 0.9, np.float32))
    trigger, _ = choose_trigger([(scores, track_with(("alexa", 0.0)))], "alexa")
    assert [d.label for d in replay(scores, {"alexa": trigger})] == ["alexa"]


def test_a_label_that_validation_never_hears_is_named(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    for path in (tmp_path / "data" / "wake_words" / "jarvis").glob("*.ogg"):
        path.unlink()
    with pytest.raises(ValueError, match="no validation recording of jarvis"):
        choose_triggers(tiny_bundle, tmp_path / "data", seed=0)


def test_a_second_draw_is_another_order_in_noise_of_its_own(
    tiny_bundle: Path, tiny_data: Path
) -> None:
    _, once = choose_triggers(tiny_bundle, tiny_data, seed=0)
    chosen, twice = choose_triggers(tiny_bundle, tiny_data, seed=0, draws=2)
    assert set(chosen) == {"alexa", "jarvis"}
    assert twice["draws"] == 2
    assert twice["heard_hours"] == pytest.approx(2 * once["heard_hours"], rel=0.05)
    named = {name for name in twice if name.startswith("10 dB")}
    assert {"10 dB", "10 dB, draw 2", "10 dB at speed 0.88, draw 2"} <= named
    assert len(named) == 6
    assert all(twice[name]["words"] == once["clean"]["words"] for name in named)


def test_near_misses_of_validation_voices_are_heard_too(tmp_path: Path) -> None:
    rows = [
        ("a.flac", "alexis", "", "near-miss", "v", "val"),
        ("b.flac", "alexis", "", "near-miss", "t", "train"),
        ("c.flac", "an alexa", "", "sentence", "v", "val"),
        ("d.flac", "alexa", "alexa", "keyword", "v", "val"),
        ("e.flac", "butter", "", "word", "v", "val"),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        names = ("path", "text", "keyword", "kind", "speaker", "split")
        csv.writer(file).writerows([names, *rows])
    found = other_words((tmp_path,), ("alexa",))
    assert [clip.word for clip in found] == ["alexis", "butter"]
    assert not other_words((), ("alexa",))
    with pytest.raises(RecipeError, match=r"train\.synthesize"):
        other_words((tmp_path / "gone",), ("alexa",))


def test_a_track_at_another_speed_keeps_its_words_where_they_are_said() -> None:
    samples = np.zeros(10 * 16000, np.float32)
    samples[4 * 16000 : 5 * 16000] = np.sin(np.arange(16000) / 5)
    word = Word("alexa", 4.0, 5.0, "x.ogg")
    track = Track(samples, (word,), (Source(3.0, "wake_words", "alexa/x.ogg"),), "key")
    for speed in (0.8, 1.25):
        heard = at_speed(track, speed)
        assert len(heard.samples) == pytest.approx(len(samples) / speed, abs=2)
        (said,) = heard.words
        first, last = round(said.start_s * 16000), round(said.end_s * 16000)
        assert np.std(heard.samples[first + 100 : last - 100]) > 0.5
        assert np.abs(heard.samples[: first - 500]).max() < 0.01
        assert heard.sources[0].start_s == pytest.approx(3.0 / speed)
        assert heard.key != track.key
    assert at_speed(track, 1.0) is track
