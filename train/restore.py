"""A bundle's float model as a checkpoint again: to prune, distil or tune on when the run is gone.

    python -m train restore wake-words --out DIR

Positions, biases and prefix tokens that the graph holds already summed come back as positions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from ssast_edge.bundle import Bundle
from train.checkpoint import (
    Checkpoint,
    CheckpointError,
    build_classifier,
    has_checkpoint,
    load_weights,
    save_checkpoint,
)
from train.export import TOLERANCE, WEIGHTS_FROM
from train.onnx_graph import FUSED_PATCH_EMBED
from train.packs import DATA_LICENCES
from train.recipe import (
    KeywordRecipe,
    PhoneRecipe,
    PretrainRecipe,
    Recipe,
    SpotterRecipe,
    StreamRecipe,
    parse_recipe,
    recipe_table,
)

__all__ = ["restore"]

Arrays = dict[str, NDArray[np.float32]]


def restore(bundle: Bundle, out: Path, recipe: Recipe | None = None) -> Path:
    """Write checkpoint `out` whose model gives the bundle's golden output; returns `out`.

    recipe: how the model was trained, where the bundle's own provenance does not tell in the
    present form. Raises CheckpointError when weights and recipe do not belong together.
    """
    if has_checkpoint(out):
        raise CheckpointError(f"{out} is there already: not replaced, give another --out")
    if recipe is None:
        recipe = parse_recipe(
            bundle.provenance.get("recipe") or {}, f"bundle {bundle.name} (--recipe gives another)"
        )
    if isinstance(recipe, PretrainRecipe | PhoneRecipe):
        raise CheckpointError(
            f"recipe {recipe.name} is of task {recipe.task}, a bundle holds a classifier"
        )
    trained = recipe_table(recipe)
    if isinstance(recipe, SpotterRecipe):  # what export drops
        recipe = _telling(recipe, bundle.model_labels)
    statistics = bundle.normalization.mean, bundle.normalization.std
    model = build_classifier(recipe, bundle.labels, *statistics)
    assert model is not None
    weights = _weights(_float_graph(bundle), model.encoder.config.num_prefix_tokens)
    weights |= {"mean": torch.tensor(statistics[0]), "std": torch.tensor(statistics[1])}
    load_weights(model, weights, bundle.path)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(bundle.golden.fbank)[None])[0].numpy()
    difference = float(np.abs(logits - bundle.golden.logits).max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"bundle {bundle.name}: the restored model differs from the golden output by "
            f"{difference:.2g}, wanted {TOLERANCE:g}: another recipe's model"
        )
    sources = [source["name"] for source in bundle.data]
    known = {licence["name"]: name for name, licence in DATA_LICENCES.items()}
    state = model.state_dict()
    save_checkpoint(
        out,
        Checkpoint(
            recipe=recipe,
            classes=bundle.labels,
            mean=statistics[0],
            std=statistics[1],
            step=int(bundle.provenance.get("step", 0)),
            model=state,
            average=state,
            optimizer={},
            progress={
                "sources": [known.get(name, name) for name in sources],
                "restored_recipe": trained,
                **{k: v for k, v in bundle.provenance.items() if k in WEIGHTS_FROM},
            },
        ),
    )
    return out


def _telling(
    recipe: KeywordRecipe | StreamRecipe, told: tuple[str, ...]
) -> KeywordRecipe | StreamRecipe:
    """The recipe of a model that tells these of its labels and no others."""
    if isinstance(recipe, StreamRecipe):
        branch = tuple(label for label in recipe.branch_labels if label in told)
        return dataclasses.replace(recipe, labels=told, auxiliary_labels=(), branch_labels=branch)
    return dataclasses.replace(recipe, labels=told, auxiliary_labels=())


def _float_graph(bundle: Bundle) -> onnx.ModelProto:
    for model in bundle.models:
        if model.backend == "onnx" and model.precision == "fp32":
            return onnx.load(bundle.path / model.file)
    raise CheckpointError(f"bundle {bundle.name} holds no fp32 ONNX model to restore from")


def _weights(model: onnx.ModelProto, num_prefix_tokens: int) -> dict[str, Tensor]:
    """State of a Classifier, by the names that its graph keeps on biases and norms."""
    constants = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    # Graphs that a tracer wrote keep the modules' names on what it did not fold.
    found: Arrays = {
        n: v for n, v in constants.items() if n.startswith(("encoder.", "head.0.", "head.1."))
    }
    users = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type == FUSED_PATCH_EMBED:
            weight, addend = (constants[name] for name in node.input[1:3])
            found["encoder.patch_embed.proj.weight"] = weight
            found["encoder.patch_embed.proj.bias"] = np.zeros(len(weight), np.float32)
            if num_prefix_tokens:
                found["encoder.pos_embed"] = addend
                found["encoder.prefix_tokens"] = np.zeros_like(addend[:, :num_prefix_tokens])
            else:  # a streaming encoder's: the bias of the patches alone
                found["encoder.patch_embed.proj.bias"] = addend[0, 0]
        elif node.op_type == "LayerNormalization":
            for name in node.input[1:3]:
                found[_module_name(name)] = constants[name]
        elif node.op_type == "MatMul" and node.input[1] in constants:
            bias = next((n for n in users[node.output[0]].input if n in constants), "")
            name = _module_name(bias.removesuffix(".bias"))
            found[f"{name}.weight"] = constants[node.input[1]].T
            found[f"{name}.bias"] = constants[bias]
        elif node.op_type == "Add" and node.input[1].endswith(".attn.back"):
            mask = constants[node.input[1]]  # (1, heads, N, context + N)
            context = mask.shape[3] - mask.shape[2]
            found[_module_name(node.input[1])] = mask[0, :, 0, context::-1]
        elif node.op_type == "Concat" and node.input[0] in constants:
            found["encoder.prefix_tokens"] = constants[node.input[0]]
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


def _module_name(name: str) -> str:
    """Of a tensor in the graph: "blocks.0.norm1.weight" is the encoder's."""
    if name.startswith(("head", "branch_head")):
        own = {"head.norm": "head.0", "head": "head.1"}
        own |= {f"branch_{ours}": f"branch_{its}" for ours, its in own.items()}
        base, dot, last = name.rpartition(".")
        if name in own:
            return own[name]
        return f"{own.get(base, base)}{dot}{last}"
    return name if name.startswith("encoder.") else f"encoder.{name}"
