"""A recording of an evaluation: what is said or heard in it, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["KINDS", "Kind", "Recording"]

Kind = Literal["keyword", "speech", "sound", "noise"]
KINDS: tuple[Kind, ...] = ("keyword", "speech", "sound", "noise")


@dataclass(frozen=True)
class Recording:
    """One audio file.

    kind: a "keyword" holds its label once; "noise" is mixed under the others and is not played
    by itself. label: the keyword or the class of the sound. text: what is said, for people.
    start_s, end_s: of the word in the recording, where known.
    """

    path: Path
    kind: Kind
    label: str = ""
    text: str = ""
    pack: str = ""
    speaker: str = ""
    split: str = ""
    start_s: float | None = None
    end_s: float | None = None
