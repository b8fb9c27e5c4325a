"""What optimising gains, all models in one run: time as ratios, size, and what it costs.

    git clone https://github.com/YuanGongND/ssast AUTHORS
    pip install --no-deps --target TIMM timm==0.4.5 torchvision==0.26.0
    python -m benchmarks.small_models runs/optimize/wake-words-small runs/optimize/esc10-small \
        --authors AUTHORS/src --timm TIMM --json runs/small_models.json

RUN is what `python -m optimize run` left. Rounds are interleaved over everything, one thread;
ratios are of CPU time. Accuracy is what the run's own report measured. The authors' model is their
tiny one (12 blocks of 192) with the window, patches and strides of ours, eager as they evaluate it;
without --authors only ours is timed.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from benchmarks.output import write_json
from optimize.comparison.compare import bundle_recipe, eager_classifier
from optimize.comparison.latency import Latency, interleaved
from optimize.comparison.tables import points
from ssast_edge.backends import Backend, next_hop, open_backend
from ssast_edge.bundle import Bundle, load_bundle
from train.encoder import EncoderConfig
from train.errors import one_line_errors

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
Call = Callable[[], object]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option("--authors", type=FOLDER, help="src of a checkout of the authors' code.")
@click.option("--timm", type=FOLDER, help="Folder with timm 0.4.5, which it wants.")
@click.option("--rounds", type=click.IntRange(min=4), default=40, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(
    runs: tuple[Path, ...], authors: Path | None, timm: Path | None, rounds: int, out: Path | None
) -> None:
    """Figures of docs/results.md for the small models."""
    with one_line_errors():
        if (authors is None) != (timm is None):
            raise click.UsageError("--authors and --timm belong together")
        result = measure(runs, authors, timm, rounds)
        write_json(result, out)
        click.echo(markdown(result), err=True)


def measure(
    runs: tuple[Path, ...], authors: Path | None, timm: Path | None, rounds: int
) -> dict[str, Any]:
    """Times of every run's models in the same rounds, and what the runs' reports say."""
    calls: dict[str, Call] = {}
    reports = {}
    for run in runs:
        report = reports[run.name] = _report(run)
        state = json.loads((run / "state.json").read_text())
        dense = load_bundle(run / "steps" / f"dense-{state['dense']['key']}" / "bundle")
        window = np.ascontiguousarray(dense.golden.fbank)
        small = load_bundle(run / "bundle")
        calls[f"{run.name}/dense"] = _call(open_backend(dense, kind="onnx"), window)
        calls[f"{run.name}/small"] = _call(open_backend(small, kind="onnx"), window)
        calls[f"{run.name}/eager"] = eager_classifier(Path(report["recipe"]["checkpoint"]), window)
        if authors is not None and timm is not None:
            calls[f"{run.name}/authors"] = authors_model(dense, authors, timm)
    with tqdm(total=rounds, unit="round") as progress:
        times = interleaved(calls, rounds=rounds, progress=progress.update)
    return {
        "machine": f"{platform.machine()}, 1 thread",
        "rounds": rounds,
        "models": [_figures(name, report, times) for name, report in reports.items()],
    }


def authors_model(bundle: Bundle, authors: Path, timm: Path) -> Call:
    """One inference of the authors' tiny model on the bundle's window and patches."""
    import torch

    recipe = bundle_recipe(bundle)
    if recipe is None:
        raise ValueError(f"bundle {bundle.path} does not tell its patches: export it again")
    shape: EncoderConfig = recipe.encoder_config()
    sys.path[:0] = [str(timm), str(authors)]
    try:
        from models.ast_models import ASTModel  # type: ignore[import-not-found]
    finally:
        del sys.path[:2]
    sizes = {
        "fshape": shape.patch_bins, "tshape": shape.patch_frames, "input_fdim": shape.num_mel_bins,
        "input_tdim": shape.num_frames, "model_size": "tiny",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        made = ASTModel(**sizes, fstride=shape.patch_bins, tstride=shape.patch_frames)
        torch.save(torch.nn.DataParallel(made).state_dict(), Path(folder) / "model.pth")
        model = ASTModel(
            **sizes, fstride=shape.stride_bins, tstride=shape.stride_frames,
            label_dim=len(bundle.labels), pretrain_stage=False,
            load_pretrained_mdl_path=str(Path(folder) / "model.pth"),
        ).eval()  # fmt: skip
    fbank = torch.from_numpy(bundle.golden.fbank.copy())[None]

    def infer() -> object:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return model(fbank, "ft_avgtok")

    return infer


def markdown(result: Mapping[str, Any]) -> str:
    """The table of docs/results.md."""
    lines = [
        "| model | MB | CPU time of the dense model in ONNX Runtime | of ours in eager PyTorch "
        "| of the authors' eager tiny model | points of accuracy lost (95 %) "
        "| points of miss rate lost at equal false accepts (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["models"]:
        shares = [row["of_dense"], row["of_eager"], row["of_authors"]]
        cells = [
            row["name"],
            f"{row['dense_bytes'] / 1e6:.2f} to {row['small_bytes'] / 1e6:.2f}",
            *("-" if share is None else f"{share:.3f}" for share in shares),
            "; ".join(f"{k} {points(v)}" if k else points(v) for k, v in row["lost"].items()),
            "; ".join(f"{k} {points(v)}" for k, v in row["missed_more"].items()) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figures(name: str, report: Mapping[str, Any], times: Mapping[str, Latency]) -> dict[str, Any]:
    rows = report["steps"]["compare"]["models"]
    dense, small = rows[0], next(r for r in rows if r["name"].startswith("small onnx"))
    places = small.get("track") or {"": small}

    def share(of: str) -> float | None:
        key = f"{name}/{of}"
        return times[f"{name}/small"].cpu_ms / times[key].cpu_ms if key in times else None

    return {
        "name": name,
        "precision": small["precision"],
        "dense_bytes": dense["bytes"],
        "small_bytes": small["bytes"],
        "macs_share": None if not small.get("macs") else small["macs"] / dense["macs"],
        "of_dense": share("dense"),
        "of_eager": share("eager"),
        "of_authors": share("authors"),
        "cpu_ms": {
            key.split("/")[1]: round(time.cpu_ms, 4)
            for key, time in times.items()
            if key.startswith(f"{name}/")
        },
        "lost": {key: entry.get("lost") for key, entry in places.items()},
        "missed_more": {
            key: entry["lost_at_equal"] for key, entry in places.items() if "lost_at_equal" in entry
        },
        "targets": report["targets"],
    }


def _report(run: Path) -> dict[str, Any]:
    path = run / "report.json"
    if not path.is_file():
        raise ValueError(f"{run} holds no report.json: it is no finished `python -m optimize run`")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _call(backend: Backend, window: np.ndarray[Any, Any]) -> Call:
    return next_hop(backend, window)


if __name__ == "__main__":
    main()
