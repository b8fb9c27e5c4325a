"""Recipes of keyword spotters, window by window or token by token; train/recipe.py reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ssast_edge.bundle import check_hop
from ssast_edge.fbank import FbankConfig
from train.augment import LogMelAugmentConfig, WaveformAugmentConfig
from train.config import EngineConfig, ModelConfig, OptimizerConfig
from train.encoder import EncoderConfig
from train.recipe_checks import check_names, check_smoothing, encoder_config_of
from train.sequences import SequenceConfig
from train.windows import WindowConfig

__all__ = ["DataConfig", "KeywordRecipe", "SelectionConfig", "SpotterRecipe", "StreamRecipe"]


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
        check_names(self.name, self.seed)
        _check_labels(self.labels, self.auxiliary_labels)
        check_smoothing(self.label_smoothing)
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
        return encoder_config_of(self.model, self.fbank, self.windows.num_frames)


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
        return encoder_config_of(self.model, self.fbank, self.sequences.num_frames, may_branch=True)

    def window_encoder_config(self) -> EncoderConfig:
        """The same on the window that a device starts from."""
        return encoder_config_of(self.model, self.fbank, self.window_frames, may_branch=True)


def _check_labels(labels: tuple[str, ...], auxiliary_labels: tuple[str, ...]) -> None:
    outputs = [*labels, *auxiliary_labels]
    if not labels:
        raise ValueError("labels must not be empty")
    twice = [label for label in outputs if outputs.count(label) > 1]
    if twice:
        raise ValueError(f"label {twice[0]!r} is given twice")
