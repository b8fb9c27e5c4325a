"""The demo track that ships with the package, and the script that makes it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.audio import read_audio

DEMO = Path(__file__).parents[1] / "ssast_edge" / "demo"
RATE = 16_000
LABELS = {"alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass"}
needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


@pytest.fixture(scope="module")
def words() -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads((DEMO / "demo.json").read_text("utf-8"))["words"]
    return said


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return read_audio(DEMO / "demo.ogg", RATE)


def test_the_track_is_short_and_small(samples: NDArray[np.float32]) -> None:
    assert 45 < len(samples) / RATE < 60
    assert (DEMO / "demo.ogg").stat().st_size < 500_000
    assert (DEMO / "demo.json").stat().st_size < 10_000
    assert 0.3 < np.abs(samples).max() < 1.0


def test_times_lie_in_the_track_and_in_order(
    words: list[dict[str, Any]], samples: NDArray[np.float32]
) -> None:
    times = [time for word in words for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
    assert times[0] > 0.5
    assert times[-1] < len(samples) / RATE - 1


def test_every_keyword_is_said_among_near_misses_and_sentences(words: list[dict[str, Any]]) -> None:
    assert {word["keyword"] for word in words} == LABELS | {None}
    assert {word["kind"] for word in words} == {"keyword", "near-miss", "sentence"}
    for word in words:
        assert set(word) == {"text", "keyword", "kind", "start_s", "end_s"}
        assert (word["kind"] == "keyword") == (word["keyword"] is not None)
        if word["keyword"]:
            assert word["text"].replace(" ", "_") == word["keyword"]


def test_words_are_louder_than_the_pauses(
    words: list[dict[str, Any]], samples: NDArray[np.float32]
) -> None:
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])

    def mean_db(start_s: float, end_s: float) -> float:
        first, last = round(start_s * RATE), round(end_s * RATE)
        return float(10 * np.log10((power[last] - power[first]) / (last - first)))

    # The last 0.5 s before a word: the reverberation of the one before is gone.
    for word in words:
        before = mean_db(word["start_s"] - 0.5, word["start_s"])
        assert mean_db(word["start_s"], word["end_s"]) > before + 10, word["text"]
        # The word begins where it is said to begin: its first 0.1 s rises out of the pause.
        assert mean_db(word["start_s"], word["start_s"] + 0.1) > before + 2, word["text"]


def test_the_room_is_not_silent(words: list[dict[str, Any]], samples: NDArray[np.float32]) -> None:
    first = round(words[0]["start_s"] * RATE)
    assert 0.003 < np.sqrt(np.mean(samples[: first - 400] ** 2)) < 0.05


def test_the_script_says_no_keyword_by_accident() -> None:
    pytest.importorskip("torch", reason="the script needs what training needs")
    from demo.make_demo_audio import SCRIPT
    from train.utterances import HELD_OUT_VARIANTS, holds_keyword

    for text, kind, voice in SCRIPT:
        assert holds_keyword(text) == (kind == "keyword"), text
        assert voice.split("+")[1] in HELD_OUT_VARIANTS
    keywords = [(text, voice) for text, kind, voice in SCRIPT if kind == "keyword"]
    assert len(set(keywords)) == len(keywords)


@needs_espeak
def test_the_script_makes_this_track(
    words: list[dict[str, Any]], samples: NDArray[np.float32]
) -> None:
    pytest.importorskip("torch", reason="the script needs what training needs")
    from demo.make_demo_audio import make

    made, said = make()
    again, _ = make()
    np.testing.assert_array_equal(again, made)
    # Another eSpeak NG may speak a little differently.
    assert [word["text"] for word in said] == [word["text"] for word in words]
    if said != words:
        pytest.skip("this espeak-ng speaks with other timing than the one that made the track")
    error = np.sqrt(np.mean((made - samples) ** 2) / np.mean(made**2))
    assert error < 0.35  # what Vorbis loses
