"""A tiny data folder in the layout of ../shared/data, with buzzes for words, and a tiny recipe."""

import csv
from pathlib import Path

import numpy as np
import pytest

for _module in ("torch", "scipy", "safetensors", "soundfile", "lightning_fabric"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402

from train.config import EngineConfig, ModelConfig, OptimizerConfig  # noqa: E402
from train.export import export_bundle  # noqa: E402
from train.keywords import train_keywords  # noqa: E402
from train.machine import Machine  # noqa: E402
from train.recipe import DataConfig, KeywordRecipe  # noqa: E402
from train.windows import WindowConfig  # noqa: E402

RATE = 16000
TONES_HZ = {"alexa": 120.0, "jarvis": 900.0}
ONE_CORE = Machine(accelerator="cpu", workers=0, threads=1)
NUM_CLIPS = 13  # of each word: the fewest that put one of each in every split


def tone(hertz: float, seconds: float) -> np.ndarray:
    """A buzz: harmonics up to 7 kHz, broad enough for the word finder."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(1, int(7000 / hertz) + 1)
    waves = np.sin(2 * np.pi * hertz * harmonics[:, None] * time)
    return np.asarray(0.3 * waves.mean(axis=0) * 4)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every pack in small: two "words" that are buzzes, other buzzes as speech, noises."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def write(path: str, samples: np.ndarray) -> None:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples.astype(np.float32), RATE)

    def write_table(path: str, header: str, *rows: str) -> None:
        with (root / path).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(line.split(",") for line in (header, *rows))

    for word, hertz in TONES_HZ.items():
        for i in range(NUM_CLIPS):
            quiet = [1e-3 * rng.standard_normal(int(rng.uniform(0.4, 1.2) * RATE)) for _ in "ab"]
            clip = np.concatenate([quiet[0], tone(hertz * rng.uniform(0.95, 1.05), 0.5), quiet[1]])
            write(f"wake_words/{word}/{i}.ogg", clip)
    for speaker in range(100, 112):
        syllables = [
            np.concatenate([tone(rng.uniform(250, 500), 0.2), np.zeros(800)]) for _ in range(12)
        ]
        write(f"librispeech/{speaker}-1-0000.ogg", np.concatenate(syllables))
    # One that training hears, one of the validation and one of the test track.
    for name in ("white_noise", "running_tap", "exercise_bike"):
        noise = 0.1 * rng.standard_normal(RATE * 4)
        write(f"speech_commands/_background_noise_/{name}.flac", noise)
    splits = ("train", "val", "test")
    for split in splits:
        write(f"speech_commands/{split}/bed/0.ogg", tone(400, 0.9))
    write_table(
        "speech_commands/manifest.csv",
        "path,word,speaker,split",
        *(f"{split}/bed/0.ogg,bed,{split},{split}" for split in splits),
    )
    for fold in range(1, 5):
        write(f"esc10/{fold}.ogg", 0.05 * rng.standard_normal(RATE * 2))
        write(f"esc50_nc/{fold}.ogg", 0.05 * rng.standard_normal(RATE))
    write_table(
        "esc_meta.csv",
        "path,fold,target,class,esc10,freesound_id",
        *(f"esc10/{fold}.ogg,{fold},10,rain,1,{fold}" for fold in range(1, 5)),
        *(f"esc50_nc/{fold}.ogg,{fold},20,crying_baby,0,{fold}" for fold in range(1, 5)),
    )
    for pack in ("speechocean", "wuw"):
        for speaker in range(6):
            write(f"{pack}/{speaker}.ogg", tone(rng.uniform(250, 500), 1.5))
    write_table(
        "speechocean.csv",
        "path,speaker,transcript",
        *(f"speechocean/{speaker}.ogg,{speaker:04d},HUM" for speaker in range(6)),
    )
    write_table(
        "wuw.csv",
        "path,session,keyword_start_s,keyword_end_s,transcript",
        *(f"wuw/{session}.ogg,{session:05d},0.4,0.6,a voyager hums" for session in range(6)),
    )
    return root


@pytest.fixture(scope="session")
def tiny_recipe() -> KeywordRecipe:
    """A recipe that learns the two tones in seconds."""
    return KeywordRecipe(
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
        engine=EngineConfig(precision="32-true", save_every_steps=4),
        model=ModelConfig(dim=32, depth=1, num_heads=2, patch_frames=8, stride_frames=8),
        windows=WindowConfig(num_frames=96),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a run of the tiny recipe; not to be changed. It has learned little."""
    out = tmp_path_factory.mktemp("runs") / tiny_recipe.name
    return train_keywords(
        tiny_recipe, data=tiny_data, synthetic=(), out=out, machine=ONE_CORE, jobs=1
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint as a bundle with the default triggers; not to be changed."""
    folder = tmp_path_factory.mktemp("bundles") / "tones"
    export_bundle(tiny_checkpoint, folder)
    return folder
