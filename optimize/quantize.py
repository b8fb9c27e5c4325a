"""INT8 for TensorRT: calibrate on real audio, choose the observer, keep out what costs too much.

    python -m optimize quantize my-bundle --audio MANIFEST --out runs/int8

Writes model.int8.onnx (explicit Q/DQ on linear layers), calibration.json, and quantization.json and
.md, which say what each layer's quantisation costs. Judged on windows that did not calibrate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.calibration import CalibrationError, calibrate, linear_layers, run_graph
from optimize.observers import METHODS
from optimize.qdq import quantize_graph
from ssast_edge.bundle import Bundle
from ssast_edge.fbank import fbank
from train.data.manifest import read_manifest
from train.data.source import DecodeError, decode

__all__ = ["Difference", "calibration_windows", "quantize"]

Windows = NDArray[np.float32]
_JUDGED = 4  # one window in so many judges, the others calibrate


@dataclass(frozen=True)
class Difference:
    """Logits of a changed model beside those of the float one, over some windows."""

    mean: float  # absolute
    largest: float
    cosine: float
    agreement: float  # share of windows with the same highest logit

    @staticmethod
    def of(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Difference:
        """(windows, labels) each."""
        gap = np.abs(found - wanted)
        norm = float(np.linalg.norm(wanted) * np.linalg.norm(found))
        return Difference(
            float(gap.mean()),
            float(gap.max()),
            float((wanted * found).sum()) / max(norm, 1e-12),
            float((wanted.argmax(1) == found.argmax(1)).mean()),
        )


def quantize(
    bundle: Bundle,
    manifest: Path,
    out: Path,
    *,
    count: int = 128,
    method: str = "auto",
    budget: float = 0.1,
    seed: int = 0,
) -> Path:
    """Write the INT8 graph of the bundle's ONNX model below `out`; returns its path.

    budget: mean absolute change of a logit that is allowed; the layers that cost most stay float
    until it is met. Raises CalibrationError when it cannot be, or no audio can be had.
    """
    source = bundle.path / next(m.file for m in bundle.models if m.backend == "onnx")
    windows = calibration_windows(bundle, manifest, count, seed)
    judged = np.arange(len(windows)) % _JUDGED == _JUDGED - 1
    out.mkdir(parents=True, exist_ok=True)
    seen = calibrate(source, windows[~judged], out / "calibration.json")
    graph = onnx.load(source)
    wanted = _logits(graph, windows[judged])

    def cost(thresholds: dict[str, float], excluded: Sequence[str]) -> Difference:
        changed = quantize_graph(graph, thresholds, excluded)
        return Difference.of(wanted, _logits(changed, windows[judged]))

    names = [method] if method != "auto" else list(METHODS)
    by_method = {name: cost(seen.thresholds(name), ()) for name in tqdm(names, desc="observers")}
    chosen = min(by_method, key=lambda name: by_method[name].mean)
    thresholds = seen.thresholds(chosen)
    layers = [layer.name for layer in linear_layers(graph)]
    sensitivity = {
        layer: cost(thresholds, [other for other in layers if other != layer])
        for layer in tqdm(layers, desc="sensitivity")
    }
    excluded, found = _exclude(
        lambda names: cost(thresholds, names), sensitivity, by_method[chosen], budget
    )
    target = out / "model.int8.onnx"
    partial = target.with_name(f".{target.name}.tmp")
    onnx.save(quantize_graph(graph, thresholds, excluded), partial)
    partial.replace(target)
    report = {
        "model": bundle.name,
        "windows": {"calibrated": int((~judged).sum()), "judged": int(judged.sum())},
        "seed": seed,
        "observer": chosen,
        "budget": budget,
        "difference": vars(found),
        "bytes": {"fp32": source.stat().st_size, "int8": target.stat().st_size},
        "excluded": excluded,
        "observers": {name: vars(d) for name, d in by_method.items()},
        "sensitivity": {name: vars(d) for name, d in sensitivity.items()},
    }
    (out / "quantization.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "quantization.md").write_text(_markdown(report))
    return target


def calibration_windows(bundle: Bundle, manifest: Path, count: int, seed: int) -> Windows:
    """(count, T, F) raw log-mel: a window of each of `count` recordings, drawn by the seed.

    A shorter recording stands at the end of its window, as the runtime sees a word after silence.
    """
    found = read_manifest(manifest)
    rng = np.random.default_rng(seed)
    windows = []
    for index in rng.permutation(len(found.examples)):
        example = found.examples[index]
        try:
            samples = decode(Path(found.root) / example.path, example.start_s, example.duration_s)
        except DecodeError as error:
            tqdm.write(f"left out: {error}")
            continue
        features = fbank(samples, bundle.fbank)
        window = np.zeros((bundle.window_frames, bundle.fbank.num_mel_bins), dtype=np.float32)
        start = int(rng.integers(max(1, len(features) - bundle.window_frames + 1)))
        cut = features[start : start + bundle.window_frames]
        window[len(window) - len(cut) :] = cut
        windows.append(window)
        if len(windows) == count:
            break
    if len(windows) < _JUDGED:
        raise CalibrationError(
            f"{manifest}: {len(windows)} recordings can be read, wanted at least {_JUDGED}"
        )
    return np.stack(windows)


def _exclude(
    cost: Callable[[Sequence[str]], Difference],
    sensitivity: dict[str, Difference],
    found: Difference,
    budget: float,
) -> tuple[list[str], Difference]:
    """Leave the most sensitive layers float, one more at a time, until the budget is met."""
    order = sorted(sensitivity, key=lambda name: -sensitivity[name].mean)
    excluded: list[str] = []
    while found.mean > budget:
        if len(excluded) + 1 >= len(order):
            raise CalibrationError(
                f"the budget of {budget:g} cannot be met: with all layers but {order[-1]} float, "
                f"logits still change by {found.mean:.3g} on average; give a larger --budget"
            )
        excluded = order[: len(excluded) + 1]
        found = cost(excluded)
    return excluded, found


def _logits(graph: onnx.ModelProto, windows: Windows) -> NDArray[np.float32]:
    return np.concatenate([values[0] for values in run_graph(graph, windows, ["logits"])])


def _markdown(report: dict[str, Any]) -> str:
    found, size = report["difference"], report["bytes"]
    lines = [
        f"# {report['model']} in INT8",
        "",
        f"Observer {report['observer']}, {report['windows']['calibrated']} windows calibrated and "
        f"{report['windows']['judged']} others judged (seed {report['seed']}): a logit changes by "
        f"{found['mean']:.4f} on average and {found['largest']:.3f} at most, cosine "
        f"{found['cosine']:.6f}, the same highest logit in {100 * found['agreement']:.1f} %. "
        f"{size['fp32'] / 1e6:.2f} MB become {size['int8'] / 1e6:.2f} MB. Left in float: "
        f"{', '.join(report['excluded']) or 'no layer'}.",
        "",
    ]
    for title, rows in (("observer", report["observers"]), ("layer alone", report["sensitivity"])):
        lines += [
            f"| {title} | mean change of a logit | largest | cosine |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {name} | {d['mean']:.5f} | {d['largest']:.4f} | {d['cosine']:.7f} |"
            for name, d in rows.items()
        ]
        lines.append("")
    return "\n".join(lines)
