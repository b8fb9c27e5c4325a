"""The front end against Kaldi's numbers, and the stream against the whole recording."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssast_edge.fbank import Fbank, FbankConfig, fbank, num_frames
from tests.ssast_edge.signals import SIGNALS

REFERENCE = Path(__file__).parents[1] / "data" / "fbank_reference.npz"
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "fbank_torchaudio.npz"
TOLERANCE = 1e-3
RECORDING = np.random.default_rng(1).standard_normal(16000 * 12).astype(np.float32) * 0.1
WHOLE = fbank(RECORDING)


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_kaldi(name: str) -> None:
    expected = np.load(REFERENCE, allow_pickle=False)[name]
    np.testing.assert_allclose(fbank(SIGNALS[name]()), expected, atol=TOLERANCE)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="no ../shared/golden beside the checkout")
@pytest.mark.parametrize("name", ["chirp", "noise", "impulses", "silence", "dc_tone", "quiet"])
def test_equals_torchaudio_float32(name: str) -> None:
    arrays = np.load(GOLDEN, allow_pickle=False)
    difference = np.abs(fbank(arrays[f"{name}_wave"]) - arrays[f"{name}_fbank"])
    if name == "chirp":
        # torchaudio's float32 FFT is itself this far from its float64 one beside a loud tone, in
        # filters near the floor; `test_equals_kaldi` holds the chirp to the float64 numbers.
        assert (difference > TOLERANCE).mean() < 0.03
        assert difference.max() < 1e-2
    else:
        assert difference.max() < TOLERANCE


def test_equals_torchaudio_on_noise_at_many_levels() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")
    kaldi = pytest.importorskip("torchaudio", reason="torchaudio is not installed").compliance.kaldi
    rng = np.random.default_rng(2)
    for level in (1e-3, 0.05, 0.5):
        samples = (level * rng.standard_normal(9000)).astype(np.float32)
        expected = kaldi.fbank(
            torch.from_numpy(samples)[None], htk_compat=True, sample_frequency=16000,
            use_energy=False, window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
        ).numpy()  # fmt: skip
        np.testing.assert_allclose(fbank(samples), expected, atol=TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 7, 159, 160, 161, 399, 400, 401, 1600, 16000, 160000])
def test_stream_equals_whole_recording_to_the_bit(chunk: int) -> None:
    length = min(len(RECORDING), 1000 * chunk)
    stream = Fbank()
    frames = [stream.push(RECORDING[i : i + chunk]) for i in range(0, length, chunk)]
    streamed = np.concatenate(frames)
    assert len(streamed) == num_frames(length, stream.config)
    assert streamed.tobytes() == WHOLE[: len(streamed)].tobytes()


@settings(deadline=None, max_examples=60)
@given(chunks=st.lists(st.integers(0, 160_000) | st.integers(0, 500), min_size=1, max_size=30))
def test_stream_equals_whole_recording_for_any_chunking(chunks: list[int]) -> None:
    stream = Fbank()
    position, frames = 0, []
    for chunk in chunks:
        frames.append(stream.push(RECORDING[position : position + chunk]))
        position += len(RECORDING[position : position + chunk])
    streamed = np.concatenate(frames)
    assert len(streamed) == num_frames(position, stream.config)
    assert streamed.tobytes() == WHOLE[: len(streamed)].tobytes()


def test_a_stream_may_reuse_the_buffer_that_it_was_fed_from() -> None:
    stream, buffer, frames = Fbank(), np.empty(250, dtype=np.float32), []
    for first in range(0, 16000, 250):
        buffer[:] = RECORDING[first : first + 250]
        frames.append(stream.push(buffer))
    assert np.array_equal(np.concatenate(frames), WHOLE[: num_frames(16000, stream.config)])


def test_reset_forgets_an_unfinished_frame() -> None:
    stream = Fbank()
    stream.push(RECORDING[:555])
    stream.reset()
    assert np.array_equal(stream.push(RECORDING[:4000]), fbank(RECORDING[:4000]))


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)])
def test_only_whole_frames_are_given(samples: int, frames: int) -> None:
    assert fbank(RECORDING[:samples]).shape == (frames, 128)


def test_the_mean_of_the_clip_does_not_matter() -> None:
    np.testing.assert_allclose(fbank(RECORDING[:8000] + 0.25), WHOLE[:48], atol=TOLERANCE)


@pytest.mark.parametrize("other", [np.float64, np.float16])
def test_other_float_types_are_taken(other: type) -> None:
    samples = RECORDING[:4000].astype(other)
    assert np.array_equal(fbank(samples), fbank(samples.astype(np.float32)))


def test_samples_need_not_be_contiguous() -> None:
    assert np.array_equal(fbank(np.repeat(RECORDING[:4000], 2)[::2]), fbank(RECORDING[:4000]))


@pytest.mark.parametrize("shape", [(), (2, 400), (400, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mono"):
        fbank(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    "change",
    [{"sample_rate": 0}, {"num_mel_bins": 0}, {"window_ms": 0.0}, {"hop_ms": 0.0},
     {"low_hz": 8000.0}, {"preemphasis": 2.0}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        FbankConfig(**change)


def test_other_settings_change_the_shape() -> None:
    config = FbankConfig(num_mel_bins=40, hop_ms=20.0)
    assert fbank(RECORDING[:16000], config).shape == (49, 40)
