"""Recordings as samples: any rate and channels, and those that do not decode."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import soundfile  # noqa: E402

from ssast_edge.fbank import FbankConfig, fbank  # noqa: E402
from train.data.manifest import Example, Manifest  # noqa: E402
from train.data.source import DecodeError, FileSource, make_pcm_cache  # noqa: E402
from train.data.statistics import fbank_statistics  # noqa: E402


def tone(seconds: float, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Four recordings, of which one does not decode and one is too short."""
    soundfile.write(tmp_path / "mono.wav", tone(1.0), 16000)
    soundfile.write(tmp_path / "stereo.flac", np.stack([tone(1.0, 8000)] * 2, 1), 8000)
    (tmp_path / "broken.ogg").write_bytes(b"OggS and no more")
    soundfile.write(tmp_path / "short.wav", tone(0.02), 16000)
    names = "mono.wav", "stereo.flac", "broken.ogg", "short.wav"
    examples = [Example(path=name) for name in names]
    examples.append(Example(path="mono.wav", start_s=0.25, duration_s=0.5))
    return Manifest("m", str(tmp_path), examples)


def test_any_rate_and_channels_become_mono_at_16_khz(manifest: Manifest) -> None:
    source = FileSource(manifest)
    for index in (0, 1):
        samples = source.samples(index)
        assert samples.dtype == np.float32
        assert abs(len(samples) - 16000) <= 2
        middle = samples[4000:12000]
        np.testing.assert_allclose(middle, tone(1.0)[4000:12000], atol=2e-2)


def test_a_stretch_is_cut_by_time(manifest: Manifest) -> None:
    source = FileSource(manifest)
    np.testing.assert_array_equal(source.samples(4), source.samples(0)[4000:12000])


@pytest.mark.parametrize("index", [2, 3])
def test_a_recording_that_cannot_be_used_is_one_line(manifest: Manifest, index: int) -> None:
    with pytest.raises(DecodeError) as caught:
        FileSource(manifest).samples(index)
    assert "\n" not in str(caught.value)
    assert manifest.examples[index].path in str(caught.value)


def test_the_cache_holds_what_decodes_and_lists_the_rest(
    manifest: Manifest, tmp_path: Path
) -> None:
    cache = make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    assert [example.path for example in cache.examples] == ["mono.wav", "stereo.flac", "mono.wav"]
    assert len(cache.skipped) == 2
    assert len(json.loads((cache.folder / "skipped.json").read_text())) == 2
    plain = FileSource(manifest)
    for index, original in ((0, 0), (1, 1), (2, 4)):
        np.testing.assert_allclose(cache.samples(index), plain.samples(original), atol=2e-5)
    np.testing.assert_allclose(cache.durations(), [1.0, 1.0, 0.5], atol=1e-3)


def test_an_equal_cache_is_used_again_and_a_changed_file_makes_another(
    manifest: Manifest, tmp_path: Path
) -> None:
    first = make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    stamp = (first.folder / "pcm.s16").stat().st_mtime_ns
    again = make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    assert (again.folder, (again.folder / "pcm.s16").stat().st_mtime_ns) == (first.folder, stamp)
    soundfile.write(tmp_path / "mono.wav", tone(0.7, hertz=300), 16000)
    os.utime(tmp_path / "mono.wav", ns=(1, 1))
    changed = make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    assert changed.folder != first.folder
    assert changed.durations()[0] == pytest.approx(0.7)


def test_nothing_that_decodes_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no")
    manifest = Manifest("m", str(tmp_path), [Example(path="a.wav")])
    with pytest.raises(ValueError, match="none of 1 recordings of m can be read"):
        make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_running_one_writes_stays(
    manifest: Manifest, tmp_path: Path
) -> None:
    done = make_pcm_cache(tmp_path / "cache", manifest, jobs=1).folder
    shutil.rmtree(done)
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    stale, busy = (
        done.parent / f".{done.name}.{host}.{process}.tmp" for process in (killed.pid, os.getppid())
    )
    for folder in (stale, busy):
        folder.mkdir()
        (folder / "pcm.s16").write_bytes(b"half")
    assert make_pcm_cache(tmp_path / "cache", manifest, jobs=1).folder == done
    assert sorted(path.name for path in done.parent.iterdir()) == sorted([busy.name, done.name])


def test_statistics_are_those_of_all_frames(manifest: Manifest, tmp_path: Path) -> None:
    cache = make_pcm_cache(tmp_path / "cache", manifest, jobs=1)
    values = np.concatenate([fbank(cache.samples(i), FbankConfig()).ravel() for i in range(3)])
    mean, std = fbank_statistics(cache, FbankConfig())
    assert mean == pytest.approx(values.mean(), abs=1e-3)
    assert std == pytest.approx(values.std(), abs=1e-3)
    # What does not decode is passed over.
    plain = Manifest("m", manifest.root, manifest.examples[:3])
    assert np.isfinite(fbank_statistics(FileSource(plain), FbankConfig())).all()
