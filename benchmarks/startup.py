"""Wall time and peak memory of `ssast-edge listen` from process start to its first inference.

    python -m benchmarks.startup --runs 15

The process gets 0.2 s of audio on standard input (two hops) and then the end of the stream, so each
figure includes the first inference AND the whole exit: an upper bound of what is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.output import write_json


def run_once(command: list[str], pcm: bytes) -> tuple[float, float]:
    """(wall seconds, peak resident MB) of one process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it failed: its own line says why
            process.stdin.write(pcm)
            process.stdin.close()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or json.loads(output.splitlines()[-1])["hops"] < 1:
        raise click.ClickException(f"listen made no inference (status {process.returncode})")
    return wall, usage.ru_maxrss / 1024


@click.command()
@click.option("--bundle", default="wake-words", show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(bundle: str, runs: int, out: Path | None) -> None:
    """Measure."""
    listen = [sys.executable, "-m", "ssast_edge", "listen"]
    command = [*listen, "--bundle", bundle, "--input", "-", "--json"]
    pcm = (np.random.default_rng(0).standard_normal(3200) * 300).astype("<i2").tobytes()
    run_once(command, pcm)  # the first fills the file cache
    walls, peaks = zip(*(run_once(command, pcm) for _ in range(runs)), strict=True)
    result = {
        "bundle": bundle,
        "runs": runs,
        "wall_s": {"p50": round(float(np.median(walls)), 3), "max": round(max(walls), 3)},
        "peak_resident_mb": {"p50": round(float(np.median(peaks)), 1), "max": round(max(peaks), 1)},
    }
    write_json(result, out)


if __name__ == "__main__":
    main()
