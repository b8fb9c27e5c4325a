"""Which heads, MLP units, channels and blocks go, to meet a number of MACs: no weights, no data.

All units of all blocks stand in one ranking by importance per MAC. MLP units and channels go in
groups of `granule`, so that what remains keeps a width that processors like.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from optimize.pruning.importance import Importance
from optimize.pruning.macs import channel_cost, head_cost, model_cost, unit_cost
from optimize.pruning.surgery import Kept
from train.encoder import EncoderConfig

__all__ = ["Limits", "PruneError", "select", "smallest"]

STRUCTURES = ("units", "channels", "depth")


class PruneError(ValueError):
    """A pruning that cannot be made; one line that says how far it got."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may go, and what goes in any case."""

    structure: str = "units"  # heads and MLP units; "channels": embedding too; "depth": blocks
    granule: int = 8  # MLP units or channels that go together
    depth: int = 0  # blocks that stay at most; 0: as many as the budget leaves
    heads: int = 0  # that a block keeps at most; 0: as the budget leaves
    dim: int = 0  # channels that stay; 0: as the budget leaves

    def __post_init__(self) -> None:
        """Refuse words and numbers that mean nothing."""
        if self.structure not in STRUCTURES:
            raise ValueError(
                f"structure must be one of {', '.join(STRUCTURES)}, got {self.structure!r}"
            )
        if self.granule < 1:
            raise ValueError(f"granule must be at least 1, got {self.granule}")
        for name in ("depth", "heads", "dim"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def check(self, config: EncoderConfig) -> None:
        """PruneError when more is to stay than there is."""
        there = {"depth": config.depth, "heads": max(config.heads), "dim": config.dim}
        words = {"depth": "blocks", "heads": "heads a block", "dim": "channels"}
        for name, most in there.items():
            if getattr(self, name) > most:
                raise PruneError(
                    f"{name} = {getattr(self, name)} asks for more {words[name]} than the model "
                    f"has: {most}"
                )


@dataclass(frozen=True)
class _Candidate:
    """Units that go together; `group` is "heads", "units", "channels" or "block"."""

    group: str
    block: int
    members: tuple[int, ...]
    value: float  # importance per MAC


def select(
    config: EncoderConfig, labels: int, importance: Importance, macs: float, limits: Limits
) -> Kept:
    """The most important of everything that fits in `macs`; PruneError says the least possible."""
    limits.check(config)
    state = _Kept(config, labels)
    _enforce(state, importance, limits)
    removed = []
    for candidate in sorted(_candidates(state, importance, limits), key=lambda c: c.value):
        if state.macs() <= macs:
            break
        if state.remove(candidate):
            removed.append(candidate)
    if state.macs() > macs:
        whole = model_cost(config, labels).macs
        raise PruneError(
            f"{macs / whole:.3g} of the MACs cannot be met: pruning {limits.structure} leaves "
            f"{state.macs() / whole:.3g} at least"
        )
    for candidate in reversed(removed):  # a large last step may leave room for small ones
        state.put_back(candidate, macs)
    return state.kept()


def smallest(config: EncoderConfig, labels: int, importance: Importance, limits: Limits) -> Kept:
    """The least that `select` can leave."""
    limits.check(config)
    state = _Kept(config, labels)
    _enforce(state, importance, limits)
    for candidate in sorted(_candidates(state, importance, limits), key=lambda c: c.value):
        state.remove(candidate)
    return state.kept()


class _Kept:
    """What is still there, by block, and what it costs."""

    def __init__(self, config: EncoderConfig, labels: int) -> None:
        self.config, self.labels = config, labels
        everything = Kept.everything(config)
        self.heads = [set(heads) for heads in everything.heads]
        self.units = [set(units) for units in everything.units]
        self.channels = set(everything.channels)

    def kept(self) -> Kept:
        return Kept(
            tuple(tuple(sorted(heads)) for heads in self.heads),
            tuple(tuple(sorted(units)) for units in self.units),
            tuple(sorted(self.channels)),
        )

    def macs(self) -> int:
        blocks = self._blocks()
        shape = dataclasses.replace(
            self.config,
            dim=len(self.channels),
            depth=len(blocks),
            head_dim=self.config.head_width,
            block_heads=tuple(len(self.heads[block]) for block in blocks),
            block_hidden=tuple(len(self.units[block]) for block in blocks),
        )
        return model_cost(shape, self.labels).macs

    def remove(self, candidate: _Candidate) -> bool:
        """False when it would be the last of its kind in the model."""
        members = set(candidate.members)
        if candidate.group == "block":
            left = [
                b for b, (h, u) in enumerate(zip(self.heads, self.units, strict=True)) if h or u
            ]
            if left == [candidate.block]:
                return False
            self.heads[candidate.block], self.units[candidate.block] = set(), set()
            return True
        group = self._group(candidate)
        pool = [self.channels] if candidate.group == "channels" else getattr(self, candidate.group)
        if sum(map(len, pool)) <= len(members):
            return False
        group -= members
        return True

    def put_back(self, candidate: _Candidate, macs: float) -> None:
        """Unless that takes more than `macs`."""
        if candidate.group == "block":
            before = self.heads[candidate.block], self.units[candidate.block]
            everything = Kept.everything(self.config)
            self.heads[candidate.block] = set(everything.heads[candidate.block])
            self.units[candidate.block] = set(everything.units[candidate.block])
            if self.macs() > macs:
                self.heads[candidate.block], self.units[candidate.block] = before
            return
        group = self._group(candidate)
        group |= set(candidate.members)
        if self.macs() > macs:
            group -= set(candidate.members)

    def _blocks(self) -> list[int]:
        return [b for b in range(self.config.depth) if self.heads[b] or self.units[b]]

    def _group(self, candidate: _Candidate) -> set[int]:
        if candidate.group == "channels":
            return self.channels
        found: set[int] = getattr(self, candidate.group)[candidate.block]
        return found


def _enforce(state: _Kept, importance: Importance, limits: Limits) -> None:
    """Take out what the limits name, least important first."""
    config = state.config
    if limits.depth:
        for block in _order(importance.blocks)[: config.depth - limits.depth]:
            state.heads[block], state.units[block] = set(), set()
    for block, heads in enumerate(state.heads):
        if limits.heads and len(heads) > limits.heads:
            heads -= set(_order(importance.heads[block])[: len(heads) - limits.heads])
    if limits.dim:
        state.channels -= set(_order(importance.channels)[: config.dim - limits.dim])


def _candidates(state: _Kept, importance: Importance, limits: Limits) -> list[_Candidate]:
    config, found = state.config, []
    if limits.structure == "depth":
        if limits.depth:
            return []
        values = importance.blocks.tolist()
        return [_Candidate("block", block, (), values[block]) for block in range(config.depth)]
    head_macs, unit_macs = head_cost(config).macs, unit_cost(config).macs
    for block in range(config.depth):
        for head in _order(importance.heads[block]):
            if head in state.heads[block]:
                value = float(importance.heads[block][head]) / head_macs
                found.append(_Candidate("heads", block, (head,), value))
        found += _groups("units", block, importance.units[block], state.units[block], unit_macs,
                         limits.granule)  # fmt: skip
    if limits.structure == "channels" and not limits.dim:
        macs = channel_cost(config, state.labels).macs
        found += _groups("channels", -1, importance.channels, state.channels, macs, limits.granule)
    return found


def _groups(
    group: str, block: int, values: Tensor, left: set[int], macs: int, granule: int
) -> list[_Candidate]:
    """Units in the order of their importance, `granule` at a time; the first take the rest."""
    order = [unit for unit in _order(values) if unit in left]
    starts = [0, *range(len(order) % granule or granule, len(order), granule), len(order)]
    found = []
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        members = tuple(order[start:end])
        if members:
            value = float(values[list(members)].sum()) / (macs * len(members))
            found.append(_Candidate(group, block, members, value))
    return found


def _order(values: Tensor | Sequence[float]) -> list[int]:
    """Indices, the least important first."""
    listed = values.tolist() if isinstance(values, Tensor) else list(values)
    return sorted(range(len(listed)), key=listed.__getitem__)
