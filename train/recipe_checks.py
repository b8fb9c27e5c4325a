"""What recipes of every task have in common beside their tables."""

from __future__ import annotations

import dataclasses

from ssast_edge.fbank import FbankConfig
from train.config import ModelConfig
from train.encoder import EncoderConfig

__all__ = ["check_names", "check_smoothing", "encoder_config_of"]


def encoder_config_of(
    model: ModelConfig, fbank: FbankConfig, num_frames: int, *, may_branch: bool = False
) -> EncoderConfig:
    """The encoder's shape: the model's free sizes on a front end and so many frames."""
    if model.branch_depth and not may_branch:
        raise ValueError("model.branch_depth is for task stream: a branch reads a stream's tokens")
    sizes = dataclasses.asdict(model)
    if model.context:
        sizes["num_prefix_tokens"] = 0
    return EncoderConfig(num_frames=num_frames, num_mel_bins=fbank.num_mel_bins, **sizes)


def check_names(name: str, seed: int) -> None:
    """Refuse a recipe without a name, and a seed below 0."""
    if not name:
        raise ValueError("name must not be empty")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def check_smoothing(smoothing: float) -> None:
    """Refuse what leaves a label no target."""
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {smoothing}")
