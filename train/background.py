"""Background embeddings of a bundle: what its encoder gives for training audio without a new word.

python -m train background BUNDLE --data DIR --synthetic runs/synthetic

They go into the bundle as one .npz, from which a device learns words
(`ssast_edge/enrollment`), with how much recordings of one and the same word differ.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.bundle import Bundle, bundle_parts, is_shipped, rewrite_bundle
from ssast_edge.enrollment.background import Background, packed
from ssast_edge.enrollment.recordings import Spoken, in_room, rows_in, word_windows
from ssast_edge.enrollment.stretches import parts_of
from ssast_edge.evaluation.alignment import word_extent
from ssast_edge.fbank import fbank
from train.onnx_graph import EMBEDDED_BLOCKS
from train.packs import Clip, read_packs, read_synthetic
from train.telephone import telephone_speech

__all__ = [
    "BACKGROUND",
    "add_background",
    "background_clips",
    "fit_background",
    "noise_as_loud",
]

FloatArray = NDArray[np.float32]

BACKGROUND = "background.npz"
SPEECH_PACKS = ("librispeech", "speechocean", "esc10", "background_noise")
WORD_PACKS = ("speech_commands", "wake_words")
SPACING_S = 0.64  # between two windows of running audio
CLIPS_PER_WORD = 50
FEWEST_VOICES, MOST_VOICES = 5, 8  # of a synthetic text that counts as a word
# Evaluation enrolls these: they, and what sounds the same, may not be what the space was made for.
HELD_OUT_WORDS = frozenset({"yes", "no", "know", "on", "off", "stop"})
WINDOWS = 12_000  # that are kept, at most: of 3000 a quarter more words are missed
RANK = 48  # numbers of a row
WHITENING = 0.25  # exponent of a direction's variance
_LARGEST_GAIN_DB, _SMALLEST_GAIN_DB = 4.0, -14.0
_NOISE_DB = (5.0, 25.0)  # of a word above the noise
# Of the running audio that lies in noise: noise alone shall lead towards no word.
_NOISY_SHARE = 0.5


def background_clips(root: Path, synthetic: Sequence[Path] = ()) -> tuple[list[Clip], list[Clip]]:
    """Running audio, and words said alone, of the training split.

    Telephone sentences hold wake-up words, of which no background may: `telephone_speech` gives the
    rest of them. synthetic: folders of `train.synthesize`, whose near misses are
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
    return running, [*words, *_synthetic_words(synthetic)]


def _synthetic_words(folders: Sequence[Path]) -> Iterator[Clip]:
    """Texts that several training voices say, of each as many voices at most."""
    said: dict[str, dict[str, Clip]] = {}  # by text and voice
    for clip in itertools.chain.from_iterable(map(read_synthetic, folders)):
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
    telephone = telephone_speech(root, "train")
    noise = [c for c in read_packs(root, ("background_noise",)) if c.split == "train"]
    found = fit_background(
        bundle, [*running, *telephone], words, noise=noise, seed=seed, progress=progress
    )
    manifest, files = bundle_parts(bundle)
    manifest["embedding"] = {**manifest["embedding"], "background": BACKGROUND}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / BACKGROUND
        np.savez_compressed(path, **packed(found))
        return rewrite_bundle(bundle, out or bundle.path, manifest, {**files, BACKGROUND: path})


def fit_background(
    bundle: Bundle,
    running: Sequence[Clip | FloatArray],
    words: Sequence[Clip],
    *,
    noise: Sequence[Clip],
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Background:
    """The background from running audio and from words said alone, by the bundle's float model.

    noise: what lies under some of the running audio, and under each of the words once more, so that
    what noise does to a word counts as no difference between recordings of it.
    """
    from ssast_edge.backends import open_backend

    rng = np.random.default_rng(seed)
    backend = open_backend(bundle, kind="onnx", precision="fp32", embeds=True)
    total = len(running) + len(words)

    def embed(windows: Iterable[FloatArray]) -> list[FloatArray]:
        return [backend.infer_both(np.ascontiguousarray(w))[1] for w in windows]

    noises = [read_audio(clip.path) for clip in noise]
    if not noises:
        raise ValueError("no recording of background noise: words cannot be learned in noise")
    speech: list[FloatArray] = []
    alone: list[list[FloatArray]] = []
    lengths: list[float] = []
    for number, clip in enumerate((*running, *words)):
        samples = read_audio(clip.path) if isinstance(clip, Clip) else clip
        gain_db = rng.uniform(_SMALLEST_GAIN_DB, _LARGEST_GAIN_DB)
        samples = (samples * np.float32(10 ** (gain_db / 20))).clip(-1, 1)
        if number < len(running):
            if rng.random() < _NOISY_SHARE:
                whole = Spoken("", samples, 0.0, len(samples) / bundle.fbank.sample_rate)
                samples = _in_noise(whole, bundle.fbank.sample_rate, noises, rng).samples
            speech += embed(_windows(samples, bundle, rng))
        else:
            length, windows = _said(samples, bundle, noises, rng, number)
            lengths.append(length)
            alone.append(embed(windows))
        if progress is not None:
            progress(number + 1, total)
    backend.close()
    labels = np.array([clip.word for clip in words])
    return _fit(np.stack(speech), np.array(alone), np.array(lengths), labels, rng)


def _windows(samples: FloatArray, bundle: Bundle, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Windows of running audio SPACING_S apart, (T, F), after a stretch of room tone."""
    config, frames = bundle.fbank, bundle.window_frames
    tone = (1e-4 * rng.standard_normal(frames * config.hop_samples)).astype(np.float32)
    features = fbank(np.concatenate([tone, samples]), config)
    step = round(SPACING_S * 1000 / config.hop_ms)
    for stop in range(frames + int(rng.integers(step)), len(features), step):
        yield features[stop - frames : stop]


def _said(
    samples: FloatArray,
    bundle: Bundle,
    noises: Sequence[FloatArray],
    rng: np.random.Generator,
    seed: int,
) -> tuple[float, FloatArray]:
    """How many rows of an embedding the word of a recording is long, and windows that end with it.

    Or a little later, as `word_windows` gives them; the same once more in noise.
    """
    assert bundle.embedding is not None
    first, last = word_extent(fbank(samples, bundle.fbank))
    hop_s = bundle.fbank.hop_ms / 1000
    longest = bundle.window_frames - 1
    spoken = Spoken("", samples, max(first, last - longest) * hop_s, last * hop_s)
    rows = rows_in(spoken, bundle, bundle.embedding.segments)
    plain = in_room(spoken, bundle, seed)
    forms = (plain, _in_noise(plain, bundle.fbank.sample_rate, noises, rng))
    return rows, np.concatenate([word_windows(form, bundle, seed) for form in forms])


def _in_noise(
    spoken: Spoken, rate: int, noises: Sequence[FloatArray], rng: np.random.Generator
) -> Spoken:
    """The recording with some noise under all of it, so far below the word."""
    under = noise_as_loud(spoken, len(spoken.samples), rate, noises, rng)
    below_db = rng.uniform(*_NOISE_DB)
    noisy = (spoken.samples + under * 10 ** (-below_db / 20)).clip(-1, 1)
    return replace(spoken, samples=noisy.astype(np.float32))


def noise_as_loud(
    spoken: Spoken, size: int, rate: int, noises: Sequence[FloatArray], rng: np.random.Generator
) -> FloatArray:
    """A stretch (size,) of one of the noises, repeated where it is short, as loud as the word."""
    noise = noises[int(rng.integers(len(noises)))]
    cut = np.resize(noise[int(rng.integers(max(1, len(noise) - size))) :], size)
    word = spoken.samples[int(spoken.start_s * rate) : int(spoken.end_s * rate)]
    return np.asarray(cut * np.sqrt(np.mean(word**2) / (np.mean(cut**2) + 1e-12)), np.float32)


def _fit(
    running: FloatArray,
    said: FloatArray,
    lengths: NDArray[np.float64],
    labels: NDArray[np.str_],
    rng: np.random.Generator,
) -> Background:
    """running: (N, S, W); said: (M, windows, S, W) of words, their rows and labels (M,) each."""
    width = running.shape[-1]
    rows = np.concatenate([running.reshape(-1, width), said.reshape(-1, width)])
    rows = rows[rng.permutation(len(rows))[:60_000]]
    mean = rows.mean(axis=0)
    basis = _blockwise_basis(rows - mean)
    found = Background(
        mean=mean,
        basis=basis,
        within=np.zeros((0, 0), np.float32),
        windows=np.zeros((0, 0, 0), np.float32),
    )
    parts = np.stack(
        [parts_of(found.project(w), length) for w, length in zip(said, lengths, strict=True)]
    )
    chosen = rng.permutation(len(running))[:WINDOWS]
    return replace(found, within=_within(parts, labels), windows=found.project(running[chosen]))


def _blockwise_basis(rows: FloatArray) -> FloatArray:
    """(W, RANK): principal directions of each embedded block.

    Each is divided by the root of its spread: half way to unit variance, which would give the last
    of them, noise for the most part, as much weight as the first.
    """
    width = rows.shape[1]
    blocks = EMBEDDED_BLOCKS if width % EMBEDDED_BLOCKS == 0 else 1
    each, size = width // blocks, min(RANK // blocks, width // blocks)
    basis = np.zeros((width, blocks * size), np.float32)
    for number in range(blocks):
        own = slice(number * each, (number + 1) * each)
        values, vectors = np.linalg.eigh(np.cov(rows[:, own].T))
        values, vectors = values[::-1][:size], vectors[:, ::-1][:, :size]
        values = np.maximum(values / values[0], 1e-6)  # blocks alike, whatever their scale
        scaled = vectors / np.sqrt(rows[:, own].var(axis=0).sum()) / values**WHITENING
        basis[own, number * size : (number + 1) * size] = scaled
    return basis


def _within(parts: FloatArray, labels: NDArray[np.str_]) -> FloatArray:
    """Covariance of the parts (M, windows, R) of recordings around the mean of their word."""
    centred = np.empty(parts.shape, np.float64)
    for label in np.unique(labels):
        own = labels == label
        centred[own] = parts[own] - parts[own].mean(axis=(0, 1))
    rows = centred.reshape(-1, parts.shape[-1])
    return np.asarray(rows.T @ rows / len(rows), np.float32)
