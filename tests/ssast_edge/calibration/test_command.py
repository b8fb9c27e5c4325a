"""`ssast-edge calibrate` from the command line: real files, ONNX Runtime, signals."""

import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle, default_bundles, load_bundle
from ssast_edge.calibration.expected import detection_curves
from ssast_edge.calibration.state import FILE
from ssast_edge.cli import main
from ssast_edge.evaluation.scores import run_bundle
from ssast_edge.evaluation.track import Track, Word
from ssast_edge.spotter import Spotter

Samples = NDArray[np.float32]
ROOT = Path(__file__).parents[3]
RATE = 16_000
LOW_HZ, HIGH_HZ = 440.0, 3000.0
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def room(tone_audio: Callable[..., Samples], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 s, which stand for a room: three low tones, no high one."""
    tones = [(at, at + 0.6, LOW_HZ) for at in (10.0, 30.0, 50.0)]
    return write_wav(tmp_path_factory.mktemp("audio") / "room.wav", tone_audio(72.0, *tones))


@pytest.fixture(scope="module")
def bundle(
    tone_bundle: Bundle,
    write_tones: Callable[..., Bundle],
    tone_audio: Callable[..., Samples],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tone bundle with a table of validation words."""
    samples = tone_audio(8.0, (1.0, 1.6, HIGH_HZ), (3.0, 3.6, HIGH_HZ), (5.0, 5.6, LOW_HZ))
    words = tuple(
        Word(label, at, at + 0.6, "")
        for label, at in [("high_tone", 1.0), ("high_tone", 3.0), ("low_tone", 5.0)]
    )
    runs = {"clean": (run_bundle(tone_bundle, samples), Track(samples, words, ()))}
    held = detection_curves(tone_bundle, runs, tone_bundle.triggers)
    folder = tmp_path_factory.mktemp("bundle") / "tones"
    return write_tones(folder, provenance={"validation": {"detection_curves": held}}).path


def write_wav(path: Path, samples: Samples) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def _invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def _calibrated(*arguments: object) -> dict[str, Any]:
    result = _invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _count(folder: Path, recording: Path) -> dict[str, int]:
    """Detections of each keyword in a file, as `listen` has them."""
    command = ["listen", "--bundle", str(folder), "--input", str(recording), "--json"]
    lines = CliRunner().invoke(main, command).stdout.splitlines()
    heard = [json.loads(line) for line in lines]
    labels = [line["label"] for line in heard if line["type"] == "detection"]
    return {label: labels.count(label) for label in ("low_tone", "high_tone")}


def test_the_calibrated_bundle_fires_in_the_room_as_often_as_it_says(
    bundle: Path, room: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated"
    found = _calibrated(bundle, "--audio", room, "--target", 100, "--out", out)
    assert found["hours"] == pytest.approx(0.02)
    low, high = found["keywords"]
    assert (low["keyword"], low["false_accepts_before"]) == ("low_tone", 3)
    # A word of the table is as loud as the room's tones: raising it gains nothing but misses, but
    # 100 per hour allow 2 in 72 s.
    assert low["is_changed"]
    counts = _count(out, room)
    assert counts == {"low_tone": low["false_accepts"], "high_tone": high["false_accepts"]}
    assert found["false_accepts"] == sum(counts.values())
    assert found["expected_per_hour"] <= 100
    assert found["upper_per_hour"] > found["expected_per_hour"]
    assert _count(bundle, room) == {"low_tone": 3, "high_tone": 0}


def test_the_bundle_is_written_whole_with_a_record_and_passes_its_golden_check(
    bundle: Path, room: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated"
    found = _calibrated(bundle, "--audio", room, "--target", 100, "--out", out)
    before, after = load_bundle(bundle), load_bundle(out)
    Spotter(after)  # opens the model, which must give the golden output
    assert (after.path / "model.onnx").read_bytes() == (before.path / "model.onnx").read_bytes()
    record = after.provenance["calibration"]
    assert record == {key: found[key] for key in record}
    assert record["before"] == {k: asdict(v) for k, v in before.triggers.items()}
    assert {k: asdict(v) for k, v in after.triggers.items()} == {
        keyword["keyword"]: keyword["after"] for keyword in record["keywords"]
    }
    assert after.provenance["validation"] == before.provenance["validation"]
    assert after.model_card
    assert (tmp_path / "calibrated-calibration.html").read_text().count("<svg") == 2
    shown = CliRunner().invoke(main, ["info", str(out)])
    assert "calibration.hours: 0.02" in shown.stdout


def test_it_tells_people_what_to_expect(bundle: Path, room: Path, tmp_path: Path) -> None:
    result = _invoke(bundle, "--audio", room, "--target", 100, "--out", tmp_path / "out")
    assert result.exit_code == 0
    shown = result.stdout
    assert "keyword    trigger" in shown
    assert "in 0.02 h: expect " in shown
    assert "expected to miss, clean: " in shown
    assert f"ssast-edge listen --bundle {tmp_path / 'out'}" in shown
    assert result.stderr == ""


def test_a_bundle_without_a_table_says_that_misses_are_not_known(
    tone_folder: Path, room: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = _invoke(tone_folder, "--audio", room, "--target", 300, "--out", out)
    assert "what low_tone, high_tone will miss is not known" in result.stdout
    found = load_bundle(out).triggers["high_tone"]
    assert found.threshold < load_bundle(tone_folder).triggers["high_tone"].threshold
    assert (found.smoothing_ms, found.min_hits) == (80, 2)


def test_own_recordings_say_what_is_missed(
    tone_folder: Path, room: Path, tone_audio: Callable[..., Samples], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for number, hz in enumerate((HIGH_HZ, HIGH_HZ, LOW_HZ)):
        samples = tone_audio(1.5 + number / 10, (0.4, 1.0, hz))
        write_wav(own / "High tone" / f"{number}.wav", samples)
    found = _calibrated(
        *(tone_folder, "--audio", room, "--target", 60, "--out", tmp_path / "out"),
        *("--positives", own, "--keyword", "high tone"),
    )
    (high,) = found["keywords"]
    (expected,) = high["expected_missed"]
    assert (expected["condition"], expected["words"]) == ("own recordings", 3)
    assert expected["missed"] == 1
    assert expected["interval"] == [0.0084, 0.9057]  # Clopper-Pearson of 1 in 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "5"], "0.02 h cannot show 5 false accepts per hour: 0 false accepts in 0.02"),
        (["--target", "100", "--strict"], "record at least 0.03 h, or ask for less with --target"),
    ],
)
def test_what_the_hours_cannot_show_is_refused_and_nothing_written(
    bundle: Path, room: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    result = _invoke(bundle, "--audio", room, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [result.stderr.strip()]
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_solved_again_without_hearing(bundle: Path, room: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = (bundle, "--state", state, "--out", tmp_path / "out")
    first = _calibrated(*options, "--audio", room, "--target", 100)
    size = (state / FILE).stat().st_size
    again = _calibrated(*options, "--solve", "--target", 100)
    assert (state / FILE).stat().st_size == size
    assert again["keywords"] == first["keywords"]
    # The bundle that this audio made is no evidence beside the same audio.
    in_place = _calibrated(
        tmp_path / "out", "--state", state, "--solve", "--target", 100, "--out", tmp_path / "out"
    )
    assert in_place["keywords"] == first["keywords"]
    assert in_place["expected_per_hour"] == first["expected_per_hour"]


def test_only_one_keyword(bundle: Path, room: Path, tmp_path: Path) -> None:
    found = _calibrated(
        bundle, "--audio", room, "--target", 100, "--out", tmp_path / "o", "--keyword", "high tone"
    )
    assert [keyword["keyword"] for keyword in found["keywords"]] == ["high_tone"]
    after = load_bundle(tmp_path / "o").triggers
    assert after["low_tone"] == load_bundle(bundle).triggers["low_tone"]


def test_the_loudest_moments_are_kept_if_asked_for(
    bundle: Path, room: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    options = (bundle, "--audio", room, "--target", 100, "--out", tmp_path / "o")
    _calibrated(*options, "--clips", clips)
    names = sorted(path.name for path in clips.glob("low_tone_*"))
    assert sorted(name.rpartition("_")[2] for name in names[-3:]) == [
        "00h00m10s.wav",
        "00h00m30s.wav",
        "00h00m50s.wav",
    ]
    with wave.open(str(clips / names[-1])) as file:
        assert 2.5 * RATE < file.getnframes() <= 3 * RATE + 1


def test_known_moments_do_not_count(bundle: Path, room: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.csv"
    said.write_text("audio,start_s,end_s\nroom.wav,9.9,10.6\n/x/room.wav,29.9,30.6\nb.wav,1,70\n")
    found = _calibrated(
        bundle, "--audio", room, "--target", 100, "--out", tmp_path / "o", "--said", said
    )
    assert found["keywords"][0]["false_accepts_before"] == 1
    assert found["hours"] == pytest.approx((72 - 2 * 1.2) / 3600, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x"], "give --hours, how long to hear the microphone, or --audio"),
        (["--out", "x", "--audio", "a.wav", "--device", "1"], "--device is a microphone's"),
        (["--out", "x", "--solve"], "--solve takes what --state holds"),
        (["--out", "x", "--solve", "--state", "s", "--audio", "a"], "--solve hears nothing"),
        (["--out", "x", "--solve", "--state", "s", "--clips", "c"], "--clips are cut while"),
        (["--out", "x", "--audio", "absent.wav"], "absent.wav: cannot be read: No such file"),
        (["--out", "x", "--audio", ".", "--target", "nan"], "wanted a number, got nan"),
        (["--out", "x", "--audio", ".", "--target", "0"], "is not in the range x>0"),
        (["--audio", "a.wav"], "Missing option '--out'"),
        (["nothing", "--out", "x", "--audio", "a.wav"], "no bundle 'nothing'"),
        (["--out", "x", "--audio", "a.wav", "--keyword", "hal"], "unknown keyword 'hal'"),
        (["--out", "x", "--audio", "a.wav", "--said", "absent.csv"], "absent.csv: cannot be read"),
        (["--out", "x", "--audio", "README.md"], "README.md: cannot be read as audio"),
        (["--out", "docs", "--audio", "a.wav"], "docs: is there and is no bundle"),
        (["--out", "x", "--audio", "README.md", "--positives", "docs"], "holds no folder of a"),
        (["--out", "x", "--audio", "a.wav", "--positives", "absent"], "absent: is no folder"),
    ],
)
def test_mistakes_are_one_line(
    tone_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("x")
    for name in ("README.md", "a.wav"):
        (tmp_path / name).write_bytes(b"no audio at all, but some bytes of text")
    before = sorted(tmp_path.rglob("*"))
    bundle = [] if arguments[0] == "nothing" else [str(tone_folder)]
    result = _invoke(*bundle, *arguments)
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_installed_bundle_is_never_changed(room: Path) -> None:
    if "wake-words" not in default_bundles():
        pytest.skip("no bundle wake-words here")
    folder = ROOT / "ssast_edge" / "bundles" / "wake-words"
    result = _invoke("wake-words", "--audio", room, "--out", folder)
    assert result.exit_code == 1
    assert "is the bundle that was installed, which stays as it is" in result.stderr


def test_broken_tables_of_moments_are_one_line(bundle: Path, room: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.csv"
    for content, wanted in [
        ("start_s\n1\n", "has no column end_s"),
        ("start_s,end_s\n3,1\n", "line 2: wanted 0 <= start_s <= end_s"),
        ("start_s,end_s\nnan,1\n", "line 2: wanted"),
    ]:
        said.write_text(content)
        result = _invoke(bundle, "--audio", room, "--out", tmp_path / "o", "--said", said)
        assert result.exit_code == 1
        assert wanted in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_killed_and_stopped_it_goes_on_to_the_same_result(
    bundle: Path, tone_audio: Callable[..., Samples], tmp_path: Path
) -> None:
    tones = [(at, at + 0.6, LOW_HZ) for at in (40.0, 95.0, 150.0)]
    recording = write_wav(tmp_path / "long.wav", tone_audio(160.0, *tones))
    options = ["--audio", recording, "--target", 60, "--state"]
    whole = _calibrated(bundle, *options, tmp_path / "whole", "--out", tmp_path / "a")
    pcm = np.frombuffer(recording.read_bytes()[44:], "<i2")
    state = tmp_path / "state"
    # A file that grows, as a pipe would: what the process has heard when it is killed is known.
    for number in (signal.SIGKILL, signal.SIGINT):
        process = _start(bundle, *options, state, "--out", tmp_path / "b")
        try:
            _wait_for_record(state / FILE, process)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
        assert stdout == "" or number is signal.SIGINT, stderr
    found = _calibrated(bundle, *options, state, "--out", tmp_path / "b")
    assert found["keywords"] == whole["keywords"]
    assert found["hours"] == whole["hours"] == pytest.approx(len(pcm) / RATE / 3600, abs=1e-4)
    assert (state / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


def _start(bundle: Path, *arguments: object) -> "subprocess.Popen[str]":
    command: Sequence[str] = [
        # A shell that starts tests in the background makes them, and what they start, ignore it.
        *("env", "--default-signal=INT", sys.executable, "-m", "ssast_edge", "calibrate"),
        *map(str, [bundle, *arguments]),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_record(path: Path, process: "subprocess.Popen[str]") -> None:
    """Until it has written down something more than the time before."""
    size = path.stat().st_size if path.exists() else 300
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        if path.exists() and path.stat().st_size > size:
            return
        time.sleep(0.002)


@pytest.mark.skipif("wake-words" not in default_bundles(), reason="no bundle wake-words here")
def test_the_shipped_bundle_on_the_demo(tmp_path: Path) -> None:
    demo = ROOT / "ssast_edge" / "demo" / "demo.ogg"
    said = tmp_path / "said.csv"
    words = json.loads(demo.with_suffix(".json").read_text())["words"]
    rows = [f"{w['start_s']},{w['end_s'] + 0.5}" for w in words if w["keyword"]]
    said.write_text("\n".join(["start_s,end_s", *rows]))
    out = tmp_path / "out"
    found = _calibrated("--audio", demo, "--said", said, "--target", 600, "--out", out)
    assert len(found["keywords"]) == 6
    heard = Spotter(load_bundle(out))
    assert heard.keywords == tuple(keyword["keyword"] for keyword in found["keywords"])
    all_of_it = _calibrated("--audio", demo, "--target", 900, "--out", out)
    assert all_of_it["false_accepts"] <= 900 * all_of_it["hours"]
    command = ["listen", "--bundle", str(out), "--input", str(demo), "--json"]
    lines = CliRunner().invoke(main, command).stdout.splitlines()
    assert len(lines) - 1 == all_of_it["false_accepts"]
