"""CPU per second of audio while a bundle listens, by stage, and against the bare model.

    python -m benchmarks.streaming_cost --out runs/streaming_cost.json

One process, one thread, process CPU time, audio fed in blocks as a microphone gives it. All figures
of one run share the machine's state: read the ratios, not the absolute values, across machines.
"""

from __future__ import annotations

import importlib.resources
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.output import write_json
from ssast_edge import Spotter, load_bundle
from ssast_edge.audio import read_audio
from ssast_edge.backends import next_hop, open_backend
from ssast_edge.fbank import Fbank
from train.errors import one_line_errors

SAMPLE_RATE = 16000


def cpu_percent(seconds: float, run: Callable[[], object]) -> float:
    """CPU time of `run()` as a share of `seconds` of audio."""
    start = time.process_time()
    run()
    return 100 * (time.process_time() - start) / seconds


def feed(target: Spotter | Fbank, samples: NDArray[np.float32], block_ms: int) -> None:
    """Push all samples in blocks."""
    block = SAMPLE_RATE * block_ms // 1000
    for first in range(0, len(samples), block):
        target.push(samples[first : first + block])


@click.command()
@click.option("--bundle", default="wake-words", show_default=True)
@click.option("--audio", type=click.Path(path_type=Path), help="Default: the demo track.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="The median counts."
)
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: str, audio: Path | None, repeats: int, out: Path | None) -> None:
    """Measure."""
    with one_line_errors():
        write_json(measure(bundle, audio or demo_track(), repeats), out)


def demo_track() -> Path:
    """The recording that is installed with the package."""
    return Path(str(importlib.resources.files("ssast_edge"))) / "demo" / "demo.ogg"


def measure(bundle: str, audio: Path, repeats: int) -> dict[str, Any]:
    """The figures of one bundle on one recording."""
    loaded = load_bundle(bundle)
    samples = read_audio(audio)
    seconds = len(samples) / SAMPLE_RATE
    backend = open_backend(loaded, threads=1)
    infer = next_hop(backend, loaded.golden.fbank)
    hops = int(seconds * 1000 / loaded.hop_ms)
    rows: dict[str, list[float]] = {}
    for _ in range(repeats):
        # Interleaved, so that a busy machine is busy for all of them.
        for block_ms in (10, 20, 100):
            stages: dict[str, Spotter | Fbank] = {
                "listening": Spotter(loaded, backend=backend),
                "front end alone": Fbank(loaded.fbank),
            }
            for name, target in stages.items():
                share = cpu_percent(seconds, partial(feed, target, samples, block_ms))
                rows.setdefault(f"{name}, blocks of {block_ms} ms", []).append(share)
        bare = cpu_percent(seconds, lambda: [infer() for _ in range(hops)])
        rows.setdefault("model alone", []).append(bare)
    result: dict[str, Any] = {
        "bundle": loaded.name,
        "hop_ms": loaded.hop_ms,
        "audio_s": round(seconds, 1),
        "threads": 1,
        "cpu_count": os.cpu_count(),
        "cpu_percent_of_one_core": {k: round(float(np.median(v)), 3) for k, v in rows.items()},
    }
    shares = result["cpu_percent_of_one_core"]
    listening = shares["listening, blocks of 20 ms"]
    result["overhead_around_model_and_front_end"] = round(
        listening / (shares["model alone"] + shares["front end alone, blocks of 20 ms"]) - 1, 3
    )
    return result


if __name__ == "__main__":
    main()
