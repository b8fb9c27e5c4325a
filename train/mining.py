"""Windows that a model gets wrong on long training audio, for its next round of training.

    python -m train mine runs/wake-words/last --data DIR --out runs/mined/round-1.npz

The checkpoint runs as the device runs it over tracks of training recordings, clean and in noise;
what it takes for a keyword and is none, and the keywords that it misses, become windows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.evaluation.matching import TOLERANCE_S
from ssast_edge.evaluation.noise import mix_noise
from ssast_edge.evaluation.scores import HopScores, run_bundle
from ssast_edge.evaluation.track import Track, build_track
from ssast_edge.fbank import fbank
from train.checkpoint import load_checkpoint
from train.export import export_bundle
from train.packs import Clip
from train.recipe import KeywordRecipe, RecipeError
from train.training_set import training_set
from train.triggers import as_recording

__all__ = ["MinedWindows", "load_mined", "mine_track", "mine_checkpoint", "training_clips"]

_FALSE = 0.1  # score from which a wrong hop is worth training on
_MISSED = 0.7  # a keyword whose best score stays below is
_APART_S = 0.32  # between two windows of one false accept
_BLOCK_HOURS = 0.5  # of a track at a time: memory


@dataclass(frozen=True)
class MinedWindows:
    """windows: (M, frames, bins) float16 raw log-mel; targets: (M, labels) 0 or 1."""

    labels: tuple[str, ...]
    windows: NDArray[np.float16]
    targets: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """One .npz of plain arrays, by rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.tmp.npz")
        np.savez(partial, labels=np.array(self.labels), windows=self.windows, targets=self.targets)
        partial.rename(path)


def load_mined(
    files: Sequence[Path], classes: tuple[str, ...], num_frames: int
) -> tuple[NDArray[np.float16], NDArray[np.float32]] | None:
    """Windows and targets over `classes`, all files together; None where there are no files."""
    windows, targets = [], []
    for path in files:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                labels = [str(x) for x in arrays["labels"]]
                found, marks = arrays["windows"], arrays["targets"]
        except (OSError, ValueError, KeyError) as error:
            raise RecipeError(f"{path}: no mined windows: {error}") from error
        unknown = sorted(set(labels) - set(classes))
        if unknown or found.shape[1] != num_frames:
            raise RecipeError(
                f"{path}: mined windows of {found.shape[1]} frames with labels "
                f"{', '.join(labels)}; the recipe wants {num_frames} frames"
                + (f" and has no {unknown[0]}" if unknown else "")
            )
        windows.append(found)
        spread = np.zeros((len(found), len(classes)), np.float32)
        spread[:, [classes.index(label) for label in labels]] = marks
        targets.append(spread)
    return (np.concatenate(windows), np.concatenate(targets)) if windows else None


def training_clips(checkpoint: Path, data: Path, synthetic: Sequence[Path]) -> list[Clip]:
    """The clips that a keyword checkpoint's recipe trains on."""
    recipe = load_checkpoint(checkpoint).recipe
    if not isinstance(recipe, KeywordRecipe):
        raise RecipeError(f"{checkpoint}: task is {recipe.task!r}, wanted 'keywords'")
    return training_set(recipe, data, synthetic, "train")


def mine_checkpoint(
    checkpoint: Path, clips: Sequence[Clip], *, hours: float, snrs_db: Sequence[float], seed: int
) -> MinedWindows:
    """Mine tracks of those clips (training ones), each part of half an hour in one condition.

    snrs_db: of the noisy parts; every third part is clean. Noise is the steady sounds among clips.
    """
    noise = [read_audio(c.path) for c in clips if c.kind == "sound"]
    parts = list(_parts(clips, hours, seed))
    found: list[tuple[NDArray[np.float16], NDArray[np.float32]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        export_bundle(checkpoint, Path(temporary) / "draft")
        bundle = load_bundle(Path(temporary) / "draft")
        for number, part in enumerate(tqdm(parts, desc="mining", unit="part")):
            rng = np.random.default_rng([seed, number])
            track = build_track([as_recording(c, bundle.labels) for c in part], seed=seed + number)
            samples = track.samples[:]
            if number % 3 and snrs_db:
                snr_db = float(rng.choice(list(snrs_db)))
                samples = mix_noise(track, noise, snr_db=snr_db, seed=seed + number)[:]
            found += mine_track(bundle, track, samples)
    if not found:
        raise ValueError("nothing was got wrong: no window to mine")
    windows, targets = zip(*found, strict=True)
    return MinedWindows(bundle.labels, np.stack(windows), np.stack(targets))


def mine_track(
    bundle: Bundle, track: Track, samples: NDArray[np.float32]
) -> list[tuple[NDArray[np.float16], NDArray[np.float32]]]:
    """(window, target) of every false peak and every missed word of a track."""
    hops = run_bundle(bundle, samples)
    found = []
    window_s = bundle.window_frames * bundle.fbank.hop_ms / 1000
    for time_s in [*_false_times(hops, track), *_missed_times(hops, track)]:
        target = _target(bundle.labels, track, time_s, window_s)
        window = _window(bundle, samples, time_s)
        if target is not None and window is not None:
            found.append((window, target))
    return found


def _parts(clips: Sequence[Clip], hours: float, seed: int) -> Iterator[list[Clip]]:
    """Clips in seeded order, in parts of about half an hour, as many as hold `hours`."""
    order = np.random.default_rng(seed).permutation(len(clips))
    seconds = {"keyword": 4.0, "speech": 7.0, "sound": 6.0}
    part: list[Clip] = []
    length = total = 0.0
    for index in order:
        clip = clips[index]
        if clip.pack == "synthetic" and clip.kind == "sound":
            continue  # under the others, never alone
        part.append(clip)
        length += seconds.get(clip.kind, 2.0)
        if length >= _BLOCK_HOURS * 3600:
            yield part
            total += length
            part, length = [], 0.0
            if total >= hours * 3600:
                return
    if part:
        yield part


def _false_times(hops: HopScores, track: Track) -> list[float]:
    """Times of local peaks of labels that nobody says there."""
    times: list[float] = []
    for index, label in enumerate(hops.labels):
        if label not in {word.label for word in track.words}:
            continue
        scores = hops.scores[:, index].copy()
        for word in track.words:
            if word.label == label:
                near = (hops.times_s >= word.start_s) & (hops.times_s <= word.end_s + TOLERANCE_S)
                scores[near] = 0.0
        last = -np.inf
        for hop in np.flatnonzero(scores >= _FALSE):
            if hops.times_s[hop] - last >= _APART_S:
                last = float(hops.times_s[hop])
                times.append(last)
    return times


def _missed_times(hops: HopScores, track: Track) -> list[float]:
    """Moments after the end of words whose score stayed low."""
    times = []
    for word in track.words:
        scores = hops.scores[:, hops.labels.index(word.label)]
        near = (hops.times_s >= word.start_s) & (hops.times_s <= word.end_s + TOLERANCE_S)
        if near.any() and scores[near].max() < _MISSED:
            times += [word.end_s + 0.05, word.end_s + 0.2]
    return times


def _target(
    labels: tuple[str, ...], track: Track, time_s: float, window_s: float
) -> NDArray[np.float32] | None:
    """What a window that ends then holds; None where a word is in it, but hardly or nearly."""
    target = np.zeros(len(labels), np.float32)
    for word in track.words:
        if word.end_s < time_s - window_s or word.start_s > time_s:
            continue
        if word.start_s >= time_s - window_s and word.end_s <= time_s + 0.02:
            if time_s - word.end_s < TOLERANCE_S - 0.05:
                target[labels.index(word.label)] = 1.0
            elif time_s - word.end_s < TOLERANCE_S + 0.1:
                return None
        else:
            inside = min(word.end_s, time_s) - max(word.start_s, time_s - window_s)
            if inside > 0.65 * (word.end_s - word.start_s):
                return None
    return target


def _window(
    bundle: Bundle, samples: NDArray[np.float32], time_s: float
) -> NDArray[np.float16] | None:
    config = bundle.fbank
    length = (bundle.window_frames - 1) * config.hop_samples + config.window_samples
    stop = round(time_s * config.sample_rate)
    if stop < length or stop > len(samples):
        return None
    return fbank(samples[stop - length : stop], config).astype(np.float16)
