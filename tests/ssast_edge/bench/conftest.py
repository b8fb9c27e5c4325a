"""A report that was measured for a moment on the tone bundle, and a bundle of any batch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ssast_edge.bench.measure import Measurement, measure
from ssast_edge.bench.plan import Budget, Grid, expand
from ssast_edge.bench.report_json import build_report
from ssast_edge.bundle import Bundle, write_bundle
from tests.ssast_edge.conftest import NUM_BINS, WINDOW_FRAMES, _onnx_model, _tone_logits


@pytest.fixture(scope="session")
def any_batch_bundle(
    tmp_path_factory: pytest.TempPathFactory, tone_manifest: dict[str, Any]
) -> Bundle:
    """The tone bundle with a graph whose batch has a name in place of a number."""
    folder = tmp_path_factory.mktemp("any-batch")
    model = _onnx_model()
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, folder / "model.onnx")
    golden = np.random.default_rng(1).normal(-5, 3, (WINDOW_FRAMES, NUM_BINS)).astype(np.float32)
    return write_bundle(
        folder / "bundle",
        {**tone_manifest, "name": "any-batch"},
        {"model.onnx": folder / "model.onnx"},
        golden_fbank=golden,
        golden_logits=_tone_logits(golden),
    )


@pytest.fixture(scope="session")
def measured(tone_bundle: Bundle, any_batch_bundle: Bundle) -> Measurement:
    """A grid with cases that run and one that cannot."""
    cases = expand(
        [tone_bundle, any_batch_bundle], Grid(threads=(1, 2), batches=(1, 3), backends=("onnx",))
    )
    return measure(cases, Budget(duration_s=0.6, warm_up_s=0.2), progress=lambda text: None)


@pytest.fixture(scope="session")
def _report(measured: Measurement) -> dict[str, Any]:
    return build_report(measured, command=["ssast-edge", "bench", "tones"])


@pytest.fixture
def report(_report: dict[str, Any]) -> dict[str, Any]:
    """The report of that measurement, to be changed at will."""
    return copy.deepcopy(_report)


@pytest.fixture
def make_report(report: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The same report with durations of a known distribution, `factor` times as long."""

    def make(*, factor: float = 1.0, seed: int = 0, noise: float = 0.03) -> dict[str, Any]:
        made = copy.deepcopy(report)
        rng = np.random.default_rng(seed)
        for case in made["cases"]:
            for part in filter(None, (case["engine"], case["hop"])):
                rounds: NDArray[np.float64] = factor * 2.0 * rng.lognormal(0, noise, 40)
                part["rounds_ms"] = rounds.tolist()
                part["p50_ms"] = float(np.median(rounds))
        return made

    return make


@pytest.fixture
def tones(tone_folder: Path) -> str:
    """The tone bundle as a command takes it."""
    return str(tone_folder)
