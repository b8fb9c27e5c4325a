"""Live audio from a microphone: mono blocks at one sample rate, and the time of each.

PortAudio, through sounddevice, records at the device's own rate and with all its channels;
mixing and resampling are done here. The device's thread only copies into an `Intake`, a
bounded queue; whoever takes the blocks does the rest.

Time is counted in recorded samples. Where audio was lost, the count goes on over the gap:

- nobody took the blocks and the queue was full: the loss is known to the sample;
- the device says that it lost audio (overflow) but not how much: the loss is what its clock,
  the time at which each buffer was recorded, advanced more than the samples did. With a
  sound card that is exact to some milliseconds. Through a sound server (PulseAudio,
  PipeWire) overflows are not seen at all: the server keeps seconds of audio instead.

While the machine sleeps nothing is recorded and time stands still.
"""

import logging
import math
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ssast_edge.audio import Block, Mixdown, check_channel
from ssast_edge.c_stderr import silent_c_stderr
from ssast_edge.errors import AudioError
from ssast_edge.wav import Frames

# The device may wait this long before it calls: PulseAudio's first block can take 2 s.
START_S = 5.0
# A device that has called before and is silent for this long has gone.
SILENT_S = 2.0
_POLL_S = 0.25
_CLOSE_S = 1.0  # a sound server that hangs never lets go of its stream

# Blocks the driver holds while this process is busy: at 80 ms, a third of a second.
_DRIVER_BLOCKS = 3
# More channels than any microphone: a converter (ALSA's "default", a sound server) that makes
# any number of channels of whatever the device has.
_MAX_REAL_CHANNELS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that can record."""

    index: int
    name: str
    channels: int  # at most; 32 and more: a sound server, which makes as many as are wanted
    sample_rate: int  # Hz, the device's own
    is_default: bool


def list_devices() -> list[Device]:
    """Every device that can record, in PortAudio's order, as they were at its first use.

    Raises AudioError when sounddevice or PortAudio is missing.
    """
    sounddevice = _import_sounddevice()
    default = sounddevice.default.device[0]
    return [
        Device(
            index=entry["index"],
            name=entry["name"],
            channels=entry["max_input_channels"],
            sample_rate=round(entry["default_samplerate"]),
            is_default=entry["index"] == default,
        )
        for entry in sounddevice.query_devices()
        if entry["max_input_channels"] > 0
    ]


def find_device(wanted: int | str | None, devices: Sequence[Device]) -> Device:
    """The device with that index, or with that in its name, or the default for None.

    A whole name goes before a part of one; case does not count. Raises AudioError when there
    is none or more than one.
    """
    if not devices:
        raise AudioError(
            "no microphone was found: connect one, and see that this user may use it "
            "(group audio; in a container, --device /dev/snd)"
        )
    if wanted is None:
        found = [device for device in devices if device.is_default] or list(devices[:1])
    elif isinstance(wanted, int):
        found = [device for device in devices if device.index == wanted]
    else:
        name = wanted.casefold()
        found = [device for device in devices if device.name.casefold() == name]
        found = found or [device for device in devices if name in device.name.casefold()]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{device.index} {device.name!r}" for device in found or devices)
    if found:
        raise AudioError(
            f"{len(found)} microphones are called {wanted!r}: {listed}: give the number of one"
        )
    raise AudioError(f"no microphone is called {wanted!r}: there are {listed}")


@dataclass(frozen=True)
class Piece:
    """What the device handed over at once."""

    frames: Frames  # (N, channels)
    position: int  # frames before this piece since the start, lost ones included


class Intake:
    """Between the device's thread and the reader: a bounded queue that knows what it lost.

    `push` is for the one thread, everything else for the other.
    """

    def __init__(self, sample_rate: int, max_pieces: int) -> None:
        self.overflows = 0  # times the device said that it lost audio
        self._sample_rate = sample_rate  # Hz, of the device
        self._queue: queue.Queue[Piece] = queue.Queue(max_pieces)
        self._position = 0  # frames so far, lost ones included
        self._lost_frames = 0
        self._due_s: float | None = None  # recording time of the next piece if nothing is lost
        self._piece_frames = 0

    @property
    def dropped_s(self) -> float:
        """Audio lost so far."""
        return self._lost_frames / self._sample_rate

    @property
    def backlog_s(self) -> float:
        """Audio that is waiting to be taken."""
        return self._queue.qsize() * self._piece_frames / self._sample_rate

    def push(self, frames: Frames, recorded_s: float, has_overflowed: bool) -> None:
        """Take what the device hands over, shape (N, channels); never waits.

        recorded_s: when its first sample was recorded, by any clock that the device keeps.
        has_overflowed: the device lost audio just before.
        """
        if has_overflowed:
            self.overflows += 1
            if self._due_s is not None:
                lost = max(0, round((recorded_s - self._due_s) * self._sample_rate))
                self._position += lost
                self._lost_frames += lost
        self._due_s = recorded_s + len(frames) / self._sample_rate
        self._piece_frames = len(frames)
        try:
            self._queue.put_nowait(Piece(frames, self._position))
        except queue.Full:
            self._lost_frames += len(frames)
        self._position += len(frames)

    def take(self, timeout_s: float) -> Piece | None:
        """The next piece, None when there is none within `timeout_s`."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Microphone:
    """Records from a device: a context manager, and within it an iterator of blocks.

    device: index, part of the name, or None for the default. channel: index from 0, None for
    the mean of all. sample_rate: of the blocks, Hz. block_ms: how often the device hands over.
    queue_s: audio that may wait to be taken, before newer audio is lost. input_rate: to record
    at, Hz; None for the device's own.

    Opening raises AudioError for a device that is not there, is ambiguous, has no such
    channel or cannot be opened; iterating when the device vanishes, at most 3 s later, after
    the audio that had been recorded.
    """

    def __init__(
        self,
        device: int | str | None = None,
        *,
        channel: int | None = None,
        sample_rate: int = 16000,
        block_ms: float = 80,
        queue_s: float = 10.0,
        input_rate: int | None = None,
    ) -> None:
        if not 1 <= block_ms <= 1000:
            raise ValueError(f"block_ms must be 1 to 1000, got {block_ms}")
        if not queue_s > 0:
            raise ValueError(f"queue_s must be a time above 0, got {queue_s}")
        self.name = "microphone"  # the device's, once it is open
        self.input_rate = input_rate or 0  # Hz, once it is open
        self.input_channels = 0  # once it is open
        self._wanted = device
        self._channel = channel
        self._sample_rate = sample_rate
        self._block_ms = block_ms
        self._max_pieces = max(1, math.ceil(1000 * queue_s / block_ms))
        self._intake = Intake(sample_rate, self._max_pieces)  # until it is open
        self._has_finished = threading.Event()
        self._exits = ExitStack()
        self._blocks: Iterator[Block] | None = None  # while it is open

    @property
    def overflows(self) -> int:
        """Times the device said that it lost audio."""
        return self._intake.overflows

    @property
    def dropped_s(self) -> float:
        """Audio lost so far, because the queue was full or in overflows (estimated)."""
        return self._intake.dropped_s

    @property
    def backlog_s(self) -> float:
        """Audio that is waiting to be taken."""
        return self._intake.backlog_s

    def __enter__(self) -> "Microphone":
        """Open the device and start recording."""
        sounddevice = _import_sounddevice()
        device = find_device(self._wanted, list_devices())
        self.name = device.name
        self.input_rate = self.input_rate or device.sample_rate
        with ExitStack() as stack:
            stack.enter_context(silent_c_stderr())
            self.input_channels = _num_channels(sounddevice, device, self._channel, self.input_rate)
            check_channel(self._channel, self.input_channels, f"microphone {self.name!r}")
            try:
                self._start(sounddevice, device, stack)
            except sounddevice.PortAudioError as error:
                raise AudioError(
                    f"microphone {self.name!r} cannot be opened at {self.input_rate} Hz with "
                    f"{self.input_channels} channels ({_reason(error)}): is it in use or unplugged?"
                ) from error
            self._exits = stack.pop_all()
        self._blocks = self._record()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop recording; audio that was not taken is gone."""
        self._exits.close()
        self._blocks = None

    def __iter__(self) -> Iterator[Block]:
        """Blocks of about `block_ms`, as they are recorded, without end."""
        if self._blocks is None:
            raise ValueError("the microphone is not open: iterate inside `with`")
        return self._blocks

    def _start(self, sounddevice: ModuleType, device: Device, stack: ExitStack) -> None:
        self._intake = Intake(self.input_rate, self._max_pieces)
        self._has_finished.clear()
        block_frames = max(1, round(self.input_rate * self._block_ms / 1000))
        stream = sounddevice.InputStream(
            device=device.index,
            channels=self.input_channels,
            samplerate=self.input_rate,
            blocksize=block_frames,
            latency=_DRIVER_BLOCKS * block_frames / self.input_rate,
            dtype="float32",
            callback=self._callback,
            finished_callback=self._has_finished.set,
        )
        stack.callback(_close, stream, self.name)
        stream.start()

    def _callback(self, frames: Frames, num_frames: int, times: Any, status: Any) -> None:
        # Runs in the device's thread, which must not wait. The times are PortAudio's, taken
        # before this call: a clock read here would also count the wait for Python's lock.
        recorded_s = times.inputBufferAdcTime or times.currentTime
        self._intake.push(frames.copy(), recorded_s, bool(status.input_overflow))

    def _record(self) -> Iterator[Block]:
        name = f"microphone {self.name!r}"
        mixdown = Mixdown(self.input_rate, self._sample_rate, self._channel, name)
        position = 0  # where the next piece begins if nothing was lost
        while True:
            piece = self._next_piece(START_S if position == 0 else SILENT_S)
            if piece is None:
                raise AudioError(
                    f"{name} has gone after {position / self.input_rate:.1f} s of audio: "
                    "connect it again and start anew"
                )
            if piece.position != position:
                _log.warning(
                    "%s: %.2f s of audio were lost at %.2f s",
                    name,
                    (piece.position - position) / self.input_rate,
                    position / self.input_rate,
                )
                yield from mixdown.jump(piece.position / self.input_rate)
            position = piece.position + len(piece.frames)
            yield from mixdown.push(piece.frames)

    def _next_piece(self, silent_s: float) -> Piece | None:
        """None when the device has stopped or has been silent for `silent_s`."""
        # Waits are counted, not timed: a process that was suspended has not lost its device.
        for _ in range(round(silent_s / _POLL_S)):
            has_finished = self._has_finished.is_set()  # before the look: nothing comes after
            piece = self._intake.take(0 if has_finished else _POLL_S)
            if piece is not None or has_finished:
                return piece
        return None


def _close(stream: Any, name: str) -> None:
    # In a thread of its own, which may be left behind.
    closing = threading.Thread(target=stream.close, daemon=True, name="close-microphone")
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        _log.warning("microphone %r does not close: its driver or sound server hangs", name)


def _num_channels(sounddevice: ModuleType, device: Device, channel: int | None, rate: int) -> int:
    """How many channels to open: all, but of a converter no more than are wanted.

    A converter that is asked for 32 channels of a microphone with one fills the rest with
    silence, and the mean of all would be faint. Asked for one it mixes by itself; for one
    channel of several it is asked for two or more. (Beyond two, what a server puts where is
    its own idea: microphone arrays are best opened as the card itself, "hw:".)
    """
    if device.channels <= _MAX_REAL_CHANNELS:
        return device.channels
    wanted = 1 if channel is None else max(2, channel + 1)
    try:
        sounddevice.check_input_settings(device=device.index, channels=wanted, samplerate=rate)
    except (sounddevice.PortAudioError, ValueError):
        return device.channels
    return wanted


def _import_sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError(
            "sounddevice is not installed, which a microphone needs: pip install sounddevice"
        ) from error
    except OSError as error:
        raise AudioError(
            "PortAudio is not installed, which a microphone needs: apt install libportaudio2"
        ) from error
    except Exception as error:  # sounddevice.PortAudioError, which cannot be imported either
        raise AudioError(f"the sound system cannot be used: {_reason(error)}") from error
    module: ModuleType = sounddevice
    return module


def _reason(error: Exception) -> str:
    # ("Error opening InputStream: Invalid sample rate", -9997, ...)
    return str(error.args[0] if error.args else error).splitlines()[0]
