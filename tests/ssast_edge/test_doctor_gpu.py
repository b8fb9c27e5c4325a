"""The doctor's GPU checks, with a CUDA driver and engines that are made for the test."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ssast_edge.doctor import gpu, tensorrt
from ssast_edge.doctor.finding import Finding, Options, Skipped
from ssast_edge.engines.manifest import EngineManifest, Machine, manifest_path
from ssast_edge.engines.plugins import Plugin
from ssast_edge.engines.tensorrt_library import TensorRt
from ssast_edge.integrity import record_file

ONNX = "a" * 64
MACHINE = Machine(TensorRt(None, "tensorrt", "10.3.0"), "8.7")

_DRIVER = """
#include <stdio.h>
#include <string.h>
int cuInit(unsigned flags) { return %(init)d; }
int cuGetErrorString(int error, const char **text) { *text = "no such device"; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 7ull << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{ *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1; return 0; }
"""


def _driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, init: int = 0, count: int = 1
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source, library = folder / "driver.c", folder / f"libdriver{init}{count}.so"
    source.write_text(_DRIVER % {"init": init, "count": count})
    command = ["gcc", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True, timeout=60)
    monkeypatch.setattr(gpu, "DRIVER", str(library))


def test_a_gpu_is_named_with_its_capability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _driver(tmp_path, monkeypatch)
    assert gpu.read_driver() == gpu.Driver("12.6", (gpu.Gpu("Orin", 87, 7168),))
    (found,) = gpu.check_gpu(Options())
    assert found.status == "ok"
    assert found.text.startswith("Orin, compute capability 8.7, 7168 MB, CUDA 12.6")


def test_a_driver_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, monkeypatch, init=100)
    monkeypatch.setattr(gpu, "has_nvidia", lambda: True)
    (found,) = gpu.check_gpu(Options())
    assert (found.status, found.text) == ("warning", "cuInit gave error 100: no such device")
    monkeypatch.setattr(gpu, "has_nvidia", lambda: False)
    with pytest.raises(Skipped, match="no NVIDIA GPU"):
        list(gpu.check_gpu(Options()))


def test_a_driver_without_a_gpu_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _driver(tmp_path, monkeypatch, count=0)
    (found,) = gpu.check_gpu(Options())
    assert (found.status, found.text) == ("warning", "CUDA 12.6, but no GPU is visible")


@pytest.mark.parametrize(
    ("release", "status", "said"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "ok", "Jetson Linux 36.4.3 (JetPack 6.2)"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "warning", "TensorRT 8 is too old"),
        (None, "warning", "the release is not known"),
    ],
)
def test_jetpack_that_is_too_old_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str | None, status: str, said: str
) -> None:
    path = tmp_path / "nv_tegra_release"
    if release is not None:
        path.write_text(release)
    monkeypatch.setattr(gpu, "TEGRA_RELEASE", path)
    monkeypatch.setattr(gpu, "is_jetson", lambda: True)
    (found,) = gpu.check_jetpack(Options())
    assert found.status == status
    assert said in found.text
    assert bool(found.fix) == (status == "warning")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, "ok", "fits this machine"),
        ({"tensorrt_version": "10.13.2"}, "warning", "TensorRT 10.13.2, here 10.3.0"),
        ({"compute_capability": "8.6"}, "warning", "compute capability 8.6, here 8.7"),
        ({"flavour": "rtx"}, "warning", "library TensorRT for RTX, here TensorRT"),
        ({"plugin_sha256": "b" * 64}, "warning", "plugin bbbbbbbbbbbb..., here none"),
        ({"onnx_sha256": "c" * 64}, "ok", "of another bundle, fits"),
    ],
)
def test_engines_are_judged_by_their_manifest(
    tmp_path: Path, changes: dict[str, Any], status: str, said: str
) -> None:
    found = tensorrt._judge_engine(_engine(tmp_path, **changes), MACHINE, {ONNX})
    assert found.status == status
    assert said in found.text


def test_an_engine_that_was_cut_off_is_named(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    engine.write_bytes(b"half")
    found = tensorrt._judge_engine(engine, MACHINE, {ONNX})
    assert found.status == "warning"
    assert "altered, or cut off" in found.text
    assert found.fix.startswith("rm ")


def test_engines_in_the_cache_are_all_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(gpu, "has_nvidia", lambda: True)
    (none,) = tensorrt.check_engines(Options())
    assert (none.status, none.fix) == ("warning", "ssast-edge build wake-words")
    folder = tmp_path / "ssast-edge/engines"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        _engine(folder, name)
    assert [found.status for found in tensorrt.check_engines(Options())] == ["ok", "ok"]


def test_a_plugin_for_other_gpus_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    source, library = tmp_path / "kernel.cu", tmp_path / "plugin.so"
    source.write_text("__global__ void kernel(float *x) { x[threadIdx.x] += 1; }\n")
    options = ["-shared", "-Xcompiler", "-fPIC", "-arch=sm_90", "-o", str(library)]
    subprocess.run(["nvcc", *options, str(source)], check=True, capture_output=True, timeout=120)
    monkeypatch.setattr(tensorrt, "find_plugin", lambda: Plugin(library, "d" * 64))
    found: list[Finding] = []
    for capability in (87, 90):
        driver = gpu.Driver("12.6", (gpu.Gpu("GPU", capability, 1),))
        monkeypatch.setattr(gpu, "read_driver", lambda driver=driver: driver)
        found += tensorrt.check_plugin(Options())
    assert [one.status for one in found] == ["warning", "ok"]
    assert "nothing for GPU (8.7)" in found[0].text
    assert "-DCMAKE_CUDA_ARCHITECTURES=87" in found[0].fix


def _engine(folder: Path, name: str = "model", **changes: Any) -> Path:
    """An engine's file, which is none, with a manifest that describes it."""
    engine = folder / f"{name}.engine"
    engine.write_bytes(b"engine")
    manifest = EngineManifest(
        engine=record_file(engine),
        onnx_sha256=ONNX,
        precision="fp16",
        batch=(1, 1, 8),
        tensorrt_version="10.3.0",
        flavour="tensorrt",
        cuda_version="12.6",
        driver_version="540.4.0",
        gpu="Orin",
        compute_capability="8.7",
        plugin="",
        plugin_sha256="",
        layers={"MatMul": 1},
        patch_embed="function",
        ssast_edge_version="0.1.0",
        built="2026-01-01T00:00:00+00:00",
        build_s=1.0,
    )
    manifest = dataclasses.replace(manifest, **changes)
    manifest_path(engine).write_text(json.dumps(dataclasses.asdict(manifest)))
    return engine
