"""The encoder against the authors' outputs, and its shapes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from train.encoder import SIZES, Block, Encoder, EncoderConfig, PatchEmbed  # noqa: E402
from train.formats.ssast import read_ssast  # noqa: E402
from train.initial import start_from  # noqa: E402
from train.model import Classifier, Pooling  # noqa: E402

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no ../shared/golden beside the checkout"
)
CASES = [("patch", j) for j in range(4)] + [("frame", j) for j in range(2)]


@needs_golden
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(("variant", "case"), CASES)
def test_logits_equal_the_authors(variant: str, case: int, pooling: Pooling) -> None:
    arrays = np.load(GOLDEN / f"ssast_tiny_{variant}.npz")
    settings = json.loads((GOLDEN / f"ssast_tiny_{variant}.json").read_text())["finetune"][case]
    fbank = torch.from_numpy(arrays[f"ft{case}_x"])
    path = GOLDEN / f"ssast_tiny_{variant}.pth"
    pretrained = read_ssast(path).config
    config = replace(
        pretrained,
        num_frames=settings["tdim"],
        stride_bins=settings["fstride"],
        stride_frames=settings["tstride"],
    )
    encoder = Encoder(config)
    start_from(path, encoder)
    assert encoder.config.num_patches + encoder.config.num_prefix_tokens == settings["tokens"]
    model = Classifier(encoder, settings["labels"], mean=0.0, std=0.5, pooling=pooling).eval()
    model.head.load_state_dict(
        {
            key.removeprefix(f"ft{case}_mlp_head."): torch.from_numpy(arrays[key])
            for key in arrays.files
            if key.startswith(f"ft{case}_mlp_head.")
        }
    )
    with torch.no_grad():
        logits = model(fbank).numpy()
    expected = arrays[f"ft{case}_{'avgtok' if pooling == 'mean' else 'cls'}"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@needs_golden
def test_reading_a_checkpoint_without_the_dataparallel_prefix(tmp_path: Path) -> None:
    path = GOLDEN / "ssast_tiny_frame.pth"
    state = torch.load(path, weights_only=True)
    torch.save({k.removeprefix("module."): v for k, v in state.items()}, tmp_path / "bare.pth")
    bare, whole = read_ssast(tmp_path / "bare.pth"), read_ssast(path)
    assert bare.config == whole.config
    assert all(torch.equal(bare.encoder[key], whole.encoder[key]) for key in whole.encoder)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_foreign_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth is not a PyTorch state dict"):
        read_ssast(tmp_path / "x.pth")


def test_a_state_dict_of_another_model_names_what_is_missing(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"v\.pos_embed"):
        read_ssast(tmp_path / "x.pth")


def test_a_file_that_holds_no_dict_is_one_clear_error(tmp_path: Path) -> None:
    torch.save(torch.zeros(1), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not a PyTorch state dict: it holds other things"):
        read_ssast(tmp_path / "x.pth")


@pytest.mark.parametrize("stride", [(16, 16), (10, 10), (128, 2), (128, 1), (7, 3)])
@pytest.mark.parametrize("patch", [(16, 16), (128, 2), (128, 8), (32, 8)])
def test_patch_projection_multiplies_each_patch_in_frequency_major_order(
    patch: tuple[int, int], stride: tuple[int, int]
) -> None:
    config = EncoderConfig(
        num_frames=101, patch_bins=patch[0], patch_frames=patch[1], stride_bins=stride[0],
        stride_frames=stride[1], dim=8, num_heads=2,
    )  # fmt: skip
    embed = PatchEmbed(config)
    fbank = torch.randn(3, 101, 128)
    cut = fbank.unfold(1, patch[1], stride[1]).unfold(2, patch[0], stride[0])
    cut = cut.permute(0, 2, 1, 4, 3).reshape(3, -1, patch[0] * patch[1])  # (B, N, bins * frames)
    expected = cut @ embed.proj.weight.flatten(1).T + embed.proj.bias
    assert expected.shape[1] == config.num_patches
    torch.testing.assert_close(embed(fbank), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.5), ("small", 21.6), ("base", 85.7)])
def test_sizes_are_those_of_the_paper(size: str, millions: float) -> None:
    config = EncoderConfig(
        num_frames=1024,
        patch_bins=16,
        patch_frames=16,
        stride_bins=16,
        stride_frames=16,
        **SIZES[size],
    )
    count = sum(p.numel() for p in Encoder(config).parameters()) / 1e6
    assert config.grid == (8, 64)
    assert abs(count - millions) < 0.05 * millions


@pytest.mark.parametrize(
    "change", [{"num_heads": 5}, {"patch_frames": 200}, {"stride_frames": 0}, {"depth": 0}]
)
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|does not fit"):
        EncoderConfig(**({"num_frames": 100} | change))


def test_the_cpu_linear_layer_equals_pytorchs() -> None:
    from train.cpu_linear import Linear

    torch.manual_seed(0)
    ours, theirs = Linear(24, 40), torch.nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    one = torch.randn(3, 7, 24, requires_grad=True)
    other = one.detach().clone().requires_grad_()
    weight = torch.randn(3, 7, 40)
    for layer, x in ((ours, one), (theirs, other)):
        (layer(x) * weight).sum().backward()
    torch.testing.assert_close(ours(one), theirs(other), atol=1e-5, rtol=1e-5)
    assert one.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-4, rtol=1e-5)


def test_bfloat16_attention_on_the_cpu_equals_float32() -> None:
    from train.encoder import _attend

    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 50, 64) for _ in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    rounded = _attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    torch.testing.assert_close(rounded.float(), exact, atol=3e-2, rtol=3e-2)


def test_recomputed_activations_change_no_gradient() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(num_frames=64, dim=16, depth=2, num_heads=2))
    fbank = torch.randn(2, 64, 128)
    gradients = []
    for recompute in (False, True):
        encoder.checkpoint_activations = recompute
        encoder.zero_grad()
        encoder(fbank).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_stochastic_depth_skips_clips_in_training_alone_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(num_frames=64, dim=16, depth=2, num_heads=2, drop_path=0.5)
    block = Encoder(config).blocks[1]
    assert isinstance(block, Block)
    branch = torch.ones(2000, 3, 16)
    kept = block.train()._skip_some(branch)
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(block.eval()._skip_some(branch), branch)
    assert Encoder(config).blocks[0].drop_path == 0.0
