"""A folder that is there whole or not at all, whatever stops the process that fills it."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["filled_whole"]


@contextmanager
def filled_whole(target: Path) -> Iterator[Path]:
    """A folder to fill in the block; it becomes `target` at its end, replacing what is there.

    Removed when the block raises. Those that killed processes of this machine left for the same
    target go first: their names hold the machine and the process.
    """
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    for left in target.parent.glob(f".{target.name}.{host}.*.tmp"):
        if not _is_running(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    partial = target.parent / f".{target.name}.{host}.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
