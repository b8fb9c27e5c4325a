"""Trains a keyword spotter that reads a stream token by token, each with those before it alone.

    python -m train finetune train/recipes/wake_words_stream.toml --init encoders/edge-phones \
        --phones runs/phones.npz

Every token learns which words have just ended and which phone is being said (train/sequences.py).
The device computes a hop's own tokens and nothing else (optimize/quantization/stream_graph.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.checkpoint import build_model
from train.engine import Objective, TrainingData, fit, resume_point
from train.initial import start_from, start_head
from train.keywords import pack_sources, prepare_pool
from train.machine import Machine, open_machine
from train.model import TokenTagger
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, load_phones
from train.pool import FeaturePool
from train.recipe import RecipeError, StreamRecipe
from train.selection import track_validation
from train.sequences import SequenceSampler
from train.task import SampledBatches
from train.token_labels import IGNORED

__all__ = ["StreamObjective", "train_stream"]

_STEPS_PER_EPOCH = 1000  # sequences are drawn for ever: an epoch is a unit of the log, no more


class StreamObjective(Objective):
    """Binary cross-entropy of the words, summed over them, and cross-entropy of the phones."""

    def __init__(self, model: TokenTagger, words: int, smoothing: float, phone_share: float):
        super().__init__()
        self.model: TokenTagger = model
        self.words, self.smoothing, self.phone_share = words, smoothing, phone_share

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T, F) raw log-mel, targets as `SequenceSampler.batch` gives them."""
        logits = self.model(fbank).float()
        told = target[..., : self.words]
        known = (told != IGNORED).float()
        wanted = (told == 1).float() * (1 - 2 * self.smoothing) + self.smoothing
        each = F.binary_cross_entropy_with_logits(
            logits[..., : self.words], wanted, reduction="none"
        )
        words = (each * known).sum() / (known.sum() / self.words).clamp_min(1)
        wanted_phones = target[..., self.words].flatten().long()
        phones = F.cross_entropy(
            logits[..., self.words :].flatten(0, 1), wanted_phones,
            ignore_index=UNKNOWN, reduction="sum",
        ) / (wanted_phones != UNKNOWN).sum().clamp_min(1)  # fmt: skip
        return {"loss": words + self.phone_share * phones, "words": words, "phones": phones}


def train_stream(
    recipe: StreamRecipe,
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
    with fabric.rank_zero_first():  # one process renders the pool, the others find it
        pool = prepare_pool(recipe, data, synthetic, out.parent / "pool", jobs)
    classes = (*recipe.labels, *recipe.auxiliary_labels, *PHONES)
    record = TrainingData(
        classes,
        (resume.mean, resume.std) if resume is not None else pool.statistics(),
        pack_sources(recipe.data.packs, synthetic=recipe.data.synthetic),
    )
    try:
        sampler = _sampler(recipe, pool, labels, record.statistics[0])
    except ValueError as error:
        raise RecipeError(str(error)) from error
    validation = None
    if recipe.selection.false_accepts_per_hour:
        validation = track_validation(recipe, data)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, classes, *record.statistics)
    assert isinstance(model, TokenTagger)
    start = start_from(init, model.encoder) if init is not None else None
    words = len(recipe.labels) + len(recipe.auxiliary_labels)
    # A word is rarely said: without this the first hundreds of steps only learn that.
    nn.init.constant_(model.head[1].bias[:words], -4.0)  # type: ignore[index]
    known = start_head(init, model, classes) if init is not None else ()
    return fit(
        recipe,
        StreamObjective(model, words, recipe.label_smoothing, recipe.phone_share),
        SampledBatches(sampler, recipe.optimizer.batch_size),
        fabric=fabric,
        out=out,
        steps_per_epoch=_STEPS_PER_EPOCH,
        data=record.starting_from(start, known).resumed(resume, out),
        resume=resume,
        validation=validation,
        workers=machine.workers,
    )


def _sampler(
    recipe: StreamRecipe, pool: FeaturePool, phones: PhoneLabels, fill: float
) -> SequenceSampler:
    return SequenceSampler(
        pool,
        recipe.labels,
        recipe.sequences,
        recipe.log_mel_augment,
        recipe.encoder_config(),
        phones,
        seed=recipe.seed,
        fill=fill,
        auxiliary_labels=recipe.auxiliary_labels,
        front_end=recipe.fbank,
    )
