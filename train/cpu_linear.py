"""Linear layers in float32 on AMD CPUs: oneDNN's kernels instead of MKL's slow path.

PyTorch computes float32 matrix products with MKL, which keeps its fast kernels for Intel's CPUs.
oneDNN, which PyTorch brings too, is about 1.8 times as fast there with the same rounding
(benchmarks.pretraining_speed). Everything else (GPUs, bfloat16, inference, export) is left alone.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

__all__ = ["Linear", "linear"]


class Linear(nn.Linear):
    """nn.Linear that trains faster in float32 where MKL is slow; weights and results the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., in), (out, in), (out,) -> (..., out): x @ weight.T + bias."""
    if (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and mkl_is_slow()
    ):
        out: Tensor = _OneDnnLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return F.linear(x, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if needs_x else None,
            _product(rows.t(), inputs.t()) if needs_weight else None,
            rows.sum(0) if ctx.has_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias by oneDNN, which wants rows in order."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), weight.contiguous(), bias, "none", [], ""
    )
    return out


@functools.cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD CPU with AVX-512, on a PyTorch with oneDNN's linear operator."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return (
        "AuthenticAMD" in cpu
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
