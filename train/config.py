"""What every training run sets: the optimiser, its schedule, and how the machine is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["EngineConfig", "ModelConfig", "OptimizerConfig"]

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder's free sizes; SSAST's own are in train.encoder.SIZES."""

    dim: int = 128
    depth: int = 6
    num_heads: int = 4
    mlp_ratio: float = 4.0
    patch_bins: int = 128
    patch_frames: int = 4
    stride_bins: int = 128
    stride_frames: int = 4
    dropout: float = 0.1
    drop_path: float = 0.0
    context: int = 0  # tokens that a token sees before it, task "stream"; see EncoderConfig
    # Of a model that was joined of two (train/branching.py); see train.encoder.EncoderConfig.
    branch_depth: int = 0
    branch_from: int = 0
    # Widths of a pruned model (optimize/pruning/prune.py); see train.encoder.EncoderConfig.
    head_dim: int = 0
    block_heads: tuple[int, ...] = ()
    block_hidden: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam or AdamW, linear warm-up, and one of three ways down."""

    steps: int = 0  # length of the run; or give epochs
    epochs: float = 0.0
    batch_size: int = 128  # over all processes and accumulated parts together
    accumulate: int = 1  # parts that a process works through one after another
    kind: str = "adamw"  # or "adam", whose weight decay is an L2 penalty (the authors' choice)
    betas: tuple[float, float] = (0.9, 0.98)
    learning_rate: float = 1e-3
    head_factor: float = 1.0  # the head learns this many times as fast
    layer_decay: float = 1.0  # each block learns this many times as fast as the one above it
    weight_decay: float = 0.05
    clip_norm: float = 1.0  # 0: none
    warmup_steps: int = 500
    schedule: str = "cosine"  # to zero; or "steps", or "plateau" of the validation metric
    decay_from_epoch: float = 0.0  # steps: the first decay
    decay_every_epochs: float = 1.0  # steps: the distance of further ones
    decay_factor: float = 0.5  # steps and plateau
    patience: int = 2  # plateau: validations without progress that are endured
    average: float = 0.999  # moving average of the weights, which is what ships; 0: none
    average_epochs: tuple[int, int] = (0, 0)  # instead: plain mean of these epochs' last weights

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        if (self.steps > 0) == (self.epochs > 0) or min(self.steps, self.epochs) < 0:
            raise ValueError(
                f"give steps or epochs, one of them above 0, got {self.steps} and {self.epochs}"
            )
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got "
                f"{self.batch_size} and {self.accumulate}"
            )
        for name in ("learning_rate", "head_factor", "layer_decay", "decay_every_epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "decay_from_epoch", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("average", "decay_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.kind not in ("adam", "adamw"):
            raise ValueError(f"kind must be adam or adamw, got {self.kind!r}")
        if self.schedule not in ("cosine", "steps", "plateau"):
            raise ValueError(f"schedule must be cosine, steps or plateau, got {self.schedule!r}")
        first, last = self.average_epochs
        if self.average_epochs != (0, 0) and not (1 <= first <= last and self.average == 0):
            raise ValueError(
                "average_epochs wants 1 <= first <= last, and average = 0 beside it, got "
                f"{first}, {last} and {self.average}"
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the work is done; nothing here changes what is learnt, up to rounding."""

    # "auto": bf16-mixed where the device computes in it, else 32-true. Or one of PRECISIONS.
    precision: str = "auto"
    compile: bool = False  # torch.compile the encoder: a minute at the start, faster steps
    checkpoint_activations: bool = False  # recompute blocks: less memory, a third more work
    save_every_steps: int = 500
    log_every_steps: int = 100
    validate_every_steps: int = 0  # 0: after every epoch

    def __post_init__(self) -> None:
        """Refuse unknown precisions and intervals that never come."""
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        for name in ("save_every_steps", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.validate_every_steps < 0:
            raise ValueError(
                f"validate_every_steps must be 0 or more, got {self.validate_every_steps}"
            )
