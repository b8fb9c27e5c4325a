"""The way of a clip model, by its commands: pretrain, fine-tune, evaluate, export, run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

for _module in ("torch", "lightning_fabric", "safetensors", "matplotlib", "scipy"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import soundfile  # noqa: E402
import torch  # noqa: E402

from ssast_edge import cli  # noqa: E402
from ssast_edge.audio import read_audio  # noqa: E402
from ssast_edge.fbank import fbank  # noqa: E402
from train import checkpoint  # noqa: E402
from train.__main__ import main  # noqa: E402
from train.checkpoint import load_checkpoint, load_classifier  # noqa: E402
from train.evaluate import at_length  # noqa: E402

MODEL = """
[model]
dim = 32
depth = 1
num_heads = 2
patch_bins = 32
patch_frames = 8
stride_bins = 32
stride_frames = 8
dropout = 0.0
[engine]
precision = "32-true"
save_every_steps = 5
log_every_steps = 2
"""
PRETRAIN = f"""
task = "pretrain"
name = "pre"
[data]
manifest = "tones.csv"
[clips]
num_frames = 64
[pretext]
num_masked = 12
[optimizer]
steps = 6
batch_size = 6
warmup_steps = 2
average = 0.5
{MODEL}
"""
FINETUNE = f"""
task = "finetune"
name = "tones"
[data]
manifest = "tones.csv"
[clips]
num_frames = 64
validation_windows = 2
[optimizer]
epochs = 10
batch_size = 6
learning_rate = 3e-3
warmup_steps = 2
average = 0.5
{MODEL}
"""
HERTZ = {"high": 3000, "low": 300, "middle": 1000}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def only_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    progress, _, line = result.stderr.rstrip("\n").rpartition("Error: ")
    assert "\n" not in line, result.stderr
    assert "Error" not in progress, result.stderr
    assert "Traceback" not in progress
    return str(line)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones of any length, rate and channels with a manifest, and recipes; one is no sound."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    rows = []
    for label, hertz in HERTZ.items():
        for i in range(8):
            rate = (16000, 8000, 44100)[i % 3]
            time = np.arange(int(rate * rng.uniform(0.3, 1.5))) / rate
            sound = 0.3 * np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time)
            channels = np.stack([sound] * (1 + i % 2), axis=1)
            soundfile.write(root / f"{label}{i}.wav", channels, rate)
            rows.append([f"{label}{i}.wav", label, ("train", "train", "val", "test")[i % 4]])
    (root / "broken.wav").write_bytes(b"RIFF....")
    rows.append(["broken.wav", "low", "train"])
    with (root / "tones.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels", "split"], *rows])
    (root / "pre.toml").write_text(PRETRAIN)
    (root / "tones.toml").write_text(FINETUNE)
    return root


def options(place: Path) -> list[object]:
    return [
        "--manifests", place, "--cache", place / "pcm", "--accelerator", "cpu",
        "--workers", 0, "--threads", 1,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(place: Path) -> Path:
    run("pretrain", place / "pre.toml", "--out", place / "pre", *options(place))
    return place / "pre"


@pytest.fixture(scope="module")
def finetuned(place: Path, pretrained: Path) -> Path:
    run(
        "finetune", place / "tones.toml", "--out", place / "tones",
        "--init", pretrained / "last", *options(place),
    )  # fmt: skip
    return place / "tones"


def test_pretraining_leaves_checkpoints_curves_and_pictures(pretrained: Path) -> None:
    names = {path.name for path in pretrained.iterdir()}
    assert names >= {"last", "best", "log.csv", "validation.csv", "training.png"}
    assert "reconstruction.png" in names
    assert not [name for name in names if "tmp" in name]
    state = load_checkpoint(pretrained / "last")
    assert state.step == 6
    assert state.std > 0


def test_the_same_command_again_trains_no_further(place: Path, pretrained: Path) -> None:
    before = (pretrained / "last" / "model.safetensors").stat().st_mtime_ns
    run("pretrain", place / "pre.toml", "--out", pretrained, *options(place))
    assert (pretrained / "last" / "model.safetensors").stat().st_mtime_ns == before


def test_evaluation_at_the_training_length_and_at_the_runtimes(
    place: Path, finetuned: Path
) -> None:
    text = run(
        "evaluate", finetuned / "last", "--manifests", place, "--cache", place / "pcm",
        "--window-frames", 48, "--out", place / "report",
    )  # fmt: skip
    assert "accuracy" in text
    table = json.loads((place / "report" / "evaluation.json").read_text())
    whole, windows = table["evaluations"].values()
    assert whole["clips"] == windows["clips"] == 6
    assert whole["metrics"]["accuracy"]["value"] > 0.8  # three tones
    for name in ("evaluation.html", "confusion.png", "average_precision.png"):
        assert (place / "report" / name).is_file()


def test_positions_are_cut_for_another_length(finetuned: Path) -> None:
    model, _ = load_classifier(finetuned / "last")
    assert at_length(model, 64) is model
    shorter = at_length(model, 48)
    assert shorter(torch.zeros(1, 48, 128)).shape == (1, 3)


def test_a_bundle_of_it_runs_with_the_same_logits(place: Path, finetuned: Path) -> None:
    run("export", finetuned / "last", "--bundle", place / "bundle")
    model, state = load_classifier(finetuned / "last")
    samples = read_audio(place / "high3.wav", 16000)
    features = np.zeros((1, 64, 128), np.float32)
    cut = fbank(samples)[:64]
    features[0, : len(cut)] = cut
    with torch.no_grad():
        wanted = model(torch.from_numpy(features)).numpy()
    import onnxruntime

    session = onnxruntime.InferenceSession(place / "bundle" / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: features})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    result = CliRunner().invoke(
        cli.main, ["tag", str(place / "high3.wav"), "--bundle", str(place / "bundle")]
    )
    assert result.exit_code == 0, result.output
    assert "high" in result.output
    assert state.classes == ("high", "low", "middle")


def test_a_run_keeps_what_cannot_be_read_out_and_says_so(place: Path) -> None:
    result = invoke(
        "pretrain", place / "pre.toml", "--out", place / "nocache", "--no-cache",
        *options(place), "--set", "optimizer.steps=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    listed = (place / "nocache" / "unreadable.txt").read_text().splitlines()
    assert len(listed) == 1
    assert "broken.wav" in listed[0]


def test_a_folder_of_classes_is_split_by_a_share(
    place: Path, pretrained: Path, tmp_path: Path
) -> None:
    for path in place.glob("*[0-9].wav"):
        (tmp_path / "sounds" / path.stem[:-1]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sounds" / path.stem[:-1] / path.name).symlink_to(path)
    run(
        "finetune", place / "tones.toml", "--out", tmp_path / "run", *options(place),
        "--manifests", tmp_path, "--set", "data.manifest='sounds'", "--init", pretrained / "last",
        "--set", "data.validation_share=0.3", "--set", "optimizer.epochs=1",
    )  # fmt: skip
    text = run(
        "evaluate", tmp_path / "run" / "last", "--manifests", tmp_path, "--split", "val",
        "--cache", place / "pcm",
    )  # fmt: skip
    clips = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    count = next(iter(clips["evaluations"].values()))["clips"]
    assert 2 < count < 14
    assert f"{count} clips" in text


def test_resuming_with_other_classes_or_recordings_is_refused(place: Path, tmp_path: Path) -> None:
    manifest, out = tmp_path / "m.csv", tmp_path / "run"
    rows = ["path,labels", *(f"{place}/{label}{i}.wav,{label}" for label in HERTZ for i in (0, 1))]
    manifest.write_text("\n".join(rows))
    command = [
        "finetune", place / "tones.toml", "--out", out, *options(place), "--manifests", tmp_path,
        "--set", "data.manifest='m.csv'", "--set", "optimizer.epochs=1",
    ]  # fmt: skip
    run(*command)
    (tmp_path / "m.csv.classes").write_text("low\nmiddle\nhigh\n")
    assert "and of the data now differ in their order" in only_line(invoke(*command))
    (tmp_path / "m.csv.classes").unlink()
    manifest.write_text("\n".join([*rows, f"{place}/low3.wav,low"]))
    assert "not those that" in only_line(invoke(*command))


def test_other_recordings_can_be_evaluated(place: Path, finetuned: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "elsewhere.csv"
    manifest.write_text(f"path,labels,split\n{place}/high0.wav,high,test\n")
    text = run(
        "evaluate", finetuned / "last", "--manifest", manifest, "--cache", tmp_path / "pcm",
        "--out", tmp_path / "report",
    )  # fmt: skip
    assert "1 clips" in text


def write_manifest(place: Path, name: str, *rows: str) -> str:
    (place / name).write_text("\n".join(["path,labels,split", *rows]) + "\n")
    return f"data.manifest={json.dumps(name)}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no example"),
        (["high0.wav,high,train", "none.wav,low,train"], "1 of 2 recordings are not there"),
        (["high0.wav,high,train", "low0.wav,low,val"], "class 'low' has no training clip"),
        (["high0.wav,high,train"], "at least two classes"),
        (["high0.wav,high;low,train", "low0.wav,low,train"], "has 2 labels, wanted 1"),
        (["broken.wav,high,train"], "none of 1 recordings"),
    ],
)
def test_a_manifest_that_cannot_be_trained_on(
    rows: list[str], message: str, place: Path, tmp_path: Path
) -> None:
    setting = write_manifest(place, f"bad-{abs(hash(message))}.csv", *rows)
    result = invoke(
        "finetune", place / "tones.toml", "--out", tmp_path / "run", *options(place),
        "--set", setting,
    )  # fmt: skip
    assert message in only_line(result)
    assert not (tmp_path / "run").exists()


def test_a_label_outside_the_list(place: Path, tmp_path: Path) -> None:
    setting = write_manifest(place, "outside.csv", "high0.wav,high,train", "low0.wav,loud,train")
    (place / "outside.csv.classes").write_text("high\nlow\n")
    result = invoke(
        "finetune", place / "tones.toml", "--out", tmp_path, *options(place), "--set", setting
    )
    line = only_line(result)
    assert "'loud'" in line
    assert "outside.csv" in line


def test_a_recipe_with_a_typo(place: Path, tmp_path: Path) -> None:
    result = invoke(
        "pretrain", place / "pre.toml", "--out", tmp_path / "x", *options(place),
        "--set", "optimizer.learning_rat=1",
    )  # fmt: skip
    assert "unknown key 'learning_rat', known keys: steps, epochs" in only_line(result)
    result = invoke("finetune", place / "pre.toml", "--out", tmp_path / "x", *options(place))
    assert "use `python -m train pretrain`" in only_line(result)


def test_an_encoder_of_another_shape(place: Path, pretrained: Path, tmp_path: Path) -> None:
    result = invoke(
        "finetune", place / "tones.toml", "--out", tmp_path / "x", *options(place),
        "--init", pretrained / "last", "--set", "model.dim=48",
    )  # fmt: skip
    line = only_line(result)
    assert "(32, 1, 32, 8)" in line
    assert "(48, 1, 32, 8)" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.num_heads=4", "has 2 attention heads, the recipe wants 4"),
        ("model.depth=2", "the encoder's depth is 1, the recipe wants 2"),
        ("model.num_heads=0", "num_heads must be above 0"),
        ("data.test_fold=9", "no example has fold 9"),
        ("optimizer.schedule='plateau'", "no example validates"),
        ("normalization.std=-1.0", "mean and std (above 0) together"),
        ("seed=-1", "seed must be 0 or more"),
    ],
)
def test_settings_that_would_mislead(
    setting: str, message: str, place: Path, pretrained: Path, tmp_path: Path
) -> None:
    name = write_manifest(place, "two.csv", "high0.wav,high,train", "low0.wav,low,train")
    result = invoke(
        "finetune", place / "tones.toml", "--out", tmp_path / "x", *options(place),
        "--init", pretrained / "last", "--set", name, "--set", setting,
    )  # fmt: skip
    assert message in only_line(result)


def test_a_device_that_is_not_there(place: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = invoke(
        "pretrain", place / "pre.toml", "--out", tmp_path, *options(place), "--accelerator", "cuda"
    )
    assert "--accelerator cuda" in only_line(result)


def test_a_run_is_not_its_checkpoint(place: Path, pretrained: Path) -> None:
    for command in ("evaluate", "export"):
        extra = ["--bundle", place / "none"] if command == "export" else []
        assert f"its checkpoint is {pretrained / 'last'}" in only_line(
            invoke(command, pretrained, *extra)
        )


def test_a_run_of_another_recipe_is_not_overwritten(place: Path, pretrained: Path) -> None:
    result = invoke(
        "pretrain", place / "pre.toml", "--out", pretrained, *options(place), "--set", "seed=9"
    )
    assert "trained by another recipe" in only_line(result)


def test_an_encoder_has_no_classes_to_evaluate(place: Path, pretrained: Path) -> None:
    result = invoke("evaluate", pretrained / "last", "--manifests", place)
    assert "wanted a clip classifier" in only_line(result)


def test_a_full_disk_keeps_the_last_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run("pretrain", place / "pre.toml", "--out", out, *options(place))
    shorter = (out / "last" / "checkpoint.json").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    state = load_checkpoint(out / "last")
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_checkpoint(out / "last", state)
    assert (out / "last" / "checkpoint.json").read_text() == shorter
    assert load_checkpoint(out / "last").step == 6
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []
