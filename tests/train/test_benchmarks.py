"""Each benchmark runs on something tiny and writes its figures; no figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from benchmarks import near_misses, startup, streaming_cost, streaming_track
from ssast_edge.evaluation.det import shifted
from ssast_edge.evaluation.track import Source, Track
from ssast_edge.trigger import TriggerConfig

ROOT = Path(__file__).parents[2]


def test_the_streaming_track_reports_every_keyword_condition_and_setting(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = ["--bundle", tiny_bundle, "--data", tiny_data, "--out", tmp_path / "out"]
    ran = CliRunner().invoke(streaming_track.main, [str(a) for a in arguments])
    assert ran.exit_code == 0, ran.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["conditions"]) == {"clean", "10 dB"}
    for settings in result["conditions"].values():
        assert set(settings) == {"eager", "shipped", "strict"}
        for labels in settings.values():
            assert set(labels) == {"all", "alexa", "jarvis"}
            assert labels["all"]["words"] == labels["alexa"]["words"] + labels["jarvis"]["words"]
            for key in ("missed", "false_accepts", "duplicates"):
                assert labels["all"][key] == labels["alexa"][key] + labels["jarvis"][key]
            low, high = labels["all"]["miss_rate_95"]
            assert low <= labels["all"]["miss_rate"] <= high
    assert sum(result["hours_by_pack"].values()) == pytest.approx(result["track_hours"], abs=0.005)
    assert (tmp_path / "out" / "result.md").read_text().count("| all |") == 6
    assert (tmp_path / "out" / "det.png").stat().st_size > 1000


def test_a_streaming_track_without_data_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--data", tmp_path / "none", "--out", tmp_path]
    ran = CliRunner().invoke(streaming_track.main, [str(a) for a in arguments])
    assert ran.exit_code == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "wake_words" in ran.stderr


def test_all_thresholds_move_by_the_same_logit() -> None:
    triggers = {"a": TriggerConfig(threshold=0.5), "b": TriggerConfig(threshold=0.9, min_hits=2)}
    moved = shifted(triggers, 1.0)
    assert moved["a"].threshold == pytest.approx(0.7311, abs=1e-4)
    assert moved["b"].threshold == pytest.approx(0.9607, abs=1e-4)
    assert moved["b"].min_hits == 2
    back = shifted(moved, -1.0)
    assert [t.threshold for t in back.values()] == pytest.approx([0.5, 0.9])
    extreme = shifted(triggers, 60.0)
    assert all(0 < trigger.threshold < 1 for trigger in extreme.values())


def test_hours_are_those_of_each_clip_and_the_pause_after_it() -> None:
    sources = tuple(
        Source(at, pack, "x")
        for at, pack in ((0.5, "librispeech"), (2.0, "esc10"), (3.0, "librispeech"))
    )
    track = Track(np.zeros(16000 * 3600, dtype=np.float32), (), sources)
    hours = streaming_track.hours_by_pack(track)
    assert hours == {"esc10": 0.0, "librispeech": 1.0}


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
