"""`ssast-edge bench` as people and programs run it."""

import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ssast_edge.bench import measure as measure_module
from ssast_edge.cli import main
from ssast_edge.energy import AbsentMeter, Reading

ROOT = Path(__file__).parents[3]


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes that measure memory: that has a test of its own."""
    monkeypatch.setattr(measure_module, "probe", lambda case: {"reason": "not asked for"})


@pytest.mark.usefixtures("without_probe")
def test_it_writes_three_files_and_prints_the_summary(tones: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = _run(tones, "--threads", "1", "--threads", "2", "--duration", "300ms", "--out", str(out))
    assert ran.exit_code == 0, ran.output
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.html"}
    assert ran.stdout == (out / "report.md").read_text()
    report = json.loads((out / "report.json").read_text())
    assert [case["threads"] for case in report["cases"]] == [1, 2]
    assert not report["is_partial"]
    assert "opening tones onnx fp32 1 thread" in ran.stderr


@pytest.mark.usefixtures("without_probe")
def test_json_on_stdout_is_json_alone(tones: str) -> None:
    ran = _run(tones, "--count", "20", "--json")
    report = json.loads(ran.stdout)
    assert report["cases"][0]["engine"]["count"] == 20


@pytest.mark.usefixtures("without_probe")
@pytest.mark.parametrize("pace", [[], ["--realtime"]])
def test_streaming_a_file(
    tones: str, tone_audio: Callable[..., NDArray[np.float32]], tmp_path: Path, pace: list[str]
) -> None:
    file = tmp_path / "tones.wav"
    samples = tone_audio(1.2, (0.3, 0.7, 440.0))
    with wave.open(str(file), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(16_000)
        written.writeframes((samples * 32767).astype("<i2").tobytes())
    ran = _run(tones, "--count", "5", "--json", "--input", str(file), *pace)
    assert ran.exit_code == 0, ran.output
    part = json.loads(ran.stdout)["streaming"]
    assert part["audio_s"] == pytest.approx(1.2)
    assert (part["detections"], part["dropped_s"], part["is_partial"]) == (1, 0, False)
    assert part["hops"] + part["skipped_hops"] == 29
    assert part["is_realtime"] is bool(pace)
    assert part["cost"]["count"] == part["hops"]
    assert part["stages"]["front_end"]["p50_ms"] > 0
    if pace:
        assert 1.0 < part["wall_s"] < 3
        assert part["latency"]["p50_ms"] > 0
    else:
        assert part["wall_s"] < 1.0
        assert part["latency"] is None


class _FakeMeter:
    """Two watts, counted, until it breaks."""

    name = "fake"
    scope = "nothing"

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def read(self) -> Reading:
        elapsed_s = time.perf_counter() - self._began_s
        return Reading(energy_j=2 * elapsed_s, temperature_c=50.0, clock_mhz=900.0)

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("without_probe")
def test_energy_is_shared_out_among_the_inferences(
    tones: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = [AbsentMeter(name="RAPL", reason="gone")]
    monkeypatch.setattr(measure_module, "open_meters", lambda: ([_FakeMeter()], absent))
    monkeypatch.setattr(measure_module, "_IDLE_S", 0.05)
    report = json.loads(_run(tones, "--duration", "400ms", "--json").stdout)
    (case,) = report["cases"]
    (energy,) = case["energy"]
    assert report["energy"]["meters"][0]["idle_w"] == pytest.approx(2, rel=0.1)
    # With what lies between two readings beside the inferences.
    assert energy["mean_w"] == pytest.approx(2, rel=0.3)
    wanted = 2 * case["engine"]["mean_ms"] / 1000
    assert energy["j_per_inference"] == pytest.approx(wanted, rel=0.3)
    assert energy["wh_per_hour_of_listening"] >= 1.8
    assert set(report["timeline"]["machine"]["gpu_clock_mhz"]) == {900.0}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no-such-bundle"], "no bundle 'no-such-bundle'"),
        (["--duration", "soon"], "duration 'soon'"),
        (["--backend", "abacus"], "'abacus' is not one of"),
        (["--fail-over", "10%"], "--fail-over is for --compare"),
        (["--realtime"], "--realtime paces a file"),
        (["--input", "no.wav"], "no.wav"),
        (["--input", __file__, "--duration", "1h"], "cannot be read as audio"),
        (["--out", "/proc/none", "--duration", "1h"], "/proc/none: cannot be written to"),
        (["--input", "a.wav", "--microphone"], "give one"),
        (["--precision", "fp8"], "nothing can be measured here: wake-words onnx fp8"),
        (["--compare", "a.json", "b.json"], "a.json: No such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], why: str) -> None:
    ran = _run(*arguments)
    assert ran.exit_code != 0
    assert ran.stdout == ""
    last = ran.stderr.splitlines()[-1]
    assert why in last
    assert "Traceback" not in ran.stderr


@pytest.mark.usefixtures("without_probe")
def test_a_source_that_fails_in_the_end_leaves_the_rest_of_the_report(
    tones: str, tmp_path: Path
) -> None:
    ran = CliRunner().invoke(
        main,
        ["bench", tones, "--duration", "200ms", "--input", "-", "--out", str(tmp_path)],
        input=b"",
    )
    assert ran.exit_code == 1
    assert "the audio stream is empty" in ran.stderr.splitlines()[-1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cases"][0]["engine"]["count"] > 0
    assert report["streaming"] is None


def test_a_broken_bundle_is_one_line(tone_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tone_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.onnx").write_bytes(b"nothing")
    ran = _run(str(broken))
    assert ran.exit_code == 1
    assert "model.onnx was altered" in ran.stderr


def test_the_schema_is_printed_whole() -> None:
    ran = _run("--schema")
    assert json.loads(ran.stdout)["title"] == "Report of ssast-edge bench"


def test_memory_and_start_come_from_a_process_of_its_own(report: dict[str, Any]) -> None:
    memory = report["cases"][0]["memory"]
    assert 10 < memory["resident_mb"] <= memory["peak_mb"] < 500
    assert memory["start_s"] > 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_it_early_with_a_partial_report(tones: str, tmp_path: Path) -> None:
    # A shell that starts tests in the background makes them, and what they start, ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "ssast_edge", "bench", tones]
    process = subprocess.Popen(
        [*command, "--duration", "10m", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "ms an inference" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["is_partial"]
    assert report["cases"][0]["engine"]["count"] > 0
    assert "Partial" in output
