"""Finds a bundle's folder, reads it and checks every file in it."""

import importlib.resources
from pathlib import Path
from typing import Any, get_type_hints

from ssast_edge.bundle.contents import FILE_KEYS, MANIFEST, SCHEMA_VERSION, Bundle, GoldenFile
from ssast_edge.bundle.enrolled import EmbeddingConfig, EnrolledWord, read_enrolled
from ssast_edge.bundle.golden import read_golden
from ssast_edge.errors import BundleError
from ssast_edge.integrity import FileRecord, check_files
from ssast_edge.manifest import ManifestError, check_keys, from_json, read_json


def default_bundles() -> list[str]:
    """Names of the bundles that are installed with this package."""
    folder = _shipped_folder()
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / MANIFEST).is_file())


def is_shipped(bundle: Bundle) -> bool:
    """Whether the bundle is one that is installed with this package, which an update replaces."""
    return bundle.path.parent.resolve() == _shipped_folder().resolve()


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Read and check a bundle: a bare name is one that ships with this package, else a folder.

    Raises BundleError, in one line, for anything that is missing, altered or malformed.
    """
    try:
        return read_bundle(_find(name_or_path))
    except (ValueError, ArithmeticError, OSError) as error:
        raise BundleError(f"bundle {name_or_path}: {error}") from error


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, as `load_bundle`, but with the error that reading it raised."""
    manifest = from_json(read_json(folder / MANIFEST), dict[str, Any])
    version = manifest.get("schema_version")
    # First of all: a later schema may well have other keys.
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ManifestError(
            f"schema_version is {version!r}, this ssast-edge reads {SCHEMA_VERSION}: "
            "update ssast-edge, or export the bundle again"
        )
    hints = get_type_hints(Bundle)
    hints |= {"embedding": EmbeddingConfig, "enrolled": tuple[EnrolledWord, ...]}
    own_keys = [name for name in hints if name not in ("path", *FILE_KEYS)]
    optional = ["model_card", "embedding", "enrolled"]
    check_keys(manifest, [*FILE_KEYS, *own_keys], "", optional=optional)
    values = {
        name: from_json(manifest[name], hints[name], name) for name in own_keys if name in manifest
    }
    records = from_json(manifest["files"], dict[str, FileRecord], "files")
    golden = from_json(manifest["golden"], GoldenFile, "golden")
    words: tuple[EnrolledWord, ...] = values.pop("enrolled", ())
    embedding: EmbeddingConfig | None = values.get("embedding")
    named = [golden.file, *(model.file for model in values["models"])]
    named += [word.file for word in words]
    named += filter(None, [values.get("model_card"), embedding and embedding.background])
    for name in named:
        if name not in records:
            raise ValueError(f"file {name!r} is not listed in files")
    check_files(folder, records)
    pair = read_golden(folder, golden)
    values["labels"] = (*values["labels"], *(word.label for word in words))
    enrolled = tuple(read_enrolled(folder, word) for word in words)
    return Bundle(path=folder, golden=pair, enrolled=enrolled, **values)


def _shipped_folder() -> Path:
    return Path(str(importlib.resources.files("ssast_edge"))) / "bundles"


def _find(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    is_bare_name = isinstance(name_or_path, str) and name_or_path == folder.name
    if is_bare_name and (_shipped_folder() / folder / MANIFEST).is_file():
        return _shipped_folder() / folder
    if (folder / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        raise BundleError(f"bundle {folder}: {MANIFEST} is missing: not a bundle folder")
    names = ", ".join(default_bundles()) or "none"
    raise BundleError(
        f"no bundle {str(name_or_path)!r}: give a folder that holds {MANIFEST} or the name of "
        f"a bundle that ships with ssast-edge ({names})"
    )
