"""The report in its three forms: it fits its schema, and a browser shows it whole."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssast_edge.bench.files import write_whole
from ssast_edge.bench.report_html import to_html
from ssast_edge.bench.report_json import ReportError, load_report, schema
from ssast_edge.bench.report_markdown import to_markdown
from ssast_edge.bench.wording import percentile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
STREAMING = {
    "name": "tones onnx fp32 1 thread",
    "source": "talk.wav",
    "is_realtime": True,
    "is_partial": False,
    "audio_s": 12.5,
    "wall_s": 12.6,
    "hops": 300,
    "skipped_hops": 2,
    "overflows": 0,
    "dropped_s": 0.0,
    "detections": 3,
    "deadline_ms": 40,
    "missed_deadlines": 1,
    "real_time_factor": 0.03,
    "cpu_percent": 3.4,
    "energy": [{"meter": "RAPL", "mean_w": 12.0, "wh_per_hour_of_listening": 12.0}],
}


@pytest.mark.parametrize(
    ("name", "count", "shown"),
    [
        ("p99.9", 999, "-"),
        ("p99.9", 1000, "2.50"),
        ("p99", 99, "-"),
        ("p99", 100, "2.50"),
        ("p50", 1, "2.50"),
        ("max", 1, "2.50"),
    ],
)
def test_a_percentile_that_too_few_samples_tell_is_a_dash(
    name: str, count: int, shown: str
) -> None:
    assert percentile({"count": count, f"{name}_ms": 2.5}, name) == shown


@pytest.fixture
def full(report: dict[str, Any]) -> dict[str, Any]:
    """A report with everything in it, also what this machine does not have."""
    hop = report["cases"][0]["hop"]
    summary = hop["latency"]
    stages = {"upload": dict(hop["stages"]["inference"]), **hop["stages"]}
    report["streaming"] = {
        **STREAMING,
        "cost": summary,
        "latency": summary,
        "stages": stages,
        "absent_stages": {"download": "not told"},
    }
    report["is_partial"] = True
    report["energy"]["meters"] = [{"name": "RAPL", "scope": "package-0", "idle_w": 10.0}]
    report["power"]["mode"] = "MAXN"
    for case in report["cases"]:
        case["energy"] = [
            {
                "meter": "RAPL",
                "j_per_inference": 0.012,
                "mean_w": 12.0,
                "j_per_hop": 0.02 if case["hop"] else None,
                "wh_per_hour_of_listening": 10.4 if case["hop"] else None,
            }
        ]
    machine = report["timeline"]["machine"]
    rising = np.linspace(48, 71, len(machine["time_s"]))
    machine["temperature_c"] = rising.tolist()
    machine["cpu_clock_mhz"] = [*(2200 - rising[:-1]).tolist(), None]
    return report


def _check(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(report)))


def test_a_report_fits_its_schema(report: dict[str, Any]) -> None:
    _check(report)


def test_a_report_with_everything_in_it_fits_too(full: dict[str, Any]) -> None:
    _check(full)


def test_the_schema_refuses_what_is_no_report(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    del report["cases"][0]["engine"]["p99_ms"]
    with pytest.raises(jsonschema.ValidationError, match="p99_ms"):
        _check(report)


def test_a_report_tells_machine_versions_bundle_and_command(report: dict[str, Any]) -> None:
    assert report["command"] == ["ssast-edge", "bench", "tones"]
    assert {"python", "numpy", "onnxruntime"} <= report["versions"].keys()
    assert report["machine"]["cores"] >= 1
    assert [bundle["name"] for bundle in report["bundles"]] == ["tones", "any-batch"]
    assert all(re.fullmatch("[0-9a-f]{64}", bundle["sha256"]) for bundle in report["bundles"])
    assert len(report["energy"]["meters"]) + len(report["energy"]["absent"]) >= 3
    assert report["cases"][0]["memory"]["resident_mb"] > 10
    assert 0 < report["cases"][0]["memory"]["start_s"] < 60


def test_the_first_case_is_the_reference(report: dict[str, Any]) -> None:
    assert report["cases"][0]["engine"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    by_batch = next(case for case in report["cases"] if case["batch"] == 3)
    assert by_batch["hop"] is None
    ratio = by_batch["engine"]["ratio"]  # a window of a batch, not the batch
    assert ratio["value"] < 2


def test_markdown_has_every_case_and_every_reason(full: dict[str, Any]) -> None:
    text = to_markdown(full)
    for case in full["cases"]:
        assert text.count(case["name"]) >= 2
    assert "Partial" in text
    assert "fixed batch of 1" in text
    assert "no NVML" in text
    assert "Streaming talk.wav at real time" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_the_page_refers_to_nothing_outside_and_escapes_names(full: dict[str, Any]) -> None:
    full["bundles"][0]["name"] = "<script>alert(1)</script>"
    full["streaming"]["source"] = 'a"><img src=x>.wav'
    page = to_html(full)
    assert "<script" not in page
    assert "<img" not in page
    assert re.findall(r"<[^>]*(?:href|src)\s*=|url\(|@import", page) == []
    assert "http" not in page.replace("http://www.w3.org", "")


def test_charts_are_well_formed(full: dict[str, Any]) -> None:
    from xml.etree import ElementTree

    pictures = re.findall(r"<svg.*?</svg>", to_html(full), re.DOTALL)
    assert len(pictures) >= 6 + len(full["cases"])
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        values = " ".join(value for e in root.iter() for value in e.attrib.values())
        assert re.findall(r"\b(?:nan|inf)\b", values) == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_draws_the_page_in_both_themes(
    full: dict[str, Any], tmp_path: Path, theme: str
) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(to_html(full), encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1000,3000", f"--screenshot={picture}", page.as_uri()]
    if theme == "dark":
        command.insert(1, "--blink-settings=preferredColorScheme=0")
    subprocess.run(command, check=True, capture_output=True, timeout=90)
    pillow = pytest.importorskip("PIL.Image")
    with pillow.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"), np.int32)
    corner = pixels[5, 5].mean()
    assert corner > 200 if theme == "light" else corner < 60
    # Ink everywhere down the page, and the colour of the first case somewhere in it.
    differs = np.abs(pixels - pixels[5, 5]).sum(axis=2) > 60
    assert all(part.any() for part in np.array_split(differs, 8))
    first = (37, 99, 184) if theme == "light" else (107, 163, 240)
    assert (np.abs(pixels - np.array(first)).sum(axis=2) < 12).sum() > 500


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "broken JSON"),
        ('{"kind": "ssast-edge bench", "schema', "broken JSON"),
        ("[1, 2]", "not a report"),
        ('{"kind": "something"}', "not a report"),
        ('{"kind": "ssast-edge bench", "schema_version": 99}', "schema_version is 99"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(ReportError, match=why) as caught:
        load_report(file)
    assert "\n" not in str(caught.value)


def test_a_missing_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="No such file"):
        load_report(tmp_path / "none.json")


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "report.md"
    write_whole(target, "first")
    assert target.read_text() == "first"

    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "second")
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["report.md"]
