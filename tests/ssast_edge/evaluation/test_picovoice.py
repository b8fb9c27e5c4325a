"""Picovoice's protocol: what the track holds, how loud the noise is, and its two mended defects."""

import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.errors import AudioError, SsastEdgeError
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.picovoice import (
    background,
    build_picovoice,
    holds_keyword,
    mix_picovoice_noise,
)
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.track import build_track
from ssast_edge.spotter import Detection

Samples = NDArray[np.float32]
RATE = 16000


def clip(path: Path, seconds: float, *, level: float = 0.1, seed: int = 0) -> Path:
    """A hiss that swells and fades, as a WAV file."""
    rng = np.random.default_rng(seed)
    length = int(seconds * RATE)
    samples = level * np.hanning(length) * rng.uniform(-1, 1, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, length, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Six keywords, and twenty utterances of which three hold one."""
    folder = tmp_path_factory.mktemp("recordings")
    found = [
        Recording(
            clip(folder / label / f"{number}.wav", 0.4, level=0.02 * (number + 1), seed=number),
            "keyword",
            label=label,
        )
        for label in ("computer", "smart_mirror")
        for number in range(3)
    ]
    said = ["THE COMPUTER IS ON", "a smart  mirror, please", "SMARTMIRRORS"]
    said += [f"sentence {number}" for number in range(15)] + ["", ""]
    for number, text in enumerate(said):
        path = clip(folder / "speech" / f"{number}.wav", 0.3 + 0.05 * (number % 5), seed=number)
        found.append(Recording(path, "speech", text=text))
    return found


def samples_of(audio: object) -> Samples:
    return audio[:]  # type: ignore[index,no-any-return]


def test_utterances_that_hold_a_keyword_are_never_heard(recordings: list[Recording]) -> None:
    for hours in (None, 0.05):
        track = build_picovoice(recordings, seed=0, hours=hours)
        heard = {source.text for source in track.sources if source.kind == "speech"}
        assert len(heard) > 10
        assert not any(holds_keyword(text, ["computer", "smart_mirror"]) for text in heard)
    assert background(recordings, track) == {
        "utterances": 20,
        "with_keyword": 3,
        "without_transcript": 2,
        "heard": 17,
        "repeated": 17,
    }


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("THE COMPUTER, PLEASE", True),
        ("two computers", True),
        ("the computer's fan", True),
        ("a snow boy", True),
        ("SNOWBOYS", True),
        ("View   glass!", True),
        ("view-glass", True),
        ("computing", False),
        ("the mirror is smart", False),
        ("a review glass", False),
        ("Alexander", False),
        ("", False),
    ],
)
def test_a_keyword_is_found_in_any_spelling(text: str, holds: bool) -> None:
    assert holds_keyword(text, ["computer", "snowboy", "view_glass", "smart_mirror", "alexa"]) is (
        holds
    )


def test_many_detections_in_one_word_are_one_hit(recordings: list[Recording]) -> None:
    track = build_picovoice(recordings, seed=0)
    word = track.words[0]
    frames = np.arange(word.start_s + 0.1, word.end_s, 512 / RATE)
    events = [Detection(word.label, float(time_s), 1.0) for time_s in frames]
    assert len(events) > len(track.words)
    score = match(track.words, events, hours=track.hours)
    assert (score.words, score.hits, score.false_accepts) == (6, 1, 0)
    assert score.duplicates == len(events) - 1
    assert score.miss_rate == pytest.approx(5 / 6)


def test_keywords_lie_evenly_apart_each_once_as_long_as_their_recordings(
    recordings: list[Recording],
) -> None:
    track = build_picovoice(recordings, seed=1, hours=0.02)
    assert sorted(word.source for word in track.words) == sorted(2 * ["0.wav", "1.wav", "2.wav"])
    assert Counter(word.label for word in track.words) == {"computer": 3, "smart_mirror": 3}
    assert all(word.end_s - word.start_s == pytest.approx(0.4) for word in track.words)
    assert track.hours == pytest.approx(0.02, abs=0.6 / 3600)
    starts = [word.start_s for word in track.words]
    gap_s = (0.02 * 3600 - 6 * 0.4) / 7 + 0.4
    assert np.diff([0.4, *starts]) == pytest.approx(gap_s, abs=0.8)
    assert [word.label for word in track.words] != sorted(word.label for word in track.words)


def test_a_fifth_of_the_gaps_is_speech_that_repeats_only_when_all_was_heard(
    recordings: list[Recording],
) -> None:
    track = build_picovoice(recordings, seed=0, hours=0.25)
    times = Counter(source.name for source in track.sources if source.kind == "speech")
    assert len(times) == 17
    assert max(times.values()) - min(times.values()) == 1
    speech = sum(0.3 + 0.05 * (int(Path(name).stem) % 5) for name in times.elements())
    assert speech / (0.25 * 3600) == pytest.approx(0.2, abs=0.03)
    short = build_picovoice(recordings, seed=0)
    assert background(recordings, short)["heard"] >= 12


def test_the_track_depends_on_the_seed_alone_and_holds_the_recordings_at_full_scale(
    recordings: list[Recording],
) -> None:
    one, same, other = (build_picovoice(recordings, seed=seed) for seed in (0, 0, 1))
    assert one.key == same.key != other.key
    assert one.words == same.words != other.words
    samples = samples_of(one.samples)
    np.testing.assert_array_equal(samples, samples_of(same.samples))
    for word in one.words:
        part = samples[round(word.start_s * RATE) : round(word.end_s * RATE)]
        assert np.abs(part).max() == pytest.approx(1.0)
    assert np.abs(samples).max() == pytest.approx(1.0)
    assert np.mean(samples == 0) > 0.5


@pytest.mark.parametrize("snr_db", [10.0, 0.0])
def test_noise_lies_below_the_loudest_frame_of_each_recording(
    recordings: list[Recording], snr_db: float
) -> None:
    track = build_picovoice(recordings, seed=0)
    rng = np.random.default_rng(0)
    noise = [
        (level * rng.uniform(-1, 1, length)).astype(np.float32)
        for level, length in ((0.3, 7000), (0.01, 50000))
    ]
    mixed = mix_picovoice_noise(track, noise, snr_db=snr_db, seed=3)
    alone = samples_of(mix_picovoice_noise(track, noise, snr_db=-400, seed=3))
    samples = samples_of(mixed)
    assert len(mixed) == len(samples) == len(track.samples)
    assert 0.3 < np.abs(samples).max() <= 1
    quiet = samples_of(track.samples) == 0
    factor = float(np.median(samples[quiet][:1000] / alone[quiet][:1000]))  # the full scale of each
    np.testing.assert_allclose(samples[quiet], factor * alone[quiet], atol=1e-6)
    for word in track.words:
        first, last = round(word.start_s * RATE), round(word.end_s * RATE)
        under = factor * alone[first:last]
        ratio = loudest(samples[first:last] - under) / loudest(under)
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.05)


def test_noise_is_the_same_however_it_is_cut(recordings: list[Recording]) -> None:
    track = build_picovoice(recordings, seed=0)
    noise = [np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)]
    mixed = mix_picovoice_noise(track, noise, snr_db=10, seed=3)
    whole = samples_of(mixed)
    cuts = [0, 1, 512, 7000, 7001, 30000, 30000, len(mixed) - 3, len(mixed)]
    parts = [mixed[first:last] for first, last in zip(cuts[:-1], cuts[1:], strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_missing_material_is_told_in_one_line(recordings: list[Recording], tmp_path: Path) -> None:
    keywords = [r for r in recordings if r.kind == "keyword"]
    with pytest.raises(SsastEdgeError, match="needs recordings of speech without a keyword in it"):
        build_picovoice([*keywords, recordings[6]], seed=0)
    with pytest.raises(SsastEdgeError, match="needs recordings of keywords"):
        build_picovoice(recordings[6:], seed=0)
    with pytest.raises(SsastEdgeError, match="0.0001 h are too short: the 6 keyword recordings"):
        build_picovoice(recordings, seed=0, hours=0.0001)
    broken = Recording(tmp_path / "none.wav", "speech", text="hello")
    with pytest.raises(AudioError, match=r"none\.wav"):
        build_picovoice([*recordings, broken], seed=0)
    told: list[str] = []
    build_picovoice([*recordings, broken], seed=0, on_unreadable=lambda r, why: told.append(why))
    assert len(told) == 1


def test_the_rule_of_noise_needs_a_track_of_its_own_and_sound(recordings: list[Recording]) -> None:
    strict = build_track(recordings, seed=0)
    with pytest.raises(ValueError, match="only a track of build_picovoice"):
        mix_picovoice_noise(strict, [np.ones(99, np.float32)], snr_db=10, seed=0)
    track = build_picovoice(recordings, seed=0)
    with pytest.raises(ValueError, match="none of 1 noise recordings has any sound"):
        mix_picovoice_noise(track, [np.zeros(99, np.float32)], snr_db=10, seed=0)


def loudest(samples: Samples) -> float:
    frames = samples[: len(samples) // 512 * 512].reshape(-1, 512).astype(np.float64)
    return float((frames**2).sum(axis=1).max())
