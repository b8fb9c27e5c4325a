"""Each benchmark runs on something tiny and writes its figures; no figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from benchmarks import near_misses, startup, streaming_cost

ROOT = Path(__file__).parents[2]


def test_the_cost_of_streaming_is_told_by_stage(tiny_bundle: Path, tmp_path: Path) -> None:
    audio = tmp_path / "x.wav"
    soundfile.write(audio, 0.1 * np.random.default_rng(0).standard_normal(32000), 16000)
    arguments = ["--bundle", tiny_bundle, "--audio", audio, "--repeats", 1]
    arguments += ["--out", tmp_path / "out" / "cost.json"]
    ran = CliRunner().invoke(streaming_cost.main, [str(a) for a in arguments])
    assert ran.exit_code == 0, ran.output
    result = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert result["audio_s"] == 2.0
    assert len(result["cpu_percent_of_one_core"]) == 7
    assert all(value > 0 for value in result["cpu_percent_of_one_core"].values())


def test_the_demo_track_is_there_whatever_the_bundle() -> None:
    assert streaming_cost.demo_track().is_file()


def test_near_misses_and_keywords_are_counted_by_clip(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = [("alexa", "alexa", "keyword", "val"), ("hush", "", "near-miss", "val"),
            ("left out", "", "near-miss", "train")]  # fmt: skip
    lines = ["path,text,keyword,kind,speaker,split"]
    for text, keyword, kind, split in rows:
        path = f"{text.replace(' ', '-')}.flac"
        soundfile.write(tmp_path / path, np.zeros(8000, dtype=np.float32), 16000)
        lines.append(f"{path},{text},{keyword},{kind},voice,{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    arguments = ["--bundle", str(tiny_bundle), "--synthetic", str(tmp_path)]
    ran = CliRunner().invoke(near_misses.main, arguments)
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["clips"] == {"keyword": 1, "near-miss": 1}
    assert result["fired"]["near-miss"] == {"count": 0, "of": 1, "share": 0.0, "95": [0.0, 0.975]}
    assert result["keywords_missed"]["count"] == 1
    assert result["missed"] == {"alexa": 1}


def test_startup_is_measured_to_the_end_of_the_process(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--runs", 1, "--out", tmp_path / "startup.json"]
    # In a process of its own: the kernel counts the parent's peak to a child that it starts.
    subprocess.run(
        [sys.executable, "-m", "benchmarks.startup", *map(str, arguments)], check=True, cwd=ROOT
    )
    result = json.loads((tmp_path / "startup.json").read_text())
    assert 0.05 < result["wall_s"]["p50"] < 30
    assert 20 < result["peak_resident_mb"]["p50"] < 1000


def test_startup_of_a_bundle_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ran = CliRunner().invoke(startup.main, ["--bundle", str(tmp_path / "none")])
    assert ran.exit_code == 1
    assert "listen made no inference" in ran.stderr


def test_the_cost_of_the_front_end() -> None:
    # A process of its own: the benchmark sets the number of threads for all of it.
    command = [sys.executable, "-m", "benchmarks.fbank_cost", "--seconds", "0.2", "--repeats", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)["us_per_frame"]
    assert {"stream_10ms_chunks", "stream_100ms_chunks", "one_shot"} <= figures.keys()


def test_the_gain_of_pretraining_is_over_what_every_arm_has() -> None:
    from benchmarks.pretraining_gain import summarise

    def result(arm: str, seed: int, fold: int, right: list[int]) -> dict[str, object]:
        return {
            "experiment": "esc50", "arm": arm, "seed": seed, "fold": fold, "right": right,
            "speakers": [""] * len(right),
        }  # fmt: skip

    results = [
        result("scratch", 0, 1, [1, 0, 0, 0]),
        result("scratch", 0, 2, [0, 0, 0, 0]),
        result("pretrained", 0, 1, [1, 1, 1, 0]),
    ]
    scratch, pretrained = summarise("esc50", results)
    assert (scratch["error"], pretrained["error"]) == (0.75, 0.25)
    assert pretrained["folds"] == [1]
    assert pretrained["cut"] == pytest.approx(2 / 3)
    assert pretrained["cut_low"] <= pretrained["cut"] <= pretrained["cut_high"]
    assert summarise("esc50", results[2:]) == [], "nothing to compare with"
