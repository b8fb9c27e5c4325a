"""Which INT8 form a CPU runs fastest: all of them in one interleaved run, on this machine.

What wins depends on the processor: without VNNI signed activations have no kernel at all.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from optimize.comparison.latency import Latency, interleaved
from optimize.quantization.calibration import INPUT, open_session
from optimize.quantization.judge import Difference
from ssast_edge.backends.hops import HopByHop, is_streaming

__all__ = ["CpuFacts", "FormResult", "choose_cpu_form", "cpu_facts", "race"]

NOISE = 0.03  # of the CPU time: forms nearer than this count as equally fast
_INT8 = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True)
class CpuFacts:
    """What the timings were made on."""

    name: str
    int8_instructions: tuple[str, ...]  # those of _INT8 that it has
    onnxruntime: str


@dataclass(frozen=True)
class FormResult:
    """One form of the graph with every layer in INT8."""

    name: str
    difference: Difference
    latency: Latency  # ratio: to the float graph, below 1 is faster
    nodes: int
    size_bytes: int


def cpu_facts() -> CpuFacts:
    """Name and INT8 instructions of this processor, and the version of ONNX Runtime."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = value
    held = set(flags.split())
    return CpuFacts(name, tuple(i for i in _INT8 if i in held), onnxruntime.__version__)


def race(
    float_graph: onnx.ModelProto,
    forms: Mapping[str, onnx.ModelProto],
    window: NDArray[np.float32],
    *,
    rounds: int = 16,
) -> dict[str, Latency]:
    """Latencies on one (T, F) window, the float graph ("float32") first and the measure.

    A graph of a hop runs the window's last.
    """
    graphs = {"float32": float_graph, **forms}
    calls = {name: _call(graph, window) for name, graph in graphs.items()}
    return interleaved(calls, rounds=rounds)


def _call(graph: onnx.ModelProto, window: NDArray[np.float32]) -> Callable[[], object]:
    session = open_session(graph)
    if is_streaming(session):
        hops = HopByHop(session, len(window))
        return lambda: hops.infer(window, new_frames=hops.hop_frames, embeds=True)
    inputs = {INPUT: np.ascontiguousarray(window[None])}
    return lambda: session.run(None, inputs)


def choose_cpu_form(forms: list[FormResult], budget: float | None) -> tuple[str, str]:
    """The form to ship and why: the fastest of those within the budget of mean logit change.

    Of forms that are equally fast the most exact. When none is within the budget, the fastest,
    whose worst layers then stay float.
    """
    within = [f for f in forms if budget is None or f.difference.mean <= budget]
    fastest = min(f.latency.ratio for f in within or forms)
    near = [f for f in within or forms if f.latency.ratio <= fastest * (1 + NOISE)]
    best = min(near, key=lambda f: f.difference.mean)
    reason = f"{best.latency.ratio:.2f} of the CPU time of float32"
    others = [f for f in near if f is not best]
    if others:
        reason += f", as fast as {', '.join(f.name for f in others)} and nearer to float32"
    if not within:
        reason += "; no form keeps the budget with every layer in INT8"
    return best.name, reason
