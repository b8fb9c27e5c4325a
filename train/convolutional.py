"""A small residual convolutional network: a teacher to distil from, never what ships.

From few recordings convolutions learn what a transformer does not.
Cross-model distillation of Gong et al. 2022 (CMKD): a convolutional teacher makes the Audio
Spectrogram Transformer better than either is alone. B clips, T frames, F mel bins, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

__all__ = ["ConvolutionConfig", "ConvolutionalClassifier"]


@dataclass(frozen=True, kw_only=True)
class ConvolutionConfig:
    """Table [convolution] of a recipe, instead of [model]."""

    widths: tuple[int, ...] = (16, 32, 64, 128)  # channels of the stem and of each block
    dropout: float = 0.2  # of the embedding, training only

    def __post_init__(self) -> None:
        """Refuse networks without a block and chances that are none."""
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"widths must be two numbers above 0 or more, got {list(self.widths)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class _Block(nn.Module):
    """Two 3x3 convolutions at half the resolution, around them a pooled 1x1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, F) -> (B, outputs, ceil(T / 2), ceil(F / 2))."""
        branch = F.relu(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return F.relu(branch + self.skip(F.avg_pool2d(x, 2, ceil_mode=True)))


class ConvolutionalClassifier(nn.Module):
    """Convolutions, pooling and a linear head, from RAW log-mel of any length to logits."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ConvolutionConfig, num_labels: int, *, mean: float, std: float
    ) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        self.stem = nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(first)
        pairs = zip(config.widths, config.widths[1:], strict=False)
        self.blocks = nn.Sequential(*(_Block(inputs, outputs) for inputs, outputs in pairs))
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(last, num_labels))
        nn.init.constant_(self.head[1].bias, -3.0)  # type: ignore[arg-type]  # as in Classifier
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, C): mean over bins, then mean and maximum over time."""
        image = ((fbank - self.mean) / (2 * self.std)).unsqueeze(1)  # (B, 1, T, F)
        # A CPU's convolutions run faster with the channels last. The weights stay as they are: the
        # fused optimiser would not see that its restored moments lie in another order.
        image = image.contiguous(memory_format=torch.channels_last)
        frames = self.blocks(F.relu(self.norm(self.stem(image)))).float().mean(dim=3)
        embedding: Tensor = frames.mean(dim=2) + frames.amax(dim=2)
        return embedding

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) raw log-mel -> (B, labels) logits."""
        logits: Tensor = self.head(self.embed(fbank))
        return logits
