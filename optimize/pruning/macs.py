"""What a model costs, from its shape alone: multiply-accumulates of one window, and parameters.

N tokens (prefix included), P patches, D channels, h channels of a head. Matrix products and the
patch projection are counted, as `torch.utils.flop_counter` counts them (its FLOPs are two a MAC);
norms, softmax, GELU and additions are not.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.encoder import EncoderConfig

__all__ = ["Cost", "block_cost", "channel_cost", "head_cost", "model_cost", "unit_cost"]


@dataclass(frozen=True)
class Cost:
    """MACs of one window, and parameters."""

    macs: int
    parameters: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.parameters + other.parameters)

    def __mul__(self, count: int) -> Cost:
        return Cost(self.macs * count, self.parameters * count)


def model_cost(config: EncoderConfig, labels: int) -> Cost:
    """The whole classifier: patches, blocks, head; with a branch its norms and head too."""
    tokens = _tokens(config)
    dim, area = config.dim, config.patch_bins * config.patch_frames
    embed = Cost(config.num_patches * area * dim, (area + 1) * dim)
    positions = Cost(0, (config.num_prefix_tokens + tokens) * dim)
    if config.context:  # a bias by distance in each block instead
        positions = Cost(0, sum(config.heads) * (config.context + 1))
    classifier = Cost(dim * labels, 2 * dim + (dim + 1) * labels)
    total = embed + positions + Cost(0, 2 * dim) + classifier
    if config.branch_depth:
        total += Cost(0, 4 * dim)  # its last norm and its head's
    for number in range(config.num_blocks):
        total += block_cost(config, number)
    return total


def block_cost(config: EncoderConfig, number: int) -> Cost:
    """One block; half of it may be missing."""
    total = Cost(0, 0)
    shared = Cost(0, 3 * config.dim)  # a norm's weight and bias, the bias of the way back
    if config.heads[number]:
        total += head_cost(config) * config.heads[number] + shared
    if config.hidden[number]:
        total += unit_cost(config) * config.hidden[number] + shared
    return total


def head_cost(config: EncoderConfig) -> Cost:
    """One attention head: 3 N D h + N h D for the projections, 2 N S h for the attention.

    S, what a token sees: all N, or with a context itself and so many before it.
    """
    tokens, dim, width = _tokens(config), config.dim, config.head_width
    seen = config.context + 1 if config.context else tokens
    return Cost(4 * tokens * dim * width + 2 * tokens * seen * width, 4 * dim * width + 3 * width)


def unit_cost(config: EncoderConfig) -> Cost:
    """One MLP unit: a row of fc1 with its bias and a column of fc2."""
    return Cost(2 * _tokens(config) * config.dim, 2 * config.dim + 1)


def channel_cost(config: EncoderConfig, labels: int) -> Cost:
    """One channel of the embedding: what the model is cheaper by without it."""
    area = config.patch_bins * config.patch_frames
    heads, hidden = sum(config.heads), sum(config.hidden)
    halves = sum(map(bool, config.heads)) + sum(map(bool, config.hidden))
    tokens, per_token = _tokens(config), 4 * heads * config.head_width + 2 * hidden
    fixed = (area + 1) + (config.num_prefix_tokens + tokens) + 2 + 2 + labels
    return Cost(
        config.num_patches * area + tokens * per_token + labels, fixed + per_token + 3 * halves
    )


def _tokens(config: EncoderConfig) -> int:
    return config.num_prefix_tokens + config.num_patches
