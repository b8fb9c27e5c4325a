"""Pretraining steps side by side with the authors' code: time and peak memory, in one run.

    git clone https://github.com/YuanGongND/ssast AUTHORS
    pip install --no-deps --target TIMM timm==0.4.5
    pip install torchvision
    python -m benchmarks.pretraining_speed --authors AUTHORS/src --timm TIMM --size tiny

Theirs is run as it is (with a stand-in for torch._six, which PyTorch has dropped): two passes,
Python loops over the clips. Ours: `official` does the same arithmetic, `paper` one pass for both
heads; `paper bf16` the same under autocast, where the CPU computes in it. The rounds are
interleaved, so that a noisy machine is fair; each step is forward, backward and Adam. One thread
is timed by the processor time that it took, several by the clock.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.output import write_json
from train.errors import one_line_errors

FRAMES, BINS, MASKED = 1024, 128, 400
WAYS = ("authors", "official", "paper", "paper bf16")
Step = Callable[[], float]


@click.command()
@click.option("--authors", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--timm", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--size", type=click.Choice(["tiny", "small", "base"]), default="tiny")
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--memory-of", type=click.Choice(WAYS), hidden=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(
    authors: Path,
    timm: Path,
    size: str,
    batch: int,
    rounds: int,
    threads: int,
    memory_of: str | None,
    out: Path | None,
) -> None:
    """Clips per second of each way to pretrain, as ratios to the authors' code."""
    import torch

    from train.machine import choose_precision

    torch.set_num_threads(threads)
    with one_line_errors():
        if memory_of:
            step = make_step(memory_of, size, batch, authors, timm)
            step(), step()
            click.echo(_peak_mb())
            return
        has_bf16 = choose_precision("auto", "cpu") == "bf16-mixed"
        ways = WAYS if has_bf16 else WAYS[:-1]  # without instructions for it, it crawls
        steps = {way: make_step(way, size, batch, authors, timm) for way in ways}
        for step in steps.values():
            step()  # warm up
        clock = time.process_time if threads == 1 else time.perf_counter
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, step in steps.items():
                start = clock()
                step()
                seconds[way].append(clock() - start)
        memory = {way: _memory(way, size, batch, threads, authors, timm) for way in ways}
        result = {
            "model": f"{size}, 16x16 patches, {FRAMES} frames, {MASKED} masked",
            "batch": batch,
            "threads": threads,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
            "ways": [
                {
                    "way": way,
                    "clips_per_second": batch / statistics.median(seconds[way]),
                    # Ratios within a round: what slows the machine slows both.
                    "speed_up": statistics.median(
                        a / b for a, b in zip(seconds["authors"], seconds[way], strict=True)
                    ),
                    "peak_mb": memory[way],
                }
                for way in ways
            ],
        }
        write_json(result, out)


def make_step(way: str, size: str, batch: int, authors: Path, timm: Path) -> Step:
    """One training step on a fixed batch; returns the loss."""
    import torch

    torch.manual_seed(0)
    fbank = torch.randn(batch, FRAMES, BINS) * 0.5
    return _authors_step(fbank, size, authors, timm) if way == "authors" else _our_step(
        fbank, size, way
    )  # fmt: skip


def _authors_step(fbank, size: str, authors: Path, timm: Path) -> Step:  # type: ignore[no-untyped-def]
    import torch

    six = types.ModuleType("torch._six")
    six.container_abcs = __import__("collections.abc").abc  # type: ignore[attr-defined]
    six.string_classes = str  # type: ignore[attr-defined]
    sys.modules["torch._six"] = six
    sys.path[:0] = [str(timm), str(authors)]
    try:
        from models.ast_models import ASTModel  # type: ignore[import-not-found]
    finally:
        del sys.path[:2]
    model = ASTModel(
        fshape=16, tshape=16, fstride=16, tstride=16, input_fdim=BINS, input_tdim=FRAMES,
        model_size=size, pretrain_stage=True,
    ).train()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, weight_decay=5e-7, betas=(0.95, 0.999))

    def step() -> float:
        _, contrast = model(fbank, "pretrain_mpc", mask_patch=MASKED, cluster=True)
        loss = contrast.mean() + 10 * model(
            fbank, "pretrain_mpg", mask_patch=MASKED, cluster=True
        ).mean()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _our_step(fbank, size: str, way: str) -> Step:  # type: ignore[no-untyped-def]
    import torch

    from train.config import OptimizerConfig
    from train.encoder import SIZES, Encoder, EncoderConfig
    from train.optim import make_optimizer
    from train.pretext import MaskedSpectrogramPretext, PretextConfig

    shape = EncoderConfig(
        num_frames=FRAMES, num_mel_bins=BINS, patch_bins=16, patch_frames=16,
        stride_bins=16, stride_frames=16, **SIZES[size],
    )  # fmt: skip
    mode = "official" if way == "official" else "paper"
    model = MaskedSpectrogramPretext(Encoder(shape), PretextConfig(num_masked=MASKED, mode=mode))
    settings = OptimizerConfig(
        steps=1, kind="adam", learning_rate=1e-4, weight_decay=5e-7, betas=(0.95, 0.999)
    )
    optimizer = make_optimizer(model, settings)
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        masks = model.draw_masks(len(fbank), generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=way.endswith("bf16")):
            loss = model(fbank, masks).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _memory(way: str, size: str, batch: int, threads: int, authors: Path, timm: Path) -> float:
    """Peak resident MB of a process that makes two steps this way."""
    command = [
        sys.executable, "-m", "benchmarks.pretraining_speed", "--memory-of", way, "--size", size,
        "--batch", str(batch), "--threads", str(threads), "--authors", str(authors),
        "--timm", str(timm),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _peak_mb() -> float:
    """Of this process since it was started (getrusage would count its parent's)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise OSError("the kernel does not tell the peak memory of a process")


if __name__ == "__main__":
    main()
