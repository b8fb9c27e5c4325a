"""What each kind of training window holds, and what it is labelled as."""

from pathlib import Path

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
    config = WindowConfig(num_frames=FRAMES, start_chance=start_chance, **(NONE | weights))
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


@pytest.mark.parametrize("kind", ["near_miss", "speech", "sound"])
def test_everything_else_is_negative(kind: str) -> None:
    windows, targets = draw(**{kind: 1.0})
    assert not targets.any()
    assert torch.isfinite(windows).all()
    assert windows.shape == (200, FRAMES, BINS)


def test_a_stream_that_has_just_begun_is_zeros_and_holds_no_keyword() -> None:
    windows, targets = draw(keyword=0.5, speech=0.5, start_chance=1.0)
    empty = (windows == 0).all(dim=2)
    for window_empty, target in zip(empty, targets, strict=True):
        zeros = int(window_empty.sum())
        if target.any():
            assert zeros == 0
        else:
            assert 8 <= zeros < FRAMES - 8
            assert window_empty[:zeros].all()


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
