"""An exported AST as ONNX Runtime's CPU provider runs it fastest, in float or in INT8.

One window, tokens as (N, D) rows, normalisation folded into the patch embedding, patches by one
matrix product, every operator one that ONNX Runtime since 1.17 has a kernel for. INT8: unsigned
activations with a zero point, signed weights with a scale for each output channel, bias in float;
attention's own products stay float (a 25th of the work, and quantising costs more than it saves).
Knows nothing of files or audio. N tokens, D channels, T frames, F bins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimize.quantization.exported import Ast, AstBlock, End, FloatArray, Linear, Norm
from optimize.quantization.qdq import quantize_weight

__all__ = ["FORMS", "PATCH_EMBED", "CpuForm", "Writer", "cpu_graph", "layer_names", "port"]

PATCH_EMBED = "patch_embed"
_MICROSOFT = "com.microsoft"
_OPSET, _IR_VERSION = 18, 9
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class CpuForm:
    """How the linear layers are computed."""

    name: str
    linear: Literal["float", "static", "dynamic"]
    fused_attention: bool  # query, key, value and attention in one node


FORMS = {
    form.name: form
    for form in (
        CpuForm("float", "float", fused_attention=False),
        CpuForm("static", "static", fused_attention=False),
        CpuForm("static-attention", "static", fused_attention=True),
        CpuForm("dynamic", "dynamic", fused_attention=False),
    )
}


def layer_names(ast: Ast) -> list[str]:
    """What can be quantised, in order: the patch embedding and every linear layer but heads."""
    return [PATCH_EMBED, *(layer.name for layer in ast.linears if layer.name not in _heads(ast))]


def cpu_graph(
    ast: Ast,
    form: CpuForm,
    ranges: Ranges | None = None,
    *,
    excluded: Collection[str] = (),
    weight_bits: int = 8,
) -> onnx.ModelProto:
    """Input "fbank" (1, T, F) raw log-mel, output "logits" (1, labels), the AST's embedding too.

    ranges: lowest and highest value kept of each layer's input, by layer; the log-mel's own is
    PATCH_EMBED's. excluded: layers that stay float; the head always does. weight_bits: with 7,
    sums of two products fit 16 bits, which is exact on CPUs without VNNI too.
    """
    return Writer(ast, form, ranges or {}, excluded, weight_bits).write()


class Writer:
    """Node by node; the form of a hop (stream_graph.py) changes what is before it."""

    def __init__(
        self, ast: Ast, form: CpuForm, ranges: Ranges, excluded: Collection[str], weight_bits: int
    ) -> None:
        self.ast, self.form, self.ranges = ast, form, ranges
        self.weight_bits = weight_bits
        self.floats = {*excluded, *_heads(ast)}
        if form.linear == "float":
            self.floats |= set(layer_names(ast))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self.quantised: dict[tuple[str, str], str] = {}
        self.tokens = len(ast.addend)

    def write(self) -> onnx.ModelProto:
        """The whole graph; once."""
        ast = self.ast
        after = {"": self._patch_embed()}  # tokens, by the block that they come out of
        outputs = [port("logits", [1, sum(len(end.head.bias) for end in ast.ends)])]
        embedded: list[str] = []
        for block in ast.blocks:
            after[block.name] = x = self._block(block, after[block.source])
            if ast.embedding is not None and block.name in ast.embedding.blocks:
                means = self._constant("embedding.means", self._time_first(ast.embedding.means))
                number = f"embedding.{len(embedded)}"
                embedded.append(self._node("MatMul", number, [means, x]))
        if ast.embedding is not None:
            self._node("Concat", "embedding", embedded, output="embedding", axis=-1)
            width = len(embedded) * len(ast.ends[0].norm.weight)
            outputs.append(port("embedding", [1, len(ast.embedding.means), width]))
        if len(ast.ends) == 1:
            self._end(ast.ends[0], after[ast.ends[0].source], "logits")
        else:
            told = [
                self._end(end, after[end.source], f"{end.head.name}.logits") for end in ast.ends
            ]
            self._node("Concat", "heads", told, output="logits", axis=-1)
        inputs = [1, ast.num_frames, ast.num_mel_bins]
        graph = helper.make_graph(
            self.nodes,
            f"ssast-{self.form.name}",
            [port("fbank", inputs)],
            outputs,
            initializer=list(self.weights.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(
            graph, producer_name="ssast-edge", ir_version=_IR_VERSION, opset_imports=opsets
        )

    def _end(self, end: End, x: str, output: str) -> str:
        x = self._norm(f"{end.name}norm", end.norm, x)
        places = [self._integers(f"pool.{i}", [place]) for i, place in enumerate(self.ast.pooled)]
        x = self._node("Slice", f"{end.name}pool.slice", [x, *places])
        axis = self._integers("pool.axis", [0])
        x = self._node("ReduceMean", f"{end.name}pool", [x, axis], keepdims=1)
        x = self._norm(f"{end.name}head.norm", end.head_norm, x)
        return self._linear(end.head, x, output=output)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _integers(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, dtype=np.int64))

    def _node(
        self, op: str, name: str, inputs: Sequence[str], *, output: str = "", domain: str = "",
        **attributes: Any,
    ) -> str:  # fmt: skip
        output = output or f"{name}:out"
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes)
        )
        return output

    def _norm(self, name: str, norm: Norm, x: str) -> str:
        scale = self._constant(f"{name}.weight", norm.weight)
        bias = self._constant(f"{name}.bias", norm.bias)
        return self._node("LayerNormalization", name, [x, scale, bias], epsilon=norm.epsilon)

    def _quantised(self, x: str, layer: str) -> tuple[str, list[str]]:
        """The tensor in unsigned INT8 by the layer's range, and its scale and zero point."""
        low, high = self.ranges[layer]
        low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
        scale = max((high - low) / 255, 1e-9)
        ports = [
            self._constant(f"{layer}.input.scale", np.array(scale, dtype=np.float32)),
            self._constant(f"{layer}.input.zero", np.array(round(-low / scale), dtype=np.uint8)),
        ]
        return self._node("QuantizeLinear", f"{layer}.quantize", [x, *ports]), ports

    def _linear(self, layer: Linear, x: str, *, output: str = "") -> str:
        name, bias = layer.name, self._constant(f"{layer.name}.bias", layer.bias)
        if name in self.floats:
            weight = self._constant(f"{name}.weight", layer.weight)
            return self._node("Gemm", name, [x, weight, bias], output=output)
        weight, scale, zero = self._weight(name, layer.weight)
        if self.form.linear == "dynamic":
            return self._node(
                "DynamicQuantizeMatMul", name, [x, weight, scale, zero, bias], domain=_MICROSOFT
            )
        quantised, (x_scale, x_zero) = self._quantised(x, name)
        inputs = [quantised, weight, x_scale, scale, x_zero, zero, bias]
        return self._node("MatMulIntegerToFloat", name, inputs, domain=_MICROSOFT)

    def _weight(self, name: str, weight: FloatArray) -> tuple[str, str, str]:
        values, scales = quantize_weight(weight, 1, self.weight_bits)
        arrays: tuple[NDArray[Any], ...] = values, scales, np.zeros(len(scales), np.int8)
        integers, scale, zero = (
            self._constant(f"{name}.{part}", array)
            for part, array in zip(("int8", "scale", "zero"), arrays, strict=True)
        )
        return integers, scale, zero

    def _patch_embed(self) -> str:
        """Raw log-mel to (N, D) tokens, patches in order of time first."""
        ast = self.ast
        weight = ast.patch.astype(np.float64) / (2 * ast.std)
        prefix = ast.num_prefix_tokens
        addend = ast.addend[prefix:][self._order]
        turned = weight.transpose(2, 1, 0).astype(np.float32)  # (patch frames, patch bins, D)
        patches = self._patches(turned, addend)
        if not prefix:
            return patches
        before = self._constant(f"{PATCH_EMBED}.prefix", ast.addend[:prefix])
        return self._node("Concat", PATCH_EMBED, [before, patches], axis=0)

    @property
    def _order(self) -> NDArray[np.intp]:
        """Where each of this graph's patches stands in a frequency-major order."""
        rows, columns = self.ast.grid
        return np.asarray(np.arange(rows * columns).reshape(rows, columns).T.ravel())

    def _time_first(self, means: FloatArray) -> FloatArray:
        """(1, segments, prefix + patches): shares of tokens in the order of this graph."""
        prefix = self.ast.num_prefix_tokens
        patches = means[:, prefix:][:, self._order]
        return np.concatenate([means[:, :prefix], patches], axis=1)[None]

    def _patches(self, weight: FloatArray, addend: FloatArray) -> str:
        """(patches, D), by a product where patches can be cut without a copy of each value."""
        name, ast = PATCH_EMBED, self.ast
        (rows, columns), (stride_bins, stride_frames) = ast.grid, ast.strides
        frames, bins, dim = weight.shape
        is_whole_column = rows == 1 and bins == ast.num_mel_bins and frames % stride_frames == 0
        is_apart = (bins, frames) == (stride_bins, stride_frames)
        if not (is_whole_column or is_apart):
            return self._convolution(weight, addend)
        x = "fbank"
        is_float = name in self.floats
        ports: list[str] = []
        if not is_float:
            x, ports = self._quantised(x, name)
        used = columns * frames if is_apart else (columns - 1) * stride_frames + frames
        if used < ast.num_frames or rows * bins < ast.num_mel_bins:
            ends = [self._integers(f"{name}.{n}", v) for n, v in
                    (("from", [0, 0]), ("to", [used, rows * bins]), ("axes", [1, 2]))]  # fmt: skip
            x = self._node("Slice", f"{name}.cut", [x, *ends])
        x = self._columns(x, used, frames, bins) if is_whole_column else self._squares(x)
        flat_weight = weight.reshape(frames * bins, dim)
        if is_float:
            added = self._addend(addend, flat_weight)
            return self._node(
                "Gemm", f"{name}.proj", [x, self._constant(f"{name}.weight", flat_weight), added]
            )
        values, scales = quantize_weight(flat_weight, 1, self.weight_bits)
        added = self._addend(addend, values * scales)  # the mean times what is multiplied with
        integers, scale, zero = self._weight(name, flat_weight)
        product = self._node(
            "MatMulIntegerToFloat",
            f"{name}.proj",
            [x, integers, ports[0], scale, ports[1], zero],
            domain=_MICROSOFT,
        )
        return self._node("Add", f"{name}.add", [product, added])

    def _columns(self, x: str, used: int, frames: int, bins: int) -> str:
        """(1, used, F) to (patches, frames * bins): rows of a stride each, side by side."""
        name, stride, count = PATCH_EMBED, self.ast.strides[1], self.ast.grid[1]
        shape = self._integers(f"{name}.shape", [used // stride, stride * bins])
        x = self._node("Reshape", f"{name}.rows", [x, shape])
        steps = frames // stride
        if steps == 1:
            return x
        shifted = []
        for i in range(steps):
            ends = [self._integers(f"{name}.{end}{i}", [value])
                    for end, value in (("from", i), ("to", i + count))]  # fmt: skip
            shifted.append(self._node("Slice", f"{name}.slice{i}", [x, *ends]))
        return self._node("Concat", f"{name}.columns", shifted, axis=1)

    def _squares(self, x: str) -> str:
        """(1, T, F) to (patches, frames * bins) of patches that lie apart."""
        name, (rows, columns), (bins, frames) = PATCH_EMBED, self.ast.grid, self.ast.strides
        shape = self._integers(f"{name}.shape", [columns, frames, rows, bins])
        blocks = self._node("Reshape", f"{name}.blocks", [x, shape])
        turned = self._node("Transpose", f"{name}.turned", [blocks], perm=[0, 2, 1, 3])
        flat = self._integers(f"{name}.flat", [columns * rows, frames * bins])
        return self._node("Reshape", f"{name}.columns", [turned, flat])

    def _convolution(self, weight: FloatArray, addend: FloatArray) -> str:
        """Patches that overlap in both directions: in float, a copy of each would cost more."""
        name, (stride_bins, stride_frames) = PATCH_EMBED, self.ast.strides
        frames, bins, dim = weight.shape
        image = self._node(
            "Unsqueeze", f"{name}.image", ["fbank", self._integers(f"{name}.channel", [1])]
        )
        kernel = self._constant(f"{name}.weight", weight.transpose(2, 0, 1)[:, None])
        x = self._node(
            "Conv",
            f"{name}.proj",
            [image, kernel],
            kernel_shape=[frames, bins],
            strides=[stride_frames, stride_bins],
        )
        flat = self._integers(f"{name}.flat", [dim, len(addend)])
        x = self._node("Reshape", f"{name}.columns", [x, flat])
        x = self._node("Transpose", f"{name}.patches", [x], perm=[1, 0])
        added = self._addend(addend, weight.reshape(frames * bins, dim))
        return self._node("Add", f"{name}.add", [x, added])

    def _addend(self, addend: FloatArray, weight: FloatArray) -> str:
        """(patches, D) what is added to patches @ weight (pixels, D): the mean taken off too."""
        shift = -self.ast.mean * weight.astype(np.float64).sum(axis=0)
        return self._constant(f"{PATCH_EMBED}.addend", (addend + shift).astype(np.float32))

    def _block(self, block: AstBlock, x: str) -> str:
        name = block.name
        if block.norm1 is not None and block.qkv is not None and block.proj is not None:
            normed = self._norm(f"{name}.norm1", block.norm1, x)
            mixed = self._attention(block, normed)
            x = self._node("Add", f"{name}.add1", [x, self._linear(block.proj, mixed)])
        if block.norm2 is not None and block.fc1 is not None and block.fc2 is not None:
            normed = self._norm(f"{name}.norm2", block.norm2, x)
            hidden = self._linear(block.fc1, normed)
            active = self._node("Gelu", f"{name}.mlp.gelu", [hidden], domain=_MICROSOFT)
            x = self._node("Add", f"{name}.add2", [x, self._linear(block.fc2, active)])
        return x

    def _attention(self, block: AstBlock, x: str) -> str:
        name, qkv, heads = f"{block.name}.attn", block.qkv, block.heads
        assert qkv is not None
        width = len(qkv.bias) // 3
        flat = self._integers(f"attention.flat.{width}", [self.tokens, width])
        if self.form.fused_attention and qkv.name not in self.floats:
            return self._node("Reshape", f"{name}.joined", [self._fused(name, qkv, heads, x), flat])
        joint = self._linear(qkv, x)
        shape = self._integers(f"attention.heads.{heads}", [self.tokens, 3 * heads, -1])
        apart = self._node("Reshape", f"{name}.apart", [joint, shape])
        turned = self._node("Transpose", f"{name}.turned", [apart], perm=[1, 0, 2])
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        self.nodes.append(
            helper.make_node("Split", [turned], parts, name=f"{name}.split", axis=0, num_outputs=3)
        )
        similarity = self._node(
            "FusedMatMul", f"{name}.similarity", parts[:2], domain=_MICROSOFT,
            transB=1, alpha=float((width // heads) ** -0.5),
        )  # fmt: skip
        shares = self._node("Softmax", f"{name}.softmax", [similarity], axis=-1)
        mixed = self._node("MatMul", f"{name}.mixed", [shares, parts[2]])
        rows = self._node("Transpose", f"{name}.rows", [mixed], perm=[1, 0, 2])
        return self._node("Reshape", f"{name}.joined", [rows, flat])

    def _fused(self, name: str, qkv: Linear, heads: int, x: str) -> str:
        shape = self._integers("attention.window", [1, *(self.tokens, len(qkv.weight))])
        window = self._node("Reshape", f"{name}.window", [x, shape])
        quantised, (x_scale, x_zero) = self._quantised(window, qkv.name)
        weight, scale, zero = self._weight(qkv.name, qkv.weight)
        bias = self._constant(f"{qkv.name}.bias", qkv.bias)
        inputs = [quantised, weight, bias, x_scale, scale, "", x_zero, zero]
        return self._node("QAttention", name, inputs, domain=_MICROSOFT, num_heads=heads)


def _heads(ast: Ast) -> list[str]:
    return [end.head.name for end in ast.ends]


def port(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    """An input or output of floats."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
