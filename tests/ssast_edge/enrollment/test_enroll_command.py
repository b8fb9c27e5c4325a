"""`ssast-edge enroll`: recordings in, a bundle that hears the word out; one line for a mistake."""

import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from ssast_edge import Spotter, load_bundle
from ssast_edge.bundle import Bundle, default_bundles
from ssast_edge.calibration.rewrite import write_calibrated
from ssast_edge.cli import main
from ssast_edge.trigger import TriggerConfig
from tests.ssast_edge.enrollment.conftest import NOISE, RATE, SENTENCES, VOICES

FloatArray = NDArray[np.float32]
Say = Callable[..., FloatArray]

SPEEDS = (152, 156, 162, 166, 172)  # words a minute
WORD, OTHER = "abracadabra", "peppermint"


def write(path: Path, samples: FloatArray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def clips(say: Say, tmp_path: Path) -> list[Path]:
    """The word said five times by one voice."""
    return [write(tmp_path / f"{i}.wav", say(WORD, VOICES[0], speed)) for i, speed in
            enumerate(SPEEDS)]  # fmt: skip


def enroll(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["enroll", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line of a refusal."""
    result = enroll(*arguments)
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def heard(bundle: Bundle, samples: FloatArray) -> list[str]:
    return [found.label for found in Spotter(bundle).push(samples)]


def test_an_enrolled_word_is_heard_when_it_is_said_again_and_other_speech_hardly(
    voices: Bundle, clips: list[Path], say: Say, tmp_path: Path
) -> None:
    where = "--bundle", voices.path, "--out", tmp_path / "out"
    result = enroll(WORD, *clips, *where)
    assert result.exit_code == 0, result.output
    assert "5 of 5 are heard" in result.output
    made = load_bundle(tmp_path / "out")
    assert made.labels == (*voices.labels, WORD)
    assert made.model_labels == voices.labels
    assert load_bundle(voices.path).labels == voices.labels, "the base is as it was"
    assert made.data == voices.data
    assert set(heard(made, say(WORD, VOICES[0], 159))) == {WORD}
    # The mean log-mel is a poor encoder: once in 20 s of speech may be.
    assert heard(made, np.concatenate([say(text) for text in SENTENCES])).count(WORD) <= 1
    # Nothing of the recordings is in the bundle.
    assert sorted(p.suffix for p in made.path.iterdir()) == [
        ".json", ".md", ".npz", ".npz", ".npz", ".onnx",
    ]  # fmt: skip


def test_the_other_commands_take_the_bundle_as_any(
    voices: Bundle, clips: list[Path], tmp_path: Path
) -> None:
    assert enroll(WORD, *clips, "--bundle", voices.path).exit_code == 0
    runner, folder = CliRunner(), str(voices.path)
    assert f"{WORD}: from 5 recordings" in runner.invoke(main, ["info", folder]).output
    tagged = runner.invoke(main, ["tag", str(clips[0]), "--bundle", folder, "--json"])
    overall = json.loads(tagged.stdout.splitlines()[-1])
    assert overall["labels"][WORD]["max"] > 0.5
    listened = runner.invoke(
        main, ["listen", "--input", str(clips[0]), "--bundle", folder, "--json"]
    )
    assert json.loads(listened.stdout.splitlines()[0])["label"] == WORD
    changed = TriggerConfig(threshold=0.7, min_hits=2)
    made = write_calibrated(load_bundle(folder), tmp_path / "calibrated", {WORD: changed}, {})
    assert made.triggers[WORD] == changed
    assert made.enrolled[0].word.clips == 5


def test_words_are_added_replaced_and_removed(
    voices: Bundle, clips: list[Path], say: Say, tmp_path: Path
) -> None:
    others = [
        write(tmp_path / f"other{i}.wav", say(OTHER, VOICES[0], speed))
        for i, speed in enumerate(SPEEDS[:3])
    ]
    where = "--bundle", voices.path
    assert enroll(WORD, *clips[:4], *where).exit_code == 0
    assert enroll(OTHER, *others, *where).exit_code == 0
    both = load_bundle(voices.path)
    assert both.labels == (*voices.labels, WORD, OTHER)
    assert set(heard(both, say(WORD, VOICES[0], 159))) == {WORD}

    assert "give more, or --force" in refused(WORD, *clips[:3], *where)
    result = enroll("Abracadabra", *clips, *where)
    assert "replaces the one from 4" in result.stderr
    again = load_bundle(voices.path)
    assert again.labels == (*voices.labels, OTHER, WORD)

    assert enroll(WORD, "--remove", *where).exit_code == 0
    assert load_bundle(voices.path).labels == (*voices.labels, OTHER)
    assert enroll(OTHER, "--remove", *where).exit_code == 0
    assert load_bundle(voices.path).labels == voices.labels
    assert {p.name for p in voices.path.iterdir()} == {
        "bundle.json", "model.onnx", "golden.npz", "background.npz", "MODEL_CARD.md",
    }  # fmt: skip
    assert f"no enrolled word {WORD!r}" in refused(WORD, "--remove", *where)


def test_recordings_that_cannot_be_learned_from_are_refused_by_name(
    voices: Bundle, clips: list[Path], say: Say, tmp_path: Path
) -> None:
    before = (voices.path / "bundle.json").read_bytes()
    where = "--bundle", voices.path
    whistle = 0.3 * np.sin(np.arange(RATE // 2) * 2 * np.pi * 5000 / RATE)
    whistle = np.pad(whistle, RATE // 3) + NOISE * np.random.default_rng(0).normal(
        size=RATE // 2 + 2 * (RATE // 3)
    )
    bad = {
        "silent": (np.zeros(RATE), "is silent"),
        "faint": (1e-3 * say(WORD), "is silent"),
        "clipped": (40 * say(WORD), "is clipped"),
        "long": (say(SENTENCES[0]), "is too long"),
        "twice": (np.concatenate([say(WORD), say(WORD)]), "more than one word"),
        "other": (whistle, "sounds unlike the other 4"),
    }
    for name, (samples, message) in bad.items():
        path = write(tmp_path / f"{name}.wav", np.asarray(samples, np.float32))
        said = refused(WORD, *clips[:4], path, *where)
        assert message in said, said
        assert name in said, said
    assert "is given twice" in refused(WORD, *clips[:4], clips[1], *where)
    assert "up to 64 characters" in refused("x" * 65, *clips, *where)
    assert "no keyword" in refused("_unknown_", *clips, *where)
    result = enroll(WORD, *clips, *where, "--false-accepts", "nan")
    assert result.exit_code == 2
    assert "got nan" in result.stderr
    assert "holds none of" in refused("../word", *clips, *where)
    for name in ("..", "*", "! ?"):
        assert "a letter or a digit" in refused(name, *clips, *where)
    assert "2 recordings are too few" in refused(WORD, *clips[:2], *where)
    assert "11 recordings are too many" in refused(WORD, *clips, *clips, clips[0], *where)
    assert "is a label of bundle" in refused("low tone", *clips, *where)
    assert (voices.path / "bundle.json").read_bytes() == before


def test_a_word_like_a_keyword_is_refused_unless_forced(voices: Bundle, clips: list[Path]) -> None:
    where = "--bundle", voices.path
    assert enroll(WORD, *clips, *where).exit_code == 0
    assert f"sounds like {WORD!r}" in refused("abracadabras", *clips, *where)
    assert enroll("abracadabras", *clips, "--force", *where).exit_code == 0


def test_a_bundle_without_background_says_so(bare_folder: Path, clips: list[Path]) -> None:
    said = refused(WORD, *clips, "--bundle", bare_folder)
    assert "holds no background embeddings" in said


@pytest.mark.skipif("wake-words" not in default_bundles(), reason="no bundle wake-words here")
def test_words_learned_before_are_not_replaced_unless_forced(
    voices: Bundle, clips: list[Path], say: Say, tmp_path: Path
) -> None:
    others = [write(tmp_path / f"o{i}.wav", say(OTHER, VOICES[0], s)) for i, s in
              enumerate(SPEEDS[:3])]  # fmt: skip
    where = "--bundle", voices.path, "--out", tmp_path / "out"
    assert enroll(WORD, *clips, *where).exit_code == 0
    said = refused(OTHER, *others, *where)
    assert f"holds {WORD}, learned before, which would be gone" in said
    assert load_bundle(tmp_path / "out").labels[-1] == WORD
    assert "would be gone" in refused(OTHER, "--record", 3, *where), "before it records"
    assert enroll(WORD, *clips, *where).exit_code == 0, "the same word is learned anew"
    assert enroll(OTHER, *others, "--bundle", tmp_path / "out").exit_code == 0
    assert load_bundle(tmp_path / "out").labels[-2:] == (WORD, OTHER)
    assert enroll(OTHER, *others, *where, "--force").exit_code == 0
    assert load_bundle(tmp_path / "out").labels == (*voices.labels, OTHER)


def test_the_default_bundle_learns_a_word_from_five_voices(say: Say, tmp_path: Path) -> None:
    taught = [write(tmp_path / f"{i}.wav", say(WORD, voice)) for i, voice in
              enumerate(VOICES[:5])]  # fmt: skip
    result = enroll(WORD, *taught, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    made = load_bundle(tmp_path / "out")
    quiet = np.zeros(RATE, np.float32)
    again = np.concatenate([quiet, say(WORD, "en-us+f5", 150), quiet])
    assert heard(made, again) == [WORD]
    assert WORD not in heard(made, np.concatenate([say(text) for text in SENTENCES]))


def test_the_bundles_of_the_package_are_not_changed(clips: list[Path]) -> None:
    said = refused(WORD, *clips)
    assert "give --out DIR" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give CLIPs, or --record N"),
        (("--remove", "--record", "3"), "--remove takes a NAME alone"),
        (("--keep", "x", "clip.wav"), "--keep is for --record"),
    ],
)
def test_contradicting_options_are_refused(arguments: tuple[str, ...], message: str) -> None:
    result = enroll(WORD, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
