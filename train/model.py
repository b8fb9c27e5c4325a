"""Encoders with a head: classifiers of clips and windows, taggers of tokens.

An encoder with a branch has a head for each of its ends; the branch's labels are the last ones.
B clips, T frames, F mel bins, D channels, N tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from train.encoder import Encoder

__all__ = ["Classifier", "Pooling", "TokenTagger", "pooled_tokens"]

Pooling = Literal["mean", "cls", "last"]


class _WithHead(nn.Module):
    """Encoder and a linear head for each of its ends, from RAW log-mel.

    Normalisation is part of the model, so that a device needs no constants beside the graph:
    (x - mean) / (2 * std), SSAST's convention.
    """

    branch_head: nn.Sequential | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        *,
        mean: float,
        std: float,
        branch_labels: int = 0,
    ) -> None:
        super().__init__()
        dim, has_branch = encoder.config.dim, encoder.branch_norm is not None
        if has_branch != (0 < branch_labels < num_labels):
            raise ValueError(
                "a branch wants labels of its own and others, no branch wants none: got "
                f"{branch_labels} of {num_labels}"
            )
        self.encoder = encoder
        self.head = _head(dim, num_labels - branch_labels)
        self.branch_head = _head(dim, branch_labels) if has_branch else None
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def _tokens(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> what `Encoder.encode` gives."""
        tokens: Tensor = self.encoder((fbank - self.mean) / (2 * self.std))
        return tokens

    def _tell(self, tokens: Tensor) -> Tensor:
        """(..., D), or with a branch (..., 2 * D), -> (..., labels); the branch's are the last."""
        if self.branch_head is None:
            logits: Tensor = self.head(tokens)
            return logits
        first, second = tokens.chunk(2, dim=-1)
        return torch.cat([self.head(first), self.branch_head(second)], dim=-1)


def _head(dim: int, labels: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, labels))


class Classifier(_WithHead):
    """Encoder, pooling and a linear head, from RAW log-mel to logits."""

    def __init__(
        self,
        encoder: Encoder,
        num_labels: int,
        *,
        mean: float,
        std: float,
        pooling: Pooling = "mean",
        branch_labels: int = 0,
    ) -> None:
        super().__init__(encoder, num_labels, mean=mean, std=std, branch_labels=branch_labels)
        self.pooling: Pooling = pooling
        # A label is rarely there: without this the first hundreds of steps only learn that.
        nn.init.constant_(self.head[1].bias, -3.0)  # type: ignore[arg-type]

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, D) pooled embedding; with a branch (B, 2 * D)."""
        tokens = self._tokens(fbank)
        prefix = self.encoder.config.num_prefix_tokens
        first, last = pooled_tokens(self.pooling, prefix, tokens.shape[1])
        pooled: Tensor = tokens[:, first:last].mean(dim=1)
        return pooled

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, labels) logits."""
        return self._tell(self.embed(fbank))


def pooled_tokens(pooling: Pooling, prefix: int, tokens: int) -> tuple[int, int]:
    """From where to where the tokens lie whose mean goes to the head."""
    return {"mean": (prefix, tokens), "cls": (0, prefix), "last": (tokens - 1, tokens)}[pooling]


class TokenTagger(_WithHead):
    """Encoder and a linear head on each patch token, from RAW log-mel to logits."""

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, N, labels) logits."""
        return self._tell(self._tokens(fbank)[:, self.encoder.config.num_prefix_tokens :])
