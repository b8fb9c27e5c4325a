"""A keyword model that reads a stream token by token: training, bundle, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ssast_edge import load_bundle
from ssast_edge.evaluation.scores import run_bundle
from ssast_edge.evaluation.track import build_track
from ssast_edge.fbank import fbank
from tests.train.conftest import ONE_CORE
from train.__main__ import main
from train.branching import join
from train.checkpoint import (
    build_model,
    load_checkpoint,
    load_classifier,
    load_spotter,
    save_checkpoint,
)
from train.config import EngineConfig
from train.export import export_bundle
from train.initial import read_any, start_head
from train.model import Classifier, TokenTagger
from train.packs import read_packs
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, clip_key
from train.recipe import (
    DataConfig,
    KeywordRecipe,
    RecipeError,
    SelectionConfig,
    StreamRecipe,
    load_recipe,
    recipe_table,
)
from train.restore import restore
from train.selection import HeardTrack
from train.sequences import SequenceConfig
from train.streaming import StreamObjective, Teacher, train_stream
from train.token_labels import IGNORED
from train.triggers import as_recording, track_clips

PACKS = ("wake_words", "speech_commands", "librispeech", "background_noise")
MEMORY = 2 * 6 * 4  # frames: blocks, tokens before it that a token sees, frames between two tokens


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> StreamRecipe:
    return StreamRecipe(
        name="stream",
        labels=tiny_recipe.labels,
        auxiliary_labels=("bed",),
        optimizer=dataclasses.replace(tiny_recipe.optimizer, steps=6, batch_size=4),
        data=DataConfig(
            packs=PACKS, synthetic=False, renderings_keyword=1, renderings_other=1,
            renderings_sound=1,
        ),
        model=dataclasses.replace(
            tiny_recipe.model, depth=2, patch_frames=8, stride_frames=4, context=6
        ),
        sequences=SequenceConfig(num_frames=160),
        window_frames=100,
        selection=SelectionConfig(false_accepts_per_hour=20.0),
        engine=EngineConfig(precision="32-true", save_every_steps=3, validate_every_steps=6),
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs that share a pool."""
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def phones(tiny_data: Path, root: Path) -> Path:
    """Every half second of a recording is another phone; of the words nothing is known."""
    labels = {
        clip_key(clip): np.repeat(np.arange(1, 8, dtype=np.uint8), 50)
        for clip in read_packs(tiny_data, PACKS)
        if clip.kind == "speech"
    }
    path = root / "phones.npz"
    PhoneLabels(PHONES, labels).save(path)
    return path


def train(recipe: StreamRecipe, data: Path, phones: Path, out: Path) -> Path:
    return train_stream(
        recipe, data=data, synthetic=(), phones=phones, out=out, machine=ONE_CORE, jobs=1
    )


@pytest.fixture(scope="module")
def trained(recipe: StreamRecipe, tiny_data: Path, phones: Path, root: Path) -> Path:
    """A run's checkpoint; not to be changed."""
    return train(recipe, tiny_data, phones, root / "whole")


@pytest.fixture(scope="module")
def told(trained: Path, root: Path) -> Path:
    """The same with weights of some size, so that its scores differ from hop to hop."""
    checkpoint = load_checkpoint(trained)
    generator = torch.Generator().manual_seed(1)
    average = {
        name: value + 0.2 * torch.randn(value.shape, generator=generator)
        if name not in ("mean", "std")
        else value
        for name, value in checkpoint.average.items()
    }
    average["head.1.bias"] = torch.zeros_like(average["head.1.bias"])
    folder = root / "told" / "last"
    save_checkpoint(folder, dataclasses.replace(checkpoint, average=average))
    return folder


@pytest.fixture(scope="module")
def bundle(told: Path, root: Path) -> Path:
    """Of the model with weights of some size."""
    export_bundle(told, root / "bundle")
    return root / "bundle"


def test_a_run_goes_on_with_the_head_of_classes_that_it_knows(
    told: Path, bundle: Path, recipe: StreamRecipe, tmp_path: Path
) -> None:
    its = load_checkpoint(told).average
    classes = ("new", "jarvis", "alexa", *PHONES)
    fresh = dataclasses.replace(recipe, labels=classes[:3], auxiliary_labels=())
    model = build_model(fresh, classes, -5.0, 4.0)
    assert isinstance(model, TokenTagger)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_head(told, model, classes) == classes[1:]
    after = model.state_dict()
    weight, bias = after["head.1.weight"], after["head.1.bias"]
    assert torch.equal(weight[0], before["head.1.weight"][0])
    assert torch.equal(weight[1:3], its["head.1.weight"][[1, 0]])
    assert torch.equal(weight[3:], its["head.1.weight"][3:])
    assert torch.equal(bias[1:3], its["head.1.bias"][[1, 0]])
    assert torch.equal(after["head.0.weight"], its["head.0.weight"])
    # A restored bundle knows its labels; an encoder has no head.
    restored = restore(load_bundle(bundle), tmp_path / "restored")
    assert start_head(restored, model, classes) == ("jarvis", "alexa")
    assert start_head(Path("encoders/edge-phones"), model, classes) == ()


def test_training_goes_on_with_the_head_of_its_start(
    trained: Path, recipe: StreamRecipe, tiny_data: Path, phones: Path, root: Path
) -> None:
    still = dataclasses.replace(
        recipe,
        optimizer=dataclasses.replace(recipe.optimizer, steps=1, learning_rate=1e-9),
        selection=SelectionConfig(),
    )
    out = train_stream(
        still, data=tiny_data, synthetic=(), phones=phones, out=root / "on", machine=ONE_CORE,
        jobs=1, init=trained,
    )  # fmt: skip
    before, after = load_checkpoint(trained), load_checkpoint(out)
    assert after.progress["start_classes"] == list(before.classes)
    for name in ("head.0.weight", "head.1.weight", "head.1.bias"):
        torch.testing.assert_close(after.average[name], before.average[name], atol=1e-5, rtol=0)


def test_what_a_start_knows_is_kept_only_where_there_is_one(
    trained: Path, recipe: StreamRecipe, tiny_data: Path, phones: Path, root: Path
) -> None:
    keeping = dataclasses.replace(recipe, start_share=1.0, selection=SelectionConfig())
    with pytest.raises(RecipeError, match="start_share is 1, but there is no --init: give the run"):
        train(keeping, tiny_data, phones, root / "kept")
    how = {
        "data": tiny_data, "synthetic": (), "phones": phones, "out": root / "kept",
        "machine": ONE_CORE, "jobs": 1, "init": trained,
    }  # fmt: skip
    known = load_checkpoint(trained)
    other = dataclasses.replace(known, classes=("x", "y", "z", *PHONES))
    save_checkpoint(root / "other", other)
    with pytest.raises(RecipeError, match="knows none of the words: give the run"):
        train_stream(keeping, **{**how, "init": root / "other"})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="start_share is 1, but .*no checkpoint.*; give the run"):
        train_stream(keeping, **{**how, "init": root / "none"})  # type: ignore[arg-type]
    finer = dataclasses.replace(keeping.model, stride_frames=2)
    dense = dataclasses.replace(keeping, model=finer, window_frames=102)
    with pytest.raises(RecipeError, match="patches of 8 frames every 4, the recipe of 8 every 2"):
        train_stream(dense, **how)  # type: ignore[arg-type]
    train_stream(keeping, **how)  # type: ignore[arg-type]
    header = (root / "kept" / "log.csv").read_text().splitlines()[0]
    assert "start" in header.split(",")
    bias = "head.1.bias"  # the same encoder, whose words score otherwise
    average = {**known.average, bias: known.average[bias] + 1}
    save_checkpoint(root / "raised", dataclasses.replace(known, average=average))
    with pytest.raises(RecipeError, match="began from another model"):
        train_stream(keeping, **{**how, "init": root / "raised"})  # type: ignore[arg-type]


def test_frozen_blocks_stay_those_of_the_start_and_can_be_shared(
    trained: Path, recipe: StreamRecipe, tiny_data: Path, phones: Path, root: Path
) -> None:
    frozen = dataclasses.replace(
        recipe, labels=("bed",), auxiliary_labels=(), frozen_blocks=1, selection=SelectionConfig(),
        log_mel_augment=dataclasses.replace(recipe.log_mel_augment, noise_chance=0.0),
    )  # fmt: skip
    with pytest.raises(RecipeError, match="frozen_blocks is 1, but there is no --init: give the"):
        train(frozen, tiny_data, phones, root / "frozen")
    other = dataclasses.replace(frozen, model=dataclasses.replace(frozen.model, context=5))
    with pytest.raises(RecipeError, match="frozen_blocks is 1, but model.context is 5 and that of"):
        train_stream(
            other, data=tiny_data, synthetic=(), phones=phones, out=root / "frozen",
            machine=ONE_CORE, jobs=1, init=trained,
        )  # fmt: skip
    start = load_checkpoint(trained)
    shifted = root / "shifted"  # its own statistics of the log-mel are those of its blocks
    save_checkpoint(shifted, dataclasses.replace(start, mean=start.mean - 1))
    out = train_stream(
        frozen, data=tiny_data, synthetic=(), phones=phones, out=root / "frozen", machine=ONE_CORE,
        jobs=1, init=shifted,
    )  # fmt: skip
    found = load_checkpoint(out)
    assert (found.mean, found.std) == (start.mean - 1, start.std)
    for weights in (found.model, found.average):
        same = {n for n, v in weights.items() if "." in n and torch.equal(v, start.average[n])}
        wanted = {n for n in weights if "patch_embed" in n or "blocks.0." in n}
        assert wanted <= same
        assert not [name for name in same if "blocks.1." in name and name.endswith("qkv.weight")]
    assert not [name for name in found.optimizer if "blocks.0." in name]
    joined = join(shifted, out, name="both")
    assert joined.classes == ("alexa", "jarvis", "bed")
    assert joined.progress["joined"]["shared_blocks"] == 1
    assert isinstance(joined.recipe, StreamRecipe)
    with_branch = dataclasses.replace(joined.recipe, optimizer=recipe.optimizer)
    with pytest.raises(RecipeError, match="joined of two that are trained"):
        train(with_branch, tiny_data, phones, root / "branched")


def test_a_run_learns_validates_and_says_what_it_is(trained: Path, recipe: StreamRecipe) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.classes == ("alexa", "jarvis", "bed", *PHONES)
    assert checkpoint.step == 6
    assert checkpoint.recipe == recipe
    assert "librispeech" in checkpoint.progress["sources"]
    header, row = (trained.parent / "validation.csv").read_text().splitlines()
    assert {"missed", "missed_clean", "missed_noisy"} <= set(header.split(","))
    assert "nan" not in row
    assert load_checkpoint(trained.parent / "best").step == 6
    log = (trained.parent / "log.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "words", "phones"} <= set(log)
    moved = [name for name in checkpoint.model if name.endswith("attn.back")]
    assert len(moved) == 2
    assert all(checkpoint.model[name].any() for name in moved)


def test_a_resumed_run_equals_an_uninterrupted_one(
    trained: Path,
    recipe: StreamRecipe,
    tiny_data: Path,
    phones: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class KilledError(Exception):
        """Stands for kill -9."""

    def save_then_die(*arguments: object) -> None:
        save_checkpoint(*arguments)  # type: ignore[arg-type]
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("train.engine.save_checkpoint", save_then_die)
        with pytest.raises(KilledError):
            train(recipe, tiny_data, phones, root / "parts")
    assert load_checkpoint(root / "parts" / "last").step == 3
    parts = load_checkpoint(train(recipe, tiny_data, phones, root / "parts"))
    whole = load_checkpoint(trained)
    assert parts.step == whole.step == 6
    for name in ("model", "average", "optimizer"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_bundle_tells_what_the_last_token_of_its_window_tells(told: Path, bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.labels == ("alexa", "jarvis"), "neither auxiliary words nor phones"
    assert (loaded.hop_ms, loaded.window_frames, loaded.activation) == (80, 100, "sigmoid")
    assert loaded.embedding_shape == (12, 64), "a stretch a hop"
    model, _ = load_spotter(told)
    assert isinstance(model, TokenTagger)
    with torch.no_grad():
        wanted = model(torch.from_numpy(loaded.golden.fbank)[None])[0, -1, :2].numpy()
    np.testing.assert_allclose(loaded.golden.logits, wanted, atol=1e-4)


def test_a_bundle_becomes_a_checkpoint_again(bundle: Path, told: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle)
    folder = restore(loaded, tmp_path / "last")
    window = torch.randn(2, 100, 128, generator=torch.Generator().manual_seed(0)) * 4 - 8
    with torch.no_grad():
        wanted = load_classifier(told)[0](window)[:, :2]
        assert (load_classifier(folder)[0](window) - wanted).abs().max() < 1e-4
        model, recipe = load_spotter(folder)
        assert (model(window)[:, -1] - wanted).abs().max() < 1e-4
    assert isinstance(recipe, StreamRecipe)
    assert recipe.auxiliary_labels == ()
    export_bundle(folder, tmp_path / "bundle", triggers=loaded.triggers)
    again = load_bundle(tmp_path / "bundle")
    assert (again.labels, again.data, again.licence) == (loaded.labels, loaded.data, loaded.licence)
    assert again.embedding_shape == loaded.embedding_shape
    graphs = [(one.path / "model.onnx").read_bytes() for one in (again, loaded)]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("condition", ["whole tokens", "a rest"])
def test_scores_of_a_track_are_those_of_the_runtime(
    told: Path, bundle: Path, tiny_data: Path, recipe: StreamRecipe, condition: str
) -> None:
    clips = track_clips(tiny_data, "val", recipe.labels)
    track = build_track([as_recording(c, recipe.labels) for c in clips[:4]], seed=0)
    samples = track.samples[: 16000 * 9 + (0 if condition == "whole tokens" else 1111)]
    # Not in half precision: nothing is rounded here.
    heard = HeardTrack(track, fbank(samples))  # type: ignore[arg-type]
    model, _ = load_spotter(told)
    with torch.no_grad():
        ours = heard.scores(model, recipe, torch.device("cpu"))
    theirs = run_bundle(load_bundle(bundle), samples)
    assert ours.labels == theirs.labels
    np.testing.assert_allclose(ours.times_s, theirs.times_s)
    late = MEMORY // 8 + 1  # the device heard zeros before the stream, the track nothing at all
    assert theirs.scores[late:].std(axis=0).min() > 0.02, "or equal scores would tell nothing"
    assert np.abs(ours.scores - theirs.scores)[late:].max() < 1e-3


def test_a_track_of_many_stretches_is_one(
    told: Path, tiny_data: Path, recipe: StreamRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = track_clips(tiny_data, "val", recipe.labels)
    track = build_track([as_recording(c, recipe.labels) for c in clips[:2]], seed=0)
    heard = HeardTrack(track, fbank(track.samples[: 16000 * 6]).astype(np.float16))
    model, _ = load_spotter(told)
    with torch.no_grad():
        whole = heard.scores(model, recipe, torch.device("cpu"))
        monkeypatch.setattr("train.selection._TOKENS", 37)
        parts = heard.scores(model, recipe, torch.device("cpu"))
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_the_command_exports_it_with_triggers_of_its_own(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = ["export", trained, "--bundle", tmp_path / "b", "--data", tiny_data]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    made = load_bundle(tmp_path / "b")
    assert set(made.provenance["validation"]["triggers"]) == set(made.triggers) == {
        "alexa", "jarvis",
    }  # fmt: skip


def test_its_encoder_starts_another_and_its_head_none(trained: Path) -> None:
    found = read_any(trained)
    assert found.config.context == 6
    assert found.head is None
    assert found.labels == ()


def objective(recipe: StreamRecipe) -> StreamObjective:
    torch.manual_seed(0)
    model = build_model(recipe, ("alexa", "jarvis", "bed", *PHONES), -8.0, 4.0)
    assert isinstance(model, TokenTagger)
    return StreamObjective(model.eval(), 3, 0.0, 0.5)


def test_tokens_that_may_do_either_cost_nothing(recipe: StreamRecipe) -> None:
    loss = objective(recipe)
    sequences = torch.randn(2, 160, 128, generator=torch.Generator().manual_seed(0)) * 4 - 8
    told = torch.zeros(2, 39, 4, dtype=torch.uint8)
    told[0, 5:9, 1] = 1
    told[..., 3] = 7
    with torch.no_grad():
        logits = loss.model(sequences)
        before = loss(sequences, told)
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[..., :3], told[..., :3].float(), reduction="none"
        )
        assert before["words"] == pytest.approx(float(wanted.mean() * 3), rel=1e-5)
        phones = logits[..., 3:].log_softmax(-1)[..., 7]
        assert before["phones"] == pytest.approx(float(-phones.mean()), rel=1e-5)
        assert before["loss"] == pytest.approx(
            float(before["words"] + 0.5 * before["phones"]), rel=1e-5
        )
        told[1, :, :3] = IGNORED
        told[1, :, 3] = UNKNOWN
        after = loss(sequences, told)
        assert after["words"] == pytest.approx(float(wanted[0].mean() * 3), rel=1e-5)
        assert after["phones"] == pytest.approx(float(-phones[0].mean()), rel=1e-5)
        told[0, :, :3] = IGNORED
        assert loss(sequences, told)["words"] == 0


def test_what_the_start_says_of_its_words_is_learned_too(recipe: StreamRecipe) -> None:
    loss = objective(recipe)
    torch.manual_seed(1)
    start = build_model(recipe, ("jarvis", "alexa"), -7.0, 3.0)
    assert isinstance(start, TokenTagger)
    loss.teacher, loss.start_share = Teacher(start, columns=[0, 1], its=[1, 0]), 2.0
    sequences = torch.randn(2, 160, 128, generator=torch.Generator().manual_seed(0)) * 4 - 8
    told = torch.full((2, 39, 4), IGNORED, dtype=torch.uint8)  # it counts where no label does
    told[..., 3] = UNKNOWN
    loss.train()
    assert not start.training
    loss.model.eval()
    found = loss(sequences, told)
    with torch.no_grad():
        wanted = start(sequences)[..., [1, 0]].sigmoid()
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            loss.model(sequences)[..., :2], wanted, reduction="none"
        )
    assert found["start"].item() == pytest.approx(float(each.mean() * 2), rel=1e-5)
    assert found["loss"].item() == pytest.approx(2 * found["start"].item(), rel=1e-5)
    found["loss"].backward()
    assert all(weight.grad is None for weight in start.parameters())
    assert loss.model.head[1].weight.grad is not None


MINIMAL = """
task = "stream"
name = "x"
labels = ["alexa"]
[data]
packs = ["wake_words"]
[optimizer]
steps = 10
[model]
patch_frames = 8
stride_frames = 4
context = 4
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.context=0", "task stream wants model.context above 0"),
        ("model.context=-3", "a context of -3"),
        ("model.patch_bins=64", "patches of all 128 mel bins, got"),
        ("hop_ms=100", r"whole patch strides \(4 frames\).*got 100 and 156"),
        ("hop_ms=85", "hop_ms must be a multiple of 10 ms, got 85"),
        ("hop_ms=1600", "hop_ms must be at most 1560, the window, got 1600"),
        ("window_frames=152", "window_frames 4 more than whole hops, got 80 and 152"),
        ("model.patch_frames=2", "patch_frames of at least model.stride_frames, got 2 and 4"),
        ("window_frames=4", "hop_ms must be at most 40, the window"),
        ("phone_share=-0.1", "phone_share must be 0 or more, got -0.1"),
        ("phone_share=nan", "phone_share must be 0 or more, got nan"),
        ("frozen_blocks=6", "frozen_blocks must be 0 or more and below model.depth, got 6 of 6"),
        ("model.branch_depth=2", "branch_labels must be the last labels, and none without"),
        ("start_share=inf", "start_share must be 0 or more, got inf"),
        ("label_smoothing=0.5", "label_smoothing must be in"),
        ("sequences.num_frames=50", "num_frames must be at least 100, got 50"),
        ("sequences.warp=[1.1,0.9]", r"warp must be a range within \[0.5, 2\], got \[1.1, 0.9\]"),
        ("sequences.latest=1", "wanted 0 <= earliest < latest"),
        ("windows.num_frames=98", "unknown key 'windows'"),
        ('auxiliary_labels=["alexa"]', "label 'alexa' is given twice"),
        ("labels=[]", "labels must not be empty"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_line(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL)
    assert recipe_table(load_recipe(path))["task"] == "stream"
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path, (change,))
    assert "\n" not in str(caught.value)


def test_a_word_without_recordings_is_one_line(
    recipe: StreamRecipe, tiny_data: Path, phones: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(recipe, labels=("alexa", "computer"))
    with pytest.raises(RecipeError, match="no recording of computer"):
        train(other, tiny_data, phones, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_for_windows_alone_is_refused_in_one_line(trained: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["mine", str(trained), "--out", str(tmp_path / "mined.npz")])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "task is 'stream', wanted 'keywords'" in result.stderr
    result = CliRunner().invoke(main, ["evaluate", str(trained)])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    recipe = tmp_path / "x.toml"
    recipe.write_text(MINIMAL)
    result = CliRunner().invoke(main, ["pretrain", str(recipe)])
    assert result.exit_code == 1
    assert "task is 'stream', wanted 'pretrain'" in result.stderr


def test_a_checkpoint_is_opened_as_it_was_trained(tiny_checkpoint: Path, trained: Path) -> None:
    windows, stream = load_spotter(tiny_checkpoint), load_spotter(trained)
    assert [type(model) for model, _ in (windows, stream)] == [Classifier, TokenTagger]
    assert [type(recipe) for _, recipe in (windows, stream)] == [KeywordRecipe, StreamRecipe]
    assert not stream[0].training
