"""However the samples are cut into chunks, the spotter gives the same results to the bit."""

from collections.abc import Callable, Iterable
from itertools import cycle, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssast_edge.backends import Backend, open_backend
from ssast_edge.bundle import Bundle
from ssast_edge.spotter import Detection, Spotter

FloatArray = NDArray[np.float32]

RATE = 16_000
LOW_HZ, HIGH_HZ = 440.0, 3000.0


def labels(detections: list[Detection]) -> list[str]:
    """The labels alone."""
    return [detection.label for detection in detections]


@pytest.fixture(scope="module")
def long_audio(tone_audio: Callable[..., FloatArray]) -> FloatArray:
    """Twelve seconds with five tones."""
    starts = [(0.02, LOW_HZ), (2.0, HIGH_HZ), (4.3, LOW_HZ), (4.5, HIGH_HZ), (10.9, LOW_HZ)]
    return tone_audio(12.0, *((start, start + 0.6, hz) for start, hz in starts))


@pytest.fixture(scope="module")
def open_tones(tone_bundle: Bundle) -> Backend:
    """One open model for many spotters."""
    return open_backend(tone_bundle)


def heard(
    bundle: Bundle, backend: Backend, samples: FloatArray, sizes: Iterable[int]
) -> tuple[list[Detection], list[tuple[float, bytes]]]:
    """Detections, and time and bits of the scores of every hop, for chunks of these sizes."""
    scores: list[tuple[float, bytes]] = []
    spotter = Spotter(
        bundle,
        backend=backend,
        on_scores=lambda time_s, row: scores.append((time_s, row.tobytes())),
    )
    detections = []
    start = 0
    for size in sizes:
        detections += spotter.push(samples[start : start + size])
        start += size
    detections += spotter.push(samples[start:])
    return detections, scores


@pytest.fixture(scope="module")
def at_once(
    tone_bundle: Bundle, open_tones: Backend, long_audio: FloatArray
) -> tuple[list[Detection], list[tuple[float, bytes]]]:
    """What is heard in one push."""
    return heard(tone_bundle, open_tones, long_audio, [])


def test_one_push_hears_every_tone(
    at_once: tuple[list[Detection], list[tuple[float, bytes]]],
) -> None:
    detections, scores = at_once
    assert sorted(labels(detections)) == ["high_tone", "high_tone", *3 * ["low_tone"]]
    assert len(scores) == 299


chunks = st.lists(
    st.sampled_from([0, 1, 2, 159, 160, 161, 399, 400, 639, 640, 641, 15_999, 16_000, 160_000])
    | st.integers(1, 4000),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(sizes=chunks)
def test_results_do_not_depend_on_chunks(
    tone_bundle: Bundle,
    open_tones: Backend,
    long_audio: FloatArray,
    at_once: tuple[list[Detection], list[tuple[float, bytes]]],
    sizes: list[int],
) -> None:
    assert heard(tone_bundle, open_tones, long_audio, sizes) == at_once


@pytest.mark.parametrize("size", [1, 7, 160, 1000, 160_000])
def test_equal_chunks_give_the_results_of_one_push(
    tone_bundle: Bundle, open_tones: Backend, long_audio: FloatArray, size: int
) -> None:
    samples = long_audio[: 4 * RATE] if size < 100 else long_audio
    sizes = islice(cycle([size]), len(samples) // size)
    expected = heard(tone_bundle, open_tones, samples, [])
    assert heard(tone_bundle, open_tones, samples, sizes) == expected


@settings(max_examples=15, deadline=None)
@given(before=chunks, after=chunks)
def test_results_around_a_gap_do_not_depend_on_chunks(
    tone_bundle: Bundle,
    open_tones: Backend,
    long_audio: FloatArray,
    before: list[int],
    after: list[int],
) -> None:
    def run(first: list[int], second: list[int]) -> list[tuple[float, bytes]]:
        scores: list[tuple[float, bytes]] = []
        spotter = Spotter(
            tone_bundle,
            backend=open_tones,
            on_scores=lambda time_s, row: scores.append((time_s, row.tobytes())),
        )
        for sizes, samples in ((first, long_audio[:40_123]), (second, long_audio[60_000:100_000])):
            for size in sizes:
                spotter.push(samples[:size])
                samples = samples[size:]
            spotter.push(samples)
            spotter.skip(0.7)
        return scores

    assert run(before, after) == run([], [])
