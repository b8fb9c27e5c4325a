import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from train.recipe import RecipeError
from train.synthesize import (
    HELD_OUT_VARIANTS,
    KEYWORDS,
    SAMPLE_RATE,
    VARIANTS,
    Utterance,
    holds_keyword,
    main,
    missing_engines,
    plan,
    speak,
    synthesize,
)

needs_engines = pytest.mark.skipif(
    bool(missing_engines()), reason=f"not installed: {', '.join(missing_engines())}"
)
needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)
COUNTS: dict[str, Any] = {"per_keyword": 150, "near_misses": 2000, "sentences": 1200, "words": 300}
ONE_OF_EACH = (
    Utterance("jarvis", "jarvis", "keyword", "espeak-ng", "en-gb+f2", 150.0, 50),
    Utterance("джарвис", "jarvis", "keyword", "espeak-ng", "ru+m1", 150.0, 50),
    Utterance("cowboy", "", "near-miss", "flite", "slt", 1.1, 140),
    Utterance("turn off the lamp", "", "sentence", "festival", "kal_diphone", 1.2, 0),
    Utterance("harvest", "", "near-miss", "festival", "cmu_us_slt_arctic_hts", 0.9, -2),
)


def test_the_seed_decides_what_is_said() -> None:
    first = plan(3, **COUNTS)
    assert plan(3, **COUNTS) == first
    assert plan(4, **COUNTS) != first


def test_each_clip_has_its_own_name_and_every_keyword_its_share() -> None:
    utterances = plan(0, **COUNTS)
    assert len({u.file_name for u in utterances}) == len(utterances)
    for label in KEYWORDS:
        said = [u for u in utterances if u.keyword == label]
        assert len(said) == COUNTS["per_keyword"]
        assert len({u.speaker for u in said}) > 60
        assert {u.engine for u in said} == {"espeak-ng", "flite", "festival"}


def test_training_never_hears_the_held_out_voices_nor_those_of_validation() -> None:
    utterances = plan(0, **COUNTS)
    timbres = {
        split: {u.timbre for u in utterances if u.split == split} for split in ("train", "val")
    }
    assert not timbres["train"] & timbres["val"]
    assert not (timbres["train"] | timbres["val"]) & set(HELD_OUT_VARIANTS)
    share = sum(u.split == "val" for u in utterances) / len(utterances)
    assert 0.08 < share < 0.25


def test_one_person_in_two_engines_is_one_timbre() -> None:
    flite = Utterance("boy", "", "word", "flite", "kal16", 1.0, 100)
    festival = Utterance("boy", "", "word", "festival", "kal_diphone", 1.0, 0)
    assert flite.timbre == festival.timbre
    assert flite.speaker != festival.speaker


@pytest.mark.parametrize(
    "text",
    [
        "alexa",
        "two computers",
        "jarvis's car",
        "smart mirrors",
        "a lexa",
        "the snow boy",
        "view glasses",
        "Hey Alexa!",
    ],
)
def test_a_keyword_is_found_in_any_spelling(text: str) -> None:
    assert holds_keyword(text)


@pytest.mark.parametrize(
    "text", ["alexander", "a lexus", "compute", "jar", "mirror smart", "snowball", "view class", ""]
)
def test_a_near_miss_holds_no_keyword(text: str) -> None:
    assert not holds_keyword(text)


def test_no_negative_says_a_keyword() -> None:
    assert not [u.text for u in plan(0, **COUNTS) if not u.keyword and holds_keyword(u.text)]


@needs_espeak
@pytest.mark.parametrize("accent", ["en-us", "en-gb"])
def test_no_negative_sounds_like_a_keyword(accent: str, tmp_path: Path) -> None:
    negatives = sorted({u.text for u in plan(0, **COUNTS) if not u.keyword})
    keywords = {"".join(said) for said in _phonemes(list(KEYWORDS.values()), accent, tmp_path)}
    assert len(keywords) == len(KEYWORDS)
    for text, said in zip(negatives, _phonemes(negatives, accent, tmp_path), strict=True):
        spans = {
            "".join(said[i:j])
            for i in range(len(said))
            for j in range(i + 1, min(i + 4, len(said)) + 1)
        }
        assert not spans & keywords, text


@needs_espeak
def test_every_variant_is_one_of_espeak() -> None:
    # eSpeak NG falls back to its plain voice without a word when it has no such variant.
    listed = subprocess.run(
        ["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    known = set(re.findall(r"!v/(\S+)", listed))
    assert set(VARIANTS) | set(HELD_OUT_VARIANTS) <= known


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


def _phonemes(texts: list[str], accent: str, folder: Path) -> list[list[str]]:
    """Phonemes of each text word by word, without stress marks."""
    path = folder / "texts.txt"
    path.write_text("\n\n".join(texts), encoding="utf-8")
    said = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", accent, "-f", str(path)],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    ).stdout
    return [re.sub(r"[ˈˌː]", "", line).split() for line in said.splitlines() if line.strip()]
