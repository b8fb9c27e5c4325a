"""Learned positions of an encoder, for another grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.encoder import EncoderConfig, Grid

__all__ = ["fit_pos_embed", "resize_pos_embed"]


def resize_pos_embed(pos: Tensor, old_grid: Grid, new_grid: Grid) -> Tensor:
    """Cut or stretch patch position embeddings to another token grid.

    pos: (1, old_bins * old_frames, D), frequency-major. Returns (1, new_bins * new_frames, D).
    Each axis on its own, time first: a shorter axis is cut around its centre, a longer one is
    interpolated bilinearly (SSAST section 3.2; the authors' code cuts frequency with the length
    of the time axis, which this does not repeat).
    """
    if pos.shape[1] != old_grid[0] * old_grid[1]:
        raise ValueError(f"pos holds {pos.shape[1]} positions, the grid {old_grid} wants "
                         f"{old_grid[0] * old_grid[1]}")  # fmt: skip
    dim = pos.shape[2]
    (old_bins, old_frames), (new_bins, new_frames) = old_grid, new_grid
    image = pos.transpose(1, 2).reshape(1, dim, old_bins, old_frames)
    if new_frames < old_frames:
        start = old_frames // 2 - new_frames // 2
        image = image[:, :, :, start : start + new_frames]
    elif new_frames > old_frames:
        image = F.interpolate(image, size=(old_bins, new_frames), mode="bilinear")
    if new_bins < old_bins:
        start = old_bins // 2 - new_bins // 2
        image = image[:, :, start : start + new_bins]
    elif new_bins > old_bins:
        image = F.interpolate(image, size=(new_bins, new_frames), mode="bilinear")
    return image.reshape(1, dim, new_bins * new_frames).transpose(1, 2)


def fit_pos_embed(pos: Tensor, old: EncoderConfig, new: EncoderConfig) -> Tensor:
    """(1, prefix + N, D): positions of an encoder for the grid of another with as many prefixes."""
    prefix = old.num_prefix_tokens
    patches = resize_pos_embed(pos[:, prefix:], old.grid, new.grid)
    return torch.cat([pos[:, :prefix], patches], dim=1)
