"""Files of every kind and pipes become the same mono blocks; what is broken is one clear line."""

import io
import logging
import os
import struct
import subprocess
import sys
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssast_edge.audio import (
    Block,
    Mixdown,
    Resampler,
    Samples,
    file_blocks,
    pcm_blocks,
    read_audio,
)
from ssast_edge.errors import AudioError

SAMPLE_RATE = 16_000
WAV_SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


def tone(hz: float, seconds: float, sample_rate: int, amplitude: float = 0.5) -> Samples:
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (amplitude * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def noise(num_samples: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, num_samples).astype(np.float32)


def loudest_hz(samples: Samples, sample_rate: int = SAMPLE_RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * sample_rate / len(samples)


def joined(blocks: list[Block]) -> Samples:
    return np.concatenate([block.samples for block in blocks])


def wav_bytes(frames: NDArray[Any], sample_rate: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, sample_rate, format="WAV", subtype=subtype)
    return file.getvalue()


# Formats, rates and channels


@pytest.mark.parametrize("sample_rate", [4000, 8000, 11025, 16000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_tone_is_read_from_wav(
    tmp_path: Path, sample_rate: int, subtype: str, channels: int
) -> None:
    path = tmp_path / "tone.wav"
    frames = np.repeat(tone(1000, 0.25, sample_rate)[:, None], channels, axis=1)
    soundfile.write(path, frames, sample_rate, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(0.25 * SAMPLE_RATE, abs=1)
    middle = samples[800:-800]
    assert loudest_hz(middle) == pytest.approx(1000, abs=7)
    tolerance = 0.01 if subtype == "PCM_U8" else 1e-3  # one step of 8 bits is 1/128
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, abs=tolerance)


@pytest.mark.parametrize("sample_rate", [16000, 48000])
@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au", "a.caf", "a.w64"])
def test_a_tone_is_read_from_other_formats(tmp_path: Path, name: str, sample_rate: int) -> None:
    soundfile.write(tmp_path / name, tone(1000, 0.5, sample_rate), sample_rate)
    samples = read_audio(tmp_path / name)
    assert len(samples) == pytest.approx(0.5 * SAMPLE_RATE, abs=1)
    middle = samples[1600:-1600]
    assert loudest_hz(middle) == pytest.approx(1000, abs=4)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=0.1)  # MP3, Vorbis


@pytest.mark.parametrize("name", ["ü 名.wav", "no ending", "tone.raw", b"\xff.wav"])
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(wav_bytes(tone(440, 0.1, 16000), 16000))
    assert len(read_audio(path)) == 1600
    assert len(read_audio(str(path))) == 1600


def test_another_sample_rate_can_be_asked_for(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000, 0.5, 48000), 48000)
    samples = read_audio(tmp_path / "a.wav", sample_rate=8000)
    assert loudest_hz(samples, 8000) == pytest.approx(1000, abs=4)
    assert len(samples) == 4000


def test_resampling_lets_nothing_above_the_new_nyquist_through() -> None:
    resampler = Resampler(48000, SAMPLE_RATE)
    output = np.concatenate([resampler.push(tone(9000, 1, 48000)), resampler.flush()])
    assert np.max(np.abs(output[1600:-1600])) < 1e-4  # -80 dB


# Channels


def test_one_channel_or_the_mean_of_all(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    channels = np.stack([noise(1000, seed) for seed in range(3)], axis=1)
    soundfile.write(path, channels, SAMPLE_RATE, subtype="FLOAT")
    for channel in range(3):
        samples = joined(list(file_blocks(path, channel=channel)))
        np.testing.assert_array_equal(samples, channels[:, channel])
    np.testing.assert_allclose(read_audio(path), channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("channel", [-1, 2])
def test_a_channel_that_is_not_there_is_refused(tmp_path: Path, channel: int) -> None:
    data = wav_bytes(np.zeros((100, 2)), SAMPLE_RATE)
    (tmp_path / "a.wav").write_bytes(data)
    for blocks in (
        file_blocks(tmp_path / "a.wav", channel=channel),
        pcm_blocks(io.BytesIO(data), channel=channel),
        pcm_blocks(io.BytesIO(bytes(100)), input_channels=2, channel=channel),
    ):
        with pytest.raises(AudioError, match=f"no channel {channel}: it has channels 0 to 1"):
            list(blocks)


# Blocks


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([4000, 8000, 11025, 16000, 22050, 44100, 48000, 47999, 192000]),
    sizes=st.lists(st.integers(0, 9000), max_size=12),
)
def test_streamed_resampling_equals_one_shot(rate: int, sizes: list[int]) -> None:
    samples = noise(sum(sizes))
    resampler = Resampler(rate, SAMPLE_RATE)
    ends = np.cumsum(sizes, dtype=int)
    parts = [resampler.push(part) for part in np.split(samples, ends[:-1] if sizes else [])]
    streamed = np.concatenate([*parts, resampler.flush()])
    expected = samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE)
    assert len(streamed) == len(expected)
    np.testing.assert_allclose(streamed, expected, atol=1e-6)


def test_a_flushed_resampler_begins_anew() -> None:
    resampler = Resampler(44100, SAMPLE_RATE)
    samples = noise(5000)
    first = np.concatenate([resampler.push(samples), resampler.flush()])
    second = np.concatenate([resampler.push(samples), resampler.flush()])
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("block_ms", [0.01, 1, 33.3, 100, 5000])
def test_blocks_join_to_the_whole_file_at_any_size(tmp_path: Path, block_ms: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([noise(3000), noise(3000, 1)], axis=1), 44100)
    blocks = list(file_blocks(path, block_ms=block_ms))
    np.testing.assert_allclose(joined(blocks), read_audio(path), atol=1e-6)
    time_s = 0.0
    for block in blocks:
        assert len(block.samples) > 0
        assert block.start_s == pytest.approx(time_s, abs=1e-9)
        assert (block.dropped_s, block.bad_samples) == (0, 0)
        time_s += len(block.samples) / SAMPLE_RATE


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(300 * 8000, np.float32), 8000, subtype="PCM_U8")
    list(file_blocks(path, block_ms=60_000))[:1]  # whatever is loaded once
    tracemalloc.start()
    num_samples = sum(len(block.samples) for block in file_blocks(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_samples == 300 * SAMPLE_RATE
    assert peak_bytes < 1_000_000  # all of it would be 19 MB


def test_a_gap_moves_the_clock_and_is_told_by_the_next_block() -> None:
    mixdown = Mixdown(48000, SAMPLE_RATE, None, "test")
    frames = noise(4800)[:, None]
    before = [*mixdown.push(frames), *mixdown.jump(0.6)]
    after = [*mixdown.push(frames), *mixdown.flush()]
    assert sum(len(block.samples) for block in before) == 1600
    assert sum(len(block.samples) for block in after) == 1600
    assert [block.dropped_s for block in before] == [0.0] * len(before)
    assert after[0].start_s == 0.6
    assert after[0].dropped_s == pytest.approx(0.5)
    assert [block.dropped_s for block in after[1:]] == [0.0] * (len(after) - 1)


# What is no good


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: 0 bytes"),
        (b"RIFF", "cannot be read as audio: "),
        (b"This is not audio.\n" * 20, "cannot be read as audio: Format not recognised"),
        (bytes(1000), "cannot be read as audio: "),
        (wav_bytes(np.zeros(100), 16000)[:30], "cannot be read as audio: "),
        (wav_bytes(np.zeros(100), 16000)[:36] + b"DATA", "cannot be read as audio: "),
        (wav_bytes(np.zeros(100), 7), "a sample rate of 7 Hz, wanted 1000 to 1000000"),
        (wav_bytes(np.zeros(100), 2**31 - 1), "a sample rate of 2147483647 Hz, wanted"),
    ],
)
def test_a_file_that_is_no_audio_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message


def test_a_damaged_mp3_is_not_commented_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "damaged.mp3", tone(440, 1, SAMPLE_RATE), SAMPLE_RATE)
    content = bytearray((tmp_path / "damaged.mp3").read_bytes())
    content[len(content) // 2 :: 7] = b"\0" * len(content[len(content) // 2 :: 7])
    (tmp_path / "damaged.mp3").write_bytes(content)
    assert len(read_audio(tmp_path / "damaged.mp3"))
    assert capfd.readouterr().err == ""


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, reason in [
        ("missing.wav", "cannot be read: No such file or directory"),
        (".", "is a directory, wanted an audio file"),
        ("fifo", "is a pipe or a device: read it from standard input"),
    ]:
        with pytest.raises(AudioError) as caught:
            read_audio(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_a_file_without_samples_gives_no_blocks(tmp_path: Path, sample_rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((0, 2)), sample_rate)
    assert list(file_blocks(path)) == []
    assert read_audio(path).shape == (0,)
    assert read_audio(path).dtype == np.float32


def test_a_file_of_one_sample_is_read(tmp_path: Path) -> None:
    for sample_rate in (4000, 16000, 192000):
        soundfile.write(tmp_path / "a.wav", np.array([0.5]), sample_rate)
        samples = read_audio(tmp_path / "a.wav")
        assert len(samples) == round(SAMPLE_RATE / sample_rate)
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), SAMPLE_RATE)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), [0.5])


def test_a_file_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(noise(1000), SAMPLE_RATE)[: 44 + 2 * 600 + 1])
    assert len(read_audio(path)) == 600


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_samples_that_are_no_numbers_become_silence_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, subtype: str, sample_rate: int
) -> None:
    good = noise(2 * 9000).reshape(-1, 2)
    bad = good.copy()
    bad[100, 0], bad[200, 1], bad[300, :], bad[8000, 0] = np.nan, np.inf, -np.inf, 3e38
    good[100, 0], good[200, 1], good[300, :], good[8000, 0] = 0, 0, 0, 0
    paths = tmp_path / "good.wav", tmp_path / "bad.wav"
    for path, frames in zip(paths, (good, bad), strict=True):
        soundfile.write(path, frames, sample_rate, subtype=subtype)
    with caplog.at_level(logging.WARNING):
        blocks = list(file_blocks(paths[1], block_ms=50))
    np.testing.assert_array_equal(joined(blocks), read_audio(paths[0]))
    assert sum(block.bad_samples for block in blocks) == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"{paths[1]}: samples that are no numbers are read as silence"
    ]


def test_float64_beyond_float32_becomes_silence(tmp_path: Path) -> None:
    data = wav_bytes(np.array([1e300, 0.5, -1e300]), SAMPLE_RATE, "DOUBLE")
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), [0, 0.5, 0])
    np.testing.assert_array_equal(joined(list(pcm_blocks(io.BytesIO(data)))), [0, 0.5, 0])


# Pipes


class Dripping:
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, num_bytes: int) -> bytes:
        return self._file.read(min(num_bytes, self._step))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_raw_pcm_is_read_at_its_rate_and_channels(channels: int) -> None:
    frames = np.repeat(tone(1000, 0.5, 44100)[:, None], channels, axis=1)
    data = (frames * 32767).astype("<i2").tobytes()
    blocks = list(pcm_blocks(io.BytesIO(data), input_rate=44100, input_channels=channels))
    assert len(joined(blocks)) == 8000
    assert loudest_hz(joined(blocks)) == pytest.approx(1000, abs=4)


def test_raw_pcm_is_exact() -> None:
    values = np.array([0, 1, -1, 32767, -32768, 258], "<i2")
    blocks = list(pcm_blocks(io.BytesIO(values.tobytes())))
    np.testing.assert_array_equal(joined(blocks), values / 32768)


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_pipe_may_give_less_than_was_asked_for(step: int) -> None:
    data = (noise(5000) * 32767).astype("<i2").tobytes()
    stream = cast(BinaryIO, Dripping(data + b"x", step))  # the odd byte at the end is left out
    blocks = list(pcm_blocks(stream, block_ms=50))
    expected = list(pcm_blocks(io.BytesIO(data), block_ms=50))
    np.testing.assert_array_equal(joined(blocks), joined(expected))
    assert [block.start_s for block in blocks] == [block.start_s for block in expected]


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 11, 12, 13])
def test_a_very_short_pipe_is_raw_pcm(num_bytes: int) -> None:
    samples = [s for block in pcm_blocks(io.BytesIO(bytes(num_bytes))) for s in block.samples]
    assert len(samples) == num_bytes // 2


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("format_name", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_piped_wav_equals_the_file(
    tmp_path: Path, subtype: str, format_name: str, channels: int
) -> None:
    path = tmp_path / "a.wav"
    frames = noise(2000 * channels).reshape(-1, channels)
    soundfile.write(path, frames, 44100, format=format_name, subtype=subtype)
    # The rate and the channels given are those of raw PCM: the header goes before them.
    blocks = list(pcm_blocks(io.BytesIO(path.read_bytes()), input_rate=8000, input_channels=7))
    np.testing.assert_allclose(joined(blocks), read_audio(path), atol=1e-6)


def _wav(data_size: int, data: bytes, before: bytes = b"", riff_size: int = 0xFFFFFFFF) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE")
        + before
        + struct.pack("<4sI", b"fmt ", len(form))
        + form
        + struct.pack("<4sI", b"data", data_size)
        + data
    )


@pytest.mark.parametrize("size", [0, 0x7FFFEFFC, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_piped_wav_of_unknown_length_is_read_to_its_end(size: int) -> None:
    data = (noise(5000) * 32767).astype("<i2").tobytes()
    blocks = list(pcm_blocks(io.BytesIO(_wav(size, data))))
    np.testing.assert_array_equal(joined(blocks), joined(list(pcm_blocks(io.BytesIO(data)))))


def test_chunks_around_the_samples_of_a_piped_wav_are_no_audio() -> None:
    data = (noise(500) * 32767).astype("<i2").tobytes()
    before = struct.pack("<4sI", b"LIST", 27) + b"x" * 28  # odd sizes are padded
    wav = _wav(len(data), data + b"LIST" + b"y" * 100, before)
    blocks = list(pcm_blocks(io.BytesIO(wav)))
    np.testing.assert_array_equal(joined(blocks), joined(list(pcm_blocks(io.BytesIO(data)))))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"fLaC" + bytes(50), "is FLAC: wanted WAV or raw 16-bit PCM"),
        (b"OggS" + bytes(50), "is Ogg"),
        (b"ID3\4" + bytes(50), "is MP3"),
        (b"RIFX" + bytes(50), "is RIFX"),
        (_wav(0, b"")[:30], "the WAV format has 10 bytes, wanted 16 or more"),
        (_wav(0, b"")[:36], "the WAV header is cut off"),
        (_wav(0, b"", b"data" + bytes(4)), "does not tell the format before the samples"),
        (_wav(0, b"", struct.pack("<4sI", b"fmt ", 4) + bytes(4)), "4 bytes, wanted 16 or more"),
        (wav_bytes(np.zeros(9), 16000, "ALAW"), "format 0x0006 with 8 bits"),
        (wav_bytes(np.zeros(9), 100), "a sample rate of 100 Hz"),
        (_wav(0, b"").replace(b"\2\0\x10\0", b"\3\0\x10\0"), "contradicts itself: 3 bytes"),
        (_wav(0, bytes(9), struct.pack("<4sI", b"junk", 2**32 - 2)), "no samples in its first"),
    ],
)
def test_a_pipe_of_something_else_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(AudioError) as caught:
        list(pcm_blocks(io.BytesIO(content)))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


class Broken:
    """A pipe whose other end fails, or whose mode is another."""

    def __init__(self, answer: None | OSError) -> None:
        self._answer = answer

    def read(self, num_bytes: int) -> None:
        if self._answer is not None:
            raise self._answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(OSError(5, "Input/output error"), "Input/output error"), (None, "non-blocking mode")],
)
def test_a_pipe_that_cannot_be_read_is_refused(answer: None | OSError, reason: str) -> None:
    with pytest.raises(AudioError, match=f"the audio stream .*{reason}"):
        list(pcm_blocks(cast(BinaryIO, Broken(answer))))


# Damaged headers


def _damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(data)
    for position, value in damage:
        damaged[position % min(60, len(damaged))] = value
    return bytes(damaged)


WAVS = [
    wav_bytes(noise(2000).reshape(-1, channels), 16000, subtype)
    for subtype in (*WAV_SUBTYPES, "ALAW", "MS_ADPCM", "IMA_ADPCM")
    for channels in (1, 2)
]
DAMAGE = st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), min_size=1, max_size=6)


@settings(
    max_examples=150,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(wav=st.sampled_from(WAVS), damage=DAMAGE, cut=st.none() | st.integers(0, 100))
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_damaged_header_is_read_or_refused(
    tmp_path: Path, kind: str, wav: bytes, damage: list[tuple[int, int]], cut: int | None
) -> None:
    data = _damaged(wav, damage)[:cut]
    (tmp_path / "a.wav").write_bytes(data)
    kinds: dict[str, Callable[[], Any]] = {
        "file": lambda: file_blocks(tmp_path / "a.wav"),
        "pipe": lambda: pcm_blocks(io.BytesIO(data)),
    }
    num_samples = 0
    message = "none"
    try:
        for block in kinds[kind]():
            assert np.isfinite(block.samples).all()
            num_samples += len(block.samples)
    except AudioError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    # At most two samples a byte (4-bit ADPCM), each of them 16 of 16 kHz (from 1 kHz).
    assert num_samples <= 2 * 16 * len(data) + 16


# Imports


def test_importing_audio_imports_numpy_only() -> None:
    code = "import ssast_edge.audio, ssast_edge.microphone, sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    modules = set(output.stdout.decode().split())
    assert "numpy" in modules
    assert not modules & {"soundfile", "soxr", "sounddevice", "scipy", "torch", "cffi"}


@pytest.mark.parametrize("module", ["soundfile", "soxr"])
def test_a_missing_library_is_told(tmp_path: Path, module: str) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2000))
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from ssast_edge.audio import AudioError, read_audio\n"
        "try:\n"
        f"    read_audio({str(tmp_path / 'a.wav')!r})\n"
        "except AudioError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert f"pip install {module}" in output.stdout.decode()
