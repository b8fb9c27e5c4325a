"""`ssast-edge doctor` in a process of its own, on machines that lack one thing or another."""

import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ssast_edge.virtual_microphone import NAME, missing_requirement, virtual_microphone

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120

_missing = missing_requirement()
needs_microphone = pytest.mark.skipif(
    _missing is not None, reason=f"no virtual microphone: {_missing}"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a user with neither sound server nor engines."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PULSE")}
    return kept | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }


class Report:
    """What it said and its status."""

    def __init__(self, ran: "subprocess.CompletedProcess[str]") -> None:
        assert "Traceback" not in ran.stdout + ran.stderr
        *lines, self.end = [json.loads(line) for line in ran.stdout.splitlines()]
        self.status = ran.returncode
        self.checks: dict[str, dict[str, Any]] = {line["check"]: line for line in lines}
        self.stderr = ran.stderr


def _run(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ssast_edge", "doctor", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )


def _doctor(*arguments: str, env: dict[str, str]) -> Report:
    return Report(_run(*arguments, "--json", env=env))


def _hide(folder: Path, module: str, body: str) -> None:
    """A module that is found before the real one."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(body)


def test_the_report_for_machines_has_one_shape(
    tone_folder: Path, environment: dict[str, str]
) -> None:
    report = _doctor("--no-microphone", "--bundle", str(tone_folder), env=environment)
    assert report.status == 0
    assert report.stderr == ""
    for line in report.checks.values():
        assert set(line) == {"type", "area", "check", "status", "text", "fix", "stops_listen"}
        assert line["type"] == "check"
        assert line["text"].isprintable()
        assert line["status"] in ("ok", "warning", "problem", "skipped")
    assert report.end["type"] == "doctor"
    assert report.end["can_listen"] is True
    assert report.end["stopped_by"] == []
    counts = [report.end[status] for status in ("ok", "warning", "problem", "skipped")]
    assert sum(counts) >= len(report.checks)
    assert report.checks["inference"]["status"] == "ok"
    assert report.checks["PortAudio"]["text"] == "no microphone is asked for"


def test_people_get_a_line_a_check_and_a_conclusion(
    tone_folder: Path, environment: dict[str, str]
) -> None:
    ran = _run("--no-microphone", "--bundle", str(tone_folder), env=environment)
    *lines, empty, last = ran.stdout.splitlines()
    assert all(line.startswith(("ok ", "warning ", "skipped ", "         -> ")) for line in lines)
    assert empty == ""
    assert last.startswith("`listen` works here")


def test_a_broken_bundle_stops_listen(
    tone_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tone_folder, broken)
    (broken / "model.onnx").write_bytes(b"not a model")
    report = _doctor("--no-microphone", "--bundle", str(broken), env=environment)
    assert report.status == 1
    assert report.end["stopped_by"] == ["bundle"]
    assert "model.onnx" in report.checks["bundle"]["text"]
    assert report.checks["inference"]["text"] == "see bundle"


def test_without_portaudio_the_package_to_install_is_named(
    tone_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    _hide(tmp_path / "modules", "sounddevice", "raise OSError('PortAudio library not found')\n")
    environment["PYTHONPATH"] = f"{tmp_path / 'modules'}:{ROOT}"
    report = _doctor("--bundle", str(tone_folder), env=environment)
    assert report.status == 1
    assert report.end["stopped_by"] == ["PortAudio"]
    assert report.checks["PortAudio"]["fix"] == "apt install libportaudio2"
    assert report.checks["level"]["status"] == "skipped"
    assert report.checks["inference"]["status"] == "ok"


def test_without_onnx_runtime_listen_cannot_work(
    tone_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    _hide(tmp_path / "modules", "onnxruntime", "raise ImportError('No module onnxruntime')\n")
    environment["PYTHONPATH"] = f"{tmp_path / 'modules'}:{ROOT}"
    report = _doctor("--no-microphone", "--bundle", str(tone_folder), env=environment)
    assert report.status == 1
    assert report.end["stopped_by"] == ["inference"]
    assert report.checks["ONNX Runtime"]["fix"] == "pip install onnxruntime"


def test_tensorrt_8_is_refused_with_what_to_install(
    tone_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    _hide(tmp_path / "modules", "tensorrt", "__version__ = '8.6.2'\n")
    environment["PYTHONPATH"] = f"{tmp_path / 'modules'}:{ROOT}"
    report = _doctor("--no-microphone", "--bundle", str(tone_folder), env=environment)
    found = report.checks["TensorRT"]
    assert found["status"] == "warning"
    assert "TensorRT 8.6.2 is too old" in found["text"]
    assert "JetPack 6.1" in found["fix"]
    assert report.status == 0  # the bundle has a model for ONNX Runtime


def test_a_library_that_crashes_when_it_is_imported_is_a_problem_of_its_own(
    tone_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    _hide(tmp_path / "modules", "tensorrt", "import ctypes\nctypes.string_at(0)\n")
    environment["PYTHONPATH"] = f"{tmp_path / 'modules'}:{ROOT}"
    report = _doctor("--no-microphone", "--bundle", str(tone_folder), env=environment)
    assert "SIGSEGV" in report.checks["TensorRT"]["text"]
    assert report.checks["TensorRT"]["stops_listen"] is False
    assert report.checks["plugin"]["status"] in ("ok", "skipped", "warning")
    assert report.status == 0


@needs_microphone
@pytest.mark.microphone
def test_a_muted_microphone_is_named_and_a_loud_one_measured(
    tone_folder: Path, tmp_path: Path
) -> None:
    samples = 0.25 * np.sin(2 * np.pi * 440 * np.arange(48_000 * 12) / 48_000)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(np.round(32_767 * samples).astype("<i2").tobytes())
    options = ("--bundle", str(tone_folder), "--microphone", NAME)
    with virtual_microphone(sample_rate=48_000, channels=1) as microphone:
        env = microphone.env | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        muted = _doctor(*options, env=env)
        with microphone.playing(tmp_path / "tone.wav"):
            loud = _doctor(*options, env=env)
    assert (muted.status, loud.status) == (0, 0)
    assert muted.checks["level"]["status"] == "warning"
    assert "digital silence" in muted.checks["level"]["text"]
    assert "PulseAudio answers" in muted.checks["sound system"]["text"]
    assert "44100" in muted.checks["sample rates"]["text"]
    assert loud.checks["level"]["status"] == "ok"
    assert "peak -12.0 dBFS, mean -15." in loud.checks["level"]["text"]


@needs_microphone
@pytest.mark.microphone
def test_a_microphone_that_is_not_there_stops_listen(tone_folder: Path) -> None:
    with virtual_microphone(sample_rate=48_000, channels=1) as microphone:
        env = microphone.env | {"PYTHONPATH": str(ROOT)}
        report = _doctor("--bundle", str(tone_folder), "--device", "no such", env=env)
    assert report.status == 1
    assert report.end["stopped_by"] == ["microphone"]
    assert NAME in report.checks["microphone"]["text"]
