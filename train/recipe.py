"""Recipes: one TOML file describes one training run, typed; an unknown key is an error.

Each table belongs to the dataclass that stands next to the code it configures.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ssast_edge.bundle import check_hop
from ssast_edge.fbank import FbankConfig
from train.augment import LogMelAugmentConfig, WaveformAugmentConfig
from train.config import EngineConfig, ModelConfig, OptimizerConfig
from train.data.clips import ClipConfig
from train.encoder import EncoderConfig
from train.phone_windows import PackWeights, PhoneWindowConfig
from train.pretext import MaskedSpectrogramPretext, PretextConfig
from train.sequences import SequenceConfig
from train.tables import RecipeError, parse, read_table
from train.windows import WindowConfig

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
    "SpotterRecipe",
    "StreamRecipe",
    "load_recipe",
    "parse_recipe",
    "recipe_table",
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Keyword training: which packs, and how often each clip is rendered into the feature pool."""

    packs: tuple[str, ...]
    synthetic: bool = True  # speech written by `python -m train.synthesize`
    renderings_keyword: int = 16
    renderings_synthetic_keyword: int = 5
    renderings_other: int = 2
    renderings_sound: int = 2  # of a class of sounds among the labels
    esc10_test_fold: int = 0  # cross-validation: this fold of ESC-10 is test, the others train

    def __post_init__(self) -> None:
        """Refuse a pool without clips."""
        if not self.packs:
            raise ValueError("packs must name at least one pack")
        for name in ("keyword", "synthetic_keyword", "other", "sound"):
            if getattr(self, f"renderings_{name}") < 1:
                wrong = getattr(self, f"renderings_{name}")
                raise ValueError(f"renderings_{name} must be at least 1, got {wrong}")
        if self.esc10_test_fold < 0:
            raise ValueError(
                f"esc10_test_fold must be 0 (none) or a fold, got {self.esc10_test_fold}"
            )


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
class SelectionConfig:
    """Keyword training: the best checkpoint misses least at this rate on a validation track."""

    false_accepts_per_hour: float = 0.0  # 0: nothing is selected, the last weights are it

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        if not 0 <= self.false_accepts_per_hour < float("inf"):
            raise ValueError(
                f"false_accepts_per_hour must be 0 or more, got {self.false_accepts_per_hour}"
            )


@dataclass(frozen=True, kw_only=True)
class SpotterRecipe:
    """What the two kinds of streaming keyword spotters have in common."""

    task: ClassVar[str]

    name: str
    labels: tuple[str, ...]
    optimizer: OptimizerConfig
    data: DataConfig
    auxiliary_labels: tuple[str, ...] = ()  # words learned beside the labels and dropped at export
    label_smoothing: float = 0.01
    seed: int = 0
    hop_ms: int = 80
    model: ModelConfig = field(default_factory=ModelConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    log_mel_augment: LogMelAugmentConfig = field(default_factory=LogMelAugmentConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        """Refuse, before hours of work, what training or the bundle would refuse after them."""
        _check_names(self.name, self.seed)
        _check_labels(self.labels, self.auxiliary_labels)
        _check_smoothing(self.label_smoothing)
        check_hop(self.hop_ms, self.fbank, self.frames_before)
        self.encoder_config()

    @property
    def frames_before(self) -> int:
        """Fbank frames from which a device starts: what it heard before them is zeros."""
        raise NotImplementedError

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and what is trained on."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class KeywordRecipe(SpotterRecipe):
    """Keyword spotting window by window, task "keywords"."""

    task: ClassVar[str] = "keywords"

    windows: WindowConfig = field(default_factory=WindowConfig)

    @property
    def frames_before(self) -> int:
        """The window."""
        return self.windows.num_frames

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return _encoder_config(self.model, self.fbank, self.windows.num_frames)


@dataclass(frozen=True, kw_only=True)
class StreamRecipe(SpotterRecipe):
    """Keyword spotting token by token, each with the tokens before it alone, task "stream".

    The model has a context.
    """

    task: ClassVar[str] = "stream"

    label_smoothing: float = 0.005
    phone_share: float = 0.3  # of the phones' loss beside the words'
    start_share: float = 0.0  # of the loss against the start's scores of its words
    branch_labels: tuple[str, ...] = ()  # the last labels, where the model has a branch for them
    frozen_blocks: int = 0  # the start's patch embedding and so many first blocks stay as they are
    window_frames: int = 156
    sequences: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        """Refuse a hop that is no whole number of tokens, too."""
        if not self.model.context:
            raise ValueError("task stream wants model.context above 0: tokens that a token sees")
        for name in ("phone_share", "start_share"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        branched = self.branch_labels
        if bool(branched) != bool(self.model.branch_depth) or (
            branched and self.labels[-len(branched) :] != branched
        ):
            raise ValueError(
                "branch_labels must be the last labels, and none without model.branch_depth, got "
                f"{list(branched)}"
            )
        if not 0 <= self.frozen_blocks < self.model.depth:
            raise ValueError(
                f"frozen_blocks must be 0 or more and below model.depth, got {self.frozen_blocks} "
                f"of {self.model.depth}"
            )
        super().__post_init__()
        hop, stride = round(self.hop_ms / self.fbank.hop_ms), self.model.stride_frames
        overlap = self.model.patch_frames - stride
        if overlap < 0:
            raise ValueError(
                "task stream wants model.patch_frames of at least model.stride_frames, got "
                f"{self.model.patch_frames} and {stride}: frames between patches go unheard"
            )
        if hop % stride or (self.window_frames - overlap) % hop:
            raise ValueError(
                f"hop_ms must be whole patch strides ({stride} frames) and window_frames {overlap} "
                f"more than whole hops, got {self.hop_ms} and {self.window_frames}"
            )

    @property
    def frames_before(self) -> int:
        """What a stream that begins, or goes on after a gap, is heard from."""
        return self.window_frames

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and sequence."""
        return _encoder_config(
            self.model, self.fbank, self.sequences.num_frames, may_branch=True
        )

    def window_encoder_config(self) -> EncoderConfig:
        """The same on the window that a device starts from."""
        return _encoder_config(self.model, self.fbank, self.window_frames, may_branch=True)


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
        _check_names(self.name, self.seed)
        rows = self.encoder_config().grid[0]
        if rows != 1:
            raise ValueError(
                f"phones want patches of all {self.fbank.num_mel_bins} mel bins, got {rows} rows "
                "of patches (model.patch_bins)"
            )

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return _encoder_config(self.model, self.fbank, self.windows.num_frames)


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
        _check_names(self.name, self.seed)
        if self.data.balanced:
            raise ValueError("data.balanced draws by labels: it is for fine-tuning")
        MaskedSpectrogramPretext.check(self.encoder_config(), self.pretext)

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return _encoder_config(self.model, self.fbank, self.clips.num_frames)


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
        _check_names(self.name, self.seed)
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
        _check_smoothing(self.label_smoothing)
        self.encoder_config()

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return _encoder_config(self.model, self.fbank, self.clips.num_frames)


Recipe = KeywordRecipe | StreamRecipe | PretrainRecipe | FinetuneRecipe | PhoneRecipe
TASKS: dict[str, type[Recipe]] = {
    kind.task: kind
    for kind in (KeywordRecipe, PretrainRecipe, FinetuneRecipe, PhoneRecipe, StreamRecipe)
}


def _encoder_config(
    model: ModelConfig, fbank: FbankConfig, num_frames: int, *, may_branch: bool = False
) -> EncoderConfig:
    if model.branch_depth and not may_branch:
        raise ValueError("model.branch_depth is for task stream: a branch reads a stream's tokens")
    sizes = dataclasses.asdict(model)
    if model.context:
        sizes["num_prefix_tokens"] = 0
    return EncoderConfig(num_frames=num_frames, num_mel_bins=fbank.num_mel_bins, **sizes)


def _check_labels(labels: tuple[str, ...], auxiliary_labels: tuple[str, ...]) -> None:
    outputs = [*labels, *auxiliary_labels]
    if not labels:
        raise ValueError("labels must not be empty")
    twice = [label for label in outputs if outputs.count(label) > 1]
    if twice:
        raise ValueError(f"label {twice[0]!r} is given twice")


def _check_names(name: str, seed: int) -> None:
    if not name:
        raise ValueError("name must not be empty")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {smoothing}")


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
