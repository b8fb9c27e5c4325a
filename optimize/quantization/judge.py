"""What a changed graph costs: its logits beside the float ones, and points of accuracy on clips.

W windows, N clips, C labels, T frames, F bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.quantization.calibration import INPUT, CalibrationError, open_session
from ssast_edge.backends.hops import HopByHop, is_streaming
from ssast_edge.bundle import Bundle
from ssast_edge.evaluation.bootstrap import Estimate, Interval, bootstrap
from ssast_edge.evaluation.metrics import mean_average_precision
from ssast_edge.fbank import fbank
from train.data.manifest import Example, read_manifest
from train.data.source import DecodeError, decode

__all__ = ["Difference", "Judge", "Judgement", "LabelledWindows", "Recordings", "run_windows"]

Floats = NDArray[np.float32]
_MOST_WINDOWS = 8  # of one clip
_RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Logits of a changed model beside those of the float one, over some windows."""

    mean: float  # absolute
    largest: float
    cosine: float
    agreement: float  # share of windows with the same highest logit

    @staticmethod
    def of(wanted: Floats, found: Floats) -> Difference:
        """(windows, labels) each."""
        gap = np.abs(found - wanted)
        norm = float(np.linalg.norm(wanted) * np.linalg.norm(found))
        return Difference(
            float(gap.mean()),
            float(gap.max()),
            float((wanted * found).sum()) / max(norm, 1e-12),
            float((wanted.argmax(1) == found.argmax(1)).mean()),
        )


@dataclass(frozen=True)
class Judgement:
    """What one graph gives on the judged windows and the labelled clips, if there are any."""

    difference: Difference
    metric: str = ""  # "accuracy" or "mAP"; empty: no labelled clips
    score: Estimate | None = None  # in percent
    lost: Estimate | None = None  # points against the float graph, on the same clips


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows that together cover clips with known labels."""

    windows: Floats  # (W, T, F) raw log-mel
    owners: NDArray[np.intp]  # (W,) clip of each window, ascending
    targets: NDArray[np.float32]  # (N, C), 1 for each label of a clip
    speakers: tuple[str, ...]  # of each clip; empty where unknown

    @property
    def metric(self) -> str:
        """Accuracy where every clip has one label, else mean average precision."""
        return "accuracy" if bool((self.targets.sum(axis=1) == 1).all()) else "mAP"


class Recordings:
    """The readable recordings of a manifest, in an order drawn by the seed.

    split: only those of this split; empty: all. Raises CalibrationError when there are none.
    """

    def __init__(self, bundle: Bundle, manifest: Path, *, seed: int, split: str = "") -> None:
        found = read_manifest(manifest)
        self.bundle, self.root, self.manifest = bundle, Path(found.root), manifest
        examples = [e for e in found.examples if split in ("", e.split)]
        self.rng = np.random.default_rng(seed)
        self.examples = [examples[i] for i in self.rng.permutation(len(examples))]

    def windows(self, count: int, least: int) -> Floats:
        """(count, T, F): a window of each of `count` recordings.

        A shorter recording stands at the end of its window, as the runtime sees a word after
        silence.
        """
        length = self.bundle.window_frames
        windows: list[Floats] = []
        for example in self.examples:
            features = self._features(example)
            if features is not None:
                start = int(self.rng.integers(max(1, len(features) - length + 1)))
                windows.append(_placed(features[start : start + length], length))
            if len(windows) == count:
                break
        if len(windows) < least:
            raise CalibrationError(
                f"{self.manifest}: {len(windows)} recordings can be read, wanted at least {least}"
            )
        return np.stack(windows)

    def labelled(self, count: int) -> LabelledWindows:
        """The last `count` recordings that bear labels of the bundle.

        Where there are enough, these are others than `windows` took.

        Raises CalibrationError when fewer than two of the labels are there.
        """
        labels = self.bundle.labels
        length = self.bundle.window_frames
        windows: list[Floats] = []
        owners: list[int] = []
        targets: list[list[float]] = []
        speakers: list[str] = []
        for example in tqdm(self.examples[::-1], desc="labelled clips"):
            if len(targets) == count:
                break
            if not set(example.labels) & set(labels):
                continue
            features = self._features(example)
            if features is None:
                continue
            pieces = min(_MOST_WINDOWS, 1 + -(-2 * max(0, len(features) - length) // length))
            for start in np.linspace(0, max(0, len(features) - length), pieces).astype(int):
                windows.append(_placed(features[start : start + length], length))
                owners.append(len(targets))
            targets.append([float(label in example.labels) for label in labels])
            speakers.append(example.speaker)
        if not targets or (np.array(targets).sum(axis=0) > 0).sum() < 2:
            raise CalibrationError(
                f"{self.manifest}: its clips bear fewer than two of the labels "
                f"{', '.join(labels)}: points of accuracy cannot be measured, give a logit budget"
            )
        return LabelledWindows(
            np.stack(windows), np.array(owners), np.array(targets, np.float32), tuple(speakers)
        )

    def _features(self, example: Example) -> Floats | None:
        try:
            samples = decode(self.root / example.path, example.start_s, example.duration_s)
        except DecodeError as error:
            tqdm.write(f"left out: {error}")
            return None
        return fbank(samples, self.bundle.fbank)


class Judge:
    """Compares graphs with the float one."""

    def __init__(
        self, bundle: Bundle, graph: onnx.ModelProto, windows: Floats,
        labelled: LabelledWindows | None = None, *, seed: int = 0,
    ) -> None:  # fmt: skip
        self.bundle, self.windows, self.labelled, self.seed = bundle, windows, labelled, seed
        self.wanted = run_windows(graph, windows)
        if labelled is not None:
            self.right = self._right(graph, labelled)

    def difference(self, graph: onnx.ModelProto) -> Difference:
        """Its logits on the judged windows."""
        return Difference.of(self.wanted, run_windows(graph, self.windows))

    def judge(self, graph: onnx.ModelProto) -> Judgement:
        """Its logits and, where there are labelled clips, its points."""
        difference = self.difference(graph)
        labelled = self.labelled
        if labelled is None:
            return Judgement(difference)
        found = self._right(graph, labelled)
        metric = labelled.metric

        def score(rows: Floats, targets: Floats) -> float:
            return 100 * _value(rows, targets, metric)

        def lost(before: Floats, after: Floats, targets: Floats) -> float:
            return score(before, targets) - score(after, targets)

        return Judgement(
            difference,
            metric,
            self._estimate(score, found, labelled.targets),
            self._estimate(lost, self.right, found, labelled.targets),
        )

    def _estimate(self, statistic: Callable[..., float], *tables: Floats) -> Estimate:
        assert self.labelled is not None
        try:
            interval = bootstrap(
                statistic, *tables, groups=self.labelled.speakers, seed=self.seed,
                samples=_RESAMPLES,
            )  # fmt: skip
        except ValueError:  # a single speaker: nothing to draw from
            interval = Interval(math.nan, math.nan)
        return Estimate(statistic(*tables), interval)

    def _right(self, graph: onnx.ModelProto, labelled: LabelledWindows) -> Floats:
        """(N, C) scores of clips; for accuracy (N, 1), 1 where the highest is the label."""
        logits = run_windows(graph, labelled.windows)
        scores = _clip_scores(logits, labelled.owners, self.bundle)
        if labelled.metric == "mAP":
            return scores
        same = scores.argmax(axis=1) == labelled.targets.argmax(axis=1)
        column: Floats = same[:, None].astype(np.float32)
        return column


def run_windows(graph: onnx.ModelProto, windows: Floats) -> Floats:
    """(W, C) logits, one window at a time as the device does it; of a hop's graph, hop by hop."""
    session = open_session(graph)
    if is_streaming(session):
        hops = HopByHop(session, windows.shape[1])
        return np.stack([hops.infer(window, new_frames=None) for window in windows])
    return np.concatenate([session.run(["logits"], {INPUT: w[None]})[0] for w in windows])


def _value(rows: Floats, targets: Floats, metric: str) -> float:
    return float(rows.mean()) if metric == "accuracy" else mean_average_precision(rows, targets)


def _clip_scores(logits: Floats, owners: NDArray[np.intp], bundle: Bundle) -> Floats:
    """(N, C): of a keyword the highest score in any window, else the mean over windows."""
    if bundle.activation == "softmax":
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
    else:
        scores = 1 / (1 + np.exp(-logits))
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    if bundle.task == "keyword-spotting":
        highest: Floats = np.maximum.reduceat(scores, firsts, axis=0)
        return highest
    counts = np.bincount(owners)[:, None]
    mean: Floats = (np.add.reduceat(scores, firsts, axis=0) / counts).astype(np.float32)
    return mean


def _placed(features: Floats, length: int) -> Floats:
    window = np.zeros((length, features.shape[1]), dtype=np.float32)
    window[length - len(features) :] = features
    return window
