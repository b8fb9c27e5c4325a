"""One-to-one matching."""

from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(
    words=st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(0, 60), st.floats(0.1, 3)), max_size=12
    ),
    events=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 70)), max_size=25),
)
def test_every_event_is_counted_once_and_every_word_hit_at_most_once(
    words: list[tuple[str, float, float]], events: list[tuple[str, float]]
) -> None:
    said = [Word(label, at, at + long, "") for label, at, long in sorted(words, key=itemgetter(1))]
    found = detections(*events)
    score = match(said, found, hours=1)
    assert score.hits + score.duplicates + score.false_accepts == len(events)
    assert score.hits + len(score.missed) == score.words == len(words)
    assert len(score.delays_s) == score.hits
    assert all(delay <= TOLERANCE_S for delay in score.delays_s)
    for time_s in score.false_times_s:
        of_it = [label for label, at in events if at == time_s]
        assert any(
            all(w.label != label or not w.start_s <= time_s <= w.end_s + TOLERANCE_S for w in said)
            for label in of_it
        )
    parts = [match(said, found, hours=1, label=label) for label in "abc"]
    for count in ("words", "hits", "duplicates", "false_accepts"):
        assert sum(getattr(part, count) for part in parts) == getattr(score, count)


def test_a_detection_that_two_words_could_own_goes_to_the_first_that_is_free() -> None:
    said = [Word("a", 1.0, 2.0, ""), Word("a", 1.4, 2.4, "")]
    assert match(said, detections(("a", 1.5), ("a", 1.6)), hours=1).hits == 2
    assert match(said, detections(("a", 1.5)), hours=1).missed == (said[1],)
