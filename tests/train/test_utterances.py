import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from train.utterances import (
    HELD_OUT_VARIANTS,
    KEYWORDS,
    VARIANTS,
    Utterance,
    holds_keyword,
    plan,
)

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)
COUNTS: dict[str, Any] = {"per_keyword": 150, "near_misses": 2000, "sentences": 1200, "words": 300}


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
