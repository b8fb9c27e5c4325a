"""The exported graph: what PyTorch computes, for every layout, in one file for every runtime."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import torch  # noqa: E402

from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import (  # noqa: E402
    DOMAIN,
    FUSED_PATCH_EMBED,
    build_graph,
    embedded_blocks,
    strip_functions,
)

LAYOUTS: dict[str, dict[str, Any]] = {
    "patch": {"patch_bins": 16, "patch_frames": 16, "stride_bins": 16, "stride_frames": 16},
    "overlapping": {"patch_bins": 16, "patch_frames": 16, "stride_bins": 10, "stride_frames": 10},
    "frame": {"patch_bins": 128, "patch_frames": 2, "stride_bins": 128, "stride_frames": 2},
    "overlapping frame": {
        "patch_bins": 128, "patch_frames": 8, "stride_bins": 128, "stride_frames": 4,
    },
}  # fmt: skip


def make(layout: str, *, pooling: str = "mean", prefix: int = 2) -> Classifier:
    torch.manual_seed(0)
    config = EncoderConfig(
        num_frames=98, num_mel_bins=128, dim=64, depth=2, num_heads=4,
        num_prefix_tokens=prefix, **LAYOUTS[layout],
    )  # fmt: skip
    model = Classifier(Encoder(config), 5, mean=-4.3, std=3.9, pooling=pooling)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def run(model: onnx.ModelProto, fbank: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits: np.ndarray = session.run(["logits"], {"fbank": fbank})[0]
    return logits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_logits_are_pytorchs(layout: str, pooling: str) -> None:
    model = make(layout, pooling=pooling)
    rng = np.random.default_rng(0)
    fbank = rng.normal(-4, 4, (3, 98, 128)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(fbank)).numpy()
    np.testing.assert_allclose(run(build_graph(model, batch=None), fbank), wanted, atol=1e-4)
    np.testing.assert_allclose(run(build_graph(model), fbank[:1]), wanted[:1], atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_embedding_is_the_mean_of_each_stretch_of_time(layout: str) -> None:
    model = make(layout)
    fbank = np.random.default_rng(0).normal(-4, 4, (2, 98, 128)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        build_graph(model, batch=None, segments=2).SerializeToString()
    )
    (found,) = session.run(["embedding"], {"fbank": fbank})

    taken: list[torch.Tensor] = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda *call: taken.append(call[2]))
    with torch.no_grad():
        model(torch.from_numpy(fbank))
    bins, columns = model.encoder.config.grid
    prefix = model.encoder.config.num_prefix_tokens
    both = torch.cat(taken, dim=-1)[:, prefix:]
    tokens = both.reshape(2, bins, columns, -1).mean(dim=1)  # (B, columns, 2 * D)
    ends = np.linspace(0, columns, 3)
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        share = np.clip(
            np.minimum(np.arange(columns) + 1, last) - np.maximum(np.arange(columns), first), 0, 1
        )
        wanted = (tokens * torch.from_numpy(share / share.sum())[None, :, None]).sum(dim=1)
        np.testing.assert_allclose(found[:, number], wanted, atol=1e-4)


def test_words_of_ones_own_are_told_by_an_early_block_and_a_late_one() -> None:
    assert [embedded_blocks(depth) for depth in (1, 2, 6, 12)] == [(0,), (0, 1), (1, 4), (3, 9)]


def test_a_graph_without_embedding_gives_the_same_logits() -> None:
    model = make("frame")
    fbank = np.random.default_rng(0).normal(-4, 4, (1, 98, 128)).astype(np.float32)
    bare = build_graph(model, segments=0)
    assert [port.name for port in bare.graph.output] == ["logits"]
    whole = run(build_graph(model), fbank)
    np.testing.assert_allclose(run(bare, fbank), whole, atol=1e-5)  # sums in another order


def test_the_first_node_is_ours_and_says_so() -> None:
    graph = build_graph(make("patch"))
    first = graph.graph.node[0]
    assert (first.domain, first.op_type) == (DOMAIN, FUSED_PATCH_EMBED)
    values = {a.name: onnx.helper.get_attribute_value(a) for a in first.attribute}
    assert values["plugin_version"] == b"1"
    assert values["plugin_namespace"] == DOMAIN.encode()
    assert [f.name for f in graph.functions] == [FUSED_PATCH_EMBED]
    assert not strip_functions(graph).functions
    assert graph.functions, "the graph itself is left as it was"


def test_linear_layers_are_named_after_their_modules() -> None:
    names = [n.name for n in build_graph(make("frame")).graph.node if n.op_type == "MatMul"]
    assert names[:4] == [
        "blocks.0.attn.qkv",
        "blocks.0.attn.similarity",
        "blocks.0.attn.mixed",
        "blocks.0.attn.proj",
    ]  # fmt: skip
    assert names[-1] == "head"


def test_nothing_of_the_machine_is_in_the_file(tmp_path: Path) -> None:
    onnx.save(build_graph(make("frame")), tmp_path / "model.onnx")
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "model.onnx").read_bytes()
