"""The pretext task: parity with the authors' outputs, mask statistics, gradients."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.pretext import (  # noqa: E402
    CLUSTER_SIZES,
    MaskedSpectrogramPretext,
    PretextConfig,
    cluster_masks,
    info_nce,
    official_cluster_masks,
    uniform_masks,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(patch: tuple[int, int] = (16, 16), *, frames: int = 64, **settings: object) -> (
    MaskedSpectrogramPretext
):  # fmt: skip
    torch.manual_seed(0)
    encoder = Encoder(
        EncoderConfig(
            num_frames=frames, patch_bins=patch[0], patch_frames=patch[1],
            stride_bins=patch[0], stride_frames=patch[1], dim=16, depth=2, num_heads=2,
        )
    )  # fmt: skip
    config = PretextConfig(**{"num_masked": 12, **settings})  # type: ignore[arg-type]
    return MaskedSpectrogramPretext(encoder, config)


@pytest.mark.parametrize("variant", ["patch", "frame"])
def test_official_losses_equal_the_authors(variant: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("the authors' golden outputs (../shared/golden) are not there")
    from train.formats import import_checkpoint

    golden = np.load(GOLDEN / f"ssast_tiny_{variant}.npz", allow_pickle=False)
    imported = import_checkpoint(GOLDEN / f"ssast_tiny_{variant}.pth")
    assert imported.pretext is not None
    encoder = Encoder(imported.config)
    encoder.load_state_dict(imported.encoder)
    index = torch.from_numpy(golden["mask_index"])
    model = MaskedSpectrogramPretext(
        encoder, PretextConfig(num_masked=index.shape[1], mode="official")
    )
    model.load_state_dict(imported.pretext, strict=False)
    with torch.no_grad():
        losses = model(torch.from_numpy(golden["pretrain_x"]), torch.stack([index, index]))
    for name, value in (("nce", losses.info_nce), ("mse", losses.mse), ("acc", losses.accuracy)):
        assert value.item() == pytest.approx(float(golden[f"pretrain_{name}"]), abs=1e-4)
    total = float(golden["pretrain_nce"]) + 10 * float(golden["pretrain_mse"])
    assert losses.loss.item() == pytest.approx(total, abs=1e-3)


def test_official_masks_have_the_authors_distribution() -> None:
    # Row chances, low to high frequency, simulated with the authors' sampler (8 x 64 patches, 400).
    stated = torch.tensor([0.415, 0.670, 0.813, 0.872, 0.888, 0.887, 0.885, 0.819])
    index = official_cluster_masks(20_000, (8, 64), 400, generator())
    share = torch.bincount(index.flatten(), minlength=512) / 20_000
    torch.testing.assert_close(share.view(8, 64).mean(dim=1), stated, atol=4e-3, rtol=0)
    assert share[0] == share[511] == 0


def authors_like_sampler(rng: np.random.Generator, grid: tuple[int, int], count: int) -> set[int]:
    """The sampler's rule block by block: what the vectorised one must be equal to in law."""
    patches, size = grid[0] * grid[1], int(rng.integers(3, 6))
    taken: set[int] = set()
    while len(taken) <= count:
        start = int(rng.integers(patches))
        block = {start + grid[1] * i + j for i in range(size) for j in range(size)}
        taken |= {patch for patch in block if 0 < patch < patches}
    return set(sorted(taken)[:count])


def test_official_masks_equal_a_block_by_block_sampler_patch_by_patch() -> None:
    grid, count, rng = (4, 12), 20, np.random.default_rng(0)
    slow = np.zeros(48)
    for _ in range(6000):
        slow[list(authors_like_sampler(rng, grid, count))] += 1 / 6000
    index = official_cluster_masks(60_000, grid, count, generator())
    fast = torch.bincount(index.flatten(), minlength=48).numpy() / 60_000
    # Five standard errors of the slow estimate, the worst of 48 patches.
    np.testing.assert_allclose(fast, slow, atol=5 * 0.5 / np.sqrt(6000))


def test_every_patch_is_masked_with_the_same_chance_in_paper_mode() -> None:
    share = torch.bincount(cluster_masks(20_000, (8, 64), 400, generator()).flatten()) / 20_000
    assert share.shape == (512,)
    assert (share - 400 / 512).abs().max() < 0.02


@pytest.mark.parametrize("count", [2, 37, 96])
def test_masks_are_distinct_patches_in_any_number(count: int) -> None:
    for draw in (
        cluster_masks(50, (8, 12), count, generator()),
        uniform_masks(50, 96, count, generator()),
    ):
        assert draw.shape == (50, count)
        assert all(len(set(row)) == count for row in draw.tolist())
        assert draw.min() >= 0
        assert draw.max() < 96


def test_clustered_masks_are_made_of_blocks() -> None:
    for row in cluster_masks(30, (16, 16), 60, generator()):
        mask = torch.zeros(16, 16)
        mask.view(-1)[row] = 1
        smallest = min(CLUSTER_SIZES)
        inside = torch.nn.functional.max_pool2d(
            -torch.nn.functional.pad(mask, (4, 4, 4, 4), value=1.0)[None, None], smallest, 1
        )
        # Whole blocks of at least 3 x 3 (beyond the edge counts as masked) cover nearly all of it;
        # the last block is cut.
        whole = torch.nn.functional.max_pool2d(
            torch.nn.functional.pad(-inside, (2, 2, 2, 2)), smallest, 1
        )
        covered = whole[0, 0, 4:20, 4:20]
        assert ((mask == 1) & (covered < 0.5)).sum() <= 25


def test_a_mask_depends_on_the_seed_alone() -> None:
    one, same, other = (cluster_masks(4, (8, 8), 20, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("patch", [(16, 16), (128, 2), (32, 8), (128, 8), (64, 3)])
def test_any_patch_shape_trains(patch: tuple[int, int]) -> None:
    model = make(patch, frames=96, num_masked=4)
    fbank = torch.randn(3, 96, 128)
    losses = model(fbank, model.draw_masks(3, generator()))
    losses.loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert torch.isfinite(losses.loss)


def test_patches_come_in_the_encoders_order_and_back() -> None:
    model = make((32, 8), frames=70)
    fbank = torch.randn(2, 70, 128)
    patches = model.patchify(fbank)
    assert patches.shape == (2, 4 * 8, 32 * 8)
    # A patch embedding that sums its pixels sees the same patches, in the same places.
    proj = model.encoder.patch_embed.proj
    torch.nn.init.ones_(proj.weight)
    assert proj.bias is not None
    torch.nn.init.zeros_(proj.bias)
    torch.testing.assert_close(
        model.encoder.patch_embed(fbank)[..., 0], patches.sum(-1), atol=1e-3, rtol=1e-4
    )
    torch.testing.assert_close(model.unpatchify(patches), fbank[:, :64])


def test_masked_patches_do_not_reach_the_encoder() -> None:
    model = make().eval()
    index = model.draw_masks(1, generator())[0]
    fbank = torch.randn(1, 64, 128)
    pixels = model.patchify(fbank)
    pixels[0, index[0]] = 1e3
    changed = model.unpatchify(pixels)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_masked(fbank, index), model.encode_masked(changed, index)
        )


def test_the_softmax_runs_over_targets_in_paper_mode_and_predictions_in_official() -> None:
    predicted, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)

    def by_hand(axis: int) -> float:
        total = 0.0
        for clip in range(2):
            for i in range(5):
                row = [
                    (predicted[clip, j if axis == 0 else i] @ target[clip, i if axis == 0 else j])
                    for j in range(5)
                ]
                total -= (row[i] - torch.logsumexp(torch.stack(row), 0)).item()
        return total / 10

    assert info_nce(predicted, target)[0].item() == pytest.approx(by_hand(1), rel=1e-5)
    official = info_nce(predicted, target, mode="official")[0].item()
    assert official == pytest.approx(by_hand(0), rel=1e-5)


def test_a_perfect_prediction_is_right_everywhere() -> None:
    target = 10 * torch.eye(6)[None]
    loss, accuracy = info_nce(target, target)
    assert loss.item() < 1e-6
    assert accuracy.item() == 1.0


@pytest.mark.parametrize(
    ("objective", "silent"),
    [("discriminative", "generative_head"), ("generative", "discriminative_head")],
)
def test_one_objective_alone_leaves_the_other_head_untouched(objective: str, silent: str) -> None:
    model = make(objective=objective)
    losses = model(torch.randn(2, 64, 128), model.draw_masks(2, generator()))
    losses.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith(silent) for name in trained)
    assert "mask_embed" in trained


def test_paper_mode_makes_one_pass_and_official_two() -> None:
    calls: list[Tensor] = []
    for mode, rows in (("paper", 3), ("official", 6)):
        model = make(mode=mode)
        model.encoder.norm.register_forward_hook(lambda _m, x, _y: calls.append(x[0]))
        masks = model.draw_masks(3, generator())
        model(torch.randn(3, 64, 128), masks)
        assert sum(len(call) for call in calls) == rows
        calls.clear()


def test_a_reconstruction_changes_masked_patches_only() -> None:
    model = make().eval()
    fbank = torch.randn(2, 64, 128)
    index = model.draw_masks(2, generator())[0]
    before, after = model.patchify(fbank), model.patchify(model.reconstruct(fbank, index))
    changed = (before != after).any(dim=-1)
    expected = torch.zeros_like(changed).scatter(1, index, True)
    assert torch.equal(changed, expected)


def test_the_pretext_task_can_be_learned() -> None:
    # Clips of one repeated patch each: a masked patch is what the others are.
    torch.manual_seed(0)
    model = make(objective="generative", num_masked=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(60):
        fbank = torch.randn(8, 1, 1).expand(8, 64, 128).clone()
        losses = model(fbank, model.draw_masks(8, generator(step)))
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
        first, last = (first or losses.mse.item()), losses.mse.item()
    assert last < first / 3


def test_official_masks_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="at most 94 of 96 patches, num_masked is 95"):
        official_cluster_masks(1, (8, 12), 95, generator())
