"""The streaming track: where its words are, whose clips and noise it holds, how loud the noise."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ssast_edge.audio import read_audio
from ssast_edge.evaluation.noise import is_steady, mix_noise
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.track import SAMPLE_RATE, Source, Track, build_track
from tests.train.conftest import NUM_CLIPS, TONES_HZ
from train.packs import Clip, Split, read_packs
from train.triggers import TRACK_PACKS, as_recording, make_conditions

LABELS = tuple(TONES_HZ)


def clips_of(data: Path, split: Split) -> list[Clip]:
    return [clip for clip in read_packs(data, TRACK_PACKS) if clip.split == split]


def recordings_of(data: Path, split: Split) -> list[Recording]:
    return [as_recording(clip) for clip in clips_of(data, split)]


def test_every_clip_is_there_once_at_its_time(tiny_data: Path) -> None:
    clips = recordings_of(tiny_data, "val")
    track = build_track(clips, seed=3)
    names = [source.name for source in track.sources]
    assert sorted(names) == sorted(f"{c.path.parent.name}/{c.path.name}" for c in clips)
    paths = {f"{c.path.parent.name}/{c.path.name}": c.path for c in clips}
    for source in track.sources:
        samples = read_audio(paths[source.name])
        first = round(source.start_s * SAMPLE_RATE)
        assert np.array_equal(track.samples[first : first + len(samples)], samples)
    assert track.hours == len(track.samples) / SAMPLE_RATE / 3600


def test_a_word_is_where_it_sounds(tiny_data: Path) -> None:
    track = build_track(recordings_of(tiny_data, "train"), seed=0)
    assert 0 < len(track.words) < NUM_CLIPS * len(LABELS)
    assert [w.start_s for w in track.words] == sorted(w.start_s for w in track.words)
    for word in track.words:
        assert 0.45 < word.end_s - word.start_s < 0.75  # 0.5 s and the finder's margins
        first, last = (round(t * SAMPLE_RATE) for t in (word.start_s, word.end_s))
        inside = track.samples[first:last]
        before, after = track.samples[first - 800 : first], track.samples[last : last + 800]
        assert np.abs(inside).max() > 20 * max(np.abs(before).max(), np.abs(after).max())


def test_the_seed_decides_the_track(tiny_data: Path) -> None:
    clips = recordings_of(tiny_data, "val")
    one, again, other = (build_track(clips, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.samples[:], again.samples[:])
    assert one.words == again.words
    assert one.sources != other.sources


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_track_and_its_noise_are_of_one_split(
    tiny_data: Path, tmp_path: Path, split: Split
) -> None:
    track, conditions = make_conditions(tiny_data, split, LABELS, seed=0)
    wanted = {f"{c.path.parent.name}/{c.path.name}" for c in clips_of(tiny_data, split)}
    assert {source.name for source in track.sources} == wanted
    # Without the recordings of the other splits nothing is any different.
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for clip in read_packs(data, (*TRACK_PACKS, "background_noise")):
        if clip.split != split:
            clip.path.write_bytes(b"no audio")
    _, alone = make_conditions(data, split, LABELS, seed=0)
    assert all(np.array_equal(alone[name], conditions[name]) for name in conditions)
    assert not np.array_equal(conditions["clean"], conditions["10 dB"])


def test_words_that_are_no_labels_are_left_out(tiny_data: Path) -> None:
    track, _ = make_conditions(tiny_data, "val", ("alexa",), seed=0)
    assert {word.label for word in track.words} == {"alexa"}
    assert not any(source.name.startswith("jarvis/") for source in track.sources)


def test_noise_is_measured_against_the_word_and_not_the_quiet_around_it(
    tiny_data: Path,
) -> None:
    track, conditions = make_conditions(tiny_data, "val", LABELS, seed=0)
    added = conditions["10 dB"].astype(np.float64) - track.samples[:]
    for word in track.words:
        said = slice(*(round(t * SAMPLE_RATE) for t in (word.start_s + 0.1, word.end_s - 0.1)))
        ratio = np.mean(track.samples[said].astype(np.float64) ** 2) / np.mean(added[said] ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(10, abs=1.5)


def test_noise_that_pauses_is_not_used() -> None:
    rng = np.random.default_rng(0)
    steady = (0.1 * rng.standard_normal(SAMPLE_RATE)).astype(np.float32)
    pausing, faint = steady.copy(), 1e-3 * steady
    pausing[: SAMPLE_RATE // 4] = 0
    assert [is_steady(clip) for clip in (steady, pausing, faint)] == [True, False, False]
    track = Track(np.ones(SAMPLE_RATE, dtype=np.float32), (), (Source(0.0, "a", "b"),))
    with pytest.raises(ValueError, match="none of 2 noise recordings"):
        mix_noise(track, [pausing, faint], snr_db=10, seed=0)


def test_clips_of_silence_are_not_in_the_track(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    with (data / "speech_commands" / "manifest.csv").open("a") as file:
        file.write("test/_silence_/0.ogg,_silence_,,test\n")
    track, _ = make_conditions(data, "test", LABELS, seed=0)
    assert not any("_silence_" in source.name for source in track.sources)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_power_that_was_asked_for_beside_quiet_and_loud_clips(
    snr_db: float,
) -> None:
    rng = np.random.default_rng(0)
    levels = np.repeat([0.01, 0.2], 2 * SAMPLE_RATE)
    samples = (levels * rng.standard_normal(len(levels))).astype(np.float32)
    track = Track(samples, (), (Source(0.0, "quiet", "a"), Source(2.0, "loud", "b")))
    noise = [(0.3 * rng.standard_normal(SAMPLE_RATE)).astype(np.float32)]
    mixed = mix_noise(track, noise, snr_db=snr_db, seed=0)[:]
    added = mixed - samples
    for half in (slice(0, 2 * SAMPLE_RATE), slice(2 * SAMPLE_RATE, None)):
        ratio = np.mean(samples[half].astype(float) ** 2) / np.mean(added[half].astype(float) ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=1.0)
