"""Trains a keyword spotter that reads a stream token by token, each with those before it alone.

    python -m train finetune train/recipes/wake_words_stream.toml --init encoders/edge-phones \
        --phones runs/phones.npz

Every token learns which words have just ended and which phone is being said (train/sequences.py);
with `start_share`, also what the run's start says of the words that it knows (Li and Hoiem,
"Learning without forgetting", ECCV 2016): what is learned anew then costs less of them. With
`frozen_blocks` the start's first blocks stay as they are, so that both models can share them
(train/branching.py). The device computes a hop's own tokens and nothing else
(optimize/quantization/stream_graph.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.checkpoint import Checkpoint, CheckpointError, build_model, load_tagger
from train.encoder import Encoder
from train.engine import Objective, TrainingData, fit, resume_point
from train.initial import fingerprint_of, start_from, start_head
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

__all__ = ["StreamObjective", "Teacher", "train_stream"]

_STEPS_PER_EPOCH = 1000  # sequences are drawn for ever: an epoch is a unit of the log, no more


class Teacher(nn.Module):
    """Binary cross-entropy against what a start says of the words that it knows.

    columns: of the run's logits; its: of the start's, for the same words.
    """

    columns: Tensor
    its: Tensor

    def __init__(self, start: TokenTagger, columns: Sequence[int], its: Sequence[int]) -> None:
        super().__init__()
        self.start = start.eval().requires_grad_(False)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("its", torch.tensor(its), persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        """Nothing: what is learned from has no dropout."""
        del mode
        return self

    def forward(self, fbank: Tensor, logits: Tensor) -> Tensor:
        """Scalar, summed over words, mean over the tokens of (B, T, F) raw log-mel."""
        with torch.no_grad():
            wanted = torch.sigmoid(self.start(fbank).float().index_select(-1, self.its))
        ours = logits.index_select(-1, self.columns)
        each = F.binary_cross_entropy_with_logits(ours, wanted, reduction="none")
        return each.sum(dim=-1).mean()


class StreamObjective(Objective):
    """Binary cross-entropy of the words, summed over them, and cross-entropy of the phones."""

    def __init__(
        self,
        model: TokenTagger,
        words: int,
        smoothing: float,
        phone_share: float,
        teacher: Teacher | None = None,
        start_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.model: TokenTagger = model
        self.words, self.smoothing, self.phone_share = words, smoothing, phone_share
        self.teacher, self.start_share = teacher, start_share

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
        losses = {"loss": words + self.phone_share * phones, "words": words, "phones": phones}
        if self.teacher is not None:
            losses["start"] = self.teacher(fbank, logits)
            losses["loss"] = losses["loss"] + self.start_share * losses["start"]
        return losses


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
    if recipe.branch_labels:
        raise RecipeError(
            "a model with a branch is joined of two that are trained (python -m train join): leave "
            "branch_labels and model.branch_depth out"
        )
    teacher = _teacher(recipe, init)
    frozen = _frozen_statistics(recipe, init)
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    labels = load_phones(phones)
    with fabric.rank_zero_first():  # one process renders the pool, the others find it
        pool = prepare_pool(recipe, data, synthetic, out.parent / "pool", jobs)
    classes = (*recipe.labels, *recipe.auxiliary_labels, *PHONES)
    record = TrainingData(
        classes,
        (resume.mean, resume.std) if resume is not None else frozen or pool.statistics(),
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
    _freeze(model.encoder, recipe.frozen_blocks)
    words = len(recipe.labels) + len(recipe.auxiliary_labels)
    # A word is rarely said: without this the first hundreds of steps only learn that.
    nn.init.constant_(model.head[1].bias[:words], -4.0)  # type: ignore[index]
    known = start_head(init, model, classes) if init is not None else ()
    return fit(
        recipe,
        StreamObjective(
            model, words, recipe.label_smoothing, recipe.phone_share, teacher, recipe.start_share
        ),
        SampledBatches(sampler, recipe.optimizer.batch_size),
        fabric=fabric,
        out=out,
        steps_per_epoch=_STEPS_PER_EPOCH,
        data=replace(
            record.starting_from(start, known),
            teacher=fingerprint_of(teacher.start.state_dict()) if teacher is not None else "",
        ).resumed(resume, out),
        resume=resume,
        validation=validation,
        workers=machine.workers,
    )


def _teacher(recipe: StreamRecipe, init: Path | None) -> Teacher | None:
    """What the start says, where the recipe wants it kept; RecipeError where it cannot be asked."""
    if not recipe.start_share:
        return None
    start, checkpoint = _start(recipe, init, "start_share", "words are to be kept")
    words = (*recipe.labels, *recipe.auxiliary_labels)  # phones are told otherwise
    kept = [word for word in words if word in checkpoint.classes]
    if not kept:
        raise RecipeError(
            f"start_share is {recipe.start_share:g}, but {init} knows none of the words: give the "
            "run, or the restored bundle, whose words are to be kept"
        )
    return Teacher(
        start,
        [words.index(word) for word in kept],
        [checkpoint.classes.index(word) for word in kept],
    )


def _frozen_statistics(recipe: StreamRecipe, init: Path | None) -> tuple[float, float] | None:
    """The log-mel's, as frozen blocks know it; RecipeError where the start has no such blocks."""
    if not recipe.frozen_blocks:
        return None
    _, checkpoint = _start(recipe, init, "frozen_blocks", "blocks are to stay")
    its, ours = asdict(checkpoint.recipe.model), asdict(recipe.model)
    for key in ours.keys() - {"dropout", "drop_path"}:
        if its[key] != ours[key]:
            raise RecipeError(
                f"frozen_blocks is {recipe.frozen_blocks}, but model.{key} is {ours[key]!r} and "
                f"that of {init} {its[key]!r}: frozen blocks stay as they are"
            )
    return checkpoint.mean, checkpoint.std


def _start(
    recipe: StreamRecipe, init: Path | None, key: str, what: str
) -> tuple[TokenTagger, Checkpoint]:
    """The run that a recipe's key wants to start from; RecipeError where it reads other patches."""
    wants = f"{key} is {getattr(recipe, key):g}, but"
    cure = f"give the run, or the restored bundle, whose {what}"
    if init is None:
        raise RecipeError(f"{wants} there is no --init: {cure}")
    try:
        start, checkpoint = load_tagger(init)
    except CheckpointError as error:
        raise RecipeError(f"{wants} {error}; {cure}") from error
    if checkpoint.recipe.fbank != recipe.fbank:
        raise RecipeError(f"{wants} {init} has another front end (fbank)")
    its, ours = checkpoint.recipe.model, recipe.model
    if (its.patch_frames, its.stride_frames) != (ours.patch_frames, ours.stride_frames):
        raise RecipeError(
            f"{wants} {init} has patches of {its.patch_frames} frames every {its.stride_frames}, "
            f"the recipe of {ours.patch_frames} every {ours.stride_frames} (model.patch_frames, "
            "model.stride_frames)"
        )
    return start, checkpoint


def _freeze(encoder: Encoder, blocks: int) -> None:
    """The patch embedding and so many blocks learn nothing; 0: all learn."""
    if blocks:
        for frozen in (encoder.patch_embed, *encoder.blocks[:blocks]):
            frozen.requires_grad_(False)


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
