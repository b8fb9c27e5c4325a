"""A checkpoint becomes the bundle that ships: exported, and with triggers chosen for keywords."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssast_edge.trigger import TriggerConfig
from train.checkpoint import load_checkpoint
from train.export import export_bundle
from train.recipe import SpotterRecipe
from train.triggers import FALSE_ACCEPT_PRICE, SMOOTHINGS_MS, choose_triggers

__all__ = ["ship"]


def ship(
    checkpoint: Path,
    bundle: Path,
    *,
    data: Path,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    price: float = FALSE_ACCEPT_PRICE,
    synthetic: Sequence[Path] = (),
    longest_smoothing_ms: float = SMOOTHINGS_MS[-1],
    draws: int = 1,
    kept: Mapping[str, TriggerConfig] | None = None,
    name: str = "",
    labels: Sequence[str] = (),
    **settings: Any,
) -> None:
    """Export to `bundle`; a keyword recipe's triggers are chosen on the validation track of `data`.

    price, synthetic, longest_smoothing_ms, draws and kept: as `choose_triggers` takes them; name,
    labels and settings: as `export_bundle` does. A bundle that is there is replaced at the very
    end, or not at all.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if isinstance(load_checkpoint(checkpoint).recipe, SpotterRecipe):
            draft = Path(temporary) / "draft"
            export_bundle(checkpoint, draft, name=name, labels=labels)
            settings["triggers"], report = choose_triggers(
                draft,
                data,
                seed=seed,
                price=price,
                synthetic=synthetic,
                longest_smoothing_ms=longest_smoothing_ms,
                draws=draws,
                kept=kept,
            )
            provenance = {"validation": report, **(provenance or {})}
        export_bundle(
            checkpoint, bundle, provenance=provenance, name=name, labels=labels, **settings
        )
