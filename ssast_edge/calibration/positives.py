"""The user's own recordings of the keywords: at which threshold each of them is still heard."""

from pathlib import Path
from typing import Any

import numpy as np

from ssast_edge.audio import read_audio
from ssast_edge.bundle import Bundle, resolve_label
from ssast_edge.calibration.expected import Curve, Said, curves_of
from ssast_edge.calibration.grid import families
from ssast_edge.calibration.hearing import audio_files
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.matching import TOLERANCE_S
from ssast_edge.spotter import Spotter

CONDITION = "own recordings"
_QUIET = 1e-4  # of full scale: the room after the recording has ended


def positive_files(folder: Path, bundle: Bundle) -> dict[str, list[Path]]:
    """The recordings of each keyword: `folder`/<keyword>/*.

    Raises SsastEdgeError for a folder without any, or with a keyword that the bundle lacks.
    """
    if not folder.is_dir():
        raise SsastEdgeError(f"{folder}: is no folder, wanted one with <keyword>/*.wav in it")
    found = {}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        found[resolve_label(inside.name, bundle.triggers)] = audio_files([inside])
    if not found:
        raise SsastEdgeError(f"{folder}: holds no folder of a keyword, wanted <keyword>/*.wav")
    return found


def hear_positives(
    bundle: Bundle, files: dict[str, list[Path]], *, settings: dict[str, Any]
) -> list[Curve]:
    """The curves of the recordings. settings: for the model, as `Spotter` takes them."""
    times: list[float] = []
    scores: list[float] = []
    label = ""

    def keep(time_s: float, values: Any) -> None:
        times.append(time_s)
        scores.append(float(values[bundle.labels.index(label)]))

    spotter = Spotter(bundle, keywords=(), on_scores=keep, **settings)
    rate = bundle.fbank.sample_rate
    noise = np.random.default_rng(0).standard_normal(round(TOLERANCE_S * rate))
    tail = (_QUIET * noise).astype(np.float32)
    curves: list[Curve] = []
    for label, paths in files.items():
        words = []
        for path in paths:
            times.clear()
            scores.clear()
            spotter.reset()
            spotter.push(np.concatenate([read_audio(path, rate), tail]))
            heard = np.array(times), np.array(scores, np.float32)
            words.append(Said(*heard, start_s=0.0, end_s=spotter.time_s))
        curves += curves_of(label, CONDITION, words, families([bundle.triggers[label]]))
    return curves
