"""Who is in which split: nobody in two."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from ssast_edge.evaluation.alignment import word_extent
from train.packs import DATA_LICENCES, read_packs, read_synthetic, split_of

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")
PACKS = (
    "wake_words",
    "speech_commands",
    "background_noise",
    "esc10",
    "librispeech",
    "speechocean",
    "wuw",
)


@needs_data
def test_no_speaker_and_no_file_is_in_two_splits() -> None:
    speakers: dict[tuple[str, str], set[str]] = defaultdict(set)
    files: dict[Path, set[str]] = defaultdict(set)
    for clip in read_packs(DATA, PACKS):
        files[clip.path].add(clip.split)
        if clip.speaker:
            speakers[clip.pack, clip.speaker].add(clip.split)
    assert len(speakers) > 1000
    assert [name for name, splits in speakers.items() if len(splits) > 1] == []
    assert [path for path, splits in files.items() if len(splits) > 1] == []


@needs_data
def test_every_pack_has_its_licence_and_no_non_commercial_clip() -> None:
    clips = read_packs(DATA, PACKS)
    assert {clip.pack for clip in clips} <= DATA_LICENCES.keys()
    assert not any("esc50_nc" in clip.path.parts for clip in clips)
    assert "NC" not in " ".join(DATA_LICENCES[clip.pack]["licence"] for clip in clips)
    assert "NON-COMMERCIAL" in DATA_LICENCES["esc50_nc"]["name"]


@needs_data
def test_a_fifth_of_each_wake_word_is_kept_for_the_test() -> None:
    counts: dict[str, list[str]] = defaultdict(list)
    for clip in read_packs(DATA, ("wake_words",)):
        counts[clip.word].append(clip.split)
    assert len(counts) == 6
    for splits in counts.values():
        assert 0.15 < splits.count("test") / len(splits) < 0.25


def test_the_split_of_a_name_never_changes() -> None:
    splits = {"alexa/0": "train", "alexa/4": "test", "jarvis/0": "test", "jarvis/5": "val"}
    assert {name: split_of("wake_words", name) for name in splits} == splits


def test_an_unknown_pack_is_named() -> None:
    with pytest.raises(ValueError, match="unknown pack 'esc51', known: wake_words"):
        read_packs(Path(), ("esc51",))


def test_an_empty_pack_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="librispeech has no clips"):
        read_packs(tmp_path, ("librispeech",))


def test_a_table_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "wuw.csv").write_text("path,speaker\na.ogg,1\n")
    with pytest.raises(ValueError, match=r"wuw\.csv has no column session"):
        read_packs(tmp_path, ("wuw",))


def test_synthetic_speech_is_read_with_its_kind_and_split(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,text,keyword,kind,engine,voice,speaker,split\n"
        "a.flac,smart mirror,smart_mirror,keyword,flite,slt,flite/slt,train\n"
        "b.flac,a smart meter,,near-miss,flite,kal,flite/kal,val\n"
        "c.flac,turn it off,,sentence,flite,slt,flite/slt,train\n"
    )
    clips = read_synthetic(tmp_path)
    assert [(c.word, c.kind, c.split) for c in clips] == [
        ("smart_mirror", "keyword", "train"),
        ("a smart meter", "near-miss", "val"),
        ("turn it off", "speech", "train"),
    ]


@pytest.mark.parametrize("noise", [0.1, 1.5])
def test_the_word_is_found_in_its_clip(noise: float) -> None:
    rng = np.random.default_rng(0)
    fbank = -12 + noise * rng.standard_normal((300, 128)).astype(np.float32)
    fbank[120:150] += 8
    fbank[160:200] += 7  # two syllables with a short pause
    start, end = word_extent(fbank)
    assert abs(start - 117) <= 5
    assert abs(end - 205) <= 5
