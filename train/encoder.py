"""The Audio Spectrogram Transformer of SSAST: its encoder.

Knows nothing about files, losses or masking. B clips, T frames, F mel bins, D channels, N tokens.
Gong et al. 2022 (SSAST); block structure of DeiT (Touvron et al. 2021): pre-norm, LayerNorm
epsilon 1e-6, exact GELU, class and distillation tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.utils.checkpoint import checkpoint

from train.cpu_linear import Linear

__all__ = [
    "SIZES",
    "Attention",
    "Block",
    "Encoder",
    "EncoderConfig",
    "Grid",
    "PatchEmbed",
    "relative_bias",
]

Grid = tuple[int, int]

# dim, depth and heads of the paper's models; EncoderConfig takes any other numbers too.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 192, "depth": 12, "num_heads": 3},
    "small": {"dim": 384, "depth": 12, "num_heads": 6},
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that fixes the encoder's parameter shapes and token grid."""

    num_frames: int  # T, length of the input in fbank frames
    num_mel_bins: int = 128  # F
    patch_bins: int = 128  # 16 for the patch model, num_mel_bins for the frame model
    patch_frames: int = 2
    stride_bins: int = 128
    stride_frames: int = 2
    dim: int = 192  # D
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    num_prefix_tokens: int = 2  # class and distillation token; 1 for a model without distillation
    # Tokens before it that a token sees besides itself; 0: all of the window, before and after.
    # With a context no token depends on what comes later: the encoder can go on where it stopped.
    # It has no prefix tokens, and positions relative to each token.
    context: int = 0
    dropout: float = 0.0  # on attention and MLP outputs, training only
    drop_path: float = (
        0.0  # chance to skip the last block, falling to 0 at the first; training only
    )
    # A branch for other classes: so many more blocks, the last of all. They read what comes out of
    # the first `branch_from` and not of all `depth`.
    branch_depth: int = 0  # 0: no branch
    branch_from: int = 0
    # A pruned model's own widths, where they differ from those that the numbers above give.
    head_dim: int = 0  # channels of an attention head; 0: dim / num_heads
    block_heads: tuple[int, ...] = ()  # of each block, 0: no attention; none: num_heads in all
    block_hidden: tuple[int, ...] = ()  # MLP units of each block, 0: no MLP; none: dim * mlp_ratio

    def __post_init__(self) -> None:
        """Reject shapes that leave no patch or do not divide."""
        for name in ("dim", "num_heads", "mlp_ratio", "patch_bins", "patch_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.head_dim < 0:
            raise ValueError(f"head_dim must be 0 (dim / num_heads) or more, got {self.head_dim}")
        if not self.head_dim and self.dim % self.num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, got {self.dim}/{self.num_heads}"
            )
        if self.patch_bins > self.num_mel_bins or self.patch_frames > self.num_frames:
            raise ValueError(
                f"patch {self.patch_bins}x{self.patch_frames} does not fit the input "
                f"{self.num_mel_bins}x{self.num_frames} (mel bins x frames)"
            )
        if min(self.stride_bins, self.stride_frames, self.depth) < 1:
            raise ValueError("strides and depth must be at least 1")
        if self.context < 0 or (self.num_prefix_tokens < 1) != (self.context > 0):
            raise ValueError(
                "num_prefix_tokens must be at least 1, and 0 with a context, got "
                f"{self.num_prefix_tokens} and a context of {self.context}"
            )
        if self.context and self.patch_bins != self.num_mel_bins:
            raise ValueError(
                f"a context wants patches of all {self.num_mel_bins} mel bins, got "
                f"{self.patch_bins} (patch_bins)"
            )
        latest = self.depth if self.branch_depth else 0
        if self.branch_depth < 0 or not 0 <= self.branch_from <= latest:
            raise ValueError(
                "branch_depth must be 0 or more and branch_from 0 to depth, without a branch 0, "
                f"got {self.branch_depth} and {self.branch_from} of {self.depth}"
            )
        for name in ("block_heads", "block_hidden"):
            widths = getattr(self, name)
            if widths and (len(widths) != self.num_blocks or min(widths) < 0):
                raise ValueError(
                    f"{name} wants {self.num_blocks} numbers of 0 or more, one a block, got "
                    f"{list(widths)}"
                )
        if 0 in [sum(widths) for widths in zip(self.heads, self.hidden, strict=True)]:
            raise ValueError("a block without heads and MLP units does nothing: lower depth")

    @property
    def num_blocks(self) -> int:
        """Blocks in all, those of the branch last."""
        return self.depth + self.branch_depth

    @property
    def longest_path(self) -> int:
        """Blocks that a token goes through at most."""
        return max(self.depth, self.branch_from + self.branch_depth)

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each block."""
        return self.block_heads or (self.num_heads,) * self.num_blocks

    @property
    def head_width(self) -> int:
        """Channels of an attention head."""
        return self.head_dim or self.dim // self.num_heads

    @property
    def hidden(self) -> tuple[int, ...]:
        """MLP units of each block."""
        return self.block_hidden or (int(self.dim * self.mlp_ratio),) * self.num_blocks

    @property
    def grid(self) -> Grid:
        """Number of patches along (mel bins, frames)."""
        return (
            (self.num_mel_bins - self.patch_bins) // self.stride_bins + 1,
            (self.num_frames - self.patch_frames) // self.stride_frames + 1,
        )

    @property
    def num_patches(self) -> int:
        """Tokens without the prefix tokens."""
        return self.grid[0] * self.grid[1]


class PatchEmbed(nn.Module):
    """Linear projection of spectrogram patches of any shape and stride."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            1,
            config.dim,
            kernel_size=(config.patch_bins, config.patch_frames),
            stride=(config.stride_bins, config.stride_frames),
        )

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel -> (B, N, D) patch tokens, frequency-major."""
        if self.proj.stride == self.proj.kernel_size and torch.is_grad_enabled():
            return self._embed_apart(fbank)
        image = fbank.transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        patches: Tensor = self.proj(image)  # (B, D, grid_bins, grid_frames)
        return patches.flatten(2).transpose(1, 2)

    def _embed_apart(self, fbank: Tensor) -> Tensor:
        """Patches that do not overlap, by one matrix product: its gradient costs far less."""
        bins, frames = self.proj.kernel_size
        batch, columns, rows = len(fbank), fbank.shape[1] // frames, fbank.shape[2] // bins
        used = fbank[:, : columns * frames, : rows * bins]
        blocks = used.reshape(batch, columns, frames, rows, bins).permute(0, 3, 1, 4, 2)
        pixels = blocks.reshape(batch, rows * columns, bins * frames)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)


_SHORT = 256  # tokens


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, heads, N, head_dim) each.

    On a CPU two plain matrix products train faster than PyTorch's fused kernel for short windows,
    and in bfloat16 for any.
    """
    is_short = query.shape[2] <= _SHORT or query.dtype == torch.bfloat16
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and is_short):
        return F.scaled_dot_product_attention(query, key, value)
    scaled = (query * query.shape[-1] ** -0.5).contiguous()
    shares = torch.softmax(scaled @ key.contiguous().transpose(-1, -2), -1, dtype=query.dtype)
    return shares @ value.contiguous()


def _attend_back(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention of each token to itself and the `context` before it, (B, heads, N, head_dim) each.

    bias: (heads, context + 1), added to the similarity of the token so many tokens back. Before
    the first token lie keys and values of zeros, as in the empty caches of a stream that begins.
    """
    context, tokens = bias.shape[1] - 1, query.shape[2]
    key, value = (F.pad(x, (0, 0, context, 0)) for x in (key, value))
    mask = relative_bias(bias, tokens).to(query.dtype)
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scaled = (query * query.shape[-1] ** -0.5).contiguous()
    shares = torch.softmax(scaled @ key.transpose(-1, -2).contiguous() + mask, -1)
    return shares.to(value.dtype) @ value.contiguous()


def relative_bias(bias: Tensor, tokens: int) -> Tensor:
    """(heads, context + 1) -> (heads, tokens, context + tokens): -inf where a token does not look.

    Token i is key context + i; keys before `context` are those of earlier tokens.
    """
    context = bias.shape[1] - 1
    back = torch.arange(tokens)[:, None] + context - torch.arange(context + tokens)[None]
    sees = ((back >= 0) & (back <= context)).to(bias.device)
    spread = bias[:, back.clamp(0, context).to(bias.device)]
    return spread.masked_fill(~sees, float("-inf"))


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection.

    context: see EncoderConfig; with it `back` holds a bias for each head and distance.
    """

    back: nn.Parameter | None

    def __init__(
        self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0, context: int = 0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.qkv = Linear(dim, 3 * num_heads * head_dim)
        self.proj = Linear(num_heads * head_dim, dim)
        self.drop = nn.Dropout(dropout)
        self.back = nn.Parameter(torch.zeros(num_heads, context + 1)) if context else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        if self.back is None:
            mixed = _attend(query, key, value)
        else:
            mixed = _attend_back(query, key, value, self.back)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, N, heads * head_dim)
        projected: Tensor = self.drop(self.proj(mixed))
        return projected


class Mlp(nn.Module):
    """Two-layer perceptron with GELU."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden: Tensor = self.drop(self.fc2(F.gelu(self.fc1(x))))
        return hidden


class Block(nn.Module):
    """Pre-norm transformer block; one without heads, or without MLP units, lacks that half."""

    norm1: nn.LayerNorm | None
    attn: Attention | None
    norm2: nn.LayerNorm | None
    mlp: Mlp | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        mlp_hidden: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6) if num_heads else None
        self.attn = Attention(dim, num_heads, head_dim, dropout, context) if num_heads else None
        self.norm2 = nn.LayerNorm(dim, eps=1e-6) if mlp_hidden else None
        self.mlp = Mlp(dim, mlp_hidden, dropout) if mlp_hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.norm1 is not None and self.attn is not None:
            x = x + self._skip_some(self.attn(self.norm1(x)))
        if self.norm2 is not None and self.mlp is not None:
            x = x + self._skip_some(self.mlp(self.norm2(x)))
        return x

    def _skip_some(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): drop the branch for some clips, scale the rest."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep) / keep)


class Encoder(nn.Module):
    """Patch embedding, prefix tokens, learned positions and transformer blocks.

    With a context there are no prefix tokens and positions: a bias in each block stands for them.
    A branch has blocks and a norm of its own.
    """

    prefix_tokens: nn.Parameter | None
    pos_embed: nn.Parameter | None
    branch_norm: nn.LayerNorm | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        prefix = config.num_prefix_tokens
        self.prefix_tokens = self.pos_embed = None
        if not config.context:
            self.prefix_tokens = nn.Parameter(torch.zeros(1, prefix, config.dim))
            self.pos_embed = nn.Parameter(torch.zeros(1, prefix + config.num_patches, config.dim))
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                heads,
                config.head_width,
                hidden,
                config.dropout,
                config.drop_path * min(1, number / max(1, config.depth - 1)),
                config.context,
            )
            for number, (heads, hidden) in enumerate(zip(config.heads, config.hidden, strict=True))
        )
        self.checkpoint_activations = False  # recompute blocks in the backward pass: less memory
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.branch_norm = nn.LayerNorm(config.dim, eps=1e-6) if config.branch_depth else None
        for added in (self.prefix_tokens, self.pos_embed):
            if added is not None:
                nn.init.trunc_normal_(added, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def encode(self, patches: Tensor) -> Tensor:
        """(B, N, D) patch tokens -> (B, prefix + N, D), after the final norm.

        With a branch (B, prefix + N, 2 * D): its channels come after the others.
        """
        tokens = patches
        if self.prefix_tokens is not None and self.pos_embed is not None:
            prefix = self.prefix_tokens.expand(patches.shape[0], -1, -1)
            tokens = torch.cat([prefix, patches], dim=1) + self.pos_embed
        depth, fork = self.config.depth, self.config.branch_from
        trunk = self._through(self.blocks[:fork], tokens)
        normed: Tensor = self.norm(self._through(self.blocks[fork:depth], trunk))
        if self.branch_norm is None:
            return normed
        branch: Tensor = self.branch_norm(self._through(self.blocks[depth:], trunk))
        return torch.cat([normed, branch], dim=-1)

    def _through(self, blocks: nn.ModuleList, tokens: Tensor) -> Tensor:
        for block in blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel -> what `encode` gives."""
        return self.encode(self.patch_embed(fbank))
