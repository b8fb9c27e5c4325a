"""Where a fine-tuning run starts from: any pretrained encoder, fitted to the run's grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from train.checkpoint import CheckpointError, has_checkpoint, load_checkpoint, load_weights
from train.encoder import Encoder, EncoderConfig
from train.formats import Imported, import_checkpoint
from train.model import TokenTagger
from train.positions import fit_pos_embed
from train.recipe import FinetuneRecipe, PhoneRecipe, StreamRecipe

__all__ = ["Start", "fingerprint_of", "read_any", "start_from", "start_head"]


def read_any(path: Path, *, stride: tuple[int, int] | None = None) -> Imported:
    """The averaged weights of a run's checkpoint, or whatever `import_checkpoint` reads."""
    if not _is_run(path):
        return import_checkpoint(path, stride=stride)
    if stride:
        raise CheckpointError(f"{path} tells its own stride: leave --stride out")
    checkpoint = load_checkpoint(path)
    if isinstance(checkpoint.recipe, StreamRecipe) and checkpoint.recipe.branch_labels:
        raise CheckpointError(f"{path} is joined of two: give one of the models that it is made of")
    groups: dict[str, dict[str, Tensor]] = {"encoder": {}, "head": {}, "pretext": {}}
    for key, value in checkpoint.average.items():
        group, _, name = key.partition(".")
        if group in ("encoder", "head"):
            groups[group][name] = value
        elif group not in ("mean", "std"):
            groups["pretext"][key] = value
    recipe, classes = checkpoint.recipe, checkpoint.classes
    if isinstance(
        recipe, PhoneRecipe | StreamRecipe
    ):  # its head tells phones of tokens: of no use to others
        groups["head"], classes = {}, ()
    is_cls = isinstance(recipe, FinetuneRecipe) and recipe.pooling == "cls"
    return Imported(
        config=recipe.encoder_config(),
        encoder=groups["encoder"],
        mean=checkpoint.mean,
        std=checkpoint.std,
        sources=tuple(checkpoint.progress.get("sources", ())),
        pretext=groups["pretext"] or None,
        head=groups["head"] or None,
        labels=classes,
        pooling="cls" if is_cls else "mean",
        provenance={"run": recipe.name, "task": recipe.task, "step": checkpoint.step},
    )


def _is_run(path: Path) -> bool:
    """Whether it is a run's checkpoint, and nothing that `import_checkpoint` reads."""
    return (path / "checkpoint.json").is_file() or (not path.exists() and has_checkpoint(path))


@dataclass(frozen=True)
class Start:
    """What a run remembers of the encoder that it started from."""

    sources: tuple[str, ...]  # corpora that the weights come from, as far as they are known
    fingerprint: str


def start_from(path: Path, encoder: Encoder) -> Start:
    """Put the weights of any checkpoint that `read_any` reads in `encoder`.

    Positions are cut or stretched to the encoder's grid; patch shape and sizes must agree. An
    encoder with a context starts from one without: prefix tokens and positions are left out, and
    all distances weigh alike.
    """
    found = read_any(path)
    its, wanted = found.config, encoder.config
    if its.depth != wanted.depth:
        raise CheckpointError(
            f"{path}: the encoder's depth is {its.depth}, the recipe wants {wanted.depth} "
            "(model.depth)"
        )
    same_width = its.dim != wanted.dim or its.head_width == wanted.head_width
    if its.heads != wanted.heads or not same_width:
        raise CheckpointError(  # the weights might fit, and mean something else
            f"{path}: the encoder has {_heads(its)} attention heads, the recipe wants "
            f"{_heads(wanted)}, of {its.head_width} and {wanted.head_width} channels "
            "(model.num_heads, head_dim and block_heads)"
        )
    weights = dict(found.encoder)
    if its.context and not wanted.context:
        raise CheckpointError(
            f"{path}: the encoder sees {its.context} tokens back, the recipe wants one that sees "
            "all of its window (model.context)"
        )
    if wanted.context and not its.context:
        del weights["pos_embed"], weights["prefix_tokens"]
        for name, value in encoder.state_dict().items():
            if name.endswith("attn.back"):
                weights[name] = torch.zeros_like(value)
    elif not wanted.context and weights["pos_embed"].shape[2] == wanted.dim:
        weights["pos_embed"] = fit_pos_embed(weights["pos_embed"], found.config, wanted)
    load_weights(encoder, weights, path)
    sources = found.sources or (f"pretrained encoder {path.name}",)
    return Start(sources, fingerprint_of(found.encoder))


def fingerprint_of(encoder: Mapping[str, Tensor]) -> str:
    """What an encoder of these weights is known by."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.items()):
        digest.update(name.encode() + value.contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def start_head(path: Path, model: TokenTagger, classes: Sequence[str]) -> tuple[str, ...]:
    """Put what run `path` learned of the same classes in the head of `model`; returns these.

    path: what the encoder started from. Only what reads a stream token by token has such a head;
    without one the model's head stays as it is, as do the rows of classes that it does not know.
    """
    if not _is_run(path):
        return ()
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.recipe, StreamRecipe):
        return ()
    norm, linear = model.head
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    its = {name: index for index, name in enumerate(checkpoint.classes)}
    known = [name for name in classes if name in its]
    if not known:
        return ()
    weights = {
        name.removeprefix("head."): value
        for name, value in checkpoint.average.items() if name.startswith("head.")
    }  # fmt: skip
    ours, theirs = [classes.index(name) for name in known], [its[name] for name in known]
    norm.load_state_dict({"weight": weights["0.weight"], "bias": weights["0.bias"]})
    with torch.no_grad():
        linear.weight[ours] = weights["1.weight"][theirs]
        linear.bias[ours] = weights["1.bias"][theirs]
    return tuple(known)


def _heads(config: EncoderConfig) -> str:
    """One number where all blocks are alike."""
    return "/".join(map(str, config.block_heads)) or f"{config.num_heads}"
