"""The kernel's own source, compiled for this CPU, equals the double reference."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNEL = ROOT / "native" / "fused_patch_embed"


def compile_for_cpu(target: Path, *sources: Path, kernel: Path = KERNEL, fast: bool = True) -> None:
    """An object of one source, or a program of objects."""
    command: list[str | Path] = ["g++", "-fsanitize=address", "-o", target, *sources]
    if sources[0].suffix == ".cpp":
        command += ["-c", "-std=c++17", "-g", "-O1" if fast else "-O0", "-fno-strict-aliasing"]
        command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command += ["-I", HERE / "cuda_on_cpu", "-I", kernel]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "asan" in done.stderr:
        pytest.skip("AddressSanitizer's library is not installed")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Objects of the device and of the reference."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("device")
    compile_for_cpu(folder / "device.o", HERE / "cuda_on_cpu" / "device.cpp")
    compile_for_cpu(folder / "reference.o", KERNEL / "reference.cpp")
    return [folder / "device.o", folder / "reference.o"]


@pytest.fixture(scope="module")
def program(device: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernel")
    compile_for_cpu(folder / "kernel.o", HERE / "kernel_on_cpu.cpp")
    compile_for_cpu(folder / "program", folder / "kernel.o", *device)
    return folder / "program"


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True)


def test_the_kernels_source_computes_the_reference_without_leaving_its_buffers(
    program: Path,
) -> None:
    done = run(program)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    for kind in ("float small", "float large", "half  small", "half  large"):
        assert sum(kind in line for line in lines) >= 30
    assert lines[-1] == "all right"


def test_the_test_notices_a_missing_barrier(device: list[Path], tmp_path: Path) -> None:
    barrier = "__syncthreads();  // the patches make room for the sums"
    shutil.copytree(KERNEL, tmp_path / "kernel")
    source = tmp_path / "kernel" / "kernel.cu"
    text = source.read_text()
    assert barrier in text
    source.write_text(text.replace(barrier, ""))
    compile_for_cpu(
        tmp_path / "wrong.o", HERE / "kernel_on_cpu.cpp", kernel=tmp_path / "kernel", fast=False
    )
    compile_for_cpu(tmp_path / "program", tmp_path / "wrong.o", *device)
    done = run(tmp_path / "program")
    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_the_table_of_shapes_holds_those_of_all_recipes(program: Path) -> None:
    wanted = {
        shape_of(tomllib.loads(path.read_text()))
        for path in (ROOT / "train" / "recipes").rglob("*.toml")
    }
    listed = subprocess.run([program, "--shapes"], check=True, capture_output=True, text=True)
    rows = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    assert len(rows) == len(set(rows))
    assert wanted <= set(rows)


def shape_of(recipe: dict[str, Any]) -> tuple[int, ...]:
    model = recipe["model"]
    frames = recipe.get("window_frames") or next(
        table["num_frames"]
        for table in recipe.values()
        if isinstance(table, dict) and "num_frames" in table
    )
    bins = recipe.get("fbank", {}).get("num_mel_bins", 128)
    patch = [model.get("patch_bins", 128), model["patch_frames"]]
    stride = [model.get("stride_bins", 128), model["stride_frames"]]
    prefix = 0 if model.get("context") else 2
    return (1, frames, bins, *patch, *stride, model["dim"], prefix, frames, 0)
