"""Where `listen` gets its audio: a microphone, a file or a pipe, at full speed or paced."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ssast_edge.audio import Block, file_blocks, pcm_blocks
from ssast_edge.errors import AudioError


class Source(Protocol):
    """Blocks of audio, and what became of the audio that is not among them."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def overflows(self) -> int:
        """Times the device said that it lost audio."""

    @property
    def dropped_s(self) -> float:
        """Audio lost so far."""

    @property
    def backlog_s(self) -> float:
        """Audio that is waiting behind the block that was given last."""

    def __iter__(self) -> Iterator[Block]:
        """The blocks."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which audio `listen` hears."""

    input: str | None = None  # a file, "-" for standard input, None for a microphone
    input_rate: int = 16000  # Hz, of raw PCM
    input_channels: int = 1  # of raw PCM
    device: str | None = None  # index or part of the name, None for the default
    channel: int | None = None  # index from 0, None for the mean of all
    realtime: bool = False  # a file no faster than it was recorded


class Recording:
    """A file or a pipe: it waits for its reader, so nothing is ever lost."""

    overflows = 0
    dropped_s = 0.0
    backlog_s = 0.0

    def __init__(self, name: str, blocks: Iterable[Block]) -> None:
        self.name = name
        self._blocks = blocks

    def __iter__(self) -> Iterator[Block]:
        """The blocks, as fast as they are taken."""
        yield from self._blocks


class PacedRecording:
    """A recording at the speed of a microphone, and falling behind like one."""

    overflows = 0
    dropped_s = 0.0

    def __init__(self, name: str, blocks: Iterable[Block], sample_rate: int) -> None:
        self.name = name
        self._blocks = blocks
        self._sample_rate = sample_rate
        self._due_s = 0.0  # when, by the wall clock, the block that was given last had ended

    @property
    def backlog_s(self) -> float:
        """Audio that a microphone would have recorded meanwhile."""
        return max(0.0, time.monotonic() - self._due_s)

    def __iter__(self) -> Iterator[Block]:
        """Each block at the time at which its last sample would have been recorded."""
        began_s = asked_s = time.monotonic()
        for block in self._blocks:
            end_s = block.start_s + len(block.samples) / self._sample_rate
            # A pipe that kept its reader waiting is no backlog.
            began_s += max(0.0, time.monotonic() - max(asked_s, began_s + end_s))
            self._due_s = began_s + end_s
            time.sleep(max(0.0, self._due_s - time.monotonic()))
            yield block
            asked_s = time.monotonic()


def open_source(config: SourceConfig, sample_rate: int) -> AbstractContextManager[Source]:
    """The audio that the options ask for, at `sample_rate` Hz, one channel."""
    if config.input is None:
        from ssast_edge.microphone import Microphone

        if config.realtime:
            raise AudioError("--realtime paces a file: give it with --input")

        device = config.device
        is_index = device is not None and device.isdecimal()
        return Microphone(
            int(device) if device and is_index else device,
            channel=config.channel,
            sample_rate=sample_rate,
        )
    if config.device is not None:
        raise AudioError("--device is a microphone's and --input is a file: give one of them")
    name = "standard input" if config.input == "-" else Path(config.input).name
    blocks = _blocks(config, config.input, sample_rate)
    if config.realtime:
        return nullcontext(PacedRecording(name, blocks, sample_rate))
    return nullcontext(Recording(name, blocks))


def _blocks(config: SourceConfig, path: str, sample_rate: int) -> Iterator[Block]:
    if path != "-":
        return file_blocks(path, sample_rate=sample_rate, channel=config.channel)
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("standard input has no audio: pipe a WAV or raw PCM into it")
    return pcm_blocks(
        sys.stdin.buffer,
        sample_rate=sample_rate,
        input_rate=config.input_rate,
        input_channels=config.input_channels,
        channel=config.channel,
    )
