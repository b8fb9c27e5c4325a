"""WAV and raw PCM in a pipe: the header, and bytes to samples.

libsndfile wants to seek, which a pipe cannot. A program that writes WAV into a pipe does not
know how long it will be, so the sizes in the header are not to be trusted. Knows nothing of
channels to choose, resampling and blocks.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]  # (frames, channels)
Read = Callable[[int], bytes]  # exactly so many bytes, fewer only at the end of the stream

HEADER_BYTES = 12  # "RIFF", size, "WAVE": enough to tell WAV from raw PCM

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
# By format tag and bits per sample: dtype of a sample, value of full scale.
_ENCODINGS = {
    (_PCM, 8): ("u1", 2.0**7),
    (_PCM, 16): ("<i2", 2.0**15),
    (_PCM, 24): ("u1", 2.0**31),  # three bytes, put into the upper three of an int32
    (_PCM, 32): ("<i4", 2.0**31),
    (_FLOAT, 32): ("<f4", 1.0),
    (_FLOAT, 64): ("<f8", 1.0),
}

# sox writes 0x7FFFF000 less some bytes when it cannot know, ffmpeg 0xFFFFFFFF, others 0.
_UNKNOWN_BYTES = 0x7FFF0000
_MAX_FMT_BYTES = 40  # of the extensible format; what may follow is no use
_MAX_SKIPPED_BYTES = 1 << 24  # cover pictures and the like before the samples
_MAX_CHANNELS = 1024  # as libsndfile


@dataclass(frozen=True, kw_only=True)
class PcmFormat:
    """How the bytes of a stream are to be read."""

    sample_rate: int  # Hz
    channels: int
    tag: int = _PCM  # of WAV: 1 integer, 3 float
    bits: int = 16  # per sample
    num_bytes: int | None = None  # of samples in the stream, None: until it ends

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.bits // 8


def is_wav(head: bytes) -> bool:
    """Whether a stream that begins with these HEADER_BYTES bytes is WAV."""
    return head[:4] in (b"RIFF", b"RF64") and head[8:HEADER_BYTES] == b"WAVE"


def read_format(read: Read) -> PcmFormat:
    """Read the header of a WAV stream behind its first HEADER_BYTES, up to the first sample.

    Raises ValueError for a header that is cut off, contradicts itself, or is of compressed audio.
    """
    found: PcmFormat | None = None
    skipped = 0
    while skipped < _MAX_SKIPPED_BYTES:
        head = read(8)
        if len(head) < 8:
            raise ValueError("the WAV header is cut off: no samples follow")
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data":
            if found is None:
                raise ValueError("the WAV header does not tell the format before the samples")
            is_unknown = size == 0 or size >= _UNKNOWN_BYTES
            return found if is_unknown else replace(found, num_bytes=size)
        size += size % 2  # chunks begin at even offsets
        if kind == b"fmt ":
            chunk = read(min(size, _MAX_FMT_BYTES))
            found = _parse_format(chunk)
            size -= len(chunk)
        skipped += size
        _skip(read, min(size, _MAX_SKIPPED_BYTES))
    raise ValueError(f"the WAV header has no samples in its first {_MAX_SKIPPED_BYTES} bytes")


def decode(data: bytes, pcm: PcmFormat) -> Frames:
    """Samples, shape (frames, channels), full scale 1; an incomplete last frame is left out."""
    data = data[: len(data) - len(data) % pcm.frame_bytes]
    dtype, full_scale = _ENCODINGS[pcm.tag, pcm.bits]
    values = np.frombuffer(data, dtype)
    if pcm.bits == 24:
        padded = np.zeros((len(values) // 3, 4), np.uint8)
        padded[:, 1:] = values.reshape(-1, 3)
        values = padded.view("<i4")[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32: infinite
        samples = values.astype(np.float32)
    if pcm.bits == 8:
        samples -= full_scale
    if full_scale != 1.0:
        samples /= np.float32(full_scale)
    return samples.reshape(-1, pcm.channels)


def _parse_format(chunk: bytes) -> PcmFormat:
    if len(chunk) < 16:
        raise ValueError(f"the WAV format has {len(chunk)} bytes, wanted 16 or more")
    tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    if (tag, bits) not in _ENCODINGS:
        raise ValueError(
            f"the WAV has format {tag:#06x} with {bits} bits per sample: wanted integers of 8, "
            "16, 24 or 32 bits or floats of 32 or 64"
        )
    if not 1 <= channels <= _MAX_CHANNELS:
        raise ValueError(f"the WAV has {channels} channels, wanted 1 to {_MAX_CHANNELS}")
    found = PcmFormat(sample_rate=sample_rate, channels=channels, tag=tag, bits=bits)
    if frame_bytes != found.frame_bytes:
        raise ValueError(
            f"the WAV header contradicts itself: {frame_bytes} bytes for {channels} samples "
            f"of {bits} bits"
        )
    return found


def _skip(read: Read, num_bytes: int) -> None:
    while num_bytes > 0:
        piece = read(min(num_bytes, 1 << 16))
        if not piece:
            return
        num_bytes -= len(piece)
