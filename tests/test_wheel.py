"""The wheel, installed alone in a clean environment, is all that a user needs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Downloads by pip included; a machine without a registry fails at once.
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new virtual environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=TIMEOUT_S)
    _pip(str(folder / "bin/python"), "install", str(wheel))
    return folder / "bin"


def test_the_wheel_holds_the_runtime_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ssast_edge"}
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "ssast_edge/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".pth", ".so"))]


@pytest.mark.slow
def test_a_clean_environment_has_no_torch(environment: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'scipy') if u.find_spec(n)])"
    assert _run(environment / "python", "-c", code) == "[]\n"


@pytest.mark.slow
def test_the_command_is_installed(environment: Path) -> None:
    assert "listen" in _run(environment / "ssast-edge", "--help")
    assert _run(environment / "ssast-edge", "--version").startswith("ssast-edge ")


@pytest.mark.slow
def test_the_demo_hears_keywords(environment: Path) -> None:
    shown = _run(environment / "ssast-edge", "demo")
    (verdict,) = re.findall(r"(\d+) of (\d+) keywords heard", shown)
    found, asked = map(int, verdict)
    assert asked - 1 <= found <= asked


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        if "No matching distribution" in ran.stderr or "No module named pip" in ran.stderr:
            pytest.skip(f"pip cannot install here: {last}")
        pytest.fail(f"pip {arguments[0]}: {ran.stderr}")


def _run(*command: Path | str) -> str:
    # From the root folder, so that the checkout is not what is imported.
    ran = subprocess.run(
        [str(word) for word in command], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
