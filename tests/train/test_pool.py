"""The feature pool: renderings by a clip's name, copied from a pool that has them."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _module in ("torch", "scipy", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402

import train.pool as pool_module  # noqa: E402
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


def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the names of the clips that are rendered, by jobs=1 in this process."""
    names: list[str] = []
    there = pool_module._render_task

    def render(task: Any) -> Any:
        names.extend(clip.path.name for clip in task.clips)
        return there(task)

    monkeypatch.setattr(pool_module, "_render_task", render)
    monkeypatch.setattr(pool_module, "ProcessPoolExecutor", lambda jobs: ThreadPoolExecutor(jobs))
    return names


def test_a_pool_copies_what_the_pools_beside_it_have(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path / "pool", clips[:3])
    names = rendered(monkeypatch)
    mixed = [clips[2], clips[3], clips[0]]
    second = made(tmp_path / "pool", mixed)
    assert names == ["3.wav"]
    for clip in (clips[2], clips[0]):
        assert renderings(second, clip) == renderings(first, clip)
    alone = made(tmp_path / "other", mixed)
    assert (second.rows == alone.rows).all()
    np.testing.assert_array_equal(second.frames, alone.frames)


def test_a_recording_that_changed_is_rendered_anew(clips: list[Clip], tmp_path: Path) -> None:
    first = made(tmp_path / "pool", clips)
    noise = np.random.default_rng(9).standard_normal(12000)
    soundfile.write(clips[0].path, 0.1 * noise, 16000)
    second = made(tmp_path / "pool", clips)
    assert renderings(second, clips[0]) != renderings(first, clips[0])
    assert renderings(second, clips[1]) == renderings(first, clips[1])


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 256)  # a frame


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("clips.json", lambda path: path.write_text("{")),
        ("clips.json", lambda path: path.write_text("[]")),
        ("rows.npy", lambda path: path.write_bytes(b"no rows")),
        ("frames.f16", Path.unlink),
        ("frames.f16", cut),
    ],
)
def test_a_damaged_pool_is_no_source(
    clips: list[Clip], tmp_path: Path, name: str, damage: Any
) -> None:
    made(tmp_path / "pool", clips[:3])
    (listed,) = (tmp_path / "pool").glob(f"*/{name}")
    damage(listed)
    second = made(tmp_path / "pool", clips)
    assert [len(renderings(second, clip)) for clip in clips] == [3] * 4
    third = made(tmp_path / "other", clips)
    np.testing.assert_array_equal(second.frames, third.frames)


def test_a_pool_that_another_process_is_writing_is_no_source(
    clips: list[Clip], tmp_path: Path
) -> None:
    unfinished = tmp_path / "pool" / ".0123.host.1.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "clips.json").write_text("")
    assert len(made(tmp_path / "pool", clips).rows) == 12


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
