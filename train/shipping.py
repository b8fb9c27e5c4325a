"""A checkpoint becomes the bundle that ships: exported, and with triggers chosen for keywords."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.checkpoint import load_checkpoint
from train.export import export_bundle
from train.recipe import SpotterRecipe
from train.triggers import choose_triggers

__all__ = ["ship"]


def ship(
    checkpoint: Path,
    bundle: Path,
    *,
    data: Path,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Export to `bundle`; a keyword recipe's triggers are chosen on the validation track of `data`.

    settings: as `export_bundle` takes them. A bundle that is there is replaced at the very end, or
    not at all.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if isinstance(load_checkpoint(checkpoint).recipe, SpotterRecipe):
            draft = Path(temporary) / "draft"
            export_bundle(checkpoint, draft)
            settings["triggers"], report = choose_triggers(draft, data, seed=seed)
            provenance = {"validation": report, **(provenance or {})}
        export_bundle(checkpoint, bundle, provenance=provenance, **settings)
