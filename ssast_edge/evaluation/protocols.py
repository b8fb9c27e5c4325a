"""How a track is put together and what lies under it: one entry for each protocol.

"strict": every recording once, at its own level, noise below the level of the word itself.
"picovoice": keywords evenly apart among utterances and silence, peaks equal, noise by the loudest
frame; for figures that compare with those published by that rule.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.conditions import DEFAULT_CONDITIONS, heard_through, needs_noise
from ssast_edge.evaluation.picovoice import background, build_picovoice, mix_picovoice_noise
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.track import SAMPLE_RATE, Track, Unreadable, build_track

__all__ = ["PROTOCOLS", "EvaluationProtocol"]

Samples = NDArray[np.float32]


class Build(Protocol):
    """Puts the recordings of an evaluation together; noise is not among them."""

    def __call__(
        self,
        recordings: Sequence[Recording],
        *,
        seed: int,
        hours: float | None,
        on_unreadable: Unreadable,
        progress: Callable[[int], object],
    ) -> Track:
        """The track; hours: its length, None: what the recordings give."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """build: the track. hear: it in a condition. conditions: those that are run unless asked.

    told: what becomes of the recordings, counts by name for the report.
    """

    says: str
    conditions: tuple[str, ...]
    build: Build
    hear: Callable[[str, Track, Sequence[Samples], int], Audio]
    told: Callable[[Sequence[Recording], Track], Mapping[str, int]]


def _build_strict(
    recordings: Sequence[Recording],
    *,
    seed: int,
    hours: float | None,
    on_unreadable: Unreadable,
    progress: Callable[[int], object],
) -> Track:
    track = build_track(
        recordings, seed=seed, sounds=True, on_unreadable=on_unreadable, progress=progress
    )
    if hours is None or track.hours <= hours:
        return track
    # Keywords all stay: of the rest, as many as fit, in the order of the track.
    total = hours * 3600 * SAMPLE_RATE
    bounds = track.bounds
    lengths = np.diff(bounds)
    is_keyword = np.array([source.kind == "keyword" for source in track.sources])
    left = total - float(lengths[is_keyword].sum())
    if left <= 0:
        raise SsastEdgeError(
            f"{hours:g} h are too short: the {int(is_keyword.sum())} keyword recordings alone "
            f"last {lengths[is_keyword].sum() / SAMPLE_RATE / 3600:.2f} h"
        )
    fits = np.cumsum(np.where(is_keyword, 0, lengths)) <= left
    kept = {
        source.name for source, stays in zip(track.sources, is_keyword | fits, strict=True) if stays
    }
    named = [r for r in recordings if f"{r.path.parent.name}/{r.path.name}" in kept]
    return build_track(named, seed=seed, sounds=True, on_unreadable=lambda *_: None)


def _hear_strict(name: str, track: Track, noise: Sequence[Samples], seed: int) -> Audio:
    return heard_through(name, track, noise, seed=seed)


def _hear_picovoice(name: str, track: Track, noise: Sequence[Samples], seed: int) -> Audio:
    if not needs_noise(name):
        return heard_through(name, track, noise, seed=seed)
    try:
        return mix_picovoice_noise(track, noise, snr_db=float(name[:-2]), seed=seed)
    except ValueError as error:
        raise SsastEdgeError(f"condition {name}: {error}: add recordings of kind noise") from error


PROTOCOLS: Mapping[str, EvaluationProtocol] = {
    "strict": EvaluationProtocol(
        "every recording once, whole and at its own level, in seeded order with faint room tone "
        "between; noise lies below the active level of each recording",
        DEFAULT_CONDITIONS,
        _build_strict,
        _hear_strict,
        lambda recordings, track: {},
    ),
    "picovoice": EvaluationProtocol(
        "as in Picovoice's wake-word benchmark: keywords evenly apart, utterances with probability "
        "0.2 and else silence between, peaks equal, noise by the energy of the loudest frame; "
        "utterances that hold a keyword are left out, and events are matched one to one",
        ("10dB",),
        build_picovoice,
        _hear_picovoice,
        background,
    ),
}
