"""One-to-one matching and exact intervals."""

import pytest

pytest.importorskip("scipy", reason="scipy is not installed (extra: train)")
pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from ssast_edge import Detection  # noqa: E402
from train.detection_metrics import TOLERANCE_S, match, miss_interval, rate_interval  # noqa: E402
from train.track import Word  # noqa: E402

WORDS = (Word("alexa", 1.0, 1.6, "a.ogg"), Word("jarvis", 5.0, 5.5, "b.ogg"))


def detections(*events: tuple[str, float]) -> list[Detection]:
    return [Detection(label, time_s, 0.9) for label, time_s in events]


def test_a_detection_inside_the_tolerance_is_a_hit() -> None:
    score = match(WORDS, detections(("alexa", 1.6 + TOLERANCE_S), ("jarvis", 5.2)), hours=1)
    assert (score.hits, score.false_accepts, score.duplicates) == (2, 0, 0)
    assert score.delays_s == pytest.approx((TOLERANCE_S, -0.3))


def test_a_second_detection_of_the_same_word_is_a_duplicate() -> None:
    score = match(WORDS, detections(("alexa", 1.5), ("alexa", 2.0)), hours=1)
    assert (score.hits, score.false_accepts, score.duplicates) == (1, 0, 1)


@pytest.mark.parametrize("event", [("alexa", 0.9), ("alexa", 2.2), ("jarvis", 1.5)])
def test_a_detection_elsewhere_or_of_another_word_is_a_false_accept(
    event: tuple[str, float],
) -> None:
    score = match(WORDS, detections(event), hours=0.5)
    assert (score.hits, score.false_accepts) == (0, 1)
    assert score.false_accepts_per_hour == 2
    assert score.missed == WORDS


def test_one_label_is_scored_on_its_own_words_and_events() -> None:
    score = match(WORDS, detections(("alexa", 1.5), ("jarvis", 9.0)), hours=1, label="alexa")
    assert (score.words, score.hits, score.false_accepts) == (1, 1, 0)


# Reference values from R: binom.test and poisson.test.
@pytest.mark.parametrize(
    ("misses", "words", "interval"),
    [(0, 20, (0.0, 0.16843)), (5, 126, (0.013012, 0.090231)), (20, 20, (0.83157, 1.0))],
)
def test_miss_interval_is_clopper_pearson(
    misses: int, words: int, interval: tuple[float, float]
) -> None:
    assert miss_interval(misses, words) == pytest.approx(interval, abs=2e-4)


@pytest.mark.parametrize(
    ("events", "hours", "interval"), [(0, 2.0, (0.0, 1.8444)), (2, 1.0, (0.24221, 7.22469))]
)
def test_rate_interval_is_exact_poisson(
    events: int, hours: float, interval: tuple[float, float]
) -> None:
    assert rate_interval(events, hours) == pytest.approx(interval, abs=1e-4)
