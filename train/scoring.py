"""Scores of whole clips: a classifier over one or several windows of each, by every process."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.fbank import FbankConfig
from train.corpus import Part
from train.data.clips import ClipConfig, cut_windows
from train.data.source import DecodeError
from train.model import Classifier

__all__ = ["score_clips", "targets_of"]

_BATCH = 64  # windows


@torch.no_grad()
def score_clips(
    model: Classifier,
    part: Part,
    clips: ClipConfig,
    fbank_config: FbankConfig,
    *,
    fabric: Fabric,
    softmax: bool,
    progress: bool = False,
) -> NDArray[np.float32]:
    """(examples, classes) probabilities, the mean over `clips.validation_windows` windows.

    Under several processes each scores its share; all of them return the whole table. The row of a
    recording that cannot be read is nan.
    """
    head = model.head[1]
    assert isinstance(head, torch.nn.Linear)
    table = torch.zeros(len(part), head.out_features, device=fabric.device)
    mine = range(fabric.global_rank, len(part), fabric.world_size)
    windows: list[NDArray[np.float32]] = []
    owners: list[int] = []

    def flush() -> None:
        if windows:
            logits = model(torch.from_numpy(np.stack(windows)).to(fabric.device)).float()
            scores = logits.softmax(dim=1) if softmax else logits.sigmoid()
            table.index_add_(0, torch.tensor(owners, device=fabric.device), scores)
        windows.clear()
        owners.clear()

    counts = np.ones(len(part), dtype=np.float32)
    for index in tqdm(mine, unit="clip", disable=not progress):
        try:
            samples = part.samples(index)
        except DecodeError as error:
            tqdm.write(f"left out: {error}")
            table[index] = torch.nan
            continue
        cut = cut_windows(samples, clips, fbank_config, clips.validation_windows)
        counts[index] = len(cut)
        for window in cut:
            windows.append(window)
            owners.append(index)
            if len(windows) == _BATCH:
                flush()
    flush()
    table /= torch.from_numpy(counts).to(fabric.device)[:, None]
    whole = fabric.all_reduce(table, reduce_op="sum")
    return torch.as_tensor(whole).cpu().numpy()


def targets_of(part: Part, classes: tuple[str, ...]) -> NDArray[np.float32]:
    """(examples, classes) of 0 and 1."""
    number = {label: i for i, label in enumerate(classes)}
    targets = np.zeros((len(part), len(classes)), dtype=np.float32)
    for row, example in zip(targets, part.examples, strict=True):
        for label in example.labels:
            row[number[label]] = 1
    return targets
