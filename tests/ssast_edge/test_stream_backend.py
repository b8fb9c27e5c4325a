"""A model of one hop, with what it heard kept: as if all of the stream went through it at once."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssast_edge.backends import Backend, open_backend
from ssast_edge.backends.hops import HOP_FRAMES
from ssast_edge.backends.onnx import OnnxStreamBackend, open_onnx
from ssast_edge.bundle import Bundle, load_bundle, write_bundle
from ssast_edge.errors import BundleError, SsastEdgeError
from ssast_edge.fbank import FbankConfig, fbank
from ssast_edge.spotter import Spotter
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

# Two tokens a hop, each of four frames, one every two; a token sees the five before it.
HOP, PATCH, STRIDE, CONTEXT, WIDTH, BINS = 4, 4, 2, 5, 6, 128
TOKENS, ROWS = 2, 6
HOPS = 5
WINDOW = ROWS - HOP + HOPS * HOP
LABELS = ("one", "two", "three")


def _weights() -> dict[str, FloatArray]:
    rng = np.random.default_rng(0)
    cut = np.zeros((TOKENS, ROWS))
    for token in range(TOKENS):
        cut[token, STRIDE * token : STRIDE * token + PATCH] = 1 / PATCH
    weights = {
        "cut": cut,
        "project": 0.02 * rng.standard_normal((BINS, WIDTH)),
        # A token is mixed with those before it, which were mixed with those before them.
        "mix": rng.standard_normal((TOKENS, CONTEXT)) / CONTEXT,
        "head": rng.standard_normal((WIDTH, len(LABELS))),
        "recent": np.full((1, CONTEXT + TOKENS), 1 / (CONTEXT + TOKENS)),
        "means": np.full((1, 1, TOKENS), 1 / TOKENS),
    }
    return {name: value.astype(np.float32) for name, value in weights.items()}


WEIGHTS = _weights()


def reference(frames: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Logits after all of those frames, the first of a stream, and the mean token of each hop."""
    past, stretches = np.zeros((CONTEXT, WIDTH), np.float32), []
    logits = np.zeros(len(LABELS), np.float32)
    for stop in range(ROWS, len(frames) + 1, HOP):
        tokens = WEIGHTS["cut"] @ frames[stop - ROWS : stop] @ WEIGHTS["project"]
        present = np.tanh(tokens + WEIGHTS["mix"] @ past)
        past = np.concatenate([past, present])
        logits = (WEIGHTS["recent"] @ past @ WEIGHTS["head"])[0]
        past = past[-CONTEXT:]
        stretches.append(present.mean(axis=0))
    return logits, np.array(stretches)


def hop_model() -> onnx.ModelProto:
    """The same as a graph of one hop."""

    def port(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("MatMul", ["cut", "fbank"], ["cuts"]),
        helper.make_node("MatMul", ["cuts", "project"], ["projected"]),
        helper.make_node("Squeeze", ["projected", "first"], ["tokens"]),
        helper.make_node("MatMul", ["mix", "past"], ["before"]),
        helper.make_node("Add", ["tokens", "before"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["present"]),
        helper.make_node("Concat", ["past", "present"], ["all"], axis=0),
        helper.make_node("MatMul", ["recent", "all"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
        helper.make_node("MatMul", ["means", "present"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hop",
        [port("fbank", 1, ROWS, BINS), port("past", CONTEXT, WIDTH)],
        [
            port("logits", 1, len(LABELS)),
            port("embedding", 1, 1, WIDTH),
            port("present", TOKENS, WIDTH),
        ],
        [
            *(numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()),
            numpy_helper.from_array(np.array([0]), "first"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {HOP_FRAMES: str(HOP)})
    return model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hop's graph; not to be changed."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(hop_model(), path)
    return path


def write(folder: Path, model: Path, golden: FloatArray | None = None, **changes: Any) -> Bundle:
    """A bundle of such a model."""
    if golden is None:
        rng = np.random.default_rng(1)
        golden = rng.normal(-5, 3, (WINDOW, BINS)).astype(np.float32)
    trigger = TriggerConfig(threshold=0.5, min_hits=1, smoothing_ms=40)
    manifest = {
        "name": "hops", "version": "1", "task": "keyword-spotting", "labels": list(LABELS),
        "fbank": FbankConfig(), "normalization": {"mean": 0.0, "std": 0.5}, "window_frames": WINDOW,
        "hop_ms": 10 * HOP, "activation": "sigmoid", "triggers": {"one": trigger},
        "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
        "embedding": {"segments": HOPS, "width": WIDTH}, "provenance": {}, "data": [],
        "licence": "none",
    }  # fmt: skip
    manifest = {name: value for name, value in (manifest | changes).items() if value is not None}
    return write_bundle(
        folder, manifest, {"model.onnx": model}, golden_fbank=golden,
        golden_logits=reference(golden)[0],
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Not to be changed."""
    return load_bundle(write(tmp_path_factory.mktemp("bundles") / "hops", model_path).path)


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Backend:
    """One open model for many spotters, one after the other."""
    return open_backend(bundle)


@pytest.fixture(scope="module")
def audio(tone_audio: Callable[..., FloatArray]) -> FloatArray:
    """Six seconds in which something goes on."""
    tones = ((0.02, 440.0), (0.9, 3000.0), (2.3, 440.0), (2.5, 900.0), (4.9, 2000.0))
    return tone_audio(6.0, *((start, start + 0.6, hz) for start, hz in tones))


Scores = dict[float, bytes]


def listening(bundle: Bundle, backend: Backend, **options: Any) -> tuple[Spotter, Scores]:
    """A spotter, and what it will have heard: the bits of the scores by the time of the hop."""
    scores: Scores = {}

    def keep(time_s: float, row: FloatArray) -> None:
        assert time_s not in scores
        scores[time_s] = row.tobytes()

    return Spotter(bundle, backend=backend, on_scores=keep, **options), scores


def heard(
    bundle: Bundle, backend: Backend, samples: FloatArray, sizes: Iterable[int] = ()
) -> Scores:
    """Every hop's scores, for chunks of these sizes."""
    spotter, scores = listening(bundle, backend)
    for size in sizes:
        spotter.push(samples[:size])
        samples = samples[size:]
    spotter.push(samples)
    return scores


def sigmoid(logits: FloatArray) -> FloatArray:
    """Scores of logits."""
    scores: FloatArray = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return scores


def test_the_graph_of_a_hop_is_opened_as_one(backend: Backend) -> None:
    assert isinstance(backend, OnnxStreamBackend)
    assert (backend.name, backend.hop_frames) == ("onnx (fp32)", HOP)


def test_a_stream_is_what_one_long_window_would_be(
    bundle: Bundle, backend: Backend, audio: FloatArray
) -> None:
    scores = heard(bundle, backend, audio)
    frames = fbank(audio, bundle.fbank)
    # The first hop is heard from a window on that is zeros but for its end.
    stream = np.concatenate([np.zeros((WINDOW - HOP, BINS), np.float32), frames])
    assert len(scores) == len(frames) // HOP
    rows = np.array([np.frombuffer(row, np.float32) for row in scores.values()])
    assert rows.std(axis=0).min() > 0.02, "or equal scores would tell nothing"
    for number in (0, 1, 4, 5, 6, 50, len(rows) - 1):
        wanted = sigmoid(reference(stream[: WINDOW + number * HOP])[0])
        # 1e-5: sums of float32 numbers in another order.
        np.testing.assert_allclose(rows[number], wanted, atol=1e-5)


chunks = st.lists(
    st.sampled_from([0, 1, 159, 160, 161, 399, 400, 639, 640, 641, 15_999, 16_000, 60_000])
    | st.integers(1, 4000),
    min_size=1,
    max_size=30,
)


@settings(max_examples=25)
@given(sizes=chunks)
def test_scores_do_not_depend_on_chunks(
    bundle: Bundle, backend: Backend, audio: FloatArray, sizes: list[int]
) -> None:
    assert heard(bundle, backend, audio, sizes) == heard(bundle, backend, audio)


@settings(max_examples=25)
@given(pushes=st.lists(st.tuples(st.integers(1, HOPS * HOP * 160), st.booleans()), max_size=30))
def test_after_hops_that_were_skipped_nothing_is_missed(
    bundle: Bundle, backend: Backend, audio: FloatArray, pushes: list[tuple[int, bool]]
) -> None:
    """Up to a window of them: what was skipped is then heard with the next hop."""
    whole = heard(bundle, backend, audio)
    spotter, scores = listening(bundle, backend)
    spotter.push(audio[:1000])  # the stream has begun
    rest = audio[1000:]
    for size, latest_only in pushes:
        spotter.push(rest[:size], latest_only=latest_only)
        rest = rest[size:]
    assert scores.items() <= whole.items()
    assert spotter.hops == len(scores)
    spotter.push(rest)
    assert list(scores.items())[-1] == list(whole.items())[-1]


@pytest.mark.parametrize(("frames", "goes_on"), [(HOPS * HOP, True), (HOPS * HOP + HOP, False)])
def test_after_more_than_a_window_it_begins_anew(
    bundle: Bundle, backend: Backend, audio: FloatArray, frames: int, goes_on: bool
) -> None:
    whole = heard(bundle, backend, audio)
    spotter, scores = listening(bundle, backend)
    first = 160 * 39 + 400  # 40 frames
    spotter.push(audio[:first])
    spotter.push(audio[first : first + 160 * frames], latest_only=True)
    time_s, found = list(scores.items())[-1]
    assert (found == whole[time_s]) == goes_on
    if not goes_on:
        window = fbank(audio, bundle.fbank)[: 40 + frames][-WINDOW:]
        wanted = sigmoid(reference(window)[0])
        np.testing.assert_allclose(np.frombuffer(found, np.float32), wanted, atol=1e-5)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9000)),
        st.tuples(st.just("gap"), st.integers(1, 500)),
        st.tuples(st.just("reset"), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=25)
@given(actions=actions)
def test_after_a_gap_and_a_reset_the_stream_is_a_new_one(
    bundle: Bundle, backend: Backend, audio: FloatArray, actions: list[tuple[str, int]]
) -> None:
    found: list[FloatArray] = []
    spotter = Spotter(bundle, backend=backend, on_scores=lambda _, row: found.append(row.copy()))
    segments, start = [audio[:0]], 0
    for action, number in actions:
        if action == "push":
            samples = audio[start : start + number]
            spotter.push(samples)
            segments[-1] = np.concatenate([segments[-1], samples])
            start = (start + number) % 80_000
        else:
            spotter.skip(number / 1000) if action == "gap" else spotter.reset()
            segments.append(audio[:0])
    wanted = [row for one in segments for row in heard(bundle, backend, one).values()]
    assert [row.tobytes() for row in found] == wanted


def test_a_hop_may_be_several_of_the_models_and_no_part_of_one(
    bundle: Bundle, backend: Backend, audio: FloatArray
) -> None:
    for hop_ms in (50, 60, 10):
        with pytest.raises(SsastEdgeError, match=f"a multiple of 40 .*got {hop_ms}") as caught:
            Spotter(bundle, backend=backend, hop_ms=hop_ms)
        assert "\n" not in str(caught.value)
    spotter, scores = listening(bundle, backend, hop_ms=120)
    spotter.push(audio)
    frames = fbank(audio, bundle.fbank)
    stream = np.concatenate([np.zeros((WINDOW - 12, BINS), np.float32), frames])
    rows = [np.frombuffer(row, np.float32) for row in scores.values()]
    for number in (0, 1, 7):
        wanted = sigmoid(reference(stream[: WINDOW + number * 12])[0])
        np.testing.assert_allclose(rows[number], wanted, atol=1e-5)


def test_part_of_a_hop_is_refused(backend: Backend, bundle: Bundle) -> None:
    window = bundle.golden.fbank
    first = backend.infer(window)
    for new_frames in (0, 1, HOP + 2, -HOP):
        with pytest.raises(ValueError, match=f"whole hops of 4, got {new_frames}"):
            backend.infer(window, new_frames=new_frames)
    np.testing.assert_array_equal(backend.infer(window), first)


def test_the_replay_of_the_golden_input_leaves_no_trace(
    bundle: Bundle, model_path: Path, audio: FloatArray
) -> None:
    opened = open_backend(bundle)  # it replays
    never = open_onnx(model_path, input_shape=(WINDOW, BINS), num_labels=3)
    wanted = heard(bundle, never, audio)
    assert heard(bundle, opened, audio) == wanted
    assert heard(bundle, opened, audio) == wanted, "nor does another stream"


def test_what_is_given_back_is_the_callers(bundle: Bundle) -> None:
    opened = open_backend(bundle, embeds=True)
    window = bundle.golden.fbank.copy()
    logits, embedding = opened.infer_both(window)
    kept = logits.copy(), embedding.copy()
    np.testing.assert_array_equal(window, bundle.golden.fbank)
    opened.infer_both(window[::-1].copy(), new_frames=HOP)
    np.testing.assert_array_equal(logits, kept[0])
    np.testing.assert_array_equal(embedding, kept[1])
    embedding[:] = np.nan
    assert np.isfinite(opened.infer_both(window, new_frames=HOP)[1]).all()


def test_the_embedding_has_a_stretch_for_each_hop(bundle: Bundle) -> None:
    opened = open_backend(bundle, embeds=True)
    rng = np.random.default_rng(2)
    frames = rng.normal(-5, 3, (WINDOW + 9 * HOP, BINS)).astype(np.float32)
    for number in range(10):
        stop = WINDOW + number * HOP
        logits, embedding = opened.infer_both(
            np.ascontiguousarray(frames[stop - WINDOW : stop]),
            new_frames=HOP if number else None,
        )
        wanted, stretches = reference(frames[:stop])
        assert embedding.shape == (HOPS, WIDTH)
        np.testing.assert_allclose(logits, wanted, atol=1e-5)
        np.testing.assert_allclose(embedding, stretches[-HOPS:], atol=1e-5)
    # A stream that begins has nothing of the one before.
    logits, embedding = opened.infer_both(bundle.golden.fbank)
    wanted, stretches = reference(bundle.golden.fbank)
    np.testing.assert_allclose(embedding, stretches, atol=1e-5)


def test_a_closed_backend_says_so(bundle: Bundle) -> None:
    opened = open_backend(bundle)
    opened.close()
    for infer in (opened.infer, opened.infer_both):
        with pytest.raises(ValueError, match="the backend is closed"):
            infer(bundle.golden.fbank)
    opened.close()


Change = Callable[[onnx.ModelProto], None]


def metadata(text: str) -> Change:
    """Another length of a hop."""
    return lambda model: helper.set_model_props(model, {HOP_FRAMES: text})


def shape_of(name: str, *sizes: int | str) -> Change:
    """Another shape of an input."""

    def change(model: onnx.ModelProto) -> None:
        port = next(port for port in model.graph.input if port.name == name)
        port.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes)))

    return change


def without(name: str) -> Change:
    """An output is missing."""

    def change(model: onnx.ModelProto) -> None:
        kept = [port for port in model.graph.output if port.name != name]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


def passed_on(name: str, kind: str, *more: NDArray[Any], **attributes: Any) -> Change:
    """An output goes through another node first; what is known of its shape is what that tells."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["inner" if output == name else output for output in node.output]
            node.input[:] = ["inner" if source == name else source for source in node.input]
        names = [f"more{number}" for number in range(len(more))]
        for array, one in zip(more, names, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(array, one))
        model.graph.node.append(helper.make_node(kind, ["inner", *names], [name], **attributes))
        port = next(port for port in model.graph.output if port.name == name)
        port.type.tensor_type.ClearField("shape")
        if kind == "Cast":
            port.type.tensor_type.elem_type = attributes["to"]

    return change


def unknown(name: str, axis: int, size: int) -> Change:
    """A size of an output is known once it is computed."""
    return passed_on(name, "Compress", np.ones(size, np.bool_), axis=axis)


def another_input(model: onnx.ModelProto) -> None:
    """One that nobody will feed."""
    model.graph.input.append(helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]))


def of_doubles(model: onnx.ModelProto) -> None:
    """The past in another type."""
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in model.graph.node:
        node.input[:] = ["past32" if name == "past" else name for name in node.input]
    cast = helper.make_node("Cast", ["past"], ["past32"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)


MISFITS: dict[str, tuple[Change, str]] = {
    "no metadata": (lambda model: model.ClearField("metadata_props"), "no streaming model.*''"),
    "an empty hop": (metadata(""), "no streaming model"),
    "a hop of nothing": (metadata("0"), "no streaming model.*'0'"),
    "a hop backwards": (metadata("-4"), "no streaming model.*'-4'"),
    "a hop that is no integer": (metadata("4.0"), "no streaming model.*'4.0'"),
    "a hop that is a word": (metadata("four"), "no streaming model.*'four'"),
    "a hop in another script": (metadata("\u00b2"), "no streaming model"),
    "a window of no whole hops": (metadata("3"), "hops of 3 frames.*has 22"),
    "a hop longer than what it is cut from": (metadata("8"), "hops of 8 frames, cut from 6"),
    "more stretches than the bundle has": (metadata("1"), r"embedding are .*\(17, 6\)"),
    "a past of any width": (shape_of("past", CONTEXT, "width"), "no streaming model"),
    "a past of any length": (shape_of("past", "context", WIDTH), "no streaming model"),
    "any batch": (shape_of("fbank", "batch", ROWS, BINS), "no streaming model"),
    "any number of frames": (shape_of("fbank", 1, "rows", BINS), "no streaming model"),
    "no present": (without("present"), "no streaming model"),
    "no logits": (without("logits"), "no streaming model"),
    "no embedding": (without("embedding"), "embedding are .*None"),
    "any number of labels": (unknown("logits", 1, 3), "no streaming model"),
    "any number of tokens": (unknown("present", 0, TOKENS), "no streaming model"),
    "an embedding of any width": (unknown("embedding", 2, WIDTH), "no streaming model"),
    "an embedding of two stretches": (
        passed_on("embedding", "Tile", np.array([1, 2, 1])), r"\(1, 2, 6\)",
    ),
    "an embedding without stretches": (
        passed_on("embedding", "Squeeze", np.array([1])), r"'embedding': \(1, 6\)",
    ),
    "logits without a batch": (
        passed_on("logits", "Squeeze", np.array([0])), r"'logits': \(3,\)",
    ),
    "logits of two windows": (
        passed_on("logits", "Tile", np.array([2, 1])), r"'logits': \(2, 3\)",
    ),
    "half precision": (passed_on("present", "Cast", to=TensorProto.FLOAT16), "float16"),
    "another input": (another_input, "speed"),
    "a past of doubles": (of_doubles, "double"),
    "a present narrower than the past": (
        passed_on("present", "MatMul", np.eye(WIDTH, WIDTH - 1, dtype=np.float32)),
        "past and present are 6 and 5 wide",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_a_graph_that_fits_no_stream_is_one_line(
    change: Change, message: str, tmp_path: Path
) -> None:
    model = hop_model()
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    made = write(tmp_path / "bundle", tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=message) as caught:
        open_backend(made, embeds=True)
    assert "\n" not in str(caught.value)
    assert "cannot be run" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_frames": WINDOW + 1}, "starts from 2 frames and whole hops.*has 23"),
        ({"window_frames": 2}, "whole hops, the bundle's window has 2"),
        ({"window_frames": 4}, "whole hops, the bundle's window has 4"),
        ({"labels": list(LABELS[:2])}, "window, labels and embedding are"),
        ({"embedding": {"segments": 12, "width": WIDTH}}, r"\(12, 6\)"),
        ({"embedding": {"segments": HOPS, "width": 7}}, r"\(5, 7\)"),
    ],
)
def test_a_bundle_that_its_model_does_not_fit_is_one_line(
    changes: dict[str, Any], message: str, model_path: Path
) -> None:
    wanted: dict[str, Any] = {
        "input_shape": (changes.get("window_frames", WINDOW), BINS),
        "num_labels": len(changes.get("labels", LABELS)),
        "embedding": tuple(changes.get("embedding", {"s": HOPS, "w": WIDTH}).values()),
    }
    with pytest.raises(BundleError, match=message) as caught:
        open_onnx(model_path, **wanted)
    assert "\n" not in str(caught.value)


def test_a_bundle_without_embedding_does_not_ask_for_it(model_path: Path, tmp_path: Path) -> None:
    made = write(tmp_path / "bundle", model_path, embedding=None)
    assert made.embedding is None
    opened = open_backend(made)
    np.testing.assert_allclose(opened.infer(made.golden.fbank), made.golden.logits, atol=1e-5)


def test_another_model_does_not_give_the_golden_output(bundle: Bundle) -> None:
    golden = replace(bundle.golden, logits=bundle.golden.logits + 1)
    with pytest.raises(BundleError, match="does not give its golden output"):
        open_backend(replace(bundle, golden=golden))
