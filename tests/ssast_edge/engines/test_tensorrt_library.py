"""TensorRT is found, or said to be missing or too old; and so is our plugin."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ssast_edge.engines.plugins import Plugin, find_plugin, find_same_plugin
from ssast_edge.engines.tensorrt_library import CollectedLog, LogLine, load_tensorrt
from ssast_edge.errors import BackendMissing
from ssast_edge.integrity import record_file

needs_rtx = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
    ),
    reason="TensorRT for RTX is not installed (tools/tensorrt-rtx installs it)",
)


@pytest.fixture
def only_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    """Whatever is installed, Python finds this TensorRT alone."""

    def install(module: ModuleType | None) -> None:
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, module if name == "tensorrt" else None)
        monkeypatch.setattr("ssast_edge.engines.tensorrt_library._preload_rtx", lambda: None)

    return install


def test_tensorrt_8_is_refused_with_what_to_install(
    only_tensorrt: Callable[[ModuleType | None], None],
) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"  # type: ignore[attr-defined]
    only_tensorrt(old)
    with pytest.raises(BackendMissing, match=r"TensorRT 8\.6\.2 is too old") as caught:
        load_tensorrt()
    assert "install JetPack 6.1 or newer, or run with --backend onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_tensorrt_says_where_it_comes_from(
    only_tensorrt: Callable[[ModuleType | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_tensorrt(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=r"it is not installed; .*JetPack"):
        load_tensorrt()


def test_the_log_keeps_errors_warnings_and_the_last_lines() -> None:
    log = CollectedLog(size=2)
    for severity in ("error", "warning", "info", "verbose"):
        log.add(LogLine(severity, f"a {severity}"))
    assert [line.text for line in log.last] == ["a warning", "a info"]
    assert (log.errors, log.warnings) == (["a error"], ["a warning"])
    assert log.take_errors() == "a error"
    assert log.take_errors() == "TensorRT gave no reason"


def test_a_plugin_that_is_not_there_is_told() -> None:
    with pytest.raises(BackendMissing, match=r"no plugin library at nowhere\.so"):
        find_plugin(Path("nowhere.so"))


def test_the_plugin_of_an_engine_is_found_where_it_was(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"one")
    sha256 = record_file(library).sha256
    assert find_same_plugin(sha256, [tmp_path / "gone.so", library]) == Plugin(library, sha256)
    library.write_bytes(b"two")
    assert find_same_plugin(sha256, [library]) == find_plugin()


@needs_rtx
@pytest.mark.tensorrt
def test_another_file_is_no_plugin() -> None:
    code = (
        "from pathlib import Path; from ssast_edge.engines.plugins import *; "
        "from ssast_edge.engines.tensorrt_library import *\n"
        "library, log = load_tensorrt(), CollectedLog()\n"
        "logger = make_logger(library.module, log); builder = library.module.Builder(logger)\n"
        "try: load_plugin(library, Plugin(Path('pyproject.toml').resolve(), ''), log)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.startswith("BackendMissing "), ran.stderr
    assert "does not take it as a plugin" in ran.stdout
    assert "invalid ELF header" in ran.stdout
