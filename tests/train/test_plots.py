"""Pictures and reports are whole files that show what they were given."""

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: train)")
pytest.importorskip("scipy", reason="scipy is not installed (extra: train)")

from matplotlib.image import imread  # noqa: E402

from ssast_edge.evaluation.class_scores import Evaluation, evaluate_scores  # noqa: E402
from train.evaluation_report import write_report  # noqa: E402
from train.plots import plot_confusion, plot_reconstruction, plot_training  # noqa: E402


def is_picture(path: Path) -> bool:
    pixels = imread(path)
    return bool(min(pixels.shape[:2]) > 150 and pixels[..., :3].std() > 0.02)


def test_training_curves(tmp_path: Path) -> None:
    assert plot_training(tmp_path) is None
    (tmp_path / "log.csv").write_text(
        "step,epoch,loss,learning_rate,seconds_per_step\n1,0.1,3,1e-3,2\n2,0.2,2.5,1e-3,2\n"
    )
    (tmp_path / "validation.csv").write_text("step,epoch,loss,accuracy\n2,0.2,2.7,0.4\n")
    path = plot_training(tmp_path)
    assert path == tmp_path / "training.png"
    assert is_picture(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log.csv", "training.png", "validation.csv",
    ]  # fmt: skip


def test_masked_and_rebuilt_spectrograms(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fbank = rng.standard_normal((2, 64, 32)).astype(np.float32)
    hidden = np.zeros(fbank.shape, bool)
    hidden[:, 16:32] = True
    path = plot_reconstruction(tmp_path / "x.png", fbank, hidden, fbank, ["a", "b"])
    assert is_picture(path)


def evaluation(count: int, *, multilabel: bool) -> Evaluation:
    rng = np.random.default_rng(0)
    labels = rng.integers(count, size=300)
    scores = rng.random((300, count)) + np.eye(count)[labels]
    targets = np.eye(count, dtype=int)[labels]
    names = [f"<class {i}> | b" for i in range(count)]
    return evaluate_scores(scores, targets, names, multilabel=multilabel, samples=100)


@pytest.mark.parametrize("count", [3, 50])
def test_confusions_of_few_and_many_classes(count: int, tmp_path: Path) -> None:
    found = evaluation(count, multilabel=False)
    assert found.confusion is not None
    assert is_picture(plot_confusion(tmp_path / "x.png", found.confusion, found.classes))


class Page(html.parser.HTMLParser):
    """Counts tags and gathers text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_report_says_the_same_in_three_formats(multilabel: bool, tmp_path: Path) -> None:
    found = evaluation(4, multilabel=multilabel)
    write_report(tmp_path, "title & more", {"whole": found, "windows": found}, {"seed": 7})
    table = json.loads((tmp_path / "evaluation.json").read_text())
    assert table["provenance"] == {"seed": 7}
    assert list(table["evaluations"]) == ["whole", "windows"]
    markdown = (tmp_path / "evaluation.md").read_text()
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 2  # a class named "a | b" breaks no table
    page = Page()
    page.feed((tmp_path / "evaluation.html").read_text())
    assert page.tags.count("img") == (1 if multilabel else 2)
    assert "title & more" in page.text
    assert "<class 0> | b" in page.text
    value = table["evaluations"]["whole"]["metrics"]["mAP"]["value"]
    assert f"{value:.3f}" in markdown
    assert f"{value:.3f}" in page.text
