"""Classes of sounds under a sequence, and which tokens are told of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _module in ("torch", "scipy", "safetensors"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import torch  # noqa: E402

from tests.train.test_sequences import ENDS, FRAMES, config, draw  # noqa: E402
from tests.train.test_windows import BINS, ELSEWHERE, PLAIN, make_pool  # noqa: E402
from train.packs import Clip  # noqa: E402
from train.pool import ROW, FeaturePool  # noqa: E402
from train.sound_layer import told_sounds  # noqa: E402
from train.token_labels import IGNORED  # noqa: E402

BARK, LOUD = slice(100, 130), 5.0
LABELS = ("alexa", "jarvis", "dog")


def pool_with_dog() -> FeaturePool:
    """The pool and a recording of two seconds in which a dog barks for 0.3."""
    pool = make_pool()
    levels = np.full((200, BINS), ELSEWHERE, dtype=np.float16)
    levels[BARK] = LOUD
    rows = [*pool.rows.tolist(), (len(pool.frames), 200, len(pool.clips), 0, 0)]
    clips = [*pool.clips, Clip(Path("dog"), "esc10", "train", "", "dog", "sound")]
    frames = np.concatenate([pool.frames, levels])
    return FeaturePool(frames, np.array(rows, dtype=ROW), clips)


def drawn(**changes: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    settings = config(**{"keyword": 1.0, "labelled_sound_chance": 1.0, **changes})
    found = draw(settings, pool=pool_with_dog(), labels=LABELS)
    return [(sequence.numpy(), target) for sequence, target in found]


def test_a_sound_is_told_for_a_second_after_its_loud_frames() -> None:
    barks = 0
    for sequence, target in drawn(speech_chance=0.0, mix_chance=0.0):
        assert not target[:, :2].any(), "nothing is said"
        loud = np.concatenate([[0], np.cumsum((sequence > LOUD - 1).all(axis=1))])
        heard = loud[ENDS] - loud[np.maximum(ENDS - 100, 0)]
        before = loud[ENDS] - loud[np.maximum(ENDS - 200, 0)]
        told = target[:, 2]
        np.testing.assert_array_equal(told == 1, heard >= 10)
        np.testing.assert_array_equal(told == 0, before == 0)
        barks += loud[-1] > 10
    assert barks > 30


def test_words_are_told_over_sounds_and_a_sound_that_they_drown_is_not() -> None:
    both = 0
    for _, target in drawn():
        assert set(np.unique(target[:, 2])) <= {0, 1, IGNORED}
        both += ((target[:, :2] == 1).any(axis=1) & (target[:, 2] != 0)).any()
    assert both > 10


def test_no_sequence_holds_a_sound_where_none_is_wanted() -> None:
    for sequence, target in drawn(labelled_sound_chance=0.0):
        assert not target[:, 2].any()
        assert not (sequence > LOUD - 0.5).all(axis=1).any()


def test_noise_spares_sequences_with_labelled_sounds_where_wanted() -> None:
    noisy = replace(PLAIN, noise_chance=1.0, snr_db=(0.0, 0.0), tilt_db=3.0)
    settings = config(
        keyword=1.0, labelled_sound_chance=0.5,
        labelled_sound_noise_share=0.0, labelled_sound_tilt_share=0.0,
    )  # fmt: skip
    how: dict[str, Any] = {"pool": pool_with_dog(), "labels": LABELS}
    sounding = 0
    for (clean, target), (heard, _) in zip(
        draw(settings, **how), draw(settings, augment=noisy, **how), strict=True
    ):
        has_sound = bool(target[:, 2].any())
        assert torch.equal(clean, heard) == has_sound
        sounding += has_sound
    assert 10 < sounding < 50


def test_what_lay_before_the_stream_began_was_not_heard() -> None:
    loud = np.zeros((2, FRAMES), dtype=np.uint8)
    loud[0, 40:60] = 1  # heard
    loud[1, 40:60] = 2  # drowned
    told = told_sounds(loud, ENDS, begins=0, ignored=IGNORED)
    assert (told[(ENDS >= 50) & (ENDS <= 140), 0] == 1).all()
    assert (told[ENDS <= 40] == 0).all()
    assert not (told[:, 1] == 1).any()
    assert (told[(ENDS > 40) & (ENDS < 240), 1] == IGNORED).all()
    assert (told[ENDS >= 260] == 0).all()
    late = told_sounds(loud, ENDS, begins=55, ignored=IGNORED)
    assert not (late == 1).any(), "five frames are too few"
