"""Fine-tunes a classifier for streaming keyword spotting.

    python -m train finetune train/recipes/wake_words.toml --data DIR --synthetic runs/synthetic

Writes runs/<name>/last (a checkpoint, every `save_every_steps`) and runs/<name>/log.csv. The same
command again goes on where the last checkpoint stands; batches depend on the step alone.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from tqdm import tqdm

from train.checkpoint import (
    Checkpoint,
    build_model,
    has_checkpoint,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from train.model import Classifier
from train.packs import Clip, read_packs, read_synthetic
from train.pool import FeaturePool, make_pool
from train.recipe import OptimizerConfig, Recipe, RecipeError
from train.windows import WindowSampler

__all__ = ["finetune", "learning_rate", "prepare_pool"]


def finetune(
    recipe: Recipe,
    *,
    data: Path,
    synthetic: Path | None,
    out: Path,
    jobs: int = 2,
    bfloat16: bool = True,
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder."""
    folder = out / "last"
    checkpoint = load_checkpoint(folder) if has_checkpoint(folder) else None
    if checkpoint is not None and checkpoint.recipe != recipe:
        raise RecipeError(
            f"{folder} was trained by another recipe; choose another --out or remove it"
        )
    pool = prepare_pool(recipe, data, synthetic, out.parent / "pool", jobs)
    mean, std = pool.statistics()
    step = 0
    if checkpoint is not None:
        mean, std, step = checkpoint.mean, checkpoint.std, checkpoint.step

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(max(1, jobs))
    model = build_model(recipe, mean, std)
    optimizer = torch.optim.AdamW(_groups(model, recipe.optimizer), betas=(0.9, 0.98))
    average = {key: value.clone() for key, value in model.state_dict().items()}
    names = [n for group in _group_names(model) for n in group]  # in the optimizer's order
    if checkpoint is not None:
        load_weights(model, checkpoint.model, folder)
        average = checkpoint.average
        restore_optimizer(optimizer, names, checkpoint.optimizer)

    sampler = WindowSampler(
        pool,
        recipe.labels,
        recipe.windows,
        recipe.log_mel_augment,
        seed=recipe.seed,
        fill=mean,
        auxiliary_labels=recipe.auxiliary_labels,
    )
    model.train()
    out.mkdir(parents=True, exist_ok=True)
    _cut_log(out / "log.csv", step)
    seen_loss, seen = 0.0, 0
    start_time = time.perf_counter()
    progress = tqdm(total=recipe.optimizer.steps, initial=step, unit="step", mininterval=5)
    for fbank, target in _prefetch(sampler, recipe, step):
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout, the same after a resume
        rate = learning_rate(step, recipe.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = model(fbank)
        loss = _loss(logits.float(), target, recipe.optimizer.label_smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step}; last checkpoint: {folder}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
        optimizer.step()
        step += 1
        _update_average(average, model, recipe.optimizer.average, step)
        seen_loss, seen = seen_loss + loss.item(), seen + 1
        progress.update()
        if step % 100 == 0 or step == recipe.optimizer.steps:
            progress.set_postfix(loss=f"{seen_loss / seen:.4f}", lr=f"{rate:.1e}")
            _log(out / "log.csv", step, seen_loss / seen, rate, time.perf_counter() - start_time)
            seen_loss, seen = 0.0, 0
        if step % recipe.save_every_steps == 0 or step == recipe.optimizer.steps:
            tensors = optimizer_tensors(optimizer, names)
            save_checkpoint(
                folder,
                Checkpoint(
                    recipe, mean, std, step, model.state_dict(), average, tensors, metrics={}
                ),
            )
    progress.close()
    return folder


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _loss(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    target = target * (1 - 2 * smoothing) + smoothing
    # Summed over labels: the gradient does not shrink with the number of keywords.
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()


def prepare_pool(
    recipe: Recipe, data: Path, synthetic: Path | None, folder: Path, jobs: int
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


def _wanted(clip: Clip, recipe: Recipe) -> bool:
    return clip.kind != "keyword" or clip.word in recipe.labels


def _renderings(clip: Clip, recipe: Recipe) -> int:
    if clip.kind == "keyword":
        recorded = clip.pack != "synthetic"
        return (
            recipe.data.renderings_keyword if recorded else recipe.data.renderings_synthetic_keyword
        )
    return recipe.data.renderings_other


def _prefetch(sampler: WindowSampler, recipe: Recipe, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from `step` on, made two ahead in a thread beside the model."""
    size, steps = recipe.optimizer.batch_size, recipe.optimizer.steps
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(sampler.batch, s, size) for s in range(step, min(step + 2, steps))]
        for s in range(step, steps):
            if s + 2 < steps:
                ahead.append(pool.submit(sampler.batch, s + 2, size))
            yield ahead.pop(0).result()


def _group_names(model: Classifier) -> tuple[list[str], list[str]]:
    """Parameters with and without weight decay (matrices; vectors, tokens and positions)."""
    decayed = [
        n
        for n, p in model.named_parameters()
        if p.ndim > 1 and "tokens" not in n and "pos" not in n
    ]
    return decayed, [n for n, _ in model.named_parameters() if n not in set(decayed)]


def _groups(model: Classifier, config: OptimizerConfig) -> list[dict[str, object]]:
    parameters = dict(model.named_parameters())
    decayed, rest = _group_names(model)
    return [
        {"params": [parameters[n] for n in decayed], "weight_decay": config.weight_decay},
        {"params": [parameters[n] for n in rest], "weight_decay": 0.0},
    ]


def _update_average(average: dict[str, Tensor], model: Classifier, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))  # early on the average follows the weights
    for key, value in model.state_dict().items():
        average[key].lerp_(value, 1 - decay)


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines after `step`: the steps that a kill lost are logged again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *lines = file.readlines() or [""]
    whole = [line for line in lines if line.endswith("\n")]  # the kill may have cut the last
    kept = [line for line in whole if int(line.split(",")[0]) <= step]
    if not kept:
        path.unlink()  # the next line writes the header
    elif len(kept) < len(lines):
        with path.open("w", newline="") as file:
            file.writelines([header, *kept])


def _log(path: Path, step: int, loss: float, rate: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "learning_rate", "seconds"])
        writer.writerow([step, f"{loss:.6f}", f"{rate:.3e}", f"{seconds:.0f}"])
