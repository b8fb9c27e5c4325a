"""What was heard so far, in a file that is only ever appended to.

The first record says which model's scores these are; each further one holds the kept hops of half
a minute or less of a stream and how far it was heard. A record is length, CRC-32 and zlib data:
what a killed process left half written is cut off when the file is opened again, and whatever was
whole goes on. A night of a quiet room takes some kilobytes, of a loud one some megabytes.
"""

import errno
import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import MANIFEST, Bundle
from ssast_edge.calibration.grid import Reach, reach_of
from ssast_edge.calibration.room import Room, Span, Stretch
from ssast_edge.errors import SsastEdgeError
from ssast_edge.manifest import ManifestError, from_json, read_json

FILE = "heard.log"
_MAGIC = b"SsC1"
_HEAD = struct.Struct("<4sII")  # magic, bytes of data, CRC-32 of the data


@dataclass(frozen=True)
class Header:
    """Which scores a state holds."""

    model: str  # identity of everything that makes the scores
    labels: tuple[str, ...]  # that have a trigger
    floor: float  # of `Reach`
    hops: int

    @property
    def reach(self) -> Reach:
        """What was kept."""
        return Reach(self.floor, self.hops)


@dataclass(frozen=True)
class Progress:
    """How far a stream has been heard."""

    stretch: int  # index of the stream
    name: str
    begun: str  # date and time, ISO; empty where it is not known
    identity: str  # of a file's content, or of a session
    heard_s: float = 0.0  # gaps left out
    last_s: float = 0.0  # audio time of the last hop, gaps included; 0: none
    after: int = 0  # how many of the next hops are kept because of those before
    is_done: bool = False


@dataclass(frozen=True, eq=False)
class Hops:
    """Kept hops, n of them."""

    times_s: NDArray[np.float64]  # (n,)
    scores: NDArray[np.float32]  # (n, labels)
    is_after_gap: NDArray[np.bool_]  # (n,)


def header_of(bundle: Bundle) -> Header:
    """The header for a bundle's scores. Raises SsastEdgeError where nothing can fire."""
    labels = tuple(label for label in bundle.labels if label in bundle.triggers)
    if not labels:
        raise SsastEdgeError(
            f"bundle {bundle.name}: no label has a trigger: there is nothing to calibrate"
        )
    reach = reach_of(bundle.triggers.values(), bundle.hop_ms)
    manifest = read_json(bundle.path / MANIFEST)
    files = manifest["files"]
    # Writing the bundle again, with other triggers, may change how the golden pair is packed.
    others = (bundle.model_card, manifest["golden"]["file"])
    made_of = {name: files[name]["sha256"] for name in files if name not in others}
    said = [made_of, bundle.labels, bundle.hop_ms, bundle.window_frames, asdict(bundle.fbank)]
    text = json.dumps([*said, bundle.activation], sort_keys=True)
    return Header(hashlib.sha256(text.encode()).hexdigest()[:32], labels, reach.floor, reach.hops)


class State:
    """The streams heard so far: in memory, and in a folder if there is one.

    A context manager; one process at a time. Raises SsastEdgeError for a folder that another
    process uses, that is of another model, or that cannot be written to.
    """

    def __init__(self, header: Header, folder: Path | None = None) -> None:
        self.header = header
        self.folder = folder
        self._streams: list[Progress] = []
        self._hops: list[list[Hops]] = []
        self._file: FileIO | None = None

    def __enter__(self) -> "State":
        """Read what there is."""
        if self.folder is not None:
            try:
                self._open(self.folder / FILE)
            except OSError as error:
                raise SsastEdgeError(
                    f"{self.folder}: the state cannot be kept there: {error.strerror or error}"
                ) from error
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder; everything is written already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def streams(self) -> list[Progress]:
        """How far each stream was heard."""
        return list(self._streams)

    @property
    def heard_s(self) -> float:
        """Audio heard so far, in all streams."""
        return sum(stream.heard_s for stream in self._streams)

    def begin(self, name: str, *, begun: str, identity: str) -> Progress:
        """A new stream, of which nothing is written until something was heard."""
        return Progress(len(self._streams), name, begun, identity)

    def add(self, progress: Progress, hops: Hops) -> None:
        """Take what was heard of a stream since the last time, and write it down."""
        self._take(progress, hops)
        if self._file is not None:
            line = json.dumps({**asdict(progress), "hops": len(hops.times_s)}).encode()
            arrays = (
                hops.times_s.astype("<f8").tobytes(),
                hops.scores.astype("<f4").tobytes(),
                hops.is_after_gap.astype("u1").tobytes(),
            )
            self._write(b"".join([line, b"\n", *arrays]))

    def room(self, labels: tuple[str, ...], said: dict[str, tuple[Span, ...]]) -> Room:
        """What was heard, with these labels' scores.

        said: by the name of a stream (or "" for all), moments that do not count.
        """
        columns = [self.header.labels.index(label) for label in labels]
        stretches = []
        for progress, parts in zip(self._streams, self._hops, strict=True):
            empty = np.zeros((0, len(self.header.labels)), np.float32)
            scores = np.concatenate([empty, *(part.scores for part in parts)])
            stretches.append(
                Stretch(
                    progress.name,
                    progress.begun,
                    progress.heard_s,
                    np.concatenate([np.zeros(0), *(part.times_s for part in parts)]),
                    scores[:, columns],
                    np.concatenate([np.zeros(0, np.bool_), *(part.is_after_gap for part in parts)]),
                    (*said.get("", ()), *said.get(progress.name, ())),
                )
            )
        return Room(labels, self.header.reach, tuple(stretches))

    def _take(self, progress: Progress, hops: Hops) -> None:
        if progress.stretch == len(self._streams):
            self._streams.append(progress)
            self._hops.append([])
        self._streams[progress.stretch] = progress
        if len(hops.times_s):
            self._hops[progress.stretch].append(hops)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SsastEdgeError(
                f"{path.parent}: another process is writing this state: end it, or give another "
                "folder with --state"
            ) from error
        self._file.seek(0)
        end = 0
        for number, (data, after) in enumerate(_records(self._file)):
            try:
                self._read(number, data)
            except (ManifestError, KeyError, TypeError, ValueError) as error:
                raise SsastEdgeError(
                    f"{path}: is no state of this ssast-edge ({error}): give another folder with "
                    "--state"
                ) from error
            end = after
        self._file.seek(0)
        if not _MAGIC.startswith(self._file.read(len(_MAGIC))):
            raise SsastEdgeError(f"{path}: is no state of ssast-edge: give another --state")
        self._file.truncate(end)  # what a killed process left half written
        if not end:
            self._write(json.dumps(asdict(self.header)).encode())

    def _read(self, number: int, data: bytes) -> None:
        line, _, rest = data.partition(b"\n")
        fields = json.loads(line)
        if number == 0:
            self._compare(from_json(fields, Header))
            return
        count = fields.pop("hops")
        labels = len(self.header.labels)
        times, scores, gaps = np.split(
            np.frombuffer(rest, "u1"), [8 * count, 8 * count + 4 * count * labels]
        )
        hops = Hops(
            times.view("<f8").astype(np.float64),
            scores.view("<f4").astype(np.float32).reshape(count, labels),
            gaps.view("u1").astype(np.bool_),
        )
        self._take(from_json(fields, Progress), hops)

    def _compare(self, found: Header) -> None:
        wanted = self.header
        if (found.model, found.labels) != (wanted.model, wanted.labels):
            raise SsastEdgeError(
                f"{self.folder}: holds what another model heard: give the bundle that it was begun "
                "with, or another folder with --state"
            )
        if not found.reach.covers(wanted.reach):
            raise SsastEdgeError(
                f"{self.folder}: too little was kept for the triggers that this bundle has now: "
                "give another folder with --state"
            )
        self.header = replace(wanted, floor=found.floor, hops=found.hops)

    def _write(self, payload: bytes) -> None:
        assert self._file is not None
        data = zlib.compress(payload)
        try:
            record = _HEAD.pack(_MAGIC, len(data), zlib.crc32(data)) + data
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SsastEdgeError(
                f"{self.folder}: the state cannot be written: {error.strerror or error}"
            ) from error


def _records(file: FileIO) -> Iterator[tuple[bytes, int]]:
    """The data of each whole record and where it ends in the file."""
    end = 0
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        magic, size, checksum = _HEAD.unpack(head)
        data = file.read(size) if magic == _MAGIC else b""
        if magic != _MAGIC or len(data) < size or zlib.crc32(data) != checksum:
            return
        end += _HEAD.size + size
        yield zlib.decompress(data), end


def as_json(progress: Progress) -> dict[str, Any]:
    """For the record in a bundle."""
    return {
        "name": progress.name,
        "begun": progress.begun,
        "identity": progress.identity,
        "hours": round(progress.heard_s / 3600, 5),
    }
