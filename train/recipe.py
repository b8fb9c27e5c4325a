"""Recipes: one TOML file describes one training run, typed; an unknown key is an error.

Each table belongs to the dataclass that stands next to the code it configures.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ssast_edge.bundle import check_hop
from ssast_edge.fbank import FbankConfig
from train.augment import LogMelAugmentConfig, WaveformAugmentConfig
from train.model import EncoderConfig
from train.windows import WindowConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "RecipeError",
    "load_recipe",
    "override",
    "parse",
]

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be used: one line with the file, the key and what was wanted."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which recordings, and how often each is rendered into the feature pool."""

    packs: tuple[str, ...]
    synthetic: bool = True  # speech written by `python -m train.synthesize`
    renderings_keyword: int = 16
    renderings_synthetic_keyword: int = 5
    renderings_other: int = 2

    def __post_init__(self) -> None:
        """Refuse a pool without clips."""
        if not self.packs:
            raise ValueError("packs must name at least one pack")
        for name in ("renderings_keyword", "renderings_synthetic_keyword", "renderings_other"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder's free sizes; SSAST's own are in train.model.SIZES."""

    dim: int = 128
    depth: int = 6
    num_heads: int = 4
    mlp_ratio: float = 4.0
    patch_bins: int = 128
    patch_frames: int = 4
    stride_bins: int = 128
    stride_frames: int = 4
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to zero."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 500
    clip_norm: float = 1.0
    label_smoothing: float = 0.01
    average: float = 0.999  # decay of the weights' exponential moving average, which is what ships

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not (self.warmup_steps >= 0 and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"warmup_steps and weight_decay must be 0 or more, "
                f"got {self.warmup_steps} and {self.weight_decay}"
            )
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A fine-tuning run."""

    name: str
    labels: tuple[str, ...]
    optimizer: OptimizerConfig
    data: DataConfig
    auxiliary_labels: tuple[str, ...] = ()  # words learned beside the labels and dropped at export
    seed: int = 0
    save_every_steps: int = 500
    hop_ms: int = 80
    model: ModelConfig = field(default_factory=ModelConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    log_mel_augment: LogMelAugmentConfig = field(default_factory=LogMelAugmentConfig)

    def __post_init__(self) -> None:
        """Refuse, before hours of work, what training or the bundle would refuse after them."""
        outputs = [*self.labels, *self.auxiliary_labels]
        if not self.name or not self.labels:
            raise ValueError("name and labels must not be empty")
        twice = [label for label in outputs if outputs.count(label) > 1]
        if twice:
            raise ValueError(f"label {twice[0]!r} is given twice")
        if self.save_every_steps < 1:
            raise ValueError(f"save_every_steps must be at least 1, got {self.save_every_steps}")
        check_hop(self.hop_ms, self.fbank, self.windows.num_frames)
        self.encoder_config()

    def encoder_config(self) -> EncoderConfig:
        """The encoder's shape: the model's free sizes on this front end and window."""
        return EncoderConfig(
            num_frames=self.windows.num_frames,
            num_mel_bins=self.fbank.num_mel_bins,
            **dataclasses.asdict(self.model),
        )


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe; `overrides` are "optimizer.steps=100" strings, values in TOML syntax."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for text in overrides:
            override(table, text)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from error
    return parse(table, Recipe, str(path))


def override(table: dict[str, Any], text: str) -> None:
    """Set one dotted key of a TOML table in place."""
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set wants KEY=VALUE, got {text!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {text}: {parent} is a value, not a table")
    try:
        table[last] = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"--set {text}: the value is not TOML (text needs quotes)") from error


def parse(table: dict[str, Any], kind: type[T], where: str) -> T:
    """Build dataclass `kind` from a TOML table, checking keys and types all the way down."""
    hints = get_type_hints(kind)
    unknown = table.keys() - hints.keys()
    if unknown:
        raise RecipeError(
            f"{where}: unknown key {sorted(unknown)[0]!r}, known keys: {', '.join(hints)}"
        )
    values = {key: _value(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: {str(error).replace(f'{kind.__name__}.__init__() ', '')}"
        ) from error


def _value(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: wanted a table, got {value!r}")
        return parse(value, hint, where)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list):
            raise RecipeError(f"{where}: wanted a list, got {value!r}")
        if kinds[-1] is ...:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise RecipeError(f"{where}: wanted {len(kinds)} values, got {len(value)}")
        return tuple(_value(v, k, where) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise RecipeError(f"{where}: wanted {hint.__name__}, got {value!r}")
    return value
