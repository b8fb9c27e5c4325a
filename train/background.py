"""Background embeddings of a bundle: what its encoder gives for training audio without a new word.

python -m train background BUNDLE --data DIR --synthetic runs/synthetic

They go into the bundle as one .npz in half precision, from which a device learns words
(`ssast_edge/enrollment`). The space that they are kept in is the one in which recordings of the
training words differ most for their spread around their own word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.bundle import Bundle, bundle_parts, is_shipped, rewrite_bundle
from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.recordings import Spoken, word_windows
from ssast_edge.evaluation.alignment import word_extent
from ssast_edge.fbank import fbank
from train.onnx_graph import EMBEDDED_BLOCKS
from train.packs import Clip, read_packs, read_synthetic

__all__ = ["BACKGROUND", "add_background", "background_clips", "fit_background"]

FloatArray = NDArray[np.float32]

BACKGROUND = "background.npz"
SPEECH_PACKS = ("librispeech", "speechocean", "esc10", "background_noise")
WORD_PACKS = ("speech_commands", "wake_words")
SPACING_S = 0.64  # between two windows of running audio
CLIPS_PER_WORD = 50
FEWEST_VOICES, MOST_VOICES = 5, 8  # of a synthetic text that counts as a word
# Evaluation enrolls these: they may not be among what the space was made for.
HELD_OUT_WORDS = frozenset({"yes", "no", "on", "off", "stop"})
WINDOWS = 3000  # that are kept
SEGMENT_RANK, RANK = 64, 160
_LARGEST_GAIN_DB, _SMALLEST_GAIN_DB = 4.0, -14.0
_WITHIN_RIDGE = 0.1  # of the mean variance within words, where few recordings tell of it


def background_clips(root: Path, synthetic: Sequence[Path] = ()) -> tuple[list[Clip], list[Clip]]:
    """Running audio, and words said alone, of the training split.

    Telephone sentences with wake-up words in them (wuw) are left out: what is enrolled must not
    be among the background. synthetic: folders of `train.synthesize`, whose near misses are
    hundreds of words that several voices say; people say a score.
    """
    running = [c for c in read_packs(root, SPEECH_PACKS) if c.split == "train"]
    words: list[Clip] = []
    counts: dict[str, int] = {}
    for clip in read_packs(root, WORD_PACKS):
        if clip.split == "train" and clip.kind in ("word", "keyword"):
            counts[clip.word] = counts.get(clip.word, 0) + 1
            if counts[clip.word] <= CLIPS_PER_WORD:
                words.append(clip)
    return running, words + [clip for folder in synthetic for clip in _synthetic_words(folder)]


def _synthetic_words(folder: Path) -> Iterator[Clip]:
    """Texts that several training voices say, of each as many voices at most."""
    said: dict[str, dict[str, Clip]] = {}  # by text and voice
    for clip in read_synthetic(folder):
        if clip.kind != "near-miss" or clip.split != "train":
            continue
        if not HELD_OUT_WORDS & set(clip.word.split()):
            said.setdefault(clip.word, {}).setdefault(clip.speaker, clip)
    for _, voices in sorted(said.items()):
        if len(voices) >= FEWEST_VOICES:
            yield from list(voices.values())[:MOST_VOICES]


def add_background(
    bundle: Bundle,
    root: Path,
    out: Path | None = None,
    *,
    synthetic: Sequence[Path] = (),
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Bundle:
    """Write the bundle with background embeddings of the packs below `root`; `out` None: in place.

    progress: called with recordings done and all of them. Raises ValueError for a bundle whose
    graph gives no embedding.
    """
    if bundle.embedding is None:
        raise ValueError(f"bundle {bundle.name} gives no embedding: export it again")
    if bundle.enrolled:
        raise ValueError(f"bundle {bundle.name} has enrolled words: take one without")
    if out is None and is_shipped(bundle):
        raise ValueError(f"bundle {bundle.name} belongs to the installed package: give --out DIR")
    running, words = background_clips(root, synthetic)
    found = fit_background(bundle, running, words, seed=seed, progress=progress)
    manifest, files = bundle_parts(bundle)
    manifest["embedding"] = {**manifest["embedding"], "background": BACKGROUND}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / BACKGROUND
        np.savez_compressed(path, **_halved(found))
        return rewrite_bundle(bundle, out or bundle.path, manifest, {**files, BACKGROUND: path})


def fit_background(
    bundle: Bundle,
    running: Sequence[Clip],
    words: Sequence[Clip],
    *,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Background:
    """The background from running audio and from words said alone, by the bundle's float model."""
    from ssast_edge.backends import open_backend

    rng = np.random.default_rng(seed)
    backend = open_backend(bundle, kind="onnx", precision="fp32", embeds=True)
    total = len(running) + len(words)

    def embed(windows: Iterator[FloatArray]) -> list[FloatArray]:
        return [backend.infer_both(np.ascontiguousarray(w))[1] for w in windows]

    speech: list[FloatArray] = []
    alone: list[list[FloatArray]] = []
    for number, clip in enumerate((*running, *words)):
        samples = read_audio(clip.path)
        gain_db = rng.uniform(_SMALLEST_GAIN_DB, _LARGEST_GAIN_DB)
        samples = (samples * np.float32(10 ** (gain_db / 20))).clip(-1, 1)
        if number < len(running):
            speech += embed(_windows(samples, bundle, rng))
        else:
            alone.append(embed(_ends(samples, bundle, number)))
        if progress is not None:
            progress(number + 1, total)
    backend.close()
    labels = np.array([clip.word for clip in words])
    return _fit(np.stack(speech), np.array(alone), labels, rng)


def _windows(samples: FloatArray, bundle: Bundle, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Windows of running audio SPACING_S apart, (T, F), after a stretch of room tone."""
    config, frames = bundle.fbank, bundle.window_frames
    tone = (1e-4 * rng.standard_normal(frames * config.hop_samples)).astype(np.float32)
    features = fbank(np.concatenate([tone, samples]), config)
    step = round(SPACING_S * 1000 / config.hop_ms)
    for stop in range(frames + int(rng.integers(step)), len(features), step):
        yield features[stop - frames : stop]


def _ends(samples: FloatArray, bundle: Bundle, seed: int) -> Iterator[FloatArray]:
    """Windows that end with the word of a recording, or a little later."""
    first, last = word_extent(fbank(samples, bundle.fbank))
    hop_s = bundle.fbank.hop_ms / 1000
    longest = bundle.window_frames - 1
    spoken = Spoken("", samples, max(first, last - longest) * hop_s, last * hop_s)
    yield from word_windows(spoken, bundle, seed)[::2]


def _fit(
    speech: FloatArray, alone: FloatArray, labels: NDArray[np.str_], rng: np.random.Generator
) -> Background:
    """speech: (N, S, W); alone: (M, windows, S, W), one row of labels (M,) each."""
    segments, width = speech.shape[1:]
    rows = np.concatenate([speech.reshape(-1, width), alone.reshape(-1, width)])
    rows = rows[rng.permutation(len(rows))[:60_000]]
    segment_mean = rows.mean(axis=0)
    segment_basis = _blockwise_basis(rows - segment_mean)
    size = segment_basis.shape[1]

    def flat(vectors: FloatArray) -> FloatArray:
        segmented: FloatArray = (vectors - segment_mean) @ segment_basis
        return segmented.reshape(*vectors.shape[:-2], segments * size)

    quiet, said = flat(speech), flat(alone)
    mixed = np.concatenate([quiet, said.reshape(-1, segments * size)])
    mean = mixed.mean(axis=0)
    within = _within(said, labels)
    basis = _discriminating(np.cov((mixed - mean).T), within, min(RANK, len(mean)))
    spread = ((mixed - mean) @ basis).std(axis=0)
    told = spread > 1e-3 * spread.max()  # few recordings span few directions
    basis = basis[:, told] / spread[told]
    windows, mixed = (quiet - mean) @ basis, (mixed - mean) @ basis
    chosen = rng.permutation(len(windows))[:WINDOWS]
    kept = {
        "segment_mean": segment_mean, "segment_basis": segment_basis,
        "mean": mean, "basis": basis,
        "centre": mixed.mean(axis=0), "covariance": np.cov(mixed.T),
        "within": basis.T @ within @ basis, "windows": windows[chosen],
    }  # fmt: skip
    return Background(**{name: np.asarray(a, np.float32) for name, a in kept.items()})


def _blockwise_basis(rows: FloatArray) -> FloatArray:
    """(W, SEGMENT_RANK): principal directions of each embedded block, unit variance along each."""
    width = rows.shape[1]
    blocks = EMBEDDED_BLOCKS if width % EMBEDDED_BLOCKS == 0 else 1
    each, size = width // blocks, min(SEGMENT_RANK // blocks, width // blocks)
    basis = np.zeros((width, blocks * size), np.float32)
    for number in range(blocks):
        own = slice(number * each, (number + 1) * each)
        values, vectors = np.linalg.eigh(np.cov(rows[:, own].T))
        values, vectors = values[::-1][:size], vectors[:, ::-1][:, :size]
        scaled = vectors / np.sqrt(np.maximum(values, 1e-6 * values[0]))
        basis[own, number * size : (number + 1) * size] = scaled
    return basis


def _within(said: FloatArray, labels: NDArray[np.str_]) -> NDArray[np.float64]:
    """Covariance of recordings around the mean of their word."""
    centred = np.empty(said.shape, np.float64)
    for label in np.unique(labels):
        own = labels == label
        centred[own] = said[own] - said[own].mean(axis=(0, 1))
    rows = centred.reshape(-1, said.shape[-1])
    return np.asarray(rows.T @ rows / len(rows))


def _discriminating(
    total: NDArray[np.float64], within: NDArray[np.float64], rank: int
) -> NDArray[np.float64]:
    """(D, rank) directions in which all audio spreads most for the spread within words."""
    ridge = _WITHIN_RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    root = np.linalg.inv(np.linalg.cholesky(within + ridge))
    _, vectors = np.linalg.eigh(root @ total @ root.T)
    return np.asarray(root.T @ vectors[:, ::-1][:, :rank])


def _halved(found: Background) -> dict[str, Any]:
    return {name: np.asarray(array, np.float16) for name, array in vars(found).items()}
