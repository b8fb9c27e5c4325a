"""Audio of hours that is put together while it is read, so that memory does not grow with it.

A `Reel` is recordings and room tone laid on a line; what nothing lies on is digital silence. Any
stretch of it can be cut, in any order, and is the same to the bit whenever and however it is cut.
"""

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import file_blocks

__all__ = ["Audio", "Piece", "Reel", "bounds_of"]

Samples = NDArray[np.float32]

_OPEN_FILES = 4
_KEPT = 16000 * 150  # samples of a file that stay in memory


class Audio(Protocol):
    """Samples at 16 kHz that can be cut anywhere: an array, or what is made while it is read."""

    def __len__(self) -> int:
        """How many samples."""

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last, float32; steps are not for it."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a reel, in samples: a recording, or room tone where path is None.

    tone: seed of the room tone. gain: of a recording.
    """

    start: int
    length: int
    path: Path | None = None
    tone: tuple[int, ...] = ()
    gain: float = 1.0

    @property
    def end(self) -> int:
        """One past its last sample."""
        return self.start + self.length


class Reel:
    """Pieces in order, none over another, on `total` samples."""

    def __init__(self, pieces: Sequence[Piece], total: int) -> None:
        self.pieces = tuple(pieces)
        self._total = total
        self._starts = np.array([piece.start for piece in pieces], np.int64)
        self._files: OrderedDict[Path, _File] = OrderedDict()
        ends = [0, *(piece.end for piece in pieces)]
        if any(piece.start < end for piece, end in zip(pieces, ends, strict=False)):
            raise ValueError("the pieces of a reel must be in order and apart")
        if ends[-1] > total:
            raise ValueError(f"a piece ends at {ends[-1]}, the reel at {total}")

    def __len__(self) -> int:
        """How many samples."""
        return self._total

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last."""
        first, last = bounds_of(cut, self._total)
        out = np.zeros(last - first, np.float32)
        index = max(0, int(np.searchsorted(self._starts, first, side="right")) - 1)
        while index < len(self.pieces) and self.pieces[index].start < last:
            piece = self.pieces[index]
            begin, end = max(first, piece.start), min(last, piece.end)
            if begin < end:
                part = self._read(piece, begin - piece.start, end - piece.start)
                out[begin - first : begin - first + len(part)] = part
            index += 1
        return out

    def _read(self, piece: Piece, first: int, last: int) -> Samples:
        if piece.path is None:
            return room_tone(piece)[first:last]
        file = self._files.pop(piece.path, None) or _File(piece.path)
        self._files[piece.path] = file
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        part = file.read(first, last)
        if piece.gain == 1:
            return part
        louder: Samples = part * np.float32(piece.gain)
        return louder


def room_tone(piece: Piece) -> Samples:
    """Faint noise, -90 to -60 dBFS, drawn from the piece's seed."""
    rng = np.random.default_rng(list(piece.tone))
    level = 10 ** rng.uniform(-4.5, -3)
    tone: Samples = rng.standard_normal(piece.length, np.float32) * np.float32(level)
    return tone


def bounds_of(cut: slice, total: int) -> tuple[int, int]:
    """First and one-past-last sample of a slice without a step."""
    first, last, step = cut.indices(total)
    if step != 1:
        raise ValueError("audio is cut without steps")
    return first, max(first, last)


class _File:
    """A recording, decoded as far as it was asked for; of a long one only the last minutes stay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks = _decode(path)
        self._held: list[Samples] = []
        self._first = self._last = 0  # of the file's samples, those that are held

    def read(self, first: int, last: int) -> Samples:
        """Samples first:last, fewer where the file ends."""
        if first < self._first:
            self.close()
            self._blocks, self._held = _decode(self._path), []
            self._first = self._last = 0
        while self._last < last:
            block = next(self._blocks, None)
            if block is None:
                break
            self._held.append(block)
            self._last += len(block)
            while self._held and self._first + len(self._held[0]) <= first:  # a leap forward
                self._first += len(self._held.pop(0))
        held = np.concatenate(self._held) if self._held else np.zeros(0, np.float32)
        part = held[max(0, first - self._first) : max(0, last - self._first)]
        if len(held) > 2 * _KEPT:
            self._first += len(held) - _KEPT
            held = held[-_KEPT:].copy()
        self._held = [held]
        return part

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()


def _decode(path: Path) -> Generator[Samples, None, None]:
    for block in file_blocks(path, block_ms=10_000):
        yield block.samples
