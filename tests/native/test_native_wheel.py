"""SSAST_NATIVE=1 puts the plugin into the wheel, where the runtime looks for it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--disable-pip-version-check", "--quiet", "--no-deps", "--wheel-dir", str(folder))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *arguments, str(ROOT)],
        capture_output=True,
        text=True,
        env={**os.environ, "SSAST_NATIVE": "1", **environment},
    )
    if "No matching distribution" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip("pip cannot install the build tools here")
    return done


@pytest.mark.slow
def test_a_native_wheel_holds_the_plugin(tensorrt_root: Path, tmp_path: Path) -> None:
    done = build_wheel(
        tmp_path,
        TENSORRT_ROOT=str(tensorrt_root),
        SKBUILD_CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=87-real",
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert libraries == ["ssast_edge/plugins/libssast_edge_plugin.so"]
    assert "none-any" not in wheel.name


@pytest.mark.slow
def test_a_native_wheel_without_headers_is_refused(tmp_path: Path) -> None:
    if any(Path("/usr/include").glob("**/NvInfer.h")) or not shutil.which("cmake"):
        pytest.skip("cmake is missing, or the system has TensorRT's headers")
    done = build_wheel(tmp_path, TENSORRT_ROOT=str(tmp_path))
    assert done.returncode != 0
    assert "TensorRT plugin: skipped" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))
