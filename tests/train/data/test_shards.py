"""Tar shards: what is written comes back, from a folder and from an address."""

import functools
import http.server
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import soundfile  # noqa: E402

from train.data.manifest import Example, Manifest, ManifestError  # noqa: E402
from train.data.shards import ShardSource, write_shards  # noqa: E402
from train.data.source import DecodeError, FileSource  # noqa: E402


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Seven recordings of two classes, the fifth of which does not decode."""
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    root.mkdir()
    examples = []
    for i in range(7):
        soundfile.write(root / f"{i}.wav", 0.3 * rng.standard_normal(4000 + 100 * i), 16000)
        examples.append(Example(path=f"{i}.wav", labels=("ab"[i % 2],), speaker=f"s{i}"))
    (root / "4.wav").write_bytes(b"RIFF")
    return Manifest("corpus", str(root), examples, ("a", "b"))


def test_shards_hold_what_decodes(manifest: Manifest, tmp_path: Path) -> None:
    listing = json.loads(
        write_shards(manifest, tmp_path / "s", clips_per_shard=3, jobs=1).read_text()
    )
    assert [shard["clips"] for shard in listing["shards"]] == [3, 2, 1]
    assert len(listing["skipped"]) == 1
    assert "4.wav" in listing["skipped"][0]
    source = ShardSource(str(tmp_path / "s"), tmp_path / "cache")
    files = FileSource(manifest)
    assert [e.labels + (e.speaker,) for e in source.examples] == [
        ("ab"[i % 2], f"s{i}") for i in (0, 1, 2, 3, 5, 6)
    ]
    for place, index in enumerate((0, 1, 2, 3, 5, 6)):
        np.testing.assert_allclose(source.samples(place), files.samples(index), atol=2**-15)
    assert [list(block) for block in source.blocks] == [[0, 1, 2], [3, 4], [5]]
    np.testing.assert_allclose(source.durations()[0], 0.25)


def test_any_reader_of_tar_files_takes_a_shard(manifest: Manifest, tmp_path: Path) -> None:
    write_shards(manifest, tmp_path / "s", clips_per_shard=10, jobs=1)
    with tarfile.open(tmp_path / "s" / "shard-000000.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["000000000.json", "000000000.flac"]
        assert len(names) == 12
        entry = tar.extractfile(names[0])
        assert entry is not None
        assert json.load(entry)["labels"] == ["a"]


def test_what_is_whole_is_kept_and_what_is_not_is_written_again(
    manifest: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    write_shards(manifest, out, clips_per_shard=3, jobs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "shard-000002.json").unlink()  # killed after the tar, before its index
    (out / "shard-000001.tar").write_bytes(b"half")
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-000000*")}
    write_shards(manifest, out, clips_per_shard=3, jobs=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("shard-000000*")} == times
    with pytest.raises(ManifestError, match="shards of another manifest or size"):
        write_shards(manifest, out, clips_per_shard=4, jobs=1)


@pytest.fixture
def address(manifest: Manifest, tmp_path: Path) -> Iterator[str]:
    write_shards(manifest, tmp_path / "s", clips_per_shard=3, jobs=1)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "s"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_are_fetched_from_an_address_once(address: str, tmp_path: Path) -> None:
    here = ShardSource(str(tmp_path / "s"), tmp_path / "unused")
    there = ShardSource(address, tmp_path / "cache", cache_gb=1e-9)  # room for the newest only
    for index in (0, 1, 5):
        np.testing.assert_array_equal(there.samples(index), here.samples(index))
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    assert not (tmp_path / "unused").exists()


def test_a_shard_that_was_changed_is_refused(address: str, tmp_path: Path) -> None:
    source = ShardSource(address, tmp_path / "cache")
    tar = tmp_path / "s" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(DecodeError, match="not what shards.json describes"):
        source.samples(0)
    assert not list((tmp_path / "cache").glob("*"))


def test_an_address_without_shards_is_one_clear_line(address: str, tmp_path: Path) -> None:
    for base in (f"{address}/none", "ftp://nowhere", str(tmp_path)):
        with pytest.raises(ManifestError) as caught:
            ShardSource(base, tmp_path)
        assert "\n" not in str(caught.value)


def test_nothing_that_decodes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"")
    manifest = Manifest("none", str(tmp_path), [Example(path="x.wav")])
    with pytest.raises(ManifestError, match="none of 1 recordings can be read"):
        write_shards(manifest, tmp_path / "s", jobs=1)
