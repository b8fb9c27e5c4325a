"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from ssast_edge.errors import SsastEdgeError


def check_folder(path: Path) -> None:
    """Make the folder and raise SsastEdgeError when files cannot be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SsastEdgeError(f"{path}: cannot be written to: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file by a temporary name beside it and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's are for the owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
