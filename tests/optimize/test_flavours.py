"""Every flavour of a bundle, and fine-tuning under INT8's rounding, on tones."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

for _module in ("torch", "onnx", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

import onnx  # noqa: E402
import torch  # noqa: E402

from optimize.bundling.flavours import FlavoursResult, write_flavours  # noqa: E402
from optimize.comparison.latency import Latency  # noqa: E402
from optimize.quantization.calibration import CalibrationError  # noqa: E402
from optimize.quantization.cpu_choice import FormResult, choose_cpu_form  # noqa: E402
from optimize.quantization.cpu_graph import PATCH_EMBED  # noqa: E402
from optimize.quantization.exported import NotOurGraph  # noqa: E402
from optimize.quantization.fake_quant import fake_quantise, quantisable  # noqa: E402
from optimize.quantization.judge import Difference  # noqa: E402
from optimize.quantization.qat import QatConfig, quantization_aware, quantize_within_budget  # noqa: E402
from optimize.quantization.quantize import BudgetError, QuantizeConfig, quantize_bundle  # noqa: E402
from ssast_edge.backends import open_backend  # noqa: E402
from ssast_edge.bundle import Bundle, load_bundle  # noqa: E402
from tests.optimize.conftest import ONE_CORE  # noqa: E402
from tests.optimize.test_cpu_graph import SHAPES, WINDOWS, classifier  # noqa: E402
from train.checkpoint import load_checkpoint, load_classifier  # noqa: E402
from train.encoder import Block  # noqa: E402
from train.export import export_bundle  # noqa: E402
from train.task import Places  # noqa: E402

CONFIG = QuantizeConfig(
    windows=16, logit_budget=0.5, labelled_clips=12, rounds=4, forms=("static-attention", "dynamic")
)


@pytest.fixture(scope="module")
def bundle(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tones") / "bundle"
    export_bundle(dense, folder, model_card="# Tones\n")
    return load_bundle(folder)


@pytest.fixture(scope="module")
def flavours(
    bundle: Bundle, places: Places, tmp_path_factory: pytest.TempPathFactory
) -> FlavoursResult:
    root = tmp_path_factory.mktemp("flavours")
    return write_flavours(
        bundle, places.manifests / "tones.csv", root / "bundle", work=root / "work", config=CONFIG
    )


def test_a_bundle_with_every_flavour_runs(flavours: FlavoursResult, bundle: Bundle) -> None:
    made = load_bundle(flavours.bundle.path)
    held = {(model.backend, model.precision): model for model in made.models}
    assert set(held) == {("onnx", "fp32"), ("onnx", "int8"), ("tensorrt", "fp16"),
                         ("tensorrt", "int8")}  # fmt: skip
    assert made.models[0].file == flavours.arbitration.winner
    assert (made.licence, made.data, made.labels) == (bundle.licence, bundle.data, bundle.labels)
    assert (made.path / made.model_card).read_text() == "# Tones\n"
    assert made.provenance["recipe"] == bundle.provenance["recipe"]
    for precision in ("fp32", "int8"):
        backend = open_backend(made, kind="onnx", precision=precision)
        found = backend.infer(made.golden.fbank)
        apart = np.abs(found - made.golden.logits).max()
        allowed = held["onnx", precision].tolerance or made.golden.tolerance
        assert apart <= allowed < 1
        backend.close()


def test_the_arbitration_says_what_each_flavour_costs(flavours: FlavoursResult) -> None:
    table = json.loads(json.dumps(flavours.bundle.provenance["arbitration"]))
    assert [(row["backend"], row["precision"]) for row in table["rows"]] == [
        ("onnx", "fp32"), ("onnx", "int8"), ("tensorrt", "fp16"), ("tensorrt", "int8"),
    ]  # fmt: skip
    for row in table["rows"]:
        judgement = row["judgement"]
        assert judgement["metric"] == "accuracy"
        score = judgement["score"]
        assert score["interval"]["low"] <= score["value"] <= score["interval"]["high"]
        assert row["size_bytes"] > 0
    exact, int8, half, _ = (row["judgement"]["difference"]["mean"] for row in table["rows"])
    assert exact < 1e-6 < half < int8
    assert "of the CPU time of fp32" in table["reason"]


def test_a_graph_of_another_kind_is_one_line(
    bundle: Bundle, places: Places, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for path in bundle.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node[0].name = "another"
    onnx.save(graph, folder / "model.onnx")
    other = copy.copy(bundle)
    object.__setattr__(other, "path", folder)
    target = tmp_path / "target"
    with pytest.raises(NotOurGraph, match="not a float graph of `train export`"):
        write_flavours(other, places.manifests / "tones.csv", target, work=tmp_path / "w",
                       config=CONFIG)  # fmt: skip
    assert not target.exists()


def test_points_need_labels_and_a_split_that_is_there(
    bundle: Bundle, places: Places, tmp_path: Path
) -> None:
    manifest = tmp_path / "unlabelled.csv"
    lines = (places.manifests / "tones.csv").read_text().splitlines()
    rows = [f"{places.manifests}/{line.split(',')[0]},,val" for line in lines[1:]]
    manifest.write_text("\n".join(["path,labels,split", *rows]))
    points = QuantizeConfig(windows=8, points_budget=1.0, rounds=4)
    with pytest.raises(CalibrationError, match="points of accuracy cannot be measured"):
        quantize_bundle(bundle, manifest, tmp_path / "out", points)
    with pytest.raises(CalibrationError, match="recordings can be read"):
        quantize_bundle(bundle, manifest, tmp_path / "out", QuantizeConfig(split="test"))
    assert not (tmp_path / "out" / "model.int8.onnx").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("forms", ("fast",)), ("observer", "best"), ("windows", 2), ("weight_bits", 4),
     ("logit_budget", 0.0), ("points_budget", -1.0), ("tensorrt_rest", "bf16")],
)  # fmt: skip
def test_a_wrong_setting_is_named(field: str, value: object) -> None:
    with pytest.raises(CalibrationError, match=r"forms|observer|windows|weight|budget|rest"):
        QuantizeConfig(**{field: value})  # type: ignore[arg-type]


def test_the_fastest_form_within_the_budget_is_chosen() -> None:
    def form(name: str, ratio: float, mean: float) -> FormResult:
        latency = Latency(1.0, 1.0, 1.0, ratio, ratio, ratio)
        return FormResult(name, Difference(mean, mean, 1.0, 1.0), latency, 10, 1000)

    forms = [form("rough", 0.3, 0.5), form("fast", 0.40, 0.02), form("near", 0.41, 0.01),
             form("slow", 2.5, 0.001)]  # fmt: skip
    assert choose_cpu_form(forms, 0.1)[0] == "near"
    assert choose_cpu_form(forms, None)[0] == "rough"
    name, reason = choose_cpu_form(forms[:2], 0.001)
    assert name == "rough"
    assert "no form keeps the budget" in reason


def test_training_under_rounding_mends_a_layer_that_rounds_badly() -> None:
    model = classifier(**SHAPES["columns apart"])
    with torch.no_grad():  # one channel so large that the others share a few levels
        block = model.encoder.blocks[1]
        assert isinstance(block, Block)
        assert block.norm2 is not None
        assert block.mlp is not None
        block.norm2.weight[3] *= 300
        block.norm2.bias[3] *= 300
        block.mlp.fc1.weight[:, 3] /= 300
    generator = torch.Generator().manual_seed(1)
    windows = 4 * torch.randn((192, *WINDOWS.shape[1:]), generator=generator) - 7
    ranges = {PATCH_EMBED: (float(windows.min()), float(windows.max()))}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, x, name=name: ranges.update({name: (float(x[0].min()), float(x[0].max()))})
        )
        for name, module in quantisable(model)
        if name != PATCH_EMBED
    ]
    with torch.no_grad():
        wanted = model(windows)
    for hook in hooks:
        hook.remove()
    fake_quantise(model, ranges, weight_bits=7)

    def apart() -> float:
        with torch.no_grad():
            return float((model(windows) - wanted)[128:].abs().mean())

    before = apart()
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    for _ in range(60):
        optimizer.zero_grad()
        (model(windows[:128]) - wanted[:128]).square().mean().backward()
        optimizer.step()
    assert apart() < 0.7 * before


def test_a_checkpoint_is_tuned_on_its_own_recipe(
    dense: Path, places: Places, tmp_path: Path
) -> None:
    manifest = places.manifests / "tones.csv"
    config = QatConfig(steps=4, warmup_steps=1, average=0.5)
    quantize = QuantizeConfig(windows=12)
    run = tmp_path / "qat"
    last = quantization_aware(
        dense, manifest, run, places=places, machine=ONE_CORE, config=config, quantize=quantize
    )
    model, state = load_classifier(last)
    before, _ = load_classifier(dense)
    assert list(model.state_dict()) == list(before.state_dict()), "an ordinary checkpoint"
    assert state.step == 4
    assert state.classes == load_checkpoint(dense).classes
    name = "head.1.weight"
    moved = (state.average[name] - load_checkpoint(dense).average[name]).abs().max()
    assert 0 < moved < 0.1
    export_bundle(last, tmp_path / "bundle")
    with pytest.raises(ValueError, match="weight_bits"):
        QatConfig(weight_bits=4)


def test_tuning_starts_only_where_the_budget_cannot_be_met(
    dense: Path, places: Places, tmp_path: Path
) -> None:
    manifest = places.manifests / "tones.csv"
    config = QatConfig(steps=2, warmup_steps=1, average=0.5)
    found = quantize_within_budget(
        dense, manifest, tmp_path / "easy", places=places, machine=ONE_CORE, config=config,
        quantize=CONFIG,
    )  # fmt: skip
    assert (found.is_tuned, found.checkpoint) == (False, dense)
    assert not (tmp_path / "easy" / "qat").exists()
    impossible = dataclasses.replace(CONFIG, logit_budget=1e-7)
    with pytest.raises(BudgetError, match="cannot be met"):
        quantize_within_budget(
            dense, manifest, tmp_path / "hard", places=places, machine=ONE_CORE, config=config,
            quantize=impossible,
        )  # fmt: skip
    assert (tmp_path / "hard" / "qat" / "last").is_dir(), "it was tried"
    tuned = load_bundle(tmp_path / "hard" / "tuned")
    whole = quantize_bundle(
        tuned, manifest, tmp_path / "again", CONFIG, reference=load_bundle(tmp_path / "hard/float")
    )
    assert whole.report.judgement.difference.mean <= 0.5
