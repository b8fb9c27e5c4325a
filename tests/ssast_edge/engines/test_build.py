"""Engines are built by a real TensorRT for RTX; one that is there stays until another is done."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from onnx import helper

from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.cli import main
from ssast_edge.engines.build import BuildOptions, BuildProgress, build_engine
from ssast_edge.engines.cache import choose_model, engine_path, onnx_sha256, tensorrt_models
from ssast_edge.engines.manifest import EngineError, check_file, manifest_path, read_manifest
from ssast_edge.integrity import record_file

needs_rtx = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
    ),
    reason="TensorRT for RTX is not installed (tools/tensorrt-rtx installs it)",
)
SM86 = BuildOptions(compute_capability="8.6")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssast-edge" / "engines"


@pytest.fixture(scope="module")
def built(tone_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the tone model; not to be changed."""
    out = tmp_path_factory.mktemp("built") / "tones.engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out.parent))
        return build_engine(tone_bundle, choose_model(tone_bundle), replace(SM86, out=out))


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


def test_options_that_make_no_sense_are_refused() -> None:
    for changes, message in (
        ({"workspace_mb": -1}, "workspace_mb must be 0 or more"),
        ({"compute_capability": "86"}, "must look like 8.6"),
        ({"batch": (4, 1, 8)}, "fewest, usual, most"),
        ({"batch": (0, 1, 8)}, "fewest, usual, most"),
    ):
        with pytest.raises(ValueError, match=message):
            BuildOptions(**changes)


def test_a_bundle_without_tensorrt_models_has_its_fp32_graph(tone_bundle: Bundle) -> None:
    assert tensorrt_models(tone_bundle) == (
        ModelFile(backend="tensorrt", precision="fp32", file="model.onnx"),
    )
    named = ModelFile(backend="tensorrt", precision="fp16", file="half.onnx")
    both = replace(tone_bundle, models=(*tone_bundle.models, named))
    assert [model.precision for model in tensorrt_models(both)] == ["fp16", "fp32"]
    assert choose_model(both).precision == "fp16"
    with pytest.raises(EngineError, match="no model in int8 .* it has: fp16, fp32"):
        choose_model(both, "int8")


def test_engines_lie_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_path("abcdef" * 10, "int8") == cache / "abcdefabcdefabcd.int8.engine"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert engine_path("ab", "fp16") == Path(
        "/home/somebody/.cache/ssast-edge/engines/ab.fp16.engine"
    )


@needs_rtx
@pytest.mark.tensorrt
def test_an_engine_is_written_with_its_manifest(
    built: Path, tone_bundle: Bundle, tmp_path: Path
) -> None:
    assert sorted(path.name for path in built.parent.glob("tones*")) == [
        "tones.engine",
        "tones.engine.json",
    ]
    assert built.read_bytes()[:4] == b"vtrt"
    manifest = read_manifest(built)
    check_file(built, manifest)
    assert manifest.onnx_sha256 == record_file(tone_bundle.path / "model.onnx").sha256
    assert (manifest.flavour, manifest.compute_capability) == ("rtx", "8.6")
    assert (manifest.gpu, manifest.plugin, manifest.patch_embed) == ("", "", "layers")
    assert manifest.batch == (1, 1, 1)
    assert manifest.layers["REDUCE"] == 1
    assert manifest.build_s > 0


@needs_rtx
@pytest.mark.tensorrt
def test_an_engine_that_fits_is_not_built_again(
    built: Path, tone_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "tones.engine"
    for path in (built, manifest_path(built)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = replace(SM86, out=out)
    before = out.stat().st_mtime_ns
    assert build_engine(tone_bundle, choose_model(tone_bundle), options) == out
    assert out.stat().st_mtime_ns == before
    seen: list[BuildProgress] = []
    build_engine(
        tone_bundle, choose_model(tone_bundle), replace(options, rebuild=True), seen.append
    )
    assert out.stat().st_mtime_ns != before
    assert {progress.phase for progress in seen} >= {"Building engine"}
    assert all(0 <= progress.step <= progress.steps for progress in seen)
    # Cut off in the middle of writing: built again without being asked to.
    out.write_bytes(out.read_bytes()[:100])
    build_engine(tone_bundle, choose_model(tone_bundle), options)
    check_file(out, read_manifest(out))


@needs_rtx
@pytest.mark.tensorrt
def test_the_command_builds_into_the_cache(
    tone_bundle: Bundle, tone_folder: Path, cache: Path
) -> None:
    target = engine_path(onnx_sha256(tone_bundle, choose_model(tone_bundle)), "fp32")
    killed, running = (cache / f".{target.name}.{name}.tmp" for name in ("killed", "running"))
    for folder in (killed, running):
        folder.mkdir(parents=True)
    os.utime(killed, times=(0, 0))
    result = build(tone_folder, "--compute-capability", "8.6", "--workspace", "64")
    assert result.exit_code == 0, result.stderr
    path = Path(result.stdout.strip())
    assert path.parent == cache
    assert "for any GPU of compute capability 8.6" in result.stderr
    manifest = read_manifest(path)
    assert path == target == engine_path(manifest.onnx_sha256, "fp32")
    assert not killed.exists()
    assert running.exists()  # a build beside this one
    assert set(files(tone_folder)) == {"MODEL_CARD.md", "bundle.json", "golden.npz", "model.onnx"}


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute-capability", "8.7"], "does not build for compute capability 8.7, only for"),
        (["--compute-capability", "orin"], "must look like 8.6, got 'orin'"),
        (["--precision", "int8"], "no model in int8 to build an engine from, it has: fp32"),
        (["--plugin", "gone.so"], "no plugin library at gone.so"),
        (["--plugin", "x", "--no-plugin"], "exclude each other"),
        (["--precision", "all", "--out", "x"], "--out names one engine"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    arguments: list[str], message: str, tone_folder: Path, cache: Path
) -> None:
    result = build(tone_folder, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(cache.glob("*")) if cache.exists() else True


def broken(bundle: Bundle, folder: Path, content: bytes) -> Bundle:
    """The bundle with another model file, as no check would let it pass."""
    (folder / "model.onnx").write_bytes(content)
    return replace(bundle, path=folder)


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01 no model", "not an ONNX file"),
        ("unknown operator", r"cannot read the graph: node Mystery 'riddle': .*Plugin not found"),
        ("another input", r"the inputs are \[\('fbank', \(20, 64\)\)\], the bundle wants"),
    ],
)
def test_a_graph_that_tensorrt_cannot_read_is_one_line_and_the_old_engine_stays(
    content: bytes | str, message: str, tone_bundle: Bundle, built: Path, tmp_path: Path
) -> None:
    if isinstance(content, str):
        bins = 64 if content == "another input" else 128
        kind = "Mystery" if content == "unknown operator" else "Identity"
        graph = helper.make_graph(
            [helper.make_node(kind, ["fbank"], ["logits"], name="riddle")],
            "g",
            [helper.make_tensor_value_info("fbank", 1, [1, 20, bins])],
            [helper.make_tensor_value_info("logits", 1, [1, 20, bins])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        content = model.SerializeToString()
    (tmp_path / "bundle").mkdir()
    assert isinstance(content, bytes)
    bundle = broken(tone_bundle, tmp_path / "bundle", content)
    out = tmp_path / "out" / "x.engine"
    out.parent.mkdir()
    out.write_bytes(b"old")
    with pytest.raises(EngineError, match=message) as caught:
        build_engine(bundle, choose_model(bundle), replace(SM86, out=out))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; the engine that was there is kept")
    assert files(out.parent) == {"x.engine": b"old"}


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize("victim", ["parent", "child"])
def test_a_build_that_is_killed_leaves_nothing_half(
    victim: str, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.engine"
    for path, name in ((built, "x.engine"), (manifest_path(built), "x.engine.json")):
        (tmp_path / name).write_bytes(path.read_bytes())
    before = files(tmp_path)
    code = (
        "import sys; from pathlib import Path; from ssast_edge.bundle import load_bundle\n"
        "from ssast_edge.engines.build import BuildOptions, build_engine\n"
        "from ssast_edge.engines.cache import choose_model\n"
        "bundle = load_bundle('wake-words')\n"
        "options = BuildOptions(out=Path(sys.argv[1]), compute_capability='8.6', rebuild=True)\n"
        "show = lambda progress: print(progress.phase, flush=True)\n"
        "build_engine(bundle, choose_model(bundle), options, show)\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # TensorRT is at work
    child = worker_of(process.pid)
    os.kill(process.pid if victim == "parent" else child, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if victim == "child":
        assert "was ended by SIGKILL, as happens when memory runs out" in errors
        assert "; the engine that was there is kept" in errors
    else:
        gone_by = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and time.monotonic() < gone_by:
            time.sleep(0.05)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith("/engine")]


def worker_of(pid: int) -> int:
    """The process that runs TensorRT for another."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            return int(status.parent.name)
    raise AssertionError("no worker is running")
