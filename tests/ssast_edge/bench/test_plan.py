"""The grid, and times as people write them."""

import dataclasses

import pytest

from ssast_edge.bench.plan import Budget, Grid, expand, parse_duration
from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.errors import SsastEdgeError


@pytest.fixture
def many(tone_bundle: Bundle) -> Bundle:
    models = (
        ModelFile(backend="onnx", precision="fp32", file="model.onnx"),
        ModelFile(backend="onnx", precision="int8", file="model.onnx"),
        ModelFile(backend="tensorrt", precision="fp16", file="model.onnx"),
    )
    return dataclasses.replace(tone_bundle, models=models)


def _shown(bundles: list[Bundle], grid: Grid) -> list[str]:
    return [case.name for case in expand(bundles, grid)]


def test_every_model_of_the_bundle_with_all_threads(many: Bundle) -> None:
    assert _shown([many], Grid(threads=(1, 2))) == [
        "tones onnx fp32 1 thread",
        "tones onnx fp32 2 threads",
        "tones onnx int8 1 thread",
        "tones onnx int8 2 threads",
        "tones tensorrt fp16 1 thread",
    ]


def test_one_precision_leaves_the_backends_that_have_it(many: Bundle) -> None:
    assert _shown([many], Grid(precisions=("int8",))) == ["tones onnx int8 1 thread"]


def test_what_no_bundle_has_is_a_case_all_the_same(many: Bundle) -> None:
    assert _shown([many], Grid(backends=("onnx",), precisions=("fp16",))) == [
        "tones onnx fp16 1 thread"
    ]
    assert _shown([many], Grid(precisions=("fp8",)))[0] == "tones onnx fp8 1 thread"


def test_equal_cases_are_measured_once_and_bundles_of_one_name_stay_apart(many: Bundle) -> None:
    grid = Grid(backends=("onnx",), precisions=("fp32",), threads=(1, 1), batches=(1, 4, 4))
    assert _shown([many, many], grid) == [
        "tones onnx fp32 1 thread",
        "tones onnx fp32 1 thread batch 4",
        "tones #2 onnx fp32 1 thread",
        "tones #2 onnx fp32 1 thread batch 4",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("20s", 20), ("1.5 h", 5400), ("30m", 1800), ("2min", 120), ("500ms", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "0", "5 days", "1e9", "9999h", "nan", "5m3s"])
def test_bad_durations_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(SsastEdgeError, match="duration"):
        parse_duration(text)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="duration_s"):
        Budget(duration_s=0)
    with pytest.raises(ValueError, match="count"):
        Budget(count=0)
