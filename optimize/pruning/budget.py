"""What a pruned model may cost: a share of the MACs, or of the time in ONNX Runtime.

Latency depends on the shape alone, so shapes are measured with weights drawn at random, each
beside the dense model in one run: only the ratio is used, which other work on the machine hardly
moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from optimize.comparison.latency import Latency, interleaved
from optimize.pruning.macs import model_cost
from optimize.pruning.selection import PruneError
from optimize.pruning.surgery import Kept, shrunk_encoder
from train.encoder import Encoder, EncoderConfig
from train.model import Classifier
from train.onnx_graph import build_graph

__all__ = ["Budget", "labels_of", "measure_shapes"]

_BISECTIONS = 6
_ROUNDS = 12  # of a measurement


class Budget:
    """Shares of the dense model fall evenly, on a logarithmic scale, to the budget's."""

    def __init__(
        self,
        dense: EncoderConfig,
        labels: int,
        *,
        macs: float = 0.0,
        latency: float = 0.0,
        latency_ms: float = 0.0,
        dense_ms: float = 0.0,
    ) -> None:
        """One of the three budgets, or none; dense_ms: known from before, or measured here."""
        self.dense, self.labels = dense, labels
        self.macs_share = macs or 1.0
        self.dense_macs = model_cost(dense, labels).macs
        self.dense_ms = dense_ms or measure_shapes([dense], labels)[0].cpu_ms
        self.latency_share = latency or min(1.0, latency_ms / self.dense_ms)  # 0: no budget

    def describe(self, shape: EncoderConfig) -> dict[str, Any]:
        """Shape, MACs, parameters and latency, with the shares of the dense model's."""
        cost = model_cost(shape, self.labels)
        share = 1.0 if shape == self.dense else self._latency(shape)
        return {
            "dim": shape.dim,
            "depth": shape.depth,
            "head_dim": shape.head_width,
            "block_heads": list(shape.heads),
            "block_hidden": list(shape.hidden),
            "macs": cost.macs,
            "macs_share": cost.macs / self.dense_macs,
            "parameters": cost.parameters,
            "latency_ms": share * self.dense_ms,
            "latency_share": share,
        }

    def check_floor(self, least: EncoderConfig) -> None:
        """PruneError when the least that pruning leaves is too much."""
        if self.latency_share:
            share = self._latency(least)
            if share > self.latency_share:
                raise PruneError(
                    f"a latency of {self.latency_share * self.dense_ms:.3g} ms cannot be met: the "
                    f"dense model takes {self.dense_ms:.3g} ms, the least that pruning leaves "
                    f"{share * self.dense_ms:.3g} ms"
                )
            return
        share = model_cost(least, self.labels).macs / self.dense_macs
        if share > self.macs_share:
            raise PruneError(
                f"a share of {self.macs_share:g} of the MACs cannot be met: the least that pruning "
                f"leaves is {share:.3g}"
            )

    def choose(
        self, shape: EncoderConfig, progress: float, pick: Callable[[float], Kept], so_far: str
    ) -> Kept:
        """What is kept of a model of `shape`, `progress` of the way to the budget.

        pick: what is kept for a number of MACs. so_far: for the PruneError when nothing is small
        enough.
        """
        if not self.latency_share:
            return pick(self.dense_macs * self.macs_share**progress)
        wanted = self.latency_share**progress
        low, high = 0.0, float(model_cost(shape, self.labels).macs)
        best: Kept | None = None
        macs, least = high, 1.0
        for _ in range(_BISECTIONS):
            try:
                kept = pick(macs)
            except PruneError:
                low = macs
            else:
                share = self._latency(shrunk_encoder(shape, kept))
                least = min(least, share)
                if share <= wanted:
                    low, best = macs, kept
                else:
                    high = macs
            macs = (low + high) / 2
        if best is None:
            raise PruneError(
                f"a latency of {wanted * self.dense_ms:.3g} ms cannot be met: got down to "
                f"{least * self.dense_ms:.3g} ms; {so_far}"
            )
        return best

    def _latency(self, shape: EncoderConfig) -> float:
        return measure_shapes([self.dense, shape], self.labels)[1].ratio


def measure_shapes(shapes: Sequence[EncoderConfig], labels: int) -> list[Latency]:
    """Latency of one window for each shape, ONNX Runtime, one thread; ratios are to the first."""
    calls = {f"{number}": _runner(shape, labels) for number, shape in enumerate(shapes)}
    return list(interleaved(calls, rounds=_ROUNDS).values())


def labels_of(model: Classifier) -> int:
    """Number of its outputs."""
    linear = model.head[1]
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def _runner(shape: EncoderConfig, labels: int) -> Callable[[], object]:
    with torch.random.fork_rng(devices=[]):
        model = Classifier(Encoder(shape), labels, mean=0.0, std=0.5).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        build_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    window = {"fbank": np.zeros((1, shape.num_frames, shape.num_mel_bins), np.float32)}
    return lambda: session.run(None, window)
