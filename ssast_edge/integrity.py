"""Whether the files of a folder are the ones that were written: names, sizes, SHA-256.

Knows nothing of what the files hold.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

_READ_BYTES = 1 << 18  # hashed in pieces: a large model costs no memory


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a file must be."""

    sha256: str  # 64 lower-case hexadecimal digits
    bytes: int


def record_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file as it is."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a plain relative path such as "model.onnx"."""
    path = PurePosixPath(name)
    # Also refuse what would only leave the folder on Windows ("C:x", "..\\x").
    is_foreign = "\\" in name or PureWindowsPath(name).drive
    if path.is_absolute() or is_foreign or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError(f"file path {name!r} is not a plain path inside the folder")
    if not name.isprintable():
        raise ValueError(f"file path {name!r} is not printable")


def check_files(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Raise ValueError, naming the file, unless each one is in `folder` exactly as recorded.

    A file that a symbolic link takes out of the folder is refused too.
    """
    inside = folder.resolve()
    for name, record in records.items():
        check_name(name)
        path = folder / name
        if not path.is_file():
            raise ValueError(f"file {name} is missing")
        if not path.resolve().is_relative_to(inside):
            raise ValueError(f"file {name} is a link that leads out of the folder")
        size = path.stat().st_size
        if size != record.bytes:
            raise ValueError(f"file {name} was altered: {size} bytes, wanted {record.bytes}")
        found = record_file(path).sha256
        if found != record.sha256:
            raise ValueError(
                f"file {name} was altered: sha256 {found[:12]}..., wanted {record.sha256[:12]}..."
            )
