"""Reads plain arrays from an .npz file, never a pickle, with one line for whatever is wrong."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What numpy and zipfile raise for another kind of file, a broken one, a pickle.
_NOT_AN_NPZ = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(
    path: Path, names: Sequence[str], what: str, *, optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """The named arrays. what: how messages call the file; raises ValueError.

    optional: names that the file may lack; so does the result then.
    """
    try:
        # Opened here: numpy leaves the file open when it is no .npz.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = [*names, *(name for name in optional if name in arrays)]
            return {name: np.asarray(arrays[name]) for name in found}
    except _NOT_AN_NPZ as error:
        raise ValueError(
            f"{what} must be an .npz of plain arrays {' and '.join(names)}: {error}"
        ) from error
