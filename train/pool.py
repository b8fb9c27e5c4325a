"""The feature pool: every training clip, rendered several times, as raw log-mel on disk.

Made once per recipe and seed (minutes), then read as a memory map by every epoch, so that the
training loop on two cores spends its time on the model. Features come from `ssast_edge.fbank`, the
front end of the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.alignment import word_extent
from ssast_edge.fbank import FbankConfig, fbank
from train.augment import WaveformAugmentConfig, augment_waveform
from train.data.partial import filled_whole
from train.packs import Clip

__all__ = ["FeaturePool", "make_pool"]

# One row a rendering of a clip; frames index into the pool's frame array.
ROW = np.dtype(
    [
        ("offset", np.int64),  # first frame
        ("frames", np.int32),
        ("clip", np.int32),  # index into the list of clips
        ("start", np.int32),  # extent of the word, frames from the offset; 0, 0 where not known
        ("end", np.int32),
    ]
)
_LONGEST_WORD = 140  # frames; a longer extent is a failed alignment, not a word
_TASK_CLIPS = 16


@dataclass(frozen=True)
class FeaturePool:
    """Memory-mapped log-mel of all renderings. frames: (N, mel bins) float16; rows: ROW."""

    frames: NDArray[np.float16]
    rows: NDArray[np.void]
    clips: Sequence[Clip]

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the log-mel values, over a fixed sample of frames."""
        sample = self.frames[:: max(1, len(self.frames) // 50_000)].astype(np.float64)
        return float(sample.mean()), float(sample.std())


@dataclass(frozen=True)
class _Task:
    first: int  # index of the first clip
    clips: Sequence[Clip]
    variants: Sequence[int]
    config: WaveformAugmentConfig
    fbank: FbankConfig
    seed: int


def make_pool(
    folder: Path,
    clips: Sequence[Clip],
    variants: Sequence[int],
    *,
    config: WaveformAugmentConfig,
    fbank_config: FbankConfig,
    seed: int,
    jobs: int,
) -> FeaturePool:
    """Render each clip `variants[i]` times, the first unaugmented; reuse the pool of an equal call.

    A clip that does not decode or whose word is not found is left out and named at the end.
    """
    key = _key(clips, variants, config, fbank_config, seed)
    target = folder / key
    if not (target / "rows.npy").is_file():
        with filled_whole(target) as partial:
            _render(partial, clips, variants, config, fbank_config, seed, jobs)
    rows = np.load(target / "rows.npy", allow_pickle=False)
    bins = fbank_config.num_mel_bins
    frames = np.memmap(target / "frames.f16", dtype=np.float16, mode="r").reshape(-1, bins)
    return FeaturePool(frames, rows, clips)


def _render(
    partial: Path,
    clips: Sequence[Clip],
    variants: Sequence[int],
    config: WaveformAugmentConfig,
    fbank_config: FbankConfig,
    seed: int,
    jobs: int,
) -> None:
    tasks = [
        _Task(
            i, clips[i : i + _TASK_CLIPS], variants[i : i + _TASK_CLIPS], config, fbank_config, seed
        )
        for i in range(0, len(clips), _TASK_CLIPS)
    ]
    rows: list[tuple[int, int, int, int, int]] = []
    skipped: list[str] = []
    offset = 0
    with (
        (partial / "frames.f16").open("wb") as file,
        ProcessPoolExecutor(jobs) as pool,
        tqdm(total=len(clips), desc="feature pool", unit="clip", mininterval=2) as progress,
    ):
        for task, (renderings, problems) in zip(tasks, pool.map(_render_task, tasks), strict=True):
            skipped += problems
            for clip, start, end, features in renderings:
                file.write(features.tobytes())
                rows.append((offset, len(features), clip, start, end))
                offset += len(features)
            progress.update(len(task.clips))
    if not rows:
        first = f", the first: {skipped[0]}" if skipped else ""
        raise ValueError(f"none of {len(clips)} training clips could be used{first}")
    np.save(partial / "rows.npy", np.array(rows, dtype=ROW))
    (partial / "skipped.json").write_text(json.dumps(skipped, indent=2))
    if skipped:
        tqdm.write(f"{len(skipped)} of {len(clips)} clips left out, the first: {skipped[0]}")


def _render_task(task: _Task) -> tuple[list[tuple[int, int, int, NDArray[np.float16]]], list[str]]:
    renderings = []
    problems = []
    for number, (clip, variants) in enumerate(
        zip(task.clips, task.variants, strict=True), task.first
    ):
        try:
            samples = read_audio(clip.path)
        except SsastEdgeError as error:
            problems.append(str(error))
            continue
        plain = fbank(samples, task.fbank)
        start, end = _extent(clip, plain)
        if len(plain) == 0 or end - start > _LONGEST_WORD:
            problems.append(f"{clip.path}: no word found, or shorter than a frame")
            continue
        renderings.append((number, start, end, plain.astype(np.float16)))
        rng = np.random.default_rng([task.seed, number])
        for _ in range(variants - 1):
            changed, speed = augment_waveform(samples, task.config, rng)
            features = fbank(changed, task.fbank).astype(np.float16)
            scaled = int(start / speed), min(len(features), int(np.ceil(end / speed)))
            renderings.append((number, *scaled, features))
    return renderings, problems


def _extent(clip: Clip, features: NDArray[np.float32]) -> tuple[int, int]:
    """A synthesised word fills its clip, a recorded one is looked for; running speech has none."""
    if clip.pack == "synthetic":
        return (0, len(features)) if clip.kind in ("keyword", "near-miss") else (0, 0)
    if clip.kind in ("keyword", "word") and len(features) > 20:
        return word_extent(features)
    return 0, 0


def _key(
    clips: Iterable[Clip],
    variants: Sequence[int],
    config: WaveformAugmentConfig,
    fbank_config: FbankConfig,
    seed: int,
) -> str:
    text = json.dumps(
        [
            [str(clip.path) for clip in clips],
            list(variants),
            asdict(config),
            asdict(fbank_config),
            seed,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
