"""A classifier as ONNX, node by node: one graph for ONNX Runtime and TensorRT.

Raw log-mel to logits and to an embedding by stretches of time, by which the device enrols new
words. The first node is `ssast_edge::FusedPatchEmbed` (normalise, cut patches,
project, add bias and positions, put the prefix tokens in front); a model-local function of the same
name says what it computes, so that any runtime without our kernel runs the function instead.
Every linear layer is a MatMul named after its module, which is what quantisation goes by.
Knows nothing of files, bundles or runtimes. B clips, T frames, F bins, N patches, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ssast_edge.backends.hops import HOP_FRAMES
from train.encoder import Attention, Block, EncoderConfig, relative_bias
from train.model import Classifier, pooled_tokens

__all__ = [
    "DOMAIN",
    "EMBEDDED_BLOCKS",
    "EMBEDDING",
    "FUSED_PATCH_EMBED",
    "OPSET",
    "SEGMENTS",
    "build_graph",
    "embedded_blocks",
    "embedding_width",
    "strip_functions",
]

DOMAIN = "ssast_edge"
FUSED_PATCH_EMBED = "FusedPatchEmbed"
OPSET = 18
EMBEDDING = "embedding"
EMBEDDED_BLOCKS = 2  # of an encoder of two or more
SEGMENTS = 12  # stretches of a window that the embedding tells apart
_UNSEEN = -1e4  # to a similarity: no share is left, in half precision too
_IR_VERSION = 9  # the newest that every ONNX Runtime since 1.17 reads


def build_graph(
    model: Classifier, *, batch: int | None = 1, segments: int = SEGMENTS, hop_frames: int = 0
) -> onnx.ModelProto:
    """Input "fbank" (batch, T, F) raw log-mel, outputs "logits" (batch, labels) and "embedding".

    The embedding, (batch, segments, blocks * D), holds the means of the tokens in each of so many
    equal stretches of the window, after each of `embedded_blocks`; 0 segments: no such output.
    batch None: any number. hop_frames: of a model with a context, kept in the metadata for what
    makes a graph of one hop of it.
    """
    config = model.encoder.config
    graph = _Graph()
    tokens = _patch_embed(graph, model)
    means = ""
    if segments:
        means = graph.weight(f"{EMBEDDING}.means", _segment_means(config, segments)[None])
    embedded, count = [], config.num_prefix_tokens + config.num_patches
    after = [tokens]  # what comes out of so many blocks
    for number, block in enumerate(model.encoder.blocks):
        assert isinstance(block, Block)
        read = after[config.branch_from if number == config.depth else number]
        after.append(_block(graph, f"blocks.{number}", block, count, read))
        if segments and number in embedded_blocks(config.depth):
            embedded.append(graph.node("MatMul", f"{EMBEDDING}.{number}", [means, after[-1]]))
    ends = [("", model.encoder.norm, model.head, after[config.depth])]
    if model.encoder.branch_norm is not None and model.branch_head is not None:
        ends.append(("branch_", model.encoder.branch_norm, model.branch_head, after[-1]))
    told = [f"{name}head.logits" for name, *_ in ends] if len(ends) > 1 else ["logits"]
    pooled = pooled_tokens(model.pooling, config.num_prefix_tokens, count)
    labels = 0
    for (name, norm, head, x), output in zip(ends, told, strict=True):
        labels += _end(graph, name, norm, head, pooled, x, output)
    if len(told) > 1:
        graph.node("Concat", "heads", told, output="logits", axis=-1)
    size: int | str = "batch" if batch is None else batch
    outputs = [_value("logits", [size, labels])]
    if segments:
        graph.node("Concat", EMBEDDING, embedded, output=EMBEDDING, axis=-1)
        outputs.append(_value(EMBEDDING, [size, segments, embedding_width(config)]))
    made = helper.make_graph(
        graph.nodes,
        "ssast",
        [_value("fbank", [size, config.num_frames, config.num_mel_bins])],
        outputs,
        initializer=graph.weights,
    )
    model_proto = helper.make_model(
        made,
        producer_name="ssast-edge",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=[_function(model)],
    )
    if hop_frames:
        helper.set_model_props(model_proto, {HOP_FRAMES: str(hop_frames)})
    onnx.checker.check_model(model_proto)
    return model_proto


def _end(
    graph: _Graph,
    name: str,
    last: nn.LayerNorm,
    head: nn.Sequential,
    pooled: tuple[int, int],
    x: str,
    output: str,
) -> int:
    """Norm, pooling and head of the tokens x, nodes named after `name`; how many logits."""
    norm, linear = head
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    tokens = graph.layer_norm(f"{name}norm", last, x)
    first, end = pooled
    pool = f"{name}pool"
    chosen = graph.node(
        "Slice", f"{pool}.slice", [tokens, *graph.integers(pool, [first], [end], [1])]
    )
    mean = [chosen, *graph.integers(f"{pool}.mean", [1])]
    one = graph.node("ReduceMean", pool, mean, keepdims=0)
    normed = graph.layer_norm(f"{name}head.norm", norm, one)
    graph.linear(f"{name}head", linear, normed, output=output)
    return linear.out_features


def embedded_blocks(depth: int) -> tuple[int, ...]:
    """Blocks, from 0, that words of one's own are told by: an early one and a late one.

    The last ones tell the labels' words apart and take every other short word for one of these; the
    early ones tell what is said, whatever it is. Measured in docs/results.md.
    """
    return tuple(sorted({depth // 4, depth - 1 - depth // 6}))


def embedding_width(config: EncoderConfig) -> int:
    """Numbers in one stretch of the embedding."""
    return config.dim * len(embedded_blocks(config.depth))


def strip_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the function: for TensorRT before 10.7, which would prefer it to our kernel."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    stripped.ClearField("functions")
    return stripped


class _Graph:
    """Nodes and weights, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def integers(self, name: str, *values: Sequence[int]) -> list[str]:
        return [
            self.weight(f"{name}.{number}", np.array(value, dtype=np.int64))
            for number, value in enumerate(values)
        ]

    def node(
        self, op: str, name: str, inputs: Sequence[str], *, output: str = "", **attributes: Any
    ) -> str:
        output = output or f"{name}:out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def layer_norm(self, name: str, module: nn.LayerNorm, x: str) -> str:
        scale = self.weight(f"{name}.weight", _numpy(module.weight))
        bias = self.weight(f"{name}.bias", _numpy(module.bias))
        return self.node("LayerNormalization", name, [x, scale, bias], epsilon=module.eps)

    def linear(self, name: str, module: nn.Linear, x: str, *, output: str = "") -> str:
        weight = self.weight(f"{name}.weight", _numpy(module.weight).T)
        product = self.node("MatMul", name, [x, weight])
        bias = self.weight(f"{name}.bias", _numpy(module.bias))
        return self.node("Add", f"{name}.add", [product, bias], output=output)


def _patch_embed(graph: _Graph, model: Classifier) -> str:
    encoder = model.encoder
    projection, config = encoder.patch_embed.proj, encoder.config
    # What each token gets beside its projection.
    addend = torch.zeros(1, config.num_prefix_tokens + config.num_patches, config.dim)
    if encoder.pos_embed is not None and encoder.prefix_tokens is not None:
        addend += encoder.pos_embed.detach()
        addend[:, : config.num_prefix_tokens] += encoder.prefix_tokens.detach()
    assert projection.bias is not None
    addend[:, config.num_prefix_tokens :] += projection.bias.detach()
    return graph.node(
        FUSED_PATCH_EMBED,
        "patch_embed",
        [
            "fbank",
            graph.weight("patch_embed.weight", _numpy(projection.weight)),
            graph.weight("patch_embed.addend", _numpy(addend)),
        ],
        domain=DOMAIN,
        mean=float(model.mean),
        std=float(model.std),
        stride_bins=config.stride_bins,
        stride_frames=config.stride_frames,
        plugin_version="1",
        plugin_namespace=DOMAIN,
    )


def _function(model: Classifier) -> onnx.FunctionProto:
    """Fbank (B, T, F), weight (D, 1, bins, frames), addend (1, prefix + N, D) -> tokens."""
    config = model.encoder.config

    def constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
        # As a tensor: ONNX Runtime 1.17 does not see the length of an attribute of integers.
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))

    def integers(name: str, *values: int) -> onnx.NodeProto:
        return constant(name, np.array(values, dtype=np.int64))

    def referring(name: str, attribute: str) -> onnx.NodeProto:
        node = helper.make_node("Constant", [], [name])
        node.attribute.append(
            onnx.AttributeProto(
                name="value_float", ref_attr_name=attribute, type=onnx.AttributeProto.FLOAT
            )
        )
        return node

    nodes = [
        referring("mean_", "mean"),
        referring("std_", "std"),
        constant("two", np.array(2.0, dtype=np.float32)),
        integers("channel", 1),
        integers("flat", 0, config.dim, -1),
        integers("pads", 0, config.num_prefix_tokens, 0, 0, 0, 0),
        helper.make_node("Mul", ["std_", "two"], ["spread"]),
        helper.make_node("Sub", ["fbank", "mean_"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["normalised"]),
        helper.make_node("Transpose", ["normalised"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["turned", "channel"], ["image"]),
        helper.make_node(
            "Conv", ["image", "weight"], ["projected"],
            strides=[config.stride_bins, config.stride_frames],
            kernel_shape=[config.patch_bins, config.patch_frames],
        ),
        helper.make_node("Reshape", ["projected", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["patches", "pads"], ["padded"]),
        helper.make_node("Add", ["padded", "addend"], ["tokens"]),
    ]  # fmt: skip
    return helper.make_function(
        DOMAIN,
        FUSED_PATCH_EMBED,
        ["fbank", "weight", "addend"],
        ["tokens"],
        nodes,
        [helper.make_opsetid("", OPSET)],
        ["mean", "std", "stride_bins", "stride_frames", "plugin_version", "plugin_namespace"],
    )


def _block(graph: _Graph, name: str, block: Block, count: int, x: str) -> str:
    """count: of the tokens, x (B, count, D)."""
    if block.norm1 is not None and block.attn is not None:
        normed = graph.layer_norm(f"{name}.norm1", block.norm1, x)
        mixed = _attention(graph, f"{name}.attn", block.attn, count, normed)
        x = graph.node("Add", f"{name}.add1", [x, mixed])
    if block.norm2 is not None and block.mlp is not None:
        normed = graph.layer_norm(f"{name}.norm2", block.norm2, x)
        hidden = graph.linear(f"{name}.mlp.fc1", block.mlp.fc1, normed)
        active = _gelu(graph, f"{name}.mlp.gelu", hidden)
        projected = graph.linear(f"{name}.mlp.fc2", block.mlp.fc2, active)
        x = graph.node("Add", f"{name}.add2", [x, projected])
    return x


def _attention(graph: _Graph, name: str, attention: Attention, tokens: int, x: str) -> str:
    heads, width = attention.num_heads, attention.head_dim
    joint = graph.linear(f"{name}.qkv", attention.qkv, x)
    query, key, value = (f"{name}.{part}" for part in ("query", "key", "value"))
    graph.nodes.append(
        helper.make_node(
            "Split", [joint], [query, key, value], name=f"{name}.split", axis=-1, num_outputs=3
        )
    )
    as_many = 0 if attention.back is None else -1  # queries are fewer than keys there
    (shape,) = graph.integers(f"{name}.heads", [0, as_many, heads, width])

    def apart(part: str, perm: list[int]) -> str:
        rows = graph.node("Reshape", f"{part}.reshape", [part, shape])
        return graph.node("Transpose", f"{part}.transpose", [rows], perm=perm)

    def since(part: str) -> str:
        """With the keys or values of zeros that stand for what was before the window."""
        if attention.back is None:
            return part
        pads = graph.integers(f"{part}.before", [0, attention.back.shape[1] - 1, 0, 0, 0, 0])
        return graph.node("Pad", f"{part}.padded", [part, *pads])

    scale = graph.weight(f"{name}.scale", np.array(width**-0.5, dtype=np.float32))
    scaled = graph.node("Mul", f"{name}.scaled", [apart(query, [0, 2, 1, 3]), scale])
    similarity = graph.node(
        "MatMul", f"{name}.similarity", [scaled, apart(since(key), [0, 2, 3, 1])]
    )
    if attention.back is not None:
        mask = relative_bias(attention.back.detach(), tokens).clamp_min(_UNSEEN)
        weight = graph.weight(f"{name}.back", _numpy(mask[None]))
        similarity = graph.node("Add", f"{name}.masked", [similarity, weight])
    shares = graph.node("Softmax", f"{name}.softmax", [similarity], axis=-1)
    mixed = graph.node("MatMul", f"{name}.mixed", [shares, apart(since(value), [0, 2, 1, 3])])
    rows = graph.node("Transpose", f"{name}.rows", [mixed], perm=[0, 2, 1, 3])
    (flat,) = graph.integers(f"{name}.flat", [0, 0, heads * width])
    joined = graph.node("Reshape", f"{name}.joined", [rows, flat])
    return graph.linear(f"{name}.proj", attention.proj, joined)


def _gelu(graph: _Graph, name: str, x: str) -> str:
    """The exact one, in the operators that ONNX Runtime and TensorRT know how to fuse."""
    root, one, half = (
        graph.weight(f"{name}.{label}", np.array(value, dtype=np.float32))
        for label, value in (("root", 2.0**0.5), ("one", 1.0), ("half", 0.5))
    )
    error = graph.node("Erf", f"{name}.erf", [graph.node("Div", f"{name}.div", [x, root])])
    gate = graph.node("Add", f"{name}.add", [error, one])
    product = graph.node("Mul", f"{name}.mul", [x, gate])
    return graph.node("Mul", name, [product, half])


def _segment_means(config: EncoderConfig, segments: int) -> NDArray[np.float32]:
    """(segments, prefix + N): the share of each token in the mean of each stretch of time."""
    bins, columns = config.grid
    ends = np.linspace(0, columns, segments + 1)
    places = np.arange(columns)
    shares = np.minimum(places + 1, ends[1:, None]) - np.maximum(places, ends[:-1, None])
    shares = np.clip(shares, 0, None)
    shares /= bins * shares.sum(axis=1, keepdims=True)
    prefix = np.zeros((segments, config.num_prefix_tokens))
    # Tokens are frequency-major.
    return np.concatenate([prefix, np.tile(shares, bins)], axis=1).astype(np.float32)


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).numpy()
    return array
