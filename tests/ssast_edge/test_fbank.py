"""The front end against torchaudio, and a stream against the whole recording."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssast_edge.fbank import Fbank, FbankConfig, fbank, num_frames

FloatArray = NDArray[np.float32]

REFERENCE = Path(__file__).parents[1] / "data" / "fbank_reference.npz"  # make_fbank_reference.py
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "fbank_torchaudio.npz"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_file(), reason="no ../shared/golden beside the checkout"
)
FLOOR = -15.942385  # log of the float32 epsilon
# Against torchaudio in float64, what is left is its mel weights: a last bit of float32 in mel.
TOLERANCE = 2e-4
# The settings of each array of the reference file, and the signal that it was computed from.
SIGNALS = ["noise", "faint_noise", "chirp", "voice", "tone_on_dc", "clicks", "silence"]
OTHER_CONFIGS = {
    "40_bins_at_8_khz": FbankConfig(sample_rate=8000, num_mel_bins=40, preemphasis=0.9, low_hz=60),
    "32_ms_window": FbankConfig(num_mel_bins=64, window_ms=32.0, hop_ms=12.5),
}
SECOND = 16000
NOISE = (0.1 * np.random.default_rng(3).standard_normal(12 * SECOND)).astype(np.float32)
NOISE_FBANK = fbank(NOISE)


def float32_tolerance(frames: FloatArray) -> NDArray[np.float64]:
    """How far float32 features may be from exact ones, per value.

    1e-3, and what the rounding of a float32 FFT adds: noise of a quarter epsilon of the loudest
    amplitude in the frame, on the amplitude of each bin. That passes 1e-3 at 84 dB below it.
    """
    below_loudest = frames.max(axis=1, keepdims=True) - frames.astype(np.float64)
    noise = np.finfo(np.float32).eps / 4 * np.exp(below_loudest / 2)
    return np.asarray(1e-3 + 2 * noise)  # the energy is the amplitude squared


def stream(samples: FloatArray, sizes: Iterable[int], config: FbankConfig) -> FloatArray:
    """Features of chunks of these sizes, and of the rest as one more chunk."""
    front_end = Fbank(config)
    frames, start = [], 0
    for size in sizes:
        frames.append(front_end.push(samples[start : start + size]))
        start += size
    return np.concatenate([*frames, front_end.push(samples[start:])])


@pytest.mark.parametrize("signal", SIGNALS)
def test_equals_torchaudio(signal: str) -> None:
    with np.load(REFERENCE) as arrays:
        samples = arrays[f"{signal}_pcm"] / np.float32(32768)
        np.testing.assert_allclose(
            fbank(samples), arrays[f"{signal}_fbank"], rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("name", OTHER_CONFIGS)
def test_equals_torchaudio_with_other_settings(name: str) -> None:
    with np.load(REFERENCE) as arrays:
        samples = arrays["noise_pcm"] / np.float32(32768)
        np.testing.assert_allclose(
            fbank(samples, OTHER_CONFIGS[name]), arrays[f"{name}_fbank"], rtol=0, atol=TOLERANCE
        )


@needs_golden
@pytest.mark.parametrize("signal", ["noise", "impulses", "silence", "dc_tone", "quiet"])
def test_equals_golden(signal: str) -> None:
    with np.load(GOLDEN) as arrays:
        wave = arrays[f"{signal}_wave"]
        np.testing.assert_allclose(
            fbank(wave - wave.mean()), arrays[f"{signal}_fbank"], rtol=0, atol=1e-3
        )


@needs_golden
def test_equals_golden_chirp_but_for_the_rounding_noise_of_its_float32_fft() -> None:
    with np.load(GOLDEN) as arrays:
        wave, golden = arrays["chirp_wave"], arrays["chirp_fbank"]
    difference = np.abs(fbank(wave - wave.mean()) - golden)
    assert (difference <= float32_tolerance(golden)).all()
    is_resolved = golden > golden.max(axis=1, keepdims=True) - np.log(1e9)  # within 90 dB
    assert difference[is_resolved].max() < 1e-3


@pytest.mark.parametrize("level", [1.0, 0.1, 1e-3])
def test_equals_installed_torchaudio_on_noise(level: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")
    kaldi = pytest.importorskip(
        "torchaudio.compliance.kaldi", reason="torchaudio is not installed (extra: train)"
    )
    samples = level * np.random.default_rng(4).standard_normal(SECOND).astype(np.float32)
    frames: dict[Any, FloatArray] = {
        precision: kaldi.fbank(
            torch.from_numpy(samples)[None].to(precision),
            htk_compat=True,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=128,
            dither=0.0,
            frame_shift=10,
        ).numpy()
        for precision in (torch.float32, torch.float64)
    }
    ours = fbank(samples)
    np.testing.assert_allclose(ours, frames[torch.float64], rtol=0, atol=TOLERANCE)
    assert (np.abs(ours - frames[torch.float32]) <= float32_tolerance(ours)).all()


def test_silence_gives_the_floor_in_every_bin() -> None:
    frames = fbank(np.zeros(SECOND, dtype=np.float32))
    assert frames.shape == (98, 128)
    assert (frames == np.float32(FLOOR)).all()


def test_filter_without_fft_bins_gives_the_floor_in_loud_noise() -> None:
    always_floor = NOISE_FBANK.max(axis=0) == np.float32(FLOOR)
    assert np.flatnonzero(always_floor).tolist() == [3]


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 700) | st.integers(1, 10 * SECOND), max_size=60))
@example(sizes=[10 * SECOND])
def test_stream_equals_whole_recording_bit_for_bit(sizes: list[int]) -> None:
    assert np.array_equal(stream(NOISE, sizes, FbankConfig()), NOISE_FBANK)


@pytest.mark.parametrize("size", [1, 159, 160, 161, 239, 240, 399, 400, 401, 1600, 5360, 5361])
def test_stream_of_equal_chunks_equals_whole_recording(size: int) -> None:
    samples = NOISE[: 2 * SECOND]
    sizes = [size] * (len(samples) // size)
    assert np.array_equal(stream(samples, sizes, FbankConfig()), NOISE_FBANK[: 1 + 31600 // 160])


@pytest.mark.parametrize(
    "config",
    [
        *OTHER_CONFIGS.values(),
        FbankConfig(hop_ms=25.0),  # no overlap
        FbankConfig(hop_ms=0.0625, window_ms=1.0, num_mel_bins=4),  # a frame for every sample
        FbankConfig(preemphasis=0.0),
        FbankConfig(preemphasis=1.0, low_hz=0.0),
    ],
)
def test_stream_equals_whole_recording_with_other_settings(config: FbankConfig) -> None:
    samples = NOISE[:SECOND]
    sizes = np.random.default_rng(5).integers(0, 900, 60).tolist()
    assert np.array_equal(stream(samples, sizes, config), fbank(samples, config))


@pytest.mark.parametrize("index", [0, 1, 30, 31, 32, 33, 500, 1196])
def test_frame_is_the_same_alone_and_among_others(index: int) -> None:
    alone = fbank(NOISE[160 * index : 160 * index + 400])
    assert np.array_equal(alone, NOISE_FBANK[index : index + 1])


def test_frame_comes_with_its_last_sample() -> None:
    front_end = Fbank()
    counts = [len(front_end.push(NOISE[start : start + 1])) for start in range(721)]
    assert np.flatnonzero(counts).tolist() == [399, 559, 719]


def test_pushing_nothing_changes_nothing() -> None:
    front_end = Fbank()
    front_end.push(NOISE[:300])
    assert front_end.push(np.empty(0, dtype=np.float32)).shape == (0, 128)
    assert np.array_equal(front_end.push(NOISE[300:400]), NOISE_FBANK[:1])


def test_reset_starts_a_new_stream() -> None:
    front_end = Fbank()
    front_end.push(NOISE[1000:3333])
    front_end.reset()
    assert np.array_equal(front_end.push(NOISE[:SECOND]), NOISE_FBANK[:98])


def test_streams_do_not_disturb_each_other() -> None:
    one, other = Fbank(), Fbank()
    frames = []
    for start in range(0, SECOND, 160):
        frames.append(one.push(NOISE[start : start + 160]))
        other.push(NOISE[SECOND + start : SECOND + start + 250])
    assert np.array_equal(np.concatenate(frames), NOISE_FBANK[:98])


def test_frames_keep_their_values_when_the_stream_goes_on() -> None:
    front_end = Fbank()
    frames = front_end.push(NOISE[:SECOND])
    front_end.push(NOISE[SECOND : 2 * SECOND])
    assert np.array_equal(frames, NOISE_FBANK[:98])


def test_caller_may_reuse_its_buffer() -> None:
    front_end, buffer, frames = Fbank(), np.empty(250, dtype=np.float32), []
    for start in range(0, SECOND, 250):
        buffer[:] = NOISE[start : start + 250]
        frames.append(front_end.push(buffer))
    assert np.array_equal(np.concatenate(frames), NOISE_FBANK[:98])


def test_mean_of_the_recording_does_not_matter() -> None:
    # 0.25 is exact in float64, so nothing but rounding is left.
    moved = NOISE[:SECOND].astype(np.float64) + 0.25
    np.testing.assert_allclose(fbank(moved), NOISE_FBANK[:98], rtol=0, atol=1e-5)


def test_samples_are_not_changed() -> None:
    samples = NOISE[:SECOND].copy()
    samples.flags.writeable = False
    fbank(samples)
    assert np.array_equal(samples, NOISE[:SECOND])


@pytest.mark.parametrize(
    "samples",
    [
        NOISE[:SECOND].astype(np.float64),
        NOISE[:SECOND].astype(">f4"),
        NOISE[:SECOND][::-1].copy()[::-1],
        np.stack([NOISE[:SECOND]] * 2, axis=1)[:, 0],
        NOISE[:SECOND].tolist(),
    ],
    ids=["float64", "big-endian", "reversed", "strided", "list"],
)
def test_any_array_of_the_same_floats_gives_the_same_frames(samples: Any) -> None:
    frames = fbank(samples)
    assert frames.dtype == np.float32
    assert np.array_equal(frames, NOISE_FBANK[:98])


def test_frames_after_a_nan_are_clean_again() -> None:
    samples = NOISE[:SECOND].copy()
    samples[5000] = np.nan
    is_clean = ~np.isnan(fbank(samples)).any(axis=1)
    touched = range(1 + (5000 - 400) // 160, 1 + 5000 // 160)
    assert np.flatnonzero(~is_clean).tolist() == list(touched)
    assert np.array_equal(fbank(samples)[is_clean], NOISE_FBANK[:98][is_clean])


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(0, 0), (1, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)],
)
def test_only_whole_frames_count(num_samples: int, expected: int) -> None:
    assert num_frames(num_samples, FbankConfig()) == expected
    assert fbank(NOISE[:num_samples]).shape == (expected, 128)


@pytest.mark.parametrize("shape", [(), (1, 400), (400, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be floats .* shape \(N,\), mono; got float32"):
        fbank(np.zeros(shape, dtype=np.float32))


def test_unscaled_pcm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be floats in \[-1, 1\] .* got int16"):
        Fbank().push(np.zeros(400, dtype=np.int16))


def test_default_sizes_in_samples() -> None:
    config = FbankConfig()
    assert (config.window_samples, config.hop_samples, config.fft_size) == (400, 160, 512)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate", 0, "sample_rate must be a whole number from 1000"),
        ("sample_rate", 16000.0, "sample_rate must be a whole number .* got 16000.0"),
        ("num_mel_bins", 0, "num_mel_bins must be a whole number from 1 to 256"),
        ("num_mel_bins", 257, "num_mel_bins must be a whole number from 1 to 256"),
        ("num_mel_bins", 128.0, "num_mel_bins must be a whole number"),
        ("hop_ms", 0.0, "0 < hop_ms <= window_ms"),
        ("hop_ms", 25.1, "0 < hop_ms <= window_ms"),
        ("hop_ms", 0.01, "hop_ms must hold 1 sample"),
        ("hop_ms", float("nan"), "0 < hop_ms <= window_ms"),
        ("window_ms", float("inf"), "0 < hop_ms <= window_ms"),
        ("low_hz", -1.0, "low_hz must be at least 0"),
        ("low_hz", 8000.0, "low_hz must be at least 0 and below Nyquist"),
        ("preemphasis", 1.01, "preemphasis must be from 0 to 1"),
        ("preemphasis", float("nan"), "preemphasis must be from 0 to 1"),
    ],
)
def test_config_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FbankConfig(**{field: value})
