"""Other speech and silence weighed against the words, so that clips are told right the most often.

    python -m train balance runs/commands-stream/last --synthetic runs/synthetic-commands \
        --out runs/commands-stream/balanced

Each class of a stream is learned on its own, in a stream that is mostly other speech and silence. A
clip is the class with the highest score, and how often each is said there is another matter: as
Speech Commands weighs them, words ten times as often as other words, and as silence. How much lower
the logits of the two then have to be is found on validation clips (as in Menon et al., "Long-tail
learning via logit adjustment", ICLR 2021). Half of the other words are by synthetic voices, and
many of them near misses: training heard all that people say in the validation clips. Words score,
and triggers fire, as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.evaluation.classification import CANONICAL_SHARE
from ssast_edge.evaluation.clips import WORD_TAIL_S
from ssast_edge.evaluation.noise import active_power
from train.checkpoint import Checkpoint, CheckpointError, load_tagger
from train.model import TokenTagger
from train.packs import read_packs
from train.recipe import RecipeError, StreamRecipe
from train.selection import log_mel, token_logits
from train.triggers import other_words
from train.windows import SILENCE, UNKNOWN

__all__ = ["LARGEST", "Balance", "balance", "choose_offsets", "clip_logits"]

LARGEST = 6.0  # logits
_OFFSETS = np.arange(-LARGEST, LARGEST + 0.01, 0.5)
# Of validation's background noise alone: no other sounds, as there are in the noise of tracks.
_CONDITIONS: dict[str, float | None] = {"clean": None, "background noise at 10 dB": 10.0}
_BIAS = "head.1.bias"

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Balance:
    """By how much the logits of other speech and silence are lowered, and what that gives.

    clips: how many words, other words and silences it was chosen on. before, after: by condition,
    what share of each is told right.
    """

    unknown: float
    silence: float
    clips: tuple[int, int, int]
    before: dict[str, tuple[float, float, float]]
    after: dict[str, tuple[float, float, float]]

    def to_json(self) -> dict[str, Any]:
        """For the provenance of a bundle."""
        return {
            UNKNOWN: 0.0 - self.unknown,
            SILENCE: 0.0 - self.silence,
            "clips": dict(zip(("keywords", UNKNOWN, SILENCE), self.clips, strict=True)),
            "validation": {
                name: {
                    "keywords": round(words, 4), UNKNOWN: round(others, 4),
                    SILENCE: round(silences, 4),
                }
                for name, (words, others, silences) in self.after.items()
            },
        }  # fmt: skip


def balance(
    folder: Path, data: Path, *, synthetic: Sequence[Path] = (), seed: int = 0
) -> tuple[Checkpoint, Balance]:
    """Checkpoint `folder` with lower logits of `_unknown_` and `_silence_`, and the choice.

    synthetic: folders of `train.synthesize`. Raises CheckpointError where its model does not tell
    clips of words from both, RecipeError where the data has no validation recording of one of them.
    """
    model, checkpoint = load_tagger(folder)
    recipe = checkpoint.recipe
    assert isinstance(recipe, StreamRecipe)
    if "joined" in checkpoint.progress:
        raise CheckpointError(f"{folder} is joined of two: balance one, and join the outcome")
    if not {UNKNOWN, SILENCE} <= set(recipe.labels):
        raise CheckpointError(
            f"{folder}: labels are {', '.join(recipe.labels)}; wanted {UNKNOWN} and {SILENCE} "
            "among them"
        )
    if "balanced" in checkpoint.progress:
        raise CheckpointError(f"{folder} is balanced already: balance what it was made from")
    noises = _noises(data)
    clips = _clips(recipe, data, synthetic, noises, seed)
    truth = np.array([recipe.labels.index(label) for label, _ in clips])
    logits = {name: _logits(model, recipe, clips, noises, name, seed) for name in _CONDITIONS}
    columns = recipe.labels.index(UNKNOWN), recipe.labels.index(SILENCE)
    found = choose_offsets(logits, truth, *columns)
    average = dict(checkpoint.average)
    bias = average[_BIAS].clone()
    for column, offset in zip(columns, (found.unknown, found.silence), strict=True):
        bias[column] -= offset
    average[_BIAS] = bias
    progress = {**checkpoint.progress, "balanced": found.to_json()}
    return replace(
        checkpoint, model=average, average=average, optimizer={}, progress=progress
    ), found


def choose_offsets(
    logits: dict[str, NDArray[np.float32]], truth: NDArray[np.intp], unknown: int, silence: int
) -> Balance:
    """The offsets that tell the most right over all conditions; the smallest that do.

    logits: (clips, labels) by condition; truth: (clips,) their labels.
    """
    shares = {
        (of_unknown, of_silence): {
            name: _shares(table, truth, {unknown: of_unknown, silence: of_silence})
            for name, table in logits.items()
        }
        for of_unknown in _OFFSETS.tolist()
        for of_silence in _OFFSETS.tolist()
    }

    def worth(offsets: tuple[float, float]) -> tuple[float, float]:
        weights = np.array([1, CANONICAL_SHARE, CANONICAL_SHARE])
        right = np.mean([weights @ np.array(parts) for parts in shares[offsets].values()])
        return round(float(right), 9), -sum(map(abs, offsets))

    best = max(shares, key=worth)
    others, silences = (int((truth == column).sum()) for column in (unknown, silence))
    return Balance(
        unknown=best[0], silence=best[1], clips=(len(truth) - others - silences, others, silences),
        before=shares[0.0, 0.0], after=shares[best],
    )  # fmt: skip


def _shares(
    logits: NDArray[np.float32], truth: NDArray[np.intp], offsets: dict[int, float]
) -> tuple[float, float, float]:
    """Of words, other words and silences: what share is told right."""
    lowered = logits.copy()
    for column, offset in offsets.items():
        lowered[:, column] -= offset
    right = lowered.argmax(axis=1) == truth
    unknown, silence = offsets
    words = (truth != unknown) & (truth != silence)
    parts = words, truth == unknown, truth == silence
    first, second, third = (float(right[part].mean()) for part in parts)
    return first, second, third


def _clips(
    recipe: StreamRecipe,
    data: Path,
    synthetic: Sequence[Path],
    noises: Sequence[Samples],
    seed: int,
) -> list[tuple[str, Samples]]:
    """Validation clips with their labels: words, other words, as many synthetic, and silences."""
    rng = np.random.default_rng(seed)
    packs = read_packs(data, tuple(recipe.data.packs))
    spoken = [c for c in packs if c.split == "val" and c.kind in ("keyword", "word")]
    others = [c for c in spoken if c.word not in recipe.labels]
    if not others or len(others) == len(spoken):
        raise RecipeError(f"{data}: wanted validation recordings of the words and of other words")
    spare = other_words(synthetic, recipe.labels)
    drawn = rng.permutation(len(spare))[: len(others)]
    spoken += [spare[index] for index in drawn.tolist()]
    found = [(c.word if c.word in recipe.labels else UNKNOWN, read_audio(c.path)) for c in spoken]
    for _ in range(len(others) + len(drawn)):
        found.append((SILENCE, _cut(noises, recipe.fbank.sample_rate, rng)))
    return found


def _noises(data: Path) -> list[Samples]:
    clips = read_packs(data, ("background_noise",))
    found = [read_audio(clip.path) for clip in clips if clip.split == "val"]
    if not found:
        raise RecipeError(f"{data}: no validation recording of background noise")
    return found


def _cut(noises: Sequence[Samples], length: int, rng: np.random.Generator) -> Samples:
    noise = noises[int(rng.integers(len(noises)))]
    first = int(rng.integers(max(1, len(noise) - length + 1)))
    return np.resize(noise[first : first + length], length)


def _logits(
    model: TokenTagger,
    recipe: StreamRecipe,
    clips: Sequence[tuple[str, Samples]],
    noises: Sequence[Samples],
    condition: str,
    seed: int,
) -> NDArray[np.float32]:
    """(clips, labels), in one condition."""
    rng, snr_db = np.random.default_rng([seed, 1]), _CONDITIONS[condition]
    found = []
    for label, samples in tqdm(clips, desc=condition, unit="clip"):
        heard = samples
        if snr_db is not None and label != SILENCE:
            noise = _cut(noises, len(samples), rng)
            power = active_power(samples) * 10 ** (-snr_db / 10)
            heard = samples + noise * np.float32(np.sqrt(power / (np.mean(noise**2) + 1e-12)))
        found.append(clip_logits(model, recipe, heard))
    return np.stack(found)


def clip_logits(model: TokenTagger, recipe: StreamRecipe, samples: Samples) -> NDArray[np.float32]:
    """(labels,) of the last hop of a clip that goes on in silence, as clips are evaluated."""
    tail = np.zeros(round(WORD_TAIL_S * recipe.fbank.sample_rate), np.float32)
    fbank = log_mel(recipe, np.concatenate([samples, tail]))
    hop = round(recipe.hop_ms / recipe.fbank.hop_ms)
    stops = np.array([len(fbank) // hop * hop])
    with torch.inference_mode():
        logits = token_logits(fbank, model, recipe, stops, torch.device("cpu"))
    found: NDArray[np.float32] = logits[0, : len(recipe.labels)].numpy()
    return found
