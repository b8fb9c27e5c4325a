"""Quantisation-aware fine-tuning: a checkpoint learns to live with INT8's rounding.

The model rounds as its quantised graph will, learns on its recipe's data and from its own float
outputs (distillation), and comes out as an ordinary checkpoint, whose export `quantize` calibrates
anew. For when the budget cannot be met, or only with many layers left in float.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from optimize.pruning.recovery import (
    ClassifierRecipe,
    DistillConfig,
    classifier_recipe,
    load_teacher,
    measure,
    open_data,
    recover,
)
from optimize.quantization.calibration import CalibrationError, calibrate
from optimize.quantization.exported import read_ast
from optimize.quantization.fake_quant import fake_quantise
from optimize.quantization.judge import Recordings
from optimize.quantization.quantize import (
    BudgetError,
    QuantizeConfig,
    QuantizeResult,
    float_model,
    layer_ranges,
    quantize_bundle,
)
from ssast_edge.bundle import Bundle, load_bundle
from train.checkpoint import load_classifier
from train.export import export_bundle
from train.machine import Machine, open_machine
from train.task import Places

__all__ = [
    "QatConfig",
    "WithinBudget",
    "quantization_aware",
    "quantize_within_budget",
    "ranges_of_checkpoint",
]


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """How long and how fast it learns."""

    steps: int = 1000
    learning_rate: float = 0.0  # 0: a tenth of the training recipe's
    warmup_steps: int = 50
    average: float = 0.99  # moving average of the weights, which is what ships
    signed: bool = False  # the levels of the graph for TensorRT instead of the CPU's
    weight_bits: int = 7  # as in the CPU's graph: exact without VNNI too
    distill: DistillConfig = DistillConfig(teacher_share=0.9)

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        if self.steps < 1 or self.warmup_steps < 0:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.weight_bits not in (7, 8):
            raise ValueError(f"weight_bits must be 7 or 8, got {self.weight_bits}")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be 0 or more, got {self.learning_rate}")


def quantization_aware(
    checkpoint: Path,
    manifest: Path,
    out: Path,
    *,
    places: Places,
    machine: Machine,
    config: QatConfig | None = None,
    quantize: QuantizeConfig | None = None,
) -> Path:
    """Fine-tune `checkpoint` in `out` under INT8's rounding; returns the new checkpoint's folder.

    manifest: audio that the ranges come from, with the windows, observer, split and seed of
    `quantize`. A run that is there goes on. Raises ValueError, in one line, for audio or a
    checkpoint that cannot be used.
    """
    config, quantize = config or QatConfig(), quantize or QuantizeConfig()
    model, state = load_classifier(checkpoint)
    recipe = _recipe(classifier_recipe(state.recipe, checkpoint), config)
    ranges = ranges_of_checkpoint(checkpoint, manifest, out, quantize)
    fabric = open_machine(machine, recipe)
    opened = open_data(recipe, places, fabric, machine, statistics=(state.mean, state.std))
    before = measure(model, opened.validation, fabric)
    fake_quantise(model, ranges, is_signed=config.signed, weight_bits=config.weight_bits)
    rounded = measure(model, opened.validation, fabric)
    for name, value in before.items():
        tqdm.write(f"{name}: {value:.4f} in float, {rounded[name]:.4f} rounded, before tuning")
    return recover(
        recipe,
        model.train(),
        opened,
        out=out,
        fabric=fabric,
        machine=machine,
        sources=tuple(state.progress.get("sources", ())),
        teacher=load_teacher(checkpoint, recipe, opened.record.classes),
        distill=config.distill,
    )


@dataclass(frozen=True, kw_only=True)
class WithinBudget:
    """A checkpoint whose INT8 graphs keep the budget."""

    checkpoint: Path  # the one given, or the tuned one
    is_tuned: bool
    bundle: Bundle  # its float export
    quantized: QuantizeResult


def quantize_within_budget(
    checkpoint: Path,
    manifest: Path,
    out: Path,
    *,
    places: Places,
    machine: Machine,
    config: QatConfig | None = None,
    quantize: QuantizeConfig | None = None,
) -> WithinBudget:
    """Quantise a checkpoint's export below `out`; where the budget cannot be met, tune it first.

    A tuned model is judged against the float model that was given. Raises BudgetError when not
    even tuning helps.
    """
    quantize = quantize or QuantizeConfig()
    export_bundle(checkpoint, out / "float")
    reference = load_bundle(out / "float")
    try:
        found = quantize_bundle(reference, manifest, out / "int8", quantize)
    except BudgetError as error:
        tqdm.write(f"tuning under INT8's rounding: {error}")
    else:
        return WithinBudget(
            checkpoint=checkpoint, is_tuned=False, bundle=reference, quantized=found
        )
    tuned = quantization_aware(
        checkpoint, manifest, out / "qat", places=places, machine=machine, config=config,
        quantize=quantize,
    )  # fmt: skip
    export_bundle(tuned, out / "tuned")
    bundle = load_bundle(out / "tuned")
    found = quantize_bundle(bundle, manifest, out / "int8-tuned", quantize, reference=reference)
    return WithinBudget(checkpoint=tuned, is_tuned=True, bundle=bundle, quantized=found)


def ranges_of_checkpoint(
    checkpoint: Path, manifest: Path, out: Path, quantize: QuantizeConfig
) -> dict[str, tuple[float, float]]:
    """What `quantize` would keep of each layer's input, by layer; "auto" is the MSE observer."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export_bundle(checkpoint, folder)
        bundle = load_bundle(folder)
        recordings = Recordings(bundle, manifest, seed=quantize.seed, split=quantize.split)
        windows = recordings.windows(quantize.windows, least=1)
        if not np.isfinite(windows).all():
            raise CalibrationError(f"{manifest}: recordings that are not numbers")
        source = float_model(bundle)
        out.mkdir(parents=True, exist_ok=True)
        seen = calibrate(source, windows, out / "calibration.json")
        observer = "mse" if quantize.observer == "auto" else quantize.observer
        return layer_ranges(bundle, read_ast(onnx.load(source)), seen, seen.thresholds(observer))


def _recipe(recipe: ClassifierRecipe, config: QatConfig) -> ClassifierRecipe:
    """A short run at a low rate, without augmentation's changes of schedule."""
    optimizer = dataclasses.replace(
        recipe.optimizer,
        steps=config.steps,
        epochs=0.0,
        learning_rate=config.learning_rate or recipe.optimizer.learning_rate / 10,
        warmup_steps=min(config.warmup_steps, config.steps // 2),
        schedule="cosine",
        head_factor=1.0,
        layer_decay=1.0,
        average=config.average,
        average_epochs=(0, 0),
    )
    engine = dataclasses.replace(
        recipe.engine,
        save_every_steps=min(recipe.engine.save_every_steps, config.steps),
        validate_every_steps=max(1, config.steps // 4),
    )
    return dataclasses.replace(recipe, optimizer=optimizer, engine=engine)
