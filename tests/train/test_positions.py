"""Learned positions are cut or stretched to another grid."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from train.positions import resize_pos_embed  # noqa: E402


def test_equal_grids_leave_positions_unchanged() -> None:
    pos = torch.randn(1, 8 * 64, 4)
    assert torch.equal(resize_pos_embed(pos, (8, 64), (8, 64)), pos)


def test_shorter_axes_are_cut_around_their_centres() -> None:
    pos = torch.arange(6.0 * 10).reshape(1, 60, 1)
    cut = resize_pos_embed(pos, (6, 10), (2, 4)).reshape(2, 4)
    assert torch.equal(cut, pos.reshape(6, 10)[2:4, 3:7])


def test_longer_axes_are_interpolated_each_on_its_own() -> None:
    ramp = torch.arange(4.0).repeat(2, 1).reshape(1, 8, 1)  # rises along time only
    out = resize_pos_embed(ramp, (2, 4), (5, 8)).reshape(5, 8)
    assert torch.allclose(out, out[:1].expand(5, 8))
    assert (out[0].diff() >= 0).all()
    assert out.min() == 0
    assert out.max() == 3


def test_a_grid_that_does_not_fit_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="60 positions"):
        resize_pos_embed(torch.zeros(1, 60, 1), (6, 11), (2, 4))
