"""Which package may import which: the runtime must run where torch is not installed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Package -> packages of the project that it may import.
ALLOWED = {
    "ssast_edge": {"ssast_edge"},
    "train": {"train", "ssast_edge"},
    "optimize": {"optimize", "train", "ssast_edge"},
}
OURS = {*ALLOWED, "tests", "benchmarks", "demo"}
# Seconds of start-up each, or a library that a machine without a microphone lacks.
HEAVY = ("torch", "torchaudio", "scipy", "sounddevice", "soundfile", "onnxruntime", "tensorrt")


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_in_the_allowed_direction(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in _imports(path)
        if name in OURS - ALLOWED[package]
    ]
    assert wrong == []


def test_the_runtime_never_names_torch_or_scipy() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "ssast_edge").rglob("*.py")
        for name in _imports(path)
        if name in ("torch", "torchaudio", "scipy")
    ]
    assert wrong == []


def test_the_runtime_needs_no_torch() -> None:
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "ssast_edge").rglob("*.py")
        if path.stem not in ("__main__", "__init__")
    )
    _run(
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'scipy', 'train', 'optimize'):\n"
        "    sys.modules[name] = None\n"
        "from importlib import import_module\n"
        f"for name in {modules!r}:\n"
        "    import_module(name)\n"
    )


def test_importing_the_package_imports_nothing_heavy() -> None:
    names = "ssast_edge, ssast_edge.cli, ssast_edge.spotter, ssast_edge.audio, ssast_edge.live"
    loaded = _run(f"import sys, {names}; print(*sys.modules)").split()
    assert set(loaded) & set(HEAVY) == set()


def test_listening_needs_neither_calibration_nor_enrolment_nor_evaluation() -> None:
    names = ", ".join(
        f"ssast_edge.{name}"
        for name in ("commands.listen", "commands.listening", "commands.source", "microphone")
    )
    loaded = _run(f"import sys, {names}; print(*sys.modules)").split()
    packages = {name.split(".")[1] for name in loaded if name.startswith("ssast_edge.")}
    assert packages & {"calibration", "enrollment", "evaluation", "bench", "doctor"} == set()
    assert "bundle" in packages


def test_the_help_needs_not_even_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = None; from ssast_edge.cli import main; main(['-h'])"
    assert "listen" in _run(code)


def _imports(path: Path) -> Iterator[str]:
    """First part of the name of each module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def _run(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
