"""What a comparison of two reports finds, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ssast_edge.bench.compare import compare, parse_limit
from ssast_edge.bench.report_json import ReportError
from ssast_edge.cli import main
from ssast_edge.errors import SsastEdgeError

Maker = Callable[..., dict[str, Any]]


def test_a_planted_slow_down_of_a_fifth_is_over_the_limit(make_report: Maker) -> None:
    for seed in range(8):
        found = compare(make_report(seed=1), make_report(factor=1.2, seed=100 + seed), 0.1)
        assert len(found.over) == len(found.rows) > 0, seed


def test_no_change_is_no_change(make_report: Maker) -> None:
    over = [compare(make_report(seed=1), make_report(seed=100 + n), 0.1).over for n in range(8)]
    assert over == [[]] * 8


def test_noise_alone_does_not_fail(make_report: Maker) -> None:
    """Rounds that scatter by a third: the median may move by more than the limit."""
    for seed in range(4):
        found = compare(make_report(seed=1), make_report(seed=seed + 7, noise=0.3), 0.05)
        assert [row for row in found.over if not row.ratio.is_change()] == []


def test_a_small_change_is_said_but_not_over(make_report: Maker) -> None:
    found = compare(
        make_report(seed=1, noise=0.01), make_report(factor=1.05, seed=2, noise=0.01), 0.1
    )
    assert {row.verdict for row in found.rows} == {"slower"}
    assert not found.over


def test_without_a_limit_nothing_is_over(make_report: Maker) -> None:
    assert compare(make_report(), make_report(factor=3), None).over == []


def test_other_work_under_the_same_name_is_refused(make_report: Maker) -> None:
    changed = make_report()
    changed["bundles"][0]["hop_ms"] = 80
    with pytest.raises(ReportError, match="cannot be compared: hop_ms was 40 and is 80"):
        compare(make_report(), changed, 0.1)


def test_reports_without_a_common_case_are_refused(make_report: Maker) -> None:
    other = make_report()
    for case in other["cases"]:
        case["name"] = f"other {case['name']}"
    with pytest.raises(ReportError, match="no case in common"):
        compare(make_report(), other, 0.1)


def test_a_report_that_lacks_something_is_one_line(make_report: Maker) -> None:
    broken = make_report()
    del broken["cases"][0]["engine"]
    with pytest.raises(ReportError, match="lacks what its schema promises"):
        compare(make_report(), broken, 0.1)


def test_what_differs_between_the_reports_is_noted(make_report: Maker) -> None:
    other = make_report()
    other["machine"]["model"] = "NVIDIA Jetson Orin Nano"
    other["power"]["mode"] = "15W"
    other["versions"]["onnxruntime"] = "1.17.0"
    other["bundles"][0]["sha256"] = "0" * 64
    other["is_partial"] = True
    other["cases"].pop()
    notes = " | ".join(compare(make_report(), other, 0.1).notes)
    for part in (
        "different machines",
        "mode was unknown and is 15W",
        "onnxruntime was",
        "bundle tones: not the same files",
        "the second report is partial",
        "only in the first: any-batch",
    ):
        assert part in notes


@pytest.mark.parametrize(("text", "limit"), [("10%", 0.1), ("7.5", 0.075), (" 0 % ", 0.0)])
def test_limits(text: str, limit: float) -> None:
    assert parse_limit(text) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "ten", "-5%", "10%%", "99999"])
def test_bad_limits(text: str) -> None:
    with pytest.raises(SsastEdgeError, match="percentage"):
        parse_limit(text)


def _compare(folder: Path, first: Any, second: Any, *options: str) -> Any:
    paths = [folder / "a.json", folder / "b.json"]
    for path, report in zip(paths, (first, second), strict=True):
        path.write_text(json.dumps(report))
    return CliRunner().invoke(main, ["bench", "--compare", *map(str, paths), *options])


def test_the_command_ends_with_1_and_a_line_a_case(make_report: Maker, tmp_path: Path) -> None:
    ran = _compare(tmp_path, make_report(), make_report(factor=1.2, seed=3), "--fail-over", "10%")
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    assert "tones onnx fp32 1 thread, inference:" in lines[0]
    assert sum(line.endswith("OVER THE LIMIT") for line in lines) == len(lines)


def test_the_command_ends_with_0_when_nothing_changed(make_report: Maker, tmp_path: Path) -> None:
    ran = _compare(tmp_path, make_report(), make_report(seed=3), "--fail-over", "10%")
    assert ran.exit_code == 0, ran.output
    assert "OVER" not in ran.stdout


def test_another_schema_is_one_line(make_report: Maker, tmp_path: Path) -> None:
    other = {**make_report(), "schema_version": 2}
    ran = _compare(tmp_path, make_report(), other)
    assert ran.exit_code == 1
    assert ran.stderr.count("\n") == 1
    assert "schema_version is 2" in ran.stderr
