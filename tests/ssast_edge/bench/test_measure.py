"""What the measurement reports against durations that were recorded apart from it."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from ssast_edge.backends.onnx import OnnxBackend, open_onnx
from ssast_edge.bench import measure as measure_module
from ssast_edge.bench.measure import Measurement, measure
from ssast_edge.bench.plan import Budget, Case, Grid, expand
from ssast_edge.bench.stages import StageClock
from ssast_edge.bundle import Bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.spotter import Spotter


def _quiet(text: str) -> None:
    pass


def _cases(bundle: Bundle, **options: Any) -> list[Case]:
    return expand([bundle], Grid(**options))


def test_the_figures_agree_with_an_independent_record_of_the_same_inferences(
    tone_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A millisecond of work, so that the calls around it do not count; recorded innermost.
    recorded: list[float] = []
    infer = OnnxBackend.infer

    def worked(self: OnnxBackend, fbank: Any, **options: Any) -> Any:
        began_s = perf_counter()
        logits = infer(self, fbank, **options)
        while perf_counter() - began_s < 1e-3:
            pass
        recorded.append(1000 * (perf_counter() - began_s))
        return logits

    monkeypatch.setattr(OnnxBackend, "infer", worked)
    monkeypatch.setattr(measure_module, "probe", lambda case: {})
    result = measure(_cases(tone_bundle), Budget(duration_s=0.5, warm_up_s=0.1), progress=_quiet)
    (run,) = result.runs
    median = float(np.median(recorded))
    assert run.engine.summary()["p50_ms"] == pytest.approx(median, rel=0.1)
    assert run.clock.stages["inference"].summary()["p50_ms"] == pytest.approx(median, rel=0.1)
    inferences = run.engine_cost.inferences
    assert run.engine_cost.wall_s == pytest.approx(run.engine.total_ms / 1000, rel=0.01)
    assert run.engine.count == inferences


def test_the_stages_add_up_to_the_cost_of_a_hop(measured: Measurement) -> None:
    clock = measured.runs[0].clock
    whole = sum(stage.total_ms for stage in clock.stages.values())
    assert whole == pytest.approx(clock.cost.total_ms, rel=1e-6)
    assert {*clock.stages} == {"front_end", "inference", "trigger"}
    assert clock.stages["front_end"].count == clock.cost.count


def test_a_backend_that_tells_its_stages_is_split(tone_bundle: Bundle) -> None:
    class Staged:
        name = "staged"
        hop_frames = 1

        def infer(self, fbank: Any, *, new_frames: int | None = None) -> Any:
            began_s = perf_counter()
            while perf_counter() - began_s < 2e-3:
                pass
            return np.zeros(3, np.float32)

        def stages_ms(self) -> dict[str, float]:
            return {"upload": 0.4, "inference": 1.0, "download": 0.1}

        def close(self) -> None:
            pass

    clock = StageClock(Staged())
    spotter = Spotter(tone_bundle, backend=clock.backend, on_scores=clock.scores)
    for _ in range(10):
        clock.begin()
        spotter.push(np.zeros(640, np.float32))
        clock.end()
    costs = clock.take()
    means = {name: stage.summary()["mean_ms"] for name, stage in clock.stages.items()}
    assert (means["upload"], means["download"]) == (pytest.approx(0.4), pytest.approx(0.1))
    assert means["inference"] >= 1.49  # what nobody accounts for is inference
    assert sum(means.values()) == pytest.approx(np.mean(costs))


def test_cases_take_turns_and_what_cannot_run_is_listed(measured: Measurement) -> None:
    names = [run.case.name for run in measured.runs]
    assert names == [
        "tones onnx fp32 1 thread",
        "tones onnx fp32 2 threads",
        "any-batch onnx fp32 1 thread",
        "any-batch onnx fp32 1 thread batch 3",
        "any-batch onnx fp32 2 threads",
        "any-batch onnx fp32 2 threads batch 3",
    ]
    assert {len(run.rounds.rows()) for run in measured.runs} == {measured.rounds}
    assert [one.reason for one in measured.unavailable] == [
        "batch 3: the model file has a fixed batch of 1"
    ] * 2


def test_a_batch_has_no_stream(measured: Measurement) -> None:
    batch = next(run for run in measured.runs if run.case.batch == 3)
    assert not batch.has_hops
    assert batch.clock.cost.count == 0
    assert batch.engine.count > 0


def test_a_batch_gives_what_its_windows_give(any_batch_bundle: Bundle) -> None:
    backend = open_onnx(any_batch_bundle.path / "model.onnx", input_shape=(20, 128), num_labels=3)
    assert isinstance(backend, OnnxBackend)
    windows = np.random.default_rng(0).normal(-5, 3, (4, 20, 128)).astype(np.float32)
    apart = np.stack([backend.infer(window) for window in windows])
    np.testing.assert_allclose(backend.infer_batch(windows), apart, atol=1e-5)
    assert backend.max_batch > 1
    with pytest.raises(ValueError, match="at once"):
        backend.infer_batch(np.zeros((backend.max_batch + 1, 20, 128), np.float32))


def test_a_count_is_reached_by_every_case(
    tone_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "probe", lambda case: {})
    cases = _cases(tone_bundle, threads=(1, 2))
    result = measure(cases, Budget(count=50, warm_up_s=0.1), progress=_quiet)
    assert [run.engine.count for run in result.runs] == [50, 50]


def test_nothing_that_runs_is_one_line_with_the_reasons(tone_bundle: Bundle) -> None:
    cases = _cases(tone_bundle, batches=(5,))
    with pytest.raises(SsastEdgeError, match="batch 5: the model file has a fixed batch of 1"):
        measure(cases, Budget(duration_s=0.1), progress=_quiet)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make inference number N break off like Ctrl-C."""
    infer = OnnxBackend.infer
    left = [1 << 30]

    def counted(self: OnnxBackend, fbank: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return infer(self, fbank, **options)

    def after(number: int) -> None:
        left[0] = number

    monkeypatch.setattr(OnnxBackend, "infer", counted)
    monkeypatch.setattr(measure_module, "probe", lambda case: {})
    return after


def test_ctrl_c_keeps_what_was_measured(
    tone_bundle: Bundle, interrupted: Callable[[int], None]
) -> None:
    interrupted(1500)
    result = measure(_cases(tone_bundle), Budget(duration_s=60, warm_up_s=0.01), progress=_quiet)
    assert result.is_partial
    assert result.runs[0].engine.count > 0
    assert result.duration_s < 60


def test_ctrl_c_before_the_first_figure_is_passed_on(
    tone_bundle: Bundle, interrupted: Callable[[int], None]
) -> None:
    interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        measure(_cases(tone_bundle), Budget(duration_s=60), progress=_quiet)
