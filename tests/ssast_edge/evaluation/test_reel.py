"""Audio that is put together while it is read: the same however it is cut."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssast_edge.evaluation.conditions import Reverberant, Telephone, heard_through, room_response
from ssast_edge.evaluation.noise import Noisy
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.reel import Audio, Piece, Reel
from ssast_edge.evaluation.track import Track, build_track

RATE = 16000


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Track:
    """Seven recordings of different levels, one of them at another rate."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    recordings = []
    for number, level in enumerate([0.3, 0.01, 0.1, 0.2, 0.05, 0.003, 0.1]):
        path = folder / f"{number}.wav"
        rate = 22050 if number == 3 else RATE
        soundfile.write(path, level * rng.standard_normal(rate * (1 + number % 3)), rate, "FLOAT")
        recordings.append(Recording(path, "speech", text=f"clip {number}"))
    return build_track(recordings, seed=1)


def conditions(track: Track) -> dict[str, tuple[Audio, float]]:
    """Each kind of audio, and by how much two cuts of it may differ."""
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(n).astype(np.float32) for n in (9000, 5000)]
    rooms = [room_response(rng, 0.2, 3.0), room_response(rng, 0.3, 0.0)]
    return {
        "reel": (track.samples, 0.0),
        "noisy": (Noisy(track.samples, track.bounds, noise, snr_db=5, seed=2), 0.0),
        "reverberant": (Reverberant(track.samples, track.bounds, rooms, seed=0), 1e-6),
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40_000)), min_size=1, max_size=6))
def test_any_cut_in_any_order_is_a_part_of_the_whole(
    track: Track, cuts: list[tuple[float, int]]
) -> None:
    for name, (audio, tolerance) in conditions(track).items():
        whole = audio[:]
        assert len(whole) == len(audio) == len(track.samples)
        assert whole.dtype == np.float32
        for share, length in cuts:
            first = int(share * len(whole))
            part = audio[first : first + length]
            difference = np.abs(part - whole[first : first + length])
            assert difference.max(initial=0) <= tolerance, name


def test_a_telephone_line_is_the_same_however_it_is_cut(track: Track) -> None:
    audio = Telephone(track.samples)
    whole = audio[:]
    for first, last in ((0, 999), (16_001, 40_002), (50_000, len(whole))):
        # A value on the edge of two codes may fall to either side.
        same = np.abs(audio[first:last] - whole[first:last]) < 1e-6
        assert same.mean() > 0.98


def test_the_key_changes_with_content_and_seed(track: Track, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    keys = set()
    for level, seed in ((0.1, 0), (0.1, 0), (0.2, 0), (0.1, 1)):
        soundfile.write(path, np.full(RATE, level), RATE)
        keys.add(build_track([Recording(path, "speech")], seed=seed).key)
    assert len(keys) == 3


def test_a_long_recording_is_not_held_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    rng = np.random.default_rng(0)
    samples = np.round(0.1 * rng.standard_normal(RATE * 400) * 32767) / 32768
    soundfile.write(path, samples, RATE)
    reel = Reel([Piece(1000, len(samples), path)], len(samples) + 2000)
    for first in (0, 1000, 6_000_000, 3_000_000, 6_400_000, 200_000):
        part = reel[first : first + 50_000]
        wanted = np.zeros(min(50_000, len(reel) - first))
        inside = samples[max(0, first - 1000) : max(0, first - 1000 + 50_000)]
        start = max(0, 1000 - first)
        inside = inside[: len(wanted) - start]
        wanted[start : start + len(inside)] = inside
        assert np.allclose(part, wanted, atol=1e-4)
    (file,) = reel._files.values()
    assert sum(map(len, file._held)) < 320 * RATE


@pytest.mark.parametrize(
    "pieces", [[Piece(0, 10), Piece(5, 10)], [Piece(10, 5), Piece(0, 5)], [Piece(0, 200)]]
)
def test_pieces_over_each_other_or_beyond_the_end_are_refused(pieces: list[Piece]) -> None:
    with pytest.raises(ValueError, match="piece"):
        Reel(pieces, 100)


def test_audio_is_cut_without_steps(track: Track) -> None:
    with pytest.raises(ValueError, match="without steps"):
        track.samples[0:100:2]


def test_clean_is_the_track_itself(track: Track) -> None:
    assert heard_through("clean", track, [], seed=0) is track.samples
