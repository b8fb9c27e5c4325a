"""Checkpoint to bundle: one ONNX graph from raw log-mel to logits, checked against PyTorch.

python -m train export runs/wake-words/last --bundle runs/wake-words/bundle
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
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
from train.checkpoint import Checkpoint, load_classifier
from train.model import Classifier
from train.onnx_graph import SEGMENTS, build_graph, embedding_width
from train.packs import DATA_LICENCES
from train.recipe import FinetuneRecipe, SpotterRecipe, StreamRecipe, recipe_table

__all__ = ["WEIGHTS_FROM", "export_bundle", "origin"]

TOLERANCE = 1e-4  # float32 sums in another order
LOG_MEL_FLOOR = float(np.log(np.finfo(np.float32).eps))  # what the front end gives for silence
_TAGGING_HOP_MS = 200
# What else but training made the weights.
WEIGHTS_FROM = ("averaged", "interpolated", "balanced", "joined")


def export_bundle(
    folder: Path,
    target: Path,
    *,
    triggers: Mapping[str, TriggerConfig] | None = None,
    version: str = "0.1.0",
    provenance: Mapping[str, Any] | None = None,
    model_card: str | None = None,
    task: str = "",
    hop_ms: int = 0,
    name: str = "",
    labels: Sequence[str] = (),
) -> None:
    """Write the averaged weights of checkpoint `folder` as a bundle, logits equal within 1e-4.

    task and hop_ms are a keyword recipe's own; a clip classifier becomes an audio tagger at 5
    inferences a second unless something else is asked for. name and labels: of a bundle that tells
    some of a keyword recipe's labels; the recipe's own where not given.
    """
    model, checkpoint = load_classifier(folder)
    recipe = checkpoint.recipe
    kept, activation = checkpoint.classes, "sigmoid"
    if isinstance(recipe, SpotterRecipe):
        kept = tuple(labels) or recipe.labels
        unknown = [label for label in kept if label not in recipe.labels]
        if unknown:
            raise ValueError(
                f"no label {unknown[0]!r} in {recipe.name}, it has: {', '.join(recipe.labels)}"
            )
        _keep_outputs(model, [checkpoint.classes.index(label) for label in kept])
        task, hop_ms = task or "keyword-spotting", hop_ms or recipe.hop_ms
    elif labels:
        raise ValueError(f"labels to keep are for keyword recipes, {recipe.name} is of clips")
    elif isinstance(recipe, FinetuneRecipe) and recipe.loss == "ce":
        activation = "softmax"
    num_frames = model.encoder.config.num_frames
    if isinstance(recipe, StreamRecipe) and hop_ms % recipe.hop_ms:
        raise ValueError(
            f"hop_ms must be a multiple of {recipe.hop_ms}, the hop of {recipe.name}, got {hop_ms}"
        )
    segments, hop_frames = SEGMENTS, 0
    if isinstance(recipe, StreamRecipe):  # a stretch a hop: each is computed once
        hop_frames = round(recipe.hop_ms / recipe.fbank.hop_ms)
        overlap = recipe.model.patch_frames - recipe.model.stride_frames
        segments = (num_frames - overlap) // hop_frames
    fbank = _golden_input(checkpoint, num_frames)
    with torch.no_grad():
        logits = model(torch.from_numpy(fbank)[None])[0].numpy()
    with tempfile.TemporaryDirectory() as temporary:
        onnx_path = Path(temporary) / "model.onnx"
        onnx.save(build_graph(model, segments=segments, hop_frames=hop_frames), onnx_path)
        session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
        exported = session.run(None, {"fbank": fbank[None]})[0][0]
        difference = float(np.abs(exported - logits).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"ONNX logits differ from PyTorch's by {difference:.2g}, wanted {TOLERANCE}"
            )
        default = {label: TriggerConfig() for label in kept}
        write_bundle(
            target,
            {
                "name": name or recipe.name,
                "version": version,
                "task": task or "audio-tagging",
                "labels": list(kept),
                "fbank": dataclasses.asdict(recipe.fbank),
                "normalization": {"mean": checkpoint.mean, "std": checkpoint.std},
                "window_frames": num_frames,
                "hop_ms": hop_ms or _TAGGING_HOP_MS,
                "activation": activation,
                "embedding": {
                    "segments": segments,
                    "width": embedding_width(model.encoder.config),
                },
                "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
                "triggers": {
                    k: dataclasses.asdict(v) for k, v in dict(triggers or default).items()
                },
                "provenance": {
                    "recipe": checkpoint.progress.get("restored_recipe") or recipe_table(recipe),
                    "step": checkpoint.step,
                    **{k: v for k, v in checkpoint.progress.items() if k in WEIGHTS_FROM},
                    **dict(provenance or {}),
                },
                "data": data_licences(checkpoint),
                "licence": _licence(data_licences(checkpoint)),
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


def _keep_outputs(model: Classifier, outputs: Sequence[int]) -> None:
    """Drop all others from the head, auxiliary labels among them.

    A branch's labels are the last ones and stay so: ValueError for another order, and where a head
    would have none.
    """
    if model.branch_head is not None and list(outputs) != sorted(set(outputs)):
        raise ValueError("labels to keep of a joined model must be in its own order, each once")
    count = 0
    for head in (model.head, model.branch_head):
        if head is None:
            continue
        linear = head[1]
        assert isinstance(linear, nn.Linear)
        rows = [i - count for i in outputs if 0 <= i - count < linear.out_features]
        if not rows:
            raise ValueError(
                "labels to keep must be some of the trunk's and some of the branch's: for fewer, "
                "export the model that it was joined of"
            )
        count += linear.out_features
        kept = nn.Linear(linear.in_features, len(rows))
        with torch.no_grad():
            kept.weight.copy_(linear.weight[rows])
            kept.bias.copy_(linear.bias[rows])
        head[1] = kept


def data_licences(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """Attribution of every corpus that the weights come from, pretraining included."""
    sources = checkpoint.progress.get("sources", ())
    unknown = {
        "licence": "not known to this project",
        "attribution": "not stated",
        "source": "not stated",
    }
    return [DATA_LICENCES.get(name, {"name": name, **unknown}) for name in sources]


def _licence(data: list[dict[str, str]]) -> str:
    """Of the bundle: ours, unless what it learnt from says less or nothing."""
    licences = {source["licence"] for source in data}
    if not data or any(licence.startswith("not known") for licence in licences):
        return "not stated: the licences of the training data are not all known, see data"
    if limited := sorted(licence for licence in licences if "-NC" in licence):
        return f"{', '.join(limited)}: non-commercial use only, see data"
    return "Apache-2.0"


def _golden_input(checkpoint: Checkpoint, num_frames: int) -> NDArray[np.float32]:
    """A seeded window with the training data's statistics and some shape in time and frequency."""
    rng = np.random.default_rng(checkpoint.recipe.seed)
    shape = num_frames, checkpoint.recipe.fbank.num_mel_bins
    rough = rng.standard_normal((shape[0] // 8 + 2, shape[1] // 8 + 2))
    smooth = np.kron(rough, np.ones((8, 8)))[: shape[0], : shape[1]]
    noise = 0.3 * rng.standard_normal(shape)
    fbank = checkpoint.mean + checkpoint.std * (smooth + noise)
    # Nothing below digital silence: INT8 has no levels for it.
    return np.maximum(fbank, LOG_MEL_FLOOR).astype(np.float32)
