"""Trains an encoder to tell, for every patch token, which phone is being said.

    python -m train align --data DIR --synthetic runs/synthetic --out runs/phones.npz
    python -m train finetune train/recipes/phones_packs_edge.toml --init encoders/edge-frame

What it gives is no keyword model: it is an encoder for `finetune --init`, which has learned what
words are made of before it learns a few of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.checkpoint import Model, build_model
from train.data.clips import Batch
from train.engine import Objective, TrainingData, Validation, fit, resume_point
from train.initial import start_from
from train.keywords import pack_sources
from train.machine import Machine, open_machine
from train.model import TokenTagger
from train.packs import Split, read_packs
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, load_phones
from train.phone_windows import PhoneSampler
from train.pool import FeaturePool, make_pool
from train.recipe import PhoneRecipe, RecipeError
from train.training_set import read_wanted_synthetic

__all__ = ["PhoneObjective", "phone_validation", "train_phones"]

_STEPS_PER_EPOCH = 1000  # windows are drawn for ever: an epoch is a unit of the log, no more
_VALIDATION_BATCHES, _VALIDATION_BATCH = 16, 64  # windows
_VALIDATION_SEED = 20_000_003  # no run's own
_SILENT = PHONES.index("SIL")


class PhoneBatches:
    """Parts of the sampler's batches."""

    def __init__(self, sampler: PhoneSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Every `parts`-th window of the step's batch, from `part` on."""
        windows, target, _ = self.sampler.batch(step, self.batch_size)
        return Batch(windows[part::parts], target[part::parts], ())


class PhoneObjective(Objective):
    """Cross-entropy over the tokens whose phone is known."""

    def __init__(self, model: TokenTagger) -> None:
        super().__init__()
        self.model: TokenTagger = model

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T, F) raw log-mel, (B, N) phones or UNKNOWN."""
        logits = self.model(fbank).float().flatten(0, 1)
        known = target.flatten()
        is_phone = (known != UNKNOWN) & (known != _SILENT)
        is_right = (logits.argmax(dim=1) == known) & is_phone
        return {
            "loss": F.cross_entropy(logits, known, ignore_index=UNKNOWN),
            "phone_accuracy": is_right.sum() / is_phone.sum().clamp_min(1),
        }


def train_phones(
    recipe: PhoneRecipe,
    *,
    data: Path,
    synthetic: Sequence[Path],
    phones: Path,
    out: Path,
    machine: Machine,
    jobs: int = 2,
    init: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder."""
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    labels = load_phones(phones)
    with fabric.rank_zero_first():  # one process renders the pools, the others find them
        pools = {
            split: _pool(recipe, data, synthetic, out.parent / "pool", jobs, split)
            for split in ("train", "val")
        }
    record = TrainingData(
        PHONES,
        (resume.mean, resume.std) if resume is not None else pools["train"].statistics(),
        pack_sources(recipe.data.packs, synthetic=recipe.data.synthetic),
        fingerprint=_fingerprint(labels),
    )
    fill = record.statistics[0]
    validation = phone_validation(
        _sampler(recipe, pools["val"], labels, "val", seed=_VALIDATION_SEED, fill=fill)
    )
    sampler = _sampler(recipe, pools["train"], labels, "train", seed=recipe.seed, fill=fill)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, PHONES, *record.statistics)
    assert isinstance(model, TokenTagger)
    start = start_from(init, model.encoder) if init is not None else None
    return fit(
        recipe,
        PhoneObjective(model),
        PhoneBatches(sampler, recipe.optimizer.batch_size),
        fabric=fabric,
        out=out,
        steps_per_epoch=_STEPS_PER_EPOCH,
        data=record.starting_from(start).resumed(resume, out),
        resume=resume,
        validation=validation,
        workers=machine.workers,
    )


def phone_validation(sampler: PhoneSampler) -> Validation:
    """Shares of tokens told right, on windows that are the same each time.

    accuracy counts silence, phone_accuracy and that of each pack do not.
    """
    drawn = [sampler.batch(step, _VALIDATION_BATCH) for step in range(_VALIDATION_BATCHES)]
    windows = [fbank.half() for fbank, _, _ in drawn]  # half the memory, as in the pool
    target = torch.cat([phones for _, phones, _ in drawn]).numpy()
    packs = np.concatenate([packs for _, _, packs in drawn])
    is_known = target != UNKNOWN
    is_phone = is_known & (target != _SILENT)

    def measure(model: Model, fabric: Fabric) -> dict[str, float]:
        assert isinstance(model, TokenTagger)
        found = [model(fbank.to(fabric.device).float()).argmax(dim=2).cpu() for fbank in windows]
        is_right = torch.cat(found).numpy() == target
        values = {
            "accuracy": is_right[is_known].mean(),
            "phone_accuracy": is_right[is_phone].mean(),
        }
        for number, pack in enumerate(sampler.packs):
            its = is_phone & (packs == number)[:, None]
            values[f"phone_accuracy_{pack}"] = is_right[its].mean() if its.any() else 0.0
        return {name: float(value) for name, value in values.items()}

    return Validation(measure, "phone_accuracy", higher_is_better=True)


def _sampler(
    recipe: PhoneRecipe, pool: FeaturePool, labels: PhoneLabels, split: Split, *,
    seed: int, fill: float,
) -> PhoneSampler:  # fmt: skip
    augment = recipe.log_mel_augment
    if split == "val":  # what is masked can only be guessed
        augment = replace(augment, mask_chance=0.0)
    try:
        return PhoneSampler(
            pool, labels, recipe.windows, recipe.pack_weights, augment, recipe.encoder_config(),
            seed=seed, fill=fill,
        )  # fmt: skip
    except ValueError as error:
        raise RecipeError(f"recordings of split {split}: {error}") from error


def _pool(
    recipe: PhoneRecipe,
    data: Path,
    synthetic: Sequence[Path],
    folder: Path,
    jobs: int,
    split: Split,
) -> FeaturePool:
    """The recipe's clips of a split as features; made in `folder` when it is not there yet."""
    clips = read_packs(data, recipe.data.packs)
    if recipe.data.synthetic:
        clips += read_wanted_synthetic(synthetic)
    keep = [clip for clip in clips if clip.split == split and clip.kind != "silence"]
    count = recipe.data.renderings if split == "train" else 1
    return make_pool(
        folder,
        keep,
        [1 if clip.kind == "sound" else count for clip in keep],
        config=recipe.waveform_augment,
        fbank_config=recipe.fbank,
        seed=recipe.seed,
        jobs=jobs,
    )


def _fingerprint(labels: PhoneLabels) -> str:
    digest = hashlib.sha256()
    for key, found in labels.labels.items():
        digest.update(key.encode() + found.tobytes())
    return digest.hexdigest()[:16]
