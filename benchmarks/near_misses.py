"""How often a bundle fires at near misses, and hears its keywords, in voices it never heard.

    python -m train.synthesize --out runs/synthetic
    python -m benchmarks.near_misses --synthetic runs/synthetic --out runs/near_misses.json

Takes the validation voices of the synthetic speech: neither training nor the choice of thresholds
used them. Each clip is a stream of its own, one second of faint noise before and after it.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.output import write_json
from ssast_edge import Spotter, load_bundle
from ssast_edge.audio import read_audio
from ssast_edge.backends import open_backend
from ssast_edge.evaluation.intervals import miss_interval
from train.errors import one_line_errors
from train.packs import read_synthetic

SAMPLE_RATE = 16000


def measure(bundle: str, synthetic: Path) -> dict[str, Any]:
    """Counts over all validation clips."""
    loaded = load_bundle(bundle)
    backend = open_backend(loaded)
    clips = [clip for clip in read_synthetic(synthetic) if clip.split == "val"]
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    fired: Counter[str] = Counter()  # clips that fired, by kind
    fired_at: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    with click.progressbar(clips, label="clips", file=sys.stderr) as bar:
        for clip in bar:
            samples = np.concatenate([quiet, read_audio(clip.path), quiet])
            heard = {d.label for d in Spotter(loaded, backend=backend).push(samples)}
            wanted = {clip.word} if clip.kind == "keyword" else set()
            missed.update(wanted - heard)
            fired.update([clip.kind] if heard - wanted else [])
            fired_at.update(f"{clip.word} -> {label}" for label in heard - wanted)
    counts = Counter(str(clip.kind) for clip in clips)
    return {
        "bundle": loaded.name,
        "clips": dict(counts),
        "fired": {kind: _share(fired[kind], count) for kind, count in counts.items()},
        "keywords_missed": _share(missed.total(), counts["keyword"]),
        "missed": dict(missed.most_common()),
        "fired_at": dict(fired_at.most_common()),
    }


def _share(count: int, of: int) -> dict[str, Any]:
    """A count with its share and the exact 95 % interval."""
    interval = [round(x, 4) for x in miss_interval(count, of)] if of else None
    return {"count": count, "of": of, "share": round(count / of, 4) if of else None, "95": interval}


@click.command()
@click.option("--bundle", default="wake-words", show_default=True)
@click.option(
    "--synthetic",
    type=click.Path(path_type=Path),
    default=Path("runs/synthetic"),
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: str, synthetic: Path, out: Path | None) -> None:
    """Measure."""
    with one_line_errors():
        write_json(measure(bundle, synthetic), out)


if __name__ == "__main__":
    main()
