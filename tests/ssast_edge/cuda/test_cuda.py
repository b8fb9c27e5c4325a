"""The CUDA layer's contract and the TensorRT backend, over a stand-in for NVIDIA's driver.

cuda_driver/README.md says what the stand-in is. Where there is a GPU the contract runs on it too.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from ssast_edge.cuda import CudaError, find_gpu, open_cuda, pycuda
from ssast_edge.errors import BackendMissing
from tests.ssast_edge.cuda_driver.library import compiled_driver, has, has_gpu

PROGRAMS = Path(__file__).parents[1] / "cuda_driver"
PACKAGES = {"bindings": "cuda.bindings", "pycuda": "pycuda"}


def checks(program: str) -> list[str]:
    """The checks that a program holds."""
    return re.findall(r"^def (check_\w+)", (PROGRAMS / program).read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in driver."""
    return compiled_driver(tmp_path_factory.mktemp("driver"))


@cache
def results(program: str, implementation: str, driver: Path | None) -> dict[str, str]:
    """Check -> why it failed, "" when it did not."""
    if not has(PACKAGES[implementation]):
        pytest.skip(f"{PACKAGES[implementation]} is not installed")
    environment = {**os.environ, **({"LD_PRELOAD": str(driver)} if driver else {})}
    ran = subprocess.run(
        [sys.executable, PROGRAMS / program, implementation],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("implementation", PACKAGES)
@pytest.mark.parametrize("check", checks("contract.py"))
def test_contract(check: str, implementation: str, driver: Path) -> None:
    why = results("contract.py", implementation, driver)[check]
    assert not why, why


@pytest.mark.parametrize("implementation", PACKAGES)
@pytest.mark.parametrize("check", checks("backend.py"))
def test_backend(check: str, implementation: str, driver: Path) -> None:
    why = results("backend.py", implementation, driver)[check]
    assert not why, why


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", PACKAGES)
@pytest.mark.parametrize("check", checks("contract.py"))
def test_contract_on_this_gpu(check: str, implementation: str) -> None:
    if not has_gpu():
        pytest.skip("no NVIDIA driver on this machine")
    why = results("contract.py", implementation, None)[check]
    assert not why, why


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("call", [find_gpu, open_cuda])
def test_no_driver_is_one_line(call: object) -> None:
    if not has("cuda.bindings"):
        pytest.skip("cuda-bindings is not installed")
    assert callable(call)
    with pytest.raises(CudaError, match=r"^CUDA: no (NVIDIA driver|GPU)") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", [find_gpu, open_cuda])
def test_no_package_says_what_to_install(call: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert callable(call)
    with pytest.raises(BackendMissing, match="pip install cuda-bindings"):
        call()


def test_words_of_cuda_that_pycuda_passes_on_are_its_runtimes() -> None:
    # NVIDIA's runtime knows the words for its errors without a driver; their numbers are the same.
    folders = [Path("/usr/local/cuda/lib64"), *Path("/usr/local").glob("cuda-*/lib64")]
    found = [path for folder in folders for path in folder.glob("libcudart.so*")]
    if not found:
        pytest.skip("libcudart is not installed")
    runtime = ctypes.CDLL(str(found[0]))
    runtime.cudaGetErrorString.restype = ctypes.c_char_p
    known = {runtime.cudaGetErrorString(code).decode() for code in range(1000)}
    # The driver's own words where the runtime has others.
    drivers = {"invalid device context", "context is destroyed"}
    assert set(pycuda.NAMES) - drivers <= known
