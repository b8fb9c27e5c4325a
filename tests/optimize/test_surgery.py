"""What is left of a pruned model: the asked shapes, and the same logits where only zeros went."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from optimize.pruning.importance import random_importance  # noqa: E402
from optimize.pruning.macs import model_cost  # noqa: E402
from optimize.pruning.selection import Limits, PruneError, select, smallest  # noqa: E402
from optimize.pruning.sparsity import is_two_of_four, keep_zeros, make_sparse  # noqa: E402
from optimize.pruning.surgery import Kept, shrink, shrunk_encoder  # noqa: E402
from train.encoder import Block, Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import build_graph  # noqa: E402

CONFIG = EncoderConfig(
    num_frames=48, patch_frames=8, stride_frames=8, dim=24, depth=3, num_heads=3, mlp_ratio=2.0
)
FBANK = torch.from_numpy(np.random.default_rng(0).normal(-4, 4, (2, 48, 128)).astype(np.float32))


def make(config: EncoderConfig = CONFIG) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(Encoder(config), 5, mean=-4.0, std=3.0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def logits(model: Classifier) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(FBANK).numpy()
    return found


def silence(model: Classifier, kept: Kept) -> None:
    """Zero what is not kept on its way back to the stream."""
    for number, block in enumerate(model.encoder.blocks):
        assert isinstance(block, Block)
        assert block.attn is not None
        assert block.mlp is not None
        width = block.attn.head_dim
        for head in set(range(block.attn.num_heads)) - set(kept.heads[number]):
            block.attn.proj.weight.data[:, head * width : (head + 1) * width] = 0
        gone = sorted(set(range(block.mlp.fc1.out_features)) - set(kept.units[number]))
        block.mlp.fc2.weight.data[:, gone] = 0


SOME = Kept(((0, 2), (1,), (0, 1, 2)), ((0, 5, 7), tuple(range(48)), (47,)), tuple(range(24)))
HALVES = Kept(((), (1,), (0, 2)), (tuple(range(16)), (), (3, 4)), tuple(range(24)))
FIRST_BLOCK_GONE = Kept(((), (0,), ()), ((), (1, 2), ()), tuple(range(24)))


@pytest.mark.parametrize("kept", [SOME, HALVES, FIRST_BLOCK_GONE])
def test_without_units_that_are_zero_the_logits_stay(kept: Kept) -> None:
    model = make()
    silence(model, kept)
    before = logits(model)
    small = shrink(model, kept)
    np.testing.assert_allclose(logits(small), before, atol=2e-5)
    np.testing.assert_array_equal(logits(model), before, "the model itself is left as it was")
    assert small.encoder.config == shrunk_encoder(model.encoder.config, kept)
    assert (
        sum(p.numel() for p in small.parameters()) == model_cost(small.encoder.config, 5).parameters
    )


def test_without_channels_that_are_zero_in_a_centred_stream_the_logits_stay() -> None:
    model, kept = make(), replace_channels(SOME, range(0, 24, 2))
    silence(model, kept)
    gone = list(range(1, 24, 2))
    encoder = model.encoder
    with torch.no_grad():
        writes = [encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias]
        for block in encoder.blocks:
            assert isinstance(block, Block)
            assert block.attn is not None
            assert block.mlp is not None
            writes += [block.attn.proj.weight, block.attn.proj.bias]
            writes += [block.mlp.fc2.weight, block.mlp.fc2.bias]
        assert encoder.pos_embed is not None
        assert encoder.prefix_tokens is not None
        writes += [encoder.pos_embed.transpose(0, 2), encoder.prefix_tokens.transpose(0, 2)]
        for write in writes:
            assert write is not None
            write[gone] = 0
            write[::2] -= write[::2].mean(0)
        encoder.norm.weight.fill_(0.7)  # so that the classifier's norm sees a centred stream too
        encoder.norm.bias.zero_()
    np.testing.assert_allclose(logits(shrink(model, kept)), logits(model), atol=1e-4)


def replace_channels(kept: Kept, channels: range) -> Kept:
    return replace(kept, channels=tuple(channels))


@pytest.mark.parametrize("structure", ["units", "channels", "depth"])
@pytest.mark.parametrize("share", [0.75, 0.5])
def test_a_selection_meets_the_macs_closely(structure: str, share: float) -> None:
    config = replace(CONFIG, dim=64, depth=6, num_heads=4)
    model = make(config)
    whole = model_cost(config, 5).macs
    kept = select(
        config, 5, random_importance(model, 1), share * whole, Limits(structure=structure)
    )
    small = shrunk_encoder(config, kept)
    found = model_cost(small, 5).macs / whole
    assert found <= share
    assert found > share - {"units": 0.01, "channels": 0.11, "depth": 0.17}[structure]
    assert all(hidden % 8 == 0 for hidden in small.hidden)
    if structure == "depth":
        assert set(small.heads) == {4}
    if structure != "channels":
        assert small.dim == 64


def test_the_least_important_go_first_and_limits_go_in_any_case() -> None:
    model = make()
    importance = random_importance(model, 3)
    whole = model_cost(CONFIG, 5).macs
    kept = select(CONFIG, 5, importance, whole, Limits(heads=1, depth=2, dim=16))
    assert [len(heads) for heads in kept.heads if heads] == [1, 1]
    gone = int(importance.blocks.argmin())
    assert kept.heads[gone] == kept.units[gone] == ()
    best = [int(importance.heads[block].argmax()) for block in kept.blocks]
    assert [kept.heads[block][0] for block in kept.blocks] == best
    assert len(kept.channels) == 16


def test_what_cannot_be_selected_is_one_line() -> None:
    model = make()
    importance = random_importance(model, 0)
    whole = model_cost(CONFIG, 5).macs
    with pytest.raises(PruneError, match="heads = 4 asks for more heads a block than .* has: 3"):
        select(CONFIG, 5, importance, whole, Limits(heads=4))
    with pytest.raises(PruneError, match="depth = 5 asks for more blocks than the model has: 3"):
        select(CONFIG, 5, importance, whole, Limits(depth=5))
    with pytest.raises(PruneError, match="0.01 of the MACs cannot be met: pruning units"):
        select(CONFIG, 5, importance, 0.01 * whole, Limits())
    least = shrunk_encoder(CONFIG, smallest(CONFIG, 5, importance, Limits()))
    assert sum(least.heads) == 1
    assert sum(least.hidden) == 8
    with pytest.raises(ValueError, match="structure must be one of"):
        Limits(structure="layers")


@pytest.mark.parametrize("kept", [SOME, HALVES, FIRST_BLOCK_GONE])
def test_the_graph_of_a_pruned_model_computes_the_same(kept: Kept) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    small = shrink(make(), replace_channels(kept, range(20)))
    session = onnxruntime.InferenceSession(build_graph(small, batch=None).SerializeToString())
    found = session.run(None, {"fbank": FBANK.numpy()})[0]
    np.testing.assert_allclose(found, logits(small), atol=1e-4)


def test_two_of_four_weights_stay_zero_in_training() -> None:
    model = make().train()
    make_sparse(model)
    keep_zeros(model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(FBANK).square().sum().backward()
        optimizer.step()
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name])
        if name.startswith("encoder.blocks") and value.ndim == 2:
            assert is_two_of_four(value)
            assert float(value.eq(0).float().mean()) == 0.5
    graph = build_graph(model.eval())
    from onnx import numpy_helper

    for weight in graph.graph.initializer:
        if weight.name.endswith(("qkv.weight", "fc1.weight", "fc2.weight", "proj.weight")):
            array = numpy_helper.to_array(weight)  # (in, out)
            if array.ndim == 2 and weight.name.startswith("blocks"):
                groups = (array != 0).reshape(-1, 4, array.shape[1]).sum(axis=1)
                assert groups.max() <= 2, weight.name
