"""The two facts that log-mel augmentation rests on, and the waveform steps."""

import numpy as np
import pytest
import torch

from ssast_edge.fbank import FbankConfig, fbank
from train.augment import (
    LogMelAugmentConfig,
    WaveformAugmentConfig,
    add_noise,
    augment_waveform,
    random_level,
    room_impulse_response,
    spec_augment,
    warp_frequencies,
)

RNG = np.random.default_rng(0)
SPEECH = (0.2 * RNG.standard_normal(16000) * np.sin(np.arange(16000) / 900)).astype(np.float32)
NOISE = (0.05 * RNG.standard_normal(16000)).astype(np.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_gain_is_a_constant_in_the_log_mel() -> None:
    config = LogMelAugmentConfig(level_db=(-6.0206, -6.0206), tilt_db=0.0)
    shifted = random_level(torch.from_numpy(fbank(SPEECH))[None], config, generator())[0].numpy()
    halved = fbank(SPEECH / 2)
    heard = halved > -14  # away from the floor
    np.testing.assert_allclose(shifted[heard], halved[heard], atol=1e-3)


def test_noise_is_added_at_the_power_that_was_asked_for() -> None:
    config = LogMelAugmentConfig(noise_chance=1.0, snr_db=(0.0, 0.0))
    signal = torch.full((1, 60, 128), -4.0)
    noise = torch.full((1, 60, 128), -9.0)
    mixed = add_noise(signal, noise, config, generator())
    torch.testing.assert_close(
        mixed, torch.full_like(mixed, -4.0 + float(np.log(2))), atol=1e-3, rtol=0
    )


def test_noise_in_the_log_mel_is_close_to_noise_in_the_waveform() -> None:
    mixed = np.logaddexp(fbank(SPEECH), fbank(NOISE))
    difference = mixed - fbank(SPEECH + NOISE)
    assert abs(difference.mean()) < 0.3  # the cross term has no bias worth speaking of


def test_no_noise_leaves_the_signal_alone() -> None:
    signal = torch.from_numpy(fbank(SPEECH))[None]
    config = LogMelAugmentConfig(noise_chance=0.0)
    assert torch.equal(add_noise(signal, signal + 3, config, generator()), signal)


def test_masks_are_set_to_the_fill_value_and_nothing_else_changes() -> None:
    signal = torch.from_numpy(fbank(SPEECH))[None].repeat(16, 1, 1)
    config = LogMelAugmentConfig(mask_chance=1.0)
    masked = spec_augment(signal, -9.25, config, generator())
    changed = masked != signal
    assert changed.any()
    assert (masked[changed] == -9.25).all()
    rows, columns = changed.all(dim=2).sum(dim=1), changed.all(dim=1).sum(dim=1)
    assert rows.max() <= 2 * config.mask_frames
    assert columns.max() <= 2 * config.mask_bins


def test_waveform_augmentation_repeats_for_a_seed_and_reports_its_speed() -> None:
    config = WaveformAugmentConfig(speed=(1.1, 1.1))
    one, speed = augment_waveform(SPEECH, config, np.random.default_rng(4))
    other, _ = augment_waveform(SPEECH, config, np.random.default_rng(4))
    assert np.array_equal(one, other)
    assert speed == 1.1
    assert abs(len(one) - 16000 / 1.1) < 20
    assert one.dtype == np.float32


def test_a_room_starts_with_the_direct_path_and_dies_away() -> None:
    response = room_impulse_response(np.random.default_rng(1), 0.4)
    assert response[0] == 1.0
    assert np.abs(response[-200:]).max() < 0.02
    assert 0.03 < np.sum(response[1:] ** 2) < 3


def tones(*hertz: float) -> torch.Tensor:
    time = np.arange(8000) / 16000
    return torch.from_numpy(fbank(sum(0.1 * np.sin(2 * np.pi * hz * time) for hz in hertz)))[None]


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.12])
def test_warped_frequencies_are_those_of_tones_so_much_higher(factor: float) -> None:
    there = tones(300.0, 1000.0, 3000.0)
    warped = warp_frequencies(there, FbankConfig(), (factor, factor), generator())
    expected = tones(300.0 * factor, 1000.0 * factor, 3000.0 * factor)
    for low, high in ((0, 30), (30, 64), (64, 110)):
        its, wanted = (x[0, 10, low:high].argmax() for x in (warped, expected))
        assert abs(int(its) - int(wanted)) <= 1
    torch.testing.assert_close(warped[..., -1], there[..., -1], atol=1.0, rtol=0)


def test_each_window_is_warped_by_a_factor_of_its_own_in_the_range() -> None:
    there = tones(1000.0).expand(40, -1, -1)
    peaks = warp_frequencies(there, FbankConfig(), (0.9, 1.1), generator())[:, 10].argmax(dim=1)
    lowest, highest = (int(tones(hz)[0, 10].argmax()) for hz in (900.0, 1100.0))
    assert lowest - 1 <= peaks.min() < peaks.max() <= highest + 1
    assert len(set(peaks.tolist())) > 3
