"""The graph of one hop: what the window's graph computes, but each token once; and its flavours."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

for _module in ("torch", "onnx", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import nn  # noqa: E402

from optimize.__main__ import main  # noqa: E402
from optimize.bundling.assemble import Flavour, assemble  # noqa: E402
from optimize.bundling.flavours import FlavoursResult, write_flavours  # noqa: E402
from optimize.pruning.macs import model_cost  # noqa: E402
from optimize.quantization.calibration import calibrate, open_session, run_graph  # noqa: E402
from optimize.quantization.cpu_graph import FORMS, layer_names  # noqa: E402
from optimize.quantization.exported import read_ast  # noqa: E402
from optimize.quantization.judge import run_windows  # noqa: E402
from optimize.quantization.precision import half_graph, tensorrt_int8  # noqa: E402
from optimize.quantization.quantize import CalibrationError, QuantizeConfig, quantize_bundle  # noqa: E402
from optimize.quantization.stream_graph import stream_graph  # noqa: E402
from ssast_edge.backends import open_backend  # noqa: E402
from ssast_edge.backends.hops import HopByHop, is_streaming  # noqa: E402
from ssast_edge.bundle import Bundle, load_bundle  # noqa: E402
from ssast_edge.evaluation.scores import run_bundle  # noqa: E402
from ssast_edge.evaluation.track import Track  # noqa: E402
from ssast_edge.fbank import fbank  # noqa: E402
from tests.optimize.test_cpu_graph import ranges_of  # noqa: E402
from tests.optimize.test_precision import built_layers  # noqa: E402
from tests.optimize.test_run import only_line, options  # noqa: E402
from train.checkpoint import (  # noqa: E402
    Checkpoint,
    build_model,
    load_checkpoint,
    load_spotter,
    save_checkpoint,
)
from train.config import ModelConfig, OptimizerConfig  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.export import export_bundle  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import build_graph  # noqa: E402
from train.phone_alignment import PHONES  # noqa: E402
from train.recipe import DataConfig, StreamRecipe  # noqa: E402
from train.selection import HeardTrack  # noqa: E402
from train.task import Places  # noqa: E402

Floats = NDArray[np.float32]
BINS = 32


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a model and its hop."""

    patch_frames: int
    stride_frames: int
    hop_frames: int
    hops: int  # of a window
    context: int
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def window(self) -> int:
        """Frames."""
        return self.patch_frames - self.stride_frames + self.hops * self.hop_frames


SHAPES = {
    "patches that overlap": Shape(8, 4, 8, 6, context=5),
    "patches apart": Shape(4, 4, 12, 4, context=6),
    "a token a hop": Shape(10, 5, 5, 9, context=4),
    "more tokens than context": Shape(4, 2, 8, 5, context=3),
    "as many tokens as context": Shape(4, 4, 12, 4, context=3),
    "a window of one hop": Shape(8, 4, 8, 1, context=5),
    "pruned": Shape(8, 4, 8, 6, context=5, sizes={
        "head_dim": 8, "block_heads": (1, 0, 3), "block_hidden": (0, 20, 24),
    }),
    "a pruned branch": Shape(8, 4, 8, 6, context=5, sizes={
        "head_dim": 8, "block_heads": (1, 0, 3, 0, 2), "block_hidden": (0, 20, 24, 12, 0),
        "branch_depth": 2,
    }),
    "a branch": Shape(8, 4, 8, 6, context=5, sizes={"branch_depth": 2, "branch_from": 1}),
    "a branch from the end": Shape(4, 4, 12, 4, context=6, sizes={
        "branch_depth": 1, "branch_from": 3,
    }),
}  # fmt: skip


def classifier(shape: Shape, window: int = 0) -> Classifier:
    torch.manual_seed(0)
    config = EncoderConfig(
        num_frames=window or shape.window, num_mel_bins=BINS, patch_bins=BINS, stride_bins=BINS,
        patch_frames=shape.patch_frames, stride_frames=shape.stride_frames, dim=16, depth=3,
        num_heads=2, mlp_ratio=2.0, num_prefix_tokens=0, context=shape.context, **shape.sizes,
    )  # fmt: skip
    branch = 2 if config.branch_depth else 0
    model = Classifier(Encoder(config), 3, mean=-7.0, std=4.0, pooling="last", branch_labels=branch)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def window_graph(shape: Shape, window: int = 0) -> onnx.ModelProto:
    frames = window or shape.window
    hops = shape.hops + (frames - shape.window) // shape.hop_frames
    return build_graph(classifier(shape, frames), segments=hops, hop_frames=shape.hop_frames)


def heard(shape: Shape, windows: int = 4, frames: int = 0) -> Floats:
    rng = np.random.default_rng(0)
    return rng.normal(-7, 4, (windows, frames or shape.window, BINS)).astype(np.float32)


def hop_by_hop(graph: onnx.ModelProto, shape: Shape) -> HopByHop:
    onnx.checker.check_model(graph)
    session = open_session(graph)
    assert is_streaming(session)
    return HopByHop(session, shape.window)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_window_replayed_hop_by_hop_gives_what_its_graph_gives(shape: Shape) -> None:
    graph = window_graph(shape)
    ast = read_ast(graph)
    assert (ast.hop_frames, ast.context) == (shape.hop_frames, shape.context)
    made = stream_graph(ast, FORMS["float"])
    hops = hop_by_hop(made, shape)
    assert hops.hop_frames == shape.hop_frames
    for window in heard(shape):
        (wanted, embedding), *_ = run_graph(graph, window[None], ["logits", "embedding"])
        logits = hops.infer(window, new_frames=None, embeds=True)
        stretches = hops.embedding
        assert np.abs(logits - wanted[0]).max() < 1e-4, "sums in another order"
        assert stretches.shape == embedding[0].shape == hops.embedding_shape
        assert np.abs(stretches - embedding[0]).max() < 1e-4
    assert made.ir_version <= 9, "ONNX Runtime 1.17 reads no later"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_stream_goes_on_as_if_it_were_one_long_window(shape: Shape) -> None:
    hops = hop_by_hop(stream_graph(read_ast(window_graph(shape)), FORMS["float"]), shape)
    more = 11
    (frames,) = heard(shape, 1, shape.window + more * shape.hop_frames)
    for number in range(more + 1):
        stop = shape.window + number * shape.hop_frames
        logits = hops.infer(
            frames[stop - shape.window : stop], embeds=True,
            new_frames=shape.hop_frames if number else None,
        )  # fmt: skip
        if number in (0, 1, more):
            long = window_graph(shape, stop)
            (wanted, stretches), *_ = run_graph(long, frames[None, :stop], ["logits", "embedding"])
            assert np.abs(logits - wanted[0]).max() < 1e-4
            assert np.abs(hops.embedding - stretches[0, -shape.hops :]).max() < 1e-4


@pytest.mark.parametrize("form", ["static", "dynamic"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_hop_in_int8_comes_near(shape: Shape, form: str) -> None:
    graph, windows = window_graph(shape), heard(shape, 6)
    ast = read_ast(graph)
    ranges = ranges_of(graph, ast, windows)
    wanted = run_windows(graph, windows)
    spread = float(wanted.std(axis=0).mean())
    made = stream_graph(ast, FORMS[form], ranges, weight_bits=7)
    assert 0 < np.abs(run_windows(made, windows) - wanted).mean() < 0.25 * spread
    assert made.ByteSize() < stream_graph(ast, FORMS["float"]).ByteSize()
    kept = stream_graph(ast, FORMS[form], ranges, excluded=layer_names(ast))
    assert np.abs(run_windows(kept, windows) - wanted).max() < 1e-4


def test_a_hop_without_embedding_gives_none() -> None:
    shape = SHAPES["patches apart"]
    graph = build_graph(classifier(shape), segments=0, hop_frames=shape.hop_frames)
    made = stream_graph(read_ast(graph), FORMS["float"])
    assert [port.name for port in made.graph.output] == ["logits", "present"]
    hops = hop_by_hop(made, shape)
    assert hops.embedding_shape is None
    assert hops.infer(heard(shape)[0], new_frames=None).shape == (3,)


@pytest.mark.parametrize("name", ["patches that overlap", "a branch", "a branch from the end"])
def test_a_window_in_half_precision_comes_near(name: str) -> None:
    shape = SHAPES[name]
    graph, windows = window_graph(shape), heard(shape)
    apart = np.abs(run_windows(half_graph(graph), windows) - run_windows(graph, windows))
    assert 0 < apart.max() < 0.02


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_its_cost_is_that_of_its_layers_and_of_what_a_token_sees(shape: Shape) -> None:
    model = classifier(shape)
    config = model.encoder.config
    cost = model_cost(config, 3)
    assert cost.parameters == sum(weight.numel() for weight in model.parameters())
    linear = sum(m.weight.numel() for m in model.encoder.modules() if isinstance(m, nn.Linear))
    patch = model.encoder.patch_embed.proj.weight.numel()
    seen = 2 * sum(config.heads) * config.head_width * (shape.context + 1)
    assert cost.macs == config.num_patches * (linear + patch + seen) + 3 * config.dim


@pytest.mark.tensorrt
@pytest.mark.parametrize(("name", "layers"), [("patches that overlap", 12), ("a branch", 20)])
def test_a_real_tensorrt_builds_the_windows_flavours(
    name: str, layers: int, tmp_path: Path
) -> None:
    reason = "TensorRT for RTX is not installed (see docs: extra tensorrt-rtx)"
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason=reason)
    pytest.importorskip("tensorrt_rtx_bindings", reason=reason)
    shape = SHAPES[name]
    graph = window_graph(shape)
    onnx.save(graph, tmp_path / "model.onnx")
    thresholds = calibrate(tmp_path / "model.onnx", heard(shape, 6)).thresholds("min-max")
    wanted = {
        "fp16": (half_graph(graph), 0),
        "int8-fp16": (tensorrt_int8(graph, thresholds), layers),
        "int8-fp32": (tensorrt_int8(graph, thresholds, rest="fp32"), layers),
    }
    for flavour, (made, quantised) in wanted.items():
        found = built_layers(made, tmp_path / flavour)
        assert found.get("QUANTIZE", 0) == quantised


RECIPE = StreamRecipe(
    name="stream",
    labels=("alexa", "jarvis"),
    optimizer=OptimizerConfig(steps=1),
    data=DataConfig(packs=("wake_words",), synthetic=False),
    # It remembers 4 * 8 tokens, 128 frames, and starts from 68.
    model=ModelConfig(
        dim=32, depth=4, num_heads=2, mlp_ratio=2.0, patch_frames=8, stride_frames=4, context=8
    ),
    window_frames=68,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights; not to be changed."""
    torch.manual_seed(0)
    classes = (*RECIPE.labels, *PHONES)
    model = build_model(RECIPE, classes, -8.0, 4.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "head.1.bias":
                weight.add_(0.15 * torch.randn_like(weight))
    weights = model.state_dict()
    folder = tmp_path_factory.mktemp("stream") / "last"
    save_checkpoint(
        folder, Checkpoint(RECIPE, classes, -8.0, 4.0, 1, weights, weights, {}, {"sources": []})
    )
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("stream") / "bundle"
    export_bundle(checkpoint, folder)
    return load_bundle(folder)


def with_a_hop(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with a float graph of a hop for its only model."""
    folder.mkdir(exist_ok=True)
    graph = stream_graph(read_ast(onnx.load(bundle.path / "model.onnx")), FORMS["float"])
    path = folder / "hop.onnx"
    onnx.save(graph, path)
    return assemble(bundle, folder / "bundle", [Flavour("onnx", "fp32", path.name, path)])


def test_an_exported_bundle_has_a_stretch_for_each_hop(checkpoint: Path, tmp_path: Path) -> None:
    saved = load_checkpoint(checkpoint)
    short = dataclasses.replace(RECIPE, hop_ms=40)  # as much as two patches share
    folder = tmp_path / "last"
    save_checkpoint(folder, dataclasses.replace(saved, recipe=short))
    export_bundle(folder, tmp_path / "bundle")
    made = with_a_hop(load_bundle(tmp_path / "bundle"), tmp_path / "hop")
    assert made.embedding_shape == (16, 64)
    backend = open_backend(made, embeds=True)
    assert backend.hop_frames == 4
    graph = onnx.load(tmp_path / "bundle" / "model.onnx")
    (wanted,) = next(run_graph(graph, made.golden.fbank[None], ["embedding"]))
    assert np.abs(backend.infer_both(made.golden.fbank)[1] - wanted[0]).max() < 1e-4


@pytest.fixture(scope="module")
def flavours(
    bundle: Bundle, places: Places, tmp_path_factory: pytest.TempPathFactory
) -> FlavoursResult:
    root = tmp_path_factory.mktemp("flavours")
    return write_flavours(
        bundle, places.manifests / "tones.csv", root / "bundle", work=root / "work",
        config=QuantizeConfig(windows=12, logit_budget=2.0, labelled_clips=12, rounds=4),
    )  # fmt: skip


def audio(seconds: float) -> Floats:
    """Tones that come and go, in noise."""
    rng = np.random.default_rng(3)
    time = np.arange(int(16000 * seconds)) / 16000
    loudness = 0.2 * (np.sin(2 * np.pi * 0.7 * time) > 0)
    tones = loudness * np.sin(2 * np.pi * (400 + 300 * np.sin(time)) * time)
    samples: Floats = (tones + 0.003 * rng.standard_normal(len(time))).astype(np.float32)
    return samples


def test_the_cpu_gets_a_hop_and_tensorrt_a_window(flavours: FlavoursResult, bundle: Bundle) -> None:
    made = load_bundle(flavours.bundle.path)
    assert [(m.backend, m.precision) for m in made.models[2:]] == [
        ("tensorrt", "fp16"), ("tensorrt", "int8"),
    ]  # fmt: skip
    assert made.models[0].file == flavours.arbitration.winner
    assert {m.file for m in made.models[:2]} == {"model.onnx", "model.int8.onnx"}
    streaming = {m.file: is_streaming(open_session(onnx.load(made.path / m.file)))
                 for m in made.models}  # fmt: skip
    assert [name for name, hops in streaming.items() if hops] == ["model.int8.onnx"]
    assert {form.name for form in flavours.quantized.report.forms} == {"static", "dynamic"}
    assert made.triggers == bundle.triggers
    # Golden is passed by what is opened.
    first = open_backend(made, embeds=True)
    assert first.name == f"onnx ({made.models[0].precision})"
    int8, fp32 = (open_backend(made, kind="onnx", precision=name) for name in ("int8", "fp32"))
    assert (int8.hop_frames, fp32.hop_frames) == (8, 1)
    for opened in (first, int8, fp32):
        logits, embedding = opened.infer_both(made.golden.fbank)
        assert np.abs(logits - made.golden.logits).max() < 1
        assert embedding.shape == made.embedding_shape
        opened.close()


def test_a_bundle_is_quantised_to_one_form_of_a_hop(
    bundle: Bundle, places: Places, tmp_path: Path
) -> None:
    """Of the forms that are asked for those that a hop has; where it has none, one line says so."""
    config = QuantizeConfig(
        windows=8, logit_budget=2.0, rounds=4, observer="mse", weight_bits=7,
        forms=("static-attention", "static", "qdq-signed"),
    )  # fmt: skip
    manifest, without = places.manifests / "tones.csv", ("static-attention", "qdq-signed")
    with pytest.raises(CalibrationError, match="streaming model is written as static or dynamic"):
        quantize_bundle(
            bundle, manifest, tmp_path / "no", dataclasses.replace(config, forms=without)
        )
    assert not (tmp_path / "no").exists()
    found = quantize_bundle(bundle, manifest, tmp_path, config)
    assert [form.name for form in found.report.forms] == ["static"]
    assert is_streaming(open_session(onnx.load(found.cpu)))


@pytest.fixture(scope="module")
def hopping(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Remembers all that it heard, in float."""
    return with_a_hop(bundle, tmp_path_factory.mktemp("hopping"))


def test_scores_of_a_track_are_those_of_a_stream(checkpoint: Path, hopping: Bundle) -> None:
    """The device remembers more than the window that it starts from, and so does the track."""
    samples = audio(8.0)
    heard = HeardTrack(Track(samples, (), ()), fbank(samples))  # type: ignore[arg-type]  # exact
    model, recipe = load_spotter(checkpoint)
    with torch.no_grad():
        ours = heard.scores(model, recipe, torch.device("cpu"))
    theirs = run_bundle(hopping, samples)
    np.testing.assert_allclose(ours.times_s, theirs.times_s)
    late = 128 // 8 + 1
    assert theirs.scores[late:].std(axis=0).min() > 0.02, "or equal scores would tell nothing"
    assert np.abs(ours.scores - theirs.scores)[late:].max() < 1e-3


def test_int8_stays_near_over_a_whole_stream(hopping: Bundle, flavours: FlavoursResult) -> None:
    """Rounded keys and values are read again: errors must not pile up."""
    samples = audio(20.0)
    made = load_bundle(flavours.bundle.path)
    exact = run_bundle(hopping, samples).scores
    found = run_bundle(made, samples, backend=open_backend(made, kind="onnx", precision="int8"))
    apart = np.abs(found.scores - exact).mean(axis=1)
    assert apart.mean() < 0.3 * exact.std(axis=0).mean()
    assert apart[-100:].mean() < 2 * apart[25:125].mean() + 0.01


@pytest.mark.parametrize(
    ("table", "setting"),
    [("prune", "macs = 0.6"), ("distill", "recipe = 'x.toml'"), ("qat", "steps = 2")],
)
def test_the_chain_only_quantises_it(
    table: str, setting: str, checkpoint: Path, places: Places, tmp_path: Path
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        f"name = 'small'\ncheckpoint = '{checkpoint}'\n[quantize]\n[{table}]\n{setting}\n"
    )
    arguments = ["run", recipe, "--out", tmp_path / "out", *options(places)]
    line = only_line(CliRunner().invoke(main, [str(argument) for argument in arguments]))
    assert f"leave [{table}] out" in line
    assert not (tmp_path / "out" / "bundle").exists()


def test_other_commands_refuse_it_in_one_line(
    checkpoint: Path, places: Places, tmp_path: Path
) -> None:
    arguments = ["prune", checkpoint, "--out", tmp_path / "p", "--macs", 0.5, *options(places)]
    line = only_line(CliRunner().invoke(main, [str(argument) for argument in arguments]))
    assert f"{checkpoint} reads a stream token by token" in line
    assert not (tmp_path / "p").exists()


def test_the_chain_ends_in_a_bundle_of_a_hop(
    checkpoint: Path, bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    """Words of a bundle that is named keep their triggers."""
    kept = dataclasses.replace(bundle.triggers["jarvis"], threshold=0.123, min_hits=3)
    named = assemble(
        bundle, tmp_path / "named", [Flavour("onnx", "fp32", "model.onnx")],
        triggers={**bundle.triggers, "jarvis": kept},
    )  # fmt: skip
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        f"name = 'small'\ncheckpoint = '{checkpoint}'\n[quantize]\nwindows = 12\n"
        "logit_budget = 9.0\nrounds = 4\nobserver = 'mse'\n"
        f"[bundle]\ntriggers_from = '{named.path}'\n"
    )
    places = Places(data=tiny_data, synthetic=(), pool=tmp_path / "pool", jobs=1)
    arguments = ["run", recipe, "--out", tmp_path / "out", *options(places)]
    arguments += ["--jobs", 1, "--no-compare"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    made = load_bundle(tmp_path / "out" / "bundle")
    assert open_backend(made, kind="onnx", precision="int8").hop_frames == 8
    assert made.triggers == {**named.triggers}
    assert made.provenance["triggers_from"] == f"{named.name} {named.version}"
    assert made.provenance["validation"]["kept"] == ["alexa", "jarvis"]

    def refusal(other: str) -> str:
        changed = tmp_path / "changed.toml"
        changed.write_text(recipe.read_text().replace(str(named.path), other))
        arguments[1] = changed
        return only_line(CliRunner().invoke(main, [str(argument) for argument in arguments]))

    assert "bundle.triggers_from: commands has no label of" in refusal("commands")
    assert "windows of other frames" in refusal("wake-words")
    saved = load_checkpoint(checkpoint)
    moved = {**saved.average, "head.1.bias": saved.average["head.1.bias"] + 0.05}
    save_checkpoint(tmp_path / "moved", dataclasses.replace(saved, average=moved))
    export_bundle(tmp_path / "moved", tmp_path / "otherwise")
    line = refusal(str(tmp_path / "otherwise"))
    assert "score up to 0.05 apart in stream (at most 0.001): another model's" in line
