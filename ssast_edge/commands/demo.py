"""`ssast-edge demo`: the packaged recording through `listen`, beside what was really said."""

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssast_edge.commands.interrupts import held_signals
from ssast_edge.commands.options import bundle_options

if TYPE_CHECKING:
    from ssast_edge.commands.listening import Summary
    from ssast_edge.spotter import Detection, Spotter

AFTER_S = 1.0  # a detection up to this long after the end of a word belongs to it


@dataclass(frozen=True, kw_only=True)
class Word:
    """Something that is said in the recording."""

    text: str
    keyword: str | None  # the label that should be heard, None for anything else
    kind: str  # keyword, near-miss or sentence
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Row:
    """What was said beside what was heard; one of them may be absent."""

    word: Word | None
    detections: "tuple[Detection, ...]"

    @property
    def is_found(self) -> bool:
        """Whether the keyword that was said was heard."""
        return self._wanted is not None

    @property
    def false_labels(self) -> list[str]:
        """Labels of the detections beyond the one that the word called for."""
        return [detection.label for detection in self.detections if detection != self._wanted]

    @property
    def _wanted(self) -> "Detection | None":
        keyword = self.word.keyword if self.word else None
        return next((found for found in self.detections if found.label == keyword), None)


class Collected:
    """An output of `listen` that only remembers."""

    def __init__(self) -> None:
        self.detections: list[Detection] = []

    def hop(self, time_s: float, spotter: "Spotter") -> None:
        """Nothing."""

    def audio(self, samples: object, spotter: "Spotter", lost_s: float) -> None:
        """Nothing."""

    def detection(self, detection: "Detection") -> None:
        """Remember it."""
        self.detections.append(detection)

    def trouble(self, message: str) -> None:
        """Nothing: a file loses no audio."""

    def summary(self, summary: "Summary") -> None:
        """Nothing."""


@click.command()
@bundle_options
def demo(bundle: str, hop_ms: int | None, threads: int) -> None:
    """Hear a packaged recording, beside what is said in it."""
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.listening import listen_to
    from ssast_edge.commands.output import summary_line
    from ssast_edge.commands.source import SourceConfig, open_source
    from ssast_edge.spotter import Spotter

    folder = Path(str(importlib.resources.files("ssast_edge"))) / "demo"
    words = [Word(**word) for word in json.loads((folder / "demo.json").read_text())["words"]]
    model, heard = load_bundle(bundle), Collected()
    with held_signals():
        spotter = Spotter(model, hop_ms=hop_ms, threads=threads)
    config = SourceConfig(input=str(folder / "demo.ogg"))
    with open_source(config, model.fbank.sample_rate) as source:
        summary = listen_to(source, spotter, heard)
    click.echo("\n".join([*table(compare(words, heard.detections)), "", summary_line(summary)]))


def compare(words: "Sequence[Word]", detections: "Sequence[Detection]") -> list[Row]:
    """Each word with the detections that belong to it, and the others alone, in time order.

    A detection belongs to a word that asks for it, else to whatever was said at that time.
    """
    owned: dict[int | None, list[Detection]] = {}
    for detection in detections:
        near = [
            index
            for index, word in enumerate(words)
            if word.start_s <= detection.time_s <= word.end_s + AFTER_S
        ]
        wanted = [index for index in near if words[index].keyword == detection.label]
        owner = (wanted or near)[-1] if near else None
        owned.setdefault(owner, []).append(detection)
    rows = [Row(word, tuple(owned.get(index, ()))) for index, word in enumerate(words)]
    rows += [Row(None, (detection,)) for detection in owned.get(None, ())]
    return sorted(rows, key=_start_s)


def table(rows: "Sequence[Row]") -> list[str]:
    """Lines for people: when, what was said, what was heard, then the count."""
    said = [f'"{row.word.text}"' if row.word else "nothing" for row in rows]
    width = max(map(len, [*said, "said"]))
    lines = [f"{'time':>7}  {'said':<{width}}  heard"]
    for row, words in zip(rows, said, strict=True):
        heard = [f"{d.label} {d.score:.2f} at {d.time_s:.2f} s" for d in row.detections]
        heard = heard or ["-"]
        heard += ["(missed)"] if row.word and row.word.keyword and not row.is_found else []
        heard += [f"(false: {', '.join(row.false_labels)})"] if row.false_labels else []
        lines.append(f"{_start_s(row):6.2f}s  {words:<{width}}  {' '.join(heard)}")
    asked = [row for row in rows if row.word and row.word.keyword]
    found = sum(row.is_found for row in asked)
    false = sum(len(row.false_labels) for row in rows)
    return [*lines, "", f"{found} of {len(asked)} keywords heard, {false} false detections"]


def _start_s(row: Row) -> float:
    return row.word.start_s if row.word else row.detections[0].time_s
