"""`python -m train background`: what a bundle needs to be taught words."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from ssast_edge.bundle import load_bundle
from ssast_edge.enrollment.background import read_background
from ssast_edge.enrollment.recordings import Spoken
from ssast_edge.errors import BundleError
from train.__main__ import main
from train.background import background_clips, noise_as_loud

from .conftest import RATE, tone


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Near misses: "hum", "no" and "come on" by six voices, "rare" by two; one of validation."""
    folder = tmp_path_factory.mktemp("synthetic")
    said = [("hum", "train")] * 6 + [("hum", "val")] + [("no", "train")] * 6
    said += [("come on", "train")] * 6 + [("rare", "train")] * 2
    rows = []
    for number, (text, split) in enumerate(said):
        sound = np.pad(tone(300 + 10 * number, 0.4), RATE // 10)
        soundfile.write(folder / f"{number}.flac", sound, RATE)
        rows.append((f"{number}.flac", text, "", "near-miss", f"voice{number}", split))
    with (folder / "manifest.csv").open("w", newline="") as file:
        names = ("path", "text", "keyword", "kind", "speaker", "split")
        csv.writer(file).writerows([names, *rows])
    return folder


def test_a_bundle_gets_a_background_that_words_are_taught_against(
    tiny_bundle: Path, tiny_data: Path, synthetic: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="holds no background"):
        read_background(load_bundle(tiny_bundle))
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    command = ["background", str(folder), "--data", str(tiny_data), "--synthetic", str(synthetic)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(folder)
    found = read_background(bundle)
    assert bundle.embedding is not None
    embeddings = np.zeros((2, bundle.embedding.segments, bundle.embedding.width), np.float32)
    assert found.project(embeddings).shape == (2, *found.windows.shape[1:])
    assert (np.linalg.eigvalsh(found.within) > -1e-2).all()


def test_words_of_several_voices_count_and_those_that_evaluation_enrolls_do_not(
    tiny_data: Path, synthetic: Path
) -> None:
    running, words = background_clips(tiny_data, (synthetic,))
    assert all(clip.split == "train" for clip in (*running, *words))
    assert [c.word for c in words if c.pack == "synthetic"] == ["hum"] * 6
    assert {c.word for c in background_clips(tiny_data)[1]} == {"alexa", "jarvis", "bed"}


def test_a_folder_without_synthetic_speech_is_one_line(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    command = ["background", str(tiny_bundle), "--data", str(tiny_data)]
    result = CliRunner().invoke(main, [*command, "--synthetic", str(tmp_path)])
    assert result.exit_code == 1
    assert "python -m train.synthesize" in result.stderr.splitlines()[-1]


def test_a_bundle_of_the_package_is_not_replaced(tiny_data: Path) -> None:
    result = CliRunner().invoke(main, ["background", "wake-words", "--data", str(tiny_data)])
    assert result.exit_code == 1
    assert "belongs to the installed package: give --out DIR" in result.stderr


@pytest.mark.parametrize("length", [RATE // 10, 3 * RATE])
def test_noise_is_as_loud_as_the_word_however_short_it_is(length: int) -> None:
    rng = np.random.default_rng(0)
    samples = np.pad(tone(300, 0.4), RATE).astype(np.float32)
    noise = (0.01 * rng.standard_normal(length)).astype(np.float32)
    under = noise_as_loud(Spoken("hum", samples, 1.0, 1.4), 2 * RATE, RATE, [noise], rng)
    assert under.shape == (2 * RATE,)
    word = samples[RATE : RATE + int(0.4 * RATE)]
    assert np.mean(under**2) == pytest.approx(np.mean(word**2), rel=0.01)
