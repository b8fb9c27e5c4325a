"""The numbers of an exported AST, read back from its ONNX graph: what CPU forms are written from.

Takes the graph of train/onnx_graph.py, pruned ones too; knows nothing of PyTorch, files or
quantisation. T frames, F bins, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ssast_edge.backends.hops import HOP_FRAMES

__all__ = ["Ast", "AstBlock", "Embedding", "End", "Linear", "Norm", "NotOurGraph", "read_ast"]

FloatArray = NDArray[np.float32]


class NotOurGraph(ValueError):
    """An ONNX file that is no AST of ours; one line."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNormalization."""

    weight: FloatArray
    bias: FloatArray
    epsilon: float


@dataclass(frozen=True, eq=False)
class Linear:
    """x @ weight + bias."""

    name: str  # of the module: "blocks.0.attn.qkv"
    source: str  # the tensor x in the graph
    weight: FloatArray  # (in, out)
    bias: FloatArray  # (out,)


@dataclass(frozen=True, eq=False)
class AstBlock:
    """A transformer block; of a branch that was pruned away nothing is there."""

    name: str
    source: str  # the block whose tokens it reads; empty: the patches
    heads: int
    norm1: Norm | None
    qkv: Linear | None  # out: query, key, value, each heads * head width
    proj: Linear | None
    norm2: Norm | None
    fc1: Linear | None
    fc2: Linear | None
    # (heads, context + 1): added to the similarity of the token so many tokens back. None: every
    # token sees the whole window.
    back: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Embedding:
    """Means of the tokens after some blocks, side by side: what words are enrolled by."""

    blocks: tuple[str, ...]  # names
    means: FloatArray  # (segments, prefix + patches)


@dataclass(frozen=True, eq=False)
class End:
    """From the tokens of a block to logits: of the last block, or of a branch's last one."""

    name: str  # before its nodes: empty, or "branch_"
    source: str  # the block
    norm: Norm
    head_norm: Norm
    head: Linear


@dataclass(frozen=True, eq=False)
class Ast:
    """Raw log-mel (1, T, F) to logits (1, labels)."""

    num_frames: int
    num_mel_bins: int
    mean: float
    std: float
    strides: tuple[int, int]  # bins, frames
    patch: FloatArray  # (D, patch bins, patch frames)
    addend: FloatArray  # (prefix + patches, D): bias, positions, prefix tokens; frequency-major
    blocks: tuple[AstBlock, ...]  # each after the one that it reads
    ends: tuple[End, ...]  # one, and a branch's; their logits side by side
    pooled: tuple[int, int]  # tokens whose mean goes to a head: from, to
    embedding: Embedding | None = None
    hop_frames: int = 0  # of a streaming model: what the runtime gives it at once

    @property
    def context(self) -> int:
        """Tokens before it that a token sees; 0: the whole window."""
        return max((b.back.shape[1] - 1 for b in self.blocks if b.back is not None), default=0)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along (mel bins, frames)."""
        bins, frames = self.patch.shape[1:]
        return (
            (self.num_mel_bins - bins) // self.strides[0] + 1,
            (self.num_frames - frames) // self.strides[1] + 1,
        )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens that stand before the patches."""
        return len(self.addend) - self.grid[0] * self.grid[1]

    @property
    def linears(self) -> Iterator[Linear]:
        """Every linear layer in order, the heads last, the patch embedding not."""
        for block in self.blocks:
            for layer in (block.qkv, block.proj, block.fc1, block.fc2):
                if layer is not None:
                    yield layer
        yield from (end.head for end in self.ends)


def read_ast(model: onnx.ModelProto) -> Ast:
    """The model's numbers. Raises NotOurGraph for a graph that build_graph did not write."""
    try:
        return _read(model)
    except (KeyError, IndexError, ValueError) as error:
        raise NotOurGraph(
            f"not a float graph of `train export` ({error}); a bundle of an earlier version: "
            "`python -m train restore` and `export` it again"
        ) from error


def _read(model: onnx.ModelProto) -> Ast:
    nodes = {node.name: node for node in model.graph.node}
    arrays = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    if "patch_embed" not in nodes:
        raise ValueError("it has no FusedPatchEmbed node")
    embed = nodes["patch_embed"]
    settings = {a.name: helper.get_attribute_value(a) for a in embed.attribute}
    shape = model.graph.input[0].type.tensor_type.shape.dim

    def norm(name: str) -> Norm | None:
        if name not in nodes:
            return None
        node = nodes[name]
        epsilon = helper.get_node_attr_value(node, "epsilon")
        return Norm(arrays[node.input[1]], arrays[node.input[2]], epsilon)

    def linear(name: str) -> Linear | None:
        if name not in nodes:
            return None
        node, add = nodes[name], nodes[f"{name}.add"]
        return Linear(name, node.input[0], arrays[node.input[1]], arrays[add.input[1]])

    def block(name: str) -> AstBlock:
        first = nodes.get(f"{name}.norm1", nodes.get(f"{name}.norm2"))
        if first is None:
            raise ValueError(f"{name} has no norm")
        heads = 0
        if f"{name}.attn.query.reshape" in nodes:
            heads = int(arrays[nodes[f"{name}.attn.query.reshape"].input[1]][2])
        return AstBlock(
            name,
            _source(first),
            heads,
            *(norm(f"{name}.norm1"), linear(f"{name}.attn.qkv"), linear(f"{name}.attn.proj")),
            *(norm(f"{name}.norm2"), linear(f"{name}.mlp.fc1"), linear(f"{name}.mlp.fc2")),
            back=_back(arrays.get(f"{name}.attn.back")),
        )

    found = (name.split(".")[1] for name in nodes if name.startswith("blocks."))
    pool = nodes["pool.slice"]
    embedding = None
    if "embedding" in nodes:
        parts = [nodes[tensor.removesuffix(":out")] for tensor in nodes["embedding"].input]
        blocks = tuple(_block_of(part.input[1]) for part in parts)
        embedding = Embedding(blocks, arrays[parts[0].input[0]][0])

    def end(name: str) -> End:
        last, head_norm, head = (
            norm(f"{name}norm"), norm(f"{name}head.norm"), linear(f"{name}head"),
        )  # fmt: skip
        if last is None or head_norm is None or head is None:
            raise ValueError("it has no final norm or head")
        return End(name, _source(nodes[f"{name}norm"]), last, head_norm, head)

    return Ast(
        num_frames=shape[1].dim_value,
        num_mel_bins=shape[2].dim_value,
        mean=float(settings["mean"]),
        std=float(settings["std"]),
        strides=(int(settings["stride_bins"]), int(settings["stride_frames"])),
        patch=arrays[embed.input[1]][:, 0],
        addend=arrays[embed.input[2]][0],
        blocks=tuple(block(f"blocks.{i}") for i in sorted({int(number) for number in found})),
        ends=tuple(end(name) for name in ("", "branch_") if not name or f"{name}norm" in nodes),
        pooled=(int(arrays[pool.input[1]][0]), int(arrays[pool.input[2]][0])),
        embedding=embedding,
        hop_frames=next((int(p.value) for p in model.metadata_props if p.key == HOP_FRAMES), 0),
    )


def _back(mask: FloatArray | None) -> FloatArray | None:
    """(1, heads, N, context + N) as the graph has it -> (heads, context + 1) by distance."""
    if mask is None:
        return None
    context = mask.shape[3] - mask.shape[2]
    return np.ascontiguousarray(mask[0, :, 0, : context + 1][:, ::-1])


def _source(node: onnx.NodeProto) -> str:
    """Name of the block that a node reads; empty: the patches."""
    tensor = node.input[0]
    return "" if tensor.startswith("patch_embed") else _block_of(tensor)


def _block_of(tensor: str) -> str:
    """Name of the block that a tensor of tokens comes out of."""
    name, _, last = tensor.rpartition(".add")
    if not name.startswith("blocks.") or last not in ("1:out", "2:out"):
        raise ValueError(f"{tensor} is no block's")
    return name
