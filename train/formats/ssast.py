"""The authors' SSAST checkpoints (.pth), both ways.

Layout and names from YuanGongND/ssast, `ASTModel`: timm's distilled DeiT under `v.`, with or
without DataParallel's `module.` before it; pretrained (heads `cpredlayer`, `gpredlayer`) or
fine-tuned (head `mlp_head`). Never unpickles: `weights_only=True`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from train.checkpoint import CheckpointError, load_weights
from train.encoder import Encoder, EncoderConfig, Grid
from train.formats.imported import Imported

__all__ = ["read_ssast", "write_ssast"]

_HEADS = {"cpredlayer": "discriminative_head", "gpredlayer": "generative_head"}

_HEAD_DIM = 64  # of every DeiT size; the format does not tell the number of heads


def read_ssast(path: Path, *, stride: Grid | None = None) -> Imported:
    """Read a pretrained or fine-tuned file.

    stride: (bins, frames) of a fine-tuned model, which the file does not tell; by default the
    patch's own. Raises CheckpointError, naming what is missing or differs.
    """
    state = _state_dict(path)
    needed = "v.pos_embed", "v.cls_token", "v.patch_embed.proj.weight", "v.blocks.0.norm1.weight"
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError(f"{path} is not a SSAST checkpoint: no {', '.join(missing)}")
    prefix = [state["v.cls_token"]] + [state[k] for k in ("v.dist_token",) if k in state]
    config = _config(state, path, stride, len(prefix))
    weights = {"prefix_tokens": torch.cat(prefix, dim=1)}
    kept = ("v.pos_embed", "v.patch_embed.", "v.blocks.", "v.norm.")
    weights |= {k.removeprefix("v."): v for k, v in state.items() if k.startswith(kept)}
    load_weights(Encoder(config), weights, path)
    head = {k.removeprefix("mlp_head."): v for k, v in state.items() if k.startswith("mlp_head.")}
    return Imported(
        config=config,
        encoder=weights,
        pretext=_pretext(state),
        head=head or None,
        provenance={"format": "SSAST", "file": path.name},
    )


def write_ssast(path: Path, imported: Imported, *, prefix: bool = True) -> None:
    """Write the authors' format, which their `ASTModel` loads; whole or not at all.

    prefix: put DataParallel's `module.` before the names, which their loader demands. The input's
    shape is written as `p_input_fdim` and `p_input_tdim`, as they do for pretrained models.
    """
    config = imported.config
    if config.head_dim or config.block_heads or config.block_hidden:
        raise CheckpointError(f"{path} not written: the authors' format knows no pruned widths")
    if config.context:
        raise CheckpointError(f"{path} not written: the authors' format knows no context")
    if config.dim != _HEAD_DIM * config.num_heads:
        raise CheckpointError(
            f"{path} not written: the authors' format means {_HEAD_DIM} channels a head, this "
            f"encoder has {config.dim // config.num_heads}"
        )
    config = imported.config
    state: dict[str, Tensor] = {
        "p_input_fdim": torch.tensor(config.num_mel_bins),
        "p_input_tdim": torch.tensor(config.num_frames),
    }
    for key, value in imported.encoder.items():
        if key == "prefix_tokens":
            state["v.cls_token"] = value[:, :1]
            if config.num_prefix_tokens > 1:
                state["v.dist_token"] = value[:, 1:2]
        else:
            state[f"v.{key}"] = value
    ours = {ours: theirs for theirs, ours in _HEADS.items()}
    for key, value in (imported.pretext or {}).items():
        group, _, rest = key.partition(".")
        state[f"{ours[group]}.{rest}" if group in ours else key] = value
    state |= {f"mlp_head.{key}": value for key, value in (imported.head or {}).items()}
    named = {f"{'module.' if prefix else ''}{k}": v.detach().clone() for k, v in state.items()}
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(named, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} not written: {error}") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            raw = load_file(path)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for a foreign or cut file
        kind = type(error).__name__  # torch's own text advises to unpickle
        raise CheckpointError(
            f"{path} is not a PyTorch state dict: it cannot be read without unpickling ({kind})"
        ) from error
    if not isinstance(raw, dict) or not all(torch.is_tensor(v) for v in raw.values()):
        raise CheckpointError(f"{path} is not a PyTorch state dict: it holds other things")
    return {str(key).removeprefix("module."): value for key, value in raw.items()}


def _config(
    state: dict[str, Tensor], path: Path, stride: Grid | None, prefixes: int
) -> EncoderConfig:
    dim, _, patch_bins, patch_frames = state["v.patch_embed.proj.weight"].shape
    depth = 1 + max(int(m[1]) for key in state if (m := re.match(r"v\.blocks\.(\d+)\.", key)))
    if dim % _HEAD_DIM:
        raise CheckpointError(
            f"{path}: width {dim} is no multiple of {_HEAD_DIM}, the channels of a head in the "
            "authors' models: the file does not tell its number of heads"
        )
    stride = stride or (patch_bins, patch_frames)
    patches = state["v.pos_embed"].shape[1] - prefixes
    bins = int(state["p_input_fdim"]) if "p_input_fdim" in state else 128
    rows = (bins - patch_bins) // stride[0] + 1
    if patches % rows:
        raise CheckpointError(
            f"{path}: {patches} positions are no grid of {rows} rows (stride {stride[0]} bins); "
            "give the stride of the fine-tuned model with --stride BINS FRAMES"
        )
    # A fine-tuned file keeps the pretraining's input length: the positions tell its own.
    frames = (patches // rows - 1) * stride[1] + patch_frames
    told = int(state["p_input_tdim"]) if "p_input_tdim" in state else frames
    is_told = (told - patch_frames) // stride[1] + 1 == patches // rows
    return EncoderConfig(
        num_frames=told if is_told else frames,
        num_mel_bins=bins,
        patch_bins=patch_bins,
        patch_frames=patch_frames,
        stride_bins=stride[0],
        stride_frames=stride[1],
        dim=dim,
        depth=depth,
        num_heads=dim // _HEAD_DIM,
        num_prefix_tokens=prefixes,
    )


def _pretext(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    found = {"mask_embed": state["mask_embed"]} if "mask_embed" in state else {}
    for theirs, ours in _HEADS.items():
        for key, value in state.items():
            if key.startswith(f"{theirs}."):
                found[f"{ours}.{key.removeprefix(f'{theirs}.')}"] = value
    return found or None
