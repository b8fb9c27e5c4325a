"""An encoder with a context: what its tokens see, and what it starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

for _module in ("torch", "safetensors"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from train.checkpoint import CheckpointError  # noqa: E402
from train.config import ModelConfig, OptimizerConfig  # noqa: E402
from train.encoder import Attention, Block, Encoder, EncoderConfig, relative_bias  # noqa: E402
from train.evaluate import at_length  # noqa: E402
from train.formats import Imported, load_encoder, save_encoder, write_ssast  # noqa: E402
from train.initial import start_from  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.recipe import FinetuneRecipe, ManifestConfig  # noqa: E402

CAUSAL = EncoderConfig(
    num_frames=204, num_mel_bins=16, patch_bins=16, stride_bins=16, patch_frames=8, stride_frames=4,
    dim=16, depth=3, num_heads=2, num_prefix_tokens=0, context=5,
)  # fmt: skip
TOKENS, MEMORY = 50, 15  # depth * context


def causal(**changes: Any) -> Encoder:
    """With weights of some size: every token that is seen then counts."""
    torch.manual_seed(0)
    encoder = Encoder(replace(CAUSAL, **changes))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return encoder.eval()


def fbank(frames: int = CAUSAL.num_frames) -> Tensor:
    return torch.randn(2, frames, 16, generator=torch.Generator().manual_seed(1))


def run(encoder: Encoder, frames: Tensor, *, learning: bool) -> Tensor:
    """Training computes attention in another way than everything else does."""
    with torch.set_grad_enabled(learning):
        tokens: Tensor = encoder(frames).detach()
    return tokens


def end(token: int) -> int:
    """The frame after a token's last one."""
    return token * CAUSAL.stride_frames + CAUSAL.patch_frames


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("token", [0, 1, 23, TOKENS - 2])
def test_no_token_depends_on_a_later_frame(token: int, learning: bool) -> None:
    encoder, heard = causal(), fbank()
    other = heard.clone()
    other[:, end(token) :] = 100 * torch.randn_like(other[:, end(token) :])
    before, after = (run(encoder, frames, learning=learning) for frames in (heard, other))
    assert torch.equal(before[:, : token + 1], after[:, : token + 1])
    assert (before[:, token + 1] != after[:, token + 1]).any(), "the next one hears them"


@pytest.mark.parametrize("learning", [False, True])
def test_a_token_sees_so_many_tokens_back_in_every_block(learning: bool) -> None:
    encoder, heard = causal(), fbank()
    other = heard.clone()
    other[:, : CAUSAL.stride_frames] += 1.0  # of the first token alone
    before, after = (run(encoder, frames, learning=learning) for frames in (heard, other))
    differ = (before != after).any(dim=2)
    assert differ[:, : MEMORY + 1].all()
    assert not differ[:, MEMORY + 1 :].any()


def test_training_and_inference_compute_the_same() -> None:
    encoder, heard = causal(), fbank()
    apart = run(encoder, heard, learning=True) - run(encoder, heard, learning=False)
    assert apart.abs().max() < 1e-5


@pytest.mark.parametrize("first", [MEMORY, MEMORY + 1, 30])
def test_a_piece_after_enough_memory_equals_the_whole(first: int) -> None:
    encoder, heard = causal(), fbank()
    whole = run(encoder, heard, learning=False)[:, first:]
    begin = (first - MEMORY) * CAUSAL.stride_frames
    piece = run(encoder, heard[:, begin:], learning=False)[:, MEMORY:]
    assert piece.shape == whole.shape
    assert (piece - whole).abs().max() < 1e-5
    memory = MEMORY - CAUSAL.context
    begin = (first - memory) * CAUSAL.stride_frames
    piece = run(encoder, heard[:, begin:], learning=False)[:, memory:]
    assert (piece - whole).abs().max() > 1e-4, "less memory is not enough"


def test_before_the_first_token_lie_zero_keys_and_values() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, 8, context=3)
    assert attention.back is not None
    with torch.no_grad():
        for weight in attention.parameters():
            weight.add_(torch.randn_like(weight))
        token = torch.randn(1, 1, 16)
        query, key, value = attention.qkv(token)[0, 0].reshape(3, 2, 8)
        # The similarity of a key of zeros is the bias of its distance alone.
        similarity = torch.cat(
            [(query * key).sum(1, keepdim=True) * 8**-0.5 + attention.back[:, :1],
             attention.back[:, 1:]], dim=1,
        )  # fmt: skip
        share = similarity.softmax(dim=1)[:, :1]
        wanted = attention.proj((share * value).flatten())
        assert (attention(token)[0, 0] - wanted).abs().max() < 1e-5


def test_the_bias_of_a_distance_lies_where_the_distance_is() -> None:
    spread = relative_bias(torch.tensor([[0.0, 1.0, 2.0]]), 4)[0]  # of keys from two back on
    hidden = float("-inf")
    assert spread.tolist() == [
        [2.0, 1.0, 0.0, hidden, hidden, hidden],
        [hidden, 2.0, 1.0, 0.0, hidden, hidden],
        [hidden, hidden, 2.0, 1.0, 0.0, hidden],
        [hidden, hidden, hidden, 2.0, 1.0, 0.0],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_prefix_tokens": 2}, "0 with a context, got 2 and a context of 5"),
        ({"context": 0}, "num_prefix_tokens must be at least 1, and 0 with a context, got 0"),
        ({"context": -1}, "a context of -1"),
        ({"context": -1, "num_prefix_tokens": 1}, "a context of -1"),
        ({"patch_bins": 8, "stride_bins": 8}, "patches of all 16 mel bins, got 8"),
        ({"patch_bins": 8}, "patches of all 16 mel bins, got 8"),
    ],
)
def test_a_shape_that_no_stream_can_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CAUSAL, **changes)


def saved(folder: Path, encoder: Encoder) -> Path:
    """An encoder's file."""
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    save_encoder(folder, Imported(config=encoder.config, encoder=state, sources=("nowhere",)))
    return folder


def seeing_all(**changes: Any) -> Encoder:
    return causal(context=0, num_prefix_tokens=2, num_frames=100, **changes)


def test_it_starts_from_an_encoder_that_sees_all_of_its_window(tmp_path: Path) -> None:
    start = seeing_all()
    path = saved(tmp_path / "encoder", start)
    encoder = causal()
    found = start_from(path, encoder)
    assert found.sources == ("nowhere",)
    weights = encoder.state_dict()
    for name, value in start.state_dict().items():
        if name not in ("pos_embed", "prefix_tokens"):
            assert torch.equal(weights[name], value), name
    for block in encoder.blocks:
        assert isinstance(block, Block)
        assert block.attn is not None
        assert block.attn.back is not None
        assert not block.attn.back.any(), "all distances weigh alike"
    assert torch.isfinite(run(encoder, fbank(), learning=False)).all()


def test_it_starts_from_its_own_kind_of_any_length(tmp_path: Path) -> None:
    start = causal(num_frames=100)
    path = saved(tmp_path / "encoder", start)
    assert load_encoder(path).config == start.config
    encoder = causal(num_frames=204)
    torch.nn.init.zeros_(encoder.norm.weight)
    start_from(path, encoder)
    weights = encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in start.state_dict().items())


def test_what_cannot_be_started_from_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "encoder", causal())
    for encoder, message in (
        (seeing_all(), "sees 5 tokens back, the recipe wants one that sees all of its window"),
        (causal(context=6), r"attn\.back is \(2, 6\), wanted \(2, 7\)"),
        (causal(num_heads=4), "2 attention heads, the recipe wants 4"),
    ):
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        with pytest.raises(CheckpointError, match=message) as caught:
            start_from(path, encoder)
        assert "\n" not in str(caught.value)
        after = encoder.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_authors_format_has_no_place_for_it(tmp_path: Path) -> None:
    encoder = causal(dim=128)
    found = load_encoder(saved(tmp_path / "encoder", encoder))
    with pytest.raises(CheckpointError, match="knows no context"):
        write_ssast(tmp_path / "x.pth", found)
    assert not (tmp_path / "x.pth").exists()


def test_a_classifier_of_windows_may_have_one_too() -> None:
    model = Classifier(causal(), 3, mean=0.0, std=0.5).eval()
    longer = at_length(model, 404)
    heard = fbank(404)
    with torch.no_grad():
        tokens = longer.encoder(heard)
        assert tokens.shape[1] == 100
        assert (longer(heard) - longer.head(tokens.mean(1))).abs().max() < 1e-5
    settings: dict[str, Any] = {
        "name": "x", "data": ManifestConfig(manifest="x.csv"), "model": ModelConfig(context=4),
        "optimizer": OptimizerConfig(steps=1),
    }  # fmt: skip
    assert FinetuneRecipe(**settings).encoder_config().num_prefix_tokens == 0
    with pytest.raises(ValueError, match="pooling cls wants a model without context"):
        FinetuneRecipe(**settings, pooling="cls")
