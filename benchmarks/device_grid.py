"""CPU inference: the authors' eager PyTorch, bundles and the bare ONNX Runtime call, in turns.

    git clone https://github.com/YuanGongND/ssast AUTHORS
    pip install --no-deps --target TIMM timm==0.4.5 torchvision==0.26.0
    python -m benchmarks.device_grid tagger --out runs/tagger      # 10 s, untrained, for timing
    python -m benchmarks.device_grid grid --bundle wake-words --bundle runs/tagger
        --authors AUTHORS/src --timm TIMM --threads 1 --threads 2 --out runs/device_grid.json
    python -m benchmarks.device_grid overhead --out runs/overhead.json

`grid` puts the authors' model in front of each bundle: theirs is tiny, 12 blocks of 192, with the
bundle's window and patches of the same shape (16x16 apart, or 128x8 every 4 frames). Batch of one.
`overhead` is what our runtime costs around the session's own `run`. What needs no PyTorch is
`ssast-edge bench`.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.output import write_json
from ssast_edge.backends import open_backend
from ssast_edge.backends.onnx import OnnxBackend
from ssast_edge.bench.case_run import CaseRun
from ssast_edge.bench.durations import Durations
from ssast_edge.bench.machine import machine_facts, versions
from ssast_edge.bench.plan import Grid, expand
from ssast_edge.bench.probe import probe
from ssast_edge.bench.ratios import paired_ratio
from ssast_edge.bench.sampler import memory_mb
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.spotter import Spotter
from train.errors import one_line_errors

FOLDER = click.Path(path_type=Path, exists=True)
OUT = click.Path(path_type=Path)
PATCHES = {  # (bins, frames, stride in bins, stride in frames)
    "16x16": (16, 16, 16, 16),
    "frames": (128, 8, 128, 4),
}


@click.group()
def main() -> None:
    """Figures for docs/results.md that need more than `ssast-edge bench`."""


@main.command()
@click.option("--out", type=OUT, required=True)
@click.option("--size", type=click.Choice(["tiny", "small", "base"]), default="tiny")
@click.option("--labels", default=527, show_default=True)
def tagger(out: Path, size: str, labels: int) -> None:
    """Write an untrained bundle of 1024 frames and 512 patches of 16x16, AudioSet's labels."""
    with one_line_errors():
        write_tagger(out, size, labels)
        click.echo(out)


@main.command()
@click.option("--bundle", "bundles", multiple=True, default=("wake-words",))
@click.option("--authors", type=FOLDER, help="Without them, only the bundles are measured.")
@click.option("--timm", type=FOLDER)
@click.option("--threads", multiple=True, type=click.IntRange(1, 64), default=(1,))
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True)
@click.option("--slice-s", type=float, default=0.3, show_default=True)
@click.option("--memory-of", hidden=True, help="BUNDLE, to tell the authors' peak memory.")
@click.option("--out", type=OUT)
def grid(
    bundles: tuple[str, ...],
    authors: Path | None,
    timm: Path | None,
    threads: tuple[int, ...],
    rounds: int,
    slice_s: float,
    memory_of: str | None,
    out: Path | None,
) -> None:
    """Every ONNX model of each bundle, against the authors' model in eager PyTorch."""
    with one_line_errors():
        if memory_of and authors and timm:
            infer = authors_model(load_bundle(memory_of), threads[0], authors, timm)
            for _ in range(3):
                infer()
            click.echo(memory_mb("VmHWM"))
            return
        tables = [
            _measure(load_bundle(name), name, authors, timm, threads, rounds, slice_s)
            for name in bundles
        ]
        write_json({"machine": machine_facts(), "versions": versions(), "bundles": tables}, out)


@main.command()
@click.option("--bundle", default="sounds", show_default=True)
@click.option("--rounds", type=click.IntRange(5), default=40, show_default=True)
@click.option("--calls", type=click.IntRange(5), default=40, show_default=True, help="In a round.")
@click.option("--out", type=OUT)
def overhead(bundle: str, rounds: int, calls: int, out: Path | None) -> None:
    """Our backend, and a whole hop with front end and triggers, around the session's own call."""
    with one_line_errors():
        write_json(measure_overhead(load_bundle(bundle), rounds, calls), out)


def write_tagger(out: Path, size: str, labels: int) -> None:
    """A bundle through `train.export`, of a checkpoint that was never trained."""
    import torch

    from train.checkpoint import Checkpoint, build_model, save_checkpoint
    from train.config import ModelConfig, OptimizerConfig
    from train.data.clips import ClipConfig
    from train.encoder import SIZES
    from train.export import export_bundle
    from train.recipe import FinetuneRecipe, ManifestConfig

    torch.manual_seed(0)
    bins, frames, stride_bins, stride_frames = PATCHES["16x16"]
    sizes: dict[str, Any] = dict(SIZES[size])
    recipe = FinetuneRecipe(
        name=f"untrained-tagger-{size}",
        optimizer=OptimizerConfig(steps=1),
        data=ManifestConfig(manifest="none.csv"),
        loss="bce",
        clips=ClipConfig(num_frames=1024),
        model=ModelConfig(
            patch_bins=bins, patch_frames=frames, stride_bins=stride_bins,
            stride_frames=stride_frames, **sizes,
        ),
    )  # fmt: skip
    classes = tuple(f"label {number}" for number in range(labels))
    mean, std = -4.2677393, 4.5689974
    weights = build_model(recipe, classes, mean, std).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        save_checkpoint(
            checkpoint, Checkpoint(recipe, classes, mean, std, 0, weights, weights, {}, {})
        )
        export_bundle(checkpoint, out)


def authors_model(bundle: Bundle, threads: int, authors: Path, timm: Path) -> Callable[[], object]:
    """One inference of the authors' tiny model on the bundle's window, as they evaluate it."""
    import torch

    torch.set_num_threads(threads)
    sys.path[:0] = [str(timm), str(authors)]
    try:
        from models.ast_models import ASTModel  # type: ignore[import-not-found]
    finally:
        del sys.path[:2]
    is_patches = bundle.window_frames > 512
    bins, frames, stride_bins, stride_frames = PATCHES["16x16" if is_patches else "frames"]
    shape = {"fshape": bins, "tshape": frames, "input_fdim": 128, "model_size": "tiny"}
    window = bundle.window_frames
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        made = ASTModel(**shape, fstride=bins, tstride=frames, input_tdim=window)
        torch.save(torch.nn.DataParallel(made).state_dict(), Path(folder) / "model.pth")
        model = ASTModel(
            **shape, fstride=stride_bins, tstride=stride_frames, input_tdim=window,
            label_dim=len(bundle.labels), pretrain_stage=False,
            load_pretrained_mdl_path=str(Path(folder) / "model.pth"),
        ).eval()  # fmt: skip
    fbank = torch.from_numpy(bundle.golden.fbank)[None]

    def infer() -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(fbank, "ft_avgtok")

    return infer


def _measure(
    bundle: Bundle,
    name: str,
    authors: Path | None,
    timm: Path | None,
    threads: tuple[int, ...],
    rounds: int,
    slice_s: float,
) -> dict[str, Any]:
    runs = [CaseRun(case) for case in expand([bundle], Grid(backends=("onnx",), threads=threads))]
    steps: dict[str, Callable[[], object]] = {}
    memory: dict[str, float | None] = {}
    if authors and timm:
        for count in threads:
            row = f"authors' tiny, eager PyTorch, {_threads(count)}"
            steps[row] = authors_model(bundle, count, authors, timm)
            memory[row] = _authors_memory(name, count, authors, timm)
    for run in runs:
        row = f"{run.case.precision}, {_threads(run.case.threads)}"
        steps[row] = run.infer
        memory[row] = probe(run.case).get("peak_mb")
    durations = {row: Durations() for row in steps}
    cpu_s = dict.fromkeys(steps, 0.0)
    medians: dict[str, list[float]] = {row: [] for row in steps}
    for step in steps.values():
        step(), step()
    for number in range(rounds):
        rows = list(steps)
        first = number % len(rows)
        for row in rows[first:] + rows[:first]:
            steps[row]()  # the caches were another's
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            taken: list[float] = []
            while len(taken) < 3 or time.perf_counter() - began_s < slice_s:
                start_s = time.perf_counter()
                steps[row]()
                taken.append(1000 * (time.perf_counter() - start_s))
            cpu_s[row] += time.process_time() - began_cpu_s
            durations[row].extend(taken)
            medians[row].append(statistics.median(taken))
    return {
        "bundle": bundle.name,
        "window_frames": bundle.window_frames,
        "rows": [
            {
                "row": row,
                **_rounded(durations[row].summary()),
                "cpu_ms": round(1000 * cpu_s[row] / durations[row].count, 3),
                "ratio": _ratio(medians[row], medians[next(iter(steps))]),
                "peak_mb": memory[row],
            }
            for row in steps
        ],
    }


def measure_overhead(bundle: Bundle, rounds: int, calls: int) -> dict[str, Any]:
    """Medians of the bare call, our call, and the hop; ratios within rounds to the bare call."""
    backend = open_backend(bundle, kind="onnx")
    if not isinstance(backend, OnnxBackend):
        raise click.ClickException(
            f"bundle {bundle.name} goes on hop by hop: give one of windows, as sounds"
        )
    # The same session: one of its own would have weights of its own, and the caches the other's.
    session = backend._session
    window = bundle.golden.fbank
    feed = {"fbank": window[None]}
    spotters = {ms: Spotter(bundle, backend=backend) for ms in (20, bundle.hop_ms)}
    rate = bundle.fbank.sample_rate
    audio = (0.02 * np.random.default_rng(0).standard_normal(rate)).astype(np.float32)

    def hop(block_ms: int) -> None:
        for start in range(0, bundle.hop_ms, block_ms):
            first = start * rate // 1000
            spotters[block_ms].push(audio[first : first + block_ms * rate // 1000])

    ways: dict[str, Callable[[], object]] = {
        "bare session.run": lambda: session.run(["logits"], feed),
        "our backend": lambda: backend.infer(window),
        "a hop, blocks of 20 ms": lambda: hop(20),
        "a hop, one block": lambda: hop(bundle.hop_ms),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    medians: dict[str, list[float]] = {way: [] for way in ways}
    quickest: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(4):  # until a hop's audio always completes a hop
        for block_ms in spotters:
            hop(block_ms)
    order = np.random.default_rng(0)
    for _ in range(rounds):
        now: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(calls):  # call by call, in any order
            for way in order.permutation(list(ways)):
                run = ways[way]
                start_s = time.perf_counter()
                run()
                now[way].append(1000 * (time.perf_counter() - start_s))
        for way in ways:
            taken[way] += now[way]
            medians[way].append(statistics.median(now[way]))
            quickest[way].append(min(now[way]))
    bare = "bare session.run"
    return {
        "bundle": bundle.name,
        "runs_as": backend.name,
        "machine": machine_facts(),
        "versions": versions(),
        "ways": [
            {
                "way": way,
                "p50_ms": round(statistics.median(taken[way]), 4),
                "quickest_ms": round(min(taken[way]), 4),
                "ratio": _ratio(medians[way], medians[bare]),
                "ratio_of_quickest": _ratio(quickest[way], quickest[bare]),
            }
            for way in ways
        ],
    }


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _ratio(values: list[float], reference: list[float]) -> dict[str, float]:
    ratio = paired_ratio(values, reference)
    assert ratio is not None
    return _rounded({"value": ratio.value, "low": ratio.low, "high": ratio.high})


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _authors_memory(bundle: str, threads: int, authors: Path, timm: Path) -> float:
    """Peak resident MB of a process that infers with the authors' model."""
    command = [
        sys.executable, "-m", "benchmarks.device_grid", "grid", "--memory-of", bundle,
        "--threads", str(threads), "--authors", str(authors), "--timm", str(timm),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
