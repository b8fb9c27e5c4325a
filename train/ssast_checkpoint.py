"""Reads the authors' SSAST checkpoints (.pth) into this project's encoder.

Layout and names from YuanGongND/ssast, `ASTModel`: timm's distilled DeiT under `v.`, written
through DataParallel (`module.`). Never unpickles: `weights_only=True`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from train.model import Encoder, EncoderConfig, Grid, resize_pos_embed

__all__ = ["encoder_from_ssast", "read_ssast"]


def read_ssast(path: Path) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Configuration and encoder state (this project's names) of a pretrained SSAST file.

    Raises ValueError, naming what is missing, when the file is not a SSAST state dict.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for a foreign or cut file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a PyTorch state dict: {reason}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is not a PyTorch state dict: it holds a {type(raw).__name__}")
    state = {str(key).removeprefix("module."): value for key, value in raw.items()}
    needed = (
        "v.pos_embed", "v.cls_token", "v.patch_embed.proj.weight", "v.blocks.0.norm1.weight",
        "p_input_fdim", "p_input_tdim",
    )  # fmt: skip
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(f"{path} is not a pretrained SSAST checkpoint: no {', '.join(missing)}")

    dim, _, patch_bins, patch_frames = state["v.patch_embed.proj.weight"].shape
    depth = 1 + max(int(m[1]) for key in state if (m := re.match(r"v\.blocks\.(\d+)\.", key)))
    prefix = [state["v.cls_token"]] + [state[k] for k in ("v.dist_token",) if k in state]
    config = EncoderConfig(
        num_frames=int(state["p_input_tdim"]),
        num_mel_bins=int(state["p_input_fdim"]),
        patch_bins=patch_bins,
        patch_frames=patch_frames,
        stride_bins=patch_bins,
        stride_frames=patch_frames,
        dim=dim,
        depth=depth,
        num_heads=dim // 64,  # every DeiT size has 64 channels a head
        num_prefix_tokens=len(prefix),
    )
    weights = {"prefix_tokens": torch.cat(prefix, dim=1)}
    kept = ("v.pos_embed", "v.patch_embed.", "v.blocks.", "v.norm.")
    weights |= {k.removeprefix("v."): v for k, v in state.items() if k.startswith(kept)}
    return config, weights


def encoder_from_ssast(
    path: Path, *, num_frames: int, stride: Grid | None = None, dropout: float = 0.0
) -> Encoder:
    """The pretrained encoder at another length (frames) and stride (bins, frames).

    Patch shape must stay as pretrained; positions are cut or interpolated.
    """
    pretrained, weights = read_ssast(path)
    stride = stride or (pretrained.stride_bins, pretrained.stride_frames)
    config = replace(
        pretrained,
        num_frames=num_frames,
        stride_bins=stride[0],
        stride_frames=stride[1],
        dropout=dropout,
    )
    prefix = config.num_prefix_tokens
    pos = weights["pos_embed"]
    patches = resize_pos_embed(pos[:, prefix:], pretrained.grid, config.grid)
    weights["pos_embed"] = torch.cat([pos[:, :prefix], patches], dim=1)
    encoder = Encoder(config)
    encoder.load_state_dict(weights)
    return encoder
