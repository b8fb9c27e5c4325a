"""Audio from files and pipes: mono blocks at one sample rate, and the time of each.

Any rate, format and channel count that libsndfile reads; a pipe may hold WAV or raw PCM.
Memory does not grow with the length of the recording. Knows nothing of devices: those are
in microphone.py, which gives the same blocks.

Samples that are no numbers, or louder than any audio (a file whose header lies), are read
as silence, counted in the block and logged once per recording.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ssast_edge.c_stderr import silent_c_stderr
from ssast_edge.errors import AudioError
from ssast_edge.wav import HEADER_BYTES, Frames, PcmFormat, decode, is_wav, read_format

Samples = NDArray[np.float32]

# Rates outside are a broken header; with them, resampling would make gigabytes of a small file.
MIN_INPUT_RATE, MAX_INPUT_RATE = 1000, 1_000_000  # Hz

# Full scale is 1; some programs write floats with the scale of 32-bit integers. What is still
# louder would make the features of everything near it infinite.
_LOUDEST = 2.0**31
_MAX_PIECE_VALUES = 1 << 20  # read at once, all channels: 4 MB
_CONTAINERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b"RIFX": "RIFX"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """A stretch of audio without a gap inside."""

    samples: Samples  # (N,), mono, N > 0
    start_s: float  # audio time of the first sample
    dropped_s: float = 0.0  # lost just before this block; start_s has advanced over it
    bad_samples: int = 0  # of the input, all channels: no numbers, read as silence


class Resampler:
    """Streaming sample rate conversion of one channel, by soxr in its high quality.

    Sample n of the output is the input at n / output_rate seconds. However the input is cut,
    the output is the same. It comes in pieces of uneven length, after the input by 40 ms for
    44.1 and 48 kHz, 120 ms for 8 kHz; at once when the rates are equal.
    """

    def __init__(self, input_rate: int, output_rate: int) -> None:
        self._stream: Any = None  # soxr has no type information
        if input_rate != output_rate:
            try:
                import soxr
            except ImportError as error:
                raise AudioError(
                    f"soxr is not installed, which {input_rate} Hz audio needs: pip install soxr"
                ) from error
            self._stream = soxr.ResampleStream(input_rate, output_rate, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        """Feed samples, shape (N,); the output that is ready, shape (M,), M may be 0."""
        if self._stream is None:
            return samples
        output: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        return output

    def flush(self) -> Samples:
        """The output still inside, shape (M,). The next push begins a new stream."""
        nothing = np.zeros(0, np.float32)
        if self._stream is None:
            return nothing
        output: Samples = self._stream.resample_chunk(nothing, last=True)
        self._stream.clear()
        return output


def read_audio(path: str | Path, sample_rate: int = 16000) -> Samples:
    """A whole file, shape (N,), the mean of its channels, at `sample_rate` Hz.

    Full scale is 1; a file of floats may go beyond it. Raises AudioError as file_blocks does.
    """
    blocks = [b.samples for b in file_blocks(path, sample_rate=sample_rate, block_ms=10_000)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def file_blocks(
    path: str | Path,
    *,
    sample_rate: int = 16000,
    block_ms: float = 100,
    channel: int | None = None,
) -> Iterator[Block]:
    """Blocks of about `block_ms` of a file, as fast as they are taken.

    channel: index from 0, None for the mean of all. A file with a header and no samples
    gives no blocks.

    Raises AudioError, at the first block, for a file that is missing, empty, of no format that
    libsndfile knows or without that channel; at a later block where the file is broken.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without libsndfile
        raise AudioError(
            f"soundfile cannot be loaded, which reading files needs ({error}): "
            "pip install soundfile, and apt install libsndfile1 where the package has none"
        ) from error
    try:
        _check_file(path)
        # Opened here: a name of any bytes and any ending, and the reason when it fails.
        with open(path, "rb", buffering=0) as file, ExitStack() as stack:
            with silent_c_stderr():  # mpg123 prints what is wrong with an MP3
                sound = soundfile.SoundFile(file.fileno(), closefd=False)
            stack.enter_context(sound)
            _check_input(sound.samplerate, sound.channels, channel, str(path))
            pieces = _sound_pieces(sound, _piece_frames(sound.samplerate, sound.channels, block_ms))
            yield from _blocks(pieces, Mixdown(sound.samplerate, sample_rate, channel, str(path)))
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: cannot be read as audio: {error.error_string.strip().rstrip('.')} "
            "(wanted WAV, FLAC, Ogg, MP3 or another format of libsndfile)"
        ) from error


def pcm_blocks(
    stream: BinaryIO,
    *,
    sample_rate: int = 16000,
    input_rate: int = 16000,
    input_channels: int = 1,
    block_ms: float = 100,
    channel: int | None = None,
) -> Iterator[Block]:
    """Blocks of about `block_ms` of a pipe, as they come.

    The stream is 16-bit little-endian PCM of `input_rate` Hz with `input_channels` channels
    interleaved, unless it begins with a WAV header, which then tells its format (integers of
    8 to 32 bits, floats of 32 or 64; the lengths in it may be wrong, as in every piped WAV).
    An incomplete last frame is left out. channel: as in file_blocks.

    Raises AudioError, at the first block, for a stream that is empty, of another format or
    without that channel.
    """
    if input_channels < 1:
        raise ValueError(f"input_channels must be 1 or more, got {input_channels}")
    reader = _Reader(stream)
    head = reader.read(HEADER_BYTES)
    if not head:
        raise AudioError("the audio stream is empty: is the program that should write it running?")
    pcm = PcmFormat(sample_rate=input_rate, channels=input_channels)
    if is_wav(head):
        try:
            pcm = read_format(reader.read)
        except ValueError as error:
            raise AudioError(f"the audio stream cannot be read: {error}") from error
    else:
        for magic, container in _CONTAINERS.items():
            if head.startswith(magic):
                raise AudioError(
                    f"the audio stream is {container}: wanted WAV or raw 16-bit PCM, or a file"
                )
        reader.unread(head)
    _check_input(pcm.sample_rate, pcm.channels, channel, "the audio stream")
    pieces = _pcm_pieces(reader, pcm, _piece_frames(pcm.sample_rate, pcm.channels, block_ms))
    yield from _blocks(pieces, Mixdown(pcm.sample_rate, sample_rate, channel, "the audio stream"))


class Mixdown:
    """Frames of any rate and channel count in, blocks of one channel out, each with its time.

    channel: index from 0, None for the mean of all. name: for the log.
    """

    def __init__(self, input_rate: int, sample_rate: int, channel: int | None, name: str) -> None:
        self._resampler = Resampler(input_rate, sample_rate)
        self._sample_rate = sample_rate
        self._channel = channel
        self._name = name
        self._start_s = 0.0  # of the stretch without gaps
        self._num_samples = 0  # given since then
        self._end_s = 0.0  # of the block given last
        self._num_bad = 0  # since the block given last
        self._has_warned = False

    def push(self, frames: Frames) -> Iterator[Block]:
        """Feed frames, shape (N, channels); the block that is ready, if one is."""
        mono, num_bad = _mix(frames, self._channel)
        self._num_bad += num_bad
        if num_bad and not self._has_warned:
            _log.warning("%s: samples that are no numbers are read as silence", self._name)
            self._has_warned = True
        yield from self._block(self._resampler.push(mono))

    def flush(self) -> Iterator[Block]:
        """The block still inside, if there is one."""
        yield from self._block(self._resampler.flush())

    def jump(self, time_s: float) -> Iterator[Block]:
        """Tell of a gap: what is pushed next was recorded at `time_s`. Flushes."""
        yield from self.flush()
        self._start_s, self._num_samples = time_s, 0

    def _block(self, samples: Samples) -> Iterator[Block]:
        if not len(samples):
            return
        start_s = self._start_s + self._num_samples / self._sample_rate
        dropped_s = 0.0 if self._num_samples else max(0.0, start_s - self._end_s)
        num_bad, self._num_bad = self._num_bad, 0
        self._num_samples += len(samples)
        self._end_s = start_s + len(samples) / self._sample_rate
        yield Block(samples, start_s, dropped_s, num_bad)


def check_channel(channel: int | None, channels: int, name: str) -> None:
    """Raise AudioError unless None or one of `channels` channels, counted from 0."""
    if channel is not None and not 0 <= channel < channels:
        has = "1 channel, number 0" if channels == 1 else f"channels 0 to {channels - 1}"
        raise AudioError(f"{name}: has no channel {channel}: it has {has}")


def _mix(frames: Frames, channel: int | None) -> tuple[Samples, int]:
    """One channel, or the mean of all, shape (N,), and how many values were no audio."""
    with np.errstate(invalid="ignore"):
        is_audio = np.abs(frames) <= _LOUDEST  # False for a NaN, too
    num_bad = frames.size - int(np.count_nonzero(is_audio))
    if num_bad:
        frames = np.where(is_audio, frames, np.float32(0))
    if frames.shape[1] == 1:
        channel = 0
    if channel is None:
        return frames.mean(axis=1, dtype=np.float32), num_bad
    return np.ascontiguousarray(frames[:, channel]), num_bad


def _blocks(pieces: Iterator[Frames], mixdown: Mixdown) -> Iterator[Block]:
    for frames in pieces:
        yield from mixdown.push(frames)
    yield from mixdown.flush()


def _sound_pieces(sound: Any, num_frames: int) -> Iterator[Frames]:
    # Until a read comes back short, never until the length in the header, which may lie.
    is_more = True
    while is_more:
        with silent_c_stderr():
            frames: Frames = sound.read(num_frames, dtype="float32", always_2d=True)
        is_more = len(frames) == num_frames
        if len(frames):
            yield frames


def _pcm_pieces(reader: "_Reader", pcm: PcmFormat, num_frames: int) -> Iterator[Frames]:
    piece_bytes = num_frames * pcm.frame_bytes
    left = pcm.num_bytes
    while left is None or left > 0:
        wanted = piece_bytes if left is None else min(left, piece_bytes)
        data = reader.read(wanted)
        frames = decode(data, pcm)
        if len(frames):
            yield frames
        if len(data) < wanted:
            return
        left = None if left is None else left - wanted


class _Reader:
    """Reads exactly as many bytes as asked for, fewer only at the end of the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead = b""

    def unread(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    def read(self, num_bytes: int) -> bytes:
        data, self._ahead = self._ahead[:num_bytes], self._ahead[num_bytes:]
        while len(data) < num_bytes:
            try:
                piece = self._stream.read(num_bytes - len(data))
            except OSError as error:
                raise AudioError(
                    f"the audio stream cannot be read: {error.strerror or error}"
                ) from error
            if piece is None:
                raise AudioError("the audio stream is in non-blocking mode: wanted a blocking one")
            if not piece:
                break
            data += piece
        return data


def _check_file(path: str | Path) -> None:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path}: is a directory, wanted an audio file")
    if not stat.S_ISREG(status.st_mode):  # opening it might wait for ever
        raise AudioError(f"{path}: is a pipe or a device: read it from standard input")
    if status.st_size == 0:
        raise AudioError(f"{path}: is empty: 0 bytes")


def _check_input(sample_rate: int, channels: int, channel: int | None, name: str) -> None:
    if not MIN_INPUT_RATE <= sample_rate <= MAX_INPUT_RATE:
        raise AudioError(
            f"{name}: has a sample rate of {sample_rate} Hz, wanted {MIN_INPUT_RATE} to "
            f"{MAX_INPUT_RATE}"
        )
    check_channel(channel, channels, name)


def _piece_frames(sample_rate: int, channels: int, block_ms: float) -> int:
    """How many frames to read at once for blocks of `block_ms`."""
    if not 0 < block_ms < float("inf"):
        raise ValueError(f"block_ms must be a time above 0, got {block_ms}")
    return max(1, min(round(sample_rate * block_ms / 1000), _MAX_PIECE_VALUES // channels))
