"""Importance against its definition: what happens to the loss when a unit goes."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import torch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

from optimize.pruning.importance import METHODS, measure_importance  # noqa: E402
from train.data.clips import Batch  # noqa: E402
from train.encoder import Block, Encoder, EncoderConfig  # noqa: E402
from train.finetune import ClipObjective  # noqa: E402
from train.model import Classifier  # noqa: E402

CONFIG = EncoderConfig(
    num_frames=32, patch_frames=8, stride_frames=8, dim=12, depth=2, num_heads=3, mlp_ratio=1.0
)


@pytest.fixture
def objective() -> ClipObjective:
    torch.manual_seed(0)
    model = Classifier(Encoder(CONFIG), 4, mean=-4.0, std=3.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return ClipObjective(model.train(), "ce", 0.0)


@pytest.fixture
def batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    made = []
    for size in (3, 2):
        fbank = torch.from_numpy(rng.normal(-4, 4, (size, 32, 128)).astype(np.float32))
        target = torch.eye(4)[rng.integers(4, size=size)]
        made.append(Batch(fbank, target, ()))
    return made


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def test_taylor_is_the_squared_slope_of_each_clips_loss_by_the_units_share(
    objective: ClipObjective, batches: list[Batch]
) -> None:
    found = measure_importance(objective, batches, fabric=fabric())
    model, step = objective.model, 1e-3

    @torch.no_grad()
    def losses() -> np.ndarray:
        model.eval()
        values = [
            float(objective(batch.fbank[i : i + 1], batch.target[i : i + 1])["loss"])
            for batch in batches
            for i in range(len(batch.fbank))
        ]
        model.train()
        return np.array(values)

    def slope(columns: torch.Tensor) -> float:
        """Mean over clips of the squared change of the loss per share of the columns."""
        kept = columns.detach().clone()
        sides = []
        for share in (1 + step, 1 - step):
            columns.data.copy_(kept * share)
            sides.append(losses())
        columns.data.copy_(kept)
        return float(np.square((sides[0] - sides[1]) / (2 * step)).mean())

    for number, block in enumerate(model.encoder.blocks):
        assert isinstance(block, Block)
        assert block.attn is not None
        assert block.mlp is not None
        for head in range(3):
            wanted = slope(block.attn.proj.weight[:, 4 * head : 4 * head + 4])
            assert float(found.heads[number][head]) == pytest.approx(wanted, rel=0.1, abs=1e-6)
        for unit in (0, 7):
            wanted = slope(block.mlp.fc2.weight[:, unit])
            assert float(found.units[number][unit]) == pytest.approx(wanted, rel=0.1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(
    method: str, objective: ClipObjective, batches: list[Batch]
) -> None:
    model = objective.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.eval()
        logits = model(batches[0].fbank)
        model.train()
    found = measure_importance(objective, batches, method=method, fabric=fabric(), seed=3)
    assert [len(heads) for heads in found.heads] == [3, 3]
    assert [len(units) for units in found.units] == [12, 12]
    assert len(found.channels) == 12
    for values in (*found.heads, *found.units, found.channels, found.blocks):
        assert bool((values >= 0).all())
        assert values.std() > 0
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model.eval()(batches[0].fbank), logits), "no hook is left"


@pytest.mark.parametrize("method", ["taylor", "activation", "magnitude"])
def test_a_silent_unit_matters_least(
    method: str, objective: ClipObjective, batches: list[Batch]
) -> None:
    block = objective.model.encoder.blocks[1]
    assert isinstance(block, Block)
    assert block.attn is not None
    assert block.mlp is not None
    with torch.no_grad():
        block.mlp.fc2.weight[:, 5] = 0
        block.mlp.fc1.weight[5] = 0
        block.attn.proj.weight[:, 4:8] = 0
    found = measure_importance(objective, batches, method=method, fabric=fabric())
    assert int(found.units[1].argmin()) == 5
    assert int(found.heads[1].argmin()) == 1
