"""Recipes: one TOML file describes one training run, typed; an unknown key is an error.

Each table belongs to the dataclass that stands next to the code it configures.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ssast_edge.fbank import FbankConfig
from train.augment import LogMelAugmentConfig, WaveformAugmentConfig
from train.config import EngineConfig, ModelConfig, OptimizerConfig
from train.data.clips import ClipConfig
from train.encoder import EncoderConfig
from train.phone_windows import PackWeights, PhoneWindowConfig
from train.pretext import MaskedSpectrogramPretext, PretextConfig
from train.recipe_checks import check_names, check_smoothing, encoder_config_of
from train.spotter_recipe import (
    DataConfig,
    KeywordRecipe,
    SelectionConfig,
    SpotterRecipe,
    StreamRecipe,
)
from train.tables import RecipeError, parse, read_table

__all__ = [
    "DataConfig",
    "FinetuneRecipe",
    "KeywordRecipe",
    "ManifestConfig",
    "PhoneDataConfig",
    "PhoneRecipe",
    "PretrainRecipe",
    "Recipe",
    "RecipeError",
    "SelectionConfig",
    "SpotterRecipe",
    "StreamRecipe",
    "load_recipe",
    "parse_recipe",
    "recipe_table",
]


@dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """Clip training: the manifest, and which of its examples train and which validate."""

    # A file or a folder of shards below the manifests' folder, or the address of shards; several
    # are joined by " + ".
    manifest: str
    test_fold: int = 0  # cross-validation: this fold is held out, the others train
    validation_share: float = 0.0  # of speakers, or else clips, where the manifest names no val
    label_fraction: float = 1.0  # of the training examples of each class, drawn by the seed
    by_duration: bool = False  # draw examples in proportion to their length, for random crops
    balanced: bool = False  # draw examples in inverse proportion to their labels' frequency

    def __post_init__(self) -> None:
        """Refuse fractions that leave nothing."""
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must be in (0, 1], got {self.label_fraction}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must be in [0, 1), got {self.validation_share}")
        if self.validation_share and self.test_fold:
            raise ValueError("validation_share and test_fold exclude each other: give one of them")
        if self.test_fold < 0:
            raise ValueError(f"test_fold must be 0 (none) or a fold, got {self.test_fold}")


@dataclass(frozen=True, kw_only=True)
class NormalizationConfig:
    """Mean and standard deviation of the raw log-mel; zeros: computed from the training data."""

    mean: float = 0.0
    std: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a spread that nothing can be divided by."""
        if self.std < 0 or (self.mean != 0 and self.std == 0):
            raise ValueError(
                f"give mean and std (above 0) together, got {self.mean} and {self.std}"
            )


@dataclass(frozen=True, kw_only=True)
class PhoneDataConfig:
    """Phone training: which packs, and how often each clip of speech is rendered."""

    packs: tuple[str, ...]
    synthetic: bool = True  # speech written by `python -m train.synthesize`
    renderings: int = 3

    def __post_init__(self) -> None:
        """Refuse a pool without clips."""
        if not self.packs:
            raise ValueError("packs must name at least one pack")
        if self.renderings < 1:
            raise ValueError(f"renderings must be at least 1, got {self.renderings}")


@dataclass(frozen=True, kw_only=True)
class PhoneRecipe:
    """An encoder that tells the phone at each patch token, task "phones"."""

    task: ClassVar[str] = "phones"

    name: str
    optimizer: OptimizerConfig
    data: PhoneDataConfig
    seed: int = 0
    pack_weights: PackWeights = field(default_factory=PackWeights)
    model: ModelConfig = field(default_factory=ModelConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    windows: PhoneWindowConfig = field(default_factory=PhoneWindowConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    log_mel_augment: LogMelAugmentConfig = field(default_factory=LogMelAugmentConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        """Refuse patches that do not span all mel bins: a phone is told by all of them."""
        check_names(self.name, self.seed)
        rows = self.encoder_config().grid[0]
        if rows != 1:
            raise ValueError(
                f"phones want patches of all {self.fbank.num_mel_bins} mel bins, got {rows} rows "
                "of patches (model.patch_bins)"
            )

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return encoder_config_of(self.model, self.fbank, self.windows.num_frames)


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Self-supervised pretraining on unlabelled audio, task "pretrain"."""

    task: ClassVar[str] = "pretrain"

    name: str
    optimizer: OptimizerConfig
    data: ManifestConfig
    pretext: PretextConfig = field(default_factory=PretextConfig)
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        """Refuse what the pretext task would refuse once the data is read."""
        check_names(self.name, self.seed)
        if self.data.balanced:
            raise ValueError("data.balanced draws by labels: it is for fine-tuning")
        MaskedSpectrogramPretext.check(self.encoder_config(), self.pretext)

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return encoder_config_of(self.model, self.fbank, self.clips.num_frames)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """Classification or tagging of clips, task "finetune"."""

    task: ClassVar[str] = "finetune"

    name: str
    optimizer: OptimizerConfig
    data: ManifestConfig
    loss: str = "ce"  # one class a clip; "bce": each class on its own
    multilabel: bool = False  # clips carry several labels: validated by mAP, not by accuracy
    pooling: str = "mean"  # of the patch tokens; "cls": of the class and distillation tokens
    label_smoothing: float = 0.0
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        """Refuse words that name no loss and pooling."""
        check_names(self.name, self.seed)
        if self.data.by_duration:
            raise ValueError("data.by_duration draws by length: it is for pretraining")
        if self.loss not in ("ce", "bce"):
            raise ValueError(f"loss must be ce or bce, got {self.loss!r}")
        if self.multilabel and self.loss == "ce":
            raise ValueError("clips with several labels want loss = 'bce'")
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be mean or cls, got {self.pooling!r}")
        if self.pooling == "cls" and self.model.context:
            raise ValueError("pooling cls wants a model without context, which has no such tokens")
        check_smoothing(self.label_smoothing)
        self.encoder_config()

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return encoder_config_of(self.model, self.fbank, self.clips.num_frames)


Recipe = KeywordRecipe | StreamRecipe | PretrainRecipe | FinetuneRecipe | PhoneRecipe
TASKS: dict[str, type[Recipe]] = {
    kind.task: kind
    for kind in (KeywordRecipe, PretrainRecipe, FinetuneRecipe, PhoneRecipe, StreamRecipe)
}


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe; `overrides` are "optimizer.steps=100" strings, values in TOML syntax.

    Its key `task` says which kind it is.
    """
    return parse_recipe(read_table(path, overrides), str(path))


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """The recipe of a TOML table, of the kind that its key `task` names."""
    kind = table.get("task")
    if kind not in TASKS:
        raise RecipeError(f"{where}: task must be one of {', '.join(TASKS)}, got {kind!r}")
    rest = {key: value for key, value in table.items() if key != "task"}
    return parse(rest, TASKS[kind], where)


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """Inverse of `parse_recipe`."""
    return {"task": recipe.task, **dataclasses.asdict(recipe)}
