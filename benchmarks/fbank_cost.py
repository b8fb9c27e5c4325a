"""Cost of the front end: per 10 ms hop in a stream, per frame of a recording, against torchaudio.

    python -m benchmarks.fbank_cost
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from ssast_edge.fbank import Fbank, fbank

SECONDS = 10


def stream(samples: np.ndarray, chunk: int) -> None:
    """Feed a new stream in chunks."""
    front_end = Fbank()
    for first in range(0, len(samples), chunk):
        front_end.push(samples[first : first + chunk])


@click.command()
@click.option("--repeats", default=7, show_default=True, help="The median counts.")
def main(repeats: int) -> None:
    """Measure; torchaudio takes part when it is installed."""
    samples = (0.1 * np.random.default_rng(0).standard_normal(16000 * SECONDS)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {
        "stream, 10 ms chunks": lambda: stream(samples, 160),
        "stream, 100 ms chunks": lambda: stream(samples, 1600),
        "whole recording": lambda: fbank(samples),
    }
    try:
        import torch
        from torchaudio.compliance import kaldi
    except ImportError:
        click.echo("torchaudio is not installed: left out", err=True)
    else:
        torch.set_num_threads(1)
        wave = torch.from_numpy(samples)[None]
        runs["torchaudio, whole recording"] = lambda: kaldi.fbank(
            wave, htk_compat=True, window_type="hanning", num_mel_bins=128, dither=0.0
        )
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) / (SECONDS * 100) * 1e6)
    cost = {name: round(float(np.median(values)), 2) for name, values in times.items()}
    whole = cost["whole recording"]
    ratios = {name: round(value / whole, 2) for name, value in cost.items()}
    click.echo(json.dumps({"us_per_10_ms": cost, "ratio_to_whole_recording": ratios}, indent=2))


if __name__ == "__main__":
    main()
