"""`ssast-edge listen` in a process of its own, on a microphone that records what is played."""

import json
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.bundle import default_bundles
from tests.ssast_edge.virtual_microphone import (
    NAME,
    VirtualMicrophone,
    missing_requirement,
    virtual_microphone,
)

FloatArray = NDArray[np.float32]

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "ssast_edge/demo"
RATE = 16_000
TIMEOUT_S = 60
# PulseAudio hands over audio this long after it was played, at most.
LATENCY_S = 1.0

_missing = missing_requirement()
pytestmark = [
    pytest.mark.microphone,
    pytest.mark.skipif(_missing is not None, reason=f"no virtual microphone: {_missing}"),
]


def test_tones_are_heard_when_they_are_played(
    tone_folder: Path, tone_audio: Callable[..., FloatArray], tmp_path: Path
) -> None:
    samples = tone_audio(2.5, (0.3, 0.7, 440.0), (1.1, 1.5, 3000.0), (1.9, 2.3, 440.0))
    recording = _write_wav(tmp_path / "tones.wav", samples)
    with (
        virtual_microphone(sample_rate=44_100, channels=2) as microphone,
        _listening(microphone, "--bundle", str(tone_folder)) as process,
    ):
        heard = _play_and_end(microphone, process, recording)
    *detections, summary = heard
    assert [line["label"] for line in detections] == ["low_tone", "high_tone", "low_tone"]
    times_s = [line["time_s"] for line in detections]
    assert np.diff(times_s) == pytest.approx([0.8, 0.8], abs=0.15)
    assert times_s[-1] < summary["audio_s"]
    assert (summary["overflows"], summary["dropped_s"]) == (0, 0)
    assert summary["rtf"] < 0.5


@pytest.mark.skipif("wake-words" not in default_bundles(), reason="no bundle wake-words here")
def test_spoken_keywords_are_heard_at_any_rate_and_channel_count(tmp_path: Path) -> None:
    words = json.loads((DEMO / "demo.json").read_text(encoding="utf-8"))["words"]
    first, second = [word for word in words if word["keyword"]][:2]
    start, end = round((first["start_s"] - 1) * RATE), round((second["end_s"] + 1) * RATE)
    samples = read_audio(DEMO / "demo.ogg")[max(0, start) : end]
    recording = _write_wav(tmp_path / "words.wav", samples)

    def hear(kind: tuple[int, int]) -> list[str]:
        with (
            virtual_microphone(sample_rate=kind[0], channels=kind[1]) as microphone,
            _listening(microphone) as process,
        ):
            return [line["label"] for line in _play_and_end(microphone, process, recording)[:-1]]

    kinds = [(16_000, 1), (16_000, 2), (48_000, 1), (48_000, 2)]
    with ThreadPoolExecutor(len(kinds)) as pool:  # at once: they only wait
        heard = dict(zip(kinds, pool.map(hear, kinds), strict=True))
    assert heard == dict.fromkeys(kinds, [first["keyword"], second["keyword"]])


def test_a_microphone_that_is_unplugged_ends_it_with_one_line(tone_folder: Path) -> None:
    with (
        virtual_microphone(sample_rate=48_000, channels=1) as microphone,
        _listening(microphone, "--bundle", str(tone_folder)) as process,
    ):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        microphone.unplug()
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert stderr.splitlines() == [stderr.strip()]
    assert stderr.startswith(f"Error: microphone '{NAME}' has gone after ")
    assert json.loads(stdout.splitlines()[-1])["type"] == "summary"


def test_devices_lists_the_microphone() -> None:
    with virtual_microphone(sample_rate=16_000, channels=1) as microphone:
        ran = subprocess.run(
            [sys.executable, "-m", "ssast_edge", "devices", "--json"],
            cwd=ROOT,
            env=microphone.env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    listed = [json.loads(line) for line in ran.stdout.splitlines()]
    keys = {"type", "index", "name", "channels", "sample_rate", "is_default"}
    assert [set(device) for device in listed] == [keys] * len(listed)
    assert NAME in [device["name"] for device in listed]
    assert ran.stderr == ""


@contextmanager
def _listening(microphone: VirtualMicrophone, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`listen --json` that has the microphone open."""
    command = [sys.executable, "-m", "ssast_edge", "listen", "--json", "--device", NAME.upper()]
    # A shell that starts tests in the background makes them, and what they start, ignore SIGINT.
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=microphone.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Whatever it waits for, the test goes on.
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert ready.startswith(f"listening to {NAME} "), ready + process.stderr.read()
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def _play_and_end(
    microphone: VirtualMicrophone, process: "subprocess.Popen[str]", recording: Path
) -> list[dict[str, Any]]:
    """Play, end with Ctrl-C, and give what was heard."""
    assert microphone.play(recording).wait(TIMEOUT_S) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(LATENCY_S)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert stderr == ""
    assert process.returncode == 0
    return [json.loads(line) for line in stdout.splitlines()]


def _write_wav(path: Path, samples: FloatArray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path
