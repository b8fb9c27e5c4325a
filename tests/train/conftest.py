"""A tiny data folder in the layout of ../shared/data, with buzzes for words, and a tiny recipe."""

from pathlib import Path

import numpy as np
import pytest

for _module in ("torch", "scipy", "safetensors", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402

from train.recipe import DataConfig, ModelConfig, OptimizerConfig, Recipe  # noqa: E402
from train.windows import WindowConfig  # noqa: E402

RATE = 16000
TONES_HZ = {"alexa": 120.0, "jarvis": 900.0}


def tone(hertz: float, seconds: float) -> np.ndarray:
    """A buzz: harmonics up to 7 kHz, broad enough for the word finder."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(1, int(7000 / hertz) + 1)
    return 0.3 * np.sin(2 * np.pi * hertz * harmonics[:, None] * time).mean(axis=0) * 4


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two "words" that are buzzes, noise as speech, clicks as a background."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def write(path: str, samples: np.ndarray) -> None:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples.astype(np.float32), RATE)

    for word, hertz in TONES_HZ.items():
        for i in range(12):
            quiet = [1e-3 * rng.standard_normal(int(rng.uniform(0.4, 1.2) * RATE)) for _ in "ab"]
            clip = np.concatenate([quiet[0], tone(hertz * rng.uniform(0.95, 1.05), 0.5), quiet[1]])
            write(f"wake_words/{word}/{i}.ogg", clip)
    for speaker in range(100, 112):
        syllables = [
            np.concatenate([tone(rng.uniform(250, 500), 0.2), np.zeros(800)]) for _ in range(12)
        ]
        write(f"librispeech/{speaker}-1-0000.ogg", np.concatenate(syllables))
    write(
        "speech_commands/_background_noise_/white_noise.flac", 0.1 * rng.standard_normal(RATE * 4)
    )
    return root


@pytest.fixture
def tiny_recipe() -> Recipe:
    """A recipe that learns the two tones in seconds."""
    return Recipe(
        name="tones",
        labels=tuple(TONES_HZ),
        optimizer=OptimizerConfig(
            steps=12, batch_size=8, learning_rate=2e-3, warmup_steps=4, average=0.9
        ),
        data=DataConfig(
            packs=("wake_words", "librispeech", "background_noise"),
            synthetic=False,
            renderings_keyword=2,
            renderings_other=1,
        ),
        save_every_steps=4,
        model=ModelConfig(dim=32, depth=1, num_heads=2, patch_frames=8, stride_frames=8),
        windows=WindowConfig(num_frames=96),
    )
