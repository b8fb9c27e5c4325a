"""Recipes of the chain: a TOML file says what becomes of a checkpoint; an unknown key is an error.

A table that is left out leaves its step out. Each table belongs to the dataclass that stands next
to the code it configures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optimize.pruning.prune import PruneConfig
from optimize.pruning.students import StudentConfig
from optimize.quantization.qat import QatConfig
from optimize.quantization.quantize import QuantizeConfig
from train.tables import parse, read_table
from train.triggers import FALSE_ACCEPT_PRICE, SMOOTHINGS_MS

__all__ = [
    "BaselinesConfig",
    "BuildConfig",
    "BundleConfig",
    "CalibrationConfig",
    "CompareConfig",
    "OptimizeRecipe",
    "load_optimize_recipe",
]


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Audio that ranges are measured on and that judges the precisions; never a test recording."""

    # Below the manifests' folder. Empty: the recipe's own training manifest; for keywords the
    # validation recordings of the packs.
    manifest: str = ""


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """What pruning is to beat, at the same MACs and after as many steps."""

    random_depth: bool = True  # whole blocks dropped at random
    scratch: bool = True  # the pruned shape trained from random weights

    def __post_init__(self) -> None:
        """Refuse a table that asks for nothing."""
        if not (self.random_depth or self.scratch):
            raise ValueError("wanted random_depth or scratch, or no table [baselines]")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """The bundle that ships."""

    version: str = "0.1.0"
    task: str = ""  # of clip models: "audio-tagging" (the default) or "keyword-spotting"
    hop_ms: int = 0  # 0: the training recipe's; 200 for clip models
    labels: tuple[str, ...] = ()  # of a keyword recipe's, those that are told; none: all
    model_card: str = ""  # Markdown beside the recipe
    tensorrt: bool = True  # with the graphs that TensorRT builds engines from
    # Triggers of keywords: a false accept an hour weighs as much as this share of all words missed.
    false_accept_price: float = FALSE_ACCEPT_PRICE
    longest_smoothing_ms: float = SMOOTHINGS_MS[-1]  # of triggers; the longer, the later
    # Triggers are chosen on what synthetic validation voices say, too (--synthetic).
    other_words: bool = False
    trigger_draws: int = 1  # orders of the validation track, each in noise of its own
    # A bundle whose words keep their triggers: of a joined model, whose trunk scores as that does.
    triggers_from: str = ""

    def __post_init__(self) -> None:
        """Refuse a price that no setting could pay, or that nothing costs, and no draw."""
        if not 0 < self.false_accept_price < 1:
            raise ValueError(
                f"false_accept_price must be between 0 and 1, got {self.false_accept_price}"
            )
        if self.trigger_draws < 1:
            raise ValueError(f"trigger_draws must be 1 or more, got {self.trigger_draws}")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What the models are measured on."""

    split: str = "test"
    fold: int = 0  # of clips, instead of a split
    manifest: str = ""  # of clips, instead of the training recipe's
    conditions: tuple[str, ...] = ("clean",)  # of the streaming track; "10 dB" doubles the time
    rounds: int = 40  # of the latencies
    dense_int8: bool = True  # what INT8 alone does to the dense model
    accuracy_points: float = 0.5  # that may be lost
    miss_points: float = 1.0  # of the miss rate at equal false accepts that may be lost
    cpu_share: float = 0.3333  # of the dense model's CPU time that is allowed
    eager_share: float = 0.1  # of the CPU time of the dense model in eager PyTorch

    def __post_init__(self) -> None:
        """Refuse splits and limits that mean nothing."""
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, got {self.split!r}")
        if self.rounds < 4:
            raise ValueError(f"rounds must be at least 4, got {self.rounds}")
        if not self.conditions:
            raise ValueError("conditions must name at least one: clean, 10 dB")
        for name in ("accuracy_points", "miss_points", "cpu_share", "eager_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """TensorRT engines, on the machine that will run them."""

    precisions: tuple[str, ...] = ("fp16", "int8")
    required: bool = False  # fail where TensorRT or a GPU is missing, instead of leaving it out


@dataclass(frozen=True, kw_only=True)
class OptimizeRecipe:
    """From a dense checkpoint to a small bundle."""

    name: str
    checkpoint: str  # of fine-tuning: runs/NAME/last
    seed: int = 0  # of the triggers' track, the comparison's bootstrap and track
    teacher: str = ""  # checkpoint that pruning recovers by; empty: the dense model itself
    prune: PruneConfig | None = None
    distill: StudentConfig | None = None  # after pruning, or instead of it
    quantize: QuantizeConfig | None = None
    qat: QatConfig | None = None  # fine-tuning under INT8's rounding where a budget is not met
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    baselines: BaselinesConfig | None = None
    bundle: BundleConfig = field(default_factory=BundleConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    build: BuildConfig | None = None

    def __post_init__(self) -> None:
        """Refuse, before hours of work, what a later step would refuse after them."""
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name must be a folder's name, got {self.name!r}")
        if not self.checkpoint:
            raise ValueError("checkpoint must name a fine-tuned checkpoint")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.prune is None and self.distill is None and self.quantize is None:
            raise ValueError(
                "wanted [prune], [distill] or [quantize]: nothing would become smaller"
            )
        if self.prune is not None and self.distill is not None and self.distill.recipe:
            raise ValueError(
                "[prune] and distill.recipe both say what becomes small: leave one of them out"
            )
        if self.qat is not None and self.quantize is None:
            raise ValueError("[qat] helps [quantize]: give that too")
        if self.baselines is not None and self.prune is None:
            raise ValueError("[baselines] are of pruning: give [prune] too")


def load_optimize_recipe(path: Path, overrides: tuple[str, ...] = ()) -> OptimizeRecipe:
    """Read a recipe; `overrides` are "prune.macs=0.3" strings, values in TOML syntax."""
    return parse(read_table(path, overrides), OptimizeRecipe, str(path))
