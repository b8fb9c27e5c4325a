"""CPU per second of audio while a bundle listens, by stage, and against the bare model.

    python -m benchmarks.streaming_cost --out runs/streaming_cost.json

One process, one thread, process CPU time, audio fed in blocks as a microphone gives it. All figures
of one run share the machine's state: read the ratios, not the absolute values, across machines.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from ssast_edge import Spotter, load_bundle
from ssast_edge.audio import read_audio
from ssast_edge.backends import open_backend
from ssast_edge.fbank import Fbank

SAMPLE_RATE = 16000


def cpu_percent(seconds: float, run: Any) -> float:
    """CPU time of `run()` as a share of `seconds` of audio."""
    start = time.process_time()
    run()
    return 100 * (time.process_time() - start) / seconds


def feed(target: Any, samples: np.ndarray, block_ms: int) -> None:
    """Push all samples in blocks."""
    block = SAMPLE_RATE * block_ms // 1000
    for first in range(0, len(samples), block):
        target.push(samples[first : first + block])


@click.command()
@click.option("--bundle", default="wake-words", show_default=True)
@click.option("--audio", type=click.Path(path_type=Path), help="Default: the demo track.")
@click.option("--repeats", default=5, show_default=True, help="The median counts.")
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: str, audio: Path | None, repeats: int, out: Path | None) -> None:
    """Measure."""
    loaded = load_bundle(bundle)
    samples = read_audio(audio or Path(str(loaded.path)).parents[1] / "demo" / "demo.ogg")
    seconds = len(samples) / SAMPLE_RATE
    backend = open_backend(loaded, threads=1)
    window = loaded.golden.fbank
    hops = int(seconds * 1000 / loaded.hop_ms)
    rows: dict[str, list[float]] = {}
    for _ in range(repeats):
        # Interleaved, so that a busy machine is busy for all of them.
        for block_ms in (10, 20, 100):
            spotter = Spotter(loaded, backend=backend)
            stages = {
                f"listening, blocks of {block_ms} ms": lambda s=spotter, b=block_ms: feed(
                    s, samples, b
                ),
                f"front end alone, blocks of {block_ms} ms": lambda b=block_ms: feed(
                    Fbank(), samples, b
                ),
            }
            for name, run in stages.items():
                rows.setdefault(name, []).append(cpu_percent(seconds, run))
        bare = cpu_percent(seconds, lambda: [backend.infer(window) for _ in range(hops)])
        rows.setdefault("model alone", []).append(bare)
    result: dict[str, Any] = {
        "bundle": loaded.name,
        "hop_ms": loaded.hop_ms,
        "audio_s": round(seconds, 1),
        "threads": 1,
        "cpu_count": os.cpu_count(),
        "cpu_percent_of_one_core": {k: round(float(np.median(v)), 3) for k, v in rows.items()},
    }
    share = result["cpu_percent_of_one_core"]
    listening = share["listening, blocks of 20 ms"]
    result["overhead_around_model_and_front_end"] = round(
        listening / (share["model alone"] + share["front end alone, blocks of 20 ms"]) - 1, 3
    )
    text = json.dumps(result, indent=2)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
