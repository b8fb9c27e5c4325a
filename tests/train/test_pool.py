"""The feature pool: renderings by a clip's name, copied from a pool that has them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _module in ("torch", "scipy", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402

from ssast_edge.fbank import FbankConfig  # noqa: E402
from train.augment import WaveformAugmentConfig  # noqa: E402
from train.packs import Clip  # noqa: E402
from train.pool import FeaturePool, make_pool  # noqa: E402


def made(folder: Path, clips: Sequence[Clip], *, variants: int = 3, **changes: Any) -> FeaturePool:
    how: dict[str, Any] = {
        "config": WaveformAugmentConfig(), "fbank_config": FbankConfig(), "seed": 0, "jobs": 1,
        **changes,
    }  # fmt: skip
    return make_pool(folder, clips, [variants] * len(clips), **how)


def renderings(pool: FeaturePool, clip: Clip) -> list[bytes]:
    """What a pool holds of a clip, in order."""
    found = []
    for row in pool.rows[pool.rows["clip"] == list(pool.clips).index(clip)]:
        found.append(pool.frames[row["offset"] : row["offset"] + row["frames"]].tobytes())
    return found


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(4):
        path = tmp_path / "data" / "esc10" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(16000), 16000)
        found.append(Clip(path, "esc10", "train", str(number), "dog", "sound"))
    return found


def test_a_clip_is_rendered_alike_in_any_list_and_from_any_place(
    clips: list[Clip], tmp_path: Path
) -> None:
    first = made(tmp_path / "one", clips)
    second = made(tmp_path / "two", clips[:0:-1])
    for clip in clips[1:]:
        assert renderings(first, clip) == renderings(second, clip)
    assert len({*renderings(first, clips[1]), *renderings(first, clips[2])}) == 6
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = [
        dataclasses.replace(clip, path=tmp_path / "elsewhere" / "esc10" / clip.path.name)
        for clip in clips
    ]
    third = made(tmp_path / "three", moved)
    assert renderings(third, moved[0]) == renderings(first, clips[0])


def test_a_pool_copies_what_the_pools_beside_it_have(clips: list[Clip], tmp_path: Path) -> None:
    first = made(tmp_path / "pool", clips[:3])
    for clip in clips[:2]:
        clip.path.write_bytes(b"gone")
    second = made(tmp_path / "pool", [clips[3], *clips[:3]])
    assert len(second.rows) == 12
    assert (np.diff(second.rows["clip"]) >= 0).all()
    for clip in clips[:3]:
        assert renderings(second, clip) == renderings(first, clip)


@pytest.mark.parametrize(
    "changes", [{"variants": 2}, {"seed": 1}, {"config": WaveformAugmentConfig(reverb_chance=0.0)}]
)
def test_what_was_rendered_otherwise_is_not_copied(
    clips: list[Clip], tmp_path: Path, changes: dict[str, Any]
) -> None:
    made(tmp_path / "pool", clips)
    again = made(tmp_path / "pool", clips, **changes)
    alone = made(tmp_path / "other", clips, **changes)
    for clip in clips:
        assert renderings(again, clip) == renderings(alone, clip)
    assert len(list((tmp_path / "pool").glob("*/rows.npy"))) == 2
