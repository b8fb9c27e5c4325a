"""Phones: what they are aligned from, what a token is told, and the encoder that comes out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import ssast_edge
from ssast_edge.audio import read_audio
from tests.train.conftest import ONE_CORE
from train.__main__ import main
from train.checkpoint import load_checkpoint
from train.initial import read_any
from train.keywords import train_keywords
from train.packs import Clip, read_packs
from train.phone_alignment import (
    PHONES,
    UNKNOWN,
    Aligner,
    PhoneLabels,
    PhonesError,
    clip_key,
    load_phones,
    spoken,
)
from train.phone_windows import PackWeights, PhoneSampler, PhoneWindowConfig
from train.phones import train_phones
from train.pool import make_pool
from train.recipe import KeywordRecipe, PhoneDataConfig, PhoneRecipe

PACKS = ("wake_words", "speechocean", "wuw", "background_noise", "esc10")


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> PhoneRecipe:
    return PhoneRecipe(
        name="phones",
        optimizer=tiny_recipe.optimizer,
        data=PhoneDataConfig(packs=PACKS, synthetic=False, renderings=2),
        model=tiny_recipe.model,
        windows=PhoneWindowConfig(num_frames=96),
        engine=tiny_recipe.engine,
    )


@pytest.fixture(scope="module")
def phones(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every half second of a recording is another phone; nothing is known of the packs' noises."""
    labels = {
        clip_key(clip): np.repeat(np.arange(1, 8, dtype=np.uint8), 50)
        for clip in read_packs(tiny_data, PACKS)
        if clip.kind not in ("sound", "silence")
    }
    path = tmp_path_factory.mktemp("phones") / "phones.npz"
    PhoneLabels(PHONES, labels).save(path)
    return path


def clip(word: str) -> Clip:
    return Clip(Path("wuw/a.ogg"), "wuw", "train", "", word)


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        ("{smack} i'm +gonna use ^Voyager_ [voices]", "i'm gonna use voyager"),
        ("One-hundred, and ((threat)) %uh", "one hundred and threat uh"),
        ("call (( )) now", ""),
        ("smart_mirror", "smart mirror"),
        ("it\u2019s here", "it's here"),
        ("call 5 people", ""),
        ("a caf\u00e9", ""),
    ],
)
def test_a_transcript_without_its_markup(transcript: str, words: str) -> None:
    assert spoken(clip(transcript)) == words


def test_phones_come_back_as_they_were_saved(phones: Path) -> None:
    found = load_phones(phones)
    assert len(found.labels) > 20
    assert found.labels["speechocean/train/speechocean/0.ogg"].tolist()[::50] == list(range(1, 8))


def test_a_file_that_holds_no_phones_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PhonesError, match="train align"):
        load_phones(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", phones=np.array(["A"]))
    with pytest.raises(PhonesError, match="not a file of"):
        load_phones(tmp_path / "other.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    whole = tmp_path / "whole.npz"
    PhoneLabels(PHONES, {"a": np.array([1, 2, 3], np.uint8)}).save(whole)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-100])
    for name in ("empty", "cut"):
        with pytest.raises(PhonesError, match="not a file of"):
            load_phones(tmp_path / f"{name}.npz")
    PhoneLabels(PHONES, {"a": np.array([1, 99], np.uint8)}).save(whole)
    with pytest.raises(PhonesError, match="damaged"):
        load_phones(whole)


def test_a_token_is_told_the_phone_at_its_centre(
    tiny_data: Path, recipe: PhoneRecipe, phones: Path, tmp_path: Path
) -> None:
    clips = [c for c in read_packs(tiny_data, PACKS) if c.split == "train"]
    pool = make_pool(
        tmp_path, clips, [2] * len(clips), config=recipe.waveform_augment,
        fbank_config=recipe.fbank, seed=0, jobs=1,
    )  # fmt: skip
    augment = replace(recipe.log_mel_augment, noise_chance=0.0, mask_chance=0.0)
    config = replace(recipe.windows, start_chance=0.0, chain_chance=0.0)
    sampler = PhoneSampler(
        pool, load_phones(phones), config, PackWeights(wake_words=0.0), augment,
        recipe.encoder_config(), seed=1, fill=-9.0,
    )  # fmt: skip
    assert sampler.packs == ("wake_words", "speechocean", "wuw")
    fbank, target, packs = sampler.batch(3, 32)
    assert fbank.shape == (32, 96, 128)
    assert target.shape == (32, recipe.encoder_config().num_patches)
    again = sampler.batch(3, 32)
    assert torch.equal(again[0], fbank)
    assert torch.equal(again[1], target)
    assert 0 not in packs  # whose weight is 0

    hums = [row for row in pool.rows if pool.clips[row["clip"]].pack == "wuw"]  # 148 frames each
    assert {row["frames"] for row in hums} > {148}
    for row in hums:  # another speed moves the boundaries with the sound
        its = sampler.phones(row)
        assert len(its) == row["frames"]
        boundary = int(np.argmax(its == 2))
        assert boundary / len(its) == pytest.approx(50 / 148, abs=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_encoder_of_phones_starts_a_keyword_model(
    tiny_data: Path, recipe: PhoneRecipe, tiny_recipe: KeywordRecipe, phones: Path, tmp_path: Path
) -> None:
    folder = train_phones(
        recipe, data=tiny_data, synthetic=(), phones=phones, out=tmp_path / "phones",
        machine=ONE_CORE, jobs=1,
    )  # fmt: skip
    assert load_checkpoint(folder).classes == PHONES
    header, *lines = (tmp_path / "phones" / "validation.csv").read_text().splitlines()
    assert "phone_accuracy_wuw" in header
    assert lines
    found = read_any(folder)
    assert found.head is None
    assert found.labels == ()
    started = train_keywords(
        tiny_recipe, data=tiny_data, synthetic=(), out=tmp_path / "run", machine=ONE_CORE,
        jobs=1, init=folder,
    )  # fmt: skip
    assert "speechocean" in load_checkpoint(started).progress["sources"]


def test_patches_of_part_of_the_mel_bins_are_refused(recipe: PhoneRecipe) -> None:
    with pytest.raises(ValueError, match="patches of all 128 mel bins"):
        replace(recipe, model=replace(recipe.model, patch_bins=16, stride_bins=16))


def test_a_recipe_without_alignments_is_one_line(tiny_data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "phones.toml"
    recipe.write_text(
        'task = "phones"\nname = "p"\n[data]\npacks = ["wuw"]\n[optimizer]\nsteps = 1\n'
    )
    result = CliRunner().invoke(
        main, ["finetune", str(recipe), "--data", str(tiny_data), "--phones", str(tmp_path / "no")]
    )
    assert result.exit_code == 1
    assert "python -m train align" in result.stderr


def say_computer() -> np.ndarray:
    """The word with 0.3 s around it."""
    track = Path(ssast_edge.__file__).parent / "demo" / "demo.ogg"
    spans = json.loads(track.with_suffix(".json").read_text())["words"]
    said = next(span for span in spans if span["text"] == "computer")
    start, end = (int(16000 * said[key]) for key in ("start_s", "end_s"))
    return read_audio(track)[start - 4800 : end + 4800]


def test_a_spoken_word_is_aligned() -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed (extra: align)")
    samples = say_computer()
    aligner = Aligner(can_recognise=False)
    labels = aligner.align(samples, "computer")
    assert not isinstance(labels, str)
    order = [PHONES[i] for i in labels if i not in (0, UNKNOWN)]
    assert list(dict.fromkeys(order)) == ["K", "AH", "M", "P", "Y", "UW", "T", "ER"]
    begins, ends = np.flatnonzero(labels)[[0, -1]]  # frames
    assert begins == pytest.approx(30, abs=8)
    assert ends == pytest.approx(len(labels) - 30, abs=12)
    assert "not in the dictionary" in str(aligner.align(samples, "xqzt"))
    # An empty recording is told, and what came before changes nothing.
    assert aligner.align(samples[:0], "computer") == "is empty"
    again = aligner.align(samples, "computer")
    assert not isinstance(again, str)
    assert again.tolist() == labels.tolist()
    ((word, start_s, end_s),) = aligner.words(samples, "computer")
    assert word == "computer"
    assert (start_s, end_s) == pytest.approx((begins / 100, (ends + 1) / 100), abs=0.02)
    assert aligner.words(samples, "xqzt") == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # threads beside forked processes
def test_the_command_aligns_what_trains_and_skips_what_it_cannot(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed (extra: align)")
    for number in range(12):
        path = tmp_path / "wake_words" / "computer" / f"{number}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, say_computer(), 16000)
    clips = read_packs(tmp_path, ("wake_words",))
    wanted = {clip_key(clip) for clip in clips if clip.split != "test"}
    assert 1 < len(wanted) < len(clips)
    broken = next(clip for clip in clips if clip.split == "train")
    broken.path.write_bytes(b"OggS but no more")
    out = tmp_path / "phones.npz"
    arguments = ["--data", tmp_path, "--no-synthetic", "--pack", "wake_words", "--out", out]
    result = CliRunner().invoke(main, ["align", "--jobs", "1", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert f"{len(wanted) - 1} recordings" in result.stdout
    assert "skipped: 1" in result.stderr
    listed = tmp_path / "phones.npz.skipped.txt"
    assert broken.path.name in listed.read_text()
    assert load_phones(out).labels.keys() == wanted - {clip_key(broken)}
