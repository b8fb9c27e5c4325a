"""Recordings as samples: decoded from files, or once into a memory map.

Samples are float32, mono, 16 kHz, in [-1, 1]; whatever the file's rate and channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.errors import SsastEdgeError
from train.data.manifest import Example, Manifest
from train.data.partial import filled_whole

__all__ = ["SAMPLE_RATE", "ClipSource", "DecodeError", "FileSource", "PcmCache", "make_pcm_cache"]

Samples = NDArray[np.float32]
SAMPLE_RATE = 16000
SHORTEST = 400  # samples, one frame of the front end
_FULL_SCALE = 32767
_VERSION = 1  # of the cache's layout


class DecodeError(ValueError):
    """A recording that cannot be used; one line with its path."""


class ClipSource(Protocol):
    """Numbered recordings."""

    @property
    def blocks(self) -> Sequence[NDArray[np.intp]]:
        """Examples that lie together (in one shard), read best one after the other; or none."""
        ...

    def __len__(self) -> int: ...

    def samples(self, index: int) -> Samples:
        """(N,) samples of one example, N at least 400; DecodeError when it cannot be read."""
        ...

    def durations(self) -> NDArray[np.float64]:
        """(examples,) seconds of each."""
        ...


def decode(path: Path, start_s: float = 0.0, duration_s: float = 0.0) -> Samples:
    """(N,) samples of a stretch of a file; duration 0: to its end."""
    try:
        samples = read_audio(path, SAMPLE_RATE)
    except SsastEdgeError as error:
        raise DecodeError(str(error)) from error
    start = round(start_s * SAMPLE_RATE)
    stop = start + round(duration_s * SAMPLE_RATE) if duration_s else len(samples)
    samples = samples[start:stop]
    if len(samples) < SHORTEST:
        raise DecodeError(
            f"{path}: {len(samples)} samples from {start_s} s on, wanted at least {SHORTEST} "
            "(one frame)"
        )
    return samples


class FileSource:
    """Decodes a manifest's recordings whenever they are read."""

    blocks: Sequence[NDArray[np.intp]] = ()

    def __init__(self, manifest: Manifest) -> None:
        self.examples, self._root = manifest.examples, Path(manifest.root)

    def __len__(self) -> int:
        return len(self.examples)

    def samples(self, index: int) -> Samples:
        """(N,) samples of one example."""
        example = self.examples[index]
        return decode(self._root / example.path, example.start_s, example.duration_s)

    def durations(self) -> NDArray[np.float64]:
        """Refused: it would decode everything."""
        raise ValueError(
            "the recordings' lengths are known once they are decoded: use a cache (--cache DIR)"
        )


@dataclass(frozen=True)
class PcmCache:
    """All recordings of a manifest that decode, as 16-bit samples in a memory map."""

    examples: Sequence[Example]
    skipped: Sequence[str]  # what did not decode, a line each
    pcm: NDArray[np.int16]
    offsets: NDArray[np.int64]  # (examples + 1,)
    folder: Path

    @property
    def blocks(self) -> Sequence[NDArray[np.intp]]:
        """None: any order is as fast."""
        return ()

    def __len__(self) -> int:
        return len(self.examples)

    def samples(self, index: int) -> Samples:
        """(N,) samples of one example."""
        stretch = self.pcm[self.offsets[index] : self.offsets[index + 1]]
        return np.divide(stretch, _FULL_SCALE, dtype=np.float32)

    def durations(self) -> NDArray[np.float64]:
        """(examples,) seconds of each."""
        return np.diff(self.offsets) / SAMPLE_RATE


def make_pcm_cache(folder: Path, manifest: Manifest, *, jobs: int = 2) -> PcmCache:
    """Decode every recording of the manifest into `folder`; reuse what an equal call left there.

    Equal: the same stretches of files of the same size and age. A recording that does not decode
    is left out, counted and listed in skipped.json; ValueError when none is left.
    """
    target = folder / _key(manifest)
    if not (target / "offsets.npy").is_file():
        with filled_whole(target) as partial:
            _decode_all(partial, manifest, jobs)
    report = json.loads((target / "skipped.json").read_text())
    left_out = {row["index"] for row in report}
    examples = [e for i, e in enumerate(manifest.examples) if i not in left_out]
    pcm = np.memmap(target / "pcm.s16", dtype=np.int16, mode="r")
    offsets = np.load(target / "offsets.npy", allow_pickle=False)
    return PcmCache(examples, [row["reason"] for row in report], pcm, offsets, target)


def _decode_all(partial: Path, manifest: Manifest, jobs: int) -> None:
    root = Path(manifest.root)
    tasks = [(root / e.path, e.start_s, e.duration_s) for e in manifest.examples]
    offsets, skipped = [0], []
    with (
        (partial / "pcm.s16").open("wb") as file,
        ProcessPoolExecutor(jobs) as pool,
        tqdm(total=len(tasks), desc="decoding", unit="clip", mininterval=2) as progress,
    ):
        for index, result in enumerate(pool.map(_decode_one, tasks, chunksize=16)):
            progress.update()
            if isinstance(result, str):
                skipped.append({"index": index, "reason": result})
                continue
            file.write(result.tobytes())
            offsets.append(offsets[-1] + len(result))
    if len(offsets) == 1:
        raise ValueError(
            f"none of {len(tasks)} recordings of {manifest.name} can be read, the first: "
            f"{skipped[0]['reason']}"
        )
    np.save(partial / "offsets.npy", np.array(offsets, dtype=np.int64))
    (partial / "skipped.json").write_text(json.dumps(skipped, indent=1))
    if skipped:
        tqdm.write(
            f"{len(skipped)} of {len(tasks)} recordings left out (skipped.json lists them), "
            f"the first: {skipped[0]['reason']}"
        )


def _decode_one(task: tuple[Path, float, float]) -> NDArray[np.int16] | str:
    try:
        samples = decode(*task)
    except DecodeError as error:
        return str(error)
    return np.round(np.clip(samples, -1, 1) * _FULL_SCALE).astype(np.int16)


def _key(manifest: Manifest) -> str:
    """Hash of what is decoded; files count with their size and age, which is quick to ask for."""
    digest = hashlib.sha256(f"{_VERSION}".encode())
    root = Path(manifest.root)
    for example in manifest.examples:
        path = root / example.path
        try:
            status = path.stat()
            age = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            age = "absent"
        digest.update(f"{path}\n{age}\n{example.start_s} {example.duration_s}\n".encode())
    return digest.hexdigest()[:16]
