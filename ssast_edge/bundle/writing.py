"""Writes a bundle whole or not at all, and writes one again with something changed."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssast_edge.bundle.contents import (
    FILE_KEYS,
    GOLDEN_TOLERANCE,
    MANIFEST,
    SCHEMA_VERSION,
    Bundle,
    FloatArray,
    GoldenFile,
)
from ssast_edge.bundle.reading import read_bundle
from ssast_edge.errors import BundleError
from ssast_edge.integrity import check_name, record_file
from ssast_edge.manifest import from_json, read_json

# As they are written; when read, bundle.json says.
GOLDEN_FILE = "golden.npz"
MODEL_CARD = "MODEL_CARD.md"


def write_bundle(
    folder: str | Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, str | Path],
    *,
    golden_fbank: FloatArray,
    golden_logits: FloatArray,
    golden_tolerance: float = GOLDEN_TOLERANCE,
    model_card: str | None = None,
) -> Bundle:
    """Write a bundle that `load_bundle` accepts, or leave `folder` as it was.

    manifest: the keys of bundle.json but schema_version, golden, files and model_card, which
    are added; dataclasses in it become objects. files: name in the bundle -> file to copy.
    model_card: Markdown for people. A bundle that is there already is replaced. Raises
    BundleError when the bundle would not load, or when `folder` holds something else.
    """
    target = Path(folder).resolve()
    try:
        if target.exists() and not (target / MANIFEST).is_file() and not _is_empty(target):
            raise ValueError("it is not a bundle: not replaced, give another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, so that the last step is a rename within one file system.
        prefix = f".{target.name}."
        with tempfile.TemporaryDirectory(".tmp", prefix, target.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            for name, source in files.items():
                if name in (MANIFEST, GOLDEN_FILE, MODEL_CARD):
                    raise ValueError(f"file path {name!r} is taken")
                check_name(name)
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, new / name)
            np.savez(
                new / GOLDEN_FILE,
                fbank=np.asarray(golden_fbank, np.float32),
                logits=np.asarray(golden_logits, np.float32),
            )
            added: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "golden": {"file": GOLDEN_FILE, "tolerance": golden_tolerance},
            }
            if model_card is not None:
                (new / MODEL_CARD).write_text(model_card, encoding="utf-8")
                added["model_card"] = MODEL_CARD
            written = sorted(path for path in new.rglob("*") if path.is_file())
            added["files"] = {
                path.relative_to(new).as_posix(): dataclasses.asdict(record_file(path))
                for path in written
            }
            (new / MANIFEST).write_text(_to_json({**manifest, **added}), encoding="utf-8")
            bundle = read_bundle(new)
            _replace(target, new, Path(temporary) / "replaced")
    except (ValueError, OSError) as error:
        raise BundleError(f"bundle {target} not written: {error}") from error
    return dataclasses.replace(bundle, path=target)


def bundle_parts(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Path]]:
    """What `write_bundle` wants to write `bundle` again: keys of its manifest, and its files.

    The golden pair and the model card are not among them.
    """
    manifest = from_json(read_json(bundle.path / MANIFEST), dict[str, Any])
    golden = from_json(manifest["golden"], GoldenFile, "golden").file
    own = (golden, manifest.get("model_card", ""))
    files = {name: bundle.path / name for name in manifest["files"] if name not in own}
    for key in (*FILE_KEYS, "model_card"):
        manifest.pop(key, None)
    return manifest, files


def rewrite_bundle(
    bundle: Bundle,
    folder: str | Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, str | Path],
) -> Bundle:
    """Write `bundle` into `folder`, maybe its own, with another manifest and other files.

    The golden pair and the model card stay. Raises as `write_bundle` does.
    """
    card = None
    if bundle.model_card:
        card = (bundle.path / bundle.model_card).read_text(encoding="utf-8")
    return write_bundle(
        folder,
        manifest,
        files,
        golden_fbank=bundle.golden.fbank,
        golden_logits=bundle.golden.logits,
        golden_tolerance=bundle.golden.tolerance,
        model_card=card,
    )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _replace(target: Path, new: Path, old: Path) -> None:
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:  # a Ctrl-C too: what is left in `old` is deleted
        if old.exists():
            old.rename(target)
        raise


def _to_json(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(
        manifest,
        indent=2,
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        default=_plain_value,
    )
    return text + "\n"


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written into {MANIFEST}")
