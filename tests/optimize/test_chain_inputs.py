"""What a chain's steps depend on: manifests that are files, and folders of recordings."""

from pathlib import Path

import pytest

from optimize.chain.keeper import digest_file, digest_manifest


def test_a_folder_of_recordings_is_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "1.wav").write_bytes(b"1234")
    before = digest_manifest(tmp_path)
    assert digest_manifest(tmp_path) == before
    (tmp_path / "low" / "2.wav").write_bytes(b"1234")
    with_another = digest_manifest(tmp_path)
    (tmp_path / "low" / "2.wav").write_bytes(b"12345")
    assert len({before, with_another, digest_manifest(tmp_path)}) == 3


def test_a_file_is_told_by_its_bytes_so_that_earlier_steps_stay(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,labels\n")
    assert digest_manifest(manifest) == digest_file(manifest)


def test_a_manifest_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such manifest") as caught:
        digest_manifest(tmp_path / "clips.csv")
    assert "\n" not in str(caught.value)
