"""A microphone gives what is played to it, keeps time over gaps, and says when it has gone."""

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from ssast_edge.c_stderr import silent_c_stderr
from ssast_edge.errors import AudioError
from ssast_edge.microphone import Device, Intake, Microphone, find_device
from tests.ssast_edge.virtual_microphone import (
    NAME,
    VirtualMicrophone,
    missing_requirement,
    virtual_microphone,
)

SAMPLE_RATE = 16_000

# Which device


DEVICES = [
    Device(
        index=0, name="HDA Intel: ALC (hw:0,0)", channels=2, sample_rate=44100, is_default=False
    ),
    Device(
        index=3, name="USB Mic: Audio (hw:1,0)", channels=1, sample_rate=48000, is_default=False
    ),
    Device(index=5, name="USB Mic B (hw:2,0)", channels=1, sample_rate=48000, is_default=False),
    Device(index=6, name="USB Mic", channels=32, sample_rate=44100, is_default=True),
]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(None, 6), (0, 0), (3, 3), ("intel", 0), ("hw:1", 3), ("Mic B", 5), ("usb mic", 6)],
)
def test_a_device_is_found_by_index_or_part_of_its_name(
    wanted: int | str | None, index: int
) -> None:
    assert find_device(wanted, DEVICES).index == index


@pytest.mark.parametrize(
    ("wanted", "devices", "reason"),
    [
        (None, [], "no microphone was found"),
        ("Intel", [], "no microphone was found"),
        (1, DEVICES, "no microphone is called 1: there are 0 'HDA Intel: ALC (hw:0,0)', 3 "),
        ("elsewhere", DEVICES, "no microphone is called 'elsewhere': there are 0 "),
        ("USB", DEVICES, "3 microphones are called 'USB': 3 'USB Mic: Audio (hw:1,0)', 5 "),
    ],
)
def test_a_device_that_is_missing_or_ambiguous_is_refused(
    wanted: int | str | None, devices: list[Device], reason: str
) -> None:
    with pytest.raises(AudioError) as caught:
        find_device(wanted, devices)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_default_the_first_device_is_taken() -> None:
    assert find_device(None, DEVICES[:2]).index == 0


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("sys.modules['sounddevice'] = None", "pip install sounddevice"),
        (
            "import ctypes.util; ctypes.util.find_library = lambda name: None",
            "apt install libportaudio2",
        ),
    ],
)
def test_a_missing_library_is_told(before: str, reason: str) -> None:
    code = (
        f"import sys; {before}\n"
        "from ssast_edge.microphone import AudioError, Microphone\n"
        "try:\n"
        "    with Microphone(): pass\n"
        "except AudioError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert reason in output.stdout.decode()
    assert len(output.stdout.splitlines()) == 1


def test_a_microphone_that_is_not_open_gives_nothing() -> None:
    with pytest.raises(ValueError, match="not open"):
        iter(Microphone())


@pytest.mark.parametrize("wrong", [{"block_ms": 0}, {"block_ms": 1001}, {"queue_s": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Microphone(**wrong)  # type: ignore[arg-type]


# What is lost


def positions(intake: Intake) -> list[int]:
    found = []
    while (piece := intake.take(0)) is not None:
        found.append(piece.position)
    return found


def push(intake: Intake, times_s: list[float], overflows: tuple[int, ...] = ()) -> None:
    """Pieces of 100 frames at 1 kHz, the first samples of which were recorded at `times_s`."""
    for number, time_s in enumerate(times_s):
        intake.push(np.zeros((100, 1), np.float32), time_s, number in overflows)


def test_nothing_is_lost_while_the_queue_has_room() -> None:
    intake = Intake(1000, 5)
    push(intake, [7.0, 7.1, 7.2])
    assert intake.backlog_s == pytest.approx(0.3)
    assert positions(intake) == [0, 100, 200]
    assert (intake.overflows, intake.dropped_s, intake.backlog_s) == (0, 0, 0)


def test_a_full_queue_loses_the_newest_and_counts_it() -> None:
    intake = Intake(1000, 2)
    push(intake, [0.0, 0.1, 0.2, 0.3])
    assert intake.dropped_s == pytest.approx(0.2)
    assert positions(intake) == [0, 100]
    push(intake, [0.4])
    assert positions(intake) == [400]
    assert intake.overflows == 0


def test_an_overflow_loses_what_the_clock_of_the_device_says() -> None:
    intake = Intake(1000, 9)
    push(intake, [5.0, 5.1, 5.85, 5.95], overflows=(2,))
    assert intake.overflows == 1
    assert intake.dropped_s == pytest.approx(0.65)
    assert positions(intake) == [0, 100, 850, 950]


def test_a_clock_that_trembles_without_overflow_loses_nothing() -> None:
    intake = Intake(1000, 9)
    push(intake, [5.0, 5.9, 5.2, 5.3])
    assert positions(intake) == [0, 100, 200, 300]
    assert intake.dropped_s == 0


@pytest.mark.parametrize("times_s", [[5.0, 5.1], [5.0, 4.0], [0.0, 0.0]])
def test_an_overflow_whose_size_is_unknown_is_counted_only(times_s: list[float]) -> None:
    intake = Intake(1000, 9)
    push(intake, times_s, overflows=(0, 1))
    assert (intake.overflows, intake.dropped_s) == (2, 0)
    assert positions(intake) == [0, 100]


def test_losses_by_overflow_and_by_a_full_queue_add_up() -> None:
    intake = Intake(1000, 1)
    push(intake, [0.0, 0.1, 0.5], overflows=(2,))
    assert intake.dropped_s == pytest.approx(0.5)  # 0.1 full, 0.3 overflow, 0.1 full again
    assert positions(intake) == [0]
    push(intake, [0.6])
    assert positions(intake) == [600]


# What C libraries print


def test_c_libraries_are_silent_and_python_is_not() -> None:
    code = (
        "import ctypes, sys\n"
        "from ssast_edge.c_stderr import silent_c_stderr\n"
        "def say(word):\n"
        "    ctypes.CDLL(None).perror(word.encode())\n"
        "    print(word, file=sys.stderr, flush=True)\n"
        "say('before')\n"
        "with silent_c_stderr():\n"
        "    with silent_c_stderr():\n"
        "        say('inner')\n"
        "    say('outer')\n"
        "say('after')\n"
    )
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("only with glibc")
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    words = [line.split(":")[0] for line in output.stderr.decode().splitlines()]
    assert words == ["before", "before", "inner", "outer", "after", "after"]


def test_silence_ends_with_an_error() -> None:
    with pytest.raises(KeyError), silent_c_stderr():
        raise KeyError
    with silent_c_stderr():
        pass


# With a virtual microphone

# A process of its own: it must see the virtual microphone's ALSA configuration from the start.
# argv: settings of the microphone; what to do (how long, when to pause), as JSON.
LISTENER = """
import json, sys, time
import numpy as np
from ssast_edge.microphone import AudioError, Microphone, list_devices

settings, wanted = map(json.loads, sys.argv[1:3])
blocks, arrived_s = [], []
error = None
began_s = time.monotonic()
microphone = Microphone(**settings)
try:
    with microphone:
        for block in microphone:
            arrived_s.append(time.monotonic())
            blocks.append(block)
            if len(blocks) == 1:
                print("recording", flush=True)
            if len(blocks) == wanted.get("pause_at"):
                time.sleep(wanted["pause_s"])
            if block.start_s + len(block.samples) / 16000 >= wanted["until_s"]:
                break
except AudioError as caught:
    error = str(caught)
np.save(wanted["file"], np.concatenate([b.samples for b in blocks] or [np.zeros(0)]))
print(json.dumps({
    "error": error,
    "took_s": time.monotonic() - began_s,
    "devices": [device.name for device in list_devices()],
    "name": microphone.name,
    "rate": microphone.input_rate,
    "channels": microphone.input_channels,
    "overflows": microphone.overflows,
    "dropped_s": microphone.dropped_s,
    "blocks": [
        [b.start_s, len(b.samples), b.dropped_s, at] for b, at in zip(blocks, arrived_s)
    ],
}))
"""

Report = dict[str, Any]


class Listener:
    """A process that records, ended with `with`; `report` waits for it."""

    def __init__(
        self, microphone: VirtualMicrophone, folder: Path, settings: Report, wanted: Report
    ) -> None:
        self._file = folder / "heard.npy"
        arguments = [json.dumps(settings), json.dumps(wanted | {"file": str(self._file)})]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, *arguments],
            env=microphone.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_until_recording(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"recording\n"

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def report(self) -> tuple[Report, NDArray[np.float32]]:
        output, errors = self._process.communicate(timeout=20)
        assert self._process.returncode == 0, errors.decode()
        report: Report = json.loads(output.splitlines()[-1])
        report["stderr"] = errors.decode()
        return report, np.load(self._file)


def record_at_once(
    microphone: VirtualMicrophone, folder: Path, settings: list[Report]
) -> list[tuple[Report, NDArray[np.float32]]]:
    """1.2 s by each of several processes."""
    with ExitStack() as stack:
        listeners = []
        for number, each in enumerate(settings):
            (folder / str(number)).mkdir()
            listener = Listener(microphone, folder / str(number), each, {"until_s": 1.2})
            listeners.append(stack.enter_context(listener))
        return [listener.report() for listener in listeners]


def write_tones(path: Path, sample_rate: int, tones_hz: list[float]) -> None:
    """One tone per channel, long enough for any test, amplitude 0.5."""
    times = np.arange(15 * sample_rate)[:, None] / sample_rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * np.array(tones_hz) * times), sample_rate)


def amplitude(samples: NDArray[np.float32], hz: float) -> float:
    times = np.arange(len(samples)) / SAMPLE_RATE
    window = np.hanning(len(samples))
    phasor = np.exp(-2j * np.pi * hz * times) * window
    return float(2 * np.abs(np.sum(samples * phasor)) / window.sum())


@pytest.fixture
def microphone(request: pytest.FixtureRequest) -> Iterator[VirtualMicrophone]:
    """Of 16 kHz and one channel, unless a test asks for another."""
    missing = missing_requirement()
    if missing is not None:
        pytest.skip(missing)
    sample_rate, channels = getattr(request, "param", (16000, 1))
    with virtual_microphone(sample_rate=sample_rate, channels=channels) as virtual:
        yield virtual


@pytest.mark.microphone
@pytest.mark.parametrize(
    "microphone", [(16000, 1), (16000, 2), (48000, 1), (48000, 2)], indirect=True
)
def test_a_tone_is_recorded_at_its_pitch(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    write_tones(tmp_path / "tone.wav", microphone.sample_rate, [1000.0] * microphone.channels)
    rates = {"any": None, "its own": microphone.sample_rate}
    with microphone.playing(tmp_path / "tone.wav"):
        settings = [{"device": NAME.upper()[3:], "input_rate": rate} for rate in rates.values()]
        reports = dict(zip(rates, record_at_once(microphone, tmp_path, settings), strict=True))
    for name, (report, samples) in reports.items():
        assert report["error"] is None
        assert report["name"] == NAME
        assert NAME in report["devices"]
        assert report["rate"] == rates[name] or name == "any"
        assert (report["overflows"], report["dropped_s"]) == (0, 0)
        heard = samples[-8000:]
        assert amplitude(heard, 1000) == pytest.approx(0.5, abs=0.02)
        assert amplitude(heard, 2000) < 0.01
        num_samples = 0
        for start_s, length, dropped_s, _ in report["blocks"]:
            assert start_s == pytest.approx(num_samples / SAMPLE_RATE, abs=1e-6)
            assert dropped_s == 0
            num_samples += length


@pytest.mark.microphone
@pytest.mark.parametrize("microphone", [(48000, 2)], indirect=True)
def test_a_channel_or_the_mean_is_recorded(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    write_tones(tmp_path / "tones.wav", 48000, [600.0, 2500.0])
    expected = {0: (0.5, 0.0), 1: (0.0, 0.5), None: (0.25, 0.25)}
    with microphone.playing(tmp_path / "tones.wav"):
        settings = [{"device": NAME, "channel": channel} for channel in expected]
        recorded = record_at_once(microphone, tmp_path, settings)
    for (low, high), (_, samples) in zip(expected.values(), recorded, strict=True):
        assert amplitude(samples[-8000:], 600) == pytest.approx(low, abs=0.02)
        assert amplitude(samples[-8000:], 2500) == pytest.approx(high, abs=0.02)


@pytest.mark.microphone
def test_a_device_that_vanishes_is_told_in_one_line(
    microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    with Listener(microphone, tmp_path, {"device": NAME}, {"until_s": 60}) as listener:
        listener.wait_until_recording()
        began_s = time.monotonic()
        microphone.unplug()
        report, _ = listener.report()
    assert time.monotonic() - began_s < 3
    assert report["error"].startswith(f"microphone {NAME!r} has gone after 0.")
    assert "\n" not in report["error"]
    assert report["stderr"] == ""  # PortAudio and ALSA have much to say


@pytest.mark.microphone
def test_a_device_that_hangs_is_told_in_one_line(
    microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    with Listener(microphone, tmp_path, {"device": NAME}, {"until_s": 60}) as listener:
        listener.wait_until_recording()
        began_s = time.monotonic()
        microphone.freeze()
        report, _ = listener.report()
    assert time.monotonic() - began_s < 4.5  # 2 s of silence, 1 s for closing
    assert report["error"].startswith(f"microphone {NAME!r} has gone after ")
    assert len(report["stderr"].splitlines()) == 1
    assert "does not close" in report["stderr"]


@pytest.mark.microphone
def test_a_slow_reader_loses_audio_but_not_the_time(
    microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    settings = {"device": NAME, "block_ms": 40, "queue_s": 0.4}
    wanted = {"until_s": 2.5, "pause_at": 10, "pause_s": 1.2}
    with Listener(microphone, tmp_path, settings, wanted) as listener:
        report, _ = listener.report()
    blocks = report["blocks"]
    gaps = [block for block in blocks if block[2] > 0]
    assert len(gaps) == 1
    # The queue holds 0.4 of the 1.2 s.
    assert gaps[0][2] == pytest.approx(0.8, abs=0.15)
    assert report["dropped_s"] == pytest.approx(gaps[0][2], abs=1e-3)
    assert "were lost at" in report["stderr"]
    # Each block begins where the one before ended, plus what was dropped.
    time_s = 0.0
    for start_s, length, dropped_s, _ in blocks:
        assert start_s == pytest.approx(time_s + dropped_s, abs=1e-3)
        time_s = start_s + length / SAMPLE_RATE
    # Audio time and the wall clock agree before the pause and after it.
    delays_s = [arrived_s - start_s for start_s, _, _, arrived_s in blocks]
    assert delays_s[-1] == pytest.approx(np.median(delays_s[1:9]), abs=0.1)


@pytest.mark.microphone
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "elsewhere"}, "no microphone is called 'elsewhere': there are 0 "),
        ({"device": NAME, "channel": 99}, "has no channel 99: it has channels 0 to 31"),
        ({"device": NAME, "input_rate": 1}, "cannot be opened at 1 Hz with "),
    ],
)
def test_a_microphone_that_cannot_be_opened_is_told_in_one_line(
    microphone: VirtualMicrophone, tmp_path: Path, settings: Report, reason: str
) -> None:
    with Listener(microphone, tmp_path, settings, {"until_s": 60}) as listener:
        report, _ = listener.report()
    assert reason in report["error"]
    assert "\n" not in report["error"]
    assert report["stderr"] == ""
