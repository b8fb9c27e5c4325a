import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from train.recipe import RecipeError
from train.synthesize import SAMPLE_RATE, main, missing_engines, speak, synthesize
from train.utterances import Utterance

needs_engines = pytest.mark.skipif(
    bool(missing_engines()), reason=f"not installed: {', '.join(missing_engines())}"
)
ONE_OF_EACH = (
    Utterance("jarvis", "jarvis", "keyword", "espeak-ng", "en-gb+f2", 150.0, 50),
    Utterance("джарвис", "jarvis", "keyword", "espeak-ng", "ru+m1", 150.0, 50),
    Utterance("cowboy", "", "near-miss", "flite", "slt", 1.1, 140),
    Utterance("turn off the lamp", "", "sentence", "festival", "kal_diphone", 1.2, 0),
    Utterance("harvest", "", "near-miss", "festival", "cmu_us_slt_arctic_hts", 0.9, -2),
)


@needs_engines
@pytest.mark.parametrize("utterance", ONE_OF_EACH, ids=lambda u: u.speaker)
def test_a_clip_begins_and_ends_with_its_word(utterance: Utterance) -> None:
    samples = speak(utterance)
    assert samples.dtype == np.float32
    assert 0.25 * SAMPLE_RATE < len(samples) < 3 * SAMPLE_RATE
    edge = SAMPLE_RATE // 100
    peak = np.abs(samples).max()
    assert np.abs(samples[:edge]).max() > 0.01 * peak
    assert np.abs(samples[-edge:]).max() > 0.01 * peak
    np.testing.assert_array_equal(speak(utterance), samples)


@needs_engines
def test_pitch_and_speed_are_heard_by_every_engine() -> None:
    for plain in ONE_OF_EACH[2:]:
        slower = Utterance(*_said(plain), plain.speed * 1.3, plain.pitch)
        assert len(speak(slower)) > 1.15 * len(speak(plain))
    for plain in (ONE_OF_EACH[0], ONE_OF_EACH[2], ONE_OF_EACH[4]):
        other = Utterance(*_said(plain), plain.speed, plain.pitch + 20)
        assert not np.array_equal(speak(other), speak(plain))


@needs_engines
def test_clips_that_are_there_are_kept_and_lost_ones_made_again(tmp_path: Path) -> None:
    synthesize(tmp_path, ONE_OF_EACH, jobs=2)
    paths = [tmp_path / u.file_name for u in ONE_OF_EACH]
    kept, lost = paths[0], paths[-1]
    before, time_ns = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "manifest.csv").unlink()
    synthesize(tmp_path, ONE_OF_EACH, jobs=1)
    assert kept.stat().st_mtime_ns == time_ns
    assert lost.read_bytes() == before
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {*paths, tmp_path / "manifest.csv"}


@needs_engines
def test_the_manifest_names_every_clip(tmp_path: Path) -> None:
    synthesize(tmp_path, ONE_OF_EACH, jobs=2)
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [u.text for u in ONE_OF_EACH]
    assert [row["split"] for row in rows] == ["train", "train", "train", "val", "train"]
    for row in rows:
        clip = soundfile.info(tmp_path / row["path"])
        assert (clip.samplerate, clip.channels, clip.format) == (SAMPLE_RATE, 1, "FLAC")


@needs_engines
def test_a_voice_that_is_not_there_is_named(tmp_path: Path) -> None:
    nobody = Utterance("boy", "", "word", "festival", "nobody", 1.0, 0)
    with pytest.raises((RecipeError, subprocess.CalledProcessError), match="festival"):
        synthesize(tmp_path, [nobody], jobs=1)
    assert not (tmp_path / "manifest.csv").exists()


def test_a_missing_engine_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), "--per-keyword", "1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: espeak-ng, flite, festival not installed: apt install ")
    assert len(result.stderr.splitlines()) == 1


def _said(utterance: Utterance) -> tuple[str, str, str, str, str]:
    u = utterance
    return u.text, u.keyword, u.kind, u.engine, u.voice
