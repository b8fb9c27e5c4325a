"""A second of the microphone's sound, recorded as `listen` does, and what is wrong with it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.doctor.finding import Finding, Options, ok, warning
from ssast_edge.microphone import Device, Microphone

Samples = NDArray[np.float32]

RECORD_S = 1.0
SETTLE_S = 0.3  # cards click and swing in when they start
SILENT_PEAK = 2.0**-15  # one step of 16 bits: what an empty converter may flicker by
FAINT_DBFS = -65.0  # mean level of a quiet room with a microphone that is turned down
CLIPPED = 0.999
CLIPPED_SHARE = 1e-3
OFFSET = 0.05  # mean value that a sound card should never have

_UNMUTE = "alsamixer (F4, then space), or: pactl set-source-mute @DEFAULT_SOURCE@ 0"
_LOUDER = "turn the input up: alsamixer (F4), or: pactl set-source-volume @DEFAULT_SOURCE@ 100%"
_SOFTER = "turn the input down: alsamixer (F4), or: pactl set-source-volume @DEFAULT_SOURCE@ 70%"


@dataclass(frozen=True, kw_only=True)
class Level:
    """What a stretch of audio is like; samples lie in [-1, 1], and 0 dBFS is their limit."""

    peak: float
    mean_dbfs: float  # of the root mean square around the offset; -inf for none
    offset: float
    clipped_share: float

    @property
    def peak_dbfs(self) -> float:
        """The loudest sample."""
        return 20 * math.log10(self.peak) if self.peak else -math.inf


def measure(samples: Samples) -> Level:
    """The level of mono samples, shape (N,), N at least 1."""
    offset = float(samples.mean(dtype=np.float64))
    rms = float(np.sqrt(np.mean((samples.astype(np.float64) - offset) ** 2)))
    return Level(
        peak=float(np.abs(samples).max()),
        mean_dbfs=20 * math.log10(rms) if rms else -math.inf,
        offset=offset,
        clipped_share=float(np.mean(np.abs(samples) >= CLIPPED)),
    )


def judge(level: Level) -> Finding:
    """What to say of it. A muted microphone is heard by `listen`, but says nothing."""
    if level.peak <= SILENT_PEAK:
        return warning(
            "digital silence: the microphone is muted or nothing is plugged into it", _UNMUTE
        )
    text = f"peak {level.peak_dbfs:.1f} dBFS, mean {level.mean_dbfs:.1f} dBFS"
    if level.clipped_share >= CLIPPED_SHARE:
        return warning(f"{text}: {100 * level.clipped_share:.1f} % of it is clipped", _SOFTER)
    if abs(level.offset) >= OFFSET:
        return warning(
            f"{text}, but it is {level.offset:+.2f} off the middle: bad contact or a broken card",
            "another plug, cable or sound card",
        )
    if level.mean_dbfs < FAINT_DBFS:
        return warning(f"{text}: very faint, words may be missed", _LOUDER)
    return ok(text)


def check_level(device: Device, options: Options) -> Iterator[Finding]:
    """Record and judge. Raises AudioError when `listen` could not record from it either."""
    with Microphone(
        device.index, channel=options.channel, sample_rate=device.sample_rate
    ) as microphone:
        samples = record(microphone, device.sample_rate)
        lost_s, overflows = microphone.dropped_s, microphone.overflows
        channels = microphone.input_channels
    found = judge(measure(samples))
    how = f"{device.sample_rate} Hz, {channels} channel{'' if channels == 1 else 's'}"
    yield Finding(found.status, f"{device.name}: {how}, {found.text}", found.fix)
    if lost_s or overflows:
        yield warning(
            f"{device.name}: lost {lost_s:.2f} s of audio, {overflows} overflows within a second",
            "end other programs, plug USB microphones into a port of their own",
        )


def record(microphone: Microphone, sample_rate: int) -> Samples:
    """RECORD_S of mono samples after SETTLE_S."""
    first, wanted = round(SETTLE_S * sample_rate), round(RECORD_S * sample_rate)
    pieces: list[Samples] = []
    for block in microphone:
        pieces.append(block.samples)
        if sum(map(len, pieces)) >= first + wanted:
            break
    return np.concatenate(pieces)[first : first + wanted]
