"""Pretrains an encoder on unlabelled audio by masked spectrogram patch modelling.

    python -m train pretrain train/recipes/pretrain_tiny_frame.toml --manifests DIR

Validation repeats fixed windows and masks of the manifest's val split; the best checkpoint is the
one that tells masked patches apart best (or, generative alone, rebuilds them best). It draws what
the model rebuilds: OUT/reconstruction.png.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from train.checkpoint import Model, build_model
from train.corpus import Corpus, open_corpus
from train.data.clips import Batch, BatchOrder, ClipBatches
from train.engine import Objective, Validation, fit, resume_point
from train.machine import Machine, open_machine
from train.plots import plot_reconstruction
from train.pretext import MaskedSpectrogramPretext
from train.recipe import PretrainRecipe, RecipeError

__all__ = ["MaskedBatches", "PretextObjective", "pretrain"]

_VALIDATION_CLIPS = 512
_DRAWN_CLIPS = 4


class MaskedBatches:
    """Clip batches with the masks of the pretext task as targets."""

    def __init__(self, clips: ClipBatches, pretext: MaskedSpectrogramPretext, seed: int) -> None:
        self.clips, self.pretext, self.seed = clips, pretext, seed

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Part of a step's batch; masks are drawn for the whole batch, so parts agree on them."""
        batch = self.clips.batch(step, part, parts)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        masks = self.pretext.draw_masks(self.clips.order.batch_size, generator)
        return dataclasses.replace(batch, target=masks[:, part::parts])


class PretextObjective(Objective):
    """Normalises raw log-mel and computes the pretext losses."""

    def __init__(self, model: MaskedSpectrogramPretext, mean: float, std: float) -> None:
        super().__init__()
        self.model: MaskedSpectrogramPretext = model
        self.mean, self.std = mean, std

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Joint loss, and its parts; the target are masks (passes, B, M)."""
        losses = self.model((fbank - self.mean) / (2 * self.std), target)
        return {
            "loss": losses.loss,
            "info_nce": losses.info_nce,
            "mse": losses.mse,
            "accuracy": losses.accuracy,
        }


def pretrain(
    recipe: PretrainRecipe, *, manifests: Path, cache: Path | None, out: Path, machine: Machine
) -> Path:
    """Pretrain to the recipe's last step; returns the checkpoint folder."""
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    corpus = open_corpus(recipe, manifests, cache, fabric, machine)
    data = corpus.record().resumed(resume, out)
    corpus = dataclasses.replace(corpus, statistics=data.statistics)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, (), *data.statistics)
    assert isinstance(model, MaskedSpectrogramPretext)
    clips = _batches(recipe, corpus, corpus.train)
    metric = "accuracy" if recipe.pretext.discriminates else "mse"
    validation = Validation(
        PretextValidation(recipe, corpus, out).measure, metric, recipe.pretext.discriminates
    )
    return fit(
        recipe,
        PretextObjective(model, *corpus.statistics),
        MaskedBatches(clips, model, recipe.seed),
        fabric=fabric,
        out=out,
        steps_per_epoch=clips.order.steps_per_epoch,
        data=data,
        resume=resume,
        validation=validation if corpus.val else None,
        workers=machine.workers,
    )


class PretextValidation:
    """The pretext losses on fixed windows and masks of clips that do not train."""

    def __init__(self, recipe: PretrainRecipe, corpus: Corpus, out: Path) -> None:
        self.recipe, self.corpus, self.out = recipe, corpus, out
        self._kept: list[Batch] = []

    def measure(self, model: Model, fabric: Fabric) -> dict[str, float]:
        """Mean losses; each process takes its share of the batches."""
        assert isinstance(model, MaskedSpectrogramPretext)
        objective = PretextObjective(model, *self.corpus.statistics)
        rows = []
        for batch in self._batches(model)[fabric.global_rank :: fabric.world_size]:
            here = batch.to(fabric.device)
            losses = objective(here.fbank, here.target)
            weight = torch.tensor(float(len(batch.names)), device=fabric.device)
            rows.append(torch.stack([weight, *(weight * value for value in losses.values())]))
        sums = torch.stack(rows).sum(dim=0) if rows else torch.zeros(5, device=fabric.device)
        total = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum")).tolist()
        if fabric.is_global_zero and self.recipe.pretext.generates:
            self._draw(model, fabric)
        names = ("loss", "info_nce", "mse", "accuracy")
        return {name: value / total[0] for name, value in zip(names, total[1:], strict=True)}

    def _draw(self, model: MaskedSpectrogramPretext, fabric: Fabric) -> None:
        """reconstruction.png of the first clips."""
        batch = self._batches(model)[0].to(fabric.device)
        mean, std = self.corpus.statistics
        fbank = (batch.fbank[:_DRAWN_CLIPS] - mean) / (2 * std)
        index = batch.target[-1, : len(fbank)]
        rebuilt = model.reconstruct(fbank, index)
        used = fbank[:, : rebuilt.shape[1], : rebuilt.shape[2]]
        blank = torch.zeros_like(model.patchify(used))
        hidden = blank.scatter(1, index[:, :, None].expand(-1, -1, blank.shape[2]), 1.0)
        plot_reconstruction(
            self.out / "reconstruction.png",
            used.float().cpu().numpy(),
            model.unpatchify(hidden).cpu().numpy() > 0,
            rebuilt.float().cpu().numpy(),
            [Path(name).stem for name in batch.names[: len(fbank)]],
        )

    def _batches(self, model: MaskedSpectrogramPretext) -> list[Batch]:
        if not self._kept:
            size = min(64, len(self.corpus.val))
            clips = _batches(self.recipe, self.corpus, self.corpus.val, batch_size=size)
            masked = MaskedBatches(clips, model, seed=self.recipe.seed + 1)
            count = max(1, min(_VALIDATION_CLIPS, len(self.corpus.val)) // size)
            self._kept = [masked.batch(step, 0, 1) for step in range(count)]
        return self._kept


def _batches(
    recipe: PretrainRecipe, corpus: Corpus, indices: Sequence[int], batch_size: int = 0
) -> ClipBatches:
    if not len(indices):
        raise RecipeError(f"{recipe.data.manifest} has no clip to train on")
    source = corpus.part(indices)
    order = BatchOrder(
        len(indices),
        batch_size or recipe.optimizer.batch_size,
        recipe.seed,
        weights=source.durations() if recipe.data.by_duration else None,
        blocks=source.blocks,
    )
    return ClipBatches(
        source,
        source.examples,
        order,
        recipe.clips,
        recipe.fbank,
        std=corpus.statistics[1],
        seed=recipe.seed,
    )
