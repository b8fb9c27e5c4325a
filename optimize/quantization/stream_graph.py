"""An exported streaming AST as ONNX Runtime's CPU provider runs it: one hop, not one window.

Takes the rows that the hop's own tokens are cut from, and the keys and values of the tokens before
them; gives the logits after the hop and the keys and values of its tokens, which the runtime keeps
(ssast_edge/backends/hops.py). Linear layers as in cpu_graph.py. n tokens of a hop, C tokens before
them that each sees (the context), D channels, L blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from optimize.quantization.cpu_graph import CpuForm, Writer, port
from optimize.quantization.exported import Ast, AstBlock
from ssast_edge.backends.hops import HOP_FRAMES, PAST, PRESENT

__all__ = ["stream_graph"]

_UNSEEN = -1e4  # to a similarity: no share is left


def stream_graph(
    ast: Ast,
    form: CpuForm,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    *,
    excluded: Collection[str] = (),
    weight_bits: int = 8,
) -> onnx.ModelProto:
    """Inputs "fbank" (1, rows, F) and "past" (C, L * 2 * D); outputs "logits" and "present".

    "present" is (n, L * 2 * D): block for block a token's key and value. "embedding" (1, 1, width),
    where the AST has one, holds the means of the hop's tokens. Other arguments as of `cpu_graph`.
    """
    stride = ast.strides[1]
    tokens = ast.hop_frames // stride
    embedding = ast.embedding
    if embedding is not None:
        means = np.full((1, tokens), 1 / tokens, dtype=np.float32)
        embedding = replace(embedding, means=means)
    hop = replace(
        ast,
        num_frames=ast.patch.shape[2] + (tokens - 1) * stride,
        addend=ast.addend[:tokens],
        pooled=(tokens - 1, tokens),
        embedding=embedding,
    )
    return _HopWriter(hop, form, ranges or {}, excluded, weight_bits).write()


class _HopWriter(Writer):
    """The window's writer, but for what lies before the hop."""

    def write(self) -> onnx.ModelProto:
        blocks = [block for block in self.ast.blocks if block.qkv is not None]
        widths = [self._width(block) for block in blocks for _ in ("key", "value")]
        context = self.ast.context
        self._before = [
            f"{block.name}.attn.{part}.before" for block in blocks for part in ("keys", "values")
        ]
        sizes = self._integers("past.sizes", widths)
        self.nodes.append(
            helper.make_node("Split", [PAST, sizes], self._before, name="past.split", axis=1)
        )
        self._present: list[str] = []
        model = super().write()
        graph = model.graph
        graph.node.append(
            helper.make_node("Concat", self._present, [PRESENT], name=PRESENT, axis=1)
        )
        graph.input.append(port(PAST, [context, sum(widths)]))
        graph.output.append(port(PRESENT, [self.tokens, sum(widths)]))
        helper.set_model_props(model, {HOP_FRAMES: str(self.ast.hop_frames)})
        return model

    def _width(self, block: AstBlock) -> int:
        assert block.qkv is not None
        return len(block.qkv.bias) // 3

    def _attention(self, block: AstBlock, x: str) -> str:
        assert block.qkv is not None
        assert block.back is not None
        name, width, heads = f"{block.name}.attn", self._width(block), block.heads
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        joint = self._linear(block.qkv, x)
        self.nodes.append(
            helper.make_node("Split", [joint], parts, name=f"{name}.split", axis=1, num_outputs=3)
        )
        self._present += parts[1:]
        number = 2 * (len(self._present) // 2 - 1)
        apart = self._integers(f"attention.heads.{heads}", [-1, heads, width // heads])

        def by_head(part: str) -> str:
            rows = self._node("Reshape", f"{part}.apart", [part, apart])
            return self._node("Transpose", f"{part}.turned", [rows], perm=[1, 0, 2])

        keys, values = (
            by_head(self._node("Concat", f"{part}.all", [before, part], axis=0))
            for before, part in zip(self._before[number : number + 2], parts[1:], strict=True)
        )
        similarity = self._node(
            "FusedMatMul", f"{name}.similarity", [by_head(parts[0]), keys],
            domain="com.microsoft", transB=1, alpha=float((width // heads) ** -0.5),
        )  # fmt: skip
        seen = self._constant(f"{name}.back", _mask(block.back, self.tokens))
        masked = self._node("Add", f"{name}.masked", [similarity, seen])
        shares = self._node("Softmax", f"{name}.softmax", [masked], axis=-1)
        mixed = self._node("MatMul", f"{name}.mixed", [shares, values])
        rows = self._node("Transpose", f"{name}.rows", [mixed], perm=[1, 0, 2])
        flat = self._integers(f"attention.flat.{width}", [self.tokens, width])
        return self._node("Reshape", f"{name}.joined", [rows, flat])


def _mask(back: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """(heads, C + 1) by distance -> (heads, n, C + n): what is added to each similarity."""
    context = back.shape[1] - 1
    distance = np.arange(tokens)[:, None] + context - np.arange(context + tokens)[None]
    sees = (distance >= 0) & (distance <= context)
    spread = back[:, distance.clip(0, context)]
    return np.where(sees, spread, np.float32(_UNSEEN)).astype(np.float32)
