"""The chain of a recipe, by its command: bundle, report, resuming, mistakes in one line."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

for _module in ("torch", "lightning_fabric", "safetensors", "matplotlib", "scipy", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

from benchmarks import small_models  # noqa: E402
from optimize.__main__ import main  # noqa: E402
from ssast_edge.backends import open_backend  # noqa: E402
from ssast_edge.bundle import load_bundle  # noqa: E402
from train.task import Places  # noqa: E402

RECIPE = """
name = "tones-small"
checkpoint = "{checkpoint}"
[prune]
macs = 0.6
rounds = 2
round_steps = 2
final_steps = 4
samples = 12
[quantize]
windows = 16
logit_budget = 3.0
rounds = 4
[compare]
rounds = 4
[build]
"""


def options(places: Places) -> list[object]:
    return [
        "--manifests", places.manifests, "--cache", places.cache, "--data", places.data,
        "--pool", places.pool, "--accelerator", "cpu", "--workers", 0, "--threads", 1,
    ]  # fmt: skip


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def only_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    progress, _, line = result.stderr.rstrip("\n").rpartition("Error: ")
    assert "\n" not in line, result.stderr
    assert "Traceback" not in progress
    return str(line)


@pytest.fixture(scope="module")
def recipe(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE.format(checkpoint=dense))
    return path


@pytest.fixture(scope="module")
def done(
    recipe: Path, places: Places, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("chain") / "out"
    result = invoke("run", recipe, "--out", out, *options(places))
    assert result.exit_code == 0, result.output
    return out, result


def test_the_chain_ends_in_a_bundle_with_every_flavour(done: tuple[Path, Result]) -> None:
    out, _ = done
    bundle = load_bundle(out / "bundle")
    held = {(model.backend, model.precision) for model in bundle.models}
    assert held == {("onnx", "fp32"), ("onnx", "int8"), ("tensorrt", "fp16"), ("tensorrt", "int8")}
    assert open_backend(bundle, kind="onnx", precision="int8").infer(bundle.golden.fbank).any()
    assert bundle.provenance["optimized"]["pruned"]["macs_share"] <= 0.6


def test_without_comparison_it_ends_with_the_same_bundle(
    done: tuple[Path, Result], recipe: Path, places: Places, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    result = invoke("run", recipe, "--out", out, "--no-compare", *options(places))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out / 'bundle'}\n"
    assert "compare" not in result.stderr


def test_the_report_holds_the_figures_of_each_model(done: tuple[Path, Result]) -> None:
    table = json.loads((done[0] / "report.json").read_text())
    models = {row["name"]: row for row in table["steps"]["compare"]["models"]}
    assert list(models)[0] == "dense onnx fp32"
    assert {"dense onnx int8", "small onnx fp32", "small onnx int8", "torch eager fp32"} <= set(
        models
    )
    dense, small = models["dense onnx fp32"], models["small onnx fp32"]
    assert dense["latency"]["ratio"] == 1
    assert dense["logits"]["max_difference"] == 0
    assert small["macs"] <= 0.6 * dense["macs"]
    assert small["parameters"] < dense["parameters"]
    assert small["accuracy"]["low"] <= small["accuracy"]["value"] <= small["accuracy"]["high"]
    assert models["small tensorrt fp16"]["latency"] is None, "not timed by another library"
    assert [target["is_met"] in (True, False) for target in table["targets"]] == [True] * len(
        table["targets"]
    )


def test_the_benchmark_of_small_models_times_a_run(
    done: tuple[Path, Result], recipe: Path, tmp_path: Path
) -> None:
    target = tmp_path / "small.json"
    arguments = [done[0], "--rounds", 4, "--json", target]
    result = CliRunner().invoke(small_models.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(target.read_text())["models"]
    assert row["small_bytes"] < row["dense_bytes"]
    assert 0 < row["of_eager"] < row["of_dense"]
    assert row["of_authors"] is None, "their code was not given"
    result = CliRunner().invoke(small_models.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "no finished" in result.stderr


class Page(HTMLParser):
    """What a page refers to, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tables = self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.tables += tag == "table"
        self.images += tag == "img"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_parses_and_asks_for_no_other_file(done: tuple[Path, Result]) -> None:
    text = (done[0] / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.tables >= 6
    assert page.images >= 3
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import|<script", text)


def test_the_markdown_refers_to_pictures_that_are_there(done: tuple[Path, Result]) -> None:
    text = (done[0] / "report.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) >= 3
    assert all((done[0] / picture).is_file() for picture in pictures)


def test_the_same_command_does_nothing_twice(
    done: tuple[Path, Result], recipe: Path, places: Places
) -> None:
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in (out / "steps").rglob("*")}
    result = invoke("run", recipe, "--out", out, *options(places))
    assert result.exit_code == 0, result.output
    assert "starts" not in result.stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "steps").rglob("*")} == before


def test_a_changed_recipe_redoes_only_what_depends_on_it(
    done: tuple[Path, Result], recipe: Path, places: Places
) -> None:
    out, _ = done
    result = invoke(
        "run", recipe, "--out", out, *options(places), "--set", "quantize.seed=1",
        "--set", "compare.dense_int8=false",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    kept = re.findall(r"([\w-]+): done before", result.stderr)
    made = re.findall(r"([\w-]+): done in", result.stderr)
    assert kept == ["dense", "prune", "export"]
    assert made == ["flavours", "bundle", "compare"]


def test_a_step_that_fails_keeps_what_was_done(
    done: tuple[Path, Result], recipe: Path, places: Places, tmp_path: Path
) -> None:
    out, _ = done
    report = (out / "report.html").read_bytes()
    line = only_line(
        invoke(
            "run",
            recipe,
            "--out",
            out,
            *options(places),
            "--set",
            "quantize.logit_budget=1e-9",
        )  # fmt: skip
    )
    assert "step flavours failed" in line
    assert "cannot be met" in line
    assert "kept in" in line
    assert "dense, prune, export" in line
    assert (out / "report.html").read_bytes() == report
    assert load_bundle(out / "bundle").models


def test_a_missed_budget_is_fine_tuned_for_and_kept(
    done: tuple[Path, Result], recipe: Path, places: Places
) -> None:
    result = invoke(
        "run", recipe, "--out", done[0], *options(places), "--set", "quantize.logit_budget=1e-9",
        "--set", "qat.steps=2", "--set", "qat.warmup_steps=1",
    )  # fmt: skip
    line = only_line(result)
    assert "fine-tuning under INT8's rounding" in result.stderr
    assert "step flavours failed" in line, "no tuning meets that"
    assert "dense, prune, export, qat" in line


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("prune.mcas=0.5", "unknown key 'mcas'"),
        ("prune.latency=0.5", "give one budget, got macs and latency"),
        ("prune.limits.heads=9", "more heads a block than the model has: 2"),
        ("prune.macs=0.0001", "cannot be met"),
        ("checkpoint='nowhere'", "no checkpoint"),
        ("quantize.observer='median'", "unknown observer 'median'"),
        ("compare.split='dev'", "split must be train, val or test"),
        ("calibration.manifest='none.csv'", "none.csv"),
        ("distill.recipe='x.toml'", "leave one of them out"),
        ("seed=-1", "seed must be 0 or more"),
        ("bundle.triggers_from='wake-words'", "is for models that read a stream"),
    ],
)
def test_mistakes_are_one_line(
    change: str, word: str, recipe: Path, places: Places, tmp_path: Path
) -> None:
    result = invoke("run", recipe, "--out", tmp_path / "out", *options(places), "--set", change)
    assert word in only_line(result)


def test_a_recipe_that_makes_nothing_small_is_refused(places: Places, tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text('name = "x"\ncheckpoint = "y"\n')
    assert "nothing would become smaller" in only_line(invoke("run", path, *options(places)))
    assert "no such recipe" in only_line(invoke("run", tmp_path / "no.toml", *options(places)))


def test_triggers_of_keywords_are_chosen_on_what_ships(
    tiny_keywords: tuple[Path, Places], tmp_path: Path
) -> None:
    checkpoint, places = tiny_keywords
    path = tmp_path / "keywords.toml"
    path.write_text(
        f"name = 'tones-small'\ncheckpoint = '{checkpoint}'\n[quantize]\nwindows = 12\n"
        "logit_budget = 9.0\nrounds = 4\n[compare]\nrounds = 4\ndense_int8 = false\n"
    )
    result = invoke("run", path, "--out", tmp_path / "out", *options(places), "--jobs", 1)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tmp_path / "out" / "bundle")
    assert bundle.provenance["validation"]["triggers"]["alexa"]["threshold"] == (
        bundle.triggers["alexa"].threshold
    )
    table = json.loads((tmp_path / "out" / "report.json").read_text())
    names = [target["name"] for target in table["targets"]]
    assert "points of miss rate lost at equal false accepts, clean" in names
    assert (tmp_path / "out" / "figures" / "det.png").is_file()
    calibrated = (tmp_path / "out" / "steps").glob("flavours-*/calibration.csv")
    assert ",test," not in next(calibrated).read_text()
