"""Manifests of every format, and what is wrong with a bad one."""

import json
from pathlib import Path

import pytest

from train.data.manifest import (
    Example,
    Manifest,
    ManifestError,
    missing_files,
    read_manifest,
    write_manifest,
)

CSV = "path,labels,split,fold\na.wav,cat;dog,train,1\nb.wav,cat,val,2\n"


def write(tmp_path: Path, text: str, name: str = "m.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, CSV))
    assert manifest.classes == ("cat", "dog")
    assert manifest.examples[0] == Example(path="a.wav", labels=("cat", "dog"), fold=1)
    assert manifest.examples[1].split == "val"


def test_jsonl_says_the_same(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "labels": ["cat", "dog"], "fold": 1},
        {"path": "b.wav", "labels": ["cat"], "split": "val", "fold": 2},
    ]
    path = write(tmp_path, "\n".join(json.dumps(row) for row in rows), "m.jsonl")
    assert read_manifest(path).examples == read_manifest(write(tmp_path, CSV)).examples


def test_the_authors_json_with_their_class_csv(tmp_path: Path) -> None:
    classes = write(
        tmp_path, 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/04rlf,"Music"\n', "c.csv"
    )
    rows = {"data": [{"wav": "/d/a.flac", "labels": "/m/04rlf,/m/09x0r"}]}
    manifest = read_manifest(write(tmp_path, json.dumps(rows), "m.json"), classes=classes)
    assert manifest.classes == ("/m/09x0r", "/m/04rlf")  # their order, not the alphabet's
    assert manifest.examples[0].labels == ("/m/04rlf", "/m/09x0r")


def test_a_spreadsheets_mark_of_utf8_is_no_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,labels\na.wav,x\n", encoding="utf-8-sig")
    assert read_manifest(tmp_path / "m.csv").examples[0].path == "a.wav"


def test_one_folder_per_class(tmp_path: Path) -> None:
    for place in ("cat/1.wav", "cat/2.ogg", "dog/1.flac", "dog/notes.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    manifest = read_manifest(tmp_path)
    assert [example.path for example in manifest.examples] == [
        "cat/1.wav", "cat/2.ogg", "dog/1.flac",
    ]  # fmt: skip
    (tmp_path / "cow").mkdir()
    with pytest.raises(ManifestError, match="class 'cow' has no recording"):
        read_manifest(tmp_path)


def test_what_is_written_is_read_again_from_anywhere(tmp_path: Path) -> None:
    example = Example(
        path="x/a.wav", labels=("b", "a"), split="test", fold=3, speaker="s", source="esc10",
        start_s=1.5, duration_s=2.0,
    )  # fmt: skip
    manifest = Manifest("m", str(tmp_path / "data"), [example], ("b", "a"))
    write_manifest(tmp_path / "out" / "m.csv", manifest)
    back = read_manifest(tmp_path / "out" / "m.csv")
    assert back.classes == ("b", "a")
    assert back.examples[0].path == str(tmp_path / "data/x/a.wav")
    assert {k: getattr(back.examples[0], k) for k in ("labels", "split", "fold", "start_s")} == {
        "labels": ("b", "a"), "split": "test", "fold": 3, "start_s": 1.5,
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "m.csv", "m.csv.classes",
    ]  # fmt: skip


def test_recordings_that_are_not_there_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert missing_files(read_manifest(write(tmp_path, CSV))) == ["b.wav"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n", "no example"),
        ("", "no column 'path'"),
        ("file,labels\na.wav,cat\n", "no column 'path'; known columns: path, labels"),
        ("path,color\na.wav,red\n", "unknown column 'color'"),
        ("path,path\na.wav,b.wav\n", "a column is given twice"),
        ("path,split\na.wav,dev\n", r"line 2: split must be train, val, test, got 'dev'"),
        ("path,fold\na.wav,one\n", "line 2: fold must be a number, got 'one'"),
        ("path,start_s\na.wav,-1\n", "start_s must be 0 or more"),
        ("path,labels\na.wav\n", "line 2: wanted 2 values"),
        ("path,labels\n,cat\n", "path must not be empty"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_labels_and_class_list_must_agree(tmp_path: Path) -> None:
    path = write(tmp_path, CSV)
    write(tmp_path, "cat\n", "m.csv.classes")
    with pytest.raises(ManifestError, match=r"label 'dog' of a\.wav is not in the class list"):
        read_manifest(path)
    write(tmp_path, "cat\ndog\ncow\n", "m.csv.classes")
    with pytest.raises(ManifestError, match="class 'cow' has no example"):
        read_manifest(path)
    write(tmp_path, "cat\ncat\n", "m.csv.classes")
    with pytest.raises(ManifestError, match="class 'cat' is given twice"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["none.csv", "m.txt", "m.jsonl", "m.json"])
def test_a_file_that_is_no_manifest(tmp_path: Path, name: str) -> None:
    if name in ("m.jsonl", "m.json"):
        write(tmp_path, "{", name)
    with pytest.raises(ManifestError, match=r"no such manifest|wanted a \.csv|not JSON"):
        read_manifest(tmp_path / name)
