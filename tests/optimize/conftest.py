"""Tones of three classes with a manifest, and a clip classifier that has learned them a little."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

for _module in ("torch", "lightning_fabric", "safetensors", "matplotlib", "scipy"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402

import tests.train.conftest as keywords  # noqa: E402
from train.config import EngineConfig, ModelConfig, OptimizerConfig  # noqa: E402
from train.data.clips import ClipConfig  # noqa: E402
from train.finetune import finetune  # noqa: E402
from train.keywords import train_keywords  # noqa: E402
from train.machine import Machine  # noqa: E402
from train.recipe import FinetuneRecipe, KeywordRecipe, ManifestConfig  # noqa: E402
from train.task import Places  # noqa: E402

tiny_data, tiny_recipe = keywords.tiny_data, keywords.tiny_recipe  # fixtures

ONE_CORE = Machine(accelerator="cpu", workers=0, threads=1)
HERTZ = {"high": 3000, "low": 300, "middle": 1000}
RECIPE = FinetuneRecipe(
    name="tones",
    data=ManifestConfig(manifest="tones.csv"),
    optimizer=OptimizerConfig(
        steps=20, batch_size=6, learning_rate=3e-3, warmup_steps=4, average=0.5
    ),
    model=ModelConfig(
        dim=32, depth=2, num_heads=2, mlp_ratio=2.0, patch_bins=32, patch_frames=8,
        stride_bins=32, stride_frames=8, dropout=0.1,
    ),
    clips=ClipConfig(num_frames=64),
    engine=EngineConfig(precision="32-true", save_every_steps=5),
)  # fmt: skip


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Twelve tones a class, a quarter of them for validation."""
    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    rows = []
    for label, hertz in HERTZ.items():
        for i in range(12):
            time = np.arange(11000) / 16000
            sound = 0.3 * np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time)
            soundfile.write(root / f"{label}{i}.wav", sound, 16000)
            rows.append([f"{label}{i}.wav", label, ("train", "train", "val", "test")[i % 4]])
    with (root / "tones.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels", "split"], *rows])
    return Places(manifests=root, cache=root / "pcm", pool=root / "pool")


@pytest.fixture(scope="session")
def dense(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint; not to be changed."""
    out = tmp_path_factory.mktemp("dense")
    return finetune(
        RECIPE, manifests=places.manifests, cache=places.cache, out=out, machine=ONE_CORE
    )


@pytest.fixture(scope="session")
def tiny_keywords(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Places]:
    """A keyword run's checkpoint, not to be changed, and where its recordings lie."""
    root = tmp_path_factory.mktemp("keywords")
    folder = train_keywords(
        dataclasses.replace(
            tiny_recipe, optimizer=dataclasses.replace(tiny_recipe.optimizer, steps=4)
        ),
        data=tiny_data, synthetic=(), out=root / "run", machine=ONE_CORE, jobs=1,
    )  # fmt: skip
    return folder, Places(data=tiny_data, synthetic=(), pool=root / "pool", jobs=1)
