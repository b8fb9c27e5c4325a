"""A PyTorch classifier that rounds where its quantised graph will, with gradients passed through.

Same places, ranges and levels as cpu_graph.py (unsigned activations with a zero point) or
qdq.py (signed, symmetric); weights with a scale for each output channel. Nothing is added
to the model's state: what is trained saves as an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from optimize.quantization.cpu_graph import PATCH_EMBED
from train.cpu_linear import Linear, linear
from train.encoder import PatchEmbed
from train.model import Classifier

__all__ = ["Grid", "fake_quantise", "quantisable", "rounded", "rounded_weight", "undo"]


@dataclass(frozen=True)
class Grid:
    """The levels of one layer's input and weights."""

    low: float  # lowest and highest value kept of the input
    high: float
    is_signed: bool  # levels symmetric around 0, zero point 0; else 256 levels from low to high
    weight_bits: int = 8


def fake_quantise(
    model: Classifier,
    ranges: Mapping[str, tuple[float, float]],
    *,
    excluded: Collection[str] = (),
    is_signed: bool = False,
    weight_bits: int = 8,
) -> None:
    """Make the model round as its INT8 graph does, in place.

    ranges: by layer, as `cpu_graph` takes them. The head and `excluded` stay float, and with
    signed levels (TensorRT) the patch embedding too.
    """
    for name, module in quantisable(model):
        if name in excluded or (is_signed and name == PATCH_EMBED):
            continue
        grid = Grid(*ranges[name], is_signed, weight_bits)
        # The class changes and not the module: state, copies and optimisers see no difference.
        if isinstance(module, PatchEmbed):
            module.__class__ = _RoundedPatchEmbed
            assert isinstance(module, _RoundedPatchEmbed)
            module.statistics = float(model.mean), float(model.std)
            module.grid = grid
        else:
            module.__class__ = _RoundedLinear
            assert isinstance(module, _RoundedLinear)
            module.grid = grid


def undo(model: Classifier) -> None:
    """Float again; the weights stay as they are."""
    for _, module in quantisable(model):
        if isinstance(module, _RoundedPatchEmbed | _RoundedLinear):
            module.__class__ = type(module).__mro__[1]


def quantisable(model: Classifier) -> Iterator[tuple[str, nn.Module]]:
    """Layers by the names that they have in the graph, in order."""
    yield PATCH_EMBED, model.encoder.patch_embed
    for name, module in model.encoder.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def rounded(x: Tensor, grid: Grid) -> Tensor:
    """X on the grid's levels; its gradient passes where x is in range, and is 0 beyond."""
    if grid.is_signed:
        scale, zero, least, most = max(-grid.low, grid.high) / 127, 0, -128, 127
    else:
        low, high = min(grid.low, 0.0), max(grid.high, 0.0)
        scale, least, most = max((high - low) / 255, 1e-9), 0, 255
        zero = round(-low / scale)
    kept = x.clamp((least - zero) * scale, (most - zero) * scale)
    levels = torch.round(kept.detach() / scale) * scale
    return kept + (levels - kept.detach())


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """(out, ...) weights on a grid of each output channel, the gradient passed through."""
    most = 127 if bits == 8 else 2 ** (bits - 1)
    flat = weight.detach().flatten(1)
    scale = (flat.abs().amax(1, keepdim=True) / most).clamp_min(1e-12)
    levels = (torch.round(flat / scale).clamp(-most, most) * scale).view_as(weight)
    return weight + (levels - weight.detach())


class _RoundedLinear(Linear):
    grid: Grid

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        weight = rounded_weight(self.weight, self.grid.weight_bits)
        return linear(rounded(x, self.grid), weight, self.bias)


class _RoundedPatchEmbed(PatchEmbed):
    grid: Grid
    statistics: tuple[float, float]  # mean and std of the raw log-mel

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel -> (B, N, D); it is the raw log-mel that is rounded."""
        mean, std = self.statistics
        raw = rounded(fbank * (2 * std) + mean, self.grid)
        image = ((raw - mean) / (2 * std)).transpose(1, 2).unsqueeze(1)
        weight = rounded_weight(self.proj.weight, self.grid.weight_bits)
        patches = F.conv2d(image, weight, self.proj.bias, stride=self.proj.stride)
        return patches.flatten(2).transpose(1, 2)
