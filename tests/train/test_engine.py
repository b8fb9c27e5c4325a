"""The training loop: resume after a kill, several processes, accumulation, bad losses."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

for _module in ("torch", "lightning_fabric", "safetensors"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import torch  # noqa: E402

from train.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from train.config import EngineConfig, ModelConfig, OptimizerConfig  # noqa: E402
from train.data.clips import Batch, ClipConfig  # noqa: E402
from train.engine import TrainingData, Validation, fit, resume_point  # noqa: E402
from train.machine import Machine, open_machine  # noqa: E402
from train.pretext import MaskedSpectrogramPretext, PretextConfig  # noqa: E402
from train.pretrain import PretextObjective  # noqa: E402
from train.recipe import ManifestConfig, PretrainRecipe, RecipeError  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPE = PretrainRecipe(
    name="engine",
    optimizer=OptimizerConfig(
        steps=8, batch_size=4, learning_rate=1e-3, warmup_steps=2, average=0.9
    ),
    data=ManifestConfig(manifest="none.csv"),
    pretext=PretextConfig(num_masked=4),
    model=ModelConfig(
        dim=16, depth=2, num_heads=2, patch_bins=128, patch_frames=4,
        stride_bins=128, stride_frames=4, dropout=0.1,
    ),
    clips=ClipConfig(num_frames=32),
    engine=EngineConfig(precision="32-true", save_every_steps=2, log_every_steps=1),
)  # fmt: skip


class Noise:
    """Batches of noise that depend on the step; one step can be poisoned."""

    def __init__(self, pretext: MaskedSpectrogramPretext, poisoned: int = -1) -> None:
        self.pretext, self.poisoned = pretext, poisoned

    def batch(self, step: int, part: int, parts: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        fbank = torch.randn(4, 32, 128, generator=generator)
        if step == self.poisoned:
            fbank[1] = float("nan")
        masks = self.pretext.draw_masks(4, generator)
        names = tuple(f"{step}-{row}.ogg" for row in range(4))
        return Batch(fbank[part::parts], masks[:, part::parts], names[part::parts])


def train(
    recipe: PretrainRecipe,
    out: Path,
    *,
    poisoned: int = -1,
    validation: Validation | None = None,
    workers: int = 0,
) -> Checkpoint:
    fabric = open_machine(Machine(accelerator="cpu", threads=1), recipe)
    torch.manual_seed(0)
    from train.encoder import Encoder

    model = MaskedSpectrogramPretext(Encoder(recipe.encoder_config()), recipe.pretext)
    folder = fit(
        recipe,
        PretextObjective(model, 0.0, 0.5),
        Noise(model, poisoned),
        fabric=fabric,
        out=out,
        steps_per_epoch=4.0,
        data=TrainingData((), (0.0, 0.5), ("noise",)),
        resume=resume_point(recipe, out),
        validation=validation,
        workers=workers,
    )
    return load_checkpoint(folder)


def same(one: Checkpoint, other: Checkpoint, tolerance: float = 0.0) -> bool:
    return all(
        torch.allclose(a, getattr(other, name)[key], atol=tolerance, rtol=0)
        for name in ("model", "average", "optimizer")
        for key, a in getattr(one, name).items()
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_of_two_halves_equals_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(RECIPE, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def die(self: object, step: int, *_: object) -> None:
        if step == 5:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("train.run_log.RunLog.training", die)
        with pytest.raises(KilledError):
            train(RECIPE, tmp_path / "parts")
    assert load_checkpoint(tmp_path / "parts" / "last").step == 4
    parts = train(RECIPE, tmp_path / "parts")
    assert parts.step == whole.step == 8
    assert same(whole, parts)


KILLED = """
import sys, time
from pathlib import Path
from tests.train.test_engine import Noise, RECIPE, train
slow = Noise.batch
def batch(self, step, part, parts):
    time.sleep(0.15)
    return slow(self, step, part, parts)
Noise.batch = batch
train(RECIPE, Path(sys.argv[1]))
"""


def test_kill_minus_nine_loses_no_more_than_the_steps_since_the_last_save(tmp_path: Path) -> None:
    whole = train(RECIPE, tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (out / "last" / "checkpoint.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(out / "last").step < 8
    assert same(whole, train(RECIPE, out))
    steps = [int(row["step"]) for row in rows(out / "log.csv")]
    assert steps == sorted(set(steps))


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    assert same(train(RECIPE, tmp_path / "a"), train(RECIPE, tmp_path / "b", workers=2))


def test_accumulated_parts_learn_what_the_whole_batch_does(tmp_path: Path) -> None:
    model = replace(RECIPE.model, dropout=0.0)
    whole = replace(RECIPE, model=model)
    parts = replace(whole, optimizer=replace(whole.optimizer, accumulate=2))
    assert same(train(whole, tmp_path / "a"), train(parts, tmp_path / "b"), tolerance=2e-5)


TWO = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.train.test_engine import RECIPE, train
train(replace(RECIPE, model=replace(RECIPE.model, dropout=0.0)), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_train_to_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    one = train(replace(RECIPE, model=replace(RECIPE.model, dropout=0.0)), tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(script), str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=180)
    two = load_checkpoint(tmp_path / "two" / "last")
    assert same(one, two, tolerance=2e-5)
    for a, b in zip(rows(tmp_path / "one/log.csv"), rows(tmp_path / "two/log.csv"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-4)


def test_a_loss_that_is_not_finite_names_the_recordings_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(FloatingPointError, match=r"step 5, recordings: 5-0\.ogg, 5-1\.ogg"):
        train(RECIPE, tmp_path, poisoned=5)
    kept = load_checkpoint(tmp_path / "last")
    assert kept.step == 4
    assert all(torch.isfinite(value).all() for value in kept.model.values())


def test_the_best_checkpoint_is_the_validations(tmp_path: Path) -> None:
    measured = iter([0.3, 0.9, 0.5, 0.1])
    validation = Validation(lambda _m, _f: {"score": next(measured)}, "score", True)
    recipe = replace(RECIPE, engine=replace(RECIPE.engine, validate_every_steps=2))
    train(recipe, tmp_path, validation=validation)
    assert load_checkpoint(tmp_path / "best").step == 4
    assert [row["score"] for row in rows(tmp_path / "validation.csv")] == [
        "0.3", "0.9", "0.5", "0.1",
    ]  # fmt: skip


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    optimizer = replace(RECIPE.optimizer, batch_size=6, accumulate=3)
    train(replace(RECIPE, optimizer=replace(optimizer, steps=1, warmup_steps=0)), tmp_path / "a")
    with pytest.raises(RecipeError, match="another recipe"):
        train(RECIPE, tmp_path / "a")


def test_tensorboard_and_csv_hold_the_losses(tmp_path: Path) -> None:
    train(RECIPE, tmp_path)
    logged = rows(tmp_path / "log.csv")
    assert [int(row["step"]) for row in logged] == list(range(1, 9))
    assert set(logged[0]) >= {"loss", "info_nce", "mse", "accuracy", "learning_rate"}
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: train)")
    assert list((tmp_path / "tensorboard").iterdir())
