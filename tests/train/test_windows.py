"""What each kind of training window holds, and what it is labelled as."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.augment import LogMelAugmentConfig
from train.packs import Clip, Kind
from train.pool import ROW, FeaturePool
from train.windows import WindowConfig, WindowSampler

FRAMES, BINS = 100, 16
WORD_FRAMES = slice(40, 80)
# The shape over frequency of each word's frames; everything else is flat.
MARKS = {
    word: 2 + 2 * np.cos(np.arange(BINS) * step).astype(np.float16).astype(np.float32)
    for word, step in (("alexa", 1), ("jarvis", 2), ("bed", 3))
}
ELSEWHERE = -9.0
PLAIN = LogMelAugmentConfig(level_db=(0.0, 0.0), tilt_db=0.0, noise_chance=0.0, mask_chance=0.0)
NONE = {
    "keyword": 0.0, "synthetic_keyword": 0.0, "partial": 0.0, "fragment": 0.0,
    "near_miss": 0.0, "word": 0.0, "speech": 0.0, "sound": 0.0,
}  # fmt: skip


def make_pool(*, synthetic: tuple[str, ...] = ("alexa", "jarvis")) -> FeaturePool:
    """One clip of each kind."""
    clips, features, extents = [], [], []

    def add(pack: str, kind: Kind, word: str, frames: int, extent: slice) -> None:
        levels = np.full((frames, BINS), ELSEWHERE, dtype=np.float16)
        if word in MARKS:
            levels[extent] = MARKS[word]
        clips.append(Clip(Path(f"{pack}-{word}"), pack, "train", "", word, kind))
        features.append(levels)
        extents.append((extent.start, extent.stop))

    for word in ("alexa", "jarvis"):
        add("wake_words", "keyword", word, 200, WORD_FRAMES)
    for word in synthetic:
        add("synthetic", "keyword", word, 40, slice(0, 40))
    add("synthetic", "near-miss", "alexis", 50, slice(0, 50))
    add("speech_commands", "word", "bed", 60, slice(0, 60))
    add("librispeech", "speech", "", 300, slice(0, 0))
    add("esc10", "sound", "rain", 50, slice(0, 0))
    lengths = [len(levels) for levels in features]
    offsets = np.cumsum([0, *lengths[:-1]])
    rows = [
        (o, n, i, *e) for i, (o, n, e) in enumerate(zip(offsets, lengths, extents, strict=True))
    ]
    return FeaturePool(np.concatenate(features), np.array(rows, dtype=ROW), clips)


def draw(*, start_chance: float = 0.0, **weights: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of those kinds of windows alone, without augmentation."""
    config = WindowConfig(num_frames=FRAMES, start_chance=start_chance, **only(**weights))
    sampler = WindowSampler(
        make_pool(), ("alexa", "jarvis"), config, PLAIN, seed=0, fill=0.0, auxiliary_labels=("bed",)
    )
    return sampler.batch(0, 200)


def marked(window: torch.Tensor, word: str) -> int:
    """Number of a window's frames that are the word's."""
    return len(places(window, word))


def places(window: torch.Tensor, word: str) -> list[int]:
    """Which of a window's frames are the word's."""
    same = np.isclose(window.numpy(), MARKS[word], atol=0.01).all(axis=1)
    found: list[int] = np.flatnonzero(same).tolist()
    return found


@pytest.mark.parametrize("kind", ["keyword", "synthetic_keyword"])
def test_a_window_labelled_with_a_keyword_holds_all_of_it(kind: str) -> None:
    windows, targets = draw(**{kind: 1.0})
    assert (targets.sum(dim=1) == 1).all()
    assert (targets[:, 2] == 0).all()
    firsts = set()
    for window, target in zip(windows, targets, strict=True):
        word = ("alexa", "jarvis")[int(target.argmax())]
        assert marked(window, word) == 40
        firsts.add(places(window, word)[0])
    assert min(firsts) < 5
    assert max(firsts) > 55  # anywhere in the window


def test_a_part_of_a_keyword_is_no_keyword() -> None:
    windows, targets = draw(partial=1.0)
    assert not targets.any()
    parts = [marked(window, "alexa") + marked(window, "jarvis") for window in windows]
    assert min(parts) >= 1
    assert max(parts) <= 0.6 * 40
    found = [places(window, "alexa") + places(window, "jarvis") for window in windows]
    at_start = [0 in frames for frames in found]
    at_end = [FRAMES - 1 in frames for frames in found]
    assert all(a != b for a, b in zip(at_start, at_end, strict=True))  # no more, or not yet
    assert sum(at_end) > sum(at_start) > 0


def test_half_a_keyword_among_other_speech_is_no_keyword() -> None:
    windows, targets = draw(fragment=1.0)
    assert not targets.any()
    parts = [marked(window, "alexa") + marked(window, "jarvis") for window in windows]
    assert min(parts) >= 0.3 * 40
    assert max(parts) <= 0.66 * 40


def test_an_auxiliary_word_has_its_own_output() -> None:
    windows, targets = draw(word=1.0)
    assert torch.equal(targets, torch.tensor([[0.0, 0.0, 1.0]]).expand_as(targets))
    assert all(marked(window, "bed") == 60 for window in windows)


def test_a_snippet_of_speech_stands_alone_like_a_word() -> None:
    windows, targets = draw(snippet=1.0)
    assert not targets.any()
    lengths = [int((window > ELSEWHERE - 0.01).all(dim=1).sum()) for window in windows]
    assert 15 <= min(lengths) < 30
    assert 60 < max(lengths) < 75


@pytest.mark.parametrize("kind", ["near_miss", "speech", "sound"])
def test_everything_else_is_negative(kind: str) -> None:
    windows, targets = draw(**{kind: 1.0})
    assert not targets.any()
    assert torch.isfinite(windows).all()
    assert windows.shape == (200, FRAMES, BINS)


def test_a_stream_that_has_just_begun_is_zeros_before_a_whole_keyword_or_none() -> None:
    windows, targets = draw(keyword=0.5, speech=0.5, start_chance=1.0)
    empty = (windows == 0).all(dim=2)
    begun_with_keyword = 0
    for window, window_empty, target in zip(windows, empty, targets, strict=True):
        zeros = int(window_empty.sum())
        assert window_empty[:zeros].all()
        if target.any():
            assert marked(window, ("alexa", "jarvis")[int(target.argmax())]) == 40
            begun_with_keyword += zeros > 8
        else:
            assert 8 <= zeros < FRAMES - 8
    assert begun_with_keyword > 20


def test_a_synthetic_voice_must_say_every_keyword_or_none() -> None:
    sampler = WindowSampler(
        make_pool(synthetic=()), ("alexa", "jarvis"), WindowConfig(num_frames=FRAMES), PLAIN,
        seed=0, fill=0.0,
    )  # fmt: skip
    sampler.batch(0, 64)
    with pytest.raises(ValueError, match="none of jarvis"):
        WindowSampler(
            make_pool(synthetic=("alexa",)), ("alexa", "jarvis"), WindowConfig(), PLAIN,
            seed=0, fill=0.0,
        )  # fmt: skip


def of_pool(labels: tuple[str, ...], config: WindowConfig, **more: object) -> WindowSampler:
    return WindowSampler(make_pool(), labels, config, PLAIN, seed=0, fill=0.0, **more)  # type: ignore[arg-type]


def only(**weights: float) -> dict[str, Any]:
    return NONE | weights


def test_a_word_that_ended_long_ago_is_no_more() -> None:
    near = WindowConfig(num_frames=FRAMES, latest_end=20, start_chance=0.0, **only(keyword=1.0))
    windows, targets = of_pool(("alexa", "jarvis"), near).batch(0, 200)
    assert (targets.sum(dim=1) == 1).all()
    ends = [
        places(window, ("alexa", "jarvis")[int(target.argmax())])[-1]
        for window, target in zip(windows, targets, strict=True)
    ]
    assert min(ends) >= FRAMES - 1 - 20

    gone = WindowConfig(num_frames=FRAMES, latest_end=20, start_chance=0.0, **only(partial=1.0))
    windows, targets = of_pool(("alexa", "jarvis"), gone).batch(0, 200)
    assert not targets.any()
    found = [places(window, "alexa") + places(window, "jarvis") for window in windows]
    whole = [frames for frames in found if len(frames) == 40]
    assert whole
    assert max(frames[-1] for frames in whole) < FRAMES - 20 - 11


def test_other_words_are_unknown_and_windows_without_speech_are_silence() -> None:
    labels = ("alexa", "jarvis", "_unknown_", "_silence_")
    for kind, wanted in (
        ("near_miss", 2), ("speech", 2), ("word", 2), ("sound", 3), ("keyword", None),
    ):  # fmt: skip
        config = WindowConfig(num_frames=FRAMES, **only(**{kind: 1.0}))
        _, targets = of_pool(labels, config).batch(0, 100)
        assert (targets.sum(dim=1) == 1).all()
        if wanted is not None:
            assert (targets[:, wanted] == 1).all()
        else:
            assert not targets[:, 2:].any()


def test_a_class_of_sounds_is_a_label_and_then_no_background_noise() -> None:
    pool = make_pool()
    lengths = pool.rows["frames"]
    clips = [*pool.clips, Clip(Path("dog"), "esc10", "train", "", "dog", "sound")]
    bark = np.full((80, BINS), ELSEWHERE, dtype=np.float16)
    bark[30:60] = 3.0
    row = np.array([(len(pool.frames), 80, len(clips) - 1, 0, 0)], dtype=ROW)
    frames = np.concatenate([pool.frames, bark])
    assert lengths.sum() == len(pool.frames)
    with_dog = FeaturePool(frames, np.concatenate([pool.rows, row]), clips)
    config = WindowConfig(
        num_frames=FRAMES, mix_chance=0.0, start_chance=0.5, **only(labelled_sound=1.0)
    )
    sampler = WindowSampler(with_dog, ("dog",), config, PLAIN, seed=0, fill=0.0)
    windows, targets = sampler.batch(0, 100)
    for window, target in zip(windows, targets, strict=True):
        barking = int((window.mean(dim=1) > 2.9).sum())
        assert barking >= 20 if target[0] else barking < 30
    assert targets.mean() > 0.8

    quiet = WindowConfig(num_frames=FRAMES, **only(sound=1.0))
    windows, _ = WindowSampler(with_dog, ("dog",), quiet, PLAIN, seed=0, fill=0.0).batch(0, 50)
    assert windows.max() < 2.9


def test_mined_windows_come_back_as_they_were_found() -> None:
    windows = np.random.default_rng(0).normal(size=(3, FRAMES, BINS)).astype(np.float16)
    targets = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    config = WindowConfig(num_frames=FRAMES, start_chance=0.0, **only(mined=1.0))
    sampler = of_pool(("alexa", "jarvis"), config, mined=(windows, targets))
    drawn, marks = sampler.batch(0, 60)
    seen = set()
    for window, mark in zip(drawn.numpy(), marks.numpy(), strict=True):
        match = [i for i in range(3) if np.allclose(window, windows[i].astype(np.float32))]
        assert len(match) == 1
        assert (mark == targets[match[0]]).all()
        seen.add(match[0])
    assert seen == {0, 1, 2}
