"""Checkpoint to bundle: one ONNX graph from raw log-mel to logits, checked against PyTorch.

python -m train export runs/wake-words/last --bundle runs/wake-words/bundle
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from ssast_edge.bundle import write_bundle
from ssast_edge.trigger import TriggerConfig
from train.checkpoint import Checkpoint, build_model, load_checkpoint, load_weights
from train.model import Classifier
from train.packs import DATA_LICENCES

__all__ = ["export_bundle", "export_onnx", "origin"]

TOLERANCE = 1e-4  # float32 sums in another order
OPSET = 18


def export_onnx(model: Classifier, path: Path) -> None:
    """Write the model as ONNX: input "fbank" (1, frames, bins), output "logits" (1, labels)."""
    config = model.encoder.config
    example = torch.zeros(1, config.num_frames, config.num_mel_bins)
    program = torch.onnx.export(
        model.eval(),
        (example,),
        input_names=["fbank"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    graph = program.model_proto
    # The exporter leaves stack traces, with the paths of this machine, on every node and value.
    for item in (*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    onnx.save(graph, path)


def export_bundle(
    folder: Path,
    target: Path,
    *,
    triggers: Mapping[str, TriggerConfig] | None = None,
    version: str = "0.1.0",
    provenance: Mapping[str, Any] | None = None,
    model_card: str | None = None,
) -> None:
    """Write the averaged weights of checkpoint `folder` as a bundle, logits equal within 1e-4."""
    checkpoint = load_checkpoint(folder)
    recipe = checkpoint.recipe
    model = build_model(recipe, checkpoint.mean, checkpoint.std)
    load_weights(model, checkpoint.average, folder)
    _keep_outputs(model, len(recipe.labels))
    model.eval()
    fbank = _golden_input(checkpoint)
    with torch.no_grad():
        logits = model(torch.from_numpy(fbank)[None])[0].numpy()
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path = Path(temporary) / "model.onnx"
        export_onnx(model, onnx_path)
        session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
        exported = session.run(None, {"fbank": fbank[None]})[0][0]
        difference = float(np.abs(exported - logits).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"ONNX logits differ from PyTorch's by {difference:.2g}, wanted {TOLERANCE}"
            )
        default = {label: TriggerConfig() for label in recipe.labels}
        write_bundle(
            target,
            {
                "name": recipe.name,
                "version": version,
                "task": "keyword-spotting",
                "labels": list(recipe.labels),
                "fbank": dataclasses.asdict(recipe.fbank),
                "normalization": {"mean": checkpoint.mean, "std": checkpoint.std},
                "window_frames": recipe.windows.num_frames,
                "hop_ms": recipe.hop_ms,
                "activation": "sigmoid",
                "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
                "triggers": {
                    k: dataclasses.asdict(v) for k, v in dict(triggers or default).items()
                },
                "provenance": {
                    "recipe": dataclasses.asdict(recipe),
                    "step": checkpoint.step,
                    **dict(provenance or {}),
                },
                "data": data_licences(checkpoint),
                "licence": "Apache-2.0",
            },
            {"model.onnx": onnx_path},
            golden_fbank=fbank,
            golden_logits=logits,
            model_card=model_card,
        )


def origin() -> dict[str, str]:
    """Date, and the commit of the checkout with "+" where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        described = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return {"date": date.today().isoformat()}  # an unpacked archive has no commit
    return {"date": date.today().isoformat(), "commit": described.stdout.strip()}


def _keep_outputs(model: Classifier, count: int) -> None:
    """Drop the auxiliary labels, which come last, from the head."""
    linear = model.head[1]
    assert isinstance(linear, nn.Linear)
    kept = nn.Linear(linear.in_features, count)
    with torch.no_grad():
        kept.weight.copy_(linear.weight[:count])
        kept.bias.copy_(linear.bias[:count])
    model.head[1] = kept


def data_licences(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """Attribution of every pack the recipe trains on."""
    data = checkpoint.recipe.data
    owners = {"background_noise": "speech_commands"}  # its noises come with Speech Commands
    packs = [owners.get(pack, pack) for pack in data.packs]
    packs += ["synthetic"] if data.synthetic else []
    return [DATA_LICENCES[pack] for pack in dict.fromkeys(packs)]


def _golden_input(checkpoint: Checkpoint) -> NDArray[np.float32]:
    """A seeded window with the training data's statistics and some shape in time and frequency."""
    recipe = checkpoint.recipe
    rng = np.random.default_rng(recipe.seed)
    shape = recipe.windows.num_frames, recipe.fbank.num_mel_bins
    rough = rng.standard_normal((shape[0] // 8 + 2, shape[1] // 8 + 2))
    smooth = np.kron(rough, np.ones((8, 8)))[: shape[0], : shape[1]]
    noise = 0.3 * rng.standard_normal(shape)
    return (checkpoint.mean + checkpoint.std * (smooth + noise)).astype(np.float32)
