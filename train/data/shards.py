"""WebDataset tar shards: large corpora in few files, local or remote.

    python -m train shard MANIFEST --out DIR

A shard is a plain tar of <key>.flac (16 kHz, mono) and <key>.json (labels, split and so on), which
any WebDataset reader takes. Beside each lies <shard>.json, the place of every recording in it, so
that this module reads any of them by offset; shards.json lists the shards. Knows nothing of
features or batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import io
import json
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from train.data.manifest import Example, Manifest, ManifestError
from train.data.source import SAMPLE_RATE, SHORTEST, DecodeError, Samples, decode

__all__ = ["ShardSource", "write_shards"]

FORMAT = 1
_WAITS_S = (0.2, 1.0, 0.0)  # after each attempt to fetch


@dataclass(frozen=True)
class _Task:
    number: int
    first: int  # index of its first example
    examples: Sequence[Example]
    root: str
    out: Path


def write_shards(
    manifest: Manifest, out: Path, *, clips_per_shard: int = 1000, jobs: int = 2
) -> Path:
    """Write the manifest's recordings below `out`; returns the path of shards.json.

    Shards that are whole are kept: the same command goes on after a kill. A recording that does not
    decode is left out and listed. Raises ManifestError when another manifest's shards lie there.
    """
    out.mkdir(parents=True, exist_ok=True)
    listing = _describe(manifest, clips_per_shard)
    plan = out / "plan.json"
    if plan.is_file() and json.loads(plan.read_text()) != listing:
        raise ManifestError(
            f"{out} holds shards of another manifest or size; choose another --out or remove it"
        )
    _write_json(plan, listing)
    tasks = [
        _Task(number, first, manifest.examples[first : first + clips_per_shard], manifest.root, out)
        for number, first in enumerate(range(0, len(manifest.examples), clips_per_shard))
    ]
    todo = [task for task in tasks if not _is_whole(task)]
    with (
        ProcessPoolExecutor(jobs) as pool,
        tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc="shards") as progress,
    ):
        for _ in pool.map(_write_shard, todo):
            progress.update()
    shards, skipped, clips = [], [], 0
    for task in tasks:
        index = json.loads(_index_path(task).read_text())
        skipped += index["skipped"]
        clips += len(index["clips"])
        shards.append(
            {"name": _name(task), "clips": len(index["clips"]), "sha256": index["sha256"]}
        )
    if not clips:
        raise ManifestError(
            f"none of {len(manifest.examples)} recordings can be read: {skipped[0]}"
        )
    if skipped:
        tqdm.write(
            f"{len(skipped)} of {len(manifest.examples)} recordings left out (shards.json lists "
            f"them), the first: {skipped[0]}"
        )
    target = out / "shards.json"
    _write_json(
        target,
        {
            "format": FORMAT,
            "name": manifest.name,
            "classes": list(manifest.classes),
            "clips": clips,
            "shards": shards,
            "skipped": skipped,
        },
    )
    return target


class ShardSource:
    """Recordings inside shards, read by their offset; remote shards are fetched whole when needed.

    base: a folder, or the http(s) or file address of one. examples: as written, with the path
    "<shard>#<path>". A fetched shard is checked against its hash; the shards used least recently
    are removed beyond `cache_gb`.
    """

    def __init__(self, base: str, cache: Path, *, cache_gb: float = 50.0) -> None:
        self._is_remote = "://" in base
        self._base, self._cache, self._limit = base.rstrip("/"), cache, cache_gb * 1e9
        listing = self._json("shards.json")
        if listing.get("format") != FORMAT:
            raise ManifestError(
                f"{base}/shards.json: format {listing.get('format')}, this version reads {FORMAT}"
            )
        if missing := {"name", "classes", "shards"} - listing.keys():
            raise ManifestError(f"{base}/shards.json: key {min(missing)!r} is missing")
        self.name, self.classes = str(listing["name"]), tuple(listing["classes"])
        self._hashes = {shard["name"]: shard["sha256"] for shard in listing["shards"]}
        self.examples: list[Example] = []
        self._places: list[tuple[str, int, int]] = []  # shard, offset, bytes
        self._durations: list[float] = []
        blocks = []
        for shard in listing["shards"]:
            first = len(self.examples)
            for clip in self._json(f"{shard['name']}.json")["clips"]:
                fields = {**clip["example"], "labels": tuple(clip["example"]["labels"])}
                fields["path"] = f"{shard['name']}#{fields['path']}"
                self.examples.append(Example(**fields))
                self._places.append((shard["name"], clip["offset"], clip["size"]))
                self._durations.append(clip["samples"] / SAMPLE_RATE)
            blocks.append(np.arange(first, len(self.examples)))
        self.blocks: Sequence[NDArray[np.intp]] = blocks

    def __len__(self) -> int:
        return len(self.examples)

    def samples(self, index: int) -> Samples:
        """(N,) samples of one example."""
        name, offset, size = self._places[index]
        try:
            with self._local(name).open("rb") as file:
                raw = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DecodeError(f"{self.examples[index].path}: {error}") from error
        try:
            samples, rate = soundfile.read(io.BytesIO(raw), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise DecodeError(f"{self.examples[index].path}: {error}") from error
        if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) < SHORTEST:
            raise DecodeError(
                f"{self.examples[index].path}: {rate} Hz, shape {samples.shape}; wanted mono "
                f"{SAMPLE_RATE} Hz, at least {SHORTEST} samples: write it with `train shard`"
            )
        return np.asarray(samples, dtype=np.float32)

    def durations(self) -> NDArray[np.float64]:
        """(examples,) seconds of each."""
        return np.array(self._durations)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            if self._is_remote:
                table = json.loads(_fetch(f"{self._base}/{name}"))
            else:
                table = json.loads((Path(self._base) / name).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ManifestError(
                f"{self._base}/{name} cannot be read ({error}): wanted shards written by "
                "`python -m train shard`"
            ) from error
        if not isinstance(table, dict):
            raise ManifestError(f"{self._base}/{name}: wanted an object")
        return table

    def _local(self, name: str) -> Path:
        if not self._is_remote:
            return Path(self._base) / f"{name}.tar"
        path = self._cache / f"{self._hashes[name][:16]}-{name}.tar"
        if path.is_file():
            os.utime(path)  # used last
            return path
        raw = _fetch(f"{self._base}/{name}.tar")
        if hashlib.sha256(raw).hexdigest() != self._hashes[name]:
            raise DecodeError(f"{self._base}/{name}.tar is not what shards.json describes")
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        partial.write_bytes(raw)
        partial.replace(path)
        self._remove_oldest(path)
        return path

    def _remove_oldest(self, kept: Path) -> None:
        found = sorted(self._cache.glob("*.tar"), key=lambda p: p.stat().st_mtime)
        total = sum(path.stat().st_size for path in found)
        for path in found:
            if total <= self._limit:
                return
            if path != kept:
                total -= path.stat().st_size
                path.unlink(missing_ok=True)


def _fetch(address: str) -> bytes:
    if not address.startswith(("http://", "https://", "file://")):
        raise ManifestError(f"{address}: wanted an http, https or file address")
    for wait_s in _WAITS_S:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                raw: bytes = answer.read()
                return raw
        except urllib.error.HTTPError as error:
            if error.code < 500:  # asking again would not help
                raise OSError(f"{address}: {error.code} {error.reason}") from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        time.sleep(wait_s)
    raise OSError(f"{address}: {failure} ({len(_WAITS_S)} attempts)") from failure


def _write_shard(task: _Task) -> None:
    """One tar under a temporary name, its index last: an index says that the tar is whole."""
    path = task.out / f"{_name(task)}.tar"
    partial = path.with_name(f".{path.name}.tmp")
    clips, skipped = [], []
    try:
        with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for number, example in enumerate(task.examples, task.first):
                key = f"{number:09d}"
                try:
                    samples = decode(
                        Path(task.root) / example.path, example.start_s, example.duration_s
                    )
                except DecodeError as error:
                    skipped.append(str(error))
                    continue
                fields = {**dataclasses.asdict(example), "start_s": 0.0, "duration_s": 0.0}
                _add(tar, f"{key}.json", json.dumps(fields).encode())
                header = tar.offset
                raw = _flac(samples)
                _add(tar, f"{key}.flac", raw)
                clips.append(
                    {
                        "key": key,
                        "offset": header + tarfile.BLOCKSIZE,
                        "size": len(raw),
                        "samples": len(samples),
                        "example": fields,
                    }
                )
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _write_json(_index_path(task), {"sha256": digest, "clips": clips, "skipped": skipped})


def _add(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: equal input gives equal shards
    entry.size = len(raw)
    tar.addfile(entry, io.BytesIO(raw))


def _flac(samples: Samples) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _name(task: _Task) -> str:
    return f"shard-{task.number:06d}"


def _index_path(task: _Task) -> Path:
    return task.out / f"{_name(task)}.json"


def _is_whole(task: _Task) -> bool:
    index, tar = _index_path(task), task.out / f"{_name(task)}.tar"
    if not (index.is_file() and tar.is_file()):
        return False
    wanted = json.loads(index.read_text())["sha256"]
    return bool(hashlib.sha256(tar.read_bytes()).hexdigest() == wanted)


def _describe(manifest: Manifest, clips_per_shard: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for example in manifest.examples:
        digest.update(json.dumps(dataclasses.asdict(example)).encode())
    return {"manifest": digest.hexdigest(), "clips_per_shard": clips_per_shard}


def _write_json(path: Path, table: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(table))
    partial.replace(path)
