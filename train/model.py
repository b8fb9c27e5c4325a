"""Encoders with a head: classifiers of clips and windows, taggers of tokens.

B clips, T frames, F mel bins, D channels, N tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from train.encoder import Encoder

__all__ = ["Classifier", "Pooling", "TokenTagger", "pooled_tokens"]

Pooling = Literal["mean", "cls", "last"]


class Classifier(nn.Module):
    """Encoder, pooling and a linear head, from RAW log-mel to logits.

    Normalisation is part of the model, so that a device needs no constants beside the graph:
    (x - mean) / (2 * std), SSAST's convention.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        *,
        mean: float,
        std: float,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.config.dim), nn.Linear(encoder.config.dim, num_labels)
        )
        # A label is rarely there: without this the first hundreds of steps only learn that.
        nn.init.constant_(self.head[1].bias, -3.0)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, D) pooled embedding."""
        tokens = self.encoder((fbank - self.mean) / (2 * self.std))
        prefix = self.encoder.config.num_prefix_tokens
        first, last = pooled_tokens(self.pooling, prefix, tokens.shape[1])
        pooled: Tensor = tokens[:, first:last].mean(dim=1)
        return pooled

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, labels) logits."""
        logits: Tensor = self.head(self.embed(fbank))
        return logits


def pooled_tokens(pooling: Pooling, prefix: int, tokens: int) -> tuple[int, int]:
    """From where to where the tokens lie whose mean goes to the head."""
    return {"mean": (prefix, tokens), "cls": (0, prefix), "last": (tokens - 1, tokens)}[pooling]


class TokenTagger(nn.Module):
    """Encoder and a linear head on each patch token, from RAW log-mel to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, num_labels: int, *, mean: float, std: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.config.dim), nn.Linear(encoder.config.dim, num_labels)
        )
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, N, labels) logits."""
        tokens = self.encoder((fbank - self.mean) / (2 * self.std))
        logits: Tensor = self.head(tokens[:, self.encoder.config.num_prefix_tokens :])
        return logits
