"""Manifests and folders of recordings, and what can be wrong with them."""

from pathlib import Path

import pytest

from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.manifest import read_recordings
from ssast_edge.evaluation.recordings import Recording


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_is_read_with_what_it_says(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "m.csv",
        "path,kind,label,text,start_s,end_s,speaker,split,pack\n"
        "a/b.wav,keyword,go,,0.5,0.9,ann,val,p\n"
        f'{tmp_path}/c.wav,speech,,"well, go",,,,val,\n',
    )
    assert read_recordings(manifest) == [
        Recording(
            tmp_path / "a/b.wav", "keyword", "go", "", "p", "ann", "val", start_s=0.5, end_s=0.9
        ),
        Recording(tmp_path / "c.wav", "speech", text="well, go", split="val"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column 'path'"),
        ("path\na.wav\n", "has no column 'kind'"),
        ("path,kind\n", "lists no recording"),
        ("path,kind\na.wav,music\n", "line 2: kind is 'music', wanted keyword, speech"),
        ("path,kind\na.wav\n", "line 2: wanted 2 values"),
        ("path,kind\na.wav,speech,x\n", "line 2: wanted 2 values"),
        ("path,kind\n,speech\n", "line 2: the path is empty"),
        ("path,kind,label\na.wav,keyword,\n", "line 2: a keyword needs a label"),
        ("path,kind,start_s\na.wav,speech,soon\n", "line 2: wanted a time in seconds, got 'soon'"),
        ("path,kind,start_s,end_s\na.wav,speech,2,1\n", "line 2: the word ends at 1 s, before"),
        ("path,kind,end_s\na.wav,speech,nan\n", "wanted a time in seconds"),
        ("path,kind,split\na.wav,speech,a\nb.wav,speech,b\n", "the splits a, b: give one"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SsastEdgeError, match=told):
        read_recordings(write(tmp_path / "m.csv", text))


def test_a_split_is_chosen(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", "path,kind,split\na.wav,speech,val\nb.wav,sound,test\n")
    (found,) = read_recordings(manifest, split="test")
    assert (found.path.name, found.kind, found.split) == ("b.wav", "sound", "test")
    with pytest.raises(SsastEdgeError, match="has no split 'train', it has test, val"):
        read_recordings(manifest, split="train")


def test_a_folder_is_read_by_its_names(tmp_path: Path) -> None:
    for name in (
        "keywords/go/1.wav", "keywords/go/deep/2.FLAC", "speech/x/y.ogg", "sounds/dog/z.wav",
        "sounds/loose.wav", "noise/n.wav", "keywords/go/notes.txt", "speech/.hidden.wav",
        "other/ignored.wav",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(r.kind, r.label, r.path.name) for r in read_recordings(tmp_path)]
    assert found == [
        ("keyword", "go", "1.wav"),
        ("keyword", "go", "2.FLAC"),
        ("speech", "", "y.ogg"),
        ("sound", "dog", "z.wav"),
        ("sound", "", "loose.wav"),
        ("noise", "", "n.wav"),
    ]
    with pytest.raises(SsastEdgeError, match="a folder has no splits"):
        read_recordings(tmp_path, split="test")


def test_a_keyword_without_a_folder_of_its_own_is_told(tmp_path: Path) -> None:
    (tmp_path / "keywords").mkdir()
    (tmp_path / "keywords" / "a.wav").touch()
    with pytest.raises(SsastEdgeError, match="wanted keywords/<label>/a.wav"):
        read_recordings(tmp_path)


def test_a_folder_or_file_that_holds_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SsastEdgeError, match="no audio in keywords/"):
        read_recordings(tmp_path)
    with pytest.raises(SsastEdgeError, match=r"none\.csv: cannot be read: No such file"):
        read_recordings(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"path,kind\n\xff\xfe,speech\n")
    with pytest.raises(SsastEdgeError, match="not a CSV manifest in UTF-8"):
        read_recordings(tmp_path / "b.csv")
