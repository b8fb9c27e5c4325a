"""Fine-tunes a classifier for streaming keyword spotting.

    python -m train finetune train/recipes/wake_words.toml --data DIR --synthetic runs/synthetic

Windows are composed from a pool of rendered clips as the runtime will see them (train/windows.py).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.checkpoint import build_model
from train.data.clips import Batch
from train.engine import Machine, Objective, TrainingData, fit, open_machine, resume_point
from train.initial import start_from
from train.model import Classifier
from train.packs import Clip, read_packs, read_synthetic
from train.pool import FeaturePool, make_pool
from train.recipe import KeywordRecipe, RecipeError
from train.windows import WindowSampler

__all__ = ["prepare_pool", "train_keywords"]

_STEPS_PER_EPOCH = 1000  # windows are drawn for ever: an epoch is a unit of the log, no more


class KeywordBatches:
    """Parts of the sampler's batches."""

    def __init__(self, sampler: WindowSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Every `parts`-th window of the step's batch, from `part` on."""
        windows, target = self.sampler.batch(step, self.batch_size)
        return Batch(windows[part::parts], target[part::parts], ())


class KeywordObjective(Objective):
    """Binary cross-entropy, summed over labels: more keywords do not shrink the gradient."""

    def __init__(self, model: Classifier, smoothing: float) -> None:
        super().__init__()
        self.model: Classifier = model
        self.smoothing = smoothing

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T, F) raw log-mel, (B, labels) targets."""
        logits = self.model(fbank).float()
        target = target * (1 - 2 * self.smoothing) + self.smoothing
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()
        return {"loss": loss}


def train_keywords(
    recipe: KeywordRecipe,
    *,
    data: Path,
    synthetic: Path | None,
    out: Path,
    machine: Machine,
    jobs: int = 2,
    init: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder."""
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    with fabric.rank_zero_first():  # one process renders the pool, the others find it
        pool = prepare_pool(recipe, data, synthetic, out.parent / "pool", jobs)
    classes = (*recipe.labels, *recipe.auxiliary_labels)
    statistics = (resume.mean, resume.std) if resume is not None else pool.statistics()
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, classes, *statistics)
    assert isinstance(model, Classifier)
    start = start_from(init, model.encoder) if init is not None else None
    record = TrainingData(classes, statistics, _sources(recipe)).starting_from(start)
    record = record.resumed(resume, out)
    sampler = WindowSampler(
        pool,
        recipe.labels,
        recipe.windows,
        recipe.log_mel_augment,
        seed=recipe.seed,
        fill=record.statistics[0],
        auxiliary_labels=recipe.auxiliary_labels,
    )
    return fit(
        recipe,
        KeywordObjective(model, recipe.label_smoothing),
        KeywordBatches(sampler, recipe.optimizer.batch_size),
        fabric=fabric,
        out=out,
        steps_per_epoch=_STEPS_PER_EPOCH,
        data=record,
        resume=resume,
        workers=machine.workers,
    )


def prepare_pool(
    recipe: KeywordRecipe, data: Path, synthetic: Path | None, folder: Path, jobs: int
) -> FeaturePool:
    """The recipe's training clips as features; made in `folder` when it is not there yet."""
    clips = [clip for clip in read_packs(data, recipe.data.packs) if clip.split == "train"]
    if recipe.data.synthetic:
        if synthetic is None or not (synthetic / "manifest.csv").is_file():
            raise RecipeError(
                f"the recipe wants synthetic speech, none in {synthetic}: run "
                "`python -m train.synthesize --out DIR` and pass --synthetic DIR"
            )
        clips += [clip for clip in read_synthetic(synthetic) if clip.split == "train"]
    keep = [clip for clip in clips if clip.kind != "silence" and _wanted(clip, recipe)]
    return make_pool(
        folder,
        keep,
        [_renderings(clip, recipe) for clip in keep],
        config=recipe.waveform_augment,
        fbank_config=recipe.fbank,
        seed=recipe.seed,
        jobs=jobs,
    )


def _sources(recipe: KeywordRecipe) -> tuple[str, ...]:
    owners = {"background_noise": "speech_commands"}  # its noises come with Speech Commands
    packs = [owners.get(pack, pack) for pack in recipe.data.packs]
    return tuple(dict.fromkeys([*packs, *(["synthetic"] if recipe.data.synthetic else [])]))


def _wanted(clip: Clip, recipe: KeywordRecipe) -> bool:
    return clip.kind != "keyword" or clip.word in recipe.labels


def _renderings(clip: Clip, recipe: KeywordRecipe) -> int:
    if clip.kind == "keyword":
        recorded = clip.pack != "synthetic"
        return (
            recipe.data.renderings_keyword if recorded else recipe.data.renderings_synthetic_keyword
        )
    return recipe.data.renderings_other
