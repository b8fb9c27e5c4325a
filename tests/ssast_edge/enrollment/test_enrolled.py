"""Enrolled words in the runtime: scores whatever the chunks, files that were altered."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge import Spotter, load_bundle
from ssast_edge.backends import open_backend
from ssast_edge.bundle import MANIFEST, Bundle
from ssast_edge.enrollment.addition import add_word
from ssast_edge.enrollment.background import ARRAYS, packed, read_background
from ssast_edge.enrollment.classifier import LearnedWord, learn_word
from ssast_edge.enrollment.discriminant import (
    ALIKE_SHARE,
    Directions,
    Discriminant,
    Recorded,
    Tail,
)
from ssast_edge.enrollment.recordings import NOISES, Spoken, in_noise
from ssast_edge.enrollment.stretches import PARTS, part_means, parts_of
from ssast_edge.errors import BundleError
from tests.ssast_edge.enrollment.conftest import BINS, HOP_MS, RANK, RATE, SEGMENTS

FloatArray = NDArray[np.float32]


@pytest.fixture
def taught(voices: Bundle) -> Bundle:
    """The bundle with two words of random directions."""
    rng = np.random.default_rng(5)
    for number, label in enumerate(("first", "second")):
        weights = rng.normal(0, 0.02, (2 + number, SEGMENTS, BINS)).astype(np.float32)
        bias = 0.1 * np.arange(2 + number, dtype=np.float32)
        learned = LearnedWord(weights, bias, 0.0, (0.3, 3.0), np.zeros(3, np.float32))
        voices = add_word(voices, voices.path, label, learned, clips=3, false_accepts_per_hour=1.0)
    return voices


def scores_of(bundle: Bundle, samples: FloatArray, *chunks: int) -> FloatArray:
    rows: list[FloatArray] = []
    spotter = Spotter(bundle, on_scores=lambda _, scores: rows.append(scores))
    first, turn = 0, 0
    while first < len(samples):
        size = chunks[turn % len(chunks)]
        spotter.push(samples[first : first + size])
        first, turn = first + size, turn + 1
    return np.array(rows)


@pytest.mark.parametrize("chunks", [(1280,), (1, 1279, 3000), (160,), (100_000,)])
def test_scores_do_not_depend_on_the_chunks(taught: Bundle, chunks: tuple[int, ...]) -> None:
    samples = np.random.default_rng(1).normal(0, 0.05, 3 * RATE).astype(np.float32)
    wanted = scores_of(taught, samples, len(samples))
    assert wanted.shape == (37, 4)
    np.testing.assert_array_equal(scores_of(taught, samples, *chunks), wanted)


def test_scores_are_the_classifiers_and_the_models_stay(taught: Bundle, voices: Bundle) -> None:
    samples = np.random.default_rng(2).normal(0, 0.05, 2 * RATE).astype(np.float32)
    found = scores_of(taught, samples, len(samples))
    np.testing.assert_array_equal(found[:, :2], scores_of(voices, samples, len(samples)))

    windows: list[FloatArray] = []
    backend = open_backend(taught, embeds=True)
    keep = backend.infer_both

    def infer_both(fbank: FloatArray, **more: int | None) -> tuple[FloatArray, FloatArray]:
        windows.append(fbank.copy())
        return keep(fbank)

    backend.infer_both = infer_both  # type: ignore[method-assign,assignment]
    Spotter(taught, backend=backend).push(samples)
    for row, window in zip(found, windows, strict=True):
        embedding = keep(window)[1]
        for index, one in enumerate(taught.enrolled):
            logit = float(((one.weights * embedding).sum(axis=(1, 2)) + one.bias).max())
            assert row[2 + index] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["enrolled"][0].update(label="second"), "given twice"),
        (lambda m: m["enrolled"][0].update(later=1), "unknown key 'enrolled[0].later'"),
        (lambda m: m["enrolled"][0].update(file="gone.npz"), "not listed in files"),
        (lambda m: m["enrolled"][0].update(file="golden.npz"), "must be an .npz of plain arrays"),
        (lambda m: m["enrolled"][0].update(clips=0), "clips must be at least 1"),
        (lambda m: m.pop("embedding"), "need a model with an embedding"),
        (lambda m: m["embedding"].update(width=7), "has weights of shape"),
        (lambda m: m["embedding"].update(segments=0), "at least 1"),
        (lambda m: m["triggers"].update(third=m["triggers"]["first"]), "unknown label 'third'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    taught: Bundle, change: Callable[[dict[str, object]], object], message: str
) -> None:
    path = taught.path / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as caught:
        load_bundle(taught.path)
    assert message in str(caught.value)


def test_a_graph_that_gives_no_embedding_is_refused(taught: Bundle) -> None:
    assert taught.embedding is not None
    wider = replace(taught, enrolled=(), labels=taught.model_labels, triggers={}, embedding=None,
                    task="audio-tagging")  # fmt: skip
    with pytest.raises(BundleError, match=r"output is .*embedding"):
        open_backend(wider)


def test_a_folded_direction_gives_the_projections_score(voices: Bundle) -> None:
    background = read_background(voices)
    rng = np.random.default_rng(0)
    along = rng.normal(size=PARTS * RANK).astype(np.float32)
    embeddings = rng.normal(-5, 3, (20, SEGMENTS, BINS)).astype(np.float32)
    lengths = (2.5, 4.0, 10.0)
    weights, bias = background.unfold(background.along(along, lengths), np.zeros(3, np.float32))
    for length, weight, more in zip(lengths, weights, bias, strict=True):
        found = (embeddings * weight).sum(axis=(1, 2)) + more
        wanted = parts_of(background.project(embeddings), length) @ along
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rows", [1, 4, 19])
@pytest.mark.parametrize("length", [0.3, 1.0, 3.7, 8.0, 19.0, 25.0])
def test_parts_are_the_means_of_a_words_equal_parts(rows: int, length: float) -> None:
    means = part_means(length, rows)
    assert means.shape == (PARTS, rows)
    np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-5)
    used = min(max(length, 1.0), rows)
    # Each row of the word counts as much as any other, those before it not at all.
    whole = means.sum(axis=0) * used / PARTS
    np.testing.assert_allclose(whole, (np.arange(rows) + 1 - rows + used).clip(0, 1), atol=1e-5)


def test_a_word_said_slower_has_the_same_parts() -> None:
    path = np.random.default_rng(0).normal(size=(8, 3)).cumsum(axis=0)

    def said(length: int) -> FloatArray:
        at = np.linspace(0, 7, length)
        rows = np.stack([np.interp(at, np.arange(8), path[:, i]) for i in range(3)], axis=1)
        return np.concatenate([np.zeros((30 - length, 3)), rows]).astype(np.float32)[None]

    np.testing.assert_allclose(parts_of(said(24), 24), parts_of(said(16), 16), atol=0.25)


def test_the_threshold_leaves_the_share_that_was_asked_for(voices: Bundle) -> None:
    background = read_background(voices)
    rng = np.random.default_rng(0)
    # A background of one row, whose tail is exponential, and the recordings far out.
    drawn = rng.normal(size=(20_000, 1, 2))
    drawn[:, 0, 0] = rng.exponential(size=20_000)
    size = PARTS * 2
    background = replace(
        background, windows=drawn.astype(np.float32), within=np.eye(size, dtype=np.float32),
        mean=np.zeros(BINS, np.float32), basis=np.eye(BINS, 2, dtype=np.float32),
    )  # fmt: skip
    windows = np.zeros((4, 1, 2), np.float32)
    windows[:, :, 0] = 30.0
    clip = Recorded(parts_of(windows, 1.0), windows, np.zeros(4, np.bool_))
    learned = learn_word(
        background, [clip] * 5, length=1.0, false_accepts_per_hour=6.0, hop_ms=HOP_MS
    )
    share = 6.0 * 3 * HOP_MS / 3_600_000
    slope, at_zero = learned.weights[0, 0, 0], learned.bias[0]  # of the logit, by the first number
    assert np.exp(at_zero / slope) == pytest.approx(share, rel=0.5)
    low, high = learned.range_per_hour
    assert low < 6.0 < high
    assert (learned.clip_scores > 3).all()
    tail = Tail.of(drawn[:, 0, 0].astype(np.float32))
    assert tail.excess == pytest.approx(1, rel=0.1)
    assert tail.threshold(1e-3) == pytest.approx(-np.log(1e-3), rel=0.1)


def test_a_recording_counts_as_heard_only_where_the_runtime_hears_it(voices: Bundle) -> None:
    background = read_background(voices)
    rng = np.random.default_rng(0)
    path = 3 * rng.normal(size=(8, RANK)).cumsum(axis=0).astype(np.float32)

    def said(length: int) -> Recorded:
        rows = rng.normal(0, 0.01, (1, SEGMENTS, RANK)).astype(np.float32)
        at = np.linspace(0, 7, length)
        rows[0, -length:] += [path[round(i)] for i in at]
        return Recorded(parts_of(rows, length), rows, np.zeros(1, np.bool_))

    clips = [said(4), said(4), said(4), said(4), said(10)]
    learned = learn_word(background, clips, length=4.0, false_accepts_per_hour=1.0, hop_ms=HOP_MS)
    embedding = np.linalg.pinv(background.basis)
    for clip, score in zip(clips, learned.clip_scores, strict=True):
        heard = clip.windows[0] @ embedding + background.mean
        logit = ((learned.weights * heard).sum(axis=(1, 2)) + learned.bias).max()
        assert (logit > 0) == (score > 0)


def test_a_word_that_noise_moves_far_is_heard_in_noise_too(voices: Bundle) -> None:
    background = read_background(voices)
    rng = np.random.default_rng(0)
    word, moved = 6 * rng.normal(size=(2, SEGMENTS, RANK)).astype(np.float32)
    forms = np.stack([word, moved - 0.5 * word])  # in noise little of it is left
    embedding = np.linalg.pinv(background.basis)

    def learned(count: int) -> list[bool]:
        """Whether the forms are heard, of recordings with so many of them."""
        clips = [
            Recorded(parts_of(rows, SEGMENTS), rows, np.arange(count) > 0)
            for rows in (
                forms[:count] + rng.normal(0, 0.1, (count, SEGMENTS, RANK)).astype(np.float32)
                for _ in range(5)
            )
        ]
        found = learn_word(
            background, clips, length=SEGMENTS, false_accepts_per_hour=1.0, hop_ms=HOP_MS
        )
        heard = forms @ embedding + background.mean
        logits = np.einsum("vsw,fsw->fv", found.weights, heard) + found.bias
        return (logits.max(axis=1) > 0).tolist()

    assert learned(1) == [True, False]
    assert learned(2) == [True, True]


def test_directions_fire_alike_on_the_background(voices: Bundle) -> None:
    # Far off the middle, so that thresholds along a direction may be of either sign.
    background = read_background(voices)
    background = replace(background, windows=background.windows - 5)
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (2, SEGMENTS, RANK)).astype(np.float32)
    clip = Recorded(parts_of(rows, SEGMENTS), rows, np.array([False, True]))
    fisher = Discriminant(background, (float(SEGMENTS),))
    both = fisher.towards([clip] * 3)
    assert len(both.directions.weights) == len(both.scales) == 2
    for weights, bias in zip(*both.directions, strict=True):
        heard = Directions(weights[None], bias[None]).scores(background.windows)
        tail = Tail.of(heard)  # in sample, where they lie a little lower
        assert tail.start == pytest.approx(0, abs=0.2)
        assert 0.5 < tail.threshold(ALIKE_SHARE) < 1.2
    plain = Recorded(clip.parts[:1], clip.windows[:1], clip.is_noisy[:1])
    assert len(fisher.towards([clip, plain]).scales) == 1, "one is not there in noise"


def test_the_background_scores_as_what_was_never_drawn_against(voices: Bundle) -> None:
    """In many dimensions a direction lies well with what it was drawn against."""
    rng = np.random.default_rng(0)
    size, rank = PARTS * 12, 12
    drawn = rng.normal(size=(4000, PARTS, rank)).astype(np.float32)
    background = replace(
        read_background(voices), windows=drawn[:1000], within=np.eye(size, dtype=np.float32)
    )
    fisher = Discriminant(background, (float(PARTS),))
    thresholds = []
    for word in rng.normal(0, 1.5, (6, 1, PARTS, rank)).astype(np.float32):
        clip = Recorded(parts_of(word, PARTS), word, np.zeros(1, np.bool_))
        found = fisher.towards([clip] * 3)
        in_sample, fresh = map(found.directions.scores, (drawn[:1000], drawn[1000:]))
        thresholds.append(
            [Tail.of(s).threshold(1e-3) for s in (found.background, in_sample, fresh)]
        )
    told, in_sample_one, fresh_one = np.mean(thresholds, axis=0)
    assert told == pytest.approx(fresh_one, abs=0.08)
    assert in_sample_one < told - 0.2


def test_a_background_of_earlier_versions_is_read_as_it_is(voices: Bundle) -> None:
    assert voices.embedding is not None
    found = read_background(voices)
    path = voices.path / voices.embedding.background
    with np.load(path) as arrays:
        assert arrays["windows"].dtype == np.int8
        kept = {name: arrays[name] for name in ARRAYS}
    kept["windows"] = found.windows.astype(np.float16)
    np.savez_compressed(path, **kept)  # type: ignore[arg-type]
    before = read_background(voices)
    np.testing.assert_allclose(before.windows, found.windows, rtol=1e-3)


def test_a_packed_background_is_the_same_to_half_a_step(voices: Bundle) -> None:
    found = read_background(voices)
    rng = np.random.default_rng(0)
    windows = rng.normal(size=found.windows.shape).astype(np.float32)
    windows[..., 0] = 0  # of no spread
    windows[0, 0, 1] = 40  # far out
    arrays = packed(replace(found, windows=windows))
    step = arrays["step"].astype(np.float32)
    assert (step > 0).all()
    assert np.abs(arrays["windows"] * step - windows).max() <= 0.51 * step.max()
    assert arrays["windows"].max() == 127


def test_what_is_most_like_a_word_is_what_it_is_parted_from(voices: Bundle) -> None:
    """The last number tells the word from what sounds like it, the first from everything else."""
    rng = np.random.default_rng(0)
    count, size = 4000, PARTS * 2
    # One row of two numbers. Most of the background lies far from the word along the first; one
    # window in ten is as far along as the word is, and lower along the second.
    drawn = rng.normal(size=(count, 1, 2)) * (1.0, 0.3)
    drawn[: count // 10, 0, 0] += 6.0
    drawn[: count // 10, 0, 1] -= 1.5
    background = replace(
        read_background(voices), windows=rng.permutation(drawn).astype(np.float32),
        within=0.01 * np.eye(size, dtype=np.float32),
        mean=np.zeros(BINS, np.float32), basis=np.eye(BINS, 2, dtype=np.float32),
    )  # fmt: skip
    windows = np.tile(np.array([6.0, 0.0], np.float32), (4, 1, 1))
    clip = Recorded(parts_of(windows, 1.0), windows, np.zeros(4, np.bool_))
    found = Discriminant(background, (1.0,)).towards([clip] * 5)
    along = found.directions.weights[0, 0]
    assert along[1] > along[0], "towards what parts it from the tenth"
    heard = found.directions.scores(windows).min()
    assert np.mean(found.background > heard) < 2e-3
    plain = drawn[:, 0] @ np.array([1.0, 0.0])  # the direction against everything else alone
    assert np.mean(plain > 6.0) > 0.02


def test_noise_lies_as_far_below_the_word_as_it_says() -> None:
    rng = np.random.default_rng(0)
    word = 0.1 * rng.standard_normal(16000).astype(np.float32)
    forms = list(in_noise(Spoken("word", word, 0.0, 1.0), 16000, seed=1))
    assert len(forms) == len(NOISES)
    for form, (below_db, _) in zip(forms, NOISES, strict=True):
        ratio = np.mean((form.samples - word) ** 2) / np.mean(word**2)
        assert 10 * np.log10(ratio) == pytest.approx(-below_db, abs=0.3)
        assert (form.start_s, form.end_s) == (0.0, 1.0)
    hiss, rumble = (np.abs(np.fft.rfft(form.samples - word)) ** 2 for form in forms)
    for power, high in ((hiss, (0.3, 0.7)), (rumble, (0.0, 0.3))):
        assert high[0] < power[4000:].sum() / power.sum() < high[1], "above 4 kHz"


def test_a_background_of_too_few_windows_is_refused(voices: Bundle) -> None:
    assert voices.embedding is not None
    path = voices.path / voices.embedding.background
    arrays = dict(np.load(path))
    np.savez_compressed(path, **{**arrays, "windows": arrays["windows"][:5]})  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="5 windows, wanted 20"):
        read_background(voices)


def test_a_background_that_does_not_fit_is_refused(voices: Bundle, tmp_path: Path) -> None:
    assert voices.embedding is not None
    for change in ({"width": 64}, {"background": "golden.npz"}):
        other = replace(voices, embedding=replace(voices.embedding, **change))
        with pytest.raises(BundleError, match="background"):
            read_background(other)
