"""Keyword models are chosen by words missed at a fixed rate of false accepts, on validation tracks.

Clip accuracy and precision of windows say little of how often a detector fires in an hour. Scores
here come from the model itself in batches, at the hops at which the runtime would infer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssast_edge.evaluation.det import DetPoint, det_curve, miss_rate_at
from ssast_edge.evaluation.noise import mix_noise
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Track, build_track
from ssast_edge.fbank import Fbank
from ssast_edge.trigger import TriggerConfig
from train.checkpoint import Model
from train.engine import Validation
from train.model import Classifier, TokenTagger
from train.recipe import KeywordRecipe, RecipeError, SpotterRecipe, StreamRecipe
from train.triggers import as_recording, track_clips, track_noise

__all__ = [
    "HeardTrack",
    "curve_of",
    "log_mel",
    "token_logits",
    "track_validation",
    "validation_tracks",
]

_BATCH = 128  # windows
_TOKENS = 448  # of a stretch: attention costs its length squared, however little it sees
_PIECE = 16000 * 10
_LOGITS = np.arange(-4.0, 8.01, 0.5)  # of the threshold of all labels


@dataclass(frozen=True)
class HeardTrack:
    """A track's raw log-mel (N, bins), half precision, in one condition."""

    track: Track
    fbank: NDArray[np.float16]

    def scores(
        self, model: Classifier | TokenTagger, recipe: SpotterRecipe, device: torch.device
    ) -> HopScores:
        """The model's scores at every hop, missing context as zeros."""
        hop = round(recipe.hop_ms / recipe.fbank.hop_ms)
        stops = np.arange(hop, len(self.fbank) + 1, hop)
        if isinstance(model, TokenTagger):
            assert isinstance(recipe, StreamRecipe)
            logits = token_logits(self.fbank, model, recipe, stops, device)
        else:
            assert isinstance(recipe, KeywordRecipe)
            logits = self._window_logits(model, recipe, stops, device)
        end = (stops - 1) * recipe.fbank.hop_samples + recipe.fbank.window_samples
        scores = torch.sigmoid(logits[:, : len(recipe.labels)]).cpu().numpy()
        return HopScores(recipe.labels, end / recipe.fbank.sample_rate, scores)

    def _window_logits(
        self,
        model: Classifier,
        recipe: KeywordRecipe,
        stops: NDArray[np.intp],
        device: torch.device,
    ) -> Tensor:
        window = recipe.windows.num_frames
        padded = np.concatenate([np.zeros((window, self.fbank.shape[1]), np.float16), self.fbank])
        found = []
        for first in range(0, len(stops), _BATCH):
            batch = [padded[stop : stop + window] for stop in stops[first : first + _BATCH]]
            windows = torch.from_numpy(np.stack(batch).astype(np.float32))
            found.append(model(windows.to(device)).float())
        return torch.cat(found)


def token_logits(
    fbank: NDArray[np.float16],
    model: TokenTagger,
    recipe: StreamRecipe,
    stops: NDArray[np.intp],
    device: torch.device,
) -> Tensor:
    """(stops, classes) logits of the tokens that end at frames `stops` of raw log-mel (N, bins).

    The log-mel goes through in stretches, each after as much of it as the model can remember.
    """
    config = recipe.encoder_config()
    stride, memory = config.stride_frames, config.context * config.longest_path
    before = np.zeros((config.patch_frames, fbank.shape[1]), np.float16)
    padded = np.concatenate([before, fbank])
    found = []
    # Token t of the padded track ends at frame t * stride of the track.
    tokens = len(fbank) // stride + 1
    length = max(_TOKENS, memory)
    for first in range(0, tokens, length):
        begin, end = max(0, first - memory), min(first + length, tokens)
        piece = padded[begin * stride : (end - 1) * stride + config.patch_frames]
        batch = torch.from_numpy(piece.astype(np.float32))[None].to(device)
        found.append(model(batch)[0, first - begin :].float())
    return torch.cat(found)[torch.from_numpy(stops // stride).to(device)]


def validation_tracks(recipe: SpotterRecipe, data: Path) -> dict[str, HeardTrack]:
    """The validation track of the recipe's own packs, clean and at 10 dB.

    RecipeError where it says none of the labels.
    """
    clips = [c for c in track_clips(data, "val", recipe.labels) if c.pack in recipe.data.packs]
    track = build_track([as_recording(c, recipe.labels) for c in clips], seed=recipe.seed)
    if not track.words:
        raise RecipeError("selection: no validation recording says any of the labels")
    noisy = mix_noise(track, track_noise(data, "val"), snr_db=10.0, seed=recipe.seed)
    return {
        "clean": HeardTrack(track, log_mel(recipe, track.samples)),
        "noisy": HeardTrack(track, log_mel(recipe, noisy)),
    }


def curve_of(
    heard: HeardTrack,
    model: Classifier | TokenTagger,
    recipe: SpotterRecipe,
    device: torch.device,
) -> list[DetPoint]:
    """Misses against false accepts while one threshold of all keywords moves."""
    said = {word.label for word in heard.track.words}
    triggers = {label: TriggerConfig(threshold=0.5) for label in recipe.labels if label in said}
    hops = heard.scores(model, recipe, device)
    return det_curve([(hops, heard.track)], triggers, _LOGITS.tolist())


def track_validation(recipe: SpotterRecipe, data: Path) -> Validation:
    """Misses of the validation track's words at the recipe's rate of false accepts."""
    heard = validation_tracks(recipe, data)
    wanted = recipe.selection.false_accepts_per_hour

    def measure(model: Model, fabric: Fabric) -> dict[str, float]:
        assert isinstance(model, Classifier | TokenTagger)
        found: dict[str, float] = {}
        for name, one in heard.items():
            missed = miss_rate_at(curve_of(one, model, recipe, fabric.device), wanted)
            found[f"missed_{name}"] = 1.0 if np.isnan(missed) else missed
        found["missed"] = float(np.mean(list(found.values())))
        return found

    return Validation(measure, "missed", higher_is_better=False)


def log_mel(recipe: SpotterRecipe, audio: Audio) -> NDArray[np.float16]:
    """Raw log-mel (N, bins) of a recipe's front end, half precision."""
    front_end = Fbank(recipe.fbank)
    pieces = [
        front_end.push(audio[first : first + _PIECE]).astype(np.float16)
        for first in range(0, len(audio), _PIECE)
    ]
    return np.concatenate(pieces)
