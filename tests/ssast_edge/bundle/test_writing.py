"""A bundle is written whole or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssast_edge.bundle import Bundle, load_bundle, write_bundle
from ssast_edge.errors import BundleError

Table = dict[str, Any]


@pytest.fixture
def folder(tone_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tone bundle to replace."""
    return Path(shutil.copytree(tone_folder, tmp_path / "tones"))


def test_manifest_is_deterministic(write_tones: Callable[..., Bundle], tmp_path: Path) -> None:
    write_tones(tmp_path / "one")
    write_tones(tmp_path / "two")
    for name in ("bundle.json", "golden.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_manifest_is_sorted_and_indented(tone_folder: Path) -> None:
    text = (tone_folder / "bundle.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_every_file_is_recorded(tone_folder: Path) -> None:
    table = json.loads((tone_folder / "bundle.json").read_text())
    names = {path.name for path in tone_folder.iterdir()} - {"bundle.json"}
    assert set(table["files"]) == names == {"model.onnx", "golden.npz", "MODEL_CARD.md"}


def test_writing_replaces_an_older_bundle(write_tones: Callable[..., Bundle], folder: Path) -> None:
    (folder / "old.txt").write_text("old")
    write_tones(folder, version="2.0.0")
    assert load_bundle(folder).version == "2.0.0"
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["tones"]


def test_writing_fills_an_empty_folder(write_tones: Callable[..., Bundle], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert write_tones(tmp_path / "new").path == tmp_path / "new"


def test_writing_makes_parent_folders(write_tones: Callable[..., Bundle], tmp_path: Path) -> None:
    assert load_bundle(write_tones(tmp_path / "a" / "b").path).name == "tones"


def test_folder_that_is_no_bundle_is_not_replaced(
    write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle: not replaced"):
        write_tones(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "diarization"}, "unsupported task"),
        ({"labels": ["low_tone"]}, "trigger for unknown label"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"provenance": {"loss": float("nan")}}, "not JSON compliant"),
        ({"models": [{"backend": "onnx", "precision": "fp32", "file": "no.onnx"}]}, "not listed"),
    ],
)
def test_failed_writing_leaves_the_old_bundle_and_nothing_else(
    write_tones: Callable[..., Bundle], folder: Path, changes: Table, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write_tones(folder, **changes)
    assert load_bundle(folder).version == "1.2.3"
    assert [path.name for path in folder.parent.iterdir()] == ["tones"]


def test_failed_last_step_puts_the_old_bundle_back(
    write_tones: Callable[..., Bundle], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_once(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(BundleError, match="no space left"):
        write_tones(folder, version="2.0.0")
    assert load_bundle(folder).version == "1.2.3"
    assert [path.name for path in folder.parent.iterdir()] == ["tones"]


def test_ctrl_c_at_the_last_step_puts_the_old_bundle_back(
    write_tones: Callable[..., Bundle], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupt_once(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        write_tones(folder, version="2.0.0")
    assert load_bundle(folder).version == "1.2.3"


def test_folder_that_cannot_be_made_is_refused(
    write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BundleError, match="not written: .*file"):
        write_tones(tmp_path / "file" / "tones")


def test_failed_writing_leaves_no_new_folder(
    write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(BundleError):
        write_tones(tmp_path / "new", task="diarization")
    assert list(tmp_path.iterdir()) == []


def test_missing_model_file_is_refused_when_writing(tmp_path: Path, tone_manifest: Table) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx"):
        write_bundle(
            tmp_path / "new",
            tone_manifest,
            {"model.onnx": tmp_path / "model.onnx"},
            golden_fbank=np.zeros((20, 128), np.float32),
            golden_logits=np.zeros(3, np.float32),
        )


@pytest.mark.parametrize("name", ["../model.onnx", "/tmp/model.onnx", "bundle.json"])
def test_file_name_that_cannot_be_is_refused_when_writing(
    tmp_path: Path, tone_folder: Path, tone_manifest: Table, name: str
) -> None:
    with pytest.raises(BundleError, match="file path"):
        write_bundle(
            tmp_path / "new" / "bundle",
            tone_manifest,
            {name: tone_folder / "model.onnx"},
            golden_fbank=np.zeros((20, 128), np.float32),
            golden_logits=np.zeros(3, np.float32),
        )


def test_written_bundle_is_readable_by_others(
    write_tones: Callable[..., Bundle], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert write_tones(tmp_path / "new").path.stat().st_mode == plain.stat().st_mode
