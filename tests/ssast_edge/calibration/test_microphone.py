"""`ssast-edge calibrate` at a microphone that records what is played."""

import json
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.bundle import load_bundle
from ssast_edge.calibration.state import FILE
from tests.ssast_edge.virtual_microphone import (
    NAME,
    VirtualMicrophone,
    missing_requirement,
    virtual_microphone,
)

Samples = NDArray[np.float32]
ROOT = Path(__file__).parents[3]
RATE = 16_000
TIMEOUT_S = 90

_missing = missing_requirement()
pytestmark = [
    pytest.mark.microphone,
    pytest.mark.skipif(_missing is not None, reason=f"no virtual microphone: {_missing}"),
]


def test_a_session_is_stopped_gone_on_with_and_solved(
    tone_folder: Path, tone_audio: Callable[..., Samples], tmp_path: Path
) -> None:
    recording = tmp_path / "room.wav"
    _write_wav(recording, tone_audio(4.0, (1.0, 1.6, 440.0), (2.6, 3.2, 440.0)))
    out, clips = tmp_path / "out", tmp_path / "clips"
    options = [str(tone_folder), "--out", str(out), "--target", "700", "--json"]
    options += ["--device", NAME, "--hours", str(7 / 3600), "--clips", str(clips)]
    with virtual_microphone(sample_rate=48_000, channels=2) as microphone:
        stopped, _, said = _calibrate(microphone, options, recording, is_stopped=True)
        state = tmp_path / "out.calibration"
        assert stopped == 0
        assert f"of audio are kept in {state}; the same command goes on" in said
        assert not out.exists()
        assert (state / FILE).is_file()
        status, stdout, said = _calibrate(microphone, options, recording, is_stopped=False)
    assert status == 0, said
    # A null sink is digital silence while nothing is played.
    assert [line for line in said.splitlines() if not line.startswith("note: ")] == []
    found = json.loads(stdout)
    assert 3600 * found["hours"] == pytest.approx(7.0, abs=0.3)
    assert [stream["name"] for stream in found["heard"]] == [NAME, NAME]
    low, high = found["keywords"]
    assert low["false_accepts_before"] >= 2
    assert high["false_accepts_before"] == 0
    assert load_bundle(out).triggers["low_tone"].threshold == low["after"]["threshold"]
    assert any(path.name.startswith("low_tone_") for path in clips.iterdir())


def test_a_microphone_that_is_unplugged_tells_what_is_kept(
    tone_folder: Path, tmp_path: Path
) -> None:
    options = [str(tone_folder), "--out", str(tmp_path / "out"), "--hours", "1", "--device", NAME]
    with virtual_microphone(sample_rate=16_000, channels=1) as microphone:
        process = _start(microphone, options)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            microphone.unplug()
            _, stderr = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 1
    note, error = stderr.splitlines()
    assert note.startswith("note: 100 % of what was heard now is digital silence")
    assert error.startswith(f"Error: microphone '{NAME}' has gone after ")
    assert error.endswith(f"are kept in {tmp_path / 'out.calibration'}: the same command goes on")


def _calibrate(
    microphone: VirtualMicrophone, options: list[str], recording: Path, *, is_stopped: bool
) -> tuple[int, str, str]:
    """Status, stdout and stderr of a session during which the recording is played."""
    process = _start(microphone, options)
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert microphone.play(recording).wait(TIMEOUT_S) == 0
        if is_stopped:
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        watchdog.cancel()
        process.kill()
    return process.returncode, stdout, stderr


def _start(microphone: VirtualMicrophone, options: list[str]) -> "subprocess.Popen[str]":
    """`calibrate` that has the microphone open."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "ssast_edge", "calibrate"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=microphone.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    ready = process.stderr.readline()
    assert ready.startswith(f"hearing {NAME}: say no keyword"), ready + process.stderr.read()
    return process


def _write_wav(path: Path, samples: Samples) -> Any:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
