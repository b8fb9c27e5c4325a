"""The fused kernel beside PyTorch on a GPU: eager and torch.compile, at the shapes of the recipes.

python -m benchmarks.patch_embed_gpu KERNEL.json OUT.json, with the times that
`fused_patch_embed_test --json KERNEL.json` measured on the same GPU: a table on stdout. Times are
of one call among many in a row, median of rounds, as the kernel's program takes them; the
compiled one is replayed as a CUDA graph where torch can.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CALLS = 50  # in a round
ROUNDS = 21


def patch_embed(
    fbank: Tensor, weight: Tensor, bias: Tensor, addend: Tensor, prefix: Tensor, stride: list[int]
) -> Tensor:
    """Tokens (B, prefix + N, D) of a raw window (B, T, F), by the layers that a model has."""
    normal = ((fbank + 4.3) / 8.2).to(weight.dtype)
    image = normal.transpose(1, 2).unsqueeze(1)
    patches = functional.conv2d(image, weight, bias, stride).flatten(2).transpose(1, 2)
    return torch.cat([prefix.expand(len(fbank), -1, -1), patches], dim=1) + addend


def microseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    for _ in range(20):
        call()
    start, stop = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    times: list[float] = []
    for _ in range(ROUNDS):
        start.record()
        for _ in range(CALLS):
            call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1000 / CALLS)
    return statistics.median(times)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """A case of the kernel's program with the times of PyTorch beside its own."""
    kind = torch.float16 if case["half"] else torch.float32

    def draw(*shape: int, dtype: torch.dtype = kind) -> Tensor:
        return torch.randn(shape, device="cuda").to(dtype)

    stride = [case["stride_bins"], case["stride_frames"]]
    grid = [
        (case[size] - case[f"patch_{size}"]) // case[f"stride_{size}"] + 1
        for size in ("bins", "frames")
    ]
    rows = case["prefix"] + grid[0] * grid[1]
    tensors = (
        draw(case["batch"], case["frames"], case["bins"], dtype=torch.float32),
        draw(case["dim"], 1, case["patch_bins"], case["patch_frames"]),
        draw(case["dim"]),
        draw(1, rows, case["dim"]),
        draw(1, case["prefix"], case["dim"]),
    )
    compiled = torch.compile(patch_embed, mode="reduce-overhead", dynamic=False)
    with torch.inference_mode():
        eager_us = microseconds(lambda: patch_embed(*tensors, stride))
        compiled_us = microseconds(lambda: compiled(*tensors, stride))
    return {**case, "eager_us": eager_us, "compiled_us": compiled_us}


def main(kernel: str, out: str) -> int:
    """Measure all cases; exit status 1 without a GPU."""
    if not torch.cuda.is_available():
        print("no CUDA GPU that torch can use", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = json.loads(Path(kernel).read_text())
    cases = [measure(case) for case in found["shapes"]]
    versions = {"torch": torch.__version__, "torch_device": torch.cuda.get_device_name()}
    Path(out).write_text(json.dumps({**found, **versions, "shapes": cases}, indent=1) + "\n")
    print(
        "| patch, stride, frames, channels, batch | type | fused us | eager | compiled | floors |"
    )
    print("|---|---|---|---|---|---|")
    for case in cases:
        size = (
            "{patch_bins}x{patch_frames}, {stride_bins}x{stride_frames}, {frames}, {dim}, {batch}"
        )
        print(
            f"| {size.format(**case)} | {'half' if case['half'] else 'float'} "
            f"| {case['fused_us']:.2f} | {case['eager_us'] / case['fused_us']:.1f}x "
            f"| {case['compiled_us'] / case['fused_us']:.1f}x "
            f"| {found['launch_us']:.2f}, {case['copy_us']:.2f} |"
        )
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.patch_embed_gpu KERNEL.json OUT.json")
    sys.exit(main(*sys.argv[1:]))
