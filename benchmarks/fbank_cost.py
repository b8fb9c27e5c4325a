"""Cost of the front end on one thread, as one line of JSON.

    python -m benchmarks.fbank_cost [--seconds 10] [--repeats 40]

Microseconds of CPU time per frame (a hop of 10 ms): a stream of 10 ms and of 100 ms chunks, a
whole recording, and torchaudio's one-shot for the same recording where it is installed. Each
figure is the fastest and the median of the repeats; the ratios are of the fastest.
"""

from __future__ import annotations

import os

# Before numpy and torch start their threads.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.fbank import Fbank, FbankConfig, fbank, num_frames

CONFIG = FbankConfig()


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Audio per repeat.")
@click.option("--repeats", default=40, show_default=True)
def main(seconds: float, repeats: int) -> None:
    """Measure everything in turn, over and over, and print it."""
    num_samples = round(seconds * CONFIG.sample_rate)
    samples = 0.1 * np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    subjects: dict[str, Callable[[], object]] = {
        "stream_10ms_chunks": lambda: _stream(samples, chunk_ms=10),
        "stream_100ms_chunks": lambda: _stream(samples, chunk_ms=100),
        "one_shot": lambda: fbank(samples, CONFIG),
    }
    torchaudio = _torchaudio(samples)
    if torchaudio is not None:
        subjects["torchaudio_one_shot"] = torchaudio
    elapsed_s: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeats):  # in turn: a busy moment then hits all of them
        for name, run in subjects.items():
            start = time.process_time()
            run()
            elapsed_s[name].append(time.process_time() - start)
    to_us = 1e6 / num_frames(num_samples, CONFIG)
    result: dict[str, Any] = {
        "us_per_frame": {
            name: {
                "min": round(min(times) * to_us, 2),
                "median": round(statistics.median(times) * to_us, 2),
            }
            for name, times in elapsed_s.items()
        },
        "ratio_to_torchaudio": None,
        "seconds": seconds,
        "repeats": repeats,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    if torchaudio is not None:
        theirs = min(elapsed_s["torchaudio_one_shot"])
        result["ratio_to_torchaudio"] = {
            name: round(min(times) / theirs, 3) for name, times in elapsed_s.items()
        }
    click.echo(json.dumps(result))


def _stream(samples: NDArray[np.float32], *, chunk_ms: int) -> None:
    front_end = Fbank(CONFIG)
    size = CONFIG.sample_rate * chunk_ms // 1000
    for start in range(0, len(samples), size):
        front_end.push(samples[start : start + size])


def _torchaudio(samples: NDArray[np.float32]) -> Callable[[], object] | None:
    """The same features by torchaudio, or None where it is not installed."""
    try:
        import torch
        from torchaudio.compliance import kaldi
    except ImportError:
        return None
    torch.set_num_threads(1)
    wave = torch.from_numpy(samples)[None]
    return lambda: kaldi.fbank(
        wave,
        htk_compat=True,
        sample_frequency=CONFIG.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=CONFIG.num_mel_bins,
        dither=0.0,
        frame_shift=CONFIG.hop_ms,
    )


if __name__ == "__main__":
    main()
