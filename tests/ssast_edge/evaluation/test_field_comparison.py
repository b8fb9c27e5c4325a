"""The comparison with other detectors, on tones: a bundle and a real program on one track."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

pytest.importorskip("matplotlib", reason="the comparison draws with matplotlib")
soundfile: Any = pytest.importorskip("soundfile")

# A tone is a block of 32 ms that is loud to both ends; the zero crossings tell which.
DETECTOR = """
import array, json, sys, wave
print(json.dumps({"settings": [0.5, 9.0], "passes": 2}))
with wave.open(sys.argv[-1]) as file:
    samples = array.array("h", file.readframes(file.getnframes()))
last = -1e9
for first in range(0, len(samples) - 512, 512):
    block = samples[first : first + 512]
    now = (first + 512) / 16000
    if min(max(block[:128]), max(block[-128:])) > 5000 and now - last > 1:
        crossings = sum(a < 0 <= b for a, b in zip(block, block[1:]))
        label = "high_tone" if crossings > 50 else "low_tone"
        print(json.dumps({"setting": 0.5, "label": label, "time_s": now}))
        last = now
"""


@pytest.fixture
def data(tmp_path: Path, tone_audio: Callable[..., NDArray[np.float32]]) -> Path:
    """A folder of tones, hisses and steady noise."""
    folder = tmp_path / "data"
    for label, hertz in (("low_tone", 440), ("high_tone", 3000)):
        for number in range(2):
            write(folder / "keywords" / label / f"{number}.wav", tone_audio(2, (0.8, 1.2, hertz)))
    for number in range(3):
        write(folder / "speech" / f"{number}.wav", tone_audio(3))
    rng = np.random.default_rng(0)
    write(folder / "noise" / "hiss.wav", (0.1 * rng.standard_normal(32000)).astype(np.float32))
    return folder


def write(path: Path, samples: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000)


def compare(tone_folder: Path, data: Path, out: Path, *options: str) -> Result:
    from benchmarks import field_comparison

    arguments = ["--bundle", str(tone_folder), "--data", str(data), "--out", str(out), *options]
    return CliRunner().invoke(field_comparison.main, arguments)


def test_every_detector_is_measured_in_every_condition(
    tone_folder: Path, data: Path, tmp_path: Path
) -> None:
    script = tmp_path / "detector.py"
    script.write_text(DETECTOR)
    external = f"Other={shlex.join([sys.executable, '-S', str(script)])}"
    ran = compare(tone_folder, data, tmp_path / "out", "--external", external)
    assert ran.exit_code == 0, ran.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["conditions"]) == {"clean", "10dB"}
    assert result["words"] == 4
    bundle, other = result["conditions"]["clean"].values()
    assert bundle["operating"][-1]["point"]["missed"] == 0
    assert other["operating"][-1]["point"]["missed"] == 0
    assert other["operating"][-1]["point"]["setting"] == 0.5
    assert [point["missed"] for point in other["curve"]] == [0, 4]
    assert other["operating"][0]["delay"]["p50"] < 0.5
    assert bundle["cpu_s_per_hour"] > 0 < other["cpu_s_per_hour"]
    table = (tmp_path / "out" / "result.md").read_text()
    assert "| Other | 0.0% (0.0% to 60.2%; 0 missed, 0 false)" in table
    assert (tmp_path / "out" / "det.png").stat().st_size > 1000

    script.write_text("raise SystemExit('must not run again')")
    again = compare(tone_folder, data, tmp_path / "out", "--external", external)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--external", "no command"], "wanted NAME=COMMAND"),
        (["--external", f"Mute={sys.executable} -S -c pass"], "Mute: told of no setting"),
        (["--split", "val"], "a folder has no splits"),
        (["--hours", "0.0001"], "too short"),
    ],
)
def test_a_mistake_is_one_line(
    tone_folder: Path, data: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    ran = compare(tone_folder, data, tmp_path / "out", "--condition", "clean", *options)
    assert ran.exit_code == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert not (tmp_path / "out" / "result.json").exists()
