"""Costs from the shape, against torch's own counter and the modules' parameters."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from optimize.pruning.macs import block_cost, channel_cost, head_cost, model_cost, unit_cost  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402

PLAIN = EncoderConfig(num_frames=98, dim=24, depth=3, num_heads=4)
SHAPES = {
    "frame": PLAIN,
    "overlapping patch": replace(
        PLAIN, patch_bins=16, patch_frames=16, stride_bins=10, stride_frames=10
    ),
    "pruned": replace(PLAIN, head_dim=8, block_heads=(3, 0, 1), block_hidden=(16, 40, 0)),
    "narrowed": replace(PLAIN, dim=20, head_dim=6, block_heads=(4, 4, 4), block_hidden=(96,) * 3),
    "one prefix token": replace(PLAIN, num_prefix_tokens=1, mlp_ratio=2.5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_costs_are_those_that_torch_counts(shape: str) -> None:
    config = SHAPES[shape]
    model = Classifier(Encoder(config), 7, mean=-4.0, std=4.0).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # the fused one is not counted
        model(torch.zeros(1, config.num_frames, config.num_mel_bins))
    cost = model_cost(config, 7)
    assert 2 * cost.macs == counter.get_total_flops()
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_a_model_is_cheaper_by_what_its_units_cost() -> None:
    config = SHAPES["pruned"]
    whole = model_cost(config, 7)
    assert model_cost(replace(config, block_heads=(2, 0, 1)), 7) + head_cost(config) == whole
    fewer = replace(config, block_hidden=(16, 39, 0))
    assert model_cost(fewer, 7) + unit_cost(config) == whole
    narrower = replace(config, dim=config.dim - 1)
    assert model_cost(narrower, 7) + channel_cost(config, 7) == whole
    shallower = replace(config, depth=2, block_heads=(3, 1), block_hidden=(16, 0))
    assert model_cost(shallower, 7) + block_cost(config, 1) == whole
