"""Metrics of clips: values by hand and by brute force, and intervals that hold what they say."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssast_edge.evaluation.bootstrap import bootstrap, paired_bootstrap
from ssast_edge.evaluation.class_scores import evaluate_scores
from ssast_edge.evaluation.metrics import (
    accuracy,
    average_precision,
    class_precision,
    class_recall,
    confusion_matrix,
    d_prime,
    roc_auc,
    top_k,
)


def slow_average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """The definition: precision at each score that is reached, by the recall that it adds."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        named = scores >= threshold
        recall = positive[named].sum() / positive.sum()
        total += (recall - before) * positive[named].mean()
        before = recall
    return total


def slow_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


@given(st.integers(0, 1000), st.integers(3, 30), st.sampled_from([3, 1000]))
@settings(max_examples=60, deadline=None)
def test_ranking_metrics_are_their_definitions(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(count, 2)) / levels  # three levels: many ties
    targets = rng.integers(2, size=(count, 2)).astype(bool)
    targets[0], targets[1] = True, False
    wanted = [slow_average_precision(scores[:, i], targets[:, i]) for i in (0, 1)]
    np.testing.assert_allclose(average_precision(scores, targets), wanted)
    wanted = [slow_auc(scores[:, i], targets[:, i]) for i in (0, 1)]
    np.testing.assert_allclose(roc_auc(scores, targets), wanted)


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    labels = np.array([0, 2, 0, 2])
    assert accuracy(scores, labels) == 0.75
    assert top_k(scores, labels, 2) == 1.0
    table = confusion_matrix(scores.argmax(1), labels, 3)
    assert table.tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]
    np.testing.assert_array_equal(class_recall(table), [1, math.nan, 0.5])
    np.testing.assert_array_equal(class_precision(table), [1, 0, 1])
    assert d_prime(0.5) == 0
    assert d_prime(0.975) == pytest.approx(2.772, abs=1e-3)  # AudioSet's order of magnitude
    assert d_prime(1.0) == math.inf


def test_d_prime_is_that_of_scipy() -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is not installed (extra: train)")
    for auc in (0.0, 1e-9, 0.3, 0.5, 0.999999, 1.0):
        assert d_prime(auc) == pytest.approx(math.sqrt(2) * special.ndtri(auc), abs=1e-12)
    assert math.isnan(d_prime(math.nan))


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(0).random(50)
    found = [bootstrap(np.mean, scores, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_an_evaluation_names_what_it_cannot_know() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.3, 0.6, 0.1]])
    found = evaluate_scores(scores, np.array([0, 0, 1]), ("a", "b", "c"), multilabel=False)
    assert found.classes_without_positive == ("c",)
    assert found.metrics["accuracy"].value == 1
    assert found.metrics["accuracy"].interval.low < 0.4  # three clips prove little
    assert math.isnan(found.per_class[2].average_precision.value)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["metrics"]["mAP"]["value"] == 1


def test_several_labels_a_clip() -> None:
    targets = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    found = evaluate_scores(targets * 0.5 + 0.1, targets, ("a", "b"), multilabel=True)
    assert set(found.metrics) == {"mAP", "mAUC", "d_prime"}
    assert found.confusion is None
    assert found.metrics["mAP"].value == found.metrics["mAUC"].value == 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    holds = 0
    for seed in range(120):
        labels = rng.integers(2, size=80)
        right = rng.random(80) < 0.8
        scores = np.eye(2)[np.where(right, labels, 1 - labels)]
        interval = evaluate_scores(
            scores, labels, ("a", "b"), multilabel=False, seed=seed, samples=200
        ).metrics["accuracy"].interval  # fmt: skip
        holds += interval.low <= 0.8 <= interval.high
    assert holds >= 106  # 95 % of 120 is 114, with a standard deviation of 2.4


def test_speakers_are_drawn_whole() -> None:
    right = np.repeat([1, 0], 50)
    speakers = np.repeat([f"s{i}" for i in range(10)], 10)
    by_clip = bootstrap(lambda x: float(x.mean()), right)
    by_speaker = bootstrap(lambda x: float(x.mean()), right, groups=speakers)
    assert by_speaker.high - by_speaker.low > 2 * (by_clip.high - by_clip.low)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(1)
    worse = (rng.random(400) < 0.7).astype(float)
    better = np.maximum(worse, rng.random(400) < 0.1)
    found = paired_bootstrap(better, worse)
    assert found.value == pytest.approx((better - worse).mean())
    assert 0 < found.interval.low < found.value < found.interval.high


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 1]), "3 scores a clip for 2 classes"),
        (np.zeros((2, 2)), np.array([0, 2]), "2"),
        (np.zeros((2, 2)), np.array([0]), "1"),
        (np.array([[0.0, math.nan]]), np.array([0]), "scores that are no numbers"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(
    scores: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_scores(scores, targets, ("a", "b"), multilabel=False)
    assert "\n" not in str(caught.value)
