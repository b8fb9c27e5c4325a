"""Writes an enrolled word into a bundle, or takes it out: a copy, or the folder itself by rename.

The recordings are not stored: a direction in the space of the encoder is.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ssast_edge.bundle import Bundle, bundle_parts, rewrite_bundle, same_label
from ssast_edge.bundle.enrolled import EnrolledWord
from ssast_edge.enrollment.classifier import LearnedWord
from ssast_edge.enrollment.errors import EnrollmentError
from ssast_edge.trigger import TriggerConfig

__all__ = ["add_word", "remove_word"]


def add_word(
    bundle: Bundle,
    out: Path,
    label: str,
    learned: LearnedWord,
    *,
    clips: int,
    false_accepts_per_hour: float,
) -> Bundle:
    """Write `bundle` with the word to `out`; one of that label is replaced, its trigger too.

    Raises BundleError, and leaves `out` as it was, when it cannot be written.
    """
    word = EnrolledWord(
        label=label,
        file=f"enrolled-{hashlib.sha256(label.encode()).hexdigest()[:12]}.npz",
        clips=clips,
        false_accepts_per_hour=false_accepts_per_hour,
        date=date.today().isoformat(),
    )
    manifest, files = _without(bundle, label)
    manifest["enrolled"] = [*manifest.get("enrolled", []), asdict(word)]
    manifest["triggers"] = {**manifest["triggers"], label: asdict(TriggerConfig())}
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "weights.npz"
        np.savez(weights, weights=learned.weights, bias=learned.bias)
        return rewrite_bundle(bundle, out, manifest, {**files, word.file: weights})


def remove_word(bundle: Bundle, out: Path, name: str) -> Bundle:
    """Write `bundle` without the word to `out`. Raises EnrollmentError when it has no such word."""
    for one in bundle.enrolled:
        if same_label(one.word.label, name):
            return rewrite_bundle(bundle, out, *_without(bundle, one.word.label))
    known = ", ".join(one.word.label for one in bundle.enrolled) or "none"
    raise EnrollmentError(f"no enrolled word {name!r} in bundle {bundle.name}, it has: {known}")


def _without(bundle: Bundle, label: str) -> tuple[dict[str, Any], Mapping[str, Path]]:
    """Manifest and files without that enrolled word."""
    manifest, files = bundle_parts(bundle)
    kept = [entry for entry in manifest.get("enrolled", []) if entry["label"] != label]
    gone = {entry["file"] for entry in manifest.get("enrolled", []) if entry not in kept}
    manifest.pop("enrolled", None)
    if kept:
        manifest["enrolled"] = kept
    if gone:
        manifest["triggers"] = {k: v for k, v in manifest["triggers"].items() if k != label}
    return manifest, {name: path for name, path in files.items() if name not in gone}
