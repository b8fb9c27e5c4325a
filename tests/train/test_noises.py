"""Noises made by rule."""

from pathlib import Path

import numpy as np

from train.noises import SAMPLE_RATE, SECONDS, make_noise, write_noises


def test_noises_are_finite_loud_enough_and_no_two_alike() -> None:
    noises = [make_noise(0, number) for number in range(24)]
    for noise in noises:
        assert noise.shape == (SECONDS * SAMPLE_RATE,)
        assert np.isfinite(noise).all()
        assert np.abs(noise).max() == np.float32(0.5)
    spectra = np.array(
        [np.log(np.abs(np.fft.rfft(n))[:40000].reshape(40, -1).mean(1) + 1e-9) for n in noises]
    )
    distances = np.abs(spectra[:, None] - spectra[None]).mean(axis=2)
    assert distances[~np.eye(len(noises), dtype=bool)].min() > 0.1
    assert np.array_equal(make_noise(0, 3), noises[3])


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    names = write_noises(tmp_path, 2)
    kept = (tmp_path / names[0]).stat().st_mtime_ns
    assert write_noises(tmp_path, 3)[:2] == names
    assert (tmp_path / names[0]).stat().st_mtime_ns == kept
    assert not list((tmp_path / "noise").glob(".*"))
