"""The streaming pipeline on a tiny real model."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.fbank import fbank
from ssast_edge.spotter import Detection, Spotter
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

RATE = 16_000
LOW_HZ, HIGH_HZ = 440.0, 3000.0
HOP_SAMPLES = 640  # 40 ms
# Samples until the first hop of a segment is due: four frames, 3 * 160 + 400.
FIRST_HOP_SAMPLES = 880


class Scripted:
    """A backend that gives the same logits whatever it hears, one row a hop, then the last."""

    name = "scripted"
    hop_frames = 1

    def __init__(self, rows: Iterable[Iterable[float]]) -> None:
        self._rows: Iterator[Iterable[float]] = iter(rows)
        self._row: Iterable[float] = ()
        self.windows: list[FloatArray] = []

    def infer(self, fbank: FloatArray, *, new_frames: int | None = None) -> FloatArray:
        """The next row."""
        self.windows.append(fbank.copy())
        self._row = next(self._rows, self._row)
        return np.array(self._row, np.float32)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def spotter(tone_bundle: Bundle) -> Spotter:
    """A spotter of the two tones."""
    return Spotter(tone_bundle)


@pytest.fixture
def scripted(tone_bundle: Bundle) -> Callable[..., Spotter]:
    """A spotter whose triggers are bare and whose model is a script."""

    def make(*rows: Iterable[float], **changes: Any) -> Spotter:
        bare = TriggerConfig(threshold=0.5, rearm=1.0, refractory_s=0.0)
        triggers = {"low_tone": bare, "high_tone": bare}
        backend = Scripted(rows or [(0, 0, 0)])
        return Spotter(replace(tone_bundle, triggers=triggers), backend=backend, **changes)

    return make


def silence(length_s: float) -> FloatArray:
    """Zeros."""
    return np.zeros(round(length_s * RATE), np.float32)


def labels(detections: list[Detection]) -> list[str]:
    """The labels alone."""
    return [detection.label for detection in detections]


# detections


def test_tone_is_detected_where_it_is(
    spotter: Spotter, tone_audio: Callable[..., FloatArray]
) -> None:
    (detection,) = spotter.push(tone_audio(4.0, (2.0, 2.5, LOW_HZ)))
    assert detection.label == "low_tone"
    assert 2.0 < detection.time_s < 2.5
    assert 0.5 <= detection.score <= 1.0


def test_detections_come_in_the_order_of_time(
    spotter: Spotter, tone_audio: Callable[..., FloatArray]
) -> None:
    tones = [(1.0, 1.5, LOW_HZ), (3.0, 3.5, HIGH_HZ), (5.0, 5.5, LOW_HZ)]
    detections = spotter.push(tone_audio(7.0, *tones))
    assert labels(detections) == ["low_tone", "high_tone", "low_tone"]


@pytest.mark.parametrize("make", [silence, lambda s: silence(s) + np.float32(1)])
def test_silence_fires_nothing(spotter: Spotter, make: Callable[[float], FloatArray]) -> None:
    assert spotter.push(make(3.0)) == []


def test_another_tone_fires_nothing(
    spotter: Spotter, tone_audio: Callable[..., FloatArray]
) -> None:
    assert spotter.push(tone_audio(3.0, (1.0, 2.0, 1300.0))) == []


def test_label_without_a_trigger_never_fires(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted((-9, -9, 9))
    assert spotter.push(silence(1.0)) == []
    assert spotter.scores[2] > 0.99


def test_labels_that_fire_together_are_both_reported(scripted: Callable[..., Spotter]) -> None:
    detections = scripted((9, 9, 0)).push(silence(0.1))
    assert labels(detections) == ["low_tone", "high_tone"]


# hops and time


@pytest.mark.parametrize(
    ("samples", "hops"),
    [
        (0, 0),
        (1, 0),
        (FIRST_HOP_SAMPLES - 1, 0),
        (FIRST_HOP_SAMPLES, 1),
        (FIRST_HOP_SAMPLES + HOP_SAMPLES - 1, 1),
        (FIRST_HOP_SAMPLES + HOP_SAMPLES, 2),
        (10 * RATE, 249),
    ],
)
def test_hop_is_due_when_its_last_frame_is_complete(
    scripted: Callable[..., Spotter], samples: int, hops: int
) -> None:
    spotter = scripted()
    spotter.push(np.zeros(samples, np.float32))
    assert spotter.hops == hops


def test_time_of_a_hop_is_the_end_of_its_last_frame(scripted: Callable[..., Spotter]) -> None:
    times: list[float] = []
    spotter = scripted(on_scores=lambda time_s, scores: times.append(time_s))
    spotter.push(silence(0.2))
    assert times == [0.055, 0.095, 0.135, 0.175]


def test_detection_has_the_time_of_its_hop(scripted: Callable[..., Spotter]) -> None:
    (detection,) = scripted((-9, 0, 0), (-9, -9, 0), (9, -9, 0)).push(silence(0.2))[1:]
    assert (detection.label, detection.time_s) == ("low_tone", 0.135)


def test_time_after_a_day_is_exact(scripted: Callable[..., Spotter]) -> None:
    times: list[float] = []
    spotter = scripted(on_scores=lambda time_s, scores: times.append(time_s))
    spotter.skip(86_400)
    spotter.push(silence(0.06))
    assert times == [86_400.055]


def test_window_is_the_last_frames_in_order(
    scripted: Callable[..., Spotter], tone_audio: Callable[..., FloatArray]
) -> None:
    spotter = scripted()
    samples = tone_audio(2.0, (0.5, 1.0, LOW_HZ))
    spotter.push(samples)
    frames = fbank(samples)
    padded = np.concatenate([np.zeros((20, 128), np.float32), frames])
    for hop, window in enumerate(spotter.backend.windows, start=1):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(window, padded[4 * hop : 4 * hop + 20])


def test_missing_context_is_zeros_in_the_log_mel(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted()
    spotter.push(np.zeros(FIRST_HOP_SAMPLES, np.float32))
    (window,) = spotter.backend.windows  # type: ignore[attr-defined]
    assert not window[:16].any()
    assert window[16:].all()


@pytest.mark.parametrize("hop_ms", [10, 40, 70, 130, 200])
def test_any_hop_sees_the_same_window_at_the_same_time(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray], hop_ms: int
) -> None:
    samples = tone_audio(4.3, (1.0, 3.0, LOW_HZ))
    every: dict[float, FloatArray] = {}
    Spotter(tone_bundle, hop_ms=10, on_scores=every.__setitem__).push(samples)
    some: dict[float, FloatArray] = {}
    Spotter(tone_bundle, hop_ms=hop_ms, on_scores=some.__setitem__).push(samples)
    assert len(some) == 428 // (hop_ms // 10)
    assert all(np.array_equal(scores, every[time_s]) for time_s, scores in some.items())


@pytest.mark.parametrize("hop_ms", [210, 100_000_000])
def test_a_hop_longer_than_the_window_is_refused(tone_bundle: Bundle, hop_ms: int) -> None:
    with pytest.raises(SsastEdgeError, match=f"hop_ms must be at most 200, .* got {hop_ms}"):
        Spotter(tone_bundle, hop_ms=hop_ms)


@pytest.mark.parametrize("hop_ms", [0, -40, 15])
def test_hop_that_is_no_multiple_of_a_frame_is_refused(tone_bundle: Bundle, hop_ms: int) -> None:
    with pytest.raises(SsastEdgeError, match=f"hop_ms must be a multiple of 10 ms, got {hop_ms}"):
        Spotter(tone_bundle, hop_ms=hop_ms)


def test_clock_counts_every_sample(spotter: Spotter) -> None:
    spotter.push(np.zeros(1, np.float32))
    spotter.push(np.zeros(15_999, np.float32))
    assert spotter.time_s == 1.0


# gaps


def test_clock_moves_on_over_a_gap(spotter: Spotter, tone_audio: Callable[..., FloatArray]) -> None:
    samples = tone_audio(4.0, (3.0, 3.5, LOW_HZ))
    spotter.push(samples[: 1 * RATE])
    spotter.skip(1.0)
    (detection,) = spotter.push(samples[2 * RATE :])
    assert 3.0 < detection.time_s < 3.5
    assert spotter.time_s == 4.0


def test_window_is_empty_after_a_gap(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted()
    spotter.push(silence(1.0))
    spotter.skip(0.5)
    spotter.push(np.zeros(FIRST_HOP_SAMPLES, np.float32))
    window = spotter.backend.windows[-1]  # type: ignore[attr-defined]
    assert not window[:16].any()
    assert window[16:].all()


def test_half_a_frame_before_a_gap_is_not_joined_to_what_follows(
    scripted: Callable[..., Spotter],
) -> None:
    spotter = scripted()
    spotter.push(np.zeros(FIRST_HOP_SAMPLES - 1, np.float32))
    spotter.skip(0.5)
    spotter.push(np.zeros(1, np.float32))
    assert spotter.hops == 0


def test_hits_on_both_sides_of_a_gap_are_not_consecutive(
    tone_bundle: Bundle,
) -> None:
    trigger = TriggerConfig(min_hits=2, refractory_s=0.0)
    spotter = Spotter(
        replace(tone_bundle, triggers={"low_tone": trigger}), backend=Scripted([(9, 0, 0)])
    )
    one_hop = np.zeros(FIRST_HOP_SAMPLES, np.float32)
    spotter.push(one_hop)
    spotter.skip(0.1)
    assert spotter.push(one_hop) == []


def test_gap_of_nothing_changes_nothing(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted()
    spotter.push(np.zeros(FIRST_HOP_SAMPLES - 1, np.float32))
    spotter.skip(0.0)
    spotter.push(np.zeros(1, np.float32))
    assert spotter.hops == 1


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_gap_that_is_no_time_is_refused(spotter: Spotter, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be a time"):
        spotter.skip(seconds)


# falling behind


def test_latest_only_infers_the_newest_hop_alone(scripted: Callable[..., Spotter]) -> None:
    times: list[float] = []
    spotter = scripted(on_scores=lambda time_s, scores: times.append(time_s))
    spotter.push(silence(1.0), latest_only=True)
    assert (spotter.hops, spotter.skipped_hops) == (1, 23)
    assert times == [0.975]


@pytest.mark.parametrize("length_s", [0.06, 0.5, 1.0, 1.01, 2.5, 3.99])
def test_latest_only_sees_every_sample(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray], length_s: float
) -> None:
    samples = tone_audio(4.0, (0.5, 3.0, LOW_HZ))[: round(length_s * RATE)]
    late, prompt = Spotter(tone_bundle), Spotter(tone_bundle)
    late.push(samples, latest_only=True)
    prompt.push(samples)
    np.testing.assert_array_equal(late.scores, prompt.scores)
    assert late.hops + late.skipped_hops == prompt.hops


def test_hops_after_catching_up_are_those_of_a_prompt_stream(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray]
) -> None:
    samples = tone_audio(4.0, (0.5, 3.0, LOW_HZ))
    late_scores: dict[float, FloatArray] = {}
    scores: dict[float, FloatArray] = {}
    late = Spotter(tone_bundle, on_scores=late_scores.__setitem__)
    late.push(samples[:30_001], latest_only=True)
    late.push(samples[30_001:])
    Spotter(tone_bundle, on_scores=scores.__setitem__).push(samples)
    assert all(np.array_equal(row, scores[time_s]) for time_s, row in late_scores.items())


def test_latest_only_skips_nothing_when_one_hop_is_due(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted()
    for _ in range(20):
        spotter.push(silence(0.04), latest_only=True)
    assert (spotter.hops, spotter.skipped_hops) == (19, 0)


def test_latest_only_without_a_due_hop_infers_nothing(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted()
    spotter.push(silence(0.9), latest_only=True)
    spotter.push(silence(0.01), latest_only=True)
    assert spotter.hops == 1


def test_hits_count_over_the_inferred_hops(tone_bundle: Bundle) -> None:
    triggers = {"low_tone": TriggerConfig(min_hits=2)}
    spotter = Spotter(replace(tone_bundle, triggers=triggers), backend=Scripted([(9, 0, 0)]))
    assert spotter.push(silence(0.5), latest_only=True) == []
    assert labels(spotter.push(silence(0.5), latest_only=True)) == ["low_tone"]


# what may fire


def test_keywords_restrict_what_fires(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray]
) -> None:
    spotter = Spotter(tone_bundle, keywords=["high-tone"])
    samples = tone_audio(5.0, (1.0, 1.5, LOW_HZ), (3.0, 3.5, HIGH_HZ))
    assert spotter.keywords == ("high_tone",)
    assert labels(spotter.push(samples)) == ["high_tone"]


def test_keyword_given_twice_fires_once(tone_bundle: Bundle) -> None:
    spotter = Spotter(tone_bundle, keywords=["low_tone", "Low tone"])
    assert spotter.keywords == ("low_tone",)


@pytest.mark.parametrize("options", [{"keywords": ["siren"]}, {"thresholds": {"siren": 0.5}}])
def test_unknown_keyword_lists_the_known_ones(tone_bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(SsastEdgeError, match="'siren', known: low_tone, high_tone$"):
        Spotter(tone_bundle, **options)


def test_label_that_cannot_fire_is_no_keyword(tone_bundle: Bundle) -> None:
    with pytest.raises(SsastEdgeError, match="unknown keyword 'other'"):
        Spotter(tone_bundle, keywords=["other"])


def test_threshold_of_one_keyword_leaves_the_others(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted((1, 1, 0), thresholds={"low tone": 0.9})
    assert labels(spotter.push(silence(0.1))) == ["high_tone"]


def test_threshold_does_not_change_the_scores(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted((1, 1, 0), thresholds={"low_tone": 0.6})
    (detection, _) = spotter.push(silence(0.1))
    assert detection.score == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, math.nan])
def test_threshold_out_of_range_is_refused(tone_bundle: Bundle, threshold: float) -> None:
    with pytest.raises(SsastEdgeError, match="low_tone: threshold must be between 0 and 1"):
        Spotter(tone_bundle, thresholds={"low_tone": threshold})


# scores


def test_sigmoid_scores(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted((0, 2, -200))
    spotter.push(silence(0.06))
    np.testing.assert_allclose(spotter.scores, [0.5, 0.880797, 0], atol=1e-6)


def test_softmax_scores(tone_bundle: Bundle) -> None:
    bundle = replace(tone_bundle, activation="softmax")
    spotter = Spotter(bundle, backend=Scripted([(1000, 1000, -1000)]))
    spotter.push(silence(0.06))
    np.testing.assert_allclose(spotter.scores, [0.5, 0.5, 0])


def test_smoothed_scores_are_by_label(scripted: Callable[..., Spotter]) -> None:
    spotter = scripted((0, -200, 9))
    spotter.push(silence(0.06))
    assert spotter.smoothed == {"low_tone": 0.5, "high_tone": 0.0}


def test_scores_before_the_first_hop_are_zero(spotter: Spotter) -> None:
    np.testing.assert_array_equal(spotter.scores, np.zeros(3, np.float32))


def test_scores_given_away_cannot_change_the_spotter(spotter: Spotter) -> None:
    spotter.scores[:] = 7
    assert not spotter.scores.any()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_do_not_stay(
    tone_bundle: Bundle, activation: str, bad: float
) -> None:
    triggers = {"low_tone": TriggerConfig(smoothing_ms=400, refractory_s=0)}
    rows = [(bad, bad, bad), (9, -9, -9)]
    spotter = Spotter(
        replace(tone_bundle, activation=activation, triggers=triggers), backend=Scripted(rows)
    )
    detections = spotter.push(silence(0.2))
    assert detections[-1].score > 0.9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_never_fire(
    scripted: Callable[..., Spotter], bad: float
) -> None:
    assert scripted((bad, bad, bad)).push(silence(1.0)) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_samples_that_are_not_numbers_do_not_stay(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray], bad: float
) -> None:
    samples = tone_audio(4.0, (2.0, 2.5, LOW_HZ))
    samples[RATE : RATE + 100] = bad
    spotter = Spotter(tone_bundle)
    with np.errstate(all="ignore"):
        detections = spotter.push(samples)
    assert [d.label for d in detections if d.time_s > 1.5] == ["low_tone"]


# statistics, reset, mistakes


def test_every_inference_is_timed(spotter: Spotter) -> None:
    spotter.push(silence(1.0))
    assert spotter.infer_ms.count == spotter.hops == 24
    assert 0 < spotter.infer_ms.percentile(50) <= spotter.infer_ms.max_ms


def test_reset_starts_a_new_stream(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray]
) -> None:
    long_audio = tone_audio(6.0, (0.02, 0.6, LOW_HZ), (4.0, 4.6, HIGH_HZ))
    spotter = Spotter(tone_bundle)
    first = spotter.push(long_audio)
    spotter.skip(1.0)
    spotter.reset()
    assert (spotter.time_s, spotter.hops, spotter.infer_ms.count) == (0.0, 0, 0)
    assert spotter.push(long_audio) == first


@pytest.mark.parametrize(
    ("samples", "got"),
    [
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.zeros(100, np.int16), "int16"),
        (np.float32(0), r"shape \(\)"),
        (np.zeros(100, np.complex64), "complex64"),
    ],
)
def test_samples_of_another_kind_are_refused(spotter: Spotter, samples: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"one channel of floats.*{got}"):
        spotter.push(samples)


def test_float64_samples_are_taken(
    tone_bundle: Bundle, tone_audio: Callable[..., FloatArray]
) -> None:
    samples = tone_audio(2.0, (0.5, 1.0, LOW_HZ))
    doubles: Any = samples.astype(np.float64)
    assert Spotter(tone_bundle).push(doubles) == Spotter(tone_bundle).push(samples) != []


# the package


def test_public_names_are_there() -> None:
    import ssast_edge

    assert ssast_edge.Spotter is Spotter
    assert set(ssast_edge.__all__) == {"Detection", "Spotter", "__version__", "load_bundle"}
    with pytest.raises(AttributeError, match="nonesuch"):
        ssast_edge.nonesuch  # noqa: B018


def test_import_is_cheap() -> None:
    code = "import sys; import ssast_edge; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["torch", "scipy", "sounddevice", "soundfile", "onnxruntime"])
def test_spotter_imports_without(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from ssast_edge import Spotter, load_bundle"
    subprocess.run([sys.executable, "-c", code], check=True)
