"""2:4 sparsity: of every four weights along a linear layer's input, two are zero.

Tensor cores from Ampere on skip those; a builder with the sparse-weights flag finds the pattern by
itself. Magnitude decides which two stay (Mishra et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from train.model import Classifier

__all__ = ["is_two_of_four", "keep_zeros", "make_sparse", "two_of_four"]

_GROUP, _KEPT = 4, 2


def two_of_four(weight: Tensor) -> Tensor:
    """(out, in) bool, True for the two largest of every four inputs; `in` is a multiple of 4."""
    groups = weight.detach().abs().reshape(len(weight), -1, _GROUP)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    kept.scatter_(2, groups.topk(_KEPT, dim=2).indices, True)
    return kept.flatten(1)


@torch.no_grad()
def make_sparse(model: Classifier) -> None:
    """Set two of every four inputs of the blocks' linear layers to zero, in place."""
    for linear in _layers(model):
        linear.weight.mul_(two_of_four(linear.weight))


def keep_zeros(model: Classifier) -> None:
    """Weights outside the pattern get no gradient: those that are zero stay zero in training.

    Adam's step of a gradient that is always zero is zero, and decay leaves zero where it is.
    """
    for linear in _layers(model):
        kept = two_of_four(linear.weight)
        linear.weight.register_hook(partial(_masked, kept))  # type: ignore[no-untyped-call]


def _masked(kept: Tensor, slope: Tensor) -> Tensor:
    return slope * kept.to(slope.device)


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at most two of every four inputs are other than zero."""
    if weight.shape[1] % _GROUP:
        return False
    return bool((weight.reshape(len(weight), -1, _GROUP).ne(0).sum(2) <= _KEPT).all())


def _layers(model: Classifier) -> Iterator[nn.Linear]:
    """Of the blocks; layers whose inputs are no multiple of four stay dense."""
    for module in model.encoder.blocks.modules():
        if isinstance(module, nn.Linear) and module.in_features % _GROUP == 0:
            yield module
