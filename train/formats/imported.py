"""What a checkpoint of any format comes down to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from train.encoder import Encoder, EncoderConfig
from train.model import Classifier, Pooling

__all__ = ["Imported"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Encoder weights under this project's names, and what else the checkpoint told."""

    config: EncoderConfig
    encoder: dict[str, Tensor]
    mean: float | None = None  # of the raw log-mel it was trained on, where told
    std: float | None = None
    sources: tuple[str, ...] = ()  # corpora it was trained on, where told
    pretext: dict[str, Tensor] | None = None  # mask_embed and the heads' weights
    head: dict[str, Tensor] | None = None  # "0." LayerNorm, "1." Linear
    labels: tuple[str, ...] = ()  # of the head's outputs
    pooling: Pooling = "mean"
    provenance: dict[str, Any] = field(default_factory=dict)

    def build_encoder(self) -> Encoder:
        """The encoder, weights in place."""
        encoder = Encoder(self.config)
        encoder.load_state_dict(self.encoder)
        return encoder

    def build_classifier(self) -> Classifier:
        """The fine-tuned model, in evaluation mode; ValueError when there is no head."""
        if self.head is None:
            raise ValueError("the checkpoint is a pretrained encoder without a classifier")
        mean, std = self.mean or 0.0, 0.5 if self.std is None else self.std
        outputs = len(self.head["1.bias"])
        model = Classifier(self.build_encoder(), outputs, mean=mean, std=std, pooling=self.pooling)
        model.head.load_state_dict(self.head)
        return model.eval()

    def parameters(self) -> int:
        """Number of the encoder's weights."""
        return sum(value.numel() for value in self.encoder.values() if torch.is_tensor(value))
