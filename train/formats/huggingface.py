"""Hugging Face's layout of AST (and of SSAST converted to it): config.json, model.safetensors.

Names of `ASTForAudioClassification`, transformers 4 and 5: queries, keys and values apart, the
class and distillation tokens under `embeddings`, and the mean of both pooled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from train.checkpoint import CheckpointError, load_weights
from train.encoder import Encoder, EncoderConfig
from train.formats.imported import Imported

__all__ = ["is_huggingface", "read_huggingface"]

_PREFIX = "audio_spectrogram_transformer."
# Their name (with the block's number as {}) -> ours; the attention's inputs are joined apart.
_BLOCK = {
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_QKV = (
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
)


def is_huggingface(folder: Path) -> bool:
    """Whether the folder looks like one of theirs."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def read_huggingface(folder: Path) -> Imported:
    """Read encoder, head, labels and, where there is a preprocessor_config.json, mean and std.

    Their layer norm of 1e-12 is ours of 1e-6 (the authors' own): logits agree within 1e-4.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error
    state = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    try:
        config = _config(settings, state)
        weights = _encoder(state, config.depth)
    except KeyError as error:
        raise CheckpointError(
            f"{folder} is not an Audio Spectrogram Transformer of Hugging Face: no {error}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    load_weights(Encoder(config), weights, folder)
    head = None
    if "classifier.dense.weight" in state:
        head = {
            f"{ours}.{kind}": state[f"classifier.{theirs}.{kind}"]
            for theirs, ours in (("layernorm", "0"), ("dense", "1"))
            for kind in ("weight", "bias")
        }
    labels = {int(key): str(value) for key, value in settings.get("id2label", {}).items()}
    mean, std = _statistics(folder)
    return Imported(
        config=config,
        encoder=weights,
        mean=mean,
        std=std,
        head=head,
        labels=tuple(labels[key] for key in sorted(labels)) if head is not None else (),
        pooling="cls",
        provenance={"format": "Hugging Face AST", "folder": folder.name},
    )


def _config(settings: dict[str, Any], state: dict[str, Tensor]) -> EncoderConfig:
    dim, _, patch_bins, patch_frames = state["embeddings.patch_embeddings.projection.weight"].shape
    hidden = settings["intermediate_size"]
    return EncoderConfig(
        num_frames=settings["max_length"],
        num_mel_bins=settings["num_mel_bins"],
        patch_bins=patch_bins,
        patch_frames=patch_frames,
        stride_bins=settings["frequency_stride"],
        stride_frames=settings["time_stride"],
        dim=dim,
        depth=settings["num_hidden_layers"],
        num_heads=settings["num_attention_heads"],
        mlp_ratio=hidden / dim,
    )


def _encoder(state: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    weights = {
        "prefix_tokens": torch.cat(
            [state["embeddings.cls_token"], state["embeddings.distillation_token"]], dim=1
        ),
        "pos_embed": state["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        weights[f"patch_embed.proj.{kind}"] = state[
            f"embeddings.patch_embeddings.projection.{kind}"
        ]
        weights[f"norm.{kind}"] = state[f"layernorm.{kind}"]
    root = "encoder.layer" if any(key.startswith("encoder.layer.") for key in state) else "layers"
    for number in range(depth):
        theirs, ours = f"{root}.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            for names in _QKV:
                parts = [state.get(f"{theirs}.{name}.{kind}") for name in names]
                found = [part for part in parts if part is not None]
                if len(found) == 3:
                    weights[f"{ours}.attn.qkv.{kind}"] = torch.cat(found)
            for name, our_name in _BLOCK.items():
                if f"{theirs}.{name}.{kind}" in state:
                    weights[f"{ours}.{our_name}.{kind}"] = state[f"{theirs}.{name}.{kind}"]
    return weights


def _statistics(folder: Path) -> tuple[float | None, float | None]:
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        return float(settings["mean"]), float(settings["std"])
    except (OSError, KeyError, ValueError, json.JSONDecodeError):
        return None, None
