"""Compiles the stand-in driver, and tells what of the real things is here."""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("driver.c")


def has(module: str) -> bool:
    """Whether a module can be imported, without doing so."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def has_gpu() -> bool:
    """Whether CUDA finds a GPU here, asked of the driver itself."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return bool(driver.cuInit(0) == 0)


def include_folder() -> Path | None:
    """Where cuda.h is: the toolkit's, or that of NVIDIA's wheels."""
    folders = [Path("/usr/local/cuda/include"), *Path("/usr/local").glob("cuda-*/include")]
    spec = importlib.util.find_spec("nvidia") if has("nvidia") else None
    for root in spec.submodule_search_locations or [] if spec else []:
        folders += Path(root).glob("*/include")
    return next((folder for folder in folders if (folder / "cuda.h").is_file()), None)


def compiled_driver(folder: Path) -> Path:
    """The stand-in driver, compiled into a folder; skips the test where that cannot be done."""
    include = include_folder()
    if include is None:
        pytest.skip("cuda.h is not installed")
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    library = folder / "libcuda.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        + ["-Wl,-soname,libcuda.so.1", f"-I{include}", str(SOURCE)]
        + ["-o", str(library), "-ldl"],
        check=True,
    )
    return library
