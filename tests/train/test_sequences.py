"""Seconds of a stream, and what each of their tokens is told."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _module in ("torch", "scipy", "safetensors"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tests.train.test_windows import BINS, NONE, PLAIN, make_pool, places  # noqa: E402
from train.augment import LogMelAugmentConfig  # noqa: E402
from train.encoder import EncoderConfig  # noqa: E402
from train.packs import Clip, Kind  # noqa: E402
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, clip_key  # noqa: E402
from train.pool import ROW, FeaturePool  # noqa: E402
from train.sequences import SequenceConfig, SequenceSampler  # noqa: E402
from train.token_labels import IGNORED  # noqa: E402

FRAMES, LENGTH = 320, {"alexa": 40, "jarvis": 40, "bed": 60}
LABELS = ("alexa", "jarvis")
ENCODER = EncoderConfig(
    num_frames=FRAMES, num_mel_bins=BINS, patch_bins=BINS, stride_bins=BINS, patch_frames=8,
    stride_frames=4, dim=8, depth=1, num_heads=1, num_prefix_tokens=0, context=4,
)  # fmt: skip
ENDS = np.arange(79) * 4 + 8  # the frame after the last of each token


def config(**changes: Any) -> SequenceConfig:
    """Of pieces as they are in the pool; the weights that are not given are 0."""
    settings = {
        **{name: 0.0 for name in NONE if name != "partial"}, "snippet": 0.0,
        "num_frames": FRAMES, "start_chance": 0.0, "alike_chance": 0.0, "babble_chance": 0.0,
    }  # fmt: skip
    return SequenceConfig(**{**settings, **changes})


def sampler(
    settings: SequenceConfig,
    pool: FeaturePool | None = None,
    *,
    labels: tuple[str, ...] = LABELS,
    augment: LogMelAugmentConfig = PLAIN,
    phones: PhoneLabels | None = None,
    seed: int = 0,
    auxiliary_labels: tuple[str, ...] = ("bed",),
) -> SequenceSampler:
    return SequenceSampler(
        pool or make_pool(), labels, settings, augment, ENCODER, phones, seed=seed, fill=0.0,
        auxiliary_labels=auxiliary_labels,
    )  # fmt: skip


Drawn = list[tuple[torch.Tensor, NDArray[np.uint8]]]


def draw(settings: SequenceConfig, size: int = 60, **more: Any) -> Drawn:
    """Sequences with their targets (tokens, labels + 1)."""
    sequences, targets = sampler(settings, **more).batch(0, size)
    assert sequences.shape == (size, FRAMES, BINS)
    assert targets.dtype == torch.uint8
    return list(zip(sequences, targets.numpy(), strict=True))


def zeros_of(sequence: torch.Tensor) -> int:
    """Frames before the stream's begin."""
    empty = (sequence == 0).all(dim=1)
    zeros = int(empty.sum())
    assert empty[:zeros].all()
    return zeros


def heard(sequence: torch.Tensor, word: str, zeros: int) -> tuple[list[int], list[int]]:
    """Frames after the ends of a word's whole utterances, and of one whose beginning is lost."""
    frames, length = places(sequence, word), LENGTH[word]
    whole, cut = [], []
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1) if frames else []
    for run in runs:
        first, last = int(run[0]), int(run[-1]) + 1
        if first > zeros:  # nothing is lost but at the end
            whole += list(range(first + length, last + 1, length))
        else:
            whole += list(range(last, first + length - 1, -length))
            cut += [last - len(run) // length * length] if len(run) % length else []
    return whole, cut


def wanted(ends: Sequence[int], earliest: int, latest: int) -> NDArray[np.bool_]:
    """(tokens,): whether one of those ends lies so many frames before the token's last one."""
    after = ENDS[:, None] - np.array([*ends, -(10**6)])[None]
    found: NDArray[np.bool_] = ((after >= earliest) & (after <= latest)).any(axis=1)
    return found


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    settings = SequenceConfig(num_frames=FRAMES)
    noisy = LogMelAugmentConfig()
    one, other = (sampler(settings, augment=noisy) for _ in "ab")
    for step in (5, 0):
        sequences, targets = one.batch(step, 6)
        assert torch.isfinite(sequences).all()
    again = other.batch(0, 6)
    assert torch.equal(again[0], sequences)
    assert torch.equal(again[1], targets)
    for different in (other.batch(1, 6), sampler(settings, augment=noisy, seed=1).batch(0, 6)):
        assert not torch.equal(different[0], sequences)
        assert not torch.equal(different[1], targets)


@pytest.mark.parametrize(
    ("kind", "words"), [("keyword", LABELS), ("synthetic_keyword", LABELS), ("word", ("bed",))]
)
@pytest.mark.parametrize("start_chance", [0.0, 1.0])
def test_a_word_is_told_for_a_while_after_its_end(
    kind: str, words: tuple[str, ...], start_chance: float
) -> None:
    settings = config(**{kind: 1.0}, start_chance=start_chance, gap_chance=0.9)
    told = ignored = lost = 0
    for sequence, target in draw(settings):
        zeros = zeros_of(sequence)
        assert (zeros > 0) == (start_chance > 0)
        for column, word in enumerate((*LABELS, "bed")):
            found = target[:, column]
            if word not in words:
                assert not found.any()
                continue
            whole, cut = heard(sequence, word, zeros)
            sure = wanted(whole, settings.earliest, settings.latest)
            near = wanted([*whole, *cut], -settings.unsure, settings.latest + settings.unsure)
            assert ((found == 1) == sure).all()
            assert (found[near & ~sure] == IGNORED).all()
            # What ended before the stream began cannot be seen in it.
            late = zeros + settings.latest + settings.unsure < ENDS
            # Nor where a word ends that the sequence cuts off.
            early = settings.num_frames - settings.unsure >= ENDS
            assert not found[~near & late & early].any()
            assert not (found[~near & late] == 1).any()
            assert set(found) <= {0, 1, IGNORED}
            told, ignored = told + int(sure.sum()), ignored + int((found == IGNORED).sum())
            lost += len(cut)
    assert min(told, ignored, lost) > 5


def test_how_long_a_word_is_told_is_the_recipes() -> None:
    settings = config(keyword=1.0, earliest=10, latest=21, unsure=0)
    for sequence, target in draw(settings, 20):
        for column, word in enumerate(LABELS):
            whole, cut = heard(sequence, word, 0)
            assert ((target[:, column] == 1) == wanted(whole, 10, 21)).all()
            assert (target[:, column] == 0)[~wanted([*whole, *cut], 0, 21) & (ENDS > 21)].all()


@pytest.mark.parametrize("kind", ["fragment", "near_miss", "speech", "snippet", "sound"])
def test_what_is_no_whole_word_is_never_told(kind: str) -> None:
    marks = 0
    for sequence, target in draw(config(**{kind: 1.0}, start_chance=0.3)):
        assert not target[:, :3].any()
        marks += sum(len(places(sequence, word)) for word in LABELS)
    assert (marks > 100) == (kind == "fragment")


def test_a_near_miss_that_is_learned_beside_the_labels_is_told() -> None:
    drawn = draw(config(near_miss=1.0), 20, auxiliary_labels=("alexis",))
    assert all(target[:, 2].any() for _, target in drawn)
    assert not any(target[:, :2].any() for _, target in drawn)
    assert not any(target[:, :3].any() for _, target in draw(config(near_miss=1.0), 20))


def test_frequencies_are_warped_and_a_stream_still_begins_with_zeros() -> None:
    plain = draw(config(keyword=1.0, start_chance=1.0), 20)
    warped = draw(config(keyword=1.0, start_chance=1.0, warp=(0.8, 0.9)), 20)
    for (sequence, told), (other, other_told) in zip(plain, warped, strict=True):
        np.testing.assert_array_equal(told, other_told)
        assert zeros_of(sequence) == zeros_of(other) > 0


def test_a_word_that_is_no_label_is_not_told() -> None:
    for sequence, target in draw(config(word=1.0), 20, auxiliary_labels=()):
        assert len(places(sequence, "bed")) > 60
        assert target.shape == (79, 3)
        assert not target[:, :2].any()


LATE = 38 + 2 * 12  # frames after speech at which silence is sure again, by the defaults


def test_other_speech_is_unknown_and_silence_is_what_stays_quiet() -> None:
    labels = (*LABELS, "_unknown_", "_silence_")
    settings = config(keyword=0.3, near_miss=0.3, sound=0.4, longest_gap=200, gap_chance=0.9)
    seen = {"unknown": 0, "silence": 0}
    for sequence, target in draw(settings, labels=labels, auxiliary_labels=()):
        unknown, silence = target[:, 2], target[:, 3]
        assert not ((unknown == 1) & (silence == 1)).any()
        for column, word in enumerate(LABELS):
            whole, _ = heard(sequence, word, 0)
            sure = target[:, column] == 1
            assert not (silence[sure] == 1).any()
            # Which of the two was said last may be open, that nothing was may not.
            assert not (unknown[sure] == 1).any()
            for end in whole:
                during = (end - LENGTH[word] + settings.unsure <= ENDS) & (end >= ENDS)
                assert not (silence[during] == 1).any()
        seen["unknown"] += int((unknown == 1).sum())
        seen["silence"] += int((silence == 1).sum())
    assert min(seen.values()) > 100
    for _, target in draw(config(sound=1.0), 20, labels=labels):
        assert not target[:, 2].any(), "no speech is there to be unknown"
        assert (target[:, 3] == 1).all()
    for _, target in draw(config(speech=1.0, gap_chance=0.0), 20, labels=labels):
        late = ENDS > 100
        assert (target[late, 2] == 1).all()
        assert not target[late, 3].any()


RAMP = (1 + np.arange(300)) / 32  # a number for each frame of speech, exact in half precision


def ramps(*, key: bool = True) -> tuple[FeaturePool, PhoneLabels]:
    """Running speech whose frames tell their number, at two speeds, and its phones."""
    pool = make_pool()
    speech = next(i for i, clip in enumerate(pool.clips) if clip.kind == "speech")
    plain, fast = (np.repeat(ramp[:, None], BINS, axis=1) for ramp in (RAMP, RAMP[1::2]))
    keep = pool.rows["clip"] != speech
    first = len(pool.frames)
    added = np.array([(first, 300, speech, 0, 0), (first + 300, 150, speech, 0, 0)], dtype=ROW)
    frames = np.concatenate([pool.frames, plain, fast]).astype(np.float16)
    phones = {clip_key(pool.clips[speech]): (1 + np.arange(280) // 10).astype(np.uint8)}
    made = FeaturePool(frames, np.concatenate([pool.rows[keep], added]), pool.clips)
    return made, PhoneLabels(PHONES, phones if key else {})


def numbers(sequence: torch.Tensor) -> NDArray[np.intp]:
    """Which frame of the speech a frame is; -1: none."""
    values = sequence.numpy()
    is_speech = (values == values[:, :1]).all(axis=1)
    return np.where(is_speech, np.rint(values[:, 0] * 32) - 1, -1).astype(np.intp)


@pytest.mark.parametrize("delay", [0, 10, 33])
def test_a_token_tells_the_phone_a_while_before_its_end(delay: int) -> None:
    pool, phones = ramps()
    settings = config(speech=1.0, phone_delay=delay, gap_chance=0.8)
    known = 0
    for sequence, target in draw(settings, 30, pool=pool, phones=phones):
        at = numbers(sequence)[np.maximum(ENDS - 1 - delay, 0)]
        found = target[:, -1]
        assert not found[at < 0].any(), "room tone is SIL"
        assert (found[at >= 280] == UNKNOWN).all(), "past the last frame that was aligned"
        said = (at >= 0) & (at < 280)
        assert (found[said] == 1 + at[said] // 10).all()
        known += int(said.sum())
    assert known > 500
    assert PHONES[0] == "SIL"


def test_phones_of_speech_that_was_not_aligned_are_unknown_and_zeros_are_silent() -> None:
    pool, phones = ramps(key=False)
    settings = config(speech=1.0, gap_chance=0.8, start_chance=1.0)
    for sequence, target in draw(settings, 20, pool=pool, phones=phones):
        frame = np.maximum(ENDS - 1 - settings.phone_delay, 0)
        at, zeros = numbers(sequence)[frame], zeros_of(sequence)
        begun = frame >= zeros
        assert not target[~begun, -1].any()
        assert (target[begun & (at >= 0), -1] == UNKNOWN).all()
        assert not target[begun & (at < 0), -1].any()
    for _, target in draw(replace(settings, start_chance=0.0), 5, pool=pool):  # no file of phones
        assert set(target[:, -1]) <= {0, UNKNOWN}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_frames", 99, "num_frames must be at least 100, got 99"),
        ("keyword", -0.1, "weights must be 0 or more and not all 0"),
        ("speech", float("nan"), "weights must be 0 or more and not all 0"),
        ("sound", float("inf"), "weights must be 0 or more and not all 0"),
        ("gap_chance", 1.1, r"gap_chance must be in \[0, 1\], got 1.1"),
        ("alike_chance", -1.0, "alike_chance must be in"),
        ("start_chance", float("nan"), "start_chance must be in"),
        ("babble_chance", 2.0, "babble_chance must be in"),
        ("earliest", -1, "0 <= earliest < latest"),
        ("latest", 2, "0 <= earliest < latest"),
        ("unsure", -1, "unsure and phone_delay 0 or more"),
        ("phone_delay", -1, "unsure and phone_delay 0 or more"),
        ("longest_gap", 5, "longest_gap must be at least 6, got 5"),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceConfig(**{field: value})  # type: ignore[arg-type]


def test_a_sequence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weights must be 0 or more and not all 0"):
        config()


def without(pool: FeaturePool, **what: str) -> FeaturePool:
    """The pool without the rows of some clips."""
    (field, value), *_ = what.items()
    gone = [getattr(clip, field) == value for clip in pool.clips]
    return FeaturePool(pool.frames, pool.rows[~np.array(gone)[pool.rows["clip"]]], pool.clips)


def test_recordings_that_are_missing_are_one_line() -> None:
    settings = SequenceConfig(num_frames=FRAMES)
    for pool, labels, message in (
        (make_pool(), (*LABELS, "computer", "snowboy"), "no recording of computer, snowboy"),
        (without(make_pool(), pack="wake_words"), LABELS, "no recording of alexa, jarvis"),
        (without(make_pool(), kind="speech"), LABELS, "no recording of kind speech"),
        (without(make_pool(), kind="sound"), LABELS, "no recording of kind sound"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            sampler(settings, pool, labels=labels)
        assert "\n" not in str(caught.value)


def test_only_what_is_there_is_drawn() -> None:
    pool = without(without(make_pool(synthetic=()), kind="near-miss"), kind="word")
    settings = config(keyword=1.0, synthetic_keyword=1.0, near_miss=1.0, word=1.0)
    assert any((target == 1).any() for _, target in draw(settings, 5, pool=pool))
    with pytest.raises(ValueError, match="no recording of any kind of piece"):
        sampler(replace(settings, keyword=0.0), pool)


SOURCES: list[tuple[str, Kind, str]] = [
    ("librispeech", "speech", ""), ("esc10", "sound", ""), ("synthetic", "near-miss", "alexis"),
    ("wake_words", "keyword", "alexa"), ("speech_commands", "word", "bed"),
]  # fmt: skip


def test_recordings_of_any_length_make_up_sequences() -> None:
    rng = np.random.default_rng(0)
    pool = make_pool()
    clips, rows, parts = [*pool.clips], [tuple(row) for row in pool.rows], [pool.frames]
    offset = len(pool.frames)
    for frames in (1, 5, 19, 20, 21, 60, 700):
        for pack, kind, word in SOURCES:
            clips.append(Clip(Path(f"{kind}{frames}"), pack, "train", "", word, kind))
            extent = (frames // 3, frames) if kind in ("keyword", "word") else (0, 0)
            rows.append((offset, frames, len(clips) - 1, *extent))
            parts.append(rng.normal(-5, 2, (frames, BINS)).astype(np.float16))
            offset += frames
    whole = FeaturePool(np.concatenate(parts), np.array(rows, dtype=ROW), clips)
    settings = SequenceConfig(num_frames=FRAMES, start_chance=0.5, babble_chance=0.5)
    drawn = sampler(settings, whole, augment=LogMelAugmentConfig())
    for step in range(6):
        sequences, targets = drawn.batch(step, 16)
        assert torch.isfinite(sequences).all()
        assert set(targets[..., :3].flatten().tolist()) == {0, 1, IGNORED}
        assert set(targets[..., 3].flatten().tolist()) == {0, UNKNOWN}
