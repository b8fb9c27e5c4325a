"""One-to-one matching."""

import pytest

from ssast_edge import Detection
from ssast_edge.evaluation.matching import TOLERANCE_S, match
from ssast_edge.evaluation.track import Word

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
