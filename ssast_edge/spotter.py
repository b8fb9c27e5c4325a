"""The streaming pipeline: samples in, detections out.

Opens no device or file and prints nothing. Time is audio time, counted in samples; a wall
clock is read only to measure how long inference takes. The results are the same to the bit
however the samples are cut into chunks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import Backend, Choice, open_backend
from ssast_edge.bundle import Bundle, check_hop, resolve_label
from ssast_edge.bundle.enrolled import EnrolledScores
from ssast_edge.errors import SsastEdgeError
from ssast_edge.fbank import Fbank, num_frames
from ssast_edge.latency import LatencyHistogram
from ssast_edge.trigger import Trigger

FloatArray = NDArray[np.float32]

# A long push is taken in pieces: memory stays bounded and numpy's cost per call stays small.
_PIECE_S = 1.0
_HALF = np.array(0.5)


@dataclass(frozen=True)
class Detection:
    """A keyword, or another label with a trigger, was heard."""

    label: str
    time_s: float  # audio time at which the trigger fired: the end of the hop
    score: float  # smoothed score in [0, 1]


class Spotter:
    """Runs a bundle's model over a stream of audio.

    Every `hop_ms` of fbank frames the last `window_frames` of them go through the model. At
    the start of a stream, and after a gap, the context that is missing is zeros in the raw
    log-mel, as in training. The time of a hop is the end of the last sample in its last frame.

    backend: an open model; else one is opened with `kind`, `precision`, `threads`, `rebuild` and
    `on_choice`, as `open_backend` says.
    hop_ms: in place of the bundle's; `min_hits` of the triggers then counts other hops.
    keywords: only these may fire, else every label with a trigger.
    thresholds: in place of the bundle's, by keyword; nothing else changes.
    on_scores: called after each inference with (time_s, scores of all labels).

    Raises SsastEdgeError for an unknown keyword, a threshold outside (0, 1) or a hop that is
    no multiple of the fbank hop.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend | None = None,
        hop_ms: int | None = None,
        keywords: Sequence[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        kind: str = "auto",
        precision: str = "auto",
        threads: int = 1,
        rebuild: bool = False,
        on_choice: Callable[[Choice], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        on_scores: Callable[[float, FloatArray], None] | None = None,
    ) -> None:
        """Open the model and start at the beginning of a stream."""
        self.bundle = bundle
        self.hop_ms = bundle.hop_ms if hop_ms is None else hop_ms
        try:
            check_hop(self.hop_ms, bundle.fbank, bundle.window_frames)
        except ValueError as error:
            raise SsastEdgeError(str(error)) from error
        triggers = _triggers(bundle, keywords, thresholds or {})
        self._triggers = [
            (bundle.labels.index(label), label, triggers[label]) for label in triggers
        ]
        self.backend = backend or open_backend(
            bundle,
            kind=kind,
            precision=precision,
            threads=threads,
            rebuild=rebuild,
            embeds=bool(bundle.enrolled),
            on_choice=on_choice,
            on_note=on_note,
        )
        self._hop_frames = round(self.hop_ms / bundle.fbank.hop_ms)
        if self._hop_frames % self.backend.hop_frames:
            least = round(self.backend.hop_frames * bundle.fbank.hop_ms)
            if backend is None:
                self.backend.close()
            raise SsastEdgeError(
                f"hop_ms must be a multiple of {least} for this model, which hears so much at "
                f"once, got {self.hop_ms}"
            )
        self.infer_ms = LatencyHistogram()
        self._on_scores = on_scores
        self._to_scores = _ACTIVATIONS[bundle.activation]
        self._enrolled = EnrolledScores(bundle.enrolled) if bundle.enrolled else None
        self._piece_samples = round(_PIECE_S * bundle.fbank.sample_rate)
        self._sample_rate = bundle.fbank.sample_rate
        self._frame_samples, self._frame_hop = bundle.fbank.window_samples, bundle.fbank.hop_samples
        self._fbank = Fbank(bundle.fbank)
        # Each frame is kept twice, window_frames apart: wherever the ring is cut, the last
        # window_frames frames lie in order in one contiguous view, and no frame is ever moved.
        self._window = bundle.window_frames
        self._ring: FloatArray
        self._ring = np.empty((2 * self._window, bundle.fbank.num_mel_bins), np.float32)
        self._scores: FloatArray
        self.reset()

    @property
    def keywords(self) -> tuple[str, ...]:
        """The labels that can fire."""
        return tuple(label for _, label, _ in self._triggers)

    @property
    def time_s(self) -> float:
        """Audio time so far, gaps included."""
        return (self._segment_start + self._segment_samples) / self.bundle.fbank.sample_rate

    @property
    def scores(self) -> FloatArray:
        """Scores of all labels at the last hop that was inferred, shape (labels,), in [0, 1]."""
        scores: FloatArray = self._scores.copy()
        return scores

    @property
    def smoothed(self) -> dict[str, float]:
        """Smoothed score of each label that can fire."""
        return {label: trigger.smoothed for _, label, trigger in self._triggers}

    def push(self, samples: FloatArray, *, latest_only: bool = False) -> list[Detection]:
        """Feed mono samples, shape (N,), in [-1, 1]; the detections among them, in time order.

        latest_only: for a caller that has fallen behind. Features are computed from every
        sample, but of the hops that are due only the newest is inferred; the others are
        counted in `skipped_hops`.
        """
        samples = _checked(samples)
        detections: list[Detection] = []
        self._segment_samples += len(samples)
        skip_until = 0
        if latest_only:
            due = num_frames(self._segment_samples, self.bundle.fbank)
            skip_until = due - due % self._hop_frames
        for start in range(0, len(samples), self._piece_samples):
            frames = self._fbank.push(samples[start : start + self._piece_samples])
            self._push_frames(frames, skip_until, detections)
        return detections

    def skip(self, seconds: float) -> None:
        """Tell of a gap: audio of that length was lost before the samples that come next.

        The clock moves on, the window starts empty, and hits on both sides of the gap are
        not consecutive.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be a time of 0 or more, got {seconds}")
        lost = round(seconds * self.bundle.fbank.sample_rate)
        if lost == 0:
            return
        self._start_segment(self._segment_start + self._segment_samples + lost)
        for _, _, trigger in self._triggers:
            trigger.interrupt()

    def reset(self) -> None:
        """Forget everything: a new stream begins at time 0, all counts at 0."""
        self._start_segment(0)
        for _, _, trigger in self._triggers:
            trigger.reset()
        self._scores = np.zeros(len(self.bundle.labels), np.float32)
        self.hops = 0  # inferred
        self.skipped_hops = 0  # due but passed over with latest_only
        self.infer_ms.reset()

    def _start_segment(self, start_sample: int) -> None:
        self._segment_start = start_sample  # audio samples before this stretch without a gap
        self._segment_samples = 0
        self._frames = 0  # in this segment
        self._inferred = -1  # frames at the last inference; -1: none in this segment
        self._fbank.reset()
        self._ring[:] = 0

    def _push_frames(self, frames: FloatArray, skip_until: int, out: list[Detection]) -> None:
        """Infer at each hop among `frames`, but pass over those before frame `skip_until`."""
        start = 0
        while start < len(frames):
            until_hop = self._hop_frames - self._frames % self._hop_frames
            stop = min(start + until_hop, len(frames))
            self._append(frames[start:stop])
            start = stop
            if self._frames % self._hop_frames:
                return
            if self._frames < skip_until:
                self.skipped_hops += 1
            else:
                self._infer(out)

    def _append(self, frames: FloatArray) -> None:
        size = self._window
        self._frames += len(frames)
        frames = frames[-size:]
        start = (self._frames - len(frames)) % size
        until_end = size - start
        if len(frames) > until_end:
            self._ring[: len(frames) - until_end] = frames[until_end:]
            self._ring[size : size + len(frames) - until_end] = frames[until_end:]
            frames = frames[:until_end]
        self._ring[start : start + len(frames)] = frames
        self._ring[size + start : size + start + len(frames)] = frames

    def _infer(self, out: list[Detection]) -> None:
        start = self._frames % self._window  # the oldest frame
        began = perf_counter()
        window = self._ring[start : start + self._window]
        since = self._frames - self._inferred
        new_frames = since if self._inferred >= 0 and since <= self._window else None
        self._scores = self._infer_scores(window, new_frames, began)
        self._inferred = self._frames
        self.hops += 1
        end_sample = (self._frames - 1) * self._frame_hop + self._frame_samples
        time_s = (self._segment_start + end_sample) / self._sample_rate
        scores = self._scores.tolist()
        for index, label, trigger in self._triggers:
            score = trigger.update(scores[index], time_s)
            if score is not None:
                out.append(Detection(label, time_s, score))
        if self._on_scores is not None:
            self._on_scores(time_s, self.scores)

    def _infer_scores(self, window: FloatArray, new_frames: int | None, began: float) -> FloatArray:
        """Scores of all labels, those of enrolled words last."""
        if self._enrolled is None:
            logits = self.backend.infer(window, new_frames=new_frames)
            self.infer_ms.record(1000 * (perf_counter() - began))
            return self._to_scores(logits).astype(np.float32)
        logits, embedding = self.backend.infer_both(window, new_frames=new_frames)
        words = self._enrolled.logits(embedding)
        self.infer_ms.record(1000 * (perf_counter() - began))
        return np.concatenate([self._to_scores(logits), _sigmoid(words)], dtype=np.float32)


def _triggers(
    bundle: Bundle, keywords: Sequence[str] | None, thresholds: Mapping[str, float]
) -> dict[str, Trigger]:
    """Triggers of the labels that may fire, in the order of the bundle's labels."""
    configs = {label: bundle.triggers[label] for label in bundle.labels if label in bundle.triggers}
    known = list(configs)
    for keyword, threshold in thresholds.items():
        label = resolve_label(keyword, known)
        try:
            configs[label] = replace(configs[label], threshold=threshold)
        except ValueError as error:
            raise SsastEdgeError(f"{keyword}: {error}") from error
    wanted = known if keywords is None else [resolve_label(word, known) for word in keywords]
    return {label: Trigger(configs[label]) for label in known if label in wanted}


def to_scores(logits: FloatArray, activation: str) -> NDArray[np.float64]:
    """Scores in [0, 1] of logits (labels,), by the bundle's activation."""
    return _ACTIVATIONS[activation](logits)


def _checked(samples: FloatArray) -> FloatArray:
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(
            "samples must be one channel of floats in [-1, 1], shape (N,), got shape "
            f"{samples.shape} of {samples.dtype}"
        )
    return samples.astype(np.float32, copy=False)


def _sigmoid(logits: FloatArray) -> NDArray[np.float64]:
    # By tanh, which cannot overflow.
    scores: NDArray[np.float64] = np.multiply(logits, _HALF, dtype=np.float64)
    np.tanh(scores, out=scores)
    np.multiply(scores, _HALF, out=scores)
    np.add(scores, _HALF, out=scores)
    is_finite = np.isfinite(logits)
    if not is_finite.all():
        # An infinite logit is an overflow in the model, not certainty.
        scores[~is_finite] = np.nan
    return scores


def _softmax(logits: FloatArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf: an infinite logit makes every score NaN
        exponentials = np.exp(logits.astype(np.float64) - logits.max())
        scores: NDArray[np.float64] = exponentials / exponentials.sum()
    return scores


_ACTIVATIONS = {"sigmoid": _sigmoid, "softmax": _softmax}
