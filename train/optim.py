"""Parameter groups, learning rates and weight averages: arithmetic only, no loop."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from train.config import OptimizerConfig

__all__ = ["Plateau", "WeightAverage", "learning_rate", "make_optimizer", "parameter_names"]


def learning_rate(step: int, total: int, steps_per_epoch: float, config: OptimizerConfig) -> float:
    """Rate of `step` (0-based) of `total`, before a plateau's factor."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.schedule == "steps":
        past = step / steps_per_epoch - config.decay_from_epoch
        decays = 0 if past < 0 else 1 + math.floor(past / config.decay_every_epochs)
        return config.learning_rate * config.decay_factor**decays
    return config.learning_rate


class Plateau:
    """Shrinks the rate when the validation metric stops rising (or falling)."""

    def __init__(self, config: OptimizerConfig, *, higher_is_better: bool) -> None:
        self.config = config
        self.sign = 1.0 if higher_is_better else -1.0
        self.best = -math.inf
        self.waited = 0
        self.factor = 1.0

    def update(self, metric: float) -> bool:
        """Take a validation's metric; True when it is the best so far."""
        if self.sign * metric > self.best:
            self.best, self.waited = self.sign * metric, 0
            return True
        self.waited += 1
        if self.config.schedule == "plateau" and self.waited > self.config.patience:
            self.factor *= self.config.decay_factor
            self.waited = 0
        return False

    def state(self) -> dict[str, float]:
        """For the checkpoint."""
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "waited": self.waited, "factor": self.factor}  # type: ignore[dict-item]

    def restore(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        self.best = -math.inf if state["best"] is None else float(state["best"])
        self.waited, self.factor = int(state["waited"]), float(state["factor"])


class WeightAverage:
    """Moving average of the weights, or the plain mean of some epochs' last weights."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.tensors = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, steps_per_epoch: float) -> None:
        """Take the weights after optimiser step `step` (1-based)."""
        first, last = self.config.average_epochs
        epoch = step / steps_per_epoch
        weight = 0.0
        if first:
            number = math.floor(epoch + 1e-9)
            is_epoch_end = number > math.floor((step - 1) / steps_per_epoch + 1e-9)
            if number < first:
                weight = 1.0
            elif is_epoch_end and number <= last:
                weight = 1 / (number - first + 1)
        elif self.config.average:
            # Early on the average follows the weights.
            weight = 1 - min(self.config.average, step / (9 + step))
        else:
            weight = 1.0
        if weight:
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    self.tensors[key].lerp_(value, weight)
                else:
                    self.tensors[key].copy_(value)


def make_optimizer(
    module: nn.Module, config: OptimizerConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """Adam or AdamW over `module`; matrices decay, vectors, tokens and positions do not.

    A group's own factor on the learning rate stands under "factor". fused: one kernel for all
    weights; it unscales float16 gradients itself, which then cannot be clipped.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = max((_depth(name) for name, _ in module.named_parameters()), default=0)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # The authors' Adam decays every parameter alike.
        decays = config.kind == "adam" or (parameter.ndim > 1 and not _is_token(name))
        above = 0 if "encoder.norm" in name else depth - _depth(name)  # blocks over this one
        factor = config.layer_decay**above
        if "encoder." not in name:
            factor = config.head_factor
        groups.setdefault((config.weight_decay * decays, factor), []).append(parameter)
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=fused,
    )


def parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimiser's parameters, in its order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _depth(name: str) -> int:
    """0 for patches and positions, 1 + its number for a block."""
    block = re.search(r"blocks\.(\d+)\.", name)
    return 1 + int(block[1]) if block else 0


def _is_token(name: str) -> bool:
    return any(word in name for word in ("tokens", "pos_embed", "mask_embed", "attn.back"))
