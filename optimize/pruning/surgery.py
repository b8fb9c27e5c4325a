"""Takes heads, MLP units, channels and whole blocks out of a classifier: a smaller dense one.

Without units whose weights are zero the logits stay the same. A half-block that loses all of its
units leaves its output bias, which moves to the write into the residual stream before it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.config import ModelConfig
from train.encoder import Attention, Block, Encoder, EncoderConfig, Mlp
from train.model import Classifier

__all__ = ["Kept", "shrink", "shrunk_encoder", "shrunk_model"]


@dataclass(frozen=True)
class Kept:
    """What stays, as ascending indices: heads and MLP units of each block, channels of all."""

    heads: tuple[tuple[int, ...], ...]
    units: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]

    @classmethod
    def everything(cls, config: EncoderConfig) -> Kept:
        """Of a model as it is."""
        return cls(
            tuple(tuple(range(count)) for count in config.heads),
            tuple(tuple(range(count)) for count in config.hidden),
            tuple(range(config.dim)),
        )

    @property
    def blocks(self) -> list[int]:
        """Blocks that have something left."""
        return [b for b, (h, u) in enumerate(zip(self.heads, self.units, strict=True)) if h or u]


def shrunk_encoder(config: EncoderConfig, kept: Kept) -> EncoderConfig:
    """The encoder's shape with what is kept."""
    heads = tuple(len(kept.heads[block]) for block in kept.blocks)
    return dataclasses.replace(
        config,
        dim=len(kept.channels),
        depth=len(kept.blocks),
        num_heads=max(1, *heads),
        head_dim=config.head_width,
        block_heads=heads,
        block_hidden=tuple(len(kept.units[block]) for block in kept.blocks),
    )


def shrunk_model(model: ModelConfig, encoder: EncoderConfig) -> ModelConfig:
    """A recipe's sizes, so that it describes `encoder`."""
    names = "dim", "depth", "num_heads", "head_dim", "block_heads", "block_hidden"
    return dataclasses.replace(model, **{name: getattr(encoder, name) for name in names})


@torch.no_grad()
def shrink(model: Classifier, kept: Kept) -> Classifier:
    """A new classifier with what is kept, in evaluation mode; `model` stays as it was.

    Exact too for channels that are zero in a centred stream, but for the last norm's bias there:
    norms see the same sum of squares over fewer channels, so their weights are raised by
    sqrt(D / D kept), and what their biases gave through lost channels moves to the next layer's.
    """
    old = model.encoder
    config = shrunk_encoder(old.config, kept)
    labels = model.head[1]
    assert isinstance(labels, nn.Linear)
    small = Classifier(
        Encoder(config), labels.out_features,
        mean=float(model.mean), std=float(model.std), pooling=model.pooling,
    )  # fmt: skip
    new, channels = small.encoder, _index(kept.channels)
    rise = math.sqrt(old.config.dim / config.dim)
    new.patch_embed.proj.weight.copy_(old.patch_embed.proj.weight[channels])
    _copy_bias(new.patch_embed.proj, old.patch_embed.proj, channels)
    assert old.prefix_tokens is not None
    assert old.pos_embed is not None
    assert new.prefix_tokens is not None
    assert new.pos_embed is not None
    new.prefix_tokens.copy_(old.prefix_tokens[..., channels])
    new.pos_embed.copy_(old.pos_embed[..., channels])
    last_write: Tensor = new.pos_embed  # what a lost half-block's bias is added to
    places = {block: number for number, block in enumerate(kept.blocks)}
    for number, block in enumerate(old.blocks):
        assert isinstance(block, Block)
        target = new.blocks[places[number]] if number in places else None
        assert target is None or isinstance(target, Block)
        if block.attn is not None and block.norm1 is not None:
            if target is not None and target.attn is not None and target.norm1 is not None:
                _copy_norm(target.norm1, block.norm1, channels, rise)
                _copy_heads(target.attn, block.attn, kept.heads[number], channels)
                lost = _through_lost(block.attn.qkv, block.norm1, channels)
                target.attn.qkv.bias.add_(lost[_joint_rows(block.attn, kept.heads[number])])
                last_write = target.attn.proj.bias
            else:
                last_write.add_(block.attn.proj.bias[channels])
        if block.mlp is not None and block.norm2 is not None:
            if target is not None and target.mlp is not None and target.norm2 is not None:
                _copy_norm(target.norm2, block.norm2, channels, rise)
                _copy_units(target.mlp, block.mlp, kept.units[number], channels)
                lost = _through_lost(block.mlp.fc1, block.norm2, channels)
                target.mlp.fc1.bias.add_(lost[_index(kept.units[number])])
                last_write = target.mlp.fc2.bias
            else:
                last_write.add_(block.mlp.fc2.bias[channels])
    _copy_norm(new.norm, old.norm, channels, rise)
    head_norm, linear = model.head[0], small.head[1]
    assert isinstance(head_norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    assert isinstance(small.head[0], nn.LayerNorm)
    _copy_norm(small.head[0], head_norm, channels, rise)
    linear.weight.copy_(labels.weight[:, channels])
    linear.bias.copy_(labels.bias + _through_lost(labels, head_norm, channels))
    return small.eval()


def _copy_heads(new: Attention, old: Attention, heads: Sequence[int], channels: Tensor) -> None:
    rows, joint = _head_rows(old, heads), _joint_rows(old, heads)
    new.qkv.weight.copy_(old.qkv.weight[joint][:, channels])
    new.qkv.bias.copy_(old.qkv.bias[joint])
    new.proj.weight.copy_(old.proj.weight[channels][:, rows])
    new.proj.bias.copy_(old.proj.bias[channels])


def _head_rows(attention: Attention, heads: Sequence[int]) -> Tensor:
    """Channels of the heads among those of all."""
    width = attention.head_dim
    return (_index(heads)[:, None] * width + torch.arange(width)).flatten()


def _joint_rows(attention: Attention, heads: Sequence[int]) -> Tensor:
    """Outputs of the joint projection that are the heads' queries, keys and values."""
    rows, size = _head_rows(attention, heads), attention.num_heads * attention.head_dim
    return torch.cat([part * size + rows for part in range(3)])


def _through_lost(linear: nn.Linear, norm: nn.LayerNorm, channels: Tensor) -> Tensor:
    """(out,) what the norm's bias gives the linear layer through channels that are not kept."""
    lost = torch.ones(linear.in_features, dtype=torch.bool)
    lost[channels] = False
    return linear.weight[:, lost] @ norm.bias[lost]


def _copy_units(new: Mlp, old: Mlp, units: Sequence[int], channels: Tensor) -> None:
    rows = _index(units)
    new.fc1.weight.copy_(old.fc1.weight[rows][:, channels])
    new.fc1.bias.copy_(old.fc1.bias[rows])
    new.fc2.weight.copy_(old.fc2.weight[channels][:, rows])
    new.fc2.bias.copy_(old.fc2.bias[channels])


def _copy_norm(new: nn.LayerNorm, old: nn.LayerNorm, channels: Tensor, rise: float) -> None:
    new.weight.copy_(old.weight[channels] * rise)
    new.bias.copy_(old.bias[channels])


def _copy_bias(new: nn.Conv2d, old: nn.Conv2d, channels: Tensor) -> None:
    assert new.bias is not None
    assert old.bias is not None
    new.bias.copy_(old.bias[channels])


def _index(kept: Sequence[int]) -> Tensor:
    return torch.tensor(list(kept), dtype=torch.long)
