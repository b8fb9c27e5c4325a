"""Recipes: typed, and clear about what is wrong."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from train.recipe import KeywordRecipe, RecipeError, load_recipe  # noqa: E402

RECIPES = sorted((Path(__file__).parents[2] / "train" / "recipes").rglob("*.toml"))
MINIMAL = """
task = "keywords"
name = "x"
labels = ["alexa"]
[data]
packs = ["wake_words"]
[optimizer]
steps = 10
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_of_the_project_loads(path: Path) -> None:
    assert load_recipe(path).name


def test_a_key_is_overridden(minimal: Path) -> None:
    recipe = load_recipe(minimal, ("optimizer.steps=77", "model.dim=64", 'labels=["a", "b"]'))
    assert isinstance(recipe, KeywordRecipe)
    assert (recipe.optimizer.steps, recipe.model.dim, recipe.labels) == (77, 64, ("a", "b"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepz = 3", r"x\.toml: unknown key 'stepz', known keys: name, labels"),
        ("seed = 'zero'", "seed: wanted int, got 'zero'"),
        ("seed = true", "seed: wanted int, got True"),
        ("model = 3", "model: wanted a table, got 3"),
        ("fbank.hop_ms = 0", "fbank: .*hop_ms"),
        ("windows.speach = 1.0", "windows: unknown key 'speach'"),
        ("waveform_augment.speed = [1.0]", "speed: wanted 2 values, got 1"),
        ("seed = ", "not a readable TOML file"),
        ("engine.save_every_steps = 0", "save_every_steps must be at least 1, got 0"),
        ("hop_ms = 85", "hop_ms must be a multiple of 10 ms, got 85"),
        ('auxiliary_labels = ["alexa"]', "label 'alexa' is given twice"),
        ("windows.num_frames = 9", "num_frames must be at least 17, got 9"),
        ("windows.speech = -1.0", "weights must be 0 or more"),
        ("windows.start_chance = 2.0", r"start_chance must be in \[0, 1\], got 2"),
        ("model.num_heads = 3", "dim must be a multiple of num_heads"),
        ("model.patch_frames = 200", "does not fit the input"),
    ],
)
def test_a_mistake_is_one_clear_line(minimal: Path, line: str, message: str) -> None:
    minimal.write_text(f"{line}\n{MINIMAL}")
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(minimal)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.steps=0", "optimizer: give steps or epochs, one of them above 0, got 0 and 0"),
        ("optimizer.learning_rate=nan", "learning_rate must be above 0, got nan"),
        ("optimizer.average=1.0", "average must be in"),
        ("label_smoothing=0.5", "label_smoothing must be in"),
        ('engine.precision="fp8"', "precision must be one of"),
        ("optimizer.accumulate=3", "batch_size must be a multiple of accumulate"),
        ("optimizer.warmup_steps=-1", "warmup_steps must be 0 or more"),
        ("data.packs=[]", "packs must name at least one"),
        ("data.renderings_other=0", "renderings_other must be at least 1, got 0"),
        ("labels=[]", "labels must not be empty"),
    ],
)
def test_a_value_that_no_run_can_have(minimal: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(minimal, (text,))


def test_a_missing_key_is_named(minimal: Path) -> None:
    minimal.write_text(MINIMAL.replace('packs = ["wake_words"]', ""))
    with pytest.raises(RecipeError, match="packs"):
        load_recipe(minimal)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed", "KEY=VALUE"), ("name=unquoted", "quotes"), ("name.x=1", "a value, not a table")],
)
def test_an_override_that_cannot_be_read(minimal: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(minimal, (text,))


def test_a_task_that_there_is_not(minimal: Path) -> None:
    minimal.write_text(MINIMAL.replace("keywords", "cook"))
    with pytest.raises(RecipeError, match="task must be one of keywords, pretrain, finetune"):
        load_recipe(minimal)


PRETRAIN = """
task = "pretrain"
name = "x"
[data]
manifest = "x.csv"
[model]
patch_bins = 16
patch_frames = 16
stride_bins = 16
stride_frames = 16
[optimizer]
steps = 10
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretext.num_masked=600", "num_masked is 600, the spectrogram has 512"),
        ("pretext.mode='theirs'", "mode must be paper or official"),
        ("pretext.objective='both'", "objective must be joint"),
        ("model.stride_frames=8", "patches that do not overlap"),
        ("clips.crop='end'", "crop must be start or random"),
        ("data.label_fraction=0.0", "label_fraction must be in"),
        ("pretext.mask=3", "unknown key 'mask'"),
    ],
)
def test_a_pretraining_that_cannot_be(minimal: Path, text: str, message: str) -> None:
    minimal.write_text(PRETRAIN)
    with pytest.raises(RecipeError, match=message):
        load_recipe(minimal, (text,))
