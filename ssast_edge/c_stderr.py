"""Keeps what C libraries print on standard error off the terminal.

PortAudio and ALSA print every call that fails, in their own words, beside the error that they
return; mpg123 prints whatever it finds in an MP3. Only C's `stderr` is changed: Python writes to
the file descriptor and is still heard.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_depth = 0  # how many want silence
_loud: int | None = None  # the FILE* to put back
_silent: int | None = None  # one FILE* to /dev/null, kept: another thread may be writing to it


@contextmanager
def silent_c_stderr() -> Iterator[None]:
    """Silence inside `with`; only with glibc, elsewhere nothing happens."""
    global _depth, _loud
    stderr = _find_stderr()
    if stderr is None:
        yield
        return
    with _lock:
        _depth += 1
        if _depth == 1:
            _loud, stderr.value = stderr.value, _open_null()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                stderr.value = _loud


def _find_stderr() -> ctypes.c_void_p | None:
    """The variable `FILE *stderr`."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # with musl it lies in read-only memory
        return None
    return ctypes.c_void_p.in_dll(libc, "stderr")


def _open_null() -> int | None:
    global _silent
    if _silent is None:
        fopen = ctypes.CDLL(None).fopen
        fopen.restype = ctypes.c_void_p
        _silent = fopen(b"/dev/null", b"w")
    return _silent
