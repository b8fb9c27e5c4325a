"""`make gpu-check` on a machine without a GPU: it says so, and its own machinery works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    bool(shutil.which("nvidia-smi")) or Path("/dev/nvhost-gpu").exists(),
    reason="this machine has a GPU",
)


def gpu_check(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu-check"), *arguments],
        capture_output=True, text=True, env={**os.environ, **({"PATH": path} if path else {})},
    )  # fmt: skip


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "results"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no CUDA GPU on this machine")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_what_cannot_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    steps = ("native", "kernel", "sanitizer", "profile", "engines")
    only = [part for step in steps for part in ("--only", step)]
    done = gpu_check("--without-gpu", "--out", str(tmp_path), *only, path=str(tmp_path))
    assert done.returncode == 1
    summary = (tmp_path / "summary.md").read_text()
    assert "| GPU | none |" in summary
    assert "| native | left out | cmake is not installed or not on PATH |" in summary
    assert "| kernel | left out | the kernel's program was not built |" in summary
    assert "| sanitizer | left out | missing: a GPU |" in summary
    assert "| profile | left out | missing: a GPU (optional) |" in summary
    assert "| engines | left out | no " in summary
    assert "FAILED" not in summary


def test_a_step_keeps_its_output_and_a_failure_shows(tmp_path: Path) -> None:
    # A cmake that fails, found first.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cmake", "nvcc"):
        (tools / name).write_text("#!/bin/sh\necho it broke\nexit 3\n")
        (tools / name).chmod(0o755)
    include = tmp_path / "trt" / "include"
    include.mkdir(parents=True)
    (include / "NvInfer.h").touch()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu-check"), "--without-gpu", "--only", "native",
         "--out", str(tmp_path / "results")],
        capture_output=True, text=True,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}",
             "TENSORRT_ROOT": str(tmp_path / "trt")},
    )  # fmt: skip
    assert done.returncode == 1
    assert (tmp_path / "results" / "native-configure.log").read_text() == "it broke\n"
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert "| native-configure | FAILED | it broke |" in summary
    assert "native-build" not in summary


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    done = gpu_check("--without-gpu", "--out", str(tmp_path), "--only", "everything")
    assert done.returncode == 1
    assert done.stderr.startswith("no such step: everything (steps: native, kernel,")
