"""Checkpoints of other code bases, both ways: the logits stay what they were."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from train.checkpoint import CheckpointError  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.formats import Imported, import_checkpoint, save_encoder, write_ssast  # noqa: E402
from train.initial import read_any, start_from  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.pretext import MaskedSpectrogramPretext, PretextConfig  # noqa: E402

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no ../shared/golden beside the checkout"
)
CONFIG = EncoderConfig(
    num_frames=40, patch_bins=16, patch_frames=8, stride_bins=16, stride_frames=8,
    dim=64, depth=2, num_heads=1,
)  # fmt: skip


def make(config: EncoderConfig = CONFIG) -> Imported:
    torch.manual_seed(1)
    pretext = MaskedSpectrogramPretext(
        Encoder(replace(config, stride_bins=config.patch_bins, stride_frames=config.patch_frames)),
        PretextConfig(num_masked=3),
    )
    model = Classifier(Encoder(config), 3, mean=-6.0, std=4.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    own = {k: v for k, v in pretext.state_dict().items() if not k.startswith("encoder.")}
    return Imported(
        config=config, encoder=model.encoder.state_dict(), head=model.head.state_dict(),
        pretext=own, mean=-6.0, std=4.0, labels=("a", "b", "c"), sources=("librispeech",),
    )  # fmt: skip


def logits(imported: Imported) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = imported.build_classifier()(fbank())
    return out


def fbank() -> torch.Tensor:
    return torch.randn(2, 40, 128, generator=torch.Generator().manual_seed(2))


def test_our_own_file_brings_everything_back(tmp_path: Path) -> None:
    before = make()
    save_encoder(tmp_path / "e", before)
    after = import_checkpoint(tmp_path / "e")
    assert torch.equal(logits(before), logits(after))
    assert (after.mean, after.std, after.labels) == (-6.0, 4.0, ("a", "b", "c"))
    assert after.sources == ("librispeech",)
    assert after.pretext is not None
    assert before.pretext is not None
    assert after.pretext.keys() == before.pretext.keys()
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "encoder.json", "encoder.safetensors",
    ]  # fmt: skip


def test_half_precision_halves_the_file_and_hardly_changes_the_scores(tmp_path: Path) -> None:
    before = make()
    save_encoder(tmp_path / "whole", before)
    save_encoder(tmp_path / "half", before, half=True)
    sizes = [(tmp_path / n / "encoder.safetensors").stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    after = import_checkpoint(tmp_path / "half")
    torch.testing.assert_close(logits(before), logits(after), atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_authors_format_and_back(tmp_path: Path, prefix: bool) -> None:
    before = make()
    write_ssast(tmp_path / "x.pth", before, prefix=prefix)
    raw = torch.load(tmp_path / "x.pth", weights_only=True)
    assert all(key.startswith("module.") == prefix for key in raw)
    after = replace(import_checkpoint(tmp_path / "x.pth"), mean=-6.0, std=4.0)
    assert after.config == before.config
    assert torch.equal(logits(before), logits(after))
    assert before.pretext is not None
    assert after.pretext is not None
    assert all(torch.equal(after.pretext[key], value) for key, value in before.pretext.items())


def test_a_fine_tuned_stride_is_told_by_the_reader(tmp_path: Path) -> None:
    before = make(replace(CONFIG, stride_bins=10, stride_frames=4))
    write_ssast(tmp_path / "x.pth", before)
    after = import_checkpoint(tmp_path / "x.pth", stride=(10, 4))
    assert after.config == before.config
    with pytest.raises(CheckpointError, match=r"108 positions are no grid of 8 rows.*--stride"):
        import_checkpoint(tmp_path / "x.pth")


@needs_golden
@pytest.mark.parametrize("variant", ["patch", "frame"])
def test_the_authors_file_is_written_as_it_was_read(variant: str, tmp_path: Path) -> None:
    path = GOLDEN / f"ssast_tiny_{variant}.pth"
    write_ssast(tmp_path / "x.pth", import_checkpoint(path))
    before, after = (torch.load(p, weights_only=True) for p in (path, tmp_path / "x.pth"))
    unused = {key for key in before if key not in after}
    # What is not needed: timm's own heads, and nothing else.
    assert all(key.startswith(("module.v.head", "module.v.pre_logits")) for key in unused), unused
    assert after.keys() <= before.keys()
    for key, value in after.items():
        torch.testing.assert_close(value.float(), before[key].float().reshape(value.shape))


def huggingface_folder(folder: Path, imported: Imported) -> Path:
    """Hugging Face's names and files, written from our weights."""
    folder.mkdir()
    dim, config = imported.config.dim, imported.config
    ours = imported.encoder
    root = "audio_spectrogram_transformer."
    state = {
        f"{root}embeddings.cls_token": ours["prefix_tokens"][:, :1],
        f"{root}embeddings.distillation_token": ours["prefix_tokens"][:, 1:],
        f"{root}embeddings.position_embeddings": ours["pos_embed"],
    }
    assert imported.head is not None
    for kind in ("weight", "bias"):
        state[f"{root}embeddings.patch_embeddings.projection.{kind}"] = ours[
            f"patch_embed.proj.{kind}"
        ]
        state[f"{root}layernorm.{kind}"] = ours[f"norm.{kind}"]
        state[f"classifier.layernorm.{kind}"] = imported.head[f"0.{kind}"]
        state[f"classifier.dense.{kind}"] = imported.head[f"1.{kind}"]
        for number in range(config.depth):
            theirs, mine = f"{root}encoder.layer.{number}", f"blocks.{number}"
            qkv = ours[f"{mine}.attn.qkv.{kind}"]
            for place, name in enumerate(("query", "key", "value")):
                state[f"{theirs}.attention.attention.{name}.{kind}"] = qkv[
                    place * dim : (place + 1) * dim
                ]
            for name, our_name in (
                ("attention.output.dense", "attn.proj"), ("intermediate.dense", "mlp.fc1"),
                ("output.dense", "mlp.fc2"), ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
            ):  # fmt: skip
                state[f"{theirs}.{name}.{kind}"] = ours[f"{mine}.{our_name}.{kind}"]
    save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / "model.safetensors")
    settings = {
        "max_length": config.num_frames, "num_mel_bins": config.num_mel_bins,
        "frequency_stride": config.stride_bins, "time_stride": config.stride_frames,
        "num_hidden_layers": config.depth, "num_attention_heads": config.num_heads,
        "intermediate_size": int(dim * config.mlp_ratio),
        "id2label": {"0": "a", "1": "b", "2": "c"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps({"mean": -6.0, "std": 4.0}))
    return folder


def test_hugging_faces_layout_gives_the_same_logits(tmp_path: Path) -> None:
    before = replace(make(), pooling="cls")
    after = import_checkpoint(huggingface_folder(tmp_path / "hf", before))
    assert after.labels == ("a", "b", "c")
    assert (after.config, after.mean, after.pooling) == (before.config, -6.0, "cls")
    torch.testing.assert_close(logits(before), logits(after), atol=1e-6, rtol=0)


def test_hugging_faces_own_model_gives_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers, which this project does not need, is not installed"
    )
    torch.manual_seed(0)
    settings = transformers.ASTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
        patch_size=16, frequency_stride=10, time_stride=10, max_length=40, num_labels=3,
    )  # fmt: skip
    theirs = transformers.ASTForAudioClassification(settings).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "hf")
    ours = replace(import_checkpoint(tmp_path / "hf"), mean=0.0, std=0.5)
    with torch.no_grad():
        expected = theirs(fbank()).logits
    torch.testing.assert_close(logits(ours), expected, atol=1e-4, rtol=0)


def test_a_file_that_does_not_fit_names_keys_and_shapes(tmp_path: Path) -> None:
    write_ssast(tmp_path / "x.pth", make())
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    state["module.v.blocks.1.mlp.fc1.weight"] = torch.zeros(9, 64)
    del state["module.v.norm.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"norm\.bias missing; .*fc1\.weight is \(9, 64\), wanted \(256, 64\)"
    ):
        import_checkpoint(tmp_path / "x.pth")
    save_encoder(tmp_path / "e", make())
    with pytest.raises(CheckpointError, match=r"do not fit: .*\(64, 1, 16, 8\)"):
        start_from(tmp_path / "e", Encoder(replace(CONFIG, dim=128)))


def test_what_is_no_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("hello")
    for path, message in (
        (tmp_path / "none", "no such checkpoint"),
        (tmp_path / "empty", "neither encoder.json"),
        (tmp_path / "text.pth", "not a PyTorch state dict"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read_any(path)
        assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"module.v.pos_embed": Evil()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a PyTorch state dict"):
        import_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ["cut", "changed", "json"])
def test_a_damaged_encoder_file_is_refused(tmp_path: Path, what: str) -> None:
    save_encoder(tmp_path / "e", make())
    weights, description = tmp_path / "e/encoder.safetensors", tmp_path / "e/encoder.json"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif what == "changed":
        tensors = load_file(weights)
        save_file({k: v + 1 for k, v in tensors.items()}, weights)
    else:
        description.write_text("{}")
    with pytest.raises(CheckpointError, match=r"is not the file|encoder format None"):
        import_checkpoint(tmp_path / "e")


def test_a_save_that_fails_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(tmp_path / "e", make())

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.formats.encoder_file.save_file", full_disk)
    with pytest.raises(CheckpointError, match="not written: .*No space left"):
        save_encoder(tmp_path / "e", make())
    assert import_checkpoint(tmp_path / "e").labels == ("a", "b", "c")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_positions_follow_the_length_of_the_fine_tuning(tmp_path: Path) -> None:
    save_encoder(tmp_path / "e", make())
    encoder = Encoder(replace(CONFIG, num_frames=88, stride_frames=4))
    assert start_from(tmp_path / "e", encoder).sources == ("librispeech",)
    assert encoder.pos_embed is not None
    assert encoder.pos_embed.shape[1] == 2 + 8 * 21
