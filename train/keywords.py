"""Fine-tunes a classifier for streaming keyword spotting.

    python -m train finetune train/recipes/windows/wake_words.toml --synthetic runs/synthetic

Windows are composed from a pool of rendered clips as the runtime will see them (train/windows.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from ssast_edge.evaluation.metrics import mean_average_precision
from train.augment import LogMelAugmentConfig
from train.checkpoint import Model, build_model
from train.engine import TrainingData, Validation, fit, resume_point
from train.initial import start_from
from train.machine import Machine, open_machine
from train.mining import load_mined
from train.model import Classifier
from train.packs import Clip, Split
from train.pool import FeaturePool, make_pool
from train.recipe import KeywordRecipe, RecipeError, SpotterRecipe
from train.selection import track_validation
from train.task import Places, SampledBatches, TaskData, TaskObjective
from train.training_set import training_set
from train.windows import WindowSampler

__all__ = ["KeywordObjective", "open_keywords", "pack_sources", "prepare_pool", "train_keywords"]

_STEPS_PER_EPOCH = 1000  # windows are drawn for ever: an epoch is a unit of the log, no more
_VALIDATION_BATCHES, _VALIDATION_BATCH = 32, 64  # windows
_VALIDATION_SEED = 20_000_003  # no run's own, so that models of several seeds are compared alike


class KeywordObjective(TaskObjective):
    """Binary cross-entropy, summed over labels: more keywords do not shrink the gradient."""

    def __init__(self, model: Classifier, smoothing: float) -> None:
        super().__init__()
        self.model: Classifier = model
        self.smoothing = smoothing

    def loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, mean over the windows."""
        target = target * (1 - 2 * self.smoothing) + self.smoothing
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()


def train_keywords(
    recipe: KeywordRecipe,
    *,
    data: Path,
    synthetic: Sequence[Path],
    out: Path,
    machine: Machine,
    jobs: int = 2,
    init: Path | None = None,
    mined: tuple[Path, ...] = (),
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder.

    mined: files of `train.mining`, which the recipe's `windows.mined` gives a weight.
    """
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    statistics = (resume.mean, resume.std) if resume is not None else None
    pool = out.parent / "pool"
    places = Places(data=data, synthetic=tuple(synthetic), pool=pool, jobs=jobs, mined=mined)
    opened = open_keywords(recipe, places, fabric, statistics=statistics)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, opened.record.classes, *opened.record.statistics)
    assert isinstance(model, Classifier)
    start = start_from(init, model.encoder) if init is not None else None
    return fit(
        recipe,
        KeywordObjective(model, recipe.label_smoothing),
        opened.batches,
        fabric=fabric,
        out=out,
        steps_per_epoch=opened.steps_per_epoch,
        data=opened.record.starting_from(start).resumed(resume, out),
        resume=resume,
        validation=opened.validation,
        workers=machine.workers,
    )


def open_keywords(
    recipe: KeywordRecipe,
    places: Places,
    fabric: Fabric,
    *,
    statistics: tuple[float, float] | None = None,
    held_out: Split | None = None,
) -> TaskData:
    """The recipe's windows; `statistics` of a model that is there instead of the data's.

    held_out: the split whose windows validate; none: the recipe's validation track, if any.
    """
    with fabric.rank_zero_first():  # one process renders the pool, the others find it
        pool = prepare_pool(recipe, places.data, places.synthetic, places.pool, places.jobs)
        its_pool = None
        # Cross-validation of sounds leaves none to validate by.
        if held_out is not None and not recipe.data.esc10_test_fold:
            its_pool = prepare_pool(
                recipe, places.data, places.synthetic, places.pool, places.jobs, split=held_out
            )
    classes = (*recipe.labels, *recipe.auxiliary_labels)
    sources = pack_sources(recipe.data.packs, synthetic=recipe.data.synthetic)
    record = TrainingData(classes, statistics or pool.statistics(), sources)
    if recipe.windows.mined and not places.mined:
        raise RecipeError("windows.mined is above 0: give the files of `python -m train mine`")
    mined = load_mined(places.mined, classes, recipe.windows.num_frames)

    def sampler(of: FeaturePool, augment: LogMelAugmentConfig, seed: int) -> WindowSampler:
        return WindowSampler(
            of,
            recipe.labels,
            recipe.windows,
            augment,
            seed=seed,
            fill=record.statistics[0],
            auxiliary_labels=recipe.auxiliary_labels,
            mined=mined,
        )

    validation = None
    if held_out is None and recipe.selection.false_accepts_per_hour:
        validation = track_validation(recipe, places.data)
    if its_pool is not None:
        try:
            drawn = sampler(its_pool, recipe.log_mel_augment, _VALIDATION_SEED)
        except ValueError as error:
            raise RecipeError(f"recordings of split {held_out}: {error}") from error
        validation = window_validation(drawn, len(recipe.labels))
    batches = SampledBatches(
        sampler(pool, recipe.log_mel_augment, recipe.seed), recipe.optimizer.batch_size
    )
    return TaskData(record, batches, _STEPS_PER_EPOCH, validation)


def window_validation(sampler: WindowSampler, labels: int) -> Validation:
    """Mean average precision of the first `labels` outputs on windows that are the same each time.

    What it cannot say is how often a stream of many hours fires: that needs a track.
    """
    drawn = [sampler.batch(step, _VALIDATION_BATCH) for step in range(_VALIDATION_BATCHES)]
    windows = [fbank.half() for fbank, _ in drawn]  # half the memory, as in the pool
    targets = torch.cat([target for _, target in drawn])[:, :labels]

    def measure(model: Model, fabric: Fabric) -> dict[str, float]:
        assert isinstance(model, Classifier)
        found = [model(fbank.to(fabric.device).float()).float().cpu() for fbank in windows]
        logits = torch.cat(found)[:, :labels]
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
        precision = mean_average_precision(logits.numpy(), targets.numpy())
        return {"mAP": precision, "bce": float(loss)}

    return Validation(measure, "mAP", higher_is_better=True)


def prepare_pool(
    recipe: SpotterRecipe,
    data: Path,
    synthetic: Sequence[Path],
    folder: Path,
    jobs: int,
    *,
    split: Split = "train",
) -> FeaturePool:
    """The recipe's clips of a split as features; made in `folder` when it is not there yet."""
    keep = training_set(recipe, data, synthetic, split)
    return make_pool(
        folder,
        keep,
        [_renderings(clip, recipe) if split == "train" else 1 for clip in keep],
        config=recipe.waveform_augment,
        fbank_config=recipe.fbank,
        seed=recipe.seed,
        jobs=jobs,
    )


def pack_sources(packs: Sequence[str], *, synthetic: bool) -> tuple[str, ...]:
    """Corpora that the packs come from, each once."""
    owners = {"background_noise": "speech_commands"}  # its noises come with Speech Commands
    names = [owners.get(pack, pack) for pack in packs]
    return tuple(dict.fromkeys([*names, *(["synthetic"] if synthetic else [])]))


def _renderings(clip: Clip, recipe: SpotterRecipe) -> int:
    data = recipe.data
    if clip.kind == "keyword":
        is_recorded = clip.pack != "synthetic"
        return data.renderings_keyword if is_recorded else data.renderings_synthetic_keyword
    if clip.word in recipe.labels:
        return data.renderings_sound if clip.kind == "sound" else data.renderings_keyword
    return data.renderings_other
