"""Audio into the state: broken off anywhere and taken up again, the same to the bit."""

import itertools
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.audio import Block
from ssast_edge.bundle import Bundle
from ssast_edge.calibration.hearing import Ear, audio_files
from ssast_edge.calibration.room import Room
from ssast_edge.calibration.state import State, header_of
from ssast_edge.errors import AudioError
from ssast_edge.evaluation.scores import run_bundle
from ssast_edge.spotter import Spotter

Samples = NDArray[np.float32]
RATE = 16_000
RECORD_S = 2.0
FOREVER = float("inf")


@pytest.fixture(scope="module")
def samples(tone_audio: Callable[..., Samples]) -> Samples:
    """20 s with tones of 0.2 to 0.6 s in both bands."""
    tones = [(2.0 * n + 0.3, 2.0 * n + 0.5 + 0.1 * (n % 5), (440, 3000)[n % 2]) for n in range(9)]
    return tone_audio(20.3, *tones)


@pytest.fixture(scope="module")
def recording(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples as a WAV."""
    return write_wav(tmp_path_factory.mktemp("audio") / "room.wav", samples)


def write_wav(path: Path, samples: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def _hear(
    bundle: Bundle, folder: Path | None, recording: Path, stop_after: int | None = None
) -> State:
    """Hear a file; stop_after: so many blocks."""
    blocks = itertools.count(1)
    with State(header_of(bundle), folder) as state:
        ear = Ear(bundle, state, record_s=RECORD_S)
        ear.hear_file(
            recording,
            channel=None,
            limit_s=FOREVER,
            is_stopped=lambda: stop_after is not None and next(blocks) >= stop_after,
        )
    return state


def _room(state: State) -> Room:
    return state.room(state.header.labels, {})


def _same(one: State, other: State) -> bool:
    return one.streams == other.streams and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(_room(one).stretches, _room(other).stretches, strict=True)
        for name in ("times_s", "scores", "is_after_gap")
    )


def test_the_kept_scores_are_those_of_the_runtime(
    tone_bundle: Bundle, samples: Samples, recording: Path
) -> None:
    found = _room(_hear(tone_bundle, None, recording))
    (stretch,) = found.stretches
    pcm = (np.round(samples * 32767) / 32768).astype(np.float32)
    hops = run_bundle(tone_bundle, pcm)
    places = np.searchsorted(hops.times_s, stretch.times_s)
    assert np.array_equal(hops.times_s[places], stretch.times_s)
    assert np.array_equal(hops.scores[places][:, :2], stretch.scores)
    assert stretch.heard_s == pytest.approx(20.3)
    heard = Spotter(tone_bundle).push(pcm)
    fired = [
        (firing.time_s, label, firing.score)
        for label, trigger in tone_bundle.triggers.items()
        for firing in found.firings(label, trigger)
    ]
    assert sorted(fired) == [(d.time_s, d.label, d.score) for d in heard]
    assert len(fired) >= 8


@pytest.mark.parametrize("stops", [(1,), (37,), (60, 100, 7)])
def test_it_goes_on_where_it_was_broken_off_to_the_bit(
    tone_bundle: Bundle, recording: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    whole = _hear(tone_bundle, None, recording)
    for stop in stops:
        _hear(tone_bundle, tmp_path, recording, stop_after=stop)
    assert _same(_hear(tone_bundle, tmp_path, recording), whole)
    assert _same(_hear(tone_bundle, tmp_path, recording), whole)  # nothing is left to hear


def test_it_goes_on_in_a_file_of_another_rate(
    tone_bundle: Bundle, samples: Samples, tmp_path: Path
) -> None:
    path = tmp_path / "44100.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    whole = _hear(tone_bundle, None, path)
    _hear(tone_bundle, tmp_path / "state", path, stop_after=25)
    assert _same(_hear(tone_bundle, tmp_path / "state", path), whole)


def test_a_limit_ends_it_and_a_further_run_goes_on(
    tone_bundle: Bundle, recording: Path, tmp_path: Path
) -> None:
    with State(header_of(tone_bundle), tmp_path) as state:
        ear = Ear(tone_bundle, state, record_s=RECORD_S)
        ear.hear_file(recording, channel=None, limit_s=5.0, is_stopped=lambda: False)
        assert state.heard_s == pytest.approx(5.0, abs=0.1)
    whole, found = _hear(tone_bundle, None, recording), _hear(tone_bundle, tmp_path, recording)
    assert found.heard_s == whole.heard_s
    for label, trigger in tone_bundle.triggers.items():
        assert _room(found).firings(label, trigger) == _room(whole).firings(label, trigger)


def test_lost_audio_is_no_hour_and_ends_a_run_of_hits(
    tone_bundle: Bundle, samples: Samples
) -> None:
    def blocks() -> Iterator[Block]:
        yield Block(samples[: 5 * RATE], 0.0)
        yield Block(samples[7 * RATE : 12 * RATE], 7.0, dropped_s=2.0)
        yield Block(samples[12 * RATE : 12 * RATE + 800], 12.0)

    with State(header_of(tone_bundle)) as state:
        ear = Ear(tone_bundle, state, record_s=RECORD_S)
        ear.hear_live("microphone", blocks(), limit_s=FOREVER, is_stopped=lambda: False)
    found = _room(state)
    (stretch,) = found.stretches
    assert stretch.heard_s == pytest.approx(10.05)
    assert stretch.begun
    spotter = Spotter(tone_bundle)
    heard = spotter.push(samples[: 5 * RATE])
    spotter.skip(2.0)
    heard += spotter.push(samples[7 * RATE : 12 * RATE + 800])
    fired = [
        (firing.time_s, label)
        for label, trigger in tone_bundle.triggers.items()
        for firing in found.firings(label, trigger)
    ]
    assert sorted(fired) == [(d.time_s, d.label) for d in heard]
    assert stretch.is_after_gap.sum() <= 1


def test_a_microphone_that_goes_away_leaves_what_was_heard(
    tone_bundle: Bundle, samples: Samples, tmp_path: Path
) -> None:
    def blocks() -> Iterator[Block]:
        yield Block(samples[:RATE], 0.0)
        raise AudioError("microphone has gone")

    with State(header_of(tone_bundle), tmp_path) as state:
        ear = Ear(tone_bundle, state)
        with pytest.raises(AudioError):
            ear.hear_live("microphone", blocks(), limit_s=FOREVER, is_stopped=lambda: False)
    with State(header_of(tone_bundle), tmp_path) as state:
        assert state.heard_s == 1.0
        ear = Ear(tone_bundle, state)
        again = [Block(samples[: 2 * RATE], 0.0)]
        ear.hear_live("microphone", again, limit_s=FOREVER, is_stopped=lambda: False)
        assert state.heard_s == 3.0
        assert len({stream.identity for stream in state.streams}) >= 1


def test_the_same_recording_twice_is_refused(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.wav"
    copy.write_bytes(recording.read_bytes())
    with pytest.raises(AudioError, match="is the same recording as .* would count twice"):
        audio_files([recording, copy])
    other = write_wav(tmp_path / "other.wav", np.zeros(RATE, np.float32))
    assert audio_files([tmp_path]) == [copy, other]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no audio file"):
        audio_files([tmp_path / "empty"])
    with pytest.raises(AudioError, match=r"missing.wav: cannot be read"):
        audio_files([tmp_path / "missing.wav"])


def test_moments_that_were_said_count_neither_as_hours_nor_as_false_accepts(
    tone_bundle: Bundle, recording: Path
) -> None:
    state = _hear(tone_bundle, None, recording)
    label, trigger = next(iter(tone_bundle.triggers.items()))
    everything = _room(state).firings(label, trigger)
    first = everything[0]
    spans = ((first.time_s - 0.5, first.time_s + 0.5), (first.time_s, first.time_s + 1.0))
    for name in ("", "room.wav"):
        found = state.room(state.header.labels, {name: spans})
        assert found.firings(label, trigger) == everything[1:]
        assert 3600 * found.hours == pytest.approx(20.3 - 1.5)
    assert state.room(state.header.labels, {"x.wav": spans}).firings(label, trigger) == everything
    assert replace(found.stretches[0], said=()).counted_s == pytest.approx(20.3)
