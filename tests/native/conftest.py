"""The plugin, compiled once a session."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tensorrt_root() -> Path:
    """The folder whose include/ has TensorRT's headers: named, the system's or the tests' own."""
    if not shutil.which("nvcc") or not shutil.which("cmake"):
        pytest.skip("nvcc or cmake is not installed")
    named = os.environ.get("TENSORRT_ROOT")
    places = [Path(named)] if named else [Path("/usr"), Path(sys.prefix) / "tensorrt"]
    for place in places:
        include = place / "include"
        if any(include.glob("NvInfer.h")) or any(include.glob("*-linux-gnu/NvInfer.h")):
            return place
    pytest.skip(f"no TensorRT headers in {' or '.join(map(str, places))} (TENSORRT_ROOT)")


@pytest.fixture(scope="session")
def build(tensorrt_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compiled plugin and its GPU test."""
    folder = tmp_path_factory.mktemp("native")
    for command in (
        [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"),
            "-DCMAKE_CUDA_ARCHITECTURES=87-real",
        ],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "TENSORRT_ROOT": str(tensorrt_root)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "native" / "fused_patch_embed"
