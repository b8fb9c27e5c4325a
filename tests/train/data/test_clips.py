"""Batches of clips: order, cropping, mixing, masking, and recordings that cannot be read."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from ssast_edge.fbank import FbankConfig, fbank  # noqa: E402
from train.data.clips import BatchOrder, ClipBatches, ClipConfig, cut_windows  # noqa: E402
from train.data.manifest import Example  # noqa: E402
from train.data.source import DecodeError  # noqa: E402

CLASSES = ("a", "b", "c")


class Recordings:
    """Noise of different lengths in memory; some cannot be read."""

    blocks: Sequence[NDArray[np.intp]] = ()

    def __init__(self, *seconds: float, broken: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(0)
        self.clips = [0.1 * rng.standard_normal(int(16000 * s), np.float32) for s in seconds]
        self.broken = broken
        self.examples = [
            Example(path=f"{i}.wav", labels=(CLASSES[i % 3],)) for i in range(len(seconds))
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def samples(self, index: int) -> NDArray[np.float32]:
        if index in self.broken:
            raise DecodeError(f"{index}.wav: broken")
        return self.clips[index]

    def durations(self) -> NDArray[np.float64]:
        return np.array([len(clip) / 16000 for clip in self.clips])


def make(source: Recordings, config: ClipConfig, batch_size: int = 6) -> ClipBatches:
    return ClipBatches(
        source, source.examples, BatchOrder(len(source), batch_size, 0), config, FbankConfig(),
        classes=CLASSES, std=4.0, seed=3,
    )  # fmt: skip


@given(count=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_epoch_sees_every_example_once(count: int, batch: int, seed: int) -> None:
    order = BatchOrder(count, batch, seed)
    steps = -(-2 * count // batch)
    seen = np.concatenate([order[step] for step in range(steps)])
    for epoch in (seen[:count], seen[count : 2 * count]):
        assert sorted(epoch) == list(range(count))
    fresh = BatchOrder(count, batch, seed)  # any step can be asked for without those before it
    np.testing.assert_array_equal(fresh[steps - 1], order[steps - 1])


def test_blocks_are_read_a_few_at_a_time() -> None:
    blocks = [np.arange(10 * i, 10 * i + 10) for i in range(20)]
    order = BatchOrder(200, 40, 0, blocks=blocks, mixed_blocks=4)
    seen = [order[step] for step in range(5)]
    assert sorted(np.concatenate(seen)) == list(range(200))
    assert all(len({int(i) // 10 for i in batch}) <= 4 for batch in seen)


def test_weights_decide_how_often_an_example_is_drawn() -> None:
    order = BatchOrder(4, 1000, 0, weights=np.array([1.0, 1.0, 0.0, 8.0]))
    counts = np.bincount(np.concatenate([order[s] for s in range(4)]), minlength=4)
    assert counts[2] == 0
    assert counts[3] == pytest.approx(3200, rel=0.1)


def test_parts_of_a_batch_make_up_the_whole() -> None:
    config = ClipConfig(num_frames=64, crop="random", noise=True, mask_bins=9, mixup=0.5)
    batches = make(Recordings(0.4, 1.0, 2.0, 0.7), config)
    whole = batches.batch(5, 0, 1)
    parts = [batches.batch(5, part, 3) for part in range(3)]
    for part, batch in enumerate(parts):
        assert batch.names == whole.names[part::3]
        np.testing.assert_array_equal(batch.fbank, whole.fbank[part::3])
        np.testing.assert_array_equal(batch.target, whole.target[part::3])


def test_a_short_clip_ends_in_zeros_and_a_long_one_is_cut() -> None:
    source = Recordings(0.2, 3.0)
    batch = make(source, ClipConfig(num_frames=64), 2).batch(0, 0, 1)
    by_name = dict(zip(batch.names, batch.fbank.numpy(), strict=True))
    short = fbank(source.clips[0])
    np.testing.assert_array_equal(by_name["0.wav"][: len(short)], short)
    assert not by_name["0.wav"][len(short) :].any()
    np.testing.assert_array_equal(by_name["1.wav"], fbank(source.clips[1])[:64])


def test_a_short_clip_can_be_filled_with_others() -> None:
    batch = make(Recordings(0.2, 0.3), ClipConfig(num_frames=200, fill="clips"), 2).batch(0, 0, 1)
    assert (batch.fbank.numpy() != 0).any(axis=2).all()


def test_a_mixed_clip_has_shares_of_two_classes() -> None:
    config = ClipConfig(num_frames=64, mixup=1.0, mixup_beta=1.0)
    targets = make(Recordings(*[1.0] * 30), config, 30).batch(0, 0, 1).target.numpy()
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert ((targets > 0.02).sum(axis=1) == 2).mean() > 0.4  # the others mixed within a class


def test_masks_and_noise_change_training_clips_only_as_far_as_they_say() -> None:
    source = Recordings(*[1.0] * 8)
    plain = make(source, ClipConfig(num_frames=64), 8).batch(0, 0, 1).fbank.numpy()
    masked = make(source, ClipConfig(num_frames=64, mask_bins=20, mask_frames=10), 8)
    seen = masked.batch(0, 0, 1).fbank.numpy()
    hidden = seen != plain
    assert hidden.any()
    assert not seen[hidden].any()
    assert hidden.all(axis=2).sum(axis=1).max() <= 10
    assert hidden.all(axis=1).sum(axis=1).max() <= 20
    noisy = make(source, ClipConfig(num_frames=64, noise=True, roll_frames=0), 8)
    added = noisy.batch(0, 0, 1).fbank.numpy() - plain
    assert added.min() >= -1e-4
    assert 0 < added.max() <= 2 * 4.0 / 10 + 1e-4


def test_another_takes_the_place_of_what_cannot_be_read() -> None:
    source = Recordings(1.0, 1.0, 1.0, broken=(1,))
    batch = make(source, ClipConfig(num_frames=32), 3).batch(0, 0, 1)
    assert batch.unreadable
    assert set(batch.unreadable) == {"1.wav: broken"}
    assert batch.target.sum() == 3
    again = make(source, ClipConfig(num_frames=32), 3).batch(0, 0, 1)
    np.testing.assert_array_equal(batch.fbank, again.fbank)
    with pytest.raises(DecodeError, match="20 recordings in a row cannot be read"):
        make(Recordings(1.0, broken=(0,)), ClipConfig(num_frames=32), 1).batch(0, 0, 1)


@pytest.mark.parametrize(("seconds", "count", "wanted"), [(0.3, 3, 1), (4.0, 3, 3), (4.0, 0, 12)])
def test_validation_windows_cover_a_clip(seconds: float, count: int, wanted: int) -> None:
    samples = Recordings(seconds).clips[0]
    windows = cut_windows(samples, ClipConfig(num_frames=64), FbankConfig(), count)
    assert windows.shape == (wanted, 64, 128)
    if wanted > 1:
        last = fbank(samples[len(samples) - 63 * 160 - 400 :])
        np.testing.assert_array_equal(windows[-1], last)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"num_frames": 1}, "num_frames must be at least 2"),
        ({"crop": "middle"}, "crop must be start or random"),
        ({"fill": "noise"}, "fill must be zeros or clips"),
        ({"mixup": 1.5}, "mixup must be in"),
        ({"mask_bins": -1}, "mask_bins must be 0 or more"),
    ],
)
def test_settings_that_cannot_be(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipConfig(**settings_)  # type: ignore[arg-type]
