"""How much each attention head, MLP unit and embedding channel matters, from data or weights.

`taylor`: the change of a clip's loss without a unit, to first order, squared, mean over clips. A
gate of 1 stands before each unit's way back into the residual stream; the loss's derivative by it
is the sum of activation times gradient (Molchanov et al. 2019; Michel et al. 2019, with absolute
values: what matters to few clips then hardly counts, and the wake-word model at half of its MACs
kept 0.34 of mean average precision before recovery instead of 0.88).
`activation`: the mean square of what a unit adds to the stream. `magnitude`: the sum of squares of
its weights, no data. `random`: for comparison. B clips, N tokens, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from train.data.clips import Batch
from train.encoder import Block
from train.model import Classifier
from train.task import TaskObjective

__all__ = ["DATA_METHODS", "METHODS", "Importance", "measure_importance", "random_importance"]

DATA_METHODS = ("taylor", "activation")
METHODS = (*DATA_METHODS, "magnitude", "random")


@dataclass(frozen=True)
class Importance:
    """One number of 0 or more a unit; only their order and ratios mean something."""

    heads: tuple[Tensor, ...]  # of each block, (H,)
    units: tuple[Tensor, ...]  # of each block, (hidden,)
    channels: Tensor  # (D,)
    blocks: Tensor  # (depth,), of whole blocks: units can make up for each other within one


def measure_importance(
    objective: TaskObjective,
    batches: Sequence[Batch],
    *,
    method: str = "taylor",
    fabric: Fabric,
    seed: int = 0,
) -> Importance:
    """Importance of all units of the objective's model, which is left as it was.

    `batches` of raw log-mel and targets, as training draws them; not looked at by `magnitude` and
    `random`.
    """
    model = objective.model
    assert isinstance(model, Classifier)
    if method == "random":
        return random_importance(model, seed)
    if method == "magnitude":
        return _magnitude(model)
    was_training = model.training
    model.eval()
    try:
        if method == "taylor":
            return _taylor(objective, model, batches, fabric)
        return _activation(model, batches, fabric)
    finally:
        model.train(was_training)


def _taylor(
    objective: TaskObjective, model: Classifier, batches: Sequence[Batch], fabric: Fabric
) -> Importance:
    blocks = _blocks(model)
    sums: dict[str, Tensor] = {}
    clips = 0
    requires = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for batch in batches:
            batch = batch.to(fabric.device)
            count = len(batch.fbank)
            with _gates(model, count, fabric.device) as gates, fabric.autocast():
                loss = objective(batch.fbank, batch.target)["loss"]
                # The loss is a mean over clips: times their number, each clip's own.
                slopes = torch.autograd.grad(loss * count, list(gates.values()))
            clips += count
            found = dict(zip(gates, slopes, strict=True))
            for name, slope in found.items():
                sums[name] = sums.get(name, 0) + slope.float().square().sum(0)
            for number in range(len(blocks)):
                whole = sum(
                    found[key].float().sum(1)
                    for key in (f"heads.{number}", f"units.{number}")
                    if key in found
                )
                assert isinstance(whole, Tensor)
                key = f"blocks.{number}"
                sums[key] = sums.get(key, 0) + whole.square().sum(0, keepdim=True)
    finally:
        for parameter, needs in zip(model.parameters(), requires, strict=True):
            parameter.requires_grad_(needs)
    mean = {name: (total / clips).cpu() for name, total in sums.items()}
    empty = torch.zeros(0)
    return Importance(
        tuple(mean.get(f"heads.{number}", empty) for number in range(len(blocks))),
        tuple(mean.get(f"units.{number}", empty) for number in range(len(blocks))),
        mean["channels"],
        torch.cat([mean[f"blocks.{number}"] for number in range(len(blocks))]),
    )


@contextmanager
def _gates(model: Classifier, count: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Ones (B, units) that each clip's heads, units and channels are multiplied by."""
    gates: dict[str, Tensor] = {}

    def gate(name: str, units: int) -> Tensor:
        gates[name] = torch.ones(count, units, device=device, requires_grad=True)
        return gates[name]

    with ExitStack() as hooks:

        def before(module: nn.Module, factor: Tensor) -> None:
            def multiply(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                return (inputs[0] * factor[:, None].to(inputs[0].dtype), *inputs[1:])

            hooks.callback(module.register_forward_pre_hook(multiply).remove)

        def after(module: nn.Module, factor: Tensor) -> None:
            def multiply(_: nn.Module, __: Any, out: Tensor) -> Tensor:
                return out * factor[:, None].to(out.dtype)

            hooks.callback(module.register_forward_hook(multiply).remove)

        channels = gate("channels", model.encoder.config.dim)
        for number, block in enumerate(_blocks(model)):
            if number == 0:
                before(block, channels)  # patches, prefix tokens and positions
            if block.attn is not None:
                heads = gate(f"heads.{number}", block.attn.num_heads)
                before(block.attn.proj, heads.repeat_interleave(block.attn.head_dim, dim=1))
                after(block.attn, channels)
            if block.mlp is not None:
                before(block.mlp.fc2, gate(f"units.{number}", block.mlp.fc2.in_features))
                after(block.mlp, channels)
        yield gates


@torch.no_grad()
def _activation(model: Classifier, batches: Sequence[Batch], fabric: Fabric) -> Importance:
    """Mean square, over clips and tokens, of each unit's addition to the residual stream."""
    blocks = _blocks(model)
    power: dict[str, Tensor] = {}

    def watch(name: str, linear: nn.Linear, width: int) -> Any:
        """`width` inputs of the linear layer belong to a unit."""
        columns = linear.weight.float().T.reshape(-1, width, linear.out_features)
        gram = columns @ columns.transpose(1, 2)  # (units, width, width)

        def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].float().unflatten(-1, (-1, width))  # (B, N, units, width)
            spread = torch.einsum("bnuw,bnuv->uwv", x, x) / (x.shape[0] * x.shape[1])
            power[name] = power.get(name, 0) + (gram * spread).sum((1, 2)) / len(batches)

        return linear.register_forward_pre_hook(look)

    def watch_sum(_: nn.Module, __: Any, out: Tensor) -> None:
        power["channels"] = power.get("channels", 0) + out.float().square().mean((0, 1))

    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            hooks.callback(block.register_forward_hook(watch_sum).remove)
            if block.attn is not None:
                handle = watch(f"heads.{number}", block.attn.proj, block.attn.head_dim)
                hooks.callback(handle.remove)
            if block.mlp is not None:
                hooks.callback(watch(f"units.{number}", block.mlp.fc2, 1).remove)
        for batch in batches:
            with fabric.autocast():
                model(batch.to(fabric.device).fbank)
    return _of_parts({name: value.clamp_min(0).cpu() for name, value in power.items()}, model)


@torch.no_grad()
def _magnitude(model: Classifier) -> Importance:
    """Sum of squares of the weights of each unit, in units of the mean square over all of its kind.

    Weights of attention and of MLPs differ in size without differing in importance.
    """
    parts: dict[str, Tensor] = {}
    counts: dict[str, int] = {}  # weights of all heads together, and of all units
    writes = []
    for number, block in enumerate(_blocks(model)):
        if block.attn is not None:
            heads, width = block.attn.num_heads, block.attn.head_dim
            ways_in = block.attn.qkv.weight.reshape(3, heads, width, -1).square().sum((0, 2, 3))
            out = block.attn.proj.weight
            ways_out = out.reshape(-1, heads, width).square().sum((0, 2))
            parts[f"heads.{number}"] = (ways_in + ways_out).cpu()
            counts["heads"] = counts.get("heads", 0) + 4 * out.numel()
            writes.append(out)
        if block.mlp is not None:
            fc1, fc2 = block.mlp.fc1.weight, block.mlp.fc2.weight
            parts[f"units.{number}"] = (fc1.square().sum(1) + fc2.square().sum(0)).cpu()
            counts["units"] = counts.get("units", 0) + 2 * fc2.numel()
            writes.append(fc2)
    writes.append(model.encoder.patch_embed.proj.weight.flatten(1))
    for kind, count in counts.items():
        names = [name for name in parts if name.startswith(kind)]
        mean = sum(float(parts[name].sum()) for name in names) / count
        for name in names:
            parts[name] = parts[name] / max(mean, 1e-30)
    every = torch.cat(writes, dim=1).square()
    parts["channels"] = (every.sum(1) / every.mean().clamp_min(1e-30)).cpu()
    return _of_parts(parts, model)


def random_importance(model: Classifier, seed: int) -> Importance:
    """Between 0 and 1, whatever the model does."""
    generator = torch.Generator().manual_seed(seed)
    config = model.encoder.config
    return Importance(
        tuple(torch.rand(count, generator=generator) for count in config.heads),
        tuple(torch.rand(count, generator=generator) for count in config.hidden),
        torch.rand(config.dim, generator=generator),
        torch.rand(config.depth, generator=generator),
    )


def _of_parts(parts: dict[str, Tensor], model: Classifier) -> Importance:
    """A block matters as much as its units together."""
    depth, empty = model.encoder.config.depth, torch.zeros(0)
    heads = tuple(parts.get(f"heads.{number}", empty) for number in range(depth))
    units = tuple(parts.get(f"units.{number}", empty) for number in range(depth))
    blocks = torch.stack([h.sum() + u.sum() for h, u in zip(heads, units, strict=True)])
    return Importance(heads, units, parts["channels"], blocks)


def _blocks(model: Classifier) -> list[Block]:
    return [block for block in model.encoder.blocks if isinstance(block, Block)]
