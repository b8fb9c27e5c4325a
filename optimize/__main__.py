"""Command line of the way from a model to the edge: `python -m optimize COMMAND --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from optimize.options import MACHINE, PLACES, places_and_machine
from train.errors import one_line_errors
from train.options import DATA, FILE, FOLDER, MANIFESTS


class Commands(click.Group):
    """Its commands, and that of the runtime that builds engines; mistakes are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the way."""
        return ["prune", "distill", "export", "quantize", "build", "compare", "run"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """`build` is the one of `ssast-edge`: engines are built on devices without torch."""
        if cmd_name == "build":
            from ssast_edge.commands.build import build

            return build
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user got wrong becomes one line and status 1."""
        with one_line_errors():
            return super().invoke(ctx)


@click.group(cls=Commands)
def main() -> None:
    """Make models smaller and faster, and say what it costs."""


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder of the run; again: it goes on.")
@click.option("--macs", type=click.FloatRange(0, 1, min_open=True),
              help="Budget: share of the dense model's multiply-accumulates.")  # fmt: skip
@click.option("--latency", type=click.FloatRange(0, 1, min_open=True),
              help="Budget: share of the dense model's CPU time.")  # fmt: skip
@click.option("--latency-ms", type=click.FloatRange(0, min_open=True),
              help="Budget: CPU time of one window in ONNX Runtime, ms.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--round-steps", type=click.IntRange(min=1), default=150, show_default=True,
              help="Recovery after each round but the last.")  # fmt: skip
@click.option("--final-steps", type=click.IntRange(min=1), default=900, show_default=True,
              help="Recovery after the last round.")  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="Of the recovery.  [default: half of the recipe's]")  # fmt: skip
@click.option("--importance", default="taylor", show_default=True,
              type=click.Choice(["taylor", "activation", "magnitude", "random"]))  # fmt: skip
@click.option("--structure", default="units", show_default=True,
              type=click.Choice(["units", "channels", "depth"]),
              help="Heads and MLP units; the embedding's channels too; whole blocks.")  # fmt: skip
@click.option("--heads", type=click.IntRange(min=1), help="Most that a block keeps.")
@click.option("--depth", type=click.IntRange(min=1), help="Most blocks that stay.")
@click.option("--dim", type=click.IntRange(min=1), help="Channels that stay.")
@click.option("--sparse", is_flag=True, help="2:4 on top, for GPUs from Ampere on.")
@click.option("--teacher", type=FOLDER, help="Checkpoint to recover by.  [default: CHECKPOINT]")
@click.option("--teacher-share", type=click.FloatRange(0, 1), default=0.7, show_default=True,
              help="Of the loss.")  # fmt: skip
@PLACES
@MACHINE
def prune(
    checkpoint: Path,
    out: Path,
    macs: float | None,
    latency: float | None,
    latency_ms: float | None,
    rounds: int,
    round_steps: int,
    final_steps: int,
    learning_rate: float | None,
    importance: str,
    structure: str,
    heads: int | None,
    depth: int | None,
    dim: int | None,
    sparse: bool,
    teacher: Path | None,
    teacher_share: float,
    **options: Any,
) -> None:
    """Prune a fine-tuned CHECKPOINT to a budget: heads, MLP units, channels, blocks."""
    from optimize.pruning.prune import PruneConfig
    from optimize.pruning.prune import prune as run
    from optimize.pruning.recovery import DistillConfig
    from optimize.pruning.selection import Limits

    limits = Limits(structure=structure, heads=heads or 0, depth=depth or 0, dim=dim or 0)
    config = PruneConfig(
        macs=macs or 0.0, latency=latency or 0.0, latency_ms=latency_ms or 0.0, rounds=rounds,
        round_steps=round_steps, final_steps=final_steps, learning_rate=learning_rate or 0.0,
        importance=importance, sparse=sparse, limits=limits,
        distill=DistillConfig(teacher_share=teacher_share),
    )  # fmt: skip
    places, machine = places_and_machine(options)
    done = run(checkpoint, out, config, places=places, machine=machine, teacher=teacher, say=_say)
    click.echo(f"{done}")


@main.command()
@click.argument("recipe", type=FILE)
@click.option("--teacher", type=FOLDER, required=True, help="Checkpoint of a larger model.")
@click.option("--out", type=FOLDER, help="Folder of the run; again: it goes on.  [default: "
              "runs/<name>-distilled]")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a recipe key.")  # fmt: skip
@click.option("--init", type=FILE, help="Pretrained encoder, or checkpoint, to start from.")
@click.option("--teacher-share", type=click.FloatRange(0, 1), default=0.7, show_default=True,
              help="Of the loss; the rest is the recipe's own.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, min_open=True), default=2.0,
              show_default=True, help="Of models whose classes exclude each other.")  # fmt: skip
@click.option("--embedding", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Weight of the embeddings' distance.")  # fmt: skip
@PLACES
@MACHINE
def distill(
    recipe: Path,
    teacher: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    init: Path | None,
    teacher_share: float,
    temperature: float,
    embedding: float,
    **options: Any,
) -> None:
    """Train the model of a training RECIPE on what a larger one says."""
    from optimize.pruning.distill import distill as run
    from optimize.pruning.recovery import DistillConfig, classifier_recipe
    from train.recipe import load_recipe

    loaded = classifier_recipe(load_recipe(recipe, overrides), recipe)
    places, machine = places_and_machine(options)
    config = DistillConfig(
        teacher_share=teacher_share, temperature=temperature, embedding=embedding
    )
    folder = out or Path("runs") / f"{loaded.name}-distilled"
    click.echo(f"{run(loaded, teacher, folder, config, places=places, machine=machine, init=init)}")


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--bundle", type=FOLDER, required=True, help="Folder to write.")
@DATA
@click.option("--task", type=click.Choice(["keyword-spotting", "audio-tagging"]),
              help="Of a clip classifier's bundle.  [default: audio-tagging]")  # fmt: skip
@click.option("--hop-ms", type=click.IntRange(min=0), default=0,
              help="Time between inferences.  [default: the recipe's, 200]")  # fmt: skip
@click.option("--graph", type=FILE, help="Write the graph here too, as the options below say.")
@click.option("--opset", type=click.Choice(["17", "18", "19", "20"]), default="18",
              show_default=True, help="Of --graph.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32",
              show_default=True, help="Of --graph.")  # fmt: skip
@click.option("--any-batch", is_flag=True, help="--graph takes any number of windows at once.")
@click.option("--no-functions", is_flag=True,
              help="--graph for TensorRT before 10.7: our node without its body.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the validation track.")  # fmt: skip
def export(
    checkpoint: Path,
    bundle: Path,
    data: Path,
    task: str | None,
    hop_ms: int,
    graph: Path | None,
    opset: str,
    precision: str,
    any_batch: bool,
    no_functions: bool,
    seed: int,
) -> None:
    """Export CHECKPOINT as a bundle, and its graph for whatever runtime.

    As `python -m train export`: a keyword recipe's triggers are chosen on the validation track.
    """
    from optimize.bundling.graph_file import write_graph
    from ssast_edge.bundle import load_bundle
    from train.export import origin
    from train.shipping import ship

    ship(
        checkpoint, bundle, data=data, seed=seed, provenance=origin(), task=task or "",
        hop_ms=hop_ms,
    )  # fmt: skip
    click.echo(f"{bundle}")
    if graph is not None:
        write_graph(
            load_bundle(bundle), graph, opset=int(opset), precision=precision,
            any_batch=any_batch, functions=not no_functions,
        )  # fmt: skip
        click.echo(f"{graph}")


@main.command()
@click.argument("bundle")
@click.option(
    "--audio",
    type=FILE,
    required=True,
    help="Manifest, or folder of class folders, of recordings as the device will hear.",
)
@click.option("--out", type=FOLDER, required=True, help="Folder of the graphs and their report.")
@click.option("--bundle-out", type=FOLDER, help="Also write BUNDLE with every flavour here.")
@click.option(
    "--windows",
    type=click.IntRange(min=4),
    default=128,
    show_default=True,
    help="A fourth of them judges.",
)
@click.option(
    "--observer",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "min-max", "percentile", "mse", "entropy"]),
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Mean absolute change of a logit that is allowed.",
)
@click.option(
    "--points",
    type=click.FloatRange(min=0, min_open=True),
    help="Points of accuracy that may be lost on the labelled clips of --audio.",
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Of --audio's clips.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def quantize(
    bundle: str,
    audio: Path,
    out: Path,
    bundle_out: Path | None,
    windows: int,
    observer: str,
    budget: float,
    points: float | None,
    split: str | None,
    seed: int,
) -> None:
    """Calibrate BUNDLE's model to INT8, for CPUs and for TensorRT."""
    from optimize.bundling.flavours import write_flavours
    from optimize.quantization.quantize import QuantizeConfig, quantize_bundle
    from ssast_edge.bundle import load_bundle

    config = QuantizeConfig(
        windows=windows,
        observer=observer,
        logit_budget=budget,
        points_budget=points,
        split=split or "",
        seed=seed,
    )
    loaded = load_bundle(bundle)
    if bundle_out is None:
        found = quantize_bundle(loaded, audio, out, config)
    else:
        made = write_flavours(loaded, audio, bundle_out, work=out, config=config)
        found = made.quantized
    click.echo(found.report.markdown(), nl=False)
    for path in (found.cpu, found.tensorrt, *([bundle_out] if bundle_out else [])):
        click.echo(f"{path}")


@main.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@MANIFESTS
@DATA
@click.option(
    "--cache",
    type=FOLDER,
    default=Path("runs/pcm"),
    show_default=True,
    help="Recordings decoded once.",
)
@click.option("--manifest", type=FILE, help="Clips, instead of those of the bundle's recipe.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True
)
@click.option("--fold", type=click.IntRange(min=0), default=0, help="Instead of a split.")
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    type=click.Choice(["clean", "10 dB"]),
    help="Of the track of keywords.  [default: both]",
)
@click.option("--latency-only", is_flag=True, help="No recordings.")
@click.option("--eager", type=FOLDER, help="Checkpoint to time in PyTorch beside them.")
@click.option(
    "--rounds",
    type=click.IntRange(min=4),
    default=40,
    show_default=True,
    help="Of the latencies, interleaved.",
)
@click.option("--out", type=FOLDER, help="Folder of the report: comparison.json, .md, .html.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the track and of the bootstrap.",
)
def compare(
    bundles: tuple[str, ...],
    manifests: Path,
    data: Path,
    cache: Path,
    manifest: Path | None,
    split: Any,
    fold: int,
    conditions: tuple[str, ...],
    latency_only: bool,
    eager: Path | None,
    rounds: int,
    out: Path | None,
    seed: int,
) -> None:
    """Compare every model of BUNDLEs with the first: accuracy, logits, size, time, in one run."""
    from optimize.comparison.compare import Held, named
    from optimize.comparison.compare import compare as run
    from optimize.comparison.report import comparison_text, write_comparison

    held = Held(
        data=data,
        manifests=manifests,
        cache=cache,
        manifest=manifest,
        split=split,
        fold=fold,
        conditions=conditions or ("clean", "10 dB"),
        scores=out / "scores" if out else None,
    )
    found = run(
        named(bundles), None if latency_only else held, eager=eager, rounds=rounds, seed=seed
    )
    click.echo(comparison_text(found), nl=False)
    if out is not None:
        click.echo(f"{write_comparison(out, found)}")


@main.command()
@click.argument("recipe", type=FILE)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder of the run; again: it goes on.  [default: runs/optimize/<name>]",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
)
@click.option("--compare/--no-compare", default=True, show_default=True,
              help="Measure the models on the recipe's test recordings at the end.")  # fmt: skip
@PLACES
@MACHINE
def run(
    recipe: Path, out: Path | None, overrides: tuple[str, ...], compare: bool, **options: Any
) -> None:
    """Do the whole chain of RECIPE: prune, distil, quantise, bundle, build, compare, report.

    The same command goes on where it ended. OUT/bundle ships, OUT/report.html says what it cost.
    """
    from optimize.recipe import load_optimize_recipe
    from optimize.run import optimize

    loaded = load_optimize_recipe(recipe, overrides)
    places, machine = places_and_machine(options)
    folder = out or Path("runs/optimize") / loaded.name
    report = optimize(
        loaded, out=folder, places=places, machine=machine, say=_say, does_compare=compare
    )
    if not compare:
        click.echo(f"{report}")
        return
    click.echo(report.with_suffix(".md").read_text(encoding="utf-8"), nl=False)
    click.echo(f"{report}")


def _say(line: str) -> None:
    """Progress: the result alone goes to stdout."""
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m optimize")
