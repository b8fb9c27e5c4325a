"""An engine's manifest: read, written, and compared with a machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssast_edge.cuda import Gpu
from ssast_edge.engines.manifest import (
    EngineError,
    EngineManifest,
    Machine,
    check_file,
    differences,
    manifest_path,
    read_manifest,
    write_engine,
)
from ssast_edge.engines.plugins import Plugin
from ssast_edge.engines.tensorrt_library import TensorRt
from ssast_edge.integrity import FileRecord, record_file

MANIFEST = EngineManifest(
    engine=FileRecord(sha256="0" * 64, bytes=3),
    onnx_sha256="a" * 64,
    precision="fp16",
    batch=(1, 1, 1),
    tensorrt_version="10.3.0",
    flavour="tensorrt",
    cuda_version="12.6",
    driver_version="540.4.0",
    gpu="Orin (nvgpu)",
    compute_capability="8.7",
    plugin="/usr/lib/libssast_edge_plugin.so",
    plugin_sha256="b" * 64,
    patch_embed="plugin",
    layers={"PLUGIN_V3": 1},
    ssast_edge_version="0.1.0",
    built="2026-01-01T00:00:00+00:00",
    build_s=12.0,
)
ORIN = Gpu("Orin (nvgpu)", "8.7", "12.6", "540.4.0", 8 << 30)
HERE = Machine(TensorRt(None, "tensorrt", "10.3.0"), "8.7", ORIN, Plugin(Path("lib.so"), "b" * 64))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, []),
        ({"cuda_version": "12.2", "driver_version": "535"}, []),
        ({"flavour": "rtx"}, ["library TensorRT for RTX, here TensorRT"]),
        ({"tensorrt_version": "10.7.0"}, ["TensorRT 10.7.0, here 10.3.0"]),
        ({"compute_capability": "8.6"}, ["compute capability 8.6, here 8.7"]),
        ({"gpu": "NVIDIA RTX A2000"}, ["GPU NVIDIA RTX A2000, here Orin (nvgpu)"]),
        ({"gpu": ""}, []),  # built for any GPU of that compute capability
        ({"onnx_sha256": "c" * 64}, ["ONNX file cccccccccccc..., here aaaaaaaaaaaa..."]),
        ({"plugin_sha256": "d" * 64}, ["plugin dddddddddddd..., here bbbbbbbbbbbb..."]),
        ({"plugin_sha256": ""}, []),
        ({"batch": (2, 4, 8)}, ["batch 2 to 8, here 1"]),
        (
            {"tensorrt_version": "10.7.0", "compute_capability": "8.6"},
            ["TensorRT 10.7.0, here 10.3.0", "compute capability 8.6, here 8.7"],
        ),
    ],
)
def test_differences_are_told(changes: dict[str, Any], wanted: list[str]) -> None:
    manifest = replace(MANIFEST, **changes)
    assert list(map(str, differences(manifest, HERE, onnx_sha256="a" * 64))) == wanted


def test_a_missing_plugin_is_told() -> None:
    found = differences(MANIFEST, replace(HERE, plugin=None), onnx_sha256="a" * 64)
    assert list(map(str, found)) == ["plugin bbbbbbbbbbbb..., here none"]


def test_a_manifest_round_trips(tmp_path: Path) -> None:
    target, made = tmp_path / "x.engine", tmp_path / "made"
    made.write_bytes(b"abc")
    manifest = replace(MANIFEST, engine=record_file(made))
    write_engine(target, made, manifest)
    assert read_manifest(target) == manifest
    check_file(target, manifest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no engine at"),
        ("{", "broken JSON"),
        ("[]", "must be an object"),
        ('{"schema_version": 2}', "schema_version is 2, wanted 1"),
        ('{"schema_version": 1}', "key 'engine' is missing"),
    ],
)
def test_a_broken_manifest_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        manifest_path(tmp_path / "x.engine").write_text(content)
    with pytest.raises(EngineError, match=message) as caught:
        read_manifest(tmp_path / "x.engine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"ab", b"abd", None])
def test_an_engine_that_was_cut_off_or_altered_is_refused(
    content: bytes | None, tmp_path: Path
) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"abc")
    manifest = replace(MANIFEST, engine=record_file(engine))
    engine.unlink() if content is None else engine.write_bytes(content)
    with pytest.raises(EngineError, match="No such file" if content is None else "not the file"):
        check_file(engine, manifest)
