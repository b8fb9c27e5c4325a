"""The pretext task of SSAST: find and rebuild masked patches of a spectrogram.

Wraps an encoder that is passed in: masking, mask embedding, two heads, losses. Knows nothing about
files, optimisers or devices. B clips, N patches, M masked patches of each, P pixels of a patch,
D channels. Gong et al. 2022 (SSAST), section 2.2 and algorithm 1.

Two modes. `paper`: one masked pass serves both heads, the softmax of InfoNCE runs over the targets
(eq. 1) and every patch can be masked. `official` repeats what the authors' code does where it
differs: a pass with its own mask for each objective, the softmax over the predictions, and their
distribution of clustered masks (patch 0 never, blocks that wrap into the next row, the highest
patches dropped).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from train.cpu_linear import Linear
from train.encoder import Encoder, EncoderConfig, Grid

__all__ = [
    "MaskedSpectrogramPretext",
    "PretextConfig",
    "PretextLosses",
    "cluster_masks",
    "info_nce",
    "official_cluster_masks",
    "uniform_masks",
]

Mode = Literal["paper", "official"]
Objective = Literal["joint", "discriminative", "generative"]

CLUSTER_SIZES = (3, 4, 5)  # side of the square blocks that are masked, drawn once a clip


@dataclass(frozen=True, kw_only=True)
class PretextConfig:
    """What is masked and what is learnt from it; defaults are the paper's."""

    num_masked: int = 400  # M, of 512 patches in the paper
    mode: str = "paper"  # or "official"
    objective: str = "joint"  # or "discriminative" or "generative"
    generative_weight: float = 10.0  # of the mean squared error, beside InfoNCE's 1

    def __post_init__(self) -> None:
        """Refuse words and numbers that no loss can be made of."""
        if self.mode not in ("paper", "official"):
            raise ValueError(f"mode must be paper or official, got {self.mode!r}")
        if self.objective not in ("joint", "discriminative", "generative"):
            raise ValueError(
                f"objective must be joint, discriminative or generative, got {self.objective!r}"
            )
        if self.num_masked < 2:
            raise ValueError(
                f"num_masked must be at least 2 (a contrast needs two), got {self.num_masked}"
            )
        if not self.generative_weight > 0:
            raise ValueError(f"generative_weight must be above 0, got {self.generative_weight}")

    @property
    def discriminates(self) -> bool:
        """Whether InfoNCE is part of the loss."""
        return self.objective != "generative"

    @property
    def generates(self) -> bool:
        """Whether the reconstruction error is part of the loss."""
        return self.objective != "discriminative"

    @property
    def passes(self) -> int:
        """Masks drawn for each clip, and encoder passes made."""
        return 2 if self.mode == "official" and self.objective == "joint" else 1


@dataclass(frozen=True)
class PretextLosses:
    """Scalars of one batch; those of an objective that is off are zero and carry no gradient."""

    loss: Tensor
    info_nce: Tensor
    mse: Tensor
    accuracy: Tensor  # share of masked patches told apart from the clip's other masked ones


def uniform_masks(
    batch: int, num_patches: int, num_masked: int, generator: torch.Generator
) -> Tensor:
    """(B, M) indices, any M of the N patches with equal chance."""
    draw = torch.rand(batch, num_patches, generator=generator, device=generator.device)
    return draw.topk(num_masked, dim=1, largest=False).indices


def cluster_masks(
    batch: int,
    grid: Grid,
    num_masked: int,
    generator: torch.Generator,
) -> Tensor:
    """(B, M) indices in square blocks of one size a clip, every patch with the same coverage.

    Blocks are laid down in random order until M patches are covered. Laying them one by one is
    the same as giving each possible block a random time and each patch the earliest time of the
    blocks over it: a sliding minimum, without a loop over clips or blocks. Blocks may hang over
    the edges, so that patches at the edge lie under as many possible blocks as those inside.
    """
    bins, frames = grid
    device = generator.device
    most = max(CLUSTER_SIZES) - 1
    times = torch.rand(batch, 1, bins + most, frames + most, generator=generator, device=device)
    tie = torch.rand(batch, bins * frames, generator=generator, device=device)

    def covered(size: int) -> Tensor:
        window = times[:, :, : bins + size - 1, : frames + size - 1]
        return -F.max_pool2d(-window, size, stride=1).flatten(1)  # (B, N)

    earliest = _by_cluster_size(batch, generator, covered)
    # The last block is cut at random, where the authors' code cuts it from the top.
    return (earliest + 1e-6 * tie).topk(num_masked, dim=1, largest=False).indices


def official_cluster_masks(
    batch: int,
    grid: Grid,
    num_masked: int,
    generator: torch.Generator,
) -> Tensor:
    """(B, M) indices with the distribution of the authors' sampler, quirks included.

    Its blocks start at a patch and grow towards higher flat indices, so they wrap into the next
    row; patch 0 is never taken; it stops above M patches and keeps the M lowest.
    """
    frames = grid[1]
    patches = grid[0] * grid[1]
    if num_masked > patches - 2:
        raise ValueError(
            f"the official masks reach at most {patches - 2} of {patches} patches, "
            f"num_masked is {num_masked}"
        )
    times = torch.rand(batch, 1, patches, generator=generator, device=generator.device)

    def covered(size: int) -> Tensor:
        along = -F.max_pool1d(F.pad(-times, (size - 1, 0), value=-2.0), size, stride=1)
        reach = frames * (size - 1)
        across = F.pad(-along, (reach, 0), value=-2.0)
        return -F.max_pool1d(across, size, stride=1, dilation=frames).squeeze(1)

    earliest = _by_cluster_size(batch, generator, covered)
    earliest[:, 0] = 2.0
    stop = earliest.kthvalue(num_masked + 1, dim=1, keepdim=True).values
    index = torch.arange(patches, device=generator.device).expand(batch, -1)
    taken = torch.where(earliest <= stop, index, patches)
    return taken.topk(num_masked, dim=1, largest=False).values


def _by_cluster_size(
    batch: int, generator: torch.Generator, covered: Callable[[int], Tensor]
) -> Tensor:
    """`covered` of the block size that each clip draws: (B, N)."""
    draw = torch.randint(
        len(CLUSTER_SIZES), (batch, 1), generator=generator, device=generator.device
    )
    chosen = covered(CLUSTER_SIZES[0])
    for number, size in enumerate(CLUSTER_SIZES[1:], 1):
        chosen = torch.where(draw == number, covered(size), chosen)
    return chosen


def info_nce(predicted: Tensor, target: Tensor, *, mode: Mode = "paper") -> tuple[Tensor, Tensor]:
    """Contrastive loss and accuracy over the masked patches of each clip.

    predicted, target: (B, M, P); row i of one matches row i of the other, the clip's other masked
    patches are the negatives. Returns two scalars, means over B * M. SSAST eq. 1: the softmax runs
    over the targets for each prediction. `official` runs it over the predictions for each target,
    and counts a prediction as right when its own target gives it more weight than others do.
    """
    similarity = predicted @ target.transpose(1, 2)  # (B, M predictions, M targets)
    if mode == "official":
        log_share = similarity.log_softmax(dim=1)
        best = log_share.exp().argmax(dim=2)
    else:
        log_share = similarity.log_softmax(dim=2)
        best = similarity.argmax(dim=2)
    loss = -log_share.diagonal(dim1=1, dim2=2).mean()
    right = best == torch.arange(best.shape[1], device=best.device)
    return loss, right.float().mean()


class MaskedSpectrogramPretext(nn.Module):
    """Encoder, mask embedding and two heads; from normalised log-mel to the pretext losses."""

    def __init__(self, encoder: Encoder, config: PretextConfig) -> None:
        super().__init__()
        shape = encoder.config
        self.check(shape, config)
        self.encoder = encoder
        self.config = config
        pixels = shape.patch_bins * shape.patch_frames
        self.mask_embed = nn.Parameter(torch.empty(1, 1, shape.dim))
        nn.init.xavier_normal_(self.mask_embed)
        self.discriminative_head = _head(shape.dim, pixels)
        self.generative_head = _head(shape.dim, pixels)
        # What gets no gradient would stop several processes from agreeing on theirs.
        self.discriminative_head.requires_grad_(config.discriminates)
        self.generative_head.requires_grad_(config.generates)

    @staticmethod
    def check(shape: EncoderConfig, config: PretextConfig) -> None:
        """Raise ValueError for a patch layout or a number of masked patches that cannot be."""
        if (shape.stride_bins, shape.stride_frames) != (shape.patch_bins, shape.patch_frames):
            raise ValueError(
                f"pretraining wants patches that do not overlap: patch "
                f"{shape.patch_bins}x{shape.patch_frames}, stride "
                f"{shape.stride_bins}x{shape.stride_frames}"
            )
        if config.num_masked > shape.num_patches:
            raise ValueError(
                f"num_masked is {config.num_masked}, the spectrogram has {shape.num_patches} "
                "patches"
            )

    @property
    def is_clustered(self) -> bool:
        """Patches are masked in blocks, whole frames one by one (section 2.2)."""
        return self.encoder.config.grid[0] > 1

    def draw_masks(self, batch: int, generator: torch.Generator) -> Tensor:
        """(passes, B, M) indices of masked patches, on the generator's device."""
        rows = batch * self.config.passes
        grid, masked = self.encoder.config.grid, self.config.num_masked
        if not self.is_clustered:
            index = uniform_masks(rows, self.encoder.config.num_patches, masked, generator)
        elif self.config.mode == "official":
            index = official_cluster_masks(rows, grid, masked, generator)
        else:
            index = cluster_masks(rows, grid, masked, generator)
        return index.view(self.config.passes, batch, masked)

    def patchify(self, fbank: Tensor) -> Tensor:
        """(B, T, F) -> (B, N, P) pixels of each patch, both frequency-major."""
        shape = self.encoder.config
        bins, frames = shape.grid
        used = fbank[:, : frames * shape.patch_frames, : bins * shape.patch_bins]
        blocks = used.reshape(-1, frames, shape.patch_frames, bins, shape.patch_bins)
        return blocks.permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, N, P) -> (B, T, F), the inverse of `patchify`."""
        shape = self.encoder.config
        blocks = patches.reshape(-1, *shape.grid, shape.patch_bins, shape.patch_frames)
        frames, bins = shape.grid[1] * shape.patch_frames, shape.grid[0] * shape.patch_bins
        return blocks.permute(0, 2, 4, 1, 3).reshape(-1, frames, bins)

    def encode_masked(self, fbank: Tensor, index: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel, (B, M) -> (B, M, D) outputs at the masked patches."""
        patches = self.encoder.patch_embed(fbank)  # (B, N, D)
        hidden = torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
        hidden = hidden.scatter(1, index, True)
        patches = torch.where(hidden[:, :, None], self.mask_embed.to(patches.dtype), patches)
        tokens = self.encoder.encode(patches)[:, self.encoder.config.num_prefix_tokens :]
        return _take(tokens, index)

    def forward(self, fbank: Tensor, index: Tensor) -> PretextLosses:
        """fbank: (B, T, F) normalised log-mel; index: (passes, B, M) from `draw_masks`."""
        target = self.patchify(fbank.float())
        passes, batch = index.shape[:2]
        outputs = self.encode_masked(fbank.repeat(passes, 1, 1), index.flatten(0, 1))
        outputs = outputs.view(passes, batch, *outputs.shape[1:])
        zero = target.new_zeros(())
        nce, mse, accuracy = zero, zero, zero
        if self.config.discriminates:
            predicted = self.discriminative_head(outputs[0]).float()
            wanted = _take(target, index[0])
            # Similarities reach hundreds: half precision would drown the differences.
            with torch.autocast(fbank.device.type, enabled=False):
                mode: Mode = "official" if self.config.mode == "official" else "paper"
                nce, accuracy = info_nce(predicted, wanted, mode=mode)
        if self.config.generates:
            rebuilt = self.generative_head(outputs[-1]).float()
            mse = F.mse_loss(rebuilt, _take(target, index[-1]))
        weight = self.config.generative_weight if self.config.discriminates else 1.0
        return PretextLosses(nce + weight * mse, nce.detach(), mse.detach(), accuracy)

    @torch.no_grad()
    def reconstruct(self, fbank: Tensor, index: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel, its patches at `index` (B, M) as the head rebuilds them."""
        patches = self.patchify(fbank.float())
        rebuilt = self.generative_head(self.encode_masked(fbank, index)).float()
        place = index[:, :, None].expand_as(rebuilt)
        return self.unpatchify(patches.scatter(1, place, rebuilt))


def _head(dim: int, pixels: int) -> nn.Sequential:
    return nn.Sequential(Linear(dim, dim), nn.ReLU(), Linear(dim, pixels))


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """(B, N, C), (B, M) -> (B, M, C)."""
    return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
