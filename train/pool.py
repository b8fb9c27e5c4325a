"""The feature pool: every training clip, rendered several times, as raw log-mel on disk.

Made once per recipe and seed (minutes), then read as a memory map by every epoch, so that the
training loop on two cores spends its time on the model. A clip that a pool beside it holds,
rendered alike, is copied from there. Features come from `ssast_edge.fbank`, the front end of the
device.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence, Set
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
_RENDERING = 1  # goes up with what this module or the front end make of the same clip
_Rendering = tuple[int, int, NDArray[np.float16]]  # where the word begins and ends, features


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
    how = _digest(_RENDERING, asdict(config), asdict(fbank_config), seed)
    wanted = [_identity(clip, number) for clip, number in zip(clips, variants, strict=True)]
    bins = fbank_config.num_mel_bins
    target = folder / _digest(how, wanted)
    if not (target / "rows.npy").is_file():
        known = _rendered_alike(folder, how, set(wanted), bins)
        with filled_whole(target) as partial:
            tasks = _tasks(clips, variants, wanted, known, config, fbank_config, seed)
            made = {"rendered": how, "clips": wanted}
            (partial / "clips.json").write_text(json.dumps(made), encoding="utf-8")
            _render(partial, wanted, known, tasks, jobs)
    return FeaturePool(*_opened(target, bins), clips)


def _opened(folder: Path, bins: int) -> tuple[NDArray[np.float16], NDArray[np.void]]:
    rows = np.load(folder / "rows.npy", allow_pickle=False)
    return np.memmap(folder / "frames.f16", dtype=np.float16, mode="r").reshape(-1, bins), rows


def _rendered_alike(
    folder: Path, how: str, wanted: Set[str], bins: int
) -> dict[str, list[_Rendering]]:
    """What the pools of a folder hold of wanted clips. One that cannot be read gives nothing."""
    found: dict[str, list[_Rendering]] = {}
    for listing in sorted(folder.glob("[!.]*/clips.json")):  # a dot: being written
        try:
            made = json.loads(listing.read_text(encoding="utf-8"))
            if made["rendered"] == how:
                found.update(_renderings(listing.parent, made["clips"], wanted - set(found), bins))
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            continue
    return found


def _renderings(
    folder: Path, clips: Sequence[str], wanted: Set[str], bins: int
) -> dict[str, list[_Rendering]]:
    """Of the wanted clips, each once. ValueError for a pool that has lost some of its frames."""
    frames, rows = _opened(folder, bins)
    if int((rows["offset"] + rows["frames"]).max()) != len(frames):
        raise ValueError(f"{folder} is not whole")
    owners = {identity: number for number, identity in enumerate(clips) if identity in wanted}
    found: dict[str, list[_Rendering]] = {}
    for row in rows[np.isin(rows["clip"], list(owners.values()))]:
        first = int(row["offset"])
        rendering = int(row["start"]), int(row["end"]), frames[first : first + row["frames"]]
        found.setdefault(clips[row["clip"]], []).append(rendering)
    return found


def _tasks(
    clips: Sequence[Clip],
    variants: Sequence[int],
    wanted: Sequence[str],
    known: Mapping[str, list[_Rendering]],
    config: WaveformAugmentConfig,
    fbank_config: FbankConfig,
    seed: int,
) -> list[_Task]:
    """Of the clips that are not known, a few clips each, in order."""
    left = [i for i, identity in enumerate(wanted) if identity not in known]
    tasks = []
    for first in range(0, len(left), _TASK_CLIPS):
        numbers = left[first : first + _TASK_CLIPS]
        its_clips, its_variants = [clips[i] for i in numbers], [variants[i] for i in numbers]
        tasks.append(_Task(its_clips, its_variants, config, fbank_config, seed))
    return tasks


def _render(
    partial: Path,
    wanted: Sequence[str],
    known: Mapping[str, list[_Rendering]],
    tasks: Sequence[_Task],
    jobs: int,
) -> None:
    rows: list[tuple[int, int, int, int, int]] = []
    skipped: list[str] = []
    offset = 0

    def keep(clip: int, renderings: Iterable[_Rendering]) -> None:
        nonlocal offset
        for start, end, features in renderings:
            file.write(features.tobytes())
            rows.append((offset, len(features), clip, start, end))
            offset += len(features)

    with (
        (partial / "frames.f16").open("wb") as file,
        ProcessPoolExecutor(jobs) as pool,
        tqdm(total=len(wanted), desc="feature pool", unit="clip", mininterval=2) as progress,
    ):
        rendered = itertools.chain.from_iterable(pool.map(_render_task, tasks))
        # In the clips' order, whatever was copied: the same pool to the bit.
        for number, identity in enumerate(wanted):
            its = known.get(identity) or next(rendered)
            if isinstance(its, str):
                skipped.append(its)
            else:
                keep(number, its)
            progress.update()
    if not rows:
        first = f", the first: {skipped[0]}" if skipped else ""
        raise ValueError(f"none of {len(wanted)} training clips could be used{first}")
    np.save(partial / "rows.npy", np.array(rows, dtype=ROW))
    (partial / "skipped.json").write_text(json.dumps(skipped, indent=2))
    if skipped:
        tqdm.write(f"{len(skipped)} of {len(wanted)} clips left out, the first: {skipped[0]}")


def _render_task(task: _Task) -> list[list[_Rendering] | str]:
    return [_rendered(*one, task) for one in zip(task.clips, task.variants, strict=True)]


def _rendered(clip: Clip, variants: int, task: _Task) -> list[_Rendering] | str:
    """A clip's renderings, or why there are none."""
    try:
        samples = read_audio(clip.path)
    except SsastEdgeError as error:
        return str(error)
    plain = fbank(samples, task.fbank)
    start, end = _extent(clip, plain)
    if len(plain) == 0 or end - start > _LONGEST_WORD:
        return f"{clip.path}: no word found, or shorter than a frame"
    found = [(start, end, plain.astype(np.float16))]
    # By its name: the same in any list of clips, wherever the data lie.
    rng = np.random.default_rng([task.seed, *os.fsencode("/".join(clip.path.parts[-2:]))])
    for _ in range(variants - 1):
        changed, speed = augment_waveform(samples, task.config, rng)
        features = fbank(changed, task.fbank).astype(np.float16)
        scaled = int(start / speed), min(len(features), int(np.ceil(end / speed)))
        found.append((*scaled, features))
    return found


def _extent(clip: Clip, features: NDArray[np.float32]) -> tuple[int, int]:
    """A synthesised word fills its clip, a recorded one is looked for; running speech has none."""
    if clip.pack == "synthetic":
        return (0, len(features)) if clip.kind in ("keyword", "near-miss") else (0, 0)
    if clip.kind in ("keyword", "word") and len(features) > 20:
        return word_extent(features)
    return 0, 0


def _identity(clip: Clip, variants: int) -> str:
    """What a clip's renderings depend on beside how all are rendered."""
    path = clip.path.resolve()
    try:
        status = path.stat()
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        state = "missing"
    return f"{clip.pack} {clip.kind} {variants} {state} {path}"


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
