"""Learning rates, parameter groups and weight averages."""

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from train.config import OptimizerConfig  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.optim import (  # noqa: E402
    Plateau,
    WeightAverage,
    learning_rate,
    make_optimizer,
    parameter_names,
)


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    config = OptimizerConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, 100, 10, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))


def test_the_authors_steps_start_at_their_epoch() -> None:
    # Speech Commands: from epoch 5 on, every epoch times 0.85.
    config = OptimizerConfig(
        epochs=30, warmup_steps=0, learning_rate=1.0, schedule="steps",
        decay_from_epoch=5, decay_every_epochs=1, decay_factor=0.85,
    )  # fmt: skip
    rates = [learning_rate(epoch * 100, 3000, 100, config) for epoch in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.85, 0.85**2, 0.85**3])


def test_a_plateau_shrinks_the_rate_and_survives_a_checkpoint() -> None:
    config = OptimizerConfig(steps=1, schedule="plateau", decay_factor=0.5, patience=2)
    plateau = Plateau(config, higher_is_better=True)
    assert [plateau.update(value) for value in (0.1, 0.2, 0.2, 0.1)] == [True, True, False, False]
    resumed = Plateau(config, higher_is_better=True)
    resumed.restore(plateau.state())
    assert resumed.factor == 1.0
    assert not resumed.update(0.15)  # the third without progress
    assert resumed.factor == 0.5
    falling = Plateau(config, higher_is_better=False)
    assert [falling.update(value) for value in (3.0, 2.0, 2.5)] == [True, True, False]


def tiny_classifier() -> Classifier:
    config = EncoderConfig(num_frames=16, patch_frames=8, stride_frames=8, dim=8, depth=2,
                           num_heads=2)  # fmt: skip
    return Classifier(Encoder(config), 3, mean=0.0, std=1.0)


def test_layers_learn_slower_the_deeper_they_lie() -> None:
    model = tiny_classifier()
    config = OptimizerConfig(steps=1, layer_decay=0.5, head_factor=2.0, weight_decay=0.1)
    optimizer = make_optimizer(model, config)
    names = parameter_names(model, optimizer)
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    factors, decays = {}, {}
    for group in optimizer.param_groups:
        for name in names[: len(group["params"])]:
            factors[name], decays[name] = group["factor"], group["weight_decay"]
        names = names[len(group["params"]) :]
    assert factors["head.1.weight"] == 2.0
    assert factors["encoder.norm.weight"] == 1.0
    assert factors["encoder.blocks.1.mlp.fc1.weight"] == 1.0
    assert factors["encoder.blocks.0.mlp.fc1.weight"] == 0.5
    assert factors["encoder.patch_embed.proj.weight"] == 0.25
    assert decays["encoder.pos_embed"] == decays["head.1.bias"] == 0.0
    assert decays["head.1.weight"] == 0.1


def test_the_mean_of_epochs_is_the_mean_of_their_last_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    config = OptimizerConfig(steps=9, average=0.0, average_epochs=(2, 3))
    average = WeightAverage(model, config)
    for step in range(1, 13):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model, step, steps_per_epoch=3.0)
    # Epochs 2 and 3 end with steps 6 and 9; the fourth is not part of it.
    assert average.tensors["weight"].item() == pytest.approx(7.5)


def test_without_an_average_the_weights_themselves_are_kept() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, OptimizerConfig(steps=9, average=0.0))
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update(model, 1, 1.0)
    assert average.tensors["weight"].item() == 3.0
